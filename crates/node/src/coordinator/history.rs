//! The last transactions over several participants that have ended, for `atoll.transactions_log`.
//!
//! A commit's entry is stored in the write that deletes its decision, so a crash loses neither: what is not in the history yet is still in the
//! decision log. A rollback's entry is stored soon after it, which a crash may prevent: of a transaction that is presumed aborted nothing is recorded.
//!
//! Invariant: never more than [`KEPT`] entries, in memory and in the store.

use crate::persist;
use atoll_model::{ParticipantId, Result};
use atoll_ports::site::Branch;
use atoll_protocol::TransactionId;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

const FORMAT: u32 = 1;

/// How many are remembered.
const KEPT: usize = 1000;

/// A transaction that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) transaction: TransactionId,
    pub(crate) committed: bool,
    pub(crate) participants: Vec<ParticipantId>,
    /// Microseconds since 1970 at which its commit began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) began: Option<i64>,
    /// Microseconds since 1970.
    pub(crate) ended: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

impl Entry {
    fn key(&self) -> Vec<u8> {
        [persist::HISTORY, format!("{:020}/{}", self.ended.max(0), self.transaction).as_bytes()].concat()
    }
}

/// Microseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The entries, the oldest first, and which of them the store has.
#[derive(Default)]
pub(crate) struct History {
    entries: VecDeque<Entry>,
    /// So many at the front are stored.
    stored: usize,
    /// Keys of entries that are stored and not kept any more.
    stale: Vec<Vec<u8>>,
}

/// What a write is to change.
pub(super) struct Changes {
    new: Vec<Entry>,
    stale: Vec<Vec<u8>>,
}

impl History {
    /// What earlier runs have stored.
    pub(crate) fn read(branch: &dyn Branch) -> Result<Self> {
        let entries: VecDeque<Entry> = persist::list(branch, "ended transaction", persist::HISTORY, FORMAT)?.into();
        let mut history = History { stored: entries.len(), entries, stale: vec![] };
        history.trim();
        Ok(history)
    }

    pub(super) fn add(&mut self, entry: Entry) {
        self.entries.push_back(entry);
        self.trim();
    }

    fn trim(&mut self) {
        while self.entries.len() > KEPT
            && let Some(oldest) = self.entries.pop_front()
        {
            if self.stored > 0 {
                self.stored -= 1;
                self.stale.push(oldest.key());
            }
        }
    }

    /// The entries, the newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().rev()
    }

    /// What the store does not know yet; it is taken to know it from now on.
    pub(super) fn take_changes(&mut self) -> Changes {
        let new = self.entries.range(self.stored..).cloned().collect();
        self.stored = self.entries.len();
        Changes { new, stale: std::mem::take(&mut self.stale) }
    }

    /// The store does not know it after all.
    pub(super) fn give_back(&mut self, changes: Changes) {
        // Writing an entry twice does no harm, nor does deleting one that is not there.
        self.stored = self.stored.saturating_sub(changes.new.len());
        self.stale.extend(changes.stale);
    }
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.new.is_empty() && self.stale.is_empty()
    }

    pub(super) fn write(&self, branch: &dyn Branch) -> Result<()> {
        for key in &self.stale {
            persist::remove(branch, key)?;
        }
        self.new.iter().try_for_each(|entry| persist::write(branch, &entry.key(), FORMAT, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_model::{ClusterId, NodeId};
    use atoll_protocol::Incarnation;

    fn entry(sequence: u64) -> Entry {
        let coordinator = Incarnation { node: NodeId(1), epoch: 1 };
        let transaction = TransactionId { cluster: ClusterId(1), coordinator, sequence };
        Entry { transaction, committed: true, participants: vec![], began: None, ended: sequence as i64, reason: None }
    }

    #[test]
    fn what_is_not_kept_leaves_the_store() {
        let mut history = History::default();
        (0..10).for_each(|n| history.add(entry(n)));
        let first = history.take_changes();
        assert_eq!((first.new.len(), first.stale.len()), (10, 0));
        assert!(history.take_changes().is_empty());
        // More than are kept: five of those that were stored go, and nothing of the others.
        (10..10 + KEPT as u64 - 5).for_each(|n| history.add(entry(n)));
        let second = history.take_changes();
        assert_eq!((second.new.len(), second.stale.len()), (KEPT - 5, 5));
        history.give_back(second);
        let again = history.take_changes();
        assert_eq!((again.new.len(), again.stale.len()), (KEPT - 5, 5));
        assert_eq!(history.newest().map(|e| e.ended).next(), Some(KEPT as i64 + 4));
        (0..3 * KEPT as u64).for_each(|n| history.add(entry(n + 100_000)));
        let third = history.take_changes();
        assert_eq!((third.new.len(), third.stale.len()), (KEPT, KEPT));
    }
}
