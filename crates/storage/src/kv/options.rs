//! Limits and sizes of a store. Everything that can grow has a bound here.

use std::time::Duration;

/// How a [`super::Store`] is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Bytes of the block cache, shared by all sites; fills as blocks are read.
    pub cache_bytes: u64,
    /// Bytes of a site's memtable before it is flushed to a table.
    pub memtable_bytes: u64,
    /// Bytes of journals kept before lagging sites are flushed to let the oldest go. At least 64 MiB.
    pub journal_bytes: u64,
    /// Threads that flush and compact.
    pub workers: usize,
    /// Bytes that the writes and locks of one transaction may take in memory.
    pub transaction_bytes: usize,
    /// New keys at one site from which a transaction's part goes into tables of its own: below, two more syncs and a table do not pay.
    pub bulk_keys: usize,
    /// Bytes of writes that wait for the committer before further commits wait for their turn.
    pub group_bytes: usize,
    /// Free bytes below which commits are refused (a determinate error) rather than run into a full disk.
    pub disk_reserve: u64,
    /// How long a commit with `synchronous_commit = off` may stay undurable.
    pub sync_interval: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            cache_bytes: 128 << 20,
            memtable_bytes: 32 << 20,
            journal_bytes: 256 << 20,
            workers: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 4),
            transaction_bytes: 512 << 20,
            bulk_keys: 20_000,
            group_bytes: 64 << 20,
            disk_reserve: 128 << 20,
            sync_interval: Duration::from_millis(200),
        }
    }
}
