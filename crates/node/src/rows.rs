//! Rows out of the batches that sites give, and the order of their keys.

use arrow_array::RecordBatch;
use atoll_model::{Error, Result, Row, SqlType, Value};
use atoll_ports::rows::value_at;
use std::cmp::Ordering;

/// The rows of a batch, whose columns are of these types.
pub(crate) fn of_batch(batch: &RecordBatch, types: &[&SqlType]) -> Result<Vec<Row>> {
    for (column, ty) in batch.columns().iter().zip(types) {
        if *column.data_type() != ty.arrow() {
            return Err(Error::internal(format!("a site gave {} for {ty}", column.data_type())));
        }
    }
    (0..batch.num_rows())
        .map(|at| batch.columns().iter().zip(types).map(|(column, ty)| value_at(column, at, ty)).collect())
        .collect()
}

/// The order of keys, or of other values of an index: there are no NULLs, and values of a column are of one type.
pub(crate) fn compare_keys(a: &[Value], b: &[Value]) -> Ordering {
    let differs = |(a, b): (&Value, &Value)| a.compare(b).filter(|order| order.is_ne());
    a.iter().zip(b).find_map(differs).unwrap_or(Ordering::Equal)
}
