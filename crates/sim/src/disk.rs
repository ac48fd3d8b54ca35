//! A node's disk: records under names, of which a crash takes those that were not synced.
//!
//! A record is written as a whole (what is torn is recognised by a checksum, and counts as not written). A sync makes durable what was written
//! before it *began*, when it *ends*. In a crash each write that is not durable survives or is lost by chance, whatever the others did. What
//! a failed sync covered may be lost even if a later sync succeeds, as with Linux's page cache (Rebello et al., *Can Applications Recover from
//! fsync Failures?*, USENIX ATC 2020), until it is written anew.

use crate::Rng;
use std::collections::BTreeMap;

/// A disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    durable: BTreeMap<String, Vec<u8>>,
    /// In the order in which they were made.
    unsynced: Vec<Write>,
    writes: u64,
}

#[derive(Clone, Debug)]
struct Write {
    number: u64,
    name: String,
    bytes: Vec<u8>,
    /// A sync of it has failed.
    doubtful: bool,
}

impl Disk {
    /// What was last written under this name, durable or not. A process that starts finds only what has survived.
    pub fn read(&self, name: &str) -> Option<&[u8]> {
        let unsynced = self.unsynced.iter().rev().find(|write| write.name == name).map(|write| &write.bytes);
        unsynced.or_else(|| self.durable.get(name)).map(Vec::as_slice)
    }

    pub(crate) fn write(&mut self, name: String, bytes: Vec<u8>) {
        self.writes += 1;
        self.unsynced.push(Write { number: self.writes, name, bytes, doubtful: false });
    }

    /// The last write that a sync covers if it begins now.
    pub(crate) fn last_write(&self) -> u64 {
        self.writes
    }

    /// Whether a crash can take anything.
    pub(crate) fn has_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// A sync has ended.
    pub(crate) fn synced(&mut self, through: u64) {
        for write in std::mem::take(&mut self.unsynced) {
            if write.number > through || write.doubtful {
                self.unsynced.push(write);
            } else {
                // What is older under this name is of no more account.
                self.unsynced.retain(|older| older.name != write.name);
                self.durable.insert(write.name, write.bytes);
            }
        }
    }

    /// A sync has failed.
    pub(crate) fn sync_failed(&mut self, through: u64) {
        self.unsynced.iter_mut().filter(|write| write.number <= through).for_each(|write| write.doubtful = true);
    }

    /// The power fails.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        for write in std::mem::take(&mut self.unsynced) {
            if rng.chance(500) {
                self.durable.insert(write.name, write.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn write(disk: &mut Disk, name: &str, value: u8) {
        disk.write(name.into(), vec![value]);
    }

    /// What crashes can leave under a name.
    fn after_crashes(disk: &Disk, name: &str) -> BTreeSet<Option<u8>> {
        let crash = |seed| {
            let mut disk = disk.clone();
            disk.crash(&mut Rng::new(seed));
            disk.read(name).map(|bytes| bytes[0])
        };
        (0..100).map(crash).collect()
    }

    #[test]
    fn a_crash_takes_what_was_not_synced_or_not() {
        let mut disk = Disk::default();
        write(&mut disk, "a", 1);
        assert_eq!(disk.read("a"), Some(&[1][..]), "what is written can be read");
        assert_eq!(after_crashes(&disk, "a"), [None, Some(1)].into());
        disk.synced(disk.last_write());
        assert_eq!(after_crashes(&disk, "a"), [Some(1)].into());
        write(&mut disk, "a", 2);
        write(&mut disk, "a", 3);
        assert_eq!(after_crashes(&disk, "a"), [Some(1), Some(2), Some(3)].into());
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began() {
        let mut disk = Disk::default();
        write(&mut disk, "a", 1);
        let through = disk.last_write();
        write(&mut disk, "a", 2);
        disk.synced(through);
        assert_eq!(after_crashes(&disk, "a"), [Some(1), Some(2)].into());
    }

    #[test]
    fn what_a_failed_sync_covered_has_to_be_written_anew() {
        let mut disk = Disk::default();
        write(&mut disk, "a", 1);
        disk.sync_failed(disk.last_write());
        disk.synced(disk.last_write());
        assert_eq!(after_crashes(&disk, "a"), [None, Some(1)].into());
        write(&mut disk, "a", 2);
        disk.synced(disk.last_write());
        assert_eq!(after_crashes(&disk, "a"), [Some(2)].into(), "the doubtful one does not come back");
    }
}
