//! Row locks: in memory, sharded by key, owned by a transaction to its end.
//!
//! Invariants:
//! * Waiters are served first come first served; an upgrade (shared to exclusive) goes first, since it blocks those behind it anyway.
//! * Every wait is registered in `waits` before its deadlock check, and checks run one at a time under that mutex. So of the
//!   waits that close a cycle the last one to register sees all others, and it is the one that fails with 40P01 (the rule of
//!   PostgreSQL: whoever detects, dies). Edges are derived from the live queues, never stored, and so cannot be stale: a waiter
//!   waits for the conflicting holders and the conflicting waiters ahead of it (Özsu & Valduriez, section 5.2.3).
//! * Lock order inside: `waits` or `runs`, then one shard; never two shards at once, never `waits` with `runs`.
//!
//! Loads lock very many keys, so they lock them as *runs*: sorted keys in one place rather than an entry per key (the idea of
//! implicit locks, as InnoDB has them for inserted rows). Whoever wants a key of another's run makes the run's lock on that one key
//! explicit, in the name of the run's owner, and then waits as usual. `runs` is held shared from looking into the runs to having
//! entered the queue, and exclusively while a run is entered, whose keys are compared with all queues meanwhile; so of two owners one
//! always sees the other.

use super::sorted::SortedMap;
use atoll_model::{Error, ErrorKind, Result};
use fjall::Slice;
use parking_lot::{Mutex, RwLock};
use std::collections::hash_map::{Entry, HashMap, RandomState};
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

const SHARDS: usize = 64;

/// Bytes that a held lock takes, for the limit on a transaction's memory.
const LOCK_BYTES: usize = 160;

/// Strength of a lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LockMode {
    /// Any number of transactions may hold it.
    Shared,
    /// One transaction alone holds it.
    Exclusive,
}

impl LockMode {
    fn conflicts(self, other: LockMode) -> bool {
        self == LockMode::Exclusive || other == LockMode::Exclusive
    }
}

/// What to do when another transaction is in the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockWait {
    /// Wait so long; zero: for ever.
    Timeout(Duration),
    /// Do not wait: the lock is not taken.
    Never,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct LockKey {
    space: u64,
    key: Slice,
}

struct Waiter {
    ticket: u64,
    owner: u64,
    mode: LockMode,
    granted: oneshot::Sender<()>,
}

/// Who holds one key and who waits for it. One holder is the rule, so the others are kept apart; there are none without a first.
struct Queue {
    first: Option<(u64, LockMode)>,
    others: Vec<(u64, LockMode)>,
    waiters: VecDeque<Waiter>,
}

impl Queue {
    fn holders(&self) -> impl Iterator<Item = &(u64, LockMode)> {
        self.first.iter().chain(&self.others)
    }

    fn release(&mut self, owner: u64) {
        self.others.retain(|(o, _)| *o != owner);
        if self.first.is_some_and(|(o, _)| o == owner) {
            self.first = self.others.pop();
        }
    }

    fn is_idle(&self) -> bool {
        self.first.is_none() && self.waiters.is_empty()
    }

    /// Whether `owner` may have `mode` as far as the holders are concerned.
    fn compatible(&self, owner: u64, mode: LockMode) -> bool {
        self.holders().all(|(o, m)| *o == owner || !mode.conflicts(*m))
    }

    fn hold(&mut self, owner: u64, mode: LockMode) {
        if let Some((_, held)) = self.first.iter_mut().chain(&mut self.others).find(|(o, _)| *o == owner) {
            *held = (*held).max(mode);
        } else if self.first.is_none() {
            self.first = Some((owner, mode));
        } else {
            self.others.push((owner, mode));
        }
    }

    /// Serves waiters from the front as long as they fit.
    fn grant(&mut self) {
        while let Some(next) = self.waiters.front() {
            if next.granted.is_closed() {
                self.waiters.pop_front();
                continue;
            }
            if !self.compatible(next.owner, next.mode) {
                return;
            }
            if let Some(next) = self.waiters.pop_front() {
                self.hold(next.owner, next.mode);
                // A receiver that has just gone away leaves the lock held; its owner releases it with the others.
                let _ = next.granted.send(());
            }
        }
    }

