//! Locks on whole tables: many writers of rows, or one change of the definition.
//!
//! Invariants: a holder of [`TableLock::Exclusive`] has no other writer of the table beside it. Who waits to be exclusive holds up
//! newcomers, so it is served in the end. Of two writers who both want to become exclusive, the second is refused (40P01): each would
//! wait for the other for ever.

use atoll_model::{Error, ErrorKind, RelationId, Result};
use atoll_ports::cluster::TableLock;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

#[derive(Default)]
struct State {
    writers: usize,
    exclusive: bool,
    /// Waiters for exclusive.
    waiting: usize,
    /// One of the writers waits to become exclusive.
    upgrading: bool,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

/// All tables' gates. One entry for each table that was ever written by this process.
#[derive(Default)]
pub(crate) struct Gates {
    gates: RwLock<HashMap<RelationId, Arc<Gate>>>,
}

/// A held lock; dropping it gives it back.
pub(crate) struct Held {
    gate: Arc<Gate>,
    pub(crate) table: RelationId,
    pub(crate) lock: TableLock,
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
    pub(crate) async fn lock(&self, table: RelationId, lock: TableLock, timeout: Duration) -> Result<Held> {
        let gate = self.gate(table);
        match lock {
            TableLock::Write => {
                let enter = |s: &mut State| {
                    let free = !s.exclusive && s.waiting == 0;
                    s.writers += usize::from(free);
                    free
                };
                gate.wait(timeout, enter).await?;
            }
            TableLock::Exclusive => {
                gate.state.lock().waiting += 1;
                let waiting = Waiting(&gate);
                let enter = |s: &mut State| {
                    let free = !s.exclusive && s.writers == 0;
                    s.exclusive |= free;
                    free
                };
                gate.wait(timeout, enter).await?;
                drop(waiting);
            }
        }
        Ok(Held { gate, table, lock })
    }

    /// Makes a held lock exclusive.
    pub(crate) async fn upgrade(&self, held: &Mutex<Vec<Held>>, table: RelationId, timeout: Duration) -> Result<()> {
        let gate = self.gate(table);
        {
            let mut state = gate.state.lock();
            if state.upgrading {
                return Err(Error::new(ErrorKind::Deadlock, "deadlock detected")
                    .detail("Two transactions that have written to a table both want to change its definition."));
            }
            state.upgrading = true;
            state.waiting += 1;
        }
        let waiting = Upgrading(Waiting(&gate));
        let enter = |s: &mut State| {
            let alone = !s.exclusive && s.writers == 1;
            if alone {
                s.writers = 0;
                s.exclusive = true;
            }
            alone
        };
        gate.wait(timeout, enter).await?;
        drop(waiting);
        if let Some(held) = held.lock().iter_mut().find(|h| h.table == table) {
            held.lock = TableLock::Exclusive;
        }
        Ok(())
    }
}

impl Gate {
    /// Waits until `enter` succeeds; zero means for ever.
    async fn wait(&self, timeout: Duration, mut enter: impl FnMut(&mut State) -> bool) -> Result<()> {
        if enter(&mut self.state.lock()) {
            return Ok(());
        }
        let entered = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // Registered before looking, so no change is missed.
                changed.as_mut().enable();
                if enter(&mut self.state.lock()) {
                    return;
                }
                changed.await;
            }
        };
        if timeout.is_zero() {
            entered.await;
            return Ok(());
        }
        tokio::time::timeout(timeout, entered)
            .await
            .map_err(|_| Error::new(ErrorKind::LockTimeout, "canceling statement due to lock timeout"))
    }
}

/// Counts a waiter for exclusive, however its waiting ends.
struct Waiting<'a>(&'a Gate);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
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
                TableLock::Write => state.writers -= 1,
                TableLock::Exclusive => state.exclusive = false,
            }
            state.waiting > 0 || self.lock == TableLock::Exclusive
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
    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn writers_share_and_exclude_definition_changes() -> Result<()> {
        let gates = Gates::default();
        let one = gates.lock(T, TableLock::Write, SHORT).await?;
        let two = gates.lock(T, TableLock::Write, SHORT).await?;
        assert_eq!(
            gates.lock(T, TableLock::Exclusive, SHORT).await.map(|_| ()).map_err(|e| e.kind()),
            Err(ErrorKind::LockTimeout)
        );
        // The waiter that gave up holds nobody up.
        let three = gates.lock(T, TableLock::Write, SHORT).await?;
        drop((one, two, three));
        let exclusive = gates.lock(T, TableLock::Exclusive, SHORT).await?;
        assert_eq!(
            gates.lock(T, TableLock::Write, SHORT).await.map(|_| ()).map_err(|e| e.kind()),
            Err(ErrorKind::LockTimeout)
        );
        drop(exclusive);
        gates.lock(T, TableLock::Write, SHORT).await?;
        Ok(())
    }

    #[tokio::test]
    async fn the_second_upgrade_is_a_deadlock() -> Result<()> {
        let gates = Arc::new(Gates::default());
        let one = Arc::new(Mutex::new(vec![gates.lock(T, TableLock::Write, SHORT).await?]));
        let two = Mutex::new(vec![gates.lock(T, TableLock::Write, SHORT).await?]);
        let (g, o) = (gates.clone(), one.clone());
        let first = tokio::spawn(async move { g.upgrade(&o, T, LONG).await });
        while gates.gate(T).state.lock().waiting == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(gates.upgrade(&two, T, LONG).await.map_err(|e| e.kind()), Err(ErrorKind::Deadlock));
        two.lock().clear();
        first.await.map_err(|e| Error::internal(e.to_string()))??;
        assert_eq!(one.lock()[0].lock, TableLock::Exclusive);
        Ok(())
    }
}
