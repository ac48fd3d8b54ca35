//! What a transaction has written so far: ordered by key, so that its own scans can merge it over the snapshot.
//!
//! Invariant: after `rollback_to(mark)` the set equals what it was at `savepoint() == mark`. An undo log is kept only while a
//! savepoint exists, so transactions without one pay nothing for it.

use super::sorted::{MAX_PAYLOAD, SortedMap};
use super::stats::Deltas;
use super::store::Space;
use atoll_model::{Error, ErrorKind, Result};
use fjall::Slice;
use std::sync::Arc;

/// The longest key that the tree takes.
pub(crate) const MAX_KEY: usize = u16::MAX as usize;

struct Undo {
    at: usize,
    key: Slice,
    before: Option<Option<Slice>>,
}

impl Undo {
    fn bytes(&self) -> usize {
        size_of::<Undo>() + self.key.len() + self.before.as_ref().and_then(Option::as_ref).map_or(0, |p| p.len())
    }
}

struct Mark {
    undo: usize,
    deltas: Deltas,
}

/// The writes at one site.
pub(crate) struct Part {
    pub(crate) space: Arc<Space>,
    /// Key to new payload; none for a delete.
    pub(crate) map: Arc<SortedMap>,
    /// Every write put a key of which no committed version existed, so deleting the keys undoes them.
    pub(crate) fresh: bool,
}

/// The write set of a transaction.
#[derive(Default)]
pub(crate) struct WriteSet {
    parts: Vec<Part>,
    deltas: Deltas,
    undo: Vec<Undo>,
    undo_bytes: usize,
    marks: Vec<Mark>,
}

impl WriteSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.map.is_empty())
    }

    /// Bytes of memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.undo_bytes + self.parts.iter().map(|part| part.map.bytes()).sum::<usize>()
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub(crate) fn deltas(&self) -> &Deltas {
        &self.deltas
    }

    /// The writes at one site, as of now: later writes do not show in what is returned.
    pub(crate) fn of(&self, space: &Space) -> Option<&Arc<SortedMap>> {
        self.parts.iter().find(|part| part.space.index == space.index).map(|part| &part.map)
    }

    /// What the transaction has done to a key: `None`: nothing; `Some(None)`: deleted it.
    pub(crate) fn get(&self, space: &Space, key: &[u8]) -> Option<Option<&[u8]>> {
        self.of(space)?.get(key)
    }

    /// Sets or deletes a key. `fresh`: no committed version of it exists.
    ///
    /// # Errors
    /// `ProgramLimit` when key or payload is too long, `OutOfMemory` beyond `limit` bytes.
    pub(crate) fn set(
        &mut self,
        space: &Arc<Space>,
        key: &[u8],
        payload: Option<&[u8]>,
        fresh: bool,
        limit: usize,
    ) -> Result<()> {
        check_lengths(key, payload)?;
        if self.bytes() + key.len() + payload.map_or(0, <[u8]>::len) > limit {
            return Err(Error::new(
                ErrorKind::OutOfMemory,
                format!("transaction exceeds the limit of {} MB of uncommitted changes", limit >> 20),
            )
            .hint("Commit more often, or raise storage.transaction_bytes."));
        }
        let at = match self.parts.iter().position(|part| part.space.index == space.index) {
            Some(at) => at,
            None => {
                self.parts.push(Part { space: space.clone(), map: Arc::default(), fresh: true });
                self.parts.len() - 1
            }
        };
        let part = &mut self.parts[at];
        part.fresh &= fresh;
        if !self.marks.is_empty() {
            let before = part.map.get(key).map(|payload| payload.map(Slice::new));
            let undo = Undo { at, key: Slice::new(key), before };
            self.undo_bytes += undo.bytes();
            self.undo.push(undo);
        }
        // A scan that is still open shares the map; it keeps what it saw.
        Arc::make_mut(&mut part.map).set(key, payload);
        Ok(())
    }

    /// Counts a change of a fragment's size.
    pub(crate) fn count(&mut self, space: &Space, fragment: u32, rows: i64, bytes: i64) {
        let delta = self.deltas.entry((space.index, fragment)).or_default();
        delta.rows += rows;
        delta.bytes += bytes;
    }

    /// Marks the present state.
    pub(crate) fn savepoint(&mut self) -> u64 {
        if self.marks.last().is_none_or(|m| m.undo != self.undo.len()) {
            self.marks.push(Mark { undo: self.undo.len(), deltas: self.deltas.clone() });
        }
        self.marks.len() as u64 - 1
    }

    /// Returns to a marked state; the mark stays. A number that `savepoint` never gave changes nothing.
    pub(crate) fn rollback_to(&mut self, mark: u64) {
        let Some(position) = usize::try_from(mark).ok().filter(|m| *m < self.marks.len()) else { return };
        self.marks.truncate(position + 1);
        let Mark { undo, deltas } = &self.marks[position];
        self.deltas = deltas.clone();
        for entry in self.undo.drain(*undo..).rev() {
            self.undo_bytes -= entry.bytes();
            let map = Arc::make_mut(&mut self.parts[entry.at].map);
            match &entry.before {
                Some(before) => map.set(&entry.key, before.as_deref()),
                None => map.remove(&entry.key),
            }
        }
    }
}

fn check_lengths(key: &[u8], payload: Option<&[u8]>) -> Result<()> {
    if key.len() > MAX_KEY || key.is_empty() {
        return Err(Error::new(
            ErrorKind::ProgramLimit,
            format!("key of {} bytes: a key has from 1 to {MAX_KEY} bytes", key.len()),
        ));
    }
    match payload.map(<[u8]>::len).filter(|length| *length > MAX_PAYLOAD) {
        Some(length) => Err(Error::new(
            ErrorKind::ProgramLimit,
            format!("value of {length} bytes: a value has at most {MAX_PAYLOAD} bytes"),
        )),
        None => Ok(()),
    }
}
