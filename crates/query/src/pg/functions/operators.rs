//! Operators that DataFusion plans differently, by the types of their operands.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, cast};
use datafusion::sql::sqlparser::ast::BinaryOperator;

/// Plans PostgreSQL's operators on dates and json.
#[derive(Debug)]
pub struct Operators;

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let (Ok(left), Ok(right)) = (expr.left.get_type(schema), expr.right.get_type(schema)) else {
            return Ok(PlannerResult::Original(expr));
        };
        let binary = |l: Expr, op: Operator, r: Expr| Expr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r)));
        let int = |e: Expr| cast(e, DataType::Int32);
        let moment = || DataType::Timestamp(TimeUnit::Microsecond, None);
        Ok(match (&expr.op, &left, &right) {
            (BinaryOperator::Minus, DataType::Date32, DataType::Date32) => {
                PlannerResult::Planned(binary(int(expr.left), Operator::Minus, int(expr.right)))
            }
            (BinaryOperator::Plus, DataType::Date32, r) if r.is_signed_integer() => {
                PlannerResult::Planned(cast(binary(int(expr.left), Operator::Plus, int(expr.right)), DataType::Date32))
            }
            (BinaryOperator::Minus, DataType::Date32, r) if r.is_signed_integer() => {
                PlannerResult::Planned(cast(binary(int(expr.left), Operator::Minus, int(expr.right)), DataType::Date32))
            }
            (BinaryOperator::Plus, l, DataType::Date32) if l.is_signed_integer() => {
                PlannerResult::Planned(cast(binary(int(expr.left), Operator::Plus, int(expr.right)), DataType::Date32))
            }
            (BinaryOperator::Plus, DataType::Date32, DataType::Interval(_)) => {
                PlannerResult::Planned(binary(cast(expr.left, moment()), Operator::Plus, expr.right))
            }
            (BinaryOperator::Minus, DataType::Date32, DataType::Interval(_)) => {
                PlannerResult::Planned(binary(cast(expr.left, moment()), Operator::Minus, expr.right))
            }
            (BinaryOperator::PGExp, l, r) if l.is_numeric() && r.is_numeric() => {
                PlannerResult::Planned(datafusion::functions::expr_fn::power(
                    cast(expr.left, DataType::Float64),
                    cast(expr.right, DataType::Float64),
                ))
            }
            (op, DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8, _) => match json_function(op) {
                Some(name) => PlannerResult::Planned(call(name, vec![expr.left, expr.right])),
                None => PlannerResult::Original(expr),
            },
            _ => PlannerResult::Original(expr),
        })
    }
}

fn json_function(op: &BinaryOperator) -> Option<&'static str> {
    Some(match op {
        BinaryOperator::Arrow => "atoll_json_get",
        BinaryOperator::LongArrow => "atoll_json_get_text",
        BinaryOperator::HashArrow => "atoll_json_path",
        BinaryOperator::HashLongArrow => "atoll_json_path_text",
        BinaryOperator::AtArrow => "atoll_json_contains",
        BinaryOperator::Question => "atoll_json_exists",
        _ => return None,
    })
}

fn call(name: &'static str, args: Vec<Expr>) -> Expr {
    use std::sync::{Arc, OnceLock};
    static FUNCTIONS: OnceLock<Vec<Arc<datafusion::logical_expr::ScalarUDF>>> = OnceLock::new();
    let functions =
        FUNCTIONS.get_or_init(|| super::json::functions().into_iter().map(|f| Arc::new(f.into())).collect());
    match functions.iter().find(|f| f.name() == name) {
        Some(function) => {
            Expr::ScalarFunction(datafusion::logical_expr::expr::ScalarFunction::new_udf(function.clone(), args))
        }
        // Every name of `json_function` is defined in `json`; without one the operator stays unplanned.
        None => args.into_iter().next().unwrap_or_default(),
    }
}
