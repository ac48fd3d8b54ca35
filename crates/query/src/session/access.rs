//! What functions such as `now()` and `current_setting(…)` see of the session that runs them.

use super::context::SequenceValues;
use super::settings::Settings;
use crate::pg::SessionAccess;
use crate::privileges::{self, Footing, Identity};
use atoll_model::{Error, ErrorKind, FragmentId, Privileges, Result, Sequence, Table};
use atoll_ports::cluster::{Cluster, Transaction};
use parking_lot::Mutex;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use tokio::runtime::{Handle, RuntimeFlavor};

/// Settings that `set_config(…)` changed, and whether for the transaction only; the session takes them over after the statement.
pub(crate) type PendingSettings = Arc<Mutex<Vec<(String, String, bool)>>>;

/// One statement's view of its session.
pub(crate) struct Access {
    pub(super) who: Identity,
    pub(super) process_id: i32,
    /// Microseconds since 1970 at which the transaction began.
    pub(super) began: i64,
    pub(super) txn: Arc<dyn Transaction>,
    pub(super) cluster: Arc<dyn Cluster>,
    pub(super) settings: Arc<Settings>,
    pub(super) pending: PendingSettings,
    pub(super) sequences: Arc<Mutex<SequenceValues>>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}

impl Access {
    fn footing(&self) -> Footing {
        Footing::of(self.txn.catalog(), self.cluster.catalog())
    }

    fn may_use(&self, sequence: &Sequence, any_of: Privileges) -> Result<()> {
        privileges::may_use_sequence(&self.footing(), &self.who.current_user, sequence, any_of)
    }
}

/// Waits inside a function that a query calls: the thread's other tasks move elsewhere meanwhile, where it has such neighbours.
///
/// # Errors
/// `SerializationFailure` on a thread that may not be blocked: a statement that was prepared as a brief one has turned into another.
fn wait<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        return Err(Error::new(ErrorKind::SerializationFailure, "a table's definition has changed meanwhile")
            .hint("Run the transaction again."));
    }
    tokio::task::block_in_place(|| futures::executor::block_on(future))
}

impl SessionAccess for Access {
    fn process_id(&self) -> i32 {
        self.process_id
    }

    fn transaction_id(&self) -> u64 {
        self.txn.id()
    }

    fn transaction_start(&self) -> i64 {
        self.began
    }

    fn setting(&self, name: &str) -> Option<String> {
        if let Some((_, value, _)) = self.pending.lock().iter().rev().find(|(n, ..)| n == name) {
            return Some(value.clone());
        }
        self.settings.get(name).ok().map(str::to_owned)
    }

    fn set_setting(&self, name: &str, value: &str, local: bool) -> Result<String> {
        let mut trial = self.settings.as_ref().clone();
        trial.set(name, Some(value))?;
        let value = trial.get(name)?.to_owned();
        self.pending.lock().push((name.to_owned(), value.clone(), local));
        Ok(value)
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        self.settings.all().map(|(name, value)| (name, value.to_owned())).collect()
    }

    fn fragment_bytes(&self, table: &Table, fragment: FragmentId) -> u64 {
        self.cluster.statistics(table, fragment).bytes
    }

    fn next_value(&self, sequence: &Sequence) -> Result<i64> {
        self.may_use(sequence, Privileges::USAGE.and(Privileges::UPDATE))?;
        let value = wait(self.cluster.next_values(sequence.id, 1))?;
        let mut last = self.sequences.lock();
        last.by_sequence.insert(sequence.id, value);
        last.last = Some(value);
        Ok(value)
    }

    fn current_value(&self, sequence: &Sequence) -> Result<i64> {
        self.may_use(sequence, Privileges::USAGE.and(Privileges::SELECT))?;
        self.sequences.lock().by_sequence.get(&sequence.id).copied().ok_or_else(|| {
            Error::new(
                ErrorKind::NotInPrerequisiteState,
                format!("currval of sequence \"{}\" is not yet defined in this session", sequence.name),
            )
        })
    }

    fn last_value(&self) -> Result<i64> {
        self.sequences
            .lock()
            .last
            .ok_or_else(|| Error::new(ErrorKind::NotInPrerequisiteState, "lastval is not yet defined in this session"))
    }

    fn set_value(&self, sequence: &Sequence, value: i64, called: bool) -> Result<()> {
        self.may_use(sequence, Privileges::UPDATE)?;
        wait(self.cluster.set_sequence(sequence.id, value, called))?;
        if called {
            self.sequences.lock().by_sequence.insert(sequence.id, value);
        }
        Ok(())
    }

    fn resolve_transaction(&self, name: &str, commit: bool) -> Result<u64> {
        privileges::administrator(self.footing().in_force(), &self.who.current_user, "resolve transactions")?;
        wait(self.cluster.resolve(name, commit))
    }
}
