//! PostgreSQL's functions that DataFusion lacks or means differently.
//!
//! Invariant: functions here work on [`Value`]s row by row, with SQL types known from the arguments' fields, so that what
//! they give and how they fail is PostgreSQL's; NULL in gives NULL out unless a function says otherwise.

pub mod definitions;
mod json;
mod operators;
mod scalar;
mod session;
mod system;
mod text;
mod vectors;

pub(crate) use vectors::{VECTOR, VectorArrays};

pub use session::{SessionAccess, SessionHooks, expression_asks_session, plan_asks_session};

use atoll_model::Catalog;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionState;
use std::sync::Arc;

/// Puts the functions into a planner state whose catalog is this one.
///
/// # Errors
/// When DataFusion refuses one.
pub fn register(state: &mut SessionState, catalog: &Arc<Catalog>, user: &str) -> datafusion::common::Result<()> {
    let mut functions = session::functions(catalog, user);
    functions.extend(system::functions(catalog));
    functions.extend(json::functions());
    functions.extend(text::functions());
    for function in functions {
        state.register_udf(Arc::new(function.into()))?;
    }
    for function in vectors::functions() {
        state.register_udf(function)?;
    }
    state.register_expr_planner(Arc::new(operators::Operators))?;
    state.register_expr_planner(Arc::new(vectors::ArrayLiterals))?;
    Ok(())
}

#[cfg(test)]
mod tests;
