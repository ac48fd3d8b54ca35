//! A pass over the syntax tree, before planning: PostgreSQL's spellings for which DataFusion has another, or none.
//!
//! Invariant: a rewriting keeps the meaning; what has no equivalent is left for the planner to refuse. Literals that small integers
//! fit in become `int4`, as in PostgreSQL, except where a number is a position or a count (ORDER BY 1, LIMIT 5, ROWS 2 PRECEDING).

use super::introspect;
use crate::syntax;
use atoll_model::{Error, Result};
use datafusion::sql::sqlparser::ast::{
    self, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, GroupByExpr, Ident, LimitClause, ObjectName, ObjectNamePart, OrderByKind, Query, SetExpr,
    TableFactor, Value, VisitorMut,
};
use std::ops::ControlFlow;

mod calls;
pub mod grouping;
mod joins;
pub mod names;
pub mod outer;
mod sets;
mod shapes;
mod subqueries;

/// Rewrites one expression.
///
/// # Errors
/// `NotSupported` for what would otherwise be misread.
pub fn expression(expr: &mut Expr) -> Result<()> {
    syntax::try_visit_mut(expr, &mut Rewriter::default())
}

/// Rewrites a statement.
///
/// # Errors
/// As [`expression`].
pub fn statement(statement: &mut ast::Statement) -> Result<()> {
    syntax::try_visit_mut(statement, &mut Rewriter::default())
}

/// Turns an error into the end of the walk.
fn or_break(result: Result<()>) -> ControlFlow<Error> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

#[derive(Default)]
struct Rewriter {
    /// How deep the walk is in queries.
    depth: usize,
    /// The statement is a query whose rows go to the client.
    shows_rows: bool,
}

impl VisitorMut for Rewriter {
    type Break = Error;

    fn pre_visit_statement(&mut self, statement: &mut ast::Statement) -> ControlFlow<Error> {
        self.shows_rows = matches!(statement, ast::Statement::Query(_));
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let top = self.shows_rows && self.depth == 0;
        self.depth += 1;
        or_break(before_names(&mut query.body).and_then(|()| {
            names::unambiguous(query)?;
            let inputs = names::inputs_in_order_by(query);
            name_columns(&mut query.body, top, &inputs);
            names::order_by(query);
            shapes::query(query)?;
            shapes::rows_in_list(query)?;
            sets::body(&mut query.body)
        }))
    }

