//! The task that builds copies of one fragment, and of those that correspond to it in co-located tables, at one site: all are copied, all
//! are verified, and then they serve, all at once.
//!
//! Invariant: what fails in a way that may pass is tried again, after a pause; anything else ends the task, and is told.

use super::chunk::{self, Outcome, Target};
use super::course::{self, Course, Pace, Pass};
use super::{Copy, Standing, patience};
use crate::coordinator;
use crate::definitions::Definitions;
use crate::node::Node;
use crate::persist;
use atoll_model::{Building, Catalog, CatalogCommand, Error, ErrorKind, Fragmentation, Result, Table};
use atoll_ports::cluster::{MoveInfo, Transaction as _};
use atoll_ports::site::BranchOptions;
use atoll_protocol::Backoff;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Pauses after failures.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(10) };

/// After a copy that is to catch up was found to differ: before it is gone through once more.
const AGAIN: Duration = Duration::from_secs(30);

/// Copies to be built: of the fragments that correspond to each other, the one of the table from which the others are derived.
pub(super) fn wanted(definitions: &Definitions) -> Vec<(Copy, Building)> {
    let roots = definitions.tables.values().filter(|t| !matches!(t.fragmentation, Fragmentation::Derived { .. }));
    let copies = roots.flat_map(|t| &t.fragments).flat_map(|f| f.joining.iter().map(|(s, b)| ((f.id, *s), *b)));
    copies.collect()
}

/// The copies that are built together with one, with their tables and names.
struct Member {
    target: Target,
    building: Building,
    table: Arc<Table>,
    at: usize,
}

fn members(definitions: &Definitions, (fragment, site): Copy) -> Vec<Member> {
    let Some((root, at)) = definitions.fragment_by_id(fragment) else { return vec![] };
    let member = |table: &Arc<Table>| {
        let fragment = table.fragments.get(at)?;
        let building = *fragment.joining.get(&site)?;
        let target = Target { table: table.id, fragment: fragment.id, site };
        Some(Member { target, building, table: table.clone(), at })
    };
    let group = definitions.co_located(root.id);
    group.iter().filter_map(|id| definitions.tables.get(id)).filter_map(member).collect()
}

/// Builds until the copies serve, are given up, or cannot be built.
pub(super) async fn run(node: Weak<Node>, copy: Copy) {
    let (mut failures, mut pace) = (0, Pace::default());
    loop {
        let (settled, pause) = {
            let Some(node) = node.upgrade() else { return };
            let pause = match step(&node, copy, &mut pace).await {
                Ok(Step::On) => {
                    failures = 0;
                    Duration::ZERO
                }
                Ok(Step::Later(pause)) => pause,
                Ok(Step::End) => return end(&node, copy),
                Err(error) if passes(&error) => {
                    tracing::info!(fragment = %copy.0, site = %copy.1, %error, "building a copy is held up");
                    note(&node, copy, error, false);
                    pace.slower();
                    failures += 1;
                    BACKOFF.after(failures)
                }
                Err(error) => {
                    tracing::error!(fragment = %copy.0, site = %copy.1, %error, "a copy cannot be built");
                    note(&node, copy, error, true);
                    // Whoever waits for the move is told; this task comes to its own pause afterwards.
                    node.copies.settled.notify_waiters();
                    // Nothing more until it is given up.
                    AGAIN
                }
            };
            (node.copies.settled.clone(), pause)
        };
        if !pause.is_zero() {
            let _ = tokio::time::timeout(pause, settled.notified()).await;
        }
    }
}

/// Whether what went wrong may be over soon.
fn passes(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::SiteUnavailable
            | ErrorKind::SerializationFailure
            | ErrorKind::Deadlock
            | ErrorKind::LockTimeout
            | ErrorKind::StatementCompletionUnknown
            | ErrorKind::UniqueViolation
            | ErrorKind::TooManyConnections
            | ErrorKind::DiskFull
            | ErrorKind::OutOfMemory
    )
}

