//! Expressions inside definitions: defaults, checks, bounds. They are kept as SQL text and planned again where they are used.
//!
//! Invariant: what is stored here has been planned once against the table's columns, so using it later cannot fail on a name or type.

use super::Binder;
use crate::pg::rewrite;
use crate::syntax::{self, fold};
use atoll_model::{Error, ErrorKind, Result, SqlType, Value, round_seconds, text};
use datafusion::arrow::array::{Array, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::{DFSchema, DataFusionError, SchemaError};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, ExprSchemable, Volatility};
use datafusion::sql::sqlparser::ast::{self, ExprWithAlias, UnaryOperator, ValueWithSpan};
use std::sync::Arc;

impl Binder<'_> {
    /// Plans an expression over these columns.
    pub(super) fn plan(&self, expr: &ast::Expr, columns: &[(String, SqlType)]) -> Result<(Expr, DFSchema)> {
        let fields: Vec<_> = columns.iter().map(|(name, ty)| ty.field(name, true)).collect();
        let schema = DFSchema::try_from(Schema::new(fields)).map_err(plan_error)?;
        let planned = plan(self.state, expr, &schema)?;
        Ok((planned, schema))
    }

    /// Checks the expression of a CHECK constraint.
    ///
    /// # Errors
    /// `UndefinedColumn`, `DatatypeMismatch`, `NotSupported` for subqueries and what changes from one look to the next.
    pub(super) fn check(&self, expr: &ast::Expr, columns: &[(String, SqlType)]) -> Result<()> {
        refuse_subqueries(expr, "check constraint")?;
        let (planned, schema) = self.plan(expr, columns)?;
        refuse_aggregates(&planned, "check constraints")?;
        match planned.get_type(&schema).map_err(plan_error)? {
            DataType::Boolean | DataType::Null => {}
            other => {
                let ty = SqlType::of_arrow(&other).map_or_else(|| other.to_string(), |t| t.to_string());
                return Err(Error::new(
                    ErrorKind::DatatypeMismatch,
                    format!("argument of CHECK must be type boolean, not type {ty}"),
                ));
            }
        }
        if planned.is_volatile() {
            return Err(Error::unsupported("a CHECK constraint must not call functions whose answer changes"));
        }
        Ok(())
    }

    /// Checks a DEFAULT. `next_value` of sequences is looked up when it is used.
    ///
    /// # Errors
    /// `DatatypeMismatch`, and so on.
    pub(super) fn default(&self, column: &str, ty: &SqlType, expr: &ast::Expr) -> Result<String> {
        refuse_subqueries(expr, "DEFAULT expression")?;
        if references_column(expr) {
            return Err(Error::unsupported("cannot use column reference in DEFAULT expression"));
        }
        if !matches!(literal(expr), Some(Literal::Text(_))) {
            let (planned, schema) = self.plan(expr, &[])?;
            refuse_aggregates(&planned, "DEFAULT expressions")?;
            let given = planned.get_type(&schema).map_err(plan_error)?;
            if !assignable(&given, ty) {
                let name = SqlType::of_arrow(&given).map_or_else(|| given.to_string(), |t| t.to_string());
                return Err(Error::new(
                    ErrorKind::DatatypeMismatch,
                    format!("column \"{column}\" is of type {ty} but default expression is of type {name}"),
                ));
            }
        }
        if !volatile(self.state, expr) && !asks_session(self.state, expr) {
            // A default that cannot become a value of the column is refused now rather than at the first INSERT.
            constant(self.state, expr, ty)?;
        }
        Ok(expr.to_string())
    }
}

/// Whether an expression's value changes from call to call (`random()`, `nextval(…)`).
pub(super) fn volatile(state: &SessionState, expr: &ast::Expr) -> bool {
    plan(state, expr, &DFSchema::empty()).map_or(true, |planned| {
        let mut found = false;
        let _ = datafusion::common::tree_node::TreeNode::apply(&planned, |node| {
            if let Expr::ScalarFunction(call) = node {
                found |= call.func.signature().volatility == Volatility::Volatile;
            }
            Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
        });
        found
    })
}

/// Whether an expression's value depends on who evaluates it and when (`now()`, `current_setting(…)`).
pub(super) fn asks_session(state: &SessionState, expr: &ast::Expr) -> bool {
    plan(state, expr, &DFSchema::empty()).is_ok_and(|planned| crate::pg::expression_asks_session(&planned))
}

