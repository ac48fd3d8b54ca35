//! Bound statements that sessions share: the text that one client has prepared need not be bound and optimized for the next.
//!
//! Invariants: an entry holds for one published catalog, one user with one role, and one list of declared parameter types, all of them part of its
//! key; what a transaction's own, uncommitted definitions would change is never shared; a new catalog empties the cache.

use super::bound::{Bound, Kind};
use crate::privileges::Identity;
use atoll_model::{Catalog, SqlType};
use atoll_ports::session::Prepared;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Longest statement that is shared, in bytes: bounds the memory of an entry.
const MAX_TEXT: usize = 16 << 10;

/// What an entry holds for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    catalog: usize,
    who: Identity,
    sql: Arc<str>,
    declared: Vec<Option<SqlType>>,
}

/// Bound statements by text.
pub(crate) struct Plans {
    /// The catalog is kept with the entry: while it lives, no other can have its address.
    entries: moka::sync::Cache<Key, (Arc<Catalog>, Arc<Prepared>)>,
    /// Address of the catalog that the entries are of.
    catalog: AtomicUsize,
}

impl Plans {
    /// A cache of at most so many statements.
    pub(crate) fn new(capacity: usize) -> Self {
        Plans { entries: moka::sync::Cache::new(capacity as u64), catalog: AtomicUsize::new(0) }
    }

    /// The key of a statement; `None`: it is not shared.
    pub(crate) fn key(
        &self,
        catalog: &Arc<Catalog>,
        published: &Arc<Catalog>,
        who: &Identity,
        sql: &Arc<str>,
        declared: &[Option<SqlType>],
    ) -> Option<Key> {
        if !Arc::ptr_eq(catalog, published) || sql.len() > MAX_TEXT {
            return None;
        }
        let address = Arc::as_ptr(catalog) as usize;
        if self.catalog.swap(address, Ordering::Relaxed) != address {
            self.entries.invalidate_all();
        }
        Some(Key { catalog: address, who: who.clone(), sql: sql.clone(), declared: declared.to_vec() })
    }

    /// What was bound.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Prepared>> {
        self.entries.get(key).map(|(_, prepared)| prepared)
    }

    /// Keeps what was bound, if it is of a kind that a planner has worked for.
    pub(crate) fn keep(&self, key: Key, catalog: &Arc<Catalog>, prepared: &Arc<Prepared>) {
        let planned = prepared
            .plan
            .downcast_ref::<Bound>()
            .is_some_and(|bound| matches!(bound.kind, Kind::Query | Kind::Keyed(_) | Kind::Change));
        if planned {
            self.entries.insert(key, (catalog.clone(), prepared.clone()));
        }
    }
}
