//! Assignment: turning a value of one SQL type into a column's value, with the column's limits.
//!
//! Invariant: what is stored is a value of the column's type within its limits, or the statement fails; nothing is cut or
//! rounded silently beyond what PostgreSQL's assignment casts do (numerics round to the column's scale, times to its digits of a
//! second).

use atoll_model::text;
use atoll_model::{
    Column, Error, ErrorKind, Result, SqlType, UNCONSTRAINED_SCALE, Value, round_seconds, round_time, round_timestamp,
};

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Assigns a value of type `from` to a column.
///
/// # Errors
/// `InvalidText`, `NumericOutOfRange`, `StringTooLong`, `DatatypeMismatch`: as PostgreSQL's assignment casts.
pub(crate) fn assign(value: Value, from: &SqlType, column: &Column) -> Result<Value> {
    convert(value, from, &column.ty).map_err(|e| match e.kind() {
        ErrorKind::DatatypeMismatch => Error::new(
            ErrorKind::DatatypeMismatch,
            format!("column \"{}\" is of type {} but expression is of type {from}", column.name, column.ty),
        )
        .hint("You will need to rewrite or cast the expression."),
        _ => e,
    })
}

/// Converts a value between types, as an assignment cast does.
///
/// # Errors
/// As [`assign`].
pub(crate) fn convert(value: Value, from: &SqlType, to: &SqlType) -> Result<Value> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    Ok(match (to, value) {
        (SqlType::Bool, v @ Value::Bool(_))
        | (SqlType::Int2, v @ Value::Int2(_))
        | (SqlType::Int4, v @ Value::Int4(_))
        | (SqlType::Int8, v @ Value::Int8(_))
        | (SqlType::Float4, v @ Value::Float4(_))
        | (SqlType::Float8, v @ Value::Float8(_))
        | (SqlType::Text | SqlType::Varchar(None), v @ Value::Text(_))
        | (SqlType::Bytea, v @ Value::Bytea(_))
        | (SqlType::Date, v @ Value::Date(_)) => v,
        (SqlType::Time(_), v @ Value::Time(_))
        | (SqlType::Timestamp(_), v @ Value::Timestamp(_))
        | (SqlType::TimestampTz(_), v @ Value::TimestampTz(_)) => round_seconds(to, v)?,
        (SqlType::Varchar(Some(n)), Value::Text(t)) => {
            Value::Text(text::fit_varchar(&t, *n, &to.to_string())?.to_owned())
        }
        (SqlType::Char(n), Value::Text(t)) => Value::Text(text::fit_char(&t, *n)?.trim_end_matches(' ').to_owned()),
        (SqlType::Array(item), Value::Array(items)) => {
            let from = match from {
                SqlType::Array(item) => item,
                _ => item,
            };
            Value::Array(items.into_iter().map(|v| convert(v, from, item)).collect::<Result<_>>()?)
        }
        (SqlType::Numeric(limits), Value::Numeric(n, scale)) => numeric(n, scale, *limits)?,
        (SqlType::Numeric(limits), v @ (Value::Int2(_) | Value::Int4(_) | Value::Int8(_))) => {
            numeric(i128::from(v.as_i64().unwrap_or_default()), 0, *limits)?
        }
        (SqlType::Int2 | SqlType::Int4 | SqlType::Int8, v) if v.as_i64().is_some() => {
            integer(i128::from(v.as_i64().unwrap_or_default()), to)?
        }
        (SqlType::Int2 | SqlType::Int4 | SqlType::Int8, Value::Numeric(n, scale)) => {
            // Half away from zero, as PostgreSQL's numeric does.
            integer(text::rescale(n, scale, 0).ok_or_else(|| out_of_range(to))?, to)?
        }
        (SqlType::Int2 | SqlType::Int4 | SqlType::Int8, Value::Float4(f)) => float_to_integer(f64::from(f), to)?,
        (SqlType::Int2 | SqlType::Int4 | SqlType::Int8, Value::Float8(f)) => float_to_integer(f, to)?,
        (SqlType::Float8, v) if v.as_i64().is_some() => Value::Float8(v.as_i64().unwrap_or_default() as f64),
        (SqlType::Float4, v) if v.as_i64().is_some() => Value::Float4(v.as_i64().unwrap_or_default() as f32),
        (SqlType::Float8, Value::Float4(f)) => Value::Float8(f64::from(f)),
        (SqlType::Float4, Value::Float8(f)) => {
            let narrow = f as f32;
            if narrow.is_infinite() && f.is_finite() {
                return Err(out_of_range(to));
            }
            Value::Float4(narrow)
        }
        (SqlType::Date, Value::Timestamp(t) | Value::TimestampTz(t)) => {
            Value::Date(i32::try_from(t.div_euclid(MICROS_PER_DAY)).map_err(|_| out_of_range(to))?)
        }
        (SqlType::Timestamp(digits), Value::TimestampTz(t)) => Value::Timestamp(round_timestamp(t, *digits)?),
        (SqlType::TimestampTz(digits), Value::Timestamp(t)) => Value::TimestampTz(round_timestamp(t, *digits)?),
        (SqlType::Timestamp(_), Value::Date(d)) => Value::Timestamp(midnight(d)?),
        (SqlType::TimestampTz(_), Value::Date(d)) => Value::TimestampTz(midnight(d)?),
        (SqlType::Time(digits), Value::Timestamp(t) | Value::TimestampTz(t)) => {
            Value::Time(round_time(t.rem_euclid(MICROS_PER_DAY), *digits))
        }
        // Text stands for anything: an untyped literal or parameter. What it says is checked here.
        (_, Value::Text(t)) => match text::parse(to, &t)? {
            Value::Text(t) => convert(Value::Text(t), &SqlType::Text, &unlimited(to))?,
            v => v,
        },
        (SqlType::Float4 | SqlType::Float8, v @ Value::Numeric(..)) => text::parse(to, &text::to_text(from, &v))?,
        (SqlType::Numeric(_), v @ (Value::Float4(_) | Value::Float8(_))) => text::parse(to, &text::to_text(from, &v))?,
        (SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_), v) => {
            convert(Value::Text(text::to_text(from, &v)), &SqlType::Text, to)?
        }
        _ => return Err(Error::new(ErrorKind::DatatypeMismatch, format!("{from} cannot become {to}"))),
    })
}

