//! The production of VERIFY.

use super::grammar::{Parsed, eat, expect, plain_name, skip};
use super::statement::Statement;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

/// `VERIFY [ALL | TABLE name, …]`
pub(super) fn verify(p: &mut Parser<'_>) -> Parsed<Statement> {
    skip(p, 1);
    if eat(p, "ALL") || matches!(p.peek_token().token, Token::EOF | Token::SemiColon) {
        return Ok(Statement::Verify { tables: None });
    }
    expect(p, "TABLE")?;
    let tables = p.parse_comma_separated(|p| {
        let name = p.parse_object_name(false)?;
        plain_name(p, &name)
    })?;
    Ok(Statement::Verify { tables: Some(tables) })
}
