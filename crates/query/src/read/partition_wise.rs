//! Joins of co-located tables, fragment by fragment (Özsu & Valduriez, section 4.2.2: joins of horizontally fragmented relations).
//!
//! Where rows can only match within pairs of fragments that lie together, `(A1 ∪ A2) ⋈ (B1 ∪ B2)` is `(A1 ⋈ B1) ∪ (A2 ⋈ B2)`: each
//! join is of what one site holds, with a hash table of its own size, and they run side by side.
//!
//! Invariant: every fragment that is read on either side is in exactly one pair, so no row is lost, and none is joined or found to be
//! without partner twice. That holds for outer and semi joins as well.

use super::join::{origin, partners};
use super::localize::table_of;
use super::table::AtollTable;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{NullEquality, Result};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, Join, JoinType, LogicalPlan, Union};
use std::sync::Arc;

/// Pairs in one join, at most: each costs planning time and memory of its own.
const MAX_PAIRS: usize = 32;

/// Takes the joins of a localized plan apart.
///
/// # Errors
/// None but those of rebuilding a plan.
pub(crate) fn take_apart(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    plan.transform_up(|node| match node {
        LogicalPlan::Join(join) => match pairs(&join) {
            Some(pairs) => one_by_one(&join, &pairs).map(Transformed::yes),
            None => Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        other => Ok(Transformed::no(other)),
    })
}

/// The pairs of fragments that a join can be made of; `None`: it is better, or only possible, as a whole.
fn pairs(join: &Join) -> Option<Vec<(usize, usize)>> {
    let (left, right) = (only_table(&join.left)?, only_table(&join.right)?);
    let (left, right) = (&left.bound.as_ref()?.fragments, &right.bound.as_ref()?.fragments);
    // Where a NULL on one side says something of all rows of the other, or is equal to it, pairs do not suffice.
    let marks = matches!(join.join_type, JoinType::LeftMark | JoinType::RightMark);
    if marks || join.null_aware || join.null_equality != NullEquality::NullEqualsNothing {
        return None;
    }
    if left.len() < 2 || left.len() != right.len() || left.len() > MAX_PAIRS || asks(join) {
        return None;
    }
    join.on.iter().find_map(|(l, r)| {
        let (Expr::Column(l), Expr::Column(r)) = (l, r) else { return None };
        let (l, r) = (origin(&join.left, l)?, origin(&join.right, r)?);
        let all = partners(&l.table.table, &l.column, &r.table.table, &r.column)?;
        let pairs: Vec<(usize, usize)> =
            all.into_iter().filter(|(l, r)| left.contains(l) && right.contains(r)).collect();
        let once = |side: &[usize], of: fn(&(usize, usize)) -> usize| {
            side.iter().all(|at| pairs.iter().filter(|pair| of(pair) == *at).count() == 1)
        };
        (once(left, |p| p.0) && once(right, |p| p.1)).then_some(pairs)
    })
}

/// The table of a plan that only filters, renames or computes over the rows of one.
fn only_table(plan: &LogicalPlan) -> Option<&AtollTable> {
    match plan {
        LogicalPlan::TableScan(scan) => table_of(scan),
        LogicalPlan::Filter(f) => only_table(&f.input),
        LogicalPlan::Projection(p) => only_table(&p.input),
        LogicalPlan::SubqueryAlias(a) => only_table(&a.input),
        _ => None,
    }
}

/// Whether a subquery is asked anywhere in a join: it would be asked once for each pair.
fn asks(join: &Join) -> bool {
    let mut found = false;
    let mut look = |node: &LogicalPlan| {
        node.apply_expressions(|e| {
            found |= e.exists(|e| {
                Ok(matches!(
                    e,
                    Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_)
                ))
            })?;
            Ok(TreeNodeRecursion::Continue)
        })
    };
    // The walks fail only if the closures do.
    let _ = join.left.apply(&mut look);
    let _ = join.right.apply(&mut look);
    let filter = join.filter.iter().any(|e| e.exists(|e| Ok(matches!(e, Expr::ScalarSubquery(_)))).unwrap_or(true));
    found || filter
}

fn one_by_one(join: &Join, pairs: &[(usize, usize)]) -> Result<LogicalPlan> {
    let joins = pairs.iter().map(|(left, right)| {
        let mut one = join.clone();
        one.left = Arc::new(only_fragment(join.left.as_ref().clone(), *left)?);
        one.right = Arc::new(only_fragment(join.right.as_ref().clone(), *right)?);
        Ok(Arc::new(LogicalPlan::Join(one)))
    });
    Ok(LogicalPlan::Union(Union { inputs: joins.collect::<Result<_>>()?, schema: join.schema.clone() }))
}

/// A side of the join, of one fragment alone.
fn only_fragment(plan: LogicalPlan, at: usize) -> Result<LogicalPlan> {
    let plan = plan.transform_up(|node| {
        let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
        let table = table_of(&scan).and_then(|table| Some((table, table.bound.clone()?)));
        let Some((table, mut binding)) = table else { return Ok(Transformed::no(LogicalPlan::TableScan(scan))) };
        binding.fragments = vec![at];
        let bound = table.bind(binding);
        scan.source = provider_as_source(Arc::new(bound));
        Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
    })?;
    Ok(plan.data)
}
