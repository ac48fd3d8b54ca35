//! Reduction through joins of co-located tables.
//!
//! Invariant: a fragment is dropped only when every row of it lacks a partner in *every* fragment that its partner table keeps, and
//! the join drops rows without partner (inner joins on both sides, the inner side of outer and semi joins).
//!
//! Why: let `c` be derived from `p` on `c.x = p.y`, and let the join demand `c.x = p.y`. A row of fragment i of `c` has its partners
//! in the parent's fragment named by i's bounds, and nowhere else; when reduction drops that fragment of `p`, they are not
//! among the rows that the join sees.

use super::localize::table_of;
use super::table::AtollTable;
use atoll_model::{ColumnId, FragmentBounds, Fragmentation, Table};
use datafusion::common::TableReference;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Join, JoinType, LogicalPlan, TableScan};
use std::collections::HashMap;

/// Fragments that a join leaves of a scan.
#[derive(Clone, Debug)]
pub(crate) struct ThroughJoin {
    /// Positions.
    pub(crate) kept: Vec<usize>,
    /// The partner's name.
    pub(crate) with: String,
}

/// The scan that a column comes from, below nodes that only drop rows or columns (so that a row of the scan is a row here).
fn origin<'a>(plan: &'a LogicalPlan, relation: &TableReference) -> Option<&'a TableScan> {
    match plan {
        LogicalPlan::TableScan(scan) if scan.table_name == *relation => Some(scan),
        LogicalPlan::Filter(f) => origin(&f.input, relation),
        LogicalPlan::Projection(p) => origin(&p.input, relation),
        LogicalPlan::Join(j) if j.join_type == JoinType::Inner => {
            origin(&j.left, relation).or_else(|| origin(&j.right, relation))
        }
        _ => None,
    }
}

/// What joins leave of scans, by the scans' names. A name that stands for several scans is left out.
pub(crate) fn reductions(plan: &LogicalPlan) -> HashMap<TableReference, ThroughJoin> {
    let mut joins: Vec<&Join> = vec![];
    let mut names: HashMap<&TableReference, usize> = HashMap::new();
    // Infallible: the closure never fails.
    let _ = plan.apply(|node| {
        match node {
            LogicalPlan::Join(join) => joins.push(join),
            LogicalPlan::TableScan(scan) => *names.entry(&scan.table_name).or_default() += 1,
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    let mut found: HashMap<TableReference, ThroughJoin> = HashMap::new();
    if joins.is_empty() {
        return found;
    }
    // Twice: what one join drops may let another drop more.
    for _ in 0..2 {
        for join in &joins {
            let (left_shrinks, right_shrinks) = match join.join_type {
                JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => (true, true),
                JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => (false, true),
                JoinType::Right | JoinType::RightAnti | JoinType::RightMark => (true, false),
                JoinType::Full => (false, false),
            };
            for (l, r) in &join.on {
                let (Expr::Column(lc), Expr::Column(rc)) = (l, r) else { continue };
                let (Some(lr), Some(rr)) = (&lc.relation, &rc.relation) else { continue };
                if names.get(lr) != Some(&1) || names.get(rr) != Some(&1) {
                    continue;
                }
                let (Some(ls), Some(rs)) = (origin(&join.left, lr), origin(&join.right, rr)) else { continue };
                let (Some(lt), Some(rt)) = (table_of(ls), table_of(rs)) else { continue };
                let kept = |scan: &TableScan, table: &AtollTable, found: &HashMap<TableReference, ThroughJoin>| {
                    let mut kept = table.reduce(&scan.filters);
                    if let Some(f) = found.get(&scan.table_name) {
                        kept.retain(|k| f.kept.contains(k));
                    }
                    kept
                };
                let (lk, rk) = (kept(ls, lt, &found), kept(rs, rt, &found));
                let Some(pairs) = partners(&lt.table, &lc.name, &rt.table, &rc.name) else { continue };
                if right_shrinks {
                    let left: Vec<usize> =
                        rk.iter().copied().filter(|at| pairs.iter().any(|(a, b)| b == at && lk.contains(a))).collect();
                    if left.len() < rk.len() {
                        found.insert(rr.clone(), ThroughJoin { kept: left, with: lr.to_string() });
                    }
                }
                if left_shrinks {
                    let left: Vec<usize> =
                        lk.iter().copied().filter(|at| pairs.iter().any(|(a, b)| a == at && rk.contains(b))).collect();
                    if left.len() < lk.len() {
                        found.insert(lr.clone(), ThroughJoin { kept: left, with: rr.to_string() });
                    }
                }
            }
        }
    }
    found
}

/// The pairs of fragments whose rows can be equal in these columns; `None`: any two can.
fn partners(left: &Table, left_column: &str, right: &Table, right_column: &str) -> Option<Vec<(usize, usize)>> {
    let column = |t: &Table, name: &str| t.columns.iter().find(|c| c.name == name).map(|c| (c.id, c.ty.clone()));
    let ((lc, lt), (rc, rt)) = (column(left, left_column)?, column(right, right_column)?);
    if lt != rt {
        return None;
    }
    if let Some(pairs) = derived(left, lc, right, rc) {
        return Some(pairs);
    }
    if let Some(pairs) = derived(right, rc, left, lc) {
        return Some(pairs.into_iter().map(|(a, b)| (b, a)).collect());
    }
    // Both split the column in the same way: equal values are in fragments with equal bounds.
    let same = match (&left.fragmentation, &right.fragmentation) {
        (Fragmentation::Hash(a), Fragmentation::Hash(b)) | (Fragmentation::Range(a), Fragmentation::Range(b)) => {
            a.as_slice() == [lc] && b.as_slice() == [rc]
        }
        (Fragmentation::List(a), Fragmentation::List(b)) => *a == lc && *b == rc,
        (
            Fragmentation::Derived { parent: p, column: a, parent_column: x, .. },
            Fragmentation::Derived { parent: q, column: b, parent_column: y, .. },
        ) => p == q && x == y && *a == lc && *b == rc,
        _ => false,
    };
    if !same || left.fragments.len() != right.fragments.len() {
        return None;
    }
    let mut pairs = vec![];
    for (a, fragment) in left.fragments.iter().enumerate() {
        // One without its like would make the two splits differ.
        let b = right.fragments.iter().position(|f| f.bounds == fragment.bounds)?;
        pairs.push((a, b));
    }
    Some(pairs)
}

/// `child` derived from `parent` on these columns: its fragments and those of the parent that they follow.
fn derived(child: &Table, column: ColumnId, parent: &Table, parent_column: ColumnId) -> Option<Vec<(usize, usize)>> {
    let Fragmentation::Derived { parent: id, column: c, parent_column: p, .. } = &child.fragmentation else {
        return None;
    };
    if *id != parent.id || *c != column || *p != parent_column {
        return None;
    }
    child
        .fragments
        .iter()
        .enumerate()
        .map(|(at, fragment)| {
            let FragmentBounds::Derived(of) = fragment.bounds else { return None };
            Some((at, parent.fragments.iter().position(|f| f.id == of)?))
        })
        .collect()
}
