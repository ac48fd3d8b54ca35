//! WITH in front of a statement that changes rows, and statements that change rows inside WITH.
//!
//! Invariant: in PostgreSQL all parts of such a statement see the database as it was before it, and know of each other only by
//! RETURNING. Here they run one after the other, so it is taken only when no part looks at a table that another changes; then the
//! order cannot be seen.

use super::{Changed, delete, insert, update};
use crate::session::context::StatementContext;
use crate::session::locking::constant_query;
use crate::syntax::{self, fold};
use atoll_model::{Catalog, Error, Fragmentation, NamedObject, ReferentialAction, RelationId, Result};
use atoll_ports::session::ResultColumn;
use datafusion::sql::sqlparser::ast::{
    Cte, FromTable, ObjectName, Query, SetExpr, Statement as Ast, TableFactor, TableObject, With,
};
use futures::future::BoxFuture;
use std::collections::BTreeSet;

/// The statement that changes rows which a query's body is.
pub(crate) fn changing(query: &Query) -> Option<&Ast> {
    match query.body.as_ref() {
        SetExpr::Insert(s) | SetExpr::Update(s) | SetExpr::Delete(s) | SetExpr::Merge(s) => Some(s),
        _ => None,
    }
}

/// Whether a query changes rows, itself or in its WITH.
pub(crate) fn changes_rows(query: &Query) -> bool {
    changing(query).is_some() || query.with.iter().flat_map(|w| &w.cte_tables).any(|cte| changes_rows(&cte.query))
}

/// Runs a statement that changes rows; returns its command tag as well.
///
/// # Errors
/// Those of the statement.
pub(crate) async fn run(cx: &StatementContext, ast: &Ast) -> Result<(&'static str, Changed)> {
    match ast {
        Ast::Query(query) => {
            check_independent(&cx.txn.catalog(), query)?;
            run_query(cx, query).await
        }
        other => run_one(cx, other, None).await,
    }
}

fn run_one<'a>(
    cx: &'a StatementContext,
    ast: &'a Ast,
    with: Option<&'a With>,
) -> BoxFuture<'a, Result<(&'static str, Changed)>> {
    Box::pin(async move {
        Ok(match ast {
            Ast::Insert(statement) => ("INSERT 0", insert(cx, statement, with).await?),
            Ast::Update(statement) => ("UPDATE", update(cx, statement, with).await?),
            Ast::Delete(statement) => ("DELETE", delete(cx, statement, with).await?),
            other => return Err(Error::unsupported(format!("{other}"))),
        })
    })
}

async fn run_query(cx: &StatementContext, query: &Query) -> Result<(&'static str, Changed)> {
    let mut query = query.clone();
    if let Some(with) = query.with.take() {
        let mut settled = With { cte_tables: vec![], ..with.clone() };
        for mut cte in with.cte_tables {
            let Some(statement) = changing(&cte.query) else {
                settled.cte_tables.push(cte);
                continue;
            };
            let scope = joined(Some(&settled), cte.query.with.as_ref())?;
            let (_, changed) = run_one(cx, statement, scope.as_ref()).await?;
            // Without RETURNING, there is nothing that the name could stand for.
            if let Some((columns, rows)) = changed.returned {
                *cte.query = returned_query(&columns, &rows)?;
                settled.cte_tables.push(cte);
            }
        }
        query.with = (!settled.cte_tables.is_empty()).then_some(settled);
    }
    match changing(&query) {
        Some(statement) => run_one(cx, statement, query.with.as_ref()).await,
        None => {
            let (columns, rows) = cx.result_of_query(query).await?;
            Ok(("SELECT", Changed { rows: rows.len() as u64, returned: Some((columns, rows)) }))
        }
    }
}

/// What RETURNING gave, as a query.
///
/// # Errors
/// `Internal` when a type's name cannot be read back.
pub(crate) fn returned_query(columns: &[ResultColumn], rows: &[atoll_model::Row]) -> Result<Query> {
    let names: Vec<String> = columns.iter().map(|c| c.name.clone()).collect();
    let types: Vec<_> = columns.iter().map(|c| c.ty.clone()).collect();
    constant_query(&names, &types, rows)
}

