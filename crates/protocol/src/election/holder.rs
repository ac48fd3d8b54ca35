//! The holder of duties that one node has at a time: an epoch from a replicated register, a lease on it, an orderly end.
//!
//! The register is one value in a replicated state machine, which every node applies in the same order. It changes by compare-and-set
//! ([`Register::change`]): a proposal names the value that it replaces. So each epoch has one holder, and of a renewal and a
//! take-over that were proposed at once, one takes effect.
//!
//! # The lease
//!
//! A holder renews while it lives. Its lease counts from the moment at which it *first proposed* the renewal that was applied, by its own clock, and lasts
//! [`Options::lease`]. Another may propose to take over only when, by its own clock, a longer time has passed since it *applied* the last renewal, which
//! was later than that. Both clocks may be wrong by up to [`Options::skew`] in their rates; the difference between the two times covers
//! twice that. So in true time the old lease is over when a take-over is proposed, and the new one begins later than that. (Gray, Cheriton,
//! *Leases*, SOSP 1989. The clocks must go on while a process or its machine sleeps.)
//!
//! * A proposal may be applied at any time after, or twice: the second time its expected value is gone.
//! * A renewal that is applied after its own lease is over gives none. Nor does being made the holder by another: when that was proposed, this node's clock was not read. It proposes a
//!   renewal of its own first.
//! * A restarted node is not the holder that its earlier run was: a holder is a *run*. That run is over, so its lease need not be
//!   waited for by the run that took its place.
//!
//! A lease is a promise about time, and a process may stop between looking at the clock and acting. So everything that is done in a holder's
//! name also carries its epoch, and a [`super::Fence`] refuses epochs older than the newest that it has seen: a paused old holder that wakes
//! up can change nothing at any place that the new epoch has reached. At a place that has not seen the new epoch it still can. So
//! after [`Effect::Begin`] a holder first has its epoch admitted, and that stored, at every place that it will read or change; what it
//! reads there afterwards is what no earlier holder can change any more.
//!
//! Invariant: in true time no two leases overlap, as long as clock rates are within the bound; and epochs have one holder each, always.

use super::nomination::Nomination;
use crate::gid::Incarnation;
use crate::time::Time;
use atoll_model::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;

/// The replicated value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Register {
    /// Counts holders, from 1.
    pub epoch: u64,
    /// The run of a node that has it.
    pub holder: Incarnation,
    /// Counts the renewals in this epoch.
    pub renewal: u64,
    /// Who proposed it. A node can be made the holder by another while it proposes itself; the two must differ, as only for its own
    /// does it know that it was proposed before others applied it.
    pub proposed_by: Incarnation,
}

/// A change of the register that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// What it is to replace.
    pub expected: Option<Register>,
    /// By what.
    pub value: Register,
}

impl Register {
    /// What a proposal does to a register, wherever it is applied: whether it changed it.
    pub fn change(register: &mut Option<Register>, proposal: &Proposal) -> bool {
        let takes_effect = *register == proposal.expected;
        if takes_effect {
            *register = Some(proposal.value);
        }
        takes_effect
    }

    fn is_later_than(&self, other: &Register) -> bool {
        (self.epoch, self.renewal) > (other.epoch, other.renewal)
    }
}

/// How long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// How long a lease lasts. It is renewed when a third of it is over.
    pub lease: Duration,
    /// How far the rates of clocks may be from true.
    pub skew: Skew,
    /// After how long a proposal is repeated that was not applied.
    pub retry: Duration,
    /// How long a successor may take to catch up.
    pub handover: Duration,
}

impl Default for Options {
    /// A lease of 3 s, clocks within 1 %, which is more than a hundred times what quartz does.
    fn default() -> Self {
        Options {
            lease: Duration::from_secs(3),
            skew: Skew(10_000),
            retry: Duration::from_millis(500),
            handover: Duration::from_secs(30),
        }
    }
}

/// How far the rates of clocks may be from true, in millionths.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Skew(u32);

