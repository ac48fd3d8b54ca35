//! The productions that sqlparser lacks: sites, fragments, PostgreSQL's order of table clauses, maintenance, roles.
//!
//! Invariant: a statement is given to sqlparser unless its first words are ours; nothing is tried twice.

use super::statement::*;
use super::{grants, moves, sites, verify};
use crate::syntax::fold;
use datafusion::sql::sqlparser::ast::{ObjectName, ObjectNamePart};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;

/// Marks an error of this grammar as a refusal (0A000) with its reason, not a syntax error.
pub(super) const REFUSED: &str = "\u{1}refused: ";

pub(super) type Parsed<T> = Result<T, ParserError>;

/// One statement.
pub(super) fn statement(p: &mut Parser<'_>) -> Parsed<Statement> {
    let word = |n: usize| match p.peek_nth_token(n).token {
        Token::Word(w) if w.quote_style.is_none() => w.value.to_ascii_uppercase(),
        _ => String::new(),
    };
    let (first, second) = (word(0), word(1));
    match (first.as_str(), second.as_str()) {
        ("CREATE", "SITE") => sites::create(p),
        ("ALTER", "SITE") => sites::alter(p),
        ("IMPORT", _) => sites::import(p),
        ("VERIFY", _) => verify::verify(p),
        ("MOVE", "FRAGMENT") => moves::begin(p),
        ("CANCEL", "MOVE") => moves::cancel(p),
        ("DROP", "SITE") => {
            skip(p, 2);
            let if_exists = p.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
            Ok(Statement::DropSite { names: names(p)?, if_exists })
        }
        ("CREATE", "TABLE" | "UNLOGGED" | "TEMP" | "TEMPORARY") | ("CREATE", "GLOBAL" | "LOCAL") => create_table(p),
        ("CREATE", "ROLE" | "USER") => {
            let user = second == "USER";
            skip(p, 2);
            let if_not_exists = p.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
            let name = role_name(p)?;
            let mut attributes = role_attributes(p)?;
            attributes.login = attributes.login.or(user.then_some(true));
            Ok(Statement::CreateRole { name, attributes, if_not_exists })
        }
        ("ALTER", "ROLE" | "USER") => {
            skip(p, 2);
            let role = grants::role(p)?;
            match word_here(p).as_str() {
                "SET" | "RESET" | "IN" => refused("settings of a role are not stored: use SET in the session"),
                "RENAME" => refused("a role cannot be renamed: create another one"),
                _ => Ok(Statement::AlterRole { role, attributes: role_attributes(p)? }),
            }
        }
        ("DROP", "ROLE" | "USER") => {
            skip(p, 2);
            let if_exists = p.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
            Ok(Statement::DropRole { names: names(p)?, if_exists })
        }
        ("GRANT", _) => grants::grant(p),
        ("REVOKE", _) => grants::revoke(p),
        ("REASSIGN", _) => grants::reassign(p),
        ("DROP", "OWNED") => grants::drop_owned(p),
        ("ALTER", "VIEW") => match grants::owner_to(p)? {
            Some(statement) => Ok(statement),
            None => Ok(Statement::Sql(Box::new(p.parse_statement()?))),
        },
        ("VACUUM", _) => vacuum(p),
        ("ANALYZE" | "ANALYSE", _) => {
            skip(p, 1);
            if p.peek_token().token == Token::LParen {
                parenthesised_words(p)?;
            }
            eat(p, "VERBOSE");
            Ok(Statement::Analyze { tables: table_list(p)? })
        }
        ("CHECKPOINT", _) => {
            skip(p, 1);
            Ok(Statement::Checkpoint)
        }
        ("ALTER", "SEQUENCE") => match grants::owner_to(p)? {
            Some(statement) => Ok(statement),
            None => alter_sequence(p),
        },
        ("ALTER", "DATABASE" | "SYSTEM" | "DEFAULT" | "DOMAIN" | "AGGREGATE" | "LANGUAGE") => {
            refused(format!("ALTER {second} is not supported"))
        }
        (
            "CREATE",
            kind @ ("DATABASE" | "EXTENSION" | "TRIGGER" | "FUNCTION" | "PROCEDURE" | "TYPE" | "DOMAIN" | "RULE"
            | "POLICY" | "PUBLICATION" | "SUBSCRIPTION" | "AGGREGATE" | "MATERIALIZED" | "FOREIGN" | "SERVER"
            | "TABLESPACE" | "LANGUAGE" | "CAST" | "COLLATION" | "OPERATOR" | "STATISTICS" | "EVENT"),
        ) => {
            let hint = match kind {
                "TABLESPACE" => ": CREATE SITE makes places for rows",
                "DATABASE" => ": there is one database, atoll",
                _ => "",
            };
            refused(format!("CREATE {kind} is not supported{hint}"))
        }
        ("LISTEN" | "NOTIFY", _) => refused(format!("{first} is not supported")),
        ("DO", _) => refused("DO is not supported: there is no procedural language"),
        _ => Ok(Statement::Sql(Box::new(p.parse_statement()?))),
    }
}