    /// Those for whom `owner`'s waits in this queue wait.
    fn blockers(&self, owner: u64, out: &mut Vec<u64>) {
        for (at, waiter) in self.waiters.iter().enumerate().filter(|(_, w)| w.owner == owner) {
            let holders = self.holders().filter(|(o, m)| *o != owner && waiter.mode.conflicts(*m)).map(|(o, _)| *o);
            let ahead = self.waiters.iter().take(at).filter(|w| w.owner != owner && waiter.mode.conflicts(w.mode));
            out.extend(holders.chain(ahead.map(|w| w.owner)));
        }
    }
}

/// Keys that an owner holds exclusively without an entry for each.
struct Run {
    owner: u64,
    held: Arc<Mutex<Vec<LockKey>>>,
    keys: SortedMap,
}

impl Run {
    fn contains(&self, key: &[u8]) -> bool {
        // Most runs lie elsewhere.
        self.keys.first_key().is_some_and(|first| first <= key)
            && self.keys.last_key().is_some_and(|last| key <= last)
            && self.keys.contains(key)
    }
}

/// The locks of one store.
pub(crate) struct LockTable {
    /// Runs by numbering.
    runs: RwLock<HashMap<u64, Vec<Run>>>,
    shards: Vec<Mutex<HashMap<LockKey, Queue>>>,
    hasher: RandomState,
    waits: Mutex<HashMap<u64, Vec<LockKey>>>,
    /// Numbers owners and waits.
    counter: AtomicU64,
}

impl LockTable {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(LockTable {
            runs: RwLock::default(),
            shards: (0..SHARDS).map(|_| Mutex::new(HashMap::new())).collect(),
            hasher: RandomState::new(),
            waits: Mutex::new(HashMap::new()),
            counter: AtomicU64::new(1),
        })
    }

    pub(crate) fn owner(self: &Arc<Self>) -> LockOwner {
        LockOwner {
            table: self.clone(),
            id: self.counter.fetch_add(1, Ordering::Relaxed),
            held: Arc::default(),
            run_bytes: AtomicUsize::new(0),
        }
    }

    fn shard(&self, key: &LockKey) -> &Mutex<HashMap<LockKey, Queue>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    /// Gives a run's owner an entry for one of its keys, in which others can queue.
    fn make_explicit(&self, run: &Run, key: &LockKey) {
        let mut shard = self.shard(key).lock();
        let queue = shard.entry(key.clone()).or_insert_with(|| Queue {
            first: None,
            others: Vec::new(),
            waiters: VecDeque::new(),
        });
        if !queue.holders().any(|(owner, _)| *owner == run.owner) {
            queue.hold(run.owner, LockMode::Exclusive);
            run.held.lock().push(key.clone());
        }
    }

    /// Whether `start` waits for itself through others. Called with `waits` held.
    fn closes_cycle(&self, waits: &HashMap<u64, Vec<LockKey>>, start: u64) -> bool {
        let mut seen = HashSet::new();
        let mut todo = vec![start];
        let mut blockers = Vec::new();
        while let Some(owner) = todo.pop() {
            for key in waits.get(&owner).into_iter().flatten() {
                blockers.clear();
                if let Some(queue) = self.shard(key).lock().get(key) {
                    queue.blockers(owner, &mut blockers);
                }
                for blocker in &blockers {
                    if *blocker == start {
                        return true;
                    }
                    if seen.insert(*blocker) {
                        todo.push(*blocker);
                    }
                }
            }
        }
        false
    }

    /// Those of the ascending `keys` that have an entry. Called with `runs` held exclusively, so that none gets one meanwhile.
    fn explicit<'a>(&self, space: u64, keys: &[&'a [u8]]) -> BTreeSet<&'a [u8]> {
        let entries: usize = self.shards.iter().map(|shard| shard.lock().len()).sum();
        if entries > keys.len() {
            let has_entry = |key: &&[u8]| {
                let key = LockKey { space, key: Slice::new(key) };
                self.shard(&key).lock().contains_key(&key)
            };
            return keys.iter().copied().filter(has_entry).collect();
        }
        let mut found = BTreeSet::new();
        for shard in &self.shards {
            for entry in shard.lock().keys().filter(|entry| entry.space == space) {
                found.extend(keys.binary_search(&entry.key.as_ref()).ok().map(|at| keys[at]));
            }
        }
        found
    }

    /// Number of keys that are locked now.
    pub(crate) fn len(&self) -> usize {
        let in_runs: usize = self.runs.read().values().flatten().map(|run| run.keys.len()).sum();
        in_runs + self.shards.iter().map(|s| s.lock().len()).sum::<usize>()
    }
}

