//! Values out of the batches that sites give.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use atoll_model::{Error, Result, Row, SqlType, UNCONSTRAINED_SCALE, Value};

/// The rows of a batch, whose columns are of these types.
pub(crate) fn of_batch(batch: &RecordBatch, types: &[&SqlType]) -> Result<Vec<Row>> {
    (0..batch.num_rows())
        .map(|at| batch.columns().iter().zip(types).map(|(column, ty)| value(column, at, ty)).collect())
        .collect()
}

fn value(array: &ArrayRef, at: usize, ty: &SqlType) -> Result<Value> {
    if array.is_null(at) {
        return Ok(Value::Null);
    }
    if *array.data_type() != ty.arrow() {
        return Err(Error::internal(format!("a site gave {} for {ty}", array.data_type())));
    }
    Ok(match ty {
        SqlType::Bool => Value::Bool(array.as_boolean().value(at)),
        SqlType::Int2 => Value::Int2(array.as_primitive::<Int16Type>().value(at)),
        SqlType::Int4 => Value::Int4(array.as_primitive::<Int32Type>().value(at)),
        SqlType::Int8 => Value::Int8(array.as_primitive::<Int64Type>().value(at)),
        SqlType::Float4 => Value::Float4(array.as_primitive::<Float32Type>().value(at)),
        SqlType::Float8 => Value::Float8(array.as_primitive::<Float64Type>().value(at)),
        SqlType::Numeric(limits) => Value::Numeric(
            array.as_primitive::<Decimal128Type>().value(at),
            limits.map_or(UNCONSTRAINED_SCALE, |(_, scale)| scale),
        ),
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb => {
            Value::Text(array.as_string::<i32>().value(at).to_owned())
        }
        SqlType::Bytea => Value::Bytea(array.as_binary::<i32>().value(at).to_vec()),
        SqlType::Date => Value::Date(array.as_primitive::<Date32Type>().value(at)),
        SqlType::Time(_) => Value::Time(array.as_primitive::<Time64MicrosecondType>().value(at)),
        SqlType::Timestamp(_) => Value::Timestamp(array.as_primitive::<TimestampMicrosecondType>().value(at)),
        SqlType::TimestampTz(_) => Value::TimestampTz(array.as_primitive::<TimestampMicrosecondType>().value(at)),
        SqlType::Interval => return Err(Error::internal("a stored interval")),
        SqlType::Array(item) => {
            let items = array.as_list::<i32>().value(at);
            Value::Array((0..items.len()).map(|i| value(&items, i, item)).collect::<Result<_>>()?)
        }
    })
}
