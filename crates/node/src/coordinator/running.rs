//! The commits over several participants that are under way, what is prepared at the sites, and how both are shown.
//!
//! Invariant: a branch is ended by hand only if neither this node nor a decision that it knows of says what is to become of it.

use super::Coordinator;
use super::history::{self, Entry};
use atoll_model::{Error, ErrorKind, ParticipantId, Result, SiteEngine};
use atoll_ports::cluster::{EndedTransaction, InDoubt, TransactionInfo, TransactionState};
use atoll_ports::site::{PreparedBranch, Site};
use atoll_protocol::recovery::{Input, Verdict};
use atoll_protocol::{Decision, Gid, TransactionId};
use futures::future::join_all;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A commit that is under way.
pub(super) struct Running {
    /// The transaction's number in this process.
    pub(super) number: u64,
    pub(super) participants: Vec<ParticipantId>,
    /// Microseconds since 1970.
    pub(super) began: i64,
    pub(super) state: TransactionState,
    /// Participants that have yet to apply the decision.
    pub(super) pending: BTreeSet<ParticipantId>,
}

impl Coordinator {
    /// A new transaction, active from now on.
    pub(super) fn activate(&self, number: u64, participants: Vec<ParticipantId>) -> TransactionId {
        let sequence = self.sequence.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = TransactionId { cluster: self.cluster, coordinator: self.me, sequence };
        let (began, state, pending) = (history::now(), TransactionState::Preparing, BTreeSet::new());
        self.active.lock().insert(id, Running { number, participants, began, state, pending });
        id
    }

    /// Notes that a participant is told what was decided.
    pub(super) fn decided(&self, id: TransactionId, participant: ParticipantId, commit: bool) {
        if let Some(running) = self.active.lock().get_mut(&id) {
            running.state = if commit { TransactionState::Committed } else { TransactionState::RollingBack };
            running.pending.insert(participant);
        }
    }

    /// Notes that a participant has applied it.
    pub(super) fn applied(&self, id: TransactionId, participant: ParticipantId) {
        if let Some(running) = self.active.lock().get_mut(&id) {
            running.pending.remove(&participant);
        }
    }

    /// Notes how an active transaction has ended.
    pub(super) fn note_end(&self, id: TransactionId, committed: bool, reason: Option<String>) {
        let (participants, began) = match self.active.lock().get(&id) {
            Some(running) => (running.participants.clone(), Some(running.began)),
            None => return,
        };
        let ended = history::now();
        self.forgotten.note(Entry { transaction: id, committed, participants, began, ended, reason });
    }

    /// Notes that a transaction of an earlier run has been committed everywhere.
    pub(super) fn note_recovered(&self, decision: &Decision) {
        self.forgotten.note(Entry {
            transaction: decision.transaction,
            committed: true,
            participants: decision.prepared.clone(),
            began: None,
            ended: history::now(),
            reason: Some("finished after a restart".into()),
        });
    }

    /// Notes that a branch that nobody has decided on was rolled back, or was ended by hand.
    pub(super) fn note_branches(&self, transaction: TransactionId, at: Vec<ParticipantId>, commit: bool, why: &str) {
        let (began, ended, reason) = (None, history::now(), Some(why.to_owned()));
        self.forgotten.note(Entry { transaction, committed: commit, participants: at, began, ended, reason });
    }

    /// What a participant is called in messages and views.
    pub(crate) fn name_of(&self, participant: ParticipantId) -> String {
        if self.is_home(participant) {
            return SiteEngine::Embedded.name().to_owned();
        }
        self.sites.name_of(participant).unwrap_or_else(|| format!("site {participant}, which was dropped"))
    }

