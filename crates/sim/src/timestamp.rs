//! A node that draws timestamps, and serves them if it is one of the first: the driver of [`atoll_protocol::timestamp`] in the world.
//!
//! Server i lives at node i. Its limit is the one record of its disk, and also the number of the sync that makes it durable.

use crate::process::{Boot, Effect, EffectOf, Event, EventOf, Process};
use atoll_model::{NodeId, Result, Timestamp};
use atoll_protocol::Time;
use atoll_protocol::timestamp::{Client, Reply, Request, Server, ServerId, Servers, WaiterId, client, server};
use std::fmt;

/// The name of the limit's record.
pub const LIMIT: &str = "limit";

/// What a node is told at every start.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How many servers there are.
    pub servers: Servers,
    /// Which one this node is.
    pub server: Option<ServerId>,
    /// For the client.
    pub client: client::Options,
    /// For the server.
    pub serving: server::Options,
}

/// What nodes say to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// A client to a server.
    Request(Request),
    /// A server to a client.
    Reply(Reply),
}

/// Somebody wants a timestamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask(pub WaiterId);

/// What becomes of it.
#[derive(Clone, Debug)]
pub enum Report {
    /// The request is made.
    Asked(WaiterId),
    /// It is answered.
    Answered(WaiterId, Result<Timestamp>),
}

/// A node.
#[derive(Debug)]
pub struct Node {
    servers: Servers,
    client: Client,
    server: Option<Server>,
}

impl Process for Node {
    type Settings = Settings;
    type Message = Message;
    type Command = Ask;
    type Report = Report;

    fn start(boot: Boot<'_, Settings>) -> (Node, Vec<EffectOf<Node>>) {
        let Settings { servers, server, client, serving } = *boot.settings;
        let mut node = Node { servers, client: Client::new(boot.run, servers, client), server: None };
        let mut out = vec![];
        if let Some(id) = server {
            // The world's disk gives back what was written, or nothing.
            let limit = boot.disk.read(LIMIT).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
            let (server, effects) = Server::open(boot.now, servers, id, limit, serving);
            node.server = Some(server);
            serve(effects, &mut out);
        }
        (node, out)
    }

    fn step(&mut self, now: Time, event: EventOf<Node>) -> Vec<EffectOf<Node>> {
        let mut out = vec![];
        match event {
            Event::Message(_, Message::Request(request)) => {
                self.server_hears(now, server::Input::Request(request), &mut out)
            }
            Event::Message(_, Message::Reply(reply)) => self.client_hears(now, client::Input::Reply(reply), &mut out),
            Event::Refused(to, Message::Request(request)) => {
                let lost = self.servers.ids().find(|id| home(*id) == to);
                let lost = lost.map(|id| client::Input::Lost(id, request.session));
                lost.into_iter().for_each(|input| self.client_hears(now, input, &mut out));
            }
            // The client has its own time-out.
            Event::Refused(_, Message::Reply(_)) => {}
            Event::Command(Ask(waiter)) => {
                out.push(Effect::Report(Report::Asked(waiter)));
                self.client_hears(now, client::Input::Ask(waiter), &mut out);
            }
            Event::Synced(limit) => self.server_hears(now, server::Input::Persisted(limit), &mut out),
            Event::SyncFailed(limit) => self.server_hears(now, server::Input::NotPersisted(limit), &mut out),
            Event::Alarm => {
                self.server_hears(now, server::Input::Tick, &mut out);
                self.client_hears(now, client::Input::Tick, &mut out);
            }
        }
        out
    }

    fn wake_at(&self) -> Option<Time> {
        let server = self.server.as_ref().and_then(Server::wake_at);
        self.client.wake_at().into_iter().chain(server).min()
    }
}

impl Node {
    fn server_hears(&mut self, now: Time, input: server::Input, out: &mut Vec<EffectOf<Node>>) {
        if let Some(server) = &mut self.server {
            serve(server.step(now, input), out);
        }
    }

    fn client_hears(&mut self, now: Time, input: client::Input, out: &mut Vec<EffectOf<Node>>) {
        out.extend(self.client.step(now, input).into_iter().map(|effect| match effect {
            client::Effect::Send(to, request) => Effect::Send(home(to), Message::Request(request)),
            client::Effect::Answer(waiter, answer) => Effect::Report(Report::Answered(waiter, answer)),
        }));
    }
}

fn serve(effects: Vec<server::Effect>, out: &mut Vec<EffectOf<Node>>) {
    for effect in effects {
        match effect {
            server::Effect::Reply(reply) => out.push(Effect::Send(reply.session.client.node, Message::Reply(reply))),
            server::Effect::Persist(limit) => {
                out.push(Effect::Write(LIMIT.into(), limit.to_be_bytes().into()));
                out.push(Effect::Sync(limit));
            }
            // The client hears nothing, and gives up in time.
            server::Effect::Refuse(..) => {}
        }
    }
}

/// Where a server lives.
fn home(server: ServerId) -> NodeId {
    NodeId(u16::from(server.0))
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Request(request) => request.fmt(f),
            Message::Reply(reply) => reply.fmt(f),
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ask {}", self.0.0)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Asked(waiter) => write!(f, "asked {}", waiter.0),
            Report::Answered(waiter, Ok(timestamp)) => write!(f, "answered {} {timestamp}", waiter.0),
            Report::Answered(waiter, Err(error)) => write!(f, "answered {} {error}", waiter.0),
        }
    }
}
