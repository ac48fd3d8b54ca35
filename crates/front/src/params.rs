//! Parameters as clients send them, in text or binary, to values.
//!
//! Invariant: bytes come from outside: every length is checked, nothing panics, and a decoded value is of the type asked for.

use crate::encode::{Format, PG_EPOCH_DAYS, PG_EPOCH_MICROS};
use atoll_model::text::{self, Interval};
use atoll_model::{Error, ErrorKind, Result, SqlType, UNCONSTRAINED_SCALE, Value};

/// Deepest nesting of arrays, as in PostgreSQL.
const MAX_DIMENSIONS: usize = 6;

/// The SQL type that a client's declared object id stands for. `None`: not declared, or unknown here, so inferred.
pub(crate) fn declared_type(oid: u32) -> Option<SqlType> {
    match oid {
        0 => None,
        // oid and its aliases are numbers; "char" is text.
        26 | 24 | 28 | 29 | 2202..=2204 | 2206 => Some(SqlType::Int8),
        1028 => Some(SqlType::Array(Box::new(SqlType::Int8))),
        18 => Some(SqlType::Text),
        // A parameter declared `unknown` has no type yet: libpq sends it for untyped literals.
        705 => None,
        oid => SqlType::from_pg_oid(oid),
    }
}

/// Decodes a parameter. `None` is NULL.
///
/// # Errors
/// 22021, 22P02, 22P03 and what the type's text form gives.
pub(crate) fn decode(ty: &SqlType, format: Format, bytes: Option<&[u8]>) -> Result<Value> {
    let Some(bytes) = bytes else { return Ok(Value::Null) };
    match format {
        Format::Text => text::parse(ty, utf8(bytes)?),
        Format::Binary => binary(ty, bytes),
    }
}

/// Text of a client, which must be UTF-8.
///
/// # Errors
/// 22021, naming the first bad byte.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|e| {
        let bad = bytes.get(e.valid_up_to()).copied().unwrap_or_default();
        Error::new(ErrorKind::InvalidEncoding, format!("invalid byte sequence for encoding \"UTF8\": 0x{bad:02x}"))
    })
}

fn bad(ty: &SqlType) -> Error {
    Error::new(ErrorKind::InvalidBinary, format!("incorrect binary data format for type {ty}"))
}

fn fixed<const N: usize>(ty: &SqlType, bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| bad(ty))
}

/// An integer of whichever width: drivers send `oid` as four bytes and infer narrower types than the statement's.
fn integer(ty: &SqlType, bytes: &[u8]) -> Result<i64> {
    Ok(match bytes.len() {
        2 => i64::from(i16::from_be_bytes(fixed(ty, bytes)?)),
        4 => i64::from(i32::from_be_bytes(fixed(ty, bytes)?)),
        8 => i64::from_be_bytes(fixed(ty, bytes)?),
        _ => return Err(bad(ty)),
    })
}

fn binary(ty: &SqlType, bytes: &[u8]) -> Result<Value> {
    let out_of_range = |_| Error::new(ErrorKind::NumericOutOfRange, format!("{ty} out of range"));
    let datetime = || Error::new(ErrorKind::DatetimeOverflow, format!("{ty} out of range"));
    Ok(match ty {
        SqlType::Bool => Value::Bool(fixed::<1>(ty, bytes)?[0] != 0),
        SqlType::Int2 => Value::Int2(i16::try_from(integer(ty, bytes)?).map_err(out_of_range)?),
        SqlType::Int4 => Value::Int4(i32::try_from(integer(ty, bytes)?).map_err(out_of_range)?),
        SqlType::Int8 => Value::Int8(integer(ty, bytes)?),
        SqlType::Float4 => Value::Float4(f32::from_be_bytes(fixed(ty, bytes)?)),
        SqlType::Float8 if bytes.len() == 4 => Value::Float8(f64::from(f32::from_be_bytes(fixed(ty, bytes)?))),
        SqlType::Float8 => Value::Float8(f64::from_be_bytes(fixed(ty, bytes)?)),
        SqlType::Numeric(limits) => {
            let (unscaled, scale) = numeric(ty, bytes, *limits)?;
            Value::Numeric(unscaled, scale)
        }
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Json => text::parse(ty, utf8(bytes)?)?,
        SqlType::Bytea => Value::Bytea(bytes.to_vec()),
        SqlType::Date => {
            let days = i32::from_be_bytes(fixed(ty, bytes)?);
            // The two extremes are PostgreSQL's infinities, and beyond what it takes for a date.
            let days = days.checked_add(PG_EPOCH_DAYS).filter(|days| text::DATES.contains(&i64::from(*days)));
            Value::Date(days.ok_or_else(datetime)?)
        }
        SqlType::Time(_) => {
            let micros = i64::from_be_bytes(fixed(ty, bytes)?);
            if !(0..=86_400_000_000).contains(&micros) {
                return Err(datetime());
            }
            Value::Time(micros)
        }
        SqlType::Timestamp(_) | SqlType::TimestampTz(_) => {
            let micros = i64::from_be_bytes(fixed(ty, bytes)?);
            let micros = micros.checked_add(PG_EPOCH_MICROS).filter(|micros| text::TIMESTAMPS.contains(micros));
            let micros = micros.ok_or_else(datetime)?;
            if matches!(ty, SqlType::Timestamp(_)) { Value::Timestamp(micros) } else { Value::TimestampTz(micros) }
        }
        SqlType::Interval => {
            let [m, d, n] = [bytes.get(0..8), bytes.get(8..12), bytes.get(12..16)];
            let (Some(micros), Some(days), Some(months), 16) = (m, d, n, bytes.len()) else { return Err(bad(ty)) };
            let interval = Interval {
                micros: i64::from_be_bytes(fixed(ty, micros)?),
                days: i32::from_be_bytes(fixed(ty, days)?),
                months: i32::from_be_bytes(fixed(ty, months)?),
            };
            let mut out = Vec::new();
            text::write_interval(interval, &mut out);
            Value::Text(utf8(&out)?.to_string())
        }
        SqlType::Uuid => Value::Text(text::uuid_text(fixed(ty, bytes)?)),
        SqlType::Jsonb => match bytes.split_first() {
            Some((1, body)) => text::parse(ty, utf8(body)?)?,
            _ => return Err(bad(ty)),
        },
        SqlType::Array(_) => array(ty, bytes)?,
    })
}

