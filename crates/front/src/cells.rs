//! Result values of either source, row values or Arrow arrays, as one scalar view.
//!
//! Invariant: every array whose type [`SqlType::of_arrow`] names becomes a [`Column`]; rare physical types are cast, once per
//! batch, to the common one of their kind, and a value that the common one cannot hold is an error, never a wrapped number.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    Time64MicrosecondType, TimestampMicrosecondType,
};
use arrow_array::{
    Array, ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, LargeBinaryArray, LargeStringArray, ListArray,
    PrimitiveArray, RecordBatch, StringArray, StringViewArray,
};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, IntervalUnit, TimeUnit};
use atoll_model::text::Interval;
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};
use atoll_ports::session::ResultColumn;

/// One value, wherever it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float4(f32),
    Float8(f64),
    Numeric(i128, i8),
    Text(&'a str),
    Bytes(&'a [u8]),
    Date(i32),
    Time(i64),
    Timestamp(i64),
    Interval(Interval),
    List(List<'a>),
}

/// The elements of an array value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum List<'a> {
    Values(&'a [Value]),
    Slice { column: &'a Column, start: usize, len: usize },
}

impl<'a> List<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            List::Values(values) => values.len(),
            List::Slice { len, .. } => *len,
        }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Cell<'a>> {
        (0..self.len()).map(move |i| match self {
            List::Values(values) => Cell::from(&values[i]),
            List::Slice { column, start, .. } => column.cell(start + i),
        })
    }
}

impl<'a> From<&'a Value> for Cell<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Cell::Null,
            Value::Bool(v) => Cell::Bool(*v),
            Value::Int2(v) => Cell::Int(i64::from(*v)),
            Value::Int4(v) => Cell::Int(i64::from(*v)),
            Value::Int8(v) => Cell::Int(*v),
            Value::Float4(v) => Cell::Float4(*v),
            Value::Float8(v) => Cell::Float8(*v),
            Value::Numeric(v, scale) => Cell::Numeric(*v, *scale),
            Value::Text(v) => Cell::Text(v),
            Value::Bytea(v) => Cell::Bytes(v),
            Value::Date(v) => Cell::Date(*v),
            Value::Time(v) => Cell::Time(*v),
            Value::Timestamp(v) | Value::TimestampTz(v) => Cell::Timestamp(*v),
            Value::Array(items) => Cell::List(List::Values(items)),
        }
    }
}

/// A column of a batch, its type resolved once.
#[derive(Clone, Debug)]
pub(crate) enum Column {
    Null,
    Bool(BooleanArray),
    Int2(PrimitiveArray<Int16Type>),
    Int4(PrimitiveArray<Int32Type>),
    Int8(PrimitiveArray<Int64Type>),
    Float4(PrimitiveArray<Float32Type>),
    Float8(PrimitiveArray<Float64Type>),
    Numeric(PrimitiveArray<Decimal128Type>, i8),
    Text(StringArray),
    LargeText(LargeStringArray),
    TextView(StringViewArray),
    Bytes(BinaryArray),
    LargeBytes(LargeBinaryArray),
    BytesView(BinaryViewArray),
    Date(PrimitiveArray<Date32Type>),
    Time(PrimitiveArray<Time64MicrosecondType>),
    Timestamp(PrimitiveArray<TimestampMicrosecondType>),
    Interval(PrimitiveArray<IntervalMonthDayNanoType>),
    List(ListArray, Box<Column>),
}

/// The common physical type to which a rare one is cast.
fn common(ty: &DataType) -> Option<DataType> {
    Some(match ty {
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(_, s) | DataType::Decimal64(_, s) | DataType::Decimal256(_, s) => {
            DataType::Decimal128(38, *s)
        }
        DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Interval(_) | DataType::Duration(_) => DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::LargeList(field) | DataType::FixedSizeList(field, _) => DataType::List(field.clone()),
        DataType::Dictionary(_, value) => value.as_ref().clone(),
        _ => return None,
    })
}

/// A failed cast: a value that does not fit, or a pair of types that Arrow cannot cast.
fn cast_error(error: &ArrowError, to: &DataType) -> Error {
    match error {
        ArrowError::CastError(why) | ArrowError::ComputeError(why) | ArrowError::ArithmeticOverflow(why) => {
            let kind = match to {
                DataType::Timestamp(..) | DataType::Date32 | DataType::Time64(_) | DataType::Interval(_) => {
                    ErrorKind::DatetimeOverflow
                }
                _ => ErrorKind::NumericOutOfRange,
            };
            Error::new(kind, format!("a result value is out of range: {why}"))
        }
        other => Error::internal(format!("a result column cannot be shown: {other}")),
    }
}

