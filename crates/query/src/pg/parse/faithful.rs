//! Trees that print as what they are. Parts of statements are printed and parsed again on their way: a subquery that runs by itself, a default
//! that is stored. sqlparser prints some trees as the text of another: it doubles no quote behind a backslash and none of two in a row, as
//! if they were doubled already, and puts one minus right behind another, which begins a comment.
//!
//! Invariant: the text of a tree that [`super::parse`] gives parses to that tree; so does one that is made of such trees and of [`text`].

use super::Statement;
use crate::syntax;
use atoll_model::{Error, ErrorKind};
use datafusion::sql::sqlparser::ast::{Expr, Value, ValueWithSpan, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};
use std::ops::ControlFlow;

/// A text as a literal.
pub fn text(text: String) -> Value {
    if doubles_all(&text, '\'') { Value::SingleQuotedString(text) } else { Value::EscapedStringLiteral(text) }
}

/// The text that a literal is, however it was written.
pub fn as_text(value: &Value) -> Option<&String> {
    match value {
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) | Value::UnicodeStringLiteral(text) => {
            Some(text)
        }
        _ => None,
    }
}

/// Whether sqlparser doubles all quotes of a text that it prints.
fn doubles_all(text: &str, quote: char) -> bool {
    let mut before = '\0';
    text.chars().all(|c| {
        let left_alone = c == quote && (before == '\\' || before == quote);
        before = c;
        !left_alone
    })
}

/// Looks whether a text's trees have to be [settled](settle).
///
/// # Errors
/// A token that could not be printed, with its place.
pub(super) fn look(tokens: &[TokenWithSpan]) -> Result<bool, (Location, Error)> {
    let mut unsettled = false;
    let mut before = &Token::EOF;
    for TokenWithSpan { token, span } in tokens {
        if matches!(token, Token::Whitespace(_)) {
            continue;
        }
        let refused = match token {
            Token::Word(word) if word.quote_style.is_some() && !doubles_all(&word.value, '"') => {
                Some(Error::unsupported("a name with a quote behind a backslash, or with two quotes in a row"))
            }
            Token::HexStringLiteral(digits) => not_a_digit(digits, "hexadecimal", |c| c.is_ascii_hexdigit()),
            Token::SingleQuotedByteStringLiteral(digits) => not_a_digit(digits, "binary", |c| c == '0' || c == '1'),
            Token::NationalStringLiteral(_) => Some(Error::unsupported("national character strings")),
            _ => None,
        };
        if let Some(error) = refused {
            return Err((span.start, error));
        }
        unsettled |= match token {
            Token::SingleQuotedString(text) => !doubles_all(text, '\''),
            Token::UnicodeStringLiteral(_) => true,
            token => is_sign(token) && is_sign(before),
        };
        before = token;
    }
    Ok(unsettled)
}

fn not_a_digit(digits: &str, what: &str, is_digit: impl Fn(char) -> bool) -> Option<Error> {
    let wrong = digits.chars().find(|c| !is_digit(*c))?;
    Some(Error::new(ErrorKind::InvalidText, format!("\"{wrong}\" is not a valid {what} digit")))
}

fn is_sign(token: &Token) -> bool {
    matches!(
        token,
        Token::Minus
            | Token::Plus
            | Token::Tilde
            | Token::AtSign
            | Token::Sharp
            | Token::ExclamationMark
            | Token::DoubleExclamationMark
            | Token::PGSquareRoot
            | Token::PGCubeRoot
    )
}

/// Makes a statement print as what it is.
pub(super) fn settle(statement: &mut Statement) {
    match statement {
        Statement::Sql(ast) => settle_tree(ast.as_mut()),
        Statement::CreateTable(create) => {
            settle_tree(&mut create.columns);
            settle_tree(&mut create.constraints);
            settle_tree(&mut create.query);
        }
        // Of others, no part is printed.
        _ => {}
    }
}

