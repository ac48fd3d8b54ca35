//! SELECT … FOR UPDATE / FOR SHARE, of the statement itself and of its subqueries.
//!
//! A query that locks is run with the keys of its rows beside its own columns; the rows are locked in the query's order until LIMIT is
//! reached. In READ COMMITTED, when a row had changed before it was locked, the query runs again on a newer snapshot, with the locks
//! that it has: so what is returned is what the rows are now. A subquery that locks is run first and put in place as the rows it gave.
//!
//! Invariant: every row that is returned is locked, in every table that the clause means.

use super::context::StatementContext;
use crate::dml::{self, params};
use crate::syntax::{self, fold};
use atoll_model::{Catalog, Error, ErrorKind, Fragmentation, Result, Row, SqlType, Table, Value};
use atoll_ports::cluster::FragmentRef;
use atoll_ports::site::{LockMode, LockWait};
use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, Ident, LimitClause, LockClause, LockType, NonBlock, ObjectName, Query, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, Statement as Ast, TableFactor, TableWithJoins, Value as Literal, Visit,
    Visitor, VisitorMut, WildcardAdditionalOptions,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// How often a statement may meet rows that changed under it before it gives up with 40001.
const MAX_RETRIES: u32 = 100;

/// Rows that are tried beyond LIMIT at first, when locked ones are skipped.
const SPARE: u64 = 32;

/// Whether a statement or one of its subqueries locks rows.
pub(crate) fn locks(ast: &Ast) -> bool {
    struct Finder;
    impl Visitor for Finder {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            if query.locks.is_empty() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        }
    }
    syntax::visit(ast, &mut Finder).is_break()
}

/// The statement as the planner sees it: without locks.
pub(crate) fn without_locks(mut ast: Ast) -> Ast {
    struct Stripper;
    impl VisitorMut for Stripper {
        type Break = ();
        fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            query.locks.clear();
            ControlFlow::Continue(())
        }
    }
    let _ = syntax::visit_mut(&mut ast, &mut Stripper);
    ast
}

/// Puts the rows of every locking subquery in its place. The statement's own lock clause, if it is a query, is left.
///
/// # Errors
/// Those of locks and of the subqueries.
pub(crate) async fn settle_subqueries(cx: &StatementContext, ast: &mut Ast) -> Result<()> {
    let own = match ast {
        Ast::Query(query) => std::mem::take(&mut query.locks),
        _ => vec![],
    };
    while let Some(query) = next_locking(ast) {
        if let Some(name) = outer_with(ast, &query) {
            return Err(Error::unsupported(format!(
                "FOR UPDATE in a subquery that reads \"{name}\" of a WITH around it"
            ))
            .hint("Put the query of that WITH into the subquery."));
        }
        let names = output_names(cx, &query).await?;
        let (types, rows) = match run(cx, &query).await {
            Err(e) if e.kind() == ErrorKind::UndefinedColumn => {
                return Err(Error::unsupported("FOR UPDATE in a subquery that looks at the query around it")
                    .detail(e.message().to_owned()));
            }
            other => other?,
        };
        let settled = constant_query(&names, &types, &rows)?;
        replace_locking(ast, settled);
    }
    if let Ast::Query(query) = ast {
        query.locks = own;
    }
    Ok(())
}

/// The innermost first subquery that locks.
fn next_locking(ast: &Ast) -> Option<Query> {
    struct Finder(Option<Query>);
    impl Visitor for Finder {
        type Break = ();
        fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            if query.locks.is_empty() {
                return ControlFlow::Continue(());
            }
            self.0 = Some(query.clone());
            ControlFlow::Break(())
        }
    }
    let mut finder = Finder(None);
    let _ = syntax::visit(ast, &mut finder);
    finder.0
}

/// A name of a WITH outside of a query that the query reads from: by itself, it would mean a table by that.
fn outer_with(ast: &Ast, query: &Query) -> Option<String> {
    let mut around = names_of_with(ast);
    for name in names_of_with(query) {
        // Each is defined once more around it.
        around.iter().position(|other| *other == name).map(|at| around.swap_remove(at));
    }
    let mut found = None;
    syntax::relations(query, |relation| {
        if let [one] = relation.0.as_slice()
            && let Some(name) = one.as_ident().map(fold).filter(|name| around.contains(name))
        {
            found = Some(name);
        }
    });
    found
}

/// What WITH defines anywhere in a tree.
fn names_of_with(tree: &impl Visit) -> Vec<String> {
    struct Finder(Vec<String>);
    impl Visitor for Finder {
        type Break = ();
        fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
            self.0.extend(query.with.iter().flat_map(|with| &with.cte_tables).map(|cte| fold(&cte.alias.name)));
            ControlFlow::Continue(())
        }
    }
    let mut finder = Finder(vec![]);
    let _ = syntax::visit(tree, &mut finder);
    finder.0
}

