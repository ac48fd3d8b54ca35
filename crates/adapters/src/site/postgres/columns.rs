//! Arrow columns filled from PostgreSQL's binary values, without a [`Value`](atoll_model::Value) in between.
//!
//! Invariant: a column's Arrow type is [`SqlType::arrow`] of its type.

use super::{numeric, values};
use arrow_array::builder::{BinaryBuilder, BooleanBuilder, PrimitiveBuilder, StringBuilder};
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{ArrayRef, ArrowPrimitiveType, ListArray, RecordBatch, RecordBatchOptions};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use atoll_model::{Error, Result, SqlType, UNCONSTRAINED_SCALE, text};
use std::sync::Arc;

/// Rows on their way into a batch.
pub(super) struct Batch {
    schema: SchemaRef,
    columns: Vec<ColumnBuilder>,
    rows: usize,
}

impl Batch {
    /// An empty one, for columns of these types.
    pub(super) fn new(schema: SchemaRef, types: &[SqlType]) -> Self {
        Batch { schema, columns: types.iter().map(ColumnBuilder::new).collect(), rows: 0 }
    }

    /// Adds a row of values.
    pub(super) fn push<'a>(&mut self, values: impl Iterator<Item = Result<Option<&'a [u8]>>>) -> Result<()> {
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.push(value?)?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Rows in it.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// The batch.
    pub(super) fn finish(self) -> Result<RecordBatch> {
        let columns = self.columns.into_iter().map(ColumnBuilder::finish).collect();
        of_columns(self.schema, columns, self.rows)
    }
}

/// A batch of whole columns, or of no columns and so many rows.
pub(super) fn of_columns(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
        .map_err(|e| Error::internal(format!("a batch from a site: {e}")))
}

/// The Arrow schema of columns with these names, types and whether they may be NULL.
pub(super) fn schema<'a>(columns: impl Iterator<Item = (&'a str, &'a SqlType, bool)>) -> SchemaRef {
    Arc::new(Schema::new(columns.map(|(name, ty, nullable)| ty.field(name, nullable)).collect::<Vec<_>>()))
}

enum ColumnBuilder {
    Bool(BooleanBuilder),
    Int2(PrimitiveBuilder<Int16Type>),
    Int4(PrimitiveBuilder<Int32Type>),
    Int8(PrimitiveBuilder<Int64Type>),
    Float4(PrimitiveBuilder<Float32Type>),
    Float8(PrimitiveBuilder<Float64Type>),
    Numeric(PrimitiveBuilder<Decimal128Type>, i8),
    Text(StringBuilder, SqlType),
    Uuid(StringBuilder),
    Bytea(BinaryBuilder),
    Date(PrimitiveBuilder<Date32Type>),
    Time(PrimitiveBuilder<Time64MicrosecondType>),
    Instant(PrimitiveBuilder<TimestampMicrosecondType>),
    Array { item: Box<ColumnBuilder>, ty: DataType, lengths: Vec<usize>, nulls: NullBufferBuilder },
}

fn primitive<T: ArrowPrimitiveType>(ty: &SqlType) -> PrimitiveBuilder<T> {
    PrimitiveBuilder::new().with_data_type(ty.arrow())
}

impl ColumnBuilder {
    fn new(ty: &SqlType) -> Self {
        match ty {
            SqlType::Bool => ColumnBuilder::Bool(BooleanBuilder::new()),
            SqlType::Int2 => ColumnBuilder::Int2(primitive(ty)),
            SqlType::Int4 => ColumnBuilder::Int4(primitive(ty)),
            SqlType::Int8 => ColumnBuilder::Int8(primitive(ty)),
            SqlType::Float4 => ColumnBuilder::Float4(primitive(ty)),
            SqlType::Float8 => ColumnBuilder::Float8(primitive(ty)),
            SqlType::Numeric(limits) => {
                ColumnBuilder::Numeric(primitive(ty), limits.map_or(UNCONSTRAINED_SCALE, |(_, scale)| scale))
            }
            SqlType::Uuid => ColumnBuilder::Uuid(StringBuilder::new()),
            // No column is an interval; if one were, its text would be refused by the reader.
            SqlType::Text
            | SqlType::Varchar(_)
            | SqlType::Char(_)
            | SqlType::Json
            | SqlType::Jsonb
            | SqlType::Interval => ColumnBuilder::Text(StringBuilder::new(), ty.clone()),
            SqlType::Bytea => ColumnBuilder::Bytea(BinaryBuilder::new()),
            SqlType::Date => ColumnBuilder::Date(primitive(ty)),
            SqlType::Time => ColumnBuilder::Time(primitive(ty)),
            SqlType::Timestamp | SqlType::TimestampTz => ColumnBuilder::Instant(primitive(ty)),
            SqlType::Array(item) => ColumnBuilder::Array {
                item: Box::new(ColumnBuilder::new(item)),
                ty: item.arrow(),
                lengths: vec![],
                nulls: NullBufferBuilder::new(0),
            },
        }
    }