/// The names of an outer WITH and of an inner one as one WITH.
///
/// # Errors
/// `NotSupported` where an inner name hides an outer one: other parts may still mean the outer.
pub(crate) fn joined(outer: Option<&With>, inner: Option<&With>) -> Result<Option<With>> {
    let (outer, inner) = match (outer.filter(|w| !w.cte_tables.is_empty()), inner) {
        (Some(outer), Some(inner)) => (outer, inner),
        (one, other) => return Ok(one.or(other).cloned()),
    };
    let names: BTreeSet<String> = outer.cte_tables.iter().map(|cte| fold(&cte.alias.name)).collect();
    let mut joined = outer.clone();
    joined.recursive |= inner.recursive;
    for cte in &inner.cte_tables {
        let name = fold(&cte.alias.name);
        if names.contains(&name) {
            return Err(Error::unsupported(format!("WITH \"{name}\" inside of another WITH of that name"))
                .hint("Give one of them another name."));
        }
        joined.cte_tables.push(cte.clone());
    }
    Ok(Some(joined))
}

/// Refuses parts that look at what other parts change.
fn check_independent(catalog: &Catalog, query: &Query) -> Result<()> {
    let ctes: Vec<&Cte> = query.with.iter().flat_map(|w| &w.cte_tables).collect();
    for (at, cte) in ctes.iter().enumerate() {
        let Some(statement) = changing(&cte.query) else {
            if changes_rows(&cte.query) {
                return Err(Error::unsupported("statements that change rows in a WITH inside a WITH")
                    .hint("PostgreSQL, too, takes them at the top of the statement only."));
            }
            continue;
        };
        let Some(target) = target_name(statement) else { continue };
        let mut changed = BTreeSet::new();
        add_changed(catalog, &target, &mut changed);
        let mut seen = BTreeSet::new();
        for (_, other) in ctes.iter().enumerate().filter(|(other, _)| *other != at) {
            add_read(catalog, &other.query, &mut seen);
        }
        let mut main = query.clone();
        main.with = None;
        add_read(catalog, &main, &mut seen);
        if let Some(both) = changed.intersection(&seen).next() {
            let name = catalog.tables.get(both).map_or("", |t| t.name.as_str());
            return Err(Error::unsupported(format!(
                "table \"{name}\" is changed in WITH and used in another part of the same statement"
            ))
            .hint("Run the parts as statements of their own, in one transaction."));
        }
    }
    Ok(())
}

fn target_name(statement: &Ast) -> Option<ObjectName> {
    let factor = match statement {
        Ast::Insert(insert) => match &insert.table {
            TableObject::TableName(name) => return Some(name.clone()),
            _ => return None,
        },
        Ast::Update(update) => &update.table.relation,
        Ast::Delete(delete) => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            &from.first()?.relation
        }
        _ => return None,
    };
    match factor {
        TableFactor::Table { name, .. } => Some(name.clone()),
        _ => None,
    }
}

/// A table and those that follow it: children by foreign keys, derived tables.
fn add_changed(catalog: &Catalog, name: &ObjectName, changed: &mut BTreeSet<RelationId>) {
    let Some(table) = crate::session::names::relation(name).ok().and_then(|n| catalog.table(&n)) else { return };
    let mut todo = vec![table.id];
    while let Some(id) = todo.pop() {
        if !changed.insert(id) {
            continue;
        }
        for child in catalog.tables.values() {
            let follows = matches!(child.fragmentation, Fragmentation::Derived { parent, .. } if parent == id)
                || child.foreign_keys.iter().any(|k| {
                    k.parent == id
                        && (k.on_delete != ReferentialAction::NoAction || k.on_update != ReferentialAction::NoAction)
                });
            if follows {
                todo.push(child.id);
            }
        }
    }
}

/// All tables that a query names, through views as well.
fn add_read(catalog: &Catalog, query: &Query, seen: &mut BTreeSet<RelationId>) {
    let mut todo = vec![];
    let mut add = |name: &ObjectName| {
        if let Ok(name) = crate::session::names::relation(name)
            && let Some(NamedObject::Table(id) | NamedObject::Fragment(id) | NamedObject::View(id)) =
                catalog.names.get(&name)
        {
            todo.push(*id);
        }
    };
    syntax::relations(query, &mut add);
    if let Some(target) = changing(query).and_then(target_name) {
        add(&target);
    }
    while let Some(id) = todo.pop() {
        if seen.insert(id)
            && let Some(view) = catalog.views.get(&id)
        {
            todo.extend(&view.depends_on);
        }
    }
}
