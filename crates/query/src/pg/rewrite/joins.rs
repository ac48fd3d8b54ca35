//! The columns that JOIN … USING merges.
//!
//! Invariant: a merged column is the left one of an inner or left join, the right one of a right join, and whichever is there of a full
//! join; `SELECT *` gives the merged columns first. The planner takes the left one always, and keeps the tables' order.

use super::call;
use crate::syntax::{self, fold};
use atoll_model::{Error, Result};
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, GroupByExpr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, Query, Select,
    SelectItem, SelectItemQualifiedWildcardKind, TableFactor, VisitorMut, WildcardAdditionalOptions,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
    Both,
}

fn constraint(join: &Join) -> Option<(&JoinConstraint, Side)> {
    Some(match &join.join_operator {
        JoinOperator::Join(c) | JoinOperator::Inner(c) | JoinOperator::Left(c) | JoinOperator::LeftOuter(c) => {
            (c, Side::Left)
        }
        JoinOperator::Right(c) | JoinOperator::RightOuter(c) => (c, Side::Right),
        JoinOperator::FullOuter(c) => (c, Side::Both),
        _ => return None,
    })
}

fn relation(factor: &TableFactor) -> Option<Ident> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
            Some(alias.name.clone())
        }
        TableFactor::Table { name, .. } => name.0.last().and_then(|p| p.as_ident()).cloned(),
        _ => None,
    }
}

/// Rewrites the references to merged columns of one SELECT.
///
/// # Errors
/// `NotSupported` where the columns cannot be told without the catalog.
pub fn select(select: &mut Select) -> Result<()> {
    let mut merged: BTreeMap<String, Expr> = BTreeMap::new();
    let mut order: Vec<String> = vec![];
    let wild = select.projection.iter().any(|i| matches!(i, SelectItem::Wildcard(_)));
    for from in &select.from {
        for (at, join) in from.joins.iter().enumerate() {
            let Some((constraint, side)) = constraint(join) else { continue };
            let columns = match constraint {
                JoinConstraint::Using(columns) => columns,
                JoinConstraint::Natural if wild || side != Side::Left => {
                    return Err(Error::unsupported("SELECT * of a NATURAL JOIN, and NATURAL RIGHT and FULL JOIN")
                        .hint("Name the columns, or join USING them."));
                }
                _ => continue,
            };
            let names: Vec<String> =
                columns.iter().filter_map(|c| c.0.last().and_then(|p| p.as_ident()).map(fold)).collect();
            for name in &names {
                let qualified = |table: Ident| Expr::CompoundIdentifier(vec![table, Ident::with_quote('"', name)]);
                if side != Side::Left {
                    let unknown = || {
                        Error::unsupported("RIGHT and FULL JOIN … USING over more than two tables")
                            .hint("Join ON the columns instead.")
                    };
                    let right = relation(&join.relation).map(qualified).ok_or_else(unknown)?;
                    let made = if side == Side::Right {
                        right
                    } else {
                        let left = match merged.get(name) {
                            Some(left) => left.clone(),
                            None if at == 0 => relation(&from.relation).map(qualified).ok_or_else(unknown)?,
                            None => return Err(unknown()),
                        };
                        call("coalesce", vec![left, right])
                    };
                    merged.insert(name.clone(), made);
                }
            }
            // The columns of the outermost join come first.
            order.retain(|n| !names.contains(n));
            order.splice(0..0, names);
        }
    }
    if order.is_empty() {
        return Ok(());
    }
    if !merged.is_empty() {
        replace(select, &merged);
    }
    if wild {
        let [from] = select.from.as_slice() else {
            return Err(Error::unsupported("SELECT * of several tables of which some are joined USING columns")
                .hint("Name the columns."));
        };
        let unknown =
            || Error::unsupported("SELECT * of such a JOIN … USING").hint("Name the columns, or join ON them.");
        let mut tables: Vec<(Ident, Vec<String>)> = vec![(relation(&from.relation).ok_or_else(unknown)?, vec![])];
        let mut seen: Vec<String> = vec![];
        for join in &from.joins {
            let mut own = vec![];
            if let Some((JoinConstraint::Using(columns), _)) = constraint(join) {
                for name in columns.iter().filter_map(|c| c.0.last().and_then(|p| p.as_ident()).map(fold)) {
                    // Whose column the left one is, is known of the first table, and of a column that was merged before.
                    if !seen.contains(&name) {
                        let [(_, first)] = tables.as_mut_slice() else { return Err(unknown()) };
                        first.push(name.clone());
                        seen.push(name.clone());
                    }
                    own.push(name);
                }
            }
            tables.push((relation(&join.relation).ok_or_else(unknown)?, own));
        }
        expand(select, &order, &merged, &tables);
    }
    Ok(())
}

fn expand(select: &mut Select, order: &[String], merged: &BTreeMap<String, Expr>, tables: &[(Ident, Vec<String>)]) {
    let mut items = vec![];
    for item in std::mem::take(&mut select.projection) {
        match item {
            SelectItem::Wildcard(options) if options.opt_exclude.is_none() => {
                for name in order {
                    let ident = Ident::with_quote('"', name);
                    let owner = tables.iter().find(|(_, own)| own.contains(name));
                    let expr = match (merged.get(name), owner) {
                        (Some(expr), _) => expr.clone(),
                        (None, Some((table, _))) => Expr::CompoundIdentifier(vec![table.clone(), ident.clone()]),
                        (None, None) => Expr::Identifier(ident.clone()),
                    };
                    items.push(SelectItem::ExprWithAlias { expr, alias: ident });
                }
                for (table, own) in tables {
                    let columns: Vec<ObjectName> = own.iter().map(|n| Ident::with_quote('"', n).into()).collect();
                    let opt_exclude = (!columns.is_empty()).then_some(ExcludeSelectItem::Multiple(columns));
                    items.push(SelectItem::QualifiedWildcard(
                        SelectItemQualifiedWildcardKind::ObjectName(table.clone().into()),
                        WildcardAdditionalOptions { opt_exclude, ..options.clone() },
                    ));
                }
            }
            other => items.push(other),
        }
    }
    select.projection = items;
}

/// Puts the merged columns in place of their plain names.
fn replace(select: &mut Select, merged: &BTreeMap<String, Expr>) {
    struct Names<'a> {
        merged: &'a BTreeMap<String, Expr>,
        depth: usize,
    }
    impl VisitorMut for Names<'_> {
        type Break = ();

        fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
            self.depth += 1;
            ControlFlow::Continue(())
        }

        fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
            self.depth -= 1;
            ControlFlow::Continue(())
        }

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if self.depth == 0
                && let Expr::Identifier(ident) = expr
                && let Some(made) = self.merged.get(&fold(ident))
            {
                *expr = made.clone();
            }
            ControlFlow::Continue(())
        }
    }
    let mut names = Names { merged, depth: 0 };
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(Expr::Identifier(ident)) = item
            && let Some(made) = merged.get(&fold(ident))
        {
            let alias = ident.clone();
            *item = SelectItem::ExprWithAlias { expr: made.clone(), alias };
        } else if let SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } = item {
            let _ = syntax::visit_mut(e, &mut names);
        }
    }
    for e in select.selection.iter_mut().chain(&mut select.having) {
        let _ = syntax::visit_mut(e, &mut names);
    }
    if let GroupByExpr::Expressions(items, _) = &mut select.group_by {
        for e in items {
            let _ = syntax::visit_mut(e, &mut names);
        }
    }
}
