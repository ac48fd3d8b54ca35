//! Sessions: what a client's statements mean in their order.
//!
//! A statement is parsed once, bound to a [`bound::Bound`] when it is prepared, and run as often as asked. Whatever fails inside a
//! transaction block marks the block as failed.

mod access;
pub(crate) mod bound;
pub(crate) mod context;
mod control;
mod copy;
mod cursor;
mod describe;
mod engine;
pub(crate) mod locking;
mod moves;
pub(crate) mod names;
mod plans;
mod role;
pub(crate) mod settings;
pub(crate) mod sql;
mod transaction;
mod utility;
mod verify;

pub use engine::{EngineOptions, SqlEngine};

use crate::dml;
use crate::keyed;
use crate::pg::parse::{self, Statement};
use crate::privileges::{Authority, Identity};
use crate::syntax::fold;
use async_trait::async_trait;
use atoll_model::{Catalog, Error, ErrorKind, MAX_SECOND_DIGITS, Result, SqlType, Value};
use atoll_ports::cluster::Transaction;
use atoll_ports::session::{
    BatchStream, Canceller, Execution, Notice, Parsed, Prepared, ResultColumn, Session, TransactionStatus,
};
use atoll_ports::site::{BranchOptions, Isolation};
use bound::{Bound, Kind};
use context::{SequenceValues, StatementContext};
use datafusion::sql::sqlparser::ast::Statement as Ast;
use futures::StreamExt;
use parking_lot::Mutex;
use settings::Settings;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use transaction::Current;

/// One client's session.
pub(crate) struct SqlSession {
    engine: Arc<engine::Shared>,
    authority: Authority,
    process_id: i32,
    settings: Arc<Settings>,
    pending_settings: access::PendingSettings,
    /// Settings as they were when the transaction began, to return to when it is rolled back.
    settings_before: Option<Arc<Settings>>,
    current: Current,
    /// Options of the transaction block, until its first statement fixes them.
    block_options: Option<BranchOptions>,
    named: HashMap<String, Arc<Prepared>>,
    cursors: cursor::Cursors,
    sequences: Arc<Mutex<SequenceValues>>,
    canceller: Arc<Canceller>,
    notices: Vec<Notice>,
}

impl SqlSession {
    fn options(&self) -> BranchOptions {
        BranchOptions {
            isolation: self.settings.isolation(),
            read_only: self.settings.read_only(),
            lock_timeout: self.settings.lock_timeout(),
            synchronous_commit: self.settings.synchronous_commit(),
            read_consistency: self.settings.read_consistency(),
        }
    }

    /// Who the session is at present.
    fn identity(&self) -> &Identity {
        self.settings.identity()
    }

    /// The transaction in which the next statement runs.
    fn transaction(&mut self) -> Result<Arc<dyn Transaction>> {
        let options = self.block_options.unwrap_or_else(|| self.options());
        let cluster = self.engine.cluster.clone();
        self.current.get_or_begin(|| cluster.begin(options)).cloned()
    }

    /// The catalog that names are resolved in when a statement is prepared.
    fn catalog(&self) -> Arc<Catalog> {
        self.current.txn().map_or_else(|| self.engine.cluster.catalog(), |txn| txn.catalog())
    }

    fn state(&self, catalog: &Arc<Catalog>, show_hidden: bool) -> Result<Arc<datafusion::execution::SessionState>> {
        self.engine.state(catalog, show_hidden, self)
    }

    fn context(&self, txn: &Arc<dyn Transaction>, bound: &Bound, params: Vec<Value>) -> Result<StatementContext> {
        let catalog = txn.catalog();
        let access = access::Access {
            who: self.identity().clone(),
            process_id: self.process_id,
            began: self.current.began(),
            txn: txn.clone(),
            cluster: self.engine.cluster.clone(),
            settings: self.settings.clone(),
            pending: self.pending_settings.clone(),
            sequences: self.sequences.clone(),
        };
        Ok(StatementContext {
            access: Arc::new(access),
            engine: self.engine.read.clone(),
            cluster: self.engine.cluster.clone(),
            txn: txn.clone(),
            state: self.state(&catalog, false)?,
            hidden: self.state(&catalog, true)?,
            param_types: bound.param_types.clone(),
            params: params.into(),
            canceller: self.canceller.clone(),
            sequences: self.sequences.clone(),
        })
    }

