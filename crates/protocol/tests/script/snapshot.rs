//! Scripts about [`Snapshots`].
//!
//! `commit 7 1 2`: transaction 7 wants to begin its second phase at participants 1 and 2. `read 1: ...`: reader 1.
//! `begin` may name participants that are not settled.

use super::{parse, participant, participants, pause, transaction};
use atoll_protocol::snapshot::{Effect, Input, Options, ReaderId, Snapshots};
use atoll_protocol::{Time, TransactionId};

#[derive(Default)]
pub(super) struct Subject {
    now: Time,
    machine: Option<Snapshots>,
}

impl super::Subject for Subject {
    fn input(&mut self, line: &str) -> Result<Vec<String>, String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        if verb == "begin" {
            let unsettled = participants(rest.strip_prefix("unsettled ").unwrap_or_default())?;
            self.machine = Some(Snapshots::new(Options::default(), unsettled));
            return Ok(vec![]);
        }
        let machine = self.machine.as_mut().ok_or("begin first")?;
        if verb == "clear" {
            return Ok(vec![machine.is_clear(participant(Some(rest))?).to_string()]);
        }
        let input = match pause(line) {
            Some(pause) => {
                self.now = self.now + pause;
                Input::Tick
            }
            None => input(verb, rest)?,
        };
        Ok(machine.step(self.now, input).iter().map(Effect::to_string).collect())
    }

    fn wake_at(&self) -> Option<Time> {
        self.machine.as_ref().and_then(Snapshots::wake_at)
    }
}

fn input(verb: &str, rest: &str) -> Result<Input, String> {
    let (first, others) = rest.split_once(' ').unwrap_or((rest, ""));
    let id = || -> Result<TransactionId, String> { transaction(&format!("1-3.{first}")) };
    let reader = || -> Result<ReaderId, String> { Ok(ReaderId(parse(Some(first))?)) };
    match verb {
        "commit" => Ok(Input::Enter(id()?, participants(others)?)),
        "applied" => Ok(Input::Applied(id()?, participant(Some(others))?)),
        "withdraw" => Ok(Input::Withdraw(id()?)),
        "overdue" => Ok(Input::Overdue(id()?)),
        "settled" => Ok(Input::Settled(participant(Some(first))?)),
        "read" => Ok(Input::Read(reader()?, participants(others)?)),
        "opened" => Ok(Input::Opened(reader()?)),
        "leave" => Ok(Input::Leave(reader()?)),
        _ => Err("no such input".into()),
    }
}
