//! `json` (checked, kept as given) and `jsonb` (normalised) in text.
//!
//! Invariant: a normalised text is what PostgreSQL prints for the `jsonb`: keys ordered by length, then bytes; of equal keys
//! the last; numbers without exponent and with the digits given; `": "` and `", "` between. So equal values have equal texts.

use super::excerpt;
use crate::{Error, ErrorKind, Result};
use std::fmt::Write as _;

/// Deepest nesting that is read: recursion stays far from the stack's end.
const MAX_DEPTH: usize = 512;
/// Largest exponent of a number that is written out.
const MAX_EXPONENT: i64 = 1_000;

enum Node<'a> {
    Word(&'static str),
    Number(&'a str),
    Text(String),
    Array(Vec<Node<'a>>),
    Object(Vec<(String, Node<'a>)>),
}

/// Checks that a text is JSON.
///
/// # Errors
/// 22P02.
pub fn check_json(text: &str) -> Result<()> {
    read(text, false).map(|_| ())
}

/// The text that PostgreSQL prints for this `jsonb`.
///
/// # Errors
/// 22P02; 22003 for numbers with absurd exponents.
pub fn normalise_jsonb(text: &str) -> Result<String> {
    let node = read(text, true)?;
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    print(&node, &mut out)?;
    Ok(out)
}

fn read(text: &str, strict: bool) -> Result<Node<'_>> {
    let mut reader = Reader { text, at: 0, strict };
    let node = reader.value(0)?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.bad());
    }
    Ok(node)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// jsonb: `\u0000` and lone surrogates are refused.
    strict: bool,
}

impl<'a> Reader<'a> {
    fn bad(&self) -> Error {
        let rest = &self.text[self.at.min(self.text.len())..];
        let why = match rest.chars().next() {
            None => "The input string ended unexpectedly.".to_string(),
            Some(_) => format!("Unexpected input at \"{}\".", excerpt(rest)),
        };
        Error::new(ErrorKind::InvalidText, "invalid input syntax for type json").detail(why)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, b: u8) -> bool {
        self.space();
        let found = self.peek() == Some(b);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, b: u8) -> Result<()> {
        if self.eat(b) { Ok(()) } else { Err(self.bad()) }
    }

    fn value(&mut self, depth: usize) -> Result<Node<'a>> {
        if depth > MAX_DEPTH {
            return Err(Error::new(ErrorKind::ProgramLimit, format!("json nested deeper than {MAX_DEPTH} levels")));
        }
        self.space();
        match self.peek() {
            Some(b'{') => {
                self.at += 1;
                let mut members = Vec::new();
                if self.eat(b'}') {
                    return Ok(Node::Object(members));
                }
                loop {
                    self.space();
                    let key = self.string()?;
                    self.expect(b':')?;
                    members.push((key, self.value(depth + 1)?));
                    if self.eat(b'}') {
                        return Ok(Node::Object(members));
                    }
                    self.expect(b',')?;
                }
            }
            Some(b'[') => {
                self.at += 1;
                let mut items = Vec::new();
                if self.eat(b']') {
                    return Ok(Node::Array(items));
                }
                loop {
                    items.push(self.value(depth + 1)?);
                    if self.eat(b']') {
                        return Ok(Node::Array(items));
                    }
                    self.expect(b',')?;
                }
            }
            Some(b'"') => Ok(Node::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                for word in ["true", "false", "null"] {
                    if self.text[self.at..].starts_with(word) {
                        self.at += word.len();
                        return Ok(Node::Word(word));
                    }
                }
                Err(self.bad())
            }
        }
    }

    fn digits(&mut self) -> Result<()> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.bad()) } else { Ok(()) }
    }

    fn number(&mut self) -> Result<Node<'a>> {
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        if self.peek().is_some_and(|b| b.is_ascii_alphanumeric()) {
            return Err(self.bad());
        }
        Ok(Node::Number(&self.text[start..self.at]))
    }

    fn string(&mut self) -> Result<String> {
        if self.peek() != Some(b'"') {
            return Err(self.bad());
        }
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|b| b != b'"' && b != b'\\' && b >= 0x20) {
                self.at += 1;
            }
            // Both ends stand at ASCII bytes or the text's end, so they are character boundaries.
            out.push_str(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => self.escape(&mut out)?,
                _ => return Err(self.bad()),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<()> {
        self.at += 1;
        let c = self.peek().ok_or_else(|| self.bad())?;
        out.push(match c {
            b'"' | b'\\' | b'/' => c as char,
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                let unit = self.hex()?;
                out.push(self.unicode(unit)?);
                return Ok(());
            }
            _ => return Err(self.bad()),
        });
        self.at += 1;
        Ok(())
    }

    fn hex(&mut self) -> Result<u32> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).ok_or_else(|| self.bad())?;
        let mut unit = 0;
        for d in digits {
            unit = unit * 16 + (*d as char).to_digit(16).ok_or_else(|| self.bad())?;
        }
        self.at += 4;
        Ok(unit)
    }

    /// The character of a `\u` escape whose four digits make `unit`: with the low surrogate of the next escape where it is a high one.
    fn unicode(&mut self, unit: u32) -> Result<char> {
        let code = match unit {
            0xd800..=0xdbff if self.text[self.at..].starts_with("\\u") => {
                let before = self.at;
                self.at += 2;
                match self.hex()? {
                    low @ 0xdc00..=0xdfff => 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00),
                    _ => {
                        self.at = before;
                        unit
                    }
                }
            }
            unit => unit,
        };
        if self.strict && code == 0 {
            return Err(Error::new(ErrorKind::InvalidText, "unsupported Unicode escape sequence")
                .detail("\\u0000 cannot be converted to text."));
        }
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None if self.strict => Err(self.bad()),
            None => Ok(char::REPLACEMENT_CHARACTER),
        }
    }
}

