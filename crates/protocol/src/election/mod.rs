//! Who does what only one may do: the cluster's duties (recovery of in-doubt transactions, rebalancing, scheduled work), or leading a replica group.
//!
//! * [`nomination`]: a policy says who *should*, and how each candidate scored. It may be wrong, and nodes may disagree: nothing
//!   unsafe follows.
//! * [`holder`]: a replicated register says who *does*. It gives each holder an epoch, one after the other, and a lease; a
//!   [`Fence`] at everything that a holder changes refuses epochs older than the newest it has seen. An epoch that a fence has not seen
//!   shuts nobody out there, so a holder that begins goes first to every place that it will read or change, and has its epoch admitted.
//!
//! A driver answers [`holder::Effect::Nominate`] with a [`nomination::Nomination`] of the nodes as [`crate::membership`] knows them, and sends each applied
//! change of the register to the machine. When a policy would have another than the sitting holder, or its node is to leave, it
//! tells the holder to hand over. It asks [`holder::Holder::holds`] before each thing that it does as the holder, and
//! sends the epoch along.

pub mod holder;
pub mod nomination;
mod text;

use serde::{Deserialize, Serialize};

/// What keeps the works of earlier holders out, at each place where a holder changes something: stored with what it guards.
///
/// Invariant: the epochs that it admits never fall. It is stored before what it admitted is done, and before its place is read in the name of
/// that epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Fence {
    newest: u64,
}

/// Who holds an older epoch may change nothing here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("epoch {asked} is over: epoch {newest} has begun, and its holder is another")]
pub struct Fenced {
    /// The epoch in whose name something was asked.
    pub asked: u64,
    /// The newest one known.
    pub newest: u64,
}

impl Fence {
    /// Admits what is done in the name of this epoch, and nothing older from then on. A holder asks for this when it begins, wherever it will
    /// read or change something, and then with each change.
    ///
    /// # Errors
    /// A newer epoch is known: nothing may be changed.
    pub fn admit(&mut self, epoch: u64) -> Result<(), Fenced> {
        if epoch < self.newest {
            return Err(Fenced { asked: epoch, newest: self.newest });
        }
        self.newest = epoch;
        Ok(())
    }
}
