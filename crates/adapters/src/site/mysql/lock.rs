//! Locks at a MySQL site: of rows, and of values that no row has yet.
//!
//! A row's lock is the server's (`FOR UPDATE`, `LOCK IN SHARE MODE`). A value's is the lock of the row of `atoll_locks` whose number its
//! hash gives ([`super::system`]); everybody takes it who looks for the value in order to bring it ([`find_unique`]), and who brings it
//! ([`claim`]).
//!
//! Uniqueness within a copy is the business of the server's index, and value locks only spare those who have looked before a surprise;
//! uniqueness over fragments rests on them. A transaction that brings very many values would lock very many numbers: beyond
//! [`MAX_CLAIMS`] it takes none for an order that is unique within the copy, and the lock of the whole order for another one, of which
//! everybody who locks a value of such an order holds a share. So, of an order that a copy confines, a row may turn up after
//! `find_unique` has found none, if a bulk load brings it: inserting it then fails with 23505.
//!
//! Invariant: two transactions that bring the same value of an order that spans fragments never run side by side. Every statement here names
//! the rows that it wants by the whole key, and has the server look them up: it locks no others.

use super::branch::Inner;
use super::layout::Layout;
use super::link::Link;
use super::seen::{Before, key_number, number_of};
use super::site::numbers;
use super::system::{ORDERS, VALUES};
use super::values::{Params, decode_row};
use crate::site::orders;
use atoll_model::{Error, ErrorKind, IndexId, Result, Row, SqlType, Value, hash_values};
use atoll_ports::site::{Isolation, LockMode, LockWait, LockedRow};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Value locks of one transaction.
const MAX_CLAIMS: usize = 256;

/// Keys in one statement.
const KEYS: usize = 500;

/// Value locks that a transaction has.
#[derive(Default)]
pub(super) struct Claims {
    values: usize,
    /// Orders of which it holds a share, or the whole.
    shared: HashSet<u64>,
    whole: HashSet<u64>,
}

impl Claims {
    pub(super) fn clear(&mut self) {
        self.shared.clear();
        self.whole.clear();
    }
}

/// Locks rows and reads what they are now.
pub(super) async fn lock(
    inner: &Arc<Inner>,
    layout: &Layout,
    keys: &[Vec<Value>],
    mode: LockMode,
    wait: LockWait,
) -> Result<Vec<LockedRow>> {
    if let Some(wrong) = keys.iter().find(|key| key.len() != layout.key.len()) {
        return Err(Error::internal(format!("{wrong:?} is no key of table \"{}\"", layout.table.name)));
    }
    let viewed = inner.has_viewed();
    let link = inner.writer().await?;
    inner.touch(layout);
    let mut found = Vec::with_capacity(keys.len());
    for keys in keys.chunks(layout.keys_at_once(KEYS)) {
        let locked = lock_chunk(&link, layout, keys, mode, wait).await;
        let locked = inner.told(locked.map_err(|e| not_available(e, layout, wait)))?;
        let changed = inner.told(match inner.options.isolation {
            Isolation::ReadCommitted => changed_since(inner, layout, keys, &locked).await,
            Isolation::RepeatableRead | Isolation::Serializable if viewed => {
                refuse_changed(&link, layout, keys, &locked).await
            }
            // Nothing was seen before.
            Isolation::RepeatableRead | Isolation::Serializable => Ok(vec![false; keys.len()]),
        })?;
        let rows = locked.into_iter().zip(changed);
        found.extend(rows.map(|(Found { locked, row }, changed)| LockedRow { locked, row, changed }));
    }
    Ok(found)
}

/// A row as it was found: whether it could be locked, and what it is.
struct Found {
    locked: bool,
    row: Option<Row>,
}

fn hash(key: &[Value]) -> u64 {
    hash_values(&key.iter().collect::<Vec<_>>())
}

