//! Copies that do not serve: how writes reach those that are being built, how sites that are down lose theirs, and how a transaction that
//! began before a copy came or went is kept from relying on what it was.
//!
//! Invariants: a row of a copy that is being built is written under the row's lock at the first serving copy, which the builder takes as
//! well, and always first, so the two never cross; a transaction reads a copy only if it was a serving one when the snapshot was taken.

use super::Txn;
use crate::copies::{self, Image};
use atoll_model::{Error, ErrorKind, Result, Row, SiteId, Table, Value};
use atoll_ports::site::{Branch, Isolation, LockMode, LockWait, Replica, RowChange};
use std::sync::Arc;

impl Txn {
    /// Brings rows of a copy that is being built to what they are at the serving copies, where the caller has just written them.
    pub(super) async fn write_joining(
        &self,
        table: &Arc<Table>,
        at: usize,
        (site, stale): (SiteId, bool),
        images: &[Image],
    ) -> Result<()> {
        let replica = Self::replica(table, at, site)?;
        let branch = self.branch_at(site).await?;
        let keys: Vec<Vec<Value>> = images.iter().map(|image| image.key.clone()).collect();
        let there = self.newest_there(&replica, &*branch, &keys).await?;
        let changes = images.iter().zip(there).filter_map(|(image, row)| copies::change(row, image.row.clone()));
        self.apply_image(&replica, &*branch, stale, changes.collect()).await.map_err(|error| match error.kind() {
            // The serving copies have taken the row: here is one that this transaction's snapshot does not show.
            ErrorKind::UniqueViolation => Error::new(
                ErrorKind::SerializationFailure,
                format!("a copy of table \"{}\" is being built, and has the row already", table.name),
            )
            .hint("Run the transaction again."),
            _ => error,
        })
    }

    /// The newest rows of a copy that is being built, and their locks. The caller has these at the first serving copy.
    pub(crate) async fn newest_there(
        &self,
        replica: &Replica,
        branch: &dyn Branch,
        keys: &[Vec<Value>],
    ) -> Result<Vec<Option<Row>>> {
        self.close_commits(replica).await?;
        let locked = branch.lock(replica, keys, LockMode::Exclusive, LockWait::Wait).await?;
        let mut rows = Vec::with_capacity(keys.len());
        for (locked, key) in locked.into_iter().zip(keys) {
            rows.push(match locked.row {
                // An old snapshot does not show rows that came after it.
                None if self.options.isolation != Isolation::ReadCommitted => {
                    branch.find_unique(replica, None, key, LockMode::Exclusive).await?
                }
                row => row,
            });
        }
        Ok(rows)
    }

    /// Waits for commits that are half done between a copy that is being built and the first serving one. Who had a row's lock at one of them
    /// before may have yet to commit at the other one, where its new rows cannot be seen, nor be waited for.
    pub(crate) async fn close_commits(&self, replica: &Replica) -> Result<()> {
        let at = replica.table.fragment_position(replica.fragment);
        let first = Self::first_replica(&replica.table, at.unwrap_or_default())?;
        let (serving, building) = (self.node.participant(first.site)?, self.node.participant(replica.site)?);
        if serving == building {
            return Ok(());
        }
        self.node.coordinator.open(vec![serving, building], |_| async { Ok(()) }).await
    }

