//! `numeric` in PostgreSQL's binary form: groups of four decimal digits around the decimal point (`numeric_send` of the server).
//!
//! Invariant: what is read is exactly what was sent; a number that the column's form in Atoll cannot hold is refused, never rounded.

use atoll_model::{Error, ErrorKind, Result};
use bytes::{BufMut, BytesMut};

const NEGATIVE: u16 = 0x4000;
const POSITIVE: u16 = 0;
/// Decimal digits in a group.
const GROUP: i32 = 4;
const BASE: i128 = 10_000;

/// Writes `unscaled / 10^scale`.
pub(super) fn encode(unscaled: i128, scale: i8, out: &mut BytesMut) {
    let mut scale = i32::from(scale);
    let mut magnitude = unscaled.unsigned_abs();
    // Zeros behind the point say nothing.
    while scale > 0 && magnitude.is_multiple_of(10) {
        magnitude /= 10;
        scale -= 1;
    }
    let digits_behind = scale;
    // Groups are aligned to the point: the last one behind it is filled with zeros, kept apart lest the number overflow.
    let padding = (GROUP - scale.rem_euclid(GROUP)) % GROUP;
    let lowest = 10u128.pow((GROUP - padding) as u32);
    let mut groups = vec![];
    if padding > 0 {
        groups.push((magnitude % lowest) as u16 * 10u16.pow(padding as u32));
        magnitude /= lowest;
    }
    while magnitude > 0 {
        groups.push((magnitude % BASE as u128) as u16);
        magnitude /= BASE as u128;
    }
    let groups_behind = (scale + padding) / GROUP;
    let weight = if groups.is_empty() { 0 } else { groups.len() as i32 - groups_behind - 1 };
    // An i128 has 39 digits, so there are few groups, and their weights are small.
    out.put_u16(groups.len() as u16);
    out.put_i16(weight as i16);
    out.put_u16(if unscaled < 0 { NEGATIVE } else { POSITIVE });
    out.put_u16(digits_behind.max(0) as u16);
    for group in groups.iter().rev() {
        out.put_u16(*group);
    }
}

/// Reads a number as a multiple of `10^-scale`.
///
/// # Errors
/// `NumericOutOfRange` when it is none, or too large, or no number at all.
pub(super) fn decode(bytes: &[u8], scale: i8) -> Result<i128> {
    let word = |at: usize| -> Result<u16> {
        let pair = bytes.get(at * 2..at * 2 + 2).ok_or_else(malformed)?;
        Ok(u16::from_be_bytes([pair[0], pair[1]]))
    };
    let (count, weight, sign) = (usize::from(word(0)?), i32::from(word(1)? as i16), word(2)?);
    if sign != POSITIVE && sign != NEGATIVE {
        return Err(out_of_range("NaN and infinity are not stored"));
    }
    let mut value: i128 = 0;
    for at in 0..count {
        let group = i128::from(word(4 + at)?);
        // The group counts multiples of 10000^(weight - at): how many digits to the left of the last kept one?
        let shift = (weight - at as i32) * GROUP + i32::from(scale);
        let scaled = if shift >= 0 {
            10i128.checked_pow(shift as u32).and_then(|p| group.checked_mul(p))
        } else {
            let unit = 10i128.checked_pow(shift.unsigned_abs()).unwrap_or(i128::MAX);
            if group % unit != 0 {
                return Err(out_of_range(&format!("it has more than {scale} digits after the decimal point")));
            }
            Some(group / unit)
        };
        value = scaled.and_then(|s| value.checked_add(s)).ok_or_else(|| out_of_range("it is too large"))?;
    }
    Ok(if sign == NEGATIVE { -value } else { value })
}

fn malformed() -> Error {
    Error::new(ErrorKind::InvalidBinary, "a malformed numeric from a site")
}

fn out_of_range(why: &str) -> Error {
    Error::new(ErrorKind::NumericOutOfRange, format!("a numeric of a site cannot be held: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(unscaled: i128, scale: i8) -> Result<i128> {
        let mut out = BytesMut::new();
        encode(unscaled, scale, &mut out);
        decode(&out, scale)
    }

    #[test]
    fn numbers_come_back() {
        let largest = 10i128.pow(38) - 1;
        for scale in [0, 1, 2, 3, 4, 5, 7, 8, 10, 37, 38] {
            for n in [0, 1, 9, 10, 99, 100, 1234, 10_000, 10_001, 99_999_999, 123_456_789_012_345, largest] {
                assert_eq!(through(n, scale).ok(), Some(n), "{n} at {scale}");
                assert_eq!(through(-n, scale).ok(), Some(-n), "-{n} at {scale}");
            }
        }
    }

    #[test]
    fn the_form_is_the_servers() {
        // What `numeric_send` gives for 1234.5 and 0.0001.
        let mut out = BytesMut::new();
        encode(12345, 1, &mut out);
        assert_eq!(&out[..], [0, 2, 0, 0, 0, 0, 0, 1, 0x04, 0xd2, 0x13, 0x88]);
        out.clear();
        encode(1_000_000, 10, &mut out);
        assert_eq!(&out[..], [0, 1, 0xff, 0xff, 0, 0, 0, 4, 0, 1]);
    }

    #[test]
    fn what_cannot_be_held_is_refused() {
        let mut out = BytesMut::new();
        encode(12345, 3, &mut out);
        assert!(decode(&out, 2).is_err(), "12.345 with two digits");
        assert_eq!(decode(&out, 5).ok(), Some(1_234_500));
        assert!(decode(&[0, 0, 0, 0, 0xc0, 0, 0, 0], 2).is_err(), "NaN");
        assert!(decode(&[0, 1, 0, 100, 0, 0, 0, 0, 0, 1], 2).is_err(), "too large");
        assert!(decode(&[0, 1, 0], 2).is_err(), "cut off");
    }
}
