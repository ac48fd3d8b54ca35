//! String literals without a type ("unknown" in PostgreSQL), which take the type of what they stand beside.
//!
//! Invariant: such a literal becomes a constant of that type as PostgreSQL reads it, or fails with PostgreSQL's error; it never
//! turns what it stands beside into text.

use crate::rows;
use atoll_model::{Error, ErrorKind, SqlType};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    Between, BinaryExpr, Case, Expr, ExprSchemable, LogicalPlan, Operator, Projection, Union, Unnest,
};
use datafusion::optimizer::AnalyzerRule;
use std::sync::Arc;

/// The SQL type of an expression; `None`: it is not known yet.
pub(crate) fn sql_type(expr: &Expr, schema: &DFSchema) -> Option<SqlType> {
    match expr {
        Expr::Literal(ScalarValue::Null, _) | Expr::Placeholder(_) => None,
        _ => expr.to_field(schema).ok().and_then(|(_, field)| SqlType::of_field(&field)),
    }
}

/// The text of a literal without a type.
pub(crate) fn literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => Some(text),
        Expr::Alias(alias) => literal(&alias.expr),
        _ => None,
    }
}

/// A constant of a type, read from a literal.
///
/// # Errors
/// 22P02 and the like.
pub(crate) fn resolve(expr: Expr, ty: &SqlType) -> Result<Expr> {
    let Some(text) = literal(&expr) else { return Ok(expr) };
    let external = |e| DataFusionError::External(Box::new(e));
    let scalar = match ty {
        SqlType::Interval => {
            let span = atoll_model::text::parse_interval(text).map_err(external)?;
            ScalarValue::IntervalMonthDayNano(Some(super::functions::to_arrow(span)))
        }
        // With its own digits: a comparison with numeric(10,2) must not round.
        SqlType::Numeric(_) => {
            let (unscaled, scale) = atoll_model::text::parse_numeric(text, None).map_err(external)?;
            ScalarValue::Decimal128(Some(unscaled), 38, scale.max(0))
        }
        SqlType::Char(_) => ScalarValue::Utf8(Some(text.trim_end_matches(' ').to_owned())),
        SqlType::Varchar(_) | SqlType::Text => return Ok(expr),
        // With its own digits of a second, too.
        ty => {
            let ty = ty.without_second_digits();
            let value = atoll_model::text::parse(&ty, text).map_err(external)?;
            rows::to_scalar(&ty, &value).map_err(external)?
        }
    };
    Ok(match expr {
        Expr::Alias(alias) => {
            Expr::Alias(datafusion::logical_expr::expr::Alias { expr: Box::new(Expr::Literal(scalar, None)), ..alias })
        }
        _ => Expr::Literal(scalar, None),
    })
}

/// Functions of text, which DataFusion would give anything as text; PostgreSQL has them for text only.
const TEXT_FUNCTIONS: [&str; 24] = [
    "upper",
    "lower",
    "initcap",
    "btrim",
    "ltrim",
    "rtrim",
    "replace",
    "translate",
    "left",
    "right",
    "lpad",
    "rpad",
    "repeat",
    "reverse",
    "strpos",
    "split_part",
    "starts_with",
    "ascii",
    "octet_length",
    "bit_length",
    "regexp_replace",
    "regexp_match",
    "regexp_like",
    "string_to_array",
];

/// Gives literals in IN lists, BETWEEN, CASE, COALESCE and the like, and UNION their types, before anything is coerced.
#[derive(Debug)]
pub(crate) struct UnknownLiterals;

impl AnalyzerRule for UnknownLiterals {
    fn name(&self) -> &str {
        "unknown_literals"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| {
            if let LogicalPlan::Union(union) = node {
                return union_branches(union);
            }
            if let LogicalPlan::Unnest(unnest) = node {
                return without_keys(unnest);
            }
            let mut schema = DFSchema::empty();
            for input in node.inputs() {
                schema.merge(input.schema());
            }
            if let LogicalPlan::TableScan(scan) = &node {
                schema.merge(&scan.projected_schema);
            }
            let names = NamePreserver::new(&node);
            let sorts = matches!(node, LogicalPlan::Sort(_));
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let mut rewritten = expr.transform_up(|e| typed(e, &schema))?;
                // Intervals are ordered by their length.
                if sorts && sql_type(&rewritten.data, &schema) == Some(SqlType::Interval) {
                    rewritten = Transformed::yes(super::functions::call("atoll_interval_length", vec![rewritten.data]));
                }
                Ok(if rewritten.transformed { rewritten.update_data(|e| name.restore(e)) } else { rewritten })
            })?
            .map_data(LogicalPlan::recompute_schema)
        })
        .map(|t| t.data)
    }
}

