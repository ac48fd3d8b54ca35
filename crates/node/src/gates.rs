//! Locks on whole tables: many writers of rows, or one change of the definition.
//!
//! Invariants: a holder of [`TableLock::Exclusive`] has no other writer of the table beside it. Who waits to be exclusive holds up
//! newcomers, so it is served in the end. Of two writers who both want to become exclusive, the second is refused (40P01): each would
//! wait for the other for ever. Longer cycles, through row locks as well, are looked for while waiting (`deadlocks.rs`): every wait is
//! registered, and whoever finds itself in a cycle ends it.

use atoll_model::{Error, ErrorKind, RelationId, Result};
use atoll_ports::cluster::TableLock;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a wait lasts before a cycle is looked for, and between one look and the next.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const NEXT_LOOK: Duration = Duration::from_secs(1);

/// A transaction's number.
type Owner = u64;

#[derive(Default)]
struct State {
    writers: Vec<Owner>,
    exclusive: Option<Owner>,
    /// Waiters for exclusive.
    waiting: Vec<Owner>,
    /// One of the writers waits to become exclusive.
    upgrading: bool,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

/// What a transaction waits for.
enum Wait {
    Table(Arc<Gate>, TableLock),
    /// The right to change the catalog.
    Catalog,
}

/// All tables' gates. One entry for each table that was ever written by this process.
#[derive(Default)]
pub(crate) struct Gates {
    gates: RwLock<HashMap<RelationId, Arc<Gate>>>,
    waits: Mutex<HashMap<Owner, Wait>>,
    /// The last that got the right to change the catalog. When it has ended, it waits for nobody.
    catalog: AtomicU64,
    /// Held while a cycle is looked for.
    pub(crate) looks: Mutex<()>,
}

/// A held lock; dropping it gives it back.
pub(crate) struct Held {
    gate: Arc<Gate>,
    owner: Owner,
    pub(crate) table: RelationId,
    pub(crate) lock: TableLock,
}

/// Who wants a lock, and how.
pub(crate) struct Request<'a> {
    pub(crate) owner: Owner,
    /// Zero: wait for ever.
    pub(crate) timeout: Duration,
    /// Whether the owner waits for itself.
    pub(crate) deadlocked: &'a (dyn Fn() -> bool + Send + Sync),
}

impl Gates {
    fn gate(&self, table: RelationId) -> Arc<Gate> {
        if let Some(gate) = self.gates.read().get(&table) {
            return gate.clone();
        }
        self.gates.write().entry(table).or_default().clone()
    }

    /// Forgets the gates of dropped tables that nobody holds.
    pub(crate) fn retain(&self, exists: impl Fn(RelationId) -> bool) {
        self.gates.write().retain(|id, gate| exists(*id) || Arc::strong_count(gate) > 1);
    }

    /// Takes a lock that the caller does not hold yet.
    pub(crate) async fn lock(&self, table: RelationId, lock: TableLock, request: &Request<'_>) -> Result<Held> {
        let gate = self.gate(table);
        let owner = request.owner;
        match lock {
            TableLock::Write => {
                let enter = |s: &mut State| {
                    let free = s.exclusive.is_none() && s.waiting.is_empty();
                    if free {
                        s.writers.push(owner);
                    }
                    free
                };
                self.enter(&gate, lock, request, enter).await?;
            }
            TableLock::Exclusive => {
                let enter = |s: &mut State| {
                    let free = s.exclusive.is_none() && s.writers.is_empty();
                    if free {
                        s.exclusive = Some(owner);
                    }
                    free
                };
                gate.state.lock().waiting.push(owner);
                let _waiting = Waiting(&gate, owner);
                self.enter(&gate, lock, request, enter).await?;
            }
        }
        Ok(Held { gate, owner, table, lock })
    }

