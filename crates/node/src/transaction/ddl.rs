//! DDL within a transaction: an overlay on the committed catalog, made durable and visible by the transaction's commit.
//!
//! Invariants: one transaction at a time changes the catalog (the DDL lock, held to its end), so an overlay is always based on the
//! newest committed catalog; the tables that it changes are locked exclusively, so no row is written by an outdated definition.

use super::placement::Describe;
use super::{State, Txn};
use crate::definitions::Definitions;
use crate::gates::Request;
use crate::node::Node;
use crate::persist::{self, CATALOG, PURGES, Purge};
use crate::purge;
use crate::rows;
use atoll_model::{
    CATALOG_FORMAT, Catalog, CatalogCommand, Error, ErrorKind, Fragment, FragmentBounds, IndexId, RelationId, Result,
    SqlType, Table, TableChange, Value,
};
use atoll_ports::cluster::TableLock;
use atoll_ports::site::{Branch, Isolation, KeyRange, LockMode, Replica, ScanRequest};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::OwnedMutexGuard;

const BATCH: usize = 8192;

/// Rows in chunks.
pub(super) type Chunks = BoxStream<'static, Result<Vec<Vec<Value>>>>;

/// Columns of all rows of a copy, in an index's order or the key's.
pub(super) fn columns_of(
    branch: &dyn Branch,
    copy: &Replica,
    index: Option<IndexId>,
    positions: &[usize],
) -> Result<Chunks> {
    let types: Vec<SqlType> = positions.iter().map(|p| copy.table.columns[*p].ty.clone()).collect();
    let request = ScanRequest {
        columns: positions.to_vec(),
        index,
        range: KeyRange::ALL,
        reverse: false,
        limit: None,
        batch_size: BATCH,
    };
    let batches = branch.scan(copy, request)?;
    let rows = batches.map(move |batch| rows::of_batch(&batch?, &types.iter().collect::<Vec<_>>()));
    Ok(rows.boxed())
}

/// Uncommitted changes of the catalog.
#[derive(Clone)]
pub(super) struct Ddl {
    /// The committed catalog beneath.
    base: Arc<Definitions>,
    current: Arc<Definitions>,
    /// The DDL lock, shared by the savepoints' copies.
    _lock: Arc<OwnedMutexGuard<()>>,
}

impl Ddl {
    pub(super) fn has_changes(&self) -> bool {
        self.current.version != self.base.version
    }

    /// The lock alone, after all changes were undone.
    pub(super) fn emptied(self, definitions: &Arc<Definitions>) -> Self {
        Ddl { current: definitions.clone(), ..self }
    }

    /// Puts the new catalog, what is to be purged, and positions of new sequences into the committing branch.
    pub(super) async fn write(&self, node: &Node, branch: &dyn Branch) -> Result<Vec<Purge>> {
        persist::write(branch, CATALOG, CATALOG_FORMAT, &*self.current.catalog)?;
        let kept: BTreeSet<Purge> = copies(&self.current).collect();
        let dropped: Vec<Purge> = copies(&self.base).filter(|copy| !kept.contains(copy)).collect();
        if !dropped.is_empty() {
            // The branch's snapshot may be older than the last change of the list; whoever changed it held the DDL lock.
            let newest = node.home_branch().await?;
            let stored = persist::read::<Vec<Purge>>(&*newest, "list of dropped fragments", PURGES, purge::FORMAT)?;
            newest.rollback();
            let mut list = stored.unwrap_or_default();
            list.extend(&dropped);
            persist::write(branch, PURGES, purge::FORMAT, &list)?;
        }
        for (id, sequence) in &self.current.sequences {
            if !self.base.sequences.contains_key(id) {
                node.sequences.write_created(sequence, branch).await?;
            }
        }
        for id in self.base.sequences.keys().filter(|id| !self.current.sequences.contains_key(id)) {
            persist::remove(branch, &persist::sequence(*id))?;
        }
        Ok(dropped)
    }

