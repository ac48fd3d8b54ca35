//! Nominations and effects as people read them.

use super::holder::{Effect, Proposal, Register};
use super::nomination::{Nomination, Outcome, Policy, Position, Score};
use std::fmt;

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Raft => "raft",
            Policy::Bully => "bully",
            Policy::Seer => "seer",
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.index)
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Score::Timeout(timeout) => write!(f, "time-out {timeout:?}"),
            Score::Id(node) => write!(f, "id {node}"),
            Score::Delay { commit, crashes } => write!(f, "commits after {commit:?}, crashes add {crashes:?}"),
            Score::NotAlive(state) => write!(f, "is {state}"),
            Score::OutOfDate { latest } => write!(f, "is not up to date: others are at {latest}"),
            Score::PassedOver => f.write_str("was nominated and did not take it"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Nominated(node) => write!(f, "{node} is nominated"),
            Outcome::Stays(node) => write!(f, "{node} stays"),
            Outcome::TooFew { alive, quorum } => write!(f, "nobody: {alive} alive, {quorum} needed"),
            Outcome::Nobody => f.write_str("nobody: no candidate may be"),
        }
    }
}

impl fmt::Display for Nomination {
    /// The outcome, then a line for each candidate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.policy, self.outcome)?;
        self.candidates.iter().try_for_each(|candidate| write!(f, "\n{}: {}", candidate.node, candidate.score))
    }
}

impl fmt::Display for Register {
    /// `epoch 2.5 of 1-3 by 2-1`: epoch and renewal, node and run, and who proposed it, if another.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Register { epoch, holder, renewal, proposed_by } = self;
        write!(f, "epoch {epoch}.{renewal} of {}-{}", holder.node, holder.epoch)?;
        if holder != proposed_by {
            write!(f, " by {}-{}", proposed_by.node, proposed_by.epoch)?;
        }
        Ok(())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expected {
            Some(expected) => write!(f, "{} in place of {expected}", self.value),
            None => write!(f, "{}, the first", self.value),
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Propose(proposal) => write!(f, "propose {proposal}"),
            Effect::Begin { epoch } => write!(f, "begin epoch {epoch}"),
            Effect::Stop { epoch } => write!(f, "stop epoch {epoch}"),
            Effect::Nominate { question, without } if without.is_empty() => write!(f, "question {question}: nominate"),
            Effect::Nominate { question, without } => {
                let without: Vec<String> = without.iter().map(ToString::to_string).collect();
                write!(f, "question {question}: nominate without {}", without.join(", "))
            }
            Effect::CatchUp(run) => write!(f, "have {}-{} catch up", run.node, run.epoch),
            Effect::HandOverFailed(run) => write!(f, "{}-{} did not catch up", run.node, run.epoch),
        }
    }
}
