//! The engine: planner states, optimization, execution.
//!
//! Invariant: every plan that runs was localized for the transaction it runs in; memory of all queries together is bounded by one
//! pool, beyond which sorts, joins and aggregates spill to disk or fail with 53200.

use super::apply::{self, ApplySubqueries, Running, RunningQuery};
use super::catalog::{self, AtollSchemaProvider, DATABASE, PUBLIC};
use super::error::map_error;
use super::interrupt::{self, Interrupt};
use super::localize::{self, Localized};
use super::overflow::CheckedArithmetic;
use super::sites::{SEMIJOIN_BYTES, SEMIJOIN_VALUES};
use crate::pg::{self, SessionAccess, SessionHooks};
use crate::privileges::Identity;
use atoll_model::{Catalog, Result};
use atoll_ports::cluster::{Cluster, Transaction};
use atoll_ports::session::BatchStream;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::SchemaProvider;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::{StreamExt, TryStreamExt};
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Limits of query execution.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Bytes that all queries together may hold in sorts, joins and aggregates.
    pub memory_limit: usize,
    /// Where they spill; `None`: the system's directory for temporary files.
    pub spill_dir: Option<PathBuf>,
    /// Bytes that spilling may take on disk.
    pub spill_size: u64,
    /// Tasks that one query runs side by side; 0: one for each core.
    pub parallelism: usize,
    /// Rows per batch.
    pub batch_size: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions { memory_limit: 1 << 30, spill_dir: None, spill_size: 16 << 30, parallelism: 0, batch_size: 8192 }
    }
}

/// From bound plans to rows.
#[derive(Clone)]
pub(crate) struct Engine {
    cluster: Arc<dyn Cluster>,
    runtime: Arc<RuntimeEnv>,
    /// Rules, functions and configuration, without a catalog.
    template: Arc<SessionState>,
}