    fn names_of<'p>(&self, participants: impl IntoIterator<Item = &'p ParticipantId>) -> Vec<String> {
        participants.into_iter().map(|p| self.name_of(*p)).collect()
    }

    /// Transactions that are being committed over several participants, of this run and of earlier ones.
    pub(crate) fn running(&self) -> Vec<TransactionInfo> {
        let running = |(id, running): (&TransactionId, &Running)| TransactionInfo {
            id: Some(running.number),
            name: Some(id.to_string()),
            state: running.state,
            participants: self.names_of(&running.participants),
            pending: self.names_of(&running.pending),
            began: Some(running.began),
            isolation: None,
            has_writes: true,
        };
        let mut all: Vec<TransactionInfo> = self.active.lock().iter().map(running).collect();
        let recovery = self.recovery.lock();
        all.extend(recovery.decisions().map(|decision| TransactionInfo {
            id: None,
            name: Some(decision.transaction.to_string()),
            state: TransactionState::Committed,
            participants: self.names_of(&decision.prepared),
            pending: self.names_of(&decision.prepared),
            began: None,
            isolation: None,
            has_writes: true,
        }));
        all
    }

    /// How the last transactions over several participants have ended, the newest first.
    pub(crate) fn ended(&self) -> Vec<EndedTransaction> {
        let shown = |entry: Entry| EndedTransaction {
            name: entry.transaction.to_string(),
            committed: entry.committed,
            participants: self.names_of(&entry.participants),
            began: entry.began,
            ended: entry.ended,
            reason: entry.reason,
        };
        self.forgotten.ended().into_iter().map(shown).collect()
    }

    /// The sites at which branches are prepared, one for each participant.
    fn preparing_sites(&self) -> Vec<Arc<dyn Site>> {
        let participants = self.sites.participants().into_iter().filter(|p| !self.is_home(*p));
        participants.filter_map(|p| self.site(p)).collect()
    }

    /// What is prepared at the sites now.
    pub(crate) async fn in_doubt(&self) -> Vec<InDoubt> {
        let asked =
            self.preparing_sites().into_iter().map(|site| async move { (site.participant(), site.prepared().await) });
        let mut all = vec![];
        for (participant, prepared) in join_all(asked).await {
            let site = self.name_of(participant);
            match prepared {
                Ok(branches) => all.extend(branches.into_iter().map(|branch| self.shown(site.clone(), branch))),
                Err(error) => all.push(InDoubt {
                    site,
                    branch: None,
                    transaction: None,
                    owner: None,
                    decision: None,
                    problem: Some(error.message().to_owned()),
                }),
            }
        }
        all
    }

    fn shown(&self, site: String, branch: PreparedBranch) -> InDoubt {
        let gid: Option<Gid> = branch.name.as_str().parse().ok();
        let (owner, decision) = match gid {
            None => ("unknown", None),
            Some(gid) => (self.owner(gid.transaction), self.verdict(gid)),
        };
        let decision = decision.and_then(|verdict| match verdict {
            Verdict::Commit => Some("commit"),
            Verdict::Abort => Some("rollback"),
            Verdict::Leave if self.active.lock().contains_key(&gid?.transaction) => Some("open"),
            Verdict::Ask | Verdict::Leave => None,
        });
        let transaction = gid.map(|gid| gid.transaction.to_string());
        InDoubt { site, branch: Some(branch), transaction, owner: Some(owner), decision, problem: None }
    }

    fn owner(&self, transaction: TransactionId) -> &'static str {
        let by = transaction.coordinator;
        if transaction.cluster != self.cluster {
            "another cluster"
        } else if by.node != self.me.node {
            "another node"
        } else if by.epoch == self.me.epoch {
            "this run"
        } else if by.epoch < self.me.epoch {
            "an earlier run"
        } else {
            "a later run"
        }
    }

    /// What is to become of a branch, if it is one of this cluster's.
    fn verdict(&self, gid: Gid) -> Option<Verdict> {
        if gid.transaction.cluster != self.cluster {
            return None;
        }
        let is_active = self.active.lock().contains_key(&gid.transaction);
        Some(self.recovery.lock().verdict(&gid, |_| is_active))
    }

    /// Ends the branches of a transaction by hand.
    ///
    /// # Errors
    /// Those of [`atoll_ports::cluster::Cluster::resolve`].
    pub(crate) async fn resolve(self: &Arc<Self>, name: &str, commit: bool) -> Result<u64> {
        let branch = || name.parse::<Gid>().map(|gid| gid.transaction);
        let id: TransactionId = name.parse().or_else(|_| branch()).map_err(|_| {
            Error::new(ErrorKind::InvalidParameterValue, format!("{name:?} is no name of a transaction"))
                .hint("SELECT transaction_name FROM atoll.in_doubt")
        })?;
        if self.active.lock().contains_key(&id) {
            return Err(Error::new(ErrorKind::NotInPrerequisiteState, format!("transaction {id} is being committed"))
                .hint("Its coordinator is running, and finishes it."));
        }
        let mut found: Vec<(Arc<dyn Site>, Gid, PreparedBranch)> = vec![];
        for site in self.preparing_sites() {
            // A branch of another cluster may bear another site's number.
            for branch in site.prepared().await? {
                if let Ok(gid) = branch.name.as_str().parse::<Gid>()
                    && gid.transaction == id
                {
                    found.push((site.clone(), gid, branch));
                }
            }
        }
        if found.is_empty() {
            return Err(Error::new(
                ErrorKind::UndefinedObject,
                format!("nothing of transaction {id} is prepared at a site"),
            ));
        }
        for (_, gid, _) in &found {
            self.may_resolve(*gid, commit)?;
        }
        let mut ended = 0;
        let outcome = async {
            for (site, gid, branch) in &found {
                site.finish(&branch.name, commit).await?;
                self.recover(Input::Finished(*gid));
                ended += 1;
            }
            Ok(())
        };
        let outcome: Result<()> = outcome.await;
        let at = found.iter().take(ended).map(|(site, ..)| site.participant()).collect();
        tracing::warn!(transaction = %id, commit, ended, "a transaction was resolved by hand");
        self.note_branches(id, at, commit, "resolved by hand");
        outcome.map(|()| ended as u64)
    }

    /// Refuses what contradicts a decision.
    fn may_resolve(&self, gid: Gid, commit: bool) -> Result<()> {
        let decided = match self.verdict(gid) {
            Some(Verdict::Commit) => true,
            Some(Verdict::Abort) => false,
            Some(Verdict::Ask) => {
                return Err(Error::new(
                    ErrorKind::NotInPrerequisiteState,
                    format!("the decision on transaction {} is recorded at one of its sites", gid.transaction),
                ));
            }
            Some(Verdict::Leave) | None => return Ok(()),
        };
        if decided == commit {
            return Ok(());
        }
        let outcome = if decided { "was committed" } else { "never was decided to commit, and is rolled back" };
        Err(Error::new(ErrorKind::NotInPrerequisiteState, format!("transaction {} {outcome}", gid.transaction))
            .hint("Its branches are finished so by themselves as soon as their sites can be reached."))
    }
}
