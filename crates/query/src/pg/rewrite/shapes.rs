//! Forms of expressions, queries and tables that the planner lacks, as forms that it has.
//!
//! Invariant: the meaning, three-valued logic included, stays; what cannot be put otherwise is refused.

use super::{binary, call, nested, unqualify};
use crate::pg::parse;
use crate::pg::parse::faithful::{as_text, text};
use crate::syntax::fold;
use atoll_model::{Error, ErrorKind, Result};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DataType, Expr, FunctionArg, FunctionArgExpr, Ident, LimitClause, ObjectName, ObjectNamePart,
    OrderByKind, Query, SelectItem, SetExpr, Statement as Ast, TableAlias, TableAliasColumnDef, TableFactor,
    UnaryOperator, Value, Values,
};

/// FETCH FIRST is LIMIT.
///
/// # Errors
/// `NotSupported` for WITH TIES and PERCENT.
pub fn query(query: &mut Query) -> Result<()> {
    let Some(fetch) = query.fetch.take() else { return Ok(()) };
    if fetch.with_ties || fetch.percent {
        return Err(Error::unsupported("FETCH … WITH TIES and PERCENT").hint("Use rank() in a subquery."));
    }
    let count = fetch.quantity.unwrap_or_else(|| Expr::value(Value::Number("1".into(), false)));
    match &mut query.limit_clause {
        Some(LimitClause::LimitOffset { limit, .. }) if limit.is_none() => *limit = Some(count),
        None => {
            query.limit_clause = Some(LimitClause::LimitOffset { limit: Some(count), offset: None, limit_by: vec![] })
        }
        Some(_) => return Err(Error::new(ErrorKind::Syntax, "multiple LIMIT clauses are not allowed")),
    }
    Ok(())
}

/// Functions in a SELECT list that give several rows: `generate_series` as an array that is unnested; ORDER BY and LIMIT act on the rows
/// that come of it, so they go around.
///
/// # Errors
/// `NotSupported` for an ORDER BY over something else than the result's columns.
pub fn rows_in_list(query: &mut Query) -> Result<()> {
    let SetExpr::Select(select) = query.body.as_mut() else { return Ok(()) };
    let mut found = false;
    for item in &mut select.projection {
        let (SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. }) = item else { continue };
        if let Expr::Function(function) = e {
            match function.name.to_string().to_lowercase().as_str() {
                "generate_series" => {
                    function.name = ObjectName(vec![ObjectNamePart::Identifier(Ident::new("atoll_series"))]);
                    let array = std::mem::replace(e, super::null());
                    *e = call("unnest", vec![array]);
                    found = true;
                }
                "unnest" => found = true,
                _ => {}
            }
        }
    }
    if !found || (query.order_by.is_none() && query.limit_clause.is_none()) {
        return Ok(());
    }
    let Some(names) = column_names(&query.body) else {
        return Err(Error::unsupported("ORDER BY and LIMIT over SELECT * with functions that give rows"));
    };
    if let Some(order) = &query.order_by
        && let OrderByKind::Expressions(items) = &order.kind
    {
        for item in items {
            let known = match &item.expr {
                Expr::Value(v) => matches!(v.value, Value::Number(..)),
                Expr::Identifier(ident) => names.contains(&fold(ident)),
                _ => false,
            };
            if !known {
                return Err(Error::unsupported(format!("ORDER BY {} over functions that give rows", item.expr))
                    .hint("Put the query into a subquery and order that."));
            }
        }
    }
    let inner = format!("SELECT * FROM ({}) AS \"the rows\"", query.body);
    query.body = parse_query(&inner)?.body;
    Ok(())
}

