//! Purging fragments that were dropped: when no open transaction reads by a catalog that has them.
//!
//! Invariant: the list of what is to be purged is committed together with the catalog that dropped it, and an entry leaves the list
//! only after its rows are gone, so a crash at any point leaks nothing.

use crate::meta::{self, Dropped};
use crate::node::Node;
use atoll_model::Result;
use atoll_ports::site::BranchOptions;
use std::sync::Weak;
use std::time::Duration;

/// How long to wait before looking again for transactions that hold a purge up.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until the node is dropped.
pub(crate) async fn run(node: Weak<Node>) {
    loop {
        let Some(strong) = node.upgrade() else { return };
        let again = match pass(&strong).await {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!(%error, "purging dropped fragments failed; it will be tried again");
                true
            }
        };
        if again {
            drop(strong);
            tokio::time::sleep(RETRY).await;
        } else {
            // The node cannot be held while waiting: wake up now and then to see whether it is still there.
            let _ = tokio::time::timeout(RETRY * 10, strong.purge.notified()).await;
        }
    }
}

/// Purges what can be; true: something is left.
async fn pass(node: &Node) -> Result<bool> {
    let branch = node.local_branch(BranchOptions::default()).await?;
    let pending: Vec<Dropped> = meta::get(branch.as_ref(), meta::PURGE)?.unwrap_or_default();
    branch.rollback();
    if pending.is_empty() {
        return Ok(false);
    }
    let oldest = node.oldest_version();
    let (ready, left): (Vec<_>, Vec<_>) = pending.into_iter().partition(|d| d.version <= oldest);
    let catalog = node.current();
    for dropped in &ready {
        for site in &dropped.sites {
            // A site that was dropped since has taken the fragment with it.
            if catalog.sites.contains_key(site) {
                node.site(&catalog, *site)?.purge(dropped.fragment).await?;
            }
        }
    }
    if !ready.is_empty() {
        // The DDL lock keeps transactions from adding to the list meanwhile.
        let _guard = node.ddl.lock().await;
        let branch = node.local_branch(BranchOptions::default()).await?;
        let now: Vec<Dropped> = meta::get(branch.as_ref(), meta::PURGE)?.unwrap_or_default();
        let rest: Vec<Dropped> = now.into_iter().filter(|d| !ready.contains(d)).collect();
        meta::put(branch.as_ref(), meta::PURGE, &rest)?;
        branch.commit().await?;
    }
    Ok(!left.is_empty())
}
