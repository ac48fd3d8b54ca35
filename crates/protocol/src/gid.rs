//! Names of distributed transactions and of their branches, as prepared transactions carry them at the sites.
//!
//! `atoll_<cluster>_<node>-<epoch>_<sequence>` names a transaction: the cluster in 16 hexadecimal digits; the node that
//! coordinates it, with the number of that node's start; and a number that counts up from each start. A name is used once,
//! provided that the number of the start is durable before it is used. `_<participant>` makes it the name of a branch, a [`Gid`]:
//! two databases of one PostgreSQL server share a name space of prepared transactions. A further `_<decider>` stands in the names
//! of transactions whose decision lies at that participant instead of the coordinator's log, so that who finds the branch knows
//! whom to ask.
//!
//! Invariant: what [`FromStr`] takes is exactly what [`Display`](fmt::Display) writes. Whatever else lies at a site, prepared
//! by another program or another cluster, is never taken for ours. Names fit PostgreSQL (199 bytes) as a whole, and XA (64 bytes
//! each) as `gtrid` and `bqual`.

use atoll_model::{ClusterId, NodeId, ParticipantId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "atoll";

/// One run of a node: the node, and the number of its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Incarnation {
    /// The node.
    pub node: NodeId,
    /// Counts the node's starts. Durable before it is used.
    pub epoch: u32,
}

/// A transaction over several participants.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TransactionId {
    /// Whose it is.
    pub cluster: ClusterId,
    /// Who coordinates it.
    pub coordinator: Incarnation,
    /// Which one of the coordinator's.
    pub sequence: u64,
}

impl TransactionId {
    /// The name of its branch at a participant; `ledger` is the participant at which the decision is recorded, if it is not in the
    /// coordinator's log.
    pub fn branch(self, participant: ParticipantId, ledger: Option<ParticipantId>) -> Gid {
        Gid { transaction: self, participant, ledger }
    }
}

/// The name of a branch ("global transaction id").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Gid {
    /// The transaction.
    pub transaction: TransactionId,
    /// Where the branch is.
    pub participant: ParticipantId,
    /// Where the decision is, if not in the coordinator's log.
    pub ledger: Option<ParticipantId>,
}

impl Gid {
    /// The branch qualifier (`bqual`) of XA; its `gtrid` is the transaction's name.
    pub fn qualifier(&self) -> String {
        match self.ledger {
            None => self.participant.to_string(),
            Some(ledger) => format!("{}_{ledger}", self.participant),
        }
    }

    /// Reads the two parts that `XA RECOVER` gives.
    ///
    /// # Errors
    /// [`Foreign`].
    pub fn from_xa(gtrid: &str, bqual: &str) -> Result<Gid, Foreign> {
        let gid: Gid = format!("{gtrid}_{bqual}").parse()?;
        // The border between the two parts has to be where we put it.
        if gid.qualifier() == bqual { Ok(gid) } else { Err(Foreign) }
    }
}

/// A name that is not one of Atoll's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not the name of a transaction of Atoll")]
pub struct Foreign;

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.node, self.epoch)
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}_{:016x}_{}_{}", self.cluster.0, self.coordinator, self.sequence)
    }
}

impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.transaction, self.qualifier())
    }
}

impl FromStr for TransactionId {
    type Err = Foreign;

    fn from_str(text: &str) -> Result<Self, Foreign> {
        let mut parts = text.split('_');
        let id = Self::read(&mut parts)?;
        canonical(id, parts.next().is_none(), text)
    }
}

impl FromStr for Gid {
    type Err = Foreign;

    fn from_str(text: &str) -> Result<Self, Foreign> {
        let mut parts = text.split('_');
        let transaction = TransactionId::read(&mut parts)?;
        let participant = ParticipantId(number(parts.next())?);
        let ledger = match parts.next() {
            None => None,
            some => Some(ParticipantId(number(some)?)),
        };
        canonical(Gid { transaction, participant, ledger }, parts.next().is_none(), text)
    }
}

impl TransactionId {
    fn read<'a>(parts: &mut impl Iterator<Item = &'a str>) -> Result<Self, Foreign> {
        if parts.next() != Some(PREFIX) {
            return Err(Foreign);
        }
        let cluster = u64::from_str_radix(parts.next().ok_or(Foreign)?, 16).map_err(|_| Foreign)?;
        let (node, epoch) = parts.next().and_then(|part| part.split_once('-')).ok_or(Foreign)?;
        let coordinator = Incarnation { node: NodeId(number(Some(node))?), epoch: number(Some(epoch))? };
        Ok(TransactionId { cluster: ClusterId(cluster), coordinator, sequence: number(parts.next())? })
    }
}

fn number<T: FromStr>(part: Option<&str>) -> Result<T, Foreign> {
    part.ok_or(Foreign)?.parse().map_err(|_| Foreign)
}

