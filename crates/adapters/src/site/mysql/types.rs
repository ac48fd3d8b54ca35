//! Which type of MySQL holds which of Atoll's: one function each way. `docs/types.md` shows both as a table.
//!
//! Invariant: a value that a column can hold comes back as it was, and values are ordered as everywhere in Atoll.

use super::connection::Flavor;
use crate::site::orders;
use atoll_model::{Column, Error, MAX_SECOND_DIGITS, Result, SqlType, Table};

/// Bytes of an index entry at most (InnoDB's, of rows in its dynamic format).
const ENTRY: usize = 3072;

/// Bytes of a character at most.
const CHARACTER: usize = 4;

/// Bytes set aside for each column of an index that is not a text.
const FIXED: usize = 40;

/// A `varchar` up to this length is declared as one; longer ones take no room in a row that has no room.
const SHORT: u32 = 255;

/// Digits behind the point at most.
const MAX_SCALE: i8 = 30;

/// Whether the type's length varies, so that an index cannot hold all values.
fn varies(ty: &SqlType) -> bool {
    matches!(
        ty,
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Bytea | SqlType::Json | SqlType::Jsonb
    )
}

/// How many characters (of `bytea`: bytes) each varying column of an index with these columns can have.
fn share(table: &Table, order: &[usize]) -> usize {
    let varying: Vec<&SqlType> = order.iter().map(|at| &table.columns[*at].ty).filter(|ty| varies(ty)).collect();
    let fixed = (order.len() - varying.len()) * FIXED;
    let weight: usize = varying.iter().map(|ty| if **ty == SqlType::Bytea { 1 } else { CHARACTER }).sum();
    ENTRY.saturating_sub(fixed) / weight.max(1)
}

/// The length to which a column is confined by the key and the indexes that it is in. Beginnings of values would do for an index that is
/// not unique, but the server also sorts by no more than a beginning.
pub(super) fn confinement(table: &Table, at: usize) -> Result<Option<usize>> {
    let orders = orders::all(table)?;
    Ok(orders.iter().filter(|order| order.contains(&at)).map(|order| share(table, order)).min())
}

/// The type with which the column at a position is declared at the site, collation included.
pub(super) fn declared(table: &Table, at: usize, flavor: Flavor) -> Result<String> {
    let column = &table.columns[at];
    let confined =
        if varies(&column.ty) || matches!(column.ty, SqlType::Array(_)) { confinement(table, at)? } else { None };
    let collated = |ty: String| format!("{ty} CHARACTER SET utf8mb4 COLLATE {}", flavor.collation());
    Ok(match (&column.ty, confined) {
        (SqlType::Bool, _) => "TINYINT(1)".into(),
        (SqlType::Int2, _) => "SMALLINT".into(),
        (SqlType::Int4, _) => "INT".into(),
        (SqlType::Int8, _) => "BIGINT".into(),
        (SqlType::Float4, _) => "FLOAT".into(),
        (SqlType::Float8, _) => "DOUBLE".into(),
        (SqlType::Numeric(None), _) => format!("DECIMAL(38,{})", atoll_model::UNCONSTRAINED_SCALE),
        (SqlType::Numeric(Some((_, s))), _) if !(0..=MAX_SCALE).contains(s) => {
            return refused(column, "MySQL has at most 30 digits behind the point.");
        }
        (SqlType::Numeric(Some((p, s))), _) => format!("DECIMAL({p},{s})"),
        (SqlType::Varchar(Some(n)) | SqlType::Char(n), None) if *n <= SHORT => collated(format!("VARCHAR({n})")),
        (SqlType::Varchar(Some(n)) | SqlType::Char(n), Some(limit)) if *n as usize <= limit => {
            collated(format!("VARCHAR({n})"))
        }
        (SqlType::Bytea, None) => "LONGBLOB".into(),
        (SqlType::Bytea, Some(limit)) => format!("VARBINARY({limit})"),
        (SqlType::Date, _) => "DATE".into(),
        (SqlType::Time(digits), _) => format!("TIME({})", digits.unwrap_or(MAX_SECOND_DIGITS)),
        // TIMESTAMP ends in 2038.
        (SqlType::Timestamp(digits) | SqlType::TimestampTz(digits), _) => {
            format!("DATETIME({})", digits.unwrap_or(MAX_SECOND_DIGITS))
        }
        (SqlType::Uuid, _) => "CHAR(36) CHARACTER SET ascii COLLATE ascii_bin".into(),
        (SqlType::Interval, _) => return refused(column, "Intervals are not stored."),
        (SqlType::Array(item), _) if matches!(**item, SqlType::Array(_)) => {
            return refused(column, "Arrays of arrays are not stored.");
        }
        (SqlType::Array(_), Some(_)) => {
            return refused(
                column,
                "An array is a text there, which is ordered otherwise, so it cannot be part of a key or an index.",
            );
        }
        (_, None) => collated("LONGTEXT".into()),
        (_, Some(limit)) => collated(format!("VARCHAR({limit})")),
    })
}

fn refused<T>(column: &Column, why: &str) -> Result<T> {
    Err(Error::unsupported(format!("column \"{}\" of type {} at a MySQL site", column.name, column.ty)).detail(why))
}

/// Whether values of the type are ordered by a collation.
pub(super) fn is_text(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Json | SqlType::Jsonb)
}

/// What the server says of a column.
#[derive(Debug)]
pub(super) struct Declared {
    /// `DATA_TYPE`
    pub(super) base: String,
    /// `COLUMN_TYPE`
    pub(super) full: String,
    pub(super) length: u64,
    pub(super) precision: u64,
    pub(super) scale: u64,
    /// Digits of a second.
    pub(super) fraction: u64,
    /// `CHARACTER_SET_NAME`, if it has one.
    pub(super) characters: String,
}

