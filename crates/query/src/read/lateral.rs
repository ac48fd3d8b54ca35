//! LATERAL: what stands on the right of a join and sees the columns on its left.
//!
//! DataFusion joins a lateral subquery whose correlation can be pulled up. Of the others, a subquery that reads no table (`unnest(t.array)`) is
//! computed in the rows of the left side; all that remain are run once for each distinct row of the outer values that they see
//! (the dependent join of Neumann and Kemper, *Unnesting Arbitrary Queries*, BTW 2015), as [`super::apply`] does for expressions.
//!
//! Invariant: the plan that replaces a join has the join's columns, in their order and with their qualifiers.

use super::apply::{Kind, Rewriter, field_name, has_subquery, pulls_up};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, Result, TableReference, UnnestOptions};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::{
    Expr, Filter, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Projection, Subquery, SubqueryAlias, Unnest,
};
use std::sync::Arc;

/// The rows of a subquery while they lie in one column; no identifier of a user holds such a character.
const ROWS: &str = "\u{1}rows";

/// Replaces a lateral join that DataFusion would not plan.
///
/// # Errors
/// Those of plan building.
pub(super) fn replace(join: Join) -> Result<Transformed<LogicalPlan>> {
    let Some((alias, subquery)) = lateral(&join.right) else { return Ok(Transformed::no(LogicalPlan::Join(join))) };
    if subquery.outer_ref_columns.is_empty() || !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    }
    if join.join_type == JoinType::Inner
        && let Some(made) = InRows::of(&join.left, &subquery.subquery)?
    {
        let plan = made.finish(subquery.subquery.schema(), alias)?;
        return filtered(plan, join.filter).map(Transformed::yes);
    }
    let local = Rewriter::within(join.left.schema()).is_local(subquery)?;
    if local && pulls_up(subquery, false)? {
        return Ok(Transformed::no(LogicalPlan::Join(join)));
    }
    dependent(&join, alias, subquery).map(Transformed::yes)
}

/// A lateral subquery that stands first in FROM sees only queries further out, as any subquery there does.
///
/// # Errors
/// Those of rebuilding a plan.
pub(super) fn first(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut right = false;
    let joins = matches!(node, LogicalPlan::Join(_));
    if matches!(node, LogicalPlan::SubqueryAlias(_)) {
        // What is called so may be on the right of a join.
        return Ok(Transformed::no(node));
    }
    node.map_children(|child| {
        let kept = joins && std::mem::replace(&mut right, true);
        if kept {
            return Ok(Transformed::no(child));
        }
        Ok(match child {
            LogicalPlan::Subquery(subquery) => Transformed::yes(Arc::unwrap_or_clone(subquery.subquery)),
            LogicalPlan::SubqueryAlias(alias) => match alias.input.as_ref() {
                LogicalPlan::Subquery(subquery) => Transformed::yes(LogicalPlan::SubqueryAlias(
                    SubqueryAlias::try_new(subquery.subquery.clone(), alias.alias)?,
                )),
                _ => Transformed::no(LogicalPlan::SubqueryAlias(alias)),
            },
            child => Transformed::no(child),
        })
    })
}

fn lateral(right: &LogicalPlan) -> Option<(Option<&TableReference>, &Subquery)> {
    match right {
        LogicalPlan::Subquery(subquery) => Some((None, subquery)),
        LogicalPlan::SubqueryAlias(SubqueryAlias { input, alias, .. }) => match input.as_ref() {
            LogicalPlan::Subquery(subquery) => Some((Some(alias), subquery)),
            _ => None,
        },
        _ => None,
    }
}

fn filtered(plan: LogicalPlan, condition: Option<Expr>) -> Result<LogicalPlan> {
    match condition {
        Some(condition) => Ok(LogicalPlan::Filter(Filter::try_new(condition, Arc::new(plan))?)),
        None => Ok(plan),
    }
}

fn columns(schema: &DFSchema) -> Vec<Expr> {
    schema.columns().into_iter().map(Expr::Column).collect()
}

fn renamed(value: Expr, column: &Column, alias: Option<&TableReference>) -> Expr {
    match alias.or(column.relation.as_ref()) {
        Some(relation) => value.alias_qualified(Some(relation.clone()), &column.name),
        None => value.alias(&column.name),
    }
}

/// A subquery over no table, computed in the rows of the left side: behind its columns stand those of the subquery, under names of no
/// other meaning.
struct InRows<'l> {
    left: &'l LogicalPlan,
    plan: LogicalPlan,
    /// For each column of the subquery, its name in `plan`.
    names: Vec<Column>,
}

impl<'l> InRows<'l> {
    /// `None`: the subquery reads something, or needs more than each row on its own.
    fn of(left: &'l LogicalPlan, plan: &LogicalPlan) -> Result<Option<Self>> {
        if plan.expressions().iter().any(has_subquery) {
            return Ok(None);
        }
        let (LogicalPlan::Projection(Projection { input, .. })
        | LogicalPlan::Filter(Filter { input, .. })
        | LogicalPlan::Unnest(Unnest { input, .. })
        | LogicalPlan::SubqueryAlias(SubqueryAlias { input, .. })) = plan
        else {
            let row = matches!(plan, LogicalPlan::EmptyRelation(empty) if empty.produce_one_row);
            return Ok(row.then(|| InRows { left, plan: left.clone(), names: vec![] }));
        };
        let Some(below) = Self::of(left, input)? else { return Ok(None) };
        match plan {
            LogicalPlan::Projection(projection) => below.project(input, &projection.expr),
            LogicalPlan::Filter(filter) => below.filter(input, &filter.predicate),
            LogicalPlan::Unnest(unnest) => below.unnest(unnest),
            _ => Ok(Some(below)),
        }
    }

