//! Dates and times in text, in the proleptic Gregorian calendar (`DateStyle = ISO, MDY`).
//!
//! Invariant: counts are since 1970-01-01, days in an `i32` and microseconds in an `i64`; what does not fit is an error,
//! never a wrapped number. Days and civil dates convert by Hinnant's `chrono`-compatible algorithms for any year.

use super::{excerpt, number::write_int};
use crate::{Error, ErrorKind, Result};
use std::ops::RangeInclusive;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// PostgreSQL's dates, from 4714-11-24 BC to 5874897-12-31, as days since 1970.
pub const DATES: RangeInclusive<i64> = -2_440_588..=2_145_042_905;
/// Timestamps, from the start of the first of these days to what microseconds can count.
pub const TIMESTAMPS: RangeInclusive<i64> = -2_440_588 * MICROS_PER_DAY..=i64::MAX;

/// Days since 1970-01-01 of a date; years before 1 count 0, -1 ….
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let y = year - i64::from(month <= 2);
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_year = (153 * i64::from((month + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    // Days are 1-31 and months 1-12.
    (yoe + era * 400 + i64::from(month <= 2), month as u32, (doy - (153 * mp + 2) / 5 + 1) as u32)
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 if year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Why a text is no date or time.
enum Flaw {
    /// It does not have the form.
    Syntax,
    /// A field is outside its range.
    Range,
    /// A time zone that is not known here.
    Zone(String),
    /// Something that is read by PostgreSQL and refused here.
    Refused(&'static str),
}

impl Flaw {
    fn error(self, type_name: &str, text: &str) -> Error {
        match self {
            Flaw::Syntax => Error::new(
                ErrorKind::InvalidDatetime,
                format!("invalid input syntax for type {type_name}: \"{}\"", excerpt(text)),
            ),
            Flaw::Range => Error::new(
                ErrorKind::DatetimeOverflow,
                format!("date/time field value out of range: \"{}\"", excerpt(text)),
            ),
            Flaw::Zone(zone) => {
                Error::new(ErrorKind::InvalidParameterValue, format!("time zone \"{}\" not recognized", excerpt(&zone)))
                    .hint("Give the offset from UTC, such as +02.")
            }
            Flaw::Refused(why) => Error::unsupported(format!("{type_name} \"{}\": {why}", excerpt(text))),
        }
    }
}

/// What a text said: a date, a time of day, an offset from UTC in seconds.
#[derive(Default)]
struct Moment {
    days: Option<i64>,
    micros: Option<i64>,
    offset: Option<i64>,
}

/// A text cut into the pieces that dates and times are written with.
struct Scanner<'a> {
    rest: &'a [u8],
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.rest = &self.rest[1..];
        }
        found
    }
    fn run(&mut self, of: impl Fn(u8) -> bool) -> &'a [u8] {
        let len = self.rest.iter().position(|b| !of(*b)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(len);
        self.rest = rest;
        run
    }
    /// A number of at most nine digits, and how many they were.
    fn number(&mut self) -> Result<(i64, usize), Flaw> {
        let digits = self.run(|b| b.is_ascii_digit());
        match digits.len() {
            0 => Err(Flaw::Syntax),
            1..=9 => Ok((digits.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')), digits.len())),
            _ => Err(Flaw::Range),
        }
    }
}

/// Exactly `YYYY-MM-DD`, the form that nearly every date comes in.
fn iso_date(bytes: &[u8]) -> Option<(i64, u32, u32)> {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = bytes else { return None };
    let digit = |b: u8| b.is_ascii_digit().then(|| u32::from(b - b'0'));
    let year = digit(y1)? * 1000 + digit(y2)? * 100 + digit(y3)? * 10 + digit(y4)?;
    Some((i64::from(year), digit(m1)? * 10 + digit(m2)?, digit(d1)? * 10 + digit(d2)?))
}

fn checked_days(year: i64, month: i64, day: i64, bc: bool) -> Result<i64, Flaw> {
    let year = if bc { 1 - year } else { year };
    let (Ok(month), Ok(day)) = (u32::try_from(month), u32::try_from(day)) else { return Err(Flaw::Range) };
    if (!bc && year < 1)
        || (bc && year > 0)
        || !(1..=12).contains(&month)
        || !(1..=days_in_month(year, month)).contains(&day)
    {
        return Err(Flaw::Range);
    }
    let days = days_from_civil(year, month, day);
    if DATES.contains(&days) { Ok(days) } else { Err(Flaw::Range) }
}

/// Whether a text ends with BC or AD.
fn ends_with_era(body: &[u8]) -> bool {
    let era = body.get(body.len().saturating_sub(3)..).unwrap_or_default();
    era.eq_ignore_ascii_case(b" bc") || era.eq_ignore_ascii_case(b" ad")
}

fn moment(text: &str) -> Result<Moment, Flaw> {
    let body = text.trim_ascii().as_bytes();
    if let Some((y, m, d)) = body.get(..10).and_then(iso_date)
        && matches!(body.get(10), None | Some(b' ' | b'T' | b't'))
        && !ends_with_era(body)
    {
        let mut found = Moment { days: Some(checked_days(y, i64::from(m), i64::from(d), false)?), ..Moment::default() };
        if body.len() > 10 {
            let mut scanner = Scanner { rest: &body[11..] };
            scanner.run(|b| b == b' ');
            if scanner.peek().is_some() {
                time_of_day(&mut scanner, &mut found)?;
                tail(&mut scanner, &mut found)?;
            }
        }
        return Ok(found);
    }
    general(body)
}

/// Any other order of date, time, zone and era.
fn general(body: &[u8]) -> Result<Moment, Flaw> {
    let word = String::from_utf8_lossy(body).to_ascii_lowercase();
    match word.as_str() {
        "epoch" => return Ok(Moment { days: Some(0), micros: Some(0), offset: None }),
        "infinity" | "-infinity" | "+infinity" => return Err(Flaw::Refused("infinite dates are not supported")),
        "now" | "today" | "tomorrow" | "yesterday" => {
            return Err(Flaw::Refused("use now() or current_date instead"));
        }
        _ => {}
    }
    let bc = word.ends_with(" bc");
    let era = if ends_with_era(body) { 3 } else { 0 };
    let mut scanner = Scanner { rest: &body[..body.len() - era] };
    let mut found = Moment::default();
    // Numbers with their digits; the named month with its place among them.
    let mut fields: Vec<(i64, usize)> = Vec::new();
    let mut months: Option<(usize, i64)> = None;
    let mut slashed = false;
    loop {
        scanner.run(|b| matches!(b, b' ' | b','));
        let Some(next) = scanner.peek() else { break };
        if next.is_ascii_digit() {
            let before = scanner.rest;
            let run = scanner.run(|b| b.is_ascii_digit());
            if scanner.peek() == Some(b':') && found.micros.is_none() {
                scanner.rest = before;
                time_of_day(&mut scanner, &mut found)?;
                if matches!(scanner.peek(), Some(b'+' | b'-' | b'z' | b'Z')) {
                    zone(&mut scanner, &mut found)?;
                }
                continue;
            }
            scanner.rest = before;
            if run.len() == 8 && fields.is_empty() && before.get(8) != Some(&b'-') {
                let (n, _) = scanner.number()?;
                fields.extend([(n / 10_000, 4), (n / 100 % 100, 2), (n % 100, 2)]);
            } else {
                fields.push(scanner.number()?);
            }
            slashed |= scanner.peek() == Some(b'/');
            let _ = scanner.eat(b'-') || scanner.eat(b'/') || scanner.eat(b'.');
            if scanner.peek().is_some_and(|b| b.eq_ignore_ascii_case(&b't')) && fields.len() == 3 {
                scanner.rest = &scanner.rest[1..];
            }
        } else if next.is_ascii_alphabetic() {
            let name = String::from_utf8_lossy(scanner.run(|b| b.is_ascii_alphabetic())).to_ascii_lowercase();
            if let Some(month) = month_named(&name) {
                if months.replace((fields.len(), month)).is_some() {
                    return Err(Flaw::Syntax);
                }
                let _ = scanner.eat(b'-') || scanner.eat(b'/') || scanner.eat(b'.');
            } else if found.micros.is_some() && found.offset.is_none() {
                named_zone(&name, &mut scanner, &mut found)?;
            } else {
                return Err(Flaw::Syntax);
            }
        } else if matches!(next, b'+' | b'-') && found.micros.is_some() && found.offset.is_none() {
            zone(&mut scanner, &mut found)?;
        } else {
            return Err(Flaw::Syntax);
        }
        if fields.len() > 3 {
            return Err(Flaw::Syntax);
        }
    }
    let (year, month, day) = match (fields.as_slice(), months) {
        ([], None) if found.micros.is_some() => return Ok(found),
        (&[a, b, c], None) if a.1 >= 3 => (a, b.0, c.0),
        // Two-digit years and dotted or dashed dates without a year first are month-day-year, as `MDY` says.
        (&[a, b, c], None) if slashed || c.1 >= 2 => (c, a.0, b.0),
        (&[a, b], Some((at, month))) if a.1 >= 3 && at > 0 => (a, month, b.0),
        (&[a, b], Some((_, month))) => (b, month, a.0),
        _ => return Err(Flaw::Syntax),
    };
    let year = match year {
        (y, 1 | 2) if !bc => y + if y < 70 { 2000 } else { 1900 },
        (y, _) => y,
    };
    found.days = Some(checked_days(year, month, day, bc)?);
    Ok(found)
}

fn month_named(name: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let at = MONTHS.iter().position(|m| {
        *m == name || (name.len() == 3 && m.starts_with(name)) || (name == "sept" && *m == "september")
    })?;
    Some(at as i64 + 1)
}

/// `HH:MM[:SS[.ffffff]]`.
fn time_of_day(scanner: &mut Scanner<'_>, found: &mut Moment) -> Result<(), Flaw> {
    let (hour, _) = scanner.number()?;
    if !scanner.eat(b':') {
        return Err(Flaw::Syntax);
    }
    // PostgreSQL takes `03:` for `03:00`, and `03:04:` for `03:04:00`.
    let minute = if scanner.peek().is_some_and(|b| b.is_ascii_digit()) { scanner.number()?.0 } else { 0 };
    let mut micros = 0;
    if scanner.eat(b':') && scanner.peek().is_some_and(|b| b.is_ascii_digit()) {
        let (second, _) = scanner.number()?;
        if second > 60 {
            return Err(Flaw::Range);
        }
        micros = second * MICROS_PER_SECOND;
        if scanner.eat(b'.') {
            micros += fraction(scanner.run(|b| b.is_ascii_digit()));
        }
    }
    if hour > 24 || minute > 59 || (hour == 24 && (minute > 0 || micros > 0)) {
        return Err(Flaw::Range);
    }
    found.micros = Some((hour * 60 + minute) * 60 * MICROS_PER_SECOND + micros);
    Ok(())
}

/// Microseconds of the digits after a point, rounded.
pub(super) fn fraction(digits: &[u8]) -> i64 {
    let six = (0..6).fold(0, |n, i| n * 10 + digits.get(i).map_or(0, |d| i64::from(d - b'0')));
    six + i64::from(digits.get(6).is_some_and(|d| *d >= b'5'))
}

/// What may follow the time of an ISO timestamp: AM/PM and a zone.
fn tail(scanner: &mut Scanner<'_>, found: &mut Moment) -> Result<(), Flaw> {
    loop {
        scanner.run(|b| b == b' ');
        match scanner.peek() {
            None => return Ok(()),
            Some(b'+' | b'-') if found.offset.is_none() => zone(scanner, found)?,
            Some(b) if b.is_ascii_alphabetic() && found.offset.is_none() => {
                let name = String::from_utf8_lossy(scanner.run(|b| b.is_ascii_alphabetic())).to_ascii_lowercase();
                named_zone(&name, scanner, found)?;
            }
            Some(_) => return Err(Flaw::Syntax),
        }
    }
}

fn named_zone(name: &str, scanner: &mut Scanner<'_>, found: &mut Moment) -> Result<(), Flaw> {
    match name {
        "am" | "pm" => {
            let micros = found.micros.ok_or(Flaw::Syntax)?;
            let noon = MICROS_PER_DAY / 2;
            if micros >= noon + 3600 * MICROS_PER_SECOND {
                return Err(Flaw::Range);
            }
            found.micros = Some(micros % noon + if name == "pm" { noon } else { 0 });
        }
        "z" | "utc" | "gmt" | "zulu" | "ut" => found.offset = Some(0),
        _ => {
            let rest = String::from_utf8_lossy(scanner.run(|_| true)).into_owned();
            return Err(Flaw::Zone(format!("{name}{rest}")));
        }
    }
    Ok(())
}

/// `Z`, `±HH`, `±HHMM`, `±HH:MM[:SS]`.
fn zone(scanner: &mut Scanner<'_>, found: &mut Moment) -> Result<(), Flaw> {
    if scanner.eat(b'Z') || scanner.eat(b'z') {
        found.offset = Some(0);
        return Ok(());
    }
    let negative = scanner.eat(b'-');
    if !negative && !scanner.eat(b'+') {
        return Err(Flaw::Syntax);
    }
    let (first, len) = scanner.number()?;
    let (mut hours, mut minutes, mut seconds) = (first, 0, 0);
    match len {
        1 | 2 => {
            if scanner.eat(b':') {
                minutes = scanner.number()?.0;
                if scanner.eat(b':') {
                    seconds = scanner.number()?.0;
                }
            }
        }
        3 | 4 => (hours, minutes) = (first / 100, first % 100),
        _ => return Err(Flaw::Syntax),
    }
    if hours > 15 || minutes > 59 || seconds > 59 {
        return Err(Flaw::Range);
    }
    let offset = (hours * 60 + minutes) * 60 + seconds;
    found.offset = Some(if negative { -offset } else { offset });
    Ok(())
}

/// `date`, as days since 1970-01-01. A time of day after it is ignored.
///
/// # Errors
/// 22007, 22008; 0A000 for infinities and words that need a clock.
pub fn parse_date(text: &str) -> Result<i32> {
    let days = moment(text).and_then(|m| m.days.ok_or(Flaw::Syntax));
    // `checked_days` has seen to it that the number fits.
    days.map(|d| d as i32).map_err(|f| f.error("date", text))
}

/// `time`, as microseconds since midnight.
///
/// # Errors
/// As [`parse_date`].
pub fn parse_time(text: &str) -> Result<i64> {
    let micros = moment(text).and_then(|m| m.micros.ok_or(Flaw::Syntax));
    micros.and_then(|m| if m > MICROS_PER_DAY { Err(Flaw::Range) } else { Ok(m) }).map_err(|f| f.error("time", text))
}

/// `timestamp`, as microseconds since 1970-01-01 00:00. A zone is ignored, as in PostgreSQL.
///
/// # Errors
/// As [`parse_date`].
pub fn parse_timestamp(text: &str) -> Result<i64> {
    let found = moment(text).map_err(|f| f.error("timestamp", text))?;
    micros(&found, 0).map_err(|f| f.error("timestamp", text))
}

/// `timestamptz`, as microseconds since 1970-01-01 00:00 UTC. Without a zone the text is taken as UTC.
///
/// # Errors
/// As [`parse_date`]; 22023 for zone names, which are not known here.
pub fn parse_timestamptz(text: &str) -> Result<i64> {
    const NAME: &str = "timestamp with time zone";
    let found = moment(text).map_err(|f| f.error(NAME, text))?;
    micros(&found, found.offset.unwrap_or(0)).map_err(|f| f.error(NAME, text))
}

fn micros(found: &Moment, offset: i64) -> Result<i64, Flaw> {
    let days = found.days.ok_or(Flaw::Syntax)?;
    days.checked_mul(MICROS_PER_DAY)
        .and_then(|m| m.checked_add(found.micros.unwrap_or(0) - offset * MICROS_PER_SECOND))
        .filter(|m| TIMESTAMPS.contains(m))
        .ok_or(Flaw::Range)
}

/// Writes `YYYY-MM-DD`, with ` BC` where it is due.
pub fn write_date(days: i32, out: &mut Vec<u8>) {
    if write_civil(i64::from(days), out) {
        out.extend_from_slice(b" BC");
    }
}

/// Writes the date and says whether it is before the common era.
fn write_civil(days: i64, out: &mut Vec<u8>) -> bool {
    let (year, month, day) = civil_from_days(days);
    let bc = year <= 0;
    let year = if bc { 1 - year } else { year };
    match u32::try_from(year) {
        Ok(y @ 0..=9999) => {
            two(y / 100, out);
            two(y % 100, out);
        }
        _ => write_int(year, out),
    }
    out.push(b'-');
    two(month, out);
    out.push(b'-');
    two(day, out);
    bc
}

/// Two digits of a number below 100.
pub(super) fn two(n: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8]);
}

/// `.ffffff` without trailing zeros; nothing when there is no fraction.
pub(super) fn write_fraction(micros: i64, out: &mut Vec<u8>) {
    if micros == 0 {
        return;
    }
    let mut digits = [0u8; 6];
    let mut rest = micros;
    for d in digits.iter_mut().rev() {
        *d = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let kept = digits.iter().rposition(|d| *d != b'0').map_or(0, |last| last + 1);
    out.push(b'.');
    out.extend_from_slice(&digits[..kept]);
}

/// Writes `HH:MM:SS[.ffffff]`.
pub fn write_time(micros: i64, out: &mut Vec<u8>) {
    // A time is between 0 and 24 hours; anything else is a defect elsewhere and still must not panic.
    let micros = micros.clamp(0, MICROS_PER_DAY);
    let seconds = (micros / MICROS_PER_SECOND) as u32;
    two(seconds / 3600, out);
    out.push(b':');
    two(seconds / 60 % 60, out);
    out.push(b':');
    two(seconds % 60, out);
    write_fraction(micros % MICROS_PER_SECOND, out);
}

/// Writes `YYYY-MM-DD HH:MM:SS[.ffffff]`, with ` BC` where it is due.
pub fn write_timestamp(micros: i64, out: &mut Vec<u8>) {
    write_moment(micros, b"", out);
}

/// Writes `YYYY-MM-DD HH:MM:SS[.ffffff]+00`: the session's time zone is UTC.
pub fn write_timestamptz(micros: i64, out: &mut Vec<u8>) {
    write_moment(micros, b"+00", out);
}

fn write_moment(micros: i64, zone: &[u8], out: &mut Vec<u8>) {
    let bc = write_civil(micros.div_euclid(MICROS_PER_DAY), out);
    out.push(b' ');
    write_time(micros.rem_euclid(MICROS_PER_DAY), out);
    out.extend_from_slice(zone);
    if bc {
        out.extend_from_slice(b" BC");
    }
}

#[cfg(test)]
mod tests;
