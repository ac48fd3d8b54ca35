//! Values on the wire: the driver's, both ways.
//!
//! Invariant: [`decode`] of what the server gives for [`encode`] of a value is the value; what the site's column cannot hold, or the
//! type cannot, is an error, and never rounded or cut.

use atoll_model::text::{civil_from_days, days_from_civil};
use atoll_model::{Error, ErrorKind, Result, Row, SqlType, UNCONSTRAINED_SCALE, Value, text};
use mysql_async::Value as Wire;

const DAY: i64 = 86_400_000_000;
const HOUR: i64 = 3_600_000_000;
const MINUTE: i64 = 60_000_000;
const SECOND: i64 = 1_000_000;

/// Bytes of a parameter at most, besides its text.
const PARAMETER: usize = 16;

/// Parameters of a statement.
#[derive(Default)]
pub(super) struct Params(Vec<Wire>);

impl Params {
    /// None.
    pub(super) fn none() -> Self {
        Params::default()
    }

    /// Values with their types.
    pub(super) fn of<'a>(values: impl IntoIterator<Item = (&'a SqlType, &'a Value)>) -> Result<Self> {
        values.into_iter().map(|(ty, value)| encode(ty, value)).collect::<Result<_>>().map(Params)
    }

    /// Bytes that they take on the wire at most.
    pub(super) fn size(&self) -> usize {
        let each = self.0.iter().map(|value| match value {
            Wire::Bytes(bytes) => bytes.len() + PARAMETER,
            _ => PARAMETER,
        });
        each.sum::<usize>() + PARAMETER
    }

    /// As the driver takes them.
    pub(super) fn into_driver(self) -> mysql_async::Params {
        if self.0.is_empty() { mysql_async::Params::Empty } else { mysql_async::Params::Positional(self.0) }
    }
}

impl FromIterator<Wire> for Params {
    fn from_iter<I: IntoIterator<Item = Wire>>(values: I) -> Self {
        Params(values.into_iter().collect())
    }
}

/// A value on its way to the site.
pub(super) fn encode(ty: &SqlType, value: &Value) -> Result<Wire> {
    Ok(match (ty, value) {
        (_, Value::Null) => Wire::NULL,
        (SqlType::Bool, Value::Bool(v)) => Wire::Int(i64::from(*v)),
        (SqlType::Int2, Value::Int2(v)) => Wire::Int(i64::from(*v)),
        (SqlType::Int4, Value::Int4(v)) => Wire::Int(i64::from(*v)),
        (SqlType::Int8, Value::Int8(v)) => Wire::Int(*v),
        (SqlType::Float4, Value::Float4(v)) if v.is_finite() => Wire::Float(*v),
        (SqlType::Float8, Value::Float8(v)) if v.is_finite() => Wire::Double(*v),
        (SqlType::Float4, Value::Float4(_)) | (SqlType::Float8, Value::Float8(_)) => {
            return Err(Error::new(ErrorKind::NumericOutOfRange, "a MySQL site cannot hold NaN and infinity"));
        }
        (SqlType::Numeric(_), Value::Numeric(..)) | (SqlType::Array(_), Value::Array(_)) => {
            Wire::Bytes(text::to_text(ty, value).into_bytes())
        }
        (
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb,
            Value::Text(v),
        ) => Wire::Bytes(v.as_bytes().to_vec()),
        (SqlType::Bytea, Value::Bytea(v)) => Wire::Bytes(v.clone()),
        (SqlType::Date, Value::Date(days)) => moment(i64::from(*days), 0)?,
        (SqlType::Time(_), Value::Time(v)) => {
            let [hours, minutes, seconds, micros] = clock(*v);
            Wire::Time(false, (hours / 24) as u32, (hours % 24) as u8, minutes as u8, seconds as u8, micros as u32)
        }
        (SqlType::Timestamp(_), Value::Timestamp(v)) | (SqlType::TimestampTz(_), Value::TimestampTz(v)) => {
            moment(v.div_euclid(DAY), v.rem_euclid(DAY))?
        }
        (ty, value) => return Err(Error::internal(format!("{value:?} is no value of type {ty}"))),
    })
}

