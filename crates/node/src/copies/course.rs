//! How far a copy is that is being built: a state machine whose state is kept, so that it goes on after a crash.
//!
//! Invariants: all keys up to `after` are the same at the copy as at the serving ones (in the pass that copies), or were seen to be (in the
//! one that verifies); what is kept may lag behind, which costs comparing some rows again, and is never ahead. A course belongs to one
//! attempt at building the copy: `since` is the catalog's version of its beginning.

use super::compare::Key;
use atoll_model::CatalogVersion;
use serde::{Deserialize, Serialize};

/// The version of its stored form.
pub(crate) const FORMAT: u32 = 1;

/// Rows of a chunk at most.
pub(crate) const MOST_ROWS: usize = 500;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pass {
    /// Rows are made the same.
    Copy,
    /// It is seen to that they are.
    Verify,
    /// They are: the copy may serve.
    Done,
}

/// The state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Course {
    pub(crate) since: CatalogVersion,
    pub(crate) pass: Pass,
    /// The last key that is done.
    pub(crate) after: Option<Key>,
    /// Rows compared in this pass.
    pub(crate) rows: u64,
    /// Rows written in all.
    pub(crate) written: u64,
    /// Microseconds since 1970.
    pub(crate) began: i64,
}

/// What a chunk has come to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress {
    /// The last key that is done now; `None`: nothing is left.
    pub(crate) end: Option<Key>,
    pub(crate) rows: u64,
    pub(crate) written: u64,
}

impl Course {
    /// The beginning.
    pub(crate) fn new(since: CatalogVersion, now: i64) -> Self {
        Course { since, pass: Pass::Copy, after: None, rows: 0, written: 0, began: now }
    }

    /// A chunk is committed.
    pub(crate) fn advance(&mut self, progress: Progress) {
        self.rows += progress.rows;
        self.written += progress.written;
        self.after = progress.end;
        if self.after.is_none() {
            self.pass = match self.pass {
                Pass::Copy => Pass::Verify,
                Pass::Verify | Pass::Done => Pass::Done,
            };
            if self.pass == Pass::Verify {
                self.rows = 0;
            }
        }
    }
}

/// How many rows the next chunk has, so that nobody waits long for it, nor it for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    rows: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { rows: MOST_ROWS }
    }
}

impl Pace {
    pub(crate) fn rows(self) -> usize {
        self.rows
    }

    /// Whether the next chunk is a single row, which may be waited for: who holds one row and waits for no other at the same
    /// site cannot be part of a deadlock there.
    pub(crate) fn waits(self) -> bool {
        self.rows == 1
    }

    /// A chunk went through.
    pub(crate) fn faster(&mut self) {
        self.rows = (self.rows * 2).min(MOST_ROWS);
    }

    /// Somebody else has a lock on the next row.
    pub(crate) fn single(&mut self) {
        self.rows = 1;
    }

    /// A chunk failed in a way that may pass.
    pub(crate) fn slower(&mut self) {
        self.rows = (self.rows / 4).max(1);
    }
}
