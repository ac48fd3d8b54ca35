//! Parameters as literals: a statement that changes rows is planned each time it runs (unless the keyed path takes it), with the
//! values of `$1`, `$2` … in place.
//!
//! Invariant: the literal that stands for a parameter has the parameter's type and exactly its value.

use crate::pg::parse::faithful;
use atoll_model::{Error, ErrorKind, Result, SqlType, Value, round_seconds, text};
use datafusion::sql::sqlparser::ast::{
    Array as ArrayExpr, CastKind, DataType, Expr, Value as Literal, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use std::ops::ControlFlow;

/// Replaces every `$n` in a syntax tree.
///
/// # Errors
/// `UndefinedParameter` for an `$n` without a value.
pub(crate) fn substitute<T: VisitMut>(tree: &mut T, types: &[SqlType], values: &[Value]) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    struct Substitution<'a>(&'a [SqlType], &'a [Value]);
    impl VisitorMut for Substitution<'_> {
        type Break = Error;
        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
            if let Some(at) = placeholder(expr) {
                let (Some(ty), Some(value)) = (self.0.get(at), self.1.get(at)) else {
                    return ControlFlow::Break(undefined(at));
                };
                match literal(ty, value) {
                    Ok(literal) => *expr = literal,
                    Err(error) => return ControlFlow::Break(error),
                }
            }
            ControlFlow::Continue(())
        }
    }
    crate::syntax::try_visit_mut(tree, &mut Substitution(types, values))
}

/// The error for an `$n` (given from 0) without a value.
pub(crate) fn undefined(at: usize) -> Error {
    Error::new(ErrorKind::UndefinedParameter, format!("there is no parameter ${}", at + 1))
}

/// The number, from 0, of the parameter that an expression is.
pub(crate) fn placeholder(expr: &Expr) -> Option<usize> {
    match expr {
        Expr::Value(v) => match &v.value {
            Literal::Placeholder(name) => name.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1),
            _ => None,
        },
        Expr::Nested(inner) => placeholder(inner),
        _ => None,
    }
}

/// A literal of this type and value.
///
/// # Errors
/// `Internal` when the type's name cannot be read back.
pub(crate) fn literal(ty: &SqlType, value: &Value) -> Result<Expr> {
    let quoted = |s: String| Expr::Value(faithful::text(s).into());
    Ok(match value {
        Value::Null => cast(Expr::Value(Literal::Null.into()), ty)?,
        Value::Bool(b) => Expr::Value(Literal::Boolean(*b).into()),
        Value::Text(t) => quoted(t.clone()),
        Value::Bytea(b) => {
            Expr::Value(Literal::HexStringLiteral(b.iter().map(|x| format!("{x:02x}")).collect()).into())
        }
        Value::Array(items) => {
            let item = match ty {
                SqlType::Array(item) => item.as_ref(),
                other => other,
            };
            let elem = items.iter().map(|v| literal(item, v)).collect::<Result<_>>()?;
            Expr::Array(ArrayExpr { elem, named: true })
        }
        // Exactly this value: the cast must not round it.
        _ if round_seconds(ty, value.clone())? != *value => literal(&ty.without_second_digits(), value)?,
        _ => cast(quoted(text::to_text(ty, value)), ty)?,
    })
}

/// An expression cast to a type.
///
/// # Errors
/// `Internal` when the type's name cannot be read back.
pub(crate) fn cast(expr: Expr, ty: &SqlType) -> Result<Expr> {
    // Types carried as text need no cast, and DataFusion does not know their names.
    let name = match ty {
        SqlType::Uuid | SqlType::Json | SqlType::Jsonb | SqlType::Varchar(_) | SqlType::Char(_) => "text".to_owned(),
        SqlType::Numeric(None) => match &expr {
            Expr::Value(v) => match &v.value {
                Literal::SingleQuotedString(s) => {
                    let number = Expr::Value(Literal::Number(s.clone(), false).into());
                    // A minus in front of another begins a comment.
                    return Ok(if s.starts_with('-') { Expr::Nested(Box::new(number)) } else { number });
                }
                _ => "numeric".to_owned(),
            },
            _ => "numeric".to_owned(),
        },
        other => other.to_string(),
    };
    Ok(Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(expr),
        data_type: parse_type(&name)?,
        array: false,
        format: None,
    })
}

fn parse_type(name: &str) -> Result<DataType> {
    Parser::new(&PostgreSqlDialect {})
        .try_with_sql(name)
        .and_then(|mut p| p.parse_data_type())
        .map_err(|e| Error::internal(format!("type {name}: {e}")))
}

/// The value of an expression that is a plain literal, with its type: what an INSERT of many rows is made of.
pub(crate) fn plain_literal(expr: &Expr) -> Option<(SqlType, Value)> {
    use datafusion::sql::sqlparser::ast::UnaryOperator;
    Some(match expr {
        Expr::Value(v) => match &v.value {
            Literal::Null => (SqlType::Text, Value::Null),
            Literal::Boolean(b) => (SqlType::Bool, Value::Bool(*b)),
            Literal::SingleQuotedString(s) | Literal::EscapedStringLiteral(s) => {
                (SqlType::Text, Value::Text(s.clone()))
            }
            Literal::Number(n, _) => number(n)?,
            _ => return None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match expr.as_ref() {
            Expr::Value(v) => match &v.value {
                Literal::Number(n, _) => number(&format!("-{n}"))?,
                _ => return None,
            },
            _ => return None,
        },
        Expr::Nested(inner) => plain_literal(inner)?,
        _ => return None,
    })
}

fn number(n: &str) -> Option<(SqlType, Value)> {
    if let Ok(i) = n.parse::<i64>() {
        return Some((SqlType::Int8, Value::Int8(i)));
    }
    if n.contains(['e', 'E']) {
        return None;
    }
    let (unscaled, scale) = text::parse_numeric(n, None).ok()?;
    Some((SqlType::Numeric(None), Value::Numeric(unscaled, scale)))
}