/// Clocks by which no lease can be told to be over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("clocks that are wrong by {0} millionths are not good enough for leases: at most {max}", max = Skew::MOST)]
pub struct BadSkew(pub u32);

impl Skew {
    /// The most that is taken: others wait for three times the lease then.
    pub const MOST: u32 = 500_000;

    /// So many millionths.
    ///
    /// # Errors
    /// They are more than [`Skew::MOST`].
    pub fn new(millionths: u32) -> Result<Skew, BadSkew> {
        if millionths <= Self::MOST { Ok(Skew(millionths)) } else { Err(BadSkew(millionths)) }
    }

    /// That number.
    pub fn millionths(self) -> u32 {
        self.0
    }
}

impl Options {
    /// How long others wait: (1 + skew) / (1 − skew) times the lease, and 2 ms because times are cut off to milliseconds.
    pub fn wait(&self) -> Duration {
        let skew = u64::from(self.skew.0);
        let lease = self.lease.as_millis() as u64;
        Duration::from_millis((lease * (1_000_000 + skew)).div_ceil(1_000_000 - skew) + 2)
    }
}

/// What the machine hears.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// The register was changed to this value, here as everywhere.
    Applied(Register),
    /// The answer to [`Effect::Nominate`].
    Nominated {
        /// The question that is answered. Answers to earlier ones come too late.
        question: u64,
        /// Who.
        nominee: Option<NodeId>,
        /// If this node is to stand: after which time.
        stands_after: Option<Duration>,
    },
    /// Another is to take over, in order. Without effect if this node is not the holder.
    HandOver(Incarnation),
    /// The successor has everything that it needs.
    CaughtUp(Incarnation),
}

impl Input {
    /// What a nomination, asked for by this question, says to this node.
    pub fn nominated(question: u64, nomination: &Nomination, me: NodeId) -> Input {
        Input::Nominated { question, nominee: nomination.nominee(), stands_after: nomination.stands_after(me) }
    }
}

/// What it wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Have the register changed, if it is as expected. There is no answer but [`Input::Applied`]; losing it does no harm.
    Propose(Proposal),
    /// This node is the holder, as long as [`Holder::holds`] says so. Before all else [`super::Fence::admit`] takes the epoch at every place that
    /// will be read or changed.
    Begin {
        /// What everything done in its name carries.
        epoch: u64,
    },
    /// It is not any more: begin nothing, and give up what is under way.
    Stop {
        /// The epoch that is over for this node, or interrupted.
        epoch: u64,
    },
    /// There is no holder: say who should be.
    Nominate {
        /// Counts the questions of this machine.
        question: u64,
        /// Who was nominated for this vacancy before and did not take it.
        without: BTreeSet<NodeId>,
    },
    /// Have the successor brought up to date: [`Input::CaughtUp`].
    CatchUp(Incarnation),
    /// The successor did not catch up in time; this node goes on.
    HandOverFailed(Incarnation),
}

/// One node's part in it.
#[derive(Debug)]
pub struct Holder {
    options: Options,
    me: Incarnation,
    register: Option<Register>,
    /// When that was applied here.
    applied: Time,
    /// Until when this node is the holder.
    lease: Option<Time>,
    renew: Time,
    pending: Option<Pending>,
    succession: Succession,
    vacancy: Vacancy,
    /// How often a nomination was asked for.
    questions: u64,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    proposal: Proposal,
    first: Time,
    again: Time,
}

/// How far an orderly hand-over is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Succession {
    None,
    CatchingUp {
        successor: Incarnation,
        by: Time,
    },
    /// This node has stopped, and does not begin again in this epoch.
    Passing {
        successor: Incarnation,
    },
}

/// What was done about there being no holder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Vacancy {
    nominate: Option<Time>,
    stand: Option<Time>,
    nominee: Option<NodeId>,
    passed: BTreeSet<NodeId>,
}

