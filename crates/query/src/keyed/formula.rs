//! New values that a site computes as the engine does: columns, parameters, whole numbers, and their sums, differences and products.
//!
//! Invariant: all parts of a formula have the type of the column that it is for, so no engine has anything to convert, and an overflow is
//! the same error (22003) everywhere.

use crate::dml::params;
use atoll_model::{Result, SqlType, Table, Value};
use atoll_ports::query::{Arithmetic, SiteExpr};
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr};

/// A value over a row and parameters.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Formula {
    Column(usize, SqlType),
    Parameter(usize, SqlType),
    Number(SqlType, Value),
    Arithmetic(Arithmetic, Box<Formula>, Box<Formula>, SqlType),
}

impl Formula {
    /// An expression for a column of a type; `column` tells which column of the table an expression is. `None`: it is not of that form.
    pub(super) fn of(
        expr: &Expr,
        ty: &SqlType,
        table: &Table,
        parameters: &[SqlType],
        column: &impl Fn(&Expr) -> Option<usize>,
    ) -> Option<Formula> {
        if !matches!(ty, SqlType::Int4 | SqlType::Int8) {
            return None;
        }
        if let Some(at) = column(expr) {
            return (table.columns[at].ty == *ty).then(|| Formula::Column(at, ty.clone()));
        }
        if let Some(at) = params::placeholder(expr) {
            return (parameters.get(at) == Some(ty)).then(|| Formula::Parameter(at, ty.clone()));
        }
        if let Some((SqlType::Int8, Value::Int8(n))) = params::plain_literal(expr) {
            // PostgreSQL takes it for an integer if it fits one.
            let small = i32::try_from(n).ok()?;
            let value = if *ty == SqlType::Int4 { Value::Int4(small) } else { Value::Int8(n) };
            return Some(Formula::Number(ty.clone(), value));
        }
        match expr {
            Expr::Nested(inner) => Self::of(inner, ty, table, parameters, column),
            Expr::BinaryOp { left, op, right } => {
                let how = match op {
                    BinaryOperator::Plus => Arithmetic::Add,
                    BinaryOperator::Minus => Arithmetic::Subtract,
                    BinaryOperator::Multiply => Arithmetic::Multiply,
                    _ => return None,
                };
                let side = |e: &Expr| Self::of(e, ty, table, parameters, column).map(Box::new);
                Some(Formula::Arithmetic(how, side(left)?, side(right)?, ty.clone()))
            }
            _ => None,
        }
    }

    /// The formula with its parameters' values.
    ///
    /// # Errors
    /// Those of `given`.
    pub(super) fn with(&self, given: &impl Fn(usize) -> Result<Value>) -> Result<SiteExpr> {
        Ok(match self {
            Formula::Column(position, ty) => SiteExpr::Column { source: 0, position: *position, ty: ty.clone() },
            Formula::Parameter(at, ty) => SiteExpr::Value(ty.clone(), given(*at)?),
            Formula::Number(ty, value) => SiteExpr::Value(ty.clone(), value.clone()),
            Formula::Arithmetic(how, left, right, ty) => {
                SiteExpr::Arithmetic(*how, Box::new(left.with(given)?), Box::new(right.with(given)?), ty.clone())
            }
        })
    }
}
