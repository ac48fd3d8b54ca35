//! The transaction's parts at participants: opened at the first use, chosen for reading.

use super::Txn;
use crate::sites::OpenSite;
use atoll_model::{Error, ErrorKind, ReadBalance, Result, SiteId, Table, Value};
use atoll_ports::cluster::FragmentRef;
use atoll_ports::query::SiteQuery;
use atoll_ports::session::BatchStream;
use atoll_ports::site::{Branch, LockMode, LockWait, LockedRow, ParticipantId, Replica, ScanRequest};
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

impl Txn {
    /// The branch that serves a site, which shows everything that clients were told to be committed.
    pub(crate) async fn branch_at(&self, site: SiteId) -> Result<Arc<dyn Branch>> {
        let participant = self.node.participant(site)?;
        if let Some(branch) = self.open_branch(participant)? {
            return Ok(branch);
        }
        let coordinator = &self.node.coordinator;
        if !coordinator.is_alone() {
            self.told(site, coordinator.clear(participant).await)?;
            self.state.lock().view.begin(|| coordinator.moment());
        }
        self.branch_as_it_is(site).await
    }

    /// The branch that serves a site, whatever is yet to be applied there.
    pub(super) async fn branch_as_it_is(&self, site: SiteId) -> Result<Arc<dyn Branch>> {
        let opened = self.open_branch_at(site).await;
        self.told(site, opened)
    }

    async fn open_branch_at(&self, site: SiteId) -> Result<Arc<dyn Branch>> {
        let open = self.node.sites.get(site)?;
        let participant = open.site.participant();
        if let Some(branch) = self.open_branch(participant)? {
            return Ok(branch);
        }
        let branch = open.site.begin(self.options).await?;
        let mut state = self.state.lock();
        if state.finished {
            return Err(ended());
        }
        // Another task may have been faster; then this one is dropped, which rolls it back.
        if let Some((_, first)) = state.branches.iter().find(|(p, _)| *p == participant) {
            return Ok(first.clone());
        }
        if !state.savepoints.is_empty() {
            let mark = branch.savepoint();
            for savepoint in &mut state.savepoints {
                savepoint.branches.push((participant, mark));
            }
        }
        state.branches.push((participant, branch.clone()));
        Ok(branch)
    }

    pub(super) fn open_branch(&self, participant: ParticipantId) -> Result<Option<Arc<dyn Branch>>> {
        let state = self.state.lock();
        if state.finished {
            return Err(ended());
        }
        Ok(state.branches.iter().find(|(p, _)| *p == participant).map(|(_, b)| b.clone()))
    }

    /// The copy of a fragment to read, the same one throughout a statement.
    pub(super) fn choose(&self, table: &Table, at: usize) -> Option<SiteId> {
        let fragment = table.fragments.get(at)?;
        if let [only] = fragment.replicas.as_slice() {
            return Some(*only);
        }
        let mut state = self.state.lock();
        if let Some((_, site)) = state.choices.iter().find(|(f, _)| *f == fragment.id) {
            return Some(*site);
        }
        let serving = self.node.sites.reachable(&fragment.replicas);
        // Where the statement reads copies already, it can be joined.
        let beside = serving.iter().find(|site| state.choices.iter().any(|(_, chosen)| chosen == *site)).copied();
        let site = beside.or_else(|| match table.read_balance {
            ReadBalance::RoundRobin => {
                let turn = self.node.turn.fetch_add(1, Ordering::Relaxed);
                serving.get(turn % serving.len().max(1)).copied()
            }
            ReadBalance::LeastLoaded => self.node.sites.least_loaded(&serving),
        })?;
        state.choices.push((fragment.id, site));
        Some(site)
    }

    pub(super) fn replica_for_read(&self, fragment: &FragmentRef) -> Result<Replica> {
        let site =
            self.choose(&fragment.table, fragment.at).ok_or_else(|| no_fragment(&fragment.table, fragment.at))?;
        Self::replica(&fragment.table, fragment.at, site)
    }

    pub(crate) fn replica(table: &Arc<Table>, at: usize, site: SiteId) -> Result<Replica> {
        let fragment = table.fragments.get(at).ok_or_else(|| no_fragment(table, at))?;
        Ok(Replica { site, fragment: fragment.id, table: table.clone() })
    }