/// The beginning of a day.
fn midnight(day: i32) -> Result<i64> {
    i64::from(day)
        .checked_mul(MICROS_PER_DAY)
        .ok_or_else(|| Error::new(ErrorKind::DatetimeOverflow, "date out of range for timestamp"))
}

/// Text types whose limits `text::parse` has applied already.
fn unlimited(ty: &SqlType) -> SqlType {
    match ty {
        SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb => SqlType::Text,
        other => other.clone(),
    }
}

fn numeric(n: i128, scale: i8, limits: Option<(u8, i8)>) -> Result<Value> {
    let to = SqlType::Numeric(limits);
    let (precision, wanted) = limits.unwrap_or((38, UNCONSTRAINED_SCALE));
    if limits.is_none()
        && scale > wanted
        && text::rescale(n, scale, wanted).and_then(|r| text::rescale(r, wanted, scale)) != Some(n)
    {
        return Err(Error::new(
            ErrorKind::NumericOutOfRange,
            format!("numeric without scale keeps {UNCONSTRAINED_SCALE} digits after the point"),
        )
        .hint("Declare the column as numeric(precision, scale), or round the value."));
    }
    let n = text::rescale(n, scale, wanted).ok_or_else(|| out_of_range(&to))?;
    if !text::fits_precision(n, precision) {
        return Err(Error::new(ErrorKind::NumericOutOfRange, "numeric field overflow").detail(format!(
            "A field with precision {precision}, scale {wanted} must round to an absolute value less than 10^{}.",
            i16::from(precision) - i16::from(wanted)
        )));
    }
    Ok(Value::Numeric(n, wanted))
}

fn float_to_integer(f: f64, to: &SqlType) -> Result<Value> {
    let rounded = f.round_ties_even();
    if !rounded.is_finite() || rounded.abs() > 1e19 {
        return Err(out_of_range(to));
    }
    integer(rounded as i128, to)
}