/// `BETWEEN SYMMETRIC`, which the parser marks by an operator that PostgreSQL has no longer: see `parse`.
fn symmetric(expr: &mut Expr) {
    let Expr::Between { expr: inner, negated, low, high } = expr else { return };
    let mut here = low.as_mut();
    while let Expr::BinaryOp { left, .. } = here {
        here = left;
    }
    let Expr::UnaryOp { op: UnaryOperator::PGPrefixFactorial, expr: first } = here else { return };
    *here = std::mem::replace(first.as_mut(), super::null());
    let [inner, low, high] = [inner, low, high].map(|e| std::mem::replace(e.as_mut(), super::null()));
    let between = |low: Expr, high: Expr| Expr::Between {
        expr: Box::new(inner.clone()),
        negated: false,
        low: Box::new(low),
        high: Box::new(high),
    };
    let either = nested(binary(between(low.clone(), high.clone()), BinaryOperator::Or, between(high, low)));
    *expr = if *negated { not(either) } else { either };
}

/// What an expression is made of before its parts are looked at.
///
/// # Errors
/// 42601 for rows of different lengths; `NotSupported` for rows that cannot be taken apart.
pub fn expression(expr: &mut Expr) -> Result<()> {
    rotate(expr);
    symmetric(expr);
    match expr {
        // `doc->-1` is read as one operator.
        Expr::BinaryOp { op: op @ BinaryOperator::Custom(_), right, .. } => {
            let BinaryOperator::Custom(name) = &*op else { return Ok(()) };
            let plain = match name.as_str() {
                "->-" => BinaryOperator::Arrow,
                "->>-" => BinaryOperator::LongArrow,
                _ => return Ok(()),
            };
            *op = plain;
            let inner = std::mem::replace(right, Box::new(super::null()));
            **right = Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner };
        }
        Expr::AnyOp { left, right, .. } | Expr::AllOp { left, right, .. } => {
            if let Expr::Value(v) = right.as_ref()
                && as_text(&v.value).is_some()
            {
                let literal = std::mem::replace(right.as_mut(), super::null());
                **right = call("atoll_array_like", vec![left.as_ref().clone(), literal]);
            }
        }
        // `-2 ^ 2` is (-2) ^ 2.
        Expr::UnaryOp { op: UnaryOperator::Minus, expr: inner }
            if matches!(inner.as_ref(), Expr::BinaryOp { op: BinaryOperator::PGExp, .. }) =>
        {
            let mut whole = std::mem::replace(inner.as_mut(), super::null());
            let mut here = &mut whole;
            while let Expr::BinaryOp { op: BinaryOperator::PGExp, left, .. } = here {
                here = left;
            }
            let first = std::mem::replace(here, super::null());
            *here = Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(first) };
            *expr = whole;
        }
        // Intervals are read by PostgreSQL's rules, not the planner's.
        Expr::Interval(interval) if interval.last_field.is_none() && interval.leading_precision.is_none() => {
            if let Expr::Value(v) = interval.value.as_ref()
                && let Some(span) = as_text(&v.value)
            {
                let span = match &interval.leading_field {
                    Some(field) => format!("{span} {field}"),
                    None => span.clone(),
                };
                *expr = super::cast(Expr::value(text(span)), DataType::Interval { fields: None, precision: None });
            }
        }
        Expr::UnaryOp { op, expr: inner } => {
            let function = match op {
                UnaryOperator::PGAbs => "abs",
                UnaryOperator::PGSquareRoot => "sqrt",
                UnaryOperator::PGCubeRoot => "cbrt",
                UnaryOperator::BitwiseNot => "atoll_bitwise_not",
                _ => return Ok(()),
            };
            let inner = std::mem::replace(inner.as_mut(), super::null());
            *expr = call(function, vec![inner]);
        }
        Expr::BinaryOp { left, op, right } => {
            if let (Some(a), Some(b)) = (row(left), row(right)) {
                *expr = compare_rows(a, op, b)?;
            }
        }
        Expr::IsDistinctFrom(left, right) => {
            if let (Some(a), Some(b)) = (row(left), row(right)) {
                let parts = pairs(a, b)?.map(|(x, y)| Expr::IsDistinctFrom(Box::new(x), Box::new(y)));
                *expr = chain(parts, BinaryOperator::Or);
            }
        }
        Expr::IsNotDistinctFrom(left, right) => {
            if let (Some(a), Some(b)) = (row(left), row(right)) {
                let parts = pairs(a, b)?.map(|(x, y)| Expr::IsNotDistinctFrom(Box::new(x), Box::new(y)));
                *expr = chain(parts, BinaryOperator::And);
            }
        }
        Expr::IsNull(inner) => {
            if let Some(items) = row(inner) {
                *expr = chain(items.into_iter().map(|i| Expr::IsNull(Box::new(i))), BinaryOperator::And);
            }
        }
        Expr::IsNotNull(inner) => {
            if let Some(items) = row(inner) {
                *expr = chain(items.into_iter().map(|i| Expr::IsNotNull(Box::new(i))), BinaryOperator::And);
            }
        }
        Expr::InList { expr: inner, list, negated } => {
            if let Some(items) = row(inner) {
                let alternatives = list
                    .iter()
                    .map(|item| match row(item) {
                        Some(other) => compare_rows(items.clone(), &BinaryOperator::Eq, other),
                        None => Err(Error::unsupported(format!("a row compared with {item}"))),
                    })
                    .collect::<Result<Vec<_>>>()?;
                let any = Expr::Nested(Box::new(chain(alternatives, BinaryOperator::Or)));
                *expr = if *negated { not(any) } else { any };
            }
        }
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            if let Some(escape) = escape_char.take() {
                let Some(escape) = as_text(&escape.value).cloned() else {
                    return Err(Error::unsupported(format!("ESCAPE {escape}")));
                };
                if escape.chars().count() > 1 {
                    return Err(Error::new(ErrorKind::InvalidEscape, "invalid escape string")
                        .hint("Escape string must be empty or one character."));
                }
                if escape != "\\" {
                    let inner = std::mem::replace(pattern.as_mut(), super::null());
                    **pattern = call("atoll_like_pattern", vec![inner, Expr::value(text(escape))]);
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// sqlparser reads everything behind IS [NOT] DISTINCT FROM as its right side; AND and OR bind less.
fn rotate(expr: &mut Expr) {
    let (right, negated) = match expr {
        Expr::IsDistinctFrom(_, right) => (right, false),
        Expr::IsNotDistinctFrom(_, right) => (right, true),
        _ => return,
    };
    if !matches!(right.as_ref(), Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. }) {
        return;
    }
    let mut whole = std::mem::replace(right.as_mut(), super::null());
    let (Expr::IsDistinctFrom(left, _) | Expr::IsNotDistinctFrom(left, _)) = expr else { return };
    let left = std::mem::replace(left, Box::new(super::null()));
    let mut here = &mut whole;
    while let Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, left: next, .. } = here {
        here = next;
    }
    let first = std::mem::replace(here, super::null());
    *here = if negated {
        Expr::IsNotDistinctFrom(left, Box::new(first))
    } else {
        Expr::IsDistinctFrom(left, Box::new(first))
    };
    *expr = whole;
}

