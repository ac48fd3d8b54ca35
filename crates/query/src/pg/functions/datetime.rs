//! Dates, times and intervals: their parts, truncation, differences, arithmetic of intervals, time zones.
//!
//! Invariant: a moment is microseconds in UTC, and sessions run in UTC: `timestamptz` and `timestamp` show the same fields. Years
//! follow PostgreSQL: the year before 1 is -1 where a field is asked for.

use super::scalar::{Scalar, integer, interval, of_interval, text};
use atoll_model::text::{Interval, civil_from_days, days_from_civil};
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};

pub(super) const SECOND: i64 = 1_000_000;
pub(super) const DAY: i64 = 86_400 * SECOND;

/// Whole days since 1970, and microseconds of the day.
pub(super) fn split(ty: &SqlType, value: &Value) -> Option<(i64, i64)> {
    match (ty, value) {
        (_, Value::Date(d)) => Some((i64::from(*d), 0)),
        (_, Value::Timestamp(t) | Value::TimestampTz(t)) => Some((t.div_euclid(DAY), t.rem_euclid(DAY))),
        (_, Value::Time(t)) => Some((0, *t)),
        _ => None,
    }
}

fn unknown(field: &str, ty: &SqlType) -> Error {
    Error::new(ErrorKind::InvalidParameterValue, format!("unit \"{field}\" not recognized for type {ty}"))
}

fn unfit(field: &str, ty: &SqlType) -> Error {
    Error::new(ErrorKind::NotSupported, format!("unit \"{field}\" not supported for type {ty}"))
}

/// The day and year of the ISO week that a day is in: week number, year.
pub(super) fn iso_week(days: i64) -> (i64, i64) {
    // The Thursday of the week decides the year.
    let weekday = (days + 3).rem_euclid(7);
    let thursday = days - weekday + 3;
    let (year, _, _) = civil_from_days(thursday);
    ((thursday - days_from_civil(year, 1, 1)) / 7 + 1, year)
}

fn shown_year(year: i64) -> i64 {
    if year > 0 { year } else { year - 1 }
}

