//! A deterministic world: processes, a network, disks, clocks and faults, all from one seed.
//!
//! The state machines of `atoll-protocol` do no I/O, so here they run for thousands of virtual seconds per minute, through loss, delay, copies,
//! reordering, one-way cuts, crashes that lose what was not synced, failed syncs, pauses, and clocks that run apart. The way of
//! simulation testing that FoundationDB made known (Zhou et al., *FoundationDB: A Distributed Unbundled Transactional Key Value Store*, SIGMOD 2021).
//!
//! * [`Process`] is what can live at a node: it starts from its disk, takes events, and asks for effects. [`timestamp`] is one.
//! * [`World`] runs processes, one event at a time. [`Faults`] say what goes wrong and how often; [`World::heal`] ends that.
//! * [`history`] holds the checks of what clients saw.
//! * [`explore`] runs a test over seeds: those that failed once, then fresh ones until time is up. A failing seed is printed with the command
//!   that replays it and tells what happens. With [`Rng`] it also serves the tests of `atoll-protocol`, which have small worlds of their own.
//!
//! Invariant: a run depends on its seed alone. Nothing here reads a clock or draws a random number but from the world's generator, and nothing
//! iterates over a container without an order. (Only [`explore`] looks at the clock, to know when to stop, and draws the first of its seeds.)

mod clock;
mod disk;
mod faults;
pub mod history;
mod moment;
mod network;
mod process;
mod rng;
mod seeds;
pub mod timestamp;
mod world;

pub use disk::Disk;
pub use faults::{Faults, Often};
pub use moment::Moment;
pub use network::Weather;
pub use process::{Boot, Effect, EffectOf, Event, EventOf, Process};
pub use rng::Rng;
pub use seeds::{Campaign, Explored, Run, Trace, explore};
pub use world::{Counts, News, World};