fn not(expr: Expr) -> Expr {
    Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) }
}

/// The members of a row constructor.
fn row(expr: &Expr) -> Option<Vec<Expr>> {
    use datafusion::sql::sqlparser::ast::{FunctionArg, FunctionArgExpr, FunctionArguments};
    match expr {
        Expr::Tuple(items) => Some(items.clone()),
        Expr::Nested(inner) => row(inner).filter(|_| matches!(inner.as_ref(), Expr::Tuple(_) | Expr::Function(_))),
        Expr::Function(f) if f.over.is_none() && f.name.to_string().eq_ignore_ascii_case("row") => match &f.args {
            FunctionArguments::List(list) => list
                .args
                .iter()
                .map(|a| match a {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e.clone()),
                    _ => None,
                })
                .collect(),
            _ => None,
        },
        _ => None,
    }
}

fn pairs(a: Vec<Expr>, b: Vec<Expr>) -> Result<impl Iterator<Item = (Expr, Expr)>> {
    if a.len() != b.len() {
        return Err(Error::new(ErrorKind::Syntax, "unequal number of entries in row expressions"));
    }
    Ok(a.into_iter().zip(b))
}

fn chain(parts: impl IntoIterator<Item = Expr>, op: BinaryOperator) -> Expr {
    let whole = parts.into_iter().reduce(|a, b| binary(a, op.clone(), b));
    nested(whole.unwrap_or_else(|| Expr::value(Value::Boolean(op == BinaryOperator::And))))
}

