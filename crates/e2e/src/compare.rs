//! When two servers' values count as the same.
//!
//! Text is the same to the letter. Numbers are compared as numbers: `numeric` may differ in how many zeros follow the point and in
//! the last digits of a quotient, floating point in the last bits of a sum, whose order is nobody's promise.

use crate::wire::Row;

/// The kind of a column, as sqllogictest writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Integers.
    Integer,
    /// Floating point and numeric.
    Real,
    /// Everything else.
    Text,
}

impl Kind {
    /// The kind of a type.
    pub fn of(type_oid: u32) -> Self {
        match type_oid {
            20 | 21 | 23 => Kind::Integer,
            700 | 701 | 1700 => Kind::Real,
            _ => Kind::Text,
        }
    }

    /// Its letter.
    pub fn letter(self) -> char {
        match self {
            Kind::Integer => 'I',
            Kind::Real => 'R',
            Kind::Text => 'T',
        }
    }

    /// The kind with that letter.
    pub fn from_letter(letter: char) -> Option<Self> {
        Some(match letter {
            'I' => Kind::Integer,
            'R' => Kind::Real,
            'T' => Kind::Text,
            _ => return None,
        })
    }
}

/// A value as scripts write it.
pub fn written(value: Option<&str>) -> String {
    match value {
        None => "NULL".to_string(),
        Some("") => "(empty)".to_string(),
        Some(text) => text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r"),
    }
}

/// A row as scripts write it.
pub fn written_row(row: &Row) -> String {
    if row.is_empty() {
        // PostgreSQL has rows without columns; a blank line would end the record.
        return "()".to_string();
    }
    row.iter().map(|v| written(v.as_deref())).collect::<Vec<_>>().join(" | ")
}

/// Whether two written values of a column of this kind are the same.
pub fn same_value(kind: Kind, a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    if kind != Kind::Real {
        return false;
    }
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(x), Ok(y)) => x == y || (x - y).abs() <= 1e-9 * x.abs().max(y.abs()),
        _ => false,
    }
}

/// Whether two answers, as written rows, are the same; `kinds` are the columns'.
pub fn same_rows(kinds: &[Kind], a: &[String], b: &[String], ordered: bool) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let (mut a, mut b) = (a.to_vec(), b.to_vec());
    if !ordered {
        // Sort by what is exact first, so that a last digit cannot change the order.
        let key = |row: &String| {
            let values: Vec<&str> = row.split(" | ").collect();
            let (real, exact): (Vec<_>, Vec<_>) =
                values.iter().enumerate().partition(|(i, _)| kinds.get(*i) == Some(&Kind::Real));
            let text = |vs: Vec<(usize, &&str)>| vs.into_iter().map(|(_, v)| (*v).to_string()).collect::<Vec<_>>();
            let real = text(real).iter().map(|v| v.parse::<f64>().map_or(v.clone(), |x| format!("{x:.6e}"))).collect();
            // Large whole numbers that are near each other are told apart by the text.
            (text(exact), real, row.clone())
        };
        a.sort_by_cached_key(|r| -> (Vec<String>, Vec<String>, String) { key(r) });
        b.sort_by_cached_key(|r| -> (Vec<String>, Vec<String>, String) { key(r) });
    }
    a.iter().zip(&b).all(|(a, b)| {
        let (xs, ys): (Vec<&str>, Vec<&str>) = (a.split(" | ").collect(), b.split(" | ").collect());
        xs.len() == ys.len()
            && xs.iter().zip(&ys).enumerate().all(|(i, (x, y))| {
                // A value that contains the separator is text and shifts the positions: exact then.
                let kind = if xs.len() == kinds.len() { kinds[i] } else { Kind::Text };
                same_value(kind, x, y)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers_and_text_is_not() {
        let row = |s: &str| vec![s.to_string()];
        assert!(same_rows(&[Kind::Real], &row("2.5000"), &row("2.5"), false));
        assert!(!same_rows(&[Kind::Text], &row("2.5000"), &row("2.5"), false));
        assert!(!same_rows(&[Kind::Real], &row("2.5"), &row("2.6"), false));
        assert!(!same_rows(&[Kind::Real], &row("NULL"), &row("0"), false));
    }

    #[test]
    fn order_counts_only_where_it_is_asked_for() {
        let (a, b) = (vec!["1".to_string(), "2".to_string()], vec!["2".to_string(), "1".to_string()]);
        assert!(same_rows(&[Kind::Integer], &a, &b, false));
        assert!(!same_rows(&[Kind::Integer], &a, &b, true));
        assert!(!same_rows(&[Kind::Integer], &a, &a[..1], false));
        let (a, b) = (
            vec!["5000000018".to_string(), "5000000027".to_string()],
            vec!["5000000027".to_string(), "5000000018".to_string()],
        );
        assert!(same_rows(&[Kind::Real], &a, &b, false), "numbers that differ in a late digit");
    }
}
