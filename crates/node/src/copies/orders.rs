//! MOVE FRAGMENT and CANCEL MOVE as the client sees them, and the rows of `atoll.moves`.

use super::course::Pass;
use super::patience;
use crate::node::Node;
use atoll_model::{CatalogCommand, Error, ErrorKind, FragmentId, Result, SiteId, Table};
use atoll_ports::cluster::{Cluster as _, MoveInfo, MoveOrder, Transaction as _};
use atoll_ports::site::BranchOptions;
use std::time::Duration;

/// How long it is tried to begin, or to give up, a move while others use the table.
const LOCK: Duration = Duration::from_secs(30);

/// Begins a move, and waits for it if that is wanted.
pub(crate) async fn move_fragment(node: &Node, order: MoveOrder) -> Result<()> {
    let MoveOrder { table, fragment, from, to, wait } = order;
    let begin = CatalogCommand::BeginMove { table: table.clone(), fragment: fragment.clone(), from, to: to.clone() };
    wait_for_purge(node, &table, &fragment, &to).await;
    apply(node, begin).await?;
    let catalog = node.catalog();
    let (found, at) = catalog.fragment_named(Some(&table), &fragment)?;
    // The task is the one of the table from which the others are derived.
    let root = catalog.co_located(found.id).first().and_then(|id| catalog.tables.get(id)).unwrap_or(found);
    let copy = (root.fragments[at].id, catalog.site(&to).map_or(SiteId(0), |s| s.id));
    node.copies.wake();
    if wait { wait_for(node, copy, &fragment).await } else { Ok(()) }
}

/// Gives an earlier copy at the same site some time to be removed.
async fn wait_for_purge(node: &Node, table: &str, fragment: &str, to: &str) {
    let catalog = node.catalog();
    let (Ok((table, at)), Some(site)) = (catalog.fragment_named(Some(table), fragment), catalog.site(to)) else {
        return;
    };
    let group = catalog.co_located(table.id);
    let fragments = || group.iter().filter_map(|id| Some(catalog.tables.get(id)?.fragments.get(at)?.id));
    let until = tokio::time::Instant::now() + LOCK;
    while fragments().any(|id| node.is_being_purged(site.id, id)) && tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn wait_for(node: &Node, copy: (FragmentId, SiteId), name: &str) -> Result<()> {
    loop {
        let settled = node.copies.settled.notified();
        tokio::pin!(settled);
        settled.as_mut().enable();
        let definitions = node.definitions.load_full();
        let fragment = definitions.fragment_by_id(copy.0).map(|(table, at)| &table.fragments[at]);
        match fragment {
            None => {
                return Err(Error::new(
                    ErrorKind::NotInPrerequisiteState,
                    format!("fragment \"{name}\" was dropped, or emptied, while it was moved"),
                )
                .hint("A move of a fragment that was emptied goes on: see atoll.moves."));
            }
            Some(f) if f.replicas.contains(&copy.1) => return Ok(()),
            Some(f) if !f.copies().any(|site| site == copy.1) => {
                return Err(Error::new(
                    ErrorKind::NotInPrerequisiteState,
                    format!("the move of fragment \"{name}\" was cancelled"),
                ));
            }
            Some(_) => {}
        }
        if let Some(standing) = node.copies.standing(copy).filter(|s| s.failed)
            && let Some(error) = standing.error
        {
            return Err(error);
        }
        // Should a notification come from somewhere else than expected, it is looked now and then.
        let _ = tokio::time::timeout(super::PERIOD, settled).await;
    }
}

/// Gives a move up.
pub(crate) async fn cancel_move(node: &Node, table: &str, fragment: &str) -> Result<()> {
    apply(node, CatalogCommand::CancelMove { table: table.into(), fragment: fragment.into() }).await?;
    node.copies.wake();
    node.copies.settled.notify_waiters();
    Ok(())
}

async fn apply(node: &Node, command: CatalogCommand) -> Result<()> {
    let txn = node.begin_own(BranchOptions { lock_timeout: LOCK, ..patience() });
    txn.apply(command).await?;
    txn.commit().await.map(|_| ())
}

/// What there is to see.
pub(crate) fn moves(node: &Node) -> Vec<MoveInfo> {
    let definitions = node.definitions.load_full();
    let site = |id: SiteId| definitions.site_name(id);
    let mut all: Vec<MoveInfo> = node.copies.ended.lock().iter().cloned().collect();
    let show = |table: &Table, at: usize, to: SiteId, replaces: Option<SiteId>, behind: bool| {
        let fragment = &table.fragments[at];
        let standing = node.copies.standing((fragment.id, to));
        let course = standing.as_ref().map(|s| &s.course);
        let state = match course.map(|c| c.pass) {
            _ if behind => "waiting for the site",
            _ if standing.as_ref().is_some_and(|s| s.failed) => "failed",
            None => "starting",
            Some(Pass::Copy) => "copying",
            Some(Pass::Verify) => "verifying",
            Some(Pass::Done) => "switching",
        };
        MoveInfo {
            table: table.name.clone(),
            fragment: fragment.name.clone(),
            source: replaces.map(site),
            target: site(to),
            state,
            rows: course.map_or(0, |c| c.rows),
            rows_estimated: node.statistics(table, fragment.id).rows,
            rows_written: course.map_or(0, |c| c.written),
            began: course.map(|c| c.began),
            last_error: standing.as_ref().and_then(|s| s.error.as_ref()).map(|e| e.message().to_owned()),
        }
    };
    for table in definitions.tables.values() {
        for (at, fragment) in table.fragments.iter().enumerate() {
            all.extend(fragment.joining.iter().map(|(to, b)| show(table, at, *to, b.replaces, false)));
            all.extend(fragment.behind.iter().map(|(to, b)| show(table, at, *to, b.replaces, true)));
        }
    }
    all
}
