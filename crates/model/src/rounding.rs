//! Rounding of times and timestamps to the digits of a second that their type declares.
//!
//! Invariant: ties go away from zero, as in PostgreSQL, whose zero of timestamps is 2000-01-01 (`AdjustTimestampForTypmod`,
//! `AdjustTimeForTypmod`): half a second before an earlier second is that second. What is rounded once stays as it is.

use crate::types::MAX_SECOND_DIGITS;
use crate::{Error, ErrorKind, Result, SqlType, Value};

/// 2000-01-01 in microseconds since 1970-01-01.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// A timestamp (microseconds since 1970) in so many digits of a second.
///
/// # Errors
/// `DatetimeOverflow` when the last moment that can be counted would be rounded up.
pub fn round_timestamp(micros: i64, digits: Option<u8>) -> Result<i64> {
    let Some(unit) = unit(digits) else { return Ok(micros) };
    let from_epoch = i128::from(micros) - i128::from(POSTGRES_EPOCH);
    i64::try_from(nearest(from_epoch, unit.into()) + i128::from(POSTGRES_EPOCH))
        .map_err(|_| Error::new(ErrorKind::DatetimeOverflow, "timestamp out of range"))
}

/// A time of day (microseconds since midnight) in so many digits of a second: at most 24:00:00.
pub fn round_time(micros: i64, digits: Option<u8>) -> i64 {
    let Some(unit) = unit(digits) else { return micros };
    // A time is at most a day: its double fits.
    nearest(micros.into(), unit.into()).try_into().unwrap_or(micros)
}

/// A value of a time or timestamp type, or of an array of them, in the type's digits; other values as they are.
///
/// # Errors
/// As [`round_timestamp`].
pub fn round_seconds(ty: &SqlType, value: Value) -> Result<Value> {
    Ok(match (ty, value) {
        (SqlType::Time(digits), Value::Time(t)) => Value::Time(round_time(t, *digits)),
        (SqlType::Timestamp(digits), Value::Timestamp(t)) => Value::Timestamp(round_timestamp(t, *digits)?),
        (SqlType::TimestampTz(digits), Value::TimestampTz(t)) => Value::TimestampTz(round_timestamp(t, *digits)?),
        (SqlType::Array(item), Value::Array(items)) if item.second_digits().is_some() => {
            Value::Array(items.into_iter().map(|v| round_seconds(item, v)).collect::<Result<_>>()?)
        }
        (_, other) => other,
    })
}

/// Microseconds in the last of the digits; `None`: nothing is to be rounded.
fn unit(digits: Option<u8>) -> Option<i64> {
    digits.filter(|d| *d < MAX_SECOND_DIGITS).map(|d| 10i64.pow(u32::from(MAX_SECOND_DIGITS - d)))
}

/// The multiple of the unit that is nearest, of two the one further from zero.
fn nearest(micros: i128, unit: i128) -> i128 {
    (micros + micros.signum() * (unit / 2)) / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    /// Expectations are PostgreSQL 15's answers.
    #[test]
    fn timestamps_round_as_in_postgresql() -> Result<()> {
        for (text, digits, want) in [
            ("2024-01-01 00:00:00.5", 0, "2024-01-01 00:00:01"),
            ("2024-01-01 00:00:00.499999", 0, "2024-01-01 00:00:00"),
            ("2024-12-31 23:59:59.9995", 3, "2025-01-01 00:00:00"),
            ("2024-01-01 00:00:00.12345", 4, "2024-01-01 00:00:00.1235"),
            // Before 2000 ties go back in time.
            ("1999-12-31 23:59:59.5", 0, "1999-12-31 23:59:59"),
            ("1999-12-31 23:59:59.500001", 0, "2000-01-01 00:00:00"),
            ("1985-06-07 08:09:10.25", 1, "1985-06-07 08:09:10.2"),
            ("1969-12-31 23:59:59.5", 0, "1969-12-31 23:59:59"),
            ("4714-11-24 00:00:00.5 BC", 0, "4714-11-24 00:00:00 BC"),
            ("2024-01-01 00:00:00.123456", 6, "2024-01-01 00:00:00.123456"),
        ] {
            let ty = SqlType::Timestamp(Some(digits));
            let rounded = text::parse(&ty, text)?;
            assert_eq!(text::to_text(&ty, &rounded), want, "{text} in {digits} digits");
            assert_eq!(round_seconds(&ty, rounded.clone())?, rounded);
        }
        Ok(())
    }

    #[test]
    fn times_round_up_to_the_day_s_end() {
        assert_eq!(round_time(86_399_500_000, Some(0)), 86_400_000_000);
        assert_eq!(round_time(86_399_499_999, Some(0)), 86_399_000_000);
        assert_eq!(round_time(86_400_000_000, Some(2)), 86_400_000_000);
        assert_eq!(round_time(1_234_567, None), 1_234_567);
    }

    #[test]
    fn what_cannot_be_counted_is_an_error() {
        assert_eq!(round_timestamp(i64::MAX, Some(0)).map_err(|e| e.kind()), Err(ErrorKind::DatetimeOverflow));
        assert_eq!(round_timestamp(i64::MAX, Some(6)).ok(), Some(i64::MAX));
        assert_eq!(round_timestamp(i64::MIN, Some(6)).ok(), Some(i64::MIN));
    }

    #[test]
    fn items_of_arrays_are_rounded() -> Result<()> {
        let ty = SqlType::Array(Box::new(SqlType::Time(Some(0))));
        let value = Value::Array(vec![Value::Time(1_500_000), Value::Null]);
        assert_eq!(round_seconds(&ty, value)?, Value::Array(vec![Value::Time(2_000_000), Value::Null]));
        Ok(())
    }
}
