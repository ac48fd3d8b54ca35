//! A table as DataFusion sees it.
//!
//! Invariant: a plan holds *unbound* tables ([`AtollTable::bound`] is `None`), so it can be kept and used again by other
//! transactions; localization replaces them by bound ones, which know their transaction and the fragments that were kept. An unbound
//! table cannot be scanned.

use super::access::Access;
use super::error::external;
use super::predicate;
use super::scan::{FragmentScanExec, ScanPart};
use async_trait::async_trait;
use atoll_model::{Error, FragmentBounds, FragmentId, SiteId, Table};
use atoll_ports::cluster::{Cluster, FragmentRef, Transaction};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use std::fmt;
use std::sync::Arc;

/// What a bound table knows more than an unbound one.
#[derive(Clone)]
pub(crate) struct Binding {
    /// The transaction that reads.
    pub(crate) txn: Arc<dyn Transaction>,
    /// Where statistics come from.
    pub(crate) cluster: Arc<dyn Cluster>,
    /// Positions of the fragments to read.
    pub(crate) fragments: Vec<usize>,
    /// The site at which the one fragment is read, where that is a database of its own.
    pub(crate) at: Option<SiteId>,
}

/// A table, or one of its declared fragments.
#[derive(Clone)]
pub(crate) struct AtollTable {
    /// Its definition.
    pub(crate) table: Arc<Table>,
    /// Position of the fragment that was named in place of the table.
    pub(crate) fragment: Option<usize>,
    /// Positions of the columns that can be seen.
    pub(crate) visible: Arc<[usize]>,
    /// What localization found.
    pub(crate) bound: Option<Binding>,
    schema: SchemaRef,
}

impl fmt::Debug for AtollTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AtollTable")
            .field("table", &self.table.name)
            .field("fragment", &self.fragment)
            .finish_non_exhaustive()
    }
}

impl AtollTable {
    /// An unbound table.
    pub(crate) fn new(table: Arc<Table>, fragment: Option<usize>, show_hidden: bool) -> Self {
        let visible: Arc<[usize]> =
            (0..table.columns.len()).filter(|p| show_hidden || !table.columns[*p].hidden).collect();
        let field = |p: &usize| {
            let column = &table.columns[*p];
            column.ty.field(&column.name, !column.not_null)
        };
        let schema = Arc::new(Schema::new(visible.iter().map(field).collect::<Vec<_>>()));
        AtollTable { table, fragment, visible, bound: None, schema }
    }

    /// The same, bound.
    pub(crate) fn bind(&self, binding: Binding) -> Self {
        AtollTable { bound: Some(binding), ..self.clone() }
    }

    /// The fragment that is read alone, at a site that is a database of its own.
    pub(crate) fn only_copy(&self) -> Option<(usize, SiteId)> {
        let binding = self.bound.as_ref()?;
        match binding.fragments.as_slice() {
            [at] => Some((*at, binding.at?)),
            _ => None,
        }
    }

    /// Positions of all fragments that the name stands for.
    pub(crate) fn all_fragments(&self) -> Vec<usize> {
        match self.fragment {
            Some(at) => vec![at],
            None => (0..self.table.fragments.len()).collect(),
        }
    }

    /// The fragments that can hold rows for which the predicates are true.
    pub(crate) fn reduce(&self, filters: &[Expr]) -> Vec<usize> {
        let mut kept = predicate::reduce(&self.table, filters);
        if let Some(at) = self.fragment {
            kept.retain(|k| *k == at);
        }
        kept
    }
}

#[async_trait]
impl TableProvider for AtollTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(Binding { txn, cluster, fragments, .. }) = &self.bound else {
            return Err(external(Error::internal(format!("table \"{}\" was not localized", self.table.name))));
        };
        let (columns, schema) = match projection {
            Some(p) => (p.iter().map(|i| self.visible[*i]).collect(), Arc::new(self.schema.project(p)?)),
            None => (self.visible.to_vec(), self.schema.clone()),
        };
        let statistics: Vec<_> =
            fragments.iter().map(|at| cluster.statistics(&self.table, self.table.fragments[*at].id)).collect();
        let rows = statistics.iter().map(|s| s.rows).max().unwrap_or(0);
        let access = Access::choose(&self.table, &predicate::domains(&self.table, filters), rows);
        if fragments.is_empty() || access.ranges.is_empty() {
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let parts = fragments
            .iter()
            .zip(statistics)
            .map(|(at, statistics)| {
                let fragment = FragmentRef { table: self.table.clone(), at: *at };
                let site = txn.site_for_read(&fragment);
                ScanPart { fragment, site, statistics }
            })
            .collect();
        let batch_size = state.config_options().execution.batch_size.get();
        let distinct = columns.iter().map(|at| self.distinct(*at, txn, cluster, fragments)).collect();
        let scan = FragmentScanExec::new(txn.clone(), parts, columns, schema, access, limit, batch_size);
        Ok(Arc::new(scan.with_distinct(distinct)))
    }
}

impl AtollTable {
    /// How many values a column has at most, as its foreign key tells: those of the parent's rows. It lets the planner see that a join
    /// over it keeps all rows. `None`: nothing is known.
    fn distinct(
        &self,
        column: usize,
        txn: &Arc<dyn Transaction>,
        cluster: &Arc<dyn Cluster>,
        fragments: &[usize],
    ) -> Option<u64> {
        let id = self.table.columns[column].id;
        let key = self.table.foreign_keys.iter().find(|key| key.columns == [id])?;
        let catalog = txn.catalog();
        let parent = catalog.tables.get(&key.parent)?;
        // The parent's fragments with which these are co-located; of another parent, or one with full copies, all.
        let beside: Vec<FragmentId> = fragments
            .iter()
            .filter_map(|at| match self.table.fragments[*at].bounds {
                FragmentBounds::Derived(beside) => Some(beside),
                _ => None,
            })
            .filter(|beside| parent.fragments.iter().any(|f| f.id == *beside))
            .collect();
        let of_parent = parent.fragments.iter().map(|f| f.id).filter(|id| beside.is_empty() || beside.contains(id));
        Some(of_parent.map(|id| cluster.statistics(parent, id).rows).sum())
    }
}
