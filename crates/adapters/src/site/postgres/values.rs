//! Values in PostgreSQL's binary form (`typsend`, `typreceive`), both ways.
//!
//! Invariant: [`decode`] of what [`encode`] wrote is the value; a value of the site that the type cannot hold is an error.

use super::numeric;
use atoll_model::{Error, ErrorKind, Result, SqlType, UNCONSTRAINED_SCALE, Value, text};
use bytes::{BufMut, BytesMut};
use std::error::Error as StdError;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// Days and microseconds from 1970 to 2000, where PostgreSQL's calendar begins.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

/// Version byte in front of a binary `jsonb`.
const JSONB_VERSION: u8 = 1;

/// A value on its way to the site.
#[derive(Debug)]
pub(super) struct Param<'a>(pub(super) &'a SqlType, pub(super) &'a Value);

/// Values of one column on their way to the site, as one array.
#[derive(Debug)]
pub(super) struct Params<'a>(pub(super) &'a SqlType, pub(super) Vec<&'a Value>);

/// A parameter with its type, as the driver takes it.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// What the driver is told of a parameter.
pub(super) fn param_type(ty: &SqlType) -> Type {
    // Every type that Atoll carries is built in, and so known to the driver.
    Type::from_oid(ty.pg_oid()).unwrap_or(Type::TEXT)
}

/// As [`param_type`], of an array of such values. Arrays travel as texts, for `unnest` would take them apart.
pub(super) fn params_type(ty: &SqlType) -> Type {
    match ty {
        SqlType::Array(_) => Type::TEXT_ARRAY,
        ty => param_type(&SqlType::Array(Box::new(ty.clone()))),
    }
}

impl ToSql for Param<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        if self.1.is_null() {
            return Ok(IsNull::Yes);
        }
        encode(self.0, self.1, out)?;
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl ToSql for Params<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        let Params(ty, values) = self;
        let oid = if matches!(ty, SqlType::Array(_)) { Type::TEXT.oid() } else { ty.pg_oid() };
        array(oid, values, out, |value, out| match ty {
            SqlType::Array(_) => {
                out.put_slice(text::to_text(ty, value).as_bytes());
                Ok(())
            }
            ty => encode(ty, value, out),
        })?;
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// Writes a value that is not NULL.
pub(super) fn encode(ty: &SqlType, value: &Value, out: &mut BytesMut) -> Result<()> {
    match (ty, value) {
        (SqlType::Bool, Value::Bool(v)) => out.put_u8(u8::from(*v)),
        (SqlType::Int2, Value::Int2(v)) => out.put_i16(*v),
        (SqlType::Int4, Value::Int4(v)) => out.put_i32(*v),
        (SqlType::Int8, Value::Int8(v)) => out.put_i64(*v),
        (SqlType::Float4, Value::Float4(v)) => out.put_f32(*v),
        (SqlType::Float8, Value::Float8(v)) => out.put_f64(*v),
        (SqlType::Numeric(_), Value::Numeric(unscaled, scale)) => numeric::encode(*unscaled, *scale, out),
        (SqlType::Uuid, Value::Text(v)) => {
            let bytes = text::uuid_bytes(v).ok_or_else(|| text::invalid_text("uuid", v))?;
            out.put_slice(&bytes);
        }
        (SqlType::Jsonb, Value::Text(v)) => {
            out.put_u8(JSONB_VERSION);
            out.put_slice(v.as_bytes());
        }
        (SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Json, Value::Text(v)) => {
            out.put_slice(v.as_bytes());
        }
        (SqlType::Bytea, Value::Bytea(v)) => out.put_slice(v),
        (SqlType::Date, Value::Date(v)) => out.put_i32(v.checked_sub(EPOCH_DAYS).ok_or_else(too_early)?),
        (SqlType::Time(_), Value::Time(v)) => out.put_i64(*v),
        (SqlType::Timestamp(_), Value::Timestamp(v)) | (SqlType::TimestampTz(_), Value::TimestampTz(v)) => {
            out.put_i64(v.checked_sub(EPOCH_MICROS).ok_or_else(too_early)?);
        }
        (SqlType::Array(item), Value::Array(items)) => {
            array(item.pg_oid(), &items.iter().collect::<Vec<_>>(), out, |value, out| encode(item, value, out))?;
        }
        (ty, value) => return Err(Error::internal(format!("{value:?} is no value of type {ty}"))),
    }
    Ok(())
}

