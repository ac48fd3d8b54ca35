//! Bound statements: kind, parameter types, result columns, and the logical plan that repeated executions reuse.

use super::context::{self, StatementContext};
use crate::dml::{self, params};
use crate::keyed;
use crate::pg::parse::Statement;
use crate::pg::rewrite::names;
use crate::read::{self, Engine};
use atoll_model::{Catalog, Error, ErrorKind, Result, SqlType, Table};
use atoll_ports::cluster::FragmentRef;
use atoll_ports::session::ResultColumn;
use atoll_ports::site::{LockMode, LockWait};
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::common::{DFSchema, ParamValues};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{
    Expr, FromTable, Insert, LockType, NonBlock, Query, SelectItem, SetExpr, Statement as Ast, TableFactor,
    TableObject, Visit, Visitor,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

/// More parameters than the protocol can carry.
const MAX_PARAMETERS: usize = 65_535;

/// A bound statement.
pub(crate) struct Bound {
    pub(crate) statement: Arc<Statement>,
    pub(crate) kind: Kind,
    pub(crate) param_types: Arc<[SqlType]>,
    /// FOR UPDATE / FOR SHARE.
    pub(crate) lock_rows: Option<LockRows>,
    /// The optimized plan, with its parameters open, and the catalog that it holds for.
    cached: Mutex<Option<(Arc<Catalog>, Arc<LogicalPlan>)>>,
}

/// How a statement runs.
pub(crate) enum Kind {
    /// A query.
    Query,
    /// A statement pinned to a key.
    Keyed(keyed::Plan),
    /// INSERT, UPDATE, DELETE.
    Change,
    /// EXPLAIN.
    Explain,
    /// COPY.
    Copy,
    /// Everything that changes the catalog.
    Ddl,
    /// Transactions, settings, prepared statements: never planned.
    Control,
}

impl Bound {
    /// The optimized plan with the statement's parameters in place.
    ///
    /// # Errors
    /// Those of binding.
    pub(crate) async fn plan(&self, cx: &StatementContext) -> Result<LogicalPlan> {
        let catalog = cx.txn.catalog();
        let cached = self.cached.lock().as_ref().filter(|(c, _)| Arc::ptr_eq(c, &catalog)).map(|(_, p)| p.clone());
        let plan = match cached {
            Some(plan) => plan,
            None => {
                let Statement::Sql(ast) = self.statement.as_ref() else { return Err(Error::internal("not a query")) };
                let mut ast = ast.as_ref().clone();
                strip_locks(&mut ast);
                let plan = context::plan(&cx.state, ast).await?;
                let plan = Arc::new(cx.engine.optimize(&cx.state, &plan)?);
                *self.cached.lock() = Some((catalog, plan.clone()));
                plan
            }
        };
        if cx.params.is_empty() {
            return Ok(plan.as_ref().clone());
        }
        let wanted = plan.get_parameter_types().map_err(read::map_error)?;
        let mut values = Vec::with_capacity(cx.params.len());
        for (at, (value, ty)) in cx.params.iter().zip(cx.param_types.iter()).enumerate() {
            let mut scalar = crate::rows::to_scalar(ty, value)?;
            if let Some(Some(wanted)) = wanted.get(&format!("${}", at + 1))
                && scalar.data_type() != *wanted
            {
                scalar = scalar.cast_to(wanted).map_err(read::map_error)?;
            }
            values.push(ScalarAndMetadata::new(scalar, None));
        }
        plan.as_ref().clone().with_param_values(ParamValues::List(values)).map_err(read::map_error)
    }
}

/// Whether a statement may run in a failed transaction.
pub(crate) fn ends_transaction(statement: &Statement) -> bool {
    matches!(statement, Statement::Sql(ast) if matches!(ast.as_ref(), Ast::Commit { .. } | Ast::Rollback { .. }))
}

/// Result columns of an Arrow schema.
///
/// # Errors
/// `NotSupported` for Arrow types without an SQL name.
pub(crate) fn columns_of(schema: &datafusion::arrow::datatypes::Schema) -> Result<Vec<ResultColumn>> {
    let types = context::types_of(schema)?;
    Ok(schema.fields().iter().zip(types).map(|(f, ty)| ResultColumn { name: names::shown(f.name()).to_owned(), ty }).collect())
}

/// Binds statements against a catalog.
pub(crate) struct Binder<'a> {
    pub(crate) engine: &'a Arc<Engine>,
    pub(crate) state: &'a Arc<SessionState>,
    pub(crate) catalog: &'a Arc<Catalog>,
}

