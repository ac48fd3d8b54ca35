//! Horizontal fragmentation: which fragment a row belongs to, and which fragments a predicate can meet (reduction).
//!
//! Invariants (Özsu & Valduriez, section 2.1.1): fragments are complete (a row without a fragment is refused) and disjoint (bounds
//! never overlap). Reduction may keep a fragment too many, never one too few.

use crate::{ColumnId, FragmentId, RelationId, Table, Value};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::ops::Bound;

/// How a table's rows are split. A closed set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fragmentation {
    /// One fragment holds all rows.
    None,
    /// By the values of a column.
    List(ColumnId),
    /// By ranges of a tuple of columns.
    Range(Vec<ColumnId>),
    /// By a hash of columns.
    Hash(Vec<ColumnId>),
    /// As the parent's row with the same value is (derived horizontal fragmentation). Fragment i of the child belongs to the
    /// parent's fragment named in its bounds.
    Derived {
        /// The parent.
        parent: RelationId,
        /// The child's column.
        column: ColumnId,
        /// The parent's column.
        parent_column: ColumnId,
        /// The parent is itself fragmented by `parent_column` alone, so the fragment follows from the value; otherwise the
        /// parent's row has to be looked up (and must exist).
        direct: bool,
    },
}

/// Which rows belong to a fragment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FragmentBounds {
    /// All rows (the only fragment).
    All,
    /// These values; NULL may be one.
    List(Vec<Value>),
    /// From (inclusive) to (exclusive).
    Range {
        /// Lower bound, one for each column.
        from: Vec<RangeBound>,
        /// Upper bound.
        to: Vec<RangeBound>,
    },
    /// Rows whose hash leaves this remainder.
    Hash {
        /// The divisor.
        modulus: u32,
        /// The remainder.
        remainder: u32,
    },
    /// The rows of this parent's fragment.
    Derived(FragmentId),
    /// What no other fragment takes.
    Default,
}

/// One column's part of a range's bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RangeBound {
    /// MINVALUE
    Min,
    /// A value.
    Value(Value),
    /// MAXVALUE
    Max,
}

/// Where a row belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Position in [`Table::fragments`].
    Fragment(usize),
    /// Where the parent's row is; the caller looks it up.
    WithParent,
    /// No fragment takes it: 23514.
    Nowhere,
}

/// What is known of a column's value in the rows that a predicate keeps.
#[derive(Clone, Debug, PartialEq)]
pub enum Domain {
    /// One of these; `Null` stands for IS NULL.
    Values(Vec<Value>),
    /// Between these; never NULL.
    Range(Bound<Value>, Bound<Value>),
}

impl Table {
    /// The fragment of a row.
    pub fn place(&self, row: &[Value]) -> Place {
        match &self.fragmentation {
            Fragmentation::None => Place::Fragment(0),
            Fragmentation::Derived { direct: false, .. } => Place::WithParent,
            _ => {
                let key: Vec<&Value> = self.fragmentation_positions().into_iter().map(|p| &row[p]).collect();
                self.place_key(&key).map_or(Place::Nowhere, Place::Fragment)
            }
        }
    }

    /// Positions of the columns that fragmentation looks at.
    pub fn fragmentation_positions(&self) -> Vec<usize> {
        match &self.fragmentation {
            Fragmentation::None => vec![],
            Fragmentation::List(c) | Fragmentation::Derived { column: c, .. } => {
                self.position(*c).into_iter().collect()
            }
            Fragmentation::Range(cs) | Fragmentation::Hash(cs) => cs.iter().filter_map(|c| self.position(*c)).collect(),
        }
    }

