//! Locks at a PostgreSQL site: of rows, and of values that no row has yet.
//!
//! A row's lock is the server's (`FOR UPDATE`, `FOR SHARE`). A value's is an advisory lock on its hash, which everybody takes who looks for
//! the value in order to bring it ([`find_unique`]), and who brings it ([`claim`]). Two values with the same hash merely wait for each other.
//!
//! Uniqueness within a copy is the business of the server's index, and value locks only spare those who have looked before a surprise;
//! uniqueness over fragments rests on them. A transaction that brings very many values would take very many locks: beyond
//! [`MAX_CLAIMS`] it takes none for an order that is unique within the copy or for values that it only looks for, and the lock of the
//! whole order for another one, of which everybody who locks a value of such an order holds a share. So, of an order that a copy confines, a row may turn up after
//! `find_unique` has found none, if a bulk load brings it: inserting it then fails with 23505.
//!
//! Invariant: two transactions that bring the same value of an order that spans fragments never run side by side.

use super::branch::{Inner, Seen, decode_row};
use super::connection::Link;
use super::layout::Layout;
use super::predicate::{key_equals, typed};
use super::types;
use super::values::{Param, Params, Raw, params_type};
use crate::site::orders;
use atoll_model::{Error, ErrorKind, IndexId, Result, Row, Value};
use atoll_ports::site::{Isolation, LockMode, LockWait, LockedRow};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use tokio_postgres::types::Type;

/// Value locks of one transaction; the server has room for some dozens per connection.
const MAX_CLAIMS: usize = 256;

/// Keys in one statement.
const KEYS: usize = 1000;

/// Value locks that a transaction has.
#[derive(Default)]
pub(super) struct Claims {
    values: usize,
    /// Orders of which it holds a share, or the whole.
    shared: HashSet<i64>,
    whole: HashSet<i64>,
}

impl Claims {
    /// Whether these are too many with those before; counted, if so.
    fn would_be_many(&mut self, more: usize) -> bool {
        let many = self.values + more > MAX_CLAIMS;
        if many {
            self.values += more;
        }
        many
    }

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
    let link = inner.writer().await?;
    let mut found = Vec::with_capacity(keys.len());
    for keys in keys.chunks(KEYS) {
        let locked = lock_chunk(&link, layout, keys, mode, wait).await;
        let locked = inner.told_of(layout, locked.map_err(|e| not_available(e, layout, wait)))?;
        found.extend(changes(inner, &link, locked).await?);
    }
    Ok(found)
}

/// A row as it was found: whether it could be locked, what it is, and which transaction made it so.
struct Found {
    locked: bool,
    row: Option<Row>,
    version: u32,
}

async fn lock_chunk(
    link: &Link,
    layout: &Layout,
    keys: &[Vec<Value>],
    mode: LockMode,
    wait: LockWait,
) -> Result<Vec<Found>> {
    let mut found: Vec<Found> = keys.iter().map(|_| Found { locked: true, row: None, version: 0 }).collect();
    let clause = format!(
        "{} OF t{}",
        match mode {
            LockMode::Shared => "FOR SHARE",
            LockMode::Exclusive => "FOR UPDATE",
        },
        match wait {
            LockWait::Wait => "",
            LockWait::NoWait => " NOWAIT",
            LockWait::SkipLocked => " SKIP LOCKED",
        }
    );
    let columns: Vec<String> = (0..layout.table.columns.len()).map(|at| format!("t.{}", layout.column(at))).collect();
    let columns = columns.join(", ");
    let rows = match keys {
        [key] => {
            let sql = format!(
                "SELECT 1::bigint, t.xmin, {columns} FROM {} t WHERE {} {clause}",
                layout.relation,
                key_equals(layout, &layout.key, 1)
            );
            let params: Vec<Param<'_>> = layout.key.iter().zip(key).map(|(at, v)| Param(layout.ty(*at), v)).collect();
            link.query(&sql, &typed(&params)).await?
        }
        _ => {
            let (listed, params) = listed(layout, keys);
            let sql = format!("SELECT u.n, t.xmin, {columns} {listed} ORDER BY u.n {clause}");
            let params: Vec<_> = params.iter().map(|p| (p as _, params_type(p.0))).collect();
            link.query(&sql, &params).await?
        }
    };
    for row in &rows {
        let (n, version) = (number(row, 0)?, transaction(row, 1)?);
        if let Some(found) = usize::try_from(n - 1).ok().and_then(|n| found.get_mut(n)) {
            *found = Found { locked: true, row: Some(decode_row(layout, row, 2)?), version };
        }
    }
    if wait == LockWait::SkipLocked && rows.len() < keys.len() {
        // Not there, or locked by another?
        let (listed, params) = listed(layout, keys);
        let params: Vec<_> = params.iter().map(|p| (p as _, params_type(p.0))).collect();
        for row in link.query(&format!("SELECT u.n {listed}"), &params).await? {
            let at = usize::try_from(number(&row, 0)? - 1).ok();
            if let Some(found) = at.and_then(|n| found.get_mut(n)).filter(|found| found.row.is_none()) {
                found.locked = false;
            }
        }
    }
    Ok(found)
}

