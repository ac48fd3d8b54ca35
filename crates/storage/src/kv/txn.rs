//! A transaction over the key spaces of one store: one snapshot, a private write set, row locks.
//!
//! Isolation: every write of a key takes place under the key's exclusive lock, held until the commit is published. After locking,
//! [`Txn::changed`] compares the newest published version with the snapshot's. In `RepeatableRead` and `Serializable` a difference is
//! an error, so of two concurrent writers of a key only the first commits: snapshot isolation (Berenson et al. 1995) without
//! lost updates. In `ReadCommitted` the caller evaluates its statement anew on the newest version. `Serializable` adds validation of
//! what was read ([`super::reads`]).

use super::commit::Request;
use super::error::tree_error;
use super::locks::{LockMode, LockOwner, LockWait};
use super::reads::ReadSet;
use super::scan::{Scan, lower_bound, upper_bound};
use super::sorted::SortedMap;
use super::store::{Published, Shared, Space};
use super::writes::WriteSet;
use atoll_model::{Error, ErrorKind, Result};
use fjall::{Readable, Slice};
use parking_lot::{Mutex, MutexGuard};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use tokio::sync::oneshot;

/// Isolation levels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// A new snapshot for every statement.
    #[default]
    ReadCommitted,
    /// One snapshot; the first updater wins.
    RepeatableRead,
    /// As if one transaction ran after the other.
    Serializable,
}

/// How a transaction behaves.
#[derive(Clone, Copy, Debug)]
pub struct TxnOptions {
    /// Its isolation.
    pub isolation: Isolation,
    /// Refuses writes.
    pub read_only: bool,
    /// Whether commit waits for the disk.
    pub synchronous_commit: bool,
}

impl Default for TxnOptions {
    fn default() -> Self {
        TxnOptions { isolation: Isolation::default(), read_only: false, synchronous_commit: true }
    }
}

/// The bytes of a value that was read.
#[derive(Clone, Debug)]
pub struct Stored {
    bytes: Slice,
    /// Where the payload begins: behind the commit timestamp, or at once in a transaction's own writes.
    start: usize,
}

impl Stored {
    /// From the tree: timestamp and payload.
    pub(crate) fn committed(bytes: Slice, space: &Space) -> Result<Stored> {
        if bytes.len() < 8 {
            return Err(Error::new(
                ErrorKind::DataCorrupted,
                format!("a value without timestamp in {}", space.keyspace.path().display()),
            ));
        }
        Ok(Stored { bytes, start: 8 })
    }

    pub(crate) fn own(bytes: Slice) -> Stored {
        Stored { bytes, start: 0 }
    }

    /// What a transaction has itself made of a key: a payload, or nothing.
    fn of_write(payload: Option<&[u8]>) -> Option<Stored> {
        payload.map(|bytes| Stored::own(Slice::new(bytes)))
    }

    /// What was put.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The timestamp of the commit that put it; `None`: this transaction itself.
    pub fn timestamp(&self) -> Option<u64> {
        let head = self.bytes.get(..self.start)?;
        head.try_into().ok().map(u64::from_le_bytes)
    }
}

struct State {
    snapshot: Arc<Published>,
    writes: WriteSet,
    /// Shared with the views taken from it.
    reads: Option<Arc<Mutex<ReadSet>>>,
    /// The commit waits for the disk.
    durable: bool,
    finished: bool,
}

/// What a transaction sees of one space, frozen: later statements and writes do not show in it. It may outlive the transaction and
/// be read from other threads.
#[derive(Clone)]
pub struct View {
    space: Arc<Space>,
    snapshot: Arc<Published>,
    own: Option<Arc<SortedMap>>,
    reads: Option<Arc<Mutex<ReadSet>>>,
}

impl View {
    /// The value of a key.
    ///
    /// # Errors
    /// `DataCorrupted`, `Io`.
    pub fn get(&self, key: &[u8]) -> Result<Option<Stored>> {
        if let Some(own) = self.own.as_ref().and_then(|own| own.get(key)) {
            return Ok(Stored::of_write(own));
        }
        if let Some(reads) = &self.reads {
            reads.lock().key(&self.space, key);
        }
        self.snapshot.read(&self.space, key)?.map(|bytes| Stored::committed(bytes, &self.space)).transpose()
    }

    /// The timestamp of its snapshot.
    pub fn timestamp(&self) -> u64 {
        self.snapshot.timestamp
    }

