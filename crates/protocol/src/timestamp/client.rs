//! The client of the timestamp servers at one node: draws timestamps for whoever waits for one.
//!
//! A request begins a session of its own, up to [`Options::sessions`] at a time. Those that come while so many are under way wait, and share
//! the next. A request that no server answered in time is repeated; a waiter that has got nothing when
//! [`Options::timeout`] has passed is told so, and may ask again: nothing is lost by values that nobody takes.
//!
//! Invariant: a session's waiters all came before its first request was sent, and a reply counts in its own session only (the
//! proof at the head of [`crate::timestamp`] rests on both).

use super::session::{Candidate, Send, Session, Waiter};
use super::{Reply, Request, ServerId, Servers, SessionId};
use crate::gid::Incarnation;
use crate::time::{Backoff, Time};
use atoll_model::{Error, ErrorKind, Result, Timestamp};
use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroU16;
use std::time::Duration;

/// How long a client waits, and for how many.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// For a timestamp.
    pub timeout: Duration,
    /// For the answer to one request.
    pub answer: Duration,
    /// Before a request is repeated.
    pub retry: Backoff,
    /// Sessions at a time. At least one is taken, as without nobody would be served.
    pub sessions: usize,
    /// Waiters that share a session, at most.
    pub shared: NonZeroU16,
    /// Waiters, at most. Those beyond are refused. At least one is taken.
    pub waiters: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            timeout: Duration::from_secs(5),
            answer: Duration::from_millis(100),
            // A request is small, and others wait behind its session.
            retry: Backoff { first: Duration::from_millis(20), most: Duration::from_millis(200) },
            sessions: 4,
            shared: NonZeroU16::MAX,
            waiters: 65_536,
        }
    }
}

/// One request for a timestamp. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WaiterId(pub u64);

/// What a client hears. What does not fit its state, such as the second copy of a reply, does no harm.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// Somebody wants a timestamp.
    Ask(WaiterId),
    /// Somebody wants it no more.
    Leave(WaiterId),
    /// A server has answered.
    Reply(Reply),
    /// No answer will come to the last request to this server in this session: the connection failed.
    Lost(ServerId, SessionId),
    /// Time has passed.
    Tick,
}

/// What it wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send the request: `Reply`, `Lost`, or silence. The server may be this node's own.
    Send(ServerId, Request),
    /// Tell the waiter.
    Answer(WaiterId, Result<Timestamp>),
}

/// A client.
#[derive(Debug)]
pub struct Client {
    me: Incarnation,
    servers: Servers,
    options: Options,
    /// The largest reply of each server, whatever the session.
    cache: Vec<u64>,
    /// Counts sessions.
    begun: u64,
    sessions: Vec<Session>,
    /// For the next session, in the order in which they came, which is that of their ends.
    queue: VecDeque<Waiter>,
    /// In the queue and in sessions.
    waiting: usize,
}

impl Client {
    /// Begins, for one run of a node.
    pub fn new(me: Incarnation, servers: Servers, options: Options) -> Client {
        let options = Options { sessions: options.sessions.max(1), waiters: options.waiters.max(1), ..options };
        let (cache, queue) = (vec![0; servers.number()], VecDeque::new());
        Client { me, servers, options, cache, begun: 0, sessions: vec![], queue, waiting: 0 }
    }