    /// The copy whose locks and unique entries stand for all copies.
    pub(crate) fn first_replica(table: &Arc<Table>, at: usize) -> Result<Replica> {
        let fragment = table.fragments.get(at).ok_or_else(|| no_fragment(table, at))?;
        let site = fragment.replicas.first().ok_or_else(|| no_fragment(table, at))?;
        Ok(Replica { site: *site, fragment: fragment.id, table: table.clone() })
    }

    pub(super) fn scan_copy(&self, fragment: &FragmentRef, request: ScanRequest) -> Result<(SiteId, BatchStream)> {
        let replica = self.replica_for_read(fragment)?;
        let site = replica.site;
        let open = self.node.sites.get(site)?;
        let (table, at) = (fragment.table.clone(), fragment.at);
        let serves = move |txn: &Txn| txn.check_serves(&table, at, site);
        let batches = self.read_at(&open, serves, move |branch| branch.scan(&replica, request))?;
        if fragment.table.fragments[fragment.at].replicas.len() == 1 {
            return Ok((site, batches));
        }
        let reading = Reading::start(open.scans);
        Ok((
            site,
            batches
                .inspect(move |_| {
                    let _ = &reading;
                })
                .boxed(),
        ))
    }

    /// A query that a site answers.
    pub(super) fn query_copies(&self, site: SiteId, query: SiteQuery) -> Result<BatchStream> {
        let open = self.node.sites.get(site)?;
        let serves = move |txn: &Txn| txn.check_all_serve(site);
        let batches = self.read_at(&open, serves, move |branch| branch.query(query))?;
        let reading = Reading::start(open.scans);
        Ok(batches
            .inspect(move |_| {
                let _ = &reading;
            })
            .boxed())
    }

    /// Reads in the branch of a site, which is begun for it where this is the first touch of the participant.
    fn read_at(
        &self,
        open: &OpenSite,
        serves: impl FnOnce(&Txn) -> Result<()> + Send + 'static,
        read: impl FnOnce(&dyn Branch) -> Result<BatchStream> + Send + 'static,
    ) -> Result<BatchStream> {
        if let Some(branch) = self.ready_branch(open.site.participant())? {
            serves(self)?;
            return read(&*branch);
        }
        let (this, site) = (self.this.upgrade().ok_or_else(ended)?, open.site.id());
        let opened = async move {
            let branch = this.branch_for_read(site).await?;
            serves(&this)?;
            read(&*branch)
        };
        Ok(stream::once(opened).try_flatten().boxed())
    }

    /// Locks rows at every participant that holds a copy; at each, the locks stand for all copies there.
    pub(super) async fn lock_rows(
        &self,
        table: &Arc<Table>,
        at: usize,
        keys: &[Vec<Value>],
        mode: LockMode,
        wait: LockWait,
    ) -> Result<Vec<LockedRow>> {
        let first = Self::first_replica(table, at)?;
        let locked = self.branch_at(first.site).await?.lock(&first, keys, mode, wait).await;
        let locked = self.told(first.site, locked)?;
        let replicas = &table.fragments[at].replicas;
        if replicas.len() > 1 {
            let mut asked = vec![self.node.participant(first.site)?];
            for site in &replicas[1..] {
                let participant = self.node.participant(*site)?;
                if !asked.contains(&participant) {
                    asked.push(participant);
                    let replica = Self::replica(table, at, *site)?;
                    let locked = self.branch_at(*site).await?.lock(&replica, keys, mode, wait).await;
                    self.told(*site, locked)?;
                }
            }
        }
        Ok(locked)
    }
}

/// Counts a scan as under way until its stream is dropped.
struct Reading(Arc<AtomicUsize>);

impl Reading {
    fn start(scans: Arc<AtomicUsize>) -> Self {
        scans.fetch_add(1, Ordering::Relaxed);
        Reading(scans)
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::NoActiveTransaction, "the transaction has ended")
}

fn no_fragment(table: &Table, at: usize) -> Error {
    Error::new(ErrorKind::SerializationFailure, format!("table \"{}\" has no fragment {at} any more", table.name))
        .hint("Its definition has changed: run the transaction again.")
}
