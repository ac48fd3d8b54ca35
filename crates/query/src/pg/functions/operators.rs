//! Operators, planned by the SQL types of their operands.
//!
//! Invariant: a string literal without a type takes its type from the other operand and is read as PostgreSQL reads it, or the
//! statement fails with PostgreSQL's error; operands that no operator of PostgreSQL takes together are refused (42883) instead of
//! being turned into text or numbers silently.

use super::scalar::Scalar;
use crate::pg::{casts, unknown};
use atoll_model::{Error, ErrorKind, SqlType};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator, ScalarUDF, cast};
use datafusion::sql::sqlparser::ast::BinaryOperator as Op;
use std::sync::{Arc, OnceLock};

/// Plans PostgreSQL's operators.
#[derive(Debug)]
pub struct Operators;

/// The families of types that compare with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    Number,
    Text,
    Bool,
    Moment,
    Time,
    Interval,
    Bytes,
    Array,
}

fn family(ty: &SqlType) -> Family {
    match ty {
        SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Float4 | SqlType::Float8 | SqlType::Numeric(_) => {
            Family::Number
        }
        // What functions give of uuid and json columns may have lost its type: all that is carried as text compares.
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Uuid | SqlType::Json | SqlType::Jsonb => {
            Family::Text
        }
        SqlType::Bool => Family::Bool,
        SqlType::Date | SqlType::Timestamp(_) | SqlType::TimestampTz(_) => Family::Moment,
        SqlType::Time(_) => Family::Time,
        SqlType::Interval => Family::Interval,
        SqlType::Bytea => Family::Bytes,
        SqlType::Array(_) => Family::Array,
    }
}

/// Whether values of two types compare, and fit into one column.
pub(crate) fn alike(a: &SqlType, b: &SqlType) -> bool {
    family(a) == family(b)
}

fn is_float(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Float4 | SqlType::Float8)
}

fn is_int(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Int2 | SqlType::Int4 | SqlType::Int8)
}

/// The error for operands that no operator takes.
pub(crate) fn undefined(left: &SqlType, op: &str, right: &SqlType) -> DataFusionError {
    let plain = |ty: &SqlType| match ty {
        SqlType::Numeric(_) => "numeric".to_owned(),
        SqlType::Varchar(_) => "character varying".to_owned(),
        SqlType::Char(_) => "character".to_owned(),
        ty => ty.without_second_digits().to_string(),
    };
    DataFusionError::External(Box::new(
        Error::new(
            ErrorKind::UndefinedFunction,
            format!("operator does not exist: {} {op} {}", plain(left), plain(right)),
        )
        .hint("No operator matches the given name and argument types. You might need to add explicit type casts."),
    ))
}

fn is_comparison(op: &Op) -> bool {
    matches!(op, Op::Eq | Op::NotEq | Op::Lt | Op::LtEq | Op::Gt | Op::GtEq)
}

impl ExprPlanner for Operators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let RawBinaryExpr { op, mut left, mut right } = expr;
        let (Some(mut l), Some(mut r)) = (unknown::sql_type(&left, schema), unknown::sql_type(&right, schema)) else {
            return Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
        };
        match (unknown::literal(&left).is_some(), unknown::literal(&right).is_some()) {
            (false, true) => {
                if let Some(wanted) = wanted(&op, &l, false) {
                    right = unknown::resolve(right, &wanted)?;
                    r = wanted;
                }
            }
            (true, false) => {
                if let Some(wanted) = wanted(&op, &r, true) {
                    left = unknown::resolve(left, &wanted)?;
                    l = wanted;
                }
            }
            _ => {}
        }
        typed(op, left, l, right, r, schema)
    }

    fn plan_extract(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        Ok(PlannerResult::Original(args))
    }
}

