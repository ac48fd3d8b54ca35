//! Which rows two copies of a fragment do not have in common.
//!
//! Where the digests of a range of keys differ, it is split at keys that the fuller copy has, and those of the parts are compared, and so on
//! until a range is small, or until most of its parts differ; there, the rows themselves are read, in the order of their keys, and matched.
//!
//! Invariants: rows are only said to be missing or more when both copies were read in the same order, which is checked as they come;
//! memory holds a batch of each copy and the bounds of [`PARTS`] ranges for each level of splitting.

use super::copy::Copy;
use crate::rows;
use atoll_model::{Error, ErrorKind, Result, Row, SqlType, Value};
use atoll_ports::digest::{Digest, whole_rows, write_canonical};
use atoll_ports::rows::value_at;
use atoll_ports::session::BatchStream;
use atoll_ports::site::{KeyRange, ScanRequest};
use futures::{TryStreamExt as _, future};
use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;

/// A range of so many rows is read.
const LEAF: u64 = 2000;

/// Parts that a range is split into.
const PARTS: u64 = 64;

/// Keys that are remembered of each kind.
const MAX_KEYS: usize = 5;

/// Rows of one kind.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) rows: u64,
    /// The keys of the first few.
    pub(super) keys: Vec<Vec<Value>>,
}

impl Tally {
    fn note(&mut self, key: &[Value]) {
        self.rows += 1;
        if self.keys.len() < MAX_KEYS {
            self.keys.push(key.to_vec());
        }
    }
}

/// How a copy differs from another, the reference.
#[derive(Default)]
pub(super) struct Differences {
    /// Rows that only the reference has.
    pub(super) missing: Tally,
    /// Rows that only the copy has.
    pub(super) extra: Tally,
    /// Rows that both have, with different values.
    pub(super) different: Tally,
    /// Positions of the columns in which those differ.
    pub(super) columns: BTreeSet<usize>,
    /// Keys have no common order, so rows were not looked at.
    pub(super) is_unordered: bool,
}

/// A copy could not be read.
pub(super) struct Failed<'c> {
    pub(super) at: &'c Copy,
    pub(super) error: Error,
}

/// Compares a copy with a reference; their digests as a whole are known.
pub(super) async fn differences<'c>(
    reference: &'c Copy,
    copy: &'c Copy,
    digests: [Digest; 2],
) -> Result<Differences, Failed<'c>> {
    let table = &reference.replica.table;
    let (mut found, key) = (Differences::default(), table.key_positions());
    if key.iter().any(|at| matches!(table.columns[*at].ty, SqlType::Json | SqlType::Jsonb | SqlType::Array(_))) {
        found.is_unordered = true;
        return Ok(found);
    }
    let pair = Pair { reference, copy, key };
    // The last is the next, so keys come in their order.
    let mut waiting = vec![(KeyRange::ALL, digests)];
    while let Some((range, digests)) = waiting.pop() {
        let most = fuller(digests);
        if most <= LEAF {
            pair.match_rows(&range, &mut found).await?;
            continue;
        }
        let parts = pair.split(&range, digests).await?;
        let count = parts.len();
        let (mut differing, mut sum) = (vec![], [Digest::default(); 2]);
        for part in parts {
            let digests = pair.digests(&part).await?;
            sum = [0, 1].map(|side| sum[side].plus(digests[side]));
            if digests[0] != digests[1] {
                differing.push((part, digests));
            }
        }
        // Keys that somebody has let be NULL, or come twice, are in no part or make one that is no smaller.
        let is_split = sum == digests && differing.iter().all(|(_, digests)| fuller(*digests) < most);
        if is_split && differing.len() * 2 <= count {
            waiting.extend(differing.into_iter().rev());
        } else {
            pair.match_rows(&range, &mut found).await?;
        }
    }
    Ok(found)
}

fn fuller(digests: [Digest; 2]) -> u64 {
    digests[0].rows.max(digests[1].rows)
}

async fn digest<'c>(at: &'c Copy, range: &KeyRange) -> Result<Digest, Failed<'c>> {
    at.tried(at.branch.digest(&at.replica, range)).await.map_err(|error| Failed { at, error })
}

/// Two copies that are compared.
struct Pair<'c> {
    reference: &'c Copy,
    copy: &'c Copy,
    key: Vec<usize>,
}