/// A transaction as the owner of locks. Dropping it gives them back.
pub(crate) struct LockOwner {
    table: Arc<LockTable>,
    id: u64,
    held: Arc<Mutex<Vec<LockKey>>>,
    /// What its runs take.
    run_bytes: AtomicUsize,
}

impl LockOwner {
    /// The transaction's number, unique in the process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The owners for whom it waits now.
    pub(crate) fn blockers(&self) -> Vec<u64> {
        let keys = self.table.waits.lock().get(&self.id).cloned().unwrap_or_default();
        let mut blockers = Vec::new();
        for key in keys {
            if let Some(queue) = self.table.shard(&key).lock().get(&key) {
                queue.blockers(self.id, &mut blockers);
            }
        }
        blockers
    }

    /// Takes a lock. `Ok(false)`: it is held by another, and waiting was not wanted.
    ///
    /// # Errors
    /// `LockTimeout`, `Deadlock`. The locks held before stay.
    pub(crate) async fn lock(&self, space: u64, key: &[u8], mode: LockMode, wait: LockWait) -> Result<bool> {
        let key = LockKey { space, key: Slice::new(key) };
        let (granted, mut guard) = {
            let runs = self.table.runs.read();
            if let Some(run) = runs.get(&space).and_then(|runs| runs.iter().find(|run| run.contains(&key.key))) {
                if run.owner == self.id {
                    return Ok(true);
                }
                self.table.make_explicit(run, &key);
            }
            let mut shard = self.table.shard(&key).lock();
            let queue = match shard.entry(key.clone()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Queue { first: Some((self.id, mode)), others: Vec::new(), waiters: VecDeque::new() });
                    self.held.lock().push(key);
                    return Ok(true);
                }
                Entry::Occupied(occupied) => occupied.into_mut(),
            };
            let held = queue.holders().find(|(o, _)| *o == self.id).map(|(_, m)| *m);
            if held.is_some_and(|m| m >= mode) {
                return Ok(true);
            }
            if queue.compatible(self.id, mode) && (held.is_some() || queue.waiters.is_empty()) {
                queue.hold(self.id, mode);
                if held.is_none() {
                    self.held.lock().push(key);
                }
                return Ok(true);
            }
            if wait == LockWait::Never {
                return Ok(false);
            }
            let (sender, receiver) = oneshot::channel();
            let ticket = self.table.counter.fetch_add(1, Ordering::Relaxed);
            let waiter = Waiter { ticket, owner: self.id, mode, granted: sender };
            if held.is_some() {
                queue.waiters.push_front(waiter);
            } else {
                queue.waiters.push_back(waiter);
                // Listed before it is granted, so that an abandoned wait is cleaned up with the rest.
                self.held.lock().push(key.clone());
            }
            (receiver, WaitGuard { owner: self, key, ticket, done: false })
        };
        {
            let mut waits = self.table.waits.lock();
            waits.entry(self.id).or_default().push(guard.key.clone());
            if self.table.closes_cycle(&waits, self.id) {
                drop(waits);
                return Err(Error::new(ErrorKind::Deadlock, "deadlock detected")
                    .detail("This transaction and others wait for each other's row locks.")
                    .hint("Run the transaction again."));
            }
        }
        let outcome = match wait {
            LockWait::Timeout(limit) if !limit.is_zero() => tokio::time::timeout(limit, granted).await.is_ok(),
            _ => granted.await.is_ok(),
        };
        if outcome {
            guard.done = true;
            return Ok(true);
        }
        Err(Error::new(ErrorKind::LockTimeout, "canceling statement due to lock timeout")
            .hint("Another transaction holds a lock on the row. lock_timeout sets how long to wait."))
    }

    /// Takes exclusive locks on many keys, given in ascending order without repetition.
    ///
    /// # Errors
    /// As [`LockOwner::lock`]; `Ok(false)`: one is held by another, and waiting was not wanted.
    pub(crate) async fn lock_run(&self, space: u64, keys: &[&[u8]], wait: LockWait) -> Result<bool> {
        let contended = {
            let mut runs = self.table.runs.write();
            let of_space = runs.entry(space).or_default();
            let mut contended = self.table.explicit(space, keys);
            for run in of_space.iter().filter(|run| run.owner != self.id) {
                contended.extend(keys.iter().copied().filter(|key| run.contains(key)));
            }
            if contended.len() < keys.len() {
                // A load in key order makes one run, however many calls it takes.
                let follows = |run: &Run| run.owner == self.id && run.keys.last_key() < keys.first().copied();
                let at = of_space.iter().position(follows).unwrap_or(of_space.len());
                if at == of_space.len() {
                    of_space.push(Run { owner: self.id, held: self.held.clone(), keys: SortedMap::default() });
                }
                let run = &mut of_space[at].keys;
                let before = run.bytes();
                let free = keys.iter().filter(|key| contended.is_empty() || !contended.contains(*key));
                free.for_each(|key| run.set(key, None));
                self.run_bytes.fetch_add(run.bytes() - before, Ordering::Relaxed);
            }
            contended
        };
        for key in contended {
            if !self.lock(space, key, LockMode::Exclusive, wait).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Gives every lock back and wakes those who waited.
    pub(crate) fn release_all(&self) {
        if self.run_bytes.swap(0, Ordering::Relaxed) > 0 {
            let mut runs = self.table.runs.write();
            runs.values_mut().for_each(|runs| runs.retain(|run| run.owner != self.id));
            runs.retain(|_, runs| !runs.is_empty());
        }
        let held = std::mem::take(&mut *self.held.lock());
        for key in held {
            let mut shard = self.table.shard(&key).lock();
            let Some(queue) = shard.get_mut(&key) else { continue };
            queue.release(self.id);
            queue.grant();
            if queue.is_idle() {
                shard.remove(&key);
            }
        }
    }

    /// Bytes of memory that its locks take.
    pub(crate) fn bytes(&self) -> usize {
        self.held.lock().len() * LOCK_BYTES + self.run_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for LockOwner {
    fn drop(&mut self) {
        self.release_all();
    }
}

/// Ends a wait, whichever way: granted, timed out, deadlock, or the waiting task was cancelled.
struct WaitGuard<'a> {
    owner: &'a LockOwner,
    key: LockKey,
    ticket: u64,
    done: bool,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        let table = &self.owner.table;
        let mut waits = table.waits.lock();
        if let Some(keys) = waits.get_mut(&self.owner.id) {
            if let Some(at) = keys.iter().position(|k| *k == self.key) {
                keys.swap_remove(at);
            }
            if keys.is_empty() {
                waits.remove(&self.owner.id);
            }
        }
        drop(waits);
        if self.done {
            return;
        }
        let mut shard = table.shard(&self.key).lock();
        if let Some(queue) = shard.get_mut(&self.key) {
            queue.waiters.retain(|w| w.ticket != self.ticket);
            // Those behind it may fit now.
            queue.grant();
            if queue.is_idle() {
                shard.remove(&self.key);
            }
        }
    }
}
