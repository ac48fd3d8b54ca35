//! The answer of a site to a query, as a table and as an operator.
//!
//! Invariant: the columns are those of the query's outputs, of the types that the plan expects.

use super::block::Block;
use super::expr::Reason;
use super::narrow::{can_narrow, narrowed};
use crate::read::error::external;
use async_trait::async_trait;
use atoll_model::SiteId;
use atoll_ports::cluster::{Cluster, Transaction};
use atoll_ports::query::{SiteQuery, SourceJoin};
use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{CastOptions, SortOptions, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, DFSchema, DataFusionError, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, StatisticsArgs,
};
use futures::{TryStreamExt, stream};
use std::fmt;
use std::sync::Arc;

/// Of rows on which there are conditions, the share that is taken for granted to stay.
const KEPT: u64 = 5;

/// Characters of a filter that plans show.
const SHOWN: usize = 200;

/// A query of a site, as DataFusion sees it.
#[derive(Clone)]
pub(super) struct SiteTable {
    asked: Arc<Asked>,
    txn: Arc<dyn Transaction>,
    schema: SchemaRef,
    rows: usize,
    order: Vec<(usize, SortOptions)>,
}

/// What is asked of whom.
struct Asked {
    site: SiteId,
    name: String,
    query: SiteQuery,
    /// The query as the site's statement.
    statement: String,
    /// Why what is above is not part of it.
    note: Option<Reason>,
    cluster: Arc<dyn Cluster>,
}

impl Asked {
    /// The query to send, with what filters say now, if the site takes that.
    fn query_now(&self, filters: &[Arc<dyn PhysicalExpr>]) -> SiteQuery {
        let narrowed = narrowed(&self.query, filters);
        let taken = narrowed.filter(|query| self.cluster.statement(self.site, query).is_ok());
        taken.unwrap_or_else(|| self.query.clone())
    }
}

impl fmt::Debug for SiteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteTable").field("site", &self.asked.name).finish_non_exhaustive()
    }
}

impl SiteTable {
    /// The table that stands for a block whose columns are those of `of`.
    ///
    /// # Errors
    /// Why the site does not take it.
    pub(super) fn new(
        block: Block,
        of: &DFSchema,
        name: String,
        cluster: &Arc<dyn Cluster>,
        txn: &Arc<dyn Transaction>,
        note: Option<Reason>,
    ) -> Result<Self, Reason> {
        let site = block.site;
        let rows = estimate(&block, cluster);
        let order = block.order_columns().unwrap_or_default();
        let order = order
            .into_iter()
            .map(|(at, descending, nulls_first)| (at, SortOptions { descending, nulls_first }))
            // Arrow orders these otherwise than the site does.
            .take_while(|(at, _)| !of.field(*at).data_type().is_floating())
            .collect();
        let query = block.finish(of)?;
        let statement = cluster.statement(site, &query).map_err(|e| e.message().to_owned())?;
        // What cannot be NULL in the plan must not be NULL here: DataFusion compares the two.
        let field = |(at, field): (usize, &Arc<Field>)| field.as_ref().clone().with_name(format!("c{at}"));
        let schema = Arc::new(Schema::new(of.fields().iter().enumerate().map(field).collect::<Vec<_>>()));
        let asked = Arc::new(Asked { site, name, query, statement, note, cluster: cluster.clone() });
        Ok(SiteTable { asked, txn: txn.clone(), schema, rows, order })
    }
}

/// How many rows the answer may have.
fn estimate(block: &Block, cluster: &Arc<dyn Cluster>) -> usize {
    let (sources, filtered, limit, group) = block.shape();
    let rows = |at: usize| cluster.statistics(&sources[at].replica.table, sources[at].replica.fragment).rows;
    let mut all = (0..sources.len()).map(rows).max().unwrap_or(0);
    if filtered || sources.iter().any(|s| matches!(s.join, SourceJoin::Inner(_))) {
        all /= KEPT;
    }
    match group.as_deref() {
        Some([]) => all = 1,
        Some(_) => all /= KEPT,
        None => {}
    }
    usize::try_from(all.max(1).min(limit.unwrap_or(u64::MAX))).unwrap_or(usize::MAX)
}

#[async_trait]
impl TableProvider for SiteTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan: Arc<dyn ExecutionPlan> =
            Arc::new(SiteQueryExec::new(self, state.config_options().execution.batch_size.get()));
        match projection {
            None => Ok(plan),
            Some(columns) => {
                let columns = ProjectionExprs::from_indices(columns, &self.schema);
                Ok(Arc::new(ProjectionExec::try_new(columns.iter().cloned(), plan)?))
            }
        }
    }
}

/// Asks a site, once.
#[derive(Clone)]
pub(crate) struct SiteQueryExec {
    asked: Arc<Asked>,
    txn: Arc<dyn Transaction>,
    batch_size: usize,
    rows: usize,
    /// Conditions that joins above learn while they run.
    filters: Vec<Arc<dyn PhysicalExpr>>,
    metrics: ExecutionPlanMetricsSet,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for SiteQueryExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SiteQueryExec").field("statement", &self.asked.statement).finish_non_exhaustive()
    }
}

