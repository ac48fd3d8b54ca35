//! A pass over the tokens: spellings of PostgreSQL's that sqlparser does not read.
//!
//! Invariant: what is left out or put into another order here is said by what comes out, as strictly or more so: row locks that let
//! key shares pass become the stronger ones beside them, options of sequences get sqlparser's order, and OVERRIDING is handed out
//! with its place.

use datafusion::sql::sqlparser::ast::{Expr, Ident, Insert, SetExpr, Setting, Statement, Value};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

/// `OVERRIDING … VALUE` of an INSERT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overriding {
    /// Values for identity columns are taken, those GENERATED ALWAYS included.
    System,
    /// Values for identity columns are left aside.
    User,
}

/// The name under which [`Overriding`] is kept in an INSERT's syntax tree, which has no field for it.
const MARK: &str = "overriding value";

impl Overriding {
    /// What an INSERT says.
    pub fn of(insert: &Insert) -> Option<Overriding> {
        let mark = insert.settings.as_ref()?.iter().find(|s| s.key.value == MARK)?;
        Some(if mark.key.quote_style.is_some() { Overriding::User } else { Overriding::System })
    }

    /// Puts it into a statement; false: the statement is no INSERT.
    pub(super) fn mark(self, statement: &mut Statement) -> bool {
        let insert = match statement {
            Statement::Insert(insert) => insert,
            Statement::Query(query) => match query.body.as_mut() {
                SetExpr::Insert(Statement::Insert(insert)) => insert,
                _ => return false,
            },
            Statement::Prepare { statement, .. } | Statement::Explain { statement, .. } => return self.mark(statement),
            _ => return false,
        };
        let key = match self {
            Overriding::System => Ident::new(MARK),
            Overriding::User => Ident::with_quote('"', MARK),
        };
        insert.settings = Some(vec![Setting { key, value: Expr::Value(Value::Null.into()) }]);
        true
    }
}

/// Changes the tokens; returns where OVERRIDING stood.
pub(super) fn respell(tokens: &mut Vec<TokenWithSpan>) -> Vec<(Location, Overriding)> {
    let mut found = vec![];
    let concerned = tokens.iter().any(|t| {
        matches!(&t.token, Token::Word(w)
            if matches!(w.keyword, Keyword::KEY | Keyword::SEQUENCE | Keyword::IDENTITY) || is(&t.token, "OVERRIDING"))
    });
    if !concerned {
        return found;
    }
    tokens.retain(|t| !matches!(t.token, Token::Whitespace(_)));
    let mut at = 0;
    while at < tokens.len() {
        let next = |n: usize, word: &str| tokens.get(at + n).is_some_and(|t| is(&t.token, word));
        if next(0, "OVERRIDING") && (next(1, "SYSTEM") || next(1, "USER")) && next(2, "VALUE") {
            let kind = if next(1, "SYSTEM") { Overriding::System } else { Overriding::User };
            found.push((tokens[at].span.start, kind));
            tokens.drain(at..at + 3);
            continue;
        }
        if next(0, "FOR") && next(1, "NO") && next(2, "KEY") && next(3, "UPDATE") {
            tokens.drain(at + 1..at + 3);
        } else if next(0, "FOR") && next(1, "KEY") && next(2, "SHARE") {
            tokens.drain(at + 1..at + 2);
        } else if next(0, "IDENTITY") && tokens.get(at + 1).is_some_and(|t| t.token == Token::LParen) {
            let end = tokens[at..].iter().position(|t| t.token == Token::RParen).map_or(tokens.len(), |n| at + n);
            order_options(&mut tokens[at + 2..end]);
        } else if next(0, "CREATE") {
            let temporary = usize::from(next(1, "TEMP") || next(1, "TEMPORARY"));
            if next(1 + temporary, "SEQUENCE") {
                let end = tokens[at..].iter().position(|t| matches!(t.token, Token::SemiColon | Token::EOF));
                let end = end.map_or(tokens.len(), |n| at + n);
                let first = tokens[at..end].iter().position(|t| rank(&t.token).is_some()).map_or(end, |n| at + n);
                order_options(&mut tokens[first..end]);
            }
        }
        at += 1;
    }
    found
}

fn is(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

/// The place of a sequence's option in sqlparser's order.
fn rank(token: &Token) -> Option<u8> {
    ["AS", "INCREMENT", "MINVALUE", "MAXVALUE", "START", "CACHE", "CYCLE", "OWNED"]
        .iter()
        .position(|word| is(token, word))
        .map(|at| at as u8)
}

/// Sorts the options of a sequence.
fn order_options(tokens: &mut [TokenWithSpan]) {
    // Each option with the tokens that belong to it.
    let mut options: Vec<(u8, Vec<TokenWithSpan>)> = vec![];
    let mut at = 0;
    while at < tokens.len() {
        let no = is(&tokens[at].token, "NO");
        let head = if no { tokens.get(at + 1) } else { Some(&tokens[at]) };
        match (head.and_then(|t| rank(&t.token)), options.last_mut()) {
            (Some(rank), _) => {
                let words = 1 + usize::from(no);
                options.push((rank, tokens[at..at + words].to_vec()));
                at += words;
            }
            (None, Some((_, option))) => {
                option.push(tokens[at].clone());
                at += 1;
            }
            // Something else: the parser will say so.
            (None, None) => return,
        }
    }
    options.sort_by_key(|(rank, _)| *rank);
    for (to, token) in tokens.iter_mut().zip(options.into_iter().flat_map(|(_, option)| option)) {
        *to = token;
    }
}
