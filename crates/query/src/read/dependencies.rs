//! What the optimizer may conclude from keys: nothing that is not so.
//!
//! DataFusion derives for each node which columns determine which others, and drops sort keys, grouping columns and DISTINCT on
//! that ground. Its rule for GROUP BY is wrong: where the input is a join (or an UNNEST, or a recursion), a key of one side is
//! said to determine every column of the result. `SELECT … FROM (SELECT k FROM t GROUP BY k) s JOIN u … GROUP BY s.k, u.id ORDER BY
//! s.k, u.id` lost its second sort key.
//!
//! Invariant: no rule of the optimizer sees a dependency ([`rules`]), and a statement whose planning has used a wrong one is
//! refused ([`check`]). Tables therefore declare no keys; `pg::rewrite` gives GROUP BY the columns that a primary key implies.

use super::error::external;
use atoll_model::Error;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Dependency, FunctionalDependence, FunctionalDependencies, Result};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};
use datafusion::optimizer::optimizer::{ApplyOrder, Optimizer};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use std::sync::Arc;

/// DataFusion's rules, those that believe in dependencies behind one that removes them.
pub(super) fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![];
    for rule in Optimizer::new().rules {
        let believes =
            ["eliminate_duplicated_expr", "replace_distinct_aggregate", "eliminate_join", "optimize_projections"];
        if believes.contains(&rule.name()) {
            rules.push(Arc::new(Forget));
        }
        rules.push(rule);
    }
    rules
}

/// Removes all dependencies from a plan.
#[derive(Debug)]
struct Forget;

impl OptimizerRule for Forget {
    fn name(&self) -> &'static str {
        "forget_dependencies"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        // The whole tree at once.
        None
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let mut known = false;
        plan.apply_with_subqueries(|node| {
            known |= !node.schema().functional_dependencies().is_empty();
            Ok(if known { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        })?;
        if !known {
            return Ok(Transformed::no(plan));
        }
        plan.transform_up_with_subqueries(|node| {
            if node.schema().functional_dependencies().is_empty() {
                return Ok(Transformed::no(node));
            }
            match node {
                LogicalPlan::Aggregate(node) => with_dependencies(node, FunctionalDependencies::empty()),
                LogicalPlan::RecursiveQuery(mut node) => {
                    node.schema = Arc::new(without(&node.schema)?);
                    Ok(LogicalPlan::RecursiveQuery(node))
                }
                node => node.recompute_schema(),
            }
            .map(Transformed::yes)
        })
    }
}

fn with_dependencies(mut node: Aggregate, dependencies: FunctionalDependencies) -> Result<LogicalPlan> {
    let schema: DFSchema = node.schema.as_ref().clone().with_functional_dependencies(dependencies)?;
    // Set, because every way of making the node derives them again.
    node.schema = Arc::new(schema);
    Ok(LogicalPlan::Aggregate(node))
}

fn without(schema: &DFSchema) -> Result<DFSchema> {
    schema.clone().with_functional_dependencies(FunctionalDependencies::empty())
}

/// Refuses a plan, fresh from the planner, in which a wrong dependency has been used: GROUP BY was given columns that it implies
/// by none, or the frame of a window was narrowed.
///
/// # Errors
/// `NotSupported`.
pub(crate) fn check(plan: &LogicalPlan) -> Result<()> {
    // Grouping twice is what it takes; nearly all statements end here.
    let mut grouped = 0;
    plan.apply_with_subqueries(|node| {
        grouped += usize::from(matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Window(_)));
        Ok(if grouped > 1 { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    if grouped > 1 {
        checked(plan.clone())?;
    }
    Ok(())
}

/// The plan with the dependencies that hold.
fn checked(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let claimed: Option<FunctionalDependencies> = match &plan {
        LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) => {
            plan.inputs().first().map(|input| input.schema().functional_dependencies().clone())
        }
        _ => None,
    };
    let plan = plan.map_subqueries(checked)?.data.map_children(checked)?.data;
    Ok(Transformed::yes(match plan {
        LogicalPlan::Aggregate(node) => {
            let names: Vec<String> = node.group_expr.iter().map(|e| e.schema_name().to_string()).collect();
            let columns: Vec<Option<usize>> = {
                let fields = node.input.schema().field_names();
                names.iter().map(|name| fields.iter().position(|field| field == name)).collect()
            };
            let holds = node.input.schema().functional_dependencies();
            let wrong = claimed.iter().flat_map(|c| c.iter()).filter(|claim| !holds.iter().any(|held| held == *claim));
            for claim in wrong {
                let all_known = claim.source_indices.iter().all(|s| columns.contains(&Some(*s)));
                let implied = |c: &usize| claim.target_indices.contains(c) && !claim.source_indices.contains(c);
                if all_known && columns.iter().flatten().any(implied) {
                    return Err(refused());
                }
            }
            let dependencies = of_groups(&node, &columns);
            with_dependencies(node, dependencies)?
        }
        LogicalPlan::Window(node) => {
            let holds = node.input.schema().functional_dependencies();
            let wrong = |claim: &FunctionalDependence| {
                claim.mode == Dependency::Single && !holds.iter().any(|held| held == claim)
            };
            if claimed.iter().flat_map(|c| c.iter()).any(wrong) {
                return Err(refused());
            }
            LogicalPlan::Window(node).recompute_schema()?
        }
        // One row of the input becomes several.
        LogicalPlan::Unnest(mut node) => {
            node.schema = Arc::new(without(&node.schema)?);
            LogicalPlan::Unnest(node)
        }
        // What its first term knows of its own rows does not hold for those that follow.
        LogicalPlan::RecursiveQuery(mut node) => {
            node.schema = Arc::new(without(&node.schema)?);
            LogicalPlan::RecursiveQuery(node)
        }
        node => node.recompute_schema()?,
    }))
}

/// What holds after grouping: the grouping columns determine the row, and so does a part of them that did before.
fn of_groups(node: &Aggregate, columns: &[Option<usize>]) -> FunctionalDependencies {
    let all: Vec<usize> = (0..node.schema.fields().len()).collect();
    let grouping_sets = matches!(node.group_expr.as_slice(), [Expr::GroupingSet(_)]);
    if grouping_sets || columns.is_empty() {
        return FunctionalDependencies::empty();
    }
    let mut found: Vec<FunctionalDependence> = vec![];
    for known in node.input.schema().functional_dependencies().iter().filter(|d| d.mode == Dependency::Single) {
        let mapped = known.source_indices.iter().map(|s| columns.iter().position(|c| *c == Some(*s)));
        if let Some(sources) = mapped.collect::<Option<Vec<usize>>>() {
            found.push(FunctionalDependence::new(sources, all.clone(), known.nullable).with_mode(Dependency::Single));
        }
    }
    if found.is_empty() {
        let nullable = (0..columns.len()).any(|at| node.schema.field(at).is_nullable());
        let sources = (0..columns.len()).collect();
        found.push(FunctionalDependence::new(sources, all, nullable).with_mode(Dependency::Single));
    }
    FunctionalDependencies::new(found)
}

fn refused() -> datafusion::error::DataFusionError {
    external(
        Error::unsupported("grouping, or a window, over a grouped join that contains another grouped query")
            .hint("Keep the inner result in a table (CREATE TABLE ... AS), or group once."),
    )
}