/// Reads fields off the front of a binary value.
struct Fields<'a> {
    ty: &'a SqlType,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or_else(|| bad(self.ty))?;
        self.rest = tail;
        Ok(head)
    }
    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(fixed(self.ty, self.take(2)?)?))
    }
    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(fixed(self.ty, self.take(4)?)?))
    }
}

/// Base-10000 digits to the scale of the type.
fn numeric(ty: &SqlType, bytes: &[u8], limits: Option<(u8, i8)>) -> Result<(i128, i8)> {
    let mut fields = Fields { ty, rest: bytes };
    let digits = usize::try_from(fields.i16()?).map_err(|_| bad(ty))?;
    let weight = i32::from(fields.i16()?);
    let sign = fields.i16()?;
    let _shown = fields.i16()?;
    match sign {
        0 | 0x4000 => {}
        // NaN, +Infinity, -Infinity.
        -0x4000 | -0x3000 | -0x1000 => {
            return Err(Error::unsupported("numeric cannot hold NaN or Infinity").hint("Use double precision."));
        }
        _ => return Err(bad(ty)),
    }
    if fields.rest.len() != digits * 2 {
        return Err(bad(ty));
    }
    // Written out as `d…d e x` and read by the one parser that rounds and checks limits.
    let mut literal = String::with_capacity(digits * 4 + 12);
    if sign != 0 {
        literal.push('-');
    }
    literal.push('0');
    for _ in 0..digits {
        let group = fields.i16()?;
        if !(0..10_000).contains(&group) {
            return Err(bad(ty));
        }
        literal.push_str(&format!("{group:04}"));
    }
    literal.push_str(&format!("e{}", (weight - digits as i32 + 1) * 4));
    text::parse_numeric(&literal, limits).map(|(v, s)| (v, if limits.is_none() { UNCONSTRAINED_SCALE } else { s }))
}

fn array(ty: &SqlType, bytes: &[u8]) -> Result<Value> {
    let mut fields = Fields { ty, rest: bytes };
    let dimensions = usize::try_from(fields.i32()?).ok().filter(|n| *n <= MAX_DIMENSIONS).ok_or_else(|| bad(ty))?;
    let _has_nulls = fields.i32()?;
    let _element = fields.i32()?;
    let mut shape = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        shape.push(usize::try_from(fields.i32()?).map_err(|_| bad(ty))?);
        let _lower_bound = fields.i32()?;
    }
    let value = if shape.is_empty() { Value::Array(Vec::new()) } else { elements(ty, &shape, &mut fields)? };
    if fields.rest.is_empty() { Ok(value) } else { Err(bad(ty)) }
}