impl Column {
    /// The column of an array.
    ///
    /// # Errors
    /// 22003 or 22008 for values outside SQL's types; `Internal` for an array type that no SQL type is carried in.
    pub(crate) fn new(array: &ArrayRef) -> Result<Column> {
        Ok(match array.data_type() {
            DataType::Null => Column::Null,
            DataType::Boolean => Column::Bool(array.as_boolean().clone()),
            DataType::Int16 => Column::Int2(array.as_primitive().clone()),
            DataType::Int32 => Column::Int4(array.as_primitive().clone()),
            DataType::Int64 => Column::Int8(array.as_primitive().clone()),
            DataType::Float32 => Column::Float4(array.as_primitive().clone()),
            DataType::Float64 => Column::Float8(array.as_primitive().clone()),
            DataType::Decimal128(_, scale) => Column::Numeric(array.as_primitive().clone(), *scale),
            DataType::Utf8 => Column::Text(array.as_string().clone()),
            DataType::LargeUtf8 => Column::LargeText(array.as_string().clone()),
            DataType::Utf8View => Column::TextView(array.as_string_view().clone()),
            DataType::Binary => Column::Bytes(array.as_binary().clone()),
            DataType::LargeBinary => Column::LargeBytes(array.as_binary().clone()),
            DataType::BinaryView => Column::BytesView(array.as_binary_view().clone()),
            DataType::Date32 => Column::Date(array.as_primitive().clone()),
            DataType::Time64(TimeUnit::Microsecond) => Column::Time(array.as_primitive().clone()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Column::Timestamp(array.as_primitive().clone()),
            DataType::Interval(IntervalUnit::MonthDayNano) => Column::Interval(array.as_primitive().clone()),
            DataType::List(_) => {
                let list = array.as_list::<i32>().clone();
                let items = Column::new(list.values())?;
                Column::List(list, Box::new(items))
            }
            other => {
                let to = common(other)
                    .ok_or_else(|| Error::internal(format!("a result column has the Arrow type {other}")))?;
                let options = CastOptions { safe: false, ..CastOptions::default() };
                let cast = cast_with_options(array, &to, &options).map_err(|e| cast_error(&e, &to))?;
                // A dictionary's values may be of a rare type themselves; `common` never leads back.
                Column::new(&cast)?
            }
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Column::Null => true,
            Column::Bool(a) => a.is_null(row),
            Column::Int2(a) => a.is_null(row),
            Column::Int4(a) => a.is_null(row),
            Column::Int8(a) => a.is_null(row),
            Column::Float4(a) => a.is_null(row),
            Column::Float8(a) => a.is_null(row),
            Column::Numeric(a, _) => a.is_null(row),
            Column::Text(a) => a.is_null(row),
            Column::LargeText(a) => a.is_null(row),
            Column::TextView(a) => a.is_null(row),
            Column::Bytes(a) => a.is_null(row),
            Column::LargeBytes(a) => a.is_null(row),
            Column::BytesView(a) => a.is_null(row),
            Column::Date(a) => a.is_null(row),
            Column::Time(a) => a.is_null(row),
            Column::Timestamp(a) => a.is_null(row),
            Column::Interval(a) => a.is_null(row),
            Column::List(a, _) => a.is_null(row),
        }
    }

    /// The value in a row.
    #[inline]
    pub(crate) fn cell(&self, row: usize) -> Cell<'_> {
        if self.is_null(row) {
            return Cell::Null;
        }
        match self {
            Column::Null => Cell::Null,
            Column::Bool(a) => Cell::Bool(a.value(row)),
            Column::Int2(a) => Cell::Int(i64::from(a.value(row))),
            Column::Int4(a) => Cell::Int(i64::from(a.value(row))),
            Column::Int8(a) => Cell::Int(a.value(row)),
            Column::Float4(a) => Cell::Float4(a.value(row)),
            Column::Float8(a) => Cell::Float8(a.value(row)),
            Column::Numeric(a, scale) => Cell::Numeric(a.value(row), *scale),
            Column::Text(a) => Cell::Text(a.value(row)),
            Column::LargeText(a) => Cell::Text(a.value(row)),
            Column::TextView(a) => Cell::Text(a.value(row)),
            Column::Bytes(a) => Cell::Bytes(a.value(row)),
            Column::LargeBytes(a) => Cell::Bytes(a.value(row)),
            Column::BytesView(a) => Cell::Bytes(a.value(row)),
            Column::Date(a) => Cell::Date(a.value(row)),
            Column::Time(a) => Cell::Time(a.value(row)),
            Column::Timestamp(a) => Cell::Timestamp(a.value(row)),
            Column::Interval(a) => {
                let v = a.value(row);
                Cell::Interval(Interval { months: v.months, days: v.days, micros: v.nanoseconds / 1_000 })
            }
            Column::List(a, items) => {
                // Offsets are non-negative and ascending, as Arrow checks.
                let (start, end) = (a.value_offsets()[row] as usize, a.value_offsets()[row + 1] as usize);
                Cell::List(List::Slice { column: items, start, len: end - start })
            }
        }
    }
}

/// The columns of a batch, checked against those announced.
///
/// # Errors
/// As [`Column::new`]; `Internal` when their number differs.
pub(crate) fn columns_of(batch: &RecordBatch, announced: &[ResultColumn]) -> Result<Vec<Column>> {
    if batch.num_columns() != announced.len() {
        return Err(Error::internal(format!(
            "a result batch has {} columns where {} were announced",
            batch.num_columns(),
            announced.len()
        )));
    }
    batch.columns().iter().map(Column::new).collect()
}

/// The item type of an array type; for any other, the type itself.
pub(crate) fn item_type(ty: &SqlType) -> &SqlType {
    match ty {
        SqlType::Array(item) => item,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{write_binary, write_text};
    use arrow_array::types::Int8Type;
    use arrow_array::{
        Date64Array, Decimal256Array, DictionaryArray, DurationSecondArray, FixedSizeBinaryArray, Int8Array,
        IntervalDayTimeArray, IntervalYearMonthArray, LargeListArray, NullArray, Time32SecondArray,
        Time64NanosecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt8Array, UInt16Array, UInt32Array,
        UInt64Array,
    };
    use arrow_buffer::{IntervalDayTime, i256};
    use std::sync::Arc;

    /// Every physical type that [`SqlType::of_arrow`] names, with what its first value looks like.
    #[test]
    fn every_physical_type_is_shown() {
        let dictionary: DictionaryArray<Int8Type> = vec![Some("word"), None].into_iter().collect();
        let list = LargeListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None]);
        let arrays: Vec<(ArrayRef, &str)> = vec![
            (Arc::new(NullArray::new(2)), ""),
            (Arc::new(BooleanArray::from(vec![Some(true), None])), "t"),
            (Arc::new(Int8Array::from(vec![Some(-8), None])), "-8"),
            (Arc::new(UInt8Array::from(vec![Some(255), None])), "255"),
            (Arc::new(UInt16Array::from(vec![Some(65_535), None])), "65535"),
            (Arc::new(UInt32Array::from(vec![Some(u32::MAX), None])), "4294967295"),
            (Arc::new(UInt64Array::from(vec![Some(7), None])), "7"),
            (
                Arc::new(arrow_cast::cast(&Int8Array::from(vec![Some(2), None]), &DataType::Float16).expect("a cast")),
                "2",
            ),
            (
                Arc::new(
                    Decimal256Array::from(vec![Some(i256::from_i128(-1250)), None])
                        .with_precision_and_scale(40, 2)
                        .expect("fits"),
                ),
                "-12.50",
            ),
            (Arc::new(LargeStringArray::from(vec![Some("a"), None])), "a"),
            (
                Arc::new(StringViewArray::from(vec![Some("a text longer than twelve bytes"), None])),
                "a text longer than twelve bytes",
            ),
            (Arc::new(LargeBinaryArray::from_opt_vec(vec![Some(b"\x01"), None])), "\\x01"),
            (Arc::new(BinaryViewArray::from(vec![Some(&b"\x02"[..]), None])), "\\x02"),
            (
                Arc::new(
                    FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some([3u8, 4]), None].into_iter(), 2)
                        .expect("sizes fit"),
                ),
                "\\x0304",
            ),
            (Arc::new(Date64Array::from(vec![Some(86_400_000), None])), "1970-01-02"),
            (Arc::new(Time32SecondArray::from(vec![Some(3_661), None])), "01:01:01"),
            (Arc::new(Time64NanosecondArray::from(vec![Some(1_500), None])), "00:00:00.000001"),
            (Arc::new(TimestampSecondArray::from(vec![Some(60), None])), "1970-01-01 00:01:00"),
            (
                Arc::new(TimestampNanosecondArray::from(vec![Some(1_000), None]).with_timezone("+02:00")),
                "1970-01-01 00:00:00.000001+00",
            ),
            (Arc::new(IntervalYearMonthArray::from(vec![Some(14), None])), "1 year 2 mons"),
            (
                Arc::new(IntervalDayTimeArray::from(vec![Some(IntervalDayTime::new(2, 1_500)), None])),
                "2 days 00:00:01.5",
            ),
            (Arc::new(DurationSecondArray::from(vec![Some(90), None])), "00:01:30"),
            (Arc::new(dictionary), "word"),
            (Arc::new(list), "{1,NULL}"),
        ];
        for (array, want) in arrays {
            let ty = SqlType::of_arrow(array.data_type()).expect("a SQL type");
            let column = Column::new(&array).expect("a column");
            let mut text = Vec::new();
            write_text(&ty, column.cell(0), &mut text);
            assert_eq!(String::from_utf8_lossy(&text), want, "{}", array.data_type());
            let mut binary = Vec::new();
            write_binary(&ty, column.cell(0), &mut binary).expect("has a binary form");
            assert!(matches!(column.cell(1), Cell::Null), "{}", array.data_type());
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let too_large: ArrayRef = Arc::new(UInt64Array::from(vec![u64::MAX]));
        assert_eq!(Column::new(&too_large).map_err(|e| e.kind()).err(), Some(ErrorKind::NumericOutOfRange));
        let too_late: ArrayRef = Arc::new(TimestampSecondArray::from(vec![i64::MAX]));
        assert_eq!(Column::new(&too_late).map_err(|e| e.kind()).err(), Some(ErrorKind::DatetimeOverflow));
    }
}
