//! One SQL value, and a row of them.
//!
//! Invariant: a row holds one value per *live* column of its table, in column order, each `Null` or of the column's type.

use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// A row: one value per live column of the table, in column order.
pub type Row = Vec<Value>;

/// One SQL value. Which [`crate::SqlType`] it is of is known from where it stands: text, varchar, uuid and json are all `Text`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Value {
    /// NULL of any type.
    Null,
    /// `boolean`
    Bool(bool),
    /// `smallint`
    Int2(i16),
    /// `integer`
    Int4(i32),
    /// `bigint`
    Int8(i64),
    /// `real`
    Float4(f32),
    /// `double precision`
    Float8(f64),
    /// `numeric`: unscaled number and digits after the point (that of the column).
    Numeric(i128, i8),
    /// `text`, `varchar`, `char`, `uuid` (canonical), `json`, `jsonb` (normalised)
    Text(String),
    /// `bytea`
    Bytea(Vec<u8>),
    /// `date`: days since 1970-01-01.
    Date(i32),
    /// `time`: microseconds since midnight.
    Time(i64),
    /// `timestamp`: microseconds since 1970-01-01 00:00.
    Timestamp(i64),
    /// `timestamptz`: microseconds since 1970-01-01 00:00 UTC.
    TimestampTz(i64),
    /// An array.
    Array(Vec<Value>),
}

impl Value {
    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The integer in it, whatever its width.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int2(v) => Some(i64::from(*v)),
            Value::Int4(v) => Some(i64::from(*v)),
            Value::Int8(v) => Some(*v),
            _ => None,
        }
    }

    /// Bytes of heap and stack it takes, for limits on buffered rows.
    pub fn size(&self) -> usize {
        size_of::<Value>()
            + match self {
                Value::Text(s) => s.len(),
                Value::Bytea(b) => b.len(),
                Value::Array(items) => items.iter().map(Value::size).sum(),
                _ => 0,
            }
    }
}

impl Value {
    /// Orders two values of one column as PostgreSQL does (text by its bytes, NaN above all numbers). `None` with a NULL, or for
    /// values of different types.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        Some(match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Value::Bytea(a), Value::Bytea(b)) => a.cmp(b),
            (Value::Date(a), Value::Date(b)) => a.cmp(b),
            (Value::Time(a), Value::Time(b)) => a.cmp(b),
            (Value::Timestamp(a), Value::Timestamp(b)) | (Value::TimestampTz(a), Value::TimestampTz(b)) => a.cmp(b),
            (Value::Float4(a), Value::Float4(b)) => compare_floats(f64::from(*a), f64::from(*b)),
            (Value::Float8(a), Value::Float8(b)) => compare_floats(*a, *b),
            (Value::Numeric(a, s), Value::Numeric(b, t)) if s == t => a.cmp(b),
            (Value::Numeric(a, s), Value::Numeric(b, t)) => {
                let widest = *s.max(t);
                let a = a.checked_mul(10i128.checked_pow((widest - s) as u32)?)?;
                let b = b.checked_mul(10i128.checked_pow((widest - t) as u32)?)?;
                a.cmp(&b)
            }
            (Value::Array(a), Value::Array(b)) => {
                for (x, y) in a.iter().zip(b) {
                    match x.compare(y)? {
                        Ordering::Equal => {}
                        order => return Some(order),
                    }
                }
                a.len().cmp(&b.len())
            }
            (a, b) => a.as_i64()?.cmp(&b.as_i64()?),
        })
    }

    /// Equality that takes NULL for a value: two NULLs match. (SQL's `IS NOT DISTINCT FROM`.)
    pub fn matches(&self, other: &Value) -> bool {
        (self.is_null() && other.is_null()) || self.compare(other) == Some(Ordering::Equal)
    }
}

fn compare_floats(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}