    /// Takes an input.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        let mut out = vec![];
        match input {
            Input::Ask(waiter) => self.ask(now, waiter, &mut out),
            Input::Leave(waiter) => {
                self.remove(|w| w.id == waiter);
            }
            Input::Reply(reply) => self.replied(now, reply, &mut out),
            Input::Lost(server, id) => {
                let session = self.sessions.iter_mut().find(|session| session.id == id);
                session.into_iter().for_each(|session| session.lost(now, server, &self.options));
            }
            Input::Tick => {}
        }
        self.expire(now, &mut out);
        for session in &mut self.sessions {
            send(session.repeat(now, self.servers.quorum(), &self.options), &mut out);
        }
        self.begin_sessions(now, &mut out);
        out
    }

    /// When [`Input::Tick`] is due, at the latest.
    pub fn wake_at(&self) -> Option<Time> {
        let repeats = self.sessions.iter().filter_map(Session::repeats_at);
        repeats.chain(self.fails_at()).min()
    }

    /// When the next waiter has waited for too long.
    fn fails_at(&self) -> Option<Time> {
        let first = self.queue.front().map(|waiter| waiter.fails_at);
        self.sessions.iter().filter_map(Session::fails_at).chain(first).min()
    }

    fn ask(&mut self, now: Time, id: WaiterId, out: &mut Vec<Effect>) {
        if self.waiting >= self.options.waiters {
            let message = format!("{} requests for timestamps are waiting already", self.waiting);
            let error = Error::new(ErrorKind::ProgramLimit, message).hint("Try again when there is less load.");
            return out.push(Effect::Answer(id, Err(error)));
        }
        self.waiting += 1;
        self.queue.push_back(Waiter { id, fails_at: now + self.options.timeout });
    }

    fn replied(&mut self, now: Time, reply: Reply, out: &mut Vec<Effect>) {
        // What another run has asked for, or what no server says, is left alone.
        let ours = reply.session.client == self.me && reply.clock <= self.servers.last_clock();
        let Some(cached) = self.cache.get_mut(usize::from(reply.server.0)).filter(|_| ours) else { return };
        *cached = reply.clock.max(*cached);
        if let Some(session) = self.sessions.iter_mut().find(|session| session.id == reply.session) {
            session.replied(reply.server, reply.clock);
        }
        self.advance(now, out);
    }

    /// Ends the sessions that can end, and has servers catch up for the others.
    fn advance(&mut self, now: Time, out: &mut Vec<Effect>) {
        let Client { servers, options, cache, waiting, .. } = self;
        self.sessions.retain_mut(|session| {
            let Some(candidate) = session.candidate(servers.quorum()) else { return true };
            if !is_covered(candidate, cache, servers.quorum()) {
                send(session.push(now, candidate, cache, options), out);
                return true;
            }
            for (waiter, clock) in session.shares(candidate) {
                *waiting -= 1;
                out.push(Effect::Answer(waiter, Ok(servers.timestamp(candidate.server, clock))));
            }
            false
        });
    }

    fn expire(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.fails_at().is_some_and(|at| at <= now) {
            let error = self.unavailable();
            let late = self.remove(|waiter| waiter.fails_at <= now);
            out.extend(late.into_iter().map(|waiter| Effect::Answer(waiter, Err(error.clone()))));
        }
    }

    /// Takes waiters away, and sessions that nobody waits for.
    fn remove(&mut self, which: impl Fn(&Waiter) -> bool) -> Vec<WaiterId> {
        let mut gone: Vec<WaiterId> = self.sessions.iter_mut().flat_map(|session| session.remove(&which)).collect();
        self.sessions.retain(|session| !session.is_idle());
        gone.extend(self.queue.iter().filter(|waiter| which(waiter)).map(|waiter| waiter.id));
        self.queue.retain(|waiter| !which(waiter));
        self.waiting -= gone.len();
        gone
    }

    fn begin_sessions(&mut self, now: Time, out: &mut Vec<Effect>) {
        while self.sessions.len() < self.options.sessions && !self.queue.is_empty() {
            let share = self.queue.len().min(usize::from(self.options.shared.get()));
            let waiters = self.queue.drain(..share).collect();
            self.begun += 1;
            let id = SessionId { client: self.me, number: self.begun };
            if let Some((session, sends)) = Session::begin(now, id, waiters, self.servers, &self.options) {
                self.sessions.push(session);
                send(sends, out);
            }
        }
    }

    fn unavailable(&self) -> Error {
        let silent: Vec<String> =
            self.sessions.first().into_iter().flat_map(Session::silent).map(|server| server.to_string()).collect();
        let (quorum, number, timeout) = (self.servers.quorum(), self.servers.number(), self.options.timeout);
        let mut message =
            format!("no timestamp within {timeout:?}: {quorum} of {number} timestamp servers have to answer");
        if !silent.is_empty() {
            message.push_str(&format!(", and nothing came from {}", silent.join(", ")));
        }
        Error::new(ErrorKind::SiteUnavailable, message)
            .hint("See whether these servers' nodes are up and can be reached.")
    }
}

/// Whether so many servers are known to be at the candidate, or beyond, that no later session can draw a lower value.
fn is_covered(candidate: Candidate, cache: &[u64], quorum: usize) -> bool {
    cache.iter().filter(|cached| **cached >= candidate.clock).count() >= quorum
}

fn send(sends: Vec<Send>, out: &mut Vec<Effect>) {
    out.extend(sends.into_iter().map(|(server, request)| Effect::Send(server, request)));
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Send(server, request) => write!(f, "to {server}: {request}"),
            Effect::Answer(waiter, Ok(timestamp)) => write!(f, "answer {} {timestamp}", waiter.0),
            Effect::Answer(waiter, Err(error)) => write!(f, "answer {} {} {error}", waiter.0, error.kind().sqlstate()),
        }
    }
}