    /// Makes the committed catalog visible to all.
    pub(super) async fn publish(&self, node: &Node, dropped: Vec<Purge>) {
        for id in self.current.sequences.keys().filter(|id| !self.base.sequences.contains_key(id)) {
            node.sequences.committed(*id).await;
        }
        for id in self.base.sequences.keys().filter(|id| !self.current.sequences.contains_key(id)) {
            node.sequences.forget(*id);
        }
        node.publish(self.current.clone(), dropped);
    }

    /// Forgets sequences whose creation is undone.
    pub(super) fn forget_created(&self, node: &Node) {
        self.forget_created_since(None, node);
    }

    pub(super) fn forget_created_since(&self, before: Option<&Ddl>, node: &Node) {
        let kept = before.map_or(&self.base, |b| &b.current);
        for id in self.current.sequences.keys() {
            if !kept.sequences.contains_key(id) && !self.base.sequences.contains_key(id) {
                node.sequences.forget(*id);
            }
        }
    }
}

/// All copies of all fragments that Atoll has made: what it has adopted, it never purges.
fn copies(catalog: &Catalog) -> impl Iterator<Item = Purge> {
    let made = |f: &Fragment| {
        let (id, sites) = (f.id, f.copies().filter(|site| !f.adopted.contains_key(site)));
        sites.map(|site| (site, id)).collect::<Vec<_>>()
    };
    catalog.tables.values().flat_map(move |t| t.fragments.iter().flat_map(made))
}

impl Txn {
    pub(super) async fn change_catalog(&self, command: CatalogCommand) -> Result<()> {
        if self.options.read_only {
            return Err(Error::new(
                ErrorKind::ReadOnlyTransaction,
                "cannot change the catalog in a read-only transaction",
            ));
        }
        let ddl = self.ddl().await?;
        let mut base = (*ddl.current.catalog).clone();
        base.next_id = base.next_id.max(self.node.next_object.load(Ordering::Relaxed));
        let next = base.apply(&command)?;
        self.node.next_object.fetch_max(next.next_id, Ordering::Relaxed);
        for id in changed_tables(&ddl.current, &next, &command) {
            self.hold(id, TableLock::Exclusive).await?;
        }
        for site in next.sites.values() {
            self.node.sites.ensure(site)?;
        }
        self.try_altered_sites(&ddl.current, &next).await?;
        let next = Arc::new(next);
        self.define_copies(&ddl.current, &next).await?;
        self.take_adopted(&ddl.current, &next, &command).await?;
        self.fill_indexes(&ddl.current, &next).await?;
        self.check_default_fragment(&ddl.current, &next, &command).await?;
        for (id, sequence) in &next.sequences {
            if !ddl.current.sequences.contains_key(id) {
                self.node.sequences.created(sequence);
            }
        }
        let definitions = Definitions::new(next);
        self.known.lock().clear();
        let mut state = self.state.lock();
        state.definitions = definitions.clone();
        state.ddl = Some(Ddl { current: definitions, ..ddl });
        Ok(())
    }

    /// The transaction's overlay, begun if there is none.
    async fn ddl(&self) -> Result<Ddl> {
        if let Some(ddl) = self.state.lock().ddl.clone() {
            return Ok(ddl);
        }
        let deadlocked = || self.node.waits_for_itself(self.id);
        let request = Request { owner: self.id, timeout: self.options.lock_timeout, deadlocked: &deadlocked };
        let lock = self.node.gates.lock_catalog(self.node.ddl.clone().lock_owned(), &request).await?;
        let base = self.node.definitions.load_full();
        let mut state = self.state.lock();
        if self.options.isolation != Isolation::ReadCommitted && !Arc::ptr_eq(&state.definitions, &base) {
            return Err(Error::new(
                ErrorKind::SerializationFailure,
                "could not serialize access: the catalog has changed since the transaction began",
            )
            .hint("The transaction might succeed if retried."));
        }
        let ddl = Ddl { base: base.clone(), current: base.clone(), _lock: Arc::new(lock) };
        let State { definitions, ddl: stored, .. } = &mut *state;
        *definitions = base;
        *stored = Some(ddl.clone());
        Ok(ddl)
    }