impl Holder {
    /// Begins, with the register as this node has applied it so far.
    pub fn begin(now: Time, options: Options, me: Incarnation, register: Option<Register>) -> Holder {
        Holder {
            options,
            me,
            register,
            applied: now,
            lease: None,
            renew: now,
            pending: None,
            succession: Succession::None,
            vacancy: Vacancy::default(),
            questions: 0,
        }
    }

    /// Takes an input.
    pub fn step(&mut self, now: Time, input: Input) -> Vec<Effect> {
        let mut out = vec![];
        self.expire(now, &mut out);
        match input {
            Input::Tick => {}
            Input::Applied(register) => self.applied(now, register, &mut out),
            Input::Nominated { question, nominee, stands_after } => {
                self.nominated(now, question, nominee, stands_after);
            }
            Input::HandOver(successor) => {
                if self.holds(now).is_some() && successor != self.me && self.succession == Succession::None {
                    self.succession = Succession::CatchingUp { successor, by: now + self.options.handover };
                    out.push(Effect::CatchUp(successor));
                }
            }
            Input::CaughtUp(successor) => self.caught_up(now, successor, &mut out),
        }
        self.tick(now, &mut out);
        out
    }

    /// The epoch in which this node is the holder now. To be asked before each thing that is done.
    pub fn holds(&self, now: Time) -> Option<u64> {
        let register = self.register.filter(|register| register.holder == self.me)?;
        self.lease.filter(|until| now < *until).map(|_| register.epoch)
    }

    /// Until when, if nothing is renewed.
    pub fn lease(&self) -> Option<Time> {
        self.lease
    }

    /// The register as this node has applied it.
    pub fn register(&self) -> Option<&Register> {
        self.register.as_ref()
    }

    /// When [`Input::Tick`] is due, at the latest.
    pub fn wake_at(&self) -> Option<Time> {
        let handover = match self.succession {
            Succession::CatchingUp { by, .. } => Some(by),
            Succession::None | Succession::Passing { .. } => None,
        };
        let next = match &self.pending {
            Some(pending) => Some(pending.again),
            None if self.is_mine() => Some(self.renew),
            None => self.vacancy.stand.or(self.vacancy.nominate).or(Some(self.vacant_at())),
        };
        [self.lease, handover, next].into_iter().flatten().min()
    }

    fn is_mine(&self) -> bool {
        self.register.is_some_and(|register| register.holder == self.me)
    }

    /// From when on another may propose itself.
    fn vacant_at(&self) -> Time {
        match &self.register {
            Some(Register { holder, .. }) if holder.node != self.me.node || holder.epoch >= self.me.epoch => {
                self.applied + self.options.wait()
            }
            // There never was a holder; or it was an earlier run of this node.
            _ => self.applied,
        }
    }

    fn applied(&mut self, now: Time, register: Register, out: &mut Vec<Effect>) {
        if self.register.is_some_and(|known| !register.is_later_than(&known)) {
            return;
        }
        let own = self.pending.take().filter(|pending| pending.proposal.value == register);
        let before = self.register.replace(register);
        self.applied = now;
        self.vacancy = Vacancy::default();
        let same_epoch = before.is_some_and(|before| before.epoch == register.epoch);
        if !same_epoch {
            self.stop(before, out);
            self.succession = Succession::None;
        }
        if register.holder != self.me {
            return;
        }
        if let Succession::Passing { successor } = self.succession {
            return self.pass_on(now, successor, out);
        }
        self.renew = now;
        let Some(own) = own else { return };
        let until = own.first + self.options.lease;
        if now < until {
            self.renew = own.first + self.options.lease / 3;
            if self.lease.replace(until).is_none() {
                out.push(Effect::Begin { epoch: register.epoch });
            }
        }
    }

    fn nominated(&mut self, now: Time, question: u64, nominee: Option<NodeId>, stands_after: Option<Duration>) {
        // If it came late, the question is settled, or was asked anew.
        if self.vacancy.nominate.is_none() || question != self.questions {
            return;
        }
        if nominee.is_none() {
            self.vacancy.passed.clear();
        }
        self.vacancy.nominee = nominee;
        self.vacancy.stand = stands_after.map(|after| now + after);
    }

