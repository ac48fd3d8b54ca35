//! Handing down: parts of a localized plan that one site can compute become one statement of that site.
//!
//! After localization every scan of a site that is a database of its own stands alone, in a union with those of the other fragments. What is
//! above goes into the union's branches ([`spread`]); the largest subtrees over one site become a [`SiteQuery`]
//! ([`block`]), if the site takes it. Embedded sites have no statements: the engine is as near to their rows as can be.
//!
//! Invariant: the plan gives the same rows. What a site might answer otherwise stays in the engine, with a reason that EXPLAIN shows.

mod average;
mod block;
mod expr;
mod narrow;
mod scan;
mod spread;

pub(super) use narrow::{SEMIJOIN_BYTES, SEMIJOIN_VALUES};
pub(crate) use scan::SiteQueryExec;
pub(super) use scan::shown;

use super::localize::table_of;
use super::table::AtollTable;
use atoll_model::{SiteEngine, SiteId};
use atoll_ports::cluster::{Cluster, FragmentRef, Transaction};
use block::Block;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder, Projection, TableScan, Union};
use expr::Reason;
use scan::SiteTable;
use std::collections::HashMap;
use std::sync::Arc;

/// Hands down what sites can do. `None`: the plan reads none that can do anything.
///
/// # Errors
/// Those of rebuilding a plan.
pub(crate) fn hand_down(
    plan: &LogicalPlan,
    cluster: &Arc<dyn Cluster>,
    txn: &Arc<dyn Transaction>,
) -> Result<Option<LogicalPlan>> {
    let catalog = txn.catalog();
    let servers: HashMap<SiteId, String> = catalog
        .sites
        .values()
        .filter(|site| site.engine != SiteEngine::Embedded)
        .map(|site| (site.id, site.name.clone()))
        .collect();
    if servers.is_empty() {
        return Ok(None);
    }
    let down = Down { cluster, txn, servers };
    let apart = plan.clone().transform_up_with_subqueries(|node| down.apart(node))?;
    if !apart.transformed {
        return Ok(None);
    }
    let spread = spread::spread(apart.data)?;
    down.convert(spread, None).map(Some)
}

struct Down<'a> {
    cluster: &'a Arc<dyn Cluster>,
    txn: &'a Arc<dyn Transaction>,
    /// Sites that are databases of their own, with their names.
    servers: HashMap<SiteId, String>,
}

