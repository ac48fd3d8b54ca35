//! The record that decides a transaction.

use crate::gid::TransactionId;
use atoll_model::ParticipantId;
use serde::{Deserialize, Serialize};

/// "This transaction commits", and where its prepared branches are. There are no records of aborts: a transaction without a record
/// that can get none any more is aborted (presumed abort).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// The transaction.
    pub transaction: TransactionId,
    /// Participants with a prepared branch, which has to be committed before the record may be forgotten.
    pub prepared: Vec<ParticipantId>,
    /// Where this record is, if not in the coordinator's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<ParticipantId>,
}
