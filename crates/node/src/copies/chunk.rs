//! One chunk: a transaction that makes a range of keys the same at two copies, or sees whether they are.
//!
//! Order of locks: the table's, as a writer; rows at the first serving copy; rows at the copy that is being built. Writers take them in the
//! same order, and before looking at the second copy both wait for commits between the two that are half done. Rows that others hold at the serving copy are not waited for while this transaction holds some itself: the chunk ends before
//! them.

use super::compare::{Chunk, Key, Run, change, compare};
use super::course::{Course, Pace, Pass, Progress};
use super::patience;
use crate::node::Node;
use crate::rows;
use crate::transaction::{Describe, Txn};
use atoll_model::{Error, ErrorKind, FragmentId, RelationId, Result, Row, SqlType, Table, Value};
use atoll_ports::cluster::{TableLock, Transaction as _};
use atoll_ports::digest::whole_rows;
use atoll_ports::site::{Branch, KeyRange, LockMode, LockWait, Replica, RowChange, ScanRequest};
use futures::TryStreamExt as _;
use std::ops::Bound;
use std::sync::Arc;

/// Bytes of rows of a run, after which it is cut.
const MOST_BYTES: usize = 8 << 20;

/// Rows of a batch.
const BATCH: usize = 64;

/// Which copy of what is being built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) table: RelationId,
    pub(super) fragment: FragmentId,
    pub(super) site: atoll_model::SiteId,
}

/// What became of a chunk.
pub(super) enum Outcome {
    /// It is committed.
    Done(Progress),
    /// Somebody has the next row.
    Held,
    /// The copies were to be the same and are not.
    Differs(Error),
    /// The copy is not being built any more.
    Gone,
}

/// Goes one chunk further.
pub(super) async fn run(node: &Arc<Node>, target: Target, course: &Course, pace: Pace) -> Result<Outcome> {
    let txn = node.begin_own(patience());
    let outcome = within(&txn, target, course, pace).await;
    match outcome {
        Ok(Outcome::Done(progress)) => {
            txn.commit().await?;
            Ok(Outcome::Done(progress))
        }
        other => {
            txn.rollback();
            other
        }
    }
}

async fn within(txn: &Arc<Txn>, target: Target, course: &Course, pace: Pace) -> Result<Outcome> {
    let Some(table) = txn.catalog().tables.get(&target.table).cloned() else { return Ok(Outcome::Gone) };
    txn.lock_table(&table, TableLock::Write).await?;
    let Some(at) = table.fragment_position(target.fragment) else { return Ok(Outcome::Gone) };
    let Some(building) = table.fragments[at].joining.get(&target.site).copied() else { return Ok(Outcome::Gone) };
    if building.since != course.since {
        return Ok(Outcome::Gone);
    }
    let (source, copy) = (Txn::first_replica(&table, at)?, Txn::replica(&table, at, target.site)?);
    let (here, there) = (txn.branch_at(source.site).await?, txn.branch_at(target.site).await?);
    let from = course.after.clone();
    let serving = run_of(&*here, &source, from.clone(), pace.rows()).await?;
    let being_built = run_of(&*there, &copy, from, pace.rows()).await?;
    let mut chunk = compare(&table, &serving, &being_built)?;
    if chunk.differing.is_empty() {
        return Ok(Outcome::Done(Progress { end: chunk.end, rows: chunk.rows, written: 0 }));
    }
    // What one run shows and the other does not may be a commit that is half done.
    txn.close_commits(&copy).await?;
    let wanted = lock_serving(&*here, &source, &mut chunk, pace).await?;
    if wanted.is_empty() {
        return Ok(Outcome::Held);
    }
    let found = txn.newest_there(&copy, &*there, &chunk.differing).await?;
    let keyed = chunk.differing.iter().zip(found.into_iter().zip(wanted));
    let changes: Vec<(&Key, RowChange)> =
        keyed.filter_map(|(key, (there, wanted))| Some((key, change(there, wanted)?))).collect();
    check_gone(txn, &*here, (&source, &copy), &changes).await?;
    if course.pass != Pass::Copy
        && let Some((key, change)) = changes.first()
    {
        return Ok(Outcome::Differs(difference(&table, at, key, change)));
    }
    let written = changes.len() as u64;
    let changes = changes.into_iter().map(|(_, change)| change).collect();
    txn.apply_image(&copy, &*there, building.stale, changes).await?;
    Ok(Outcome::Done(Progress { end: chunk.end, rows: chunk.rows, written }))
}

