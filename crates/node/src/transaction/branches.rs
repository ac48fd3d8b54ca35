//! The transaction's parts at participants: opened at the first use, chosen for reading, committed as one.

use super::Txn;
use super::ddl::Ddl;
use atoll_model::{Error, ErrorKind, ReadBalance, Result, SiteId, Table, Timestamp, Value};
use atoll_ports::cluster::FragmentRef;
use atoll_ports::session::BatchStream;
use atoll_ports::site::{Branch, LockMode, LockWait, LockedRow, ParticipantId, Replica, ScanRequest};
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

impl Txn {
    /// The branch that serves a site.
    pub(super) async fn branch_at(&self, site: SiteId) -> Result<Arc<dyn Branch>> {
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

    fn open_branch(&self, participant: ParticipantId) -> Result<Option<Arc<dyn Branch>>> {
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
        let site = match table.read_balance {
            ReadBalance::RoundRobin => {
                let turn = self.node.turn.fetch_add(1, Ordering::Relaxed);
                fragment.replicas.get(turn % fragment.replicas.len().max(1)).copied()
            }
            ReadBalance::LeastLoaded => self.node.sites.least_loaded(&fragment.replicas),
        }?;
        state.choices.push((fragment.id, site));
        Some(site)
    }

    pub(super) fn replica_for_read(&self, fragment: &FragmentRef) -> Result<Replica> {
        let site =
            self.choose(&fragment.table, fragment.at).ok_or_else(|| no_fragment(&fragment.table, fragment.at))?;
        Self::replica(&fragment.table, fragment.at, site)
    }

    pub(super) fn replica(table: &Arc<Table>, at: usize, site: SiteId) -> Result<Replica> {
        let fragment = table.fragments.get(at).ok_or_else(|| no_fragment(table, at))?;
        Ok(Replica { site, fragment: fragment.id, table: table.clone() })
    }

    /// The copy whose locks and unique entries stand for all copies.
    pub(super) fn first_replica(table: &Arc<Table>, at: usize) -> Result<Replica> {
        let fragment = table.fragments.get(at).ok_or_else(|| no_fragment(table, at))?;
        let site = fragment.replicas.first().ok_or_else(|| no_fragment(table, at))?;
        Ok(Replica { site: *site, fragment: fragment.id, table: table.clone() })
    }

    pub(super) fn scan_copy(&self, fragment: &FragmentRef, request: ScanRequest) -> Result<(SiteId, BatchStream)> {
        let replica = self.replica_for_read(fragment)?;
        let site = replica.site;
        let open = self.node.sites.get(site)?;
        let batches = match self.open_branch(open.site.participant())? {
            Some(branch) => branch.scan(&replica, request)?,
            // The transaction's first touch of the participant.
            None => {
                let this = self.this.upgrade().ok_or_else(ended)?;
                stream::once(async move {
                    let branch = this.branch_at(site).await?;
                    branch.scan(&replica, request)
                })
                .try_flatten()
                .boxed()
            }
        };
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
        let locked = self.branch_at(first.site).await?.lock(&first, keys, mode, wait).await?;
        let replicas = &table.fragments[at].replicas;
        if replicas.len() > 1 {
            let mut asked = vec![self.node.participant(first.site)?];
            for site in &replicas[1..] {
                let participant = self.node.participant(*site)?;
                if !asked.contains(&participant) {
                    asked.push(participant);
                    let replica = Self::replica(table, at, *site)?;
                    self.branch_at(*site).await?.lock(&replica, keys, mode, wait).await?;
                }
            }
        }
        Ok(locked)
    }

    /// Commits: who has only read is let go, the one participant with writes decides.
    pub(super) async fn commit_branches(
        &self,
        branches: Vec<(ParticipantId, Arc<dyn Branch>)>,
        ddl: Option<&Ddl>,
    ) -> Result<Timestamp> {
        let mut writer: Option<(ParticipantId, Arc<dyn Branch>)> = None;
        let mut readers = vec![];
        for (participant, branch) in branches {
            if !branch.has_writes() {
                readers.push((participant, branch));
            } else if writer.is_none() {
                writer = Some((participant, branch));
            } else {
                return Err(Error::unsupported("a transaction with writes at several participants")
                    .hint("Write to the tables of one engine per transaction."));
            }
        }
        if let Some(ddl) = ddl.filter(|d| d.has_changes()) {
            let home = self.node.home().participant();
            let branch = match (writer, readers.iter().find(|(p, _)| *p == home)) {
                (Some((participant, branch)), _) if participant == home => branch,
                (Some(_), _) => {
                    return Err(Error::unsupported("DDL and writes to another engine in one transaction")
                        .hint("COMMIT between them."));
                }
                (None, Some((_, branch))) => branch.clone(),
                (None, None) => self.node.home().begin(self.options).await?,
            };
            let dropped = ddl.write(&self.node, &*branch).await?;
            let timestamp = branch.commit().await?;
            ddl.publish(&self.node, dropped).await;
            return Ok(timestamp);
        }
        let mut timestamp = Timestamp(0);
        for (_, branch) in readers {
            timestamp = branch.commit().await?;
        }
        match writer {
            Some((_, branch)) => branch.commit().await,
            None => Ok(timestamp),
        }
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