fn replace_locking(ast: &mut Ast, by: Query) {
    struct Replacer(Option<Query>);
    impl VisitorMut for Replacer {
        type Break = ();
        fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
            if !query.locks.is_empty()
                && let Some(by) = self.0.take()
            {
                *query = by;
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        }
    }
    let _ = syntax::visit_mut(ast, &mut Replacer(Some(by)));
}

async fn output_names(cx: &StatementContext, query: &Query) -> Result<Vec<String>> {
    let ast = without_locks(Ast::Query(Box::new(query.clone())));
    let plan = super::context::plan(&cx.state, ast).await?;
    Ok(plan.schema().fields().iter().map(|f| f.name().clone()).collect())
}

/// A query that gives these rows.
///
/// # Errors
/// `Internal` when a type's name cannot be read back.
pub(crate) fn constant_query(names: &[String], types: &[SqlType], rows: &[Row]) -> Result<Query> {
    let literal = |ty: &SqlType, value: &Value| params::literal(ty, value).map(|e| e.to_string());
    let sql = if rows.is_empty() {
        let items: Result<Vec<String>> = names
            .iter()
            .zip(types)
            .map(|(n, ty)| Ok(format!("{} AS {}", literal(ty, &Value::Null)?, dml::quote(n))))
            .collect();
        format!("SELECT {} WHERE false", items?.join(", "))
    } else {
        let lists: Result<Vec<String>> = rows
            .iter()
            .map(|row| {
                let items: Result<Vec<String>> = row.iter().zip(types).map(|(v, ty)| literal(ty, v)).collect();
                Ok(format!("({})", items?.join(", ")))
            })
            .collect();
        let names: Vec<String> = names.iter().map(|n| dml::quote(n)).collect();
        format!("SELECT * FROM (VALUES {}) AS \"*VALUES*\"({})", lists?.join(", "), names.join(", "))
    };
    match super::sql::parse_one(&sql)? {
        Ast::Query(query) => Ok(*query),
        other => Err(Error::internal(format!("{other} is no query"))),
    }
}

/// A table of FROM whose rows are to be locked.
struct Target {
    table: Arc<Table>,
    alias: String,
    mode: LockMode,
    wait: LockWait,
    /// Columns that place and name a row, and where the query has them.
    columns: Vec<usize>,
    first: usize,
}

/// Whether a query's own lock clause can be honoured: what a client asks before running it.
///
/// # Errors
/// `NotSupported` with the reason; `UndefinedTable` for names after OF.
pub(crate) fn check(catalog: &Catalog, query: &Query) -> Result<()> {
    targets(catalog, query).map(|_| ())
}

fn targets(catalog: &Catalog, query: &Query) -> Result<Vec<Target>> {
    let not_with = |what: &str| Err(Error::unsupported(format!("FOR UPDATE is not allowed with {what}")));
    let select = match query.body.as_ref() {
        SetExpr::Select(select) => select,
        SetExpr::Values(_) => return Err(Error::unsupported("FOR UPDATE cannot be applied to VALUES")),
        _ => return not_with("UNION/INTERSECT/EXCEPT"),
    };
    if select.distinct.is_some() {
        return not_with("DISTINCT clause");
    }
    if !matches!(&select.group_by, GroupByExpr::Expressions(e, _) if e.is_empty()) {
        return not_with("GROUP BY clause");
    }
    if select.having.is_some() {
        return not_with("HAVING clause");
    }
    let ctes: Vec<String> = query.with.iter().flat_map(|w| &w.cte_tables).map(|cte| fold(&cte.alias.name)).collect();
    let mut factors = vec![];
    select.from.iter().for_each(|from| collect(from, &mut factors));
    let mut found: Vec<Target> = vec![];
    for clause in &query.locks {
        let of = clause.of.as_ref().map(super::names::relation).transpose()?;
        let mut matched = false;
        for factor in &factors {
            let alias = alias_of(factor);
            if of.as_ref().is_some_and(|of| Some(of) != alias.as_ref()) {
                continue;
            }
            matched = true;
            match lockable(catalog, factor, &ctes)? {
                Some(table) => add(&mut found, table, alias.unwrap_or_default(), clause),
                None if of.is_some() => {
                    return Err(Error::unsupported(format!(
                        "FOR UPDATE cannot be applied to {}",
                        alias.unwrap_or_default()
                    )));
                }
                None => {}
            }
        }
        if let (Some(of), false) = (of, matched) {
            return Err(Error::new(
                ErrorKind::UndefinedTable,
                format!("relation \"{of}\" in FOR UPDATE clause not found in FROM clause"),
            ));
        }
    }
    Ok(found)
}