    fn pre_visit_select(&mut self, select: &mut ast::Select) -> ControlFlow<Error> {
        or_break(subqueries::select(select))
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        match factor {
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                ControlFlow::Break(Error::unsupported("TABLESAMPLE is not supported").hint("Use WHERE random() < 0.1."))
            }
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        calls::clock(expr);
        or_break(shapes::expression(expr))
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        introspect::expression(expr);
        if let Err(error) = calls::expression(expr) {
            return ControlFlow::Break(error);
        }
        match expr {
            Expr::Value(value) => {
                if let Value::Number(text, _) = &value.value
                    && beyond_decimals(text)
                {
                    // PostgreSQL's numeric would hold it; floating point is the nearest that can.
                    let text = Expr::Value(Value::SingleQuotedString(text.clone()).into());
                    *expr = cast(text, DataType::Float8);
                } else if let Value::Number(text, _) = &value.value
                    && text.parse::<i32>().is_ok()
                {
                    let inner = std::mem::replace(expr, null());
                    *expr = cast(inner, DataType::Int4(None));
                } else if let Value::Number(text, _) = &value.value
                    && text.split_once(['e', 'E']).is_some_and(|(_, e)| !e.parse::<i32>().is_ok_and(|e| e.abs() <= 30))
                {
                    // No decimal holds it: the nearest floating point number.
                    let text = Value::SingleQuotedString(text.clone());
                    *expr = cast(Expr::value(text), DataType::Float8);
                }
            }
            // PostgreSQL reads -2147483648 as a number too large for int4, negated: bigint. That is kept.
            Expr::Collate { expr: inner, .. } => {
                let inner = std::mem::replace(inner.as_mut(), null());
                *expr = inner;
            }
            Expr::BinaryOp { op, .. } => {
                if let BinaryOperator::PGCustomBinaryOperator(path) = op
                    && let Some(plain) = path.last().and_then(|o| operator(o))
                {
                    *op = plain;
                }
            }
            Expr::Cast { data_type, expr: inner, kind, .. } => {
                // A number beyond what a decimal holds is read as floating point right away.
                if let Expr::Value(v) = inner.as_mut()
                    && let Value::Number(text, _) = &v.value
                    && text.contains(['e', 'E'])
                    && matches!(names::figure(&cast(null(), data_type.clone())).as_str(), "float4" | "float8")
                {
                    v.value = Value::SingleQuotedString(text.clone());
                }
                if let Some(function) = cast_function(data_type) {
                    let try_cast = matches!(kind, CastKind::TryCast | CastKind::SafeCast);
                    if !try_cast {
                        let inner = uncast(std::mem::replace(inner.as_mut(), null()));
                        *expr = call(function, vec![inner]);
                    }
                } else if let Some(plain) = cast_type(data_type) {
                    *data_type = plain;
                }
            }
            Expr::TypedString(typed) => {
                if let Some(function) = cast_function(&typed.data_type) {
                    let inner = Expr::Value(typed.value.clone());
                    *expr = call(function, vec![inner]);
                }
            }
            Expr::Function(function) => calls::function(function),
            Expr::InList { list, .. } => {
                for item in list {
                    strip(item);
                }
            }
            Expr::Identifier(ident) if ident.quote_style.is_none() => {
                if let Some(name) = names::session_value(&ident.value) {
                    *expr = call(name, vec![]);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        self.depth -= 1;
        if let Some(order) = &mut query.order_by
            && let OrderByKind::Expressions(items) = &mut order.kind
        {
            items.iter_mut().for_each(|item| strip(&mut item.expr));
        }
        match &mut query.limit_clause {
            Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                if let Some(limit) = limit {
                    strip(limit);
                }
                if let Some(offset) = offset {
                    strip(&mut offset.value);
                }
            }
            Some(LimitClause::OffsetCommaLimit { offset, limit }) => {
                strip(offset);
                strip(limit);
            }
            None => {}
        }
        if let Some(fetch) = &mut query.fetch
            && let Some(quantity) = &mut fetch.quantity
        {
            strip(quantity);
        }
        group_by(&mut query.body);
        ControlFlow::Continue(())
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        introspect::table_factor(factor);
        match factor {
            TableFactor::Table { name, args: Some(args), .. } => {
                unqualify(name);
                args.args.iter_mut().for_each(strip_argument);
            }
            TableFactor::Function { name, args, .. } => {
                unqualify(name);
                args.iter_mut().for_each(strip_argument);
            }
            _ => {}
        }
        or_break(shapes::table(factor))
    }
}

/// What must be done while the syntax tree is as the user wrote it.
fn before_names(body: &mut SetExpr) -> Result<()> {
    match body {
        SetExpr::Select(select) => {
            for item in &select.projection {
                if let ast::SelectItem::ExprWithAlias { alias, .. } = item
                    && alias.quote_style == Some('\'')
                {
                    return Err(Error::new(
                        atoll_model::ErrorKind::Syntax,
                        format!("syntax error at or near \"'{}'\"", alias.value),
                    ));
                }
            }
            joins::select(select)
        }
        SetExpr::Values(values) => {
            shapes::values(values);
            Ok(())
        }
        SetExpr::SetOperation { left, right, .. } => {
            before_names(left)?;
            before_names(right)
        }
        _ => Ok(()),
    }
}

/// Names the columns of the SELECTs of a query's body; subqueries in it are named when the walk reaches them.
fn name_columns(body: &mut SetExpr, top: bool, inputs: &[String]) {
    match body {
        SetExpr::Select(select) => names::select(select, top, inputs),
        SetExpr::SetOperation { left, right, .. } => {
            name_columns(left, top, &[]);
            name_columns(right, top, &[]);
        }
        _ => {}
    }
}

fn group_by(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            if let GroupByExpr::Expressions(items, _) = &mut select.group_by {
                items.iter_mut().for_each(strip);
            }
        }
        SetExpr::SetOperation { left, right, .. } => {
            group_by(left);
            group_by(right);
        }
        _ => {}
    }
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}