/// Locks the rows that differ at the serving copy: what they are now, or nothing if somebody else has the first of them. The chunk is cut
/// before the first row that somebody else has.
async fn lock_serving(
    branch: &dyn Branch,
    source: &Replica,
    chunk: &mut Chunk,
    pace: Pace,
) -> Result<Vec<Option<Row>>> {
    let wait = if pace.waits() { LockWait::Wait } else { LockWait::SkipLocked };
    let locked = branch.lock(source, &chunk.differing, LockMode::Exclusive, wait).await?;
    if let Some(held) = locked.iter().position(|row| !row.locked) {
        chunk.differing.truncate(held);
        chunk.end = chunk.differing.last().cloned();
        // Rows beyond are counted when it is their turn.
        chunk.rows = chunk.rows.min(held as u64);
    }
    let mut rows = Vec::with_capacity(chunk.differing.len());
    for (locked, key) in locked.into_iter().zip(&chunk.differing) {
        rows.push(match locked.row {
            // That there is none has to stay so.
            None => branch.find_unique(source, None, key, LockMode::Exclusive).await?,
            row => row,
        });
    }
    Ok(rows)
}

/// Makes sure that rows which are to be deleted are still not at the serving copy. Who brings very many rows has no locks on keys that were not
/// there; with the row at the copy that is being built, nobody can bring it any more.
async fn check_gone(
    txn: &Txn,
    branch: &dyn Branch,
    (source, copy): (&Replica, &Replica),
    changes: &[(&Key, RowChange)],
) -> Result<()> {
    let deleted = changes.iter().filter(|(_, change)| matches!(change, RowChange::Delete(_)));
    let keys: Vec<Key> = deleted.map(|(key, _)| (*key).clone()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    txn.close_commits(copy).await?;
    let found = branch.lock(source, &keys, LockMode::Exclusive, LockWait::Wait).await?;
    if found.iter().all(|locked| locked.row.is_none()) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::SerializationFailure, format!("rows of \"{}\" have come meanwhile", source.table.name)))
}

/// Rows of a copy behind a key, as many as the pace allows.
async fn run_of(branch: &dyn Branch, at: &Replica, after: Option<Key>, most: usize) -> Result<Run> {
    let table = &at.table;
    let range = KeyRange { lower: after.map_or(Bound::Unbounded, Bound::Excluded), upper: Bound::Unbounded };
    let request = ScanRequest { limit: Some(most), batch_size: BATCH, ..whole_rows(at, &range) };
    let types: Vec<&SqlType> = table.columns.iter().map(|c| &c.ty).collect();
    let mut batches = branch.scan(at, request)?;
    let (mut run, mut bytes) = (Run { rows: Vec::new(), whole: true }, 0);
    while let Some(batch) = batches.try_next().await? {
        let rows = rows::of_batch(&batch, &types)?;
        bytes += rows.iter().flatten().map(Value::size).sum::<usize>();
        run.rows.extend(rows);
        if bytes > MOST_BYTES {
            run.whole = false;
            return Ok(run);
        }
    }
    run.whole = run.rows.len() < most;
    Ok(run)
}

fn difference(table: &Table, at: usize, key: &[Value], change: &RowChange) -> Error {
    let what = match change {
        RowChange::Insert(_) => "is missing at the new copy",
        RowChange::Delete(_) => "is at the new copy only",
        RowChange::Update { .. } => "is different at the new copy",
    };
    Error::new(
        ErrorKind::DataCorrupted,
        format!("the copies of fragment \"{}\" are not the same", table.fragments[at].name),
    )
    .detail(format!("The row with the key {} {what}.", table.describe(&table.key, key)))
    .hint("Somebody has written to the new copy without Atoll. CANCEL MOVE drops it.")
    .table(&table.name)
}
