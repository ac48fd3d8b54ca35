//! Scripts about nominations and about [`Holder`], the latter with a [`Fence`] beside it that guards what holders change.
//!
//! `candidate 2 alive at 1.7 up 1h crashes 0 apply 100us load 0 trips 1=300us,3=2ms`: facts; what is left out is usual.
//! `nominate seer quorum 2 sitting 1 without 3 random 7`: a nomination of those candidates.
//!
//! `stand 200ms`, `nominated 3` and `nobody` answer the last question, or, with `to 1` behind them, that one.
//!
//! `begin 1-1`: the holder machine of node 1, run 1. `applied 2.5 of 1-3 by 2-1`: the register, as the machine writes it. `taken`: the last proposal was applied.
//! `act` asks the machine whether it holds an epoch, and has the fence admit something in its name. `act in 3` goes to the fence alone: it is what
//! was begun earlier and arrives now. `+5s` plays all alarms up to then; in `pause 5s` the process sleeps.

use super::{incarnation, parse, pause};
use atoll_model::NodeId;
use atoll_protocol::Time;
use atoll_protocol::election::Fence;
use atoll_protocol::election::holder::{Effect, Holder, Input, Options, Proposal, Register};
use atoll_protocol::election::nomination::{Candidate, Nomination, Position, Question};
use atoll_protocol::membership::State;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Default)]
pub(super) struct Subject {
    now: Time,
    candidates: Vec<Candidate>,
    machine: Option<Holder>,
    fence: Fence,
    proposed: Option<Proposal>,
    asked: u64,
}

impl super::Subject for Subject {
    fn input(&mut self, line: &str) -> Result<Vec<String>, String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "candidate" => {
                let fresh = candidate(rest)?;
                self.candidates.retain(|candidate| candidate.node != fresh.node);
                self.candidates.push(fresh);
                return Ok(vec![]);
            }
            "nominate" => return self.nominate(rest),
            "begin" => {
                let (me, register) = rest.split_once(" with ").unwrap_or((rest, ""));
                let register = if register.is_empty() { None } else { Some(self::register(register)?) };
                self.machine = Some(Holder::begin(self.now, Options::default(), incarnation(me)?, register));
                return Ok(vec![]);
            }
            "act" => return self.act(rest),
            _ => {}
        }
        if let Some(time) = pause(line) {
            return self.play(self.now + time);
        }
        let input = match verb {
            "pause" => {
                self.now = self.now + pause(&format!("+{rest}")).ok_or("how long?")?;
                Input::Tick
            }
            "applied" => Input::Applied(register(rest)?),
            "taken" => Input::Applied(self.proposed.ok_or("nothing was proposed")?.value),
            "stand" | "nominated" | "nobody" => self.answer(verb, rest)?,
            "handover" => Input::HandOver(incarnation(rest)?),
            "caught" => Input::CaughtUp(incarnation(rest)?),
            _ => return Err("no such input".into()),
        };
        self.step(input)
    }

    fn wake_at(&self) -> Option<Time> {
        self.machine.as_ref().and_then(Holder::wake_at)
    }
}

impl Subject {
    fn step(&mut self, input: Input) -> Result<Vec<String>, String> {
        let effects = self.machine.as_mut().ok_or("begin first")?.step(self.now, input);
        for effect in &effects {
            if let Effect::Propose(proposal) = effect {
                self.proposed = Some(*proposal);
            }
            if let Effect::Nominate { question, .. } = effect {
                self.asked = *question;
            }
        }
        Ok(effects.iter().map(Effect::to_string).collect())
    }

    fn answer(&self, verb: &str, rest: &str) -> Result<Input, String> {
        let mut words = rest.split(' ').filter(|word| !word.is_empty()).peekable();
        let what = words.next_if(|word| *word != "to");
        let question = match words.next() {
            Some(_) => parse(words.next())?,
            None => self.asked,
        };
        Ok(match verb {
            "stand" => {
                let stands_after = Some(time(what.ok_or("after which time?")?)?);
                Input::Nominated { question, nominee: Some(NodeId(1)), stands_after }
            }
            "nominated" => Input::Nominated { question, nominee: Some(NodeId(parse(what)?)), stands_after: None },
            _ => Input::Nominated { question, nominee: None, stands_after: None },
        })
    }