    /// Makes a held lock exclusive.
    pub(crate) async fn upgrade(
        &self,
        held: &Mutex<Vec<Held>>,
        table: RelationId,
        request: &Request<'_>,
    ) -> Result<()> {
        let gate = self.gate(table);
        let owner = request.owner;
        {
            let mut state = gate.state.lock();
            if state.upgrading {
                return Err(deadlock(
                    "Two transactions that have written to a table both want to change its definition.",
                ));
            }
            state.upgrading = true;
            state.waiting.push(owner);
        }
        let waiting = Upgrading(Waiting(&gate, owner));
        let enter = |s: &mut State| {
            let alone = s.exclusive.is_none() && s.writers.iter().all(|w| *w == owner);
            if alone {
                s.writers.clear();
                s.exclusive = Some(owner);
            }
            alone
        };
        self.enter(&gate, TableLock::Exclusive, request, enter).await?;
        drop(waiting);
        if let Some(held) = held.lock().iter_mut().find(|h| h.table == table) {
            held.lock = TableLock::Exclusive;
        }
        Ok(())
    }

    async fn enter(
        &self,
        gate: &Arc<Gate>,
        lock: TableLock,
        request: &Request<'_>,
        mut enter: impl FnMut(&mut State) -> bool,
    ) -> Result<()> {
        if enter(&mut gate.state.lock()) {
            return Ok(());
        }
        let _registered = self.register(request.owner, Wait::Table(gate.clone(), lock));
        let entered = async {
            loop {
                let changed = gate.changed.notified();
                tokio::pin!(changed);
                // Registered before looking, so no change is missed.
                changed.as_mut().enable();
                if enter(&mut gate.state.lock()) {
                    return;
                }
                changed.await;
            }
        };
        watched(entered, request).await
    }

    /// Takes the right to change the catalog.
    pub(crate) async fn lock_catalog<T>(&self, lock: impl Future<Output = T>, request: &Request<'_>) -> Result<T> {
        let _registered = self.register(request.owner, Wait::Catalog);
        let locked = watched(lock, request).await?;
        self.catalog.store(request.owner, Ordering::Release);
        Ok(locked)
    }

    /// A transaction gives its wait up, as others see it.
    pub(crate) fn give_up(&self, owner: Owner) {
        self.waits.lock().remove(&owner);
    }

    fn register(&self, owner: Owner, wait: Wait) -> Registered<'_> {
        self.waits.lock().insert(owner, wait);
        Registered(self, owner)
    }

    /// Those for whom a transaction waits here.
    pub(crate) fn blockers(&self, owner: Owner) -> Vec<Owner> {
        let waits = self.waits.lock();
        let mut blockers = match waits.get(&owner) {
            None => return vec![],
            Some(Wait::Catalog) => vec![self.catalog.load(Ordering::Acquire)],
            Some(Wait::Table(gate, lock)) => {
                let state = gate.state.lock();
                let ahead = match lock {
                    TableLock::Write => &state.waiting,
                    TableLock::Exclusive => &state.writers,
                };
                state.exclusive.iter().chain(ahead).copied().collect()
            }
        };
        blockers.retain(|b| *b != owner);
        blockers
    }
}

/// Waits for something, looking for a cycle now and then.
async fn watched<T>(future: impl Future<Output = T>, request: &Request<'_>) -> Result<T> {
    tokio::pin!(future);
    let end = (!request.timeout.is_zero()).then(|| Instant::now() + request.timeout);
    let mut look = Instant::now() + FIRST_LOOK;
    loop {
        let until = end.map_or(look, |end| end.min(look));
        if let Ok(done) = tokio::time::timeout_at(until, future.as_mut()).await {
            return Ok(done);
        }
        if (request.deadlocked)() {
            return Err(deadlock("This transaction and others wait for each other's locks on tables and rows.")
                .hint("Run the transaction again."));
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(Error::new(ErrorKind::LockTimeout, "canceling statement due to lock timeout"));
        }
        look = Instant::now() + NEXT_LOOK;
    }
}

fn deadlock(detail: &str) -> Error {
    Error::new(ErrorKind::Deadlock, "deadlock detected").detail(detail.to_owned())
}

/// Takes a wait out of the register, however it ends.
struct Registered<'a>(&'a Gates, Owner);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.waits.lock().remove(&self.1);
    }
}

/// Counts a waiter for exclusive, however its waiting ends.
struct Waiting<'a>(&'a Gate, Owner);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if let Some(at) = state.waiting.iter().position(|w| *w == self.1) {
            state.waiting.swap_remove(at);
        }
        drop(state);
        self.0.changed.notify_waiters();
    }
}

