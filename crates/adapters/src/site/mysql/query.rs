//! Queries as SELECT statements of MySQL and MariaDB, both of which take the same text.
//!
//! What the server would take otherwise than Atoll is written so that it does not, or refused:
//!
//! * Texts of copies that Atoll has made, and those of keys, are compared by their bytes (`types`); others may have any collation, so their
//!   bytes are compared (`CAST(… AS BINARY)`). Padding and case do not come in.
//! * The server sorts, and groups, by no more than the first [`SORTED`] bytes. So texts of unknown length are grouped by their SHA-256, and an
//!   order of them is refused.
//! * NULLs come first in its orders: `x IS NULL` goes ahead where they have to be last.
//! * It computes with 64 bits: what has to fit fewer is shifted to the border, where the server itself finds the overflow.
//! * A product of decimals that has more digits than the server computes with would be cut off: it is refused.
//! * A `TINYINT(1)` of an adopted table may be neither 0 nor 1: then it is out of range, as it is when it is read.
//! * Its own type for a computed column is another than Atoll's: [`super::values::decode_computed`].
//!
//! The driver looks for parameters of its own in a statement, and takes a backslash in a text for an escape: texts with one are written by
//! their bytes.
//!
//! Invariant: the answer is what the engine would compute, or an error.

use super::connection::SORTED;
use super::layout::{Layout, literal};
use super::types::{self, confinement};
use super::values::encode;
use crate::site::columns;
use crate::site::orders;
use crate::site::select::{Spelling, comparison, operation};
use arrow_schema::SchemaRef;
use atoll_model::{Error, Result, SqlType, UNCONSTRAINED_SCALE, Value, text};
use atoll_ports::query::{Aggregate, Arithmetic, Comparison, Output, SiteExpr, SiteQuery, SortKey, SourceJoin};
use atoll_ports::site::Replica;
use mysql_async::Value as Wire;
use std::fmt::Write as _;
use std::sync::Arc;

/// Bytes of a character, or of its weight in an order, at most.
const CHARACTER: usize = 4;

/// Digits behind the point at most.
const MAX_SCALE: i32 = 30;

/// Tables of a join at most.
const MAX_TABLES: usize = 61;

/// The server computes with so many words of nine digits, each side of the point for itself.
const WORDS: i32 = 9;
const WORD: i32 = 9;

/// A query with the tables that it reads.
#[derive(Clone)]
pub(super) struct Statement {
    pub(super) layouts: Vec<Arc<Layout>>,
    query: SiteQuery,
    /// The types of the answer's columns.
    pub(super) types: Vec<SqlType>,
    pub(super) schema: SchemaRef,
}

impl Statement {
    /// A query, whose copies have the layouts that `layout` gives.
    pub(super) fn new(query: &SiteQuery, layout: impl Fn(&Replica) -> Result<Arc<Layout>>) -> Result<Self> {
        let layouts = query.sources.iter().map(|source| layout(&source.replica)).collect::<Result<Vec<_>>>()?;
        if layouts.is_empty() {
            return Err(Error::internal("a query of no table"));
        }
        if layouts.len() > MAX_TABLES {
            return refused(format!("a join of more than {MAX_TABLES} tables"));
        }
        let outputs = query.outputs.iter();
        Ok(Statement {
            types: outputs.clone().map(|output| output.ty.clone()).collect(),
            schema: columns::schema(outputs.map(|output| (output.name.as_str(), &output.ty, output.nullable))),
            layouts,
            query: query.clone(),
        })
    }

    /// Rows per batch.
    pub(super) fn batch_size(&self) -> usize {
        self.query.batch_size.max(1)
    }

    /// Whether rows of the answer are rows of the tables.
    pub(super) fn shows_rows(&self) -> bool {
        self.query.group.is_none() && !self.types.is_empty()
    }

    /// Whether it asks for nothing but columns of all rows of a copy.
    pub(super) fn is_scan(&self) -> bool {
        let SiteQuery { sources, filter, group, having: _, outputs, order, offset, limit, batch_size: _ } = &self.query;
        let plain = outputs.iter().all(|output| matches!(output.expr, SiteExpr::Column { .. }));
        let cut = limit.is_some() || *offset > 0;
        sources.len() == 1 && filter.is_empty() && group.is_none() && order.is_empty() && !cut && plain
    }