/// A time of a day of years 1 to 9999, which are all that the server knows.
fn moment(days: i64, micros: i64) -> Result<Wire> {
    let (year, month, day) = civil_from_days(days);
    let [hours, minutes, seconds, micros] = clock(micros);
    let year = u16::try_from(year).ok().filter(|year| (1..=9999).contains(year)).ok_or_else(|| {
        Error::new(ErrorKind::DatetimeOverflow, "a MySQL site cannot hold dates before year 1 or after year 9999")
    })?;
    Ok(Wire::Date(year, month as u8, day as u8, hours as u8, minutes as u8, seconds as u8, micros as u32))
}

/// Hours, minutes, seconds, microseconds.
fn clock(micros: i64) -> [i64; 4] {
    [micros / HOUR, micros % HOUR / MINUTE, micros % MINUTE / SECOND, micros % SECOND]
}

/// A value of the site.
pub(super) fn decode(ty: &SqlType, wire: Wire) -> Result<Value> {
    let misfit = |wire: &Wire| {
        Error::new(ErrorKind::DatatypeMismatch, format!("a site gave {} for a value of type {ty}", shape(wire)))
            .hint("Somebody has changed the table at the site.")
    };
    Ok(match (ty, wire) {
        (_, Wire::NULL) => Value::Null,
        (SqlType::Bool, Wire::Int(v @ (0 | 1))) => Value::Bool(v == 1),
        (SqlType::Bool, Wire::Int(v)) => return Err(out_of_range(format!("{v} is no boolean"))),
        (SqlType::Int2, Wire::Int(v)) => Value::Int2(v.try_into().map_err(|_| misfit(&Wire::Int(v)))?),
        (SqlType::Int4, Wire::Int(v)) => Value::Int4(v.try_into().map_err(|_| misfit(&Wire::Int(v)))?),
        (SqlType::Int8, Wire::Int(v)) => Value::Int8(v),
        (SqlType::Float4, Wire::Float(v)) => Value::Float4(v),
        (SqlType::Float8, Wire::Double(v)) => Value::Float8(v),
        (SqlType::Numeric(limits), Wire::Bytes(bytes)) => {
            let (unscaled, scale) = text::parse_numeric(&characters(bytes)?, *limits)?;
            debug_assert_eq!(scale, limits.map_or(UNCONSTRAINED_SCALE, |(_, s)| s));
            Value::Numeric(unscaled, scale)
        }
        (SqlType::Char(_), Wire::Bytes(bytes)) => {
            let mut text = characters(bytes)?;
            text.truncate(text.trim_end_matches(' ').len());
            Value::Text(text)
        }
        (SqlType::Uuid, Wire::Bytes(bytes)) => Value::Text(text::parse_uuid(&characters(bytes)?)?),
        (SqlType::Text | SqlType::Varchar(_) | SqlType::Json | SqlType::Jsonb, Wire::Bytes(bytes)) => {
            Value::Text(characters(bytes)?)
        }
        (SqlType::Array(item), Wire::Bytes(bytes)) => Value::Array(text::parse_array(item, &characters(bytes)?)?),
        (SqlType::Bytea, Wire::Bytes(bytes)) => Value::Bytea(bytes),
        (SqlType::Date, Wire::Date(year, month, day, 0, 0, 0, 0)) => {
            Value::Date(days(year, month, day)?.try_into().map_err(|_| out_of_range("a date".into()))?)
        }
        (SqlType::Timestamp(_), Wire::Date(year, month, day, hour, minute, second, micros)) => {
            Value::Timestamp(days(year, month, day)? * DAY + of_clock(hour, minute, second, micros))
        }
        (SqlType::TimestampTz(_), Wire::Date(year, month, day, hour, minute, second, micros)) => {
            Value::TimestampTz(days(year, month, day)? * DAY + of_clock(hour, minute, second, micros))
        }
        (SqlType::Time(_), Wire::Time(false, days @ 0..=1, hour, minute, second, micros)) => {
            let time = i64::from(days) * DAY + of_clock(hour, minute, second, micros);
            if time > DAY {
                return Err(Error::new(ErrorKind::DatetimeOverflow, "a time of a site is longer than a day"));
            }
            Value::Time(time)
        }
        (SqlType::Time(_), Wire::Time(..)) => {
            return Err(Error::new(ErrorKind::DatetimeOverflow, "a time of a site is negative or longer than a day"));
        }
        (_, wire) => return Err(misfit(&wire)),
    })
}