    fn play(&mut self, until: Time) -> Result<Vec<String>, String> {
        let mut out = vec![];
        while let Some(alarm) = self.machine.as_ref().and_then(Holder::wake_at).filter(|alarm| *alarm <= until) {
            self.now = alarm.max(self.now);
            out.extend(self.step(Input::Tick)?.into_iter().map(|effect| format!("{} {effect}", self.now)));
        }
        self.now = until;
        Ok(out)
    }

    fn act(&mut self, rest: &str) -> Result<Vec<String>, String> {
        let epoch = match rest.strip_prefix("in ") {
            Some(epoch) => Some(parse(Some(epoch))?),
            None => self.machine.as_ref().ok_or("begin first")?.holds(self.now),
        };
        let Some(epoch) = epoch else { return Ok(vec!["is not the holder".into()]) };
        Ok(vec![match self.fence.admit(epoch) {
            Ok(()) => format!("done in epoch {epoch}"),
            Err(fenced) => format!("refused: {fenced}"),
        }])
    }

    fn nominate(&self, rest: &str) -> Result<Vec<String>, String> {
        let mut words = rest.split(' ');
        let policy = parse(words.next())?;
        let words: Vec<&str> = words.collect();
        let of = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)).copied();
        let nodes = of("without").unwrap_or_default().split(',').filter(|word| !word.is_empty());
        let without = nodes.map(|word| parse(Some(word)).map(NodeId)).collect::<Result<BTreeSet<_>, _>>()?;
        let nomination = Nomination::of(&Question {
            policy,
            candidates: &self.candidates,
            sitting: of("sitting").map(|word| parse(Some(word)).map(NodeId)).transpose()?,
            without: &without,
            quorum: parse(of("quorum").or(Some("2")))?,
            random: parse(of("random").or(Some("0")))?,
            timeouts: (Duration::from_millis(150), Duration::from_millis(300)),
            margin: 20,
        });
        Ok(nomination.to_string().lines().map(Into::into).collect())
    }
}

/// `2.5 of 1-3 by 2-1`
fn register(text: &str) -> Result<Register, String> {
    let (count, holder) = text.split_once(" of ").ok_or("epoch.renewal of node-run")?;
    let (epoch, renewal) = count.split_once('.').ok_or("epoch.renewal")?;
    let (holder, by) = holder.split_once(" by ").unwrap_or((holder, holder));
    let (epoch, renewal) = (parse(Some(epoch))?, parse(Some(renewal))?);
    Ok(Register { epoch, holder: incarnation(holder)?, renewal, proposed_by: incarnation(by)? })
}

fn candidate(text: &str) -> Result<Candidate, String> {
    let words: Vec<&str> = text.split(' ').collect();
    let of = |name: &str| words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)).copied();
    let (epoch, index) = of("at").unwrap_or("1.7").split_once('.').ok_or("epoch.index")?;
    let trip = |text: &str| -> Result<(NodeId, Duration), String> {
        let (node, trip) = text.split_once('=').ok_or("node=time")?;
        Ok((NodeId(parse(Some(node))?), time(trip)?))
    };
    let trips = of("trips").unwrap_or_default().split(',').filter(|word| !word.is_empty());
    Ok(Candidate {
        node: NodeId(parse(words.first().copied())?),
        state: match words.get(1).copied() {
            Some("suspect") => State::Suspect,
            Some("down") => State::Down,
            Some("left") => State::Left,
            _ => State::Alive,
        },
        position: Position { epoch: parse(Some(epoch))?, index: parse(Some(index))? },
        uptime: time(of("up").unwrap_or("1h"))?,
        crashes: parse(of("crashes").or(Some("0")))?,
        round_trips: trips.map(trip).collect::<Result<BTreeMap<_, _>, _>>()?,
        apply: time(of("apply").unwrap_or("100us"))?,
        load: parse(of("load").or(Some("0")))?,
    })
}

/// `300us`, `2ms`, `3s`, `1h`
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let number: u64 = parse(Some(digits))?;
    match &text[digits.len()..] {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "h" => Ok(Duration::from_secs(number * 3600)),
        _ => Err(format!("{text}: us, ms, s or h")),
    }
}