struct Upgrading<'a>(Waiting<'a>);

impl Drop for Upgrading<'_> {
    fn drop(&mut self) {
        self.0.0.state.lock().upgrading = false;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let wake = {
            let mut state = self.gate.state.lock();
            match self.lock {
                TableLock::Write => {
                    if let Some(at) = state.writers.iter().position(|w| *w == self.owner) {
                        state.writers.swap_remove(at);
                    }
                }
                TableLock::Exclusive => state.exclusive = None,
            }
            !state.waiting.is_empty() || self.lock == TableLock::Exclusive
        };
        if wake {
            self.gate.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: RelationId = RelationId(1);
    const U: RelationId = RelationId(2);

    fn never() -> bool {
        false
    }

    fn short(owner: Owner) -> Request<'static> {
        Request { owner, timeout: Duration::from_millis(20), deadlocked: &never }
    }

    fn long(owner: Owner) -> Request<'static> {
        Request { owner, timeout: Duration::from_secs(10), deadlocked: &never }
    }

    #[tokio::test]
    async fn writers_share_and_exclude_definition_changes() -> Result<()> {
        let gates = Gates::default();
        let one = gates.lock(T, TableLock::Write, &short(1)).await?;
        let two = gates.lock(T, TableLock::Write, &short(2)).await?;
        assert_eq!(
            gates.lock(T, TableLock::Exclusive, &short(9)).await.map(|_| ()).map_err(|e| e.kind()),
            Err(ErrorKind::LockTimeout)
        );
        // The waiter that gave up holds nobody up.
        let three = gates.lock(T, TableLock::Write, &short(3)).await?;
        drop((one, two, three));
        let exclusive = gates.lock(T, TableLock::Exclusive, &short(9)).await?;
        assert_eq!(
            gates.lock(T, TableLock::Write, &short(1)).await.map(|_| ()).map_err(|e| e.kind()),
            Err(ErrorKind::LockTimeout)
        );
        drop(exclusive);
        gates.lock(T, TableLock::Write, &short(1)).await?;
        Ok(())
    }

    #[tokio::test]
    async fn the_second_upgrade_is_a_deadlock() -> Result<()> {
        let gates = Arc::new(Gates::default());
        let one = Arc::new(Mutex::new(vec![gates.lock(T, TableLock::Write, &short(1)).await?]));
        let two = Mutex::new(vec![gates.lock(T, TableLock::Write, &short(2)).await?]);
        let (g, o) = (gates.clone(), one.clone());
        let first = tokio::spawn(async move { g.upgrade(&o, T, &long(1)).await });
        while gates.gate(T).state.lock().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(gates.upgrade(&two, T, &long(2)).await.map_err(|e| e.kind()), Err(ErrorKind::Deadlock));
        two.lock().clear();
        first.await.map_err(|e| Error::internal(e.to_string()))??;
        assert_eq!(one.lock()[0].lock, TableLock::Exclusive);
        Ok(())
    }

    #[tokio::test]
    async fn waits_are_known_and_a_cycle_ends() -> Result<()> {
        let gates = Arc::new(Gates::default());
        let one = gates.lock(T, TableLock::Write, &short(1)).await?;
        let two = gates.lock(U, TableLock::Write, &short(2)).await?;
        let g = gates.clone();
        let waiting = tokio::spawn(async move { g.lock(U, TableLock::Exclusive, &long(1)).await });
        while gates.blockers(1).is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!((gates.blockers(1), gates.blockers(2)), (vec![2], vec![]));
        let g = gates.clone();
        let cycle = move || g.blockers(2).contains(&1) && g.blockers(1).contains(&2);
        let request = Request { owner: 2, timeout: Duration::ZERO, deadlocked: &cycle };
        let refused = gates.lock(T, TableLock::Exclusive, &request).await;
        assert_eq!(refused.map(|_| ()).map_err(|e| e.kind()), Err(ErrorKind::Deadlock));
        drop(two);
        waiting.await.map_err(|e| Error::internal(e.to_string()))??;
        drop(one);
        assert!(gates.blockers(1).is_empty() && gates.blockers(2).is_empty());
        Ok(())
    }
}
