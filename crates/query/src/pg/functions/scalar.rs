//! A function over [`Value`]s as DataFusion calls it.

use crate::rows;
use atoll_model::text::{Interval, write_interval};
use atoll_model::{Error, ErrorKind, Result, Row, SqlType, Value};
use datafusion::arrow::array::{Array, ArrayRef, AsArray, IntervalMonthDayNanoArray, NullArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, IntervalMonthDayNano, IntervalMonthDayNanoType, Schema};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// What a call sees beside its arguments.
pub struct Call<'a> {
    /// Types of the arguments.
    pub types: &'a [SqlType],
    /// The type of the result.
    pub result: &'a SqlType,
    /// Options, among them the session's hooks.
    pub options: &'a ConfigOptions,
}

type Body = dyn Fn(&Call<'_>, &[Value]) -> Result<Value> + Send + Sync;
type ReturnType = dyn Fn(&[SqlType], &[Option<&ScalarValue>]) -> Result<SqlType> + Send + Sync;

/// A scalar function.
#[derive(Clone)]
pub struct Scalar {
    name: &'static str,
    signature: Signature,
    returns: Arc<ReturnType>,
    /// NULL for any argument gives NULL without a call.
    strict: bool,
    body: Arc<Body>,
}

impl Scalar {
    /// A strict, immutable function that takes `least` to `most` arguments of any type.
    pub fn new(
        name: &'static str,
        arity: std::ops::RangeInclusive<usize>,
        returns: SqlType,
        body: impl Fn(&Call<'_>, &[Value]) -> Result<Value> + Send + Sync + 'static,
    ) -> Self {
        let signature = if *arity.end() > 16 {
            TypeSignature::OneOf(vec![TypeSignature::Nullary, TypeSignature::VariadicAny])
        } else {
            TypeSignature::OneOf(
                arity.map(|n| if n == 0 { TypeSignature::Nullary } else { TypeSignature::Any(n) }).collect(),
            )
        };
        Scalar {
            name,
            signature: Signature::new(signature, Volatility::Immutable),
            returns: Arc::new(move |_, _| Ok(returns.clone())),
            strict: true,
            body: Arc::new(body),
        }
    }

    /// Its result's type depends on the arguments'.
    pub fn returning(mut self, returns: impl Fn(&[SqlType]) -> Result<SqlType> + Send + Sync + 'static) -> Self {
        self.returns = Arc::new(move |types, _| returns(types));
        self
    }

    /// Its result's type depends on the arguments' types, and on those arguments that are literals.
    pub fn returning_by_literal(
        mut self,
        returns: impl Fn(&[SqlType], &[Option<&ScalarValue>]) -> Result<SqlType> + Send + Sync + 'static,
    ) -> Self {
        self.returns = Arc::new(returns);
        self
    }

    /// It is called with NULLs, too.
    pub fn with_nulls(mut self) -> Self {
        self.strict = false;
        self
    }

    /// Its answer is the same within a statement.
    pub fn stable(mut self) -> Self {
        self.signature.volatility = Volatility::Stable;
        self
    }

    /// Its answer differs from call to call.
    pub fn volatile(mut self) -> Self {
        self.signature.volatility = Volatility::Volatile;
        self
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scalar").field(&self.name).finish()
    }
}

impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.body, &other.body)
    }
}

impl Eq for Scalar {}

