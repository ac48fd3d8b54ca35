//! Prepared transactions that nobody is going to end.
//!
//! Invariant: one is only said to be orphaned if it was there, without anybody who would end it, twice, and some time apart: what a
//! coordinator that lives is ending just now, be it one of another cluster that uses the same database, is gone by then.

use crate::node::Node;
use atoll_ports::cluster::InDoubt;
use atoll_ports::verify::{Finding, FindingKind, Verified};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The time between the two looks at least.
const APART: Duration = Duration::from_secs(1);

/// What was there at the first look.
pub(super) struct Suspects {
    node: Arc<Node>,
    /// The sites that are looked at; `None`: all.
    scope: Option<BTreeSet<String>>,
    seen: Instant,
    names: BTreeSet<(String, String)>,
}

impl Suspects {
    pub(super) async fn look(node: Arc<Node>, scope: Option<BTreeSet<String>>) -> Self {
        let mut suspects = Suspects { node, scope, seen: Instant::now(), names: BTreeSet::new() };
        suspects.names = suspects.listed().await.iter().filter_map(name).collect();
        suspects.seen = Instant::now();
        suspects
    }

    async fn listed(&self) -> Vec<InDoubt> {
        let mut all = self.node.coordinator.in_doubt().await;
        all.retain(|branch| self.scope.as_ref().is_none_or(|scope| scope.contains(&branch.site)));
        all
    }

    /// Those that are still there.
    pub(super) async fn left(self) -> Vec<Verified> {
        if !self.names.is_empty() {
            tokio::time::sleep_until(self.seen + APART).await;
        }
        let mut findings = vec![];
        for branch in self.listed().await {
            if let Some(problem) = &branch.problem {
                findings.push(unlisted(branch.site.clone(), problem));
            } else if let Some(name) = name(&branch)
                && self.names.contains(&name)
            {
                findings.push(orphaned(name, &branch));
            }
        }
        findings.into_iter().map(Verified::Finding).collect()
    }
}

/// Site and name of one that nobody is going to end.
fn name(branch: &InDoubt) -> Option<(String, String)> {
    let prepared = branch.branch.as_ref().filter(|_| branch.decision.is_none())?;
    Some((branch.site.clone(), prepared.name.to_string()))
}

fn orphaned((site, gid): (String, String), branch: &InDoubt) -> Finding {
    let owner = branch.owner.unwrap_or("unknown");
    let detail = match &branch.transaction {
        Some(transaction) => format!(
            "prepared by {owner}, and nobody here knows its decision; atoll.resolve_transaction('{transaction}', …) ends it"
        ),
        None => "prepared under a name that no Atoll gives; end it at the site".to_owned(),
    };
    let (kind, object) = (FindingKind::Orphaned, Some(gid));
    Finding { table: None, fragment: None, site, kind, object, rows: None, detail }
}

fn unlisted(site: String, problem: &str) -> Finding {
    let detail = format!("its prepared transactions cannot be listed: {problem}");
    Finding { table: None, fragment: None, site, kind: FindingKind::Unavailable, object: None, rows: None, detail }
}
