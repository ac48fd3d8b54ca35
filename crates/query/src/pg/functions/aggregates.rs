//! `sum` and `avg` with PostgreSQL's result types.
//!
//! Invariant: the sum of integers cannot wrap: `smallint` and `integer` are summed as `bigint`, `bigint` as `numeric`; an average of
//! integers or numerics is a `numeric` with [`AVERAGE_SCALE`] digits at least. The accumulators are DataFusion's: only what the
//! arguments are turned into differs.

use atoll_model::{Error, ErrorKind, SqlType};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
    StatisticsArgs, Volatility,
};
use std::sync::Arc;

/// Digits after the point of an average. DataFusion's adds [`ADDED_SCALE`] to those of what it averages.
const AVERAGE_SCALE: i8 = 18;
const ADDED_SCALE: i8 = 4;

/// One of DataFusion's aggregates over other types.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Retyped {
    inner: Arc<AggregateUDF>,
    signature: Signature,
    average: bool,
}

/// `sum`, `avg`.
pub(super) fn functions() -> Vec<AggregateUDF> {
    let of = |inner, average| {
        AggregateUDF::from(Retyped { inner, signature: Signature::user_defined(Volatility::Immutable), average })
    };
    use datafusion::functions_aggregate::{average::avg_udaf, sum::sum_udaf};
    vec![of(sum_udaf(), false), of(avg_udaf(), true)]
}

impl Retyped {
    fn undefined(&self, ty: &DataType) -> DataFusionError {
        let shown = SqlType::of_arrow(ty).map_or_else(|| ty.to_string(), |t| t.to_string());
        DataFusionError::External(Box::new(
            Error::new(ErrorKind::UndefinedFunction, format!("function {}({shown}) does not exist", self.inner.name()))
                .hint(
                    "No function matches the given name and argument types. You might need to add explicit type casts.",
                ),
        ))
    }
}

impl AggregateUDFImpl for Retyped {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [ty] = types else {
            return Err(DataFusionError::External(Box::new(Error::new(
                ErrorKind::UndefinedFunction,
                format!("function {} takes one argument", self.inner.name()),
            ))));
        };
        let least = AVERAGE_SCALE - ADDED_SCALE;
        Ok(vec![match (ty, self.average) {
            (DataType::Null, true) => DataType::Float64,
            (DataType::Null, false) => DataType::Int64,
            (DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16, false) => {
                DataType::Int64
            }
            (DataType::Int64 | DataType::UInt32 | DataType::UInt64, false) => DataType::Decimal128(38, 0),
            (ty, true) if ty.is_integer() => DataType::Decimal128(38, least),
            (DataType::Decimal128(_, s), true) => DataType::Decimal128(38, least.max(*s)),
            (DataType::Float16 | DataType::Float32 | DataType::Float64, _) => DataType::Float64,
            (DataType::Decimal128(..) | DataType::Decimal256(..), _) | (DataType::Interval(_), false) => ty.clone(),
            _ => return Err(self.undefined(ty)),
        }])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn value_from_stats(&self, args: &StatisticsArgs) -> Option<ScalarValue> {
        self.inner.value_from_stats(args)
    }

    fn default_value(&self, ty: &DataType) -> Result<ScalarValue> {
        self.inner.default_value(ty)
    }

    fn set_monotonicity(&self, _: &DataType) -> SetMonotonicity {
        SetMonotonicity::NotMonotonic
    }
}
