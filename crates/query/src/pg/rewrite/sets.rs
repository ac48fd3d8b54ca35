//! INTERSECT ALL and EXCEPT ALL: rows counted among their equals, so that the plain operations do the rest.
//!
//! Invariant: of a row that stands m times on the left and n times on the right, INTERSECT ALL gives min(m, n) and EXCEPT ALL
//! max(m - n, 0). The planner's own ALL forms are semi and anti joins, which give other counts.

use super::shapes::{column_names, parse_query};
use atoll_model::{Error, Result};
use datafusion::sql::sqlparser::ast::{Ident, SetExpr, SetOperator, SetQuantifier};

/// Rewrites the set operations of a query's body.
///
/// # Errors
/// `NotSupported` where the number of columns cannot be told without the catalog.
pub fn body(body: &mut SetExpr) -> Result<()> {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = body else { return Ok(()) };
    self::body(left)?;
    self::body(right)?;
    if *set_quantifier != SetQuantifier::All || !matches!(op, SetOperator::Intersect | SetOperator::Except) {
        return Ok(());
    }
    let Some(names) = column_names(left) else {
        return Err(Error::unsupported(format!("{op} ALL of SELECT *")).hint("Name the columns."));
    };
    let columns: Vec<String> = (1..=names.len()).map(|n| format!("\"column {n}\"")).collect();
    let list = columns.join(", ");
    let counted = |side: &SetExpr| {
        format!("SELECT {list}, row_number() OVER (PARTITION BY {list}) AS \"copy\" FROM ({side}) AS counted ({list})")
    };
    let shown: Vec<String> = columns
        .iter()
        .zip(&names)
        .map(|(column, name)| format!("{column} AS {}", Ident::with_quote('"', name)))
        .collect();
    let sql = format!("SELECT {} FROM (({}) {op} ({})) AS matched", shown.join(", "), counted(left), counted(right));
    *body = *parse_query(&sql)?.body;
    Ok(())
}