pub(super) fn refused<T>(reason: impl Into<String>) -> Parsed<T> {
    Err(ParserError::ParserError(format!("{REFUSED}{}", reason.into())))
}

pub(super) fn skip(p: &mut Parser<'_>, n: usize) {
    for _ in 0..n {
        p.next_token();
    }
}

pub(super) fn word_here(p: &Parser<'_>) -> String {
    match p.peek_token().token {
        Token::Word(w) if w.quote_style.is_none() => w.value.to_ascii_uppercase(),
        _ => String::new(),
    }
}

/// Takes this unquoted word if it is next.
pub(super) fn eat(p: &mut Parser<'_>, word: &str) -> bool {
    let here = word_here(p) == word;
    if here {
        p.next_token();
    }
    here
}

pub(super) fn expect(p: &mut Parser<'_>, word: &str) -> Parsed<()> {
    if eat(p, word) { Ok(()) } else { p.expected(word, p.peek_token()) }
}

/// The last part of a name whose schema, if any, is `public`.
pub(super) fn plain_name(p: &Parser<'_>, name: &ObjectName) -> Parsed<String> {
    let parts: Option<Vec<String>> = name
        .0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(ident) => Some(fold(ident)),
            _ => None,
        })
        .collect();
    match parts.as_deref() {
        Some([name]) => Ok(name.clone()),
        Some([schema, name]) if schema == "public" => Ok(name.clone()),
        Some([schema, _]) if schema == "pg_temp" => refused("temporary tables are not supported"),
        Some([schema, _]) => {
            refused(format!("there is no schema \"{schema}\" to create in: all tables are in the schema public"))
        }
        _ => p.expected("name", p.peek_token()),
    }
}

fn name(p: &mut Parser<'_>) -> Parsed<String> {
    let name = p.parse_object_name(false)?;
    plain_name(p, &name)
}

fn names(p: &mut Parser<'_>) -> Parsed<Vec<String>> {
    p.parse_comma_separated(|p| Ok(fold(&p.parse_identifier()?)))
}

fn role_name(p: &mut Parser<'_>) -> Parsed<String> {
    let ident = p.parse_identifier()?;
    Ok(fold(&ident))
}

pub(super) fn string(p: &mut Parser<'_>) -> Parsed<String> {
    p.parse_literal_string()
}

