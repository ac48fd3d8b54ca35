//! A pass over the tokens: spellings of PostgreSQL's that sqlparser does not read.
//!
//! Invariant: what is left out or put into another order here is said by what comes out, as strictly or more so: row locks that let
//! key shares pass become the stronger ones beside them, options of sequences get sqlparser's order, and OVERRIDING is handed out
//! with its place.

use datafusion::sql::sqlparser::ast::{Expr, Ident, Insert, SetExpr, Setting, Statement, Value};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Whitespace};

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

/// Texts with nothing but the end of a line between them are one. sqlparser takes the second for a name of the first.
///
/// # Errors
/// The second of two texts that do not go together.
pub(super) fn join_texts(tokens: &mut Vec<TokenWithSpan>) -> Result<(), TokenWithSpan> {
    // The last text, if nothing but space came since, and whether a line has ended.
    let mut last: Option<(usize, bool)> = None;
    let mut at = 0;
    while at < tokens.len() {
        match (&tokens[at].token, &mut last) {
            (Token::Whitespace(Whitespace::Newline | Whitespace::SingleLineComment { .. }), Some((_, ended))) => {
                *ended = true;
            }
            (Token::Whitespace(_), _) => {}
            (Token::SingleQuotedString(text), Some((first, ended))) => {
                let (text, first, ended) = (text.clone(), *first, *ended);
                let begun = match &mut tokens[first].token {
                    Token::SingleQuotedString(begun) => Some(begun),
                    // What follows is read as the first is: a backslash would be one of its escapes.
                    Token::EscapedStringLiteral(begun) | Token::UnicodeStringLiteral(begun) => {
                        Some(begun).filter(|_| !text.contains('\\'))
                    }
                    _ => None,
                };
                let Some(begun) = begun.filter(|_| ended) else { return Err(tokens[at].clone()) };
                begun.push_str(&text);
                tokens.drain(first + 1..=at);
                last = Some((first, false));
                at = first;
            }
            (token, _) => last = super::is_string(token).then_some((at, false)),
        }
        at += 1;
    }
    Ok(())
}

