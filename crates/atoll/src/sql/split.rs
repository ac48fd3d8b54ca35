//! Cuts text into statements at the semicolons that end them.
//!
//! Invariant: a semicolon inside quotes, dollar quotes, comments or parentheses ends nothing; the pieces put together
//! are the text that came in, except for blank text between statements.

/// A part of the input that can be acted upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A statement, its semicolon included; the number of the line that it begins on.
    Statement(String, usize),
    /// A backslash command, on a line of its own.
    Meta(String, usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    Plain,
    Quote { escapes: bool },
    Ident,
    Dollar(String),
    LineComment,
    BlockComment(usize),
}

/// Gathers lines until they make statements.
#[derive(Debug)]
pub struct Splitter {
    text: String,
    first_line: usize,
    line: usize,
    mode: Mode,
    parens: usize,
}

impl Default for Splitter {
    fn default() -> Self {
        Self { text: String::new(), first_line: 1, line: 0, mode: Mode::Plain, parens: 0 }
    }
}

impl Splitter {
    /// Takes one line, without its newline.
    pub fn push(&mut self, line: &str) -> Vec<Piece> {
        self.line += 1;
        let mut pieces = Vec::new();
        if self.is_empty() && line.trim_start().starts_with('\\') {
            self.clear();
            pieces.push(Piece::Meta(line.trim().to_owned(), self.line));
            return pieces;
        }
        if self.is_empty() {
            self.clear();
        }
        let chars: Vec<char> = line.chars().chain(std::iter::once('\n')).collect();
        let mut i = 0;
        while i < chars.len() {
            if self.text.is_empty() {
                if chars[i].is_whitespace() {
                    i += 1;
                    continue;
                }
                self.first_line = self.line;
            }
            let taken = self.step(&chars[i..]);
            let ends = self.mode == Mode::Plain && self.parens == 0 && chars[i] == ';' && taken == 1;
            self.text.extend(&chars[i..i + taken]);
            i += taken;
            if ends {
                pieces.push(Piece::Statement(std::mem::take(&mut self.text), self.first_line));
            }
        }
        pieces
    }

    /// Looks at the characters ahead, changes the mode, and says how many of them it has dealt with.
    fn step(&mut self, ahead: &[char]) -> usize {
        let (c, next) = (ahead[0], ahead.get(1).copied());
        match &mut self.mode {
            Mode::Plain => match (c, next) {
                ('\'', _) => {
                    let escapes = self.text.ends_with(['e', 'E'])
                        && !self.text.chars().rev().nth(1).is_some_and(|c| c.is_alphanumeric() || c == '_');
                    self.mode = Mode::Quote { escapes };
                }
                ('"', _) => self.mode = Mode::Ident,
                ('-', Some('-')) => self.mode = Mode::LineComment,
                ('/', Some('*')) => {
                    self.mode = Mode::BlockComment(1);
                    return 2;
                }
                ('$', _) if !self.text.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') => {
                    if let Some(tag) = dollar_tag(ahead) {
                        let length = tag.chars().count();
                        self.mode = Mode::Dollar(tag);
                        return length;
                    }
                }
                ('(', _) => self.parens += 1,
                (')', _) => self.parens = self.parens.saturating_sub(1),
                _ => {}
            },
            Mode::Quote { escapes: true } if c == '\\' && next.is_some_and(|c| c != '\n') => {
                return 2;
            }
            Mode::Quote { .. } if c == '\'' => self.mode = Mode::Plain,
            Mode::Ident if c == '"' => self.mode = Mode::Plain,
            Mode::Dollar(tag) if tag.chars().zip(ahead).all(|(a, b)| a == *b) => {
                let length = tag.chars().count();
                // The tag was one line's, and a newline follows every line: what is ahead is never shorter by chance.
                if ahead.len() >= length {
                    self.mode = Mode::Plain;
                    return length;
                }
            }
            Mode::LineComment if c == '\n' => self.mode = Mode::Plain,
            Mode::BlockComment(depth) => match (c, next) {
                ('/', Some('*')) => {
                    *depth += 1;
                    return 2;
                }
                ('*', Some('/')) => {
                    *depth -= 1;
                    if *depth == 0 {
                        self.mode = Mode::Plain;
                    }
                    return 2;
                }
                _ => {}
            },
            _ => {}
        }
        1
    }

    /// Whether nothing but blanks is waiting.
    pub fn is_empty(&self) -> bool {
        self.mode == Mode::Plain && self.text.trim().is_empty()
    }

    /// Forgets what is waiting.
    pub fn clear(&mut self) {
        self.text.clear();
        self.mode = Mode::Plain;
        self.parens = 0;
    }

    /// What is waiting when the input ends: a last statement without its semicolon, unless it is only comments.
    pub fn finish(&mut self) -> Option<Piece> {
        let text = std::mem::take(&mut self.text);
        self.clear();
        let only_comments = text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with("--"));
        (!only_comments).then(|| Piece::Statement(text.trim_end().to_owned(), self.first_line))
    }

    /// The character that psql's prompt shows for what is open.
    pub fn prompt_char(&self) -> char {
        match &self.mode {
            Mode::Quote { .. } => '\'',
            Mode::Ident => '"',
            Mode::Dollar(_) => '$',
            Mode::BlockComment(_) => '*',
            _ if self.parens > 0 => '(',
            _ if self.is_empty() => '=',
            _ => '-',
        }
    }
}

