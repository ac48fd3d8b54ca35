//! Bound statements: kind, parameter types, result columns, and the logical plan that repeated executions reuse.

use super::context::{self, StatementContext};
use super::describe;
use super::locking;
use crate::dml::{self, params};
use crate::keyed;
use crate::pg::OID;
use crate::pg::parse::Statement;
use crate::pg::rewrite::names;
use crate::privileges::{Checked, Identity};
use crate::read::{self, Engine};
use crate::syntax::{self, fold};
use atoll_model::{Catalog, Error, ErrorKind, Result, SqlType, Table};
use atoll_ports::session::ResultColumn;
use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::ParamValues;
use datafusion::common::metadata::ScalarAndMetadata;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{
    AssignmentTarget, Expr, FromTable, Insert, Query, SelectItem, SetExpr, Statement as Ast, TableFactor, TableObject,
    Visitor, VisitorMut, With,
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
    /// Parameters that clients know as `oid[]`.
    pub(crate) oid_params: Vec<usize>,
    /// FOR UPDATE / FOR SHARE, here or in a subquery.
    pub(crate) locks: bool,
    /// For whom it was bound: `current_user` is a constant to plans.
    pub(crate) who: Identity,
    /// For whom it was found to be allowed.
    pub(crate) checked: Checked,
    /// Its parameters are cast to their types for planning, which could not tell them.
    typed: bool,
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
                if self.typed {
                    type_parameters(&mut ast, &cx.param_types)?;
                }
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
        let plan = plan.as_ref().clone().with_param_values(ParamValues::List(values)).map_err(read::map_error)?;
        describe::literal_limits(plan).map_err(read::map_error)
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
    let column = |(field, ty): (&FieldRef, SqlType)| ResultColumn {
        is_oid: ty == SqlType::Int8 && field.metadata().contains_key(OID),
        ..ResultColumn::new(names::shown(field.name()), ty)
    };
    Ok(schema.fields().iter().zip(types).map(column).collect())
}

