//! One session of a client: the requests that are under way, the smallest reply of each server, and the candidate that follows.
//!
//! Invariant: only replies to this session's own requests count, and at most one request per server is under way.

use super::client::{Options, WaiterId};
use super::{Request, ServerId, Servers, SessionId};
use crate::attempt::Attempt;
use crate::time::Time;
use std::num::NonZeroU16;

/// A request for a timestamp.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) id: WaiterId,
    pub(super) fails_at: Time,
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    /// By the place of their timestamps. Those that have left leave gaps.
    waiters: Vec<Option<Waiter>>,
    count: NonZeroU16,
    /// By server.
    asked: Vec<Asked>,
}

/// A server in this session.
#[derive(Clone, Copy, Debug)]
struct Asked {
    smallest: Option<u64>,
    attempt: Option<Attempt>,
}

/// The value that the session wants to take: the last of the candidate's run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Candidate {
    pub(super) clock: u64,
    pub(super) server: ServerId,
}

/// A request, and to whom.
pub(super) type Send = (ServerId, Request);

impl Session {
    /// Begins one, with a request to each server. `None` without waiters, or with more than fit.
    pub(super) fn begin(
        now: Time,
        id: SessionId,
        waiters: Vec<Waiter>,
        servers: Servers,
        options: &Options,
    ) -> Option<(Session, Vec<Send>)> {
        let count = NonZeroU16::new(u16::try_from(waiters.len()).ok()?)?;
        let asked = Asked { smallest: None, attempt: Some(Attempt::sent(now, options.answer)) };
        let asked = vec![asked; servers.number()];
        let session = Session { id, waiters: waiters.into_iter().map(Some).collect(), count, asked };
        let sends = servers.ids().map(|server| (server, session.request(0))).collect();
        Some((session, sends))
    }

    fn request(&self, above: u64) -> Request {
        Request { session: self.id, above, count: self.count }
    }

    /// A server has answered.
    pub(super) fn replied(&mut self, server: ServerId, clock: u64) {
        // Whose clock is below that has not given out so many values.
        let plausible = clock >= u64::from(self.count.get());
        if let Some(asked) = self.asked.get_mut(usize::from(server.0)).filter(|_| plausible) {
            asked.smallest = Some(asked.smallest.map_or(clock, |smallest| smallest.min(clock)));
            asked.attempt = None;
        }
    }

    /// No answer will come to the request that is under way.
    pub(super) fn lost(&mut self, now: Time, server: ServerId, options: &Options) {
        if let Some(attempt) = self.asked.get_mut(usize::from(server.0)).and_then(|asked| asked.attempt.as_mut()) {
            attempt.lost(now, options.retry);
        }
    }

    /// The M-th smallest, once M have answered.
    pub(super) fn candidate(&self, quorum: usize) -> Option<Candidate> {
        let replies = self.replies().filter_map(|(server, asked)| Some(Candidate { clock: asked.smallest?, server }));
        let mut replies: Vec<Candidate> = replies.collect();
        replies.sort_unstable();
        replies.get(quorum.checked_sub(1)?).copied()
    }

    /// Asks servers that have answered, and lag behind the candidate, to catch up.
    pub(super) fn push(&mut self, now: Time, candidate: Candidate, cache: &[u64], options: &Options) -> Vec<Send> {
        let request = self.request(candidate.clock);
        let lagging = self.asked.iter_mut().zip(cache).zip(0..).filter(|((asked, cached), _)| {
            asked.smallest.is_some() && asked.attempt.is_none() && **cached < candidate.clock
        });
        let send = lagging.map(|((asked, _), server)| {
            asked.attempt = Some(Attempt::sent(now, options.answer));
            (ServerId(server), request)
        });
        send.collect()
    }

    /// Asks again where no answer came.
    pub(super) fn repeat(&mut self, now: Time, quorum: usize, options: &Options) -> Vec<Send> {
        let request = self.request(self.candidate(quorum).map_or(0, |candidate| candidate.clock));
        let mut sends = vec![];
        for (asked, server) in self.asked.iter_mut().zip(0..) {
            if let Some(attempt) = &mut asked.attempt
                && attempt.poll(now, options.answer, options.retry)
            {
                sends.push((ServerId(server), request));
            }
        }
        sends
    }

    /// When to repeat a request.
    pub(super) fn repeats_at(&self) -> Option<Time> {
        self.asked.iter().filter_map(|asked| asked.attempt.as_ref()).map(Attempt::wake_at).min()
    }

    /// When the first waiter, which came first, has waited for too long.
    pub(super) fn fails_at(&self) -> Option<Time> {
        self.waiters.iter().flatten().next().map(|waiter| waiter.fails_at)
    }

    /// The waiters with the values that they get if the candidate is taken.
    pub(super) fn shares(&self, candidate: Candidate) -> impl Iterator<Item = (WaiterId, u64)> {
        let first = candidate.clock + 1 - u64::from(self.count.get());
        self.waiters.iter().zip(first..).filter_map(|(waiter, clock)| Some((waiter.as_ref()?.id, clock)))
    }

    /// Takes waiters away.
    pub(super) fn remove(&mut self, which: impl Fn(&Waiter) -> bool) -> Vec<WaiterId> {
        let gone = self.waiters.iter_mut().filter(|place| place.as_ref().is_some_and(&which));
        gone.filter_map(Option::take).map(|waiter| waiter.id).collect()
    }

    /// Whether nobody waits any more.
    pub(super) fn is_idle(&self) -> bool {
        self.waiters.iter().all(Option::is_none)
    }

    /// Servers from which there is no answer. One that has answered and was asked to catch up is none of them.
    pub(super) fn silent(&self) -> impl Iterator<Item = ServerId> {
        self.replies().filter(|(_, asked)| asked.smallest.is_none()).map(|(server, _)| server)
    }

    fn replies(&self) -> impl Iterator<Item = (ServerId, &Asked)> {
        (0..).map(ServerId).zip(&self.asked)
    }
}
