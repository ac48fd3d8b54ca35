//! Arrays in text: `{1,2,NULL,"a b",{…}}`.
//!
//! Invariant: quoting is PostgreSQL's: an element is quoted exactly when it is empty, reads as NULL, or holds a brace,
//! quote, backslash, comma or white space.

use super::{excerpt, parse, to_text};
use crate::{Error, ErrorKind, Result, SqlType, Value};

/// Deepest nesting, as in PostgreSQL.
const MAX_DEPTH: usize = 6;

fn malformed(text: &str, why: &str) -> Error {
    Error::new(ErrorKind::InvalidText, format!("malformed array literal: \"{}\"", excerpt(text))).detail(why)
}

/// Reads an array whose elements are of the type `item`.
///
/// # Errors
/// 22P02, and what reading an element gives.
pub fn parse_array(item: &SqlType, text: &str) -> Result<Vec<Value>> {
    let mut reader = Reader { text, rest: text.trim_ascii() };
    // Explicit bounds (`[0:2]={…}`) are read over: subscripts always start at one here.
    if reader.rest.starts_with('[') {
        let Some((_, body)) = reader.rest.split_once('=') else {
            return Err(malformed(text, "Missing \"=\" after array dimensions."));
        };
        reader.rest = body.trim_ascii_start();
    }
    let values = reader.array(item, 0)?;
    if !reader.rest.trim_ascii().is_empty() {
        return Err(malformed(text, "Junk after closing right brace."));
    }
    Ok(values)
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
}

impl Reader<'_> {
    fn bad(&self, why: &str) -> Error {
        malformed(self.text, why)
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn eat(&mut self, c: char) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn array(&mut self, item: &SqlType, depth: usize) -> Result<Vec<Value>> {
        if depth >= MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::ProgramLimit,
                format!("number of array dimensions exceeds the maximum allowed ({MAX_DEPTH})"),
            ));
        }
        if !self.eat('{') {
            return Err(self.bad("Array value must start with \"{\" or dimension information."));
        }
        let mut values = Vec::new();
        if self.eat('}') {
            return Ok(values);
        }
        loop {
            self.skip_space();
            if self.rest.starts_with('{') {
                let inner = match item {
                    SqlType::Array(inner) => inner,
                    _ => return Err(self.bad("Unexpected \"{\" character.")),
                };
                values.push(Value::Array(self.array(inner, depth + 1)?));
            } else {
                values.push(self.element(item)?);
            }
            if self.eat('}') {
                return Ok(values);
            }
            if !self.eat(',') {
                return Err(self.bad("Unexpected end of input."));
            }
        }
    }

    fn element(&mut self, item: &SqlType) -> Result<Value> {
        let mut raw = String::new();
        let quoted = self.eat('"');
        let mut escaped = false;
        // Bytes of `raw` that are not trailing unquoted white space.
        let mut kept = 0;
        let mut chars = self.rest.char_indices();
        let end = loop {
            let Some((at, c)) = chars.next() else { return Err(self.bad("Unexpected end of input.")) };
            match c {
                '\\' => {
                    let Some((_, next)) = chars.next() else { return Err(self.bad("Unexpected end of input.")) };
                    raw.push(next);
                    kept = raw.len();
                    escaped = true;
                }
                '"' if quoted => break at + 1,
                '"' => return Err(self.bad("Incorrectly quoted array element.")),
                ',' | '}' if !quoted => break at,
                '{' if !quoted => return Err(self.bad("Unexpected \"{\" character.")),
                c => {
                    raw.push(c);
                    if quoted || !c.is_ascii_whitespace() {
                        kept = raw.len();
                    }
                }
            }
        };
        self.rest = &self.rest[end..];
        raw.truncate(kept);
        if quoted {
            return parse(item, &raw);
        }
        if raw.is_empty() {
            return Err(self.bad("Unexpected \",\" or \"}\" character."));
        }
        if !escaped && raw.eq_ignore_ascii_case("null") { Ok(Value::Null) } else { parse(item, &raw) }
    }
}

/// Writes an array.
pub(super) fn write_array(item: &SqlType, items: &[Value], out: &mut Vec<u8>) {
    out.push(b'{');
    for (i, value) in items.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        match value {
            Value::Null => out.extend_from_slice(b"NULL"),
            Value::Array(inner) => {
                let inner_type = match item {
                    SqlType::Array(t) => t,
                    other => other,
                };
                write_array(inner_type, inner, out);
            }
            value => write_quoted_element(to_text(item, value).as_bytes(), out),
        }
    }
    out.push(b'}');
}

/// Writes the text of one array element, quoted where it must be.
pub fn write_quoted_element(text: &[u8], out: &mut Vec<u8>) {
    let special = |b: &u8| matches!(b, b'{' | b'}' | b'"' | b'\\' | b',' | b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c);
    if !text.is_empty() && !text.eq_ignore_ascii_case(b"null") && !text.iter().any(special) {
        return out.extend_from_slice(text);
    }
    out.push(b'"');
    for b in text {
        if matches!(b, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*b);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(values: &[&str]) -> Vec<Value> {
        values.iter().map(|v| Value::Text((*v).to_string())).collect()
    }

    #[test]
    fn reads_and_writes() {
        let int = SqlType::Array(Box::new(SqlType::Int4));
        let text = SqlType::Array(Box::new(SqlType::Text));
        assert_eq!(
            parse(&int, " { 1 ,NULL, -2 } ").ok(),
            Some(Value::Array(vec![Value::Int4(1), Value::Null, Value::Int4(-2)]))
        );
        assert_eq!(parse(&int, "{}").ok(), Some(Value::Array(vec![])));
        assert_eq!(parse(&int, "[0:1]={7,8}").ok(), Some(Value::Array(vec![Value::Int4(7), Value::Int4(8)])));
        let odd = texts(&["", "null", "a b", "q\"\\", "x,y", "plain"]);
        let written = to_text(&text, &Value::Array(odd.clone()));
        assert_eq!(written, "{\"\",\"null\",\"a b\",\"q\\\"\\\\\",\"x,y\",plain}");
        assert_eq!(parse(&text, &written).ok(), Some(Value::Array(odd)));
        let nested = SqlType::Array(Box::new(int.clone()));
        assert_eq!(parse(&nested, "{{1,2},{3}}").map(|v| to_text(&nested, &v)).ok().as_deref(), Some("{{1,2},{3}}"));
        for bad in ["", "1,2", "{1", "{1,}", "{,1}", "{1}x", "{\"1}", "{{1}}", "{1 2}"] {
            assert!(parse(&int, bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_survives(items in prop::collection::vec("[^\0]{0,12}", 0..6)) {
            let ty = SqlType::Array(Box::new(SqlType::Text));
            let value = Value::Array(items.into_iter().map(Value::Text).collect());
            prop_assert_eq!(parse(&ty, &to_text(&ty, &value)).ok(), Some(value));
        }

        #[test]
        fn no_text_panics(any in ".{0,40}", close in "[{},\"\\\\ 0-9nul\\[\\]=]{0,40}") {
            for item in [SqlType::Int4, SqlType::Text, SqlType::Array(Box::new(SqlType::Text))] {
                let _ = (parse_array(&item, &any), parse_array(&item, &close));
            }
        }
    }
}