fn plan(state: &SessionState, expr: &ast::Expr, schema: &DFSchema) -> Result<Expr> {
    let mut expr = expr.clone();
    rewrite::expression(&mut expr)?;
    state.create_logical_expr_from_sql_expr(ExprWithAlias { expr, alias: None }, schema).map_err(plan_error)
}

/// What a constant expression is worth as a value of the type.
///
/// # Errors
/// As reading the text of such a value; `InvalidTableDefinition` when it is not constant.
pub fn constant(state: &SessionState, expr: &ast::Expr, ty: &SqlType) -> Result<Value> {
    match literal(expr) {
        Some(Literal::Null) => return Ok(Value::Null),
        Some(Literal::Text(s)) => return text::parse(ty, &s),
        Some(Literal::Number(n)) if !matches!(ty, SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_)) => {
            return match ty {
                // A number with a fraction is rounded on its way into an integer.
                SqlType::Int2 | SqlType::Int4 | SqlType::Int8 if n.contains(['.', 'e', 'E']) => {
                    let (whole, _) = text::parse_numeric(&n, Some((38, 0)))?;
                    text::parse(ty, &whole.to_string())
                }
                SqlType::Bool
                | SqlType::Bytea
                | SqlType::Date
                | SqlType::Timestamp(_)
                | SqlType::TimestampTz(_)
                | SqlType::Uuid => Err(Error::new(
                    ErrorKind::DatatypeMismatch,
                    format!("a value of type {ty} is needed, not the number {n}"),
                )),
                _ => text::parse(ty, &n),
            };
        }
        _ => {}
    }
    if references_column(expr) {
        return Err(
            Error::new(ErrorKind::InvalidTableDefinition, "cannot use column reference here").detail(expr.to_string())
        );
    }
    let schema = DFSchema::empty();
    let planned = plan(state, expr, &schema)?;
    let physical = state.create_physical_expr(planned, &schema).map_err(plan_error)?;
    let row = RecordBatch::try_new_with_options(
        Arc::new(Schema::empty()),
        vec![],
        &RecordBatchOptions::new().with_row_count(Some(1)),
    )
    .map_err(|e| Error::internal(e.to_string()))?;
    let value = physical.evaluate(&row).and_then(|v| v.into_array(1)).map_err(plan_error)?;
    if value.is_null(0) {
        return Ok(Value::Null);
    }
    let from = SqlType::of_arrow(value.data_type());
    if from.as_ref().is_some_and(|f| *f == SqlType::Text) && !matches!(ty, SqlType::Text) {
        let batch = RecordBatch::try_from_iter([("v", value)]).map_err(|e| Error::internal(e.to_string()))?;
        let rows = crate::rows::from_batch(&batch, &[SqlType::Text])?;
        return match rows.into_iter().next().and_then(|r| r.into_iter().next()) {
            Some(Value::Text(s)) => text::parse(ty, &s),
            _ => Ok(Value::Null),
        };
    }
    let batch = RecordBatch::try_from_iter([("v", value)]).map_err(|e| Error::internal(e.to_string()))?;
    let rows = crate::rows::from_batch(&batch, std::slice::from_ref(ty))?;
    round_seconds(ty, rows.into_iter().next().and_then(|r| r.into_iter().next()).unwrap_or(Value::Null))
}

enum Literal {
    Null,
    Text(String),
    Number(String),
}

fn literal(expr: &ast::Expr) -> Option<Literal> {
    match expr {
        ast::Expr::Value(ValueWithSpan { value, .. }) => match value {
            ast::Value::Null => Some(Literal::Null),
            ast::Value::SingleQuotedString(s) | ast::Value::EscapedStringLiteral(s) => Some(Literal::Text(s.clone())),
            ast::Value::Number(n, _) => Some(Literal::Number(n.clone())),
            _ => None,
        },
        ast::Expr::Nested(inner) => literal(inner),
        ast::Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match literal(expr)? {
            Literal::Number(n) => Some(Literal::Number(match n.strip_prefix('-') {
                Some(positive) => positive.to_owned(),
                None => format!("-{n}"),
            })),
            _ => None,
        },
        // What `pg_dump` and our own text of a default write: 'x'::text.
        ast::Expr::Cast { expr, .. } => match literal(expr)? {
            Literal::Null => Some(Literal::Null),
            _ => None,
        },
        _ => None,
    }
}

