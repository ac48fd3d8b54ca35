//! DDL and EXPLAIN.

use super::bound::Bound;
use super::context::{self, StatementContext};
use super::{SqlSession, locking, text_rows};
use crate::ddl::{self, Step};
use crate::dml;
use crate::pg::parse::Statement;
use crate::privileges::{self, Identity};
use crate::read;
use crate::syntax::fold;
use atoll_model::{BOOTSTRAP_ROLE, Catalog, CatalogCommand, Error, ErrorKind, Result, Value};
use atoll_ports::cluster::{TableLock, Transaction};
use atoll_ports::session::Execution;
use datafusion::sql::sqlparser::ast::{CreateView, Query, SetExpr, Statement as Ast, TableObject};
use std::sync::Arc;

impl SqlSession {
    pub(super) async fn define(
        &mut self,
        txn: &Arc<dyn Transaction>,
        bound: &Arc<Bound>,
        values: Vec<Value>,
    ) -> Result<Execution> {
        let cx = self.context(txn, bound, values)?;
        let footing = self.footing(txn.catalog());
        privileges::may_run(&bound.statement, footing.in_force(), &self.identity().current_user)?;
        if let Statement::Sql(ast) = bound.statement.as_ref()
            && let Ast::CreateView(create) = ast.as_ref()
        {
            check_view(&cx, create).await?;
        }
        if let Statement::CreateTable(create) = bound.statement.as_ref()
            && let Some(query) = &create.query
        {
            return self.create_table_as(&cx, create, query).await;
        }
        // Defaults such as now() are tried out, so they must find their session.
        let state = cx.engine.running(&cx.state, cx.access.clone());
        if let Statement::ImportSchema { schema, tables, site } = bound.statement.as_ref() {
            let catalog = txn.catalog();
            let site = catalog
                .site(site)
                .ok_or_else(|| Error::new(ErrorKind::UndefinedObject, format!("site \"{site}\" does not exist")))?;
            let found = cx.cluster.site_tables(site.id, schema).await?;
            let binder = ddl::Binder { catalog: &catalog, state: &state };
            let definition = binder.import_schema(site, schema, tables, &found)?;
            let tag = definition.tag;
            self.carry_out(txn, bound, definition).await?;
            return Ok(Execution::Done { tag, rows: None });
        }
        let definition = match privileges::bind(&bound.statement, &txn.catalog(), self.identity())? {
            Some(definition) => definition,
            None => ddl::bind(&bound.statement, &txn.catalog(), &state)?
                .ok_or_else(|| Error::unsupported(first_words(&bound.statement)))?,
        };
        let tag = definition.tag;
        self.carry_out(txn, bound, definition).await?;
        Ok(Execution::Done { tag, rows: None })
    }

    /// Takes the steps of a definition; each sees the catalog that the ones before have left.
    async fn carry_out(&mut self, txn: &Arc<dyn Transaction>, bound: &Bound, definition: ddl::Bound) -> Result<()> {
        let who = self.identity().clone();
        let checked = txn.catalog();
        privileges::steps(&definition.steps, &checked, &who)?;
        // Not every definition has a command: what it may do is settled by the newest catalog all the same.
        self.check_again(&definition.steps, &checked, &who)?;
        let commands: Vec<Step> = definition.steps.iter().filter(|s| matches!(s, Step::Apply(_))).cloned().collect();
        let mut first = true;
        self.notices.extend(definition.notices);
        for step in definition.steps {
            match step {
                Step::Apply(command) => {
                    apply(txn, command, &who.current_user).await?;
                    if std::mem::take(&mut first) {
                        self.check_again(&commands, &checked, &who)?;
                    }
                }
                Step::Check { sql, error } => {
                    let cx = self.context(txn, bound, vec![])?;
                    if !cx.query_rows(&sql).await?.1.is_empty() {
                        return Err(error);
                    }
                }
                Step::Run(sql) => {
                    let cx = self.context(txn, bound, vec![])?;
                    match crate::session::sql::parse_one(&sql)? {
                        Ast::Insert(insert) => dml::insert(&cx, &insert, None).await?,
                        Ast::Update(update) => dml::update(&cx, &update, None).await?,
                        other => return Err(Error::internal(format!("a definition runs {other}"))),
                    };
                }
                Step::Restart { sequence, value } => {
                    let catalog = txn.catalog();
                    let id = catalog.sequence(&sequence).map(|s| s.id).ok_or_else(|| {
                        Error::new(ErrorKind::UndefinedTable, format!("relation \"{sequence}\" does not exist"))
                    })?;
                    self.engine.cluster.set_sequence(id, value, false).await?;
                }
            }
        }
        Ok(())
    }

    /// The first command has taken the catalog's lock, behind which another definition may have been waited for: what was checked before
    /// must hold of the catalog that it has left.
    fn check_again(&self, steps: &[Step], checked: &Arc<Catalog>, who: &Identity) -> Result<()> {
        let now = self.engine.cluster.catalog();
        if now.version <= checked.version { Ok(()) } else { privileges::steps(steps, &now, who) }
    }

