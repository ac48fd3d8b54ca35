//! A transaction over sites: its catalog, branches, locks and savepoints.
//!
//! Invariants: DDL and data of a transaction commit in one durable write of the local participant; the new catalog is published
//! after it. A table that is written is locked against changes of its definition to the end.

use crate::locks::{Held, within};
use crate::meta::{self, Dropped};
use crate::node::Node;
use async_trait::async_trait;
use atoll_model::{
    Catalog, CatalogCommand, Error, ErrorKind, FragmentId, IndexId, RelationId, Result, Row, SiteId, Table, TableChange,
    Timestamp, Value,
};
use atoll_ports::cluster::{FragmentRef, TableLock, Transaction};
use atoll_ports::session::BatchStream;
use atoll_ports::site::{
    Branch, BranchOptions, Isolation, LockMode, LockWait, LockedRow, ParticipantId, Replica, RowChange, ScanRequest,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::OwnedMutexGuard;

/// A transaction.
pub(crate) struct Txn {
    id: u64,
    pub(crate) node: Arc<Node>,
    options: BranchOptions,
    state: Mutex<State>,
    ended: AtomicBool,
}

struct State {
    /// What the transaction sees: the committed catalog, with its own DDL applied.
    catalog: Arc<Catalog>,
    /// The catalog that its DDL started from.
    base: Option<Arc<Catalog>>,
    ddl: Option<OwnedMutexGuard<()>>,
    branches: BTreeMap<ParticipantId, Arc<dyn Branch>>,
    locks: HashMap<RelationId, Held>,
    /// Copies chosen by the current statement.
    choices: HashMap<FragmentId, SiteId>,
    savepoints: Vec<Savepoint>,
    /// Where the rows are that children were placed beside: their locks are held, so this stays true.
    pub(crate) parents: HashMap<(RelationId, String), usize>,
}

struct Savepoint {
    catalog: Arc<Catalog>,
    branches: Vec<(ParticipantId, u64)>,
}

impl Txn {
    pub(crate) fn new(id: u64, node: Arc<Node>, options: BranchOptions) -> Self {
        let state = State {
            catalog: node.current(),
            base: None,
            ddl: None,
            branches: BTreeMap::new(),
            locks: HashMap::new(),
            choices: HashMap::new(),
            savepoints: vec![],
            parents: HashMap::new(),
        };
        Txn { id, node, options, state: Mutex::new(state), ended: AtomicBool::new(false) }
    }

    /// The branch that serves a site, begun at the first use.
    pub(crate) async fn branch(&self, site: SiteId) -> Result<Arc<dyn Branch>> {
        let site = self.node.site(&self.catalog(), site)?;
        if let Some(branch) = self.state.lock().branches.get(&site.participant()) {
            return Ok(branch.clone());
        }
        let branch = site.begin(self.options).await?;
        Ok(self.state.lock().branches.entry(site.participant()).or_insert(branch).clone())
    }

    fn open_branch(&self, site: SiteId) -> Result<Arc<dyn Branch>> {
        let participant = self.node.site(&self.catalog(), site)?.participant();
        self.state.lock().branches.get(&participant).cloned().ok_or_else(|| {
            Error::internal("a scan before the statement began")
        })
    }

    /// Where a fragment's row is read.
    pub(crate) fn replica(&self, fragment: &FragmentRef, site: SiteId) -> Replica {
        Replica { site, fragment: fragment.table.fragments[fragment.at].id, table: fragment.table.clone() }
    }

    /// The first copy: where locks are taken and uniqueness is looked up.
    pub(crate) async fn primary(&self, fragment: &FragmentRef) -> Result<(Arc<dyn Branch>, Replica)> {
        let site = fragment.table.fragments[fragment.at].replicas[0];
        Ok((self.branch(site).await?, self.replica(fragment, site)))
    }

    /// How the transaction was begun.
    pub(crate) fn isolation(&self) -> Isolation {
        self.options.isolation
    }

    /// Where a parent's row was found before.
    pub(crate) fn known_parent(&self, key: &(RelationId, String)) -> Option<usize> {
        self.state.lock().parents.get(key).copied()
    }

    /// Remembers where a parent's row is, its lock being held. Bounded: beyond, it starts anew.
    pub(crate) fn remember_parent(&self, key: (RelationId, String), at: usize) {
        const MAX_PARENTS: usize = 100_000;
        let parents = &mut self.state.lock().parents;
        if parents.len() >= MAX_PARENTS {
            parents.clear();
        }
        parents.insert(key, at);
    }

    /// Rows of a parent change: what was remembered may be wrong.
    pub(crate) fn forget_parents(&self) {
        let parents = &mut self.state.lock().parents;
        if !parents.is_empty() {
            parents.clear();
        }
    }

    fn refuse_read_only(&self) -> Result<()> {
        if self.options.read_only {
            return Err(Error::new(
                ErrorKind::ReadOnlyTransaction,
                "cannot execute a statement that writes in a read-only transaction",
            ));
        }
        Ok(())
    }

    async fn take_lock(&self, table: RelationId, lock: TableLock) -> Result<()> {
        {
            let mut state = self.state.lock();
            match (state.locks.get(&table), lock) {
                (Some(Held::Exclusive(_)), _) | (Some(Held::Write(_)), TableLock::Write) => return Ok(()),
                // The DDL lock is held, so nobody else can take the table in between.
                (Some(Held::Write(_)), TableLock::Exclusive) => {
                    state.locks.remove(&table);
                }
                (None, _) => {}
            }
        }
        let held = self.node.table_locks.take(table, lock, self.options.lock_timeout).await?;
        self.state.lock().locks.insert(table, held);
        Ok(())
    }

    /// The tables whose writers a command must wait for.
    fn concerned(catalog: &Catalog, command: &CatalogCommand) -> Vec<RelationId> {
        let named = |name: &String| catalog.table(name).map(|t| t.id);
        let family = |id: RelationId| {
            let derived = catalog.tables.values().filter(move |t| {
                matches!(t.fragmentation, atoll_model::Fragmentation::Derived { parent, .. } if parent == id)
                    || t.foreign_keys.iter().any(|f| f.parent == id)
            });
            std::iter::once(id).chain(derived.map(|t| t.id)).collect::<Vec<_>>()
        };
        match command {
            CatalogCommand::CreateFragment { table, .. } | CatalogCommand::DropTable { name: table, .. } => {
                named(table).map(family).unwrap_or_default()
            }
            CatalogCommand::DropFragment { name } => catalog.fragment(name).map(|(t, _)| family(t.id)).unwrap_or_default(),
            CatalogCommand::Truncate { tables, .. } => tables.iter().filter_map(named).flat_map(family).collect(),
            CatalogCommand::AlterTable { table, change } => {
                let mut ids: Vec<RelationId> = named(table).into_iter().collect();
                if let TableChange::AddForeignKey(fk) = change {
                    ids.extend(named(&fk.parent));
                }
                ids
            }
            CatalogCommand::CreateIndex { table, .. } => named(table).into_iter().collect(),
            CatalogCommand::DropIndex { name } => match catalog.names.get(name) {
                Some(atoll_model::NamedObject::Index(id)) => vec![*id],
                _ => vec![],
            },
            CatalogCommand::CreateTable(new) => new.foreign_keys.iter().filter_map(|f| named(&f.parent)).collect(),
            CatalogCommand::CreateSite { .. }
            | CatalogCommand::DropSite { .. }
            | CatalogCommand::CreateView { .. }
            | CatalogCommand::DropView { .. }
            | CatalogCommand::CreateSequence(_)
            | CatalogCommand::DropSequence { .. }
            | CatalogCommand::CreateRole { .. }
            | CatalogCommand::AlterRole { .. }
            | CatalogCommand::DropRole { .. } => vec![],
        }
    }

    /// Fills the indexes that `after` has and `before` has not, of tables that stand in both.
    async fn build_indexes(&self, before: &Catalog, after: &Catalog) -> Result<()> {
        for table in after.tables.values() {
            let Some(old) = before.tables.get(&table.id) else { continue };
            for index in table.indexes.iter().filter(|i| old.index(i.id).is_none()) {
                if index.unique && !table.confines_to_fragment(&index.columns) {
                    self.check_unique_over_fragments(table, index).await?;
                }
                for fragment in &table.fragments {
                    for site in &fragment.replicas {
                        let at = Replica { site: *site, fragment: fragment.id, table: table.clone() };
                        self.branch(*site).await?.build_index(&at, index.id).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends the transaction in this process: locks go, the node forgets it.
    fn end(&self) {
        if !self.ended.swap(true, Ordering::AcqRel) {
            let mut state = self.state.lock();
            state.locks.clear();
            state.ddl = None;
            state.branches.clear();
            drop(state);
            self.node.ended(self.id);
        }
    }
}

impl Drop for Txn {
    fn drop(&mut self) {
        if !self.ended.load(Ordering::Acquire) {
            self.rollback();
        }
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
        self.state.lock().catalog.clone()
    }

    async fn begin_statement(&self) -> Result<()> {
        let local = self.branch(self.node.local().id()).await?;
        let mut state = self.state.lock();
        state.choices.clear();
        if self.options.isolation == Isolation::ReadCommitted {
            // The catalog first: a snapshot may be newer than the definitions that it is read by, never older.
            if state.base.is_none() {
                state.catalog = self.node.current();
            }
            for branch in state.branches.values() {
                branch.begin_statement();
            }
        }
        drop(local);
        Ok(())
    }

    async fn apply(&self, command: CatalogCommand) -> Result<()> {
        self.refuse_read_only()?;
        if self.state.lock().ddl.is_none() {
            let guard = within(self.options.lock_timeout, self.node.ddl.clone().lock_owned()).await?;
            let mut state = self.state.lock();
            let current = self.node.current();
            if self.options.isolation != Isolation::ReadCommitted && state.catalog.version != current.version {
                return Err(Error::new(ErrorKind::SerializationFailure, "the catalog has changed since the transaction began"));
            }
            state.catalog = current.clone();
            state.base = Some(current);
            state.ddl = Some(guard);
        }
        let before = self.catalog();
        for table in Self::concerned(&before, &command) {
            self.take_lock(table, TableLock::Exclusive).await?;
        }
        let after = Arc::new(before.apply(&command)?);
        self.node.sequences.announce(after.sequences.iter().filter(|(id, _)| !before.sequences.contains_key(id)));
        let previous = std::mem::replace(&mut self.state.lock().catalog, after.clone());
        // What others committed while this waited for their locks belongs to the index.
        if let Err(error) = async {
            self.begin_statement().await?;
            self.build_indexes(&before, &after).await
        }
        .await
        {
            self.state.lock().catalog = previous;
            return Err(error);
        }
        Ok(())
    }

    async fn lock_table(&self, table: &Arc<Table>, lock: TableLock) -> Result<()> {
        self.refuse_read_only()?;
        self.take_lock(table.id, lock).await?;
        // Nobody can change the definition now; somebody may have, while this waited.
        let state = self.state.lock();
        let current = if state.base.is_some() { state.catalog.clone() } else { self.node.current() };
        let same = current.tables.get(&table.id).is_some_and(|t| Arc::ptr_eq(t, table) || t == table);
        if !same {
            return Err(Error::new(
                ErrorKind::SerializationFailure,
                format!("the definition of \"{}\" has changed while the statement waited", table.name),
            )
            .hint("Run the transaction again."));
        }
        Ok(())
    }

    async fn get(&self, fragment: &FragmentRef, key: &[Value]) -> Result<Option<Row>> {
        let site = self.site_for_read(fragment);
        self.branch(site).await?.get(&self.replica(fragment, site), key).await
    }

    fn scan(&self, fragment: &FragmentRef, request: ScanRequest) -> Result<(SiteId, BatchStream)> {
        let site = self.site_for_read(fragment);
        let stream = self.open_branch(site)?.scan(&self.replica(fragment, site), request)?;
        Ok((site, self.node.load.counted(site, stream)))
    }

    fn site_for_read(&self, fragment: &FragmentRef) -> SiteId {
        let definition = &fragment.table.fragments[fragment.at];
        if let [only] = definition.replicas.as_slice() {
            return *only;
        }
        let mut state = self.state.lock();
        *state.choices.entry(definition.id).or_insert_with(|| self.node.load.choose(&fragment.table, definition))
    }

    async fn lock(&self, fragment: &FragmentRef, keys: &[Vec<Value>], mode: LockMode, wait: LockWait) -> Result<Vec<LockedRow>> {
        // Locks belong to (table, key) at a participant, so one copy of each participant is enough.
        let mut participants: Vec<ParticipantId> = vec![];
        let mut locked = None;
        for site in &fragment.table.fragments[fragment.at].replicas {
            let participant = self.node.site(&self.catalog(), *site)?.participant();
            if participants.contains(&participant) {
                continue;
            }
            participants.push(participant);
            let rows = self.branch(*site).await?.lock(&self.replica(fragment, *site), keys, mode, wait).await?;
            locked.get_or_insert(rows);
        }
        locked.ok_or_else(|| Error::internal("a fragment without copies"))
    }

    async fn find_unique(&self, table: &Arc<Table>, index: Option<IndexId>, values: &[Value]) -> Result<Option<(usize, Row)>> {
        for at in self.fragments_of_key(table, index, values) {
            let (branch, replica) = self.primary(&FragmentRef { table: table.clone(), at }).await?;
            if let Some(row) = branch.find_unique(&replica, index, values, LockMode::Exclusive).await? {
                return Ok(Some((at, row)));
            }
        }
        Ok(None)
    }

    async fn place(&self, table: &Arc<Table>, row: &[Value]) -> Result<usize> {
        self.place_row(table, row).await
    }

    async fn write(&self, table: &Arc<Table>, changes: Vec<RowChange>) -> Result<()> {
        self.refuse_read_only()?;
        self.write_rows(table, changes).await
    }

    fn savepoint(&self) -> u64 {
        let mut state = self.state.lock();
        let branches = state.branches.iter().map(|(p, b)| (*p, b.savepoint())).collect();
        let savepoint = Savepoint { catalog: state.catalog.clone(), branches };
        state.savepoints.push(savepoint);
        state.savepoints.len() as u64 - 1
    }

    fn rollback_to(&self, savepoint: u64) {
        let mut state = self.state.lock();
        let at = savepoint as usize;
        let Some(mark) = state.savepoints.get(at) else { return };
        let catalog = mark.catalog.clone();
        for (participant, branch) in &state.branches {
            match mark.branches.iter().find(|(p, _)| p == participant) {
                Some((_, mark)) => branch.rollback_to(*mark),
                // Begun after the savepoint: everything goes.
                None => branch.rollback_to(0),
            }
        }
        if state.base.is_some() {
            state.catalog = catalog;
        }
        state.parents.clear();
        state.savepoints.truncate(at + 1);
    }

    fn has_writes(&self) -> bool {
        let state = self.state.lock();
        state.base.is_some() || state.branches.values().any(|b| b.has_writes())
    }

    async fn commit(&self) -> Result<Timestamp> {
        let (branches, base, catalog) = {
            let state = self.state.lock();
            let changed = state.base.clone().filter(|b| b.version != state.catalog.version);
            (state.branches.clone(), changed, state.catalog.clone())
        };
        let result = async {
            if let Some(base) = &base {
                let branch = self.branch(self.node.local().id()).await?;
                meta::put(branch.as_ref(), meta::CATALOG, catalog.as_ref())?;
                let dropped = Node::dropped(base, &catalog);
                if !dropped.is_empty() {
                    let mut pending: Vec<Dropped> = meta::get(branch.as_ref(), meta::PURGE)?.unwrap_or_default();
                    pending.extend(dropped);
                    meta::put(branch.as_ref(), meta::PURGE, &pending)?;
                }
            }
            let writers = branches.values().filter(|b| b.has_writes()).count();
            if writers > 1 {
                return Err(Error::unsupported("a transaction that writes at sites of several engines")
                    .hint("Write to the sites of one engine in a transaction."));
            }
            let mut timestamp = Timestamp(0);
            for branch in branches.values() {
                timestamp = timestamp.max(branch.commit().await?);
            }
            Ok(timestamp)
        }
        .await;
        if result.is_ok() && base.is_some() {
            self.node.catalog.store(catalog.clone());
            self.node.table_locks.retain(|id| catalog.tables.contains_key(&id));
            self.node.purge.notify_one();
        }
        if result.is_err() {
            for branch in branches.values() {
                branch.rollback();
            }
        }
        self.end();
        result
    }

    fn rollback(&self) {
        let branches = self.state.lock().branches.clone();
        for branch in branches.values() {
            branch.rollback();
        }
        self.end();
    }
}