/// Binds statements against a catalog.
pub(crate) struct Binder<'a> {
    pub(crate) engine: &'a Arc<Engine>,
    pub(crate) state: &'a Arc<SessionState>,
    pub(crate) catalog: &'a Arc<Catalog>,
    pub(crate) who: &'a Identity,
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
        // A parameter has no digits of a second of its own, whatever it is compared with or assigned to.
        let declared: Vec<_> = declared.iter().map(|ty| ty.as_ref().map(SqlType::without_second_digits)).collect();
        let mut inferred: BTreeMap<usize, SqlType> = BTreeMap::new();
        let mut columns = vec![];
        let mut cached = None;
        let mut typed = false;
        let locks = matches!(statement.as_ref(), Statement::Sql(ast) if locking::locks(ast));
        let kind = match statement.as_ref() {
            Statement::Sql(ast) => match ast.as_ref() {
                Ast::Query(query) if !dml::changes_rows(query) => {
                    if !query.locks.is_empty() {
                        locking::check(self.catalog, query)?;
                    }
                    let ast = ast.as_ref().clone();
                    let ast = if locks { locking::without_locks(ast) } else { ast };
                    describe::casts_of_parameters(&ast, &mut inferred);
                    let planned = self.plan_and_infer(ast.clone(), &mut inferred).await;
                    let count = highest(&statement);
                    let known = |at: usize| declared.get(at).cloned().flatten().or_else(|| inferred.get(&at).cloned());
                    // The client, or a cast, knows what planning cannot tell.
                    let helps = match &planned {
                        Err(_) => count > 0 && (0..count).all(|at| known(at).is_some()),
                        Ok(plan) => describe::untyped(plan)?.into_iter().any(|at| known(at).is_some()),
                    };
                    let plan = if helps {
                        typed = true;
                        let types: Vec<SqlType> = (0..count).map(|at| known(at).unwrap_or(SqlType::Text)).collect();
                        let mut ast = ast;
                        type_parameters(&mut ast, &types)?;
                        self.plan_and_infer(ast, &mut inferred).await?
                    } else {
                        planned?
                    };
                    columns = columns_of(plan.schema().as_arrow())?;
                    let catalogs_alone = describe::reads_catalogs_alone(&plan);
                    if !locks {
                        match keyed::Plan::of(self.state, self.catalog, statement.as_ref(), &columns, &mut inferred)? {
                            Some(plan) => Kind::Keyed(plan),
                            None => {
                                let plan = Arc::new(self.engine.optimize(self.state, &plan)?);
                                // The branches of a UNION agree on their types only now.
                                columns = columns_of(plan.schema().as_arrow())?;
                                if catalogs_alone {
                                    describe::mark_oids(&mut columns);
                                }
                                cached = Some((self.catalog.clone(), plan));
                                Kind::Query
                            }
                        }
                    } else {
                        Kind::Query
                    }
                }
                Ast::Query(query) => {
                    columns = self.bind_with(query, &mut inferred).await?;
                    Kind::Change
                }
                Ast::Insert(_) | Ast::Delete(_) => {
                    columns = self.bind_change(ast, None, &mut inferred).await?;
                    Kind::Change
                }
                Ast::Update(_) => {
                    columns = self.bind_change(ast, None, &mut inferred).await?;
                    keyed::Plan::of(self.state, self.catalog, statement.as_ref(), &columns, &mut inferred)?
                        .map_or(Kind::Change, Kind::Keyed)
                }
                Ast::Explain { .. } => {
                    columns = vec![ResultColumn::new("QUERY PLAN", SqlType::Text)];
                    Kind::Explain
                }
                Ast::Copy { .. } => Kind::Copy,
                Ast::ShowVariable { variable } => {
                    columns = super::control::show_columns(variable);
                    Kind::Control
                }
                Ast::Declare { stmts } => {
                    // The parameters are those of the cursor's query.
                    for query in stmts.iter().filter_map(|d| d.for_query.as_ref()) {
                        let ast = locking::without_locks(Ast::Query(query.clone()));
                        self.infer(&context::plan(self.state, ast).await?, &mut inferred)?;
                    }
                    Kind::Control
                }
                ast if super::control::is_control(ast) => Kind::Control,
                Ast::Merge(_) => {
                    return Err(Error::unsupported("MERGE is not supported")
                        .hint("Use INSERT … ON CONFLICT, or UPDATE and INSERT in one transaction."));
                }
                _ => Kind::Ddl,
            },
            other if super::control::is_own_control(other) => {
                columns = super::control::own_columns(other);
                Kind::Control
            }
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
        let oid_params = describe::oid_parameters(&statement);
        Ok((
            Bound {
                statement,
                kind,
                param_types,
                oid_params,
                locks,
                who: self.who.clone(),
                checked: Checked::default(),
                typed,
                cached: Mutex::new(cached),
            },
            columns,
        ))
    }

    fn table(&self, name: &datafusion::sql::sqlparser::ast::ObjectName) -> Option<Arc<Table>> {
        super::names::relation(name).ok().and_then(|n| self.catalog.table(&n).cloned())
    }

    async fn plan_and_infer(&self, ast: Ast, inferred: &mut BTreeMap<usize, SqlType>) -> Result<LogicalPlan> {
        let plan = context::plan(self.state, ast).await?;
        self.infer(&plan, inferred)?;
        Ok(plan)
    }

    fn infer(&self, plan: &LogicalPlan, inferred: &mut BTreeMap<usize, SqlType>) -> Result<()> {
        describe::infer_any(plan, inferred)?;
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
                self.0.position_of(&fold(ident)).map(|p| self.0.columns[p].ty.without_second_digits())
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
            let _ = syntax::visit(*e, &mut Finder(table, inferred));
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
                            inferred.entry(n).or_insert_with(|| table.columns[*at].ty.without_second_digits());
                        }
                    }
                }
            }
            Some(SetExpr::Select(select)) => {
                for (item, at) in select.projection.iter().zip(&positions) {
                    if let SelectItem::UnnamedExpr(e) = item
                        && let Some(n) = params::placeholder(e)
                    {
                        inferred.entry(n).or_insert_with(|| table.columns[*at].ty.without_second_digits());
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Types of parameters and result columns of a statement that changes rows; `with` are the names of a WITH around it.
    async fn bind_change(
        &self,
        ast: &Ast,
        with: Option<&With>,
        inferred: &mut BTreeMap<usize, SqlType>,
    ) -> Result<Vec<ResultColumn>> {
        match ast {
            Ast::Insert(insert) => {
                self.infer_insert(insert, inferred)?;
                if let Some(source) = &insert.source
                    && !matches!(source.body.as_ref(), SetExpr::Values(_))
                {
                    self.infer_query(with, source, inferred).await;
                }
            }
            Ast::Update(update) => {
                let name = match &update.table.relation {
                    TableFactor::Table { name, .. } => Some(name),
                    _ => None,
                };
                if let Some(table) = name.and_then(|n| self.table(n)) {
                    for a in &update.assignments {
                        if let AssignmentTarget::ColumnName(n) = &a.target
                            && let Some(at) = params::placeholder(&a.value)
                            && let Some(ident) = n.0.last().and_then(|p| p.as_ident())
                            && let Some(p) = table.position_of(&fold(ident))
                        {
                            inferred.insert(at, table.columns[p].ty.without_second_digits());
                        }
                    }
                    let exprs: Vec<&Expr> =
                        update.assignments.iter().map(|a| &a.value).chain(&update.selection).collect();
                    self.infer_exprs(&table, &exprs, inferred);
                }
            }
            Ast::Delete(delete) => {
                let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
                if let Some(TableFactor::Table { name, .. }) = from.first().map(|t| &t.relation)
                    && let Some(table) = self.table(name)
                {
                    self.infer_exprs(&table, &delete.selection.iter().collect::<Vec<_>>(), inferred);
                }
            }
            other => return Err(Error::unsupported(format!("{other}"))),
        }
        dml::returned_columns(self.state, self.catalog, ast, with).await
    }

    /// The same of a query that changes rows, in its body or in its WITH.
    async fn bind_with(&self, query: &Query, inferred: &mut BTreeMap<usize, SqlType>) -> Result<Vec<ResultColumn>> {
        let mut scope = query.with.clone().map(|with| With { cte_tables: vec![], ..with });
        for cte in query.with.iter().flat_map(|w| &w.cte_tables) {
            let mut cte = cte.clone();
            match dml::changing(&cte.query) {
                Some(statement) => {
                    let inner = dml::with::joined(scope.as_ref(), cte.query.with.as_ref())?;
                    let columns = self.bind_change(statement, inner.as_ref(), inferred).await?;
                    if columns.is_empty() {
                        continue;
                    }
                    // For binding, its rows do not matter.
                    *cte.query = dml::with::returned_query(&columns, &[])?;
                }
                None => self.infer_query(scope.as_ref(), &cte.query, inferred).await,
            }
            if let Some(scope) = &mut scope {
                scope.cte_tables.push(cte);
            }
        }
        let scope = scope.filter(|s| !s.cte_tables.is_empty());
        match dml::changing(query) {
            Some(statement) => self.bind_change(statement, scope.as_ref(), inferred).await,
            None => {
                let query = Query { with: scope, ..query.clone() };
                let plan = context::plan(self.state, locking::without_locks(Ast::Query(Box::new(query)))).await?;
                self.infer(&plan, inferred)?;
                columns_of(plan.schema().as_arrow())
            }
        }
    }

    /// Types of a query's parameters, as far as planning tells. What is wrong with the query shows when it is run.
    async fn infer_query(&self, with: Option<&With>, query: &Query, inferred: &mut BTreeMap<usize, SqlType>) {
        let Ok(with) = dml::with::joined(with, query.with.as_ref()) else { return };
        let query = Query { with, ..query.clone() };
        let ast = locking::without_locks(Ast::Query(Box::new(query)));
        if !has_parameters(&ast) {
            return;
        }
        let mut found = BTreeMap::new();
        if let Ok(plan) = context::plan(self.state, ast).await
            && self.infer(&plan, &mut found).is_ok()
        {
            for (at, ty) in found {
                inferred.entry(at).or_insert(ty);
            }
        }
    }
}

fn has_parameters(ast: &Ast) -> bool {
    syntax::any_expression(ast, |e| params::placeholder(e).is_some())
}

/// Casts every parameter to its type.
fn type_parameters(ast: &mut Ast, types: &[SqlType]) -> Result<()> {
    struct Typing<'a>(&'a [SqlType]);
    impl VisitorMut for Typing<'_> {
        type Break = Error;
        fn post_visit_expr(&mut self, e: &mut Expr) -> ControlFlow<Error> {
            // Parentheses around a parameter have been entered already.
            if let (Expr::Value(_), Some(ty)) = (&*e, params::placeholder(e).and_then(|at| self.0.get(at))) {
                match params::cast(e.clone(), ty) {
                    Ok(cast) => *e = cast,
                    Err(error) => return ControlFlow::Break(error),
                }
            }
            ControlFlow::Continue(())
        }
    }
    syntax::try_visit_mut(ast, &mut Typing(types))
}

/// Number of the highest parameter in a statement.
fn highest(statement: &Statement) -> usize {
    let mut highest = 0;
    if let Statement::Sql(ast) = statement
        // The parameters of a statement that is only prepared are its own.
        && !matches!(ast.as_ref(), Ast::Prepare { .. })
    {
        let _ = syntax::expressions(ast.as_ref(), |e| {
            highest = params::placeholder(e).map_or(highest, |at| highest.max(at + 1));
            ControlFlow::Continue(())
        });
    }
    highest
}