    fn push(&mut self, value: Option<&[u8]>) -> Result<()> {
        macro_rules! append {
            ($builder:expr, $decode:expr) => {
                match value {
                    Some(bytes) => $builder.append_value($decode(bytes)?),
                    None => $builder.append_null(),
                }
            };
        }
        match self {
            ColumnBuilder::Bool(b) => append!(b, values::boolean),
            ColumnBuilder::Int2(b) => append!(b, |v| values::fixed(v).map(i16::from_be_bytes)),
            ColumnBuilder::Int4(b) => append!(b, |v| values::fixed(v).map(i32::from_be_bytes)),
            ColumnBuilder::Int8(b) => append!(b, |v| values::fixed(v).map(i64::from_be_bytes)),
            ColumnBuilder::Float4(b) => append!(b, |v| values::fixed(v).map(f32::from_be_bytes)),
            ColumnBuilder::Float8(b) => append!(b, |v| values::fixed(v).map(f64::from_be_bytes)),
            ColumnBuilder::Numeric(b, scale) => append!(b, |v| numeric::decode(v, *scale)),
            ColumnBuilder::Text(b, ty) => append!(b, |v| values::characters(ty, v)),
            ColumnBuilder::Uuid(b) => append!(b, |v| values::fixed(v).map(text::uuid_text)),
            ColumnBuilder::Bytea(b) => append!(b, Ok::<&[u8], Error>),
            ColumnBuilder::Date(b) => append!(b, values::date),
            ColumnBuilder::Time(b) => append!(b, |v| values::fixed(v).map(i64::from_be_bytes)),
            ColumnBuilder::Instant(b) => append!(b, values::instant),
            ColumnBuilder::Array { item, lengths, nulls, .. } => {
                let elements = value.map(values::elements).transpose()?;
                nulls.append(elements.is_some());
                let elements = elements.unwrap_or_default();
                lengths.push(elements.len());
                for element in elements {
                    item.push(element)?;
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> ArrayRef {
        match self {
            ColumnBuilder::Bool(mut b) => Arc::new(b.finish()),
            ColumnBuilder::Int2(mut b) => Arc::new(b.finish()),
            ColumnBuilder::Int4(mut b) => Arc::new(b.finish()),
            ColumnBuilder::Int8(mut b) => Arc::new(b.finish()),
            ColumnBuilder::Float4(mut b) => Arc::new(b.finish()),
            ColumnBuilder::Float8(mut b) => Arc::new(b.finish()),
            ColumnBuilder::Numeric(mut b, _) => Arc::new(b.finish()),
            ColumnBuilder::Text(mut b, _) | ColumnBuilder::Uuid(mut b) => Arc::new(b.finish()),
            ColumnBuilder::Bytea(mut b) => Arc::new(b.finish()),
            ColumnBuilder::Date(mut b) => Arc::new(b.finish()),
            ColumnBuilder::Time(mut b) => Arc::new(b.finish()),
            ColumnBuilder::Instant(mut b) => Arc::new(b.finish()),
            ColumnBuilder::Array { item, ty, lengths, mut nulls } => Arc::new(ListArray::new(
                Arc::new(Field::new("item", ty, true)),
                OffsetBuffer::from_lengths(lengths),
                item.finish(),
                nulls.finish(),
            )),
        }
    }
}
