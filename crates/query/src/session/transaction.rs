//! A session's transaction: implicit or explicit, failed or not, with its savepoints.

use super::settings::Settings;
use crate::clock;
use atoll_model::{Error, ErrorKind, Result};
use atoll_ports::cluster::Transaction;
use atoll_ports::session::TransactionStatus;
use std::sync::Arc;

/// The transaction that is open, if any.
#[derive(Default)]
pub(crate) struct Current(Option<Open>);

struct Open {
    txn: Arc<dyn Transaction>,
    /// Microseconds since 1970.
    began: i64,
    explicit: bool,
    failed: bool,
    /// Its isolation can no longer be changed: a statement has seen its snapshot.
    used: bool,
    savepoints: Vec<Savepoint>,
}

struct Savepoint {
    name: String,
    mark: u64,
    /// The settings then.
    settings: Arc<Settings>,
}

impl Current {
    /// The open transaction, or one that `begin` gives, which is then implicit.
    ///
    /// # Errors
    /// `InFailedTransaction`.
    pub(crate) fn get_or_begin(
        &mut self,
        begin: impl FnOnce() -> Arc<dyn Transaction>,
    ) -> Result<&Arc<dyn Transaction>> {
        let open = self.0.get_or_insert_with(|| Open {
            txn: begin(),
            began: clock::now(),
            explicit: false,
            failed: false,
            used: false,
            savepoints: vec![],
        });
        if open.failed {
            return Err(failed());
        }
        open.used = true;
        Ok(&open.txn)
    }

    /// The open transaction.
    pub(crate) fn txn(&self) -> Option<&Arc<dyn Transaction>> {
        self.0.as_ref().map(|o| &o.txn)
    }

    /// When the open transaction began, in microseconds since 1970; now, when none is open.
    pub(crate) fn began(&self) -> i64 {
        self.0.as_ref().map_or_else(clock::now, |o| o.began)
    }

    /// Whether a transaction block is open.
    pub(crate) fn is_explicit(&self) -> bool {
        self.0.as_ref().is_some_and(|o| o.explicit)
    }

    /// Whether only ROLLBACK is possible.
    pub(crate) fn is_failed(&self) -> bool {
        self.0.as_ref().is_some_and(|o| o.failed)
    }

    /// Whether a statement has run in it.
    pub(crate) fn is_used(&self) -> bool {
        self.0.as_ref().is_some_and(|o| o.used)
    }

    /// Number of savepoints.
    pub(crate) fn savepoints(&self) -> usize {
        self.0.as_ref().map_or(0, |o| o.savepoints.len())
    }

    /// Opens a transaction block; an implicit transaction becomes one. False: one was open already.
    pub(crate) fn begin_block(&mut self, begin: impl FnOnce() -> Arc<dyn Transaction>) -> bool {
        match &mut self.0 {
            Some(open) => !std::mem::replace(&mut open.explicit, true),
            None => {
                self.0 = Some(Open {
                    txn: begin(),
                    began: clock::now(),
                    explicit: true,
                    failed: false,
                    used: false,
                    savepoints: vec![],
                });
                true
            }
        }
    }

    /// Marks the transaction as failed.
    pub(crate) fn fail(&mut self) {
        if let Some(open) = &mut self.0 {
            open.failed = true;
        }
    }

    /// Commits what is open. False: it had failed and was rolled back.
    ///
    /// # Errors
    /// Those of COMMIT.
    pub(crate) async fn commit(&mut self) -> Result<bool> {
        match self.0.take() {
            Some(open) if open.failed => {
                open.txn.rollback();
                Ok(false)
            }
            Some(open) => open.txn.commit().await.map(|_| true),
            None => Ok(true),
        }
    }

    /// Rolls back what is open. False: nothing was.
    pub(crate) fn rollback(&mut self) -> bool {
        match self.0.take() {
            Some(open) => {
                open.txn.rollback();
                open.explicit
            }
            None => false,
        }
    }

    /// SAVEPOINT
    ///
    /// # Errors
    /// `NoActiveTransaction`, `InFailedTransaction`.
    pub(crate) fn savepoint(&mut self, name: String, settings: Arc<Settings>) -> Result<()> {
        let open = self.block("SAVEPOINT")?;
        if open.failed {
            return Err(failed());
        }
        let mark = open.txn.savepoint();
        open.savepoints.push(Savepoint { name, mark, settings });
        Ok(())
    }

    /// ROLLBACK TO SAVEPOINT: the savepoint stays, later ones go, and a failed transaction is well again. Returns the
    /// savepoint's number and the settings of its time.
    ///
    /// # Errors
    /// `NoActiveTransaction`, `InvalidSavepoint`.
    pub(crate) fn rollback_to(&mut self, name: &str) -> Result<(usize, Arc<Settings>)> {
        let open = self.block("ROLLBACK TO SAVEPOINT")?;
        let at = find(&open.savepoints, name)?;
        open.txn.rollback_to(open.savepoints[at].mark);
        open.savepoints.truncate(at + 1);
        open.failed = false;
        Ok((at, open.savepoints[at].settings.clone()))
    }

    /// RELEASE SAVEPOINT
    ///
    /// # Errors
    /// `NoActiveTransaction`, `InFailedTransaction`, `InvalidSavepoint`.
    pub(crate) fn release(&mut self, name: &str) -> Result<()> {
        let open = self.block("RELEASE SAVEPOINT")?;
        if open.failed {
            return Err(failed());
        }
        let at = find(&open.savepoints, name)?;
        open.savepoints.truncate(at);
        Ok(())
    }

    fn block(&mut self, what: &str) -> Result<&mut Open> {
        self.0.as_mut().filter(|o| o.explicit).ok_or_else(|| {
            Error::new(ErrorKind::NoActiveTransaction, format!("{what} can only be used in transaction blocks"))
        })
    }

    /// What ReadyForQuery reports.
    pub(crate) fn status(&self) -> TransactionStatus {
        match &self.0 {
            Some(Open { explicit: true, failed: true, .. }) => TransactionStatus::Failed,
            Some(Open { explicit: true, .. }) => TransactionStatus::InTransaction,
            _ => TransactionStatus::Idle,
        }
    }
}

fn find(savepoints: &[Savepoint], name: &str) -> Result<usize> {
    savepoints
        .iter()
        .rposition(|s| s.name == name)
        .ok_or_else(|| Error::new(ErrorKind::InvalidSavepoint, format!("savepoint \"{name}\" does not exist")))
}

/// The error for every statement in a failed transaction.
pub(crate) fn failed() -> Error {
    Error::new(
        ErrorKind::InFailedTransaction,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}