    /// The text; `whole`: with all columns of the tables behind those of the answer; `clause`: how rows are locked.
    pub(super) fn sql(&self, whole: bool, clause: &str) -> Result<String> {
        let mut writer = Writer { layouts: &self.layouts, query: &self.query, keys: vec![], by_name: false };
        let mut more = vec![];
        if whole {
            for (source, layout) in self.layouts.iter().enumerate() {
                more.extend((0..layout.table.columns.len()).map(|at| format!("s{source}.{}", layout.column(at))));
            }
        }
        match self.query.group.as_deref() {
            // One aggregate makes a group of all rows.
            Some([]) => more.push("count(*)".into()),
            // HAVING takes columns by which rows are grouped and names of the answer's, but no expressions over other columns.
            Some(keys) if !self.query.having.is_empty() => {
                for (at, key) in keys.iter().enumerate() {
                    let name = format!("atoll_k{at}");
                    more.push(format!("{} AS {name}", writer.expr(key)?));
                    writer.keys.push((key.clone(), name));
                }
            }
            _ => {}
        }
        let clause = if clause.is_empty() { String::new() } else { format!(" {clause}") };
        writer.select(&self.query, &more, &clause)
    }
}

/// Why something is left to the engine.
fn refused<T>(what: impl std::fmt::Display) -> Result<T> {
    Err(Error::unsupported(format!("{what} at a MySQL site")))
}

struct Writer<'a> {
    layouts: &'a [Arc<Layout>],
    query: &'a SiteQuery,
    /// What rows are grouped by, with its names in HAVING.
    keys: Vec<(SiteExpr, String)>,
    /// Those names stand for it.
    by_name: bool,
}

impl Writer<'_> {
    fn layout(&self, source: usize) -> Result<&Layout> {
        let layout = self.layouts.get(source).ok_or_else(|| Error::internal("a column of no source of the query"))?;
        Ok(layout)
    }

    fn plain(&self, source: usize, position: usize) -> Result<String> {
        Ok(format!("s{source}.{}", self.layout(source)?.column(position)))
    }

    /// Whether the server compares the column as Atoll does.
    fn is_exact(&self, source: usize, position: usize) -> Result<bool> {
        let layout = self.layout(source)?;
        // What an adopted table's key or index has was looked at when it was adopted.
        Ok(!layout.is_collated(position) || orders::all(&layout.table)?.concat().contains(&position))
    }

    /// Whether a text is one of characters to the server, in the collation that is Atoll's; otherwise it is its bytes.
    fn has_characters(&self, expr: &SiteExpr) -> Result<bool> {
        match expr {
            SiteExpr::Column { source, position, .. } => self.is_exact(*source, *position),
            SiteExpr::Value(_, Value::Text(text)) => Ok(is_plain(text)),
            _ => alternatives(expr).into_iter().try_fold(true, |all, e| Ok(all && self.has_characters(e)?)),
        }
    }

    /// The bytes that a value has at most in an order or a group, if that is known.
    fn weight(&self, expr: &SiteExpr) -> Result<Option<usize>> {
        Ok(match expr {
            SiteExpr::Column { source, position, ty } => {
                let layout = self.layout(*source)?;
                let confined = if layout.adopted { None } else { confinement(&layout.table, *position)? };
                match (ty, confined) {
                    (SqlType::Varchar(Some(n)), _) => Some(*n as usize * CHARACTER),
                    (SqlType::Text | SqlType::Varchar(None), Some(n)) => Some(n * CHARACTER),
                    (SqlType::Bytea, Some(n)) => Some(n),
                    (SqlType::Text | SqlType::Varchar(None) | SqlType::Bytea, None) => None,
                    _ => Some(0),
                }
            }
            SiteExpr::Value(_, Value::Text(text)) => Some(text.chars().count() * CHARACTER),
            SiteExpr::Value(_, Value::Bytea(bytes)) => Some(bytes.len()),
            _ => {
                let mut largest = Some(0);
                for part in alternatives(expr) {
                    largest = largest.zip(self.weight(part)?).map(|(a, b): (usize, usize)| a.max(b));
                }
                largest
            }
        })
    }

    /// Whether the server looks at all of a value that it sorts or groups by.
    fn is_sorted_whole(&self, expr: &SiteExpr) -> Result<bool> {
        Ok(self.weight(expr)?.is_some_and(|weight| weight <= SORTED))
    }

    fn may_be_null(&self, expr: &SiteExpr) -> Result<bool> {
        let SiteExpr::Column { source, position, .. } = expr else { return Ok(true) };
        let layout = self.layout(*source)?;
        let outer = matches!(self.query.sources.get(*source).map(|s| &s.join), Some(SourceJoin::Left(_)));
        Ok(outer || !layout.table.columns[*position].not_null && !layout.key.contains(position))
    }

    /// A text whose characters are looked at one by one.
    fn characters(&self, expr: &SiteExpr) -> Result<String> {
        let written = self.expr(expr)?;
        // A collation that both servers have; its padding does not matter to LIKE.
        let exact = self.has_characters(expr)?;
        Ok(if exact { written } else { format!("CONVERT({written} USING utf8mb4) COLLATE utf8mb4_bin") })
    }
}

