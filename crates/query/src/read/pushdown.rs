//! Filters and projections that are pushed down a physical plan, only where names and positions cannot lead them astray.
//!
//! DataFusion 55 pushes a filter through a physical node by looking its columns up by *name* in the node's input. Where an input has two
//! columns of one name, as joins of tables that both have an `id` do, the filter ends up on the first of them, and rows
//! are lost or kept wrongly. (Its joins look at positions themselves, but what they pass on goes by name in the nodes below.)
//!
//! And it exchanges a projection with the filter below as if the filter gave the columns that it reads. Where the filter has a projection of its
//! own, the columns meant are others, and what comes of it is an internal error or, where names repeat, another column's values.
//!
//! Invariants: when projections are pushed, no filter has one of its own. A filter is pushed only inside a part of the plan in which no
//! node's output names a column twice. Predicates of the query have been pushed by the logical optimizer, which knows tables; what is
//! pushed here are the filters that joins and top-k make while they run.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_optimizer::projection_pushdown::ProjectionPushdown;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, replace_children_if_necessary};
use std::collections::HashSet;
use std::sync::Arc;

/// DataFusion's rules, with these in the place of its own pushing of filters and projections.
pub(super) fn rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let post = FilterPushdown::new_post_optimization();
    let (before, after) = (FilterPushdown::new().name().to_owned(), post.name().to_owned());
    let safe: Arc<dyn PhysicalOptimizerRule + Send + Sync> = Arc::new(NamedPushdown(post));
    let mut rules = PhysicalOptimizer::new().rules;
    // Fragments take no predicates in the first of the two passes.
    rules.retain(|rule| rule.name() != before || rule.name() == after);
    for rule in rules.iter_mut().filter(|r| r.name() == after) {
        *rule = safe.clone();
    }
    let projections = ProjectionPushdown::new();
    for rule in rules.iter_mut().filter(|r| r.name() == projections.name()) {
        *rule = Arc::new(UnfoldedPushdown(ProjectionPushdown::new()));
    }
    rules
}

#[derive(Debug)]
struct UnfoldedPushdown(ProjectionPushdown);

impl PhysicalOptimizerRule for UnfoldedPushdown {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.optimize(plan.transform_up(unfolded)?.data, config)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

/// A filter without a projection of its own, which comes after it instead.
fn unfolded(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(filter) = plan.downcast_ref::<FilterExec>() else { return Ok(Transformed::no(plan)) };
    let Some(projection) = filter.projection() else { return Ok(Transformed::no(plan)) };
    let columns = ProjectionExprs::from_indices(projection, &filter.input().schema());
    let whole = FilterExecBuilder::from(filter).apply_projection(None)?.build()?;
    Ok(Transformed::yes(Arc::new(ProjectionExec::try_new(columns.iter().cloned(), Arc::new(whole))?)))
}

#[derive(Debug)]
struct NamedPushdown(FilterPushdown);

impl NamedPushdown {
    fn push(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        if plan.children().into_iter().all(unambiguous) {
            return self.0.optimize(plan, config);
        }
        let children = plan.children().into_iter().map(|child| self.push(child.clone(), config));
        let children = children.collect::<Result<Vec<_>>>()?;
        replace_children_if_necessary(plan, children)
    }
}

/// Whether no node from here on down names a column twice.
fn unambiguous(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let schema = plan.schema();
    let mut names = HashSet::with_capacity(schema.fields().len());
    schema.fields().iter().all(|f| names.insert(f.name())) && plan.children().into_iter().all(unambiguous)
}

impl PhysicalOptimizerRule for NamedPushdown {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        self.push(plan, config)
    }

    fn name(&self) -> &str {
        "named_filter_pushdown"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
