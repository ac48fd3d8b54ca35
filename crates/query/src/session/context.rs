//! What a running statement has at hand: its transaction, its catalog's planner states, its parameters.

use super::access::Access;
use crate::dml::params;
use crate::pg;
use crate::read::{self, Engine, Interrupt};
use crate::rows;
use atoll_model::{Error, ErrorKind, RelationId, Result, Row, SqlType, Value};
use atoll_ports::cluster::{Cluster, Transaction};
use atoll_ports::session::BatchStream;
use atoll_ports::session::{Canceller, ResultColumn};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{EmptyRelation, Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::sql::parser::Statement as PlannedStatement;
use datafusion::sql::sqlparser::ast::{Expr as AstExpr, Query, Statement as Ast};
use futures::TryStreamExt;
use parking_lot::Mutex;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Last values that a session drew from sequences.
#[derive(Debug, Default)]
pub(crate) struct SequenceValues {
    /// By sequence.
    pub(crate) by_sequence: HashMap<RelationId, i64>,
    /// The last of all.
    pub(crate) last: Option<i64>,
}

/// A column that no expression can name by accident.
const ROW: &str = "\u{1}row";

/// A running statement.
#[derive(Clone)]
pub(crate) struct StatementContext {
    pub(crate) engine: Arc<Engine>,
    pub(crate) access: Arc<Access>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) txn: Arc<dyn Transaction>,
    /// Planner state over the transaction's catalog.
    pub(crate) state: Arc<SessionState>,
    /// The same with hidden columns to be seen.
    pub(crate) hidden: Arc<SessionState>,
    pub(crate) param_types: Arc<[SqlType]>,
    pub(crate) params: Arc<[Value]>,
    pub(crate) canceller: Arc<Canceller>,
    pub(crate) sequences: Arc<Mutex<SequenceValues>>,
}

impl StatementContext {
    /// The parameter that an expression is, with its type; `None`: it is something else.
    ///
    /// # Errors
    /// `UndefinedParameter`.
    pub(crate) fn parameter(&self, expr: &AstExpr) -> Result<Option<(SqlType, Value)>> {
        let Some(at) = params::placeholder(expr) else { return Ok(None) };
        match (self.param_types.get(at), self.params.get(at)) {
            (Some(ty), Some(value)) => Ok(Some((ty.clone(), value.clone()))),
            _ => Err(params::undefined(at)),
        }
    }

    /// Compiles an SQL expression over rows of a schema.
    ///
    /// # Errors
    /// Those of binding; `NotSupported` for subqueries.
    pub(crate) fn compile(&self, sql: &str, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = bind(&self.state, sql, schema)?;
        let running;
        let state = if pg::expression_asks_session(&expr) {
            running = self.engine.running(&self.state, self.access.clone());
            &running
        } else {
            self.state.as_ref()
        };
        state.create_physical_expr(expr, schema).map_err(read::map_error)
    }

    /// Evaluates an expression without columns `count` times (volatile functions anew each time).
    ///
    /// # Errors
    /// What the expression meets.
    pub(crate) async fn evaluate_constant(&self, sql: &str, count: usize) -> Result<(Vec<SqlType>, Vec<Row>)> {
        // Parameters and subqueries need a plan; anything else is compiled, which costs a tenth.
        if count == 1 && (sql.contains('$') || sql.to_ascii_lowercase().contains("select")) {
            return self.query_rows(&format!("SELECT {sql}")).await;
        }
        let (types, schema) = (vec![SqlType::Int8], rows::schema_of([(ROW, &SqlType::Int8)]));
        let df_schema = DFSchema::try_from(schema.clone()).map_err(read::map_error)?;
        let expr = self.compile(sql, &df_schema)?;
        let numbers: Vec<Row> = (0..count as i64).map(|n| vec![Value::Int8(n)]).collect();
        crate::dml::evaluate(&[expr], &schema, &types, &numbers)
    }

    /// Runs a query and keeps its rows.
    ///
    /// # Errors
    /// What the query meets.
    pub(crate) async fn query_rows(&self, sql: &str) -> Result<(Vec<SqlType>, Vec<Row>)> {
        self.rows_of(&self.state, sql).await
    }

    /// The same with the result's schema, and with hidden columns to be seen.
    ///
    /// # Errors
    /// What the query meets.
    pub(crate) async fn query_rows_with_hidden(&self, sql: &str) -> Result<(SchemaRef, Vec<Row>)> {
        let mut ast = crate::session::sql::parse_one(sql)?;
        params::substitute(&mut ast, &self.param_types, &self.params)?;
        self.rows_of_ast(&self.hidden, ast).await
    }

    async fn rows_of(&self, state: &Arc<SessionState>, sql: &str) -> Result<(Vec<SqlType>, Vec<Row>)> {
        let mut ast = crate::session::sql::parse_one(sql)?;
        params::substitute(&mut ast, &self.param_types, &self.params)?;
        let (schema, rows) = self.rows_of_ast(state, ast).await?;
        Ok((types_of(&schema)?, rows))
    }

    /// The same of a syntax tree without parameters.
    ///
    /// # Errors
    /// What the query meets.
    pub(crate) async fn rows_of_query(&self, query: Query, with_hidden: bool) -> Result<(Vec<SqlType>, Vec<Row>)> {
        let state = if with_hidden { &self.hidden } else { &self.state };
        let (schema, rows) = self.rows_of_ast(state, Ast::Query(Box::new(query))).await?;
        Ok((types_of(&schema)?, rows))
    }