/// A field in millionths.
fn part(field: &str, ty: &SqlType, value: &Value, lenient: bool) -> Result<i128> {
    let whole = |n: i64| Ok(i128::from(n) * i128::from(SECOND));
    if let (SqlType::Interval, Some(v)) = (ty, interval(value)) {
        let (years, months) = (i64::from(v.months / 12), i64::from(v.months % 12));
        return match field {
            "year" | "years" => whole(years),
            "month" | "months" => whole(months),
            "day" | "days" => whole(i64::from(v.days)),
            "decade" | "decades" => whole(years / 10),
            "century" | "centuries" => whole(years / 100),
            "millennium" => whole(years / 1000),
            "quarter" => whole(months / 3 + 1),
            "hour" | "hours" => whole(v.micros / (3600 * SECOND)),
            "minute" | "minutes" => whole(v.micros / (60 * SECOND) % 60),
            "second" | "seconds" => Ok(i128::from(v.micros % (60 * SECOND))),
            "millisecond" | "milliseconds" => Ok(i128::from(v.micros % (60 * SECOND)) * 1000),
            "microsecond" | "microseconds" => Ok(i128::from(v.micros % (60 * SECOND)) * i128::from(SECOND)),
            // A year counts 365.25 days, a month 30.
            "epoch" => Ok(i128::from(years) * 31_557_600_000_000
                + (i128::from(months) * 30 + i128::from(v.days)) * i128::from(DAY)
                + i128::from(v.micros)),
            _ => Err(unknown(field, ty)),
        };
    }
    let Some((days, tod)) = split(ty, value) else {
        return Err(Error::new(
            ErrorKind::UndefinedFunction,
            format!("function extract({field} from {ty}) does not exist"),
        ));
    };
    let (is_date, is_time) = (*ty == SqlType::Date, matches!(ty, SqlType::Time(_)));
    let clock = matches!(
        field,
        "hour"
            | "hours"
            | "minute"
            | "minutes"
            | "second"
            | "seconds"
            | "millisecond"
            | "milliseconds"
            | "microsecond"
            | "microseconds"
    );
    if is_date && clock && !lenient {
        return Err(unfit(field, ty));
    }
    if is_time && !clock && field != "epoch" {
        return Err(unfit(field, ty));
    }
    let (y, m, d) = civil_from_days(days);
    let weekday = (days + 4).rem_euclid(7);
    match field {
        "microsecond" | "microseconds" => Ok(i128::from(tod % (60 * SECOND)) * i128::from(SECOND)),
        "millisecond" | "milliseconds" => Ok(i128::from(tod % (60 * SECOND)) * 1000),
        "second" | "seconds" => Ok(i128::from(tod % (60 * SECOND))),
        "minute" | "minutes" => whole(tod / (60 * SECOND) % 60),
        "hour" | "hours" => whole(tod / (3600 * SECOND)),
        "day" | "days" => whole(i64::from(d)),
        "month" | "months" => whole(i64::from(m)),
        "quarter" => whole(i64::from((m - 1) / 3 + 1)),
        "year" | "years" => whole(shown_year(y)),
        "decade" | "decades" => whole(y.div_euclid(10)),
        "century" | "centuries" => whole(if y > 0 { (y + 99) / 100 } else { -((100 - y) / 100) }),
        "millennium" => whole(if y > 0 { (y + 999) / 1000 } else { -((1000 - y) / 1000) }),
        "week" => whole(iso_week(days).0),
        "isoyear" => whole(shown_year(iso_week(days).1)),
        "dow" => whole(weekday),
        "isodow" => whole(if weekday == 0 { 7 } else { weekday }),
        "doy" => whole(days - days_from_civil(y, 1, 1) + 1),
        "epoch" => Ok(i128::from(days) * i128::from(DAY) + i128::from(tod)),
        "julian" => Ok((i128::from(days) + 2_440_588) * i128::from(SECOND)
            + i128::from(tod) * i128::from(SECOND) / i128::from(DAY)),
        "timezone" | "timezone_hour" | "timezone_minute" if matches!(ty, SqlType::TimestampTz(_)) => Ok(0),
        "timezone" | "timezone_hour" | "timezone_minute" => Err(unfit(field, ty)),
        _ => Err(unknown(field, ty)),
    }
}

/// The beginning of the unit that a moment is in.
fn truncate(field: &str, ty: &SqlType, t: i64) -> Result<i64> {
    let (days, _) = (t.div_euclid(DAY), ());
    let (y, m, _) = civil_from_days(days);
    let floor = |unit: i64| Ok(t.div_euclid(unit) * unit);
    let date = |year: i64, month: u32| Ok(days_from_civil(year, month, 1) * DAY);
    match field {
        "microsecond" | "microseconds" => Ok(t),
        "millisecond" | "milliseconds" => floor(1000),
        "second" | "seconds" => floor(SECOND),
        "minute" | "minutes" => floor(60 * SECOND),
        "hour" | "hours" => floor(3600 * SECOND),
        "day" | "days" => floor(DAY),
        "week" => Ok((days - (days + 3).rem_euclid(7)) * DAY),
        "month" | "months" => date(y, m),
        "quarter" => date(y, (m - 1) / 3 * 3 + 1),
        "year" | "years" => date(y, 1),
        "decade" | "decades" => date(y.div_euclid(10) * 10, 1),
        "century" | "centuries" => date((y - 1).div_euclid(100) * 100 + 1, 1),
        "millennium" => date((y - 1).div_euclid(1000) * 1000 + 1, 1),
        _ => Err(unknown(field, ty)),
    }
}

fn truncate_interval(field: &str, v: Interval) -> Result<Interval> {
    let clock = |unit: i64| Interval { micros: v.micros / unit * unit, ..v };
    let months = |unit: i32| Interval { months: v.months / unit * unit, days: 0, micros: 0 };
    Ok(match field {
        "microsecond" | "microseconds" => v,
        "millisecond" | "milliseconds" => clock(1000),
        "second" | "seconds" => clock(SECOND),
        "minute" | "minutes" => clock(60 * SECOND),
        "hour" | "hours" => clock(3600 * SECOND),
        "day" | "days" => Interval { micros: 0, ..v },
        "month" | "months" => months(1),
        "quarter" => months(3),
        "year" | "years" => months(12),
        "decade" | "decades" => months(120),
        "century" | "centuries" => months(1200),
        "millennium" => months(12_000),
        _ => return Err(unknown(field, &SqlType::Interval)),
    })
}