fn dollar_tag(ahead: &[char]) -> Option<String> {
    let end = ahead.iter().skip(1).position(|c| *c == '$')? + 1;
    let name = &ahead[1..end];
    let valid = name.iter().all(|c| c.is_alphanumeric() || *c == '_') && !name.first().is_some_and(|c| c.is_numeric());
    valid.then(|| ahead[..=end].iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut pieces: Vec<Piece> = text.lines().flat_map(|l| splitter.push(l)).collect();
        pieces.extend(splitter.finish());
        pieces
            .into_iter()
            .map(|p| match p {
                Piece::Statement(s, line) => format!("{line}:{s}"),
                Piece::Meta(s, line) => format!("{line}:{s}"),
            })
            .collect()
    }

    #[test]
    fn semicolons_end_statements_only_in_the_open() {
        assert_eq!(split("SELECT 1; SELECT 2;"), ["1:SELECT 1;", "1:SELECT 2;"]);
        assert_eq!(split("SELECT ';', \";\" -- ;\n;"), ["1:SELECT ';', \";\" -- ;\n;"]);
        assert_eq!(split("SELECT E'\\';', 'a\\';"), ["1:SELECT E'\\';', 'a\\';"]);
        assert_eq!(split("/* ; /* ; */ ; */ SELECT 1;"), ["1:/* ; /* ; */ ; */ SELECT 1;"]);
        assert_eq!(split("DO $x$ a; $y$ b; $x$; SELECT $1;"), ["1:DO $x$ a; $y$ b; $x$;", "1:SELECT $1;"]);
        assert_eq!(split("CREATE RULE r AS (a; b);"), ["1:CREATE RULE r AS (a; b);"]);
        assert_eq!(split("SELECT 'it''s; one';"), ["1:SELECT 'it''s; one';"]);
    }

    #[test]
    fn lines_are_counted_and_the_rest_is_kept() {
        assert_eq!(split("\n\nSELECT\n1;\n\\dt\nSELECT 2"), ["3:SELECT\n1;", "5:\\dt", "6:SELECT 2"]);
        assert_eq!(split("-- nothing\n\n"), Vec::<String>::new());
    }

    #[test]
    fn the_prompt_shows_what_is_open() {
        for (text, c) in [("", '='), ("SELECT", '-'), ("SELECT 'a", '\''), ("f(", '('), ("$$ x", '$'), ("/* a", '*')] {
            let mut splitter = Splitter::default();
            splitter.push(text);
            assert_eq!(splitter.prompt_char(), c, "{text}");
        }
    }
}
