//! Transactions over keys and bytes. What the keys and bytes mean is the row layer's business ([`crate::rows`]).
//!
//! Versions: the LSM tree keeps, per key, every version that an open snapshot can see, and drops the others when it compacts; so
//! a snapshot of the tree is the multi-version read view, and old versions need no vacuum. A stored value begins with the
//! timestamp of its commit (8 bytes, little endian), by which versions are compared.

mod bulk;
mod commit;
mod error;
mod journal;
mod locks;
mod options;
mod reads;
mod scan;
mod sorted;
mod stats;
mod store;
mod txn;
mod writes;

pub use fjall::Slice;
pub use locks::{LockMode, LockWait};
pub use options::StoreOptions;
pub use scan::Scan;
pub use stats::FragmentSize;
pub use store::{Space, Store};
pub use txn::{Isolation, Stored, Txn, TxnOptions, View};
