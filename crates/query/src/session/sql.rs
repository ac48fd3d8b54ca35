//! Parsing for the session's own use.

use crate::pg::parse::{self, Statement};
use atoll_model::{Error, ErrorKind, Result};
use datafusion::sql::sqlparser::ast::Statement as Ast;

/// Parses SQL that holds one statement of sqlparser's.
///
/// # Errors
/// `Syntax`.
pub(crate) fn parse_one(sql: &str) -> Result<Ast> {
    let mut items = parse::parse(sql)?;
    match (items.pop().map(|i| i.statement), items.is_empty()) {
        (Some(Statement::Sql(ast)), true) => Ok(*ast),
        _ => Err(Error::new(ErrorKind::Syntax, "a single query is expected here")),
    }
}
