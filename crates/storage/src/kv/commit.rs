//! Group commit: one thread validates, orders and writes the transactions that wait, with one journal write and one fsync
//! for all of them (Gray & Reuter, *Transaction Processing*, section 9.4.7; DeWitt et al. 1984).
//!
//! Order of one round, on which the guarantees rest: validate and give timestamps → write and fsync → count sizes and set
//! fragments' versions → publish the snapshot → remember writes → release locks → answer. So who gets a lock sees what its last holder committed, and who gets
//! an answer finds its commit durable and visible.
//!
//! The clock is hybrid: wall-clock microseconds, or one more than the last timestamp where the wall clock lags. A lease on
//! timestamps ahead is written with the commits, so that a crash never lets a timestamp be given twice.

use super::bulk;
use super::error::{panic_text, tree_error};
use super::locks::LockOwner;
use super::reads::{History, ReadSet, serialization_failure};
use super::store::{CLOCK_KEY, Published, Shared, size_prefix};
use super::writes::WriteSet;
use atoll_model::{Error, ErrorKind, Result};
use fjall::{OwnedWriteBatch, PersistMode, Slice};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// Timestamps (microseconds) that one lease covers.
const LEASE: u64 = 1_000_000;

/// Transactions in one round.
const MAX_GROUP: usize = 1024;

/// Sealed memtables of a site beyond which commits wait for the flushes. The tree itself stops at 4, sleeping in steps of 100 ms,
/// and would sleep for ever if its flush thread had died; waiting here is finer and notices that.
const MAX_SEALED: usize = 2;

/// Tables on a site's first level beyond which commits wait for compaction. The tree begins to stall writes at 20 runs.
const MAX_L0: usize = 40;

/// How often free disk space is looked at.
const SPACE_INTERVAL: Duration = Duration::from_millis(200);

/// A transaction that wants to commit.
pub(crate) struct Request {
    pub(crate) writes: WriteSet,
    /// Snapshot and reads of a serializable transaction.
    pub(crate) reads: Option<(u64, ReadSet)>,
    pub(crate) durable: bool,
    pub(crate) locks: Arc<LockOwner>,
    pub(crate) reply: oneshot::Sender<Result<u64>>,
}

impl Request {
    fn answer(self, result: Result<u64>) {
        self.locks.release_all();
        // Nobody waits any more when the client has gone; the commit stands.
        let _ = self.reply.send(result);
    }
}

/// Transactions that wait for the committer.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) waiting: VecDeque<Request>,
    pub(crate) closing: bool,
}

impl Shared {
    /// Hands a transaction to the committer.
    pub(crate) fn submit(&self, request: Request) {
        let mut queue = self.queue.lock();
        let refusal = match self.refused.get() {
            Some(error) => Some(error.clone()),
            None if queue.closing => Some(shutdown()),
            None => None,
        };
        if let Some(error) = refusal {
            drop(queue);
            return request.answer(Err(error));
        }
        queue.waiting.push_back(request);
        let first = queue.waiting.len() == 1;
        drop(queue);
        if first {
            self.wake.notify_one();
        }
    }
}

fn shutdown() -> Error {
    Error::new(ErrorKind::AdminShutdown, "the store is closing")
}

/// The state that the committer thread alone owns.
pub(crate) struct Committer {
    clock: u64,
    lease: u64,
    history: History,
    /// Since when there are commits that a power failure could take back.
    undurable: Option<Instant>,
    space_checked: Option<Instant>,
    space_left: bool,
    scratch: Vec<u8>,
}

impl Committer {
    /// A committer whose timestamps all lie above `floor`.
    pub(crate) fn new(floor: u64) -> Self {
        let mut committer = Committer {
            clock: floor,
            lease: 0,
            history: History::default(),
            undurable: None,
            space_checked: None,
            space_left: true,
            scratch: Vec::new(),
        };
        committer.tick();
        committer.history.clear(committer.clock);
        committer
    }

    /// The last timestamp given.
    pub(crate) fn now(&self) -> u64 {
        self.clock
    }

    fn tick(&mut self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
        self.clock = wall.max(self.clock + 1);
        self.clock
    }

