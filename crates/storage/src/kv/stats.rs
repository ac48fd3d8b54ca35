//! Approximate sizes of fragments, for the optimizer.
//!
//! Invariants: counts follow commits exactly while the process lives; a crash loses what was committed since they were last saved
//! (with the clock's lease, about a second), never more. `modifications` is the timestamp of the last commit that wrote to the
//! fragment and starts at the time of opening, so it grows with every such commit and no value is ever used twice. It is set
//! *before* the commit is published: who takes a snapshot first and then finds `modifications` not above the snapshot's timestamp
//! knows that the snapshot shows the fragment exactly as that commit left it.

use parking_lot::RwLock;
use std::collections::HashMap;

/// A change of a fragment's size.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Delta {
    pub(crate) rows: i64,
    pub(crate) bytes: i64,
}

/// Changes by (site's index, fragment).
pub(crate) type Deltas = HashMap<(u32, u32), Delta>;

/// Approximate size of one fragment's copy at one site.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct FragmentSize {
    /// Rows.
    pub rows: u64,
    /// Bytes of rows.
    pub bytes: u64,
    /// Timestamp of the last commit that wrote to it; ask *after* taking a snapshot.
    pub modifications: u64,
}

/// The sizes of all fragments of a store.
#[derive(Default)]
pub(crate) struct Sizes {
    by_fragment: RwLock<HashMap<(u32, u32), (FragmentSize, bool)>>,
}

impl Sizes {
    pub(crate) fn get(&self, space: u32, fragment: u32) -> FragmentSize {
        self.by_fragment.read().get(&(space, fragment)).map(|(size, _)| *size).unwrap_or_default()
    }

    /// Takes over a saved size at opening.
    pub(crate) fn load(&self, space: u32, fragment: u32, size: FragmentSize) {
        self.by_fragment.write().insert((space, fragment), (size, false));
    }

    pub(crate) fn apply(&self, deltas: &Deltas, timestamp: u64) {
        if deltas.is_empty() {
            return;
        }
        let mut map = self.by_fragment.write();
        for (at, delta) in deltas {
            let (size, dirty) = map.entry(*at).or_default();
            size.rows = size.rows.saturating_add_signed(delta.rows);
            size.bytes = size.bytes.saturating_add_signed(delta.bytes);
            size.modifications = timestamp;
            *dirty = true;
        }
    }

    /// Sets a fragment to empty, after a purge.
    pub(crate) fn reset(&self, space: u32, fragment: u32, timestamp: u64) {
        self.by_fragment
            .write()
            .insert((space, fragment), (FragmentSize { modifications: timestamp, ..FragmentSize::default() }, true));
    }

    /// What has changed since the last call, to be saved.
    pub(crate) fn take_dirty(&self) -> Vec<((u32, u32), FragmentSize)> {
        let mut map = self.by_fragment.write();
        map.iter_mut()
            .filter(|(_, (_, dirty))| *dirty)
            .map(|(at, (size, dirty))| {
                *dirty = false;
                (*at, *size)
            })
            .collect()
    }
}
