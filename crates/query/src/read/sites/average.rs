//! An average from a sum and a count that sites have computed.
//!
//! Invariant: it is what DataFusion's `avg` gives over the same values: of decimals, the sum with four more digits, divided and cut off.

use crate::read::error::external;
use atoll_model::{Error, ErrorKind};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array};
use datafusion::arrow::datatypes::{DECIMAL128_MAX_SCALE, DataType, Decimal128Type, Float64Type, Int64Type};
use datafusion::common::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use std::sync::{Arc, LazyLock};

/// Digits that an average of decimals has more than they.
const MORE_DIGITS: i8 = 4;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Average {
    signature: Signature,
}

static AVERAGE: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::from(Average { signature: Signature::any(2, Volatility::Immutable) })));

/// The average of values with this sum, of type `numeric` or `float8`, and this count, of type `int8`.
pub(super) fn average(sum: Expr, count: Expr) -> Expr {
    AVERAGE.call(vec![sum, count])
}

impl ScalarUDFImpl for Average {
    fn name(&self) -> &str {
        "average_of_parts"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(match args.first() {
            Some(DataType::Decimal128(p, s)) => DataType::Decimal128(
                (*p + MORE_DIGITS.unsigned_abs()).min(38),
                (*s + MORE_DIGITS).min(DECIMAL128_MAX_SCALE),
            ),
            _ => DataType::Float64,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [sum, count] = args.args.as_slice() else {
            return Err(external(Error::internal("an average of other than a sum and a count")));
        };
        let (sum, count) = (sum.to_array(args.number_rows)?, count.to_array(args.number_rows)?);
        let counts = count.as_primitive::<Int64Type>();
        let ty = args.return_type();
        let counted = |at: usize| (!counts.is_null(at) && counts.value(at) != 0).then(|| counts.value(at));
        let averages: ArrayRef = match (sum.data_type(), ty) {
            (DataType::Decimal128(_, from), DataType::Decimal128(precision, scale)) => {
                let sums = sum.as_primitive::<Decimal128Type>();
                let factor = 10i128.pow(u32::from((scale - from).unsigned_abs()));
                let one = |at: usize| -> Result<Option<i128>> {
                    let Some(count) = counted(at).filter(|_| !sums.is_null(at)) else { return Ok(None) };
                    let scaled = sums.value(at).checked_mul(factor);
                    let scaled = scaled.ok_or_else(|| {
                        external(Error::new(ErrorKind::NumericOutOfRange, "the sum of an average is out of range"))
                    })?;
                    Ok(Some(scaled / i128::from(count)))
                };
                let values = (0..sums.len()).map(one).collect::<Result<Vec<_>>>()?;
                Arc::new(Decimal128Array::from(values).with_precision_and_scale(*precision, *scale)?)
            }
            _ => {
                let sums = sum.as_primitive::<Float64Type>();
                let one = |at: usize| counted(at).filter(|_| !sums.is_null(at)).map(|n| sums.value(at) / n as f64);
                Arc::new((0..sums.len()).map(one).collect::<Float64Array>())
            }
        };
        Ok(ColumnarValue::Array(averages))
    }
}
