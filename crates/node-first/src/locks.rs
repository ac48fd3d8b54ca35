//! Table locks: writers share a table, a change of its definition has it alone.
//!
//! Invariant: a transaction holds at most one lock of a table; it gives it back when it ends.

use atoll_model::{Error, ErrorKind, RelationId, Result};
use atoll_ports::cluster::TableLock;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// The locks of all tables. One entry per table, so bounded by the catalog.
#[derive(Default)]
pub(crate) struct TableLocks(Mutex<HashMap<RelationId, Arc<RwLock<()>>>>);

/// A lock that is held.
pub(crate) enum Held {
    /// Shared with other writers.
    Write(#[allow(dead_code, reason = "held for its Drop")] OwnedRwLockReadGuard<()>),
    /// Alone.
    Exclusive(#[allow(dead_code, reason = "held for its Drop")] OwnedRwLockWriteGuard<()>),
}

impl TableLocks {
    /// Takes a lock, waiting up to `timeout` (zero: for ever).
    ///
    /// # Errors
    /// `LockTimeout`.
    pub(crate) async fn take(&self, table: RelationId, lock: TableLock, timeout: Duration) -> Result<Held> {
        let entry = self.0.lock().entry(table).or_default().clone();
        match lock {
            TableLock::Write => match entry.clone().try_read_owned() {
                Ok(guard) => Ok(Held::Write(guard)),
                Err(_) => within(timeout, async { Held::Write(entry.read_owned().await) }).await,
            },
            TableLock::Exclusive => within(timeout, async { Held::Exclusive(entry.write_owned().await) }).await,
        }
    }

    /// Forgets tables that are gone.
    pub(crate) fn retain(&self, keep: impl Fn(RelationId) -> bool) {
        self.0.lock().retain(|id, lock| keep(*id) || Arc::strong_count(lock) > 1);
    }
}

/// Waits for a lock up to `timeout` (zero: for ever).
///
/// # Errors
/// `LockTimeout`.
pub(crate) async fn within<T>(timeout: Duration, wait: impl Future<Output = T>) -> Result<T> {
    if timeout.is_zero() {
        return Ok(wait.await);
    }
    tokio::time::timeout(timeout, wait).await.map_err(|_| {
        Error::new(ErrorKind::LockTimeout, "canceling statement due to lock timeout")
            .hint("Another transaction changes or writes the table; SET lock_timeout to wait longer.")
    })
}
