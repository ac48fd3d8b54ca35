//! Result values in PostgreSQL's text and binary forms.
//!
//! Invariant: the text form is that of [`atoll_model::text`]; the binary form is that of PostgreSQL's `*_send` functions
//! (`src/backend/utils/adt`), whose epoch is 2000-01-01 and whose integers are big-endian.

use crate::cells::{Cell, List, item_type};
use atoll_model::text::{self, Interval};
use atoll_model::{Error, ErrorKind, Result, SqlType};

/// Days from 1970-01-01 to PostgreSQL's epoch, 2000-01-01.
pub(crate) const PG_EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
pub(crate) const PG_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The form in which a value travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    Text,
    Binary,
}

/// Writes the text form of a value; NULL writes nothing.
pub(crate) fn write_text(ty: &SqlType, cell: Cell<'_>, out: &mut Vec<u8>) {
    match cell {
        Cell::Null => {}
        Cell::Bool(v) => out.push(if v { b't' } else { b'f' }),
        Cell::Int(v) => text::write_int(v, out),
        Cell::Float4(v) => text::write_f32(v, out),
        Cell::Float8(v) => text::write_f64(v, out),
        Cell::Numeric(v, scale) => {
            let digits = match ty {
                SqlType::Numeric(Some((_, s))) => Some(*s),
                _ => None,
            };
            text::write_numeric(v, scale, digits, out);
        }
        Cell::Text(v) => {
            out.extend_from_slice(v.as_bytes());
            if let SqlType::Char(n) = ty {
                text::pad(v, *n, out);
            }
        }
        Cell::Bytes(v) => text::write_bytea(v, out),
        Cell::Date(v) => text::write_date(v, out),
        Cell::Time(v) => text::write_time(v, out),
        Cell::Timestamp(v) if matches!(ty, SqlType::TimestampTz(_)) => text::write_timestamptz(v, out),
        Cell::Timestamp(v) => text::write_timestamp(v, out),
        Cell::Interval(v) => text::write_interval(v, out),
        Cell::List(items) => write_text_list(item_type(ty), items, out),
    }
}

fn write_text_list(item: &SqlType, items: List<'_>, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut scratch = Vec::new();
    for (i, cell) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        match cell {
            Cell::Null => out.extend_from_slice(b"NULL"),
            Cell::List(inner) => write_text_list(item_type(item), inner, out),
            cell => {
                scratch.clear();
                write_text(item, cell, &mut scratch);
                text::write_quoted_element(&scratch, out);
            }
        }
    }
    out.push(b'}');
}

fn mismatch(ty: &SqlType, cell: Cell<'_>) -> Error {
    Error::internal(format!("a result column of type {ty} holds {cell:?}"))
}

