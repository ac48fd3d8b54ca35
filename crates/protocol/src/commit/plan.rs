//! Who takes part in a commit, and which form of the protocol that asks for.

use atoll_model::ParticipantId;

/// What the transaction did at a participant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// It read, and nothing that others write rests on locks that it holds there: the branch is let go at once.
    Read,
    /// It read, and the engine may still find at the end of the branch that the reads fit no serial order (`SERIALIZABLE` at
    /// PostgreSQL): the end is the branch's vote.
    ValidatedRead,
    /// It wrote, or holds locks on which writes elsewhere rest, such as a parent row's: these have to last until the
    /// decision, over a crash too.
    Wrote,
}

/// Where a participant can record a decision in the same durable write as its own commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Records {
    /// Nowhere.
    Nowhere,
    /// In the coordinator's decision log, which it holds: the node's own embedded participant.
    Log,
    /// In a table of its own (a *ledger*), from which any node can read it.
    Ledger,
}

/// A participant of a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Participant {
    /// Which one.
    pub id: ParticipantId,
    /// What the transaction did there.
    pub work: Work,
    /// Whether it can prepare a transaction now.
    pub prepares: bool,
    /// Whether its commit can carry a decision.
    pub records: Records,
}

/// Participants that wrote and can neither prepare nor be the one whose commit decides: such a transaction cannot commit atomically.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("several participants wrote, and not all can prepare: {}", super::text::list(.0))]
pub struct CannotPrepare(pub Vec<ParticipantId>);

/// The form of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Plan {
    /// Nobody wrote.
    Nothing,
    /// One participant wrote, and its commit is the transaction's.
    OnePhase(ParticipantId),
    /// All writers prepare; the decision is a record of its own.
    Prepared,
    /// All writers but this one prepare; its commit carries the decision.
    LastAgent(ParticipantId, Records),
}

impl Plan {
    pub(super) fn of(participants: &[Participant]) -> Result<Plan, CannotPrepare> {
        let writers = || participants.iter().filter(|p| p.work == Work::Wrote);
        if let Some(only) = writers().next()
            && writers().count() == 1
        {
            return Ok(Plan::OnePhase(only.id));
        }
        let unable: Vec<&Participant> = writers().filter(|p| !p.prepares).collect();
        match unable.as_slice() {
            [] => Ok(match writers().find(|p| p.records == Records::Log) {
                // Saves its prepare and the record's own write.
                Some(holder) => Plan::LastAgent(holder.id, Records::Log),
                None if writers().next().is_none() => Plan::Nothing,
                None => Plan::Prepared,
            }),
            [last] if last.records != Records::Nowhere => Ok(Plan::LastAgent(last.id, last.records)),
            _ => Err(CannotPrepare(unable.iter().map(|p| p.id).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn participant(id: u32, work: Work, prepares: bool, records: Records) -> Participant {
        Participant { id: ParticipantId(id), work, prepares, records }
    }

    #[test]
    fn the_form_follows_from_who_wrote_and_what_they_can() {
        let reader = participant(1, Work::Read, false, Records::Nowhere);
        let stock = |id| participant(id, Work::Wrote, true, Records::Nowhere);
        let bare = |id| participant(id, Work::Wrote, false, Records::Nowhere);
        let log = |prepares| participant(8, Work::Wrote, prepares, Records::Log);
        let ledger = |id, prepares| participant(id, Work::Wrote, prepares, Records::Ledger);
        let last = |id, records| Ok(Plan::LastAgent(ParticipantId(id), records));
        let refused = |ids: &[u32]| Err(CannotPrepare(ids.iter().copied().map(ParticipantId).collect()));

        assert_eq!(Plan::of(&[]), Ok(Plan::Nothing));
        assert_eq!(Plan::of(&[reader]), Ok(Plan::Nothing));
        assert_eq!(Plan::of(&[reader, bare(2)]), Ok(Plan::OnePhase(ParticipantId(2))), "one writer need not prepare");
        assert_eq!(Plan::of(&[stock(2), stock(3)]), Ok(Plan::Prepared));
        assert_eq!(Plan::of(&[stock(2), ledger(3, true)]), Ok(Plan::Prepared), "a ledger only where it is needed");
        assert_eq!(Plan::of(&[stock(2), log(true)]), last(8, Records::Log));
        assert_eq!(Plan::of(&[stock(2), log(false)]), last(8, Records::Log));
        assert_eq!(Plan::of(&[stock(2), ledger(3, false)]), last(3, Records::Ledger));
        assert_eq!(Plan::of(&[log(true), ledger(3, false)]), last(3, Records::Ledger));
        assert_eq!(Plan::of(&[stock(2), bare(3)]), refused(&[3]), "its commit could not be told from its abort");
        assert_eq!(Plan::of(&[stock(2), ledger(3, false), ledger(4, false)]), refused(&[3, 4]));
        assert_eq!(Plan::of(&[log(false), ledger(3, false)]), refused(&[8, 3]));
    }
}
