//! Serializability by backward validation (optimistic concurrency control; Özsu & Valduriez, section 5.3.3; Härder 1984).
//!
//! A serializable transaction T reads one snapshot, taken at timestamp s, and records what it read: keys, and ranges for scans.
//! When T commits with writes, the committer (one thread, which orders all commits) looks at every commit C with s < ts(C),
//! whatever C's isolation level. If C wrote something that T read, T fails with 40001; otherwise T gets the next timestamp.
//!
//! **Claim**: the committed serializable transactions are equivalent to their execution one after the other in the order of their
//! timestamps, read-only ones standing at their snapshot. **Proof**: let T commit at t. Everything T read was read from the
//! snapshot s, that is from the state after all commits ≤ s. No commit in (s, t) wrote any key or range that T read, so the same
//! reads from the state after all commits < t give the same results (ranges cover the keys that were *not* there, so phantoms
//! are included). So T's effect equals that of running T alone at t. A read-only transaction reads exactly the state after all
//! commits ≤ s, so it may stand right after s, and no validation is needed; Fekete's read-only anomaly cannot occur because every
//! writer is already serialised at its own timestamp. By induction over t the history is serial. ∎
//!
//! Recording may be coarser than what was read (a bound on memory turns many ranges into "the whole site"), which can only abort
//! more. Forgetting old commits (a bound on [`History`]) is answered by aborting whoever would need them.

use super::store::Space;
use super::writes::{Part, WriteSet};
use atoll_model::{Error, ErrorKind, Result};
use fjall::Slice;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Bound;

/// Keys and ranges that a transaction may record at one site before it is taken to have read the whole site.
const MAX_KEYS: usize = 100_000;
const MAX_RANGES: usize = 1_000;

/// Keys of recent commits that are remembered.
const MAX_HISTORY: usize = 1_000_000;

/// A range of keys.
pub(crate) type Range = (Bound<Slice>, Bound<Slice>);

#[derive(Default)]
struct SpaceReads {
    everything: bool,
    keys: HashSet<Slice>,
    ranges: Vec<Range>,
}

/// What a serializable transaction has read.
#[derive(Default)]
pub(crate) struct ReadSet {
    spaces: HashMap<u32, SpaceReads>,
}

impl ReadSet {
    pub(crate) fn key(&mut self, space: &Space, key: &[u8]) {
        let reads = self.spaces.entry(space.index).or_default();
        if reads.everything || reads.keys.contains(key) {
            return;
        }
        reads.keys.insert(Slice::new(key));
        reads.bound();
    }

    pub(crate) fn range(&mut self, space: &Space, range: Range) {
        let reads = self.spaces.entry(space.index).or_default();
        if !reads.everything && !reads.ranges.contains(&range) {
            reads.ranges.push(range);
            reads.bound();
        }
    }

    fn has_read(&self, space: u32, key: &[u8]) -> bool {
        self.spaces.get(&space).is_some_and(|reads| {
            reads.everything || reads.keys.contains(key) || reads.ranges.iter().any(|range| contains(range, key))
        })
    }

    /// Whether it read something that `writes` changes.
    pub(crate) fn conflicts_with(&self, writes: &WriteSet) -> bool {
        writes.parts().iter().any(|part| part.map.iter().any(|(key, _)| self.has_read(part.space.index, key)))
    }
}

impl SpaceReads {
    fn bound(&mut self) {
        if self.keys.len() > MAX_KEYS || self.ranges.len() > MAX_RANGES {
            *self = SpaceReads { everything: true, ..SpaceReads::default() };
        }
    }
}

fn contains((lower, upper): &Range, key: &[u8]) -> bool {
    (match lower {
        Bound::Included(l) => key >= l.as_ref(),
        Bound::Excluded(l) => key > l.as_ref(),
        Bound::Unbounded => true,
    }) && (match upper {
        Bound::Included(u) => key <= u.as_ref(),
        Bound::Excluded(u) => key < u.as_ref(),
        Bound::Unbounded => true,
    })
}

/// Which keys recent commits wrote. Owned by the committer alone; kept only while a serializable transaction is open.
#[derive(Default)]
pub(crate) struct History {
    commits: VecDeque<(u64, Vec<(u32, Slice)>)>,
    keys: usize,
    /// Commits up to this timestamp are not remembered.
    floor: u64,
}

impl History {
    pub(crate) fn record(&mut self, timestamp: u64, writes: &WriteSet) {
        let keys =
            |part: &'_ Part| part.map.iter().map(|(key, _)| (part.space.index, Slice::new(key))).collect::<Vec<_>>();
        let keys: Vec<(u32, Slice)> = writes.parts().iter().flat_map(keys).collect();
        self.keys += keys.len();
        self.commits.push_back((timestamp, keys));
        while self.keys > MAX_HISTORY {
            let Some((timestamp, keys)) = self.commits.pop_front() else { break };
            self.keys -= keys.len();
            self.floor = timestamp;
        }
    }

    /// Forgets everything: nobody who is open now needs commits up to `timestamp`.
    pub(crate) fn clear(&mut self, timestamp: u64) {
        self.commits.clear();
        self.keys = 0;
        self.floor = timestamp;
    }

    /// Checks a transaction that read at `snapshot` against the commits after it.
    ///
    /// # Errors
    /// `SerializationFailure`.
    pub(crate) fn validate(&self, snapshot: u64, reads: &ReadSet) -> Result<()> {
        let conflict = snapshot < self.floor
            || self
                .commits
                .iter()
                .rev()
                .take_while(|(timestamp, _)| *timestamp > snapshot)
                .any(|(_, keys)| keys.iter().any(|(space, key)| reads.has_read(*space, key)));
        if conflict { Err(serialization_failure()) } else { Ok(()) }
    }
}

/// The error of a transaction that cannot be put into a serial order.
pub(crate) fn serialization_failure() -> Error {
    Error::new(
        ErrorKind::SerializationFailure,
        "could not serialize access due to read/write dependencies among transactions",
    )
    .hint("The transaction might succeed if retried.")
}
