//! Which pairs of participants commits have had in common, and when: enough to tell whether snapshots that were taken at different
//! times fit each other.
//!
//! Snapshots of two participants, taken at any times in an interval, show everything or nothing of each commit if no commit over both
//! had its window open (from its admission to the last acknowledgement) in that interval. For each pair, the last moment at which a window
//! was open is all that has to be remembered.
//!
//! Invariant: [`Ledger::fits`] is never true when a window was open; it may be false although none was, if one opened after the snapshots
//! and before the question.

use atoll_model::ParticipantId;
use atoll_protocol::TransactionId;
use std::collections::{BTreeSet, HashMap};

/// A moment: counts what has happened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Moment(u64);

struct Window {
    participants: Vec<ParticipantId>,
    unapplied: BTreeSet<ParticipantId>,
    admitted: bool,
}

/// The windows of all commits.
#[derive(Default)]
pub(super) struct Ledger {
    now: Moment,
    windows: HashMap<TransactionId, Window>,
    /// By pair, the smaller one first: when a window was last seen open. As many as there are pairs of participants, at most.
    last: HashMap<(ParticipantId, ParticipantId), Moment>,
}

impl Ledger {
    pub(super) fn now(&self) -> Moment {
        self.now
    }

    pub(super) fn enter(&mut self, id: TransactionId, participants: &[ParticipantId]) {
        let unapplied = participants.iter().copied().collect();
        self.windows.insert(id, Window { participants: participants.to_vec(), unapplied, admitted: false });
    }

    pub(super) fn admit(&mut self, id: TransactionId) {
        let Some(window) = self.windows.get_mut(&id) else { return };
        window.admitted = true;
        let participants = window.participants.clone();
        self.stamp(&participants);
    }

    pub(super) fn applied(&mut self, id: TransactionId, participant: ParticipantId) {
        let Some(window) = self.windows.get_mut(&id) else { return };
        window.unapplied.remove(&participant);
        if window.unapplied.is_empty()
            && let Some(window) = self.windows.remove(&id)
        {
            self.stamp(&window.participants);
        }
    }

    pub(super) fn withdraw(&mut self, id: TransactionId) {
        if let Some(window) = self.windows.remove(&id)
            && window.admitted
        {
            // It showed nothing to anybody, but that costs a retry at most.
            self.stamp(&window.participants);
        }
    }

    /// Whether a snapshot of `new` fits those of `others`, if all of them were taken since the moment.
    pub(super) fn fits(&self, others: &[ParticipantId], new: ParticipantId, since: Moment) -> bool {
        let open = |other: ParticipantId| {
            self.windows
                .values()
                .any(|w| w.admitted && w.participants.contains(&other) && w.participants.contains(&new))
        };
        let recent = |other: ParticipantId| self.last.get(&pair(other, new)).is_some_and(|last| *last > since);
        others.iter().copied().filter(|other| *other != new).all(|other| !open(other) && !recent(other))
    }

    fn stamp(&mut self, participants: &[ParticipantId]) {
        self.now.0 += 1;
        for (at, a) in participants.iter().enumerate() {
            for b in &participants[at + 1..] {
                self.last.insert(pair(*a, *b), self.now);
            }
        }
    }
}

fn pair(a: ParticipantId, b: ParticipantId) -> (ParticipantId, ParticipantId) {
    if a < b { (a, b) } else { (b, a) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_model::{ClusterId, NodeId};
    use atoll_protocol::Incarnation;

    const A: ParticipantId = ParticipantId(1);
    const B: ParticipantId = ParticipantId(2);
    const C: ParticipantId = ParticipantId(3);

    fn id(sequence: u64) -> TransactionId {
        let coordinator = Incarnation { node: NodeId(1), epoch: 1 };
        TransactionId { cluster: ClusterId(1), coordinator, sequence }
    }

    #[test]
    fn snapshots_fit_when_no_window_was_open_between_them() {
        let mut ledger = Ledger::default();
        let before = ledger.now();
        assert!(ledger.fits(&[A], B, before));
        ledger.enter(id(1), &[B, A]);
        assert!(ledger.fits(&[A], B, before), "it shows nothing before it is admitted");
        ledger.admit(id(1));
        let during = ledger.now();
        assert!(!ledger.fits(&[A], B, before));
        assert!(!ledger.fits(&[A], B, during));
        assert!(ledger.fits(&[A], C, before) && ledger.fits(&[C], B, before), "one of its participants is not enough");
        ledger.applied(id(1), A);
        assert!(!ledger.fits(&[A], B, during));
        ledger.applied(id(1), B);
        assert!(!ledger.fits(&[C, A], B, during), "it was open since");
        assert!(ledger.fits(&[C, A], B, ledger.now()));
        assert!(ledger.windows.is_empty());
    }

    #[test]
    fn what_was_withdrawn_is_no_window() {
        let mut ledger = Ledger::default();
        let before = ledger.now();
        ledger.enter(id(1), &[A, B]);
        ledger.withdraw(id(1));
        assert!(ledger.fits(&[A], B, before));
    }
}
