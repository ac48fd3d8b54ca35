//! Which records go into a message: at most [`UPDATES`], whatever the number of nodes.
//!
//! First what the receiver is said to be, if that is bad, so that it can refute; then news, each of which is sent in a number of messages that grows with the
//! logarithm of the number of nodes (SWIM, section 4.1); the rest is taken in turn from all records, receiver by receiver, so
//! that whoever missed the news has heard of every node after so many messages as [`TURN`] goes into their number.

use super::member::Member;
use super::message::{State, UPDATES, Update};
use atoll_model::NodeId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Records taken in turn, at least.
pub const TURN: usize = 4;

/// In how many messages news are sent, among so many nodes.
pub(super) fn sends(nodes: usize) -> u32 {
    3 * (usize::BITS - nodes.leading_zeros())
}

/// Chooses the records for a message to this node, or to one that is not known yet.
pub(super) fn select(members: &mut BTreeMap<NodeId, Member>, to: Option<NodeId>) -> Vec<Update> {
    let mut chosen = BTreeSet::new();
    let accused = to.filter(|to| members.get(to).is_some_and(|member| member.state() != State::Alive));
    chosen.extend(accused);

    let mut news: Vec<(Reverse<u32>, NodeId)> = members
        .iter()
        .filter(|(node, member)| member.sends > 0 && Some(**node) != to)
        .map(|(node, member)| (Reverse(member.sends), *node))
        .collect();
    news.sort_unstable();
    for (_, node) in news.into_iter().take(UPDATES - TURN - chosen.len()) {
        chosen.insert(node);
        if let Some(member) = members.get_mut(&node) {
            member.sends -= 1;
        }
    }

    let cursor = to.and_then(|to| members.get(&to)).and_then(|member| member.cursor);
    let after = cursor.map_or(Bound::Unbounded, Bound::Excluded);
    let upto = cursor.map_or(Bound::Excluded(NodeId(0)), Bound::Included);
    let in_turn = members.range((after, Bound::Unbounded)).chain(members.range((Bound::Unbounded, upto)));
    let in_turn = in_turn.map(|(node, _)| *node).filter(|node| Some(*node) != to);
    let in_turn: Vec<NodeId> = in_turn.filter(|node| !chosen.contains(node)).take(UPDATES - chosen.len()).collect();
    if let Some(last) = in_turn.last().copied()
        && let Some(receiver) = to.and_then(|to| members.get_mut(&to))
    {
        receiver.cursor = Some(last);
    }
    chosen.extend(in_turn);

    let update = |member: &Member| Update { record: member.record.clone(), round_trip: member.round_trip };
    chosen.iter().filter_map(|node| members.get(node)).map(update).collect()
}

#[cfg(test)]
mod tests {
    use super::super::message::{Address, Claim, Record};
    use super::*;
    use crate::membership::Options;
    use crate::time::Time;

    fn known(nodes: u16) -> BTreeMap<NodeId, Member> {
        let member = |n| {
            let record =
                Record { node: NodeId(n), address: Address(format!("n{n}:1")), claim: Claim::alive(1), crashes: 0 };
            (NodeId(n), Member::new(Time(0), record, &Options::default()))
        };
        (1..=nodes).map(member).collect()
    }

    #[test]
    fn every_receiver_hears_of_every_node_in_turn_even_among_news_without_end() {
        let mut members = known(100);
        let mut heard: BTreeMap<u16, BTreeSet<NodeId>> = BTreeMap::new();
        for _ in 0..100 / TURN + 1 {
            for to in [1, 7, 50] {
                members.values_mut().take(40).for_each(|member| member.sends = 5);
                let updates = select(&mut members, Some(NodeId(to)));
                assert_eq!(updates.len(), UPDATES);
                heard.entry(to).or_default().extend(updates.iter().map(|update| update.record.node));
            }
        }
        assert!(heard.values().all(|nodes| nodes.len() == 99), "{heard:?}");
    }

    #[test]
    fn news_are_sent_a_bounded_number_of_times() {
        let mut members = known(60);
        let news: Vec<NodeId> = (21..=60).map(NodeId).collect();
        for node in &news {
            members.get_mut(node).expect("60 are known").sends = sends(60);
        }
        for _ in 0..40 * sends(60) as usize / (UPDATES - TURN) + 1 {
            select(&mut members, Some(NodeId(1)));
        }
        assert!(members.values().all(|member| member.sends == 0));
        assert_eq!((sends(3), sends(60)), (6, 18));
    }
}