    /// Takes a table's lock unless it is held.
    pub(super) async fn hold(&self, table: RelationId, lock: TableLock) -> Result<()> {
        let held = self.held.lock().iter().find(|h| h.table == table).map(|h| h.lock);
        let deadlocked = || self.node.waits_for_itself(self.id);
        let request = Request { owner: self.id, timeout: self.options.lock_timeout, deadlocked: &deadlocked };
        match (held, lock) {
            (Some(TableLock::Exclusive), _) | (Some(TableLock::Write), TableLock::Write) => Ok(()),
            (Some(TableLock::Write), TableLock::Exclusive) => {
                self.node.gates.upgrade(&self.held, table, &request).await
            }
            (None, _) => {
                let lock = self.node.gates.lock(table, lock, &request).await?;
                let mut held = self.held.lock();
                // Another task of the statement may have taken it meanwhile: one is enough.
                if !held.iter().any(|h| h.table == table) {
                    held.push(lock);
                }
                Ok(())
            }
        }
    }

    /// Whether a definition is still the one in force (under the table's lock, it then stays so).
    pub(super) fn check_current(&self, table: &Arc<Table>) -> Result<()> {
        let state = self.state.lock();
        let current = match &state.ddl {
            Some(ddl) => ddl.current.tables.get(&table.id).is_some_and(|t| Arc::ptr_eq(t, table)),
            None => self.node.definitions.load().tables.get(&table.id).is_some_and(|t| Arc::ptr_eq(t, table)),
        };
        if current {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::SerializationFailure,
            format!("the definition of table \"{}\" has changed since the statement began", table.name),
        )
        .hint("Run the transaction again.")
        .table(&table.name))
    }

    /// Lets the sites make room for new copies, and follow what has changed in the definitions of the others.
    async fn define_copies(&self, before: &Definitions, next: &Arc<Catalog>) -> Result<()> {
        for (id, table) in &next.tables {
            let old = before.tables.get(id);
            if old.is_some_and(|old| Arc::ptr_eq(old, table)) {
                continue;
            }
            for (at, fragment) in table.fragments.iter().enumerate() {
                for site in fragment.written() {
                    let holds = |f: &Fragment| f.id == fragment.id && f.copies().any(|copy| copy == site);
                    let known = old.filter(|old| old.fragments.iter().any(holds));
                    if known.is_some_and(|old| old.same_but_for_copies(table)) {
                        continue;
                    }
                    if self.node.is_being_purged(site, fragment.id) {
                        return Err(Error::new(
                            ErrorKind::NotInPrerequisiteState,
                            format!("an earlier copy of fragment \"{}\" is still being removed there", fragment.name),
                        )
                        .hint("Try again when older transactions have ended."));
                    }
                    let replica = Self::replica(table, at, site)?;
                    self.branch_at(site).await?.define(&replica, known.map(|old| &**old)).await?;
                }
            }
        }
        Ok(())
    }

    /// Builds the entries of indexes that are new on tables that are not.
    async fn fill_indexes(&self, before: &Definitions, next: &Arc<Catalog>) -> Result<()> {
        for (id, table) in &next.tables {
            let Some(old) = before.tables.get(id).filter(|old| !Arc::ptr_eq(old, table)) else { continue };
            for index in table.indexes.iter().filter(|i| old.index(i.id).is_none()) {
                for at in 0..table.fragments.len() {
                    for site in table.fragments[at].written() {
                        let replica = Self::replica(table, at, site)?;
                        self.branch_at(site).await?.build_index(&replica, index.id).await?;
                    }
                }
                if index.unique && !table.confines_to_fragment(&index.columns) {
                    self.check_unique_over_fragments(table, index.id).await?;
                }
            }
        }
        Ok(())
    }

    /// Makes sure that no two fragments have the same values in a unique index that was just built (each is unique in itself).
    async fn check_unique_over_fragments(&self, table: &Arc<Table>, index: IndexId) -> Result<()> {
        let Some(definition) = table.index(index) else { return Ok(()) };
        let positions: Vec<usize> = definition.columns.iter().filter_map(|c| table.position(*c)).collect();
        for at in 0..table.fragments.len() {
            let mut rows = self.stored_columns(table, at, None, &positions).await?;
            while let Some(batch) = rows.try_next().await? {
                for values in batch {
                    if values.iter().any(Value::is_null) {
                        continue;
                    }
                    for other in at + 1..table.fragments.len() {
                        let replica = Self::first_replica(table, other)?;
                        let branch = self.branch_at(replica.site).await?;
                        if branch.find_unique(&replica, Some(index), &values, LockMode::Shared).await?.is_some() {
                            return Err(Error::new(
                                ErrorKind::UniqueViolation,
                                format!("could not create unique index \"{}\"", definition.name),
                            )
                            .detail(format!("Key {} is duplicated.", table.describe(&definition.columns, &values)))
                            .constraint(&definition.name)
                            .table(&table.name));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Columns of all rows of a fragment as they are now, in an index's order or the key's, in chunks. The caller has locked the table exclusively.
    pub(super) async fn stored_columns(
        &self,
        table: &Arc<Table>,
        at: usize,
        index: Option<IndexId>,
        positions: &[usize],
    ) -> Result<Chunks> {
        let replica = Self::first_replica(table, at)?;
        let branch = self.branch_at(replica.site).await?;
        // In `ReadCommitted`, look at what is committed now; the stricter levels refuse DDL on a newer catalog anyway.
        branch.begin_statement();
        columns_of(&*branch, &replica, index, positions)
    }

    /// A new fragment must not claim rows that the default fragment holds.
    async fn check_default_fragment(
        &self,
        before: &Definitions,
        next: &Arc<Catalog>,
        command: &CatalogCommand,
    ) -> Result<()> {
        let CatalogCommand::CreateFragment { table, .. } = command else { return Ok(()) };
        let (Some(old), Some(new)) = (before.table(table), next.table(table)) else { return Ok(()) };
        let Some(default) = old.fragments.iter().position(|f| f.bounds == FragmentBounds::Default) else {
            return Ok(());
        };
        let positions = old.fragmentation_positions();
        let mut rows = self.stored_columns(old, default, None, &positions).await?;
        while let Some(batch) = rows.try_next().await? {
            for values in batch {
                if new.place_key(&values.iter().collect::<Vec<_>>()) != Some(default) {
                    return Err(Error::new(
                        ErrorKind::CheckViolation,
                        format!(
                            "updated partition constraint for default partition \"{}\" would be violated by some row",
                            old.fragments[default].name
                        ),
                    )
                    .table(&old.fragments[default].name));
                }
            }
        }
        Ok(())
    }
}

/// The tables whose rows must not be written while a command is not committed.
fn changed_tables(before: &Definitions, next: &Catalog, command: &CatalogCommand) -> BTreeSet<RelationId> {
    let mut changed: BTreeSet<RelationId> = before
        .tables
        .iter()
        .filter(|(id, table)| !next.tables.get(id).is_some_and(|t| Arc::ptr_eq(t, table)))
        .map(|(id, _)| *id)
        .collect();
    // Who writes a child's row has locked its parent's, at the parent's first copy.
    if matches!(command, CatalogCommand::PromoteCopy { .. } | CatalogCommand::SetBehind { .. }) {
        let refers = |t: &&Arc<Table>| t.foreign_keys.iter().any(|key| changed.contains(&key.parent));
        let children: Vec<RelationId> = next.tables.values().filter(refers).map(|t| t.id).collect();
        changed.extend(children);
    }
    // While a foreign key is being added, the parent's rows must not go.
    if let CatalogCommand::AlterTable { change: TableChange::AddForeignKey(key), .. } = command
        && let Some(parent) = next.table(&key.parent)
    {
        changed.insert(parent.id);
    }
    changed
}