fn create_table(p: &mut Parser<'_>) -> Parsed<Statement> {
    expect(p, "CREATE")?;
    let _ = eat(p, "GLOBAL") || eat(p, "LOCAL");
    let temporary = eat(p, "TEMP") || eat(p, "TEMPORARY");
    if eat(p, "UNLOGGED") {
        return refused("UNLOGGED tables are not supported: every commit is durable unless synchronous_commit is off");
    }
    expect(p, "TABLE")?;
    let if_not_exists = p.parse_keywords(&[Keyword::IF, Keyword::NOT, Keyword::EXISTS]);
    let name = name(p)?;
    if p.parse_keywords(&[Keyword::PARTITION, Keyword::OF]) {
        return create_fragment(p, name, if_not_exists);
    }
    let mut table = CreateTable {
        name,
        if_not_exists,
        temporary,
        columns: vec![],
        constraints: vec![],
        like: vec![],
        partition_by: None,
        tablespace: None,
        options: vec![],
        adopted: None,
        query: None,
        column_names: vec![],
        no_data: false,
    };
    if p.peek_token().token == Token::LParen {
        if matches!(p.peek_nth_token(2).token, Token::Comma | Token::RParen) {
            table.column_names = p
                .parse_parenthesized_column_list(datafusion::sql::sqlparser::parser::IsOptional::Mandatory, false)?
                .iter()
                .map(fold)
                .collect();
        } else {
            elements(p, &mut table)?;
        }
    } else if !matches!(word_here(p).as_str(), "AS" | "WITH" | "TABLESPACE" | "PARTITION") {
        return p.expected("(", p.peek_token());
    }
    loop {
        if p.parse_keywords(&[Keyword::PARTITION, Keyword::BY]) {
            table.partition_by = Some(partition_by(p)?);
        } else if p.parse_keyword(Keyword::WITH) {
            table.options.extend(options(p)?);
        } else if eat(p, "TABLESPACE") {
            table.tablespace = Some(fold(&p.parse_identifier()?));
        } else if eat(p, "OPTIONS") {
            table.adopted = Some(sites::adopted(p)?);
        } else if p.parse_keyword(Keyword::USING) {
            p.parse_identifier()?;
        } else if eat(p, "INHERITS") {
            return refused("table inheritance is not supported: PARTITION BY splits a table");
        } else if p.parse_keyword(Keyword::AS) {
            table.query = Some(p.parse_query()?);
            if p.parse_keyword(Keyword::WITH) {
                table.no_data = p.parse_keyword(Keyword::NO);
                expect(p, "DATA")?;
            }
        } else if p.parse_keywords(&[Keyword::ON, Keyword::COMMIT]) {
            return refused("temporary tables are not supported");
        } else {
            break;
        }
    }
    if !table.column_names.is_empty() && table.query.is_none() {
        return p.expected("AS", p.peek_token());
    }
    Ok(Statement::CreateTable(Box::new(table)))
}

/// The list of columns, constraints and LIKE clauses.
fn elements(p: &mut Parser<'_>, table: &mut CreateTable) -> Parsed<()> {
    p.expect_token(&Token::LParen)?;
    if p.consume_token(&Token::RParen) {
        return Ok(());
    }
    loop {
        if p.parse_keyword(Keyword::LIKE) {
            let source = name(p)?;
            let mut like =
                Like { at: table.columns.len(), table: source, defaults: false, constraints: false, indexes: false };
            loop {
                let including = if eat(p, "INCLUDING") {
                    true
                } else if eat(p, "EXCLUDING") {
                    false
                } else {
                    break;
                };
                let what = fold(&p.parse_identifier()?);
                match what.as_str() {
                    "all" => (like.defaults, like.constraints, like.indexes) = (including, including, including),
                    "defaults" => like.defaults = including,
                    "constraints" => like.constraints = including,
                    "indexes" => like.indexes = including,
                    "comments" | "storage" | "statistics" | "compression" => {}
                    _ => return refused(format!("LIKE … INCLUDING {what} is not supported")),
                }
            }
            table.like.push(like);
        } else if word_here(p) == "EXCLUDE" {
            return refused("exclusion constraints are not supported");
        } else if let Some(constraint) = p.parse_optional_table_constraint()? {
            table.constraints.push(constraint);
        } else {
            table.columns.push(p.parse_column_def()?);
        }
        if !p.consume_token(&Token::Comma) {
            break;
        }
    }
    p.expect_token(&Token::RParen)?;
    Ok(())
}

