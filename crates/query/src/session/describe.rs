//! What is known of a statement's parameters and columns beyond what planning tells, for clients that ask before they run it.
//!
//! Invariant: a type told here is one that the statement's parameter or column has in PostgreSQL.

use crate::dml::params;
use crate::pg::parse::Statement;
use crate::read;
use crate::syntax;
use atoll_model::{Result, SqlType};
use atoll_ports::session::ResultColumn;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr as Planned, ExprSchemable, Limit, LogicalPlan};
use datafusion::sql::sqlparser::ast::{Expr, Statement as Ast};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Parameters, from 0, whose types planning does not tell.
pub(super) fn untyped(plan: &LogicalPlan) -> Result<Vec<usize>> {
    let types = plan.get_parameter_types().map_err(read::map_error)?;
    Ok(types.into_iter().filter(|(_, ty)| ty.is_none()).filter_map(|(name, _)| parameter_number(&name)).collect())
}

fn parameter_number(name: &str) -> Option<usize> {
    name.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1)
}

/// `expression = ANY($n)`: an array of the expression's type.
pub(super) fn infer_any(plan: &LogicalPlan, inferred: &mut BTreeMap<usize, SqlType>) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        let mut schema = DFSchema::empty();
        for input in node.inputs() {
            schema.merge(input.schema());
        }
        node.apply_expressions(|e| {
            e.apply(|e| {
                if let Planned::ScalarFunction(f) = e
                    && f.name() == "array_has"
                    && let [Planned::Placeholder(p), item] = f.args.as_slice()
                    && let Some(at) = parameter_number(&p.id)
                    && let Some(ty) = item.to_field(&schema).ok().and_then(|(_, f)| SqlType::of_field(&f))
                {
                    inferred.entry(at).or_insert_with(|| SqlType::Array(Box::new(ty.without_second_digits())));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })
    .map_err(read::map_error)?;
    Ok(())
}

/// `$n::type` says what `$n` is.
pub(super) fn casts_of_parameters(ast: &Ast, inferred: &mut BTreeMap<usize, SqlType>) {
    let _ = syntax::expressions(ast, |e| {
        if let Expr::Cast { expr, data_type, .. } = e
            && let Some(at) = params::placeholder(expr)
            && let Ok(ty) = crate::ddl::sql_type(data_type)
        {
            // The cast rounds, the parameter does not.
            inferred.entry(at).or_insert(ty.without_second_digits());
        }
        ControlFlow::Continue(())
    });
}

/// Parameters, from 0, that are cast to `oid[]`: drivers look types up by them.
pub(super) fn oid_parameters(statement: &Statement) -> Vec<usize> {
    let mut found = vec![];
    if let Statement::Sql(ast) = statement {
        let _ = syntax::expressions(ast.as_ref(), |e| {
            if let Expr::Cast { expr, data_type, .. } = e
                && let Some(at) = params::placeholder(expr)
                && matches!(data_type.to_string().to_lowercase().as_str(), "oid[]" | "pg_catalog.oid[]")
            {
                found.push(at);
            }
            ControlFlow::Continue(())
        });
    }
    found
}

/// Whether all that a plan reads are system catalogs (and something is read).
pub(super) fn reads_catalogs_alone(plan: &LogicalPlan) -> bool {
    let (mut system, mut other) = (0usize, 0usize);
    // The walk fails only if the closure does.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            // What is neither is a recursive query's own rows.
            system += usize::from(scan.table_name.table().starts_with("pg_"));
            other += usize::from(read::table_of(scan).is_some());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    system > 0 && other == 0
}

/// Arrays of `bigint` of the system catalogs are `oid[]`: they have no others.
pub(super) fn mark_oids(columns: &mut [ResultColumn]) {
    for column in columns {
        column.is_oid |= column.ty == SqlType::Array(Box::new(SqlType::Int8));
    }
}

/// LIMIT and OFFSET with a parameter under casts: the physical planner takes literals alone.
pub(super) fn literal_limits(plan: LogicalPlan) -> datafusion::common::Result<LogicalPlan> {
    fn literal(e: Planned) -> datafusion::common::Result<Planned> {
        Ok(match e {
            Planned::Cast(Cast { expr, field }) => match literal(*expr)? {
                Planned::Literal(value, metadata) => Planned::Literal(value.cast_to(field.data_type())?, metadata),
                other => Planned::Cast(Cast { expr: Box::new(other), field }),
            },
            other => other,
        })
    }
    plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Limit(Limit { skip, fetch, input }) => {
            let fold = |e: Option<Box<Planned>>| e.map(|e| literal(*e).map(Box::new)).transpose();
            Ok(Transformed::yes(LogicalPlan::Limit(Limit { skip: fold(skip)?, fetch: fold(fetch)?, input })))
        }
        node => Ok(Transformed::no(node)),
    })
    .data()
}