/// The type that literals beside these expressions take: that of the first that has one; a text wins over nothing.
fn common<'a>(exprs: impl Iterator<Item = &'a Expr>, schema: &DFSchema) -> Option<SqlType> {
    exprs
        .filter(|e| literal(e).is_none())
        .find_map(|e| sql_type(e, schema))
        .filter(|t| !matches!(t, SqlType::Text | SqlType::Varchar(_) | SqlType::Json))
}

/// Refuses results of a CASE or COALESCE that no type takes together.
fn matched<'a>(what: &str, exprs: impl Iterator<Item = &'a Expr>, schema: &DFSchema) -> Result<()> {
    let known: Vec<SqlType> = exprs
        .filter(|e| literal(e).is_none() && e.get_type(schema).is_ok_and(|t| !t.is_null()))
        .filter_map(|e| sql_type(e, schema))
        .collect();
    match known.windows(2).find(|p| !super::functions::alike(&p[0], &p[1])) {
        Some(pair) => Err(DataFusionError::External(Box::new(Error::new(
            ErrorKind::DatatypeMismatch,
            format!("{what} types {} and {} cannot be matched", pair[0], pair[1]),
        )))),
        None => Ok(()),
    }
}

#[allow(clippy::boxed_local, reason = "what it is given and gives back lies in a box")]
fn resolve_box(expr: Box<Expr>, ty: &SqlType) -> Result<Box<Expr>> {
    resolve(*expr, ty).map(Box::new)
}