    fn caught_up(&mut self, now: Time, successor: Incarnation, out: &mut Vec<Effect>) {
        if matches!(self.succession, Succession::CatchingUp { successor: awaited, .. } if awaited == successor) {
            self.stop(self.register, out);
            self.succession = Succession::Passing { successor };
            self.pass_on(now, successor, out);
        }
    }

    fn pass_on(&mut self, now: Time, successor: Incarnation, out: &mut Vec<Effect>) {
        if let Some(register) = self.register {
            let epoch = register.epoch + 1;
            self.propose(now, Register { epoch, holder: successor, renewal: 0, proposed_by: self.me }, out);
        }
    }

    fn propose(&mut self, now: Time, value: Register, out: &mut Vec<Effect>) {
        let proposal = Proposal { expected: self.register, value };
        self.pending = Some(Pending { proposal, first: now, again: now + self.options.retry });
        out.push(Effect::Propose(proposal));
    }

    fn stop(&mut self, register: Option<Register>, out: &mut Vec<Effect>) {
        if let (Some(_), Some(Register { epoch, .. })) = (self.lease.take(), register) {
            out.push(Effect::Stop { epoch });
        }
    }

    /// Before anything else is looked at: a lease that is over is over.
    fn expire(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.lease.is_some_and(|until| until <= now) {
            self.stop(self.register, out);
        }
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        if let Succession::CatchingUp { successor, by } = self.succession
            && by <= now
        {
            self.succession = Succession::None;
            out.push(Effect::HandOverFailed(successor));
        }
        if let Some(pending) = &mut self.pending {
            if pending.again <= now {
                pending.again = now + self.options.retry;
                out.push(Effect::Propose(pending.proposal));
            }
        } else if let Some(register) = self.register.filter(|register| register.holder == self.me) {
            if self.renew <= now {
                let renewal = register.renewal + 1;
                self.propose(now, Register { renewal, proposed_by: self.me, ..register }, out);
            }
        } else if self.vacant_at() <= now {
            self.fill_vacancy(now, out);
        }
    }

    fn fill_vacancy(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.vacancy.stand.is_some_and(|stand| stand <= now) {
            let epoch = self.register.map_or(1, |register| register.epoch + 1);
            self.propose(now, Register { epoch, holder: self.me, renewal: 0, proposed_by: self.me }, out);
        } else if self.vacancy.stand.is_none() && self.vacancy.nominate.is_none_or(|nominate| nominate <= now) {
            // Whoever was nominated has had its time.
            let nominee = self.vacancy.nominee.take();
            self.vacancy.passed.extend(nominee.filter(|nominee| *nominee != self.me.node));
            self.vacancy.nominate = Some(now + self.options.lease);
            self.questions += 1;
            out.push(Effect::Nominate { question: self.questions, without: self.vacancy.passed.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The earliest end of a wait in true time, by a clock that is too fast, is after the last end of a lease, by one that is too slow.
    #[test]
    fn others_wait_for_longer_than_a_lease_by_whichever_clocks_that_are_taken() {
        for millionths in [0, 100, 10_000, 200_000, Skew::MOST] {
            let options = Options { skew: Skew(millionths), ..Options::default() };
            let (wait, lease) = (options.wait().as_secs_f64(), options.lease.as_secs_f64());
            let skew = f64::from(millionths) / 1e6;
            assert!(wait / (1.0 + skew) > lease / (1.0 - skew), "{millionths}");
        }
    }

    #[test]
    fn clocks_that_are_too_wrong_are_refused() {
        assert_eq!(Skew::new(Skew::MOST).map(Skew::millionths), Ok(500_000));
        assert_eq!(Skew::new(500_001), Err(BadSkew(500_001)));
    }
}
