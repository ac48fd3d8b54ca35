//! `sum` and `avg` with PostgreSQL's result types.
//!
//! Invariant: the sum of integers cannot wrap: `smallint` and `integer` are summed as `bigint`, `bigint` as `numeric`; an average of
//! integers or numerics is a `numeric` with [`AVERAGE_SCALE`] digits at least. The accumulators are DataFusion's: only what the
//! arguments are turned into differs.

use atoll_model::{Error, ErrorKind, SqlType};
use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF, SetMonotonicity, Signature,
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
    aliases: Vec<String>,
}

/// What sums go by inside. DataFusion's optimizer regroups what is called "sum" beside an aggregate of distinct values into sums of
/// sums, and takes for granted that those have the same type.
const SUM: &str = "exact_sum";

/// `sum`, `avg`.
pub(super) fn functions() -> Vec<AggregateUDF> {
    let of = |inner: Arc<AggregateUDF>, average| {
        let aliases = if average { vec![] } else { vec![inner.name().to_owned()] };
        let signature = Signature::user_defined(Volatility::Immutable);
        AggregateUDF::from(Retyped { inner, signature, average, aliases })
    };
    use datafusion::functions_aggregate::{average::avg_udaf, sum::sum_udaf};
    vec![of(sum_udaf(), false), of(avg_udaf(), true)]
}

/// An accumulator of int8 that is fed int4.
#[derive(Debug)]
struct Widened<A>(A);

fn widen(values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
    values.iter().map(|v| Ok(cast(v, &DataType::Int64)?)).collect()
}

impl Accumulator for Widened<Box<dyn Accumulator>> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(&widen(values)?)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.0.evaluate()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.retract_batch(&widen(values)?)
    }

    fn supports_retract_batch(&self) -> bool {
        self.0.supports_retract_batch()
    }
}

impl GroupsAccumulator for Widened<Box<dyn GroupsAccumulator>> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.0.update_batch(&widen(values)?, groups, filter, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.0.evaluate(emit_to)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.0.state(emit_to)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.0.merge_batch(values, groups, total)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.0.convert_to_state(&widen(values)?, filter)
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}

impl Retyped {
    fn widens(&self, args: &AccumulatorArgs) -> bool {
        !self.average && args.expr_fields.first().is_some_and(|f| *f.data_type() == DataType::Int32)
    }

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
        if self.average { self.inner.name() } else { SUM }
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.human_display(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner.display_name(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner.window_function_schema_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner.window_function_display_name(params)
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
            (DataType::Null, false) => DataType::Int32,
            // Coercion comes more than once: what it gives must stay as it is. That int4 is summed as int8 is seen to below.
            (DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::UInt8 | DataType::UInt16, false) => {
                DataType::Int32
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
        match types {
            [DataType::Int32] if !self.average => Ok(DataType::Int64),
            types => self.inner.return_type(types),
        }
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let widens = self.widens(&args);
        let inner = self.inner.accumulator(args)?;
        Ok(if widens { Box::new(Widened(inner)) } else { inner })
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let widens = self.widens(&args);
        let inner = self.inner.create_groups_accumulator(args)?;
        Ok(if widens { Box::new(Widened(inner)) } else { inner })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let widens = self.widens(&args);
        let inner = self.inner.create_sliding_accumulator(args)?;
        Ok(if widens { Box::new(Widened(inner)) } else { inner })
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