    /// Works until the store closes.
    pub(crate) fn run(mut self, shared: &Shared) {
        while let Some(group) = self.next_group(shared) {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                if group.is_empty() { self.sync(shared) } else { self.round(shared, group) }
            }));
            if let Err(payload) = outcome {
                // The requests of the round are gone with the panic, and so their clients learn that the outcome is unknown.
                let text = panic_text(payload.as_ref());
                refuse(shared, Error::internal(format!("the committer failed: {text}")));
            }
        }
        if shared.refused.get().is_none() {
            self.save(shared);
        }
        refuse(shared, shutdown());
    }

    /// The next transactions; none in it: it is time to sync. `None`: the store closes.
    fn next_group(&mut self, shared: &Shared) -> Option<Vec<Request>> {
        let mut queue = shared.queue.lock();
        while queue.waiting.is_empty() {
            if queue.closing {
                return None;
            }
            match self.undurable {
                Some(since) => {
                    let due = since + shared.options.sync_interval;
                    if shared.wake.wait_until(&mut queue, due).timed_out() && queue.waiting.is_empty() {
                        return Some(Vec::new());
                    }
                }
                None => shared.wake.wait(&mut queue),
            }
        }
        let mut group = Vec::with_capacity(queue.waiting.len().min(MAX_GROUP));
        let mut bytes = 0;
        while let Some(next) = queue.waiting.front() {
            bytes += next.writes.bytes();
            // One that is larger than the bound goes alone.
            if !group.is_empty() && (bytes > shared.options.group_bytes || group.len() == MAX_GROUP) {
                break;
            }
            group.extend(queue.waiting.pop_front());
        }
        Some(group)
    }

    fn round(&mut self, shared: &Shared, group: Vec<Request>) {
        if let Err(error) = self.admit(shared, &group) {
            group.into_iter().for_each(|request| request.answer(Err(error.clone())));
            return;
        }
        let mut accepted: Vec<(u64, Request)> = Vec::with_capacity(group.len());
        for request in group {
            if let Some((snapshot, reads)) = &request.reads {
                let earlier = accepted.iter().any(|(_, other)| reads.conflicts_with(&other.writes));
                let verdict =
                    if earlier { Err(serialization_failure()) } else { self.history.validate(*snapshot, reads) };
                if let Err(error) = verdict {
                    request.answer(Err(error));
                    continue;
                }
            }
            accepted.push((self.tick(), request));
        }
        if accepted.is_empty() {
            return;
        }
        let large = accepted.iter().any(|(_, request)| bulk::is_large(shared, &request.writes));
        let durable = large || accepted.iter().any(|(_, request)| request.durable);
        let prepared =
            if large { self.write_large(shared, &accepted) } else { Ok(self.batch(shared, &accepted, durable)) };
        let outcome = match prepared {
            // The tree checks for earlier failures before it writes anything; other errors come from the write itself.
            Ok(batch) => batch.commit().map_err(|error| (matches!(error, fjall::Error::Poisoned), error)),
            Err(error) => Err((true, error)),
        };
        if let Err((untouched, error)) = outcome {
            return fail(shared, accepted, untouched, &error);
        }
        if durable {
            self.undurable = None;
        } else {
            self.undurable.get_or_insert_with(Instant::now);
        }
        // Before anybody can see the round: who finds a fragment's version not above its snapshot reads that version.
        for (timestamp, request) in &accepted {
            shared.sizes.apply(request.writes.deltas(), *timestamp);
        }
        shared.published.store(Arc::new(Published { timestamp: self.clock, snapshot: shared.db.snapshot() }));
        // Pairs with the fence in `Txn::new`: either that transaction's snapshot includes this round, or it is counted here.
        fence(Ordering::SeqCst);
        let remember = shared.serializable.load(Ordering::SeqCst) > 0;
        if !remember {
            self.history.clear(self.clock);
        }
        for (timestamp, request) in accepted {
            if remember {
                self.history.record(timestamp, &request.writes);
            }
            request.answer(Ok(timestamp));
        }
    }

    /// Whether there is room for a round: on the disk, and in the memtables.
    fn admit(&mut self, shared: &Shared, group: &[Request]) -> Result<()> {
        if self.space_checked.is_none_or(|at| at.elapsed() > SPACE_INTERVAL) {
            // A file system that does not tell is taken to have room.
            let free = fs4::available_space(&shared.dir).unwrap_or(u64::MAX);
            self.space_left = free >= shared.options.disk_reserve;
            self.space_checked = Some(Instant::now());
        }
        if !self.space_left {
            return Err(Error::new(
                ErrorKind::DiskFull,
                format!(
                    "less than {} MB are left on the disk of {}: nothing was written",
                    shared.options.disk_reserve >> 20,
                    shared.dir.display()
                ),
            )
            .hint("Free space there and try again. Reads go on."));
        }
        for part in group.iter().flat_map(|request| request.writes.parts()) {
            let keyspace = &part.space.keyspace;
            while keyspace.sealed_memtable_count() > MAX_SEALED || keyspace.l0_table_count() > MAX_L0 {
                // Fails if a flush has failed.
                if let Err(error) = shared.db.persist(PersistMode::Buffer) {
                    let error = tree_error("flushing", keyspace.path(), &error);
                    refuse(shared, error.clone());
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Writes the large parts of a round to tables of their own. What remains to be done to commit is the batch returned; after an
    /// error the round is not committed, and the next opening undoes what was written.
    fn write_large(&mut self, shared: &Shared, accepted: &[(u64, Request)]) -> fjall::Result<OwnedWriteBatch> {
        let mut note = OwnedWriteBatch::with_capacity(shared.db.clone(), 2).durability(Some(PersistMode::SyncAll));
        let large =
            bulk::begin(shared, accepted.iter().map(|(timestamp, request)| (*timestamp, &request.writes)), &mut note);
        self.renew_lease(shared, &mut note);
        note.commit()?;
        bulk::ingest(&large, shared.options.workers)?;
        let mut batch = self.batch(shared, accepted, true);
        bulk::end(shared, &large, &mut batch);
        Ok(batch)
    }

    /// The batch of a round, without its large parts.
    fn batch(&mut self, shared: &Shared, accepted: &[(u64, Request)], durable: bool) -> OwnedWriteBatch {
        let small = |request: &Request| -> usize {
            request
                .writes
                .parts()
                .iter()
                .filter(|part| !bulk::is_large_part(shared, part))
                .map(|part| part.map.len())
                .sum()
        };
        let items: usize = accepted.iter().map(|(_, request)| small(request)).sum();
        let mode = if durable { PersistMode::SyncAll } else { PersistMode::Buffer };
        let mut batch = OwnedWriteBatch::with_capacity(shared.db.clone(), items + 1).durability(Some(mode));
        for (timestamp, request) in accepted {
            for part in request.writes.parts().iter().filter(|part| !bulk::is_large_part(shared, part)) {
                for (key, payload) in part.map.iter() {
                    match payload {
                        Some(payload) => {
                            let value = stamped(*timestamp, payload, &mut self.scratch);
                            batch.insert(&part.space.keyspace, key, value);
                        }
                        None => batch.remove(&part.space.keyspace, key),
                    }
                }
            }
        }
        self.renew_lease(shared, &mut batch);
        batch
    }

    fn renew_lease(&mut self, shared: &Shared, batch: &mut OwnedWriteBatch) {
        if self.clock >= self.lease {
            self.lease = self.clock + LEASE;
            self.records(shared, batch, self.lease);
        }
    }

    /// Adds the store's own records to a batch: the clock's lease, the sizes that changed.
    fn records(&self, shared: &Shared, batch: &mut OwnedWriteBatch, lease: u64) {
        batch.insert(&shared.own, CLOCK_KEY, Slice::new(&lease.to_le_bytes()));
        let dirty = shared.sizes.take_dirty();
        if dirty.is_empty() {
            return;
        }
        let spaces = shared.spaces.read();
        for ((space, fragment), size) in dirty {
            let Some(space) = spaces.get(space as usize) else { continue };
            let mut key = size_prefix(&space.name);
            key.extend_from_slice(&fragment.to_be_bytes());
            let value = [size.rows.to_le_bytes(), size.bytes.to_le_bytes()].concat();
            batch.insert(&shared.own, key, value);
        }
    }

    /// Makes commits that did not wait durable.
    fn sync(&mut self, shared: &Shared) {
        self.undurable = None;
        if shared.refused.get().is_some() {
            return;
        }
        if let Err(error) = shared.db.persist(PersistMode::SyncAll) {
            refuse(shared, tree_error("syncing the journal in", &shared.dir, &error));
        }
    }

    /// The last write before the store closes: everything durable, the lease taken back.
    fn save(&mut self, shared: &Shared) {
        let mut batch = OwnedWriteBatch::with_capacity(shared.db.clone(), 8).durability(Some(PersistMode::SyncAll));
        self.records(shared, &mut batch, self.clock);
        if let Err(error) = batch.commit() {
            refuse(shared, tree_error("closing", &shared.dir, &error));
        }
    }
}

/// The stored form of a payload.
pub(crate) fn stamped(timestamp: u64, payload: &[u8], scratch: &mut Vec<u8>) -> Slice {
    scratch.clear();
    scratch.extend_from_slice(&timestamp.to_le_bytes());
    scratch.extend_from_slice(payload);
    Slice::new(scratch)
}

/// Stops all further writes and answers those that wait.
fn refuse(shared: &Shared, error: Error) {
    if error.kind() != ErrorKind::AdminShutdown {
        tracing::error!(%error, "no more writes are taken");
    }
    let error = shared.refused.get_or_init(|| error).clone();
    let waiting = std::mem::take(&mut shared.queue.lock().waiting);
    waiting.into_iter().for_each(|request| request.answer(Err(error.clone())));
}

/// Answers a round whose write failed. `untouched`: it is certain that it is not committed.
fn fail(shared: &Shared, round: Vec<(u64, Request)>, untouched: bool, error: &fjall::Error) {
    let cause = tree_error("writing the journal in", &shared.dir, error);
    let answer = if untouched {
        cause.clone()
    } else {
        Error::new(
            ErrorKind::StatementCompletionUnknown,
            format!("commit failed in a way that leaves its outcome unknown: {}", cause.message()),
        )
        .hint("Restart Atoll, then look whether the changes are there.")
        .indeterminate()
    };
    refuse(
        shared,
        Error::new(cause.kind(), format!("writes are refused since a write failed: {}", cause.message()))
            .hint("Repair the cause and restart Atoll. Reads go on."),
    );
    round.into_iter().for_each(|(_, request)| request.answer(Err(answer.clone())));
}
