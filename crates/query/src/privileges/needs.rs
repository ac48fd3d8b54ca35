//! What privileges a statement needs, on which relations.
//!
//! Invariant: every relation of the schema `public` that planning can find in the statement is among the needs. A name counts as that of
//! a WITH only where it can be nothing else: inside of its own definition, and before it, the name may be a table's. So a name that
//! is both needs privileges on the table; it is never the other way round.

use crate::dml;
use crate::pg::parse::Statement;
use crate::session::{locking, names};
use crate::syntax::{self, fold};
use atoll_model::{Catalog, Privileges};
use datafusion::sql::sqlparser::ast::{
    CopySource, Delete, Expr, FromTable, Ident, Insert, Lock, LockTableMode, ObjectName, OnConflictAction, OnInsert,
    Query, SelectItem, SetExpr, Statement as Ast, TableFactor, TableObject, Update, Visitor,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// One relation, and what is needed on it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// Its name in the schema `public`.
    pub(super) relation: String,
    /// What is needed.
    pub(super) wanted: Wanted,
}

/// Which of some privileges are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of them.
    All(Privileges),
    /// At least one of them.
    AnyOf(Privileges),
}

/// The needs of a statement. Definitions have none here: they are checked by what they do.
pub(super) fn of(catalog: &Catalog, statement: &Statement) -> Vec<Need> {
    let mut found =
        Finder { catalog, scopes: vec![], definitions: BTreeMap::new(), own: BTreeSet::new(), needs: vec![] };
    match statement {
        Statement::Sql(ast) => match ast.as_ref() {
            Ast::Query(_) | Ast::Insert(_) | Ast::Update(_) | Ast::Delete(_) | Ast::Explain { .. } => {
                found.visit(ast.as_ref())
            }
            Ast::Declare { stmts } => stmts.iter().filter_map(|d| d.for_query.as_ref()).for_each(|q| found.visit(q)),
            Ast::Copy { source: CopySource::Query(query), .. } => found.visit(query),
            Ast::Copy { source: CopySource::Table { table_name, .. }, to, .. } => {
                found.need(table_name, Wanted::All(if *to { Privileges::SELECT } else { Privileges::INSERT }));
            }
            Ast::Lock(lock) => found.lock(lock),
            _ => {}
        },
        Statement::CreateTable(create) => {
            if let Some(query) = &create.query {
                found.visit(query);
            }
            for like in &create.like {
                let (relation, wanted) = (like.table.clone(), Wanted::All(Privileges::SELECT));
                found.needs.push(Need { relation, wanted });
            }
        }
        _ => {}
    }
    found.needs
}

struct Finder<'c> {
    catalog: &'c Catalog,
    /// The names of WITH around here, the innermost last, each with how many of them are known so far.
    scopes: Vec<(Vec<Option<String>>, usize)>,
    /// Queries (by address) that define a name of the scope around them, with the name's number.
    definitions: BTreeMap<usize, usize>,
    /// Names (by address) of tables that a statement changes: what is needed there is said apart.
    own: BTreeSet<usize>,
    needs: Vec<Need>,
}

fn address<T>(node: &T) -> usize {
    std::ptr::from_ref(node).addr()
}