impl Hash for Scalar {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn types_of(fields: &[FieldRef]) -> Result<Vec<SqlType>, DataFusionError> {
    fields
        .iter()
        .map(|f| {
            SqlType::of_field(f).ok_or_else(|| {
                external(Error::new(ErrorKind::UndefinedFunction, format!("no function takes {}", f.data_type())))
            })
        })
        .collect()
}

impl ScalarUDFImpl for Scalar {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType, DataFusionError> {
        let types: Vec<SqlType> = args.iter().map(|t| SqlType::of_arrow(t).unwrap_or(SqlType::Text)).collect();
        (self.returns)(&types, &[]).map(|t| t.arrow()).map_err(external)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef, DataFusionError> {
        let ty = (self.returns)(&types_of(args.arg_fields)?, args.scalar_arguments).map_err(external)?;
        Ok(Arc::new(ty.field(self.name, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let types = types_of(&args.arg_fields)?;
        let result = SqlType::of_field(&args.return_field)
            .ok_or_else(|| external(Error::internal(format!("{} has no result type", self.name))))?;
        let all_scalar = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let once = all_scalar && self.signature.volatility != Volatility::Volatile;
        let count = if once { 1 } else { args.number_rows };
        let call = Call { types: &types, result: &result, options: &args.config_options };
        let input = if args.args.is_empty() {
            vec![vec![]; count]
        } else {
            let arrays = args
                .args
                .iter()
                .map(|a| match a {
                    ColumnarValue::Scalar(s) => s.to_array_of_size(count),
                    ColumnarValue::Array(a) => Ok(a.clone()),
                })
                .collect::<Result<Vec<_>, _>>()?;
            input(&arrays, &types).map_err(external)?
        };
        let mut output = Vec::with_capacity(count);
        for row in &input {
            let value = if self.strict && row.iter().any(Value::is_null) {
                Value::Null
            } else {
                (self.body)(&call, row).map_err(external)?
            };
            output.push(value);
        }
        let array = array_of(&result, output).map_err(external)?;
        if once {
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
        } else {
            Ok(ColumnarValue::Array(array))
        }
    }
}

/// The values of an array; intervals as [`of_interval`] puts them.
///
/// # Errors
/// `CannotCoerce`.
pub fn values(array: &ArrayRef, ty: &SqlType) -> Result<Vec<Value>> {
    Ok(input(std::slice::from_ref(array), std::slice::from_ref(ty))?.into_iter().flatten().collect())
}

/// An array of values of a type.
///
/// # Errors
/// `Internal` when a value is not of the type.
pub fn array_of(ty: &SqlType, values: Vec<Value>) -> Result<ArrayRef> {
    if *ty == SqlType::Interval {
        let spans = values.iter().map(|v| interval(v).map(to_arrow));
        return Ok(Arc::new(spans.collect::<IntervalMonthDayNanoArray>()));
    }
    let schema = Arc::new(Schema::new(vec![ty.field("r", true)]));
    let rows: Vec<Row> = values.into_iter().map(|v| vec![v]).collect();
    Ok(rows::to_batch(&schema, std::slice::from_ref(ty), &rows)?.column(0).clone())
}

/// Arrays as rows of values; intervals as [`of_interval`] puts them.
fn input(arrays: &[ArrayRef], types: &[SqlType]) -> Result<Vec<Row>> {
    let mut arrays = arrays.to_vec();
    let mut spans = vec![];
    let mut carried = types.to_vec();
    for (at, ty) in types.iter().enumerate().filter(|(_, t)| **t == SqlType::Interval) {
        let array = rows::as_carried(&arrays[at], ty)?;
        arrays[at] = Arc::new(NullArray::new(array.len()));
        carried[at] = SqlType::Text;
        spans.push((at, array));
    }
    let fields: Vec<Field> =
        arrays.iter().enumerate().map(|(i, a)| Field::new(i.to_string(), a.data_type().clone(), true)).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
        .map_err(|e| Error::internal(format!("arguments: {e}")))?;
    let mut rows = rows::from_batch(&batch, &carried)?;
    for (at, array) in spans {
        let Some(array) = array.as_primitive_opt::<IntervalMonthDayNanoType>() else { continue };
        for (row, span) in rows.iter_mut().zip(array) {
            row[at] = span.map_or(Value::Null, |v| of_interval(from_arrow(v)));
        }
    }
    Ok(rows)
}

/// Arrow's interval as Atoll's.
pub fn from_arrow(v: IntervalMonthDayNano) -> Interval {
    Interval { months: v.months, days: v.days, micros: v.nanoseconds / 1000 }
}

/// Atoll's interval as Arrow's; one beyond 292 years of hours is cut to that.
pub fn to_arrow(v: Interval) -> IntervalMonthDayNano {
    IntervalMonthDayNano::new(v.months, v.days, v.micros.saturating_mul(1000))
}

/// An interval among values: rows hold none, so it stands as an array of its parts.
pub fn of_interval(v: Interval) -> Value {
    Value::Array(vec![Value::Int4(v.months), Value::Int4(v.days), Value::Int8(v.micros)])
}

/// The interval that [`of_interval`] put there.
pub fn interval(value: &Value) -> Option<Interval> {
    match value {
        Value::Array(parts) => match parts.as_slice() {
            [Value::Int4(months), Value::Int4(days), Value::Int8(micros)] => {
                Some(Interval { months: *months, days: *days, micros: *micros })
            }
            _ => None,
        },
        _ => None,
    }
}

/// The text in a value.
pub fn text(value: &Value) -> &str {
    match value {
        Value::Text(s) => s,
        _ => "",
    }
}

/// Any value as its text form.
pub fn shown(ty: &SqlType, value: &Value) -> String {
    if let (SqlType::Interval, Some(span)) = (ty, interval(value)) {
        let mut out = vec![];
        write_interval(span, &mut out);
        return String::from_utf8_lossy(&out).into_owned();
    }
    atoll_model::text::to_text(ty, value)
}

/// An integer argument.
pub fn integer(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}