/// The members of FROM, those of parentheses as well.
pub(crate) fn collect<'q>(from: &'q TableWithJoins, factors: &mut Vec<&'q TableFactor>) {
    for factor in std::iter::once(&from.relation).chain(from.joins.iter().map(|j| &j.relation)) {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => collect(table_with_joins, factors),
            other => factors.push(other),
        }
    }
}

/// What a member of FROM is called.
pub(crate) fn alias_of(factor: &TableFactor) -> Option<String> {
    match factor {
        TableFactor::Table { alias: Some(a), .. }
        | TableFactor::Derived { alias: Some(a), .. }
        | TableFactor::Function { alias: Some(a), .. } => Some(fold(&a.name)),
        TableFactor::Table { name, .. } => name.0.last().and_then(|p| p.as_ident()).map(fold),
        _ => None,
    }
}

/// The table whose rows a member of FROM has; `None`: it has rows of no table (a function, a CTE).
fn lockable(catalog: &Catalog, factor: &TableFactor, ctes: &[String]) -> Result<Option<Arc<Table>>> {
    match factor {
        TableFactor::Table { name, args: None, .. } => {
            if let [one] = name.0.as_slice()
                && one.as_ident().is_some_and(|i| ctes.contains(&fold(i)))
            {
                return Ok(None);
            }
            let Ok(name) = super::names::relation(name) else { return Ok(None) };
            if let Some((table, _)) = catalog.fragment(&name) {
                return Ok(Some(table.clone()));
            }
            if catalog.view(&name).is_some() {
                return Err(Error::unsupported(format!("FOR UPDATE of the view \"{name}\""))
                    .hint("Lock the rows of the tables that it reads."));
            }
            Ok(catalog.table(&name).cloned())
        }
        TableFactor::Derived { .. } => Err(Error::unsupported("FOR UPDATE of a subquery in FROM")
            .hint("Put FOR UPDATE into the subquery, or name the tables to lock after OF.")),
        _ => Ok(None),
    }
}

fn add(found: &mut Vec<Target>, table: Arc<Table>, alias: String, clause: &LockClause) {
    let mode = match clause.lock_type {
        LockType::Share => LockMode::Shared,
        LockType::Update => LockMode::Exclusive,
    };
    let wait = match clause.nonblock {
        None => LockWait::Wait,
        Some(NonBlock::Nowait) => LockWait::NoWait,
        Some(NonBlock::SkipLocked) => LockWait::SkipLocked,
    };
    if let Some(known) = found.iter_mut().find(|t| t.alias == alias) {
        if mode == LockMode::Exclusive {
            known.mode = mode;
        }
        if known.wait == LockWait::Wait || wait == LockWait::NoWait {
            known.wait = wait;
        }
        return;
    }
    let mut columns = table.key_positions();
    columns.extend(table.fragmentation_positions());
    if let Fragmentation::Derived { column, .. } = table.fragmentation {
        columns.extend(table.position(column));
    }
    columns.sort_unstable();
    columns.dedup();
    found.push(Target { table, alias, mode, wait, columns, first: 0 });
}

/// Runs a query and locks its rows; parameters are in place.
///
/// # Errors
/// Those of the query and of locks.
pub(crate) async fn run(cx: &StatementContext, query: &Query) -> Result<(Vec<SqlType>, Vec<Row>)> {
    for _ in 0..MAX_RETRIES {
        let catalog = cx.txn.catalog();
        if let Some(answer) = attempt(cx, &catalog, query).await? {
            return Ok(answer);
        }
        cx.txn.begin_statement().await?;
    }
    Err(Error::new(ErrorKind::SerializationFailure, "rows kept changing under the statement").hint("Run it again."))
}

