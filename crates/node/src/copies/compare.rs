//! What it takes to make one copy of a fragment what another is: no I/O, so that it can be tested by hand.
//!
//! A fragment is gone through in *chunks* of its key's order. Of both copies a run of rows is read, each as its site shows it at that moment;
//! [`compare`] cuts the runs where both are known and tells the keys at which they differ. Whoever writes the rows then locks these keys at
//! the copy that serves, and decides anew by what is there ([`change`]).
//!
//! Why keys that are equal need no lock: every transaction that writes a row since the copy was begun writes it at both copies, atomically.
//! If one has, the row is the same at both for good; if none has, the row at the serving copy has not changed, and what was read of it is
//! what it is.
//!
//! Invariant: a chunk ends at a key up to which both runs are complete, so that "not in the run" means "not in the copy".

use crate::rows::compare_keys;
use atoll_model::{Error, Result, Row, Table, Value};
use atoll_ports::site::RowChange;
use std::cmp::Ordering;

/// A key: values of [`Table::key`].
pub(crate) type Key = Vec<Value>;

/// Rows of a copy in the key's order, from some place on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) rows: Vec<Row>,
    /// Nothing follows.
    pub(crate) whole: bool,
}

/// What comparing two runs tells.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chunk {
    /// Keys at which the copies differ, in order.
    pub(crate) differing: Vec<Key>,
    /// The last key that was compared; `None`: everything was.
    pub(crate) end: Option<Key>,
    /// Rows of the serving copy that were compared.
    pub(crate) rows: u64,
}

/// Compares two runs from the same place on.
pub(crate) fn compare(table: &Table, serving: &Run, building: &Run) -> Result<Chunk> {
    let (left, right) = (keyed(table, serving)?, keyed(table, building)?);
    let end = match (last(&left, serving), last(&right, building)) {
        (Some(a), Some(b)) => Some(if compare_keys(a, b) == Ordering::Greater { b } else { a }),
        (a, b) => a.or(b),
    };
    let within = |key: &Key| end.is_none_or(|end| compare_keys(key, end) != Ordering::Greater);
    let mut left = left.iter().filter(|(key, _)| within(key)).peekable();
    let mut right = right.iter().filter(|(key, _)| within(key)).peekable();
    let (mut differing, mut rows) = (vec![], 0);
    loop {
        let side = match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => compare_keys(a, b),
        };
        let ours = if side == Ordering::Greater { None } else { left.next() };
        let theirs = if side == Ordering::Less { None } else { right.next() };
        rows += u64::from(ours.is_some());
        match (ours, theirs) {
            (Some((_, a)), Some((_, b))) if same(a, b) => {}
            (Some((key, _)), _) | (None, Some((key, _))) => differing.push(key.clone()),
            (None, None) => {}
        }
    }
    Ok(Chunk { differing, end: end.cloned(), rows })
}

fn keyed<'a>(table: &Table, run: &'a Run) -> Result<Vec<(Key, &'a Row)>> {
    let rows: Vec<(Key, &Row)> = run.rows.iter().map(|row| (table.key_of(row), row)).collect();
    let ascends = rows.is_sorted_by(|(a, _), (b, _)| compare_keys(a, b) == Ordering::Less);
    if ascends {
        Ok(rows)
    } else {
        Err(Error::internal(format!("a site gave rows of \"{}\" out of order", table.name)))
    }
}

/// The key up to which a run tells what is there; `None`: it tells all.
fn last<'a>(rows: &'a [(Key, &Row)], run: &Run) -> Option<&'a Key> {
    if run.whole { None } else { rows.last().map(|(key, _)| key) }
}

/// Whether two rows, or keys, are the same.
pub(crate) fn same(a: &[Value], b: &[Value]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.matches(b))
}

/// What makes a row what it should be.
pub(crate) fn change(there: Option<Row>, wanted: Option<Row>) -> Option<RowChange> {
    match (there, wanted) {
        (None, None) => None,
        (None, Some(new)) => Some(RowChange::Insert(new)),
        (Some(old), None) => Some(RowChange::Delete(old)),
        (Some(old), Some(new)) => (!same(&old, &new)).then_some(RowChange::Update { old, new }),
    }
}

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    pub(crate) key: Key,
    /// The row that has it in the end.
    pub(crate) row: Option<Row>,
}

/// What changes, applied in order, make of the keys that they touch.
pub(crate) fn images(table: &Table, changes: Vec<RowChange>) -> Vec<Image> {
    // All old rows go before new ones come, so a key that was given up may be taken in the same call.
    let (mut gone, mut come) = (vec![], vec![]);
    for change in changes {
        match change {
            RowChange::Insert(new) => come.push(new),
            RowChange::Delete(old) => gone.push(table.key_of(&old)),
            RowChange::Update { old, new } => {
                gone.push(table.key_of(&old));
                come.push(new);
            }
        }
    }
    let mut images: Vec<Image> =
        come.into_iter().map(|row| Image { key: table.key_of(&row), row: Some(row) }).collect();
    images.extend(gone.into_iter().map(|key| Image { key, row: None }));
    // Stable: of one key, the row that came is first.
    images.sort_by(|a, b| compare_keys(&a.key, &b.key));
    images.dedup_by(|later, first| same(&later.key, &first.key));
    images
}

#[cfg(test)]
mod tests;
