//! Copies at sites that are down, and the way back.
//!
//! Invariants: a copy is set aside by a durable change of the catalog, before any write leaves it out; it is never the last that serves; it
//! comes back by being built, like a new one.

use super::patience;
use crate::node::Node;
use atoll_model::{CatalogCommand, Error, ErrorKind, Result, SiteId};
use atoll_ports::cluster::Transaction as _;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How long a statement waits until copies at a site that is down are set aside.
const WAIT: Duration = Duration::from_secs(10);

/// Sets aside what was found to be down, and brings back what is there again.
pub(super) async fn once(node: &Arc<Node>) {
    let down: Vec<SiteId> = node.copies.down.lock().iter().copied().collect();
    for site in down {
        let outcome = set(node, site).await;
        match outcome {
            Ok(()) => drop(node.copies.down.lock().remove(&site)),
            Err(error) => {
                tracing::warn!(%site, %error, "copies at a site that is down could not be set aside; trying again")
            }
        }
        node.copies.settled.notify_waiters();
    }
    let definitions = node.definitions.load_full();
    let behind = definitions.tables.values().flat_map(|t| &t.fragments).flat_map(|f| f.behind.keys().copied());
    for site in behind.collect::<BTreeSet<_>>() {
        let Ok(open) = node.sites.get(site) else { continue };
        // Whether it answers.
        if open.site.in_doubt().await.is_err() {
            continue;
        }
        let Some(name) = definitions.sites.get(&site).map(|s| s.name.clone()) else { continue };
        match change(node, CatalogCommand::Rejoin { site: name.clone() }).await {
            Ok(()) => tracing::info!(site = name, "a site is back; its copies catch up"),
            Err(error) => tracing::warn!(site = name, %error, "copies could not be brought back; trying again"),
        }
    }
}

async fn set(node: &Arc<Node>, site: SiteId) -> Result<()> {
    let definitions = node.definitions.load_full();
    let Some(name) = definitions.sites.get(&site).map(|s| s.name.clone()) else { return Ok(()) };
    if !definitions.can_set_behind(site) {
        return Ok(());
    }
    // It may have been a short interruption.
    let Ok(open) = node.sites.get(site) else { return Ok(()) };
    if open.site.in_doubt().await.is_ok() {
        return Ok(());
    }
    change(node, CatalogCommand::SetBehind { site: name.clone() }).await?;
    tracing::warn!(site = name, "a site is down; its copies are set aside");
    Ok(())
}

async fn change(node: &Arc<Node>, command: CatalogCommand) -> Result<()> {
    let txn = node.begin_own(patience());
    txn.apply(command).await?;
    let _serving = node.copies.serving.write().await;
    txn.commit().await.map(|_| ())
}

/// Waits until the copies at a site are set aside, or the site is back.
pub(crate) async fn set_aside(node: &Node, site: SiteId) -> Result<()> {
    node.copies.report_down(site);
    let done = async {
        loop {
            let settled = node.copies.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if !node.copies.down.lock().contains(&site) {
                return;
            }
            settled.await;
        }
    };
    tokio::time::timeout(WAIT, done).await.map_err(|_| {
        let name = node.definitions.load().site_name(site);
        Error::new(
            ErrorKind::SiteUnavailable,
            format!("site \"{name}\" is down, and its copies could not be set aside"),
        )
        .detail("Transactions that are open hold locks on their tables.")
        .hint("Run the transaction again.")
    })
}
