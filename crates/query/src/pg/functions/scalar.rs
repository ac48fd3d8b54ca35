//! A function over [`Value`]s as DataFusion calls it.

use crate::rows;
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema};
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
    /// Options, among them the session's hooks.
    pub options: &'a ConfigOptions,
}

type Body = dyn Fn(&Call<'_>, &[Value]) -> Result<Value> + Send + Sync;
type ReturnType = dyn Fn(&[SqlType]) -> Result<SqlType> + Send + Sync;

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
            returns: Arc::new(move |_| Ok(returns.clone())),
            strict: true,
            body: Arc::new(body),
        }
    }

    /// Its result's type depends on the arguments'.
    pub fn returning(mut self, returns: impl Fn(&[SqlType]) -> Result<SqlType> + Send + Sync + 'static) -> Self {
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
        (self.returns)(&types).map(|t| t.arrow()).map_err(external)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef, DataFusionError> {
        let ty = (self.returns)(&types_of(args.arg_fields)?).map_err(external)?;
        Ok(Arc::new(ty.field(self.name, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let types = types_of(&args.arg_fields)?;
        let result = (self.returns)(&types).map_err(external)?;
        let all_scalar = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let once = all_scalar && self.signature.volatility != Volatility::Volatile;
        let count = if once { 1 } else { args.number_rows };
        let call = Call { types: &types, options: &args.config_options };
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
            let fields: Vec<Field> = arrays
                .iter()
                .enumerate()
                .map(|(i, a)| Field::new(i.to_string(), a.data_type().clone(), true))
                .collect();
            let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?;
            rows::from_batch(&batch, &types).map_err(external)?
        };
        let mut output = Vec::with_capacity(count);
        for row in &input {
            let value = if self.strict && row.iter().any(Value::is_null) {
                Value::Null
            } else {
                (self.body)(&call, row).map_err(external)?
            };
            output.push(vec![value]);
        }
        let schema = Arc::new(Schema::new(vec![result.field("r", true)]));
        let batch = rows::to_batch(&schema, std::slice::from_ref(&result), &output).map_err(external)?;
        let array = batch.column(0).clone();
        if once {
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
        } else {
            Ok(ColumnarValue::Array(array))
        }
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
    atoll_model::text::to_text(ty, value)
}

/// An integer argument.
pub fn integer(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}
