//! Filters that are pushed down a physical plan, only where names cannot lead them astray.
//!
//! DataFusion 55 pushes a filter through a physical node by looking its columns up by *name* in the node's input. Where an input has two
//! columns of one name, as joins of tables that both have an `id` do, the filter ends up on the first of them, and rows
//! are lost or kept wrongly. (Its joins look at positions themselves, but what they pass on goes by name in the nodes below.)
//!
//! Invariant: a filter is pushed only inside a part of the plan in which no node's output names a column twice. Predicates of the
//! query have been pushed by the logical optimizer, which knows tables; what is pushed here are the filters that joins and top-k make
//! while they run.

use datafusion::common::Result;
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::{ExecutionPlan, with_new_children_if_necessary};
use std::collections::HashSet;
use std::sync::Arc;

/// DataFusion's rules, with this one in the place of its pushing of filters.
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
    rules
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
        with_new_children_if_necessary(plan, children)
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