/// Writes the binary form of a value; NULL writes nothing.
///
/// # Errors
/// 22003 where the value does not fit the announced type; `Internal` where it is of another kind.
pub(crate) fn write_binary(ty: &SqlType, cell: Cell<'_>, out: &mut Vec<u8>) -> Result<()> {
    let out_of_range = || Error::new(ErrorKind::NumericOutOfRange, format!("{ty} out of range"));
    match (ty, cell) {
        (_, Cell::Null) => {}
        (SqlType::Bool, Cell::Bool(v)) => out.push(u8::from(v)),
        (SqlType::Int2, Cell::Int(v)) => {
            out.extend_from_slice(&i16::try_from(v).map_err(|_| out_of_range())?.to_be_bytes());
        }
        (SqlType::Int4, Cell::Int(v)) => {
            out.extend_from_slice(&i32::try_from(v).map_err(|_| out_of_range())?.to_be_bytes());
        }
        (SqlType::Int8, Cell::Int(v)) => out.extend_from_slice(&v.to_be_bytes()),
        (SqlType::Float4, Cell::Float4(v)) => out.extend_from_slice(&v.to_be_bytes()),
        (SqlType::Float8, Cell::Float8(v)) => out.extend_from_slice(&v.to_be_bytes()),
        (SqlType::Float8, Cell::Float4(v)) => out.extend_from_slice(&f64::from(v).to_be_bytes()),
        (SqlType::Numeric(limits), Cell::Numeric(v, scale)) => {
            let (v, scale) = match limits {
                Some((_, s)) if *s != scale => (text::rescale(v, scale, *s).ok_or_else(out_of_range)?, *s),
                Some(_) => (v, scale),
                None => trimmed(v, scale),
            };
            write_numeric(v, scale, out);
        }
        (SqlType::Numeric(_), Cell::Int(v)) => write_numeric(i128::from(v), 0, out),
        (SqlType::Bytea, Cell::Bytes(v)) => out.extend_from_slice(v),
        (SqlType::Date, Cell::Date(v)) => out.extend_from_slice(&v.saturating_sub(PG_EPOCH_DAYS).to_be_bytes()),
        (SqlType::Time(_), Cell::Time(v)) => out.extend_from_slice(&v.to_be_bytes()),
        (SqlType::Timestamp(_) | SqlType::TimestampTz(_), Cell::Timestamp(v)) => {
            out.extend_from_slice(&v.saturating_sub(PG_EPOCH_MICROS).to_be_bytes());
        }
        (SqlType::Interval, Cell::Interval(v)) => write_interval(v, out),
        (SqlType::Interval, Cell::Text(v)) => write_interval(text::parse_interval(v)?, out),
        (SqlType::Uuid, Cell::Text(v)) => {
            out.extend_from_slice(&text::uuid_bytes(v).ok_or_else(|| mismatch(ty, cell))?);
        }
        (SqlType::Jsonb, Cell::Text(v)) => {
            out.push(1);
            out.extend_from_slice(v.as_bytes());
        }
        (SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Json, cell) => write_text(ty, cell, out),
        (SqlType::Array(_), Cell::List(items)) => write_binary_array(ty, items, out)?,
        _ => return Err(mismatch(ty, cell)),
    }
    Ok(())
}

fn write_interval(interval: Interval, out: &mut Vec<u8>) {
    out.extend_from_slice(&interval.micros.to_be_bytes());
    out.extend_from_slice(&interval.days.to_be_bytes());
    out.extend_from_slice(&interval.months.to_be_bytes());
}

/// Without trailing zeros after the point.
fn trimmed(mut v: i128, mut scale: i8) -> (i128, i8) {
    while scale > 0 && v % 10 == 0 {
        (v, scale) = (v / 10, scale - 1);
    }
    (v, scale)
}

/// Base-10000 digits, most significant first, aligned at the decimal point.
fn write_numeric(v: i128, scale: i8, out: &mut Vec<u8>) {
    let shown = i16::from(scale.max(0));
    let mut groups = [0i16; 24];
    let mut count = 0;
    let mut magnitude = v.unsigned_abs();
    // Digits after the point fill whole groups of four; a negative scale stands for zeros before the point.
    let (mut pad, mut weight) = if scale >= 0 {
        ((4 - shown % 4) % 4, -((shown + 3) / 4) - 1)
    } else {
        (i16::from(scale.unsigned_abs()) % 4, i16::from(scale.unsigned_abs()) / 4 - 1)
    };
    // The first (least significant) group takes 4 - pad digits, shifted up by pad.
    while magnitude > 0 && count < groups.len() {
        let factor = 10u128.pow(pad.unsigned_abs().into());
        let take = 10_000 / factor;
        groups[count] = ((magnitude % take) * factor) as i16;
        magnitude /= take;
        pad = 0;
        count += 1;
        weight += 1;
    }
    let trailing = groups[..count].iter().take_while(|g| **g == 0).count();
    let digits = &groups[trailing..count];
    let weight = if digits.is_empty() { 0 } else { weight };
    out.extend_from_slice(&(digits.len() as i16).to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&(if v < 0 { 0x4000u16 } else { 0 }).to_be_bytes());
    out.extend_from_slice(&shown.to_be_bytes());
    for group in digits.iter().rev() {
        out.extend_from_slice(&group.to_be_bytes());
    }
}