fn typed(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let is_open = |e: &Expr| literal(e).is_some();
    match expr {
        Expr::InList(InList { expr, list, negated }) if list.iter().any(is_open) => {
            let Some(ty) = common(std::iter::once(expr.as_ref()).chain(&list), schema) else {
                return Ok(Transformed::no(Expr::InList(InList { expr, list, negated })));
            };
            let list = list.into_iter().map(|e| resolve(e, &ty)).collect::<Result<_>>()?;
            Ok(Transformed::yes(Expr::InList(InList { expr: resolve_box(expr, &ty)?, list, negated })))
        }
        Expr::Between(Between { expr, negated, low, high }) if is_open(&low) || is_open(&high) || is_open(&expr) => {
            let Some(ty) = common([&*expr, &*low, &*high].into_iter(), schema) else {
                return Ok(Transformed::no(Expr::Between(Between { expr, negated, low, high })));
            };
            let [expr, low, high] = [resolve_box(expr, &ty)?, resolve_box(low, &ty)?, resolve_box(high, &ty)?];
            Ok(Transformed::yes(Expr::Between(Between { expr, negated, low, high })))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if matches!(op, Operator::IsDistinctFrom | Operator::IsNotDistinctFrom)
                && (is_open(&left) || is_open(&right)) =>
        {
            let Some(ty) = common([&*left, &*right].into_iter(), schema) else {
                return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })));
            };
            let (left, right) = (resolve_box(left, &ty)?, resolve_box(right, &ty)?);
            Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right })))
        }
        Expr::Case(Case { expr, when_then_expr, else_expr }) => {
            let operand = match &expr {
                Some(operand) => common(
                    std::iter::once(operand.as_ref()).chain(when_then_expr.iter().map(|(w, _)| w.as_ref())),
                    schema,
                ),
                None => None,
            };
            matched("CASE", when_then_expr.iter().map(|(_, t)| t.as_ref()).chain(else_expr.as_deref()), schema)?;
            let result = common(when_then_expr.iter().map(|(_, t)| t.as_ref()).chain(else_expr.as_deref()), schema);
            if operand.is_none() && result.is_none() {
                return Ok(Transformed::no(Expr::Case(Case { expr, when_then_expr, else_expr })));
            }
            let with = |e: Box<Expr>, ty: &Option<SqlType>| match ty {
                Some(ty) => resolve_box(e, ty),
                None => Ok(e),
            };
            let expr = expr.map(|e| with(e, &operand)).transpose()?;
            let when_then_expr = when_then_expr
                .into_iter()
                .map(|(w, t)| Ok((with(w, &operand)?, with(t, &result)?)))
                .collect::<Result<_>>()?;
            let else_expr = else_expr.map(|e| with(e, &result)).transpose()?;
            Ok(Transformed::yes(Expr::Case(Case { expr, when_then_expr, else_expr })))
        }
        Expr::ScalarFunction(mut call)
            if matches!(call.func.name(), "coalesce" | "greatest" | "least" | "nullif" | "make_array") =>
        {
            matched(&call.func.name().to_uppercase(), call.args.iter(), schema)?;
            if !call.args.iter().any(is_open) {
                return Ok(Transformed::no(Expr::ScalarFunction(call)));
            }
            let Some(ty) = common(call.args.iter(), schema) else {
                return Ok(Transformed::no(Expr::ScalarFunction(call)));
            };
            call.args = call.args.into_iter().map(|e| resolve(e, &ty)).collect::<Result<_>>()?;
            Ok(Transformed::yes(Expr::ScalarFunction(call)))
        }
        Expr::ScalarFunction(call) if TEXT_FUNCTIONS.contains(&call.func.name()) => {
            match call.args.first().and_then(|a| sql_type(a, schema)) {
                // A cast to text may keep the name of the type that it came from.
                Some(
                    SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) | SqlType::Bytea | SqlType::Uuid | SqlType::Json
                    | SqlType::Jsonb,
                )
                | None => Ok(Transformed::no(Expr::ScalarFunction(call))),
                Some(ty) => Err(DataFusionError::External(Box::new(
                    Error::new(
                        ErrorKind::UndefinedFunction,
                        format!("function {}({ty}) does not exist", call.func.name()),
                    )
                    .hint(
                        "No function matches the given name and argument types. You might need to add explicit type casts.",
                    ),
                ))),
            }
        }
        // The value beside the rows need not have the column's digits of a second.
        Expr::WindowFunction(mut call)
            if matches!(call.fun.name(), "lag" | "lead")
                && call.params.args.len() > 2
                && sql_type(&call.params.args[0], schema).is_some_and(|ty| ty.second_digits().is_some()) =>
        {
            let (_, field) = call.params.args[0].to_field(schema)?;
            let first = std::mem::take(&mut call.params.args[0]);
            call.params.args[0] = super::casts::without_digits(first, &field);
            Ok(Transformed::yes(Expr::WindowFunction(call)))
        }
        Expr::AggregateFunction(call) if call.func.name() == "string_agg" => {
            match call.params.args.first().and_then(|a| sql_type(a, schema)) {
                Some(
                    SqlType::Text
                    | SqlType::Varchar(_)
                    | SqlType::Char(_)
                    | SqlType::Bytea
                    | SqlType::Uuid
                    | SqlType::Json
                    | SqlType::Jsonb,
                )
                | None => Ok(Transformed::no(Expr::AggregateFunction(call))),
                Some(ty) => Err(DataFusionError::External(Box::new(Error::new(
                    ErrorKind::UndefinedFunction,
                    format!("function string_agg({ty}, unknown) does not exist"),
                )))),
            }
        }
        Expr::AggregateFunction(call) if matches!(call.func.name(), "min" | "max") => {
            match call.params.args.first().and_then(|a| sql_type(a, schema)) {
                Some(SqlType::Interval) => Err(DataFusionError::External(Box::new(Error::unsupported(format!(
                    "{}(interval)",
                    call.func.name()
                ))))),
                Some(ty @ (SqlType::Bool | SqlType::Json | SqlType::Jsonb)) => {
                    Err(DataFusionError::External(Box::new(Error::new(
                        ErrorKind::UndefinedFunction,
                        format!("function {}({ty}) does not exist", call.func.name()),
                    ))))
                }
                _ => Ok(Transformed::no(Expr::AggregateFunction(call))),
            }
        }
        other => Ok(Transformed::no(other)),
    }
}