    /// Settings that functions of earlier statements have changed.
    fn take_over_settings(&mut self) {
        let pending = std::mem::take(&mut *self.pending_settings.lock());
        if !pending.is_empty() {
            self.settings_before.get_or_insert_with(|| self.settings.clone());
        }
        for (name, value, local) in pending {
            let settings = Arc::make_mut(&mut self.settings);
            let set = if local { settings.set_local(&name, Some(&value)) } else { settings.set(&name, Some(&value)) };
            if let Err(error) = set {
                tracing::error!(%error, name, "a setting that was checked is refused");
            }
        }
    }

    /// The transaction has ended: settings and cursors that belong to it go with it.
    fn ended(&mut self, committed: bool) {
        self.block_options = None;
        if let Some(before) = self.settings_before.take()
            && !committed
        {
            Arc::make_mut(&mut self.settings).restore(&before);
        }
        if self.settings.has_local() {
            Arc::make_mut(&mut self.settings).end_local();
        }
        if !self.cursors.is_empty() {
            self.end_cursors(committed);
        }
    }

    /// Columns that only the session knows: those of EXECUTE and FETCH.
    fn known_columns(&self, statement: &Statement) -> Option<Vec<ResultColumn>> {
        let Statement::Sql(ast) = statement else { return None };
        match ast.as_ref() {
            Ast::Execute { name: Some(name), .. } => {
                let name = name.0.last().and_then(|p| p.as_ident()).map(fold)?;
                self.named.get(&name).map(|p| p.columns.clone())
            }
            Ast::Fetch { name, .. } => Some(self.cursor_columns(name)),
            _ => None,
        }
    }

    fn notice(&mut self, severity: &'static str, sqlstate: &'static str, message: impl Into<String>) {
        self.notices.push(Notice { severity, sqlstate, message: message.into() });
    }

    async fn run(&mut self, prepared: &Arc<Prepared>, params: Vec<Value>) -> Result<Execution> {
        let bound =
            prepared.plan.clone().downcast::<Bound>().map_err(|_| Error::internal("a plan of another engine"))?;
        self.take_over_settings();
        // What is not on the way of a keyed statement is boxed here and in `run_bound`: this future is made for every statement,
        // and as large as the largest that it holds.
        if matches!(bound.kind, Kind::Control) {
            return Box::pin(self.control(&bound, &params)).await;
        }
        if !self.cursors.is_empty() {
            Box::pin(self.keep_cursors()).await?;
        }
        let mut txn = self.transaction()?;
        let alone = !self.current.is_explicit() && !txn.has_writes();
        txn.begin_statement().await?;
        let mut attempt = 0;
        loop {
            let done = self.run_bound(&txn, &bound, prepared, &params).await;
            // DDL came between the statement's beginning and its lock on the table, which it now has.
            match done {
                Err(e) if e.is_before_any_effect() && attempt < MAX_ATTEMPTS && may_begin_anew(&txn, &bound) => {
                    attempt += 1;
                    txn.begin_statement().await?;
                }
                // A copy's site is down. Nothing is done yet, and without that copy it can be.
                Err(_) if alone && attempt < MAX_ATTEMPTS && txn.lost_copy().is_some() => {
                    attempt += 1;
                    let site = txn.lost_copy();
                    self.current.rollback();
                    if let Some(site) = site {
                        self.engine.cluster.set_aside(site).await?;
                    }
                    txn = self.transaction()?;
                    txn.begin_statement().await?;
                }
                done => return done,
            }
        }
    }

