//! Sequences: values are leased durably ahead of use, so none is given twice whatever crashes, and most calls touch no disk.

use crate::meta;
use crate::node::Node;
use atoll_model::{Error, ErrorKind, RelationId, Result, Sequence};
use atoll_ports::site::BranchOptions;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// Values leased at a time, at least: a crash leaves a gap of at most so many, as in PostgreSQL.
const LEASE: i64 = 32;

/// A sequence's position.
#[derive(Clone, Copy, Debug)]
struct Position {
    /// The next value; `None`: it has run out.
    next: Option<i64>,
    /// The last value given.
    last: Option<i64>,
    /// Values that may be given without writing again.
    leased: i64,
}

/// What is on disk: every value before `next` may have been given.
#[derive(Serialize, Deserialize)]
struct Stored {
    next: Option<i64>,
    last: Option<i64>,
}

/// The sequences that were used since the start.
#[derive(Default)]
pub(crate) struct Sequences {
    positions: tokio::sync::Mutex<HashMap<RelationId, Position>>,
    /// Sequences of transactions that have not committed yet.
    uncommitted: parking_lot::Mutex<HashMap<RelationId, Arc<Sequence>>>,
}

fn key(id: RelationId) -> Vec<u8> {
    format!("sequence/{id}").into_bytes()
}

fn step(sequence: &Sequence, from: i64) -> Option<i64> {
    let next = from.checked_add(sequence.increment).filter(|n| (sequence.min..=sequence.max).contains(n));
    match (next, sequence.cycle) {
        (None, true) => Some(if sequence.increment > 0 { sequence.min } else { sequence.max }),
        (next, _) => next,
    }
}

impl Sequences {
    /// Makes the sequences of an uncommitted catalog known.
    pub(crate) fn announce<'a>(&self, sequences: impl Iterator<Item = (&'a RelationId, &'a Arc<Sequence>)>) {
        self.uncommitted.lock().extend(sequences.map(|(id, s)| (*id, s.clone())));
    }

    fn definition(&self, node: &Node, id: RelationId) -> Result<Arc<Sequence>> {
        let committed = node.current().sequences.get(&id).cloned();
        committed.or_else(|| self.uncommitted.lock().get(&id).cloned()).ok_or_else(|| {
            Error::new(ErrorKind::UndefinedTable, "the sequence does not exist any more")
        })
    }

    fn load(node: &Node, branch: &dyn atoll_ports::site::Branch, sequence: &Sequence) -> Result<Position> {
        let _ = node;
        let stored: Option<Stored> = meta::get(branch, &key(sequence.id))?;
        Ok(match stored {
            Some(Stored { next, last }) => Position { next, last, leased: 0 },
            None => Position { next: Some(sequence.start), last: None, leased: 0 },
        })
    }

    /// The first of `count` fresh values.
    ///
    /// # Errors
    /// `SequenceExhausted`.
    pub(crate) async fn next(&self, node: &Node, id: RelationId, count: u32) -> Result<i64> {
        let sequence = self.definition(node, id)?;
        let mut positions = self.positions.lock().await;
        let count = i64::from(count.max(1));
        let mut position = match positions.get(&id) {
            Some(position) => *position,
            None => {
                let branch = node.local_branch(BranchOptions::default()).await?;
                Self::load(node, branch.as_ref(), &sequence)?
            }
        };
        let exhausted = || {
            let (what, bound) =
                if sequence.increment > 0 { ("maximum", sequence.max) } else { ("minimum", sequence.min) };
            Error::new(
                ErrorKind::SequenceExhausted,
                format!("nextval: reached {what} value of sequence \"{}\" ({bound})", sequence.name),
            )
        };
        let first = position.next.ok_or_else(exhausted)?;
        let last = if count == 1 {
            first
        } else {
            let last = first.checked_add((count - 1).saturating_mul(sequence.increment));
            last.filter(|l| (sequence.min..=sequence.max).contains(l)).ok_or_else(exhausted)?
        };
        position.next = step(&sequence, last);
        position.last = Some(last);
        if position.leased < count {
            let ahead = count.max(LEASE);
            // On disk stands the first value after the lease; where that cannot be told, the exact position.
            let beyond = first
                .checked_add(ahead.saturating_mul(sequence.increment))
                .filter(|b| (sequence.min..=sequence.max).contains(b) && ahead > count);
            let stored = Stored { next: beyond.or(position.next), last: position.last };
            let branch = node.local_branch(BranchOptions::default()).await?;
            meta::put(branch.as_ref(), &key(id), &stored)?;
            branch.commit().await?;
            position.leased = if beyond.is_some() { ahead } else { count };
        }
        position.leased -= count;
        positions.insert(id, position);
        Ok(first)
    }

    /// Sets a position.
    ///
    /// # Errors
    /// `InvalidParameterValue` outside the bounds.
    pub(crate) async fn set(&self, node: &Node, id: RelationId, value: i64, called: bool) -> Result<()> {
        let sequence = self.definition(node, id)?;
        if !(sequence.min..=sequence.max).contains(&value) {
            return Err(Error::new(
                ErrorKind::NumericOutOfRange,
                format!(
                    "setval: value {value} is out of bounds for sequence \"{}\" ({}..{})",
                    sequence.name, sequence.min, sequence.max
                ),
            ));
        }
        let mut positions = self.positions.lock().await;
        let next = if called { step(&sequence, value) } else { Some(value) };
        let position = Position { next, last: called.then_some(value), leased: 0 };
        let branch = node.local_branch(BranchOptions::default()).await?;
        meta::put(branch.as_ref(), &key(id), &Stored { next: position.next, last: position.last })?;
        branch.commit().await?;
        positions.insert(id, position);
        Ok(())
    }

    /// The last value given (or the first to be given), and whether any was.
    ///
    /// # Errors
    /// `UndefinedTable`.
    pub(crate) async fn position(&self, node: &Node, id: RelationId) -> Result<(i64, bool)> {
        let sequence = self.definition(node, id)?;
        let positions = self.positions.lock().await;
        let position = match positions.get(&id) {
            Some(position) => *position,
            None => {
                let branch = node.local_branch(BranchOptions::default()).await?;
                Self::load(node, branch.as_ref(), &sequence)?
            }
        };
        Ok(match position.last {
            Some(last) => (last, true),
            None => (position.next.unwrap_or(sequence.start), false),
        })
    }

    /// Writes exact positions, so that an orderly restart leaves no gaps.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn settle(&self, node: &Node) -> Result<()> {
        let positions = self.positions.lock().await;
        if positions.is_empty() {
            return Ok(());
        }
        let branch = node.local_branch(BranchOptions::default()).await?;
        for (id, position) in positions.iter() {
            meta::put(branch.as_ref(), &key(*id), &Stored { next: position.next, last: position.last })?;
        }
        branch.commit().await.map(|_| ())
    }
}
