//! The productions about fragments that move.

use super::grammar::{Parsed, eat, expect, options, refused, skip};
use super::statement::Statement;
use crate::syntax::fold;
use datafusion::sql::sqlparser::parser::Parser;

/// `MOVE FRAGMENT fragment [OF table] [FROM site] TO site [WITH (wait = true | false)]`
pub(super) fn begin(p: &mut Parser<'_>) -> Parsed<Statement> {
    skip(p, 2);
    let (fragment, table) = fragment(p)?;
    let from = if eat(p, "FROM") { Some(fold(&p.parse_identifier()?)) } else { None };
    expect(p, "TO")?;
    let to = fold(&p.parse_identifier()?);
    let mut wait = true;
    if eat(p, "WITH") {
        for (name, value) in options(p)? {
            wait = match (name.as_str(), value.to_ascii_lowercase().as_str()) {
                ("wait", "true" | "on" | "1") => true,
                ("wait", "false" | "off" | "0") => false,
                ("wait", _) => return refused("option \"wait\" of MOVE FRAGMENT is true or false"),
                _ => return refused(format!("MOVE FRAGMENT takes the option \"wait\", not \"{name}\"")),
            };
        }
    }
    Ok(Statement::MoveFragment { fragment, table, from, to, wait })
}

/// `CANCEL MOVE OF FRAGMENT fragment [OF table]`
pub(super) fn cancel(p: &mut Parser<'_>) -> Parsed<Statement> {
    skip(p, 2);
    expect(p, "OF")?;
    expect(p, "FRAGMENT")?;
    let (fragment, table) = fragment(p)?;
    Ok(Statement::CancelMove { fragment, table })
}

fn fragment(p: &mut Parser<'_>) -> Parsed<(String, Option<String>)> {
    let name = fold(&p.parse_identifier()?);
    let table = if eat(p, "OF") { Some(fold(&p.parse_identifier()?)) } else { None };
    Ok((name, table))
}
