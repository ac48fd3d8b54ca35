//! GROUP BY a primary key implies the table's other columns (SQL:2016 feature T301, as far as PostgreSQL has it).
//!
//! Invariant: columns that are added to GROUP BY are determined by those that stand there, so the groups stay the same.

use crate::syntax::{self, fold};
use atoll_model::{Catalog, Table};
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, JoinOperator, ObjectName, OrderByKind, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, Statement, TableFactor, TableWithJoins, Value, Visitor, VisitorMut,
};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Adds to each GROUP BY the columns that its query uses and that the key of a table in it implies.
pub fn statement(statement: &mut Statement, catalog: &Catalog) {
    let mut looked = Look::default();
    let _ = syntax::visit(statement, &mut looked);
    if looked.groups {
        let _ = syntax::visit_mut(statement, &mut Implied { catalog, ctes: looked.ctes });
    }
}

/// Whether anything is grouped, and the names that do not stand for tables.
#[derive(Default)]
struct Look {
    groups: bool,
    ctes: BTreeSet<String>,
}

impl Visitor for Look {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|w| &w.cte_tables) {
            self.ctes.insert(fold(&cte.alias.name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.groups |= matches!(&select.group_by, GroupByExpr::Expressions(items, _) if !items.is_empty());
        ControlFlow::Continue(())
    }
}

struct Implied<'c> {
    catalog: &'c Catalog,
    ctes: BTreeSet<String>,
}

impl VisitorMut for Implied<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let ordered: Vec<Expr> = match query.order_by.as_ref().map(|o| &o.kind) {
            Some(OrderByKind::Expressions(items)) => items.iter().map(|i| i.expr.clone()).collect(),
            _ => vec![],
        };
        self.body(&mut query.body, &ordered);
        ControlFlow::Continue(())
    }
}

/// A table in FROM: what it is called there, and what it is.
struct Named<'c> {
    name: String,
    table: &'c Table,
}

impl<'c> Implied<'c> {
    /// The SELECTs of a body; queries within are visited on their own.
    fn body(&self, body: &mut SetExpr, ordered: &[Expr]) {
        match body {
            SetExpr::Select(select) => self.select(select, ordered),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left, &[]);
                self.body(right, &[]);
            }
            _ => {}
        }
    }

    fn select(&self, select: &mut Select, ordered: &[Expr]) {
        let GroupByExpr::Expressions(items, modifiers) = &select.group_by else { return };
        let sets = |e: &Expr| matches!(e, Expr::Rollup(_) | Expr::Cube(_) | Expr::GroupingSets(_));
        if items.is_empty() || !modifiers.is_empty() || items.iter().any(sets) {
            return;
        }
        let grouped: Vec<Expr> = items.iter().filter_map(|e| grouped_column(e, &select.projection)).collect();
        let tables = self.tables(&select.from);
        // A column that USING has merged need not be that of either table.
        let merged = select.from.iter().flat_map(|f| &f.joins).any(|j| {
            matches!(j.join_operator, JoinOperator::FullOuter(_) | JoinOperator::Right(_) | JoinOperator::RightOuter(_))
        });
        let mut added: Vec<Expr> = vec![];
        for (at, named) in tables.iter().enumerate() {
            let belongs = |column: &str| {
                let elsewhere = tables.iter().position(|t| t.table.position_of(column).is_some());
                elsewhere == Some(at)
                    && (!merged || tables.iter().filter(|t| t.table.position_of(column).is_some()).count() == 1)
            };
            let is = |e: &Expr, column: &str| match e {
                Expr::Identifier(ident) => fold(ident) == column && belongs(column),
                Expr::CompoundIdentifier(parts) => qualified(parts, named).is_some_and(|c| c == column),
                _ => false,
            };
            let key = named.table.key_positions();
            if named.table.has_hidden_key()
                || !key.iter().all(|p| grouped.iter().any(|e| is(e, &named.table.columns[*p].name)))
            {
                continue;
            }
            for column in self.used(select, ordered, named, &belongs) {
                if !grouped.iter().any(|e| is(e, &column)) {
                    added.push(Expr::CompoundIdentifier(vec![
                        Ident::with_quote('"', &named.name),
                        Ident::with_quote('"', column),
                    ]));
                }
            }
        }
        if let GroupByExpr::Expressions(items, _) = &mut select.group_by {
            items.extend(added);
        }
    }

    /// Columns of a table that the select list, HAVING or ORDER BY name.
    fn used(
        &self,
        select: &Select,
        ordered: &[Expr],
        named: &Named<'_>,
        belongs: &dyn Fn(&str) -> bool,
    ) -> BTreeSet<String> {
        let mut noted = Noted { named, belongs, used: BTreeSet::new(), aggregates: 0 };
        let mut all = false;
        for item in &select.projection {
            match item {
                SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => {
                    let _ = syntax::visit(e, &mut noted);
                }
                SelectItem::Wildcard(_) => all = true,
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    all |= last(name).is_some_and(|n| n == named.name);
                }
                _ => {}
            }
        }
        for e in ordered.iter().chain(&select.having) {
            let _ = syntax::visit(e, &mut noted);
        }
        let mut used = noted.used;
        if all {
            used.extend(named.table.columns.iter().filter(|c| !c.hidden).map(|c| c.name.clone()));
        }
        used
    }

    fn tables(&self, from: &[TableWithJoins]) -> Vec<Named<'c>> {
        let mut found = vec![];
        for item in from {
            self.add_tables(item, &mut found);
        }
        found
    }

    fn add_tables(&self, item: &TableWithJoins, found: &mut Vec<Named<'c>>) {
        for factor in std::iter::once(&item.relation).chain(item.joins.iter().map(|j| &j.relation)) {
            match factor {
                TableFactor::Table { name, alias, args: None, .. } => {
                    let plain = name.0.len() == 1;
                    let Some(relation) = last(name).filter(|n| !(plain && self.ctes.contains(n))) else { continue };
                    let Some(table) = self.catalog.table(&relation) else { continue };
                    // Columns renamed by the alias are not known by their own names.
                    if alias.as_ref().is_none_or(|a| a.columns.is_empty()) {
                        let name = alias.as_ref().map_or(relation, |a| fold(&a.name));
                        found.push(Named { name, table });
                    }
                }
                TableFactor::NestedJoin { table_with_joins, alias: None } => self.add_tables(table_with_joins, found),
                _ => {}
            }
        }
    }
}