/// An array of one dimension.
fn array(
    item: u32,
    values: &[&Value],
    out: &mut BytesMut,
    encode: impl Fn(&Value, &mut BytesMut) -> Result<()>,
) -> Result<()> {
    let too_long = || Error::new(ErrorKind::ProgramLimit, "an array is too long for a site");
    out.put_i32(i32::from(!values.is_empty()));
    out.put_i32(i32::from(values.iter().any(|v| v.is_null())));
    out.put_u32(item);
    if values.is_empty() {
        return Ok(());
    }
    out.put_i32(i32::try_from(values.len()).map_err(|_| too_long())?);
    out.put_i32(1);
    for value in values {
        if value.is_null() {
            out.put_i32(-1);
            continue;
        }
        let at = out.len();
        out.put_i32(0);
        encode(value, out)?;
        let length = i32::try_from(out.len() - at - 4).map_err(|_| too_long())?;
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

/// A column's bytes as they came, `None` for NULL.
pub(super) struct Raw<'a>(pub(super) Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Raw(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Raw(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Reads a value.
pub(super) fn decode(ty: &SqlType, bytes: &[u8]) -> Result<Value> {
    Ok(match ty {
        SqlType::Bool => Value::Bool(boolean(bytes)?),
        SqlType::Int2 => Value::Int2(i16::from_be_bytes(fixed(bytes)?)),
        SqlType::Int4 => Value::Int4(i32::from_be_bytes(fixed(bytes)?)),
        SqlType::Int8 => Value::Int8(i64::from_be_bytes(fixed(bytes)?)),
        SqlType::Float4 => Value::Float4(f32::from_be_bytes(fixed(bytes)?)),
        SqlType::Float8 => Value::Float8(f64::from_be_bytes(fixed(bytes)?)),
        SqlType::Numeric(limits) => {
            let scale = limits.map_or(UNCONSTRAINED_SCALE, |(_, scale)| scale);
            Value::Numeric(numeric::decode(bytes, scale)?, scale)
        }
        SqlType::Uuid => Value::Text(text::uuid_text(fixed(bytes)?)),
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Json | SqlType::Jsonb => {
            Value::Text(characters(ty, bytes)?.to_owned())
        }
        SqlType::Bytea => Value::Bytea(bytes.to_vec()),
        SqlType::Date => Value::Date(date(bytes)?),
        SqlType::Time(_) => Value::Time(i64::from_be_bytes(fixed(bytes)?)),
        SqlType::Timestamp(_) => Value::Timestamp(instant(bytes)?),
        SqlType::TimestampTz(_) => Value::TimestampTz(instant(bytes)?),
        SqlType::Array(item) => Value::Array(
            elements(bytes)?
                .into_iter()
                .map(|element| element.map_or(Ok(Value::Null), |bytes| decode(item, bytes)))
                .collect::<Result<_>>()?,
        ),
        SqlType::Interval => return Err(Error::internal("a stored interval")),
    })
}

/// Bytes of a known number.
pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| malformed(&format!("{} bytes instead of {N}", bytes.len())))
}

/// A `boolean`.
pub(super) fn boolean(bytes: &[u8]) -> Result<bool> {
    Ok(fixed::<1>(bytes)?[0] != 0)
}

/// The text that carries a value of a text type, as Atoll has it.
pub(super) fn characters<'a>(ty: &SqlType, bytes: &'a [u8]) -> Result<&'a str> {
    let bytes = match (ty, bytes) {
        (SqlType::Jsonb, [JSONB_VERSION, rest @ ..]) => rest,
        (SqlType::Jsonb, _) => return Err(malformed("jsonb of an unknown version")),
        _ => bytes,
    };
    let characters = std::str::from_utf8(bytes)
        .map_err(|_| Error::new(ErrorKind::InvalidEncoding, "a site sent text that is not UTF-8"))?;
    Ok(if matches!(ty, SqlType::Char(_)) { characters.trim_end_matches(' ') } else { characters })
}

