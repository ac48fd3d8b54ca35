//! What stands above a union of fragments goes into each of its branches, as far as that gives the same rows: filters, projections, partial
//! aggregates, the first rows of an order (Özsu & Valduriez, section 4.2).
//!
//! Invariant: a union's branches have its columns, with its names, so expressions over the union are expressions over each of them.

use super::expr::{function, unaliased};
use atoll_ports::query;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions_aggregate::expr_fn::{bool_and, bool_or, max, min, sum};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, Filter, Limit, LogicalPlan, Projection, Sort, SubqueryAlias, Union, cast, lit,
};
use std::sync::Arc;

/// Spreads a plan's nodes over the unions below them.
///
/// # Errors
/// Those of rebuilding a plan.
pub(super) fn spread(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(node).map(|t| t.data)
}

/// The branches of a node that is a union.
fn branches(plan: &LogicalPlan) -> Option<&[Arc<LogicalPlan>]> {
    match plan {
        LogicalPlan::Union(union) => Some(&union.inputs),
        _ => None,
    }
}

fn each(inputs: &[Arc<LogicalPlan>], make: impl Fn(Arc<LogicalPlan>) -> Result<LogicalPlan>) -> Result<LogicalPlan> {
    let made = inputs.iter().map(|input| make(input.clone()).map(Arc::new)).collect::<Result<Vec<_>>>()?;
    // By position: all branches have the same names.
    let schema = made[0].schema().clone();
    Ok(LogicalPlan::Union(Union { inputs: made, schema }))
}

fn node(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    Ok(match &node {
        LogicalPlan::Filter(filter) => match branches(&filter.input) {
            Some(inputs) if !asks(&node) => Transformed::yes(each(inputs, |input| {
                Ok(LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), input)?))
            })?),
            _ => Transformed::no(node),
        },
        LogicalPlan::Projection(projection) => match branches(&projection.input) {
            Some(inputs) if !asks(&node) => Transformed::yes(each(inputs, |input| {
                Ok(LogicalPlan::Projection(Projection::try_new(projection.expr.clone(), input)?))
            })?),
            _ => Transformed::no(node),
        },
        LogicalPlan::SubqueryAlias(alias) => match branches(&alias.input) {
            Some(inputs) => Transformed::yes(each(inputs, |input| {
                Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(input, alias.alias.clone())?))
            })?),
            None => Transformed::no(node),
        },
        LogicalPlan::Aggregate(aggregate) => match branches(&aggregate.input) {
            Some(inputs) => match in_two_phases(aggregate, inputs)? {
                Some(made) => Transformed::yes(made),
                None => Transformed::no(node),
            },
            None => Transformed::no(node),
        },
        LogicalPlan::Distinct(Distinct::All(input)) => match branches(input) {
            Some(inputs) => {
                let distinct = |input| Ok(LogicalPlan::Distinct(Distinct::All(input)));
                Transformed::yes(LogicalPlan::Distinct(Distinct::All(Arc::new(each(inputs, distinct)?))))
            }
            None => Transformed::no(node),
        },
        LogicalPlan::Sort(sort) => match (branches(&sort.input), sort.fetch) {
            (Some(inputs), Some(_)) => {
                let first = |input| Ok(LogicalPlan::Sort(Sort { input, ..sort.clone() }));
                let input = Arc::new(each(inputs, first)?);
                Transformed::yes(LogicalPlan::Sort(Sort { input, ..sort.clone() }))
            }
            _ => Transformed::no(node),
        },
        LogicalPlan::Limit(limit) => match (branches(&limit.input), rows(limit)) {
            (Some(inputs), Some(rows)) => {
                let first = |input| {
                    let fetch = Some(Box::new(lit(rows)));
                    Ok(LogicalPlan::Limit(Limit { skip: None, fetch, input }))
                };
                let input = Arc::new(each(inputs, first)?);
                Transformed::yes(LogicalPlan::Limit(Limit { input, ..limit.clone() }))
            }
            _ => Transformed::no(node),
        },
        _ => Transformed::no(node),
    })
}