    async fn create_table_as(
        &mut self,
        cx: &StatementContext,
        create: &crate::pg::parse::CreateTable,
        query: &Query,
    ) -> Result<Execution> {
        if cx.txn.catalog().names.contains_key(&create.name) {
            if create.if_not_exists {
                self.notice("NOTICE", "42P07", format!("relation \"{}\" already exists, skipping", create.name));
                return Ok(Execution::Done { tag: "CREATE TABLE AS", rows: None });
            }
            return Err(Error::new(ErrorKind::DuplicateTable, format!("relation \"{}\" already exists", create.name)));
        }
        let plan = context::plan(&cx.state, crate::session::sql::parse_one(&query.to_string())?).await?;
        // As the columns of a result: the branches of a UNION agree on their types only then.
        let plan = cx.engine.optimize(&cx.state, &plan)?;
        let columns = ddl::columns_from_schema(plan.schema().as_arrow(), &create.column_names)?;
        let catalog = cx.txn.catalog();
        let binder = ddl::Binder { catalog: &catalog, state: &cx.state };
        let definition = binder.create_table(create, Some(columns))?;
        privileges::steps(&definition.steps, &catalog, self.identity())?;
        let who = self.identity().clone();
        for step in &definition.steps {
            if let Step::Apply(command) = step {
                apply(&cx.txn, command.clone(), &who.current_user).await?;
                self.check_again(&definition.steps, &catalog, &who)?;
            }
        }
        if create.no_data {
            return Ok(Execution::Done { tag: "CREATE TABLE AS", rows: None });
        }
        let (types, rows) = cx.query_rows(&query.to_string()).await?;
        let catalog = cx.txn.catalog();
        let table =
            catalog.table(&create.name).ok_or_else(|| Error::internal("the new table is not in the catalog"))?;
        cx.txn.lock_table(table, TableLock::Write).await?;
        let mut whole = Vec::with_capacity(rows.len());
        for row in rows {
            let mut out = vec![Value::Null; table.columns.len()];
            for (at, (value, ty)) in row.into_iter().zip(&types).enumerate() {
                out[at] = dml::assign::assign(value, ty, &table.columns[at])?;
            }
            whole.push(out);
        }
        let missing: Vec<usize> = (types.len()..table.columns.len()).collect();
        dml::fill_defaults(cx, table, &mut whole, &missing).await?;
        dml::insert_rows(cx, table, &whole).await?;
        Ok(Execution::Done { tag: "SELECT", rows: Some(whole.len() as u64) })
    }

    pub(super) async fn explain(
        &mut self,
        txn: &Arc<dyn Transaction>,
        bound: &Arc<Bound>,
        values: Vec<Value>,
    ) -> Result<Execution> {
        let cx = self.context(txn, bound, values)?;
        let Statement::Sql(ast) = bound.statement.as_ref() else { return Err(Error::internal("not an EXPLAIN")) };
        let Ast::Explain { statement, analyze, verbose, format, options, .. } = ast.as_ref() else {
            return Err(Error::internal("not an EXPLAIN"));
        };
        let mut inner = statement.as_ref().clone();
        dml::params::substitute(&mut inner, &cx.param_types, &cx.params)?;
        let options = read::ExplainOptions::parse(*analyze, *verbose, format.as_ref(), options.as_deref())?;
        if !matches!(&inner, Ast::Query(query) if !dml::changes_rows(query)) {
            return self.explain_change(&cx, inner, &options).await;
        }
        let inner = locking::without_locks(inner);
        let plan = context::plan(&cx.state, inner).await?;
        let lines = cx.engine.explain(&cx.running_state(&cx.state, &plan), &plan, txn.clone(), &options).await?;
        Ok(text_rows("QUERY PLAN", lines, "EXPLAIN"))
    }
}