impl Spelling for Writer<'_> {
    const UNLIMITED: &'static str = " LIMIT 18446744073709551615";

    fn relation(&self, source: usize) -> Result<&str> {
        Ok(&self.layout(source)?.relation)
    }

    fn column(&self, source: usize, position: usize) -> Result<String> {
        let plain = self.plain(source, position)?;
        let layout = self.layout(source)?;
        Ok(match layout.ty(position) {
            ty if !is_computed_with(ty) => return refused(format!("computing with values of type {ty}")),
            // Beyond the last number is an error.
            SqlType::Bool if layout.adopted => {
                format!(
                    "(CASE WHEN {plain} IN (0, 1) OR {plain} IS NULL THEN {plain} \
                     ELSE {} + {plain} * {plain} END)",
                    i64::MAX
                )
            }
            ty if types::is_text(ty) && !self.is_exact(source, position)? => format!("CAST({plain} AS BINARY)"),
            _ => plain,
        })
    }

    fn constant(&self, ty: &SqlType, value: &Value) -> Result<String> {
        if !is_computed_with(ty) {
            return refused(format!("constants of type {ty}"));
        }
        Ok(match value {
            Value::Null => "NULL".into(),
            Value::Bool(b) => b.to_string(),
            Value::Int2(n) => n.to_string(),
            Value::Int4(n) => n.to_string(),
            // By itself, the number would be a decimal.
            Value::Int8(i64::MIN) => format!("({} - 1)", -i64::MAX),
            Value::Int8(n) => n.to_string(),
            Value::Float4(v) if v.is_finite() => format!("{:e}", f64::from(*v)),
            Value::Float8(v) if v.is_finite() => format!("{v:e}"),
            Value::Float4(_) | Value::Float8(_) => return refused("infinity"),
            Value::Numeric(unscaled, scale) => decimal(*unscaled, *scale)?,
            Value::Text(text) if *ty == SqlType::Uuid => literal(&text::parse_uuid(text)?),
            Value::Text(text) if is_plain(text) => literal(text),
            Value::Text(text) => hexadecimal(text.as_bytes()),
            Value::Bytea(bytes) => hexadecimal(bytes),
            Value::Date(_) | Value::Time(_) | Value::Timestamp(_) | Value::TimestampTz(_) => moment(ty, value)?,
            Value::Array(_) => return refused("a list"),
        })
    }

    fn compare(&self, how: Comparison, left: &SiteExpr, right: &SiteExpr) -> Result<String> {
        Ok(format!("({} {} {})", self.expr(left)?, comparison(how), self.expr(right)?))
    }

    fn like(&self, value: &SiteExpr, pattern: &SiteExpr) -> Result<String> {
        match pattern {
            SiteExpr::Value(_, Value::Null) => {}
            SiteExpr::Value(_, Value::Text(text)) if ends_escaped(text) => {
                return refused("a pattern that ends with a backslash");
            }
            SiteExpr::Value(_, Value::Text(_)) => {}
            _ => return refused("LIKE with a pattern that is not a constant"),
        }
        Ok(format!("({} LIKE {} ESCAPE X'5C')", self.characters(value)?, self.characters(pattern)?))
    }

    fn arithmetic(&self, how: Arithmetic, left: &SiteExpr, right: &SiteExpr, ty: &SqlType) -> Result<String> {
        let written = format!("({} {} {})", self.expr(left)?, operation(how), self.expr(right)?);
        Ok(match ty {
            SqlType::Int2 => confined(&written, i64::from(i16::MAX)),
            SqlType::Int4 => confined(&written, i64::from(i32::MAX)),
            SqlType::Int8 => written,
            SqlType::Numeric(_) => {
                if how == Arithmetic::Multiply {
                    check_product(&left.ty(), &right.ty())?;
                }
                written
            }
            ty => return refused(format!("arithmetic with {ty}")),
        })
    }

    fn widen(&self, value: &SiteExpr, ty: &SqlType) -> Result<String> {
        let written = self.expr(value)?;
        Ok(match ty {
            SqlType::Int2 | SqlType::Int4 | SqlType::Int8 => written,
            SqlType::Float8 => format!("CAST({written} AS DOUBLE)"),
            SqlType::Numeric(_) => {
                let (precision, scale) = digits(ty);
                if !(0..=MAX_SCALE).contains(&scale) {
                    return refused(format!("values of type {ty}"));
                }
                format!("CAST({written} AS DECIMAL({precision},{scale}))")
            }
            ty => return refused(format!("a cast to {ty}")),
        })
    }

    fn aggregate(&self, function: Aggregate, argument: Option<&SiteExpr>, distinct: bool) -> Result<String> {
        // Names of the answer's columns do not reach into an aggregate.
        let inner = Writer { keys: vec![], by_name: false, ..*self };
        let Some(argument) = argument else { return Ok("count(*)".into()) };
        Ok(match function {
            Aggregate::Count if distinct => format!("count(DISTINCT {})", inner.group_key(argument)?),
            Aggregate::Count => format!("count({})", inner.presence(argument)?),
            Aggregate::Sum if distinct => return refused("a sum of different values"),
            Aggregate::Sum => format!("sum({})", inner.expr(argument)?),
            Aggregate::Min | Aggregate::Every => format!("min({})", inner.expr(argument)?),
            Aggregate::Max | Aggregate::Any => format!("max({})", inner.expr(argument)?),
        })
    }

    fn output(&self, output: &Output) -> Result<String> {
        if let SiteExpr::Column { source, position, .. } = &output.expr {
            return self.plain(*source, *position);
        }
        let written = self.expr(&output.expr)?;
        Ok(match output.ty {
            SqlType::Date => format!("CAST({written} AS DATE)"),
            SqlType::Time(_) => format!("CAST({written} AS TIME(6))"),
            SqlType::Timestamp(_) | SqlType::TimestampTz(_) => format!("CAST({written} AS DATETIME(6))"),
            _ => written,
        })
    }

    fn sort_key(&self, key: &SortKey) -> Result<String> {
        if !self.is_sorted_whole(&key.expr)? {
            return refused(format!("an order of {} values without a length", key.expr.ty()));
        }
        let written = self.expr(&key.expr)?;
        let direction = if key.descending { " DESC" } else { "" };
        // The server has NULLs first, and last backwards.
        Ok(if key.nulls_first == key.descending && self.may_be_null(&key.expr)? {
            format!("{written} IS NULL{direction}, {written}{direction}")
        } else {
            format!("{written}{direction}")
        })
    }

    fn one_group(&self, _: &SiteQuery) -> &'static str {
        ""
    }

    fn group_key(&self, key: &SiteExpr) -> Result<String> {
        if matches!(key.ty(), SqlType::Float4 | SqlType::Float8) {
            return refused("groups of floating-point numbers");
        }
        let written = self.expr(key)?;
        Ok(if self.is_sorted_whole(key)? { written } else { format!("sha2({written}, 256)") })
    }

    fn having(&self, condition: &SiteExpr) -> Result<String> {
        Writer { keys: self.keys.clone(), by_name: true, ..*self }.expr(condition)
    }

    fn presence(&self, value: &SiteExpr) -> Result<String> {
        match value {
            SiteExpr::Column { source, position, .. } if !self.by_name => self.plain(*source, *position),
            value => self.expr(value),
        }
    }

    fn named(&self, expr: &SiteExpr) -> Option<&str> {
        self.keys.iter().filter(|_| self.by_name).find(|(key, _)| key == expr).map(|(_, name)| name.as_str())
    }
}

