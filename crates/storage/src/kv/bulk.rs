//! Large loads: sorted writes of new keys go straight into tables of the tree, past journal and memtable, which about halves
//! their cost.
//!
//! A table becomes visible to the tree per site, so a load over several sites takes a protocol to be atomic:
//!
//! 1. A note of the load (its timestamp; per site its first and last key) is written to the journal and synced.
//! 2. The tables are written, synced and added to each site's tree, ranges of keys side by side. No snapshot is published meanwhile,
//!    so nobody sees them.
//! 3. One batch removes the note, carries all other writes of the transaction, and is synced: **this is the commit**.
//!
//! After a crash before 3 the note is still there, and opening the store deletes what has the load's timestamp in the noted ranges
//! ([`recover`], idempotent). Deleting undoes exactly the load, because it put only keys of which no committed version existed
//! ([`Part::fresh`]), under locks or in hidden keys that nobody else could put meanwhile.

use super::commit::stamped;
use super::sorted::Entry;
use super::store::{Shared, keyspace_name};
use super::writes::{Part, WriteSet};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Slice};
use parking_lot::Mutex;
use std::panic::resume_unwind;
use std::thread;

/// Deletes in one batch of an undo.
const UNDO_CHUNK: usize = 10_000;

const NOTE: &[u8] = b"bulk:";

/// Whether a part goes into tables of its own.
pub(crate) fn is_large_part(shared: &Shared, part: &Part) -> bool {
    part.fresh && part.map.len() >= shared.options.bulk_keys
}

/// Whether a transaction has such a part.
pub(crate) fn is_large(shared: &Shared, writes: &WriteSet) -> bool {
    writes.parts().iter().any(|part| is_large_part(shared, part))
}

/// The large parts of a round.
pub(crate) struct Large<'a> {
    parts: Vec<(u64, &'a Part)>,
    notes: Vec<Vec<u8>>,
}

/// Collects a round's large parts and adds the notes of them to a batch.
pub(crate) fn begin<'a>(
    shared: &Shared,
    round: impl Iterator<Item = (u64, &'a WriteSet)>,
    batch: &mut OwnedWriteBatch,
) -> Large<'a> {
    let mut large = Large { parts: Vec::new(), notes: Vec::new() };
    for (timestamp, writes) in round {
        for part in writes.parts().iter().filter(|part| is_large_part(shared, part)) {
            let (Some(first), Some(last)) = (part.map.first_key(), part.map.last_key()) else {
                continue;
            };
            let key = [NOTE, &timestamp.to_be_bytes(), part.space.name.as_bytes()].concat();
            let first_length = (first.len() as u16).to_le_bytes();
            batch.insert(&shared.own, key.clone(), [&first_length, first, last].concat());
            large.notes.push(key);
            large.parts.push((timestamp, part));
        }
    }
    large
}

/// Writes the tables, with so many threads at a time, each a range of a part's keys.
pub(crate) fn ingest(large: &Large<'_>, threads: usize) -> fjall::Result<()> {
    let ranges = threads.div_ceil(large.parts.len().max(1));
    let tables = large
        .parts
        .iter()
        .flat_map(|(timestamp, part)| part.map.parts(ranges).map(move |entries| (*timestamp, part, entries)));
    let tables = Mutex::new(tables);
    let next = || tables.lock().next();
    thread::scope(|scope| {
        let work = || -> fjall::Result<()> {
            while let Some((timestamp, part, entries)) = next() {
                write_table(timestamp, part, entries)?;
            }
            Ok(())
        };
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        // A panic of theirs goes on here, and ends like one of the committer's own.
        others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic))).fold(own, Result::and)
    })
}

fn write_table<'a>(timestamp: u64, part: &Part, entries: impl Iterator<Item = Entry<'a>>) -> fjall::Result<()> {
    let mut table = part.space.keyspace.start_ingestion()?;
    let mut scratch = Vec::new();
    // A part whose writes are all fresh holds no deletes of committed keys; own inserts that were deleted again are not there.
    for (key, payload) in entries {
        if let Some(payload) = payload {
            table.write(key, stamped(timestamp, payload, &mut scratch))?;
        }
    }
    table.finish()
}

/// Adds the removal of the notes to the batch that commits the round.
pub(crate) fn end(shared: &Shared, large: &Large<'_>, batch: &mut OwnedWriteBatch) {
    for note in &large.notes {
        batch.remove(&shared.own, note.clone());
    }
}

/// Undoes the loads that a crash interrupted.
pub(crate) fn recover(db: &Database, own: &Keyspace) -> fjall::Result<()> {
    let notes = own.prefix(NOTE).map(fjall::Guard::into_inner).collect::<fjall::Result<Vec<_>>>()?;
    for (key, value) in notes {
        if let Some((timestamp, name, first, last)) = parse(&key, &value) {
            tracing::warn!(site = name, "undoing a load that was interrupted by a crash");
            let keyspace = db.keyspace(&keyspace_name(name), KeyspaceCreateOptions::default)?;
            undo(db, &keyspace, timestamp, first, last)?;
        }
        let mut batch = OwnedWriteBatch::with_capacity(db.clone(), 1).durability(Some(PersistMode::SyncAll));
        batch.remove(own, key);
        batch.commit()?;
    }
    Ok(())
}

fn parse<'a>(key: &'a [u8], value: &'a [u8]) -> Option<(u64, &'a str, &'a [u8], &'a [u8])> {
    let (timestamp, name) = key.get(NOTE.len()..)?.split_at_checked(8)?;
    let (length, keys) = value.split_at_checked(2)?;
    let (first, last) = keys.split_at_checked(usize::from(u16::from_le_bytes(length.try_into().ok()?)))?;
    Some((u64::from_be_bytes(timestamp.try_into().ok()?), std::str::from_utf8(name).ok()?, first, last))
}

fn undo(db: &Database, keyspace: &Keyspace, timestamp: u64, first: &[u8], last: &[u8]) -> fjall::Result<()> {
    if first > last {
        return Ok(());
    }
    let mut doomed: Vec<Slice> = Vec::new();
    let remove = |doomed: &mut Vec<Slice>| -> fjall::Result<()> {
        let mut batch = OwnedWriteBatch::with_capacity(db.clone(), doomed.len()).durability(Some(PersistMode::SyncAll));
        for key in doomed.drain(..) {
            batch.remove(keyspace, key);
        }
        batch.commit()
    };
    for entry in keyspace.range(first..=last) {
        let (key, value) = entry.into_inner()?;
        if value.get(..8) == Some(&timestamp.to_le_bytes()) {
            doomed.push(key);
        }
        if doomed.len() >= UNDO_CHUNK {
            remove(&mut doomed)?;
        }
    }
    remove(&mut doomed)
}