impl SqlSession {
    /// EXPLAIN of a statement that changes rows: what it does, and the query that finds or makes the rows.
    async fn explain_change(
        &mut self,
        cx: &StatementContext,
        statement: Ast,
        options: &read::ExplainOptions,
    ) -> Result<Execution> {
        if options.analyze || options.json {
            return Err(Error::unsupported("EXPLAIN ANALYZE, and FORMAT JSON, of a statement that changes rows")
                .hint("EXPLAIN the SELECT that finds the same rows."));
        }
        let (with, statement) = match statement {
            Ast::Query(query) => match dml::changing(&query) {
                Some(statement)
                    if !query.with.iter().flat_map(|w| &w.cte_tables).any(|c| dml::changes_rows(&c.query)) =>
                {
                    (query.with.clone(), statement.clone())
                }
                _ => return Err(Error::unsupported("EXPLAIN of statements that change rows inside WITH")),
            },
            other => (None, other),
        };
        let catalog = cx.txn.catalog();
        let (head, query) = match &statement {
            Ast::Insert(insert) => {
                let TableObject::TableName(name) = &insert.table else {
                    return Err(Error::unsupported("INSERT into something other than a table"));
                };
                let head = format!("Insert on {}", dml::target(&catalog, name)?.name);
                match &insert.source {
                    Some(source) => match source.body.as_ref() {
                        SetExpr::Values(values) if with.is_none() => {
                            let count = values.rows.len();
                            let lines =
                                vec![head, format!("  Values ({count} row{})", if count == 1 { "" } else { "s" })];
                            return Ok(text_rows("QUERY PLAN", lines, "EXPLAIN"));
                        }
                        _ => {
                            let mut query = source.as_ref().clone();
                            query.with = dml::with::joined(with.as_ref(), query.with.as_ref())?;
                            (head, query.to_string())
                        }
                    },
                    None => return Ok(text_rows("QUERY PLAN", vec![head, "  Values (1 row)".into()], "EXPLAIN")),
                }
            }
            other => {
                let what = if matches!(other, Ast::Update(_)) { "Update" } else { "Delete" };
                let (sql, table) = dml::search_of(&catalog, other, with.as_ref())?.ok_or_else(|| {
                    Error::unsupported(format!("EXPLAIN {}", first_words(&Statement::Sql(Box::new(other.clone())))))
                })?;
                (format!("{what} on {table}"), sql)
            }
        };
        let ast = locking::without_locks(crate::session::sql::parse_one(&query)?);
        // The search for rows names hidden columns; what a user has written must not see them.
        let state = if matches!(statement, Ast::Insert(_)) { &cx.state } else { &cx.hidden };
        let plan = context::plan(state, ast).await?;
        let lines = cx.engine.explain(&cx.running_state(state, &plan), &plan, cx.txn.clone(), options).await?;
        let lines = std::iter::once(head).chain(lines.into_iter().map(|l| format!("  {l}"))).collect();
        Ok(text_rows("QUERY PLAN", lines, "EXPLAIN"))
    }
}

/// Applies a command that was allowed; what it makes belongs to this role.
async fn apply(txn: &Arc<dyn Transaction>, command: CatalogCommand, owner: &str) -> Result<()> {
    let made = match &command {
        CatalogCommand::CreateTable(new) => Some(new.name.clone()),
        CatalogCommand::CreateSequence(new) => Some(new.name.clone()),
        // One that is replaced keeps its owner.
        CatalogCommand::CreateView { name, .. } if txn.catalog().view(name).is_none() => Some(name.clone()),
        _ => None,
    };
    txn.apply(command).await?;
    match made {
        Some(relation) if owner != BOOTSTRAP_ROLE => {
            txn.apply(CatalogCommand::SetOwner { relation, owner: owner.into() }).await
        }
        _ => Ok(()),
    }
}

/// Whether a view's query is right, and what it may replace.
async fn check_view(cx: &StatementContext, create: &CreateView) -> Result<()> {
    let ast = Ast::Query(create.query.clone());
    if locking::locks(&ast) {
        return Err(Error::unsupported("FOR UPDATE in a view"));
    }
    let plan = context::plan(&cx.state, ast).await?;
    if !plan.get_parameter_names().map_err(read::map_error)?.is_empty() {
        return Err(Error::new(ErrorKind::UndefinedParameter, "a view has no parameters: there is no parameter $1"));
    }
    let mut columns = super::bound::columns_of(plan.schema().as_arrow())?;
    if create.columns.len() > columns.len() {
        return Err(Error::new(ErrorKind::Syntax, "CREATE VIEW specifies more column names than columns"));
    }
    for (column, name) in columns.iter_mut().zip(&create.columns) {
        column.name = fold(&name.name);
    }
    for (at, column) in columns.iter().enumerate() {
        if columns[..at].iter().any(|c| c.name == column.name) {
            return Err(Error::new(
                ErrorKind::DuplicateColumn,
                format!("column \"{}\" specified more than once", column.name),
            ));
        }
    }
    let name = super::names::relation(&create.name)?;
    if !create.or_replace || cx.txn.catalog().view(&name).is_none() {
        return Ok(());
    }
    let old = crate::session::sql::parse_one(&format!("SELECT * FROM {}", dml::quote(&name)))?;
    let old = super::bound::columns_of(context::plan(&cx.state, old).await?.schema().as_arrow())?;
    let refuse = |message: String| Err(Error::new(ErrorKind::InvalidTableDefinition, message));
    if old.len() > columns.len() {
        return refuse("cannot drop columns from view".into());
    }
    for (old, new) in old.iter().zip(&columns) {
        if old.name != new.name {
            return refuse(format!("cannot change name of view column \"{}\" to \"{}\"", old.name, new.name));
        }
        if old.ty != new.ty {
            return refuse(format!(
                "cannot change data type of view column \"{}\" from {} to {}",
                old.name, old.ty, new.ty
            ));
        }
    }
    Ok(())
}

fn first_words(statement: &Statement) -> String {
    match statement {
        Statement::Sql(ast) => ast.to_string().split_whitespace().take(2).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}