fn days_in_month(year: i64, month: u32) -> i64 {
    let (y, m) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_from_civil(y, m, 1) - days_from_civil(year, month, 1)
}

/// `age(a, b)`: years, months and days as on a calendar.
fn age(a: i64, b: i64) -> Interval {
    let (late, early, sign) = if a < b { (b, a, -1) } else { (a, b, 1) };
    let fields = |t: i64| {
        let (y, m, d) = civil_from_days(t.div_euclid(DAY));
        (y, m, i64::from(d), t.rem_euclid(DAY))
    };
    let (y1, m1, d1, t1) = fields(late);
    let (y0, m0, d0, t0) = fields(early);
    let (mut months, mut days, mut micros) = ((y1 - y0) * 12 + i64::from(m1) - i64::from(m0), d1 - d0, t1 - t0);
    if micros < 0 {
        micros += DAY;
        days -= 1;
    }
    while days < 0 {
        // The month that is borrowed from is that of the earlier moment, as in PostgreSQL.
        days += days_in_month(y0, m0);
        months -= 1;
    }
    Interval {
        months: i32::try_from(months * sign).unwrap_or(i32::MAX),
        days: i32::try_from(days * sign).unwrap_or(i32::MAX),
        micros: micros * sign,
    }
}

/// Micros as days and the rest.
fn justify_hours(v: Interval) -> Result<Interval> {
    let days = i32::try_from(v.micros / DAY).ok().and_then(|d| d.checked_add(v.days)).ok_or_else(too_large)?;
    let mut out = Interval { months: v.months, days, micros: v.micros % DAY };
    if out.days > 0 && out.micros < 0 {
        out.days -= 1;
        out.micros += DAY;
    } else if out.days < 0 && out.micros > 0 {
        out.days += 1;
        out.micros -= DAY;
    }
    Ok(out)
}

fn justify_days(v: Interval) -> Result<Interval> {
    let months = v.months.checked_add(v.days / 30).ok_or_else(too_large)?;
    let mut out = Interval { months, days: v.days % 30, micros: v.micros };
    if out.months > 0 && out.days < 0 {
        out.months -= 1;
        out.days += 30;
    } else if out.months < 0 && out.days > 0 {
        out.months += 1;
        out.days -= 30;
    }
    Ok(out)
}

fn too_large() -> Error {
    Error::new(ErrorKind::DatetimeOverflow, "interval out of range")
}

/// `interval * factor`: fractions of months become days, fractions of days time.
fn scale(v: Interval, factor: f64) -> Result<Interval> {
    let round = |x: f64| (x * 1e6).round() / 1e6;
    let months = f64::from(v.months) * factor;
    let days = f64::from(v.days) * factor;
    if !months.is_finite()
        || !days.is_finite()
        || months.abs() > f64::from(i32::MAX)
        || days.abs() > f64::from(i32::MAX)
    {
        return Err(too_large());
    }
    let month_days = round((months - months.trunc()) * 30.0);
    let mut seconds = round((days - days.trunc() + month_days - month_days.trunc()) * 86_400.0);
    let mut out = Interval { months: months.trunc() as i32, days: days.trunc() as i32, micros: 0 };
    if seconds.abs() >= 86_400.0 {
        out.days = out.days.checked_add((seconds / 86_400.0) as i32).ok_or_else(too_large)?;
        seconds -= (seconds / 86_400.0).trunc() * 86_400.0;
    }
    out.days = out.days.checked_add(month_days as i32).ok_or_else(too_large)?;
    let micros = (v.micros as f64 * factor + seconds * 1e6).round_ties_even();
    if !micros.is_finite() || micros.abs() >= 9.2e18 {
        return Err(too_large());
    }
    out.micros = micros as i64;
    Ok(out)
}