/// PostgreSQL's assignment casts, by families.
fn assignable(from: &DataType, to: &SqlType) -> bool {
    let Some(from) = SqlType::of_arrow(from) else { return false };
    let numeric = |t: &SqlType| {
        matches!(
            t,
            SqlType::Int2 | SqlType::Int4 | SqlType::Int8 | SqlType::Float4 | SqlType::Float8 | SqlType::Numeric(_)
        )
    };
    let moment = |t: &SqlType| matches!(t, SqlType::Date | SqlType::Timestamp(_) | SqlType::TimestampTz(_));
    from == to.without_second_digits()
        || from == SqlType::Text
        || matches!(to, SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_))
        || (numeric(&from) && numeric(to))
        || (moment(&from) && moment(to))
        || (matches!(from, SqlType::TimestampTz(_) | SqlType::Timestamp(_)) && matches!(to, SqlType::Time(_)))
        || matches!((&from, to), (SqlType::Array(_), SqlType::Array(_)))
}

fn references_column(expr: &ast::Expr) -> bool {
    syntax::any_expression(expr, |e| match e {
        // These stand without parentheses and are functions.
        ast::Expr::Identifier(ident)
            if matches!(
                ident.value.to_lowercase().as_str(),
                "current_date"
                    | "current_timestamp"
                    | "localtimestamp"
                    | "current_user"
                    | "session_user"
                    | "user"
                    | "localtime"
                    | "current_time"
            ) =>
        {
            false
        }
        ast::Expr::Identifier(_) | ast::Expr::CompoundIdentifier(_) => true,
        _ => false,
    })
}

/// # Errors
/// `NotSupported`: a subquery stands where only values may.
pub(crate) fn refuse_subqueries(expr: &ast::Expr, what: &str) -> Result<()> {
    if syntax::has_query(expr) { Err(Error::unsupported(format!("cannot use subquery in {what}"))) } else { Ok(()) }
}

fn refuse_aggregates(expr: &Expr, what: &str) -> Result<()> {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    let mut found = None;
    let _ = expr.apply(|e| {
        match e {
            Expr::AggregateFunction(_) => found = Some((ErrorKind::Grouping, "aggregate")),
            Expr::WindowFunction(_) => found = Some((ErrorKind::Windowing, "window")),
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match found {
        Some((kind, name)) => Err(Error::new(kind, format!("{name} functions are not allowed in {what}"))),
        None => Ok(()),
    }
}

/// The columns that an expression names, each once, in order of appearance.
pub fn columns_of(expr: &ast::Expr) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    let _ = syntax::expressions(expr, |e| {
        let name = match e {
            ast::Expr::Identifier(ident) => Some(fold(ident)),
            ast::Expr::CompoundIdentifier(path) => path.last().map(fold),
            _ => None,
        };
        if let Some(name) = name.filter(|n| !names.contains(n)) {
            names.push(name);
        }
        std::ops::ControlFlow::Continue(())
    });
    names
}

/// What planning says, in our terms.
pub(super) fn plan_error(error: DataFusionError) -> Error {
    match error.find_root() {
        DataFusionError::SchemaError(schema, _) => match schema.as_ref() {
            SchemaError::FieldNotFound { field, .. } => {
                Error::new(ErrorKind::UndefinedColumn, format!("column \"{}\" does not exist", field.name))
            }
            SchemaError::AmbiguousReference { field } => {
                Error::new(ErrorKind::AmbiguousColumn, format!("column reference \"{}\" is ambiguous", field.name))
            }
            other => Error::new(ErrorKind::DuplicateColumn, other.to_string()),
        },
        DataFusionError::External(inner) if inner.is::<Error>() => {
            inner.downcast_ref::<Error>().cloned().unwrap_or_else(|| Error::internal(inner.to_string()))
        }
        DataFusionError::Plan(m) if m.contains("nvalid function") => {
            Error::new(ErrorKind::UndefinedFunction, m.clone())
        }
        DataFusionError::NotImplemented(m) => Error::unsupported(m.clone()),
        DataFusionError::ArrowError(e, _) => match e.as_ref() {
            datafusion::arrow::error::ArrowError::DivideByZero => {
                Error::new(ErrorKind::DivisionByZero, "division by zero")
            }
            other => Error::new(ErrorKind::InvalidText, other.to_string()),
        },
        other => Error::new(ErrorKind::DatatypeMismatch, other.strip_backtrace()),
    }
}
