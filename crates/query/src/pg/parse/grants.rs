//! GRANT, REVOKE, REASSIGN OWNED, DROP OWNED, and OWNER TO of views and sequences, as PostgreSQL writes them.
//!
//! Invariant: what Atoll has no privileges for (columns, databases but CONNECT, functions, default privileges …) is refused here, by
//! name: a grant that is accepted is enforced.

use super::grammar::{Parsed, eat, expect, plain_name, refused, skip, word_here};
use super::statement::*;
use crate::syntax::fold;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;

/// `GRANT …`
pub(super) fn grant(p: &mut Parser<'_>) -> Parsed<Statement> {
    skip(p, 1);
    let (words, objects) = privileges(p)?;
    expect(p, "TO")?;
    let to = p.parse_comma_separated(role)?;
    let mut option = false;
    loop {
        if eat(p, "WITH") {
            expect(p, if objects.is_some() { "GRANT" } else { "ADMIN" })?;
            expect(p, "OPTION")?;
            option = true;
        } else if eat(p, "GRANTED") {
            expect(p, "BY")?;
            granted_by(p)?;
        } else {
            return statement(p, words, objects, to, option, None);
        }
    }
}

/// `REVOKE …`
pub(super) fn revoke(p: &mut Parser<'_>) -> Parsed<Statement> {
    skip(p, 1);
    let option_only = match (word_here(p).as_str(), nth_word(p, 1).as_str()) {
        ("GRANT" | "ADMIN", "OPTION") => {
            skip(p, 2);
            expect(p, "FOR")?;
            true
        }
        _ => false,
    };
    let (words, objects) = privileges(p)?;
    expect(p, "FROM")?;
    let from = p.parse_comma_separated(role)?;
    if eat(p, "GRANTED") {
        expect(p, "BY")?;
        granted_by(p)?;
    }
    let cascade = eat(p, "CASCADE");
    if !cascade {
        eat(p, "RESTRICT");
    }
    statement(p, words, objects, from, option_only, Some(cascade))
}

/// GRANTED BY may name the current user alone, who it is anyway.
fn granted_by(p: &mut Parser<'_>) -> Parsed<()> {
    match role(p)? {
        RoleName::CurrentUser => Ok(()),
        _ => refused("GRANTED BY of somebody else is not supported: SET ROLE first"),
    }
}

fn nth_word(p: &Parser<'_>, n: usize) -> String {
    match p.peek_nth_token(n).token {
        Token::Word(w) if w.quote_style.is_none() => w.value.to_ascii_uppercase(),
        _ => String::new(),
    }
}

/// What is granted, and on what; `None`: roles are.
fn privileges(p: &mut Parser<'_>) -> Parsed<(Vec<String>, Option<GrantObjects>)> {
    let words = p.parse_comma_separated(|p| {
        let word = p.parse_identifier()?;
        if p.peek_token().token == Token::LParen {
            return refused("privileges on single columns are not supported: grant them on the table, or make a view");
        }
        Ok(word)
    })?;
    if words.len() == 1 && words[0].value.eq_ignore_ascii_case("all") && words[0].quote_style.is_none() {
        eat(p, "PRIVILEGES");
        if p.peek_token().token == Token::LParen {
            return refused("privileges on single columns are not supported: grant them on the table, or make a view");
        }
    }
    if !p.parse_keyword(Keyword::ON) {
        return Ok((words.iter().map(fold).collect(), None));
    }
    let objects = objects(p)?;
    Ok((words.iter().map(|w| w.value.to_ascii_uppercase()).collect(), Some(objects)))
}

