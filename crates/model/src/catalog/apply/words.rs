//! Column names in stored SQL text (CHECK, DEFAULT, views): found and renamed as words, since the catalog has no parser.
//!
//! Invariant: finding errs on the side of finding. String literals are skipped; a word that is followed by `(` is a function.

/// A piece of SQL text.
enum Piece<'a> {
    /// An identifier, folded as SQL does.
    Word { folded: String, function: bool, text: &'a str },
    /// Anything else, literals included.
    Other(&'a str),
}

fn pieces(sql: &str) -> Vec<Piece<'_>> {
    let mut pieces = vec![];
    let mut rest = sql;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' => quoted(rest, '\''),
            '"' => quoted(rest, '"'),
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (text, tail) = rest.split_at(length);
        rest = tail;
        pieces.push(if first == '"' {
            let inner = text.trim_matches('"').replace("\"\"", "\"");
            Piece::Word { folded: inner, function: false, text }
        } else if is_word(first) && !first.is_ascii_digit() {
            Piece::Word { folded: text.to_lowercase(), function: tail.trim_start().starts_with('('), text }
        } else {
            Piece::Other(text)
        });
    }
    pieces
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Length of a quoted text, with doubled quotes inside.
fn quoted(text: &str, quote: char) -> usize {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            match chars.peek() {
                Some((_, next)) if *next == quote => {
                    chars.next();
                }
                _ => return at + 1,
            }
        }
    }
    text.len()
}

/// Whether SQL text names a column.
pub(super) fn names_column(sql: &str, column: &str) -> bool {
    pieces(sql).iter().any(|p| matches!(p, Piece::Word { folded, function: false, .. } if folded == column))
}

/// Whether a query may read a column: names it, or takes all with `*`.
pub(super) fn may_read_column(query: &str, column: &str) -> bool {
    names_column(query, column) || pieces(query).iter().any(|p| matches!(p, Piece::Other("*")))
}

/// The text with a column renamed.
pub(super) fn rename_column(sql: &str, from: &str, to: &str) -> String {
    let plain = to.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && to.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let replacement = if plain { to.to_string() } else { format!("\"{}\"", to.replace('"', "\"\"")) };
    pieces(sql)
        .iter()
        .map(|p| match p {
            Piece::Word { folded, function: false, .. } if folded == from => replacement.as_str(),
            Piece::Word { text, .. } | Piece::Other(text) => text,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{may_read_column, names_column, rename_column};

    #[test]
    fn words_are_found_outside_of_literals() {
        assert!(names_column("price > 0 AND Name <> 'x'", "name"));
        assert!(names_column("\"Odd name\" > 0", "Odd name"));
        assert!(!names_column("kind <> 'price'", "price"));
        assert!(!names_column("lower(kind) = 'a'", "lower"));
        assert!(may_read_column("SELECT * FROM t", "anything"));
    }

    #[test]
    fn renaming_leaves_the_rest_as_it_is() {
        assert_eq!(rename_column("a > 0 AND b <> 'a' AND a(a) = \"a\"", "a", "c"), "c > 0 AND b <> 'a' AND a(c) = c");
        assert_eq!(rename_column("a > 0", "a", "New one"), "\"New one\" > 0");
    }
}