/// Aggregates whose arguments need not stand in GROUP BY. A column that is put there in vain costs time, never an answer.
const AGGREGATES: [&str; 14] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "array_agg",
    "string_agg",
    "bool_and",
    "bool_or",
    "stddev",
    "variance",
    "json_agg",
    "jsonb_agg",
    "every",
];

/// Collects the columns of one table that expressions name outside of aggregates.
struct Noted<'a> {
    named: &'a Named<'a>,
    belongs: &'a dyn Fn(&str) -> bool,
    used: BTreeSet<String>,
    /// How many aggregates the walk is within.
    aggregates: usize,
}

impl Visitor for Noted<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, e: &Expr) -> ControlFlow<()> {
        self.aggregates += usize::from(is_aggregate(e));
        let column = match e {
            Expr::Identifier(ident) => Some(fold(ident)).filter(|c| (self.belongs)(c)),
            Expr::CompoundIdentifier(parts) => qualified(parts, self.named),
            _ => None,
        };
        if self.aggregates == 0 {
            self.used.extend(column.filter(|c| self.named.table.position_of(c).is_some()));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, e: &Expr) -> ControlFlow<()> {
        self.aggregates -= usize::from(is_aggregate(e));
        ControlFlow::Continue(())
    }
}

fn is_aggregate(e: &Expr) -> bool {
    matches!(e, Expr::Function(f) if f.over.is_none() && AGGREGATES.contains(&f.name.to_string().to_lowercase().as_str()))
}

/// The column that an item of GROUP BY is: itself, or the one at that place of the select list.
fn grouped_column(item: &Expr, projection: &[SelectItem]) -> Option<Expr> {
    match item {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => Some(item.clone()),
        Expr::Nested(inner) => grouped_column(inner, projection),
        Expr::Value(v) => match &v.value {
            Value::Number(n, _) => match projection.get(n.parse::<usize>().ok()?.checked_sub(1)?)? {
                SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => match e {
                    Expr::Identifier(_) | Expr::CompoundIdentifier(_) => Some(e.clone()),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// The column that a qualified name means, if it is one of this table's.
fn qualified(parts: &[Ident], named: &Named<'_>) -> Option<String> {
    match parts {
        [.., qualifier, column] if fold(qualifier) == named.name => Some(fold(column)),
        _ => None,
    }
}

fn last(name: &ObjectName) -> Option<String> {
    name.0.last().and_then(|part| part.as_ident()).map(fold)
}
