//! A transaction over tables: it knows fragments, copies and participants, so that the query layer need not.
//!
//! Invariants: a commit is one durable write, catalog included: that of the one participant that has written, or the coordinator's
//! decision; the catalog that the transaction sees is never newer than its snapshot, so an index that it sees has all entries that the
//! snapshot needs.

mod adopt;
mod branches;
mod commit;
mod ddl;
mod foreign;
mod joining;
mod misplaced;
mod placement;
mod reading;
mod trial;
mod verify;
mod write;

pub(crate) use verify::verify;

use crate::coordinator;
use crate::definitions::Definitions;
use crate::gates::Held;
use crate::node::Node;
use async_trait::async_trait;
use atoll_model::{
    Catalog, CatalogCommand, Error, ErrorKind, FragmentId, IndexId, Result, Row, SiteId, Table, Timestamp, Value,
};
use atoll_ports::cluster::{FragmentRef, TableLock, Transaction, TransactionInfo, TransactionState};
use atoll_ports::query::{SiteExpr, SiteQuery};
use atoll_ports::session::BatchStream;
use atoll_ports::site::{
    Branch, BranchOptions, Isolation, LockMode, LockWait, LockedRow, ParticipantId, RowChange, ScanRequest,
};
use ddl::Ddl;
use parking_lot::Mutex;
pub(crate) use placement::Describe;
use placement::Known;
use reading::View;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// One transaction.
pub(crate) struct Txn {
    this: Weak<Txn>,
    node: Arc<Node>,
    id: u64,
    options: BranchOptions,
    began: Instant,
    state: Mutex<State>,
    /// Locks on tables, given back when the transaction is dropped or ends.
    held: Mutex<Vec<Held>>,
    /// Parents' rows that were found and locked.
    known: Mutex<Known>,
    /// Held while snapshots are opened, so that this is done once.
    opening: tokio::sync::Mutex<()>,
}

struct State {
    definitions: Arc<Definitions>,
    /// Changes of the catalog that are not committed yet.
    ddl: Option<Ddl>,
    branches: Vec<(ParticipantId, Arc<dyn Branch>)>,
    /// Copies chosen for reading, for the running statement.
    choices: Vec<(FragmentId, SiteId)>,
    savepoints: Vec<Savepoint>,
    view: View,
    /// A site was down whose copies can be set aside.
    lost: Option<SiteId>,
    finished: bool,
}

/// A place to return to.
struct Savepoint {
    branches: Vec<(ParticipantId, u64)>,
    definitions: Arc<Definitions>,
    ddl: Option<Ddl>,
}