    async fn run_bound(
        &mut self,
        txn: &Arc<dyn Transaction>,
        bound: &Arc<Bound>,
        prepared: &Arc<Prepared>,
        params: &[Value],
    ) -> Result<Execution> {
        self.authorize(bound, txn.catalog())?;
        let again;
        let mut bound = bound;
        if bound.who != *self.identity() && matches!(bound.kind, Kind::Query | Kind::Keyed(_)) {
            again = Box::pin(self.bind_again(txn, prepared, bound)).await?;
            bound = &again;
        }
        match &bound.kind {
            Kind::Keyed(plan) => match keyed::run(plan, txn, &bound.param_types, params).await? {
                Some(done) => Ok(done),
                None => Box::pin(self.run_anew(txn, bound, prepared, params)).await,
            },
            Kind::Query => Box::pin(self.query(txn, bound, prepared, params.to_vec())).await,
            Kind::Change => Box::pin(self.change(txn, bound, prepared, params.to_vec())).await,
            Kind::Explain => Box::pin(self.explain(txn, bound, params.to_vec())).await,
            Kind::Copy => Box::pin(self.copy(txn, bound, params.to_vec())).await,
            Kind::Ddl => Box::pin(self.define(txn, bound, params.to_vec())).await,
            Kind::Control => Err(Error::internal("a control statement was not run")),
        }
    }

    /// Runs a keyed statement whose catalog has moved on: binds it again.
    async fn run_anew(
        &mut self,
        txn: &Arc<dyn Transaction>,
        bound: &Arc<Bound>,
        prepared: &Arc<Prepared>,
        params: &[Value],
    ) -> Result<Execution> {
        let bound = self.bind_again(txn, prepared, bound).await?;
        match &bound.kind {
            Kind::Keyed(plan) => keyed::run(plan, txn, &bound.param_types, params).await?.ok_or_else(|| {
                Error::new(ErrorKind::SerializationFailure, "the table's definition keeps changing").before_any_effect()
            }),
            Kind::Query => self.query(txn, &bound, prepared, params.to_vec()).await,
            _ => self.change(txn, &bound, prepared, params.to_vec()).await,
        }
    }

    /// Binds a statement once more: the catalog is another one, or the session's role.
    async fn bind_again(
        &mut self,
        txn: &Arc<dyn Transaction>,
        prepared: &Prepared,
        bound: &Bound,
    ) -> Result<Arc<Bound>> {
        let again = self.bind(prepared.sql.clone(), bound.statement.clone(), &declared(bound)).await?;
        same_columns(prepared, again.columns.iter().map(|c| &c.ty))?;
        let bound = again.plan.clone().downcast::<Bound>().map_err(|_| Error::internal("a foreign plan"))?;
        self.authorize(&bound, txn.catalog())?;
        Ok(bound)
    }

    async fn query(
        &mut self,
        txn: &Arc<dyn Transaction>,
        bound: &Arc<Bound>,
        prepared: &Arc<Prepared>,
        params: Vec<Value>,
    ) -> Result<Execution> {
        let cx = self.context(txn, bound, params)?;
        let plan = if bound.locks {
            let Statement::Sql(ast) = bound.statement.as_ref() else { return Err(Error::internal("not a query")) };
            let mut ast = ast.as_ref().clone();
            dml::params::substitute(&mut ast, &cx.param_types, &cx.params)?;
            locking::settle_subqueries(&cx, &mut ast).await?;
            if let Ast::Query(query) = &ast
                && !query.locks.is_empty()
            {
                let (_, rows) = locking::run(&cx, query).await?;
                return Ok(Execution::Rows { columns: prepared.columns.clone(), rows, tag: "SELECT" });
            }
            let plan = context::plan(&cx.state, ast).await?;
            cx.engine.optimize(&cx.state, &plan)?
        } else {
            bound.plan(&cx).await?
        };
        let (schema, stream) = cx.execute(&plan).await?;
        same_columns(prepared, context::types_of(&schema)?.iter())?;
        let columns = prepared.columns.clone();
        Ok(Execution::Batches { columns, schema, stream: self.guard(stream), tag: "SELECT" })
    }

    /// Ends a stream when the user cancels or `statement_timeout` passes.
    fn guard(&self, stream: BatchStream) -> BatchStream {
        let canceller = self.canceller.clone();
        let timeout = self.settings.statement_timeout();
        let stop = async move {
            tokio::select! {
                () = canceller.cancelled() => context::cancelled(),
                () = deadline(timeout) => timed_out(),
            }
        };
        futures::stream::unfold((stream, Box::pin(stop), false), |(mut stream, mut stop, ended)| async move {
            if ended {
                return None;
            }
            tokio::select! {
                biased;
                error = &mut stop => Some((Err(error), (stream, stop, true))),
                item = stream.next() => item.map(|i| { let ended = i.is_err(); (i, (stream, stop, ended)) }),
            }
        })
        .boxed()
    }

