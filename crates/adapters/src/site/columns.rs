//! Arrow columns in the making, of rows that come from a server.
//!
//! Invariant: a column's Arrow type is [`SqlType::arrow`] of its type.

use arrow_array::builder::{BinaryBuilder, BooleanBuilder, PrimitiveBuilder, StringBuilder};
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{ArrayRef, ArrowPrimitiveType, ListArray, RecordBatch, RecordBatchOptions};
use arrow_buffer::{NullBufferBuilder, OffsetBuffer};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use atoll_model::{Error, Result, SqlType, UNCONSTRAINED_SCALE, Value};
use std::sync::Arc;

/// Rows on their way into a batch.
pub(super) struct Batch {
    schema: SchemaRef,
    pub(super) columns: Vec<ColumnBuilder>,
    pub(super) rows: usize,
}

impl Batch {
    /// An empty one, for columns of these types.
    pub(super) fn new(schema: SchemaRef, types: &[SqlType]) -> Self {
        Batch { schema, columns: types.iter().map(ColumnBuilder::new).collect(), rows: 0 }
    }

    /// Adds a row of values.
    ///
    /// # Errors
    /// `Internal` when one is none of its column's type.
    pub(super) fn push_values<'a>(&mut self, values: impl Iterator<Item = &'a Value>) -> Result<()> {
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.push_value(value)?;
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

/// Batches of so many rows without columns, no more than `size` in each.
pub(super) fn of_no_columns(schema: SchemaRef, rows: usize, size: usize) -> impl Iterator<Item = Result<RecordBatch>> {
    let mut left = rows;
    std::iter::from_fn(move || {
        let rows = left.min(size);
        left -= rows;
        (rows > 0).then(|| of_columns(schema.clone(), vec![], rows))
    })
}

/// The Arrow schema of columns with these names, types and whether they may be NULL.
pub(super) fn schema<'a>(columns: impl Iterator<Item = (&'a str, &'a SqlType, bool)>) -> SchemaRef {
    Arc::new(Schema::new(columns.map(|(name, ty, nullable)| ty.field(name, nullable)).collect::<Vec<_>>()))
}

/// A column in the making.
pub(super) enum ColumnBuilder {
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
    /// An empty one.
    pub(super) fn new(ty: &SqlType) -> Self {
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
            SqlType::Time(_) => ColumnBuilder::Time(primitive(ty)),
            SqlType::Timestamp(_) | SqlType::TimestampTz(_) => ColumnBuilder::Instant(primitive(ty)),
            SqlType::Array(item) => ColumnBuilder::Array {
                item: Box::new(ColumnBuilder::new(item)),
                ty: item.arrow(),
                lengths: vec![],
                nulls: NullBufferBuilder::new(0),
            },
        }
    }

    /// Adds a value.
    ///
    /// # Errors
    /// `Internal` when it is none of the column's type.
    pub(super) fn push_value(&mut self, value: &Value) -> Result<()> {
        match (self, value) {
            (builder, Value::Null) => builder.push_null(),
            (ColumnBuilder::Array { item, lengths, nulls, .. }, Value::Array(items)) => {
                nulls.append(true);
                lengths.push(items.len());
                for value in items {
                    item.push_value(value)?;
                }
            }
            (ColumnBuilder::Bool(b), Value::Bool(v)) => b.append_value(*v),
            (ColumnBuilder::Int2(b), Value::Int2(v)) => b.append_value(*v),
            (ColumnBuilder::Int4(b), Value::Int4(v)) => b.append_value(*v),
            (ColumnBuilder::Int8(b), Value::Int8(v)) => b.append_value(*v),
            (ColumnBuilder::Float4(b), Value::Float4(v)) => b.append_value(*v),
            (ColumnBuilder::Float8(b), Value::Float8(v)) => b.append_value(*v),
            (ColumnBuilder::Numeric(b, scale), Value::Numeric(v, s)) if s == scale => b.append_value(*v),
            (ColumnBuilder::Text(b, _) | ColumnBuilder::Uuid(b), Value::Text(v)) => b.append_value(v),
            (ColumnBuilder::Bytea(b), Value::Bytea(v)) => b.append_value(v),
            (ColumnBuilder::Date(b), Value::Date(v)) => b.append_value(*v),
            (ColumnBuilder::Time(b), Value::Time(v)) => b.append_value(*v),
            (ColumnBuilder::Instant(b), Value::Timestamp(v) | Value::TimestampTz(v)) => b.append_value(*v),
            (_, value) => return Err(Error::internal(format!("{value:?} is of another type than its column"))),
        }
        Ok(())
    }

    fn push_null(&mut self) {
        match self {
            ColumnBuilder::Bool(b) => b.append_null(),
            ColumnBuilder::Int2(b) => b.append_null(),
            ColumnBuilder::Int4(b) => b.append_null(),
            ColumnBuilder::Int8(b) => b.append_null(),
            ColumnBuilder::Float4(b) => b.append_null(),
            ColumnBuilder::Float8(b) => b.append_null(),
            ColumnBuilder::Numeric(b, _) => b.append_null(),
            ColumnBuilder::Text(b, _) | ColumnBuilder::Uuid(b) => b.append_null(),
            ColumnBuilder::Bytea(b) => b.append_null(),
            ColumnBuilder::Date(b) => b.append_null(),
            ColumnBuilder::Time(b) => b.append_null(),
            ColumnBuilder::Instant(b) => b.append_null(),
            ColumnBuilder::Array { lengths, nulls, .. } => {
                nulls.append(false);
                lengths.push(0);
            }
        }
    }

    /// The column.
    pub(super) fn finish(self) -> ArrayRef {
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
