//! Arrow columns filled straight from stored cells, without a [`Value`] in between.
//!
//! Invariant: what a column receives is what [`super::RowReader::value`] would return for the same cell, in the Arrow form of
//! [`SqlType::arrow`].

use super::row::{Cell, corrupt, encode_row, fixed, next_element, numeric, utf8};
use arrow_array::builder::{
    BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder, Int16Builder,
    Int32Builder, Int64Builder, StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, ListArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer};
use arrow_schema::{DataType, Field};
use atoll_model::{Error, ErrorKind, Result, SqlType, UNCONSTRAINED_SCALE, Value};
use std::sync::Arc;

/// Bytes reserved per text at first; the buffers grow from there.
const TEXT_GUESS: usize = 16;

/// A column under construction.
pub(crate) struct Column {
    target: Target,
    /// The stored form of what rows read that were written before the column was added.
    missing: Option<Vec<u8>>,
}

enum Target {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Numeric(Decimal128Builder),
    Text(StringBuilder),
    Bytea(BinaryBuilder),
    Date(Date32Builder),
    Time(Time64MicrosecondBuilder),
    Timestamp(TimestampMicrosecondBuilder),
    List { field: Arc<Field>, item: Box<Target>, ends: Vec<i32>, nulls: NullBufferBuilder },
}

impl Column {
    pub(crate) fn new(ty: &SqlType, missing: &Value, rows: usize) -> Result<Column> {
        let missing = if missing.is_null() {
            None
        } else {
            // The cell as a row would hold it.
            let mut row = Vec::new();
            encode_row(&[(0, ty.clone())], std::slice::from_ref(missing), &mut row)?;
            match super::RowReader::new(&row)?.cell(0)? {
                Cell::Bytes(bytes) => Some(bytes.to_vec()),
                Cell::Null | Cell::Missing => None,
            }
        };
        Ok(Column { target: Target::new(ty, rows)?, missing })
    }

    #[inline]
    pub(crate) fn push(&mut self, cell: Cell<'_>) -> Result<()> {
        match cell {
            Cell::Bytes(bytes) => self.target.push(Some(bytes)),
            Cell::Null => self.target.push(None),
            Cell::Missing => self.target.push(self.missing.as_deref()),
        }
    }

    pub(crate) fn finish(&mut self) -> Result<ArrayRef> {
        self.target.finish()
    }
}

macro_rules! scalar {
    ($builder:expr, $bytes:expr, $decode:expr) => {
        match $bytes {
            #[allow(clippy::redundant_closure_call)]
            Some(bytes) => $builder.append_value($decode(bytes)?),
            None => $builder.append_null(),
        }
    };
}