/// The type of a site's column. `None`: one whose values Atoll cannot carry.
pub(super) fn of_site(column: &Declared) -> Option<SqlType> {
    if column.full.contains("unsigned") {
        return None;
    }
    let limited = || u32::try_from(column.length).ok();
    // All six are no limit. The server itself does not round to fewer as Atoll does, so they are part of the type.
    let digits = || {
        let digits = u8::try_from(column.fraction).ok().filter(|digits| *digits <= MAX_SECOND_DIGITS)?;
        Some((digits < MAX_SECOND_DIGITS).then_some(digits))
    };
    let texts = matches!(column.characters.as_str(), "utf8mb4" | "utf8mb3" | "utf8" | "ascii");
    Some(match column.base.as_str() {
        "tinyint" if column.full == "tinyint(1)" => SqlType::Bool,
        "tinyint" | "smallint" => SqlType::Int2,
        "mediumint" | "int" => SqlType::Int4,
        "bigint" => SqlType::Int8,
        // With digits in its declaration, such a number is rounded.
        "float" if column.full == "float" => SqlType::Float4,
        "double" if column.full == "double" => SqlType::Float8,
        "decimal" if column.precision <= 38 => {
            SqlType::Numeric(Some((u8::try_from(column.precision).ok()?, i8::try_from(column.scale).ok()?)))
        }
        "varchar" if texts => SqlType::Varchar(Some(limited()?)),
        "char" if texts => SqlType::Char(limited()?),
        "tinytext" | "text" | "mediumtext" | "longtext" if texts => SqlType::Text,
        "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => SqlType::Bytea,
        "date" => SqlType::Date,
        "time" => SqlType::Time(digits()?),
        "datetime" => SqlType::Timestamp(digits()?),
        "timestamp" => SqlType::TimestampTz(digits()?),
        _ => return None,
    })
}

/// Whether a site's column of one type holds exactly what a table's column of another does; `own`: Atoll has declared it.
pub(super) fn carries(site: &SqlType, table: &SqlType, own: bool) -> bool {
    let scale = atoll_model::UNCONSTRAINED_SCALE;
    match (site, table) {
        (site, table) if site.has_values_of(table) => true,
        (SqlType::Text, SqlType::Varchar(None) | SqlType::Json) => true,
        (SqlType::Numeric(Some((38, s))), SqlType::Numeric(None)) => *s == scale,
        (SqlType::Char(36), SqlType::Uuid) => own,
        (SqlType::Timestamp(digits), table @ SqlType::TimestampTz(_)) => {
            SqlType::TimestampTz(*digits).has_values_of(table)
        }
        (SqlType::Text, SqlType::Jsonb | SqlType::Array(_) | SqlType::Varchar(_) | SqlType::Char(_)) => own,
        (SqlType::Varchar(_), table) => own && is_text(table),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared_as(base: &str, full: &str, length: u64) -> Declared {
        Declared {
            base: base.into(),
            full: full.into(),
            length,
            precision: 10,
            scale: 2,
            fraction: 0,
            characters: "utf8mb4".into(),
        }
    }

    #[test]
    fn types_of_the_site() {
        for (base, full, length, ty) in [
            ("tinyint", "tinyint(1)", 0, Some(SqlType::Bool)),
            ("tinyint", "tinyint(4)", 0, Some(SqlType::Int2)),
            ("int", "int(11)", 0, Some(SqlType::Int4)),
            ("int", "int(10) unsigned", 0, None),
            ("decimal", "decimal(10,2)", 0, Some(SqlType::Numeric(Some((10, 2))))),
            ("varchar", "varchar(20)", 20, Some(SqlType::Varchar(Some(20)))),
            ("enum", "enum('a')", 1, None),
            ("year", "year(4)", 0, None),
            ("double", "double", 0, Some(SqlType::Float8)),
            ("double", "double(9,2)", 0, None),
        ] {
            assert_eq!(of_site(&declared_as(base, full, length)), ty, "{full}");
        }
    }

    #[test]
    fn digits_of_seconds_are_part_of_the_type() {
        for (base, fraction, ty) in [
            ("datetime", 0, SqlType::Timestamp(Some(0))),
            ("datetime", 3, SqlType::Timestamp(Some(3))),
            ("datetime", 6, SqlType::Timestamp(None)),
            ("timestamp", 1, SqlType::TimestampTz(Some(1))),
            ("time", 0, SqlType::Time(Some(0))),
            ("time", 6, SqlType::Time(None)),
        ] {
            let column = Declared { fraction, ..declared_as(base, base, 0) };
            assert_eq!(of_site(&column), Some(ty), "{base} {fraction}");
        }
    }

    #[test]
    fn what_holds_what() {
        assert!(carries(&SqlType::Text, &SqlType::Varchar(Some(9)), true));
        assert!(!carries(&SqlType::Text, &SqlType::Varchar(Some(9)), false));
        assert!(!carries(&SqlType::Int4, &SqlType::Int8, true));
        assert!(carries(&SqlType::Timestamp(Some(3)), &SqlType::TimestampTz(Some(3)), false));
        assert!(carries(&SqlType::Timestamp(None), &SqlType::TimestampTz(Some(6)), false));
        assert!(!carries(&SqlType::Timestamp(Some(3)), &SqlType::TimestampTz(None), true));
        assert!(!carries(&SqlType::Time(None), &SqlType::Time(Some(0)), false));
    }
}