/// A value that the site has computed: its numbers are of types that the server finds fit.
pub(super) fn decode_computed(ty: &SqlType, wire: Wire) -> Result<Value> {
    let outside = || out_of_range(format!("it is beyond {ty}"));
    match (ty, wire) {
        (SqlType::Bool | SqlType::Int2 | SqlType::Int4 | SqlType::Int8, wire @ (Wire::UInt(_) | Wire::Bytes(_))) => {
            let number = match wire {
                Wire::UInt(v) => i64::try_from(v).map_err(|_| outside())?,
                // A decimal, as a sum is.
                Wire::Bytes(bytes) => text::parse_i64(&characters(bytes)?)?,
                _ => return Err(outside()),
            };
            decode_computed(ty, Wire::Int(number))
        }
        (SqlType::Int2, Wire::Int(v)) => v.try_into().map(Value::Int2).map_err(|_| outside()),
        (SqlType::Int4, Wire::Int(v)) => v.try_into().map(Value::Int4).map_err(|_| outside()),
        (SqlType::Float4, Wire::Double(v)) => match v as f32 {
            narrow if narrow.is_finite() => Ok(Value::Float4(narrow)),
            _ => Err(outside()),
        },
        (SqlType::Float8, Wire::Float(v)) => Ok(Value::Float8(f64::from(v))),
        (SqlType::Float8, Wire::Double(v)) if !v.is_finite() => Err(outside()),
        (SqlType::Numeric(_), Wire::Int(v)) => decode(ty, Wire::Bytes(v.to_string().into_bytes())),
        (ty, wire) => decode(ty, wire),
    }
}

fn of_clock(hour: u8, minute: u8, second: u8, micros: u32) -> i64 {
    i64::from(hour) * HOUR + i64::from(minute) * MINUTE + i64::from(second) * SECOND + i64::from(micros)
}

fn days(year: u16, month: u8, day: u8) -> Result<i64> {
    if year == 0 || month == 0 || day == 0 {
        return Err(Error::new(ErrorKind::DatetimeOverflow, "a date of a site cannot be held: a part of it is zero"));
    }
    Ok(days_from_civil(i64::from(year), u32::from(month), u32::from(day)))
}

fn characters(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::InvalidEncoding, "a site sent text that is not UTF-8"))
}

fn out_of_range(what: String) -> Error {
    Error::new(ErrorKind::NumericOutOfRange, format!("a value of a site cannot be held: {what}"))
}

fn shape(wire: &Wire) -> &'static str {
    match wire {
        Wire::NULL => "NULL",
        Wire::Bytes(_) => "text",
        Wire::Int(_) | Wire::UInt(_) => "an integer of another size",
        Wire::Float(_) | Wire::Double(_) => "a floating-point number",
        Wire::Date(..) => "a date with or without a time",
        Wire::Time(..) => "a time",
    }
}

/// Values of a row of the site, for columns of these types.
pub(super) fn decode_row<'a>(row: mysql_async::Row, types: impl Iterator<Item = &'a SqlType>) -> Result<Row> {
    row.unwrap().into_iter().zip(types).map(|(wire, ty)| decode(ty, wire)).collect()
}

/// A number in a row of the site.
pub(super) fn number(row: &mysql_async::Row, at: usize) -> u64 {
    match row.as_ref(at) {
        Some(Wire::Int(v)) => u64::try_from(*v).unwrap_or_default(),
        Some(Wire::UInt(v)) => *v,
        Some(Wire::Bytes(bytes)) => std::str::from_utf8(bytes).ok().and_then(|t| t.parse().ok()).unwrap_or_default(),
        _ => 0,
    }
}

