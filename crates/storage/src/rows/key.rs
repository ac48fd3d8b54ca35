//! Keys whose byte order is the order of the values (memcomparable encoding).
//!
//! Invariants, for values `a`, `b` of one column type: `encode(a) < encode(b)` exactly if `a` sorts before `b` (text by its bytes,
//! NaN above all numbers, -0 equal to 0, NULL last where NULLs are possible), and no encoding is a proper prefix of another. So the
//! concatenation of columns orders as the tuple does, and all keys that begin with some values are one range of bytes.
//! Keys are never decoded: rows hold all their columns.

use atoll_model::{Error, ErrorKind, Result, SqlType, UNCONSTRAINED_SCALE, Value, text};
use std::ops::Bound;

/// Before a value, where NULL is possible.
const PRESENT: u8 = 1;
/// NULL: after all values.
const NULL: u8 = 2;
/// After the last element of an array: before all values.
const END: u8 = 0;

/// Appends the encoding of a value of a type. `nullable` columns (those of indexes) carry a mark in front.
///
/// # Errors
/// `NotNullViolation` for NULL where it cannot be; `DatatypeMismatch` when the value is not of the type.
pub fn encode_value(ty: &SqlType, value: &Value, nullable: bool, out: &mut Vec<u8>) -> Result<()> {
    if nullable {
        if value.is_null() {
            out.push(NULL);
            return Ok(());
        }
        out.push(PRESENT);
    }
    match (ty, value) {
        (_, Value::Null) => return Err(Error::new(ErrorKind::NotNullViolation, "null value in a key column")),
        (SqlType::Bool, Value::Bool(v)) => out.push(u8::from(*v)),
        (SqlType::Int2, v) => out.extend_from_slice(&flip16(integer(ty, v)?)),
        (SqlType::Int4, v) => out.extend_from_slice(&flip32(integer(ty, v)?)),
        (SqlType::Int8, v) => out.extend_from_slice(&flip64(integer(ty, v)?)),
        (SqlType::Float4, Value::Float4(v)) => out.extend_from_slice(&float32(*v)),
        (SqlType::Float8, Value::Float8(v)) => out.extend_from_slice(&float64(*v)),
        (SqlType::Numeric(limits), Value::Numeric(v, scale)) => {
            let wanted = limits.map_or(UNCONSTRAINED_SCALE, |(_, s)| s);
            let v = at_scale(*v, *scale, wanted).ok_or_else(|| mismatch(ty, value))?;
            out.extend_from_slice(&((v as u128) ^ (1 << 127)).to_be_bytes());
        }
        (
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb,
            Value::Text(v),
        ) => escaped(v.as_bytes(), out),
        (SqlType::Bytea, Value::Bytea(v)) => escaped(v, out),
        (SqlType::Date, Value::Date(v)) => out.extend_from_slice(&flip32(*v)),
        (SqlType::Time(_), Value::Time(v))
        | (SqlType::Timestamp(_), Value::Timestamp(v))
        | (SqlType::TimestampTz(_), Value::TimestampTz(v)) => out.extend_from_slice(&flip64(*v)),
        (SqlType::Array(item), Value::Array(items)) => {
            for value in items {
                encode_value(item, value, true, out)?;
            }
            out.push(END);
        }
        _ => return Err(mismatch(ty, value)),
    }
    Ok(())
}

fn mismatch(ty: &SqlType, value: &Value) -> Error {
    Error::new(ErrorKind::DatatypeMismatch, format!("{value:?} is not a value of type {ty}"))
}

fn integer<T: TryFrom<i64>>(ty: &SqlType, value: &Value) -> Result<T> {
    value.as_i64().and_then(|v| T::try_from(v).ok()).ok_or_else(|| mismatch(ty, value))
}