    /// Whether the transaction had written anything in the space.
    pub fn has_own_writes(&self) -> bool {
        self.own.is_some()
    }

    /// Records that a range has been read, without reading it.
    pub(crate) fn note_range(&self, lower: Bound<Slice>, upper: Bound<Slice>) {
        if let Some(reads) = &self.reads {
            reads.lock().range(&self.space, (lower, upper));
        }
    }

    /// Keys and values of a range in order.
    pub fn scan(&self, lower: Bound<&[u8]>, upper: Bound<&[u8]>, reverse: bool) -> Scan {
        let (lower, upper) = (lower_bound(lower), upper_bound(upper));
        self.note_range(lower.clone(), upper.clone());
        Scan::new(&self.space, &self.snapshot, self.own.clone(), lower, upper, reverse)
    }
}

/// A transaction. Dropping it rolls it back. Calls may come from several threads.
pub struct Txn {
    shared: Arc<Shared>,
    options: TxnOptions,
    locks: Arc<LockOwner>,
    state: Mutex<State>,
}

impl Txn {
    pub(crate) fn new(shared: Arc<Shared>, options: TxnOptions) -> Txn {
        let validated = options.isolation == Isolation::Serializable && !options.read_only;
        if validated {
            shared.serializable.fetch_add(1, Ordering::SeqCst);
            // Pairs with the fence in the committer: the count is visible before the snapshot is taken.
            fence(Ordering::SeqCst);
        }
        let snapshot = shared.published.load_full();
        Txn {
            locks: Arc::new(shared.locks.owner()),
            state: Mutex::new(State {
                snapshot,
                writes: WriteSet::default(),
                reads: validated.then(Arc::default),
                durable: options.synchronous_commit,
                finished: false,
            }),
            options,
            shared,
        }
    }

    /// Its number, unique in the process.
    pub fn id(&self) -> u64 {
        self.locks.id()
    }

    /// The transactions for whose locks it waits now.
    pub fn blocked_by(&self) -> Vec<u64> {
        self.locks.blockers()
    }

    /// How it was begun.
    pub fn options(&self) -> TxnOptions {
        self.options
    }

    /// The timestamp of its snapshot.
    pub fn snapshot(&self) -> u64 {
        self.state.lock().snapshot.timestamp
    }

    /// Takes a new snapshot in `ReadCommitted`.
    pub fn begin_statement(&self) {
        if self.options.isolation == Isolation::ReadCommitted {
            let newest = self.shared.published.load_full();
            self.state.lock().snapshot = newest;
        }
    }

    /// The value of a key: this transaction's own, or the snapshot's.
    ///
    /// # Errors
    /// `DataCorrupted`, `Io`.
    pub fn get(&self, space: &Space, key: &[u8]) -> Result<Option<Stored>> {
        let snapshot = {
            let state = self.state.lock();
            if let Some(own) = state.writes.get(space, key) {
                return Ok(Stored::of_write(own));
            }
            if let Some(reads) = &state.reads {
                reads.lock().key(space, key);
            }
            state.snapshot.clone()
        };
        snapshot.read(space, key)?.map(|bytes| Stored::committed(bytes, space)).transpose()
    }

    /// The value of a key: this transaction's own, or the newest that is committed. Only under the key's lock does it stay so.
    ///
    /// # Errors
    /// As `get`.
    pub fn latest(&self, space: &Space, key: &[u8]) -> Result<Option<Stored>> {
        {
            let state = self.state.lock();
            if let Some(own) = state.writes.get(space, key) {
                return Ok(Stored::of_write(own));
            }
            if let Some(reads) = &state.reads {
                reads.lock().key(space, key);
            }
        }
        let newest = self.shared.published.load_full();
        newest.read(space, key)?.map(|bytes| Stored::committed(bytes, space)).transpose()
    }

    /// Whether the newest committed version of a key is another than the snapshot's. To be asked under the key's lock.
    ///
    /// # Errors
    /// `SerializationFailure` instead of `true` in `RepeatableRead` and `Serializable`.
    pub fn changed(&self, space: &Space, key: &[u8]) -> Result<bool> {
        let snapshot = self.state.lock().snapshot.clone();
        let newest = self.shared.published.load_full();
        if snapshot.timestamp == newest.timestamp {
            return Ok(false);
        }
        let version = |at: &Published| -> Result<Option<u64>> {
            Ok(at.read(space, key)?.map(|b| Stored::committed(b, space)).transpose()?.and_then(|s| s.timestamp()))
        };
        let changed = version(&snapshot)? != version(&newest)?;
        if changed && self.options.isolation != Isolation::ReadCommitted {
            return Err(Error::new(
                ErrorKind::SerializationFailure,
                "could not serialize access due to concurrent update",
            )
            .hint("The transaction might succeed if retried."));
        }
        Ok(changed)
    }