impl Txn {
    pub(crate) fn new(node: Arc<Node>, id: u64, options: BranchOptions, definitions: Arc<Definitions>) -> Arc<Self> {
        Arc::new_cyclic(|this| Txn {
            this: this.clone(),
            node,
            id,
            options,
            began: Instant::now(),
            state: Mutex::new(State {
                definitions,
                ddl: None,
                branches: Vec::new(),
                choices: Vec::new(),
                savepoints: Vec::new(),
                view: View::default(),
                lost: None,
                finished: false,
            }),
            held: Mutex::default(),
            known: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn number(&self) -> u64 {
        self.id
    }

    /// Its parts at the participants.
    pub(crate) fn branches(&self) -> Vec<(ParticipantId, Arc<dyn Branch>)> {
        self.state.lock().branches.clone()
    }

    pub(crate) fn info(&self) -> TransactionInfo {
        let age = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        let participants = self.branches().iter().map(|(p, _)| self.node.coordinator.name_of(*p)).collect();
        TransactionInfo {
            id: Some(self.id),
            name: None,
            state: TransactionState::Active,
            participants,
            pending: vec![],
            began: Some(coordinator::wall_clock().saturating_sub(age)),
            isolation: Some(self.options.isolation),
            has_writes: self.has_writes(),
        }
    }

    fn definitions(&self) -> Arc<Definitions> {
        self.state.lock().definitions.clone()
    }

    /// Gives everything back that others may wait for.
    fn release(&self, created: Option<Ddl>) {
        if let Some(ddl) = created {
            ddl.forget_created(&self.node);
        }
        self.held.lock().clear();
        self.known.lock().clear();
        self.node.active.end(self.id);
    }
}

#[async_trait]
impl Transaction for Txn {
    fn id(&self) -> u64 {
        self.id
    }

    fn options(&self) -> BranchOptions {
        self.options
    }

    fn catalog(&self) -> Arc<Catalog> {
        self.state.lock().definitions.catalog.clone()
    }

    async fn begin_statement(&self) -> Result<()> {
        let coordinator = &self.node.coordinator;
        if coordinator.guards_reads(&self.options) {
            for (participant, _) in self.branches() {
                coordinator.clear(participant).await?;
            }
        }
        // The catalog first: it must not be newer than the snapshot.
        let newest = self.node.definitions.load_full();
        let mut state = self.state.lock();
        state.choices.clear();
        if coordinator.guards_reads(&self.options) && self.options.isolation == Isolation::ReadCommitted {
            state.view.renew(coordinator.moment());
        }
        if self.options.isolation == Isolation::ReadCommitted {
            if state.ddl.is_none() {
                state.definitions = newest;
            }
            for (_, branch) in &state.branches {
                branch.begin_statement();
            }
        }
        Ok(())
    }

    async fn apply(&self, command: CatalogCommand) -> Result<()> {
        self.change_catalog(command).await
    }

    async fn lock_table(&self, table: &Arc<Table>, lock: TableLock) -> Result<()> {
        self.hold(table.id, lock).await?;
        self.check_current(table).map_err(Error::before_any_effect)
    }

    async fn get(&self, fragment: &FragmentRef, key: &[Value]) -> Result<Option<Row>> {
        let replica = self.replica_for_read(fragment)?;
        let branch = self.branch_for_read(replica.site).await?;
        self.check_serves(&fragment.table, fragment.at, replica.site)?;
        branch.get(&replica, key).await
    }

    async fn get_alone(&self, fragment: &FragmentRef, key: &[Value], wanted: &[usize]) -> Result<Option<Row>> {
        if let Some((site, replica)) = self.site_to_read(fragment)? {
            let row = self.read_committed(&*site, &replica, key, wanted).await?;
            self.check_serves(&fragment.table, fragment.at, replica.site)?;
            return Ok(row);
        }
        self.get(fragment, key).await
    }

    fn scan(&self, fragment: &FragmentRef, request: ScanRequest) -> Result<(SiteId, BatchStream)> {
        self.scan_copy(fragment, request)
    }

    fn query(&self, site: SiteId, query: SiteQuery) -> Result<BatchStream> {
        self.query_copies(site, query)
    }

    fn site_for_read(&self, fragment: &FragmentRef) -> SiteId {
        let site = self.choose(&fragment.table, fragment.at).unwrap_or(SiteId(0));
        self.announce(site);
        site
    }

    async fn lock(
        &self,
        fragment: &FragmentRef,
        keys: &[Vec<Value>],
        mode: LockMode,
        wait: LockWait,
    ) -> Result<Vec<LockedRow>> {
        // The locks are good for as long as no other copy takes the place of the one that they are at.
        self.hold(fragment.table.id, TableLock::Write).await?;
        self.check_locks(&fragment.table, fragment.at)?;
        self.lock_rows(&fragment.table, fragment.at, keys, mode, wait).await
    }

    async fn find_unique(
        &self,
        table: &Arc<Table>,
        index: Option<IndexId>,
        values: &[Value],
    ) -> Result<Option<(usize, Row)>> {
        for at in self.fragments_of_unique(table, index, values).await? {
            let replica = Self::first_replica(table, at)?;
            let branch = self.branch_at(replica.site).await?;
            if let Some(row) = branch.find_unique(&replica, index, values, LockMode::Exclusive).await? {
                return Ok(Some((at, row)));
            }
        }
        Ok(None)
    }

    async fn place(&self, table: &Arc<Table>, row: &[Value]) -> Result<usize> {
        self.place_seen(table, row).await
    }

    async fn write(&self, table: &Arc<Table>, changes: Vec<RowChange>) -> Result<()> {
        self.write_rows(table, changes).await
    }

    fn lost_copy(&self) -> Option<SiteId> {
        self.state.lock().lost
    }

    async fn update_row(
        &self,
        fragment: &FragmentRef,
        key: &[Value],
        set: &[(usize, SiteExpr)],
    ) -> Result<Option<bool>> {
        self.update_at_site(fragment, key, set).await
    }

    fn savepoint(&self) -> u64 {
        let mut state = self.state.lock();
        let branches = state.branches.iter().map(|(id, branch)| (*id, branch.savepoint())).collect();
        let savepoint = Savepoint { branches, definitions: state.definitions.clone(), ddl: state.ddl.clone() };
        state.savepoints.push(savepoint);
        state.savepoints.len() as u64 - 1
    }

    fn rollback_to(&self, savepoint: u64) {
        self.known.lock().clear();
        let mut state = self.state.lock();
        let at = savepoint as usize;
        state.savepoints.truncate(at + 1);
        let Some(Savepoint { branches, definitions, ddl }) = state.savepoints.get(at) else { return };
        let (branches, definitions, ddl) = (branches.clone(), definitions.clone(), ddl.clone());
        for (id, branch) in &state.branches {
            // A branch that was opened later has a savepoint of its beginning.
            if let Some((_, mark)) = branches.iter().find(|(b, _)| b == id) {
                branch.rollback_to(*mark);
            }
        }
        if let Some(undone) = &state.ddl {
            undone.forget_created_since(ddl.as_ref(), &self.node);
            state.definitions = definitions;
        }
        // The DDL lock stays, as every lock does, once it was taken.
        state.ddl = match (ddl, state.ddl.take()) {
            (Some(before), _) => Some(before),
            (None, Some(undone)) => Some(undone.emptied(&state.definitions)),
            (None, None) => None,
        };
    }

    fn has_writes(&self) -> bool {
        let state = self.state.lock();
        state.ddl.as_ref().is_some_and(Ddl::has_changes) || state.branches.iter().any(|(_, b)| b.has_writes())
    }

    async fn commit(&self) -> Result<Timestamp> {
        let (branches, ddl) = {
            let mut state = self.state.lock();
            if state.finished {
                return Err(Error::new(ErrorKind::NoActiveTransaction, "the transaction has ended"));
            }
            state.finished = true;
            state.savepoints.clear();
            (std::mem::take(&mut state.branches), state.ddl.take())
        };
        self.commit_branches(branches, ddl).await
    }

    fn rollback(&self) {
        let (branches, ddl) = {
            let mut state = self.state.lock();
            if state.finished {
                return;
            }
            state.finished = true;
            state.savepoints.clear();
            (std::mem::take(&mut state.branches), state.ddl.take())
        };
        for (_, branch) in branches {
            branch.rollback();
        }
        self.release(ddl);
    }
}

impl Drop for Txn {
    fn drop(&mut self) {
        self.rollback();
        // Also when `commit` was given up half-way.
        self.node.active.end(self.id);
    }
}