    /// Applies changes at a copy that is being built.
    pub(crate) async fn apply_image(
        &self,
        replica: &Replica,
        branch: &dyn Branch,
        stale: bool,
        mut changes: Vec<RowChange>,
    ) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        if stale {
            let outdated = self.outdated(replica, branch, &changes).await?;
            changes.splice(0..0, outdated.into_iter().map(RowChange::Delete));
        }
        branch.apply(replica, changes).await
    }

    /// Rows of a copy that has missed some changes which have unique values that other rows are about to bring. As the serving copies have
    /// these values in those rows, these have changed or gone there; if they are to stay, the builder brings them back as they are now.
    async fn outdated(&self, replica: &Replica, branch: &dyn Branch, changes: &[RowChange]) -> Result<Vec<Row>> {
        let table = &replica.table;
        let mut touched: Vec<Vec<Value>> = changes
            .iter()
            .map(|change| match change {
                RowChange::Insert(row) | RowChange::Delete(row) | RowChange::Update { new: row, .. } => {
                    table.key_of(row)
                }
            })
            .collect();
        let mut outdated = vec![];
        for index in table.indexes.iter().filter(|index| index.unique) {
            let positions: Vec<usize> = index.columns.iter().filter_map(|c| table.position(*c)).collect();
            for change in changes {
                let (RowChange::Insert(new) | RowChange::Update { new, .. }) = change else { continue };
                let values: Vec<Value> = positions.iter().map(|p| new[*p].clone()).collect();
                if values.iter().any(Value::is_null) {
                    continue;
                }
                let found = branch.find_unique(replica, Some(index.id), &values, LockMode::Exclusive).await?;
                let Some(key) = found.map(|row| table.key_of(&row)) else { continue };
                if touched.iter().any(|known| copies::same(known, &key)) {
                    continue;
                }
                let keys = std::slice::from_ref(&key);
                let locked = branch.lock(replica, keys, LockMode::Exclusive, LockWait::Wait).await?;
                outdated.extend(locked.into_iter().filter_map(|locked| locked.row));
                touched.push(key);
            }
        }
        Ok(outdated)
    }

    /// An outcome of a site. If the site is down, and its copies can be set aside, that begins, and the transaction can be run again.
    pub(super) fn told<T>(&self, site: SiteId, outcome: Result<T>) -> Result<T> {
        let Err(error) = outcome else { return outcome };
        let definitions = self.definitions();
        if error.kind() != ErrorKind::SiteUnavailable || !definitions.can_set_behind(site) {
            return Err(error);
        }
        self.state.lock().lost = Some(site);
        self.node.copies.report_down(site);
        let name = definitions.sites.get(&site).map_or("?", |s| s.name.as_str());
        Err(Error::new(
            ErrorKind::SerializationFailure,
            format!("site \"{name}\" is down, its copies are being set aside"),
        )
        .detail(error.message().to_owned())
        .hint("Run the transaction again."))
    }

    /// Makes sure, once a snapshot is taken, that what it shows of a copy is what the fragment was then.
    pub(super) fn check_serves(&self, table: &Arc<Table>, at: usize, site: SiteId) -> Result<()> {
        if self.sees_newest_catalog() {
            return Ok(());
        }
        self.check_copy(table, at, |serving| serving.contains(&site))
    }

    /// As [`Txn::check_serves`], of everything that a site served.
    pub(super) fn check_all_serve(&self, site: SiteId) -> Result<()> {
        if self.sees_newest_catalog() {
            return Ok(());
        }
        let definitions = self.definitions();
        for table in definitions.tables.values() {
            for at in (0..table.fragments.len()).filter(|at| table.fragments[*at].replicas.contains(&site)) {
                self.check_copy(table, at, |serving| serving.contains(&site))?;
            }
        }
        Ok(())
    }

    /// Makes sure that the copy at which a fragment's rows are locked is still the one. The caller holds the table's lock.
    pub(super) fn check_locks(&self, table: &Arc<Table>, at: usize) -> Result<()> {
        if self.sees_newest_catalog() {
            return Ok(());
        }
        let replicas = table.fragments.get(at).map(|f| f.replicas.clone()).unwrap_or_default();
        self.check_copy(table, at, |serving| serving == replicas)
    }

    /// Makes sure that no fragment has had other serving copies since the transaction began.
    pub(super) fn check_unmoved(&self) -> Result<()> {
        if self.sees_newest_catalog() {
            return Ok(());
        }
        let definitions = self.definitions();
        for table in definitions.tables.values() {
            for (at, fragment) in table.fragments.iter().enumerate() {
                self.check_copy(table, at, |serving| serving == fragment.replicas)?;
            }
        }
        Ok(())
    }

    fn sees_newest_catalog(&self) -> bool {
        let state = self.state.lock();
        // Who changes the catalog is the only one.
        state.ddl.is_some() || Arc::ptr_eq(&state.definitions, &self.node.definitions.load())
    }

    /// A fragment that is gone, or was emptied, is read as it was.
    fn check_copy(&self, table: &Arc<Table>, at: usize, good: impl Fn(&[SiteId]) -> bool) -> Result<()> {
        let newest = self.node.definitions.load();
        let id = table.fragments.get(at).map(|f| f.id);
        let now = newest.tables.get(&table.id).and_then(|t| t.fragments.iter().find(|f| Some(f.id) == id));
        if now.is_none_or(|fragment| good(&fragment.replicas)) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::SerializationFailure,
            format!("copies of table \"{}\" have changed places since the statement began", table.name),
        )
        .hint("Run the transaction again.")
        .table(&table.name))
    }
}