enum Step {
    On,
    Later(Duration),
    End,
}

async fn step(node: &Arc<Node>, copy: Copy, pace: &mut Pace) -> Result<Step> {
    let members = members(&node.definitions.load(), copy);
    if members.is_empty() {
        return Ok(Step::End);
    }
    if node
        .copies
        .standing(copy)
        .is_some_and(|s| s.failed && members.iter().any(|m| m.building.since == s.course.since))
    {
        return Ok(Step::Later(AGAIN));
    }
    for pass in [Pass::Copy, Pass::Verify] {
        for member in &members {
            let mut course = course_of(node, member).await?;
            if course.pass != pass {
                continue;
            }
            let outcome = chunk::run(node, member.target, &course, *pace).await?;
            return match outcome {
                Outcome::Done(progress) => {
                    pace.faster();
                    course.advance(progress);
                    keep(node, member.target, course).await?;
                    Ok(Step::On)
                }
                Outcome::Held => {
                    pace.single();
                    Ok(Step::On)
                }
                Outcome::Gone => Ok(Step::On),
                Outcome::Differs(error) if member.building.stale => {
                    tracing::error!(%error, "a copy that was to have caught up has not; it is gone through once more");
                    keep(node, member.target, Course { began: course.began, ..fresh(member) }).await?;
                    note(node, copy, error, false);
                    Ok(Step::Later(AGAIN))
                }
                Outcome::Differs(error) => Err(error),
            };
        }
    }
    switch(node, &members).await?;
    Ok(Step::On)
}

/// Has the copies serve.
async fn switch(node: &Arc<Node>, members: &[Member]) -> Result<()> {
    let Some(Member { table, at, target, .. }) = members.first() else { return Ok(()) };
    let txn = node.begin_own(BranchOptions { lock_timeout: Duration::from_secs(5), ..patience() });
    let catalog = txn.catalog();
    let site = catalog.sites.get(&target.site).map_or_else(String::new, |s| s.name.clone());
    let fragment = table.fragments[*at].name.clone();
    if !are_building(&catalog, members) {
        return Ok(());
    }
    txn.apply(CatalogCommand::PromoteCopy {
        table: table.name.clone(),
        fragment: fragment.clone(),
        site: site.clone(),
    })
    .await?;
    // Under the locks that the command has taken: nothing was set aside, and begun again, in between.
    if !are_building(&node.definitions.load(), members) {
        return Ok(());
    }
    {
        let _serving = node.copies.serving.write().await;
        txn.commit().await?;
    }
    let moved = members.iter().any(|m| m.building.replaces.is_some());
    tracing::info!(fragment, site, moved, "a new copy serves");
    Ok(())
}

/// Whether the copies are still those that were begun.
fn are_building(catalog: &Catalog, members: &[Member]) -> bool {
    members.iter().all(|m| {
        let table = catalog.tables.get(&m.target.table);
        let fragment = table.and_then(|t| t.fragments.get(t.fragment_position(m.target.fragment)?));
        fragment.and_then(|f| f.joining.get(&m.target.site)).is_some_and(|b| b.since == m.building.since)
    })
}