/// `FROM` a list of numbered keys with the rows that have them, and the lists.
fn listed<'a>(layout: &'a Layout, keys: &'a [Vec<Value>]) -> (String, Vec<Params<'a>>) {
    let lists: Vec<String> = (1..=layout.key.len()).map(|n| format!("${n}")).collect();
    let names: Vec<String> = (0..layout.key.len()).map(|n| format!("k{n}")).collect();
    let equal: Vec<String> = layout
        .key
        .iter()
        .enumerate()
        .map(|(n, at)| format!("t.{} = u.k{n}{}", layout.column(*at), types::from_list(layout.ty(*at))))
        .collect();
    let sql = format!(
        "FROM unnest({}) WITH ORDINALITY AS u({}, n) JOIN {} t ON {}",
        lists.join(", "),
        names.join(", "),
        layout.relation,
        equal.join(" AND ")
    );
    let params =
        layout.key.iter().enumerate().map(|(n, at)| Params(layout.ty(*at), keys.iter().map(|k| &k[n]).collect()));
    (sql, params.collect())
}

fn number(row: &tokio_postgres::Row, at: usize) -> Result<i64> {
    row.try_get(at).map_err(|e| Error::internal(format!("a row of a site: {e}")))
}

/// A system column of the type `xid`.
fn transaction(row: &tokio_postgres::Row, at: usize) -> Result<u32> {
    let raw = row.try_get::<_, Raw<'_>>(at).map_err(|e| Error::internal(format!("a row of a site: {e}")))?;
    raw.0
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_be_bytes)
        .ok_or_else(|| Error::internal("a site gave a row of no transaction"))
}

/// Tells which rows are not what the statement has seen.
async fn changes(inner: &Inner, link: &Link, found: Vec<Found>) -> Result<Vec<LockedRow>> {
    let seen = if inner.options.isolation == Isolation::ReadCommitted { inner.seen() } else { Seen::Nothing };
    let mut newer = BTreeSet::new();
    if let Seen::Since(snapshot) = &seen {
        newer.extend(found.iter().filter(|f| f.row.is_some()).filter_map(|f| snapshot.shows(f.version).err()));
    }
    let mut own = HashSet::new();
    for version in &newer {
        // Rows that can be locked and were made by a transaction that is under way were made by this one.
        let sql = "SELECT pg_xact_status($1::text::xid8) = 'in progress'";
        let text = version.to_string();
        let rows = inner.told(link.query(sql, &[(&text, Type::TEXT)]).await)?;
        if rows.first().is_some_and(|row| row.try_get::<_, Option<bool>>(0).ok().flatten() == Some(true)) {
            own.insert(*version);
        }
    }
    Ok(found
        .into_iter()
        .map(|Found { locked, row, version }| {
            let changed = locked
                && match (&seen, &row) {
                    (Seen::Nothing, _) => false,
                    // What the statement asks for by key it has seen before: it is gone, then.
                    (Seen::Unknown, _) | (Seen::Since(_), None) => true,
                    (Seen::Since(snapshot), Some(_)) => snapshot.shows(version).is_err_and(|v| !own.contains(&v)),
                };
            LockedRow { locked, row, changed }
        })
        .collect())
}

