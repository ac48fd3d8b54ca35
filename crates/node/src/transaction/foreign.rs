//! Foreign keys seen from the parent: what happens to children when a row that they refer to goes, changes, or moves.
//!
//! Whoever writes a child holds the parent's row (shared) to the end of its transaction, and whoever deletes or re-keys a parent holds it
//! exclusively. So once the parent has been written, all children that can exist are committed or this transaction's own. They are looked
//! for in both views, this transaction's and a fresh one (the statement's snapshot may be older than the newest child), and locked:
//! the lock tells what each is now, and fails with 40001 where the isolation level demands it.

use super::Txn;
use super::placement::Describe;
use super::write::{Effect, Placed};
use crate::definitions::{Children, Definitions};
use crate::rows;
use atoll_model::{
    ColumnId, Error, ErrorKind, ForeignKey, Fragmentation, IndexId, ReferentialAction, Result, Row, SqlType, Table,
    Value,
};
use atoll_ports::site::{
    Branch, BranchOptions, Isolation, KeyRange, LockMode, LockWait, ParticipantId, Replica, RowChange, ScanRequest,
};
use futures::TryStreamExt;
use std::sync::Arc;

const BATCH: usize = 1024;

/// The unique order in which a foreign key's parent is found.
pub(super) struct ParentOrder {
    pub(super) index: Option<IndexId>,
    /// For each column of the order, its position among the foreign key's columns.
    pub(super) permutation: Vec<usize>,
}

impl ParentOrder {
    pub(super) fn of(parent: &Table, columns: &[ColumnId]) -> Result<Self> {
        let permuted = |order: &[ColumnId]| -> Option<Vec<usize>> {
            if order.len() != columns.len() {
                return None;
            }
            order.iter().map(|c| columns.iter().position(|x| x == c)).collect()
        };
        if !parent.has_hidden_key()
            && let Some(permutation) = permuted(&parent.key)
        {
            return Ok(ParentOrder { index: None, permutation });
        }
        parent
            .indexes
            .iter()
            .filter(|i| i.unique)
            .find_map(|i| permuted(&i.columns).map(|permutation| ParentOrder { index: Some(i.id), permutation }))
            .ok_or_else(|| Error::internal(format!("table \"{}\" has lost the key of a foreign key", parent.name)))
    }
}

/// 23503 for a child without a parent.
pub(super) fn missing_parent(
    child: &Table,
    name: &str,
    columns: &[ColumnId],
    values: &[Value],
    parent: &Table,
) -> Error {
    Error::new(
        ErrorKind::ForeignKeyViolation,
        format!("insert or update on table \"{}\" violates foreign key constraint \"{name}\"", child.name),
    )
    .detail(format!("Key {} is not present in table \"{}\".", child.describe(columns, values), parent.name))
    .constraint(name)
    .table(&child.name)
}

impl Txn {
    /// Lets children follow what has happened to their parents' rows, or refuses.
    pub(super) async fn follow(
        &self,
        table: &Arc<Table>,
        children: &Children,
        effects: Vec<Effect>,
        definitions: &Definitions,
        depth: usize,
    ) -> Result<()> {
        let mut search = Search { txn: self, fresh: vec![] };
        for child in &children.followers {
            let Some(child) = definitions.tables.get(child) else { continue };
            self.move_along(&mut search, table, child, &effects, depth).await?;
        }
        // Cascades before refusals: what refuses now may go by another way.
        let mut refusals = vec![];
        for (child, at) in &children.references {
            let Some(child) = definitions.tables.get(child) else { continue };
            let Some(key) = child.foreign_keys.get(*at) else { continue };
            for effect in &effects {
                let Some(values) = lost_values(table, key, effect) else { continue };
                let action = if effect.new.is_some() { key.on_update } else { key.on_delete };
                if action == ReferentialAction::NoAction {
                    refusals.push((child, key, effect, values));
                } else {
                    self.cascade(&mut search, table, child, key, effect, &values, action, depth).await?;
                }
            }
        }
        for (child, key, effect, values) in refusals {
            let found = search.rows(table, child, &key.columns, &values, effect.from, LockMode::Shared).await?;
            if !found.is_empty() && !self.has_again(table, key, effect, &values).await? {
                return Err(Error::new(
                    ErrorKind::ForeignKeyViolation,
                    format!(
                        "update or delete on table \"{}\" violates foreign key constraint \"{}\" on table \"{}\"",
                        table.name, key.name, child.name
                    ),
                )
                .detail(format!(
                    "Key {} is still referenced from table \"{}\".",
                    table.describe(&key.parent_columns, &values),
                    child.name
                ))
                .constraint(&key.name)
                .table(&child.name));
            }
        }
        Ok(())
    }

