//! The decision log: records among the node's own values, at the embedded participant.
//!
//! Invariant: a record is durable before it is told to be, and in the same durable write as the embedded participant's own part of the
//! transaction. Deleting one need not be durable, so deletions are collected and written many at a time.

use super::history::{Entry, History};
use crate::persist;
use atoll_model::Result;
use atoll_ports::site::{Branch, BranchOptions, Site};
use atoll_protocol::Decision;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};
use std::time::Duration;

const FORMAT: u32 = 1;

/// How long a record that is not needed any more may stay.
const PERIOD: Duration = Duration::from_millis(200);

/// Deletions in one write.
const AT_ONCE: usize = 1024;

/// Deletions that wait at most. What is not taken is found again at the next start.
const MOST: usize = 64 * AT_ONCE;

/// All records.
pub(crate) fn read(branch: &dyn Branch) -> Result<Vec<Decision>> {
    persist::list(branch, "decision", persist::DECISIONS, FORMAT)
}

/// Puts a record into the branch whose commit is the decision.
pub(super) fn write(branch: &dyn Branch, decision: &Decision) -> Result<()> {
    persist::require_durable(branch)?;
    persist::write(branch, &persist::decision(&decision.transaction), FORMAT, decision)
}

/// Records to be deleted.
pub(super) struct Forgotten(Arc<Waiting>);

struct Waiting {
    decisions: Mutex<Vec<Decision>>,
    history: Mutex<History>,
}

impl Forgotten {
    pub(super) fn begin(home: Arc<dyn Site>, history: History) -> Self {
        let waiting = Arc::new(Waiting { decisions: Mutex::default(), history: Mutex::new(history) });
        tokio::spawn(run(Arc::downgrade(&waiting), home));
        Forgotten(waiting)
    }

    /// Remembers how a transaction has ended.
    pub(super) fn note(&self, entry: Entry) {
        self.0.history.lock().add(entry);
    }

    /// The transactions that have ended, the newest first.
    pub(super) fn ended(&self) -> Vec<Entry> {
        self.0.history.lock().newest().cloned().collect()
    }

    /// Has a record deleted, some time; its entry in the history was noted before.
    pub(super) fn add(&self, decision: Decision) {
        let mut decisions = self.0.decisions.lock();
        if decisions.len() < MOST {
            decisions.push(decision);
        }
    }

    /// Deletes what waits, now.
    pub(super) async fn flush(&self, home: &Arc<dyn Site>) -> Result<()> {
        while delete(&self.0, home).await? {}
        Ok(())
    }
}

async fn run(waiting: Weak<Waiting>, home: Arc<dyn Site>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(waiting) = waiting.upgrade() else { return };
        if let Err(error) = delete(&waiting, &home).await {
            tracing::warn!(%error, "records of finished transactions could not be deleted; trying again later");
        }
    }
}

/// Deletes some; false: there were none.
async fn delete(waiting: &Waiting, home: &Arc<dyn Site>) -> Result<bool> {
    let some: Vec<Decision> = {
        let mut decisions = waiting.decisions.lock();
        let from = decisions.len().saturating_sub(AT_ONCE);
        decisions.split_off(from)
    };
    // After the decisions were taken, so that it has their entries.
    let history = waiting.history.lock().take_changes();
    if some.is_empty() && history.is_empty() {
        return Ok(false);
    }
    let outcome = async {
        let branch = home.begin(BranchOptions { synchronous_commit: false, ..BranchOptions::default() }).await?;
        history.write(&*branch)?;
        for decision in &some {
            persist::remove(&*branch, &persist::decision(&decision.transaction))?;
        }
        branch.commit().await
    };
    let outcome = outcome.await;
    if outcome.is_err() {
        waiting.history.lock().give_back(history);
        waiting.decisions.lock().extend(some);
    }
    outcome.map(|_| true)
}