fn elements(ty: &SqlType, shape: &[usize], fields: &mut Fields<'_>) -> Result<Value> {
    let (SqlType::Array(item), Some((&len, inner))) = (ty, shape.split_first()) else { return Err(bad(ty)) };
    // Each element takes four bytes at least, except in an empty inner dimension.
    if inner.is_empty() && len > fields.rest.len() / 4 || inner.contains(&0) {
        return Err(bad(ty));
    }
    let mut values = Vec::with_capacity(len.min(fields.rest.len() / 4 + 1));
    for _ in 0..len {
        values.push(if inner.is_empty() {
            match fields.i32()? {
                -1 => Value::Null,
                n => binary(item, fields.take(usize::try_from(n).map_err(|_| bad(ty))?)?)?,
            }
        } else {
            elements(item, inner, fields)?
        });
    }
    Ok(Value::Array(values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Cell;
    use crate::encode::{write_binary, write_text};
    use proptest::prelude::*;

    fn scalar() -> impl Strategy<Value = (SqlType, Value)> {
        prop_oneof![
            any::<bool>().prop_map(|v| (SqlType::Bool, Value::Bool(v))),
            any::<i16>().prop_map(|v| (SqlType::Int2, Value::Int2(v))),
            any::<i32>().prop_map(|v| (SqlType::Int4, Value::Int4(v))),
            any::<i64>().prop_map(|v| (SqlType::Int8, Value::Int8(v))),
            (-1e30f32..1e30).prop_map(|v| (SqlType::Float4, Value::Float4(v))),
            (-1e300f64..1e300).prop_map(|v| (SqlType::Float8, Value::Float8(v))),
            (-(10i128.pow(38) - 1)..10i128.pow(38), 0i8..=38)
                .prop_map(|(v, s)| (SqlType::Numeric(Some((38, s))), Value::Numeric(v, s))),
            (-(10i128.pow(10))..10i128.pow(10), -8i8..0)
                .prop_map(|(v, s)| (SqlType::Numeric(Some((38, s))), Value::Numeric(v, s))),
            (-(10i128.pow(38) - 1)..10i128.pow(38))
                .prop_map(|v| (SqlType::Numeric(None), Value::Numeric(v, UNCONSTRAINED_SCALE))),
            "[^\0]{0,20}".prop_map(|v| (SqlType::Text, Value::Text(v))),
            any::<[u8; 16]>().prop_map(|v| (SqlType::Uuid, Value::Text(text::uuid_text(v)))),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(|v| (SqlType::Bytea, Value::Bytea(v))),
            (-2_000_000i32..2_000_000).prop_map(|v| (SqlType::Date, Value::Date(v))),
            (0i64..86_400_000_000).prop_map(|v| (SqlType::Time(None), Value::Time(v))),
            (-60_000_000_000_000_000i64..200_000_000_000_000_000).prop_flat_map(|v| prop_oneof![
                Just((SqlType::Timestamp(None), Value::Timestamp(v))),
                Just((SqlType::TimestampTz(None), Value::TimestampTz(v)))
            ]),
            Just((SqlType::Jsonb, Value::Text("{\"a\": [1, 2.50]}".into()))),
            Just((SqlType::Interval, Value::Text("1 year 2 mons -3 days +04:05:06.7".into()))),
        ]
    }

    proptest! {
        #[test]
        fn both_forms_read_back((ty, value) in scalar()) {
            let mut binary = Vec::new();
            write_binary(&ty, Cell::from(&value), &mut binary).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let mut text = Vec::new();
            write_text(&ty, Cell::from(&value), &mut text);
            prop_assert_eq!(decode(&ty, Format::Binary, Some(&binary)).ok(), Some(value.clone()));
            prop_assert_eq!(decode(&ty, Format::Text, Some(&text)).ok(), Some(value.clone()));
            // And as elements of an array, with a NULL.
            let array_type = SqlType::Array(Box::new(ty));
            let array = Value::Array(vec![value.clone(), Value::Null, value]);
            let mut binary = Vec::new();
            write_binary(&array_type, Cell::from(&array), &mut binary).map_err(|e| TestCaseError::fail(e.to_string()))?;
            let mut text = Vec::new();
            write_text(&array_type, Cell::from(&array), &mut text);
            prop_assert_eq!(decode(&array_type, Format::Binary, Some(&binary)).ok(), Some(array.clone()));
            prop_assert_eq!(decode(&array_type, Format::Text, Some(&text)).ok(), Some(array));
        }

        #[test]
        fn no_bytes_panic((ty, _) in scalar(), bytes in prop::collection::vec(any::<u8>(), 0..64), depth in 0usize..3) {
            let ty = (0..depth).fold(ty, |t, _| SqlType::Array(Box::new(t)));
            let _ = (decode(&ty, Format::Binary, Some(&bytes)), decode(&ty, Format::Text, Some(&bytes)));
        }

        #[test]
        fn hostile_arrays_do_not_panic(head in prop::collection::vec(-2i32..7, 3..12), tail in prop::collection::vec(any::<u8>(), 0..32)) {
            let mut bytes: Vec<u8> = head.iter().flat_map(|n| n.to_be_bytes()).collect();
            bytes.extend(tail);
            let ty = SqlType::Array(Box::new(SqlType::Array(Box::new(SqlType::Int4))));
            let _ = decode(&ty, Format::Binary, Some(&bytes));
        }
    }

    /// What PostgreSQL 15's `numeric_send` gave.
    #[test]
    fn numeric_digits() {
        for (literal, want) in [
            ("12345.678", "0003000100000003000109291a7c"),
            ("0.0001", "0001ffff000000040001"),
            ("-10000", "000100014000000000 01"),
            ("0", "0000000000000000"),
        ] {
            let want = want.replace(' ', "");
            let scale = literal.split_once('.').map_or(0, |(_, f)| f.len() as i8);
            let (v, s) = text::parse_numeric(literal, Some((38, scale))).expect("a number");
            let mut out = Vec::new();
            write_binary(&SqlType::Numeric(Some((38, scale))), Cell::Numeric(v, s), &mut out).expect("encodes");
            let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, want, "{literal}");
        }
    }
}