    /// Runs a query without parameters and keeps its rows, with the names and types of its columns.
    ///
    /// # Errors
    /// What the query meets.
    pub(crate) async fn result_of_query(&self, query: Query) -> Result<(Vec<ResultColumn>, Vec<Row>)> {
        let (schema, rows) = self.rows_of_ast(&self.state, Ast::Query(Box::new(query))).await?;
        Ok((super::bound::columns_of(&schema)?, rows))
    }

    async fn rows_of_ast(&self, state: &Arc<SessionState>, ast: Ast) -> Result<(SchemaRef, Vec<Row>)> {
        let plan = plan(state, ast).await?;
        let plan = self.engine.optimize(state, &plan)?;
        let (schema, mut stream) = self.execute_in(state, &plan).await?;
        let types = types_of(&schema)?;
        let mut rows = vec![];
        while let Some(batch) = stream.try_next().await? {
            self.check_cancelled()?;
            rows.append(&mut rows::from_batch(&batch, &types)?);
        }
        Ok((schema, rows))
    }

    /// Runs an optimized plan, its parameters replaced.
    ///
    /// # Errors
    /// Those of planning; those of execution come with the stream.
    pub(crate) async fn execute(&self, plan: &LogicalPlan) -> Result<(SchemaRef, BatchStream)> {
        self.execute_in(&self.state, plan).await
    }

    async fn execute_in(&self, state: &Arc<SessionState>, plan: &LogicalPlan) -> Result<(SchemaRef, BatchStream)> {
        let timeout = self.access.settings.statement_timeout();
        let interrupt = Interrupt {
            canceller: self.canceller.clone(),
            deadline: (!timeout.is_zero()).then(|| Instant::now() + timeout),
        };
        let state = self.running_state(state, plan);
        self.engine.execute(&state, plan, self.txn.clone(), Some(Arc::new(interrupt))).await
    }

    /// The planner state in which a plan runs: functions that ask the session see it.
    pub(crate) fn running_state<'s>(&self, state: &'s Arc<SessionState>, plan: &LogicalPlan) -> Cow<'s, SessionState> {
        if pg::plan_asks_session(plan) {
            Cow::Owned(self.engine.running(state, self.access.clone()))
        } else {
            Cow::Borrowed(state)
        }
    }

    /// Remembers a sequence's value for `currval` and `lastval`.
    pub(crate) fn note_sequence(&self, sequence: RelationId, value: i64) {
        let mut sequences = self.sequences.lock();
        sequences.by_sequence.insert(sequence, value);
        sequences.last = Some(value);
    }

    /// Ends a long loop when the user asked for it.
    ///
    /// # Errors
    /// `QueryCanceled`.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        if self.canceller.is_cancelled() { Err(cancelled()) } else { Ok(()) }
    }
}

/// Plans a statement's syntax tree.
///
/// # Errors
/// Those of binding.
pub(crate) async fn plan(state: &SessionState, ast: Ast) -> Result<LogicalPlan> {
    let ast = pg::rewrite(ast, &*read::catalog_of(state)?)?;
    let plan = state.statement_to_plan(PlannedStatement::Statement(Box::new(ast))).await.map_err(read::map_error)?;
    read::check_dependencies(&plan).map_err(read::map_error)?;
    pg::vectors_as_text(plan).map_err(read::map_error)
}

/// Compiles an SQL expression over rows of a schema.
///
/// # Errors
/// Those of binding; `NotSupported` for subqueries.
pub(crate) fn compile(state: &SessionState, sql: &str, schema: &DFSchema) -> Result<Arc<dyn PhysicalExpr>> {
    let expr = bind(state, sql, schema)?;
    state.create_physical_expr(expr, schema).map_err(read::map_error)
}

fn bind(state: &SessionState, sql: &str, schema: &DFSchema) -> Result<Expr> {
    let expr = pg::parse_expression(sql)?;
    let expr = state.create_logical_expr_from_sql_expr(expr, schema).map_err(read::map_error)?;
    analyzed(state, expr, schema).map_err(read::map_error)
}

/// The expression as the analyzer leaves it in a query: with types that fit, and arithmetic that does not wrap around.
fn analyzed(state: &SessionState, expr: Expr, schema: &DFSchema) -> datafusion::common::Result<Expr> {
    let rows = LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema: Arc::new(schema.clone()) });
    let plan = LogicalPlanBuilder::from(rows).project([expr])?.build()?;
    match state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})? {
        LogicalPlan::Projection(projection) if projection.expr.len() == 1 => {
            Ok(projection.expr.into_iter().next().expect("one was counted").unalias())
        }
        _ => Err(read::external(Error::internal("an expression became a plan"))),
    }
}

/// SQL types of a result's columns.
///
/// # Errors
/// `NotSupported` for Arrow types that no SQL type is carried in.
pub(crate) fn types_of(schema: &datafusion::arrow::datatypes::Schema) -> Result<Vec<SqlType>> {
    schema
        .fields()
        .iter()
        .map(|f| {
            SqlType::of_field(f).ok_or_else(|| {
                Error::unsupported(format!(
                    "column \"{}\" is of Arrow type {}, which SQL has no name for",
                    f.name(),
                    f.data_type()
                ))
            })
        })
        .collect()
}

/// The error of a cancelled statement.
pub(crate) fn cancelled() -> Error {
    Error::new(ErrorKind::QueryCanceled, "canceling statement due to user request")
}