fn integer(n: i128, to: &SqlType) -> Result<Value> {
    let value = match to {
        SqlType::Int2 => i16::try_from(n).ok().map(Value::Int2),
        SqlType::Int4 => i32::try_from(n).ok().map(Value::Int4),
        _ => i64::try_from(n).ok().map(Value::Int8),
    };
    value.ok_or_else(|| out_of_range(to))
}

fn out_of_range(ty: &SqlType) -> Error {
    Error::new(ErrorKind::NumericOutOfRange, format!("{ty} out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_keep_to_their_width() {
        assert_eq!(convert(Value::Int8(7), &SqlType::Int8, &SqlType::Int4).ok(), Some(Value::Int4(7)));
        let error = convert(Value::Int8(1 << 40), &SqlType::Int8, &SqlType::Int4).expect_err("too wide");
        assert_eq!(error.kind(), ErrorKind::NumericOutOfRange);
    }

    #[test]
    fn numerics_round_to_the_scale_and_refuse_what_does_not_fit() {
        let ty = SqlType::Numeric(Some((5, 2)));
        assert_eq!(convert(Value::Numeric(12345, 3), &ty, &ty).ok(), Some(Value::Numeric(1235, 2)));
        let error = convert(Value::Int4(1000), &SqlType::Int4, &ty).expect_err("four digits before the point");
        assert_eq!(error.kind(), ErrorKind::NumericOutOfRange);
    }

    #[test]
    fn varchar_refuses_what_is_too_long_but_for_spaces() {
        let ty = SqlType::Varchar(Some(3));
        assert_eq!(convert(Value::Text("abc  ".into()), &SqlType::Text, &ty).ok(), Some(Value::Text("abc".into())));
        let error = convert(Value::Text("abcd".into()), &SqlType::Text, &ty).expect_err("four characters");
        assert_eq!(error.kind(), ErrorKind::StringTooLong);
    }

    #[test]
    fn times_round_to_the_digits_of_the_column() {
        let to = |value: &Value, from: &SqlType, to: &SqlType| convert(value.clone(), from, to).ok();
        let (plain, whole) = (SqlType::Timestamp(None), SqlType::Timestamp(Some(0)));
        let value = Value::Timestamp(1_700_000_000_500_000);
        assert_eq!(to(&value, &plain, &whole), Some(Value::Timestamp(1_700_000_001_000_000)));
        assert_eq!(to(&value, &plain, &SqlType::TimestampTz(Some(0))), Some(Value::TimestampTz(1_700_000_001_000_000)));
        assert_eq!(to(&value, &plain, &SqlType::Timestamp(Some(1))), Some(value.clone()));
        assert_eq!(to(&value, &plain, &plain), Some(value.clone()));
        assert_eq!(
            to(&Value::Text("1999-12-31 23:59:59.5".into()), &SqlType::Text, &whole),
            to(&Value::Text("1999-12-31 23:59:59".into()), &SqlType::Text, &plain),
        );
        // Of a day's last moment, the day's end.
        let last = Value::Timestamp(MICROS_PER_DAY - 1);
        assert_eq!(to(&last, &plain, &SqlType::Time(Some(3))), Some(Value::Time(MICROS_PER_DAY)));
        let list = SqlType::Array(Box::new(SqlType::Time(Some(2))));
        assert_eq!(
            to(&Value::Text("{00:00:00.005,NULL}".into()), &SqlType::Text, &list),
            Some(Value::Array(vec![Value::Time(10_000), Value::Null]))
        );
    }

    #[test]
    fn text_is_read_as_the_columns_type() {
        assert_eq!(
            convert(Value::Text("1970-01-02".into()), &SqlType::Text, &SqlType::Date).ok(),
            Some(Value::Date(1))
        );
        let error = convert(Value::Text("x".into()), &SqlType::Text, &SqlType::Int4).expect_err("not a number");
        assert_eq!(error.kind(), ErrorKind::InvalidText);
    }
}
