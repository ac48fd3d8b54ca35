//! Localization: a plan over tables becomes a plan over fragments (Özsu & Valduriez, chapter 4), bound to a transaction.
//!
//! Invariant: the localized plan gives the same rows. A scan of a table is the union of the scans of its fragments (fragmentation
//! is complete and disjoint); a fragment is dropped only when no row of it can make the scan's own predicates true (see
//! [`super::predicate`]), and those predicates are evaluated again above.

use super::table::{AtollTable, Binding};
use super::{join, partition_wise, sites};
use atoll_model::Table;
use atoll_ports::cluster::{Cluster, Transaction};
use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::{DefaultTableSource, provider_as_source};
use datafusion::logical_expr::{EmptyRelation, LogicalPlan, TableScan};
use std::sync::Arc;

/// What reduction did to one scan, for EXPLAIN.
#[derive(Clone, Debug)]
pub(crate) struct Reduction {
    /// The table.
    pub(crate) table: Arc<Table>,
    /// How the statement calls it.
    pub(crate) name: String,
    /// Positions of the fragments that stay.
    pub(crate) kept: Vec<usize>,
    /// How many there were.
    pub(crate) of: usize,
    /// The predicates that decided, as SQL-like text.
    pub(crate) because: Vec<String>,
}

/// A localized plan.
pub(crate) struct Localized {
    /// The plan, its joins of co-located tables fragment by fragment.
    pub(crate) plan: LogicalPlan,
    /// The plan with those joins as a whole, where there are any.
    pub(crate) whole: Option<LogicalPlan>,
    /// What was reduced.
    pub(crate) reductions: Vec<Reduction>,
}

/// The Atoll table that a scan reads.
pub(crate) fn table_of(scan: &TableScan) -> Option<&AtollTable> {
    scan.source.downcast_ref::<DefaultTableSource>()?.table_provider.downcast_ref::<AtollTable>()
}

/// Localizes a plan whose parameters have been replaced.
///
/// # Errors
/// None but those of rebuilding a plan.
pub(crate) fn localize(plan: LogicalPlan, cluster: &Arc<dyn Cluster>, txn: &Arc<dyn Transaction>) -> Result<Localized> {
    let mut reductions = vec![];
    // Both walks meet the scans in the same order: a node's subqueries, then its inputs.
    let mut surroundings = join::surroundings(&plan).into_iter();
    let plan = plan.transform_up_with_subqueries(|node| {
        let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
        let Some(table) = table_of(&scan) else { return Ok(Transformed::no(LogicalPlan::TableScan(scan))) };
        let around = surroundings.next().filter(|around| around.table == scan.table_name);
        let mut because: Vec<String> = scan.filters.iter().map(|f| f.to_string()).collect();
        let mut kept = table.reduce(&scan.filters);
        if let Some(through) = around.as_ref().and_then(|around| around.through_join.as_ref()) {
            let before = kept.len();
            kept.retain(|at| through.kept.contains(at));
            if kept.len() < before {
                because.push(format!("join with {}", through.with));
            }
        }
        reductions.push(Reduction {
            table: table.table.clone(),
            name: around.map_or_else(|| scan.table_name.to_string(), |around| around.name),
            kept: kept.clone(),
            of: table.all_fragments().len(),
            because,
        });
        if kept.is_empty() {
            let schema = scan.projected_schema.clone();
            return Ok(Transformed::yes(LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema })));
        }
        let bound = table.bind(Binding { txn: txn.clone(), cluster: cluster.clone(), fragments: kept, at: None });
        scan.source = provider_as_source(Arc::new(bound));
        Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
    })?;
    let apart = partition_wise::take_apart(plan.data.clone())?;
    let whole = apart.transformed.then_some(plan.data);
    Ok(match sites::hand_down(&apart.data, cluster, txn)? {
        // Without what is handed down, the engine still reads every site.
        Some(down) => Localized { plan: down, whole: Some(whole.unwrap_or(apart.data)), reductions },
        None => Localized { plan: apart.data, whole, reductions },
    })
}
