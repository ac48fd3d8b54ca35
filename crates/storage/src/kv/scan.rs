//! A scan: the snapshot's keys in order, with a transaction's own writes merged over them.
//!
//! Invariant: of two entries with one key the own write wins, and an own delete hides the committed value. The scan owns what it
//! reads from, so it can outlive the transaction and move to another thread.

use super::error::tree_error;
use super::sorted::{Cursor, SortedMap};
use super::store::{Published, Space};
use super::txn::Stored;
use super::writes::MAX_KEY;
use atoll_model::Result;
use fjall::{Readable, Slice};
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

/// An iterator over keys and values.
pub struct Scan {
    space: Arc<Space>,
    base: fjall::Iter,
    reverse: bool,
    own: Option<Own>,
    /// A committed entry that was read ahead of the own writes before it.
    ahead: Option<(Slice, Slice)>,
    base_ended: bool,
}

/// The own writes in the range.
struct Own {
    cursor: Cursor,
    next: Option<(Slice, Option<Slice>)>,
}

impl Own {
    fn advance(&mut self, reverse: bool) {
        self.next = if reverse { self.cursor.next_back() } else { self.cursor.next() };
    }
}

/// Whether a range holds nothing for sure.
fn is_empty(range: &(Bound<&Slice>, Bound<&Slice>)) -> bool {
    match range {
        (Bound::Included(l), Bound::Included(u)) => l > u,
        (Bound::Included(l) | Bound::Excluded(l), Bound::Included(u) | Bound::Excluded(u)) => l >= u,
        _ => false,
    }
}

fn bytes(bound: &Bound<Slice>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| key.as_ref())
}

/// A bound that the tree takes (it panics at keys that are too long to be there): the longest part of such a bound is a bound of the
/// same keys, since of them none is longer, and so none lies between the part and the whole.
pub(crate) fn lower_bound(bound: Bound<&[u8]>) -> Bound<Slice> {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) if key.len() > MAX_KEY => {
            Bound::Excluded(Slice::new(&key[..MAX_KEY]))
        }
        bound => bound.map(Slice::new),
    }
}

/// As [`lower_bound`], at the other end.
pub(crate) fn upper_bound(bound: Bound<&[u8]>) -> Bound<Slice> {
    match bound {
        Bound::Included(key) | Bound::Excluded(key) if key.len() > MAX_KEY => {
            Bound::Included(Slice::new(&key[..MAX_KEY]))
        }
        bound => bound.map(Slice::new),
    }
}

impl Scan {
    pub(crate) fn new(
        space: &Arc<Space>,
        snapshot: &Published,
        own: Option<Arc<SortedMap>>,
        lower: Bound<Slice>,
        upper: Bound<Slice>,
        reverse: bool,
    ) -> Scan {
        let empty = is_empty(&(lower.as_ref(), upper.as_ref()));
        let own = own.map(|map| {
            let mut own = Own { cursor: Cursor::new(map, bytes(&lower), bytes(&upper)), next: None };
            own.advance(reverse);
            own
        });
        let base = if empty {
            // The tree does not promise to take inverted bounds; this is a range that it does, and it is not read.
            snapshot.snapshot.range(&space.keyspace, Slice::new(b"")..=Slice::new(b""))
        } else {
            snapshot.snapshot.range(&space.keyspace, (lower, upper))
        };
        Scan { space: space.clone(), base, reverse, own, ahead: None, base_ended: empty }
    }

    fn committed(&mut self) -> Option<Result<(Slice, Slice)>> {
        if let Some(entry) = self.ahead.take() {
            return Some(Ok(entry));
        }
        if self.base_ended {
            return None;
        }
        let entry = if self.reverse { self.base.next_back() } else { self.base.next() };
        match entry.map(fjall::Guard::into_inner) {
            None => {
                self.base_ended = true;
                None
            }
            Some(Ok(entry)) => Some(Ok(entry)),
            Some(Err(e)) => {
                self.base_ended = true;
                Some(Err(tree_error("reading", self.space.keyspace.path(), &e)))
            }
        }
    }

    fn merged(&mut self) -> Option<Result<(Slice, Stored)>> {
        loop {
            let committed = match self.committed() {
                Some(Ok(entry)) => Some(entry),
                Some(Err(e)) => return Some(Err(e)),
                None => None,
            };
            let own = self.own.as_mut()?;
            let order = match (&committed, &own.next) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((c, _)), Some((o, _))) if self.reverse => o.cmp(c),
                (Some((c, _)), Some((o, _))) => c.cmp(o),
            };
            if order == Ordering::Less {
                return committed.map(|(k, v)| Ok((k, Stored::committed(v, &self.space)?)));
            }
            if order == Ordering::Greater {
                self.ahead = committed;
            }
            let taken = own.next.take();
            own.advance(self.reverse);
            if let Some((key, Some(payload))) = taken {
                return Some(Ok((key, Stored::own(payload))));
            }
        }
    }
}

impl Iterator for Scan {
    type Item = Result<(Slice, Stored)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.own.is_some() {
            return self.merged();
        }
        let entry = self.committed()?;
        Some(entry.and_then(|(k, v)| Ok((k, Stored::committed(v, &self.space)?))))
    }
}