impl Target {
    fn new(ty: &SqlType, rows: usize) -> Result<Target> {
        Ok(match ty {
            SqlType::Bool => Target::Bool(BooleanBuilder::with_capacity(rows)),
            SqlType::Int2 => Target::Int2(Int16Builder::with_capacity(rows)),
            SqlType::Int4 => Target::Int4(Int32Builder::with_capacity(rows)),
            SqlType::Int8 => Target::Int8(Int64Builder::with_capacity(rows)),
            SqlType::Float4 => Target::Float4(Float32Builder::with_capacity(rows)),
            SqlType::Float8 => Target::Float8(Float64Builder::with_capacity(rows)),
            SqlType::Numeric(limits) => {
                let (precision, scale) = limits.unwrap_or((38, UNCONSTRAINED_SCALE));
                let builder = Decimal128Builder::with_capacity(rows)
                    .with_precision_and_scale(precision, scale)
                    .map_err(|e| Error::internal(e.to_string()))?;
                Target::Numeric(builder)
            }
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb => {
                Target::Text(StringBuilder::with_capacity(rows, rows * TEXT_GUESS))
            }
            SqlType::Bytea => Target::Bytea(BinaryBuilder::with_capacity(rows, rows * TEXT_GUESS)),
            SqlType::Date => Target::Date(Date32Builder::with_capacity(rows)),
            SqlType::Time(_) => Target::Time(Time64MicrosecondBuilder::with_capacity(rows)),
            SqlType::Timestamp(_) => Target::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows)),
            SqlType::TimestampTz(_) => {
                Target::Timestamp(TimestampMicrosecondBuilder::with_capacity(rows).with_data_type(ty.arrow()))
            }
            SqlType::Interval => {
                return Err(Error::new(ErrorKind::NotSupported, "columns of type interval are not supported"));
            }
            SqlType::Array(item) => {
                let DataType::List(field) = ty.arrow() else {
                    return Err(Error::internal("an array type that Arrow does not carry as a list"));
                };
                Target::List {
                    field,
                    item: Box::new(Target::new(item, rows)?),
                    ends: vec![0],
                    nulls: NullBufferBuilder::new(rows),
                }
            }
        })
    }

    #[inline]
    fn push(&mut self, bytes: Option<&[u8]>) -> Result<()> {
        match self {
            Target::Bool(b) => scalar!(b, bytes, |x| fixed::<1>(x).map(|x| x[0] != 0)),
            Target::Int2(b) => scalar!(b, bytes, |x| fixed(x).map(i16::from_le_bytes)),
            Target::Int4(b) => scalar!(b, bytes, |x| fixed(x).map(i32::from_le_bytes)),
            Target::Int8(b) => scalar!(b, bytes, |x| fixed(x).map(i64::from_le_bytes)),
            Target::Float4(b) => scalar!(b, bytes, |x| fixed(x).map(f32::from_le_bytes)),
            Target::Float8(b) => scalar!(b, bytes, |x| fixed(x).map(f64::from_le_bytes)),
            Target::Numeric(b) => scalar!(b, bytes, numeric),
            Target::Text(b) => scalar!(b, bytes, utf8),
            Target::Bytea(b) => scalar!(b, bytes, Ok::<_, Error>),
            Target::Date(b) => scalar!(b, bytes, |x| fixed(x).map(i32::from_le_bytes)),
            Target::Time(b) => scalar!(b, bytes, |x| fixed(x).map(i64::from_le_bytes)),
            Target::Timestamp(b) => scalar!(b, bytes, |x| fixed(x).map(i64::from_le_bytes)),
            Target::List { item, ends, nulls, .. } => {
                let mut count = 0i32;
                let mut rest = bytes.unwrap_or_default();
                while let Some(element) = next_element(&mut rest)? {
                    item.push(element)?;
                    count += 1;
                }
                let end = ends.last().and_then(|end| end.checked_add(count)).ok_or_else(|| corrupt("array size"))?;
                ends.push(end);
                nulls.append(bytes.is_some());
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(match self {
            Target::Bool(b) => Arc::new(b.finish()),
            Target::Int2(b) => Arc::new(b.finish()),
            Target::Int4(b) => Arc::new(b.finish()),
            Target::Int8(b) => Arc::new(b.finish()),
            Target::Float4(b) => Arc::new(b.finish()),
            Target::Float8(b) => Arc::new(b.finish()),
            Target::Numeric(b) => Arc::new(b.finish()),
            Target::Text(b) => Arc::new(b.finish()),
            Target::Bytea(b) => Arc::new(b.finish()),
            Target::Date(b) => Arc::new(b.finish()),
            Target::Time(b) => Arc::new(b.finish()),
            Target::Timestamp(b) => Arc::new(b.finish()),
            Target::List { field, item, ends, nulls } => {
                let offsets = OffsetBuffer::new(std::mem::replace(ends, vec![0]).into());
                let array = ListArray::try_new(field.clone(), offsets, item.finish()?, nulls.finish())
                    .map_err(|e| Error::internal(e.to_string()))?;
                Arc::new(array)
            }
        })
    }
}
