//! Column builders that take the text of a field.
//!
//! Invariant: all builders of a decoder hold equally many values between rows.

use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder, Float64Builder,
    Int16Builder, Int32Builder, Int64Builder, StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{Array, ArrayRef, ListArray};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field};
use atoll_model::text;
use atoll_model::{Error, ErrorKind, Result, SqlType, Value, round_time, round_timestamp};
use std::sync::Arc;

/// Grows one column.
pub(super) enum Builder {
    Bool(BooleanBuilder),
    Int2(Int16Builder),
    Int4(Int32Builder),
    Int8(Int64Builder),
    Float4(Float32Builder),
    Float8(Float64Builder),
    Numeric(Decimal128Builder, Option<(u8, i8)>),
    /// Everything that is carried as text and may have to be checked or brought into canonical form.
    Text(StringBuilder, SqlType),
    Bytea(BinaryBuilder),
    Date(Date32Builder),
    /// Times and timestamps with the digits of a second that the type declares.
    Time(Time64MicrosecondBuilder, Option<u8>),
    Timestamp(TimestampMicrosecondBuilder, Option<u8>),
    TimestampTz(TimestampMicrosecondBuilder, Option<u8>),
    List {
        item: SqlType,
        items: Box<Builder>,
        offsets: Vec<i32>,
        nulls: NullBufferBuilder,
    },
}

macro_rules! each {
    ($self:expr, $b:ident => $body:expr, list($items:ident, $offsets:ident, $nulls:ident) => $list:expr) => {
        match $self {
            Builder::Bool($b) => $body,
            Builder::Int2($b) => $body,
            Builder::Int4($b) => $body,
            Builder::Int8($b) => $body,
            Builder::Float4($b) => $body,
            Builder::Float8($b) => $body,
            Builder::Numeric($b, _) => $body,
            Builder::Text($b, _) => $body,
            Builder::Bytea($b) => $body,
            Builder::Date($b) => $body,
            Builder::Time($b, _) => $body,
            Builder::Timestamp($b, _) => $body,
            Builder::TimestampTz($b, _) => $body,
            Builder::List { items: $items, offsets: $offsets, nulls: $nulls, .. } => $list,
        }
    };
}

impl Builder {
    /// An empty column of the type.
    ///
    /// # Errors
    /// 0A000 for `interval`, which tables do not hold.
    pub(super) fn new(ty: &SqlType) -> Result<Builder> {
        Ok(match ty {
            SqlType::Bool => Builder::Bool(BooleanBuilder::new()),
            SqlType::Int2 => Builder::Int2(Int16Builder::new()),
            SqlType::Int4 => Builder::Int4(Int32Builder::new()),
            SqlType::Int8 => Builder::Int8(Int64Builder::new()),
            SqlType::Float4 => Builder::Float4(Float32Builder::new()),
            SqlType::Float8 => Builder::Float8(Float64Builder::new()),
            SqlType::Numeric(limits) => Builder::Numeric(Decimal128Builder::new().with_data_type(ty.arrow()), *limits),
            SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb => {
                Builder::Text(StringBuilder::new(), ty.clone())
            }
            SqlType::Bytea => Builder::Bytea(BinaryBuilder::new()),
            SqlType::Date => Builder::Date(Date32Builder::new()),
            SqlType::Time(digits) => Builder::Time(Time64MicrosecondBuilder::new(), *digits),
            SqlType::Timestamp(digits) => Builder::Timestamp(TimestampMicrosecondBuilder::new(), *digits),
            SqlType::TimestampTz(digits) => {
                Builder::TimestampTz(TimestampMicrosecondBuilder::new().with_data_type(ty.arrow()), *digits)
            }
            SqlType::Interval => return Err(Error::unsupported("columns of type interval")),
            SqlType::Array(item) => Builder::List {
                item: item.as_ref().clone(),
                items: Box::new(Builder::new(item)?),
                offsets: vec![0],
                nulls: NullBufferBuilder::new(0),
            },
        })
    }

    pub(super) fn push_null(&mut self) {
        each!(self, b => b.append_null(), list(_items, offsets, nulls) => {
            offsets.push(offsets.last().copied().unwrap_or_default());
            nulls.append_null();
        });
    }

