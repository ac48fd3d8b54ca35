//! What stands above a union of fragments goes into each of its branches, as far as that gives the same rows: filters, projections, partial
//! aggregates, the first rows of an order (Özsu & Valduriez, section 4.2).
//!
//! Invariant: a union's branches have its columns, with its names, so expressions over the union are expressions over each of them.

use super::average::average;
use super::block::Block;
use super::expr::{function, unaliased};
use atoll_ports::query;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::functions_aggregate::expr_fn::{bool_and, bool_or, count, max, min, sum};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{
    Aggregate, Case, Distinct, Expr, ExprSchemable, Filter, Limit, LogicalPlan, Projection, Sort, SubqueryAlias, Union,
    cast, lit,
};
use std::sync::Arc;

/// Spreads a plan's nodes over the unions below them.
///
/// # Errors
/// Those of rebuilding a plan.
pub(super) fn spread(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(node).map(|t| t.data)
}

/// The branches of a node that is a union, under the union's names: those of a UNION that was written so may have others.
fn branches(plan: &LogicalPlan) -> Result<Option<Vec<Arc<LogicalPlan>>>> {
    let LogicalPlan::Union(union) = plan else { return Ok(None) };
    let named = |input: &Arc<LogicalPlan>| {
        let columns = input.schema().columns();
        if columns == union.schema.columns() {
            return Ok(input.clone());
        }
        let renamed = columns.into_iter().zip(union.schema.iter());
        let renamed = renamed.map(|(c, (table, field))| Expr::Column(c).alias_qualified(table.cloned(), field.name()));
        Ok(Arc::new(LogicalPlan::Projection(Projection::try_new(renamed.collect(), input.clone())?)))
    };
    union.inputs.iter().map(named).collect::<Result<Vec<_>>>().map(Some)
}

fn each(inputs: &[Arc<LogicalPlan>], make: impl Fn(Arc<LogicalPlan>) -> Result<LogicalPlan>) -> Result<LogicalPlan> {
    let made = inputs.iter().map(|input| make(input.clone()).map(Arc::new)).collect::<Result<Vec<_>>>()?;
    // By position. DataFusion's own constructor leaves out what qualifies the names.
    let first = made[0].schema();
    let fields = first.iter().enumerate().map(|(at, (table, field))| {
        let nullable = made.iter().any(|branch| branch.schema().field(at).is_nullable());
        (table.cloned(), Arc::new(field.as_ref().clone().with_nullable(nullable)))
    });
    let schema = DFSchema::new_with_metadata(fields.collect(), first.metadata().clone())?;
    Ok(LogicalPlan::Union(Union { inputs: made, schema: Arc::new(schema) }))
}

