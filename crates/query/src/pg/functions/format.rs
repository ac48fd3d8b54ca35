//! `to_char`, `to_date`, `to_timestamp`: dates and numbers by pattern.
//!
//! Invariant: a pattern's parts that PostgreSQL knows and this does not are refused by name, never copied or skipped.

use super::datetime::{DAY, SECOND, iso_week};
use atoll_model::text::{Interval, civil_from_days, days_from_civil};
use atoll_model::{Error, ErrorKind, Result};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Words of date patterns, longest first where one begins another.
const WORDS: [&str; 75] = [
    "Y,YYY", "YYYY", "yyyy", "YYY", "yyy", "YY", "yy", "IYYY", "iyyy", "IYY", "IY", "SSSSS", "SSSS", "HH24", "hh24",
    "HH12", "hh12", "HH", "hh", "MI", "mi", "MONTH", "Month", "month", "MON", "Mon", "mon", "MM", "mm", "MS", "ms",
    "US", "us", "FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "SS", "ss", "DAY", "Day", "day", "DDD", "ddd", "DD", "dd",
    "DY", "Dy", "dy", "IDDD", "ID", "IW", "iw", "WW", "ww", "CC", "cc", "AM", "am", "PM", "pm", "A.M.", "a.m.", "P.M.",
    "p.m.", "RM", "rm", "TZH", "TZM", "TZ", "tz", "OF", "BC",
];
const LETTERS: [&str; 10] = ["Y", "y", "D", "d", "W", "w", "Q", "q", "J", "I"];

enum Piece<'a> {
    Word { word: &'a str, fill: bool, suffix: Option<bool> },
    Text(String),
}

/// A pattern's pieces. `TH` and `th` behind a word ask for an ordinal's ending, `FM` before it for no padding.
fn pieces(pattern: &str) -> Result<Vec<Piece<'_>>> {
    let mut out = vec![];
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        if c == '"' {
            let mut quoted = String::new();
            let mut chars = rest[1..].char_indices();
            let mut end = rest.len();
            while let Some((at, c)) = chars.next() {
                match c {
                    '\\' => quoted.extend(chars.next().map(|(_, c)| c)),
                    '"' => {
                        end = at + 2;
                        break;
                    }
                    c => quoted.push(c),
                }
            }
            out.push(Piece::Text(quoted));
            rest = &rest[end..];
            continue;
        }
        let (fill, tail) = match rest.get(..2) {
            Some("FM" | "fm") => (false, &rest[2..]),
            Some("TM" | "FX" | "tm" | "fx") => {
                return Err(Error::unsupported(format!("format modifier \"{}\"", &rest[..2])));
            }
            _ => (true, rest),
        };
        match WORDS.iter().chain(&LETTERS).find(|w| tail.starts_with(**w)) {
            Some(word) => {
                let mut after = &tail[word.len()..];
                let suffix = match after.get(..2) {
                    Some("TH") => Some(true),
                    Some("th") => Some(false),
                    _ => None,
                };
                if suffix.is_some() {
                    after = &after[2..];
                }
                out.push(Piece::Word { word, fill, suffix });
                rest = after;
            }
            None => {
                let skip = if fill { c.len_utf8() } else { 2 };
                if fill {
                    out.push(Piece::Text(c.to_string()));
                }
                rest = &rest[skip..];
            }
        }
    }
    Ok(out)
}

fn ordinal(number: &str, upper: bool) -> &'static str {
    let last_two = &number[number.len().saturating_sub(2)..];
    let ending = match (last_two, number.chars().last()) {
        ("11" | "12" | "13", _) => "th",
        (_, Some('1')) => "st",
        (_, Some('2')) => "nd",
        (_, Some('3')) => "rd",
        _ => "th",
    };
    match (upper, ending) {
        (true, "st") => "ST",
        (true, "nd") => "ND",
        (true, "rd") => "RD",
        (true, _) => "TH",
        (false, ending) => ending,
    }
}

