//! The transactions that are open: for views, and for knowing when nobody can need what DDL has left behind.

use crate::transaction::Txn;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

const SHARDS: usize = 16;

/// Open transactions by number. Numbers are given in the order of beginning.
pub(crate) struct Active {
    next: AtomicU64,
    shards: [Mutex<HashMap<u64, Weak<Txn>>>; SHARDS],
}

impl Active {
    pub(crate) fn new() -> Self {
        Active { next: AtomicU64::new(1), shards: Default::default() }
    }

    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, Weak<Txn>>> {
        &self.shards[id as usize % SHARDS]
    }

    /// Registers a transaction. It is registered before `make` looks at the catalog: whoever finds, after publishing a catalog, no
    /// older transaction registered may rely on every later one seeing that catalog.
    pub(crate) fn begin(&self, make: impl FnOnce(u64) -> Arc<Txn>) -> Arc<Txn> {
        let id = self.next.fetch_add(1, Ordering::SeqCst);
        self.shard(id).lock().insert(id, Weak::new());
        let txn = make(id);
        self.shard(id).lock().insert(id, Arc::downgrade(&txn));
        txn
    }

    pub(crate) fn end(&self, id: u64) {
        self.shard(id).lock().remove(&id);
    }

    /// A number above those of all transactions that have begun.
    pub(crate) fn boundary(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// The oldest open transaction's number.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.shards.iter().filter_map(|s| s.lock().keys().min().copied()).min()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Txn>> {
        let mut all: Vec<_> =
            self.shards.iter().flat_map(|s| s.lock().values().filter_map(Weak::upgrade).collect::<Vec<_>>()).collect();
        all.sort_by_key(|t| t.number());
        all
    }
}
