//! What the coordinator says to the client, and how its effects are written in logs and scripts.

use super::Effect;
use atoll_model::{Error, ErrorKind, ParticipantId};
use std::fmt;
use std::time::Duration;

pub(super) fn lost(name: &str) -> Error {
    Error::new(ErrorKind::SiteUnavailable, format!("{name} was lost before the decision; rolled back"))
}

pub(super) fn no_votes(silent: impl Iterator<Item = String>, timeout: Duration) -> Error {
    let silent: Vec<String> = silent.collect();
    let message = format!("no vote from {} within {timeout:?}; rolled back", silent.join(", "));
    Error::new(ErrorKind::SiteUnavailable, message)
}

pub(super) fn not_admitted(timeout: Duration) -> Error {
    Error::new(ErrorKind::LockTimeout, format!("reads held the commit up for {timeout:?}; rolled back"))
}

pub(super) fn not_recorded() -> Error {
    Error::new(ErrorKind::Io, "the decision to commit could not be recorded; rolled back")
}

pub(super) fn unknown() -> Error {
    Error::new(ErrorKind::StatementCompletionUnknown, "nobody knows whether the transaction has committed")
        .hint("Look at its effects before running it again.")
        .indeterminate()
}

pub(super) fn finished_elsewhere() -> Error {
    Error::new(
        ErrorKind::StatementCompletionUnknown,
        "the transaction committed, but one of its branches was finished by somebody else",
    )
    .hint("Somebody has committed or rolled back a prepared transaction by hand. Compare the sites.")
    .indeterminate()
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Effect::Release(p) => write!(f, "release {p}"),
            Effect::End(p) => write!(f, "end {p}"),
            Effect::Prepare(p) => write!(f, "prepare {p}"),
            Effect::CommitOnePhase(p) => write!(f, "commit {p} in one phase"),
            Effect::Enter(participants) => write!(f, "enter at {}", list(participants)),
            Effect::Log { decision, with } => {
                write!(f, "log commit of {}", list(&decision.prepared))?;
                with.map_or(Ok(()), |p| write!(f, " with the branch at {p}"))?;
                decision.ledger.map_or(Ok(()), |p| write!(f, ", in the ledger of {p}"))
            }
            Effect::AskLog(_) => write!(f, "ask log"),
            Effect::Commit(p) => write!(f, "commit {p}"),
            Effect::Abort(p) => write!(f, "abort {p}"),
            Effect::Applied(p) => write!(f, "applied {p}"),
            Effect::Withdraw => write!(f, "withdraw"),
            Effect::Answer(Ok(committed)) if committed.pending.is_empty() => write!(f, "answer committed"),
            Effect::Answer(Ok(committed)) => write!(f, "answer committed, pending at {}", list(&committed.pending)),
            Effect::Answer(Err(error)) => write!(f, "answer {} {error}", error.kind().sqlstate()),
            Effect::FinishedElsewhere(p) => write!(f, "finished elsewhere {p}"),
            Effect::Sweep(p) => write!(f, "sweep {p}"),
            Effect::Forget(_) => write!(f, "forget"),
            Effect::Done => write!(f, "done"),
        }
    }
}

pub(super) fn list(participants: &[ParticipantId]) -> String {
    participants.iter().map(ParticipantId::to_string).collect::<Vec<_>>().join(" ")
}