    /// Derived rows move with their parents' rows.
    async fn move_along(
        &self,
        search: &mut Search<'_>,
        table: &Arc<Table>,
        child: &Arc<Table>,
        effects: &[Effect],
        depth: usize,
    ) -> Result<()> {
        let Fragmentation::Derived { column, parent_column, .. } = child.fragmentation else { return Ok(()) };
        let Some(at) = table.position(parent_column) else { return Ok(()) };
        let mut moved = vec![];
        for effect in effects {
            let (Some(new), Some(to)) = (&effect.new, effect.to) else { continue };
            // With another value, the foreign key that comes with derivation decides.
            if to == effect.from || !effect.old[at].matches(&new[at]) {
                continue;
            }
            let value = std::slice::from_ref(&effect.old[at]);
            for (from, row) in search.rows(table, child, &[column], value, effect.from, LockMode::Exclusive).await? {
                let change = RowChange::Update { old: row.clone(), new: row };
                moved.push(Placed { change, from: Some(from), to: Some(to) });
            }
        }
        if moved.is_empty() { Ok(()) } else { self.write_cascaded(child, moved, depth + 1).await }
    }

    #[allow(clippy::too_many_arguments, reason = "one step of `follow`, taken out for length")]
    async fn cascade(
        &self,
        search: &mut Search<'_>,
        table: &Arc<Table>,
        child: &Arc<Table>,
        key: &ForeignKey,
        effect: &Effect,
        values: &[Value],
        action: ReferentialAction,
        depth: usize,
    ) -> Result<()> {
        let found = search.rows(table, child, &key.columns, values, effect.from, LockMode::Exclusive).await?;
        let mut changes = Vec::with_capacity(found.len());
        for (from, old) in found {
            let replacement = match (action, &effect.new) {
                (ReferentialAction::Cascade, None) => {
                    changes.push(Placed { change: RowChange::Delete(old), from: Some(from), to: None });
                    continue;
                }
                (ReferentialAction::Cascade, Some(parent)) => Some(parent),
                _ => None,
            };
            let mut new = old.clone();
            for (column, parent_column) in key.columns.iter().zip(&key.parent_columns) {
                let (Some(at), Some(of)) = (child.position(*column), table.position(*parent_column)) else { continue };
                new[at] = replacement.map_or(Value::Null, |parent| parent[of].clone());
                if new[at].is_null() && child.columns[at].not_null {
                    return Err(Error::new(
                        ErrorKind::NotNullViolation,
                        format!(
                            "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                            child.columns[at].name, child.name
                        ),
                    )
                    .table(&child.name));
                }
            }
            let to = self.place_for_write(child, &new).await?;
            changes.push(Placed { change: RowChange::Update { old, new }, from: Some(from), to: Some(to) });
        }
        if changes.is_empty() { Ok(()) } else { self.write_cascaded(child, changes, depth + 1).await }
    }

    /// Whether another row of the parent has the lost values now (two rows that exchanged their keys, say).
    async fn has_again(&self, table: &Arc<Table>, key: &ForeignKey, effect: &Effect, values: &[Value]) -> Result<bool> {
        let order = ParentOrder::of(table, &key.parent_columns)?;
        let values: Vec<&Value> = order.permutation.iter().map(|i| &values[*i]).collect();
        Ok(self.locked_parent(table, order.index, &values, std::iter::once(effect.from)).await?.is_some())
    }
}

/// The values by which children referred to a row and no longer can.
fn lost_values(table: &Table, key: &ForeignKey, effect: &Effect) -> Option<Vec<Value>> {
    let positions: Vec<usize> = key.parent_columns.iter().filter_map(|c| table.position(*c)).collect();
    let kept = |new: &Row| positions.iter().all(|p| effect.old[*p].matches(&new[*p]));
    if effect.new.as_ref().is_some_and(kept) || positions.iter().any(|p| effect.old[*p].is_null()) {
        return None;
    }
    Some(positions.iter().map(|p| effect.old[*p].clone()).collect())
}

