//! SQL text to statements: sqlparser's PostgreSQL dialect, and Atoll's own grammar where that has no word for it.
//!
//! Invariants: any text gives statements or an error with a position, never a panic or a stack overflow: size, nesting and the
//! length of operator chains (which become equally deep trees) are bounded before anything recursive sees them. An error, which goes to clients and
//! logs, repeats no string of a text that may hold passwords.

mod copy;
pub mod faithful;
mod grammar;
mod grants;
mod limits;
mod moves;
mod sites;
mod spelling;
mod statement;
mod verify;

pub use spelling::Overriding;
pub use statement::*;

use atoll_model::{Error, ErrorKind, Result};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};
use std::ops::Range;

/// Longest text of statements that is taken, in bytes.
pub const MAX_SQL_BYTES: usize = 64 << 20;

/// Deepest nesting of parentheses, subqueries and prefix operators.
const MAX_NESTING: usize = 120;

static DIALECT: PostgreSqlDialect = PostgreSqlDialect {};

/// One statement of a text.
#[derive(Clone, Debug)]
pub struct Item {
    /// The statement.
    pub statement: Statement,
    /// Its place in the text, in bytes, without the semicolon.
    pub text: Range<usize>,
}

/// Splits a text into statements.
///
/// # Errors
/// 42601 with the position in characters; 54000 for a text beyond the limits.
pub fn parse(sql: &str) -> Result<Vec<Item>> {
    if sql.len() > MAX_SQL_BYTES {
        return Err(Error::new(ErrorKind::ProgramLimit, "statement is too long")
            .detail(format!("It has {} bytes; the limit is {MAX_SQL_BYTES}.", sql.len())));
    }
    if let Some(at) = sql.find('\0') {
        return Err(Error::new(ErrorKind::InvalidEncoding, "invalid byte sequence for encoding \"UTF8\": 0x00")
            .position(characters(sql, at)));
    }
    let Tokens { mut tokens, lines, unsettled } = tokens(sql)?;
    copy::plain_options(&mut tokens);
    mark_symmetric(&mut tokens);
    spelling::select_nothing(&mut tokens);
    limits::check(&tokens).map_err(|at| too_complex().position(characters(sql, offset(sql, &lines, at))))?;
    let overriding = spelling::respell(&mut tokens);
    let mut parser = Parser::new(&DIALECT).with_recursion_limit(MAX_NESTING).with_tokens_with_locations(tokens.clone());
    let mut items = Vec::new();
    loop {
        while parser.consume_token(&Token::SemiColon) {}
        let first = parser.peek_token();
        if first.token == Token::EOF {
            return Ok(items);
        }
        let mut statement = grammar::statement(&mut parser)
            .map_err(|e| syntax_error(sql, &lines, &tokens, &e, &parser.peek_token()))?;
        if unsettled {
            faithful::settle(&mut statement);
        }
        let next = parser.peek_token();
        if !matches!(next.token, Token::EOF | Token::SemiColon) {
            return Err(near(sql, &lines, &next));
        }
        let here = |at: Location| at > first.span.start && (next.token == Token::EOF || at < next.span.start);
        for (at, kind) in overriding.iter().filter(|(at, _)| here(*at)) {
            let marked = match &mut statement {
                Statement::Sql(ast) => kind.mark(ast),
                _ => false,
            };
            if !marked {
                let at = characters(sql, offset(sql, &lines, *at));
                return Err(Error::new(ErrorKind::Syntax, "syntax error at or near \"OVERRIDING\"").position(at));
            }
        }
        let start = offset(sql, &lines, first.span.start);
        let end = match next.token {
            Token::EOF => sql.len(),
            _ => offset(sql, &lines, next.span.start),
        };
        items.push(Item { statement, text: start..start + sql[start..end.max(start)].trim_end().len() });
    }
}

/// Parses a text that holds exactly one expression (a stored DEFAULT or CHECK).
///
/// # Errors
/// As [`parse`].
pub fn parse_expression(sql: &str) -> Result<datafusion::sql::sqlparser::ast::Expr> {
    let Tokens { mut tokens, lines, unsettled } = tokens(sql)?;
    mark_symmetric(&mut tokens);
    limits::check(&tokens).map_err(|_| too_complex())?;
    let mut parser = Parser::new(&DIALECT).with_recursion_limit(MAX_NESTING).with_tokens_with_locations(tokens.clone());
    let mut expression =
        parser.parse_expr().map_err(|e| syntax_error(sql, &lines, &tokens, &e, &parser.peek_token()))?;
    if unsettled {
        faithful::settle_tree(&mut expression);
    }
    match parser.peek_token() {
        end if end.token == Token::EOF => Ok(expression),
        next => Err(near(sql, &lines, &next)),
    }
}

/// What a text consists of.
struct Tokens {
    tokens: Vec<TokenWithSpan>,
    /// Where its lines start.
    lines: Vec<usize>,
    /// Trees of it have to be [settled](faithful::settle).
    unsettled: bool,
}

fn tokens(sql: &str) -> Result<Tokens> {
    let mut tokens = Vec::new();
    Tokenizer::new(&DIALECT, sql)
        .tokenize_with_location_into_buf(&mut tokens)
        .map_err(|e| lexical_error(sql, &e.message, e.location))?;
    let lines = line_starts(sql);
    spelling::join_texts(&mut tokens).map_err(|second| near(sql, &lines, &second))?;
    let unsettled =
        faithful::look(&tokens).map_err(|(at, error)| error.position(characters(sql, offset(sql, &lines, at))))?;
    Ok(Tokens { tokens, lines, unsettled })
}