    /// What the transaction sees of a space now.
    pub fn view(&self, space: &Arc<Space>) -> View {
        let state = self.state.lock();
        View {
            space: space.clone(),
            snapshot: state.snapshot.clone(),
            own: state.writes.of(space).filter(|w| !w.is_empty()).cloned(),
            reads: state.reads.clone(),
        }
    }

    /// As [`Txn::view`], but over the newest committed state whatever the isolation, and not recorded as read. For work under a
    /// lock that keeps all other writers away.
    pub fn newest_view(&self, space: &Arc<Space>) -> View {
        let snapshot = self.shared.published.load_full();
        let own = self.state.lock().writes.of(space).filter(|w| !w.is_empty()).cloned();
        View { space: space.clone(), snapshot, own, reads: None }
    }

    /// Keys and values of a range in order, own writes included. What is written later does not show in it.
    pub fn scan(&self, space: &Arc<Space>, lower: Bound<&[u8]>, upper: Bound<&[u8]>, reverse: bool) -> Scan {
        self.view(space).scan(lower, upper, reverse)
    }

    /// The committed keys from a bound on, without recording that they were read.
    pub(crate) fn keys_from<'a>(
        &self,
        space: &'a Space,
        from: Bound<Slice>,
    ) -> impl Iterator<Item = Result<Slice>> + use<'a> {
        let snapshot = self.state.lock().snapshot.clone();
        snapshot
            .snapshot
            .range(&space.keyspace, (from, Bound::Unbounded))
            .map(move |entry| entry.key().map_err(|e| tree_error("reading", space.keyspace.path(), &e)))
    }

    /// Takes a lock, held to the end of the transaction. `locks` names what the key is a key of: the caller's numbering.
    /// `Ok(false)`: held by another, and [`LockWait::Never`].
    ///
    /// # Errors
    /// `LockTimeout`, `Deadlock`; `OutOfMemory` when the transaction holds too many.
    pub async fn lock(&self, locks: u64, key: &[u8], mode: LockMode, wait: LockWait) -> Result<bool> {
        self.check_locks()?;
        self.locks.lock(locks, key, mode, wait).await
    }

    /// Takes exclusive locks on many keys, given in ascending order without repetition: as [`Txn::lock`] on each, but cheaper.
    ///
    /// # Errors
    /// As `lock`.
    pub async fn lock_run(&self, locks: u64, keys: &[&[u8]], wait: LockWait) -> Result<bool> {
        self.check_locks()?;
        self.locks.lock_run(locks, keys, wait).await
    }

    fn check_locks(&self) -> Result<()> {
        if self.locks.bytes() <= self.shared.options.transaction_bytes {
            return Ok(());
        }
        Err(Error::new(ErrorKind::OutOfMemory, "transaction holds too many row locks")
            .hint("Commit more often, or raise storage.transaction_bytes."))
    }

    /// Whether this transaction itself has written a key.
    pub fn wrote(&self, space: &Space, key: &[u8]) -> bool {
        self.state.lock().writes.get(space, key).is_some()
    }

    /// Sets a key. The caller holds its lock, or knows that nobody else writes it.
    ///
    /// # Errors
    /// `ReadOnlyTransaction`, `ProgramLimit` (key too long), `OutOfMemory` (transaction too large).
    pub fn put(&self, space: &Arc<Space>, key: &[u8], payload: &[u8]) -> Result<()> {
        self.writer(space)?.put(key, payload)
    }

    /// As [`Txn::put`], for a key of which the caller knows, under its lock, that no committed version exists. Large transactions of
    /// such writes alone are committed in a cheaper way.
    ///
    /// # Errors
    /// As `put`.
    pub fn put_new(&self, space: &Arc<Space>, key: &[u8], payload: &[u8]) -> Result<()> {
        self.writer(space)?.put_new(key, payload)
    }

    /// Deletes a key. The caller holds its lock, or knows that nobody else writes it.
    ///
    /// # Errors
    /// As `put`.
    pub fn delete(&self, space: &Arc<Space>, key: &[u8]) -> Result<()> {
        self.writer(space)?.delete(key)
    }

    /// For many writes at one site without anything else in between.
    ///
    /// # Errors
    /// `ReadOnlyTransaction`.
    pub fn writer<'a>(&'a self, space: &'a Arc<Space>) -> Result<Writer<'a>> {
        if self.options.read_only {
            return Err(Error::new(ErrorKind::ReadOnlyTransaction, "cannot write in a read-only transaction"));
        }
        let state = self.state.lock();
        if state.finished {
            return Err(finished());
        }
        let limit = self.shared.options.transaction_bytes.saturating_sub(self.locks.bytes());
        Ok(Writer { state, space, limit })
    }

    /// Counts rows and bytes that a fragment gains or loses with this transaction's writes.
    pub fn count(&self, space: &Space, fragment: u32, rows: i64, bytes: i64) {
        self.state.lock().writes.count(space, fragment, rows, bytes);
    }

    /// Marks the present state of the writes.
    pub fn savepoint(&self) -> u64 {
        self.state.lock().writes.savepoint()
    }

    /// Undoes the writes since a mark. Locks stay.
    pub fn rollback_to(&self, savepoint: u64) {
        self.state.lock().writes.rollback_to(savepoint);
    }

    /// Whether anything was written.
    pub fn has_writes(&self) -> bool {
        !self.state.lock().writes.is_empty()
    }

    /// From now on the commit waits for the disk, whatever was said at the beginning.
    pub fn require_durable(&self) {
        self.state.lock().durable = true;
    }

    /// Commits: when this returns, the writes are durable (unless it was begun without `synchronous_commit`) and visible.
    /// Dropping the future does not undo a commit that was under way.
    ///
    /// # Errors
    /// `SerializationFailure`; `DiskFull` and `Io` when writes are refused; `StatementCompletionUnknown` (indeterminate).
    pub async fn commit(&self) -> Result<u64> {
        let (writes, reads, durable) = {
            let mut state = self.state.lock();
            if state.finished {
                return Err(finished());
            }
            state.finished = true;
            if state.writes.is_empty() {
                let timestamp = state.snapshot.timestamp;
                drop(state);
                self.locks.release_all();
                return Ok(timestamp);
            }
            let snapshot = state.snapshot.timestamp;
            (
                std::mem::take(&mut state.writes),
                state.reads.take().map(|reads| (snapshot, std::mem::take(&mut *reads.lock()))),
                state.durable,
            )
        };
        // If this future and the transaction are dropped before the committer gets to it, the committer may have forgotten the
        // commits to validate against; then it refuses (see `History::clear`), which is safe.
        let (reply, answer) = oneshot::channel();
        self.shared.submit(Request { writes, reads, durable, locks: self.locks.clone(), reply });
        answer.await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::StatementCompletionUnknown,
                "the committer stopped: the commit's outcome is unknown",
            )
            .indeterminate())
        })
    }

    /// Rolls back.
    pub fn rollback(&self) {
        let mut state = self.state.lock();
        state.finished = true;
        state.writes = WriteSet::default();
        state.reads = None;
        drop(state);
        self.locks.release_all();
    }
}