/// An unscaled number at another scale, if that loses nothing.
pub(crate) fn at_scale(value: i128, scale: i8, wanted: i8) -> Option<i128> {
    if scale == wanted {
        return Some(value);
    }
    let factor = 10i128.checked_pow(u32::from(wanted.abs_diff(scale)))?;
    if wanted > scale { value.checked_mul(factor) } else { (value % factor == 0).then(|| value / factor) }
}

fn flip16(v: i16) -> [u8; 2] {
    ((v as u16) ^ (1 << 15)).to_be_bytes()
}

fn flip32(v: i32) -> [u8; 4] {
    ((v as u32) ^ (1 << 31)).to_be_bytes()
}

fn flip64(v: i64) -> [u8; 8] {
    ((v as u64) ^ (1 << 63)).to_be_bytes()
}

/// IEEE 754 numbers order as sign and magnitude: flip all bits of negative ones, the sign of the others.
fn float32(v: f32) -> [u8; 4] {
    let bits = if v.is_nan() { f32::NAN.to_bits() & !(1 << 31) } else { (v + 0.0).to_bits() };
    (if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }).to_be_bytes()
}

fn float64(v: f64) -> [u8; 8] {
    let bits = if v.is_nan() { f64::NAN.to_bits() & !(1 << 63) } else { (v + 0.0).to_bits() };
    (if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }).to_be_bytes()
}

/// Bytes with 00 written as 00 FF, ended by 00 01.
fn escaped(bytes: &[u8], out: &mut Vec<u8>) {
    for part in bytes.split_inclusive(|b| *b == 0) {
        out.extend_from_slice(part);
        if part.last() == Some(&0) {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 1]);
}

/// The prefix of all keys of one order of one fragment.
pub fn key_prefix(fragment: u32, index: u16) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(24);
    prefix.extend_from_slice(&fragment.to_be_bytes());
    prefix.extend_from_slice(&index.to_be_bytes());
    prefix
}

/// The least byte string above all those that begin with `prefix`; `None`: there is none.
fn after_prefix(mut prefix: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = prefix.pop() {
        if last < 0xff {
            prefix.push(last + 1);
            return Some(prefix);
        }
    }
    None
}

/// A range of bytes: from the first, included, to the second, excluded if there is one.
pub(crate) type ByteRange = (Vec<u8>, Option<Vec<u8>>);

/// The bytes of a range of keys, each bound being a prefix of the key's columns, below `prefix`.
///
/// # Errors
/// Those of [`encode_value`].
pub(crate) fn byte_range(
    prefix: &[u8],
    types: &[(usize, SqlType)],
    nullable: bool,
    lower: &Bound<Vec<Value>>,
    upper: &Bound<Vec<Value>>,
) -> Result<ByteRange> {
    let encode = |values: &[Value]| -> Result<Vec<u8>> {
        if values.len() > types.len() {
            return Err(Error::internal("a key range names more columns than the key has"));
        }
        let mut out = prefix.to_vec();
        for ((_, ty), value) in types.iter().zip(values) {
            encode_value(ty, value, nullable, &mut out)?;
        }
        Ok(out)
    };
    // `None` for a lower bound: nothing can lie above it.
    let from = match lower {
        Bound::Unbounded => Some(prefix.to_vec()),
        Bound::Included(values) => Some(encode(values)?),
        Bound::Excluded(values) => after_prefix(encode(values)?),
    };
    let to = match upper {
        Bound::Unbounded => after_prefix(prefix.to_vec()),
        Bound::Included(values) => after_prefix(encode(values)?),
        Bound::Excluded(values) => Some(encode(values)?),
    };
    Ok(match from {
        Some(from) => (from, to),
        None => (prefix.to_vec(), Some(prefix.to_vec())),
    })
}

/// `(a, b)=(1, x)`, for the detail of a violated constraint.
pub(crate) fn describe<'a>(columns: impl Iterator<Item = (&'a str, &'a SqlType, &'a Value)>) -> String {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    for (name, ty, value) in columns {
        names.push(name);
        values.push(text::to_text(ty, value));
    }
    format!("({})=({})", names.join(", "), values.join(", "))
}