fn print(node: &Node<'_>, out: &mut String) -> Result<()> {
    match node {
        Node::Word(word) => out.push_str(word),
        Node::Number(text) => print_number(text, out)?,
        Node::Text(text) => print_text(text, out),
        Node::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                print(item, out)?;
            }
            out.push(']');
        }
        Node::Object(members) => {
            let mut sorted: Vec<&(String, Node<'_>)> = members.iter().collect();
            // Stable: of equal keys the last one stays last, and is kept.
            sorted.sort_by(|a, b| a.0.len().cmp(&b.0.len()).then_with(|| a.0.as_bytes().cmp(b.0.as_bytes())));
            out.push('{');
            let mut first = true;
            for (i, (key, value)) in sorted.iter().enumerate() {
                if sorted.get(i + 1).is_some_and(|next| next.0 == *key) {
                    continue;
                }
                if !first {
                    out.push_str(", ");
                }
                first = false;
                print_text(key, out);
                out.push_str(": ");
                print(value, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn print_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Writes the exponent out, as numeric does: `1.50e1` is `15.0`.
fn print_number(text: &str, out: &mut String) -> Result<()> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent
        .parse()
        .ok()
        .filter(|e: &i64| e.abs() <= MAX_EXPONENT)
        .ok_or_else(|| Error::new(ErrorKind::NumericOutOfRange, "value overflows numeric format"))?;
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: String = [whole, fraction].concat();
    // Where the point stands, counted from the first digit. Both lengths are those of a text in memory.
    let point = whole.len() as i64 + exponent;
    let scale = (fraction.len() as i64 - exponent).max(0) as usize;
    let zero = digits.bytes().all(|b| b == b'0');
    if negative && !zero {
        out.push('-');
    }
    let digit = |at: i64| usize::try_from(at).ok().and_then(|i| digits.as_bytes().get(i)).map_or('0', |b| *b as char);
    let whole: String = (0..point).map(digit).collect();
    let whole = whole.trim_start_matches('0');
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        out.push('.');
        out.extend((0..scale as i64).map(|i| digit(point + i)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The right-hand sides were printed by PostgreSQL 15.
    #[test]
    fn normalises_as_postgres_does() {
        for (text, want) in [
            ("{}", "{}"),
            (" [ ] ", "[]"),
            ("{\"bb\":1,\"a\":[1,2, null],\"bb\":{\"x\":true}}", "{\"a\": [1, 2, null], \"bb\": {\"x\": true}}"),
            ("1.10", "1.10"),
            ("-0", "0"),
            ("1e2", "100"),
            ("1.5e-3", "0.0015"),
            ("1.50e1", "15.0"),
            ("12345678901234567890.5", "12345678901234567890.5"),
            ("\"a\\u0041\\n\\/\\ud83d\\ude00\"", "\"aA\\n/😀\""),
        ] {
            assert_eq!(normalise_jsonb(text).ok().as_deref(), Some(want), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_json() {
        for bad in [
            "",
            "{",
            "[1,]",
            "{\"a\"}",
            "{a:1}",
            "01",
            "1.",
            "-",
            "tru",
            "\"\u{1}\"",
            "\"\\x\"",
            "1 2",
            "nul",
            "\"\\u12\"",
            "1x",
        ] {
            assert!(check_json(bad).is_err(), "{bad}");
        }
        assert!(check_json("\"\\u0000\"").is_ok());
        assert!(normalise_jsonb("\"\\u0000\"").is_err());
        assert!(normalise_jsonb("\"\\ud800\"").is_err());
        assert_eq!(normalise_jsonb("1e99999999999").map_err(|e| e.kind()), Err(ErrorKind::NumericOutOfRange));
        let deep = "[".repeat(100_000);
        assert_eq!(check_json(&deep).map_err(|e| e.kind()), Err(ErrorKind::ProgramLimit));
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "[\\[\\]{}:,\"a-c0-9.eE+\\- \\\\untrflsu]{0,40}") {
            if let Ok(once) = normalise_jsonb(&text) {
                prop_assert_eq!(normalise_jsonb(&once).ok(), Some(once));
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = (check_json(&text), normalise_jsonb(&text));
        }
    }
}