/// One attempt; `None`: a row was no longer what the query saw.
async fn attempt(cx: &StatementContext, catalog: &Catalog, query: &Query) -> Result<Option<(Vec<SqlType>, Vec<Row>)>> {
    let mut targets = targets(catalog, query)?;
    let mut keyed = query.clone();
    keyed.locks.clear();
    let hidden = targets.iter().any(|t| t.table.has_hidden_key());
    let SetExpr::Select(select) = keyed.body.as_mut() else { return Err(Error::internal("not a SELECT")) };
    if hidden {
        expand_wildcards(catalog, select)?;
    }
    let mut added = 0;
    for target in &mut targets {
        target.first = added;
        for at in &target.columns {
            let column = Ident::with_quote('"', &target.table.columns[*at].name);
            select.projection.push(SelectItem::ExprWithAlias {
                expr: Expr::CompoundIdentifier(vec![Ident::with_quote('"', &target.alias), column]),
                alias: Ident::with_quote('"', format!("lock key {added}")),
            });
            added += 1;
        }
    }
    let skipping = targets.iter().any(|t| t.wait == LockWait::SkipLocked);
    let window = if skipping { Some(Window::take(cx, &mut keyed).await?) } else { None };
    let mut tried = window.as_ref().and_then(Window::end).map(|end| end.saturating_add(SPARE));
    loop {
        if let Some(tried) = tried {
            keyed.limit_clause = Some(limit_clause(tried));
        }
        let (types, rows) = cx.rows_of_query(keyed.clone(), hidden).await.map_err(|e| match e.kind() {
            ErrorKind::Grouping => Error::unsupported("FOR UPDATE is not allowed with aggregate functions"),
            _ => e,
        })?;
        let width = types.len().checked_sub(added).ok_or_else(|| Error::internal("lock keys are missing"))?;
        let found = rows.len() as u64;
        let end = window.as_ref().and_then(Window::end);
        let Some(mut kept) = lock(cx, &targets, width, rows, end).await? else { return Ok(None) };
        if let (Some(limit), Some(end)) = (tried, end)
            && found == limit
            && (kept.len() as u64) < end
        {
            // Too many were locked by others: look further.
            tried = Some(limit.saturating_mul(8));
            continue;
        }
        if let Some(window) = window {
            window.cut(&mut kept);
        }
        kept.iter_mut().for_each(|row| row.truncate(width));
        return Ok(Some((types[..width].to_vec(), kept)));
    }
}

/// Locks rows; returns those that could be locked, `None` when one is no longer what it was.
async fn lock(
    cx: &StatementContext,
    targets: &[Target],
    width: usize,
    rows: Vec<Row>,
    end: Option<u64>,
) -> Result<Option<Vec<Row>>> {
    let mut changed = false;
    let mut keep = vec![true; rows.len()];
    for target in targets.iter().filter(|t| t.wait != LockWait::SkipLocked) {
        let mut keys: BTreeMap<usize, Vec<Vec<Value>>> = BTreeMap::new();
        for row in &rows {
            if let Some((at, key)) = target.place(cx, width, row).await? {
                keys.entry(at).or_default().push(key);
            }
        }
        for (at, keys) in keys {
            let locked = cx.txn.lock(&target.fragment(at), &keys, target.mode, target.wait).await?;
            changed |= locked.iter().any(|l| l.changed);
        }
    }
    let skipping: Vec<&Target> = targets.iter().filter(|t| t.wait == LockWait::SkipLocked).collect();
    if !skipping.is_empty() {
        let mut kept = 0;
        for (row, keep) in rows.iter().zip(&mut keep) {
            if end.is_some_and(|end| kept >= end) {
                *keep = false;
                continue;
            }
            for target in &skipping {
                if let Some((at, key)) = target.place(cx, width, row).await? {
                    let locked = cx.txn.lock(&target.fragment(at), &[key], target.mode, target.wait).await?;
                    *keep &= locked.iter().all(|l| l.locked);
                    changed |= locked.iter().any(|l| l.locked && l.changed);
                }
                if !*keep {
                    break;
                }
            }
            kept += u64::from(*keep);
        }
    }
    if changed {
        return Ok(None);
    }
    let mut keep = keep.into_iter();
    Ok(Some(rows.into_iter().filter(|_| keep.next().unwrap_or(true)).collect()))
}

impl Target {
    fn fragment(&self, at: usize) -> FragmentRef {
        FragmentRef { table: self.table.clone(), at }
    }

    /// Fragment and key of the row that a row of the query comes from; `None`: from none (the other side of an outer join).
    async fn place(&self, cx: &StatementContext, width: usize, row: &Row) -> Result<Option<(usize, Vec<Value>)>> {
        let mut whole = vec![Value::Null; self.table.columns.len()];
        for (value, at) in row[width + self.first..].iter().zip(&self.columns) {
            whole[*at] = value.clone();
        }
        let key = self.table.key_of(&whole);
        if key.iter().any(Value::is_null) {
            return Ok(None);
        }
        Ok(Some((cx.txn.place(&self.table, &whole).await?, key)))
    }
}

/// LIMIT and OFFSET, applied after locking.
struct Window {
    limit: Option<u64>,
    offset: u64,
}