/// Of which an expression's value is one.
fn alternatives(expr: &SiteExpr) -> Vec<&SiteExpr> {
    match expr {
        SiteExpr::Case { branches, otherwise, .. } => {
            branches.iter().map(|(_, value)| value).chain(otherwise.as_deref()).collect()
        }
        SiteExpr::Coalesce(parts, _) => parts.iter().collect(),
        SiteExpr::Aggregate { function: Aggregate::Min | Aggregate::Max, argument: Some(argument), .. } => {
            vec![argument]
        }
        _ => vec![],
    }
}

/// Whether the server's values of the type are Atoll's, and not only something that holds them.
fn is_computed_with(ty: &SqlType) -> bool {
    !matches!(ty, SqlType::Char(_) | SqlType::Json | SqlType::Jsonb | SqlType::Array(_) | SqlType::Interval)
}

/// Whether a text can be a literal.
fn is_plain(text: &str) -> bool {
    !text.contains(['\\', '\0'])
}

/// Whether a pattern's last backslash has nothing behind it.
fn ends_escaped(pattern: &str) -> bool {
    (pattern.len() - pattern.trim_end_matches('\\').len()) % 2 == 1
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::from("X'");
    for byte in bytes {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text + "'"
}

/// A number with a point, which is what makes it a decimal.
fn decimal(unscaled: i128, scale: i8) -> Result<String> {
    if !(0..=MAX_SCALE).contains(&i32::from(scale)) {
        return refused(format!("a number of scale {scale}"));
    }
    let mut written = Vec::new();
    text::write_numeric(unscaled, scale, Some(scale), &mut written);
    let written = String::from_utf8_lossy(&written).into_owned();
    Ok(if scale == 0 { format!("{written}.0") } else { written })
}

fn moment(ty: &SqlType, value: &Value) -> Result<String> {
    Ok(match encode(ty, value)? {
        Wire::Date(year, month, day, ..) if *ty == SqlType::Date => format!("DATE'{year:04}-{month:02}-{day:02}'"),
        Wire::Date(year, month, day, hour, minute, second, micros) => {
            format!("TIMESTAMP'{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}'")
        }
        Wire::Time(_, days, hour, minute, second, micros) => {
            format!("TIME'{:02}:{minute:02}:{second:02}.{micros:06}'", days * 24 + u32::from(hour))
        }
        _ => return refused(format!("constants of type {ty}")),
    })
}

/// An integer of 64 bits that has to lie between `-most - 1` and `most`: at the border, one step more is the server's error.
fn confined(written: &str, most: i64) -> String {
    let shift = i64::MAX - most;
    format!("({written} + {shift} - {shift} - {shift} + {shift})")
}

/// Digits of a number, and those behind the point.
fn digits(ty: &SqlType) -> (i32, i32) {
    match ty {
        SqlType::Int2 => (5, 0),
        SqlType::Int4 => (10, 0),
        SqlType::Int8 => (19, 0),
        SqlType::Numeric(Some((precision, scale))) => (i32::from(*precision), i32::from(*scale)),
        _ => (38, i32::from(UNCONSTRAINED_SCALE)),
    }
}

/// Whether the server computes a product to its last digit.
fn check_product(left: &SqlType, right: &SqlType) -> Result<()> {
    let words = |digits: i32| (digits + WORD - 1) / WORD;
    let needed = |(precision, scale): (i32, i32)| words(precision - scale) + words(scale);
    let (left, right) = (digits(left), digits(right));
    let scales = left.1.min(right.1) >= 0 && left.1 + right.1 <= MAX_SCALE;
    if scales && needed(left) + needed(right) <= WORDS {
        return Ok(());
    }
    refused("a product of so many digits")
}