/// The message of `NOWAIT` names the site's table.
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
    let wanted = Wanted {
        index,
        confined: orders::is_confined(&layout.table, index),
        keys: vec![number_of(layout, index, values)],
    };
    take(inner, &link, layout, &wanted, mode).await?;

    let sql = format!("SELECT {} FROM {} t WHERE {}", layout.columns, layout.relation, key_equals(layout, &order, 1));
    let strength = if mode == LockMode::Shared { "SHARE" } else { "UPDATE" };
    let params: Vec<Param<'_>> = order.iter().zip(values).map(|(at, v)| Param(layout.ty(*at), v)).collect();
    let locking = format!("{sql} FOR {strength}");
    let reading = if inner.options.read_only { &sql } else { &locking };
    let rows = inner.told_of(layout, link.query(reading, &typed(&params)).await)?;
    if let Some(row) = rows.first() {
        return decode_row(layout, row, 0).map(Some);
    }
    if inner.options.isolation != Isolation::ReadCommitted {
        // The server has looked with the transaction's old snapshot. The values are locked, so another connection sees all there is.
        let link = Link::begin(&inner.site.control, "BEGIN READ ONLY").await?;
        if !link.query(&sql, &typed(&params)).await?.is_empty() {
            return inner.told(Err(Error::new(
                ErrorKind::SerializationFailure,
                "could not serialize access due to concurrent update",
            )));
        }
    }
    Ok(None)
}

/// Values of one order to be locked.
struct Wanted {
    index: Option<IndexId>,
    /// The copy's own index sees to it that they are unique.
    confined: bool,
    keys: Vec<i64>,
}

/// Locks the values that rows are about to bring.
pub(super) async fn claim(inner: &Inner, link: &Link, layout: &Layout, rows: &[&Row]) -> Result<()> {
    for (index, order) in orders::unique(&layout.table)? {
        if orders::is_confined(&layout.table, index) && inner.claims.lock().would_be_many(rows.len()) {
            continue;
        }
        let values = rows.iter().map(|row| order.iter().map(|at| row[*at].clone()).collect::<Vec<_>>());
        let keys: BTreeSet<i64> =
            values.filter(|v| !v.iter().any(Value::is_null)).map(|v| number_of(layout, index, &v)).collect();
        // In ascending order, so that two transactions do not take the same ones crosswise.
        let wanted =
            Wanted { index, confined: orders::is_confined(&layout.table, index), keys: keys.into_iter().collect() };
        take(inner, link, layout, &wanted, LockMode::Exclusive).await?;
    }
    Ok(())
}

async fn take(inner: &Inner, link: &Link, layout: &Layout, wanted: &Wanted, mode: LockMode) -> Result<()> {
    let order = number_of(layout, wanted.index, &[]);
    let many = {
        let mut claims = inner.claims.lock();
        claims.values += wanted.keys.len();
        claims.values > MAX_CLAIMS
    };
    // Who looks for very many rows to hold on to them locks the rows; nobody rests on what it has not found.
    if wanted.keys.is_empty() || (many && (wanted.confined || mode == LockMode::Shared)) {
        return Ok(());
    }
    if !wanted.confined {
        let (known, function) = {
            let claims = inner.claims.lock();
            let whole = claims.whole.contains(&order);
            if many { (whole, "") } else { (whole || claims.shared.contains(&order), "_shared") }
        };
        if !known {
            let sql = format!("SELECT pg_advisory_xact_lock{function}($1)");
            inner.told(link.query(&sql, &[(&order, Type::INT8)]).await)?;
            let mut claims = inner.claims.lock();
            if many {
                claims.whole.insert(order)
            } else {
                claims.shared.insert(order)
            };
        }
        if inner.claims.lock().whole.contains(&order) {
            return Ok(());
        }
    }
    let function = if mode == LockMode::Shared { "_shared" } else { "" };
    let sql = format!("SELECT pg_advisory_xact_lock{function}(k) FROM unnest($1) AS k");
    inner.told(link.query(&sql, &[(&wanted.keys, Type::INT8_ARRAY)]).await)?;
    Ok(())
}

/// The number by which values are locked, as the server takes it.
fn number_of(layout: &Layout, index: Option<IndexId>, values: &[Value]) -> i64 {
    orders::lock_number(&layout.table, index, values).cast_signed()
}
