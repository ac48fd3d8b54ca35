//! The stored form of a row.
//!
//! ```text
//! [version: 4 bits, width of an end: 4 bits][slots: u16][present: 1 bit per slot][end of each slot: u8, u16 or u32][data]
//! ```
//!
//! A slot is a [`ColumnId`](atoll_model::ColumnId): unique in its table for ever, so a row needs no rewriting when columns come and go. A slot beyond the
//! stored ones is a column that was added later and reads as its `missing` value; the slot of a dropped column is skipped. Ends let
//! a projection go straight to its columns. All numbers are little endian.
//!
//! Invariant: decoding arbitrary bytes gives a value or `DataCorrupted`, never a panic (property-tested and fuzzed).

use super::key::at_scale;
use atoll_model::{Error, ErrorKind, Result, SqlType, UNCONSTRAINED_SCALE, Value};

const VERSION: u8 = 1;
const HEADER: usize = 3;

/// Makes stored forms of rows, reusing its buffers.
#[derive(Default)]
pub struct RowEncoder {
    data: Vec<u8>,
    ends: Vec<u32>,
    present: Vec<u8>,
}

impl RowEncoder {
    /// Appends the stored form of a row. `slots` gives each value's slot and type.
    ///
    /// # Errors
    /// `DatatypeMismatch` when a value is not of its column's type; `ProgramLimit` for rows of 4 GiB and more.
    pub fn encode(&mut self, slots: &[(u16, SqlType)], row: &[Value], out: &mut Vec<u8>) -> Result<()> {
        if slots.len() != row.len() {
            return Err(Error::internal(format!("a row of {} values for {} columns", row.len(), slots.len())));
        }
        if slots.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return self.encode_unordered(slots, row, out);
        }
        let count = slots.last().map_or(0, |(slot, _)| usize::from(*slot) + 1);
        self.data.clear();
        self.ends.clear();
        self.present.clear();
        self.present.resize(count.div_ceil(8), 0);
        for ((slot, ty), value) in slots.iter().zip(row) {
            let slot = usize::from(*slot);
            // Slots without a column are empty.
            self.ends.resize(slot, end_of(&self.data)?);
            encode_cell(ty, value, &mut self.data)?;
            if !value.is_null() {
                self.present[slot / 8] |= 1 << (slot % 8);
            }
            self.ends.push(end_of(&self.data)?);
        }
        let width: u8 = match self.data.len() {
            0..=0xff => 1,
            0x100..=0xffff => 2,
            _ => 4,
        };
        out.reserve(HEADER + self.present.len() + count * usize::from(width) + self.data.len());
        out.push((VERSION << 4) | width);
        out.extend_from_slice(&(count as u16).to_le_bytes());
        out.extend_from_slice(&self.present);
        for end in &self.ends {
            out.extend_from_slice(&end.to_le_bytes()[..usize::from(width)]);
        }
        out.extend_from_slice(&self.data);
        Ok(())
    }

    /// Columns out of the order of their slots: none of today's commands makes them.
    fn encode_unordered(&mut self, slots: &[(u16, SqlType)], row: &[Value], out: &mut Vec<u8>) -> Result<()> {
        let mut pairs: Vec<_> = slots.iter().cloned().zip(row.iter().cloned()).collect();
        pairs.sort_by_key(|((slot, _), _)| *slot);
        if pairs.windows(2).any(|pair| pair[0].0.0 == pair[1].0.0) {
            return Err(Error::internal("two columns with one id"));
        }
        let (slots, row): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        self.encode(&slots, &row, out)
    }
}

/// Appends the stored form of one row.
///
/// # Errors
/// As [`RowEncoder::encode`].
pub fn encode_row(slots: &[(u16, SqlType)], row: &[Value], out: &mut Vec<u8>) -> Result<()> {
    RowEncoder::default().encode(slots, row, out)
}

fn end_of(data: &[u8]) -> Result<u32> {
    u32::try_from(data.len()).map_err(|_| Error::new(ErrorKind::ProgramLimit, "row is larger than 4 GiB"))
}

