//! Snapshots that go together, for statements that read at several participants.
//!
//! When a statement is planned, [`Transaction::site_for_read`](atoll_ports::cluster::Transaction::site_for_read) is asked for every fragment
//! that it will scan, so by the first scan it is known at which participants. Their snapshots are then opened together, by the coordinator, so
//! that none shows half of a commit. A participant that comes later (a subquery that is planned while others run; in `RepeatableRead`,
//! the next statement) is added if its snapshot goes with those that are there, and is an error that can be retried if not.
//!
//! What a transaction has locked or written at a PostgreSQL site in `ReadCommitted` it reads with one snapshot per scan
//! (see [`atoll_ports::site`]): of what is promised here, such a transaction gets the part that concerns the other participants.
//!
//! Invariant: a participant is among the opened ones only if its snapshot goes with those of all others that are.

use super::{State, Txn};
use crate::coordinator::{Moment, torn};
use atoll_model::{Error, Result, Row, SiteEngine, SiteId, Value};
use atoll_ports::cluster::FragmentRef;
use atoll_ports::site::{Branch, Isolation, ParticipantId, Replica, Site};
use futures::future::try_join_all;
use std::sync::Arc;

/// What is known of the snapshots of the running statement, or of the transaction where it has one for all statements.
#[derive(Default)]
pub(super) struct View {
    /// Participants at which the statement will read.
    announced: Vec<ParticipantId>,
    /// Those whose snapshots are taken, and go together.
    opened: Vec<ParticipantId>,
    /// None of them was taken before.
    since: Option<Moment>,
}

impl View {
    /// A statement begins, with snapshots of its own.
    pub(super) fn renew(&mut self, now: Moment) {
        self.announced.clear();
        self.opened.clear();
        self.since = Some(now);
    }

    /// A snapshot is about to be taken.
    pub(super) fn begin(&mut self, now: impl FnOnce() -> Moment) {
        if self.since.is_none() {
            self.since = Some(now());
        }
    }
}

impl Txn {
    /// Notes that the statement is going to read there.
    pub(super) fn announce(&self, site: SiteId) {
        if self.node.coordinator.guards_reads(&self.options)
            && let Ok(participant) = self.node.participant(site)
        {
            let mut state = self.state.lock();
            if !state.view.announced.contains(&participant) {
                state.view.announced.push(participant);
            }
        }
    }

    /// The branch that serves a site's reads, if it can be used as it is.
    pub(super) fn ready_branch(&self, participant: ParticipantId) -> Result<Option<Arc<dyn Branch>>> {
        if self.node.coordinator.guards_reads(&self.options) && !self.state.lock().view.opened.contains(&participant) {
            return Ok(None);
        }
        self.open_branch(participant)
    }

    /// The branch that serves a site's reads, with a snapshot that goes with the others.
    pub(super) async fn branch_for_read(&self, site: SiteId) -> Result<Arc<dyn Branch>> {
        if !self.node.coordinator.guards_reads(&self.options) {
            return self.branch_as_it_is(site).await;
        }
        let participant = self.node.participant(site)?;
        if let Some(branch) = self.ready_branch(participant)? {
            return Ok(branch);
        }
        let _turn = self.opening.lock().await;
        if let Some(branch) = self.ready_branch(participant)? {
            return Ok(branch);
        }
        let per_statement = self.options.isolation == Isolation::ReadCommitted;
        let fresh = {
            let state = self.state.lock();
            // What a branch that is there has seen cannot be seen anew, unless every statement sees something new.
            state.view.opened.is_empty() && (per_statement || state.branches.is_empty())
        };
        if fresh {
            self.open_together(participant).await?
        } else {
            self.open_later(participant, site).await?
        }
        self.branch_at(site).await
    }

    /// The site to ask for a committed row outside of the transaction, where that is the answer within it: in `ReadCommitted`, where it has
    /// done nothing yet. To the node's own participant a transaction costs nothing.
    pub(super) fn site_to_read(&self, fragment: &FragmentRef) -> Result<Option<(Arc<dyn Site>, Replica)>> {
        if self.node.coordinator.is_alone() || self.options.isolation != Isolation::ReadCommitted {
            return Ok(None);
        }
        let replica = self.replica_for_read(fragment)?;
        let site = self.node.sites.get(replica.site)?.site;
        if site.engine() == SiteEngine::Embedded {
            return Ok(None);
        }
        let branch = self.open_branch(site.participant())?;
        Ok(branch.is_none_or(|b| !b.has_writes() && !b.has_locks()).then_some((site, replica)))
    }

    /// A row that shows everything that clients were told to be committed.
    pub(super) async fn read_committed(
        &self,
        site: &dyn Site,
        replica: &Replica,
        key: &[Value],
        wanted: &[usize],
    ) -> Result<Option<Row>> {
        if self.node.coordinator.guards_reads(&self.options) {
            self.node.coordinator.clear(site.participant()).await?;
        }
        site.read(replica, key, wanted).await
    }

    async fn open_together(&self, participant: ParticipantId) -> Result<()> {
        let coordinator = &self.node.coordinator;
        let mut wanted = self.state.lock().view.announced.clone();
        if !wanted.contains(&participant) {
            wanted.push(participant);
        }
        self.state.lock().view.begin(|| coordinator.moment());
        for p in &wanted {
            coordinator.clear(*p).await?;
        }
        if wanted.len() > 1 {
            coordinator.open(wanted.clone(), |attempt| self.take_snapshots(&wanted, attempt)).await?;
        }
        self.state.lock().view.opened = wanted;
        Ok(())
    }

    async fn take_snapshots(&self, participants: &[ParticipantId], attempt: u32) -> Result<()> {
        try_join_all(participants.iter().map(|p| self.take_snapshot(*p, attempt))).await.map(|_| ())
    }

    async fn take_snapshot(&self, participant: ParticipantId, attempt: u32) -> Result<()> {
        let per_statement = self.options.isolation == Isolation::ReadCommitted;
        if attempt > 1 && !per_statement {
            self.give_up_branch(participant);
        }
        let branch = self.branch_at(self.site_of(participant)?).await?;
        if per_statement {
            branch.begin_statement();
        }
        branch.take_snapshot().await
    }

    /// A participant joins those that were read.
    async fn open_later(&self, participant: ParticipantId, site: SiteId) -> Result<()> {
        self.node.coordinator.clear(participant).await?;
        self.branch_at(site).await?.take_snapshot().await?;
        let mut state = self.state.lock();
        let State { view, branches, .. } = &mut *state;
        let others: Vec<ParticipantId> = match self.options.isolation {
            Isolation::ReadCommitted => view.opened.clone(),
            _ => branches.iter().map(|(p, _)| *p).collect(),
        };
        if !self.node.coordinator.fits(&others, participant, view.since.unwrap_or_default()) {
            return Err(torn());
        }
        view.opened.push(participant);
        Ok(())
    }

    /// Forgets a branch that has only taken a snapshot.
    fn give_up_branch(&self, participant: ParticipantId) {
        let mut state = self.state.lock();
        let State { branches, savepoints, .. } = &mut *state;
        branches.retain(|(p, _)| *p != participant);
        for savepoint in savepoints {
            savepoint.branches.retain(|(p, _)| *p != participant);
        }
    }

    fn site_of(&self, participant: ParticipantId) -> Result<SiteId> {
        let site = self.node.sites.of_participant(participant);
        site.map(|site| site.id()).ok_or_else(|| Error::internal(format!("participant {participant} has no site")))
    }
}
