//! A pass over the syntax tree, before planning: PostgreSQL's spellings for which DataFusion has another, or none.
//!
//! Invariant: a rewriting keeps the meaning; what has no equivalent is left for the planner to refuse.

use atoll_model::Result;
use datafusion::sql::sqlparser::ast::Expr;

/// Rewrites one expression.
///
/// # Errors
/// `NotSupported` for what would otherwise be misread.
pub fn expression(_expr: &mut Expr) -> Result<()> {
    Ok(())
}
