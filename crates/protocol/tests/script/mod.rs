//! The machines as scripts see them: lines in, lines out.

mod commit;
mod election;
mod membership;
mod recovery;
mod snapshot;
mod timestamp;

use atoll_model::{ClusterId, Error, ErrorKind, NodeId, ParticipantId};
use atoll_protocol::{Decision, Gid, Incarnation, Time, TransactionId};
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

/// A machine under a script.
pub(crate) trait Subject {
    /// Takes a line, and says what the machine wants done.
    fn input(&mut self, line: &str) -> Result<Vec<String>, String>;

    /// When it wants to be woken.
    fn wake_at(&self) -> Option<Time>;
}

/// The machine that the first word of a script's name means.
pub(crate) fn subject(script: &str) -> Result<Box<dyn Subject>, String> {
    match script.split('_').next() {
        Some("commit") => Ok(Box::<commit::Subject>::default()),
        Some("election") => Ok(Box::<election::Subject>::default()),
        Some("membership") => Ok(Box::<membership::Subject>::default()),
        Some("recovery") => Ok(Box::<recovery::Subject>::default()),
        Some("snapshot") => Ok(Box::<snapshot::Subject>::default()),
        Some("timestamp") => Ok(Box::<timestamp::Subject>::default()),
        _ => Err(format!("{script}: no machine of this name")),
    }
}

/// `+1.5s`.
fn pause(line: &str) -> Option<Duration> {
    let seconds: f64 = line.strip_prefix('+')?.strip_suffix('s')?.parse().ok()?;
    Some(Duration::from_secs_f64(seconds))
}

fn parse<T: FromStr>(word: Option<&str>) -> Result<T, String>
where
    T::Err: Display,
{
    let word = word.ok_or("a word is missing")?;
    word.parse().map_err(|e| format!("{word}: {e}"))
}

fn participant(word: Option<&str>) -> Result<ParticipantId, String> {
    parse(word).map(ParticipantId)
}

fn participants(words: &str) -> Result<Vec<ParticipantId>, String> {
    words.split([' ', ',']).filter(|word| !word.is_empty()).map(|word| participant(Some(word))).collect()
}

/// `40001 could not serialize`.
fn error(text: &str) -> Result<Error, String> {
    let (state, message) = text.split_once(' ').unwrap_or((text, "refused"));
    let kind = ErrorKind::ALL.iter().find(|kind| kind.sqlstate() == state).ok_or("unknown SQLSTATE")?;
    Ok(Error::new(*kind, message.to_string()))
}

/// `1-3`: node and epoch.
fn incarnation(word: &str) -> Result<Incarnation, String> {
    let (node, epoch) = word.split_once('-').ok_or("node-epoch")?;
    Ok(Incarnation { node: NodeId(parse(Some(node))?), epoch: parse(Some(epoch))? })
}

/// `1-3.7`: node, epoch and sequence number, in the cluster of all scripts; or a name in full.
fn transaction(word: &str) -> Result<TransactionId, String> {
    if word.starts_with("atoll") {
        return parse(Some(word));
    }
    let (run, sequence) = word.split_once('.').ok_or("node-epoch.sequence")?;
    Ok(TransactionId { cluster: CLUSTER, coordinator: incarnation(run)?, sequence: parse(Some(sequence))? })
}

const CLUSTER: ClusterId = ClusterId(0xa);

/// `1-3.7:2,5` or `1-3.7:2,5@8`: participants with prepared branches, and the ledger.
fn decision(word: &str) -> Result<Decision, String> {
    let (rest, ledger) = match word.split_once('@') {
        Some((rest, ledger)) => (rest, Some(participant(Some(ledger))?)),
        None => (word, None),
    };
    let (id, prepared) = rest.split_once(':').ok_or("transaction:participants")?;
    Ok(Decision { transaction: transaction(id)?, prepared: participants(prepared)?, ledger })
}

/// `1-3.7:2` or `1-3.7:2@8`: a branch. What is not a name of Atoll's is what an adapter would leave out.
fn branch(word: &str) -> Option<Gid> {
    if let Ok(gid) = word.parse() {
        return Some(gid);
    }
    let decision = decision(word).ok()?;
    Some(decision.transaction.branch(*decision.prepared.first()?, decision.ledger))
}
