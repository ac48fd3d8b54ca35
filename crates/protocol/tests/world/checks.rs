//! What must be true at every step, of every answer, and at the end.

use super::World;
use super::node::{Node, Reading};
use super::site::Site;
use atoll_model::{Outcome, ParticipantId, Result};
use atoll_protocol::TransactionId;
use atoll_protocol::commit::Committed;
use atoll_protocol::snapshot::ReaderId;
use std::collections::BTreeSet;

impl World {
    pub(super) fn answered(&mut self, id: TransactionId, answer: Result<Committed>) {
        self.say(format_args!("ANSWER {id} {answer:?}"));
        match &answer {
            Ok(_) => self.counts.committed += 1,
            Err(e) if e.outcome() == Outcome::Indeterminate => self.counts.unknown += 1,
            Err(_) => self.counts.aborted += 1,
        }
        let Some(truth) = self.truth.get_mut(&id) else { panic!("an answer about {id}, which nobody began") };
        assert!(truth.answer.is_none(), "{id} was answered twice");
        if answer.as_ref().is_ok_and(|committed| committed.pending.is_empty()) {
            for p in &truth.writers {
                assert!(self.sites[p].committed.contains(&id), "{id} was said to be everywhere, and is not at {p}");
            }
        }
        truth.answer = Some(answer);
    }

    pub(super) fn read(&mut self, reader: ReaderId, reading: &Reading) {
        self.counts.reads += 1;
        for (id, truth) in &self.truth {
            let at: Vec<_> = truth.writers.intersection(&reading.sites).collect();
            let seen = at.iter().filter(|p| reading.seen[**p].contains(id)).count();
            assert!(seen == 0 || seen == at.len(), "read {} saw {id} torn: {:?}", reader.0, reading.seen);
            let known = reading.known.contains(id);
            assert!(!known || seen == at.len(), "read {} missed {id}, which was acknowledged before", reader.0);
        }
    }

    pub(super) fn check(&self) {
        for (id, truth) in &self.truth {
            let at = |set: fn(&Site) -> &BTreeSet<TransactionId>| -> Vec<ParticipantId> {
                truth.writers.iter().copied().filter(|p| set(&self.sites[p]).contains(id)).collect()
            };
            let (committed, rolled_back) = (at(|site| &site.committed), at(|site| &site.rolled_back));
            assert!(
                committed.is_empty() || rolled_back.is_empty(),
                "{id} is committed at {committed:?} and rolled back at {rolled_back:?}"
            );
            if truth.writers.len() > 1 && !committed.is_empty() {
                let recorded = self.sites.values().any(|site| site.ever_recorded.contains(id));
                assert!(recorded, "{id} is committed at {committed:?} before its decision was recorded");
            }
            let refused = truth.answer.as_ref().and_then(|answer| answer.as_ref().err());
            if refused.is_some_and(|error| error.outcome() == Outcome::Determinate) {
                assert!(committed.is_empty(), "{id} was said to be rolled back, and is committed at {committed:?}");
            }
        }
        for site in self.sites.values() {
            assert_eq!(site.foreign_finished, 0, "{}: a transaction of somebody else was finished", site.id);
        }
    }

    pub(super) fn is_at_rest(&self) -> bool {
        let mut living = self.sites.values().filter(|site| site.up);
        let resting = |node: &Node| {
            node.commits.is_empty()
                && node.readers.is_empty()
                && node.recovery.decisions().next().is_none()
                && living.clone().all(|site| node.recovery.is_settled(site.id))
        };
        self.nodes.iter().flatten().all(resting)
            && living.all(|site| site.prepared.is_empty() && site.decisions().next().is_none())
    }

    pub(super) fn check_rest(&self) {
        for (id, truth) in &self.truth {
            let committed = truth.writers.iter().filter(|p| self.sites[*p].committed.contains(id)).count();
            assert!(committed == 0 || committed == truth.writers.len(), "{id} is committed in part");
            if let Some(Ok(_)) = truth.answer {
                assert_eq!(committed, truth.writers.len(), "{id} was acknowledged and is lost");
            }
        }
    }
}