    /// The fragment for values of the fragmentation columns (in their order); `None`: nowhere, or only the parent's row tells.
    pub fn place_key(&self, key: &[&Value]) -> Option<usize> {
        let hash = std::cell::LazyCell::new(|| hash_values(key));
        let mut default = None;
        for (at, fragment) in self.fragments.iter().enumerate() {
            let inside = match &fragment.bounds {
                FragmentBounds::All => true,
                FragmentBounds::List(values) => key.first().is_some_and(|k| values.iter().any(|v| v.matches(k))),
                FragmentBounds::Range { from, to } => {
                    !key.iter().any(|k| k.is_null())
                        && compare_bound(key, from) != Ordering::Less
                        && compare_bound(key, to) == Ordering::Less
                }
                FragmentBounds::Hash { modulus: 1, .. } => true,
                FragmentBounds::Hash { modulus, remainder } => *hash % u64::from(*modulus) == u64::from(*remainder),
                FragmentBounds::Derived(_) => false,
                FragmentBounds::Default => {
                    default = Some(at);
                    false
                }
            };
            if inside {
                return Some(at);
            }
        }
        default
    }

    /// The fragments (ascending positions) that can hold rows for which all of these domains hold.
    pub fn reduce(&self, domains: &[(ColumnId, Domain)]) -> Vec<usize> {
        let all = 0..self.fragments.len();
        let domain = |c: ColumnId| domains.iter().filter(move |(d, _)| *d == c).map(|(_, d)| d);
        let columns: &[ColumnId] = match &self.fragmentation {
            Fragmentation::None | Fragmentation::Derived { direct: false, .. } => return all.collect(),
            Fragmentation::List(c) | Fragmentation::Derived { column: c, .. } => std::slice::from_ref(c),
            Fragmentation::Range(cs) | Fragmentation::Hash(cs) => cs,
        };
        // Values for every column: compute the exact fragments, as long as the combinations are few.
        const MAX_COMBINATIONS: usize = 4096;
        let mut keys: Option<Vec<Vec<&Value>>> = Some(vec![vec![]]);
        for c in columns {
            let values = domain(*c).find_map(|d| match d {
                Domain::Values(vs) => Some(vs),
                Domain::Range(..) => None,
            });
            keys = match (keys, values) {
                (Some(ks), Some(vs)) if ks.len() * vs.len() <= MAX_COMBINATIONS => {
                    Some(ks.iter().flat_map(|k| vs.iter().map(|v| k.iter().copied().chain([v]).collect())).collect())
                }
                _ => None,
            };
        }
        if let Some(keys) = keys {
            let mut kept: Vec<usize> = keys.iter().filter_map(|k| self.place_key(k)).collect();
            kept.sort_unstable();
            kept.dedup();
            return kept;
        }
        // Otherwise only the first column of a list or range narrows.
        let Some(first) = columns.first() else { return all.collect() };
        all.filter(|at| {
            domain(*first).all(|d| match (&self.fragments[*at].bounds, d) {
                (FragmentBounds::List(values), d) => values.iter().any(|v| d.contains(v)),
                (FragmentBounds::Range { from, to }, Domain::Range(lo, hi)) => {
                    overlaps(from, to, lo, hi, columns.len())
                }
                (FragmentBounds::Range { from, to }, Domain::Values(vs)) => vs.iter().any(|v| {
                    !v.is_null()
                        && overlaps(from, to, &Bound::Included(v.clone()), &Bound::Included(v.clone()), columns.len())
                }),
                _ => true,
            })
        })
        .collect()
    }
}

impl Domain {
    /// Whether a value can be in it.
    pub fn contains(&self, value: &Value) -> bool {
        match self {
            Domain::Values(vs) => vs.iter().any(|v| v.matches(value)),
            Domain::Range(lo, hi) => {
                let above = match lo {
                    Bound::Unbounded => true,
                    Bound::Included(b) => value.compare(b).is_none_or(Ordering::is_ge),
                    Bound::Excluded(b) => value.compare(b).is_none_or(Ordering::is_gt),
                };
                let below = match hi {
                    Bound::Unbounded => true,
                    Bound::Included(b) => value.compare(b).is_none_or(Ordering::is_le),
                    Bound::Excluded(b) => value.compare(b).is_none_or(Ordering::is_lt),
                };
                !value.is_null() && above && below
            }
        }
    }
}

