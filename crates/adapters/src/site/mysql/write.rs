//! Writing rows at a MySQL site: few statements for many rows.
//!
//! The server has no statement that updates many rows, each to its own values, and says how many there were. So many updates are a deletion
//! and an insertion, where nothing hangs on the rows but what Atoll has made; in an adopted table, they are updates one by one.
//!
//! Invariant: every statement touches exactly as many rows as it was given; if it does not, the transaction has lost its locks, and fails.

use super::branch::Inner;
use super::clash;
use super::layout::Layout;
use super::link::Link;
use super::lock;
use super::seen::{key_number, number_of};
use super::values::Params;
use crate::site::changes::{Chunks, Sorted, expect, size};
use atoll_model::{Result, Row, SqlType, Value};
use atoll_ports::site::RowChange;

/// What a statement may have at most.
const LIMITS: Chunks = Chunks { rows: 500, bytes: 4 << 20 };

/// Parameters of a statement: the server takes 65,535.
const PARAMETERS: usize = 60_000;

/// Updates from which a deletion and an insertion pay.
const MANY: usize = 4;

/// Applies changes.
pub(super) async fn apply(inner: &Inner, layout: &Layout, changes: Vec<RowChange>) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    inner.writes(&layout.table).await?;
    let link = inner.writer().await?;
    inner.touch(layout);
    let sorted = Sorted::of(&layout.table, &changes)?;
    let coming = sorted.coming();
    if !coming.is_empty() {
        lock::claim(inner, &link, layout, &coming).await?;
    }
    inner.told(write(inner, &link, layout, sorted).await)?;
    remember(inner, layout, &changes);
    Ok(())
}

async fn write(inner: &Inner, link: &Link, layout: &Layout, sorted: Sorted<'_>) -> Result<()> {
    let Sorted { mut deletes, mut updates, mut inserts, .. } = sorted;
    if updates.len() >= MANY && !layout.adopted {
        for (old, new) in updates.drain(..) {
            deletes.push(old);
            inserts.push(new);
        }
    }
    let width = layout.table.columns.len().max(1);
    // Half of what the server takes, as sizes are estimates.
    let limits =
        Chunks { rows: LIMITS.rows.min(PARAMETERS / width).max(1), bytes: LIMITS.bytes.min(link.max_packet / 2) };
    let by_key = Chunks { rows: layout.keys_at_once(limits.rows), ..limits };
    for rows in by_key.chunks(&deletes, |row| size(row)) {
        delete(link, layout, rows).await?;
    }
    for (old, new) in updates {
        if let Err(error) = update(link, layout, old, new).await {
            return Err(clash::of_rows(inner, link, layout, error, &[new]).await);
        }
    }
    for rows in limits.chunks(&inserts, |row| size(row)) {
        if let Err(error) = insert(link, layout, rows).await {
            return Err(clash::of_rows(inner, link, layout, error, rows).await);
        }
    }
    Ok(())
}

/// What the statement has seen of these rows is not what they are now, and that is its own doing.
fn remember(inner: &Inner, layout: &Layout, changes: &[RowChange]) {
    let mut seen = inner.seen.lock();
    let key = |row: &Row| key_number(layout.fragment, &layout.table.key_of(row));
    for change in changes {
        if let RowChange::Delete(old) | RowChange::Update { old, .. } = change {
            seen.made(key(old), None);
        }
    }
    for change in changes {
        if let RowChange::Insert(new) | RowChange::Update { new, .. } = change {
            seen.made(key(new), Some(number_of(new)));
        }
    }
}

/// Values of the columns at these positions.
fn values<'a>(
    layout: &'a Layout,
    positions: &'a [usize],
    row: &'a Row,
) -> impl Iterator<Item = (&'a SqlType, &'a Value)> {
    positions.iter().map(|at| (layout.ty(*at), &row[*at]))
}

async fn delete(link: &Link, layout: &Layout, rows: &[&Row]) -> Result<()> {
    let sql = match rows {
        [_] => format!("DELETE FROM {} WHERE {}", layout.relation, layout.equal(&layout.key)),
        // In this form the statement takes a hint. Going through the whole table would run into the locks of others.
        _ => format!("DELETE t FROM {} AS t{} WHERE {}", layout.relation, layout.by_key(), layout.one_of(rows.len())),
    };
    let params = Params::of(rows.iter().flat_map(|row| values(layout, &layout.key, row)))?;
    expect(&layout.table, link.change(&sql, params).await?, rows.len())
}

async fn update(link: &Link, layout: &Layout, old: &Row, new: &Row) -> Result<()> {
    // What nobody changes is not sent: large values stay where they are.
    let mut set: Vec<usize> = (0..layout.table.columns.len()).filter(|at| old[*at] != new[*at]).collect();
    if set.is_empty() {
        set.extend(layout.key.first());
    }
    let assigned: Vec<String> = set.iter().map(|at| format!("{} = ?", layout.column(*at))).collect();
    let sql = format!("UPDATE {} SET {} WHERE {}", layout.relation, assigned.join(", "), layout.equal(&layout.key));
    let params = Params::of(values(layout, &set, new).chain(values(layout, &layout.key, old)))?;
    expect(&layout.table, link.change(&sql, params).await?, 1)
}

async fn insert(link: &Link, layout: &Layout, rows: &[&Row]) -> Result<()> {
    let row = format!("({})", vec!["?"; layout.table.columns.len()].join(", "));
    let sql =
        format!("INSERT INTO {} ({}) VALUES {}", layout.relation, layout.columns, vec![row; rows.len()].join(", "));
    let params = Params::of(rows.iter().flat_map(|row| layout.types().zip(row.iter())))?;
    expect(&layout.table, link.change(&sql, params).await?, rows.len())
}
