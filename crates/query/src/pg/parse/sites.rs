//! The productions about sites: what they are, and the tables that are there already.
//!
//! Invariant: options, which may hold passwords, stay in the syntax tree: no error repeats one (see [`super::parse`]).

use super::grammar::{Parsed, eat, expect, refused, skip, string};
use super::statement::*;
use crate::syntax::fold;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use std::collections::BTreeMap;

/// `CREATE SITE [IF NOT EXISTS] name [ENGINE engine] [OPTIONS (…)]`
pub(super) fn create(p: &mut Parser<'_>) -> Parsed<Statement> {
    skip(p, 2);
    let if_not_exists = p.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = fold(&p.parse_identifier()?);
    let engine = if eat(p, "ENGINE") { fold(&p.parse_identifier()?) } else { "embedded".into() };
    let options = if eat(p, "OPTIONS") { options(p)? } else { BTreeMap::new() };
    Ok(Statement::CreateSite { name, engine, options, if_not_exists })
}

/// `ALTER SITE name OPTIONS ([ADD | SET] option 'value' | DROP option, …)`, as PostgreSQL alters servers.
pub(super) fn alter(p: &mut Parser<'_>) -> Parsed<Statement> {
    skip(p, 2);
    let name = fold(&p.parse_identifier()?);
    expect(p, "OPTIONS")?;
    p.expect_token(&Token::LParen)?;
    let changes = p.parse_comma_separated(|p| {
        // An option may have one of these names.
        let verb = !matches!(p.peek_nth_token(1).token, Token::SingleQuotedString(_) | Token::EscapedStringLiteral(_));
        if verb && eat(p, "DROP") {
            return Ok(OptionChange::Drop(fold(&p.parse_identifier()?)));
        }
        let set = verb && eat(p, "SET");
        if !set && verb {
            eat(p, "ADD");
        }
        let option = fold(&p.parse_identifier()?);
        let value = string(p)?;
        Ok(if set { OptionChange::Set(option, value) } else { OptionChange::Add(option, value) })
    })?;
    p.expect_token(&Token::RParen)?;
    Ok(Statement::AlterSite { name, changes })
}

/// `IMPORT FOREIGN SCHEMA schema [LIMIT TO (…) | EXCEPT (…)] FROM SERVER site [INTO public]`
pub(super) fn import(p: &mut Parser<'_>) -> Parsed<Statement> {
    skip(p, 1);
    expect(p, "FOREIGN")?;
    expect(p, "SCHEMA")?;
    let schema = fold(&p.parse_identifier()?);
    let tables = if eat(p, "LIMIT") {
        expect(p, "TO")?;
        Chosen::Only(table_names(p)?)
    } else if eat(p, "EXCEPT") {
        Chosen::AllBut(table_names(p)?)
    } else {
        Chosen::All
    };
    expect(p, "FROM")?;
    expect(p, "SERVER")?;
    let site = fold(&p.parse_identifier()?);
    if eat(p, "INTO") && fold(&p.parse_identifier()?) != "public" {
        return refused("tables can only be imported INTO public: all tables are in that schema");
    }
    if eat(p, "OPTIONS") {
        return refused("IMPORT FOREIGN SCHEMA takes no OPTIONS");
    }
    Ok(Statement::ImportSchema { schema, tables, site })
}

fn table_names(p: &mut Parser<'_>) -> Parsed<Vec<String>> {
    p.expect_token(&Token::LParen)?;
    let names = p.parse_comma_separated(|p| Ok(fold(&p.parse_identifier()?)))?;
    p.expect_token(&Token::RParen)?;
    Ok(names)
}

/// `(name 'value', …)` after OPTIONS.
fn options(p: &mut Parser<'_>) -> Parsed<BTreeMap<String, String>> {
    let mut options = BTreeMap::new();
    p.expect_token(&Token::LParen)?;
    loop {
        let key = fold(&p.parse_identifier()?);
        options.insert(key, string(p)?);
        if !p.consume_token(&Token::Comma) {
            break;
        }
    }
    p.expect_token(&Token::RParen)?;
    Ok(options)
}

/// `(table 'schema.name')` after OPTIONS of a table or fragment.
pub(super) fn adopted(p: &mut Parser<'_>) -> Parsed<String> {
    let mut options = options(p)?;
    match (options.remove("table"), options.into_keys().next()) {
        (_, Some(other)) => refused(format!("option \"{other}\" of a table is not supported: OPTIONS takes \"table\"")),
        (Some(table), None) => Ok(table),
        (None, None) => p.expected("option \"table\"", p.peek_token()),
    }
}