/// A key of rows is no key of what is unnested from them; DataFusion thinks it is, and drops sort and group columns behind it.
fn without_keys(unnest: Unnest) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Projection(below) = unnest.input.as_ref() else {
        return Ok(Transformed::no(LogicalPlan::Unnest(unnest)));
    };
    let mut changed = false;
    let exprs: Vec<Expr> = below
        .expr
        .iter()
        .map(|e| match e {
            Expr::Column(column) if !unnest.exec_columns.contains(column) => {
                changed = true;
                super::functions::plain(e.clone()).alias_qualified(column.relation.clone(), column.name.clone())
            }
            other => other.clone(),
        })
        .collect();
    if !changed {
        return Ok(Transformed::no(LogicalPlan::Unnest(unnest)));
    }
    let input = LogicalPlan::Projection(Projection::try_new(exprs, below.input.clone())?);
    LogicalPlan::Unnest(unnest).with_new_exprs(vec![], vec![input]).map(Transformed::yes)
}

/// A branch of a UNION whose others have other digits of a second, or none, in this column.
fn without_digits(branch: &Arc<LogicalPlan>, at: usize) -> Result<Arc<LogicalPlan>> {
    let schema = branch.schema();
    if SqlType::of_field(schema.field(at)).is_none_or(|ty| ty.second_digits().is_none()) {
        return Ok(branch.clone());
    }
    let mut exprs: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
    let (relation, field) = schema.qualified_field(at);
    let bare = super::casts::without_digits(exprs[at].clone(), field);
    exprs[at] = bare.alias_qualified(relation.cloned(), field.name());
    Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(exprs, branch.clone())?)))
}

/// `SELECT 1 UNION SELECT '2'`: literals in one branch take the type of the other branches' column.
fn union_branches(mut union: Union) -> Result<Transformed<LogicalPlan>> {
    let open = |plan: &LogicalPlan, at: usize| match plan {
        LogicalPlan::Projection(p) => p.expr.get(at).is_some_and(|e| literal(e).is_some()),
        _ => false,
    };
    let columns = union.inputs.iter().map(|i| i.schema().fields().len()).min().unwrap_or(0);
    let mut changed = false;
    for at in 0..columns {
        let known: Vec<SqlType> = union
            .inputs
            .iter()
            .filter(|i| !open(i, at) && !i.schema().field(at).data_type().is_null())
            .filter_map(|i| SqlType::of_field(i.schema().field(at)))
            .collect();
        if let Some(pair) = known.windows(2).find(|p| !super::functions::alike(&p[0], &p[1])) {
            return Err(DataFusionError::External(Box::new(Error::new(
                ErrorKind::DatatypeMismatch,
                format!("UNION types {} and {} cannot be matched", pair[0], pair[1]),
            ))));
        }
        if known.windows(2).any(|p| p[0] != p[1] && p[0].without_second_digits() == p[1].without_second_digits()) {
            for input in &mut union.inputs {
                *input = without_digits(input, at)?;
            }
            changed = true;
        }
        if !union.inputs.iter().any(|i| open(i, at)) {
            continue;
        }
        let ty = union.inputs.iter().filter(|i| !open(i, at)).find_map(|i| {
            SqlType::of_field(i.schema().field(at)).filter(|_| !i.schema().field(at).data_type().is_null())
        });
        let Some(ty) = ty.filter(|t| !matches!(t, SqlType::Text | SqlType::Varchar(_) | SqlType::Json)) else {
            continue;
        };
        for input in &mut union.inputs {
            if !open(input, at) {
                continue;
            }
            if let LogicalPlan::Projection(p) = input.as_ref() {
                let mut exprs = p.expr.clone();
                exprs[at] = {
                    let name = exprs[at].schema_name().to_string();
                    let resolved = resolve(exprs[at].clone(), &ty)?;
                    if matches!(resolved, Expr::Alias(_)) { resolved } else { resolved.alias(name) }
                };
                let made = Projection::try_new(exprs, p.input.clone())?;
                *input = Arc::new(LogicalPlan::Projection(made));
                changed = true;
            }
        }
    }
    Ok(if changed {
        Transformed::yes(LogicalPlan::Union(Union::try_new_with_loose_types(union.inputs)?))
    } else {
        Transformed::no(LogicalPlan::Union(union))
    })
}