/// How many rows a limit lets through or leaves out, if that is known.
pub(super) fn rows(limit: &Limit) -> Option<i64> {
    use datafusion::logical_expr::{FetchType, SkipType};
    match (limit.get_skip_type().ok()?, limit.get_fetch_type().ok()?) {
        (SkipType::Literal(skip), FetchType::Literal(Some(fetch))) => i64::try_from(skip.checked_add(fetch)?).ok(),
        _ => None,
    }
}

/// Whether a node asks a subquery, or a function that must be called once.
fn asks(node: &LogicalPlan) -> bool {
    node.expressions().iter().any(|e| {
        crate::read::apply::has_subquery(e)
            || e.is_volatile()
            || e.exists(|e| Ok(matches!(e, Expr::ScalarFunction(f) if f.func.as_async().is_some()))).unwrap_or(true)
    })
}

/// `None`: a function's parts do not make the whole.
fn in_two_phases(aggregate: &Aggregate, inputs: &[Arc<LogicalPlan>]) -> Result<Option<LogicalPlan>> {
    let grouping = aggregate.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_)));
    if grouping || !aggregate.aggr_expr.iter().all(parts_make_the_whole) {
        return Ok(None);
    }
    let partial = each(inputs, |input| {
        let aggregate = Aggregate::try_new(input, aggregate.group_expr.clone(), aggregate.aggr_expr.clone())?;
        Ok(LogicalPlan::Aggregate(aggregate))
    })?;
    let columns: Vec<Expr> = partial.schema().columns().into_iter().map(Expr::Column).collect();
    let (groups, parts) = columns.split_at(aggregate.group_expr.len());
    let wholes: Vec<Expr> =
        aggregate.aggr_expr.iter().zip(parts).map(|(expr, part)| whole(expr, part.clone())).collect();
    let combined = Aggregate::try_new(Arc::new(partial), groups.to_vec(), wholes)?;
    let combined = LogicalPlan::Aggregate(combined);
    let mut exprs = vec![];
    for (at, (made, (qualifier, field))) in
        combined.schema().columns().into_iter().zip(aggregate.schema.iter()).enumerate()
    {
        let mut value = Expr::Column(made.clone());
        if at >= groups.len() {
            let counts = matches!(named(&aggregate.aggr_expr[at - groups.len()]), Some(query::Aggregate::Count));
            if counts {
                value = coalesce(vec![value, lit(0i64)]);
            }
            let of = combined.schema().field(at).data_type();
            if of != field.data_type() {
                value = cast(value, field.data_type().clone());
            }
        }
        exprs.push(value.alias_qualified(qualifier.cloned(), field.name()));
    }
    Ok(Some(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(combined))?)))
}

fn named(expr: &Expr) -> Option<query::Aggregate> {
    match unaliased(expr) {
        Expr::AggregateFunction(AggregateFunction { func, .. }) => function(func.name()),
        _ => None,
    }
}

fn parts_make_the_whole(expr: &Expr) -> bool {
    let Expr::AggregateFunction(AggregateFunction { func, params }) = unaliased(expr) else { return false };
    let plain =
        !params.distinct && params.filter.is_none() && params.order_by.is_empty() && params.null_treatment.is_none();
    plain && function(func.name()).is_some()
}

/// The aggregate of the branches' results.
fn whole(expr: &Expr, part: Expr) -> Expr {
    match named(expr) {
        // DataFusion's own sum keeps the type of what it adds, which is that of sums already.
        Some(query::Aggregate::Count | query::Aggregate::Sum) | None => sum(part),
        Some(query::Aggregate::Min) => min(part),
        Some(query::Aggregate::Max) => max(part),
        Some(query::Aggregate::Every) => bool_and(part),
        Some(query::Aggregate::Any) => bool_or(part),
    }
}
