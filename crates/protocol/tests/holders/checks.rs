//! What must be true at every step, and at the end.

use super::{Broken, Holders, id};

/// A lease in true time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    epoch: u64,
    /// The first moment at which it is over, even if the node never wakes up to see it.
    until: u64,
}

impl Holders {
    /// In true time, one lease at a time; and one holder for each epoch.
    pub(super) fn check(&mut self, at: usize) {
        let local = self.local(at);
        let machine = self.nodes[at].machine.as_ref();
        let held = machine.and_then(|machine| Some((machine.holds(local)?, machine.lease()?)));
        self.leases[at] = held.map(|(epoch, until)| Lease { epoch, until: self.when(at, until) });
        let Some(mine) = self.leases[at] else { return };
        let me = self.run_of(at);
        let first = *self.holders.entry(mine.epoch).or_insert(me);
        assert_eq!(first, me, "epoch {} has two holders", mine.epoch);
        for (other, lease) in self.leases.iter().enumerate() {
            if let Some(lease) = lease.filter(|lease| other != at && lease.until > self.now) {
                panic!("at {}, {} has {mine:?} and {} has {lease:?}", self.now, id(at), id(other));
            }
        }
    }

    /// Whoever takes itself for the holder, whenever it looks, has a lease that is not over.
    pub(super) fn check_acting(&self, at: usize) {
        let lease = self.leases[at];
        assert!(lease.is_some_and(|lease| lease.until > self.now), "at {}, {} acts with {lease:?}", self.now, id(at));
    }

    /// Nothing changes in the name of an epoch after something was changed in a newer one's.
    pub(super) fn acted(&mut self, place: usize, epoch: u64) {
        let broken = self.faults.broken == Broken::Fences;
        let (fence, newest) = &mut self.fences[place];
        if fence.admit(epoch).is_ok() || broken {
            assert!(epoch >= *newest, "epoch {epoch} changed something after epoch {newest} had");
            *newest = epoch;
            self.counts.done += 1;
        } else {
            self.counts.fenced += 1;
        }
    }

    pub(super) fn check_held(&self) {
        let holders = (0..self.nodes.len()).filter(|at| {
            let machine = self.nodes[*at].machine.as_ref();
            machine.is_some_and(|machine| machine.holds(self.local(*at)).is_some())
        });
        let holders: Vec<usize> = holders.collect();
        assert_eq!(holders.len(), 1, "holders {holders:?}, register {:?}, {:?}", self.register, self.machines());
    }

    fn machines(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("{:?}", node.machine)).collect()
    }
}