impl SiteQueryExec {
    fn new(table: &SiteTable, batch_size: usize) -> Self {
        let schema = table.schema.clone();
        let mut equivalence = EquivalenceProperties::new(schema.clone());
        let keys = table
            .order
            .iter()
            .map(|(at, options)| PhysicalSortExpr::new(Arc::new(Column::new(schema.field(*at).name(), *at)), *options));
        if let Some(ordering) = LexOrdering::new(keys.collect::<Vec<_>>()) {
            equivalence.add_ordering(ordering);
        }
        SiteQueryExec {
            asked: table.asked.clone(),
            txn: table.txn.clone(),
            batch_size,
            rows: table.rows,
            filters: vec![],
            metrics: ExecutionPlanMetricsSet::new(),
            properties: Arc::new(PlanProperties::new(
                equivalence,
                Partitioning::UnknownPartitioning(1),
                EmissionType::Incremental,
                Boundedness::Bounded,
            )),
        }
    }

    /// The site that is asked.
    pub(crate) fn site(&self) -> SiteId {
        self.asked.site
    }

    /// Names of the fragments that the query reads.
    pub(crate) fn fragments(&self) -> Vec<String> {
        let name = |table: &atoll_model::Table, id| table.fragments.iter().find(|f| f.id == id).map(|f| f.name.clone());
        self.asked.query.sources.iter().filter_map(|s| name(&s.replica.table, s.replica.fragment)).collect()
    }

    /// Rows and bytes that have come.
    pub(crate) fn shipped(&self) -> (usize, usize) {
        let metrics = self.metrics.clone_inner();
        let of = |name: &str| metrics.sum_by_name(name).map_or(0, |v| v.as_usize());
        (of("shipped_rows"), of("shipped_bytes"))
    }
}

impl DisplayAs for SiteQueryExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteQuery: {}: {}", self.asked.name, self.asked.statement)?;
        if let Some(note) = &self.asked.note {
            write!(f, " (not more: {note})")?;
        }
        if self.filters.is_empty() { Ok(()) } else { write!(f, ", semijoin=[{}]", shown(&self.filters)) }
    }
}

impl ExecutionPlan for SiteQueryExec {
    fn name(&self) -> &'static str {
        "SiteQuery"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        datafusion::physical_plan::execution_plan::apply_expression_roots(&self.filters, f)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = MetricBuilder::new(&self.metrics).counter("shipped_rows", partition);
        let bytes = MetricBuilder::new(&self.metrics).counter("shipped_bytes", partition);
        let schema = self.schema();
        let (asked, txn, filters, batch_size) =
            (self.asked.clone(), self.txn.clone(), self.filters.clone(), self.batch_size);
        // Asked with the first row that is wanted: a join has read its other side by then.
        let answer = async move {
            let query = SiteQuery { batch_size, ..asked.query_now(&filters) };
            txn.query(asked.site, query).map(|batches| batches.map_err(external)).map_err(external)
        };
        let wanted = schema.clone();
        let stream = stream::once(answer).try_flatten().and_then(move |batch| {
            rows.add(batch.num_rows());
            bytes.add(batch.get_array_memory_size());
            futures::future::ready(as_expected(&batch, &wanted))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }

    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        pushed: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        // Whoever learns while it runs looks at the rows itself: nothing is taken off its hands.
        let none =
            FilterPushdownPropagation::with_parent_pushdown_result(vec![PushedDown::No; pushed.parent_filters.len()]);
        if !matches!(phase, FilterPushdownPhase::Post) || !can_narrow(&self.asked.query) {
            return Ok(none);
        }
        let mut filters = self.filters.clone();
        filters.extend(pushed.parent_filters.into_iter().map(|f| f.filter));
        let node = SiteQueryExec { filters, metrics: ExecutionPlanMetricsSet::new(), ..self.clone() };
        Ok(none.with_updated_node(Arc::new(node)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let columns = self.schema().fields().len();
        Ok(Arc::new(Statistics {
            num_rows: Precision::Inexact(self.rows),
            total_byte_size: Precision::Inexact(self.rows * 16 * columns.max(1)),
            column_statistics: vec![ColumnStatistics::new_unknown(); columns],
        }))
    }
}

/// Filters as plans show them: of long lists, the beginning.
pub(in crate::read) fn shown(filters: &[Arc<dyn PhysicalExpr>]) -> String {
    let text = |filter: &Arc<dyn PhysicalExpr>| {
        let text = filter.to_string();
        match text.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    };
    filters.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// A batch with the plan's types.
fn as_expected(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() || matches!(field.data_type(), DataType::List(_)) {
            return Ok(column.clone());
        }
        cast_with_options(column, field.data_type(), &CastOptions { safe: false, ..CastOptions::default() })
    });
    let columns = columns
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| DataFusionError::ArrowError(Box::new(e), None))?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
        .map_err(|e| DataFusionError::ArrowError(Box::new(e), None))
}
