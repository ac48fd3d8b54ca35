//! Integers, floats and numeric in text.
//!
//! Invariant: floats are written with the fewest digits that read back as the same number, laid out as PostgreSQL's `%g`
//! does (Adams, *Ryū*, PLDI 2018, is what PostgreSQL uses; the standard library's shortest form has the same digits).

use super::{excerpt, invalid_text};
use crate::types::UNCONSTRAINED_SCALE;
use crate::{Error, ErrorKind, Result};
use std::fmt::Write as _;

/// Digits that an `i128` holds in any case: Arrow's limit too.
const MAX_DIGITS: u32 = 38;

macro_rules! parse_int {
    ($(#[$doc:meta])* $name:ident, $ty:ty, $sql:literal) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// 22P02 for what is no integer, 22003 for one that does not fit.
        #[inline]
        pub fn $name(text: &str) -> Result<$ty> {
            let digits = text.trim_ascii();
            let (negative, digits) = match digits.as_bytes() {
                [b'-', rest @ ..] => (true, rest),
                [b'+', rest @ ..] => (false, rest),
                all => (false, all),
            };
            if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                return Err(invalid_text($sql, text));
            }
            // Built downwards, because the least number has no positive counterpart.
            let mut value: $ty = 0;
            for d in digits {
                value = value
                    .checked_mul(10)
                    .and_then(|v| v.checked_sub(<$ty>::from(d - b'0')))
                    .ok_or_else(|| out_of_range(text, $sql))?;
            }
            if negative { Ok(value) } else { value.checked_neg().ok_or_else(|| out_of_range(text, $sql)) }
        }
    };
}

fn out_of_range(text: &str, type_name: &str) -> Error {
    Error::new(
        ErrorKind::NumericOutOfRange,
        format!("value \"{}\" is out of range for type {type_name}", excerpt(text)),
    )
}

parse_int!(
    /// `smallint`.
    parse_i16,
    i16,
    "smallint"
);
parse_int!(
    /// `integer`.
    parse_i32,
    i32,
    "integer"
);
parse_int!(
    /// `bigint`.
    parse_i64,
    i64,
    "bigint"
);

/// Writes an integer.
#[inline]
pub fn write_int<I: itoa::Integer>(value: I, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// `double precision`.
///
/// # Errors
/// 22P02 for what is no number, 22003 for one that overflows or underflows.
pub fn parse_f64(text: &str) -> Result<f64> {
    let body = text.trim_ascii();
    let value: f64 = body.parse().map_err(|_| invalid_text("double precision", text))?;
    check_float(body, value.is_infinite(), value == 0.0, text, "double precision")?;
    Ok(value)
}

/// `real`.
///
/// # Errors
/// As [`parse_f64`].
pub fn parse_f32(text: &str) -> Result<f32> {
    let body = text.trim_ascii();
    let value: f32 = body.parse().map_err(|_| invalid_text("real", text))?;
    check_float(body, value.is_infinite(), value == 0.0, text, "real")?;
    Ok(value)
}

fn check_float(body: &str, infinite: bool, zero: bool, text: &str, type_name: &str) -> Result<()> {
    let overflow = infinite && body.bytes().any(|b| b.is_ascii_digit());
    let underflow = zero && body.bytes().take_while(|b| !matches!(b, b'e' | b'E')).any(|b| matches!(b, b'1'..=b'9'));
    if overflow || underflow {
        return Err(Error::new(
            ErrorKind::NumericOutOfRange,
            format!("\"{}\" is out of range for type {type_name}", excerpt(text)),
        ));
    }
    Ok(())
}

/// Writes a `double precision` with its shortest exact digits.
pub fn write_f64(value: f64, out: &mut Vec<u8>) {
    if value.is_nan() || value.is_infinite() {
        return write_special(value.is_nan(), value < 0.0, out);
    }
    let mut buffer = Shortest::default();
    // Writing to `Shortest` cannot fail: it is longer than any finite float's shortest form.
    let _ = write!(buffer, "{value:e}");
    lay_out(buffer.as_bytes(), 15, out);
}

/// Writes a `real` with its shortest exact digits.
///
/// PostgreSQL takes no digits that lie exactly halfway to a neighbouring `real`, and of two equally near candidates the even
/// one; the standard library's shortest form does neither. (For `double precision` both give the same.)
pub fn write_f32(value: f32, out: &mut Vec<u8>) {
    if value.is_nan() || value.is_infinite() {
        return write_special(value.is_nan(), value < 0.0, out);
    }
    let mut buffer = Shortest::default();
    // As in `write_f64`.
    let _ = write!(buffer, "{value:e}");
    let shortest = buffer.as_bytes().iter().take_while(|b| **b != b'e').filter(|b| b.is_ascii_digit()).count();
    let exact = f64::from(value);
    let halfway = |neighbour: f32| (exact + f64::from(neighbour)) / 2.0;
    let (low, high) = (halfway(value.next_down()), halfway(value.next_up()));
    let taken = |candidate: &Shortest| {
        let read = std::str::from_utf8(candidate.as_bytes()).ok().and_then(|t| t.parse::<f64>().ok());
        read.is_some_and(|r| r == exact || (low < r && r < high))
    };
    // Nine digits tell any two apart.
    for digits in shortest..=9 {
        let mut candidate = Shortest::default();
        let _ = write!(candidate, "{value:.*e}", digits - 1);
        if taken(&candidate) {
            buffer = candidate;
            break;
        }
        // Below a power of two neighbours are nearer than above: the nearest candidate may be out and another one in.
        if digits == shortest && taken(&buffer) {
            break;
        }
    }
    lay_out(buffer.as_bytes(), 6, out);
}

fn write_special(nan: bool, negative: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if nan {
        b"NaN"
    } else if negative {
        b"-Infinity"
    } else {
        b"Infinity"
    });
}

