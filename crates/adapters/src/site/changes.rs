//! Changes of rows, sorted into few statements: deletions first, then updates, then insertions, as the port has it.
//!
//! A server checks a unique index after each row, Atoll after each call: two rows may exchange their values. So updates that change unique
//! values, when there are several, are a deletion of all the old rows and an insertion of the new ones.

use super::orders;
use atoll_model::{Error, ErrorKind, Result, Row, Table, Value};
use atoll_ports::site::RowChange;

/// Changes by what they are.
pub(super) struct Sorted<'a> {
    pub(super) deletes: Vec<&'a Row>,
    pub(super) updates: Vec<(&'a Row, &'a Row)>,
    pub(super) inserts: Vec<&'a Row>,
    unique: Vec<usize>,
}

impl<'a> Sorted<'a> {
    /// Sorts changes of a table.
    pub(super) fn of(table: &Table, changes: &'a [RowChange]) -> Result<Self> {
        let unique = orders::unique_positions(table)?;
        let mut sorted = Sorted { deletes: vec![], updates: vec![], inserts: vec![], unique };
        for change in changes {
            match change {
                RowChange::Insert(row) => sorted.inserts.push(row),
                RowChange::Update { old, new } => sorted.updates.push((old, new)),
                RowChange::Delete(row) => sorted.deletes.push(row),
            }
        }
        if sorted.updates.iter().filter(|(old, new)| differs(&sorted.unique, old, new)).count() > 1 {
            let updates = std::mem::take(&mut sorted.updates);
            let (moved, kept): (Vec<_>, Vec<_>) =
                updates.into_iter().partition(|(old, new)| differs(&sorted.unique, old, new));
            sorted.updates = kept;
            for (old, new) in moved {
                sorted.deletes.push(old);
                sorted.inserts.push(new);
            }
        }
        Ok(sorted)
    }

    /// Rows that bring values of unique orders.
    pub(super) fn coming(&self) -> Vec<&'a Row> {
        let moved = self.updates.iter().filter(|(old, new)| differs(&self.unique, old, new)).map(|(_, new)| *new);
        self.inserts.iter().copied().chain(moved).collect()
    }
}

fn differs(positions: &[usize], old: &Row, new: &Row) -> bool {
    positions.iter().any(|at| !old[*at].matches(&new[*at]))
}

/// Bytes of a row, about.
pub(super) fn size(row: &Row) -> usize {
    row.iter().map(Value::size).sum()
}

/// What a statement may have at most.
#[derive(Clone, Copy)]
pub(super) struct Chunks {
    pub(super) rows: usize,
    pub(super) bytes: usize,
}

impl Chunks {
    /// Runs of rows that are not too many and not too large together.
    pub(super) fn chunks<T>(self, rows: &[T], size: impl Fn(&T) -> usize) -> Vec<&[T]> {
        let (mut chunks, mut rest) = (vec![], rows);
        while !rest.is_empty() {
            let mut bytes = 0;
            let full = rest.iter().position(|row| {
                bytes += size(row);
                bytes > self.bytes
            });
            let count = full.unwrap_or(rest.len()).clamp(1, self.rows);
            let (chunk, others) = rest.split_at(count.min(rest.len()));
            chunks.push(chunk);
            rest = others;
        }
        chunks
    }
}

/// Whether a statement has touched as many rows as it was given.
///
/// # Errors
/// `SerializationFailure`: the transaction has lost its locks.
pub(super) fn expect(table: &Table, touched: u64, rows: usize) -> Result<()> {
    if touched == rows as u64 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::SerializationFailure,
        format!("{rows} rows of table \"{}\" should have been written, {touched} were there", table.name),
    )
    .hint("Run the transaction again.")
    .table(&table.name))
}