fn write_binary_array(ty: &SqlType, items: List<'_>, out: &mut Vec<u8>) -> Result<()> {
    let mut dimensions = Vec::new();
    let mut leaf = item_type(ty);
    let mut level = items;
    if items.len() > 0 {
        loop {
            dimensions.push(level.len());
            match (leaf, level.iter().next()) {
                (SqlType::Array(inner), Some(Cell::List(next))) => (leaf, level) = (inner, next),
                (SqlType::Array(_), _) => {
                    return Err(Error::unsupported("arrays of arrays with NULL or empty elements in binary form"));
                }
                _ => break,
            }
        }
    } else {
        while let SqlType::Array(inner) = leaf {
            leaf = inner;
        }
    }
    put_i32(dimensions.len(), out);
    let nulls_at = out.len();
    out.extend_from_slice(&0i32.to_be_bytes());
    out.extend_from_slice(&leaf.pg_oid().to_be_bytes());
    for len in &dimensions {
        put_i32(*len, out);
        out.extend_from_slice(&1i32.to_be_bytes());
    }
    let mut nulls = false;
    if !dimensions.is_empty() {
        write_elements(leaf, items, &dimensions, &mut nulls, out)?;
    }
    out[nulls_at + 3] = u8::from(nulls);
    Ok(())
}

fn write_elements(leaf: &SqlType, items: List<'_>, shape: &[usize], nulls: &mut bool, out: &mut Vec<u8>) -> Result<()> {
    if shape.first() != Some(&items.len()) {
        return Err(Error::unsupported("arrays of arrays of different lengths in binary form"));
    }
    for cell in items.iter() {
        match cell {
            Cell::List(inner) => write_elements(leaf, inner, &shape[1..], nulls, out)?,
            _ if shape.len() > 1 => {
                return Err(Error::unsupported("arrays of arrays with NULL elements in binary form"));
            }
            Cell::Null => {
                *nulls = true;
                out.extend_from_slice(&(-1i32).to_be_bytes());
            }
            cell => sized(out, |out| write_binary(leaf, cell, out))?,
        }
    }
    Ok(())
}

/// Writes a field that is `oid` or `oid[]`: numbers of four bytes.
///
/// # Errors
/// 22003 for what is no object id.
pub(crate) fn write_oids(cell: Cell<'_>, out: &mut Vec<u8>) -> Result<()> {
    let items = match cell {
        Cell::List(items) => items,
        scalar => return write_oid(scalar, out),
    };
    sized(out, |out| {
        put_i32(usize::from(items.len() > 0), out);
        out.extend_from_slice(&i32::from(items.iter().any(|c| matches!(c, Cell::Null))).to_be_bytes());
        out.extend_from_slice(&26u32.to_be_bytes());
        if items.len() > 0 {
            put_i32(items.len(), out);
            out.extend_from_slice(&1i32.to_be_bytes());
        }
        for cell in items.iter() {
            write_oid(cell, out)?;
        }
        Ok(())
    })
}

fn write_oid(cell: Cell<'_>, out: &mut Vec<u8>) -> Result<()> {
    let Cell::Int(v) = cell else {
        out.extend_from_slice(&(-1i32).to_be_bytes());
        return Ok(());
    };
    let oid = u32::try_from(v).map_err(|_| Error::new(ErrorKind::NumericOutOfRange, "OID out of range"))?;
    out.extend_from_slice(&4i32.to_be_bytes());
    out.extend_from_slice(&oid.to_be_bytes());
    Ok(())
}

/// A length in a message. What does not fit has been refused by the limit on messages before.
fn put_i32(n: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&i32::try_from(n).unwrap_or(i32::MAX).to_be_bytes());
}

/// Writes a value behind its length.
fn sized(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out)?;
    let len = i32::try_from(out.len() - at - 4)
        .map_err(|_| Error::new(ErrorKind::ProgramLimit, "a value is too large for a message"))?;
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    Ok(())
}

/// Writes a field of a DataRow: its length and the value; -1 for NULL.
///
/// # Errors
/// As [`write_binary`].
#[inline]
pub(crate) fn write_field(ty: &SqlType, cell: Cell<'_>, format: Format, out: &mut Vec<u8>) -> Result<()> {
    if let Cell::Null = cell {
        out.extend_from_slice(&(-1i32).to_be_bytes());
        return Ok(());
    }
    sized(out, |out| match format {
        Format::Text => {
            write_text(ty, cell, out);
            Ok(())
        }
        Format::Binary => write_binary(ty, cell, out),
    })
}