/// Takes a copy's task out of the books.
fn end(node: &Arc<Node>, copy: Copy) {
    let definitions = node.definitions.load_full();
    let fragment = definitions.fragment_by_id(copy.0);
    let mut gone = vec![copy];
    if let Some((table, at)) = fragment {
        let group = definitions.co_located(table.id);
        gone.extend(group.iter().filter_map(|id| Some((definitions.tables.get(id)?.fragments.get(at)?.id, copy.1))));
    }
    let paused = fragment.is_some_and(|(t, at)| t.fragments[at].behind.contains_key(&copy.1));
    let serves = fragment.is_some_and(|(t, at)| t.fragments[at].replicas.contains(&copy.1));
    let standing = node.copies.standing(copy);
    if let (Some((table, at)), Some(standing), false) = (fragment, standing, paused) {
        let mut ended = node.copies.ended.lock();
        ended.push_back(MoveInfo {
            table: table.name.clone(),
            fragment: table.fragments[at].name.clone(),
            source: None,
            target: definitions.site_name(copy.1),
            state: if serves { "done" } else { "cancelled" },
            rows: standing.course.rows,
            rows_estimated: standing.course.rows,
            rows_written: standing.course.written,
            began: Some(standing.course.began),
            last_error: standing.error.map(|e| e.message().to_owned()),
        });
        while ended.len() > super::REMEMBERED {
            ended.pop_front();
        }
    }
    node.copies.standing.lock().retain(|known, _| !gone.contains(known));
    node.copies.tasks.lock().remove(&copy);
    node.copies.settled.notify_waiters();
    let node = node.clone();
    // What is left of it would not be taken for a later attempt's, but need not be kept.
    tokio::spawn(async move {
        let forgotten = async {
            let branch = node.home_branch().await?;
            for (fragment, site) in gone {
                persist::remove(&*branch, &persist::course(site, fragment))?;
            }
            branch.commit().await
        };
        if let Err(error) = forgotten.await {
            tracing::debug!(%error, "how far a copy was could not be forgotten");
        }
    });
}

/// Removes what a crash has left of copies that are not being built any more.
pub(super) async fn forget_ended(node: &Arc<Node>) -> Result<()> {
    let definitions = node.definitions.load_full();
    let fragments = definitions.tables.values().flat_map(|t| &t.fragments);
    let wanted: BTreeSet<Vec<u8>> =
        fragments.flat_map(|f| f.joining.keys().map(|site| persist::course(*site, f.id))).collect();
    let branch = node.home_branch().await?;
    let ended: Vec<Vec<u8>> =
        persist::keys(&*branch, persist::COURSES)?.into_iter().filter(|key| !wanted.contains(key)).collect();
    if ended.is_empty() {
        branch.rollback();
        return Ok(());
    }
    for key in ended {
        persist::remove(&*branch, &key)?;
    }
    branch.commit().await.map(|_| ())
}

fn fresh(member: &Member) -> Course {
    Course::new(member.building.since, coordinator::wall_clock())
}

/// How far a copy is: as it is known, or was kept.
async fn course_of(node: &Arc<Node>, member: &Member) -> Result<Course> {
    let copy = (member.target.fragment, member.target.site);
    let current = |course: &Course| course.since == member.building.since;
    if let Some(standing) = node.copies.standing(copy).filter(|s| current(&s.course)) {
        return Ok(standing.course);
    }
    let branch = node.home_branch().await?;
    let key = persist::course(copy.1, copy.0);
    let kept = persist::read::<Course>(&*branch, "progress of a copy", &key, course::FORMAT)?.filter(current);
    branch.rollback();
    let course = kept.unwrap_or_else(|| fresh(member));
    let standing = Standing { course: course.clone(), error: None, failed: false };
    node.copies.standing.lock().insert(copy, standing);
    Ok(course)
}

/// Keeps how far a copy is. Need not be durable at once: it only may not be ahead of the rows.
async fn keep(node: &Arc<Node>, target: Target, course: Course) -> Result<()> {
    let copy = (target.fragment, target.site);
    let branch = node.home().begin(BranchOptions { synchronous_commit: false, ..BranchOptions::default() }).await?;
    persist::write(&*branch, &persist::course(copy.1, copy.0), course::FORMAT, &course)?;
    branch.commit().await?;
    if let Some(standing) = node.copies.standing.lock().get_mut(&copy) {
        standing.course = course;
        standing.failed = false;
    }
    Ok(())
}

fn note(node: &Node, copy: Copy, error: Error, failed: bool) {
    if let Some(standing) = node.copies.standing.lock().get_mut(&copy) {
        standing.error = Some(error);
        standing.failed = failed;
    }
}
