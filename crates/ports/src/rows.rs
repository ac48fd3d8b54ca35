//! Reading values out of Arrow arrays whose Arrow type is the one that carries their SQL type.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef};
use atoll_model::{Error, Result, SqlType, UNCONSTRAINED_SCALE, Value};

/// One value of an array of the Arrow type [`SqlType::arrow`].
///
/// # Errors
/// `Internal` when the array is of another Arrow type; `NotSupported` for intervals, which no row holds.
pub fn value_at(array: &ArrayRef, at: usize, ty: &SqlType) -> Result<Value> {
    if array.is_null(at) {
        return Ok(Value::Null);
    }
    macro_rules! primitive {
        ($arrow:ty, $variant:ident) => {
            array.as_primitive_opt::<$arrow>().map(|a| Value::$variant(a.value(at)))
        };
    }
    let value = match ty {
        SqlType::Bool => array.as_boolean_opt().map(|a| Value::Bool(a.value(at))),
        SqlType::Int2 => primitive!(Int16Type, Int2),
        SqlType::Int4 => primitive!(Int32Type, Int4),
        SqlType::Int8 => primitive!(Int64Type, Int8),
        SqlType::Float4 => primitive!(Float32Type, Float4),
        SqlType::Float8 => primitive!(Float64Type, Float8),
        SqlType::Numeric(limits) => array
            .as_primitive_opt::<Decimal128Type>()
            .map(|a| Value::Numeric(a.value(at), limits.map_or(UNCONSTRAINED_SCALE, |(_, s)| s))),
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb => {
            array.as_string_opt::<i32>().map(|a| Value::Text(a.value(at).to_owned()))
        }
        SqlType::Bytea => array.as_binary_opt::<i32>().map(|a| Value::Bytea(a.value(at).to_vec())),
        SqlType::Date => primitive!(Date32Type, Date),
        SqlType::Time(_) => primitive!(Time64MicrosecondType, Time),
        SqlType::Timestamp(_) => primitive!(TimestampMicrosecondType, Timestamp),
        SqlType::TimestampTz(_) => primitive!(TimestampMicrosecondType, TimestampTz),
        SqlType::Interval => return Err(Error::unsupported("interval values cannot be stored")),
        SqlType::Array(item) => match array.as_list_opt::<i32>() {
            Some(list) => {
                let items = list.value(at);
                Some(Value::Array((0..items.len()).map(|i| value_at(&items, i, item)).collect::<Result<_>>()?))
            }
            None => None,
        },
    };
    value.ok_or_else(|| Error::internal(format!("a column of type {ty} came as {}", array.data_type())))
}
