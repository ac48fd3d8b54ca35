//! Timestamps for a cluster, without a leader: TaaS (Li, Zhu, Shi, Zhang, Wang, Zhang, *Timestamp as a Service, not an Oracle*, PVLDB 17(5), 2024).
//!
//! There are N = 2M−1 [`Server`]s, which never talk to each other, and any number of [`Client`]s, one at each node. Each server has a
//! *clock*, a number that only grows. A client draws timestamps in *sessions*; as long as some M servers answer, a session ends.
//!
//! * `tick(t, n)` at a server sets its clock to `max(clock, t) + n`. The last n values are the session's own: nobody else gets them from this
//!   server. The reply carries the last one, and is not sent before a *limit* at or above it is durable, from which the server starts again
//!   after a crash.
//! * A client sends `tick(⊥, n)` to all, for a session of n waiters. It keeps the largest reply that it has ever had from each server
//!   (its *cache*), and each server's smallest reply in this session. The M-th smallest of the latter is the *candidate*. The session
//!   ends as soon as M cached values are at or above the candidate; servers that are known to lag behind it are sent
//!   `tick(candidate, n)`. More replies can only lower the candidate, so M servers that answer twice are enough.
//! * The value v of server i is the timestamp v·N + i. So each server has a *lane*, timestamps are ordered as clocks are, and ties
//!   are broken by the server's number. The k-th waiter of a session gets the k-th of the n values that end with the candidate.
//!
//! When all N have answered, M of the replies are at or above their M-th smallest: that is one round trip to the slowest server. If
//! some are down it is at most two, to the M-th fastest.
//!
//! # What it guarantees, and why
//!
//! **Unique.** A value belongs to one lane, within it to one tick, and that to one session of one run of a client ([`SessionId`]). A
//! repeated request is another tick. A session takes the values of one reply, and gives each waiter its own.
//! A server that starts again goes on above its limit, so above all that it ever sent.
//!
//! **Real-time order.** If session S has ended before session T begins (before T's first request is sent), all of S's timestamps are below all of T's.
//! Let C be the candidate with which S ended. When it ended there was a set Q of at least M servers from each of which S's client had a reply at
//! or above C; clocks only grow, over crashes too, so from then on every value that a server in Q hands out is above C. Every reply in T is to a
//! request sent after that, hence each one from Q consists of values above C. At most N − M = M − 1 servers are outside Q. So
//! among any M of T's replies one is from Q; T's candidate is the largest of M of them, and since all replies of a session are runs of the same length n,
//! it also has the largest first value. So the first value of T is at least C + 1, its timestamp at least (C+1)·N, and S's are at most
//! C·N + N − 1. ∎
//!
//! The proof needs T's replies to be to requests that were *sent after T's waiters came*. So requests share a session if they waited together *before* it
//! began; one that comes later waits for the next session. If it joined the running one, another session, at another client,
//! could have ended in between, after this session's ticks and above them: the joiner would get a timestamp below one that was finished
//! before it asked. No client can see whether that was so. For the same reason a reply counts in no session but its own, and no number of a session is ever used again.
//! The cache may hold replies of any age: it stands for "this server's clock is at least at", which stays true.
//!
//! # What is relied on
//!
//! 1. [`server::Input::Persisted`] is said when the limit survives a crash, and a server starts with what it last said so of, or more. A server
//!    that has lost its disk must not come back: one with amnesia breaks the order.
//! 2. A server's number means one server, for ever; N does not change.
//! 3. No [`Incarnation`] is used twice.
//!
//! Only the order of timestamps has meaning. Where other timestamps came before the first of these, [`Servers::clock_at`] is the limit that a server
//! starts with.

pub mod client;
pub mod server;
mod session;

pub use client::{Client, WaiterId};
pub use server::Server;

use crate::gid::Incarnation;
use atoll_model::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU16;

/// One of the N timestamp servers, from 0. It is also the server's lane.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub u8);

