//! Digests computed by the server, and what is sent for them.
//!
//! The canonical text of a value is its text in PostgreSQL's own form ([`atoll_ports::digest`]), so a cast gives it, once the settings on
//! which that depends are what [`atoll_model::text`] assumes.
//!
//! Invariant: a column whose text could be another one than Atoll's is not looked at here: the whole copy is read instead.

use super::branch::Inner;
use super::layout::Layout;
use super::predicate::{parameters, typed};
use crate::site::predicate::Condition;
use atoll_model::{Error, Result, SqlType};
use atoll_ports::digest::{Digest, HASH_DIGITS};
use atoll_ports::site::KeyRange;
use std::sync::Arc;

/// The settings on which the text of a value depends, as far as the transaction goes. Everything else is sent and read in binary form.
const SETTINGS: &str = "SET LOCAL datestyle = 'ISO, MDY'; SET LOCAL timezone = 'UTC'; SET LOCAL bytea_output = 'hex'; \
     SET LOCAL extra_float_digits = 1";

/// The digest of a range of the key; `None`: the server has no exact text of some column.
pub(super) async fn of_range(inner: &Arc<Inner>, layout: &Layout, range: &KeyRange) -> Result<Option<Digest>> {
    let Some(canonical) = canonical(layout) else { return Ok(None) };
    let (link, ask) = inner.reader().await?;
    if ask {
        inner.saw(&link).await?;
    }
    link.send(SETTINGS);
    let (condition, values) = Condition::of_range(layout, &layout.key, range);
    let hash = format!("left(encode(sha256(convert_to({canonical}, 'UTF8')), 'hex'), {HASH_DIGITS})");
    let sql = format!(
        "SELECT count(*), COALESCE(sum(('x' || {hash})::bit({})::bigint), 0)::text FROM {}{condition}",
        4 * HASH_DIGITS,
        layout.relation
    );
    let rows = inner.told_of(layout, link.query(&sql, &typed(&parameters(&values))).await)?;
    let read = || -> Option<Digest> {
        let row = rows.first()?;
        let rows: i64 = row.try_get(0).ok()?;
        let sum: String = row.try_get(1).ok()?;
        Some(Digest { rows: rows.try_into().ok()?, sum: sum.parse().ok()? })
    };
    let unread = || Error::internal(format!("site \"{}\" gave no digest", inner.site.name.0));
    read().map(Some).ok_or_else(unread)
}

/// The canonical text of a row, as an expression.
fn canonical(layout: &Layout) -> Option<String> {
    let piece = |at: usize| {
        let (column, text) = (layout.column(at), text_of(layout.ty(at), &layout.column(at))?);
        Some(format!("CASE WHEN {column} IS NULL THEN 'N' ELSE octet_length({text})::text || ':' || {text} END"))
    };
    let pieces: Option<Vec<String>> = (0..layout.table.columns.len()).map(piece).collect();
    Some(pieces?.join(" || "))
}

/// The text of a value that is not NULL, as Atoll writes it.
fn text_of(ty: &SqlType, column: &str) -> Option<String> {
    match ty {
        SqlType::Bool => Some(format!("(CASE WHEN {column} THEN 't' ELSE 'f' END)")),
        // As many digits as there were in what was inserted would be shown.
        SqlType::Numeric(None) => Some(format!("trim_scale({column})::text")),
        // Zero shall have no sign.
        SqlType::Float4 | SqlType::Float8 => Some(format!("({column} + 0::{ty})::text")),
        SqlType::Array(item) => match **item {
            SqlType::Numeric(None) | SqlType::Float4 | SqlType::Float8 => None,
            _ => Some(format!("{column}::text")),
        },
        SqlType::Interval => None,
        // The cast takes the padding of a `char(n)` away.
        _ => Some(format!("{column}::text")),
    }
}