fn objects(p: &mut Parser<'_>) -> Parsed<GrantObjects> {
    match (word_here(p).as_str(), nth_word(p, 1).as_str()) {
        ("ALL", kind @ ("TABLES" | "SEQUENCES")) => {
            skip(p, 2);
            expect(p, "IN")?;
            expect(p, "SCHEMA")?;
            schemas(p)?;
            Ok(if kind == "TABLES" { GrantObjects::AllTables } else { GrantObjects::AllSequences })
        }
        ("SCHEMA", _) => {
            skip(p, 1);
            schemas(p)?;
            Ok(GrantObjects::Schema)
        }
        ("DATABASE", _) => {
            skip(p, 1);
            p.parse_comma_separated(Parser::parse_identifier)?;
            Ok(GrantObjects::Database)
        }
        ("SEQUENCE", next) if !matches!(next, "TO" | "FROM") => {
            skip(p, 1);
            Ok(GrantObjects::Sequences(p.parse_comma_separated(relation)?))
        }
        (
            kind @ ("FUNCTION" | "PROCEDURE" | "ROUTINE" | "LANGUAGE" | "TYPE" | "DOMAIN" | "TABLESPACE" | "FOREIGN"
            | "PARAMETER" | "LARGE" | "ALL"),
            next,
        ) if !matches!(next, "TO" | "FROM" | "") => {
            refused(format!("privileges on {} are not supported", kind.to_lowercase()))
        }
        _ => {
            eat(p, "TABLE");
            Ok(GrantObjects::Relations(p.parse_comma_separated(relation)?))
        }
    }
}

fn schemas(p: &mut Parser<'_>) -> Parsed<()> {
    let names = p.parse_comma_separated(Parser::parse_identifier)?;
    match names.iter().map(fold).find(|name| name != "public") {
        None => Ok(()),
        Some(name) => refused(format!("privileges on the schema \"{name}\": all tables are in the schema public")),
    }
}

fn relation(p: &mut Parser<'_>) -> Parsed<String> {
    let name = p.parse_object_name(false)?;
    plain_name(p, &name)
}

/// A role's name, or a word that stands for one.
pub(super) fn role(p: &mut Parser<'_>) -> Parsed<RoleName> {
    eat(p, "GROUP");
    let ident = p.parse_identifier()?;
    if ident.quote_style.is_none() {
        match ident.value.to_ascii_lowercase().as_str() {
            "public" => return Ok(RoleName::Public),
            "current_user" | "current_role" => return Ok(RoleName::CurrentUser),
            "session_user" => return Ok(RoleName::SessionUser),
            _ => {}
        }
    }
    Ok(RoleName::Named(fold(&ident)))
}

fn statement(
    p: &Parser<'_>,
    words: Vec<String>,
    objects: Option<GrantObjects>,
    roles: Vec<RoleName>,
    option: bool,
    revoke: Option<bool>,
) -> Parsed<Statement> {
    let Some(on) = objects else {
        if roles.contains(&RoleName::Public) {
            return p.expected("a role other than PUBLIC", p.peek_token());
        }
        return Ok(Statement::GrantRoles { roles: words, members: roles, option, revoke: revoke.is_some() });
    };
    Ok(Statement::Grant(Box::new(GrantPrivileges { privileges: words, on, roles, option, revoke })))
}

/// `REASSIGN OWNED BY … TO …`
pub(super) fn reassign(p: &mut Parser<'_>) -> Parsed<Statement> {
    skip(p, 1);
    expect(p, "OWNED")?;
    expect(p, "BY")?;
    let from = p.parse_comma_separated(role)?;
    expect(p, "TO")?;
    Ok(Statement::ReassignOwned { from, to: role(p)? })
}

/// `DROP OWNED BY …`
pub(super) fn drop_owned(p: &mut Parser<'_>) -> Parsed<Statement> {
    skip(p, 2);
    expect(p, "BY")?;
    let roles = p.parse_comma_separated(role)?;
    // They say what becomes of objects that depend on those dropped, and none are: privileges go with what they came from either way.
    let _ = eat(p, "CASCADE") || eat(p, "RESTRICT");
    Ok(Statement::DropOwned { roles })
}

/// `ALTER VIEW | SEQUENCE [IF EXISTS] name OWNER TO role`; `None`: it is another ALTER, and nothing is taken.
pub(super) fn owner_to(p: &mut Parser<'_>) -> Parsed<Option<Statement>> {
    let mut at = 2;
    if nth_word(p, at) == "IF" && nth_word(p, at + 1) == "EXISTS" {
        at += 2;
    }
    while p.peek_nth_token(at + 1).token == Token::Period {
        at += 2;
    }
    if (nth_word(p, at + 1).as_str(), nth_word(p, at + 2).as_str()) != ("OWNER", "TO") {
        return Ok(None);
    }
    let sequence = nth_word(p, 1) == "SEQUENCE";
    skip(p, 2);
    let if_exists = p.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let name = relation(p)?;
    skip(p, 2);
    Ok(Some(Statement::SetOwner { name, sequence, if_exists, owner: role(p)? }))
}