/// The length by which intervals are compared: a month is 30 days, a day 24 hours.
fn length(v: Interval) -> i128 {
    (i128::from(v.months) * 30 + i128::from(v.days)) * i128::from(DAY) + i128::from(v.micros)
}

pub(super) fn float(value: &Value) -> f64 {
    match value {
        Value::Float4(v) => f64::from(*v),
        Value::Float8(v) => *v,
        Value::Numeric(v, s) => *v as f64 / 10f64.powi(i32::from(*s)),
        other => integer(other) as f64,
    }
}

fn span(value: &Value) -> Interval {
    interval(value).unwrap_or_default()
}

/// Microseconds since 1970 of a date, timestamp or timestamptz.
pub(super) fn moment(ty: &SqlType, value: &Value) -> Result<i64> {
    match split(ty, value) {
        Some((days, tod)) if !matches!(ty, SqlType::Time(_)) => days
            .checked_mul(DAY)
            .and_then(|t| t.checked_add(tod))
            .ok_or_else(|| Error::new(ErrorKind::DatetimeOverflow, "date out of range for timestamp")),
        _ => Err(Error::new(ErrorKind::UndefinedFunction, format!("no function takes {ty} here"))),
    }
}

/// Offset of a zone from UTC, in microseconds; only fixed ones are known.
fn offset(zone: &str) -> Result<i64> {
    let upper = zone.trim().to_ascii_uppercase();
    if matches!(upper.as_str(), "UTC" | "GMT" | "Z" | "ETC/UTC" | "ETC/GMT" | "UCT" | "ZULU" | "UNIVERSAL") {
        return Ok(0);
    }
    // `+02` as a zone's name is POSIX: west of Greenwich counts positive.
    let (sign, rest) = match upper.split_at_checked(1) {
        Some(("+", rest)) => (-1, rest),
        Some(("-", rest)) => (1, rest),
        _ => {
            return Err(Error::unsupported(format!("time zone \"{zone}\"")).hint("UTC and fixed offsets are known."));
        }
    };
    let mut parts = rest.split(':').map(|p| p.parse::<i64>().ok());
    match (parts.next().flatten(), parts.next(), parts.next()) {
        (Some(h), None, None) if h < 16 => Ok(sign * h * 3600 * SECOND),
        (Some(h), Some(Some(m)), None) if h < 16 && m < 60 => Ok(sign * (h * 3600 + m * 60) * SECOND),
        _ => Err(Error::new(ErrorKind::InvalidParameterValue, format!("time zone \"{zone}\" not recognized"))),
    }
}

pub(super) fn date_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let month = u32::try_from(month).ok().filter(|m| (1..=12).contains(m))?;
    if year == 0 || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    Some(days_from_civil(if year < 0 { year + 1 } else { year }, month, u32::try_from(day).ok()?))
}

pub(super) fn functions() -> Vec<Scalar> {
    let mut made = parts();
    made.extend(intervals());
    made.extend(super::makers::functions());
    made.push(series());
    made
}

/// Rows of `generate_series`, at most.
const MAX_SERIES: usize = 10_000_000;

