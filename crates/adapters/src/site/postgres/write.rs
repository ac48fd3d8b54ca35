//! Writing rows at a PostgreSQL site: few statements for many rows.
//!
//! Few new rows are one INSERT, many a binary COPY.
//!
//! Invariant: every statement touches exactly as many rows as it was given; if it does not, the transaction has lost its locks, and fails.

use super::branch::Inner;
use super::connection::Link;
use super::layout::Layout;
use super::lock;
use super::predicate::{key_equals, typed};
use super::types;
use super::values::{self, Param, Params, param_type, params_type};
use crate::site::changes::{Chunks, Sorted, expect, size};
use crate::site::select::operation;
use atoll_model::{Error, ErrorKind, Result, Row, SqlType, Value};
use atoll_ports::query::SiteExpr;
use atoll_ports::site::RowChange;
use bytes::{BufMut as _, BytesMut};
use futures::SinkExt as _;

/// What a statement may have at most.
const LIMITS: Chunks = Chunks { rows: 2000, bytes: 4 << 20 };

/// New rows from which COPY pays.
const MANY: usize = 200;

/// Bytes of a message of COPY.
const COPY_MESSAGE: usize = 1 << 16;

/// What a binary COPY begins with: a signature, no flags, no extension.
const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Applies changes.
pub(super) async fn apply(inner: &Inner, layout: &Layout, changes: Vec<RowChange>) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    inner.writes(&layout.table)?;
    let link = inner.writer().await?;
    let sorted = Sorted::of(&layout.table, &changes)?;
    let coming = sorted.coming();
    let Sorted { deletes, updates, inserts, .. } = sorted;
    if !coming.is_empty() {
        lock::claim(inner, &link, layout, &coming).await?;
    }
    let outcome = async {
        for rows in LIMITS.chunks(&deletes, |row| size(row)) {
            delete(&link, layout, rows).await?;
        }
        for rows in LIMITS.chunks(&updates, |(_, new)| size(new)) {
            update(&link, layout, rows).await?;
        }
        match inserts.as_slice() {
            few if few.len() < MANY => {
                for rows in LIMITS.chunks(few, |row| size(row)) {
                    insert(&link, layout, rows).await?;
                }
            }
            many => copy(&link, layout, many).await?,
        }
        Ok(())
    };
    inner.told_of(layout, outcome.await)
}

async fn delete(link: &Link, layout: &Layout, rows: &[&Row]) -> Result<()> {
    let touched = match rows {
        [row] => {
            let sql = format!("DELETE FROM {} WHERE {}", layout.relation, key_equals(layout, &layout.key, 1));
            one(link, &sql, layout, layout.key.iter().map(|at| (*at, &row[*at]))).await?
        }
        _ => {
            let list = List::new(layout, &layout.key, 0);
            let sql = format!("DELETE FROM {} t USING {} WHERE {}", layout.relation, list.from, list.equal);
            many(link, &sql, layout, layout.key.iter().map(|at| (*at, rows.iter().map(|row| &row[*at]).collect())))
                .await?
        }
    };
    expect(&layout.table, touched, rows.len())
}

async fn update(link: &Link, layout: &Layout, rows: &[(&Row, &Row)]) -> Result<()> {
    // What nobody changes is not sent: large values stay where they are.
    let mut set: Vec<usize> =
        (0..layout.table.columns.len()).filter(|at| rows.iter().any(|(old, new)| old[*at] != new[*at])).collect();
    if set.is_empty() {
        // An update that changes nothing is one nevertheless, for those who wait for it.
        set.extend(layout.key.first());
    }
    let touched = match rows {
        [(old, new)] => {
            let assigned = set.iter().enumerate().map(|(n, at)| format!("{} = ${}", layout.column(*at), n + 1));
            let sql = format!(
                "UPDATE {} SET {} WHERE {}",
                layout.relation,
                assigned.collect::<Vec<_>>().join(", "),
                key_equals(layout, &layout.key, set.len() + 1)
            );
            let values = set.iter().map(|at| (*at, &new[*at])).chain(layout.key.iter().map(|at| (*at, &old[*at])));
            one(link, &sql, layout, values).await?
        }
        _ => {
            let list = List::new(layout, &layout.key, set.len());
            let assigned = set
                .iter()
                .enumerate()
                .map(|(n, at)| format!("{} = u.v{n}{}", layout.column(*at), types::from_list(layout.ty(*at))));
            let sql = format!(
                "UPDATE {} t SET {} FROM {} WHERE {}",
                layout.relation,
                assigned.collect::<Vec<_>>().join(", "),
                list.from,
                list.equal
            );
            let keys = layout.key.iter().map(|at| (*at, rows.iter().map(|(old, _)| &old[*at]).collect()));
            let values = set.iter().map(|at| (*at, rows.iter().map(|(_, new)| &new[*at]).collect()));
            many(link, &sql, layout, keys.chain(values)).await?
        }
    };
    expect(&layout.table, touched, rows.len())
}

async fn insert(link: &Link, layout: &Layout, rows: &[&Row]) -> Result<()> {
    let all = 0..layout.table.columns.len();
    let touched = match rows {
        [row] => {
            let values: Vec<String> = (1..=all.len()).map(|n| format!("${n}")).collect();
            let sql = format!("INSERT INTO {} ({}) VALUES ({})", layout.relation, layout.columns, values.join(", "));
            one(link, &sql, layout, all.map(|at| (at, &row[at]))).await?
        }
        _ => {
            let list = List::new(layout, &[], all.len());
            let values: Vec<String> =
                all.clone().map(|at| format!("u.v{at}{}", types::from_list(layout.ty(at)))).collect();
            let sql = format!(
                "INSERT INTO {} ({}) SELECT {} FROM {}",
                layout.relation,
                layout.columns,
                values.join(", "),
                list.from
            );
            many(link, &sql, layout, all.map(|at| (at, rows.iter().map(|row| &row[at]).collect()))).await?
        }
    };
    expect(&layout.table, touched, rows.len())
}

