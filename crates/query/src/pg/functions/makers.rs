//! Functions that make dates and times from numbers and texts, and texts from them.
//!
//! Invariant: a date or time that there is not is an error (22008), never another one.

use super::datetime::{DAY, SECOND, date_of, float, moment};
use super::scalar::{Scalar, integer, interval, shown, text};
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};

pub(super) fn functions() -> Vec<Scalar> {
    let range = |what: &str, args: &[Value]| {
        let shown: Vec<String> = args.iter().map(|a| integer(a).to_string()).collect();
        Error::new(ErrorKind::DatetimeOverflow, format!("{what} field value out of range: {}", shown.join("-")))
    };
    vec![
        Scalar::new("make_date", 3..=3, SqlType::Date, move |_, args| {
            date_of(integer(&args[0]), integer(&args[1]), integer(&args[2]))
                .and_then(|d| i32::try_from(d).ok())
                .map(Value::Date)
                .ok_or_else(|| range("date", args))
        }),
        Scalar::new("make_time", 3..=3, SqlType::Time(None), |_, args| {
            clock(&args[0], &args[1], &args[2]).map(Value::Time)
        }),
        Scalar::new("make_timestamp", 6..=6, SqlType::Timestamp(None), move |_, args| {
            let day = date_of(integer(&args[0]), integer(&args[1]), integer(&args[2]))
                .ok_or_else(|| range("date", &args[..3]))?;
            Ok(Value::Timestamp(day * DAY + clock(&args[3], &args[4], &args[5])?))
        }),
        Scalar::new("to_timestamp", 1..=2, SqlType::TimestampTz(None), |call, args| match args.get(1) {
            Some(pattern) => super::format::read_moment(text(&args[0]), text(pattern)).map(Value::TimestampTz),
            None if call.types[0] == SqlType::Text => {
                Err(Error::new(ErrorKind::UndefinedFunction, "function to_timestamp(text) does not exist"))
            }
            None => {
                let micros = float(&args[0]) * 1e6;
                if !micros.is_finite() || micros.abs() >= 9.2e18 {
                    return Err(Error::new(ErrorKind::DatetimeOverflow, "timestamp out of range"));
                }
                Ok(Value::TimestampTz(micros.round_ties_even() as i64))
            }
        }),
        Scalar::new("to_date", 2..=2, SqlType::Date, |_, args| {
            let t = super::format::read_moment(text(&args[0]), text(&args[1]))?;
            i32::try_from(t.div_euclid(DAY))
                .map(Value::Date)
                .map_err(|_| Error::new(ErrorKind::DatetimeOverflow, "date out of range"))
        }),
        Scalar::new("to_char", 2..=2, SqlType::Text, |call, args| {
            let pattern = text(&args[1]);
            match (&call.types[0], interval(&args[0])) {
                (SqlType::Interval, Some(v)) => super::format::write_interval(v, pattern).map(Value::Text),
                (SqlType::Date | SqlType::Timestamp(_) | SqlType::TimestampTz(_), _) => {
                    super::format::write_moment(moment(&call.types[0], &args[0])?, pattern).map(Value::Text)
                }
                (
                    SqlType::Int2
                    | SqlType::Int4
                    | SqlType::Int8
                    | SqlType::Numeric(_)
                    | SqlType::Float4
                    | SqlType::Float8,
                    _,
                ) => super::format::write_number(&shown(&call.types[0], &args[0]), pattern).map(Value::Text),
                (other, _) => Err(Error::new(
                    ErrorKind::UndefinedFunction,
                    format!("function to_char({other}, unknown) does not exist"),
                )),
            }
        }),
    ]
}

fn clock(hour: &Value, minute: &Value, second: &Value) -> Result<i64> {
    let (h, m, s) = (integer(hour), integer(minute), float(second));
    let fits = (0..=24).contains(&h) && (0..60).contains(&m) && (0.0..=60.0).contains(&s);
    let t = h * 3600 * SECOND + m * 60 * SECOND + (s * 1e6).round() as i64;
    if !fits || t > DAY {
        return Err(Error::new(ErrorKind::DatetimeOverflow, format!("time field value out of range: {h}:{m:02}:{s}")));
    }
    Ok(t)
}