fn null() -> Expr {
    Expr::Value(Value::Null.into())
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

/// Takes a number's cast to int4 away again.
fn strip(expr: &mut Expr) {
    if let Expr::Cast { expr: inner, data_type: DataType::Int4(None), .. } = expr
        && matches!(inner.as_ref(), Expr::Value(v) if matches!(v.value, Value::Number(..)))
    {
        *expr = std::mem::replace(inner.as_mut(), null());
    } else if let Expr::UnaryOp { expr: inner, .. } = expr {
        strip(inner);
    } else if let Expr::Cast { expr: inner, data_type: DataType::Interval { .. }, .. } = expr {
        // A bound of a window's frame must be a literal.
        *expr = Expr::Interval(ast::Interval {
            value: Box::new(std::mem::replace(inner.as_mut(), null())),
            leading_field: None,
            leading_precision: None,
            last_field: None,
            fractional_seconds_precision: None,
        });
    }
}

fn uncast(mut expr: Expr) -> Expr {
    strip(&mut expr);
    expr
}

fn strip_argument(arg: &mut FunctionArg) {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))
        | FunctionArg::Named { arg: FunctionArgExpr::Expr(expr), .. }
        | FunctionArg::ExprNamed { arg: FunctionArgExpr::Expr(expr), .. } => strip(expr),
        _ => {}
    }
}

/// A call of a function.
pub(super) fn call(name: &str, args: Vec<Expr>) -> Expr {
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: args.into_iter().map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect(),
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

/// `pg_catalog.f(…)` is `f(…)`.
fn unqualify(name: &mut ObjectName) {
    if let [ObjectNamePart::Identifier(schema), _] = name.0.as_slice()
        && matches!(schema.value.to_lowercase().as_str(), "pg_catalog" | "information_schema")
    {
        name.0.remove(0);
    }
}

fn operator(name: &str) -> Option<BinaryOperator> {
    Some(match name {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "=" => BinaryOperator::Eq,
        "<>" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        "*" => BinaryOperator::Multiply,
        "/" => BinaryOperator::Divide,
        "||" => BinaryOperator::StringConcat,
        "~~" => BinaryOperator::PGLikeMatch,
        "~~*" => BinaryOperator::PGILikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "!~~*" => BinaryOperator::PGNotILikeMatch,
        _ => return None,
    })
}

fn type_name(ty: &DataType) -> String {
    let text = ty.to_string().to_lowercase().replace('"', "");
    text.strip_prefix("pg_catalog.").map_or(text.clone(), str::to_string)
}

/// Types whose values need reading, not just another carrier.
fn cast_function(ty: &DataType) -> Option<&'static str> {
    Some(match type_name(ty).as_str() {
        "regclass" => "atoll_regclass",
        "regtype" => "atoll_regtype",
        "regproc" | "regprocedure" | "regoper" | "regoperator" | "regconfig" | "regdictionary" => "atoll_regproc",
        "regnamespace" => "atoll_regnamespace",
        "regrole" => "atoll_regrole",
        "json" => "atoll_json",
        "jsonb" => "atoll_jsonb",
        "uuid" => "atoll_uuid",
        _ => return None,
    })
}

/// Types that are carried as another.
fn cast_type(ty: &DataType) -> Option<DataType> {
    Some(match type_name(ty).as_str() {
        "oid" | "xid" | "xid8" | "cid" => DataType::BigInt(None),
        "name" | "char" if !matches!(ty, DataType::Char(_)) => DataType::Text,
        "pg_node_tree" | "aclitem" | "inet" | "cidr" | "unknown" | "int2vector" | "oidvector" | "refcursor" => {
            DataType::Text
        }
        "int4" | "int2" | "int8" | "text" | "bool" | "float8" | "float4" | "varchar" | "timestamptz" | "timestamp"
        | "date" => {
            return match ty {
                DataType::Custom(..) => Some(match type_name(ty).as_str() {
                    "int4" => DataType::Int4(None),
                    "int2" => DataType::Int2(None),
                    "int8" => DataType::Int8(None),
                    "bool" => DataType::Boolean,
                    "float8" => DataType::Float8,
                    "float4" => DataType::Float4,
                    "date" => DataType::Date,
                    "timestamptz" => DataType::Timestamp(None, ast::TimezoneInfo::Tz),
                    "timestamp" => DataType::Timestamp(None, ast::TimezoneInfo::None),
                    _ => DataType::Text,
                }),
                _ => None,
            };
        }
        "oid[]" | "xid[]" => {
            DataType::Array(ast::ArrayElemTypeDef::SquareBracket(Box::new(DataType::BigInt(None)), None))
        }
        "name[]" | "regtype[]" | "char[]" => {
            DataType::Array(ast::ArrayElemTypeDef::SquareBracket(Box::new(DataType::Text), None))
        }
        _ => return None,
    })
}

/// Whether a number with an exponent has digits where a decimal has no place for them.
fn beyond_decimals(number: &str) -> bool {
    number
        .split_once(['e', 'E'])
        .and_then(|(_, exponent)| exponent.parse::<i32>().ok())
        .is_some_and(|exponent| !(-30..=30).contains(&exponent))
}