/// `BETWEEN SYMMETRIC a AND b`, which sqlparser does not know, as `BETWEEN !! a AND b`: a prefix operator that it knows and that
/// PostgreSQL dropped in version 14. `rewrite` takes it away again; as an operator of its own it is refused by the planner.
fn mark_symmetric(tokens: &mut [TokenWithSpan]) {
    let is = |token: &Token, word: &str| matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word));
    let mut after_between = false;
    for token in tokens {
        if matches!(token.token, Token::Whitespace(_)) {
            continue;
        }
        if after_between && is(&token.token, "symmetric") {
            token.token = Token::DoubleExclamationMark;
        }
        after_between = is(&token.token, "between");
    }
}

fn too_complex() -> Error {
    Error::new(ErrorKind::ProgramLimit, "statement is too complex").hint(format!(
        "Expressions may be nested {MAX_NESTING} deep, and one chain of operators may have {} members.",
        limits::MAX_CHAIN
    ))
}

/// The number of characters before a byte offset, from 1.
fn characters(sql: &str, at: usize) -> u32 {
    u32::try_from(sql[..at.min(sql.len())].chars().count() + 1).unwrap_or(u32::MAX)
}

/// Byte offset of the start of every line, as the tokenizer counts lines.
fn line_starts(sql: &str) -> Vec<usize> {
    std::iter::once(0).chain(sql.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1)).collect()
}

fn offset(sql: &str, lines: &[usize], at: Location) -> usize {
    let Some(start) = (at.line as usize).checked_sub(1).and_then(|line| lines.get(line)) else { return sql.len() };
    let column = (at.column as usize).saturating_sub(1);
    sql[*start..].char_indices().nth(column).map_or(sql.len(), |(i, _)| start + i)
}

fn lexical_error(sql: &str, message: &str, at: Location) -> Error {
    let at = offset(sql, &line_starts(sql), at);
    let message = message.to_ascii_lowercase();
    let what = if message.contains("comment") {
        "unterminated /* comment"
    } else if message.contains("dollar") || message.contains("$") {
        "unterminated dollar-quoted string"
    } else if message.contains("identifier") || message.contains("close delimiter '\"'") {
        "unterminated quoted identifier"
    } else if message.contains("untermin") || message.contains("quote") {
        "unterminated quoted string"
    } else {
        "syntax error"
    };
    let error = if may_hold_secrets(sql) {
        Error::new(ErrorKind::Syntax, what)
    } else {
        let rest: String = sql[at..].chars().take(40).collect();
        Error::new(ErrorKind::Syntax, format!("{what} at or near \"{rest}\""))
    };
    error.position(characters(sql, at))
}

/// Whether a text may be one that gives passwords: those of sites are in OPTIONS, those of roles after PASSWORD.
fn may_hold_secrets(sql: &str) -> bool {
    let lower = sql.to_ascii_lowercase();
    lower.contains("password") || (lower.contains("site") && lower.contains("options"))
}

fn is_string(token: &Token) -> bool {
    matches!(
        token,
        Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::DollarQuotedString(_)
    )
}

fn near(sql: &str, lines: &[usize], token: &TokenWithSpan) -> Error {
    if token.token == Token::EOF {
        return Error::new(ErrorKind::Syntax, "syntax error at end of input").position(characters(sql, sql.len()));
    }
    let start = offset(sql, lines, token.span.start);
    let end = offset(sql, lines, token.span.end).max(start);
    let shown = if is_string(&token.token) && may_hold_secrets(sql) { "'…'" } else { &sql[start..end] };
    Error::new(ErrorKind::Syntax, format!("syntax error at or near \"{shown}\"")).position(characters(sql, start))
}

/// PostgreSQL names the token at which it gave up. sqlparser tells it as a place in its message.
fn syntax_error(
    sql: &str,
    lines: &[usize],
    tokens: &[TokenWithSpan],
    error: &ParserError,
    next: &TokenWithSpan,
) -> Error {
    let message = match error {
        ParserError::RecursionLimitExceeded => return too_complex(),
        ParserError::ParserError(m) | ParserError::TokenizerError(m) => m,
    };
    if let Some(reason) = message.strip_prefix(grammar::REFUSED) {
        return Error::unsupported(reason.to_string());
    }
    if message.contains("found: EOF") {
        return Error::new(ErrorKind::Syntax, "syntax error at end of input").position(characters(sql, sql.len()));
    }
    let place = message.rsplit_once(" at Line: ").and_then(|(_, place)| {
        let (line, column) = place.split_once(", Column: ")?;
        let digits = column.find(|c: char| !c.is_ascii_digit()).unwrap_or(column.len());
        Some(Location { line: line.parse().ok()?, column: column[..digits].parse().ok()? })
    });
    let token = place.and_then(|at| tokens.iter().find(|t| t.span.start == at)).unwrap_or(next);
    let near = near(sql, lines, token);
    if may_hold_secrets(sql) {
        return near;
    }
    near.detail(message.split(" at Line: ").next().unwrap_or(message).to_string())
}

#[cfg(test)]
mod tests;
