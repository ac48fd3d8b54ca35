//! Integer arithmetic that fails instead of wrapping.
//!
//! Invariant: no `+`, `-`, `*` or unary `-` over integers reaches execution in its wrapping form. DataFusion's own expression
//! wraps around silently, also while it folds constants, so the analyzer puts a checked function in its place right after types are
//! known. The function is immutable, so constants are still folded; one that overflows is left and fails when it is run.

use super::error::external;
use atoll_model::{Error, ErrorKind};
use datafusion::arrow::array::{ArrayRef, AsArray, Datum};
use datafusion::arrow::compute::kernels::numeric;
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use std::sync::{Arc, LazyLock};

/// One of the checked operators.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    name: &'static str,
    op: Operator,
    signature: Signature,
}

fn udf(name: &'static str, op: Operator) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(Checked { name, op, signature: Signature::any(2, Volatility::Immutable) }))
}

static PLUS: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| udf("int_add", Operator::Plus));
static MINUS: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| udf("int_sub", Operator::Minus));
static TIMES: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| udf("int_mul", Operator::Multiply));
static OVER: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| udf("float_div", Operator::Divide));

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(args.first().cloned().unwrap_or(DataType::Int64))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let kernel: fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError> = match self.op {
            Operator::Plus => numeric::add,
            Operator::Minus => numeric::sub,
            Operator::Divide => numeric::div,
            _ => numeric::mul,
        };
        if args.return_type().is_floating() {
            return self.float(&args, kernel);
        }
        let result = match args.args.as_slice() {
            [ColumnarValue::Array(a), ColumnarValue::Array(b)] => kernel(a, b),
            [ColumnarValue::Array(a), ColumnarValue::Scalar(b)] => kernel(a, &b.to_scalar()?),
            [ColumnarValue::Scalar(a), ColumnarValue::Array(b)] => kernel(&a.to_scalar()?, b),
            [ColumnarValue::Scalar(a), ColumnarValue::Scalar(b)] => {
                let array =
                    kernel(&a.to_scalar()?, &b.to_scalar()?).map_err(|e| self.overflow(e, args.return_type()))?;
                return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?));
            }
            _ => return Err(external(Error::internal("a checked operator with other than two operands"))),
        };
        Ok(ColumnarValue::Array(result.map_err(|e| self.overflow(e, args.return_type()))?))
    }
}

/// Numbers of a float array or constant, `None` for NULL.
fn floats(value: &ColumnarValue, rows: usize) -> Result<Vec<Option<f64>>> {
    let array = datafusion::arrow::compute::cast(&value.to_array(rows)?, &DataType::Float64)?;
    Ok(array.as_primitive::<Float64Type>().iter().collect())
}

impl Checked {
    /// Floating point: a division by zero and a result that overflows are errors, as in PostgreSQL. Infinity and NaN that were
    /// there before stay.
    fn float(
        &self,
        args: &ScalarFunctionArgs,
        kernel: fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError>,
    ) -> Result<ColumnarValue> {
        let [a, b] = args.args.as_slice() else {
            return Err(external(Error::internal("a checked operator with other than two operands")));
        };
        let scalar = matches!((a, b), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { args.number_rows };
        let result = kernel(&a.to_array(rows)?, &b.to_array(rows)?)?;
        let suspicious =
            floats(&ColumnarValue::Array(result.clone()), rows)?.iter().any(|x| x.is_some_and(|x| !x.is_finite()));
        if suspicious {
            let made = floats(&ColumnarValue::Array(result.clone()), rows)?;
            for ((x, y), z) in floats(a, rows)?.into_iter().zip(floats(b, rows)?).zip(made) {
                let (Some(x), Some(y), Some(z)) = (x, y, z) else { continue };
                if self.op == Operator::Divide && y == 0.0 && !x.is_nan() {
                    return Err(external(Error::new(ErrorKind::DivisionByZero, "division by zero")));
                }
                if z.is_infinite() && x.is_finite() && y.is_finite() {
                    return Err(external(Error::new(ErrorKind::NumericOutOfRange, "value out of range: overflow")));
                }
            }
        }
        Ok(if scalar {
            ColumnarValue::Scalar(ScalarValue::try_from_array(&result, 0)?)
        } else {
            ColumnarValue::Array(result)
        })
    }

    fn overflow(&self, error: ArrowError, ty: &DataType) -> datafusion::common::DataFusionError {
        let name = match ty {
            DataType::Int16 => "smallint",
            DataType::Int32 => "integer",
            _ => "bigint",
        };
        external(match error {
            ArrowError::ArithmeticOverflow(_) => {
                Error::new(ErrorKind::NumericOutOfRange, format!("{name} out of range"))
            }
            other => Error::internal(other.to_string()),
        })
    }
}

/// The operator that a checked function stands for: for showing a plan as SQL.
pub(crate) fn operator_of(function: &ScalarFunction) -> Option<Operator> {
    [&PLUS, &MINUS, &TIMES, &OVER].into_iter().find(|f| f.name() == function.func.name()).map(|f| match f.name() {
        "int_add" => Operator::Plus,
        "int_sub" => Operator::Minus,
        "float_div" => Operator::Divide,
        _ => Operator::Multiply,
    })
}

/// The rule.
#[derive(Debug)]
pub(crate) struct CheckedArithmetic;

impl AnalyzerRule for CheckedArithmetic {
    fn name(&self) -> &str {
        "checked_arithmetic"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| {
            let mut schema = datafusion::common::DFSchema::empty();
            for input in node.inputs() {
                schema.merge(input.schema());
            }
            if let LogicalPlan::TableScan(scan) = &node {
                schema.merge(&scan.projected_schema);
            }
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let rewritten = expr.transform_up(|e| checked(e, &schema))?;
                Ok(if rewritten.transformed { rewritten.update_data(|e| name.restore(e)) } else { rewritten })
            })
        })
        .map(|t| t.data)
    }
}

fn checked(expr: Expr, schema: &datafusion::common::DFSchema) -> Result<Transformed<Expr>> {
    let integer = |e: &Expr| matches!(e.get_type(schema), Ok(DataType::Int16 | DataType::Int32 | DataType::Int64));
    let float = |e: &Expr| matches!(e.get_type(schema), Ok(DataType::Float32 | DataType::Float64));
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide)
                && (op != Operator::Divide && integer(&left) && integer(&right) || float(&left) && float(&right))
                && left.get_type(schema)? == right.get_type(schema)? =>
        {
            let f = match op {
                Operator::Plus => &PLUS,
                Operator::Minus => &MINUS,
                Operator::Multiply => &TIMES,
                _ => &OVER,
            };
            Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf((*f).clone(), vec![*left, *right]))))
        }
        Expr::Negative(inner) if integer(&inner) && !matches!(*inner, Expr::Literal(..)) => {
            let zero = ScalarValue::new_zero(&inner.get_type(schema)?)?;
            let args = vec![Expr::Literal(zero, None), *inner];
            Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(MINUS.clone(), args))))
        }
        Expr::Cast(cast) => Ok(match crate::pg::casts::checked(&cast, schema)? {
            Some(call) => Transformed::yes(call),
            None => Transformed::no(Expr::Cast(cast)),
        }),
        other => Ok(Transformed::no(other)),
    }
}