fn node(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    Ok(match &node {
        LogicalPlan::Filter(filter) => match branches(&filter.input)? {
            Some(inputs) if !asks(&node) => Transformed::yes(each(&inputs, |input| {
                Ok(LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), input)?))
            })?),
            _ => Transformed::no(node),
        },
        LogicalPlan::Projection(projection) => match branches(&projection.input)? {
            Some(inputs) if !asks(&node) => Transformed::yes(each(&inputs, |input| {
                Ok(LogicalPlan::Projection(Projection::try_new(projection.expr.clone(), input)?))
            })?),
            _ => Transformed::no(node),
        },
        LogicalPlan::SubqueryAlias(alias) => match branches(&alias.input)? {
            Some(inputs) => Transformed::yes(each(&inputs, |input| {
                Ok(LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(input, alias.alias.clone())?))
            })?),
            None => Transformed::no(node),
        },
        LogicalPlan::Aggregate(aggregate) => match branches(&aggregate.input)? {
            Some(inputs) => match in_two_phases(aggregate, &inputs)? {
                Some(made) => Transformed::yes(made),
                None => Transformed::no(node),
            },
            None => match in_parts(aggregate)? {
                Some(made) => Transformed::yes(made),
                None => Transformed::no(node),
            },
        },
        LogicalPlan::Distinct(Distinct::All(input)) => match branches(input)? {
            Some(inputs) => {
                let distinct = |input| Ok(LogicalPlan::Distinct(Distinct::All(input)));
                Transformed::yes(LogicalPlan::Distinct(Distinct::All(Arc::new(each(&inputs, distinct)?))))
            }
            None => Transformed::no(node),
        },
        LogicalPlan::Sort(sort) => match (branches(&sort.input)?, sort.fetch) {
            (Some(inputs), Some(_)) => {
                let first = |input| Ok(LogicalPlan::Sort(Sort { input, ..sort.clone() }));
                let input = Arc::new(each(&inputs, first)?);
                Transformed::yes(LogicalPlan::Sort(Sort { input, ..sort.clone() }))
            }
            _ => Transformed::no(node),
        },
        LogicalPlan::Limit(limit) => match (branches(&limit.input)?, rows(limit)) {
            (Some(inputs), Some(rows)) => {
                let first = |input| {
                    let fetch = Some(Box::new(lit(rows)));
                    Ok(LogicalPlan::Limit(Limit { skip: None, fetch, input }))
                };
                let input = Arc::new(each(&inputs, first)?);
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

/// The aggregate of one part of the branches' results.
type Combine = fn(Expr) -> Expr;

/// The value, of all parts.
type Finish = fn(Vec<Expr>) -> Expr;

/// An aggregate as what branches compute of it and how that becomes the whole.
struct Parts {
    /// What each branch computes.
    partial: Vec<Expr>,
    /// What is made of the branches' results, one for each of `partial`.
    combine: Vec<Combine>,
    /// The value, of what was combined.
    finish: Finish,
}

impl Parts {
    /// `None`: an aggregate that has none.
    fn of(expr: &Expr) -> Option<Parts> {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = unaliased(expr) else { return None };
        let plain = params.filter.is_none() && params.order_by.is_empty() && params.null_treatment.is_none();
        if params.distinct || !plain {
            return None;
        }
        let only = |values: Vec<Expr>| values.into_iter().next().unwrap_or_else(|| lit(ScalarValue::Null));
        // DataFusion's own sum keeps the type of what it adds, which is that of sums already.
        let (combine, finish): (Combine, Finish) = match (func.name(), function(func.name())) {
            ("avg", _) => {
                let [argument] = params.args.as_slice() else { return None };
                return Some(Parts {
                    partial: vec![sum(argument.clone()), count(argument.clone())],
                    combine: vec![sum, sum],
                    finish: |values| match <[Expr; 2]>::try_from(values) {
                        Ok([sum, count]) => average(sum, count),
                        Err(_) => lit(ScalarValue::Null),
                    },
                });
            }
            (_, Some(query::Aggregate::Count)) => (sum, counted),
            (_, Some(query::Aggregate::Sum)) => (sum, only),
            (_, Some(query::Aggregate::Min)) => (min, only),
            (_, Some(query::Aggregate::Max)) => (max, only),
            (_, Some(query::Aggregate::Every)) => (bool_and, only),
            (_, Some(query::Aggregate::Any)) => (bool_or, only),
            (_, None) => return None,
        };
        Some(Parts { partial: vec![expr.clone()], combine: vec![combine], finish })
    }
}

/// An aggregate over a union: partial ones in its branches, and one over their results. `None`: a function's parts do not make the
/// whole.
fn in_two_phases(aggregate: &Aggregate, inputs: &[Arc<LogicalPlan>]) -> Result<Option<LogicalPlan>> {
    let Some(parts) = all_parts(aggregate) else { return Ok(None) };
    let partial = each(inputs, |input| partial(aggregate, &parts, input))?;
    let columns = columns(&partial);
    let (groups, values) = columns.split_at(aggregate.group_expr.len());
    let combine = parts.iter().flat_map(|p| &p.combine).zip(values).map(|(combine, value)| combine(value.clone()));
    let combined = Aggregate::try_new(Arc::new(partial), groups.to_vec(), combine.collect())?;
    finish(aggregate, &parts, LogicalPlan::Aggregate(combined)).map(Some)
}

/// An aggregate over what is no union, by its parts, where that lets a site compute it. `None`: it does not.
fn in_parts(aggregate: &Aggregate) -> Result<Option<LogicalPlan>> {
    let average = |e: &Expr| matches!(unaliased(e), Expr::AggregateFunction(f) if f.func.name() == "avg");
    if !aggregate.aggr_expr.iter().any(average) {
        return Ok(None);
    }
    let Some(parts) = all_parts(aggregate) else { return Ok(None) };
    let made = partial(aggregate, &parts, aggregate.input.clone())?;
    if Block::of(&made).is_err() {
        return Ok(None);
    }
    finish(aggregate, &parts, made).map(Some)
}

/// The sum of counts; of none, 0.
fn counted(values: Vec<Expr>) -> Expr {
    let Some(value) = values.into_iter().next() else { return lit(0i64) };
    let branch = (Box::new(value.clone().is_null()), Box::new(lit(0i64)));
    Expr::Case(Case::new(None, vec![branch], Some(Box::new(value))))
}

fn all_parts(aggregate: &Aggregate) -> Option<Vec<Parts>> {
    let sets = aggregate.group_expr.iter().any(|e| matches!(e, Expr::GroupingSet(_)));
    if sets { None } else { aggregate.aggr_expr.iter().map(Parts::of).collect() }
}

fn columns(plan: &LogicalPlan) -> Vec<Expr> {
    plan.schema().columns().into_iter().map(Expr::Column).collect()
}

fn partial(aggregate: &Aggregate, parts: &[Parts], input: Arc<LogicalPlan>) -> Result<LogicalPlan> {
    let values = parts.iter().flat_map(|p| &p.partial).enumerate();
    // `count(x)` may be asked for by itself and for an average.
    let values = values.map(|(at, value)| unaliased(value).clone().alias(format!("part {at}")));
    Ok(LogicalPlan::Aggregate(Aggregate::try_new(input, aggregate.group_expr.clone(), values.collect())?))
}

/// The aggregate's columns, under its names, from those of its parts.
fn finish(aggregate: &Aggregate, parts: &[Parts], combined: LogicalPlan) -> Result<LogicalPlan> {
    let columns = columns(&combined);
    let (groups, mut rest) = columns.split_at(aggregate.group_expr.len());
    let mut values = groups.to_vec();
    for part in parts {
        let (mine, others) = rest.split_at(part.partial.len());
        values.push((part.finish)(mine.to_vec()));
        rest = others;
    }
    let exprs = values.into_iter().zip(aggregate.schema.iter()).map(|(value, (qualifier, field))| {
        let of = value.get_type(combined.schema())?;
        let value = if of == *field.data_type() { value } else { cast(value, field.data_type().clone()) };
        Ok(value.alias_qualified(qualifier.cloned(), field.name()))
    });
    let exprs = exprs.collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(combined))?))
}
