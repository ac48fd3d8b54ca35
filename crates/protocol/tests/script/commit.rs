//! Scripts about [`Commit`].
//!
//! `begin 1 2:reads 3:validated 4:bare 5:log 6:ledger`: participants; plain ones wrote and can prepare. Bare ones cannot; `log` holds the
//! coordinator's log, `ledger` cannot prepare but has a ledger of its own.

use super::{error, participant, pause, transaction};
use atoll_model::ParticipantId;
use atoll_protocol::Time;
use atoll_protocol::commit::{Commit, Effect, Input, Options, Participant, Records, Work};

#[derive(Default)]
pub(super) struct Subject {
    now: Time,
    machine: Option<Commit>,
}

impl super::Subject for Subject {
    fn input(&mut self, line: &str) -> Result<Vec<String>, String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        if verb == "begin" {
            return self.begin(rest);
        }
        let machine = self.machine.as_mut().ok_or("begin first")?;
        if verb == "gid" {
            return Ok(vec![machine.gid(participant(Some(rest))?).to_string()]);
        }
        let input = match pause(line) {
            Some(pause) => {
                self.now = self.now + pause;
                Input::Tick
            }
            None => input(verb, rest)?,
        };
        Ok(lines(&machine.step(self.now, input)))
    }

    fn wake_at(&self) -> Option<Time> {
        self.machine.as_ref().and_then(Commit::wake_at)
    }
}

impl Subject {
    fn begin(&mut self, words: &str) -> Result<Vec<String>, String> {
        let participants = words.split(' ').map(taking_part).collect::<Result<Vec<_>, _>>()?;
        match Commit::begin(self.now, transaction("1-3.7")?, &participants, Options::default()) {
            Ok((machine, effects)) => {
                self.machine = Some(machine);
                Ok(lines(&effects))
            }
            Err(refusal) => Ok(vec![format!("refused: {refusal}")]),
        }
    }
}

fn lines(effects: &[Effect]) -> Vec<String> {
    effects.iter().map(Effect::to_string).collect()
}

fn taking_part(word: &str) -> Result<Participant, String> {
    let (id, what) = word.split_once(':').unwrap_or((word, "writes"));
    let (work, prepares, records) = match what {
        "writes" => (Work::Wrote, true, Records::Nowhere),
        "reads" => (Work::Read, true, Records::Nowhere),
        "validated" => (Work::ValidatedRead, true, Records::Nowhere),
        "bare" => (Work::Wrote, false, Records::Nowhere),
        "log" => (Work::Wrote, true, Records::Log),
        "ledger" => (Work::Wrote, false, Records::Ledger),
        _ => return Err(format!("{word}: what does it do?")),
    };
    Ok(Participant { id: participant(Some(id))?, work, prepares, records })
}

fn input(verb: &str, rest: &str) -> Result<Input, String> {
    let about = |input: fn(ParticipantId) -> Input| participant(Some(rest)).map(input);
    match (verb, rest) {
        ("ended", _) => about(Input::Ended),
        ("prepared", _) => about(Input::Prepared),
        ("lost", _) => about(Input::Lost),
        ("committed", _) => about(Input::Committed),
        ("aborted", _) => about(Input::Aborted),
        ("missing", _) => about(Input::Missing),
        ("refused", _) => {
            let (id, why) = rest.split_once(' ').ok_or("why?")?;
            Ok(Input::Refused(participant(Some(id))?, error(why)?))
        }
        ("admitted", "") => Ok(Input::Admitted),
        ("logged", "") => Ok(Input::Logged),
        ("log", "lost") => Ok(Input::LogLost),
        ("log", "has it") => Ok(Input::LogHas(true)),
        ("log", "has it not") => Ok(Input::LogHas(false)),
        ("log", _) => Ok(Input::LogRefused(error(rest.strip_prefix("refused ").ok_or("log what?")?)?)),
        ("cancel", "") => Ok(Input::Cancel),
        _ => Err("no such input".into()),
    }
}