/// A text in a row of the site.
pub(super) fn string(row: &mysql_async::Row, at: usize) -> String {
    match row.as_ref(at) {
        Some(Wire::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() -> Result<()> {
        for (ty, value) in [
            (SqlType::Bool, Value::Bool(true)),
            (SqlType::Int8, Value::Int8(i64::MIN)),
            (SqlType::Float8, Value::Float8(-0.1)),
            (SqlType::Numeric(Some((5, 2))), Value::Numeric(-12345, 2)),
            (SqlType::Numeric(None), Value::Numeric(15 * 10i128.pow(9), 10)),
            (SqlType::Text, Value::Text("ä b ".into())),
            (SqlType::Uuid, Value::Text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".into())),
            (SqlType::Bytea, Value::Bytea(vec![0, 255])),
            (SqlType::Date, Value::Date(-1)),
            (SqlType::Time(None), Value::Time(DAY)),
            (SqlType::Timestamp(None), Value::Timestamp(-1)),
            (SqlType::TimestampTz(None), Value::TimestampTz(1)),
            (SqlType::Array(Box::new(SqlType::Int4)), Value::Array(vec![Value::Int4(1), Value::Null])),
        ] {
            assert_eq!(decode(&ty, encode(&ty, &value)?)?, value, "{ty}");
        }
        Ok(())
    }

    #[test]
    fn computed_numbers() -> Result<()> {
        let text = |text: &str| Wire::Bytes(text.as_bytes().to_vec());
        for (ty, wire, value) in [
            (SqlType::Bool, Wire::UInt(1), Value::Bool(true)),
            (SqlType::Int2, Wire::Int(-32768), Value::Int2(i16::MIN)),
            (SqlType::Int8, text("-9223372036854775808"), Value::Int8(i64::MIN)),
            (SqlType::Int8, Wire::UInt(7), Value::Int8(7)),
            (SqlType::Float4, Wire::Double(f64::from(0.1f32)), Value::Float4(0.1)),
            (SqlType::Float8, Wire::Float(0.5), Value::Float8(0.5)),
            (SqlType::Numeric(Some((38, 2))), Wire::Int(-5), Value::Numeric(-500, 2)),
            (SqlType::Numeric(Some((38, 2))), text("1.5"), Value::Numeric(150, 2)),
        ] {
            assert_eq!(decode_computed(&ty, wire)?, value, "{ty}");
        }
        for (ty, wire) in [
            (SqlType::Int2, Wire::Int(32768)),
            (SqlType::Int4, Wire::Int(i64::MIN)),
            (SqlType::Int8, text("9223372036854775808")),
            (SqlType::Int8, Wire::UInt(u64::MAX)),
            (SqlType::Float4, Wire::Double(1e300)),
            (SqlType::Float8, Wire::Double(f64::INFINITY)),
            (SqlType::Numeric(Some((3, 0))), text("1000")),
        ] {
            assert_eq!(decode_computed(&ty, wire).err().map(|e| e.kind()), Some(ErrorKind::NumericOutOfRange), "{ty}");
        }
        Ok(())
    }

    #[test]
    fn what_cannot_be_held_is_refused() {
        let kind = |outcome: Result<Wire>| outcome.err().map(|e| e.kind());
        assert_eq!(kind(encode(&SqlType::Float8, &Value::Float8(f64::NAN))), Some(ErrorKind::NumericOutOfRange));
        assert_eq!(kind(encode(&SqlType::Date, &Value::Date(i32::MAX))), Some(ErrorKind::DatetimeOverflow));
        assert_eq!(
            kind(encode(&SqlType::Timestamp(None), &Value::Timestamp(i64::MIN))),
            Some(ErrorKind::DatetimeOverflow)
        );
        assert!(decode(&SqlType::Date, Wire::Date(0, 0, 0, 0, 0, 0, 0)).is_err());
        assert!(decode(&SqlType::Time(None), Wire::Time(true, 0, 1, 0, 0, 0)).is_err());
        assert!(decode(&SqlType::Bool, Wire::Int(2)).is_err());
        assert!(decode(&SqlType::Int4, Wire::Bytes(b"1".to_vec())).is_err());
    }
}
