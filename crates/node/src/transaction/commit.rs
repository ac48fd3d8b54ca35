//! The transaction's end: one durable write at one participant, or an atomic commit over several.
//!
//! A participant counts where the transaction has written, and also where it has only locked what its writes elsewhere may rest on: such
//! locks have to last until the decision. Everybody else has read, and is let go (or, where the engine validates reads, votes by ending).
//! A change of the catalog is a write at home, and so the catalog's new state *is* the decision of a transaction that changes it together with
//! tables at sites.
//!
//! Invariant: what others wait for is given back when the outcome is known, after a committed catalog is in force, whether
//! or not the session still waits for it.

use super::Txn;
use super::ddl::Ddl;
use crate::coordinator::{self, Ending, Part};
use crate::persist::Purge;
use async_trait::async_trait;
use atoll_model::{Error, Result, Timestamp};
use atoll_ports::site::{Branch, Isolation, ParticipantId};
use atoll_protocol::commit::Work;
use std::collections::BTreeMap;
use std::sync::Arc;

type Branches = Vec<(ParticipantId, Arc<dyn Branch>)>;

impl Txn {
    /// Commits what the transaction has done, and gives back what others may wait for.
    pub(super) async fn commit_branches(&self, mut branches: Branches, ddl: Option<Ddl>) -> Result<Timestamp> {
        let changes_catalog = ddl.as_ref().is_some_and(Ddl::has_changes);
        let wrote = changes_catalog || branches.iter().any(|(_, branch)| branch.has_writes());
        let _serving = match self.share_serving(wrote).await {
            Ok(guard) => guard,
            Err(error) => {
                self.release(ddl);
                return Err(error);
            }
        };
        let counts = |branch: &Arc<dyn Branch>| wrote && branch.has_locks();
        let home = self.node.home().participant();
        let mut deciding = branches.iter().filter(|(_, branch)| counts(branch)).map(|(p, _)| *p);
        let alone = match (deciding.next(), deciding.next()) {
            (_, Some(_)) => false,
            (Some(only), None) => !changes_catalog || only == home,
            (None, None) => true,
        };
        if alone && !changes_catalog {
            let outcome = commit_alone(branches, counts).await;
            self.release(ddl.filter(|_| outcome.is_err()));
            return outcome;
        }
        let dropped = match self.prepare_catalog(&mut branches, ddl.as_ref()).await {
            Ok(dropped) => dropped,
            Err(error) => {
                self.release(ddl);
                return Err(error);
            }
        };
        let Some(txn) = self.this.upgrade() else { return Err(Error::internal("a transaction outlived itself")) };
        let settle = Box::new(Settle { txn, ddl, dropped });
        if alone {
            // In a task of its own, so that a catalog that was committed comes into force also if nobody waits any more.
            let committing = tokio::spawn(async move {
                let counts = |branch: &Arc<dyn Branch>| branch.has_locks();
                let outcome = commit_alone(branches, counts).await;
                settle.end(outcome.is_ok()).await;
                outcome
            });
            return committing.await.unwrap_or_else(|panic| Err(Error::internal(panic.to_string()).indeterminate()));
        }
        let parts = match self.parts(branches, counts) {
            Ok(parts) => parts,
            Err(error) => {
                settle.end(false).await;
                return Err(error);
            }
        };
        coordinator::commit(&self.node.coordinator, self.id, parts, settle).await
    }

    /// What a serializable transaction has read is validated where it has read it. If other copies serve now, those that write at them
    /// would not meet it, so it cannot commit; and none may begin to serve while it does.
    async fn share_serving(&self, wrote: bool) -> Result<Option<tokio::sync::RwLockReadGuard<'_, ()>>> {
        if !wrote || self.options.isolation != Isolation::Serializable {
            return Ok(None);
        }
        let guard = self.node.copies.serving.read().await;
        self.check_unmoved()?;
        Ok(Some(guard))
    }

    /// Puts the changed catalog into the branch at home.
    async fn prepare_catalog(&self, branches: &mut Branches, ddl: Option<&Ddl>) -> Result<Vec<Purge>> {
        let Some(ddl) = ddl.filter(|ddl| ddl.has_changes()) else { return Ok(vec![]) };
        let home = self.node.home().participant();
        let branch = match branches.iter().find(|(p, _)| *p == home) {
            Some((_, branch)) => branch.clone(),
            None => {
                let branch = self.node.home().begin(self.options).await?;
                branches.push((home, branch.clone()));
                branch
            }
        };
        ddl.write(&self.node, &*branch).await
    }

    /// The branches as the coordinator wants them.
    fn parts(
        &self,
        branches: Branches,
        counts: impl Fn(&Arc<dyn Branch>) -> bool,
    ) -> Result<BTreeMap<ParticipantId, Part>> {
        let committed = self.node.definitions.load();
        let mut known = vec![self.node.home().participant()];
        for id in committed.sites.keys() {
            known.push(self.node.participant(*id)?);
        }
        let mut parts = BTreeMap::new();
        for (p, branch) in branches {
            let work = if counts(&branch) {
                Work::Wrote
            } else if self.options.isolation == Isolation::Serializable {
                Work::ValidatedRead
            } else {
                Work::Read
            };
            if work == Work::Wrote && !known.contains(&p) {
                // After a crash nobody would know of the site at which a branch is prepared.
                return Err(Error::unsupported("creating a site and writing to it in one transaction")
                    .hint("COMMIT between them."));
            }
            let site = self.node.sites.of_participant(p);
            let site = site.ok_or_else(|| Error::internal(format!("participant {p} has no site")))?;
            parts.insert(p, Part { site, branch, work });
        }
        Ok(parts)
    }
}

/// Commits with at most one participant whose commit matters: the others, which may still find that their reads fit no serial order,
/// come first.
async fn commit_alone(branches: Branches, counts: impl Fn(&Arc<dyn Branch>) -> bool) -> Result<Timestamp> {
    let mut timestamp = Timestamp(0);
    let (writers, readers): (Branches, Branches) = branches.into_iter().partition(|(_, branch)| counts(branch));
    for (_, branch) in readers.into_iter().chain(writers) {
        timestamp = branch.commit().await?;
    }
    Ok(timestamp)
}

/// What follows from the outcome.
struct Settle {
    txn: Arc<Txn>,
    ddl: Option<Ddl>,
    dropped: Vec<Purge>,
}

#[async_trait]
impl Ending for Settle {
    async fn end(self: Box<Self>, committed: bool) {
        let Settle { txn, ddl, dropped } = *self;
        match ddl {
            Some(ddl) if committed => {
                if ddl.has_changes() {
                    ddl.publish(&txn.node, dropped).await;
                }
                txn.release(None);
            }
            ddl => txn.release(ddl),
        }
    }
}
