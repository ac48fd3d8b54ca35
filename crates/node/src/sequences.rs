//! Sequences: positions leased durably ahead of use.
//!
//! Invariant: a value is handed out only when a position beyond it is on disk, so no value is given twice, whatever crashes; a crash
//! leaves a gap of at most one lease, as in PostgreSQL. A sequence whose CREATE is not committed yet needs no lease: if it is lost,
//! so are its values; its position is written with that commit.

use crate::persist;
use atoll_model::{Error, ErrorKind, RelationId, Result, Sequence};
use atoll_ports::site::Branch;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Mutex;

const FORMAT: u32 = 1;
/// Values leased at first, and at most; a lease doubles while it is used up.
const FIRST_LEASE: u64 = 32;
const LAST_LEASE: u64 = 4096;

/// What is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Position {
    /// The next value; `None`: exhausted.
    next: Option<i64>,
    /// The last that was given.
    last: Option<i64>,
}

struct Counter {
    position: Position,
    /// Values from `position.next` on that may be given without writing.
    leased: u64,
    lease: u64,
    /// Its CREATE is committed.
    durable: bool,
}

/// A sequence with its counter, which is held while values are taken.
type Counted = (Arc<Sequence>, Arc<Mutex<Counter>>);

/// The counters that have been used since the start.
#[derive(Default)]
pub(crate) struct Sequences {
    counters: RwLock<HashMap<RelationId, Counted>>,
}

/// Where positions are written: a fresh branch at the node's home for each write.
#[async_trait::async_trait]
pub(crate) trait Journal: Send + Sync {
    async fn open(&self) -> Result<Arc<dyn Branch>>;
}

impl Sequences {
    /// Makes a sequence known that a transaction has created and not yet committed.
    pub(crate) fn created(&self, sequence: &Arc<Sequence>) {
        let position = Position { next: Some(sequence.start), last: None };
        let counter = Counter { position, leased: 0, lease: FIRST_LEASE, durable: false };
        self.counters.write().insert(sequence.id, (sequence.clone(), Arc::new(Mutex::new(counter))));
    }

    /// Writes the position of a created sequence into the branch that commits its creation.
    pub(crate) async fn write_created(&self, sequence: &Arc<Sequence>, branch: &dyn Branch) -> Result<()> {
        let found = self.counters.read().get(&sequence.id).map(|(_, c)| c.clone());
        let position = match found {
            Some(counter) => {
                let mut counter = counter.lock().await;
                // The first lease comes with the creation; what is left of it is given back at an orderly end.
                counter.leased = FIRST_LEASE;
                Position { next: ahead(sequence, counter.position.next, FIRST_LEASE), ..counter.position }
            }
            None => Position { next: Some(sequence.start), last: None },
        };
        persist::write(branch, &persist::sequence(sequence.id), FORMAT, &position)
    }

    /// The creation of a sequence is committed.
    pub(crate) async fn committed(&self, sequence: RelationId) {
        // The next use reads the position that was written, unless nothing was given: then it begins where it shall.
        let found = self.counters.read().get(&sequence).map(|(_, c)| c.clone());
        if let Some(counter) = found {
            counter.lock().await.durable = true;
        }
    }

    /// Drops what is known of a sequence.
    pub(crate) fn forget(&self, sequence: RelationId) {
        self.counters.write().remove(&sequence);
    }

    /// The definition of a sequence that is created but not committed.
    pub(crate) fn definition(&self, sequence: RelationId) -> Option<Arc<Sequence>> {
        self.counters.read().get(&sequence).map(|(s, _)| s.clone())
    }

    async fn counter(&self, sequence: &Arc<Sequence>, journal: &dyn Journal) -> Result<Arc<Mutex<Counter>>> {
        if let Some((_, counter)) = self.counters.read().get(&sequence.id) {
            return Ok(counter.clone());
        }
        let branch = journal.open().await?;
        let stored: Option<Position> = persist::read(&*branch, "sequence", &persist::sequence(sequence.id), FORMAT)?;
        branch.rollback();
        let position = stored.unwrap_or(Position { next: Some(sequence.start), last: None });
        let counter = Counter { position, leased: 0, lease: FIRST_LEASE, durable: true };
        let mut counters = self.counters.write();
        Ok(counters.entry(sequence.id).or_insert_with(|| (sequence.clone(), Arc::new(Mutex::new(counter)))).1.clone())
    }

