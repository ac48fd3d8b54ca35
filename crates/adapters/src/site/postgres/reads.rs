//! Rows read by their key outside of any transaction: several at a time, as one statement.
//!
//! Invariant: a row is read after it was asked for, in a snapshot of its own statement, so the answer is one that a transaction of this
//! read alone could have got. Only keys of one column are read together, of types whose equality is that of their bytes.

use super::branch::decode_row;
use super::connection::Link;
use super::layout::Layout;
use super::predicate::{key_equals, typed};
use super::site::Shared;
use super::values::{Param, Params, params_type};
use crate::site::company::Company;
use atoll_model::{Result, Row, SqlType, Value};
use std::sync::OnceLock;

/// Who reads rows of a copy by their keys, and how.
#[derive(Default)]
pub(super) struct Reads {
    company: Company<Value, Result<Option<Row>>>,
    one: OnceLock<String>,
    several: OnceLock<String>,
}

/// The row with this key.
pub(super) async fn read(site: &Shared, layout: &Layout, key: &[Value]) -> Result<Option<Row>> {
    if key.len() != layout.key.len() || key.iter().any(Value::is_null) {
        return Ok(None);
    }
    match key {
        [only] if goes_together(layout) => {
            layout.reads.company.ask(only.clone(), |keys| several(site, layout, keys)).await
        }
        _ => one(site, layout, key).await,
    }
}

fn goes_together(layout: &Layout) -> bool {
    layout.key.iter().all(|at| match layout.ty(*at) {
        SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Uuid => true,
        // An adopted table's collation may take different texts for the same.
        SqlType::Text | SqlType::Varchar(_) => !layout.adopted,
        _ => false,
    })
}

async fn one(site: &Shared, layout: &Layout, key: &[Value]) -> Result<Option<Row>> {
    let sql = layout.reads.one.get_or_init(|| {
        format!("SELECT {} FROM {} WHERE {}", layout.columns, layout.relation, key_equals(layout, &layout.key, 1))
    });
    let parameters: Vec<Param<'_>> = layout.key.iter().zip(key).map(|(at, v)| Param(layout.ty(*at), v)).collect();
    let link = Link::free(site.pool.get().await?, site.name.clone());
    let rows = link.query(sql, &typed(&parameters)).await?;
    rows.first().map(|row| decode_row(layout, row, 0)).transpose()
}

async fn several(site: &Shared, layout: &Layout, keys: Vec<Value>) -> Vec<Result<Option<Row>>> {
    if let [only] = keys.as_slice() {
        return vec![one(site, layout, std::slice::from_ref(only)).await];
    }
    match found(site, layout, &keys).await {
        Ok(rows) => keys.iter().map(|key| Ok(row_of(&rows, layout.key[0], key))).collect(),
        Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
    }
}

/// The rows that there are of these keys, in any order.
async fn found(site: &Shared, layout: &Layout, keys: &[Value]) -> Result<Vec<Row>> {
    let at = layout.key[0];
    let sql = layout.reads.several.get_or_init(|| {
        format!("SELECT {} FROM {} WHERE {} = ANY ($1)", layout.columns, layout.relation, layout.column(at))
    });
    let link = Link::free(site.pool.get().await?, site.name.clone());
    let values = Params(layout.ty(at), keys.iter().collect());
    let rows = link.query(sql, &[(&values, params_type(layout.ty(at)))]).await?;
    rows.iter().map(|row| decode_row(layout, row, 0)).collect()
}

fn row_of(rows: &[Row], at: usize, key: &Value) -> Option<Row> {
    rows.iter().find(|row| row[at].matches(key)).cloned()
}
