//! Digests computed by the server.
//!
//! Invariant: a column whose text could be another one than Atoll's (see [`atoll_ports::digest`]) is not looked at here, and a row whose text the
//! server cannot make spoils the digest: the whole range is read instead.

use super::branch::{Inner, Reading};
use super::layout::Layout;
use super::values::{Params, number, string};
use crate::site::predicate::Condition;
use atoll_model::{Result, SqlType};
use atoll_ports::digest::{Digest, HASH_DIGITS};
use atoll_ports::site::KeyRange;
use std::sync::Arc;

/// Zeros of the number that stands for the hash of a row without one, which no sum of hashes reaches. The server makes NULL of a
/// text that is longer than its `max_allowed_packet`, and of numbers that are no boolean.
const SPOILT_ZEROS: usize = 30;

/// The digest of a range of the key; `None`: the range has to be read.
pub(super) async fn of_range(inner: &Arc<Inner>, layout: &Layout, range: &KeyRange) -> Result<Option<Digest>> {
    let Some(canonical) = canonical(layout) else { return Ok(None) };
    let (link, reading) = inner.reader(&[layout]).await?;
    if inner.locks_reads() || reading == Reading::AtOnce {
        return Ok(None);
    }
    let (condition, values) = Condition::of_range(layout, &layout.key, range);
    let hash = format!("CAST(CONV(LEFT(SHA2({canonical}, 256), {HASH_DIGITS}), 16, 10) AS DECIMAL(20,0))");
    let spoilt = format!("1{}", "0".repeat(SPOILT_ZEROS));
    let sql = format!(
        "SELECT COUNT(*), CAST(COALESCE(SUM(COALESCE({hash}, {spoilt})), 0) AS CHAR) FROM {}{condition}",
        layout.relation
    );
    let params = Params::of(values.iter().map(|(ty, value)| (ty, value)))?;
    let rows = inner.told(link.query(&sql, params).await)?;
    let Some(row) = rows.first() else { return Ok(None) };
    let rows = number(row, 0);
    let most = u128::from(rows) << (4 * HASH_DIGITS);
    Ok(string(row, 1).parse().ok().filter(|sum: &u128| *sum <= most).map(|sum| Digest { rows, sum }))
}

/// The canonical text of a row, as an expression.
fn canonical(layout: &Layout) -> Option<String> {
    let piece = |at: usize| {
        let (column, text) = (layout.column(at), text_of(layout.ty(at), &layout.column(at))?);
        // As bytes, texts of any collations go together.
        Some(format!(
            "CASE WHEN {column} IS NULL THEN 'N' ELSE CONCAT(LENGTH({text}), ':', CAST({text} AS BINARY)) END"
        ))
    };
    let pieces: Option<Vec<String>> = (0..layout.table.columns.len()).map(piece).collect();
    Some(format!("CONCAT({})", pieces?.join(", ")))
}

/// The text of a value that is not NULL, as Atoll writes it.
fn text_of(ty: &SqlType, column: &str) -> Option<String> {
    let utf8 = format!("CONVERT({column} USING utf8mb4)");
    // Of a text with a point.
    let without_zeros = |text: &str| format!("TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM CAST({text} AS CHAR)))");
    // With all digits of a second, however many the column has.
    let moment = |ty: &str| without_zeros(&format!("CAST({column} AS {ty}(6))"));
    Some(match ty {
        SqlType::Bool => format!("(CASE {column} WHEN 1 THEN 't' WHEN 0 THEN 'f' END)"),
        SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Numeric(Some(_)) | SqlType::Date => {
            format!("CAST({column} AS CHAR)")
        }
        SqlType::Numeric(None) => without_zeros(column),
        SqlType::Time(_) => moment("TIME"),
        SqlType::Timestamp(_) => moment("DATETIME"),
        SqlType::TimestampTz(_) => format!("CONCAT({}, '+00')", moment("DATETIME")),
        SqlType::Text | SqlType::Varchar(_) | SqlType::Json | SqlType::Jsonb => utf8,
        SqlType::Char(_) => format!("TRIM(TRAILING ' ' FROM {utf8})"),
        SqlType::Uuid => format!("LOWER({utf8})"),
        SqlType::Bytea => format!("CONCAT('\\x', LOWER(HEX({column})))"),
        // The server's text of a float is not exact, and an array, which is a text there, can be written in several ways.
        SqlType::Float4 | SqlType::Float8 | SqlType::Array(_) | SqlType::Interval => return None,
    })
}
