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
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, TableReference};
use datafusion::logical_expr::{Expr, Join, JoinType, LogicalPlan, TableScan};
use std::collections::{HashMap, HashSet};

/// What the plan around a scan says of it.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// The scanned table's name.
    pub(crate) table: TableReference,
    /// How the statement calls it.
    pub(crate) name: String,
    /// What a join leaves of it.
    pub(crate) through_join: Option<ThroughJoin>,
}

/// Fragments that a join leaves of a scan.
#[derive(Clone, Debug)]
pub(crate) struct ThroughJoin {
    /// Positions.
    pub(crate) kept: Vec<usize>,
    /// How the statement calls the partner.
    pub(crate) with: String,
}

/// A column of a scan.
pub(super) struct Origin<'a> {
    scan: &'a TableScan,
    pub(super) table: &'a AtollTable,
    pub(super) column: String,
}

/// The scan that a column comes from, below nodes that only drop rows, or add columns to them: without a row of the scan, none of the
/// rows that have its value here is missed by anything but the join above.
pub(super) fn origin<'a>(plan: &'a LogicalPlan, column: &Column) -> Option<Origin<'a>> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let named = column.relation.as_ref().is_none_or(|r| *r == scan.table_name);
            let table = table_of(scan).filter(|_| named && scan.projected_schema.has_column(column))?;
            Some(Origin { scan, table, column: column.name.clone() })
        }
        LogicalPlan::Filter(f) => origin(&f.input, column),
        LogicalPlan::SubqueryAlias(alias) => {
            let at = alias.schema.index_of_column(column).ok()?;
            origin(&alias.input, &Column::from(alias.input.schema().qualified_field(at)))
        }
        LogicalPlan::Projection(p) => match p.expr.get(p.schema.index_of_column(column).ok()?)? {
            Expr::Column(inner) => origin(&p.input, inner),
            Expr::Alias(alias) => origin(&p.input, alias.expr.try_as_col()?),
            _ => None,
        },
        LogicalPlan::Join(j) => {
            let sides = match j.join_type {
                JoinType::Inner => [Some(&j.left), Some(&j.right)],
                JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => [Some(&j.left), None],
                JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                    [Some(&j.right), None]
                }
                JoinType::Full => return None,
            };
            let side = sides.into_iter().flatten().find(|side| side.schema().has_column(column))?;
            origin(side, column)
        }
        _ => None,
    }
}

/// What is around the scans of Atoll's tables, in the order in which a walk with subqueries meets those.
pub(crate) fn surroundings(plan: &LogicalPlan) -> Vec<Surroundings> {
    let mut scans: Vec<(*const TableScan, TableReference)> = vec![];
    let mut found = Found::default();
    // No walk here fails: the closures never do.
    let _ = plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::SubqueryAlias(alias) => {
                if let Some(scan) = renamed(&alias.input) {
                    found.names.insert(scan, alias.alias.to_string());
                }
            }
            LogicalPlan::TableScan(scan) if table_of(scan).is_some() => {
                let place = std::ptr::from_ref(scan);
                if scans.iter().any(|(other, _)| *other == place) {
                    found.shared.insert(place);
                }
                scans.push((place, scan.table_name.clone()));
            }
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    });
    // Twice: what one join drops may let another drop more.
    for _ in 0..2 {
        let _ = plan.apply_with_subqueries(|node| {
            if let LogicalPlan::Join(join) = node {
                reduce(join, &mut found);
            }
            Ok(TreeNodeRecursion::Continue)
        });
    }
    let around = |(place, table): (*const TableScan, TableReference)| Surroundings {
        name: found.names.get(&place).cloned().unwrap_or_else(|| table.to_string()),
        through_join: found.through.get(&place).cloned(),
        table,
    };
    scans.into_iter().map(around).collect()
}

/// The one scan that an alias renames.
fn renamed(plan: &LogicalPlan) -> Option<&TableScan> {
    match plan {
        LogicalPlan::TableScan(scan) => Some(scan),
        LogicalPlan::Filter(f) => renamed(&f.input),
        LogicalPlan::Projection(p) => renamed(&p.input),
        _ => None,
    }
}

/// What is found, by the scan's place in memory: names can stand for several scans.
#[derive(Default)]
struct Found {
    names: HashMap<*const TableScan, String>,
    through: HashMap<*const TableScan, ThroughJoin>,
    /// Scans that are in the plan twice (of a query that is named by WITH, say): what one join does not need, another may.
    shared: HashSet<*const TableScan>,
}

impl Found {
    fn name(&self, scan: &TableScan) -> String {
        self.names.get(&std::ptr::from_ref(scan)).cloned().unwrap_or_else(|| scan.table_name.to_string())
    }
}

fn reduce(join: &Join, found: &mut Found) {
    let (left_shrinks, right_shrinks) = match join.join_type {
        JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => (true, true),
        JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => (false, true),
        JoinType::Right | JoinType::RightAnti | JoinType::RightMark => (true, false),
        JoinType::Full => (false, false),
    };
    for (l, r) in &join.on {
        let (Expr::Column(l), Expr::Column(r)) = (l, r) else { continue };
        let (Some(left), Some(right)) = (origin(&join.left, l), origin(&join.right, r)) else { continue };
        let kept = |of: &Origin<'_>| {
            let mut kept = of.table.reduce(&of.scan.filters);
            if let Some(f) = found.through.get(&std::ptr::from_ref(of.scan)) {
                kept.retain(|k| f.kept.contains(k));
            }
            kept
        };
        let (lk, rk) = (kept(&left), kept(&right));
        let Some(pairs) = partners(&left.table.table, &left.column, &right.table.table, &right.column) else {
            continue;
        };
        if right_shrinks {
            let rest = rk.iter().copied().filter(|at| pairs.iter().any(|(a, b)| b == at && lk.contains(a)));
            note(found, &right, rest.collect(), rk.len(), &left);
        }
        if left_shrinks {
            let rest = lk.iter().copied().filter(|at| pairs.iter().any(|(a, b)| a == at && rk.contains(b)));
            note(found, &left, rest.collect(), lk.len(), &right);
        }
    }
}

fn note(found: &mut Found, of: &Origin<'_>, kept: Vec<usize>, before: usize, partner: &Origin<'_>) {
    if kept.len() < before && !found.shared.contains(&std::ptr::from_ref(of.scan)) {
        let with = found.name(partner.scan);
        found.through.insert(of.scan, ThroughJoin { kept, with });
    }
}

/// The pairs of fragments whose rows can be equal in these columns; `None`: any two can.
pub(super) fn partners(
    left: &Table,
    left_column: &str,
    right: &Table,
    right_column: &str,
) -> Option<Vec<(usize, usize)>> {
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
            Some((at, parent.fragment_position(of)?))
        })
        .collect()
}
