//! Values as PostgreSQL writes and reads them in text.
//!
//! Invariant: for every value `v` of a type, `parse(ty, to_text(ty, v)) == v`; what is written is byte for byte what
//! PostgreSQL 15 prints with its default settings (`DateStyle = ISO, MDY`, `IntervalStyle = postgres`, `bytea_output = hex`,
//! `extra_float_digits = 1`, `TimeZone = UTC`). Text comes from clients: no function here panics on any input.

mod array;
mod datetime;
mod interval;
mod json;
mod number;

pub use array::{parse_array, write_quoted_element};
pub use datetime::{
    DATES, TIMESTAMPS, civil_from_days, days_from_civil, parse_date, parse_time, parse_timestamp, parse_timestamptz,
    write_date, write_time, write_timestamp, write_timestamptz,
};
pub use interval::{Interval, parse_interval, write_interval};
pub use json::{check_json, normalise_jsonb};
pub use number::{
    fits_precision, parse_f32, parse_f64, parse_i16, parse_i32, parse_i64, parse_numeric, rescale, write_f32,
    write_f64, write_int, write_numeric,
};

use crate::{Error, ErrorKind, Result, SqlType, Value, round_time, round_timestamp};

/// Longest excerpt of a bad value that an error message repeats.
const EXCERPT: usize = 200;

/// The error that PostgreSQL gives for text which is no value of the type (22P02).
pub fn invalid_text(type_name: &str, text: &str) -> Error {
    Error::new(ErrorKind::InvalidText, format!("invalid input syntax for type {type_name}: \"{}\"", excerpt(text)))
}

/// At most [`EXCERPT`] characters of a text.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// Reads a value of the type from PostgreSQL's text form.
///
/// The type's limits hold for what is read: a text longer than `varchar(n)` is an error, `timestamp(p)` is rounded.
///
/// An `interval` is not carried in a [`Value`] of its own: it stays text, in canonical form.
///
/// # Errors
/// 22P02, 22003, 22007, 22008, 22001 or 22021, as PostgreSQL.
pub fn parse(ty: &SqlType, text: &str) -> Result<Value> {
    Ok(match ty {
        SqlType::Bool => Value::Bool(parse_bool(text)?),
        SqlType::Int2 => Value::Int2(parse_i16(text)?),
        SqlType::Int4 => Value::Int4(parse_i32(text)?),
        SqlType::Int8 => Value::Int8(parse_i64(text)?),
        SqlType::Float4 => Value::Float4(parse_f32(text)?),
        SqlType::Float8 => Value::Float8(parse_f64(text)?),
        SqlType::Numeric(limits) => {
            let (unscaled, scale) = parse_numeric(text, *limits)?;
            Value::Numeric(unscaled, scale)
        }
        SqlType::Text | SqlType::Varchar(None) => Value::Text(check_text(text)?.to_string()),
        SqlType::Varchar(Some(n)) => Value::Text(fit_varchar(check_text(text)?, *n, "character varying")?.to_string()),
        SqlType::Char(n) => Value::Text(fit_char(check_text(text)?, *n)?.to_string()),
        SqlType::Bytea => Value::Bytea(parse_bytea(text)?),
        SqlType::Date => Value::Date(parse_date(text)?),
        SqlType::Time(digits) => Value::Time(round_time(parse_time(text)?, *digits)),
        SqlType::Timestamp(digits) => Value::Timestamp(round_timestamp(parse_timestamp(text)?, *digits)?),
        SqlType::TimestampTz(digits) => Value::TimestampTz(round_timestamp(parse_timestamptz(text)?, *digits)?),
        SqlType::Interval => {
            let mut out = Vec::new();
            write_interval(parse_interval(text)?, &mut out);
            Value::Text(utf8(out))
        }
        SqlType::Uuid => Value::Text(parse_uuid(text)?),
        SqlType::Json => {
            check_json(check_text(text)?)?;
            Value::Text(text.to_string())
        }
        SqlType::Jsonb => Value::Text(normalise_jsonb(text)?),
        SqlType::Array(item) => Value::Array(parse_array(item, text)?),
    })
}