/// A name in the letters that the pattern's word is in, padded to `width`.
fn name(word: &str, full: &str, width: usize, fill: bool) -> String {
    let cased = if word.chars().all(char::is_uppercase) {
        full.to_uppercase()
    } else if word.starts_with(char::is_uppercase) {
        full.to_owned()
    } else {
        full.to_lowercase()
    };
    if fill { format!("{cased:<width$}") } else { cased }
}

/// A moment by a pattern.
///
/// # Errors
/// `NotSupported`.
pub fn write_moment(t: i64, pattern: &str) -> Result<String> {
    let (days, tod) = (t.div_euclid(DAY), t.rem_euclid(DAY));
    let (year, month, day) = civil_from_days(days);
    let year = if year > 0 { year } else { 1 - year };
    write(pattern, &Fields { year, month: i64::from(month), day: i64::from(day), days: Some(days), tod })
}

/// An interval by a pattern.
///
/// # Errors
/// `NotSupported`.
pub fn write_interval(v: Interval, pattern: &str) -> Result<String> {
    let (year, month) = (i64::from(v.months / 12), i64::from(v.months % 12));
    write(pattern, &Fields { year, month, day: i64::from(v.days), days: None, tod: v.micros })
}

struct Fields {
    year: i64,
    month: i64,
    day: i64,
    days: Option<i64>,
    tod: i64,
}

fn write(pattern: &str, f: &Fields) -> Result<String> {
    let hour = f.tod / (3600 * SECOND);
    let micros = f.tod % SECOND;
    let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
    let mut out = String::new();
    for piece in pieces(pattern)? {
        let (word, fill, suffix) = match piece {
            Piece::Text(text) => {
                out.push_str(&text);
                continue;
            }
            Piece::Word { word, fill, suffix } => (word, fill, suffix),
        };
        let number = |n: i64, width: usize| if fill { format!("{n:0width$}") } else { n.to_string() };
        let calendar = || {
            f.days.ok_or_else(|| {
                Error::new(ErrorKind::InvalidDatetime, "invalid format specification for an interval value")
            })
        };
        let weekday = |d: i64| (d + 4).rem_euclid(7);
        let part = match word.to_ascii_uppercase().as_str() {
            "Y,YYY" => format!("{},{:03}", f.year / 1000, f.year % 1000),
            "YYYY" => number(f.year, 4),
            "YYY" => number(f.year % 1000, 3),
            "YY" => number(f.year % 100, 2),
            "Y" => number(f.year % 10, 1),
            "IYYY" => number(iso_week(calendar()?).1, 4),
            "IYY" => number(iso_week(calendar()?).1 % 1000, 3),
            "IY" => number(iso_week(calendar()?).1 % 100, 2),
            "I" => number(iso_week(calendar()?).1 % 10, 1),
            "CC" => number((f.year + 99) / 100, 2),
            "Q" => number((f.month - 1) / 3 + 1, 1),
            "MM" => number(f.month, 2),
            "MONTH" => name(word, MONTHS[index(f.month - 1, 12)], 9, fill),
            "MON" => name(word, &MONTHS[index(f.month - 1, 12)][..3], 3, fill),
            "RM" => {
                const ROMAN: [&str; 12] = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"];
                name(word, ROMAN[index(f.month - 1, 12)], 4, fill)
            }
            "DAY" => name(word, DAYS[index(weekday(calendar()?), 7)], 9, fill),
            "DY" => name(word, &DAYS[index(weekday(calendar()?), 7)][..3], 3, fill),
            "DDD" => {
                let days = calendar()?;
                number(days - days_from_civil(civil_from_days(days).0, 1, 1) + 1, 3)
            }
            "DD" => number(f.day, 2),
            "D" => number(weekday(calendar()?) + 1, 1),
            "ID" => number((weekday(calendar()?) + 6) % 7 + 1, 1),
            "IW" => number(iso_week(calendar()?).0, 2),
            "WW" => {
                let days = calendar()?;
                number((days - days_from_civil(civil_from_days(days).0, 1, 1)) / 7 + 1, 2)
            }
            "W" => number((f.day - 1) / 7 + 1, 1),
            "J" => number(calendar()? + 2_440_588, 1),
            "HH24" => number(hour, 2),
            "HH" | "HH12" => number(hour12, 2),
            "MI" => number(f.tod / (60 * SECOND) % 60, 2),
            "SS" => number(f.tod / SECOND % 60, 2),
            "SSSS" | "SSSSS" => number(f.tod / SECOND, 1),
            "MS" => number(micros / 1000, 3),
            "US" => number(micros, 6),
            "FF1" => number(micros / 100_000, 1),
            "FF2" => number(micros / 10_000, 2),
            "FF3" => number(micros / 1000, 3),
            "FF4" => number(micros / 100, 4),
            "FF5" => number(micros / 10, 5),
            "FF6" => number(micros, 6),
            "AM" | "PM" | "A.M." | "P.M." => {
                let half = match (word.contains('.'), hour % 24 >= 12) {
                    (false, false) => "AM",
                    (false, true) => "PM",
                    (true, false) => "A.M.",
                    (true, true) => "P.M.",
                };
                if word.starts_with(char::is_lowercase) { half.to_lowercase() } else { half.to_owned() }
            }
            "TZ" if word == "TZ" => "UTC".into(),
            "TZ" => "utc".into(),
            "TZH" | "OF" => "+00".into(),
            "TZM" => "00".into(),
            other => return Err(Error::unsupported(format!("format \"{other}\" in to_char"))),
        };
        out.push_str(&part);
        if let Some(upper) = suffix {
            out.push_str(ordinal(&part, upper));
        }
    }
    Ok(out)
}