impl Down<'_> {
    /// A scan as the union of its scans at servers, one by one, and the rest.
    fn apart(&self, node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
        let Some((table, binding)) = table_of(scan).and_then(|t| Some((t, t.bound.as_ref()?))) else {
            return Ok(Transformed::no(node));
        };
        let mut inputs = vec![];
        let mut embedded = vec![];
        for at in &binding.fragments {
            let site = self.txn.site_for_read(&FragmentRef { table: table.table.clone(), at: *at });
            if self.servers.contains_key(&site) {
                inputs.push(Arc::new(of_fragments(scan, table, vec![*at], Some(site))));
            } else {
                embedded.push(*at);
            }
        }
        if inputs.is_empty() {
            return Ok(Transformed::no(node));
        }
        if !embedded.is_empty() {
            inputs.push(Arc::new(of_fragments(scan, table, embedded, None)));
        }
        Ok(Transformed::yes(match inputs.len() {
            1 => inputs.remove(0).as_ref().clone(),
            _ => LogicalPlan::Union(Union { schema: scan.projected_schema.clone(), inputs }),
        }))
    }

    /// Puts queries of sites in the place of what they stand for. `above`: why the node above is not part of one.
    fn convert(&self, node: LogicalPlan, above: Option<Reason>) -> Result<LogicalPlan> {
        let mut why = match Block::of(&node) {
            Ok(block) => match self.scan(block, &node, above.clone())? {
                Ok(made) => return Ok(made),
                Err(reason) => reason,
            },
            Err(reason) => reason,
        };
        match &node {
            LogicalPlan::Sort(sort) => {
                why = "the order is made here".into();
                if let Ok(mut block) = Block::of(&sort.input)
                    && block.sort(sort.input.schema(), &sort.expr, sort.fetch).is_ok()
                {
                    match self.scan(block, &sort.input, None)? {
                        Ok(input) => return with_input(node, input),
                        Err(reason) => why = reason,
                    }
                }
            }
            LogicalPlan::Limit(limit) => {
                if let Ok(mut block) = Block::of(&limit.input)
                    && let Some(rows) = spread::rows(limit).and_then(|rows| usize::try_from(rows).ok())
                {
                    block.limit(rows);
                    if let Ok(input) = self.scan(block, &limit.input, None)? {
                        return with_input(node, input);
                    }
                }
            }
            LogicalPlan::Filter(filter) => {
                if let Ok(block) = Block::of(&filter.input) {
                    let block = self.with_conditions(block, filter);
                    if let Ok(input) = self.scan(block, &filter.input, Some(why.clone()))? {
                        return with_input(node, input);
                    }
                }
            }
            LogicalPlan::Union(_) => why = above.unwrap_or_default(),
            _ => {
                if let Some(reason) = over_branch(&node) {
                    why = reason;
                }
            }
        }
        let why = Some(why).filter(|why| !why.is_empty());
        let node = node.map_subqueries(|subquery| self.convert(subquery, None).map(Transformed::yes))?.data;
        node.map_children(|child| self.convert(child, why.clone()).map(Transformed::yes)).map(|t| t.data)
    }

    /// A block with those of a filter's conditions that can be asked at its site. The others are asked above, and so are these again.
    fn with_conditions(&self, mut block: Block, filter: &Filter) -> Block {
        let schema = filter.input.schema();
        for condition in split_conjunction(&filter.predicate) {
            let mut more = block.clone();
            let is_taken = |block: &Block| {
                block.clone().finish(schema).is_ok_and(|query| self.cluster.statement(block.site, &query).is_ok())
            };
            if more.require(schema, condition).is_ok() && is_taken(&more) {
                block = more;
            }
        }
        block
    }

    /// The plan that reads a query's answer, under the names of the plan that it stands for.
    fn scan(&self, block: Block, of: &LogicalPlan, note: Option<Reason>) -> Result<Result<LogicalPlan, Reason>> {
        let site = block.site;
        let name = self.servers.get(&site).cloned().unwrap_or_default();
        let table = match SiteTable::new(block, of.schema(), name, self.cluster, self.txn, note) {
            Ok(table) => table,
            Err(reason) => return Ok(Err(reason)),
        };
        let scan = LogicalPlanBuilder::scan("site", provider_as_source(Arc::new(table)), None)?.build()?;
        let exprs = scan.schema().columns().into_iter().zip(of.schema().iter());
        let exprs = exprs
            .map(|(column, (qualifier, field))| Expr::Column(column).alias_qualified(qualifier.cloned(), field.name()));
        Ok(Ok(LogicalPlan::Projection(Projection::try_new_with_schema(
            exprs.collect(),
            Arc::new(scan),
            of.schema().clone(),
        )?)))
    }
}

/// A scan of some fragments; `at`: of the one, at this site.
fn of_fragments(scan: &TableScan, table: &AtollTable, fragments: Vec<usize>, at: Option<SiteId>) -> LogicalPlan {
    let mut scan = scan.clone();
    if let Some(binding) = table.bound.clone() {
        scan.source = provider_as_source(Arc::new(table.bind(super::table::Binding { fragments, at, ..binding })));
    }
    LogicalPlan::TableScan(scan)
}

/// Why a node over a union is not done in its branches.
fn over_branch(node: &LogicalPlan) -> Option<Reason> {
    let [LogicalPlan::Union(union)] = node.inputs()[..] else { return None };
    let branch = union.inputs.first()?.as_ref().clone();
    Block::of(&with_input(node.clone(), branch).ok()?).err()
}

fn with_input(node: LogicalPlan, input: LogicalPlan) -> Result<LogicalPlan> {
    let mut input = Some(input);
    node.map_children(|child| {
        Ok(match input.take() {
            Some(input) => Transformed::yes(input),
            None => Transformed::no(child),
        })
    })
    .map(|t| t.data)
}