async fn lock_chunk(
    link: &Link,
    layout: &Layout,
    keys: &[Vec<Value>],
    mode: LockMode,
    wait: LockWait,
) -> Result<Vec<Found>> {
    let clause = match mode {
        LockMode::Shared => link.flavor.shared(),
        LockMode::Exclusive => "FOR UPDATE",
    };
    let clause = match wait {
        LockWait::Wait => clause.to_owned(),
        LockWait::NoWait => format!("{clause} NOWAIT"),
        LockWait::SkipLocked => format!("{clause} SKIP LOCKED"),
    };
    let rows = rows_of(link, layout, keys, &clause).await?;
    let mut found: Vec<Found> =
        keys.iter().map(|key| Found { locked: true, row: rows.get(&hash(key)).cloned() }).collect();
    if wait == LockWait::SkipLocked && found.iter().any(|f| f.row.is_none()) {
        // Not there, or locked by another?
        let there = rows_of(link, layout, keys, "").await?;
        for (key, found) in keys.iter().zip(&mut found).filter(|(_, found)| found.row.is_none()) {
            found.locked = !there.contains_key(&hash(key));
        }
    }
    Ok(found)
}

/// The rows with these keys, by the hash of the key.
async fn rows_of(link: &Link, layout: &Layout, keys: &[Vec<Value>], clause: &str) -> Result<HashMap<u64, Row>> {
    let condition = match keys {
        [_] => layout.equal(&layout.key),
        _ => layout.one_of(keys.len()),
    };
    let sql =
        format!("SELECT {} FROM {}{} WHERE {condition} {clause}", layout.columns, layout.relation, layout.by_key());
    let types: Vec<&SqlType> = layout.key.iter().map(|at| layout.ty(*at)).collect();
    let params = Params::of(keys.iter().flat_map(|key| types.iter().copied().zip(key)))?;
    let mut rows = HashMap::with_capacity(keys.len());
    for row in link.query(&sql, params).await? {
        let row = decode_row(row, layout.types())?;
        rows.insert(hash(&layout.table.key_of(&row)), row);
    }
    Ok(rows)
}

/// Tells which rows are not what the statement has seen.
async fn changed_since(inner: &Inner, layout: &Layout, keys: &[Vec<Value>], found: &[Found]) -> Result<Vec<bool>> {
    let numbers: Vec<u64> = keys.iter().map(|key| key_number(layout.fragment, key)).collect();
    let now: Vec<Option<u64>> = found.iter().map(|found| found.row.as_ref().map(number_of)).collect();
    let (before, view) = {
        let seen = inner.seen.lock();
        (numbers.iter().map(|key| seen.before(*key)).collect::<Vec<_>>(), seen.view())
    };
    let asked: Vec<Vec<Value>> =
        keys.iter().zip(&before).filter(|(_, b)| matches!(b, Before::Ask)).map(|(key, _)| key.clone()).collect();
    let told = match view {
        Some(view) if !asked.is_empty() => rows_of(&view, layout, &asked, "").await?,
        _ => HashMap::new(),
    };
    let changed: Vec<bool> = before
        .iter()
        .enumerate()
        .map(|(at, before)| {
            found[at].locked
                && match before {
                    Before::Row(row) => *row != now[at],
                    Before::Ask => told.get(&hash(&keys[at])).map(number_of) != now[at],
                    Before::Unseen => false,
                    Before::Forgotten => true,
                }
        })
        .collect();
    let mut seen = inner.seen.lock();
    for (at, key) in numbers.iter().enumerate().filter(|(at, _)| found[*at].locked && !changed[*at]) {
        // From here on only this transaction changes it.
        seen.made(*key, now[at]);
    }
    Ok(changed)
}

/// With one snapshot for all, a row that has changed since cannot be locked.
async fn refuse_changed(link: &Link, layout: &Layout, keys: &[Vec<Value>], found: &[Found]) -> Result<Vec<bool>> {
    let seen = rows_of(link, layout, keys, "").await?;
    let same = |(key, found): (&Vec<Value>, &Found)| !found.locked || seen.get(&hash(key)) == found.row.as_ref();
    if keys.iter().zip(found).all(same) {
        return Ok(vec![false; keys.len()]);
    }
    Err(concurrent_update())
}

/// What the transaction sees is not what is there.
pub(super) fn concurrent_update() -> Error {
    Error::new(ErrorKind::SerializationFailure, "could not serialize access due to concurrent update")
}

/// The message of `NOWAIT` is the same as of a wait that took too long.
fn not_available(error: Error, layout: &Layout, wait: LockWait) -> Error {
    if wait != LockWait::NoWait || error.kind() != ErrorKind::LockTimeout {
        return error;
    }
    Error::new(error.kind(), format!("could not obtain lock on row in relation \"{}\"", layout.table.name))
}