impl Binder<'_> {
    /// Binds a statement whose client has declared these parameter types.
    ///
    /// # Errors
    /// Whatever is wrong with the statement.
    pub(crate) async fn bind(
        &self,
        statement: Arc<Statement>,
        declared: &[Option<SqlType>],
    ) -> Result<(Bound, Vec<ResultColumn>)> {
        let mut inferred: BTreeMap<usize, SqlType> = BTreeMap::new();
        let mut columns = vec![];
        let mut lock_rows = None;
        let mut cached = None;
        let kind = match statement.as_ref() {
            Statement::Sql(ast) => match ast.as_ref() {
                Ast::Query(query)
                    if !matches!(query.body.as_ref(), SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_)) =>
                {
                    lock_rows = LockRows::of(self.catalog, query)?;
                    let mut ast = ast.as_ref().clone();
                    strip_locks(&mut ast);
                    let plan = context::plan(self.state, ast).await?;
                    columns = columns_of(plan.schema().as_arrow())?;
                    self.infer(&plan, &mut inferred)?;
                    if lock_rows.is_none() {
                        match keyed::Plan::of(self.state, self.catalog, statement.as_ref(), &columns, &mut inferred)? {
                            Some(plan) => Kind::Keyed(plan),
                            None => {
                                let plan = Arc::new(self.engine.optimize(self.state, &plan)?);
                                // The branches of a UNION agree on their types only now.
                                columns = columns_of(plan.schema().as_arrow())?;
                                cached = Some((self.catalog.clone(), plan));
                                Kind::Query
                            }
                        }
                    } else {
                        Kind::Query
                    }
                }
                Ast::Insert(insert) => {
                    self.infer_insert(insert, &mut inferred)?;
                    columns = self.returning(&insert.table, insert.returning.as_deref(), None)?;
                    Kind::Change
                }
                Ast::Update(update) => {
                    let name = match &update.table.relation {
                        TableFactor::Table { name, .. } => Some(name),
                        _ => None,
                    };
                    let table = name.and_then(|n| self.table(n));
                    if let Some(table) = &table {
                        for a in &update.assignments {
                            if let datafusion::sql::sqlparser::ast::AssignmentTarget::ColumnName(n) = &a.target
                                && let Some(at) = params::placeholder(&a.value)
                                && let Some(p) =
                                    n.0.last()
                                        .and_then(|p| p.as_ident())
                                        .and_then(|i| table.position_of(&params::fold(i)))
                            {
                                inferred.insert(at, table.columns[p].ty.clone());
                            }
                        }
                        let exprs: Vec<&Expr> =
                            update.assignments.iter().map(|a| &a.value).chain(&update.selection).collect();
                        self.infer_exprs(table, &exprs, &mut inferred);
                        columns = self.returning_of(table, update.returning.as_deref())?;
                    }
                    keyed::Plan::of(self.state, self.catalog, statement.as_ref(), &columns, &mut inferred)?
                        .map_or(Kind::Change, Kind::Keyed)
                }
                Ast::Delete(delete) => {
                    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
                    if let Some(TableFactor::Table { name, .. }) = from.first().map(|t| &t.relation)
                        && let Some(table) = self.table(name)
                    {
                        self.infer_exprs(&table, &delete.selection.iter().collect::<Vec<_>>(), &mut inferred);
                        columns = self.returning_of(&table, delete.returning.as_deref())?;
                    }
                    Kind::Change
                }
                Ast::Explain { .. } => {
                    columns = vec![ResultColumn { name: "QUERY PLAN".into(), ty: SqlType::Text }];
                    Kind::Explain
                }
                Ast::Copy { .. } => Kind::Copy,
                Ast::ShowVariable { variable } => {
                    columns = super::control::show_columns(variable);
                    Kind::Control
                }
                ast if super::control::is_control(ast) => Kind::Control,
                Ast::Query(_) | Ast::Merge(_) => {
                    return Err(Error::unsupported("statements that change rows inside WITH, and MERGE")
                        .hint("Write them as statements of their own in one transaction."));
                }
                _ => Kind::Ddl,
            },
            other if super::control::is_own_control(other) => Kind::Control,
            _ => Kind::Ddl,
        };
        let count = declared.len().max(inferred.keys().last().map_or(0, |n| n + 1)).max(highest(&statement));
        if count > MAX_PARAMETERS {
            return Err(Error::new(ErrorKind::ProgramLimit, format!("more than {MAX_PARAMETERS} parameters")));
        }
        let param_types = (0..count)
            .map(|at| {
                let declared = declared.get(at).cloned().flatten();
                declared.or_else(|| inferred.get(&at).cloned()).unwrap_or(SqlType::Text)
            })
            .collect();
        Ok((Bound { statement, kind, param_types, lock_rows, cached: Mutex::new(cached) }, columns))
    }

    fn table(&self, name: &datafusion::sql::sqlparser::ast::ObjectName) -> Option<Arc<Table>> {
        super::names::relation(name).ok().and_then(|n| self.catalog.table(&n).cloned())
    }

    fn infer(&self, plan: &LogicalPlan, inferred: &mut BTreeMap<usize, SqlType>) -> Result<()> {
        let types: HashMap<String, _> = plan.get_parameter_types().map_err(read::map_error)?;
        for (name, ty) in types {
            let at = name.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()).and_then(|n| n.checked_sub(1));
            if let (Some(at), Some(ty)) = (at, ty.and_then(|t| SqlType::of_arrow(&t))) {
                inferred.entry(at).or_insert(ty);
            }
        }
        Ok(())
    }

    /// `column <op> $n` anywhere in expressions over one table. What stays unknown is text, which converts at assignment.
    fn infer_exprs(&self, table: &Table, exprs: &[&Expr], inferred: &mut BTreeMap<usize, SqlType>) {
        struct Finder<'a>(&'a Table, &'a mut BTreeMap<usize, SqlType>);
        impl Finder<'_> {
            fn column(&self, e: &Expr) -> Option<SqlType> {
                let ident = match e {
                    Expr::Identifier(i) => i,
                    Expr::CompoundIdentifier(parts) => parts.last()?,
                    Expr::Nested(e) => return self.column(e),
                    Expr::BinaryOp { left, right, .. } => return self.column(left).or_else(|| self.column(right)),
                    _ => return None,
                };
                self.0.position_of(&params::fold(ident)).map(|p| self.0.columns[p].ty.clone())
            }
        }
        impl Visitor for Finder<'_> {
            type Break = ();
            fn pre_visit_expr(&mut self, e: &Expr) -> ControlFlow<()> {
                let pairs: Vec<(&Expr, &Expr)> = match e {
                    Expr::BinaryOp { left, right, .. } => vec![(left, right), (right, left)],
                    Expr::InList { expr, list, .. } => list.iter().map(|l| (expr.as_ref(), l)).collect(),
                    Expr::Between { expr, low, high, .. } => {
                        vec![(expr.as_ref(), low.as_ref()), (expr.as_ref(), high.as_ref())]
                    }
                    Expr::Like { expr, pattern, .. } => vec![(expr.as_ref(), pattern.as_ref())],
                    _ => vec![],
                };
                for (column, param) in pairs {
                    if let (Some(ty), Some(at)) = (self.column(column), params::placeholder(param)) {
                        self.1.entry(at).or_insert(ty);
                    }
                }
                ControlFlow::Continue(())
            }
        }
        for e in exprs {
            let _ = e.visit(&mut Finder(table, inferred));
        }
    }

    fn infer_insert(&self, insert: &Insert, inferred: &mut BTreeMap<usize, SqlType>) -> Result<()> {
        let TableObject::TableName(name) = &insert.table else { return Ok(()) };
        let Some(table) = self.table(name) else { return Ok(()) };
        let visible: Vec<usize> = (0..table.columns.len()).filter(|p| !table.columns[*p].hidden).collect();
        let positions: Vec<usize> = if insert.columns.is_empty() {
            visible
        } else {
            let named = insert.columns.iter().filter_map(|c| c.0.last().and_then(|p| p.as_ident()));
            named.map(|c| dml::column_position(&table, c)).collect::<Result<_>>()?
        };
        match insert.source.as_ref().map(|s| s.body.as_ref()) {
            Some(SetExpr::Values(values)) => {
                for row in &values.rows {
                    for (expr, at) in row.content.iter().zip(&positions) {
                        if let Some(n) = params::placeholder(expr) {
                            inferred.entry(n).or_insert_with(|| table.columns[*at].ty.clone());
                        }
                    }
                }
            }
            Some(SetExpr::Select(select)) => {
                for (item, at) in select.projection.iter().zip(&positions) {
                    if let SelectItem::UnnamedExpr(e) = item
                        && let Some(n) = params::placeholder(e)
                    {
                        inferred.entry(n).or_insert_with(|| table.columns[*at].ty.clone());
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn returning(
        &self,
        table: &TableObject,
        items: Option<&[SelectItem]>,
        _: Option<&str>,
    ) -> Result<Vec<ResultColumn>> {
        match table {
            TableObject::TableName(name) => self.table(name).map_or(Ok(vec![]), |t| self.returning_of(&t, items)),
            _ => Ok(vec![]),
        }
    }

    fn returning_of(&self, table: &Table, items: Option<&[SelectItem]>) -> Result<Vec<ResultColumn>> {
        let mut columns = vec![];
        let (_, schema) = dml::carried(table);
        for item in items.unwrap_or_default() {
            let (name, expr) = match item {
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => {
                    columns.extend(
                        table
                            .columns
                            .iter()
                            .filter(|c| !c.hidden)
                            .map(|c| ResultColumn { name: c.name.clone(), ty: c.ty.clone() }),
                    );
                    continue;
                }
                SelectItem::UnnamedExpr(e) => (dml::output_name(e), e),
                SelectItem::ExprWithAlias { expr, alias } => (params::fold(alias), expr),
                other => return Err(Error::unsupported(format!("RETURNING {other}"))),
            };
            // An alias of the table is known only when the statement runs; its columns then carry the type.
            let mut bare = expr.clone();
            unqualify(&mut bare);
            let df_schema = DFSchema::try_from(schema.clone()).map_err(read::map_error)?;
            let compiled = context::compile(self.state, &bare.to_string(), &df_schema)?;
            let field = compiled.return_field(&schema).map_err(read::map_error)?;
            columns.push(ResultColumn { name, ty: SqlType::of_field(&field).unwrap_or(SqlType::Text) });
        }
        Ok(columns)
    }
}

fn unqualify(expr: &mut Expr) {
    let _ = datafusion::sql::sqlparser::ast::visit_expressions_mut(expr, |e| {
        if let Expr::CompoundIdentifier(parts) = e
            && let Some(last) = parts.last().cloned()
        {
            *e = Expr::Identifier(last);
        }
        ControlFlow::<()>::Continue(())
    });
}

/// Number of the highest parameter in a statement.
fn highest(statement: &Statement) -> usize {
    struct Highest(usize);
    impl Visitor for Highest {
        type Break = ();
        fn pre_visit_expr(&mut self, e: &Expr) -> ControlFlow<()> {
            if let Some(at) = params::placeholder(e) {
                self.0 = self.0.max(at + 1);
            }
            ControlFlow::Continue(())
        }
    }
    let mut highest = Highest(0);
    if let Statement::Sql(ast) = statement {
        let _ = ast.visit(&mut highest);
    }
    highest.0
}

fn strip_locks(ast: &mut Ast) {
    if let Ast::Query(query) = ast {
        query.locks.clear();
    }
}

/// FOR UPDATE / FOR SHARE of one table: its rows that the condition meets are locked before the query reads them.
pub(crate) struct LockRows {
    keys: String,
    table: String,
    mode: LockMode,
    wait: LockWait,
}

impl LockRows {
    fn of(catalog: &Catalog, query: &Query) -> Result<Option<LockRows>> {
        let Some(lock) = query.locks.first() else { return Ok(None) };
        let SetExpr::Select(select) = query.body.as_ref() else {
            return Err(Error::unsupported("FOR UPDATE is not allowed with UNION/INTERSECT/EXCEPT"));
        };
        let grouped = !matches!(&select.group_by, datafusion::sql::sqlparser::ast::GroupByExpr::Expressions(e, _) if e.is_empty());
        let table = match select.from.as_slice() {
            [one] if one.joins.is_empty() && select.distinct.is_none() && !grouped => match &one.relation {
                TableFactor::Table { name, .. } => super::names::relation(name).ok().and_then(|n| catalog.table(&n)),
                _ => None,
            },
            _ => None,
        };
        let Some(table) = table else {
            return Err(Error::unsupported("FOR UPDATE over anything but one table")
                .hint("Lock the rows of each table in a statement of its own."));
        };
        let wait = match lock.nonblock {
            None => LockWait::Wait,
            Some(NonBlock::Nowait) => LockWait::NoWait,
            Some(NonBlock::SkipLocked) => {
                return Err(Error::unsupported("SKIP LOCKED").hint("Use NOWAIT, or a lock_timeout."));
            }
        };
        let mode = match lock.lock_type {
            LockType::Share => LockMode::Shared,
            LockType::Update => LockMode::Exclusive,
        };
        let columns: Vec<String> = table.columns.iter().map(|c| dml::quote(&c.name)).collect();
        let selection = select.selection.as_ref().map(|s| format!(" WHERE {s}")).unwrap_or_default();
        let keys = format!("SELECT {} FROM {}{selection}", columns.join(", "), select.from[0]);
        Ok(Some(LockRows { keys, table: table.name.clone(), mode, wait }))
    }

    /// Locks the rows; in READ COMMITTED, goes on until what is locked is what a fresh snapshot shows.
    ///
    /// # Errors
    /// Those of locks.
    pub(crate) async fn lock(&self, cx: &StatementContext) -> Result<()> {
        loop {
            let catalog = cx.txn.catalog();
            let Some(table) = catalog.table(&self.table) else {
                return Err(Error::new(
                    ErrorKind::UndefinedTable,
                    format!("relation \"{}\" does not exist", self.table),
                ));
            };
            let (_, rows) = cx.query_rows_with_hidden(&self.keys).await?;
            let mut changed = false;
            for row in rows {
                let at = cx.txn.place(table, &row).await?;
                let fragment = FragmentRef { table: table.clone(), at };
                let locked = cx.txn.lock(&fragment, &[table.key_of(&row)], self.mode, self.wait).await?;
                changed |= locked.iter().any(|l| l.changed);
            }
            if !changed {
                return Ok(());
            }
            cx.txn.begin_statement().await?;
        }
    }
}
