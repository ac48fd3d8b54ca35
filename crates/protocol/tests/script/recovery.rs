//! Scripts about [`Recovery`].
//!
//! Transactions are written `node-epoch.sequence`, branches with `:participant` and, if a ledger decides, `@ledger`; names of prepared
//! transactions may also stand in full, as a site would list them.
//! `begin 1-3 at 4 5 log 1-2.7:4,5`: this run of this node, participants, decisions in the log.

use super::{branch, decision, incarnation, parse, participant, participants, pause, transaction};
use atoll_protocol::recovery::{Effect, Input, Options, Recovery};
use atoll_protocol::{Gid, Time};
use std::collections::BTreeMap;

#[derive(Default)]
pub(super) struct Subject {
    now: Time,
    machine: Option<Recovery>,
}

impl super::Subject for Subject {
    fn input(&mut self, line: &str) -> Result<Vec<String>, String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        if verb == "begin" {
            return self.begin(rest);
        }
        let machine = self.machine.as_mut().ok_or("begin first")?;
        if verb == "view" {
            let branches = machine.in_doubt().map(|(gid, verdict)| format!("{gid} {verdict:?}"));
            let decisions = machine.decisions().map(|decision| format!("decided {}", decision.transaction));
            return Ok(branches.chain(decisions).collect());
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
        self.machine.as_ref().and_then(Recovery::wake_at)
    }
}

impl Subject {
    fn begin(&mut self, words: &str) -> Result<Vec<String>, String> {
        let (me, rest) = words.split_once(' ').ok_or("begin node-epoch at participants")?;
        let lists = sections(rest, &["at", "log"])?;
        let log = words_of(&lists, "log").iter().map(|word| decision(word)).collect::<Result<Vec<_>, _>>()?;
        let at = participants(&words_of(&lists, "at").join(" "))?;
        let (machine, effects) = Recovery::begin(self.now, Options::new(super::CLUSTER, incarnation(me)?), at, log);
        self.machine = Some(machine);
        Ok(lines(&effects))
    }
}

fn lines(effects: &[Effect]) -> Vec<String> {
    effects.iter().map(Effect::to_string).collect()
}

fn input(verb: &str, rest: &str) -> Result<Input, String> {
    let mut words = rest.split(' ');
    match verb {
        "add" => Ok(Input::Add(participant(Some(rest))?)),
        "remove" => Ok(Input::Remove(participant(Some(rest))?)),
        "sweep" => Ok(Input::Sweep(participant(Some(rest))?)),
        "finished" => Ok(Input::Finished(named(rest)?)),
        "failed" => Ok(Input::Failed(named(rest)?)),
        "told" => {
            let gid = named(words.next().unwrap_or_default())?;
            let decision = words.next().filter(|word| *word != "nothing").map(decision).transpose()?;
            Ok(Input::Told { gid, decision })
        }
        "unlisted" => Ok(Input::ListFailed { participant: participant(words.next())?, round: parse(words.next())? }),
        "listed" => {
            let (participant, round) = (participant(words.next())?, parse(words.next())?);
            let rest = words.collect::<Vec<_>>().join(" ");
            let lists = sections(&rest, &["prepared", "recorded", "active"])?;
            Ok(Input::Listed {
                participant,
                round,
                in_doubt: words_of(&lists, "prepared").iter().filter_map(|word| branch(word)).collect(),
                recorded: words_of(&lists, "recorded").iter().map(|w| decision(w)).collect::<Result<_, _>>()?,
                active: words_of(&lists, "active").iter().map(|w| transaction(w)).collect::<Result<_, _>>()?,
            })
        }
        "died" => {
            let (run, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            let log =
                words_of(&sections(rest, &["log"])?, "log").iter().map(|w| decision(w)).collect::<Result<_, _>>()?;
            let dead = incarnation(run)?;
            Ok(Input::Died { node: dead.node, through: dead.epoch, log })
        }
        _ => Err("no such input".into()),
    }
}

fn named(word: &str) -> Result<Gid, String> {
    branch(word).ok_or_else(|| format!("{word}: not a branch"))
}

/// Cuts `a x y b z` into lists by the words that head them.
fn sections<'a>(text: &'a str, heads: &[&str]) -> Result<BTreeMap<&'a str, Vec<&'a str>>, String> {
    let mut lists: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut head = None;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if heads.contains(&word) {
            head = Some(word);
        } else {
            lists.entry(head.ok_or_else(|| format!("{word}: in which list?"))?).or_default().push(word);
        }
    }
    Ok(lists)
}

fn words_of<'a>(lists: &BTreeMap<&str, Vec<&'a str>>, head: &str) -> Vec<&'a str> {
    lists.get(head).cloned().unwrap_or_default()
}
