//! PostgreSQL's face: its grammar, its functions, its catalogs, on top of DataFusion.
//!
//! Invariant: what is here answers as PostgreSQL does or refuses with PostgreSQL's SQLSTATE; it never guesses.

pub(crate) mod casts;
pub mod catalogs;
pub mod functions;
pub(crate) mod in_lists;
mod introspect;
pub mod parse;
pub mod rewrite;
pub(crate) mod unknown;

pub use catalogs::schemas;
pub(crate) use functions::{OID, VECTOR, VectorArrays, vectors_as_text};
pub use functions::{SessionAccess, SessionHooks, expression_asks_session, operators, plan_asks_session, register};
pub use parse::Statement;

use atoll_model::{Catalog, Error, ErrorKind, Result};
use datafusion::sql::sqlparser::ast;

/// Parses the text of one statement that sqlparser reads.
///
/// # Errors
/// 42601.
pub fn parse_one(sql: &str) -> Result<ast::Statement> {
    let mut items = parse::parse(sql)?;
    match (items.pop().map(|item| item.statement), items.is_empty()) {
        (Some(Statement::Sql(statement)), true) => Ok(*statement),
        _ => Err(Error::new(ErrorKind::Syntax, "a single query is needed here")),
    }
}

/// Parses one expression and rewrites it for the planner.
///
/// # Errors
/// 42601, and those of [`rewrite::expression`].
pub fn parse_expression(sql: &str) -> Result<ast::ExprWithAlias> {
    let mut expr = parse::parse_expression(sql)?;
    rewrite::expression(&mut expr)?;
    Ok(ast::ExprWithAlias { expr, alias: None })
}

/// Rewrites a statement for the planner; `catalog` tells the keys of the tables that it names.
///
/// # Errors
/// `NotSupported` for what would otherwise be misread.
pub fn rewrite(mut statement: ast::Statement, catalog: &Catalog) -> Result<ast::Statement> {
    rewrite::grouping::statement(&mut statement, catalog);
    rewrite::outer::statement(&mut statement);
    rewrite::statement(&mut statement)?;
    Ok(statement)
}