/// `generate_series` as an array.
fn series() -> Scalar {
    let item = |types: &[SqlType]| -> Result<SqlType> {
        let undefined = || {
            let shown: Vec<String> = types.iter().map(ToString::to_string).collect();
            Error::new(
                ErrorKind::UndefinedFunction,
                format!("function generate_series({}) does not exist", shown.join(", ")),
            )
        };
        Ok(match types {
            [SqlType::Int2 | SqlType::Int4, rest @ ..]
                if rest.iter().all(|t| matches!(t, SqlType::Int2 | SqlType::Int4)) =>
            {
                SqlType::Int4
            }
            [SqlType::Timestamp(_), SqlType::Timestamp(_) | SqlType::Text, SqlType::Interval | SqlType::Text] => {
                SqlType::Timestamp(None)
            }
            [SqlType::Date | SqlType::TimestampTz(_), SqlType::Text, SqlType::Interval | SqlType::Text] => {
                SqlType::TimestampTz(None)
            }
            [SqlType::Date | SqlType::TimestampTz(_) | SqlType::Timestamp(_), _, SqlType::Interval] => {
                SqlType::TimestampTz(None)
            }
            types if types.iter().all(|t| matches!(t, SqlType::Int2 | SqlType::Int4 | SqlType::Int8)) => SqlType::Int8,
            types if types.iter().any(|t| matches!(t, SqlType::Numeric(_))) => {
                return Err(Error::unsupported("generate_series over numeric"));
            }
            _ => return Err(undefined()),
        })
    };
    Scalar::new("atoll_series", 2..=3, SqlType::Array(Box::new(SqlType::Int8)), |call, args| {
        let zero = || Error::new(ErrorKind::InvalidParameterValue, "step size cannot equal zero");
        let long = || Error::new(ErrorKind::ProgramLimit, format!("a series of more than {MAX_SERIES} values"));
        let mut out = vec![];
        let SqlType::Array(item) = call.result else { return Err(Error::internal("a series is an array")) };
        let step = match args.get(2) {
            Some(Value::Text(step)) => Some(atoll_model::text::parse_interval(step)?),
            Some(step) if call.types[2] == SqlType::Interval => interval(step),
            _ => None,
        };
        if let Some(step) = step {
            let mut t = moment(&call.types[0], &args[0])?;
            let end = match &args[1] {
                Value::Text(end) => atoll_model::text::parse_timestamp(end)?,
                end => moment(&call.types[1], end)?,
            };
            let up = length(step);
            if up == 0 {
                return Err(zero());
            }
            while if up > 0 { t <= end } else { t >= end } {
                if out.len() == MAX_SERIES {
                    return Err(long());
                }
                out.push(if matches!(**item, SqlType::Timestamp(_)) {
                    Value::Timestamp(t)
                } else {
                    Value::TimestampTz(t)
                });
                t = match shift(&SqlType::Timestamp(None), &Value::Timestamp(t), step, 1)? {
                    Value::Timestamp(t) => t,
                    _ => return Err(Error::internal("a moment expected")),
                };
            }
            return Ok(Value::Array(out));
        }
        let (mut n, end, step) = (integer(&args[0]), integer(&args[1]), args.get(2).map_or(1, integer));
        if step == 0 {
            return Err(zero());
        }
        while if step > 0 { n <= end } else { n >= end } {
            if out.len() == MAX_SERIES {
                return Err(long());
            }
            out.push(match **item {
                SqlType::Int4 => Value::Int4(i32::try_from(n).unwrap_or(i32::MAX)),
                _ => Value::Int8(n),
            });
            let Some(next) = n.checked_add(step) else { break };
            n = next;
        }
        Ok(Value::Array(out))
    })
    .returning(move |types| Ok(SqlType::Array(Box::new(item(types)?))))
}

