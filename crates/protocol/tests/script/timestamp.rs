//! Scripts about [`Server`] and [`Client`]s of timestamps.
//!
//! `begin server 1 of 3 limit 0`, `begin client 7-1 of 3`. A server hears `tick by 2 above 0 for 7-1.1`, `persisted 50`, `not persisted 50`; its lease is 100.
//! A client hears `ask 1`, `leave 1`, `clock 7 of 0 for 7-1.1` and `lost 0 for 7-1.1`; it has two sessions at a time, of three waiters at most, and five waiters.
//! With `bare` at the end, all bounds that may be given are zero.

use super::{incarnation, parse, pause};
use atoll_protocol::timestamp::{
    Client, Reply, Request, Server, ServerId, Servers, SessionId, WaiterId, client, server,
};
use atoll_protocol::{Backoff, Time};
use std::num::NonZeroU16;
use std::time::Duration;

#[derive(Default)]
pub(super) struct Subject {
    now: Time,
    machine: Option<Machine>,
}

enum Machine {
    Server(Server),
    Client(Client),
}

impl super::Subject for Subject {
    fn input(&mut self, line: &str) -> Result<Vec<String>, String> {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["begin", rest @ ..] = words.as_slice() {
            return self.begin(rest);
        }
        let pause = pause(line);
        self.now = pause.map_or(self.now, |pause| self.now + pause);
        match self.machine.as_mut().ok_or("begin first")? {
            Machine::Server(server) => {
                let input = pause.map_or_else(|| to_server(&words), |_| Ok(server::Input::Tick))?;
                Ok(server.step(self.now, input).iter().map(server::Effect::to_string).collect())
            }
            Machine::Client(client) => {
                let input = pause.map_or_else(|| to_client(&words), |_| Ok(client::Input::Tick))?;
                Ok(client.step(self.now, input).iter().map(client::Effect::to_string).collect())
            }
        }
    }

    fn wake_at(&self) -> Option<Time> {
        match self.machine.as_ref()? {
            Machine::Server(server) => server.wake_at(),
            Machine::Client(client) => client.wake_at(),
        }
    }
}

impl Subject {
    fn begin(&mut self, words: &[&str]) -> Result<Vec<String>, String> {
        let servers = |word: &&str| Servers::new(parse(Some(word))?).map_err(|e| e.to_string());
        let (words, bare) = match words {
            [words @ .., "bare"] => (words, true),
            words => (words, false),
        };
        match words {
            ["server", id, "of", number, "limit", limit] => {
                let (lease, waiting) = if bare { (0, 0) } else { (100, 2) };
                let options = server::Options { lease, waiting, retry: Backoff::default() };
                let (id, limit) = (ServerId(parse(Some(id))?), parse(Some(limit))?);
                let (server, effects) = Server::open(self.now, servers(number)?, id, limit, options);
                self.machine = Some(Machine::Server(server));
                Ok(effects.iter().map(server::Effect::to_string).collect())
            }
            ["client", run, "of", number] => {
                let (sessions, waiters) = if bare { (0, 0) } else { (2, 5) };
                let options = client::Options {
                    timeout: Duration::from_secs(5),
                    answer: Duration::from_millis(100),
                    retry: Backoff { first: Duration::from_millis(50), most: Duration::from_secs(3) },
                    sessions,
                    shared: NonZeroU16::new(3).ok_or("not zero")?,
                    waiters,
                };
                self.machine = Some(Machine::Client(Client::new(incarnation(run)?, servers(number)?, options)));
                Ok(vec![])
            }
            _ => Err("begin server ID of N limit L, begin client RUN of N".into()),
        }
    }
}

fn to_server(words: &[&str]) -> Result<server::Input, String> {
    match words {
        ["tick", "by", count, "above", above, "for", id] => {
            let (count, above) = (parse(Some(count))?, parse(Some(above))?);
            Ok(server::Input::Request(Request { session: session(id)?, above, count }))
        }
        ["persisted", limit] => Ok(server::Input::Persisted(parse(Some(limit))?)),
        ["not", "persisted", limit] => Ok(server::Input::NotPersisted(parse(Some(limit))?)),
        _ => Err("no such input of a server".into()),
    }
}

fn to_client(words: &[&str]) -> Result<client::Input, String> {
    match words {
        ["ask", waiter] => Ok(client::Input::Ask(WaiterId(parse(Some(waiter))?))),
        ["leave", waiter] => Ok(client::Input::Leave(WaiterId(parse(Some(waiter))?))),
        ["clock", clock, "of", from, "for", id] => {
            let (clock, server) = (parse(Some(clock))?, ServerId(parse(Some(from))?));
            Ok(client::Input::Reply(Reply { session: session(id)?, server, clock }))
        }
        ["lost", from, "for", id] => Ok(client::Input::Lost(ServerId(parse(Some(from))?), session(id)?)),
        _ => Err("no such input of a client".into()),
    }
}

/// `7-1.3`: the third session of a run.
fn session(word: &str) -> Result<SessionId, String> {
    let (run, number) = word.split_once('.').ok_or("node-epoch.number")?;
    Ok(SessionId { client: incarnation(run)?, number: parse(Some(number))? })
}
