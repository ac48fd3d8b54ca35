//! Rows between Arrow's columns and Atoll's values.
//!
//! Invariant: `values(batch(rows)) == rows` for rows whose values are of their columns' types.

use atoll_model::{Error, ErrorKind, Result, Row, SqlType, Value};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, ListArray, RecordBatch, RecordBatchOptions,
    StringBuilder, Time64MicrosecondBuilder, TimestampMicrosecondBuilder, new_null_array,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use std::sync::Arc;

/// The rows of a batch, each column read as the SQL type beside it (an array of another Arrow type is cast first).
///
/// # Errors
/// `CannotCoerce` when a column cannot be read as its type.
pub(crate) fn from_batch(batch: &RecordBatch, types: &[SqlType]) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = (0..batch.num_rows()).map(|_| Vec::with_capacity(types.len())).collect();
    for (column, ty) in batch.columns().iter().zip(types) {
        let column = as_carried(column, ty)?;
        for (at, row) in rows.iter_mut().enumerate() {
            row.push(read(&column, at, ty)?);
        }
    }
    Ok(rows)
}

/// A count, as SQL has it.
pub(crate) fn number(n: u64) -> Value {
    Value::Int8(i64::try_from(n).unwrap_or(i64::MAX))
}

/// One value of an array that is read as a SQL type.
///
/// # Errors
/// `CannotCoerce`.
pub(crate) fn value_at(array: &ArrayRef, at: usize, ty: &SqlType) -> Result<Value> {
    read(&as_carried(array, ty)?, at, ty)
}

/// An array as the Arrow type that carries a SQL type.
///
/// # Errors
/// `CannotCoerce`.
pub(crate) fn as_carried(column: &ArrayRef, ty: &SqlType) -> Result<ArrayRef> {
    let wanted = ty.arrow();
    if *column.data_type() == wanted || matches!(ty, SqlType::Array(_)) {
        return Ok(column.clone());
    }
    // `safe` would turn what cannot be cast into NULL.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, &wanted, &options)
        .map_err(|e| Error::new(ErrorKind::CannotCoerce, format!("cannot read {} as {ty}: {e}", column.data_type())))
}

fn read(array: &ArrayRef, at: usize, ty: &SqlType) -> Result<Value> {
    match ty {
        // Items may be carried otherwise than the list says.
        SqlType::Array(item) if !array.is_null(at) => {
            let list = array.as_list_opt::<i32>().ok_or_else(|| {
                Error::new(ErrorKind::CannotCoerce, format!("cannot read {} as {ty}", array.data_type()))
            })?;
            let items = as_carried(&list.value(at), item)?;
            Ok(Value::Array((0..items.len()).map(|i| read(&items, i, item)).collect::<Result<_>>()?))
        }
        _ => atoll_ports::rows::value_at(array, at, ty),
    }
}

/// An Arrow schema for columns of these types.
pub(crate) fn schema_of<'a>(columns: impl IntoIterator<Item = (&'a str, &'a SqlType)>) -> SchemaRef {
    Arc::new(Schema::new(columns.into_iter().map(|(name, ty)| ty.field(name, true)).collect::<Vec<Field>>()))
}

/// A batch of rows whose columns have these types; `schema` is [`schema_of`] the same types.
///
/// # Errors
/// `Internal` when a value is not of its column's type.
pub(crate) fn to_batch(schema: &SchemaRef, types: &[SqlType], rows: &[Row]) -> Result<RecordBatch> {
    let columns = types
        .iter()
        .enumerate()
        .map(|(at, ty)| build(ty, rows.len(), rows.iter().map(|r| &r[at])))
        .collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|e| Error::internal(format!("rows do not fit their schema: {e}")))
}

fn build<'a>(ty: &SqlType, len: usize, values: impl Iterator<Item = &'a Value>) -> Result<ArrayRef> {
    macro_rules! with {
        ($builder:expr, $($variant:ident)|+) => {{
            let mut builder = $builder;
            for value in values {
                match value {
                    $(Value::$variant(v) => builder.append_value(v.clone()),)+
                    Value::Null => builder.append_null(),
                    other => return Err(mismatch(ty, other)),
                }
            }
            Arc::new(builder.finish()) as ArrayRef
        }};
    }
    Ok(match ty {
        SqlType::Bool => with!(BooleanBuilder::with_capacity(len), Bool),
        SqlType::Int2 => with!(Int16Builder::with_capacity(len), Int2),
        SqlType::Int4 => with!(Int32Builder::with_capacity(len), Int4),
        SqlType::Int8 => with!(Int64Builder::with_capacity(len), Int8),
        SqlType::Float4 => with!(Float32Builder::with_capacity(len), Float4),
        SqlType::Float8 => with!(Float64Builder::with_capacity(len), Float8),
        SqlType::Numeric(_) => {
            let mut builder = Decimal128Builder::with_capacity(len).with_data_type(ty.arrow());
            for value in values {
                match value {
                    Value::Numeric(v, _) => builder.append_value(*v),
                    Value::Null => builder.append_null(),
                    other => return Err(mismatch(ty, other)),
                }
            }
            Arc::new(builder.finish())
        }
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb => {
            with!(StringBuilder::new(), Text)
        }
        SqlType::Bytea => with!(BinaryBuilder::new(), Bytea),
        SqlType::Date => with!(Date32Builder::with_capacity(len), Date),
        SqlType::Time(_) => with!(Time64MicrosecondBuilder::with_capacity(len), Time),
        SqlType::Timestamp(_) => with!(TimestampMicrosecondBuilder::with_capacity(len), Timestamp | TimestampTz),
        SqlType::TimestampTz(_) => {
            with!(TimestampMicrosecondBuilder::with_capacity(len).with_timezone("UTC"), TimestampTz | Timestamp)
        }
        SqlType::Interval => new_null_array(&ty.arrow(), len),
        SqlType::Array(item) => {
            let mut items: Vec<&Value> = vec![];
            let mut lengths = vec![];
            let mut valid = vec![];
            for value in values {
                match value {
                    Value::Array(v) => {
                        items.extend(v);
                        lengths.push(v.len());
                        valid.push(true);
                    }
                    Value::Null => {
                        lengths.push(0);
                        valid.push(false);
                    }
                    other => return Err(mismatch(ty, other)),
                }
            }
            let DataType::List(field) = ty.arrow() else { return Err(Error::internal("array type without list")) };
            let inner = build(item, items.len(), items.into_iter())?;
            Arc::new(
                ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), inner, Some(NullBuffer::from(valid)))
                    .map_err(|e| Error::internal(format!("array value: {e}")))?,
            )
        }
    })
}

fn mismatch(ty: &SqlType, value: &Value) -> Error {
    Error::internal(format!("a value of a column of type {ty} is {value:?}"))
}

/// One value as a DataFusion scalar of its SQL type.
///
/// # Errors
/// `Internal` when the value is not of that type.
pub(crate) fn to_scalar(ty: &SqlType, value: &Value) -> Result<ScalarValue> {
    let array = build(ty, 1, std::iter::once(value))?;
    ScalarValue::try_from_array(&array, 0).map_err(|e| Error::internal(format!("scalar: {e}")))
}