    /// Takes a field's text.
    ///
    /// # Errors
    /// What [`text::parse`] gives for the type.
    #[inline]
    pub(super) fn push_text(&mut self, field: &str) -> Result<()> {
        match self {
            Builder::Bool(b) => b.append_value(text::parse_bool(field)?),
            Builder::Int2(b) => b.append_value(text::parse_i16(field)?),
            Builder::Int4(b) => b.append_value(text::parse_i32(field)?),
            Builder::Int8(b) => b.append_value(text::parse_i64(field)?),
            Builder::Float4(b) => b.append_value(text::parse_f32(field)?),
            Builder::Float8(b) => b.append_value(text::parse_f64(field)?),
            Builder::Numeric(b, limits) => b.append_value(text::parse_numeric(field, *limits)?.0),
            Builder::Text(b, SqlType::Text) => b.append_value(field),
            Builder::Text(b, ty) => match text::parse(ty, field)? {
                Value::Text(canonical) => b.append_value(canonical),
                other => return Err(Error::internal(format!("{ty} was read as {other:?}"))),
            },
            Builder::Bytea(b) => b.append_value(text::parse_bytea(field)?),
            Builder::Date(b) => b.append_value(text::parse_date(field)?),
            Builder::Time(b, digits) => b.append_value(round_time(text::parse_time(field)?, *digits)),
            Builder::Timestamp(b, digits) => {
                b.append_value(round_timestamp(text::parse_timestamp(field)?, *digits)?);
            }
            Builder::TimestampTz(b, digits) => {
                b.append_value(round_timestamp(text::parse_timestamptz(field)?, *digits)?);
            }
            Builder::List { item, items, offsets, nulls } => {
                push_items(items, text::parse_array(item, field)?, offsets)?;
                nulls.append_non_null();
            }
        }
        Ok(())
    }

    /// Takes an element of an array.
    fn push_value(&mut self, value: Value) -> Result<()> {
        match (self, value) {
            (builder, Value::Null) => builder.push_null(),
            (Builder::Bool(b), Value::Bool(v)) => b.append_value(v),
            (Builder::Int2(b), Value::Int2(v)) => b.append_value(v),
            (Builder::Int4(b), Value::Int4(v)) => b.append_value(v),
            (Builder::Int8(b), Value::Int8(v)) => b.append_value(v),
            (Builder::Float4(b), Value::Float4(v)) => b.append_value(v),
            (Builder::Float8(b), Value::Float8(v)) => b.append_value(v),
            (Builder::Numeric(b, _), Value::Numeric(v, _)) => b.append_value(v),
            (Builder::Text(b, _), Value::Text(v)) => b.append_value(v),
            (Builder::Bytea(b), Value::Bytea(v)) => b.append_value(v),
            (Builder::Date(b), Value::Date(v)) => b.append_value(v),
            (Builder::Time(b, _), Value::Time(v)) => b.append_value(v),
            (Builder::Timestamp(b, _), Value::Timestamp(v)) => b.append_value(v),
            (Builder::TimestampTz(b, _), Value::TimestampTz(v)) => b.append_value(v),
            (Builder::List { items, offsets, nulls, .. }, Value::Array(values)) => {
                push_items(items, values, offsets)?;
                nulls.append_non_null();
            }
            (_, other) => return Err(Error::internal(format!("an array element was read as {other:?}"))),
        }
        Ok(())
    }

    fn len(&self) -> usize {
        each!(self, b => ArrayBuilder::len(b), list(_items, offsets, _nulls) => offsets.len() - 1)
    }

    /// The column so far; the builder is empty afterwards.
    pub(super) fn finish(&mut self) -> ArrayRef {
        each!(self, b => Arc::new(b.finish()), list(items, offsets, nulls) => {
            let values = items.finish();
            let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])));
            let field = Field::new("item", item_data_type(&values), true);
            Arc::new(ListArray::new(Arc::new(field), offsets, values, nulls.finish()))
        })
    }
}

fn item_data_type(values: &ArrayRef) -> DataType {
    values.data_type().clone()
}

fn push_items(items: &mut Builder, values: Vec<Value>, offsets: &mut Vec<i32>) -> Result<()> {
    for value in values {
        items.push_value(value)?;
    }
    let end = i32::try_from(items.len())
        .map_err(|_| Error::new(ErrorKind::ProgramLimit, "too many array elements in one batch"))?;
    offsets.push(end);
    Ok(())
}
