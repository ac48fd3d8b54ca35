//! What must be true of every step, and at the end.

use super::{Cluster, id, is_bad, is_gone};
use atoll_model::NodeId;
use atoll_protocol::membership::State;
use atoll_protocol::{Incarnation, Time};
use std::collections::BTreeSet;

impl Cluster {
    pub(super) fn changed(&mut self, at: usize, run: Incarnation, state: State) {
        self.say(format_args!("{} believes that {}-{} is {state}", id(at), run.node, run.epoch));
        let whom = usize::from(run.node.0) - 1;
        let node = &self.nodes[whom];
        let is_up = node.machine.is_some() && node.run == run.epoch;
        let before = self.nodes[at].believed.get(&run.node).copied();
        match state {
            State::Alive => {
                let was_bad = before.is_some_and(|claim| claim.run == run.epoch && is_bad(claim.state()));
                self.counts.refuted += u64::from(was_bad);
            }
            State::Suspect | State::Down if is_up => {
                self.counts.of_the_wakeful += u64::from(!node.has_slept);
                match state {
                    State::Suspect => self.counts.wrongly_suspected += 1,
                    _ => self.counts.wrongly_down += 1,
                }
            }
            State::Suspect => {}
            State::Down => self.counts.rightly_down += 1,
            State::Left => {
                self.counts.left += 1;
                let has_left = self.leavers.contains(&run);
                assert!(has_left, "{} believes that {}-{} left, which it never did", id(at), run.node, run.epoch);
            }
        }
    }

    /// What a node believes only ever moves on; a run that has left stays so.
    pub(super) fn check(&mut self, at: usize) {
        let Some(machine) = &self.nodes[at].machine else { return };
        let claims: Vec<_> = (0..self.nodes.len()).filter_map(|n| Some((id(n), machine.claim(id(n))?))).collect();
        for (node, claim) in claims {
            let before = self.nodes[at].believed.insert(node, claim);
            let Some(before) = before else { continue };
            assert!(claim >= before, "{} goes back from \"{before}\" to \"{claim}\" of {node}", id(at));
            let is_back = before.left && claim.run == before.run && claim.state() != State::Left;
            assert!(!is_back, "{}: {node} has left and is {claim}", id(at));
        }
    }

    /// A node that ends before it has said goodbye as often as it does has been heard: all that it told know that it left.
    pub(super) fn check_goodbye(&self, at: usize, local: Time) {
        let node = &self.nodes[at];
        // Three times, with a fifth of the interval for the answers to each.
        let all = self.size.options.interval() / 5 * 3;
        let Some(goodbye) = node.goodbye.as_ref().filter(|goodbye| local < goodbye.at + all) else { return };
        for (whom, run) in &goodbye.told {
            let Some(machine) = self.nodes[*whom].machine.as_ref().filter(|m| m.me().claim.run == *run) else {
                continue;
            };
            let claim = machine.claim(id(at)).map(|claim| (claim.run, claim.state()));
            assert_eq!(claim, Some((node.run, State::Left)), "{} was told by {}, which is over", id(*whom), id(at));
        }
    }

    /// All that live believe what is true of each.
    pub(super) fn check_agreement(&self) {
        for (whom, node) in self.nodes.iter().enumerate() {
            let beliefs = self.beliefs(id(whom));
            match &node.machine {
                Some(machine) => {
                    let truth = Some((machine.me().claim.run, State::Alive));
                    assert_eq!(beliefs, BTreeSet::from([truth]), "of {}, which is alive", id(whom));
                }
                None => {
                    assert_eq!(beliefs.len(), 1, "of {}, which is not up: {beliefs:?}", id(whom));
                    let gone = |belief: &Option<(u32, State)>| match belief {
                        Some((_, state)) => is_gone(*state),
                        // It came and went unheard.
                        None => true,
                    };
                    assert!(beliefs.iter().all(gone), "of {}, which is not up: {beliefs:?}", id(whom));
                }
            }
        }
    }

    /// What those that are up believe of a node.
    pub(crate) fn beliefs(&self, node: NodeId) -> BTreeSet<Option<(u32, State)>> {
        let living = self.nodes.iter().filter_map(|node| node.machine.as_ref());
        living.map(|machine| machine.claim(node).map(|claim| (claim.run, claim.state()))).collect()
    }
}