/// Writes at one site ([`Txn::writer`]); the transaction waits for its end with all else.
pub struct Writer<'a> {
    state: MutexGuard<'a, State>,
    space: &'a Arc<Space>,
    limit: usize,
}

impl Writer<'_> {
    /// As [`Txn::put`].
    ///
    /// # Errors
    /// As there.
    pub fn put(&mut self, key: &[u8], payload: &[u8]) -> Result<()> {
        self.state.writes.set(self.space, key, Some(payload), false, self.limit)
    }

    /// As [`Txn::put_new`].
    ///
    /// # Errors
    /// As there.
    pub fn put_new(&mut self, key: &[u8], payload: &[u8]) -> Result<()> {
        self.state.writes.set(self.space, key, Some(payload), true, self.limit)
    }

    /// As [`Txn::delete`].
    ///
    /// # Errors
    /// As there.
    pub fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.state.writes.set(self.space, key, None, false, self.limit)
    }
}

fn finished() -> Error {
    Error::new(ErrorKind::NoActiveTransaction, "the transaction has ended")
}

impl Drop for Txn {
    fn drop(&mut self) {
        if self.options.isolation == Isolation::Serializable && !self.options.read_only {
            self.shared.serializable.fetch_sub(1, Ordering::SeqCst);
        }
        // Locks of a commit that is still under way are kept by its request and released when it is published.
    }
}