fn index(n: i64, len: i64) -> usize {
    // A remainder is not negative and below `len`.
    n.rem_euclid(len) as usize
}

/// Reads a moment by a pattern.
///
/// # Errors
/// 22007 for text that does not fit, 22008 for fields out of range; `NotSupported`.
pub fn read_moment(input: &str, pattern: &str) -> Result<i64> {
    let mut rest = input;
    let (mut year, mut month, mut day, mut doy) = (None, None, None, None);
    let (mut hour, mut minute, mut second, mut micros) = (0, 0, 0, 0);
    let (mut afternoon, mut twelve) = (None, false);
    let mut previous_text = true;
    let all = pieces(pattern)?;
    for (at, piece) in all.iter().enumerate() {
        let word = match piece {
            Piece::Text(text) => {
                // Separators match any separator, and blanks may stand anywhere.
                for c in text.chars() {
                    if let Some(next) = rest.chars().next()
                        && (next == c || (!c.is_alphanumeric() && !next.is_alphanumeric() && next != '-') || c == next)
                    {
                        rest = &rest[next.len_utf8()..];
                    }
                }
                previous_text = true;
                continue;
            }
            Piece::Word { word, .. } => *word,
        };
        rest = rest
            .trim_start_matches(|c: char| c == ' ' || (previous_text && !c.is_alphanumeric() && c != '-' && c != '+'));
        previous_text = false;
        let follows_text = all.get(at + 1).is_none_or(|p| matches!(p, Piece::Text(_)));
        let before = rest.len();
        let mut number = |width: usize| -> Result<i64> {
            let limit = if follows_text && width == 4 { 9 } else { width };
            let len = rest.bytes().take(limit).take_while(u8::is_ascii_digit).count();
            let digits = &rest[..len];
            let n = digits.parse().map_err(|_| {
                let shown: String = rest.chars().take(width).collect();
                Error::new(ErrorKind::InvalidDatetime, format!("invalid value \"{shown}\" for \"{word}\""))
                    .detail("Value must be an integer.")
            })?;
            rest = &rest[len..];
            Ok(n)
        };
        match word.to_ascii_uppercase().as_str() {
            "YYYY" => year = Some(number(4)?),
            "YYY" | "YY" | "Y" => {
                let n = number(word.len())?;
                year = Some(if n < 70 {
                    n + 2000
                } else if n < 100 {
                    n + 1900
                } else if n < 520 {
                    n + 2000
                } else {
                    n + 1000
                });
            }
            "MM" => month = Some(number(2)?),
            "DD" => day = Some(number(2)?),
            "DDD" => doy = Some(number(3)?),
            "HH24" => hour = number(2)?,
            "HH" | "HH12" => {
                hour = number(2)?;
                twelve = true;
            }
            "MI" => minute = number(2)?,
            "SS" => second = number(2)?,
            "MS" | "US" | "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => {
                let width = if word.eq_ignore_ascii_case("US") {
                    6
                } else if word.eq_ignore_ascii_case("MS") {
                    3
                } else {
                    6
                };
                let n = number(width)?;
                let read = before - rest.len();
                micros = n * 10i64.pow(u32::try_from(6usize.saturating_sub(read)).unwrap_or(0));
            }
            "MONTH" | "MON" => {
                let full = word.len() > 3;
                let lower = rest.to_lowercase();
                let found = MONTHS.iter().position(|m| {
                    let m = m.to_lowercase();
                    lower.starts_with(if full { &m } else { &m[..3] })
                });
                let Some(found) = found else {
                    let shown: String = rest.chars().take(word.len()).collect();
                    return Err(Error::new(
                        ErrorKind::InvalidDatetime,
                        format!("invalid value \"{shown}\" for \"{word}\""),
                    )
                    .detail("The given value did not match any of the allowed values for this field."));
                };
                rest = &rest[if full { MONTHS[found].len() } else { 3 }..];
                month = i64::try_from(found + 1).ok();
            }
            "DAY" | "DY" => rest = rest.trim_start_matches(char::is_alphabetic),
            "AM" | "PM" | "A.M." | "P.M." => {
                let lower = rest.to_lowercase().replace('.', "");
                afternoon = Some(lower.starts_with("pm"));
                rest = rest.trim_start_matches(|c: char| c.is_alphabetic() || c == '.');
            }
            other => return Err(Error::unsupported(format!("format \"{other}\" when reading a date"))),
        }
    }
    let range = || Error::new(ErrorKind::DatetimeOverflow, format!("date/time field value out of range: \"{input}\""));
    if twelve {
        if !(1..=12).contains(&hour) {
            return Err(Error::new(
                ErrorKind::InvalidDatetime,
                format!("hour \"{hour}\" is invalid for the 12-hour clock"),
            )
            .hint("Use the 24-hour clock, or give an hour between 1 and 12."));
        }
        hour = hour % 12 + if afternoon == Some(true) { 12 } else { 0 };
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err(range());
    }
    let year = year.unwrap_or(1);
    let days = match doy {
        Some(n) => days_from_civil(year, 1, 1) + n - 1,
        None => {
            let month = u32::try_from(month.unwrap_or(1)).ok().filter(|m| (1..=12).contains(m)).ok_or_else(range)?;
            let day = u32::try_from(day.unwrap_or(1)).ok().filter(|d| *d >= 1).ok_or_else(range)?;
            let days = days_from_civil(year, month, day);
            if civil_from_days(days).1 != month {
                return Err(range());
            }
            days
        }
    };
    days.checked_mul(DAY).map(|d| d + (hour * 3600 + minute * 60 + second) * SECOND + micros).ok_or_else(range)
}