/// Changes the tokens; returns where OVERRIDING stood.
pub(super) fn respell(tokens: &mut Vec<TokenWithSpan>) -> Vec<(Location, Overriding)> {
    let mut found = vec![];
    let concerned = tokens.iter().any(|t| {
        matches!(&t.token, Token::Word(w)
            if matches!(w.keyword, Keyword::KEY | Keyword::SEQUENCE | Keyword::IDENTITY | Keyword::FOR | Keyword::FETCH | Keyword::TABLE)
                || is(&t.token, "OVERRIDING"))
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
        }
        let next = |n: usize, word: &str| tokens.get(at + n).is_some_and(|t| is(&t.token, word));
        if next(0, "FOR") && (next(1, "UPDATE") || next(1, "SHARE")) {
            lock_clause(tokens, at);
        } else if next(0, "FETCH") && (at == 0 || tokens[at - 1].token == Token::SemiColon) {
            fetch(tokens, at);
        } else if next(0, "TABLE") && names_a_table(tokens.get(at + 1)) && begins_query(&tokens[..at]) {
            table_query(tokens, at);
        } else if next(0, "IDENTITY") && tokens.get(at + 1).is_some_and(|t| t.token == Token::LParen) {
            let end = tokens[at..].iter().position(|t| t.token == Token::RParen).map_or(tokens.len(), |n| at + n);
            order_options(&mut tokens[at + 2..end]);
        } else if next(0, "CREATE") {
            let temporary = usize::from(next(1, "TEMP") || next(1, "TEMPORARY"));
            if next(1 + temporary, "SEQUENCE") {
                let end = tokens[at..].iter().position(|t| matches!(t.token, Token::SemiColon | Token::EOF));
                let end = end.map_or(tokens.len(), |n| at + n);
                let first = tokens[at..end].iter().position(|t| rank(&t.token).is_some()).map_or(end, |n| at + n);
                // The first may be NO CYCLE.
                let first = if first > at && is(&tokens[first - 1].token, "NO") { first - 1 } else { first };
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

/// `FOR UPDATE OF a, b` as one clause for each, and behind LIMIT and OFFSET, which PostgreSQL takes on either side.
fn lock_clause(tokens: &mut Vec<TokenWithSpan>, at: usize) {
    let word = |n: usize, word: &str| tokens.get(n).is_some_and(|t| is(&t.token, word));
    let mut end = at + 2;
    let mut names = vec![];
    if word(end, "OF") {
        let mut start = end + 1;
        end = start;
        while matches!(tokens.get(end).map(|t| &t.token), Some(Token::Word(_) | Token::Period | Token::Comma))
            && !(word(end, "NOWAIT")
                || word(end, "SKIP")
                || word(end, "FOR")
                || word(end, "LIMIT")
                || word(end, "OFFSET"))
        {
            if tokens[end].token == Token::Comma {
                names.push(tokens[start..end].to_vec());
                start = end + 1;
            }
            end += 1;
        }
        names.push(tokens[start..end].to_vec());
    }
    let option = end;
    if word(end, "NOWAIT") {
        end += 1;
    } else if word(end, "SKIP") && word(end + 1, "LOCKED") {
        end += 2;
    }
    let (head, option) = (tokens[at..at + 2].to_vec(), tokens[option..end].to_vec());
    let mut clause = vec![];
    if names.is_empty() {
        clause.extend(head.iter().chain(&option).cloned());
    }
    let of = tokens.get(at + 2).cloned();
    for name in names {
        clause.extend(head.iter().chain(&of).chain(&name).chain(&option).cloned());
    }
    // What follows up to the end of this query, if it is LIMIT or OFFSET.
    let mut after = end;
    if word(end, "LIMIT") || word(end, "OFFSET") {
        let mut depth = 0usize;
        while let Some(token) = tokens.get(after) {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen if depth == 0 => break,
                Token::RParen => depth -= 1,
                Token::SemiColon | Token::EOF => break,
                _ => {}
            }
            after += 1;
        }
    }
    let limits = tokens[end..after].to_vec();
    tokens.splice(at..after, limits.into_iter().chain(clause));
}

/// `SELECT` of nothing from nothing, which sqlparser takes from a table only: a table of one row is put there.
pub(super) fn select_nothing(tokens: &mut Vec<TokenWithSpan>) {
    let mut at = 0;
    while at < tokens.len() {
        let select = is(&tokens[at].token, "SELECT");
        at += 1;
        if !select {
            continue;
        }
        let next = tokens[at..].iter().find(|t| !matches!(t.token, Token::Whitespace(_)));
        let nothing = next.is_none_or(|t| {
            matches!(t.token, Token::EOF | Token::SemiColon | Token::RParen)
                || ["WHERE", "UNION", "INTERSECT", "EXCEPT", "LIMIT"].iter().any(|word| is(&t.token, word))
        });
        if nothing {
            let span = tokens[at - 1].span;
            let word = Token::make_keyword;
            let one = || Token::Number("1".into(), false);
            let name = Token::make_word("nothing", Some('"'));
            let table = [word("FROM"), Token::LParen, word("SELECT"), one(), Token::RParen];
            let made = table.into_iter().chain([word("AS"), name]).map(|token| TokenWithSpan { token, span });
            tokens.splice(at..at, made);
            at += 7;
        }
    }
}

/// Whether a query may stand behind these tokens.
fn begins_query(before: &[TokenWithSpan]) -> bool {
    let Some(last) = before.last() else { return true };
    matches!(last.token, Token::SemiColon | Token::LParen)
        || ["UNION", "ALL", "DISTINCT", "INTERSECT", "EXCEPT", "AS", "EXPLAIN"].iter().any(|word| is(&last.token, word))
}

/// What follows TABLE in a query; in `OPTIONS (table 'x')` a string does.
fn names_a_table(token: Option<&TokenWithSpan>) -> bool {
    token.is_some_and(|t| matches!(t.token, Token::Word(_)))
}

/// `TABLE t` is `SELECT * FROM t`.
fn table_query(tokens: &mut Vec<TokenWithSpan>, at: usize) {
    let span = tokens[at].span;
    let words = [Token::make_keyword("SELECT"), Token::Mul, Token::make_keyword("FROM")];
    tokens.splice(at..=at, words.map(|token| TokenWithSpan { token, span }));
}

/// `FETCH c` and `FETCH 3 c`: sqlparser needs a direction, and FROM.
fn fetch(tokens: &mut Vec<TokenWithSpan>, at: usize) {
    let end = tokens[at..].iter().position(|t| matches!(t.token, Token::SemiColon | Token::EOF));
    let end = end.map_or(tokens.len(), |n| at + n);
    if end < at + 2 || is(&tokens[end - 2].token, "FROM") || is(&tokens[end - 2].token, "IN") {
        return;
    }
    let made = |word: &str| TokenWithSpan { token: Token::make_keyword(word), span: tokens[end - 1].span };
    let mut words = vec![made("FROM")];
    if end == at + 2 {
        words.insert(0, made("NEXT"));
    }
    tokens.splice(end - 1..end - 1, words);
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
