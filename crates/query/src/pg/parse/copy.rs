//! COPY's options as sqlparser reads them.
//!
//! PostgreSQL takes any boolean word after HEADER and FREEZE (`freeze on` is what pgbench sends) and a quoted format name; sqlparser
//! takes TRUE, FALSE and a bare name. Invariant: only words inside a COPY statement change, and none moves.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Word};

/// Rewrites the options of every COPY among the tokens.
pub(super) fn plain_options(tokens: &mut [TokenWithSpan]) {
    let mut statement_starts = true;
    let mut in_copy = false;
    let mut previous = String::new();
    for token in tokens.iter_mut().filter(|t| !matches!(t.token, Token::Whitespace(_))) {
        if token.token == Token::SemiColon {
            (statement_starts, in_copy) = (true, false);
            continue;
        }
        let here = text(&token.token);
        if std::mem::take(&mut statement_starts) {
            in_copy = here == "COPY";
        } else if in_copy {
            match (previous.as_str(), &token.token) {
                ("HEADER" | "FREEZE", _) => {
                    let plain = match here.as_str() {
                        "ON" | "1" | "YES" => Some("TRUE"),
                        "OFF" | "0" | "NO" => Some("FALSE"),
                        _ => None,
                    };
                    if let Some(plain) = plain {
                        token.token = Token::make_keyword(plain);
                    }
                }
                ("FORMAT", Token::SingleQuotedString(name)) => {
                    token.token = Token::make_word(name, None);
                }
                _ => {}
            }
        }
        previous = here;
    }
}

fn text(token: &Token) -> String {
    match token {
        Token::Word(Word { value, quote_style: None, .. }) => value.to_ascii_uppercase(),
        Token::Number(digits, _) => digits.clone(),
        Token::SingleQuotedString(s) => s.to_ascii_uppercase(),
        _ => String::new(),
    }
}