impl Finder<'_> {
    fn visit(&mut self, tree: &impl datafusion::sql::sqlparser::ast::Visit) {
        let _ = syntax::visit(tree, self);
    }

    fn need(&mut self, name: &ObjectName, wanted: Wanted) {
        // What has no such name is answered by planning.
        if let Ok(relation) = names::relation(name) {
            self.needs.push(Need { relation, wanted });
        }
    }

    fn is_with(&self, name: &ObjectName) -> bool {
        let [part] = name.0.as_slice() else { return false };
        let name = part.as_ident().map(fold);
        name.is_some() && self.scopes.iter().any(|(names, known)| names[..*known].contains(&name))
    }

    /// LOCK TABLE: a mode needs a privilege that takes such a lock.
    fn lock(&mut self, lock: &Lock) {
        let changes = Privileges::UPDATE.and(Privileges::DELETE).and(Privileges::TRUNCATE);
        let wanted = match lock.lock_mode {
            Some(LockTableMode::AccessShare) => changes.and(Privileges::INSERT).and(Privileges::SELECT),
            Some(LockTableMode::RowShare | LockTableMode::RowExclusive) => changes.and(Privileges::INSERT),
            _ => changes,
        };
        for table in &lock.tables {
            self.need(&table.name, Wanted::AnyOf(wanted));
        }
    }

    /// The table that a statement changes needs `wanted`, and SELECT where its columns are read.
    fn change(&mut self, name: &ObjectName, wanted: Privileges, reads: bool) {
        self.own.insert(address(name));
        let wanted = if reads { wanted.and(Privileges::SELECT) } else { wanted };
        self.need(name, Wanted::All(wanted));
    }

    fn insert(&mut self, insert: &Insert) {
        let TableObject::TableName(name) = &insert.table else { return };
        let target = Target::of(self.catalog, name, insert.table_alias.as_ref().map(|a| &a.alias));
        let mut wanted = Privileges::INSERT;
        let mut reads = target.returned(insert.returning.as_deref());
        if let Some(OnInsert::OnConflict(conflict)) = &insert.on {
            // Rows that are there are compared with the new one, in these columns.
            reads |= conflict.conflict_target.is_some();
            if let OnConflictAction::DoUpdate(update) = &conflict.action {
                wanted = wanted.and(Privileges::UPDATE);
                reads |= update.assignments.iter().any(|a| target.read_in(&a.value))
                    || update.selection.as_ref().is_some_and(|e| target.read_in(e));
            }
        }
        self.change(name, wanted, reads);
    }

    fn update(&mut self, update: &Update) {
        let TableFactor::Table { name, alias, .. } = &update.table.relation else { return };
        let target = Target::of(self.catalog, name, alias.as_ref().map(|a| &a.name));
        let reads = update.assignments.iter().any(|a| target.read_in(&a.value))
            || update.selection.as_ref().is_some_and(|e| target.read_in(e))
            || update.from.as_ref().is_some_and(|from| target.read_in(from))
            || target.returned(update.returning.as_deref());
        self.change(name, Privileges::UPDATE, reads);
    }

    fn delete(&mut self, delete: &Delete) {
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        let Some(TableFactor::Table { name, alias, .. }) = from.first().map(|t| &t.relation) else { return };
        let target = Target::of(self.catalog, name, alias.as_ref().map(|a| &a.name));
        let reads = delete.selection.as_ref().is_some_and(|e| target.read_in(e))
            || delete.using.as_ref().is_some_and(|using| target.read_in(using))
            || target.returned(delete.returning.as_deref());
        self.change(name, Privileges::DELETE, reads);
    }

    /// `TABLE t`, whose name is no name to the syntax tree.
    fn tables(&mut self, body: &SetExpr) {
        match body {
            SetExpr::SetOperation { left, right, .. } => {
                self.tables(left);
                self.tables(right);
            }
            SetExpr::Table(table) => {
                // A name of WITH may hide the table: then too much is asked for.
                if let Some(name) = &table.table_name {
                    self.needs.push(Need { relation: name.clone(), wanted: Wanted::All(Privileges::SELECT) });
                    let folded = name.to_ascii_lowercase();
                    if folded != *name {
                        self.needs.push(Need { relation: folded, wanted: Wanted::All(Privileges::SELECT) });
                    }
                }
            }
            _ => {}
        }
    }

    /// FOR UPDATE and FOR SHARE need UPDATE on the tables whose rows they lock.
    fn locked(&mut self, query: &Query) {
        let SetExpr::Select(select) = query.body.as_ref() else { return };
        let mut factors = vec![];
        for from in &select.from {
            locking::collect(from, &mut factors);
        }
        for clause in &query.locks {
            let of = clause.of.as_ref().and_then(|of| names::relation(of).ok());
            for factor in &factors {
                if of.is_some() && of != locking::alias_of(factor) {
                    continue;
                }
                if let TableFactor::Table { name, args: None, .. } = factor
                    && !self.is_with(name)
                {
                    self.need(name, Wanted::All(Privileges::UPDATE));
                }
            }
        }
    }
}

impl Visitor for Finder<'_> {
    type Break = ();

    fn pre_visit_statement(&mut self, statement: &Ast) -> ControlFlow<()> {
        match statement {
            Ast::Insert(insert) => self.insert(insert),
            Ast::Update(update) => self.update(update),
            Ast::Delete(delete) => self.delete(delete),
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let defined = query.with.iter().flat_map(|with| &with.cte_tables);
        let mut names = vec![];
        for (at, cte) in defined.enumerate() {
            self.definitions.insert(address(cte.query.as_ref()), at);
            // One that returns nothing defines nothing.
            let returns = match dml::changing(&cte.query) {
                Some(Ast::Insert(Insert { returning, .. })) => returning.is_some(),
                Some(Ast::Update(Update { returning, .. })) => returning.is_some(),
                Some(Ast::Delete(Delete { returning, .. })) => returning.is_some(),
                _ => true,
            };
            names.push(returns.then(|| fold(&cte.alias.name)));
        }
        self.scopes.push((names, 0));
        self.tables(&query.body);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.locked(query);
        self.scopes.pop();
        // From here on, its name is known.
        if let (Some(at), Some((_, known))) = (self.definitions.remove(&address(query)), self.scopes.last_mut()) {
            *known = at + 1;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        if !self.own.remove(&address(relation)) && !self.is_with(relation) {
            self.need(relation, Wanted::All(Privileges::SELECT));
        }
        ControlFlow::Continue(())
    }
}

/// The table that a statement changes, under the name by which expressions call it.
struct Target {
    called: String,
    columns: BTreeSet<String>,
}

impl Target {
    fn of(catalog: &Catalog, name: &ObjectName, alias: Option<&Ident>) -> Self {
        let relation = names::relation(name).unwrap_or_default();
        let table = catalog.table(&relation).or_else(|| catalog.fragment(&relation).map(|(table, _)| table));
        let columns = table.iter().flat_map(|t| &t.columns).map(|c| c.name.clone()).collect();
        Target { called: alias.map_or(relation, fold), columns }
    }

    /// Whether expressions read a column of it, as far as names tell: a name that may be one counts.
    fn read_in(&self, tree: &impl datafusion::sql::sqlparser::ast::Visit) -> bool {
        syntax::any_expression(tree, |e| match e {
            Expr::Identifier(name) => {
                let name = fold(name);
                self.columns.contains(&name) || name == self.called
            }
            Expr::CompoundIdentifier(parts) => {
                parts.split_last().is_some_and(|(_, qualifier)| qualifier.iter().any(|part| fold(part) == self.called))
            }
            Expr::CompoundFieldAccess { .. } | Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => true,
            _ => false,
        })
    }

    fn returned(&self, returning: Option<&[SelectItem]>) -> bool {
        returning.into_iter().flatten().any(|item| match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => self.read_in(expr),
            _ => true,
        })
    }
}
