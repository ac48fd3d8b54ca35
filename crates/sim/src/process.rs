//! What can live at a node of the world.

use crate::Disk;
use atoll_model::NodeId;
use atoll_protocol::{Incarnation, Time};
use std::fmt::Display;

/// A process: state machines, and the little that drives them.
///
/// Everything that it learns comes in by [`start`](Process::start) and [`step`](Process::step), everything that it wants goes out as effects, which
/// are carried out in order. It has no other clock than `now`, in which its node's clock is read, and no other randomness than its seed.
pub trait Process: Sized {
    /// What it is told at every start, as from a configuration file. The node does not lose it.
    type Settings;
    /// What processes send each other.
    type Message: Clone + Display;
    /// What somebody at the node wants from it.
    type Command: Display;
    /// What it tells whoever watches.
    type Report: Display;

    /// Starts from what the disk holds.
    fn start(boot: Boot<'_, Self::Settings>) -> (Self, Vec<EffectOf<Self>>);

    /// Takes an event.
    fn step(&mut self, now: Time, event: EventOf<Self>) -> Vec<EffectOf<Self>>;

    /// When [`Event::Alarm`] is due.
    fn wake_at(&self) -> Option<Time>;
}

/// The effects of a process.
pub type EffectOf<P> = Effect<<P as Process>::Message, <P as Process>::Report>;

/// The events of a process.
pub type EventOf<P> = Event<<P as Process>::Message, <P as Process>::Command>;

/// What a process finds when it starts.
#[derive(Debug)]
pub struct Boot<'a, S> {
    /// The node's clock.
    pub now: Time,
    /// This run of the node. No number comes twice.
    pub run: Incarnation,
    /// The settings.
    pub settings: &'a S,
    /// The node's disk.
    pub disk: &'a Disk,
    /// Randomness for this run.
    pub seed: u64,
}

/// What happens to a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event<M, C> {
    /// A message has come.
    Message(NodeId, M),
    /// A message that it sent has not arrived and will not: the node there is down, and refused the connection. Often nobody says so.
    Refused(NodeId, M),
    /// Somebody at the node wants something.
    Command(C),
    /// What was written before this sync was asked for is durable.
    Synced(u64),
    /// It may or may not be.
    SyncFailed(u64),
    /// The time that it wanted to be woken at has come.
    Alarm,
}

/// What a process wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect<M, R> {
    /// Send a message. It may come late, twice, or never.
    Send(NodeId, M),
    /// Write a record under a name, in place of the one before.
    Write(String, Vec<u8>),
    /// Make durable what was written so far: `Synced` or `SyncFailed` with this number.
    Sync(u64),
    /// Tell whoever watches.
    Report(R),
}
