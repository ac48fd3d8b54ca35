//! The scan of a table's fragments: one partition for each.
//!
//! Invariants: a partition gives the rows of one fragment that lie in the access path's ranges, in its order (backwards when
//! reversed), at most `limit` of them; rows that a dynamic filter rejects are left out, which is sound because whoever made the filter
//! drops them anyway. What a partition gives has been shipped from the fragment's site, and is counted.

use super::access::Access;
use super::error::external;
use atoll_model::{SiteId, SqlType};
use atoll_ports::cluster::{FragmentRef, Transaction};
use atoll_ports::session::BatchStream;
use atoll_ports::site::{FragmentStatistics, ScanRequest};
use datafusion::arrow::array::{AsArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{SortOptions, filter_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{ColumnStatistics, DataFusionError, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, StatisticsArgs,
};
use futures::{StreamExt, TryStreamExt};
use std::fmt;
use std::sync::Arc;

/// One fragment to scan.
#[derive(Clone, Debug)]
pub(crate) struct ScanPart {
    /// The fragment.
    pub(crate) fragment: FragmentRef,
    /// The site whose copy is read.
    pub(crate) site: SiteId,
    /// Its size.
    pub(crate) statistics: FragmentStatistics,
}

/// Scans fragments of one table.
#[derive(Clone)]
pub(crate) struct FragmentScanExec {
    txn: Arc<dyn Transaction>,
    parts: Arc<[ScanPart]>,
    columns: Vec<usize>,
    /// For each of them, how many values it has at most, where that is known; empty: nowhere.
    distinct: Arc<[Option<u64>]>,
    access: Access,
    reverse: bool,
    limit: Option<usize>,
    batch_size: usize,
    filters: Vec<Arc<dyn PhysicalExpr>>,
    metrics: ExecutionPlanMetricsSet,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for FragmentScanExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FragmentScanExec").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl FragmentScanExec {
    /// A scan; `parts` is not empty.
    pub(crate) fn new(
        txn: Arc<dyn Transaction>,
        parts: Arc<[ScanPart]>,
        columns: Vec<usize>,
        schema: SchemaRef,
        access: Access,
        limit: Option<usize>,
        batch_size: usize,
    ) -> Self {
        let properties = properties(&parts, &columns, schema, &access, false);
        FragmentScanExec {
            txn,
            parts,
            columns,
            distinct: Arc::new([]),
            access,
            reverse: false,
            limit,
            batch_size,
            filters: vec![],
            metrics: ExecutionPlanMetricsSet::new(),
            properties,
        }
    }

    /// The same, with how many values each column has at most.
    pub(crate) fn with_distinct(self, distinct: Arc<[Option<u64>]>) -> Self {
        FragmentScanExec { distinct, ..self }
    }

    /// What is scanned.
    pub(crate) fn parts(&self) -> &[ScanPart] {
        &self.parts
    }

    /// Rows and bytes shipped by each partition so far.
    pub(crate) fn shipped(&self, partition: usize) -> (usize, usize) {
        let metrics = self.metrics.clone_inner();
        let of = |name: &str| {
            metrics
                .iter()
                .filter(|m| m.partition() == Some(partition) && m.value().name() == name)
                .map(|m| m.value().as_usize())
                .sum()
        };
        (of("shipped_rows"), of("shipped_bytes"))
    }

    /// Rows and bytes shipped so far.
    pub(crate) fn total_shipped(&self) -> (usize, usize) {
        (0..self.parts.len()).map(|p| self.shipped(p)).fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    }

    /// The order that is followed, in words.
    pub(crate) fn path(&self) -> Option<String> {
        let table = &self.parts[0].fragment.table;
        let bounded = self
            .access
            .ranges
            .iter()
            .any(|r| !matches!((&r.lower, &r.upper), (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded)));
        match self.access.index.and_then(|id| table.index(id)) {
            Some(index) => Some(format!("index {}", index.name)),
            None if bounded => Some(table.primary_key.as_ref().map_or("key".to_owned(), |k| format!("key {k}"))),
            None => None,
        }
    }

    fn statistics(&self, partition: Option<usize>) -> Statistics {
        let parts = match partition {
            Some(at) => &self.parts[at..=at],
            None => &self.parts,
        };
        let sum = |f: fn(&FragmentStatistics) -> u64| parts.iter().map(|p| f(&p.statistics)).sum::<u64>();
        let (mut rows, bytes) = (sum(|s| s.rows) as usize, sum(|s| s.bytes) as usize);
        let all = self.parts[0].fragment.table.columns.len().max(1);
        // The columns read, as a share of the row.
        let mut bytes = bytes * self.columns.len() / all;
        if self.access.equal > 0 {
            // An equality on a leading column: few rows for each of the values.
            let guess = self.access.ranges.len() * (rows / 100).max(1);
            bytes = bytes.checked_div(rows).unwrap_or(0) * guess.min(rows);
            rows = rows.min(guess);
        }
        if let Some(limit) = self.limit {
            rows = rows.min(limit * parts.len());
        }
        Statistics {
            num_rows: Precision::Inexact(rows),
            total_byte_size: Precision::Inexact(bytes),
            column_statistics: (0..self.columns.len())
                .map(|at| column_statistics(self.distinct.get(at).copied().flatten()))
                .collect(),
        }
    }
}

fn column_statistics(distinct: Option<u64>) -> ColumnStatistics {
    let unknown = ColumnStatistics::new_unknown();
    match distinct {
        Some(count) => unknown.with_distinct_count(Precision::Inexact(usize::try_from(count).unwrap_or(usize::MAX))),
        None => unknown,
    }
}

fn properties(
    parts: &[ScanPart],
    columns: &[usize],
    schema: SchemaRef,
    access: &Access,
    reverse: bool,
) -> Arc<PlanProperties> {
    let table = &parts[0].fragment.table;
    let order = match access.index.and_then(|id| table.index(id)) {
        Some(index) => &index.columns,
        None => &table.key,
    };
    // As far as the columns are read and Arrow sorts their type as the store does (floats: -0 and NaN differ; arrays are left out).
    let ordering = order.iter().map_while(|id| {
        let position = table.position(*id)?;
        let at = columns.iter().position(|c| *c == position)?;
        let sorted = !matches!(table.columns[position].ty, SqlType::Float4 | SqlType::Float8 | SqlType::Array(_));
        let options = SortOptions { descending: reverse, nulls_first: reverse };
        sorted.then(|| PhysicalSortExpr::new(Arc::new(Column::new(schema.field(at).name(), at)), options))
    });
    let mut equivalence = EquivalenceProperties::new(schema.clone());
    if let Some(ordering) = LexOrdering::new(ordering.collect::<Vec<_>>()) {
        equivalence.add_ordering(ordering);
    }
    Arc::new(PlanProperties::new(
        equivalence,
        Partitioning::UnknownPartitioning(parts.len()),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

impl DisplayAs for FragmentScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = &self.parts[0].fragment.table;
        let fragments: Vec<&str> = self.parts.iter().map(|p| table.fragments[p.fragment.at].name.as_str()).collect();
        write!(f, "FragmentScan: {} [{}]", table.name, fragments.join(", "))?;
        if let Some(path) = self.path() {
            write!(f, " by {path}")?;
            if self.access.ranges.len() > 1 {
                write!(f, " ({} ranges)", self.access.ranges.len())?;
            }
        }
        if self.reverse {
            write!(f, " backwards")?;
        }
        let columns: Vec<&str> = self.columns.iter().map(|c| table.columns[*c].name.as_str()).collect();
        write!(f, ", columns=[{}]", columns.join(", "))?;
        if let Some(limit) = self.limit {
            write!(f, ", limit={limit}")?;
        }
        if !self.filters.is_empty() {
            write!(f, ", semijoin=[{}]", super::sites::shown(&self.filters))?;
        }
        Ok(())
    }
}

impl ExecutionPlan for FragmentScanExec {
    fn name(&self) -> &'static str {
        "FragmentScan"
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
        let part = &self.parts[partition];
        let rows = MetricBuilder::new(&self.metrics).counter("shipped_rows", partition);
        let bytes = MetricBuilder::new(&self.metrics).counter("shipped_bytes", partition);
        let schema = self.schema();
        let mut streams: Vec<BatchStream> = Vec::with_capacity(self.access.ranges.len());
        let forward = self.access.ranges.iter();
        let ranges: Vec<_> = if self.reverse { forward.rev().collect() } else { forward.collect() };
        for range in ranges {
            let request = ScanRequest {
                columns: self.columns.clone(),
                index: self.access.index,
                range: range.clone(),
                reverse: self.reverse,
                limit: self.limit,
                batch_size: self.limit.map_or(self.batch_size, |l| l.clamp(1, self.batch_size)),
            };
            let (_, stream) = self.txn.scan(&part.fragment, request).map_err(external)?;
            streams.push(stream);
        }
        let all: BatchStream =
            if streams.len() == 1 { streams.remove(0) } else { futures::stream::iter(streams).flatten().boxed() };
        let (filters, out_schema) = (self.filters.clone(), schema.clone());
        let mut left = self.limit.unwrap_or(usize::MAX);
        let stream = all
            .map_err(external)
            .and_then(move |batch| {
                let result = keep(&batch, &out_schema, &filters).map(|mut batch| {
                    if batch.num_rows() > left {
                        batch = batch.slice(0, left);
                    }
                    left -= batch.num_rows();
                    rows.add(batch.num_rows());
                    bytes.add(batch.get_array_memory_size());
                    batch
                });
                futures::future::ready(result)
            })
            .try_filter(|batch| futures::future::ready(batch.num_rows() > 0));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::new(self.statistics(args.partition())))
    }

    fn supports_limit_pushdown(&self) -> bool {
        false
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        // A dynamic filter may drop rows that a limit has counted.
        if !self.filters.is_empty() {
            return None;
        }
        Some(Arc::new(FragmentScanExec { limit, metrics: ExecutionPlanMetricsSet::new(), ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.limit
    }

    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        pushed: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        let count = pushed.parent_filters.len();
        // Static predicates stay above (they were used for reduction and ranges); filters that grow during execution are applied
        // here, at the site, before rows are shipped. With a limit they would change which rows are counted.
        if !matches!(phase, FilterPushdownPhase::Post) || self.limit.is_some() {
            return Ok(FilterPushdownPropagation::with_parent_pushdown_result(vec![PushedDown::No; count]));
        }
        let mut filters = self.filters.clone();
        filters.extend(pushed.parent_filters.into_iter().map(|f| f.filter));
        let node = FragmentScanExec { filters, metrics: ExecutionPlanMetricsSet::new(), ..self.clone() };
        Ok(FilterPushdownPropagation::with_parent_pushdown_result(vec![PushedDown::Yes; count])
            .with_updated_node(Arc::new(node)))
    }
}

/// A batch with the plan's schema and without the rows that a filter rejects.
fn keep(batch: &RecordBatch, schema: &SchemaRef, filters: &[Arc<dyn PhysicalExpr>]) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let mut batch = RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)
        .map_err(|e| DataFusionError::ArrowError(Box::new(e), None))?;
    for filter in filters {
        if batch.num_rows() == 0 {
            break;
        }
        let mask = filter.evaluate(&batch)?.into_array(batch.num_rows())?;
        let mask = mask
            .as_boolean_opt()
            .ok_or_else(|| DataFusionError::Internal("a filter that is not boolean".to_owned()))?;
        if mask.true_count() < batch.num_rows() {
            batch = filter_record_batch(&batch, mask)?;
        }
    }
    Ok(batch)
}