impl Engine {
    /// An engine over a node.
    ///
    /// # Errors
    /// `Io` when the spill directory cannot be used.
    pub(crate) fn new(cluster: Arc<dyn Cluster>, options: EngineOptions) -> Result<Self> {
        let mode = match options.spill_dir {
            Some(dir) => DiskManagerMode::Directories(vec![dir]),
            None => DiskManagerMode::OsTmpDirectory,
        };
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(options.memory_limit)))
            .with_disk_manager_builder(
                DiskManagerBuilder::default().with_mode(mode).with_max_temp_directory_size(options.spill_size),
            )
            .build_arc()
            .map_err(map_error)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let parallelism = if options.parallelism == 0 { cores } else { options.parallelism };
        let mut config = SessionConfig::new()
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(DATABASE, PUBLIC)
            .with_information_schema(false)
            .with_batch_size(options.batch_size)
            .with_target_partitions(parallelism);
        let settings = config.options_mut();
        settings.sql_parser.map_string_types_to_utf8view = false;
        settings.sql_parser.parse_float_as_decimal = true;
        // Statistics count rows only; a scan's order is worth keeping for ORDER BY key LIMIT n.
        settings.optimizer.prefer_existing_sort = false;
        // While one of several aggregates has seen NULLs alone, DataFusion 55 leaves out the rows that the other does not need.
        settings.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
        // So many values of a join's one side are told to those who read the other.
        settings.optimizer.hash_join_inlist_pushdown_max_distinct_values = SEMIJOIN_VALUES;
        settings.optimizer.hash_join_inlist_pushdown_max_size = SEMIJOIN_BYTES;
        let mut template = SessionStateBuilder::new_with_default_features()
            .with_config(config)
            .with_runtime_env(runtime.clone())
            .with_type_planner(Arc::new(pg::casts::Types))
            .with_optimizer_rules(super::dependencies::rules())
            .with_analyzer_rule(Arc::new(CheckedArithmetic))
            .with_analyzer_rule(Arc::new(pg::VectorArrays))
            .with_analyzer_rule(Arc::new(ApplySubqueries))
            .with_analyzer_rule(Arc::new(pg::in_lists::ListsApart))
            .with_physical_optimizer_rules(super::pushdown::rules())
            .build();
        template.register_udf(Arc::new(apply::array_function())).map_err(map_error)?;
        // PostgreSQL's meaning of operators and literals comes before DataFusion's.
        let mut builder = SessionStateBuilder::new_from_existing(template);
        builder.expr_planners().get_or_insert_with(Vec::new).insert(0, pg::operators());
        builder.analyzer().get_or_insert_default().rules.insert(0, Arc::new(pg::unknown::UnknownLiterals));
        let template = builder.build();
        Ok(Engine { cluster, runtime, template: Arc::new(template) })
    }

    /// A planner state over a catalog.
    ///
    /// # Errors
    /// `Internal` when functions cannot be registered.
    pub(crate) fn session_state(
        &self,
        catalog: &Arc<Catalog>,
        show_hidden: bool,
        who: &Identity,
    ) -> Result<SessionState> {
        let mut template = self.template.as_ref().clone();
        pg::register(&mut template, catalog, who).map_err(map_error)?;
        let template = Arc::new(template);
        let others: Arc<[(String, Arc<dyn SchemaProvider>)]> =
            pg::schemas(catalog, &self.cluster).into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
        let public = AtollSchemaProvider::new(catalog.clone(), show_hidden, template.clone(), others.clone());
        catalog::with_public(&template, Arc::new(public), &others).map_err(map_error)
    }

    /// The same planner state, whose functions see a session.
    pub(crate) fn running(&self, state: &SessionState, access: Arc<dyn SessionAccess>) -> SessionState {
        let mut state = state.clone();
        state.config_mut().options_mut().extensions.insert(SessionHooks(Some(access)));
        let options = state.config_options().clone();
        state.execution_props_mut().mark_start_execution(options);
        state
    }

    /// Optimizes a plan; its parameters may be open.
    ///
    /// # Errors
    /// Those of type checks.
    pub(crate) fn optimize(&self, state: &SessionState, plan: &LogicalPlan) -> Result<LogicalPlan> {
        state.optimize(plan).map_err(map_error)
    }

    /// The state in which a plan runs: subqueries that it runs row by row find the transaction there.
    pub(super) fn with_subqueries<'s>(
        &self,
        state: &'s SessionState,
        plan: &LogicalPlan,
        txn: &Arc<dyn Transaction>,
        interrupt: &Option<Arc<Interrupt>>,
    ) -> Cow<'s, SessionState> {
        if !apply::occurs(plan) {
            return Cow::Borrowed(state);
        }
        let running =
            Running { engine: self.clone(), state: state.clone(), txn: txn.clone(), interrupt: interrupt.clone() };
        let mut state = state.clone();
        state.config_mut().options_mut().extensions.insert(RunningQuery(Some(Arc::new(running))));
        Cow::Owned(state)
    }

    /// Localizes an optimized plan.
    ///
    /// # Errors
    /// Those of rebuilding a plan.
    pub(super) fn localize(&self, plan: LogicalPlan, txn: &Arc<dyn Transaction>) -> Result<Localized> {
        localize::localize(plan, &self.cluster, txn).map_err(map_error)
    }

    /// The physical plan of a localized plan.
    ///
    /// # Errors
    /// `NotSupported` for what DataFusion cannot run.
    pub(super) async fn physical(&self, state: &SessionState, localized: &Localized) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = state.query_planner();
        let planned = planner.create_physical_plan(&localized.plan, state).await;
        match (planned, &localized.whole) {
            // Orders over a union have limits in DataFusion: of two sort keys that are equal in every branch, it loses one and then
            // finds its own plan unsorted.
            (Err(error), Some(whole)) => {
                tracing::debug!(%error, "what sites could do of a plan is done here");
                planner.create_physical_plan(whole, state).await
            }
            (planned, _) => planned,
        }
        .map_err(map_error)
    }

    /// Starts a physical plan.
    ///
    /// # Errors
    /// Those of sites.
    pub(super) fn start(&self, state: &SessionState, plan: Arc<dyn ExecutionPlan>) -> Result<(SchemaRef, BatchStream)> {
        // Functions are resolved by now: nothing looks them up in the context.
        let context = TaskContext::new(
            None,
            state.session_id().to_owned(),
            state.config().clone(),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            self.runtime.clone(),
        );
        let stream = execute_stream(plan, Arc::new(context)).map_err(map_error)?;
        Ok((stream.schema(), stream.map_err(map_error).boxed()))
    }

    /// Runs an optimized plan, its parameters replaced, in a transaction.
    ///
    /// # Errors
    /// Those of planning; those of execution come with the stream.
    pub(crate) async fn execute(
        &self,
        state: &SessionState,
        plan: &LogicalPlan,
        txn: Arc<dyn Transaction>,
        interrupt: Option<Arc<Interrupt>>,
    ) -> Result<(SchemaRef, BatchStream)> {
        let state = self.with_subqueries(state, plan, &txn, &interrupt);
        let localized = self.localize(plan.clone(), &txn)?;
        crate::metrics::statement_over(localized.reductions.iter().map(|r| r.kept.len()).sum());
        let mut physical = self.physical(&state, &localized).await?;
        if let Some(interrupt) = &interrupt {
            physical = interrupt::interruptible(physical, interrupt).map_err(map_error)?;
        }
        self.start(&state, physical)
    }
}
