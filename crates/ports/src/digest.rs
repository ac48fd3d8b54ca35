//! Digests: numbers by which two copies are known to hold the same rows, without the rows being sent.
//!
//! A row's *canonical text* has, for each column in the table's order, `N` for NULL, or else the length of the value's text in bytes, a colon,
//! and that text as [`atoll_model::text`] writes it, `char(n)` without its padding and zero without a sign. Lengths keep columns apart, so no two rows
//! share a text. A row's hash is the first [`HASH_DIGITS`] hexadecimal digits of the text's SHA-256, as a number; a digest is the number
//! of rows and the sum of their hashes. Rows may come in any order, and digests of parts add up to that of the whole.
//!
//! Invariant: an engine that computes a digest in its own SQL gets what this file gets for the same rows. That different rows have the
//! same digest happens by accident only, once in 2^60 times; nobody is kept from making such rows on purpose.

use crate::rows::value_at;
use crate::session::BatchStream;
use crate::site::{KeyRange, Replica, ScanRequest};
use atoll_model::{Result, SqlType, Value, text};
use futures::TryStreamExt as _;

/// Hexadecimal digits of a hash that are used. Such a number fits a signed one of 64 bits, in every engine.
pub const HASH_DIGITS: usize = 15;

/// Rows that are read at once where a site does not compute digests itself.
const BATCH: usize = 1024;

/// The digest of a set of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    /// How many there are.
    pub rows: u64,
    /// The sum of their hashes. It cannot overflow: 2^64 rows would not do it.
    pub sum: u128,
}

impl Digest {
    /// Adds a row, by its canonical text.
    pub fn add(&mut self, canonical: &[u8]) {
        let hash = ring::digest::digest(&ring::digest::SHA256, canonical);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_ref()[..8]);
        self.rows += 1;
        self.sum += u128::from(u64::from_be_bytes(first) >> (64 - 4 * HASH_DIGITS));
    }

    /// The digest of both sets of rows together.
    #[must_use]
    pub fn plus(self, other: Digest) -> Digest {
        Digest { rows: self.rows + other.rows, sum: self.sum + other.sum }
    }
}

/// Appends a row's canonical text; the types are those of its columns.
pub fn write_canonical<'a>(values: impl IntoIterator<Item = (&'a SqlType, &'a Value)>, out: &mut Vec<u8>) {
    let mut written = vec![];
    for (ty, value) in values {
        written.clear();
        match (ty, value) {
            (_, Value::Null) => {
                out.push(b'N');
                continue;
            }
            (SqlType::Char(_), Value::Text(unpadded)) => written.extend_from_slice(unpadded.as_bytes()),
            (SqlType::Float4 | SqlType::Float8 | SqlType::Array(_), value) => {
                text::write(ty, &without_negative_zero(value), &mut written);
            }
            (ty, value) => text::write(ty, value, &mut written),
        }
        text::write_int(written.len(), out);
        out.push(b':');
        out.extend_from_slice(&written);
    }
}

/// A zero has no sign: not all engines keep it.
fn without_negative_zero(value: &Value) -> Value {
    match value {
        // Adding zero changes nothing else, be it infinite or no number.
        Value::Float4(v) => Value::Float4(v + 0.0),
        Value::Float8(v) => Value::Float8(v + 0.0),
        Value::Array(items) => Value::Array(items.iter().map(without_negative_zero).collect()),
        other => other.clone(),
    }
}

/// A scan of all columns of a range of the key.
pub fn whole_rows(at: &Replica, range: &KeyRange) -> ScanRequest {
    ScanRequest {
        columns: (0..at.table.columns.len()).collect(),
        index: None,
        range: range.clone(),
        reverse: false,
        limit: None,
        batch_size: BATCH,
    }
}

/// The digest of what such a scan gives.
///
/// # Errors
/// Those of the scan.
pub async fn of_scan(at: &Replica, mut batches: BatchStream) -> Result<Digest> {
    let types: Vec<&SqlType> = at.table.columns.iter().map(|column| &column.ty).collect();
    let (mut digest, mut canonical) = (Digest::default(), vec![]);
    while let Some(batch) = batches.try_next().await? {
        for row in 0..batch.num_rows() {
            let cells = types.iter().zip(batch.columns());
            let values: Vec<Value> = cells.map(|(ty, array)| value_at(array, row, ty)).collect::<Result<_>>()?;
            canonical.clear();
            write_canonical(types.iter().copied().zip(&values), &mut canonical);
            digest.add(&canonical);
        }
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(row: &[(SqlType, Value)]) -> String {
        let mut out = vec![];
        write_canonical(row.iter().map(|(ty, value)| (ty, value)), &mut out);
        String::from_utf8(out).expect("these values are text")
    }

    #[test]
    fn columns_are_kept_apart() {
        let text = |t: &str| (SqlType::Text, Value::Text(t.into()));
        assert_eq!(canonical(&[text("a"), text("bc")]), "1:a2:bc");
        assert_eq!(canonical(&[text("ab"), text("c")]), "2:ab1:c");
        assert_eq!(canonical(&[(SqlType::Text, Value::Null), text("")]), "N0:");
        assert_eq!(canonical(&[text("N"), text("ä")]), "1:N2:ä");
        assert_eq!(canonical(&[(SqlType::Float8, Value::Float8(-0.0))]), "1:0");
        assert_eq!(canonical(&[(SqlType::Char(4), Value::Text("x".into()))]), "1:x");
        assert_eq!(canonical(&[(SqlType::Numeric(Some((5, 2))), Value::Numeric(150, 2))]), "4:1.50");
        assert_eq!(canonical(&[(SqlType::Numeric(None), Value::Numeric(15 * 10i128.pow(9), 10))]), "3:1.5");
    }

    #[test]
    fn the_order_of_rows_does_not_matter() {
        let of = |rows: &[&str]| {
            let mut digest = Digest::default();
            rows.iter().for_each(|row| digest.add(row.as_bytes()));
            digest
        };
        assert_eq!(of(&["1:a", "1:b"]), of(&["1:b", "1:a"]));
        assert_ne!(of(&["1:a", "1:b"]), of(&["1:a", "1:c"]));
        assert_ne!(of(&["1:a", "1:a"]), of(&["1:a"]));
        // The first 15 digits of what sha256sum says.
        assert_eq!(of(&["abc"]), Digest { rows: 1, sum: 0x0ba7_816b_f8f0_1cfe });
    }
}