/// Compares a key with a range's bound, column by column; a key that is a prefix of the bound's value equals it.
fn compare_bound(key: &[&Value], bound: &[RangeBound]) -> Ordering {
    for (k, b) in key.iter().zip(bound) {
        let order = match b {
            RangeBound::Min => Ordering::Greater,
            RangeBound::Max => Ordering::Less,
            RangeBound::Value(v) => k.compare(v).unwrap_or(Ordering::Equal),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// Whether the first column of a range fragment can hold a value between `lo` and `hi`.
fn overlaps(from: &[RangeBound], to: &[RangeBound], lo: &Bound<Value>, hi: &Bound<Value>, columns: usize) -> bool {
    let starts_before_end = match (from.first(), hi) {
        (Some(RangeBound::Value(f)), Bound::Included(h)) => f.compare(h).is_none_or(Ordering::is_le),
        (Some(RangeBound::Value(f)), Bound::Excluded(h)) => f.compare(h).is_none_or(Ordering::is_lt),
        (Some(RangeBound::Max), _) => false,
        _ => true,
    };
    // With one column the upper bound is exclusive; with several, its first column may be reached.
    let ends_after_start = match (to.first(), lo) {
        (Some(RangeBound::Value(t)), Bound::Included(l) | Bound::Excluded(l)) => {
            t.compare(l).is_none_or(|o| if columns == 1 { o.is_gt() } else { o.is_ge() })
        }
        (Some(RangeBound::Min), _) => false,
        _ => true,
    };
    starts_before_end && ends_after_start
}

/// The hash that places rows: FNV-1a over a canonical form, finished with MurmurHash3's 64-bit finaliser. It is part of the
/// format on disk: values that SQL calls equal hash alike (integers of all widths, numerics of all scales, both zeros).
pub fn hash_values(values: &[&Value]) -> u64 {
    let mut h: u64 = 0xcbf2_9ce4_8422_2325;
    let mut feed = |bytes: &[u8]| {
        for b in bytes {
            h = (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for v in values {
        feed_value(v, &mut feed);
    }
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

fn feed_value(value: &Value, feed: &mut impl FnMut(&[u8])) {
    match value {
        Value::Null => feed(&[0]),
        Value::Bool(b) => feed(&[1, u8::from(*b)]),
        Value::Int2(_) | Value::Int4(_) | Value::Int8(_) => {
            feed(&[2]);
            feed(&value.as_i64().unwrap_or_default().to_le_bytes());
        }
        Value::Float4(f) => feed_float(f64::from(*f), feed),
        Value::Float8(f) => feed_float(*f, feed),
        Value::Numeric(unscaled, scale) => {
            let (mut n, mut s) = (*unscaled, *scale);
            while n != 0 && n % 10 == 0 {
                n /= 10;
                s -= 1;
            }
            feed(&[4, if n == 0 { 0 } else { s as u8 }]);
            feed(&n.to_le_bytes());
        }
        Value::Text(t) => {
            feed(&[5]);
            feed(t.as_bytes());
            feed(&[0xff]);
        }
        Value::Bytea(b) => {
            feed(&[6]);
            feed(&(b.len() as u64).to_le_bytes());
            feed(b);
        }
        Value::Date(d) => {
            feed(&[7]);
            feed(&d.to_le_bytes());
        }
        Value::Time(t) => {
            feed(&[8]);
            feed(&t.to_le_bytes());
        }
        Value::Timestamp(t) | Value::TimestampTz(t) => {
            feed(&[9]);
            feed(&t.to_le_bytes());
        }
        Value::Array(items) => {
            feed(&[10]);
            feed(&(items.len() as u64).to_le_bytes());
            for item in items {
                feed_value(item, feed);
            }
        }
    }
}

fn feed_float(f: f64, feed: &mut impl FnMut(&[u8])) {
    let canonical = if f == 0.0 {
        0.0
    } else if f.is_nan() {
        f64::NAN
    } else {
        f
    };
    feed(&[3]);
    feed(&canonical.to_bits().to_le_bytes());
}