/// As [`settle`], for a part of a statement.
pub(super) fn settle_tree(tree: &mut impl VisitMut) {
    let _ = syntax::visit_mut(tree, &mut Settling);
}

struct Settling;

impl VisitorMut for Settling {
    type Break = ();

    fn post_visit_value(&mut self, value: &mut ValueWithSpan) -> ControlFlow<()> {
        if let Value::SingleQuotedString(of) | Value::UnicodeStringLiteral(of) = &mut value.value {
            value.value = text(std::mem::take(of));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::UnaryOp { expr: inner, .. } = expr
            && matches!(inner.as_ref(), Expr::UnaryOp { .. })
        {
            let signed = std::mem::replace(inner.as_mut(), Expr::Value(Value::Null.into()));
            **inner = Expr::Nested(Box::new(signed));
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use crate::pg::parse::{Statement, parse};
    use datafusion::sql::sqlparser::ast::Statement as Ast;

    fn only(sql: &str) -> Option<Ast> {
        let items = parse(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        items.into_iter().find_map(|item| match item.statement {
            Statement::Sql(ast) => Some(*ast),
            _ => None,
        })
    }

    #[test]
    fn trees_print_as_what_they_are() {
        for sql in [
            r"SELECT 'x\'' OR true --', 1",
            r"SELECT 'a''''b', '''', '''''', '\', '\\', E'\\''', 'it''s'",
            r"SELECT '''y', U&'\0061''''', U&'d\0061t\+000061''\\', U&'\\'''",
            "SELECT - -5, - - - 5, -(-5), + -5, a - -5, @ -5, ~ ~5, - -2 ^ 2",
            r#"SELECT "it""s a name", 'and "a" text' FROM "t" AS "\" WHERE x LIKE 'a\''%' ESCAPE '\'"#,
            "SELECT X'00ff', B'01', $$it's$$, $a$it''s \\' $$ $a$",
        ] {
            let tree = only(sql);
            let printed = tree.as_ref().map(Ast::to_string).unwrap_or_default();
            assert_eq!(only(&printed), tree, "{sql} is printed as {printed}");
        }
    }

    #[test]
    fn what_could_not_be_printed_is_refused() {
        for (sql, state) in [
            ("SELECT X'00'' || (SELECT 1) || ''y'", "22P02"),
            ("SELECT B'01'' || 1 || ''2'", "22P02"),
            ("SELECT N'it''s'", "0A000"),
            (r#"SELECT * FROM "pub\"" a, secret --""#, "0A000"),
            (r#"SELECT 1 AS "a""""b""#, "0A000"),
            (r#"CREATE TABLE "a\""b" (id int)"#, "0A000"),
        ] {
            let error = parse(sql).expect_err(sql);
            assert_eq!(error.kind().sqlstate(), state, "{sql}: {error}");
            assert!(error.position_in_statement().is_some_and(|at| at > 1), "{sql}: {error:?}");
        }
    }

    #[test]
    fn all_statements_of_the_scripts_print_as_what_they_are() {
        let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/slt");
        let files = std::fs::read_dir(scripts).unwrap_or_else(|e| panic!("{scripts}: {e}"));
        let mut count = 0;
        for file in files.filter_map(Result::ok).map(|file| file.path()) {
            let script = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            for sql in script.split("\n\n").filter_map(|record| record.split_once('\n')).map(|(_, sql)| sql) {
                let sql = sql.split("\n----").next().unwrap_or_default();
                for item in parse(sql).unwrap_or_default() {
                    let Statement::Sql(tree) = item.statement else { continue };
                    // The mark that it leaves has no text.
                    if sql.contains("OVERRIDING") {
                        continue;
                    }
                    let printed = tree.to_string();
                    count += 1;
                    assert_eq!(only(&printed).as_ref(), Some(tree.as_ref()), "{sql} is printed as {printed}");
                }
            }
        }
        assert!(count > 1000, "{count} statements");
    }
}