/// Rows compare member by member; the first that differ decide.
fn compare_rows(a: Vec<Expr>, op: &BinaryOperator, b: Vec<Expr>) -> Result<Expr> {
    let strict = match op {
        BinaryOperator::Eq => {
            return Ok(chain(pairs(a, b)?.map(|(x, y)| binary(x, BinaryOperator::Eq, y)), BinaryOperator::And));
        }
        BinaryOperator::NotEq => {
            return Ok(chain(pairs(a, b)?.map(|(x, y)| binary(x, BinaryOperator::NotEq, y)), BinaryOperator::Or));
        }
        BinaryOperator::Lt | BinaryOperator::LtEq => BinaryOperator::Lt,
        BinaryOperator::Gt | BinaryOperator::GtEq => BinaryOperator::Gt,
        other => return Err(Error::unsupported(format!("operator {other} on rows"))),
    };
    let mut pairs: Vec<(Expr, Expr)> = pairs(a, b)?.collect();
    let Some((x, y)) = pairs.pop() else { return Err(Error::unsupported("comparisons of empty rows")) };
    let mut whole = binary(x, op.clone(), y);
    while let Some((x, y)) = pairs.pop() {
        let tie = binary(binary(x.clone(), BinaryOperator::Eq, y.clone()), BinaryOperator::And, nested(whole));
        whole = binary(binary(x, strict.clone(), y), BinaryOperator::Or, nested(tie));
    }
    Ok(nested(whole))
}

/// Functions in FROM: their column is called as their alias, or as the function.
///
/// # Errors
/// `NotSupported` for WITH ORDINALITY.
pub fn table(factor: &mut TableFactor) -> Result<()> {
    let made = match factor {
        TableFactor::UNNEST { array_exprs, alias, with_ordinality, .. } => match array_exprs.as_slice() {
            [array] => rows_of(array, named_as(alias, "unnest"), *with_ordinality)?,
            _ if *with_ordinality => return Err(Error::unsupported("WITH ORDINALITY over several arrays")),
            _ => return Ok(()),
        },
        TableFactor::Table { with_ordinality: true, .. } => {
            return Err(Error::unsupported("WITH ORDINALITY").hint("Use row_number() OVER ()."));
        }
        TableFactor::Table { name, args: Some(args), alias, .. } => {
            unqualify(name);
            if !name.to_string().eq_ignore_ascii_case("generate_series") {
                return Ok(());
            }
            series(&args.args, named_as(alias, "generate_series"))?
        }
        TableFactor::Function { name, args, alias, with_ordinality: false, .. }
            if name.to_string().eq_ignore_ascii_case("generate_series") =>
        {
            series(args, named_as(alias, "generate_series"))?
        }
        _ => return Ok(()),
    };
    *factor = made;
    Ok(())
}

/// The alias of a function that gives one column.
fn named_as(alias: &Option<TableAlias>, function: &str) -> TableAlias {
    let mut alias = alias.clone().unwrap_or_else(|| TableAlias {
        explicit: true,
        name: Ident::with_quote('"', function),
        columns: vec![],
        at: None,
    });
    if alias.columns.is_empty() {
        alias.columns.push(TableAliasColumnDef { name: alias.name.clone(), data_type: None });
    }
    alias
}