/// A `date`, in days since 1970.
pub(super) fn date(bytes: &[u8]) -> Result<i32> {
    let days = i32::from_be_bytes(fixed(bytes)?);
    let known = days.checked_add(EPOCH_DAYS).filter(|_| days != i32::MIN);
    known.ok_or_else(infinite)
}

/// A `timestamp` of either kind, in microseconds since 1970.
pub(super) fn instant(bytes: &[u8]) -> Result<i64> {
    let micros = i64::from_be_bytes(fixed(bytes)?);
    let known = micros.checked_add(EPOCH_MICROS).filter(|_| micros != i64::MIN);
    known.ok_or_else(infinite)
}

/// The elements of an array.
pub(super) fn elements(bytes: &[u8]) -> Result<Vec<Option<&[u8]>>> {
    use fallible_iterator::FallibleIterator as _;
    let array = postgres_protocol::types::array_from_sql(bytes).map_err(|e| malformed(&e.to_string()))?;
    let dimensions: Vec<_> = array.dimensions().collect().map_err(|e| malformed(&e.to_string()))?;
    if dimensions.len() > 1 || dimensions.iter().any(|d| d.lower_bound != 1) {
        return Err(Error::unsupported("an array of a site with several dimensions or a lower bound other than 1"));
    }
    array.values().collect().map_err(|e| malformed(&e.to_string()))
}

fn malformed(why: &str) -> Error {
    Error::new(ErrorKind::InvalidBinary, format!("a malformed value from a site: {why}"))
}

fn infinite() -> Error {
    Error::new(ErrorKind::DatetimeOverflow, "a date or time of a site cannot be held: it is infinite")
}

fn too_early() -> Error {
    Error::new(ErrorKind::DatetimeOverflow, "a date or time cannot be held at a site: it is out of range")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() -> Result<()> {
        let array = |items: Vec<Value>| Value::Array(items);
        for (ty, value) in [
            (SqlType::Bool, Value::Bool(true)),
            (SqlType::Int2, Value::Int2(-7)),
            (SqlType::Int8, Value::Int8(i64::MIN)),
            (SqlType::Float4, Value::Float4(-0.5)),
            (SqlType::Float8, Value::Float8(f64::INFINITY)),
            (SqlType::Numeric(Some((5, 2))), Value::Numeric(-12345, 2)),
            (SqlType::Numeric(None), Value::Numeric(15 * 10i128.pow(9), 10)),
            (SqlType::Text, Value::Text("ä b ".into())),
            (SqlType::Char(5), Value::Text("ä b".into())),
            (SqlType::Uuid, Value::Text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".into())),
            (SqlType::Jsonb, Value::Text("{\"a\": 1}".into())),
            (SqlType::Bytea, Value::Bytea(vec![0, 255])),
            (SqlType::Date, Value::Date(-1)),
            (SqlType::Time(None), Value::Time(86_399_999_999)),
            (SqlType::TimestampTz(None), Value::TimestampTz(1)),
            (SqlType::Array(Box::new(SqlType::Int4)), array(vec![Value::Int4(1), Value::Null])),
            (SqlType::Array(Box::new(SqlType::Text)), array(vec![])),
        ] {
            let mut out = BytesMut::new();
            encode(&ty, &value, &mut out)?;
            assert_eq!(decode(&ty, &out)?, value, "{ty}");
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_held_is_refused() {
        for days in [i32::MIN, i32::MAX] {
            assert!(decode(&SqlType::Date, &days.to_be_bytes()).is_err());
        }
        assert!(decode(&SqlType::Timestamp(None), &i64::MAX.to_be_bytes()).is_err());
        assert!(decode(&SqlType::Int4, &[0; 8]).is_err());
        assert!(decode(&SqlType::Text, &[0xff]).is_err());
        assert!(encode(&SqlType::Int4, &Value::Int8(1), &mut BytesMut::new()).is_err());
    }
}
