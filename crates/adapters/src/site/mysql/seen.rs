//! What a statement in `ReadCommitted` has seen, so that a row that has changed since can be told from one that has not.
//!
//! The server gives no version of a row, so values are compared: a row that is what it was has not changed, whatever happened in between.
//! As long as the transaction only reads, a statement reads in one snapshot, which is kept to its end and asked for the rows that are
//! being locked ([`Seen::view`]). Once it writes, each scan has a snapshot of its own, and what it returned is remembered as
//! one number per key and one per row.
//!
//! Invariant: what is said to be unchanged is what the statement has seen, or it has not seen it at all; what is not known is said to have
//! changed.

use super::link::Link;
use atoll_model::{Row, Value, hash_values};
use std::collections::HashMap;
use std::sync::Arc;

/// Rows remembered of one statement.
const MAX_ROWS: usize = 1_000_000;

/// What a statement has seen.
#[derive(Default)]
pub(super) struct Seen {
    /// It has read something.
    anything: bool,
    /// The snapshot in which it has read.
    view: Option<Arc<Link>>,
    /// It has read rows that are not remembered.
    gaps: bool,
    /// By key: the row, `None` if there was none.
    rows: HashMap<u64, Option<u64>>,
}

/// What is known of a row that was just locked.
pub(super) enum Before {
    /// It was this (as [`number_of`] has it).
    Row(Option<u64>),
    /// The snapshot knows.
    Ask,
    /// The statement has not seen it.
    Unseen,
    /// Nobody knows any more.
    Forgotten,
}

/// The number under which a row is remembered.
pub(super) fn number_of(row: &Row) -> u64 {
    hash_values(&row.iter().collect::<Vec<_>>())
}

/// The number under which a key of a fragment is remembered.
pub(super) fn key_number(fragment: atoll_model::FragmentId, key: &[Value]) -> u64 {
    let fragment = Value::Int8(i64::from(fragment.0));
    hash_values(&std::iter::once(&fragment).chain(key).collect::<Vec<_>>())
}

impl Seen {
    /// It has read in a snapshot, which is kept if it can be.
    pub(super) fn keep_view(&mut self, view: Option<Arc<Link>>) {
        self.anything = true;
        self.gaps |= view.is_none();
        self.view = view;
    }

    /// The snapshot in which it has read.
    pub(super) fn view(&self) -> Option<Arc<Link>> {
        self.view.clone()
    }

    /// It has read a row, or found none.
    pub(super) fn saw(&mut self, key: u64, row: Option<u64>) {
        self.anything = true;
        if self.rows.len() < MAX_ROWS || self.rows.contains_key(&key) {
            self.rows.insert(key, row);
        } else {
            self.gaps = true;
        }
    }

    /// It has made a row what it is, or knows it under its lock.
    pub(super) fn made(&mut self, key: u64, row: Option<u64>) {
        if self.anything {
            self.saw(key, row);
        }
    }

    /// What it has made may be undone.
    pub(super) fn undone(&mut self) {
        self.rows.clear();
        self.view = None;
        self.gaps = self.anything;
    }

    /// What is known of a row.
    pub(super) fn before(&self, key: u64) -> Before {
        match self.rows.get(&key) {
            _ if !self.anything => Before::Unseen,
            Some(row) => Before::Row(*row),
            None if self.view.is_some() => Before::Ask,
            None if self.gaps => Before::Forgotten,
            None => Before::Unseen,
        }
    }
}