    /// The next values, as the first of them.
    pub(crate) async fn next(&self, sequence: &Arc<Sequence>, count: u32, journal: &dyn Journal) -> Result<i64> {
        let counter = self.counter(sequence, journal).await?;
        let mut counter = counter.lock().await;
        let count = u64::from(count.max(1));
        let exhausted = || {
            let (limit, value) =
                if sequence.increment > 0 { ("maximum", sequence.max) } else { ("minimum", sequence.min) };
            Error::new(
                ErrorKind::SequenceExhausted,
                format!("nextval: reached {limit} value of sequence \"{}\" ({value})", sequence.name),
            )
        };
        let restart = if sequence.increment > 0 { sequence.min } else { sequence.max };
        let mut first = match counter.position.next {
            Some(next) => next,
            None if sequence.cycle => restart,
            None => return Err(exhausted()),
        };
        if steps(sequence, first) + 1 < count {
            // The values must be evenly spaced: those before the end are skipped when it cycles.
            if !sequence.cycle || steps(sequence, restart) + 1 < count {
                return Err(exhausted());
            }
            first = restart;
        }
        if counter.position.next != Some(first) {
            counter.position.next = Some(first);
            counter.leased = 0;
        }
        if counter.durable && counter.leased < count {
            let lease = count.max(counter.lease);
            let ahead =
                Position { next: ahead(sequence, Some(first), lease), last: Some(last_of(sequence, first, lease)) };
            write(sequence.id, &ahead, journal).await?;
            counter.leased = lease;
            counter.lease = (counter.lease * 2).min(LAST_LEASE);
        }
        counter.leased = counter.leased.saturating_sub(count);
        counter.position =
            Position { next: ahead(sequence, Some(first), count), last: Some(last_of(sequence, first, count)) };
        Ok(first)
    }

    /// `setval`
    pub(crate) async fn set(
        &self,
        sequence: &Arc<Sequence>,
        value: i64,
        called: bool,
        journal: &dyn Journal,
    ) -> Result<()> {
        if value < sequence.min || value > sequence.max {
            return Err(Error::new(
                ErrorKind::NumericOutOfRange,
                format!(
                    "setval: value {value} is out of bounds for sequence \"{}\" ({}..{})",
                    sequence.name, sequence.min, sequence.max
                ),
            ));
        }
        let counter = self.counter(sequence, journal).await?;
        let mut counter = counter.lock().await;
        let position = if called {
            Position { next: ahead(sequence, Some(value), 1), last: Some(value) }
        } else {
            Position { next: Some(value), last: None }
        };
        if counter.durable {
            write(sequence.id, &position, journal).await?;
        }
        counter.position = position;
        counter.leased = 0;
        Ok(())
    }

    /// The last value given, or the first that will be.
    pub(crate) async fn position(&self, sequence: &Arc<Sequence>, journal: &dyn Journal) -> Result<(i64, bool)> {
        let counter = self.counter(sequence, journal).await?;
        let position = counter.lock().await.position;
        Ok(match position.last {
            Some(last) => (last, true),
            None => (position.next.unwrap_or(sequence.start), false),
        })
    }

    /// Writes exact positions, so that an orderly stop leaves no gaps.
    pub(crate) async fn give_back(&self, journal: &dyn Journal) -> Result<()> {
        let counters: Vec<_> = self.counters.read().values().cloned().collect();
        let branch = journal.open().await?;
        for (sequence, counter) in counters {
            let mut counter = counter.lock().await;
            if counter.durable && counter.leased > 0 {
                persist::write(&*branch, &persist::sequence(sequence.id), FORMAT, &counter.position)?;
                counter.leased = 0;
            }
        }
        branch.commit().await.map(|_| ())
    }
}

async fn write(id: RelationId, position: &Position, journal: &dyn Journal) -> Result<()> {
    let branch = journal.open().await?;
    persist::write(&*branch, &persist::sequence(id), FORMAT, position)?;
    branch.commit().await.map(|_| ())
}

/// How many steps can be made from a value before the end.
fn steps(sequence: &Sequence, from: i64) -> u64 {
    let room = if sequence.increment > 0 {
        i128::from(sequence.max) - i128::from(from)
    } else {
        i128::from(from) - i128::from(sequence.min)
    };
    // A room is at most 2^64 - 1.
    u64::try_from(room.max(0) / i128::from(sequence.increment.unsigned_abs())).unwrap_or(u64::MAX)
}

/// The value `count` steps on; `None`: past the end.
fn ahead(sequence: &Sequence, from: Option<i64>, count: u64) -> Option<i64> {
    let from = from?;
    (steps(sequence, from) >= count)
        .then(|| (i128::from(from) + i128::from(sequence.increment) * i128::from(count)) as i64)
}

/// The last of `count` values, or the last there is.
fn last_of(sequence: &Sequence, first: i64, count: u64) -> i64 {
    let count = steps(sequence, first).min(count.saturating_sub(1));
    (i128::from(first) + i128::from(sequence.increment) * i128::from(count)) as i64
}