/// `generate_series` gives what its arguments are.
fn series(args: &[FunctionArg], alias: TableAlias) -> Result<TableFactor> {
    let shown: Vec<String> = args.iter().map(ToString::to_string).collect();
    // Over int4 literals the planner makes rows one by one, of int8; all others are made as one array.
    if shown.iter().all(|a| a.parse::<i32>().is_ok()) {
        let shown = shown.join(", ");
        let sql = format!("SELECT CAST(value AS integer) FROM generate_series({shown}) AS series(value)");
        return Ok(derived(parse_query(&sql)?, false, alias));
    }
    let args = args.iter().map(|a| match a {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Ok(e.clone()),
        other => Err(Error::unsupported(format!("argument {other} of generate_series"))),
    });
    rows_of(&call("atoll_series", args.collect::<Result<_>>()?), alias, false)
}

/// An array's elements as rows, with their numbers where they are asked for. The array may be a column of a table that stands before
/// it.
fn rows_of(array: &Expr, mut alias: TableAlias, numbered: bool) -> Result<TableFactor> {
    let mut sql = format!("SELECT {}", call("unnest", vec![array.clone()]));
    if numbered {
        sql += &format!(", unnest(atoll_subscripts({array}, 1))");
        if alias.columns.len() == 1 {
            alias.columns.push(TableAliasColumnDef { name: Ident::new("ordinality"), data_type: None });
        }
    }
    Ok(derived(parse_query(&sql)?, true, alias))
}

fn derived(query: Query, lateral: bool, alias: TableAlias) -> TableFactor {
    TableFactor::Derived { lateral, subquery: Box::new(query), alias: Some(alias), sample: None }
}

/// String literals in VALUES take the type that a cast gives another row's value of their column.
pub fn values(values: &mut Values) {
    let columns = values.rows.iter().map(|r| r.content.len()).max().unwrap_or(0);
    for at in 0..columns {
        let typed = values.rows.iter().find_map(|r| match r.content.get(at) {
            Some(Expr::Cast { data_type, .. }) => Some(data_type.clone()),
            Some(Expr::TypedString(typed)) => Some(typed.data_type.clone()),
            _ => None,
        });
        let Some(typed) = typed else { continue };
        for row in &mut values.rows {
            if let Some(e @ Expr::Value(_)) = row.content.get_mut(at)
                && matches!(e, Expr::Value(v) if as_text(&v.value).is_some())
            {
                let literal = std::mem::replace(e, super::null());
                *e = super::cast(literal, typed.clone());
            }
        }
    }
}

/// Parses a query that was put together here.
///
/// # Errors
/// `Internal` when it is not one.
pub fn parse_query(sql: &str) -> Result<Query> {
    let mut items = parse::parse(sql)?;
    match items.pop().map(|i| i.statement) {
        Some(parse::Statement::Sql(statement)) => match *statement {
            Ast::Query(query) => Ok(*query),
            _ => Err(Error::internal("a rewriting is no query")),
        },
        _ => Err(Error::internal("a rewriting is no query")),
    }
}

/// Some CASE expression, for its tokens.
///
/// # Errors
/// None in practice.
pub fn parse_case() -> Result<Expr> {
    parse::parse_expression("CASE WHEN true THEN 1 END")
}

/// Names of the columns of a query's body that the client sees; `None`: a wildcard stands among them.
pub fn column_names(body: &SetExpr) -> Option<Vec<String>> {
    match body {
        SetExpr::Select(select) => select
            .projection
            .iter()
            .map(|item| match item {
                SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
                SelectItem::UnnamedExpr(e) => Some(super::names::figure(e)),
                _ => None,
            })
            .collect(),
        SetExpr::SetOperation { left, .. } => column_names(left),
        SetExpr::Query(query) => column_names(&query.body),
        SetExpr::Values(values) => {
            values.rows.first().map(|row| (1..=row.content.len()).map(|n| format!("column{n}")).collect())
        }
        _ => None,
    }
}