/// The type that a literal without one takes beside an operand of type `other`; `None`: it stays text.
fn wanted(op: &Op, other: &SqlType, is_left: bool) -> Option<SqlType> {
    let kind = family(other);
    match op {
        op if is_comparison(op) => match other {
            SqlType::Numeric(_) => Some(SqlType::Numeric(None)),
            SqlType::Text | SqlType::Varchar(_) | SqlType::Json => None,
            other => Some(other.clone()),
        },
        Op::Plus | Op::Minus | Op::Multiply | Op::Divide | Op::Modulo => match kind {
            Family::Number => Some(match other {
                SqlType::Numeric(_) => SqlType::Numeric(None),
                other => other.clone(),
            }),
            Family::Interval if matches!(op, Op::Plus | Op::Minus) => Some(SqlType::Interval),
            Family::Moment if *op == Op::Minus && *other != SqlType::Date => Some(other.clone()),
            Family::Moment if *op == Op::Minus => Some(SqlType::Date),
            Family::Moment if *op == Op::Plus && *other != SqlType::Date && !is_left => Some(SqlType::Interval),
            _ => None,
        },
        Op::StringConcat | Op::AtArrow | Op::ArrowAt | Op::PGOverlap => match other {
            SqlType::Array(_) | SqlType::Jsonb | SqlType::Bytea => Some(other.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn typed(
    op: Op,
    left: Expr,
    l: SqlType,
    right: Expr,
    r: SqlType,
    schema: &DFSchema,
) -> Result<PlannerResult<RawBinaryExpr>> {
    let binary = |l: Expr, op: Operator, r: Expr| Expr::BinaryExpr(BinaryExpr::new(Box::new(l), op, Box::new(r)));
    let planned = |e: Expr| Ok(PlannerResult::Planned(e));
    let int = |e: Expr, ty: &SqlType| match ty {
        SqlType::Date => casts::days(e, DataType::Int32),
        _ => cast(e, DataType::Int32),
    };
    let date = |e: Expr| casts::days(e, DataType::Date32);
    let (a, b) = (family(&l), family(&r));
    let null = |e: &Expr| matches!(e.get_type(schema), Ok(DataType::Null)) || matches!(e, Expr::Placeholder(_));
    let known = !null(&left) && !null(&right);
    let original = |left, op, right| Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }));
    if is_comparison(&op) {
        if a == Family::Interval && b == Family::Interval {
            let (left, right) = (call("atoll_interval_length", vec![left]), call("atoll_interval_length", vec![right]));
            return original(left, op, right);
        }
        if known && a != b {
            return Err(undefined(&l, &op.to_string(), &r));
        }
        return original(left, op, right);
    }
    match &op {
        Op::Plus | Op::Minus | Op::Multiply | Op::Divide | Op::Modulo => {
            let sign = if op == Op::Plus { Operator::Plus } else { Operator::Minus };
            let additive = matches!(op, Op::Plus | Op::Minus);
            match (&l, &r) {
                _ if !known => original(left, op, right),
                _ if a == Family::Number && b == Family::Number => {
                    let decimal = matches!(l, SqlType::Numeric(_)) || matches!(r, SqlType::Numeric(_));
                    if op == Op::Divide && decimal && !is_float(&l) && !is_float(&r) {
                        return planned(call("atoll_div", vec![left, right]));
                    }
                    if op == Op::Modulo && (is_float(&l) || is_float(&r)) {
                        return Err(undefined(&l, "%", &r));
                    }
                    original(left, op, right)
                }
                (SqlType::Date, SqlType::Date) if op == Op::Minus => {
                    planned(binary(int(left, &l), sign, int(right, &r)))
                }
                (SqlType::Date, n) if additive && is_int(n) => {
                    planned(date(binary(int(left, &l), sign, int(right, &r))))
                }
                (n, SqlType::Date) if op == Op::Plus && is_int(n) => {
                    planned(date(binary(int(left, &l), sign, int(right, &r))))
                }
                (SqlType::Date, SqlType::Time(_)) if op == Op::Plus => {
                    planned(call("atoll_date_time", vec![left, right]))
                }
                (SqlType::Time(_), SqlType::Date) if op == Op::Plus => {
                    planned(call("atoll_date_time", vec![right, left]))
                }
                (SqlType::Time(_), SqlType::Time(_)) if op == Op::Minus => {
                    planned(call("atoll_time_diff", vec![left, right]))
                }
                (SqlType::Time(_), SqlType::Interval) if additive => {
                    let name = if op == Op::Plus { "atoll_time_add" } else { "atoll_time_sub" };
                    planned(call(name, vec![left, right]))
                }
                _ if a == Family::Moment && b == Family::Moment && op == Op::Minus => {
                    planned(call("atoll_timestamp_diff", vec![left, right]))
                }
                _ if a == Family::Moment && b == Family::Interval && additive => {
                    let name = if op == Op::Plus { "atoll_moment_add" } else { "atoll_moment_sub" };
                    planned(call(name, vec![left, right]))
                }
                _ if a == Family::Interval && b == Family::Moment && op == Op::Plus => {
                    planned(call("atoll_moment_add", vec![right, left]))
                }
                (SqlType::Interval, SqlType::Time(_)) if op == Op::Plus => {
                    planned(call("atoll_time_add", vec![right, left]))
                }
                (SqlType::Interval, SqlType::Interval) if additive => {
                    let name = if op == Op::Plus { "atoll_interval_add" } else { "atoll_interval_sub" };
                    planned(call(name, vec![left, right]))
                }
                _ if a == Family::Interval && b == Family::Number && op == Op::Multiply => {
                    planned(call("atoll_interval_mul", vec![left, right]))
                }
                _ if a == Family::Number && b == Family::Interval && op == Op::Multiply => {
                    planned(call("atoll_interval_mul", vec![right, left]))
                }
                _ if a == Family::Interval && b == Family::Number && op == Op::Divide => {
                    planned(call("atoll_interval_div", vec![left, right]))
                }
                (SqlType::Jsonb, _) if op == Op::Minus => planned(call("atoll_json_delete", vec![left, right])),
                _ => Err(undefined(&l, &op.to_string(), &r)),
            }
        }
        Op::PGExp => {
            if known && a == Family::Number && b == Family::Number {
                return planned(call("power", vec![left, right]));
            }
            original(left, op, right)
        }
        Op::PGOverlap if a == Family::Array && b == Family::Array => {
            planned(datafusion::functions_nested::expr_fn::array_has_any(left, right))
        }
        Op::StringConcat => match (&l, &r) {
            (SqlType::Jsonb, SqlType::Jsonb) => planned(call("atoll_json_concat", vec![left, right])),
            _ if a == Family::Array || b == Family::Array || !known => original(left, op, right),
            _ if a == Family::Text && b == Family::Text => original(left, op, right),
            _ if a == Family::Text => original(left, op, cast(right, DataType::Utf8)),
            _ if b == Family::Text => original(cast(left, DataType::Utf8), op, right),
            (SqlType::Bytea, SqlType::Bytea) => original(left, op, right),
            _ => Err(undefined(&l, "||", &r)),
        },
        Op::PGRegexMatch | Op::PGRegexIMatch | Op::PGRegexNotMatch | Op::PGRegexNotIMatch if known => {
            if a != Family::Text || b != Family::Text {
                return Err(undefined(&l, &op.to_string(), &r));
            }
            original(left, op, right)
        }
        op_ => match json_function(op_) {
            Some(name) if a == Family::Text => planned(call(name, vec![left, right])),
            _ => original(left, op, right),
        },
    }
}

fn json_function(op: &Op) -> Option<&'static str> {
    Some(match op {
        Op::Arrow => "atoll_json_get",
        Op::LongArrow => "atoll_json_get_text",
        Op::HashArrow => "atoll_json_path",
        Op::HashLongArrow => "atoll_json_path_text",
        Op::AtArrow => "atoll_json_contains",
        Op::ArrowAt => "atoll_json_contained",
        Op::Question => "atoll_json_exists",
        Op::QuestionPipe => "atoll_json_exists_any",
        Op::QuestionAnd => "atoll_json_exists_all",
        Op::HashMinus => "atoll_json_delete_path",
        _ => return None,
    })
}

/// A call of one of the functions behind operators.
pub(crate) fn call(name: &'static str, args: Vec<Expr>) -> Expr {
    static FUNCTIONS: OnceLock<Vec<Arc<ScalarUDF>>> = OnceLock::new();
    let functions = FUNCTIONS.get_or_init(|| {
        let all: Vec<Scalar> = super::json::functions()
            .into_iter()
            .chain(super::datetime::functions())
            .chain(super::numeric::functions())
            .collect();
        all.into_iter().map(|f| Arc::new(f.into())).collect()
    });
    match functions.iter().find(|f| f.name() == name) {
        Some(function) => Expr::ScalarFunction(ScalarFunction::new_udf(function.clone(), args)),
        // Every name used here is defined in those modules; without one the operator stays unplanned.
        None => args.into_iter().next().unwrap_or_default(),
    }
}