impl Window {
    /// Takes them out of a query.
    async fn take(cx: &StatementContext, query: &mut Query) -> Result<Window> {
        let (mut limit, mut offset) = match query.limit_clause.take() {
            None => (None, None),
            Some(LimitClause::LimitOffset { limit, offset, .. }) => (limit, offset.map(|o| o.value)),
            Some(LimitClause::OffsetCommaLimit { offset, limit }) => (Some(limit), Some(offset)),
        };
        if let Some(fetch) = query.fetch.take() {
            if fetch.with_ties || fetch.percent {
                return Err(Error::unsupported("FETCH … WITH TIES and SKIP LOCKED cannot be used together"));
            }
            limit = limit.or(fetch.quantity).or_else(|| Some(Expr::Value(Literal::Number("1".into(), false).into())));
        }
        let mut number = [None, None];
        for (out, expr) in number.iter_mut().zip([limit.take(), offset.take()]) {
            let Some(expr) = expr else { continue };
            let with = query.with.as_ref().filter(|_| syntax::has_query(&expr));
            let (types, mut rows) = match with {
                Some(with) => cx.query_rows(&format!("{with} SELECT ({expr})")).await?,
                None => cx.evaluate_constant(&format!("({expr})"), 1).await?,
            };
            let value = rows.pop().and_then(|mut r| r.pop()).unwrap_or(Value::Null);
            let value = dml::assign::convert(value, &types[0], &SqlType::Int8)?;
            *out = match value.as_i64() {
                None => None,
                Some(n) => Some(
                    u64::try_from(n).map_err(|_| Error::new(ErrorKind::InvalidLimit, "LIMIT must not be negative"))?,
                ),
            };
        }
        Ok(Window { limit: number[0], offset: number[1].unwrap_or(0) })
    }

    fn end(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_add(self.offset))
    }

    fn cut(&self, rows: &mut Vec<Row>) {
        rows.drain(..rows.len().min(usize::try_from(self.offset).unwrap_or(usize::MAX)));
        if let Some(limit) = self.limit {
            rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        }
    }
}

fn limit_clause(limit: u64) -> LimitClause {
    let limit = Some(Expr::Value(Literal::Number(limit.to_string(), false).into()));
    LimitClause::LimitOffset { limit, offset: None, limit_by: vec![] }
}

/// Replaces `*` by the columns that it means: where hidden columns can be seen, it would mean them too.
fn expand_wildcards(catalog: &Catalog, select: &mut Select) -> Result<()> {
    let refuse = || {
        Err(Error::unsupported("FOR UPDATE with * over anything but tables, one of which has no primary key")
            .hint("Name the columns."))
    };
    let mut factors = vec![];
    for from in &select.from {
        if !from.joins.iter().all(on_condition) {
            return refuse();
        }
        collect(from, &mut factors);
    }
    let mut tables = vec![];
    for factor in &factors {
        let TableFactor::Table { name, args: None, .. } = factor else {
            // What a subquery calls * would show hidden columns as well.
            return refuse();
        };
        let table = super::names::relation(name).ok().and_then(|n| catalog.table(&n).cloned());
        let (Some(table), Some(alias)) = (table, alias_of(factor)) else { return refuse() };
        tables.push((alias, table));
    }
    let all = |alias: &str, table: &Table| -> Vec<SelectItem> {
        let visible = table.columns.iter().filter(|c| !c.hidden);
        visible
            .map(|c| {
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(vec![
                    Ident::with_quote('"', alias),
                    Ident::with_quote('"', &c.name),
                ]))
            })
            .collect()
    };
    let mut items = vec![];
    for item in std::mem::take(&mut select.projection) {
        match &item {
            SelectItem::Wildcard(options) if plain(options) => {
                tables.iter().for_each(|(alias, table)| items.append(&mut all(alias, table)));
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(ObjectName(parts)), options)
                if plain(options) =>
            {
                let name = parts.last().and_then(|p| p.as_ident()).map(fold);
                let Some((alias, table)) = tables.iter().find(|(alias, _)| Some(alias) == name.as_ref()) else {
                    return refuse();
                };
                items.append(&mut all(alias, table));
            }
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => return refuse(),
            _ => items.push(item),
        }
    }
    select.projection = items;
    Ok(())
}

fn plain(options: &WildcardAdditionalOptions) -> bool {
    options.to_string().is_empty()
}

/// Whether a join keeps all columns of both sides: `USING` and `NATURAL` merge some.
fn on_condition(join: &datafusion::sql::sqlparser::ast::Join) -> bool {
    let text = join.to_string();
    !text.contains(" USING") && !text.contains("NATURAL")
}