impl<'c> Pair<'c> {
    async fn digests(&self, range: &KeyRange) -> Result<[Digest; 2], Failed<'c>> {
        let (ours, theirs) = future::join(digest(self.reference, range), digest(self.copy, range)).await;
        Ok([ours?, theirs?])
    }

    /// Splits a range into parts with about as many rows each of the copy that has more.
    async fn split(&self, range: &KeyRange, digests: [Digest; 2]) -> Result<Vec<KeyRange>, Failed<'c>> {
        let at = if digests[0].rows >= digests[1].rows { self.reference } else { self.copy };
        let bounds = at.tried(self.bounds(at, range, fuller(digests).div_ceil(PARTS))).await;
        let bounds = bounds.map_err(|error| Failed { at, error })?;
        let mut parts = vec![];
        let mut lower = range.lower.clone();
        for bound in bounds {
            parts.push(KeyRange { lower, upper: Bound::Excluded(bound.clone()) });
            lower = Bound::Included(bound);
        }
        parts.push(KeyRange { lower, upper: range.upper.clone() });
        Ok(parts)
    }

    /// Every n-th key of a range, each of them once.
    async fn bounds(&self, at: &Copy, range: &KeyRange, step: u64) -> Result<Vec<Vec<Value>>> {
        let request = ScanRequest { columns: self.key.clone(), ..whole_rows(&at.replica, range) };
        let mut batches = at.branch.scan(&at.replica, request)?;
        let types = self.key.iter().map(|at_key| &at.replica.table.columns[*at_key].ty);
        let (mut bounds, mut passed): (Vec<Vec<Value>>, u64) = (vec![], 0);
        while let Some(batch) = batches.try_next().await? {
            for row in 0..batch.num_rows() {
                passed += 1;
                if passed % step != 0 {
                    continue;
                }
                let cells = batch.columns().iter().zip(types.clone());
                let key: Vec<Value> = cells.map(|(array, ty)| value_at(array, row, ty)).collect::<Result<_>>()?;
                if bounds.last().is_none_or(|last| compare(last, &key).is_lt()) {
                    bounds.push(key);
                }
            }
        }
        Ok(bounds)
    }

    /// Reads a range of both copies and matches the rows by their keys.
    async fn match_rows(&self, range: &KeyRange, found: &mut Differences) -> Result<(), Failed<'c>> {
        let mut ours = Rows::of(self.reference, range, &self.key)?;
        let mut theirs = Rows::of(self.copy, range, &self.key)?;
        let (mut a, mut b) = (ours.next().await?, theirs.next().await?);
        loop {
            let order = match (&a, &b) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => compare(&a.key, &b.key),
            };
            match (order, &a, &b) {
                (Ordering::Less, Some(a), _) => found.missing.note(&a.key),
                (Ordering::Greater, _, Some(b)) => found.extra.note(&b.key),
                (_, Some(a), Some(b)) => self.match_values(a, b, found),
                _ => {}
            }
            if order.is_le() {
                a = ours.next().await?;
            }
            if order.is_ge() {
                b = theirs.next().await?;
            }
        }
    }

    /// Looks for columns in which two rows of one key differ, by the texts of which digests are made.
    fn match_values(&self, a: &Keyed, b: &Keyed, found: &mut Differences) {
        let columns = &self.reference.replica.table.columns;
        let text = |at: usize, value: &Value| {
            let mut text = vec![];
            write_canonical([(&columns[at].ty, value)], &mut text);
            text
        };
        let differing: Vec<usize> =
            (0..columns.len()).filter(|at| text(*at, &a.row[*at]) != text(*at, &b.row[*at])).collect();
        if !differing.is_empty() {
            found.different.note(&a.key);
            found.columns.extend(differing);
        }
    }
}

/// A row with its key.
struct Keyed {
    key: Vec<Value>,
    row: Row,
}

/// The rows of a range of a copy, one after the other.
struct Rows<'c> {
    at: &'c Copy,
    key: Vec<usize>,
    batches: BatchStream,
    waiting: VecDeque<Row>,
    last: Option<Vec<Value>>,
}

impl<'c> Rows<'c> {
    fn of(at: &'c Copy, range: &KeyRange, key: &[usize]) -> Result<Self, Failed<'c>> {
        let batches = at.branch.scan(&at.replica, whole_rows(&at.replica, range));
        let batches = batches.map_err(|error| Failed { at, error })?;
        Ok(Rows { at, key: key.to_vec(), batches, waiting: VecDeque::new(), last: None })
    }

    async fn next(&mut self) -> Result<Option<Keyed>, Failed<'c>> {
        let at = self.at;
        at.tried(self.read()).await.map_err(|error| Failed { at, error })
    }

    async fn read(&mut self) -> Result<Option<Keyed>> {
        while self.waiting.is_empty() {
            let Some(batch) = self.batches.try_next().await? else { return Ok(None) };
            let types: Vec<&SqlType> = self.at.replica.table.columns.iter().map(|c| &c.ty).collect();
            self.waiting.extend(rows::of_batch(&batch, &types)?);
        }
        let Some(row) = self.waiting.pop_front() else { return Ok(None) };
        let key: Vec<Value> = self.key.iter().map(|at| row[*at].clone()).collect();
        if self.last.as_ref().is_some_and(|last| compare(last, &key).is_gt()) {
            return Err(Error::new(ErrorKind::DataCorrupted, "rows came in another order than that of their keys")
                .hint("Is an index damaged there?"));
        }
        self.last = Some(key.clone());
        Ok(Some(Keyed { key, row }))
    }
}

/// By the order of keys. Where somebody has taken the constraints away, there may be NULLs, which come last.
fn compare(a: &[Value], b: &[Value]) -> Ordering {
    let each = a.iter().zip(b).map(|(a, b)| match (a.is_null(), b.is_null()) {
        (false, false) => a.compare(b).unwrap_or(Ordering::Equal),
        (a, b) => a.cmp(&b),
    });
    each.into_iter().find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}
