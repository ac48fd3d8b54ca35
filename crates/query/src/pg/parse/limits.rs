//! Bounds on what the recursive parser, planner and destructors are given.
//!
//! Invariant: a token stream that passes makes trees whose depth is at most the parser's nesting limit times [`MAX_CHAIN`],
//! and in practice (one long chain) a little over [`MAX_CHAIN`].

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan};

/// Longest chain of binary operators at one level: `a + b + c …` is a tree as deep as the chain is long.
pub const MAX_CHAIN: usize = 1200;

/// Longest chain of set operations: each is a plan node, planned and optimised recursively.
const MAX_SET_OPERATIONS: usize = 500;

/// Counts operators level by level.
///
/// # Errors
/// The place where a limit is passed.
pub fn check(tokens: &[TokenWithSpan]) -> Result<(), Location> {
    // One counter pair per open parenthesis: operators since the last comma, set operations.
    let mut levels = vec![(0usize, 0usize)];
    for token in tokens {
        let Some(level) = levels.last_mut() else { return Ok(()) };
        match &token.token {
            Token::LParen | Token::LBracket => levels.push((0, 0)),
            Token::RParen | Token::RBracket => {
                if levels.len() > 1 {
                    levels.pop();
                }
                if token.token == Token::RBracket
                    && let Some(level) = levels.last_mut()
                {
                    level.0 += 1;
                }
            }
            Token::Comma => level.0 = 0,
            Token::SemiColon => *level = (0, 0),
            Token::Word(word) => match word.keyword {
                Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::COLLATE => {
                    level.0 += 1;
                }
                Keyword::JOIN => level.0 += 1,
                Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT => {
                    level.0 = 0;
                    level.1 += 1;
                }
                Keyword::SELECT | Keyword::FROM | Keyword::WHERE => level.0 = 0,
                _ => {}
            },
            Token::Whitespace(_)
            | Token::Number(..)
            | Token::SingleQuotedString(_)
            | Token::Placeholder(_)
            | Token::Period
            | Token::EOF => {}
            _ => level.0 += 1,
        }
        if levels.last().is_some_and(|(chain, sets)| *chain > MAX_CHAIN || *sets > MAX_SET_OPERATIONS)
            || levels.len() > 2000
        {
            return Err(token.span.start);
        }
    }
    Ok(())
}
