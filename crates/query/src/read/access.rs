//! Which order of a fragment to follow, and which parts of it: the access path of a scan.
//!
//! Invariant: the ranges together hold every row for which the domains hold; they are ascending and disjoint, so a scan of one
//! after the other gives rows in the order's order, each once.

use super::predicate::Domains;
use atoll_model::{ColumnId, Domain, IndexId, Table, Value};
use atoll_ports::site::KeyRange;
use std::cmp::Ordering;
use std::ops::Bound;

/// Most ranges of one scan: beyond, the first of the conditions alone must do.
const MAX_RANGES: usize = 512;
/// An index is not worth its detour for fewer rows than this.
const MIN_ROWS_FOR_INDEX: u64 = 64;

/// How a fragment is read.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// The order: `None`: the key's.
    pub(crate) index: Option<IndexId>,
    /// Its parts.
    pub(crate) ranges: Vec<KeyRange>,
    /// Leading columns with single values.
    pub(crate) equal: usize,
}

impl Access {
    /// The whole fragment in key order.
    pub(crate) fn whole() -> Self {
        Access { index: None, ranges: vec![KeyRange::ALL], equal: 0 }
    }

    /// The best way to the rows that these domains leave. A full match of a unique order wins, then more leading equalities,
    /// the key before an index; a range of an index alone is followed only when it has two ends, since each of its entries costs
    /// a look-up of the row.
    pub(crate) fn choose(table: &Table, domains: &Domains, rows: u64) -> Self {
        let mut best = Self::along(&table.key, None, domains).unwrap_or_else(Self::whole);
        if best.equal == table.key.len() {
            return best;
        }
        let bounded = |a: &Access| !matches!(a.ranges.as_slice(), [r] if r.lower == Bound::Unbounded && r.upper == Bound::Unbounded);
        for index in &table.indexes {
            let Some(access) = Self::along(&index.columns, Some(index.id), domains) else { continue };
            let complete = index.unique && access.equal == index.columns.len();
            let two_ends = access.ranges.iter().all(|r| r.lower != Bound::Unbounded && r.upper != Bound::Unbounded);
            let better = complete
                || rows >= MIN_ROWS_FOR_INDEX
                    && (access.equal > best.equal || (access.equal == best.equal && two_ends && !bounded(&best)));
            if better {
                best = access;
            }
            if complete {
                break;
            }
        }
        best
    }

    fn along(columns: &[ColumnId], index: Option<IndexId>, domains: &Domains) -> Option<Self> {
        let mut prefixes: Vec<Vec<Value>> = vec![vec![]];
        let mut equal = 0;
        let mut last = None;
        for column in columns {
            match domains.iter().find(|(c, _)| c == column).map(|(_, d)| d) {
                Some(Domain::Values(values))
                    if values.iter().all(|v| !v.is_null()) && prefixes.len() * values.len() <= MAX_RANGES =>
                {
                    let mut values = values.clone();
                    values.sort_by(|a, b| a.compare(b).unwrap_or(Ordering::Equal));
                    prefixes = prefixes
                        .iter()
                        .flat_map(|p| values.iter().map(|v| p.iter().cloned().chain([v.clone()]).collect()))
                        .collect();
                    equal += 1;
                }
                Some(Domain::Range(lower, upper)) if *lower != Bound::Unbounded || *upper != Bound::Unbounded => {
                    last = Some((lower, upper));
                    break;
                }
                _ => break,
            }
        }
        if equal == 0 && last.is_none() {
            return None;
        }
        let extend = |prefix: &[Value], bound: &Bound<Value>| {
            let with = |v: &Value| prefix.iter().cloned().chain([v.clone()]).collect::<Vec<_>>();
            match bound {
                Bound::Included(v) => Bound::Included(with(v)),
                Bound::Excluded(v) => Bound::Excluded(with(v)),
                Bound::Unbounded if prefix.is_empty() => Bound::Unbounded,
                Bound::Unbounded => Bound::Included(prefix.to_vec()),
            }
        };
        let ranges = match last {
            None => prefixes.into_iter().map(KeyRange::prefix).collect(),
            Some((lower, upper)) => {
                prefixes.iter().map(|p| KeyRange { lower: extend(p, lower), upper: extend(p, upper) }).collect()
            }
        };
        Some(Access { index, ranges, equal })
    }
}