/// Only the one way of writing a name is ours: `+1`, `01` and capitals are somebody else's.
fn canonical<T: fmt::Display>(value: T, at_end: bool, text: &str) -> Result<T, Foreign> {
    if at_end && value.to_string() == text { Ok(value) } else { Err(Foreign) }
}

// In decision records, as text.
impl Serialize for TransactionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TransactionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGEST: TransactionId = TransactionId {
        cluster: ClusterId(u64::MAX),
        coordinator: Incarnation { node: NodeId(u16::MAX), epoch: u32::MAX },
        sequence: u64::MAX,
    };

    fn transaction() -> TransactionId {
        let coordinator = Incarnation { node: NodeId(3), epoch: 17 };
        TransactionId { cluster: ClusterId(0xc0ffee), coordinator, sequence: 42 }
    }

    #[test]
    fn names_read_as_they_are_written() -> Result<(), Foreign> {
        let gid = transaction().branch(ParticipantId(2), None);
        assert_eq!(gid.to_string(), "atoll_0000000000c0ffee_3-17_42_2");
        assert_eq!(transaction().to_string(), "atoll_0000000000c0ffee_3-17_42");
        let told = transaction().branch(ParticipantId(2), Some(ParticipantId(5)));
        assert_eq!(told.to_string(), "atoll_0000000000c0ffee_3-17_42_2_5");
        for gid in [gid, told, LARGEST.branch(ParticipantId(u32::MAX), Some(ParticipantId(u32::MAX)))] {
            assert_eq!(gid.to_string().parse(), Ok(gid));
            assert_eq!(Gid::from_xa(&gid.transaction.to_string(), &gid.qualifier()), Ok(gid));
        }
        assert_eq!(transaction().to_string().parse(), Ok(transaction()));
        Ok(())
    }

    #[test]
    fn names_fit_the_engines() {
        let gid = LARGEST.branch(ParticipantId(u32::MAX), Some(ParticipantId(u32::MAX)));
        assert!(gid.to_string().len() <= 199, "GIDSIZE of PostgreSQL is 200 with its final zero");
        assert!(gid.transaction.to_string().len() <= 64, "MAXGTRIDSIZE of XA");
        assert!(gid.qualifier().len() <= 64, "MAXBQUALSIZE of XA");
    }

    #[test]
    fn foreign_names_are_left_alone() {
        let foreign = [
            "",
            "atoll",
            "atoll_",
            "prepared by hand",
            "atoll_0000000000c0ffee_3-17_42",
            "atoll_0000000000c0ffee_3-17_42_",
            "atoll_0000000000c0ffee_3-17_42_2_",
            "atoll_0000000000c0ffee_3-17_42_2_5_1",
            "atoll_0000000000c0ffee_3-17_42_2 ",
            " atoll_0000000000c0ffee_3-17_42_2",
            "Atoll_0000000000c0ffee_3-17_42_2",
            "atoll_0000000000C0FFEE_3-17_42_2",
            "atoll_c0ffee_3-17_42_2",
            "atoll_+000000000c0ffee_3-17_42_2",
            "atoll_0000000000c0ffee_3_42_2",
            "atoll_0000000000c0ffee_3-17-1_42_2",
            "atoll_0000000000c0ffee_03-17_42_2",
            "atoll_0000000000c0ffee_3-+17_42_2",
            "atoll_0000000000c0ffee_3-17_042_2",
            "atoll_0000000000c0ffee_65536-17_42_2",
            "atoll_0000000000c0ffee_3-17_18446744073709551616_2",
            "atoll_0000000000c0ffee_3-17_42_4294967296",
            "atoll_0000000000c0ffee_3-17_42_-1",
        ];
        for name in foreign {
            assert_eq!(name.parse::<Gid>(), Err(Foreign), "{name:?}");
        }
        assert_eq!("atoll_0000000000c0ffee_3-17_42_2".parse::<TransactionId>(), Err(Foreign));
        assert_eq!(Gid::from_xa("atoll_0000000000c0ffee_3-17", "42_2"), Err(Foreign), "parts cut elsewhere");
        assert_eq!(Gid::from_xa("atoll_0000000000c0ffee_3-17_42_2", "5"), Err(Foreign), "parts cut elsewhere");
    }

    #[test]
    fn records_hold_names_as_text() -> serde_json::Result<()> {
        let json = serde_json::to_string(&transaction())?;
        assert_eq!(json, "\"atoll_0000000000c0ffee_3-17_42\"");
        assert_eq!(serde_json::from_str::<TransactionId>(&json)?, transaction());
        assert!(serde_json::from_str::<TransactionId>("\"atoll_1\"").is_err());
        Ok(())
    }
}
