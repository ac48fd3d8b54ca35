//! Removing the rows of fragments that no catalog names any more, once nobody can read them.
//!
//! Invariant: a fragment's copy is in the durable list from the commit that drops it until its rows are gone, so a crash leaks nothing;
//! ids are never reused, so purging twice is harmless.

use crate::node::Node;
use crate::persist::{self, PURGES, Purge};
use atoll_model::Result;
use std::sync::{Arc, Weak};
use std::time::Duration;

pub(crate) const FORMAT: u32 = 1;

/// How often it is looked whether older transactions have ended.
const PERIOD: Duration = Duration::from_millis(500);

/// A copy to be purged, and the number below which transactions may still read it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) purge: Purge,
    pub(crate) boundary: u64,
}

/// Works the list off until the node is gone.
pub(crate) async fn run(node: Weak<Node>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(node) = node.upgrade() else { return };
        if let Err(error) = once(&node).await {
            tracing::warn!(%error, "dropped fragments could not be purged; trying again later");
        }
    }
}

/// Purges what can be purged now.
pub(crate) async fn once(node: &Arc<Node>) -> Result<()> {
    let oldest = node.active.oldest().unwrap_or(u64::MAX);
    let ready: Vec<Purge> = node.purges.lock().iter().filter(|p| p.boundary <= oldest).map(|p| p.purge).collect();
    if ready.is_empty() {
        return Ok(());
    }
    let (mut done, mut outcome) = (vec![], Ok(()));
    for (site, fragment) in ready {
        // A site that is down does not keep the others' from being purged.
        let purged = async { node.sites.ensure_dropped(site)?.purge(fragment).await };
        match purged.await {
            Ok(()) => done.push((site, fragment)),
            Err(error) => outcome = Err(error),
        }
    }
    if done.is_empty() {
        return outcome;
    }
    // The list has one writer at a time: who holds the DDL lock.
    let _ddl = node.ddl.lock().await;
    let branch = node.home_branch().await?;
    let mut stored: Vec<Purge> =
        persist::read(&*branch, "list of dropped fragments", PURGES, FORMAT)?.unwrap_or_default();
    stored.retain(|p| !done.contains(p));
    persist::write(&*branch, PURGES, FORMAT, &stored)?;
    branch.commit().await?;
    node.purges.lock().retain(|p| !done.contains(&p.purge));
    tracing::debug!(fragments = done.len(), "purged dropped fragments");
    outcome
}
