//! Columns of outer queries whose table has the name of a column nearby: `(SELECT count(*) FROM pet WHERE pet.owner = owner.id)`.
//!
//! The planner reads `owner.id` as a field of the column `pet.owner` before it looks outside. No column has fields here, so such a name
//! gets a schema in front, which makes its first part a table.
//!
//! Invariant: only names whose table does not stand in the FROM of their own query are changed, and they mean what they meant.

use crate::read::PUBLIC;
use crate::syntax::{self, fold};
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, Query, Select, SetExpr, Statement, TableFactor, TableWithJoins, VisitorMut,
};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Qualifies the references to outer queries.
pub fn statement(statement: &mut Statement) {
    let _ = syntax::visit_mut(statement, &mut Outer::default());
}

/// The tables in FROM of the queries that the walk is in, the innermost last.
#[derive(Default)]
struct Outer {
    scopes: Vec<Scope>,
}

#[derive(Clone, Default)]
struct Scope {
    names: BTreeSet<String>,
    /// Tables named with a schema, and not called otherwise.
    qualified: BTreeSet<String>,
}

impl VisitorMut for Outer {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        // For ORDER BY, which stands outside of the SELECT.
        self.scopes.push(match query.body.as_ref() {
            SetExpr::Select(select) => Scope::of(&select.from),
            _ => Scope::default(),
        });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.scopes.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        self.scopes.push(Scope::of(&select.from));
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, _: &mut Select) -> ControlFlow<()> {
        self.scopes.pop();
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::CompoundIdentifier(parts) = expr
            && let [table, _] = parts.as_slice()
            && self.is_outer(&fold(table))
        {
            parts.insert(0, Ident::with_quote('"', PUBLIC));
        }
        ControlFlow::Continue(())
    }
}

impl Outer {
    fn is_outer(&self, table: &str) -> bool {
        let Some((here, outside)) = self.scopes.split_last() else { return false };
        !here.names.contains(table) && !outside.iter().any(|scope| scope.qualified.contains(table))
    }
}

impl Scope {
    fn of(from: &[TableWithJoins]) -> Self {
        let mut scope = Scope::default();
        from.iter().for_each(|item| scope.add(item));
        scope
    }

    fn add(&mut self, item: &TableWithJoins) {
        for factor in std::iter::once(&item.relation).chain(item.joins.iter().map(|j| &j.relation)) {
            match factor {
                TableFactor::Table { alias: Some(alias), .. }
                | TableFactor::Derived { alias: Some(alias), .. }
                | TableFactor::Function { alias: Some(alias), .. }
                | TableFactor::UNNEST { alias: Some(alias), .. }
                | TableFactor::NestedJoin { alias: Some(alias), .. } => {
                    self.names.insert(fold(&alias.name));
                }
                TableFactor::Table { name, alias: None, .. } => self.add_table(name),
                TableFactor::NestedJoin { table_with_joins, alias: None } => self.add(table_with_joins),
                _ => {}
            }
        }
    }

    fn add_table(&mut self, name: &ObjectName) {
        let Some(last) = name.0.last().and_then(|part| part.as_ident()).map(fold) else { return };
        if name.0.len() > 1 {
            self.qualified.insert(last.clone());
        }
        self.names.insert(last);
    }
}