fn parts() -> Vec<Scalar> {
    let extract = |name, scale: i8| {
        Scalar::new(name, 2..=2, SqlType::Numeric(Some((38, scale))), move |call, args| {
            let millionths = part(&text(&args[0]).to_lowercase(), &call.types[1], &args[1], false)?;
            let value = atoll_model::text::rescale(millionths, 6, scale)
                .ok_or_else(|| Error::new(ErrorKind::NumericOutOfRange, "value out of range"))?;
            Ok(Value::Numeric(value, scale))
        })
    };
    vec![
        extract("atoll_extract", 0),
        extract("atoll_extract_3", 3),
        extract("atoll_extract_6", 6),
        extract("atoll_extract_20", 20),
        Scalar::new("date_part", 2..=2, SqlType::Float8, |call, args| {
            Ok(Value::Float8(part(&text(&args[0]).to_lowercase(), &call.types[1], &args[1], true)? as f64 / 1e6))
        }),
        Scalar::new("date_trunc", 2..=3, SqlType::Timestamp(None), |call, args| {
            let field = text(&args[0]).to_lowercase();
            if let Some(v) = interval(&args[1]).filter(|_| call.types[1] == SqlType::Interval) {
                return truncate_interval(&field, v).map(of_interval);
            }
            let shift = args.get(2).map_or(Ok(0), |zone| offset(text(zone)))?;
            let t = moment(&call.types[1], &args[1])?;
            let t = truncate(&field, &call.types[1], t + shift)? - shift;
            Ok(if matches!(call.types[1], SqlType::Timestamp(_)) { Value::Timestamp(t) } else { Value::TimestampTz(t) })
        })
        .returning(|types| match types.get(1) {
            Some(SqlType::Interval) => Ok(SqlType::Interval),
            Some(SqlType::Date | SqlType::TimestampTz(_)) => Ok(SqlType::TimestampTz(None)),
            Some(SqlType::Timestamp(_)) => Ok(SqlType::Timestamp(None)),
            Some(other) => Err(Error::new(
                ErrorKind::UndefinedFunction,
                format!("function date_trunc(unknown, {other}) does not exist"),
            )),
            None => Ok(SqlType::Timestamp(None)),
        }),
        Scalar::new("timezone", 2..=2, SqlType::Timestamp(None), |call, args| {
            let shift = match interval(&args[0]) {
                Some(v) if call.types[0] == SqlType::Interval => v.micros,
                _ => offset(text(&args[0]))?,
            };
            let t = moment(&call.types[1], &args[1])?;
            Ok(match call.types[1] {
                SqlType::Timestamp(_) => Value::TimestampTz(t - shift),
                _ => Value::Timestamp(t + shift),
            })
        })
        .returning(|types| match types.get(1) {
            Some(SqlType::Timestamp(_)) => Ok(SqlType::TimestampTz(None)),
            Some(SqlType::Time(_)) => Err(Error::unsupported("AT TIME ZONE of a time")),
            _ => Ok(SqlType::Timestamp(None)),
        }),
        Scalar::new("isfinite", 1..=1, SqlType::Bool, |_, args| {
            Ok(Value::Bool(!matches!(
                args[0],
                Value::Timestamp(i64::MAX | i64::MIN)
                    | Value::TimestampTz(i64::MAX | i64::MIN)
                    | Value::Date(i32::MAX | i32::MIN)
            )))
        }),
    ]
}

fn intervals() -> Vec<Scalar> {
    let of = |name: &'static str, f: fn(Interval) -> Result<Interval>| {
        Scalar::new(name, 1..=1, SqlType::Interval, move |_, args| f(span(&args[0])).map(of_interval))
    };
    vec![
        Scalar::new("age", 2..=2, SqlType::Interval, |call, args| {
            Ok(of_interval(age(moment(&call.types[0], &args[0])?, moment(&call.types[1], &args[1])?)))
        }),
        of("justify_hours", justify_hours),
        of("justify_days", justify_days),
        of("justify_interval", |v| {
            let mut v = justify_days(justify_hours(v)?)?;
            if v.months > 0 && (v.days < 0 || v.days == 0 && v.micros < 0) {
                v.days += 30;
                v.months -= 1;
            } else if v.months < 0 && (v.days > 0 || v.days == 0 && v.micros > 0) {
                v.days -= 30;
                v.months += 1;
            }
            justify_hours(v)
        }),
        // Days and hours of a difference, as timestamp - timestamp gives them.
        Scalar::new("atoll_timestamp_diff", 2..=2, SqlType::Interval, |call, args| {
            let (a, b) = (moment(&call.types[0], &args[0])?, moment(&call.types[1], &args[1])?);
            let micros = a.checked_sub(b).ok_or_else(too_large)?;
            justify_hours(Interval { months: 0, days: 0, micros }).map(of_interval)
        }),
        Scalar::new("atoll_time_diff", 2..=2, SqlType::Interval, |_, args| match (&args[0], &args[1]) {
            (Value::Time(a), Value::Time(b)) => Ok(of_interval(Interval { months: 0, days: 0, micros: a - b })),
            _ => Err(Error::internal("times expected")),
        }),
        Scalar::new("atoll_time_add", 2..=2, SqlType::Time(None), |_, args| match &args[0] {
            Value::Time(t) => Ok(Value::Time((t + span(&args[1]).micros % DAY).rem_euclid(DAY))),
            _ => Err(Error::internal("a time expected")),
        }),
        Scalar::new("atoll_time_sub", 2..=2, SqlType::Time(None), |_, args| match &args[0] {
            Value::Time(t) => Ok(Value::Time((t - span(&args[1]).micros % DAY).rem_euclid(DAY))),
            _ => Err(Error::internal("a time expected")),
        }),
        Scalar::new("atoll_date_time", 2..=2, SqlType::Timestamp(None), |call, args| match &args[1] {
            Value::Time(t) => Ok(Value::Timestamp(moment(&call.types[0], &args[0])? + t)),
            _ => Err(Error::internal("a time expected")),
        }),
        Scalar::new("atoll_interval_mul", 2..=2, SqlType::Interval, |_, args| {
            scale(span(&args[0]), float(&args[1])).map(of_interval)
        }),
        Scalar::new("atoll_interval_div", 2..=2, SqlType::Interval, |_, args| {
            let by = float(&args[1]);
            if by == 0.0 {
                return Err(Error::new(ErrorKind::DivisionByZero, "division by zero"));
            }
            scale(span(&args[0]), 1.0 / by).map(of_interval)
        }),
        Scalar::new("atoll_interval_add", 2..=2, SqlType::Interval, |_, args| combine(&args[0], &args[1], 1)),
        Scalar::new("atoll_interval_sub", 2..=2, SqlType::Interval, |_, args| combine(&args[0], &args[1], -1)),
        Scalar::new("atoll_interval_length", 1..=1, SqlType::Numeric(Some((38, 0))), |_, args| {
            Ok(Value::Numeric(length(span(&args[0])), 0))
        }),
        Scalar::new("atoll_moment_add", 2..=2, SqlType::Timestamp(None), |call, args| {
            shift(&call.types[0], &args[0], span(&args[1]), 1)
        })
        .returning(moved),
        Scalar::new("atoll_moment_sub", 2..=2, SqlType::Timestamp(None), |call, args| {
            shift(&call.types[0], &args[0], span(&args[1]), -1)
        })
        .returning(moved),
    ]
}