fn partition_by(p: &mut Parser<'_>) -> Parsed<(PartitionKind, Vec<String>)> {
    let kind = if eat(p, "LIST") {
        PartitionKind::List
    } else if eat(p, "RANGE") {
        PartitionKind::Range
    } else if eat(p, "HASH") {
        PartitionKind::Hash
    } else {
        return p.expected("LIST, RANGE or HASH", p.peek_token());
    };
    p.expect_token(&Token::LParen)?;
    let columns = p.parse_comma_separated(|p| {
        if p.peek_token().token == Token::LParen || p.peek_nth_token(1).token == Token::LParen {
            return refused("PARTITION BY takes columns, not expressions");
        }
        let column = fold(&p.parse_identifier()?);
        if p.parse_keyword(Keyword::COLLATE) {
            p.parse_object_name(false)?;
        }
        Ok(column)
    })?;
    p.expect_token(&Token::RParen)?;
    Ok((kind, columns))
}

/// `(name [= value], …)` after WITH.
pub(super) fn options(p: &mut Parser<'_>) -> Parsed<Vec<(String, String)>> {
    p.expect_token(&Token::LParen)?;
    let options = p.parse_comma_separated(|p| {
        let mut key = fold(&p.parse_identifier()?);
        while p.consume_token(&Token::Period) {
            key = format!("{key}.{}", fold(&p.parse_identifier()?));
        }
        let value = if p.consume_token(&Token::Eq) {
            let minus = p.consume_token(&Token::Minus);
            match p.next_token() {
                t if minus => match t.token {
                    Token::Number(n, _) => format!("-{n}"),
                    _ => return p.expected("a number", t),
                },
                t => match t.token {
                    Token::Number(n, _) => n,
                    Token::SingleQuotedString(s) | Token::EscapedStringLiteral(s) => s,
                    Token::Word(w) => w.value,
                    _ => return p.expected("a value", t),
                },
            }
        } else {
            "true".into()
        };
        Ok((key, value))
    })?;
    p.expect_token(&Token::RParen)?;
    Ok(options)
}

fn create_fragment(p: &mut Parser<'_>, fragment: String, if_not_exists: bool) -> Parsed<Statement> {
    let parent = name(p)?;
    if p.peek_token().token == Token::LParen {
        return refused("a fragment has the columns and constraints of its table: declare them there");
    }
    let bounds = if p.parse_keyword(Keyword::DEFAULT) {
        Bounds::Default
    } else {
        expect(p, "FOR")?;
        expect(p, "VALUES")?;
        if p.parse_keyword(Keyword::IN) {
            p.expect_token(&Token::LParen)?;
            let values = p.parse_comma_separated(Parser::parse_expr)?;
            p.expect_token(&Token::RParen)?;
            Bounds::In(values)
        } else if p.parse_keyword(Keyword::FROM) {
            let from = bound_list(p)?;
            expect(p, "TO")?;
            Bounds::FromTo(from, bound_list(p)?)
        } else {
            expect(p, "WITH")?;
            p.expect_token(&Token::LParen)?;
            expect(p, "MODULUS")?;
            let modulus = count(p)?;
            p.expect_token(&Token::Comma)?;
            expect(p, "REMAINDER")?;
            let remainder = count(p)?;
            p.expect_token(&Token::RParen)?;
            Bounds::Hash { modulus, remainder }
        }
    };
    let mut made = CreateFragment {
        name: fragment,
        if_not_exists,
        parent,
        bounds,
        tablespace: None,
        options: vec![],
        adopted: None,
    };
    loop {
        if p.parse_keyword(Keyword::WITH) {
            made.options.extend(options(p)?);
        } else if eat(p, "TABLESPACE") {
            made.tablespace = Some(fold(&p.parse_identifier()?));
        } else if p.parse_keywords(&[Keyword::PARTITION, Keyword::BY]) {
            return refused("a fragment cannot be fragmented further");
        } else if eat(p, "OPTIONS") {
            made.adopted = Some(sites::adopted(p)?);
        } else {
            return Ok(Statement::CreateFragment(Box::new(made)));
        }
    }
}

fn bound_list(p: &mut Parser<'_>) -> Parsed<Vec<Bound>> {
    p.expect_token(&Token::LParen)?;
    let bounds = p.parse_comma_separated(|p| {
        Ok(if eat(p, "MINVALUE") {
            Bound::Min
        } else if eat(p, "MAXVALUE") {
            Bound::Max
        } else {
            Bound::Value(p.parse_expr()?)
        })
    })?;
    p.expect_token(&Token::RParen)?;
    Ok(bounds)
}

