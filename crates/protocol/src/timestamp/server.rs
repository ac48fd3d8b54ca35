//! One timestamp server: a clock that only grows, and a durable limit above whatever it has handed out.
//!
//! The limit is written well ahead of the clock ([`Options::lease`]), and again when half of that is used up, so that replies hardly ever wait
//! for the disk. One write is under way at a time. A reply that would be above the durable limit waits for a write that covers
//! it; the clock itself may already be there, as nobody has been told.
//!
//! Invariant: every [`Effect::Reply`] is at or below the highest limit of which [`Input::Persisted`] was said, or with which the server was opened.
//! So a server that is opened with that limit goes on above all that it sent.

use super::{Reply, Request, ServerId, Servers, SessionId};
use crate::time::{Backoff, Time};
use atoll_model::{Error, ErrorKind};
use std::collections::VecDeque;
use std::fmt;

/// How a server treats its disk and its clients.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How far ahead of the clock the limit is written; a crash skips as many values at most. At least one is taken: without, nothing could be
    /// handed out.
    pub lease: u64,
    /// Pause after a write that failed.
    pub retry: Backoff,
    /// Replies that wait for the disk, at most. What is asked beyond that is dropped: the client asks again. At least one is taken: without,
    /// nobody's request to catch up could move the limit.
    pub waiting: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { lease: 1 << 20, retry: Backoff::default(), waiting: 4096 }
    }
}

/// What a server hears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Input {
    /// A client asks.
    Request(Request),
    /// The limit is durable.
    Persisted(u64),
    /// The write of the limit failed. Whether it is on disk does not matter: a limit that is too high harms nobody.
    NotPersisted(u64),
    /// Time has passed.
    Tick,
}

/// What it wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send it to the client.
    Reply(Reply),
    /// Make the limit durable, in place of the one before: `Persisted` or `NotPersisted`.
    Persist(u64),
    /// No values can be given to this session: to be logged, because the request is damaged, or the clock is at its end.
    Refuse(SessionId, Error),
}

/// A timestamp server.
#[derive(Debug)]
pub struct Server {
    servers: Servers,
    id: ServerId,
    options: Options,
    clock: u64,
    durable: u64,
    write: Write,
    failures: u32,
    /// In the order of their clocks.
    waiting: VecDeque<Reply>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Write {
    /// Nothing is being written.
    Idle,
    /// This limit is.
    UnderWay(u64),
    /// The last write failed; try again then.
    Retry { at: Time },
}

impl Server {
    /// Starts with the limit that is durable: 0, or what [`Servers::clock_at`] says, if there is none yet.
    pub fn open(now: Time, servers: Servers, id: ServerId, limit: u64, options: Options) -> (Server, Vec<Effect>) {
        let options = Options { lease: options.lease.max(1), waiting: options.waiting.max(1), ..options };
        let (write, waiting) = (Write::Idle, VecDeque::new());
        let mut server = Server { servers, id, options, clock: limit, durable: limit, write, failures: 0, waiting };
        let mut out = vec![];
        server.write_ahead(now, &mut out);
        (server, out)
    }

    /// Takes an input.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        let mut out = vec![];
        match input {
            Input::Request(request) => self.tick_clock(request, &mut out),
            Input::Persisted(limit) if self.write == Write::UnderWay(limit) => {
                self.write = Write::Idle;
                self.failures = 0;
                self.durable = limit;
                self.release(&mut out);
            }
            Input::NotPersisted(limit) if self.write == Write::UnderWay(limit) => {
                self.failures = self.failures.saturating_add(1);
                self.write = Write::Retry { at: now + self.options.retry.after(self.failures) };
            }
            Input::Persisted(_) | Input::NotPersisted(_) | Input::Tick => {}
        }
        self.write_ahead(now, &mut out);
        out
    }

    /// When [`Input::Tick`] is due, at the latest.
    pub fn wake_at(&self) -> Option<Time> {
        match self.write {
            Write::Retry { at } => Some(at),
            Write::Idle | Write::UnderWay(_) => None,
        }
    }

    fn tick_clock(&mut self, request: Request, out: &mut Vec<Effect>) {
        let last = self.servers.last_clock();
        let ticked = self.clock.max(request.above).checked_add(u64::from(request.count.get()));
        let Some(clock) = ticked.filter(|clock| *clock <= last) else {
            let message = format!("timestamp server {} cannot go beyond {last}: {request}", self.id);
            out.push(Effect::Refuse(request.session, Error::new(ErrorKind::ProgramLimit, message)));
            return;
        };
        let durable = clock <= self.durable;
        if !durable && self.waiting.len() >= self.options.waiting {
            return;
        }
        self.clock = clock;
        let reply = Reply { session: request.session, server: self.id, clock };
        if durable {
            out.push(Effect::Reply(reply));
        } else {
            self.waiting.push_back(reply);
        }
    }

    fn release(&mut self, out: &mut Vec<Effect>) {
        let covered = self.waiting.partition_point(|reply| reply.clock <= self.durable);
        out.extend(self.waiting.drain(..covered).map(Effect::Reply));
    }

    fn write_ahead(&mut self, now: Time, out: &mut Vec<Effect>) {
        let due = match self.write {
            Write::UnderWay(_) => false,
            Write::Retry { at } => at <= now,
            Write::Idle => self.durable.saturating_sub(self.clock) < self.options.lease.div_ceil(2),
        };
        let limit = self.clock.saturating_add(self.options.lease).min(self.servers.last_clock());
        if due && limit > self.durable {
            self.write = Write::UnderWay(limit);
            out.push(Effect::Persist(limit));
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Reply(reply) => write!(f, "{reply}"),
            Effect::Persist(limit) => write!(f, "persist {limit}"),
            Effect::Refuse(session, error) => write!(f, "refuse {session} {} {error}", error.kind().sqlstate()),
        }
    }
}