/// Writes a value in PostgreSQL's text form. NULL writes nothing: what stands for it is the caller's business.
/// A value that is not of the type is written by its own kind, so that nothing is ever lost.
pub fn write(ty: &SqlType, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => {}
        Value::Bool(v) => out.push(if *v { b't' } else { b'f' }),
        Value::Int2(v) => write_int(*v, out),
        Value::Int4(v) => write_int(*v, out),
        Value::Int8(v) => write_int(*v, out),
        Value::Float4(v) => write_f32(*v, out),
        Value::Float8(v) => write_f64(*v, out),
        Value::Numeric(unscaled, scale) => {
            let digits = match ty {
                SqlType::Numeric(Some((_, s))) => Some(*s),
                _ => None,
            };
            write_numeric(*unscaled, *scale, digits, out);
        }
        Value::Text(v) => {
            out.extend_from_slice(v.as_bytes());
            if let SqlType::Char(n) = ty {
                pad(v, *n, out);
            }
        }
        Value::Bytea(v) => write_bytea(v, out),
        Value::Date(v) => write_date(*v, out),
        Value::Time(v) => write_time(*v, out),
        Value::Timestamp(v) => write_timestamp(*v, out),
        Value::TimestampTz(v) => write_timestamptz(*v, out),
        Value::Array(items) => {
            let item_type = match ty {
                SqlType::Array(item) => item,
                other => other,
            };
            array::write_array(item_type, items, out);
        }
    }
}

/// The text form of a value; NULL gives the empty text.
pub fn to_text(ty: &SqlType, value: &Value) -> String {
    let mut out = Vec::new();
    write(ty, value, &mut out);
    utf8(out)
}

/// Every writer of this module emits UTF-8 only; should one ever not, the text is repaired instead of lost.
pub(crate) fn utf8(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// Appends the blanks that `char(n)` shows and does not carry.
pub fn pad(text: &str, n: u32, out: &mut Vec<u8>) {
    let missing = (n as usize).saturating_sub(text.chars().count());
    out.resize(out.len() + missing, b' ');
}

/// `boolean`: any unambiguous prefix of true, false, yes, no, on, off, or 1 and 0.
///
/// # Errors
/// 22P02.
pub fn parse_bool(text: &str) -> Result<bool> {
    let word = text.trim_ascii();
    let is_prefix = |of: &str, least: usize| {
        word.len() >= least
            && word.len() <= of.len()
            && word.as_bytes().eq_ignore_ascii_case(&of.as_bytes()[..word.len()])
    };
    if is_prefix("true", 1) || is_prefix("yes", 1) || is_prefix("on", 2) || word == "1" {
        Ok(true)
    } else if is_prefix("false", 1) || is_prefix("no", 1) || is_prefix("off", 2) || word == "0" {
        Ok(false)
    } else {
        Err(invalid_text("boolean", text))
    }
}

/// Text may hold any character but NUL.
///
/// # Errors
/// 22021.
pub fn check_text(text: &str) -> Result<&str> {
    if text.as_bytes().contains(&0) {
        return Err(Error::new(ErrorKind::InvalidEncoding, "invalid byte sequence for encoding \"UTF8\": 0x00"));
    }
    Ok(text)
}

/// What of the text a `varchar(n)` column takes: excess blanks are cut, other excess is an error.
///
/// # Errors
/// 22001.
pub fn fit_varchar<'a>(text: &'a str, n: u32, type_name: &str) -> Result<&'a str> {
    let n = n as usize;
    if text.len() <= n {
        return Ok(text);
    }
    match text.char_indices().nth(n) {
        None => Ok(text),
        Some((end, _)) if text[end..].bytes().all(|b| b == b' ') => Ok(&text[..end]),
        Some(_) => Err(Error::new(ErrorKind::StringTooLong, format!("value too long for type {type_name}({n})"))),
    }
}

/// What of the text a `char(n)` column carries: no trailing blanks, at most n characters.
///
/// # Errors
/// 22001.
pub fn fit_char(text: &str, n: u32) -> Result<&str> {
    fit_varchar(text.trim_end_matches(' '), n, "character")
}