    /// An expression over a node of the subquery, in terms of `plan`. `None`: it sees a query further out.
    fn moved(&self, input: &LogicalPlan, expr: &Expr) -> Result<Option<Expr>> {
        let mut within = true;
        let moved = expr.clone().transform(|e| {
            Ok(match e {
                Expr::OuterReferenceColumn(_, column) => {
                    within &= self.left.schema().has_column(&column);
                    Transformed::yes(Expr::Column(column))
                }
                Expr::Column(column) => {
                    Transformed::yes(Expr::Column(self.names[input.schema().index_of_column(&column)?].clone()))
                }
                e => Transformed::no(e),
            })
        })?;
        Ok(within.then_some(moved.data))
    }

    fn project(self, input: &LogicalPlan, exprs: &[Expr]) -> Result<Option<Self>> {
        let mut all = columns(self.left.schema());
        let mut names = vec![];
        for expr in exprs {
            let Some(moved) = self.moved(input, expr)? else { return Ok(None) };
            let name = format!("{ROWS}{}", all.len());
            all.push(moved.unalias().alias(&name));
            names.push(Column::new_unqualified(name));
        }
        let plan = LogicalPlan::Projection(Projection::try_new(all, Arc::new(self.plan))?);
        Ok(Some(InRows { left: self.left, plan, names }))
    }

    fn filter(self, input: &LogicalPlan, predicate: &Expr) -> Result<Option<Self>> {
        let Some(predicate) = self.moved(input, predicate)? else { return Ok(None) };
        Ok(Some(InRows { plan: filtered(self.plan, Some(predicate))?, ..self }))
    }

    fn unnest(self, unnest: &Unnest) -> Result<Option<Self>> {
        if !unnest.struct_type_columns.is_empty() {
            return Ok(None);
        }
        let before = unnest.input.schema();
        let name = |column: &Column| -> Result<Column> { Ok(self.names[before.index_of_column(column)?].clone()) };
        let exec_columns = unnest.exec_columns.iter().map(name).collect::<Result<Vec<_>>>()?;
        let mut options = unnest.options.clone();
        for recursion in &mut options.recursions {
            recursion.input_column = name(&recursion.input_column)?;
            recursion.output_column = Column::new_unqualified(format!("{ROWS}{}", recursion.output_column.name));
        }
        let names = unnest
            .schema
            .columns()
            .iter()
            .map(|column| match unnest.options.recursions.iter().position(|r| r.output_column == *column) {
                Some(at) => Ok(options.recursions[at].output_column.clone()),
                None => name(column),
            })
            .collect::<Result<Vec<_>>>()?;
        let plan = LogicalPlanBuilder::from(self.plan).unnest_columns_with_options(exec_columns, options)?.build()?;
        Ok(Some(InRows { left: self.left, plan, names }))
    }

    /// The left side's columns, then those of the subquery under the join's names.
    fn finish(self, inner: &DFSchema, alias: Option<&TableReference>) -> Result<LogicalPlan> {
        let mut exprs = columns(self.left.schema());
        for (name, column) in self.names.into_iter().zip(inner.columns()) {
            exprs.push(renamed(Expr::Column(name), &column, alias));
        }
        Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(self.plan))?))
    }
}

/// The subquery's rows as an array for each row of the left side, which is then unnested.
fn dependent(join: &Join, alias: Option<&TableReference>, subquery: &Subquery) -> Result<LogicalPlan> {
    let left = join.left.schema();
    let or_null = join.join_type == JoinType::Left;
    let inner = subquery.subquery.schema();
    let (plan, condition) = match &join.filter {
        // For a left join, the condition decides which rows there are.
        Some(condition) if or_null => (correlated(subquery, left, alias, condition)?, None),
        condition => (subquery.clone(), condition.clone()),
    };
    let mut exprs = columns(left);
    exprs.push(Rewriter::within(left).function(Kind::Rows { or_null }, &plan, None)?.alias(ROWS));
    let plan = LogicalPlan::Projection(Projection::try_new(exprs, join.left.clone())?);
    let plan = LogicalPlanBuilder::from(plan)
        .unnest_column_with_options(ROWS, UnnestOptions::default().with_preserve_nulls(false))?
        .build()?;
    let mut exprs = columns(left);
    for (at, column) in inner.columns().iter().enumerate() {
        let row = Expr::Column(Column::new_unqualified(ROWS));
        exprs.push(renamed(get_field(row, field_name(at)), column, alias));
    }
    filtered(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?), condition)
}

/// The subquery's rows that satisfy a condition over both sides of the join.
fn correlated(
    subquery: &Subquery,
    left: &DFSchema,
    alias: Option<&TableReference>,
    condition: &Expr,
) -> Result<Subquery> {
    let inner = subquery.subquery.schema();
    let condition = condition.clone().transform(|e| {
        let Expr::Column(column) = &e else { return Ok(Transformed::no(e)) };
        if let Ok(at) = left.index_of_column(column) {
            return Ok(Transformed::yes(Expr::OuterReferenceColumn(left.field(at).clone(), column.clone())));
        }
        let of_inner = |c: &Column| c.name == column.name && (alias.is_some() || c.relation == column.relation);
        let found = inner.columns().into_iter().find(of_inner);
        Ok(found.map_or_else(|| Transformed::no(e), |c| Transformed::yes(Expr::Column(c))))
    })?;
    let plan = filtered(subquery.subquery.as_ref().clone(), Some(condition.data))?;
    Ok(Subquery {
        outer_ref_columns: plan.all_out_ref_exprs(),
        subquery: Arc::new(plan),
        spans: subquery.spans.clone(),
    })
}
