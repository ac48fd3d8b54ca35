//! Atoll's embedded engine: rows and indexes with multi-version concurrency control on an LSM tree.
//!
//! One [`Store`] per node holds all of its embedded sites, so that a transaction over several of them is one durable write.
//! [`kv`] is the transactional key-value layer, [`rows`] what tables make of it.

pub mod kv;
pub mod rows;

pub use kv::{
    FragmentSize, Isolation, LockMode, LockWait, Slice, Space, Store, StoreOptions, Stored, Txn, TxnOptions, View,
};