fn count(p: &mut Parser<'_>) -> Parsed<u32> {
    let token = p.peek_token();
    match u32::try_from(p.parse_literal_uint()?) {
        Ok(n) => Ok(n),
        Err(_) => p.expected("a smaller number", token),
    }
}

fn role_attributes(p: &mut Parser<'_>) -> Parsed<RoleAttributes> {
    let mut made = RoleAttributes::default();
    eat(p, "WITH");
    loop {
        let word = word_here(p);
        match word.as_str() {
            "LOGIN" | "NOLOGIN" => made.login = Some(word == "LOGIN"),
            "SUPERUSER" | "NOSUPERUSER" => made.superuser = Some(word == "SUPERUSER"),
            "INHERIT" | "NOINHERIT" => made.inherit = Some(word == "INHERIT"),
            "CREATEROLE" | "NOCREATEROLE" => made.create_role = Some(word == "CREATEROLE"),
            "CREATEDB" | "NOCREATEDB" => made.create_db = Some(word == "CREATEDB"),
            // What every role is, and every password.
            "NOREPLICATION" | "NOBYPASSRLS" | "ENCRYPTED" => {}
            "VALID" => {
                p.next_token();
                expect(p, "UNTIL")?;
                made.valid_until = Some(string(p)?);
                continue;
            }
            "IN" => {
                p.next_token();
                if !eat(p, "ROLE") {
                    expect(p, "GROUP")?;
                }
                made.in_roles = names(p)?;
                continue;
            }
            "PASSWORD" => {
                p.next_token();
                made.password = Some(if p.parse_keyword(Keyword::NULL) { None } else { Some(string(p)?) });
                continue;
            }
            "" => return Ok(made),
            _ => return refused(format!("role attribute {word} is not supported")),
        }
        p.next_token();
    }
}

fn parenthesised_words(p: &mut Parser<'_>) -> Parsed<Vec<String>> {
    p.expect_token(&Token::LParen)?;
    let words = p.parse_comma_separated(|p| {
        let word = fold(&p.parse_identifier()?);
        if !matches!(p.peek_token().token, Token::Comma | Token::RParen) {
            p.next_token();
        }
        Ok(word)
    })?;
    p.expect_token(&Token::RParen)?;
    Ok(words)
}

fn table_list(p: &mut Parser<'_>) -> Parsed<Vec<String>> {
    if matches!(p.peek_token().token, Token::EOF | Token::SemiColon) {
        return Ok(vec![]);
    }
    p.parse_comma_separated(|p| {
        let table = name(p)?;
        if p.peek_token().token == Token::LParen {
            parenthesised_words(p)?;
        }
        Ok(table)
    })
}

fn vacuum(p: &mut Parser<'_>) -> Parsed<Statement> {
    skip(p, 1);
    if p.peek_token().token == Token::LParen {
        parenthesised_words(p)?;
    }
    while eat(p, "FULL") || eat(p, "FREEZE") || eat(p, "VERBOSE") {}
    eat(p, "ANALYZE");
    Ok(Statement::Vacuum { tables: table_list(p)? })
}

fn alter_sequence(p: &mut Parser<'_>) -> Parsed<Statement> {
    skip(p, 2);
    let if_exists = p.parse_keywords(&[Keyword::IF, Keyword::EXISTS]);
    let name = name(p)?;
    let mut restart = None;
    while !matches!(p.peek_token().token, Token::EOF | Token::SemiColon) {
        if eat(p, "RESTART") {
            eat(p, "WITH");
            let minus = p.consume_token(&Token::Minus);
            restart = Some(match p.peek_token().token {
                Token::Number(..) => {
                    let n = i64::try_from(p.parse_literal_uint()?).unwrap_or(i64::MAX);
                    Some(if minus { -n } else { n })
                }
                _ => None,
            });
        } else {
            return refused("ALTER SEQUENCE can only RESTART: drop the sequence and create it again");
        }
    }
    Ok(Statement::AlterSequence { name, if_exists, restart })
}
