//! PostgreSQL's functions that DataFusion lacks or means differently.
//!
//! Invariant: functions here work on [`Value`]s row by row, with SQL types known from the arguments' fields, so that what
//! they give and how they fail is PostgreSQL's; NULL in gives NULL out unless a function says otherwise.

mod aggregates;
mod choices;
mod datetime;
pub mod definitions;
mod format;
mod json;
mod makers;
mod numeric;
mod operators;
mod privileges;
mod scalar;
mod session;
mod sleep;
mod system;
mod text;
mod vectors;

pub(crate) use vectors::{OID, VECTOR, VectorArrays, is_vector, vectors_as_text};

pub use session::{SessionAccess, SessionHooks, expression_asks_session, plan_asks_session};

pub(crate) use choices::plain;
pub(crate) use numeric::from_float;
pub(crate) use operators::{alike, call};
pub(crate) use scalar::{array_of, to_arrow, values};

use crate::privileges::Identity;
use atoll_model::{Catalog, Result, SqlType, Value};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionState;
use datafusion::logical_expr::planner::ExprPlanner;
use std::sync::Arc;

/// Puts the functions into a planner state whose catalog is this one.
///
/// # Errors
/// When DataFusion refuses one.
pub fn register(state: &mut SessionState, catalog: &Arc<Catalog>, who: &Identity) -> datafusion::common::Result<()> {
    let mut functions = session::functions(catalog, who);
    functions.extend(system::functions(catalog));
    functions.extend(privileges::functions(catalog, who));
    functions.extend(json::functions());
    functions.extend(text::functions());
    functions.extend(numeric::functions());
    functions.extend(datetime::functions());
    for function in functions {
        state.register_udf(Arc::new(function.into()))?;
    }
    for function in choices::functions() {
        state.register_udf(Arc::new(function))?;
    }
    for function in vectors::functions() {
        state.register_udf(function)?;
    }
    state.register_udf(Arc::new(sleep::function()))?;
    for function in aggregates::functions() {
        state.register_udaf(Arc::new(function))?;
    }
    Ok(())
}

/// Plans operators; it comes before DataFusion's own planners.
pub fn operators() -> Arc<dyn ExprPlanner> {
    Arc::new(operators::Operators)
}

/// An interval in text, as values stand for it.
///
/// # Errors
/// 22007.
pub(crate) fn of_interval_text(text: &str) -> Result<Value> {
    atoll_model::text::parse_interval(text).map(scalar::of_interval)
}

/// The text of an interval among values.
pub(crate) fn interval_of(value: &Value) -> String {
    scalar::shown(&SqlType::Interval, value)
}

#[cfg(test)]
mod tests;
