//! Snapshots of the server (`pg_current_snapshot()`), and whether a row's version is in one.
//!
//! Invariant: a version that [`Snapshot::shows`] was committed before the snapshot was taken.

/// A snapshot: transactions below `xmin` have ended, those from `xmax` on have not begun, the listed ones are under way.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Snapshot {
    xmin: u64,
    xmax: u64,
    under_way: Vec<u64>,
}

/// The first number of an ordinary transaction; those below stand for rows that everybody sees.
const FIRST_ORDINARY: u32 = 3;

/// A version that seems to be so many transactions newer than a snapshot is in fact old: its number is of an earlier round.
const FAR: u64 = 1 << 30;

impl Snapshot {
    /// Reads `xmin:xmax:xip,xip`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let under_way = parts.next()?.split(',').filter(|x| !x.is_empty());
        Some(Snapshot { xmin, xmax, under_way: under_way.map(|x| x.parse().ok()).collect::<Option<_>>()? })
    }

    /// Whether a version made by this transaction (the row's `xmin`) is in the snapshot, and otherwise the full number of
    /// that transaction. A row's number has 32 bits, those of a snapshot go on counting.
    pub(super) fn shows(&self, version: u32) -> Result<(), u64> {
        if version < FIRST_ORDINARY {
            return Ok(());
        }
        let round = 1u64 << 32;
        let mut full = self.xmax / round * round + u64::from(version);
        if full > self.xmax + round / 2 {
            full = full.saturating_sub(round);
        } else if full + round / 2 < self.xmax {
            full += round;
        }
        let visible =
            full < self.xmin || full > self.xmax + FAR || (full < self.xmax && !self.under_way.contains(&full));
        if visible { Ok(()) } else { Err(full) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_snapshot_shows() {
        let s = Snapshot::parse("100:105:100,103").expect("a snapshot");
        for (version, shown) in
            [(2, Ok(())), (99, Ok(())), (100, Err(100)), (101, Ok(())), (103, Err(103)), (104, Ok(())), (105, Err(105))]
        {
            assert_eq!(s.shows(version), shown, "{version}");
        }
        assert!(Snapshot::parse("1:1:").is_some_and(|s| s.under_way.is_empty()));
        assert_eq!(Snapshot::parse("1:x:"), None);
    }

    #[test]
    fn numbers_come_round_again() {
        let round = 1u64 << 32;
        let s = Snapshot { xmin: round + 10, xmax: round + 10, under_way: vec![] };
        assert_eq!(s.shows(u32::MAX), Ok(()), "just before the round");
        assert_eq!(s.shows(12), Err(round + 12), "just after the snapshot");
        // Two thousand million transactions ago.
        let s = Snapshot { xmin: round / 2 + 200, xmax: round / 2 + 200, under_way: vec![] };
        assert_eq!(s.shows(100), Ok(()));
    }
}