/// The newest row with these values of a unique order, the values being locked.
pub(super) async fn find_unique(
    inner: &Arc<Inner>,
    layout: &Layout,
    index: Option<IndexId>,
    values: &[Value],
    mode: LockMode,
) -> Result<Option<Row>> {
    let order = layout.order(index)?;
    if order.len() != values.len() {
        return Err(Error::internal(format!("{values:?} are not the values of an index of \"{}\"", layout.table.name)));
    }
    if values.iter().any(Value::is_null) {
        return Ok(None);
    }
    let link = inner.writer().await?;
    inner.touch(layout);
    if !inner.options.read_only {
        take(inner, &link, &Wanted::of(layout, index, &[values.to_vec()]), mode).await?;
    }
    // A locking read sees what is newest, at any level.
    let strength = if mode == LockMode::Shared { link.flavor.shared() } else { "FOR UPDATE" };
    let sql = format!(
        "SELECT {} FROM {} WHERE {} {}",
        layout.columns,
        layout.relation,
        layout.equal(&order),
        if inner.options.read_only { "" } else { strength }
    );
    let params = Params::of(order.iter().map(|at| layout.ty(*at)).zip(values))?;
    let rows = inner.told(link.query(&sql, params).await)?;
    rows.into_iter().next().map(|row| decode_row(row, layout.types())).transpose()
}

/// Values of one order to be locked.
struct Wanted {
    /// The number of the order as a whole.
    order: u64,
    /// The copy's own index sees to it that they are unique.
    confined: bool,
    numbers: BTreeSet<u64>,
}

impl Wanted {
    fn of(layout: &Layout, index: Option<IndexId>, values: &[Vec<Value>]) -> Self {
        let number = |values: &[Value]| orders::lock_number(&layout.table, index, values);
        Wanted {
            order: VALUES + number(&[]) % ORDERS,
            confined: orders::is_confined(&layout.table, index),
            numbers: values.iter().map(|values| number(values) % VALUES).collect(),
        }
    }
}

/// Locks the values that rows are about to bring.
pub(super) async fn claim(inner: &Inner, link: &Link, layout: &Layout, rows: &[&Row]) -> Result<()> {
    for (index, order) in orders::unique(&layout.table)? {
        let values = rows.iter().map(|row| order.iter().map(|at| row[*at].clone()).collect::<Vec<_>>());
        let values: Vec<_> = values.filter(|v| !v.iter().any(Value::is_null)).collect();
        take(inner, link, &Wanted::of(layout, index, &values), LockMode::Exclusive).await?;
    }
    Ok(())
}

async fn take(inner: &Inner, link: &Link, wanted: &Wanted, mode: LockMode) -> Result<()> {
    let many = {
        let mut claims = inner.claims.lock();
        claims.values += wanted.numbers.len();
        claims.values > MAX_CLAIMS
    };
    if wanted.numbers.is_empty() || (many && wanted.confined) {
        return Ok(());
    }
    if !wanted.confined {
        let whole = if many { LockMode::Exclusive } else { LockMode::Shared };
        let known = {
            let claims = inner.claims.lock();
            claims.whole.contains(&wanted.order) || (!many && claims.shared.contains(&wanted.order))
        };
        if !known {
            take_numbers(inner, link, &BTreeSet::from([wanted.order]), whole).await?;
            let mut claims = inner.claims.lock();
            if many {
                claims.whole.insert(wanted.order)
            } else {
                claims.shared.insert(wanted.order)
            };
        }
        if inner.claims.lock().whole.contains(&wanted.order) {
            return Ok(());
        }
    }
    take_numbers(inner, link, &wanted.numbers, mode).await
}

/// Locks numbers in ascending order, so that two transactions do not take the same ones crosswise.
async fn take_numbers(inner: &Inner, link: &Link, wanted: &BTreeSet<u64>, mode: LockMode) -> Result<()> {
    let sql = format!(
        "SELECT k FROM {} FORCE INDEX (PRIMARY) WHERE k IN ({}) ORDER BY k {}",
        inner.site.system.locks,
        vec!["?"; wanted.len()].join(", "),
        if mode == LockMode::Shared { link.flavor.shared() } else { "FOR UPDATE" }
    );
    let rows = inner.told(link.query(&sql, numbers(wanted.iter().copied())).await)?;
    if rows.len() == wanted.len() {
        return Ok(());
    }
    let table = &inner.site.system.locks;
    inner.told(Err(Error::new(ErrorKind::NotInPrerequisiteState, format!("rows of {table} are missing at a site"))))
}
