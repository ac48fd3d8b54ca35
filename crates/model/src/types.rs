//! SQL types, and how each is carried in Arrow and named in PostgreSQL.
//!
//! Invariant: [`SqlType::arrow`] is injective together with the field metadata [`TYPE_METADATA_KEY`], so a result column's
//! SQL type can always be recovered from its Arrow field. `uuid`, `json` and `jsonb` are carried as canonical text, whose
//! byte order and equality are those of the type (for uuid) or are not defined by PostgreSQL either (json).

mod stored;

use arrow_schema::{DataType, Field, TimeUnit};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Key of the Arrow field metadata that holds a [`SqlType`]'s SQL name where Arrow's type alone does not tell it.
pub const TYPE_METADATA_KEY: &str = "atoll.type";

/// Most digits of a second that a time or timestamp has.
pub const MAX_SECOND_DIGITS: u8 = 6;

/// Digits after the point of a `numeric` that was declared without precision.
pub const UNCONSTRAINED_SCALE: i8 = 10;

/// The SQL type of a column, parameter or result.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(remote = "Self")] // The form that is stored is `stored`'s.
pub enum SqlType {
    /// `boolean`
    Bool,
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric(precision, scale)`; `None`: without limits, carried with 38 digits of which [`UNCONSTRAINED_SCALE`] are fractional.
    Numeric(Option<(u8, i8)>),
    /// `text`
    Text,
    /// `varchar(n)`, n in characters.
    Varchar(Option<u32>),
    /// `char(n)`, n in characters; carried without the padding, which PostgreSQL ignores in comparisons.
    Char(u32),
    /// `bytea`
    Bytea,
    /// `date`: days since 1970-01-01.
    Date,
    /// `time(p)`: microseconds since midnight, in p digits of a second; `None`: without a limit, so 6.
    Time(Option<u8>),
    /// `timestamp(p)`: microseconds since 1970-01-01 00:00, in p digits of a second.
    Timestamp(Option<u8>),
    /// `timestamptz(p)`: microseconds since 1970-01-01 00:00 UTC, in p digits of a second.
    TimestampTz(Option<u8>),
    /// `interval`: months, days, nanoseconds. In expressions and results only, not in tables.
    Interval,
    /// `uuid`: canonical lower-case text.
    Uuid,
    /// `json`: text as given.
    Json,
    /// `jsonb`: normalised text.
    Jsonb,
    /// An array of one of the others.
    Array(Box<SqlType>),
}

impl SqlType {
    /// The Arrow type that carries it.
    pub fn arrow(&self) -> DataType {
        match self {
            SqlType::Bool => DataType::Boolean,
            SqlType::Int2 => DataType::Int16,
            SqlType::Int4 => DataType::Int32,
            SqlType::Int8 => DataType::Int64,
            SqlType::Float4 => DataType::Float32,
            SqlType::Float8 => DataType::Float64,
            SqlType::Numeric(Some((p, s))) => DataType::Decimal128(*p, *s),
            SqlType::Numeric(None) => DataType::Decimal128(38, UNCONSTRAINED_SCALE),
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb => {
                DataType::Utf8
            }
            SqlType::Bytea => DataType::Binary,
            SqlType::Date => DataType::Date32,
            SqlType::Time(_) => DataType::Time64(TimeUnit::Microsecond),
            SqlType::Timestamp(_) => DataType::Timestamp(TimeUnit::Microsecond, None),
            SqlType::TimestampTz(_) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            SqlType::Interval => DataType::Interval(arrow_schema::IntervalUnit::MonthDayNano),
            SqlType::Array(item) => DataType::List(Arc::new(Field::new("item", item.arrow(), true))),
        }
    }

    /// An Arrow field for a column of this type, with the metadata from which [`SqlType::of_field`] recovers it.
    pub fn field(&self, name: &str, nullable: bool) -> Field {
        let field = Field::new(name, self.arrow(), nullable);
        match self {
            SqlType::Numeric(None)
            | SqlType::Varchar(_)
            | SqlType::Char(_)
            | SqlType::Time(Some(_))
            | SqlType::Timestamp(Some(_))
            | SqlType::TimestampTz(Some(_))
            | SqlType::Uuid
            | SqlType::Json
            | SqlType::Jsonb
            | SqlType::Array(_) => field.with_metadata([(TYPE_METADATA_KEY.to_string(), self.to_string())].into()),
            _ => field,
        }
    }

    /// The SQL type of an Arrow field (a result column of a query). `None`: Arrow types that no SQL type is carried in.
    pub fn of_field(field: &Field) -> Option<SqlType> {
        if let Some(ty) = field.metadata().get(TYPE_METADATA_KEY).and_then(|n| SqlType::parse(n))
            && ty.arrow() == *field.data_type()
        {
            return Some(ty);
        }
        Self::of_arrow(field.data_type())
    }

    /// The SQL type that an Arrow type stands for when nothing more is known.
    pub fn of_arrow(ty: &DataType) -> Option<SqlType> {
        Some(match ty {
            DataType::Boolean => SqlType::Bool,
            DataType::Int8 | DataType::Int16 | DataType::UInt8 => SqlType::Int2,
            DataType::Int32 | DataType::UInt16 => SqlType::Int4,
            DataType::Int64 | DataType::UInt32 | DataType::UInt64 => SqlType::Int8,
            DataType::Float16 | DataType::Float32 => SqlType::Float4,
            DataType::Float64 => SqlType::Float8,
            DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => SqlType::Numeric(Some((*p, *s))),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => SqlType::Text,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
                SqlType::Bytea
            }
            DataType::Date32 | DataType::Date64 => SqlType::Date,
            DataType::Time32(_) | DataType::Time64(_) => SqlType::Time(None),
            DataType::Timestamp(_, None) => SqlType::Timestamp(None),
            DataType::Timestamp(_, Some(_)) => SqlType::TimestampTz(None),
            DataType::Interval(_) | DataType::Duration(_) => SqlType::Interval,
            DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => {
                SqlType::Array(Box::new(Self::of_field(f)?))
            }
            DataType::Dictionary(_, v) => Self::of_arrow(v)?,
            _ => return None,
        })
    }

    /// The digits of a second that a time or timestamp declares.
    pub fn second_digits(&self) -> Option<u8> {
        match self {
            SqlType::Time(digits) | SqlType::Timestamp(digits) | SqlType::TimestampTz(digits) => *digits,
            _ => None,
        }
    }

    /// The type without declared digits of a second, as literals and parameters beside a value of the type have it:
    /// what a value is compared with must not be rounded.
    pub fn without_second_digits(&self) -> SqlType {
        match self {
            SqlType::Time(_) => SqlType::Time(None),
            SqlType::Timestamp(_) => SqlType::Timestamp(None),
            SqlType::TimestampTz(_) => SqlType::TimestampTz(None),
            SqlType::Array(item) => SqlType::Array(Box::new(item.without_second_digits())),
            other => other.clone(),
        }
    }

    /// Whether both types have the same values: `timestamp(6)` has those of `timestamp`.
    pub fn has_values_of(&self, other: &SqlType) -> bool {
        let digits = |ty: &SqlType| ty.second_digits().unwrap_or(MAX_SECOND_DIGITS);
        match (self, other) {
            (SqlType::Array(a), SqlType::Array(b)) => a.has_values_of(b),
            _ => digits(self) == digits(other) && self.without_second_digits() == other.without_second_digits(),
        }
    }

    /// PostgreSQL's object id of the type.
    pub fn pg_oid(&self) -> u32 {
        match self {
            SqlType::Bool => 16,
            SqlType::Int2 => 21,
            SqlType::Int4 => 23,
            SqlType::Int8 => 20,
            SqlType::Float4 => 700,
            SqlType::Float8 => 701,
            SqlType::Numeric(_) => 1700,
            SqlType::Text => 25,
            SqlType::Varchar(_) => 1043,
            SqlType::Char(_) => 1042,
            SqlType::Bytea => 17,
            SqlType::Date => 1082,
            SqlType::Time(_) => 1083,
            SqlType::Timestamp(_) => 1114,
            SqlType::TimestampTz(_) => 1184,
            SqlType::Interval => 1186,
            SqlType::Uuid => 2950,
            SqlType::Json => 114,
            SqlType::Jsonb => 3802,
            SqlType::Array(item) => match item.as_ref() {
                SqlType::Bool => 1000,
                SqlType::Int2 => 1005,
                SqlType::Int4 => 1007,
                SqlType::Int8 => 1016,
                SqlType::Float4 => 1021,
                SqlType::Float8 => 1022,
                SqlType::Numeric(_) => 1231,
                SqlType::Varchar(_) => 1015,
                SqlType::Char(_) => 1014,
                SqlType::Bytea => 1001,
                SqlType::Date => 1182,
                SqlType::Time(_) => 1183,
                SqlType::Timestamp(_) => 1115,
                SqlType::TimestampTz(_) => 1185,
                SqlType::Interval => 1187,
                SqlType::Uuid => 2951,
                SqlType::Json => 199,
                SqlType::Jsonb => 3807,
                SqlType::Text | SqlType::Array(_) => 1009,
            },
        }
    }

    /// The type with this PostgreSQL object id (of a parameter that a client declares).
    pub fn from_pg_oid(oid: u32) -> Option<SqlType> {
        const SCALARS: [SqlType; 19] = [
            SqlType::Bool,
            SqlType::Int2,
            SqlType::Int4,
            SqlType::Int8,
            SqlType::Float4,
            SqlType::Float8,
            SqlType::Numeric(None),
            SqlType::Text,
            SqlType::Varchar(None),
            SqlType::Char(1),
            SqlType::Bytea,
            SqlType::Date,
            SqlType::Time(None),
            SqlType::Timestamp(None),
            SqlType::TimestampTz(None),
            SqlType::Interval,
            SqlType::Uuid,
            SqlType::Json,
            SqlType::Jsonb,
        ];
        // 705 "unknown", 19 "name" and 2205 "regclass" arrive from drivers and are text to us.
        if matches!(oid, 705 | 19 | 2205) {
            return Some(SqlType::Text);
        }
        SCALARS
            .iter()
            .find(|t| t.pg_oid() == oid)
            .cloned()
            .or_else(|| SCALARS.iter().map(|t| SqlType::Array(Box::new(t.clone()))).find(|t| t.pg_oid() == oid))
    }

    /// Reads a type's SQL name as [`fmt::Display`] prints it (also the common aliases).
    pub fn parse(name: &str) -> Option<SqlType> {
        let name = name.trim().to_ascii_lowercase();
        if let Some(item) = name.strip_suffix("[]") {
            return Some(SqlType::Array(Box::new(Self::parse(item)?)));
        }
        // What follows the modifiers belongs to the name: `timestamp(3) with time zone`.
        let (base, args) = match name.split_once('(') {
            Some((base, rest)) => {
                let (args, suffix) = rest.split_once(')')?;
                let args: Option<Vec<i64>> = args.split(',').map(|a| a.trim().parse().ok()).collect();
                (format!("{} {}", base.trim(), suffix.trim()), args?)
            }
            None => (name, vec![]),
        };
        let digits = |args: &[i64]| match args {
            [] => Some(None),
            [p] => u8::try_from((*p).min(MAX_SECOND_DIGITS.into())).ok().map(Some),
            _ => None,
        };
        Some(match (base.trim(), args.as_slice()) {
            ("boolean" | "bool", []) => SqlType::Bool,
            ("smallint" | "int2", []) => SqlType::Int2,
            ("integer" | "int" | "int4", []) => SqlType::Int4,
            ("bigint" | "int8", []) => SqlType::Int8,
            ("real" | "float4", []) => SqlType::Float4,
            ("double precision" | "float8" | "float", []) => SqlType::Float8,
            ("numeric" | "decimal", []) => SqlType::Numeric(None),
            ("numeric" | "decimal", [p]) => SqlType::Numeric(Some((u8::try_from(*p).ok()?, 0))),
            ("numeric" | "decimal", [p, s]) => SqlType::Numeric(Some((u8::try_from(*p).ok()?, i8::try_from(*s).ok()?))),
            ("text" | "name" | "regclass", []) => SqlType::Text,
            ("character varying" | "varchar", []) => SqlType::Varchar(None),
            ("character varying" | "varchar", [n]) => SqlType::Varchar(Some(u32::try_from(*n).ok()?)),
            ("character" | "char" | "bpchar", []) => SqlType::Char(1),
            ("character" | "char" | "bpchar", [n]) => SqlType::Char(u32::try_from(*n).ok()?),
            ("bytea", []) => SqlType::Bytea,
            ("date", []) => SqlType::Date,
            ("time" | "time without time zone", p) => SqlType::Time(digits(p)?),
            ("timestamp" | "timestamp without time zone", p) => SqlType::Timestamp(digits(p)?),
            ("timestamptz" | "timestamp with time zone", p) => SqlType::TimestampTz(digits(p)?),
            ("interval", _) => SqlType::Interval,
            ("uuid", []) => SqlType::Uuid,
            ("json", []) => SqlType::Json,
            ("jsonb", []) => SqlType::Jsonb,
            _ => return None,
        })
    }
}

impl fmt::Display for SqlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlType::Bool => f.write_str("boolean"),
            SqlType::Int2 => f.write_str("smallint"),
            SqlType::Int4 => f.write_str("integer"),
            SqlType::Int8 => f.write_str("bigint"),
            SqlType::Float4 => f.write_str("real"),
            SqlType::Float8 => f.write_str("double precision"),
            SqlType::Numeric(None) => f.write_str("numeric"),
            SqlType::Numeric(Some((p, s))) => write!(f, "numeric({p},{s})"),
            SqlType::Text => f.write_str("text"),
            SqlType::Varchar(None) => f.write_str("character varying"),
            SqlType::Varchar(Some(n)) => write!(f, "character varying({n})"),
            SqlType::Char(n) => write!(f, "character({n})"),
            SqlType::Bytea => f.write_str("bytea"),
            SqlType::Date => f.write_str("date"),
            SqlType::Time(None) => f.write_str("time without time zone"),
            SqlType::Time(Some(p)) => write!(f, "time({p}) without time zone"),
            SqlType::Timestamp(None) => f.write_str("timestamp without time zone"),
            SqlType::Timestamp(Some(p)) => write!(f, "timestamp({p}) without time zone"),
            SqlType::TimestampTz(None) => f.write_str("timestamp with time zone"),
            SqlType::TimestampTz(Some(p)) => write!(f, "timestamp({p}) with time zone"),
            SqlType::Interval => f.write_str("interval"),
            SqlType::Uuid => f.write_str("uuid"),
            SqlType::Json => f.write_str("json"),
            SqlType::Jsonb => f.write_str("jsonb"),
            SqlType::Array(item) => write!(f, "{item}[]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_named_with_their_digits() {
        for (name, ty) in [
            ("time without time zone", SqlType::Time(None)),
            ("time(0) without time zone", SqlType::Time(Some(0))),
            ("timestamp(3) without time zone", SqlType::Timestamp(Some(3))),
            ("timestamp(6) with time zone", SqlType::TimestampTz(Some(6))),
            ("timestamp(0) without time zone[]", SqlType::Array(Box::new(SqlType::Timestamp(Some(0))))),
        ] {
            assert_eq!(ty.to_string(), name);
            assert_eq!(SqlType::parse(name), Some(ty.clone()));
            assert_eq!(SqlType::of_field(&ty.field("x", true)), Some(ty.clone()));
        }
        for (name, ty) in [
            ("TIMESTAMPTZ(2)", Some(SqlType::TimestampTz(Some(2)))),
            ("timestamp (9)", Some(SqlType::Timestamp(Some(6)))),
            ("time(1)", Some(SqlType::Time(Some(1)))),
            ("timestamp(-1)", None),
            ("timestamp(1,2)", None),
            ("timestamp(1) with", None),
            ("time(1) with time zone", None),
            ("varchar(3) without time zone", None),
        ] {
            assert_eq!(SqlType::parse(name), ty, "{name}");
        }
        assert!(SqlType::Timestamp(None).field("x", true).metadata().is_empty());
    }

    #[test]
    fn all_digits_are_no_limit() {
        assert!(SqlType::Time(Some(6)).has_values_of(&SqlType::Time(None)));
        assert!(!SqlType::Time(Some(5)).has_values_of(&SqlType::Time(None)));
        assert!(!SqlType::Timestamp(Some(3)).has_values_of(&SqlType::TimestampTz(Some(3))));
        assert!(SqlType::Text.has_values_of(&SqlType::Text));
        assert!(!SqlType::Varchar(Some(3)).has_values_of(&SqlType::Varchar(Some(4))));
        let of = |ty: SqlType| SqlType::Array(Box::new(ty));
        assert!(of(SqlType::Timestamp(None)).has_values_of(&of(SqlType::Timestamp(Some(6)))));
        assert!(!of(SqlType::Timestamp(None)).has_values_of(&of(SqlType::Timestamp(Some(2)))));
    }
}