/// Changes one row by expressions over it.
pub(super) async fn update_row(
    inner: &Inner,
    layout: &Layout,
    key: &[Value],
    set: &[(usize, SiteExpr)],
) -> Result<bool> {
    inner.writes(&layout.table)?;
    let link = inner.writer().await?;
    let mut values: Vec<(&SqlType, &Value)> = layout.key.iter().map(|at| layout.ty(*at)).zip(key).collect();
    let outcome = async {
        let assigned = set
            .iter()
            .map(|(at, expr)| Ok(format!("{} = {}", layout.column(*at), formula(layout, expr, &mut values)?)))
            .collect::<Result<Vec<_>>>()?;
        let sql = format!(
            "UPDATE {} SET {} WHERE {}",
            layout.relation,
            assigned.join(", "),
            key_equals(layout, &layout.key, 1)
        );
        let params: Vec<Param<'_>> = values.iter().map(|(ty, value)| Param(ty, value)).collect();
        link.change(&sql, &typed(&params)).await
    };
    Ok(inner.told_of(layout, outcome.await)? > 0)
}

/// An expression over the row, with its constants as parameters, so that the statement is the same the next time.
fn formula<'a>(layout: &Layout, expr: &'a SiteExpr, values: &mut Vec<(&'a SqlType, &'a Value)>) -> Result<String> {
    Ok(match expr {
        SiteExpr::Column { position, .. } => layout.column(*position),
        SiteExpr::Value(ty, value) => {
            values.push((ty, value));
            format!("${}", values.len())
        }
        SiteExpr::Arithmetic(how, left, right, _) => {
            let left = formula(layout, left, values)?;
            format!("({left} {} {})", operation(*how), formula(layout, right, values)?)
        }
        other => return Err(Error::unsupported(format!("{other:?} in an update of one row"))),
    })
}

/// Inserts many rows. They are encoded as they are sent, a message at a time.
async fn copy(link: &Link, layout: &Layout, rows: &[&Row]) -> Result<()> {
    let sql = format!("COPY {} ({}) FROM STDIN BINARY", layout.relation, layout.columns);
    let copying = async {
        let sink = link.copy_in(&sql).await?;
        let mut sink = std::pin::pin!(sink);
        let mut message = BytesMut::with_capacity(COPY_MESSAGE * 2);
        message.put_slice(COPY_HEADER);
        for row in rows {
            encode_row(layout, row, &mut message)?;
            if message.len() >= COPY_MESSAGE {
                sink.feed(message.split().freeze()).await.map_err(|e| link.failed(&e))?;
            }
        }
        // The end of all rows.
        message.put_i16(-1);
        sink.feed(message.freeze()).await.map_err(|e| link.failed(&e))?;
        sink.as_mut().finish().await.map_err(|e| link.failed(&e))
    };
    let touched = link.watched(copying).await??;
    expect(&layout.table, touched, rows.len())
}

fn encode_row(layout: &Layout, row: &Row, message: &mut BytesMut) -> Result<()> {
    let too_large = || Error::new(ErrorKind::ProgramLimit, "a row is too large for a site");
    message.put_i16(i16::try_from(row.len()).map_err(|_| too_large())?);
    for (at, value) in row.iter().enumerate() {
        if value.is_null() {
            message.put_i32(-1);
            continue;
        }
        let start = message.len();
        message.put_i32(0);
        values::encode(layout.ty(at), value, message)?;
        let length = i32::try_from(message.len() - start - 4).map_err(|_| too_large())?;
        message[start..start + 4].copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

/// Lists of values as a table `u`: of keys (`k0` …), then of other values (`v0` …).
struct List {
    from: String,
    /// The rows of `t` that have its keys.
    equal: String,
}

impl List {
    fn new(layout: &Layout, key: &[usize], values: usize) -> Self {
        let lists: Vec<String> = (1..=key.len() + values).map(|n| format!("${n}")).collect();
        let names: Vec<String> =
            (0..key.len()).map(|n| format!("k{n}")).chain((0..values).map(|n| format!("v{n}"))).collect();
        let equal = key
            .iter()
            .enumerate()
            .map(|(n, at)| format!("t.{} = u.k{n}{}", layout.column(*at), types::from_list(layout.ty(*at))));
        List {
            from: format!("unnest({}) AS u({})", lists.join(", "), names.join(", ")),
            equal: equal.collect::<Vec<_>>().join(" AND "),
        }
    }
}

async fn one<'a>(
    link: &Link,
    sql: &str,
    layout: &Layout,
    values: impl Iterator<Item = (usize, &'a Value)>,
) -> Result<u64> {
    let params: Vec<Param<'_>> = values.map(|(at, value)| Param(layout.ty(at), value)).collect();
    let params: Vec<_> = params.iter().map(|p| (p as _, param_type(p.0))).collect();
    link.change(sql, &params).await
}

async fn many<'a>(
    link: &Link,
    sql: &str,
    layout: &Layout,
    values: impl Iterator<Item = (usize, Vec<&'a Value>)>,
) -> Result<u64> {
    let params: Vec<Params<'_>> = values.map(|(at, values)| Params(layout.ty(at), values)).collect();
    let params: Vec<_> = params.iter().map(|p| (p as _, params_type(p.0))).collect();
    link.change(sql, &params).await
}