    async fn change(
        &mut self,
        txn: &Arc<dyn Transaction>,
        bound: &Arc<Bound>,
        prepared: &Prepared,
        params: Vec<Value>,
    ) -> Result<Execution> {
        let cx = self.context(txn, bound, params)?;
        let Statement::Sql(ast) = bound.statement.as_ref() else {
            return Err(Error::internal("not a statement that changes rows"));
        };
        let mut ast = ast.as_ref().clone();
        // VALUES lists take parameters as values; everything else sees them as literals.
        if bound.locks || !matches!(&ast, Ast::Insert(_)) {
            dml::params::substitute(&mut ast, &cx.param_types, &cx.params)?;
        }
        if bound.locks {
            locking::settle_subqueries(&cx, &mut ast).await?;
        }
        let (tag, changed) = dml::run(&cx, &ast).await?;
        Ok(match changed.returned {
            Some((columns, rows)) => {
                same_columns(prepared, columns.iter().map(|c| &c.ty))?;
                Execution::Rows { columns, rows, tag }
            }
            None => Execution::Done { tag, rows: Some(changed.rows) },
        })
    }

    async fn bind(
        &mut self,
        sql: Arc<str>,
        statement: Arc<Statement>,
        declared: &[Option<SqlType>],
    ) -> Result<Arc<Prepared>> {
        let catalog = self.catalog();
        let key = self.plan_key(&catalog, &sql, declared);
        if let Some(prepared) = key.as_ref().and_then(|k| self.engine.plans.get(k)) {
            return Ok(prepared);
        }
        let state = self.state(&catalog, false)?;
        let binder =
            bound::Binder { engine: &self.engine.read, state: &state, catalog: &catalog, who: self.identity() };
        let (bound, columns) = binder.bind(statement, declared).await?;
        let columns = self.known_columns(&bound.statement).unwrap_or(columns);
        let prepared = Arc::new(Prepared {
            sql,
            param_types: bound.param_types.to_vec(),
            oid_params: bound.oid_params.clone(),
            returns_rows: !columns.is_empty() || matches!(bound.kind, Kind::Query),
            columns,
            plan: Arc::new(bound),
        });
        if let Some(key) = key {
            self.engine.plans.keep(key, &catalog, &prepared);
        }
        Ok(prepared)
    }

    /// Under what a statement's plan is kept, where it may be.
    fn plan_key(&self, catalog: &Arc<Catalog>, sql: &Arc<str>, declared: &[Option<SqlType>]) -> Option<plans::Key> {
        self.engine.plans.key(catalog, &self.engine.cluster.catalog(), self.identity(), sql, declared)
    }
}

/// How often a statement begins anew because of DDL.
const MAX_ATTEMPTS: u32 = 10;

/// Whether a statement that has done nothing yet may look at a newer catalog. A WITH may have changed rows in another part.
fn may_begin_anew(txn: &Arc<dyn Transaction>, bound: &Bound) -> bool {
    let one = match (&bound.kind, bound.statement.as_ref()) {
        (Kind::Keyed(_) | Kind::Copy, _) => true,
        (Kind::Change, Statement::Sql(ast)) => !matches!(ast.as_ref(), Ast::Query(_)),
        _ => false,
    };
    one && txn.options().isolation == Isolation::ReadCommitted
}

/// A client that was told of a result's columns gets these, or an error, as from PostgreSQL.
fn same_columns<'t>(prepared: &Prepared, types: impl ExactSizeIterator<Item = &'t SqlType>) -> Result<()> {
    let same = prepared.columns.len() == types.len()
        && prepared.columns.iter().zip(types).all(|(a, ty)| a.ty.pg_oid() == ty.pg_oid());
    if same {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotSupported, "cached plan must not change result type")
        .hint("The tables have changed since the statement was prepared: prepare it again."))
}

fn declared(bound: &Bound) -> Vec<Option<SqlType>> {
    bound.param_types.iter().cloned().map(Some).collect()
}

async fn deadline(timeout: Duration) {
    if timeout.is_zero() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(timeout).await;
}

