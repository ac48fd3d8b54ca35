//! What one node knows of another.
//!
//! Invariant: signs of life belong to one run of the node; a later run begins with none.

use super::arrivals::Arrivals;
use super::message::{Record, State, Told};
use super::options::Options;
use crate::gid::Incarnation;
use crate::time::Time;
use atoll_model::NodeId;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is known.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) record: Record,
    pub(super) uptime: Duration,
    pub(super) told: Told,
    pub(super) arrivals: Arrivals,
    /// The last sign of life, of whichever kind; when it was first heard of, if there was none.
    pub(super) last_sign: Time,
    /// When a message from itself came last.
    pub(super) direct: Option<Time>,
    pub(super) watch: Watch,
    /// When it was last pinged out of turn.
    pub(super) asked: Time,
    /// Smoothed, in microseconds.
    pub(super) round_trip: Option<u32>,
    /// Its own to others, as it told.
    pub(super) round_trips: BTreeMap<NodeId, u32>,
    /// In so many messages the record is still to be sent.
    pub(super) sends: u32,
    /// Up to which node it has been sent the records in turn.
    pub(super) cursor: Option<NodeId>,
}

/// How closely it is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Watch {
    /// By its heartbeats.
    Calm,
    /// One is overdue, or its host says that nobody listens: it and others are asked.
    Doubted { since: Time, absent: bool },
    /// It is given time to refute.
    Suspected { since: Time },
}

impl Member {
    pub(super) fn new(now: Time, record: Record, options: &Options) -> Member {
        let watch = Watch::of(record.claim.state(), now);
        Member {
            record,
            uptime: Duration::ZERO,
            told: Told::default(),
            arrivals: Arrivals::new(options.interval(), options.timeout()),
            last_sign: now,
            direct: None,
            watch,
            asked: now,
            round_trip: None,
            round_trips: BTreeMap::new(),
            sends: 0,
            cursor: None,
        }
    }

    pub(super) fn state(&self) -> State {
        self.record.claim.state()
    }

    pub(super) fn run(&self) -> Incarnation {
        Incarnation { node: self.record.node, epoch: self.record.claim.run }
    }

    /// It lives: the silence begins anew, and with it the doubt. A suspicion stays until it is refuted.
    pub(super) fn alive(&mut self, now: Time) {
        self.last_sign = now;
        if let Watch::Doubted { .. } = self.watch {
            self.watch = Watch::Calm;
        }
    }

    /// Whether this node hears it, so that it need not believe others who do not.
    pub(super) fn is_heard(&self, now: Time, options: &Options) -> bool {
        self.direct.is_some_and(|heard| now < heard + options.patience(&self.arrivals))
    }

    /// When something follows from its silence.
    pub(super) fn due(&self, options: &Options) -> Option<Time> {
        match (self.state(), self.watch) {
            (State::Alive, Watch::Doubted { since, .. }) => Some(since + options.probe()),
            (State::Alive, _) => Some(self.last_sign + options.patience(&self.arrivals)),
            (State::Suspect, Watch::Suspected { since }) => {
                Some((since + options.suspicion()).max(self.last_sign + options.timeout()))
            }
            (State::Suspect | State::Down | State::Left, _) => None,
        }
    }

    /// When it is to be asked again, out of turn.
    pub(super) fn ask_at(&self, options: &Options) -> Option<Time> {
        (self.watch != Watch::Calm).then(|| self.asked + options.probe())
    }

    /// One more measurement of the round trip, smoothed as by RFC 6298.
    pub(super) fn measured(&mut self, sample: Duration) {
        let sample = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX);
        self.round_trip = Some(match self.round_trip {
            None => sample,
            Some(smoothed) => smoothed - smoothed / 8 + sample / 8,
        });
    }
}

impl Watch {
    pub(super) fn of(state: State, now: Time) -> Watch {
        if state == State::Suspect { Watch::Suspected { since: now } } else { Watch::Calm }
    }
}

/// A node, for views and metrics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct View {
    /// The node.
    pub node: NodeId,
    /// Its run.
    pub run: u32,
    /// Where it listens.
    pub address: String,
    /// What it is believed to be.
    pub state: State,
    /// For how long it had been up when it last told.
    pub uptime: Duration,
    /// What it measures of itself.
    pub told: Told,
    /// How many of its runs ended without leaving.
    pub crashes: u32,
    /// Between this node and that, smoothed; nothing for this one.
    pub round_trip: Option<Duration>,
    /// Between that node and others, as it told.
    pub round_trips: BTreeMap<NodeId, Duration>,
    /// Since the last sign of life.
    pub silent: Duration,
    /// Whether it is heard, and not only heard of.
    pub heard: bool,
    /// How improbable the silence is, as −log10.
    pub phi: f64,
}

impl Member {
    pub(super) fn view(&self, now: Time, options: &Options) -> View {
        let micros = |n: u32| Duration::from_micros(n.into());
        View {
            node: self.record.node,
            run: self.record.claim.run,
            address: self.record.address.0.clone(),
            state: self.state(),
            uptime: self.uptime,
            told: self.told,
            crashes: self.record.crashes,
            round_trip: self.round_trip.map(micros),
            round_trips: self.round_trips.iter().map(|(node, n)| (*node, micros(*n))).collect(),
            silent: now.since(self.last_sign),
            heard: self.is_heard(now, options),
            phi: self.arrivals.phi(now.since(self.last_sign)),
        }
    }
}