/// A number, given as its text, by a pattern of `9 0 . , D G S MI PL PR FM L`.
///
/// # Errors
/// `NotSupported`.
pub fn write_number(number: &str, pattern: &str) -> Result<String> {
    let upper = pattern.to_ascii_uppercase();
    let (mut fill, mut rest) = (true, upper.as_str());
    let mut tokens = vec![];
    while !rest.is_empty() {
        let token = ["FM", "MI", "PL", "SG", "PR", "9", "0", ".", ",", "D", "G", "S", "L", " "]
            .into_iter()
            .find(|t| rest.starts_with(*t))
            .ok_or_else(|| Error::unsupported(format!("number format \"{pattern}\"")))?;
        rest = &rest[token.len()..];
        if token == "FM" {
            fill = false;
        } else {
            tokens.push(token);
        }
    }
    let is_digit = |t: &&str| matches!(*t, "9" | "0");
    let point = tokens.iter().position(|t| matches!(*t, "." | "D"));
    let whole = tokens[..point.unwrap_or(tokens.len())].iter().filter(|t| is_digit(t)).count();
    let places = point.map_or(0, |p| tokens[p..].iter().filter(|t| is_digit(t)).count());
    let plain: f64 = number.parse().map_err(|_| Error::unsupported(format!("to_char of {number}")))?;
    let (unscaled, scale) = atoll_model::text::parse_numeric(number, None)?;
    let scaled = atoll_model::text::rescale(unscaled, scale, i8::try_from(places).unwrap_or(38))
        .ok_or_else(|| Error::new(ErrorKind::NumericOutOfRange, "value out of range"))?;
    let digits = scaled.unsigned_abs().to_string();
    let digits = format!("{digits:0>width$}", width = places + 1);
    let (int, frac) = digits.split_at(digits.len() - places);
    let int = int.trim_start_matches('0');
    let overflow = int.len() > whole;
    let negative = plain < 0.0 && (scaled != 0 || overflow);
    let signed = tokens.iter().any(|t| matches!(*t, "S" | "MI" | "PL" | "SG" | "PR"));
    let zero_at = tokens[..point.unwrap_or(tokens.len())].iter().filter(|t| is_digit(t)).position(|t| *t == "0");
    let mut out = String::new();
    let (mut place, mut begun, mut decimal) = (0usize, false, 0usize);
    let mut pending_sign = !signed;
    let mut after_point = false;
    let last_kept = frac.trim_end_matches('0').len();
    let last_zero = point.map_or(0, |p| {
        tokens[p..]
            .iter()
            .filter(|t| is_digit(t))
            .enumerate()
            .filter(|(_, t)| **t == "0")
            .map(|(i, _)| i + 1)
            .max()
            .unwrap_or(0)
    });
    for token in &tokens {
        match *token {
            "9" | "0" if !after_point => {
                let from_right = whole - place;
                let digit = if overflow {
                    Some('#')
                } else if from_right <= int.len() {
                    int.chars().nth(int.len() - from_right)
                } else if zero_at.is_some_and(|z| place >= z) {
                    Some('0')
                } else if place + 1 == whole && int.is_empty() && places == 0 {
                    Some('0')
                } else {
                    None
                };
                place += 1;
                match digit {
                    Some(c) => {
                        if pending_sign {
                            if negative {
                                out.push('-');
                            } else if fill {
                                out.push(' ');
                            }
                            pending_sign = false;
                        }
                        begun = true;
                        out.push(c);
                    }
                    None if fill => out.push(' '),
                    None => {}
                }
            }
            "9" | "0" => {
                decimal += 1;
                if overflow {
                    out.push('#');
                } else if fill || decimal <= last_kept.max(last_zero) {
                    out.extend(frac.chars().nth(decimal - 1));
                }
            }
            "." | "D" => {
                if pending_sign {
                    if negative {
                        out.push('-');
                    } else if fill {
                        out.push(' ');
                    }
                    pending_sign = false;
                }
                after_point = true;
                out.push('.');
            }
            "," | "G" => {
                if begun {
                    out.push(',');
                } else if fill {
                    out.push(' ');
                }
            }
            "S" | "SG" => out.push(if negative { '-' } else { '+' }),
            "MI" => {
                if negative {
                    out.push('-');
                } else if fill {
                    out.push(' ');
                }
            }
            "PL" => {
                if !negative {
                    out.push('+');
                } else if fill {
                    out.push(' ');
                }
            }
            "PR" => {
                let trimmed = out.trim_start().to_owned();
                let blanks = out.len() - trimmed.len();
                out = if negative {
                    format!("{}<{trimmed}>", " ".repeat(blanks))
                } else if fill {
                    format!("{} {trimmed} ", " ".repeat(blanks))
                } else {
                    trimmed
                };
            }
            "L" => out.push(' '),
            other => out.push_str(other),
        }
    }
    // A leading S stands right before the digits.
    if tokens.first() == Some(&"S") && fill {
        let sign = out.remove(0);
        let blanks = out.len() - out.trim_start().len();
        out.insert(blanks, sign);
    }
    Ok(out)
}
