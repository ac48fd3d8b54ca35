//! Reading: from a bound logical plan to a stream of rows.
//!
//! A plan is *optimized* once, with its parameters open, and kept; for each execution it is *localized* (tables become the fragments
//! that its predicates leave, bound to the transaction) and planned physically. Whatever cannot be pushed to a fragment runs here.
//!
//! Invariant: an optimized plan knows neither transaction nor fragment, so it may be reused as long as its catalog is current.

mod access;
mod apply;
mod catalog;
mod dependencies;
mod engine;
mod error;
mod explain;
mod interrupt;
mod join;
mod lateral;
mod localize;
mod overflow;
mod partition_wise;
mod predicate;
mod pushdown;
mod scan;
mod sites;
mod table;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod testing;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests;

pub(crate) use apply::{ARRAY as ARRAY_FUNCTION, NAME as APPLY_FUNCTION};
pub(crate) use catalog::{PUBLIC, of_state as catalog_of};
pub(crate) use dependencies::check as check_dependencies;
pub(crate) use engine::Engine;
pub use engine::EngineOptions;
pub(crate) use error::{external, map_error};
pub(crate) use explain::ExplainOptions;
pub(crate) use interrupt::Interrupt;
pub(crate) use localize::table_of;