/// `bytea` in hex (`\x…`) or escape form.
///
/// # Errors
/// 22P02.
pub fn parse_bytea(text: &str) -> Result<Vec<u8>> {
    let bytes = text.as_bytes();
    if let Some(hex) = bytes.strip_prefix(b"\\x") {
        let mut out = Vec::with_capacity(hex.len() / 2);
        let mut high = None;
        for &b in hex {
            if b.is_ascii_whitespace() && high.is_none() {
                continue;
            }
            let digit = (b as char).to_digit(16).ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidParameterValue,
                    format!("invalid hexadecimal digit: \"{}\"", b.escape_ascii()),
                )
            })?;
            // A hex digit is below 16: two of them fit a byte.
            high = match high {
                None => Some(digit as u8),
                Some(h) => {
                    out.push(h << 4 | digit as u8);
                    None
                }
            };
        }
        return match high {
            None => Ok(out),
            Some(_) => {
                Err(Error::new(ErrorKind::InvalidParameterValue, "invalid hexadecimal data: odd number of digits"))
            }
        };
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        if b != b'\\' {
            out.push(b);
            continue;
        }
        match *tail {
            [b'\\', ..] => {
                out.push(b'\\');
                rest = &tail[1..];
            }
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = &tail[3..];
            }
            _ => return Err(Error::new(ErrorKind::InvalidText, "invalid input syntax for type bytea")),
        }
    }
    Ok(out)
}

/// `bytea` in hex form.
pub fn write_bytea(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 + 2 * bytes.len());
    out.extend_from_slice(b"\\x");
    for b in bytes {
        out.extend_from_slice(&[HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
    }
}

/// `uuid` in any form that PostgreSQL reads; gives the canonical one.
///
/// # Errors
/// 22P02.
pub fn parse_uuid(text: &str) -> Result<String> {
    let bytes = uuid_bytes(text).ok_or_else(|| invalid_text("uuid", text))?;
    Ok(uuid_text(bytes))
}

/// The sixteen bytes of a uuid's text.
pub fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let body = match text.strip_prefix('{') {
        Some(inner) => inner.strip_suffix('}')?,
        None => text,
    };
    let mut out = [0u8; 16];
    let mut digits = 0;
    let mut after_hyphen = true;
    for b in body.bytes() {
        if b == b'-' {
            // A hyphen may follow each group of four digits, once.
            if after_hyphen || digits % 4 != 0 || digits == 32 {
                return None;
            }
            after_hyphen = true;
            continue;
        }
        let digit = (b as char).to_digit(16)? as u8;
        let byte = out.get_mut(digits / 2)?;
        *byte = *byte << 4 | digit;
        digits += 1;
        after_hyphen = false;
    }
    (digits == 32 && !after_hyphen).then_some(out)
}

/// The canonical text of a uuid.
pub fn uuid_text(bytes: [u8; 16]) -> String {
    uuid::Uuid::from_bytes(bytes).hyphenated().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans() {
        for (text, want) in
            [("t", true), (" TRUE ", true), ("yes", true), ("on", true), ("1", true), ("of", false), ("n", false)]
        {
            assert_eq!(parse_bool(text).ok(), Some(want), "{text}");
        }
        for text in ["", "o", "truee", "2", "tr ue"] {
            assert_eq!(parse_bool(text).map_err(|e| e.kind()), Err(ErrorKind::InvalidText), "{text}");
        }
    }

    #[test]
    fn bytea_both_forms() {
        assert_eq!(parse_bytea("\\x00fF 1a").ok(), Some(vec![0, 255, 26]));
        assert_eq!(parse_bytea("a\\\\b\\001").ok(), Some(vec![b'a', b'\\', b'b', 1]));
        for bad in ["\\x0", "\\xzz", "\\8", "\\", "\\40"] {
            assert!(parse_bytea(bad).is_err(), "{bad}");
        }
        assert_eq!(to_text(&SqlType::Bytea, &Value::Bytea(vec![0, 0xab])), "\\x00ab");
    }

    #[test]
    fn uuids() {
        let canonical = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for text in [
            canonical,
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc99-9c0b4ef8-bb6d6bb9-bd380a11}",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11",
        ] {
            assert_eq!(parse_uuid(text).ok().as_deref(), Some(canonical));
        }
        for bad in [
            "",
            "a0",
            "-a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc99--9c0b4ef8bb6d6bb9bd380a11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
        ] {
            assert!(parse_uuid(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_count_characters() {
        assert_eq!(fit_varchar("äöü", 3, "character varying").ok(), Some("äöü"));
        assert_eq!(fit_varchar("äöü  ", 3, "character varying").ok(), Some("äöü"));
        let err = fit_varchar("äöüx", 3, "character varying").map_err(|e| e.message().to_string());
        assert_eq!(err, Err("value too long for type character varying(3)".to_string()));
        assert_eq!(to_text(&SqlType::Char(4), &Value::Text("ä".into())), "ä   ");
    }
}