fn moved(types: &[SqlType]) -> Result<SqlType> {
    Ok(match types.first() {
        Some(SqlType::TimestampTz(_)) => SqlType::TimestampTz(None),
        _ => SqlType::Timestamp(None),
    })
}

fn combine(a: &Value, b: &Value, sign: i32) -> Result<Value> {
    let (a, b) = (span(a), span(b));
    let months = b.months.checked_mul(sign).and_then(|m| a.months.checked_add(m)).ok_or_else(too_large)?;
    let days = b.days.checked_mul(sign).and_then(|d| a.days.checked_add(d)).ok_or_else(too_large)?;
    let micros = b.micros.checked_mul(i64::from(sign)).and_then(|t| a.micros.checked_add(t)).ok_or_else(too_large)?;
    Ok(of_interval(Interval { months, days, micros }))
}

/// A moment moved by an interval: months first (the day cut to the month's length), then days, then time.
fn shift(ty: &SqlType, value: &Value, by: Interval, sign: i64) -> Result<Value> {
    let out = || Error::new(ErrorKind::DatetimeOverflow, "timestamp out of range");
    let t = moment(ty, value)?;
    let (mut days, tod) = (t.div_euclid(DAY), t.rem_euclid(DAY));
    if by.months != 0 {
        let (y, m, d) = civil_from_days(days);
        let months = y * 12 + i64::from(m) - 1 + sign * i64::from(by.months);
        // A remainder of 12 fits.
        let (y, m) = (months.div_euclid(12), months.rem_euclid(12) as u32 + 1);
        let last = days_in_month(y, m);
        days = days_from_civil(y, m, 1) + i64::from(d).min(last) - 1;
    }
    days += sign * i64::from(by.days);
    let t = days
        .checked_mul(DAY)
        .and_then(|t| t.checked_add(tod))
        .and_then(|t| by.micros.checked_mul(sign).and_then(|m| t.checked_add(m)))
        .ok_or_else(out)?;
    Ok(if matches!(ty, SqlType::TimestampTz(_)) { Value::TimestampTz(t) } else { Value::Timestamp(t) })
}