/// Holds `-d.dddddddddddddddde-xxx`, 24 bytes at most.
#[derive(Default)]
struct Shortest {
    bytes: [u8; 32],
    len: usize,
}

impl Shortest {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl std::fmt::Write for Shortest {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let end = self.len + s.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Lays `d.ddde±x` out as `%g`: plain while -4 <= exponent < `limit`, else with an exponent of at least two digits.
fn lay_out(scientific: &[u8], limit: i32, out: &mut Vec<u8>) {
    let (mantissa, exponent) = match scientific.iter().position(|&b| b == b'e') {
        Some(at) => (&scientific[..at], &scientific[at + 1..]),
        None => (scientific, &b"0"[..]),
    };
    let (negative_exponent, magnitude) = match exponent {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let magnitude = magnitude.iter().fold(0i32, |n, d| n * 10 + i32::from(d - b'0'));
    let exponent = if negative_exponent { -magnitude } else { magnitude };
    let mantissa = match mantissa {
        [b'-', rest @ ..] => {
            out.push(b'-');
            rest
        }
        all => all,
    };
    let digits = mantissa.iter().copied().filter(|b| *b != b'.');
    let count = mantissa.iter().filter(|b| **b != b'.').count() as i32;
    if exponent < -4 || exponent >= limit {
        out.extend_from_slice(mantissa);
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        if exponent.abs() < 10 {
            out.push(b'0');
        }
        write_int(exponent.abs(), out);
    } else if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + (-exponent - 1) as usize, b'0');
        out.extend(digits);
    } else {
        for (i, d) in digits.enumerate() {
            if i as i32 == exponent + 1 {
                out.push(b'.');
            }
            out.push(d);
        }
        out.resize(out.len() + (exponent + 1 - count).max(0) as usize, b'0');
    }
}

/// `numeric`: the unscaled number and its scale (the declared one, or [`UNCONSTRAINED_SCALE`]), rounded half away from zero.
///
/// # Errors
/// 22P02; 22003 when it does not fit the precision (38 digits in any case); 0A000 for NaN and infinities.
pub fn parse_numeric(text: &str, limits: Option<(u8, i8)>) -> Result<(i128, i8)> {
    let scale = limits.map_or(UNCONSTRAINED_SCALE, |(_, s)| s);
    let body = text.trim_ascii().as_bytes();
    let (negative, mut rest) = match body {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    let bad = || match text.trim_ascii().trim_start_matches(['+', '-']).to_ascii_lowercase().as_str() {
        "nan" | "inf" | "infinity" => {
            Error::unsupported(format!("numeric cannot hold {}", text.trim_ascii())).hint("Use double precision.")
        }
        _ => invalid_text("numeric", text),
    };
    let mut mantissa: u128 = 0;
    // Significant digits taken; digits after the point taken; power of ten of digits before the point dropped.
    let (mut taken, mut fraction, mut dropped) = (0u32, 0i64, 0i64);
    let (mut any, mut point) = (false, false);
    // The first digit that did not fit, for rounding when nothing else is cut off.
    let mut next = None;
    while let Some((&b, tail)) = rest.split_first() {
        match b {
            b'0'..=b'9' => {
                any = true;
                if taken < MAX_DIGITS {
                    mantissa = mantissa * 10 + u128::from(b - b'0');
                    taken += u32::from(mantissa != 0);
                    fraction += i64::from(point);
                } else {
                    next = next.or(Some(b));
                    dropped += i64::from(!point);
                }
            }
            b'.' if !point => point = true,
            _ => break,
        }
        rest = tail;
    }
    if !any {
        return Err(bad());
    }
    let mut exponent: i64 = 0;
    if let [b'e' | b'E', tail @ ..] = rest {
        let (minus, digits) = match tail {
            [b'-', d @ ..] => (true, d),
            [b'+', d @ ..] => (false, d),
            d => (false, d),
        };
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(bad());
        }
        // Beyond a million no digit could be left: saturating keeps the arithmetic small.
        exponent = digits.iter().fold(0i64, |n, d| (n * 10 + i64::from(d - b'0')).min(1_000_000));
        if minus {
            exponent = -exponent;
        }
        rest = &[];
    }
    if !rest.is_empty() {
        return Err(bad());
    }
    let overflow = || overflow(limits);
    let shift = i64::from(scale) - (fraction - exponent - dropped);
    let magnitude = if mantissa == 0 {
        0
    } else if shift > 0 {
        let factor = u32::try_from(shift).ok().and_then(|s| 10u128.checked_pow(s)).ok_or_else(overflow)?;
        mantissa.checked_mul(factor).ok_or_else(overflow)?
    } else if shift == 0 {
        mantissa + u128::from(next.is_some_and(|d| d >= b'5'))
    } else {
        match u32::try_from(-shift).ok().and_then(|s| 10u128.checked_pow(s)) {
            Some(factor) => mantissa / factor + u128::from(mantissa % factor >= factor / 2),
            None => 0,
        }
    };
    let value = i128::try_from(magnitude).map_err(|_| overflow())?;
    if !fits_precision(value, limits.map_or(MAX_DIGITS as u8, |(p, _)| p)) {
        return Err(overflow());
    }
    Ok((if negative { -value } else { value }, scale))
}

fn overflow(limits: Option<(u8, i8)>) -> Error {
    let error = Error::new(ErrorKind::NumericOutOfRange, "numeric field overflow");
    match limits {
        Some((p, s)) => {
            let whole = i32::from(p) - i32::from(s);
            let least = if whole == 0 { "1".to_string() } else { format!("10^{whole}") };
            error.detail(format!(
                "A field with precision {p}, scale {s} must round to an absolute value less than {least}."
            ))
        }
        None => error.detail(format!(
            "Numeric without precision holds {} digits, {UNCONSTRAINED_SCALE} of them after the point.",
            MAX_DIGITS
        )),
    }
}

/// Whether a number has at most that many digits.
pub fn fits_precision(unscaled: i128, precision: u8) -> bool {
    match 10u128.checked_pow(u32::from(precision)) {
        Some(limit) => unscaled.unsigned_abs() < limit,
        None => true,
    }
}

/// The same number with another scale, rounded half away from zero. `None`: it does not fit.
pub fn rescale(unscaled: i128, from: i8, to: i8) -> Option<i128> {
    let shift = i32::from(to) - i32::from(from);
    if shift >= 0 {
        return unscaled.checked_mul(10i128.checked_pow(shift.unsigned_abs())?);
    }
    let Some(factor) = 10u128.checked_pow(shift.unsigned_abs()) else { return Some(0) };
    let magnitude = unscaled.unsigned_abs();
    // Divided by at least ten: it fits the positive half again.
    let rounded = (magnitude / factor + u128::from(magnitude % factor >= factor / 2)) as i128;
    Some(if unscaled < 0 { -rounded } else { rounded })
}

/// Writes a numeric: with exactly `digits` after the point, or without trailing zeros when that is `None`.
pub fn write_numeric(unscaled: i128, scale: i8, digits: Option<i8>, out: &mut Vec<u8>) {
    if let Some(digits) = digits
        && digits < scale
        && let Some(rounded) = rescale(unscaled, scale, digits)
    {
        return write_numeric(rounded, digits, Some(digits), out);
    }
    if unscaled < 0 {
        out.push(b'-');
    }
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(unscaled.unsigned_abs()).as_bytes();
    if scale <= 0 {
        out.extend_from_slice(text);
        if unscaled != 0 {
            out.resize(out.len() + usize::from(scale.unsigned_abs()), b'0');
        }
        if let Some(digits @ 1..) = digits {
            out.push(b'.');
            out.resize(out.len() + usize::from(digits.unsigned_abs()), b'0');
        }
        return;
    }
    let scale = usize::from(scale.unsigned_abs());
    let (whole, zeros, fraction) = match text.len().checked_sub(scale) {
        Some(at) if at > 0 => (&text[..at], 0, &text[at..]),
        _ => (&b"0"[..], scale - text.len(), text),
    };
    out.extend_from_slice(whole);
    match digits {
        Some(digits) => {
            let digits = usize::from(digits.unsigned_abs());
            out.push(b'.');
            out.resize(out.len() + zeros, b'0');
            out.extend_from_slice(fraction);
            out.resize(out.len() + digits.saturating_sub(scale), b'0');
        }
        None => {
            let kept = fraction.iter().rposition(|b| *b != b'0').map_or(0, |last| last + 1);
            if kept > 0 {
                out.push(b'.');
                out.resize(out.len() + zeros, b'0');
                out.extend_from_slice(&fraction[..kept]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::utf8;
    use super::*;
    use proptest::prelude::*;

    fn f64_text(v: f64) -> String {
        let mut out = Vec::new();
        write_f64(v, &mut out);
        utf8(out)
    }
    fn f32_text(v: f32) -> String {
        let mut out = Vec::new();
        write_f32(v, &mut out);
        utf8(out)
    }
    fn numeric(text: &str, limits: Option<(u8, i8)>) -> Result<String, ErrorKind> {
        let (v, s) = parse_numeric(text, limits).map_err(|e| e.kind())?;
        let mut out = Vec::new();
        write_numeric(v, s, limits.map(|(_, s)| s), &mut out);
        Ok(utf8(out))
    }

    #[test]
    fn integers() {
        assert_eq!(parse_i16(" -32768 ").ok(), Some(i16::MIN));
        assert_eq!(parse_i32("+2147483647").ok(), Some(i32::MAX));
        assert_eq!(parse_i32("-2147483648").ok(), Some(i32::MIN));
        assert_eq!(parse_i64("-9223372036854775808").ok(), Some(i64::MIN));
        let err = parse_i32("2147483648").map_err(|e| (e.kind(), e.message().to_string()));
        assert_eq!(
            err,
            Err((ErrorKind::NumericOutOfRange, "value \"2147483648\" is out of range for type integer".into()))
        );
        for bad in ["", "-", "1 2", "1.0", "0x10", "１"] {
            assert_eq!(parse_i64(bad).map_err(|e| e.kind()), Err(ErrorKind::InvalidText), "{bad}");
        }
    }

    /// The right-hand sides were printed by PostgreSQL 15.
    #[test]
    fn floats_print_as_postgres_does() {
        for (v, want) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (100.0, "100"),
            (1234.5678, "1234.5678"),
            (1e14, "100000000000000"),
            (1e15, "1e+15"),
            (123456789012345.6, "123456789012345.6"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(f64_text(v), want);
        }
        for (v, want) in [
            (1e5f32, "100000"),
            (1e6, "1e+06"),
            (3.4028235e38, "3.4028235e+38"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (1e-45, "1e-45"),
            // Halfway between two numbers of eight digits: PostgreSQL takes the even one.
            (f32::from_bits(0x482c_4228), "176392.62"),
            (102_056_384.0, "1.02056384e+08"),
        ] {
            assert_eq!(f32_text(v), want);
        }
    }

    #[test]
    fn float_range() {
        assert_eq!(parse_f64(" 1e3 ").ok(), Some(1000.0));
        assert_eq!(parse_f64("-infinity").ok(), Some(f64::NEG_INFINITY));
        for text in ["1e400", "-1e400", "1e-400"] {
            assert_eq!(parse_f64(text).map_err(|e| e.kind()), Err(ErrorKind::NumericOutOfRange), "{text}");
        }
        assert_eq!(parse_f32("1e39").map_err(|e| e.kind()), Err(ErrorKind::NumericOutOfRange));
        assert_eq!(parse_f64("0e-999").ok(), Some(0.0));
        assert_eq!(parse_f64("abc").map_err(|e| e.kind()), Err(ErrorKind::InvalidText));
    }

    #[test]
    fn numerics() {
        for (text, limits, want) in [
            ("12.50", None, "12.5"),
            ("12.50", Some((10, 2)), "12.50"),
            ("-0.005", Some((10, 2)), "-0.01"),
            ("0.004999", Some((10, 2)), "0.00"),
            ("1e3", Some((10, 2)), "1000.00"),
            ("1.5e-3", None, "0.0015"),
            (".5", None, "0.5"),
            ("5.", None, "5"),
            ("0", Some((5, 0)), "0"),
            ("-7", Some((5, 0)), "-7"),
            ("12345", Some((3, -2)), "12300"),
            ("0.00000000005", None, "0.0000000001"),
            ("99999999999999999999999999999999999999", Some((38, 0)), "99999999999999999999999999999999999999"),
            ("0e999999999999", None, "0"),
            ("1e-999999999999", None, "0"),
            ("0.000000000000000000000000000000000000000000000000001", Some((38, 2)), "0.00"),
        ] {
            assert_eq!(numeric(text, limits).as_deref(), Ok(want), "{text}");
        }
        for (text, limits, want) in [
            ("1000", Some((3, 0)), ErrorKind::NumericOutOfRange),
            ("999.995", Some((5, 2)), ErrorKind::NumericOutOfRange),
            ("100000000000000000000000000000000000000", Some((38, 0)), ErrorKind::NumericOutOfRange),
            ("1e40", None, ErrorKind::NumericOutOfRange),
            ("", None, ErrorKind::InvalidText),
            (".", None, ErrorKind::InvalidText),
            ("1e", None, ErrorKind::InvalidText),
            ("1.2.3", None, ErrorKind::InvalidText),
            ("NaN", None, ErrorKind::NotSupported),
        ] {
            assert_eq!(numeric(text, limits), Err(want), "{text}");
        }
    }

    #[test]
    fn rescaling_rounds_half_away_from_zero() {
        assert_eq!(rescale(125, 2, 1), Some(13));
        assert_eq!(rescale(-125, 2, 1), Some(-13));
        assert_eq!(rescale(-124, 2, 1), Some(-12));
        assert_eq!(rescale(5, 0, 3), Some(5000));
        assert_eq!(rescale(i128::MAX, 0, 1), None);
        assert_eq!(rescale(i128::MIN, 38, -38), Some(0));
    }

    proptest! {
        #[test]
        fn floats_read_back(bits: u64, bits32: u32) {
            let v = f64::from_bits(bits);
            prop_assert!(v.is_nan() || parse_f64(&f64_text(v)).ok().map(f64::to_bits) == Some(bits));
            let v = f32::from_bits(bits32);
            prop_assert!(v.is_nan() || parse_f32(&f32_text(v)).ok().map(f32::to_bits) == Some(bits32));
        }

        #[test]
        fn numerics_read_back(v in -(10i128.pow(38) - 1)..10i128.pow(38), s in 0i8..=38) {
            let mut out = Vec::new();
            write_numeric(v, s, Some(s), &mut out);
            prop_assert_eq!(parse_numeric(&utf8(out), Some((38, s))).ok(), Some((v, s)));
            let mut out = Vec::new();
            write_numeric(v, s, None, &mut out);
            prop_assert_eq!(parse_numeric(&utf8(out), Some((38, s))).ok(), Some((v, s)));
        }

        #[test]
        fn no_text_panics(text in ".{0,60}", digits in "[-+]?[0-9]{0,60}[.]?[0-9]{0,60}(e[-+]?[0-9]{1,12})?") {
            for t in [&text, &digits] {
                let _ = (parse_i16(t), parse_i64(t), parse_f32(t), parse_f64(t));
                for limits in [None, Some((38, 38)), Some((38, 0)), Some((1, 1)), Some((3, -4))] {
                    let _ = parse_numeric(t, limits);
                }
            }
        }
    }
}