fn encode_cell(ty: &SqlType, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    match (ty, value) {
        (_, Value::Null) => {}
        (SqlType::Bool, Value::Bool(v)) => out.push(u8::from(*v)),
        (SqlType::Int2, Value::Int2(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (SqlType::Int4, Value::Int4(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (SqlType::Int8, Value::Int8(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (SqlType::Float4, Value::Float4(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (SqlType::Float8, Value::Float8(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (SqlType::Numeric(limits), Value::Numeric(v, scale)) => {
            let wanted = limits.map_or(UNCONSTRAINED_SCALE, |(_, s)| s);
            let v = at_scale(*v, *scale, wanted).ok_or_else(|| mismatch(ty, value))?;
            // Nearly all numbers fit in half of the width.
            match i64::try_from(v) {
                Ok(v) => out.extend_from_slice(&v.to_le_bytes()),
                Err(_) => out.extend_from_slice(&v.to_le_bytes()),
            }
        }
        (
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb,
            Value::Text(v),
        ) => out.extend_from_slice(v.as_bytes()),
        (SqlType::Bytea, Value::Bytea(v)) => out.extend_from_slice(v),
        (SqlType::Date, Value::Date(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (SqlType::Time(_), Value::Time(v))
        | (SqlType::Timestamp(_), Value::Timestamp(v))
        | (SqlType::TimestampTz(_), Value::TimestampTz(v)) => out.extend_from_slice(&v.to_le_bytes()),
        (SqlType::Array(item), Value::Array(items)) => {
            // Per element its length, or all ones for NULL, and its bytes.
            for value in items {
                let at = out.len();
                out.extend_from_slice(&u32::MAX.to_le_bytes());
                if !value.is_null() {
                    encode_cell(item, value, out)?;
                    let length = end_of(&out[at + 4..])?;
                    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
                }
            }
        }
        _ => return Err(mismatch(ty, value)),
    }
    Ok(())
}

fn mismatch(ty: &SqlType, value: &Value) -> Error {
    Error::new(ErrorKind::DatatypeMismatch, format!("{value:?} cannot be stored in a column of type {ty}"))
}

/// What a slot of a stored row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    /// The column did not exist when the row was written.
    Missing,
    /// NULL.
    Null,
    /// The bytes of a value.
    Bytes(&'a [u8]),
}

/// Reads the cells of a stored row.
#[derive(Clone, Copy, Debug)]
pub struct RowReader<'a> {
    slots: usize,
    width: usize,
    present: &'a [u8],
    ends: &'a [u8],
    data: &'a [u8],
}

impl<'a> RowReader<'a> {
    /// Takes the stored form apart.
    ///
    /// # Errors
    /// `DataCorrupted`.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER).ok_or_else(|| corrupt("header"))?;
        let width = usize::from(header[0] & 0xf);
        if header[0] >> 4 != VERSION || !matches!(width, 1 | 2 | 4) {
            return Err(corrupt("version"));
        }
        let slots = usize::from(u16::from_le_bytes([header[1], header[2]]));
        let (present, rest) = rest.split_at_checked(slots.div_ceil(8)).ok_or_else(|| corrupt("bitmap"))?;
        let (ends, data) = rest.split_at_checked(slots * width).ok_or_else(|| corrupt("ends"))?;
        Ok(RowReader { slots, width, present, ends, data })
    }

    #[inline]
    fn end(&self, slot: usize) -> usize {
        match self.width {
            1 => usize::from(self.ends[slot]),
            2 => usize::from(u16::from_le_bytes([self.ends[slot * 2], self.ends[slot * 2 + 1]])),
            _ => {
                let at = slot * 4;
                u32::from_le_bytes([self.ends[at], self.ends[at + 1], self.ends[at + 2], self.ends[at + 3]]) as usize
            }
        }
    }

    /// What a slot holds.
    ///
    /// # Errors
    /// `DataCorrupted`.
    #[inline]
    pub fn cell(&self, slot: u16) -> Result<Cell<'a>> {
        let slot = usize::from(slot);
        if slot >= self.slots {
            return Ok(Cell::Missing);
        }
        if self.present[slot / 8] & (1 << (slot % 8)) == 0 {
            return Ok(Cell::Null);
        }
        let start = if slot == 0 { 0 } else { self.end(slot - 1) };
        self.data.get(start..self.end(slot)).map(Cell::Bytes).ok_or_else(|| corrupt("ends"))
    }

    /// The value of a column.
    ///
    /// # Errors
    /// `DataCorrupted`.
    pub fn value(&self, slot: u16, ty: &SqlType, missing: &Value) -> Result<Value> {
        match self.cell(slot)? {
            Cell::Missing => Ok(missing.clone()),
            Cell::Null => Ok(Value::Null),
            Cell::Bytes(bytes) => decode_cell(ty, bytes),
        }
    }
}

pub(crate) fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::DataCorrupted, format!("a stored row is damaged ({what})"))
}

#[inline]
pub(crate) fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| corrupt("length of a value"))
}

#[inline]
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| corrupt("text that is not UTF-8"))
}

#[inline]
pub(crate) fn numeric(bytes: &[u8]) -> Result<i128> {
    if bytes.len() == 8 {
        return Ok(i128::from(i64::from_le_bytes(fixed(bytes)?)));
    }
    Ok(i128::from_le_bytes(fixed(bytes)?))
}

/// Splits the next element off an array's bytes: `Some(None)` is NULL; `None`: there are no more.
pub(crate) fn next_element<'a>(bytes: &mut &'a [u8]) -> Result<Option<Option<&'a [u8]>>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (length, rest) = bytes.split_at_checked(4).ok_or_else(|| corrupt("array"))?;
    let length = u32::from_le_bytes(fixed(length)?);
    if length == u32::MAX {
        *bytes = rest;
        return Ok(Some(None));
    }
    let (element, rest) = rest.split_at_checked(length as usize).ok_or_else(|| corrupt("array"))?;
    *bytes = rest;
    Ok(Some(Some(element)))
}

fn decode_cell(ty: &SqlType, bytes: &[u8]) -> Result<Value> {
    Ok(match ty {
        SqlType::Bool => Value::Bool(fixed::<1>(bytes)?[0] != 0),
        SqlType::Int2 => Value::Int2(i16::from_le_bytes(fixed(bytes)?)),
        SqlType::Int4 => Value::Int4(i32::from_le_bytes(fixed(bytes)?)),
        SqlType::Int8 => Value::Int8(i64::from_le_bytes(fixed(bytes)?)),
        SqlType::Float4 => Value::Float4(f32::from_le_bytes(fixed(bytes)?)),
        SqlType::Float8 => Value::Float8(f64::from_le_bytes(fixed(bytes)?)),
        SqlType::Numeric(limits) => {
            Value::Numeric(numeric(bytes)?, limits.map_or(UNCONSTRAINED_SCALE, |(_, scale)| scale))
        }
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb => {
            Value::Text(utf8(bytes)?.to_string())
        }
        SqlType::Bytea => Value::Bytea(bytes.to_vec()),
        SqlType::Date => Value::Date(i32::from_le_bytes(fixed(bytes)?)),
        SqlType::Time(_) => Value::Time(i64::from_le_bytes(fixed(bytes)?)),
        SqlType::Timestamp(_) => Value::Timestamp(i64::from_le_bytes(fixed(bytes)?)),
        SqlType::TimestampTz(_) => Value::TimestampTz(i64::from_le_bytes(fixed(bytes)?)),
        SqlType::Interval => return Err(corrupt("interval in a table")),
        SqlType::Array(item) => {
            let mut rest = bytes;
            let mut items = Vec::new();
            while let Some(element) = next_element(&mut rest)? {
                items.push(match element {
                    Some(bytes) => decode_cell(item, bytes)?,
                    None => Value::Null,
                });
            }
            Value::Array(items)
        }
    })
}