fn timed_out() -> Error {
    Error::new(ErrorKind::QueryCanceled, "canceling statement due to statement timeout")
}

#[async_trait]
impl Session for SqlSession {
    fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>> {
        let parsed = parse::parse(sql);
        if parsed.is_err() {
            self.current.fail();
        }
        Ok(parsed?
            .into_iter()
            .map(|item| Parsed { sql: sql[item.text].into(), tree: Arc::new(item.statement) })
            .collect())
    }

    fn recall(&self, statement: &Parsed, param_types: &[Option<SqlType>]) -> Option<Arc<Prepared>> {
        let tree = statement.tree.downcast_ref::<Statement>().filter(|_| !self.current.is_failed())?;
        let prepared = self.engine.plans.get(&self.plan_key(&self.catalog(), &statement.sql, param_types)?)?;
        crate::ddl::reduced_digits(tree).is_empty().then_some(prepared)
    }

    fn prepares_at_once(&self, statement: &Parsed) -> bool {
        self.current.is_failed() || statement.tree.downcast_ref::<Statement>().is_none_or(control::is_brief)
    }

    fn runs_at_once(&self, prepared: &Prepared) -> bool {
        let Some(bound) = prepared.plan.downcast_ref::<Bound>() else { return true };
        self.cursors.is_empty()
            && match &bound.kind {
                Kind::Keyed(plan) => bound.who == *self.identity() && plan.is_of(&self.catalog()),
                Kind::Control => control::is_brief(&bound.statement),
                _ => false,
            }
    }

    async fn prepare(&mut self, statement: Parsed, param_types: &[Option<SqlType>]) -> Result<Arc<Prepared>> {
        let tree =
            statement.tree.downcast::<Statement>().map_err(|_| Error::internal("a syntax tree of another engine"))?;
        for name in crate::ddl::reduced_digits(&tree) {
            self.notice(
                "WARNING",
                "22023",
                format!("{name} precision reduced to maximum allowed, {MAX_SECOND_DIGITS}"),
            );
        }
        let result = if self.current.is_failed() && !bound::ends_transaction(&tree) {
            Err(transaction::failed())
        } else {
            self.bind(statement.sql, tree, param_types).await
        };
        if result.is_err() {
            self.current.fail();
        }
        result
    }

    async fn execute(&mut self, prepared: &Arc<Prepared>, params: Vec<Value>) -> Result<Execution> {
        let canceller = self.canceller.clone();
        let timeout = self.settings.statement_timeout();
        let result = tokio::select! {
            biased;
            () = canceller.cancelled() => Err(context::cancelled()),
            () = deadline(timeout), if !timeout.is_zero() => Err(timed_out()),
            result = self.run(prepared, params) => result,
        };
        if let Err(error) = &result {
            tracing::debug!(sqlstate = error.kind().sqlstate(), error = %error, "statement failed");
            self.current.fail();
        }
        result
    }

    async fn sync(&mut self, failed: bool) -> Result<()> {
        if self.current.is_explicit() {
            return Ok(());
        }
        self.take_over_settings();
        if failed {
            self.current.rollback();
            self.ended(false);
            return Ok(());
        }
        let committed = self.current.commit().await;
        self.ended(matches!(committed, Ok(true)));
        committed.map(|_| ())
    }

    fn fail(&mut self) {
        self.current.fail();
    }

    fn status(&self) -> TransactionStatus {
        self.current.status()
    }

    fn reported_settings(&self) -> Vec<(String, String)> {
        self.settings.reported()
    }

    fn changed_settings(&mut self) -> Vec<(String, String)> {
        self.take_over_settings();
        Arc::make_mut(&mut self.settings).take_changed()
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn cursor_columns(&self, name: &str) -> Option<Vec<ResultColumn>> {
        self.cursors.get(name).map(|c| c.columns().to_vec())
    }

    fn canceller(&self) -> Arc<Canceller> {
        self.canceller.clone()
    }
}

/// A result of one text column.
fn text_rows(name: &str, lines: Vec<String>, tag: &'static str) -> Execution {
    let columns = vec![ResultColumn::new(name, SqlType::Text)];
    Execution::Rows { columns, rows: lines.into_iter().map(|l| vec![Value::Text(l)]).collect(), tag }
}