/// Looks for children's rows.
struct Search<'a> {
    txn: &'a Txn,
    /// Views of what is committed now, one for each participant asked.
    fresh: Vec<(ParticipantId, Arc<dyn Branch>)>,
}

impl Search<'_> {
    /// The children with these values, locked, with the fragments where they are. `at` is where the parent's row was.
    async fn rows(
        &mut self,
        parent: &Arc<Table>,
        child: &Arc<Table>,
        columns: &[ColumnId],
        values: &[Value],
        at: usize,
        mode: LockMode,
    ) -> Result<Vec<(usize, Row)>> {
        // A parent in one piece may have children everywhere; otherwise they are where it is.
        let fragments = if parent.fragments.len() == 1 { 0..child.fragments.len() } else { at..at + 1 };
        let positions: Vec<usize> = columns.iter().filter_map(|c| child.position(*c)).collect();
        // Where a child's writer has locked the parent's row.
        let held = self.txn.node.participant(Txn::first_replica(parent, at)?.site)?;
        let mut found = vec![];
        for at in fragments {
            let replica = Txn::first_replica(child, at)?;
            let own = self.txn.branch_at(replica.site).await?;
            let mut keys = keys(&*own, &replica, &positions, columns, values).await?;
            let fresh = self.fresh(held, &replica).await?;
            for key in self::keys(&*fresh, &replica, &positions, columns, values).await? {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            if keys.is_empty() {
                continue;
            }
            let locked = self.txn.lock_rows(child, at, &keys, mode, LockWait::Wait).await?;
            let still = |row: &Row| positions.iter().zip(values).all(|(p, v)| row[*p].matches(v));
            found.extend(locked.into_iter().filter_map(|l| l.row).filter(still).map(|row| (at, row)));
        }
        Ok(found)
    }

    /// A view of what is committed now. Who has given the parent's row back at its participant may have yet to commit at this one, where
    /// the child is: that is waited for.
    async fn fresh(&mut self, held: ParticipantId, replica: &Replica) -> Result<Arc<dyn Branch>> {
        let site = self.txn.node.sites.get(replica.site)?.site;
        let participant = site.participant();
        if participant != held {
            self.txn.node.coordinator.open(vec![held, participant], |_| async { Ok(()) }).await?;
        }
        // Taken anew for each look: a lock may have been waited for since the last one.
        self.fresh.retain(|(p, _)| *p != participant);
        let options = BranchOptions { isolation: Isolation::ReadCommitted, read_only: true, ..self.txn.options };
        let branch = site.begin(options).await?;
        self.fresh.push((participant, branch.clone()));
        Ok(branch)
    }
}

/// Keys of the rows of one copy that have these values, through the key or an index where one begins with the columns.
async fn keys(
    branch: &dyn Branch,
    replica: &Replica,
    positions: &[usize],
    columns: &[ColumnId],
    values: &[Value],
) -> Result<Vec<Vec<Value>>> {
    let table = &replica.table;
    let prefix = |order: &[ColumnId]| -> Option<Vec<Value>> {
        let first = order.get(..columns.len())?;
        first.iter().map(|c| columns.iter().position(|x| x == c).map(|i| values[i].clone())).collect()
    };
    let (index, range) = match prefix(&table.key) {
        Some(values) => (None, KeyRange::prefix(values)),
        None => table
            .indexes
            .iter()
            .find_map(|i| prefix(&i.columns).map(|values| (Some(i.id), KeyRange::prefix(values))))
            .unwrap_or((None, KeyRange::ALL)),
    };
    let key = table.key_positions();
    let wanted: Vec<usize> = key.iter().chain(positions).copied().collect();
    let types: Vec<&SqlType> = wanted.iter().map(|p| &table.columns[*p].ty).collect();
    let request = ScanRequest { columns: wanted.clone(), index, range, reverse: false, limit: None, batch_size: BATCH };
    let mut batches = branch.scan(replica, request)?;
    let mut found = vec![];
    while let Some(batch) = batches.try_next().await? {
        for mut row in rows::of_batch(&batch, &types)? {
            let rest = row.split_off(key.len());
            if rest.iter().zip(values).all(|(a, b)| a.matches(b)) {
                found.push(row);
            }
        }
    }
    Ok(found)
}