/// How many timestamp servers a cluster has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Servers(u8);

/// A number of servers that does not serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a cluster has an odd number of timestamp servers, at most {max}, not {0}", max = Servers::MOST)]
pub struct BadNumber(pub u8);

/// A session of a client: never used twice, because no run of a node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SessionId {
    /// Whose it is; the reply goes there.
    pub client: Incarnation,
    /// Counts the sessions of this run.
    pub number: u64,
}

/// `tick(above, count)`, from a client to a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The session that the values are for.
    pub session: SessionId,
    /// They have to be above this one.
    pub above: u64,
    /// How many.
    pub count: NonZeroU16,
}

/// The answer to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// The session that asked.
    pub session: SessionId,
    /// Who answers.
    pub server: ServerId,
    /// The last of the values; the server's clock is there or beyond.
    pub clock: u64,
}

impl Servers {
    /// The largest number that is taken: a client speaks to all of them, all the time.
    pub const MOST: u8 = 31;

    /// That many.
    ///
    /// # Errors
    /// An even number would need as many answers as the next odd one, and survive no more failures.
    pub fn new(number: u8) -> Result<Servers, BadNumber> {
        if number % 2 == 1 && number <= Self::MOST { Ok(Servers(number)) } else { Err(BadNumber(number)) }
    }

    /// All of them.
    pub fn ids(self) -> impl Iterator<Item = ServerId> {
        (0..self.0).map(ServerId)
    }

    /// N.
    pub fn number(self) -> usize {
        usize::from(self.0)
    }

    /// M: how many have to answer.
    pub fn quorum(self) -> usize {
        self.number().div_ceil(2)
    }

    /// A value of a server's clock as a timestamp.
    pub fn timestamp(self, server: ServerId, clock: u64) -> Timestamp {
        Timestamp(clock * u64::from(self.0) + u64::from(server.0))
    }

    /// The lowest clock from which all servers' next timestamps are above this one.
    pub fn clock_at(self, timestamp: Timestamp) -> u64 {
        timestamp.0 / u64::from(self.0)
    }

    /// Where clocks end: the last timestamps fit SQL's `bigint`.
    fn last_clock(self) -> u64 {
        i64::MAX.unsigned_abs() / u64::from(self.0) - 1
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.client, self.number)
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tick by {} above {} for {}", self.count, self.above, self.session)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "clock {} of {} for {}", self.clock, self.server, self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_of_an_odd_number() {
        let quorums = [1, 3, 5, 31].map(|n| Servers::new(n).map(Servers::quorum));
        assert_eq!(quorums, [Ok(1), Ok(2), Ok(3), Ok(16)]);
        assert_eq!([0, 2, 33].map(Servers::new), [0, 2, 33].map(|n| Err(BadNumber(n))));
        assert_eq!(BadNumber(4).to_string(), "a cluster has an odd number of timestamp servers, at most 31, not 4");
    }

    #[test]
    fn timestamps_are_ordered_as_clocks_are_and_then_as_servers_are() {
        let three = Servers(3);
        let drawn = [(0, 7), (1, 7), (2, 7), (0, 8)].map(|(s, clock)| three.timestamp(ServerId(s), clock).0);
        assert_eq!(drawn, [21, 22, 23, 24]);
        for timestamp in (0..30).map(Timestamp) {
            let clock = three.clock_at(timestamp);
            assert!(three.timestamp(ServerId(0), clock + 1) > timestamp);
            assert!(clock == 0 || three.timestamp(ServerId(0), clock) <= timestamp, "{clock} is not the lowest");
        }
    }

    #[test]
    fn the_last_clock_of_the_last_server_is_a_bigint() {
        for number in (1..=Servers::MOST).step_by(2) {
            let servers = Servers(number);
            let last = servers.timestamp(ServerId(number - 1), servers.last_clock());
            assert!(i64::try_from(last.0).is_ok(), "{number} servers: {last}");
        }
    }
}
