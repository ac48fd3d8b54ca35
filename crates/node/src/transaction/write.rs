//! Writing rows: each to its fragment, at every copy, unique over the whole table.
//!
//! Order of a call: old rows go from everywhere, new ones come, and then uniqueness over fragments, foreign keys and cascades are
//! checked against the result. Each copy has locked its new unique values by then, and those locks are the table's, not the
//! fragment's: of two transactions that bring the same value into different fragments, one waits and then sees the other's row.

use super::Txn;
use super::foreign::{ParentOrder, missing_parent};
use super::placement::Describe;
use crate::copies;
use crate::definitions::Definitions;
use atoll_model::{ColumnId, Error, ErrorKind, IndexId, Result, Row, Table, Value};
use atoll_ports::cluster::{FragmentRef, TableLock};
use atoll_ports::query::SiteExpr;
use atoll_ports::site::{LockMode, RowChange};
use futures::future::{BoxFuture, join_all};
use std::sync::Arc;

/// Cascades within cascades, before a chain of foreign keys is taken for a mistake.
const MAX_DEPTH: usize = 200;

/// So many rows are written to all fragments at once: time counts for more than an early end of a deadlock.
const BULK: usize = 1000;

/// A change and the fragments that it concerns.
pub(super) struct Placed {
    pub(super) change: RowChange,
    /// Where the old row is.
    pub(super) from: Option<usize>,
    /// Where the new row goes.
    pub(super) to: Option<usize>,
}

/// A row that others may refer to, and what became of it.
pub(super) struct Effect {
    pub(super) old: Row,
    pub(super) new: Option<Row>,
    pub(super) from: usize,
    pub(super) to: Option<usize>,
}

/// Values that must be found once, or at least, somewhere else.
struct Lookup<K> {
    what: K,
    at: usize,
    values: Vec<Value>,
}

/// A unique order of a table in which equal values may lie in different fragments.
struct Spanning<'a> {
    index: Option<IndexId>,
    name: &'a str,
    columns: &'a [ColumnId],
    positions: Vec<usize>,
}

impl Txn {
    /// Writes rows that the caller has checked and, where they exist, locked.
    pub(super) async fn write_rows(&self, table: &Arc<Table>, changes: Vec<RowChange>) -> Result<()> {
        self.check_writes(table)?;
        self.hold(table.id, TableLock::Write).await?;
        self.check_current(table)?;
        let placing = table.fragmentation_positions();
        let mut placed = Vec::with_capacity(changes.len());
        for change in changes {
            let (from, to) = match &change {
                RowChange::Insert(row) => (None, Some(self.place_for_write(table, row).await?)),
                RowChange::Delete(row) => (Some(self.place_seen(table, row).await?), None),
                RowChange::Update { old, new } => {
                    let from = self.place_seen(table, old).await?;
                    let stays = placing.iter().all(|p| old[*p].matches(&new[*p]));
                    (Some(from), Some(if stays { from } else { self.place_for_write(table, new).await? }))
                }
            };
            placed.push(Placed { change, from, to });
        }
        self.write_placed(table, placed, 0).await
    }

    /// Changes a row in one request, if it has one copy, that copy's site can do so, and nothing else follows from the change.
    pub(super) async fn update_at_site(
        &self,
        fragment: &FragmentRef,
        key: &[Value],
        set: &[(usize, SiteExpr)],
    ) -> Result<Option<bool>> {
        let (table, at) = (&fragment.table, fragment.at);
        let replica = Self::first_replica(table, at)?;
        let alone = table.fragments[at].replicas.len() == 1 && table.fragments[at].joining.is_empty();
        if !alone
            || !self.node.sites.get(replica.site)?.site.updates_rows()
            || set.iter().any(|(position, _)| concerns_others(table, *position))
        {
            return Ok(None);
        }
        self.check_writes(table)?;
        self.hold(table.id, TableLock::Write).await?;
        self.check_current(table)?;
        let outcome = self.branch_at(replica.site).await?.update_row(&replica, key, set).await;
        self.told(replica.site, outcome).map(Some)
    }

    fn check_writes(&self, table: &Table) -> Result<()> {
        if !self.options.read_only {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::ReadOnlyTransaction,
            format!("cannot write to \"{}\" in a read-only transaction", table.name),
        ))
    }

    /// As [`Txn::write_placed`], from within it.
    pub(super) fn write_cascaded<'a>(
        &'a self,
        table: &'a Arc<Table>,
        placed: Vec<Placed>,
        depth: usize,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if depth > MAX_DEPTH {
                return Err(Error::new(ErrorKind::ProgramLimit, "foreign keys cascade too deep"));
            }
            self.hold(table.id, TableLock::Write).await?;
            self.check_current(table)?;
            self.write_placed(table, placed, depth).await
        })
    }

    async fn write_placed(&self, table: &Arc<Table>, placed: Vec<Placed>, depth: usize) -> Result<()> {
        let definitions = self.definitions();
        let children = definitions.children(table);
        let spanning = spanning(table);
        let references = parents(table, &definitions)?;
        let (mut uniques, mut lookups, mut effects) = (vec![], vec![], vec![]);
        for p in &placed {
            let (old, new) = match &p.change {
                RowChange::Insert(new) => (None, Some(new)),
                RowChange::Update { old, new } => (Some(old), Some(new)),
                RowChange::Delete(old) => (Some(old), None),
            };
            if let (Some(new), Some(at)) = (new, p.to) {
                for (what, order) in spanning.iter().enumerate() {
                    if let Some(values) = fresh_values(old, new, &order.positions) {
                        uniques.push(Lookup { what, at, values });
                    }
                }
                for (what, reference) in references.iter().enumerate() {
                    if let Some(values) = fresh_values(old, new, &reference.child_positions) {
                        lookups.push(Lookup { what, at, values });
                    }
                }
            }
            if let (Some(_), Some(old), Some(from)) = (children, old, p.from) {
                effects.push(Effect { old: old.clone(), new: new.cloned(), from, to: p.to });
            }
        }
        if !effects.is_empty() {
            self.known.lock().forget(table.id);
        }
        self.apply_placed(table, placed).await?;
        for unique in uniques {
            self.check_elsewhere(table, &spanning[unique.what], unique.at, &unique.values).await?;
        }
        for lookup in lookups {
            let reference = &references[lookup.what];
            let parent = &reference.parent;
            // A parent with several fragments is co-located: its row can only be in the corresponding one.
            let fragments = if parent.fragments.len() == 1 { 0..1 } else { lookup.at..lookup.at + 1 };
            let values: Vec<&Value> = reference.order.permutation.iter().map(|i| &lookup.values[*i]).collect();
            if self.locked_parent(parent, reference.order.index, &values, fragments).await?.is_none() {
                let key = &table.foreign_keys[reference.key];
                return Err(missing_parent(table, &key.name, &key.columns, &lookup.values, parent));
            }
        }
        if let Some(children) = children
            && !effects.is_empty()
        {
            self.follow(table, children, effects, &definitions, depth).await?;
        }
        Ok(())
    }

    /// Hands changes to the copies, fragment by fragment: first what goes, then what comes.
    async fn apply_placed(&self, table: &Arc<Table>, mut placed: Vec<Placed>) -> Result<()> {
        if let [Placed { from, to, .. }] = placed.as_slice()
            && (from.is_none() || to.is_none() || from == to)
        {
            let at = from.or(*to).unwrap_or_default();
            return match placed.pop() {
                Some(only) => self.apply_at(table, at, vec![only.change]).await,
                None => Ok(()),
            };
        }
        let mut gone: Vec<Vec<RowChange>> = vec![vec![]; table.fragments.len()];
        let mut come: Vec<Vec<RowChange>> = vec![vec![]; table.fragments.len()];
        for Placed { change, from, to } in placed {
            match (change, from, to) {
                (RowChange::Update { old, new }, Some(from), Some(to)) if from != to => {
                    gone[from].push(RowChange::Delete(old));
                    come[to].push(RowChange::Insert(new));
                }
                (change @ RowChange::Delete(_), Some(at), _) => gone[at].push(change),
                (change, _, Some(at)) => come[at].push(change),
                _ => return Err(Error::internal("a change without a fragment")),
            }
        }
        self.apply_in_order(table, gone).await?;
        if come.iter().map(Vec::len).sum::<usize>() < BULK {
            return self.apply_in_order(table, come).await;
        }
        let side_by_side = parts(come).map(|(at, changes)| self.apply_at(table, at, changes));
        // Each to its end, also when another fails: none is left half done.
        join_all(side_by_side).await.into_iter().collect()
    }

    /// Fragment by fragment, so that two transactions that want the same values meet at the first of them.
    async fn apply_in_order(&self, table: &Arc<Table>, batches: Vec<Vec<RowChange>>) -> Result<()> {
        for (at, changes) in parts(batches) {
            self.apply_at(table, at, changes).await?;
        }
        Ok(())
    }

    /// Applies changes at every copy of a fragment.
    async fn apply_at(&self, table: &Arc<Table>, at: usize, changes: Vec<RowChange>) -> Result<()> {
        let replicas = table.fragments.get(at).map_or(&[][..], |f| f.replicas.as_slice());
        let Some((last, others)) = replicas.split_last() else {
            return Err(Error::internal(format!("a fragment of table \"{}\" has no copy", table.name)));
        };
        let joining = &table.fragments[at].joining;
        let images = (!joining.is_empty()).then(|| changes.clone());
        for site in others {
            let replica = Self::replica(table, at, *site)?;
            self.told(*site, self.branch_at(*site).await?.apply(&replica, changes.clone()).await)?;
        }
        let replica = Self::replica(table, at, *last)?;
        self.told(*last, self.branch_at(*last).await?.apply(&replica, changes).await)?;
        if let Some(images) = images {
            let images = copies::images(table, images);
            for (site, copy) in joining {
                let outcome = self.write_joining(table, at, (*site, copy.stale), &images).await;
                self.told(*site, outcome)?;
            }
        }
        Ok(())
    }

    /// Makes sure that values that have come to one fragment are in no other.
    async fn check_elsewhere(
        &self,
        table: &Arc<Table>,
        order: &Spanning<'_>,
        at: usize,
        values: &[Value],
    ) -> Result<()> {
        for other in (0..table.fragments.len()).filter(|other| *other != at) {
            let replica = Self::first_replica(table, other)?;
            let branch = self.branch_at(replica.site).await?;
            if branch.find_unique(&replica, order.index, values, LockMode::Exclusive).await?.is_some() {
                return Err(Error::new(
                    ErrorKind::UniqueViolation,
                    format!("duplicate key value violates unique constraint \"{}\"", order.name),
                )
                .detail(format!("Key {} already exists.", table.describe(order.columns, values)))
                .constraint(order.name)
                .table(&table.name));
            }
        }
        Ok(())
    }
}

/// Whether more follows from another value of a column than that it is there: it is part of what places rows, of what is unique, or of
/// what refers to other rows; or it has to be checked.
fn concerns_others(table: &Table, position: usize) -> bool {
    let column = &table.columns[position];
    let unique = table.indexes.iter().filter(|i| i.unique).any(|i| i.columns.contains(&column.id));
    let refers = table.foreign_keys.iter().any(|key| key.columns.contains(&column.id));
    let places = table.fragmentation_positions().contains(&position) || table.key.contains(&column.id);
    unique || refers || places || column.not_null || !table.checks.is_empty()
}

/// The fragments that have changes.
fn parts(batches: Vec<Vec<RowChange>>) -> impl Iterator<Item = (usize, Vec<RowChange>)> {
    batches.into_iter().enumerate().filter(|(_, changes)| !changes.is_empty())
}

/// A foreign key of the table being written, ready for look-ups.
struct Reference {
    /// Position in `Table::foreign_keys`.
    key: usize,
    child_positions: Vec<usize>,
    parent: Arc<Table>,
    order: ParentOrder,
}

fn parents(table: &Table, definitions: &Definitions) -> Result<Vec<Reference>> {
    let reference = |(at, key): (usize, &atoll_model::ForeignKey)| {
        let parent = definitions
            .tables
            .get(&key.parent)
            .cloned()
            .ok_or_else(|| Error::internal(format!("the parent of foreign key \"{}\" is missing", key.name)))?;
        let order = ParentOrder::of(&parent, &key.parent_columns)?;
        let child_positions = key.columns.iter().filter_map(|c| table.position(*c)).collect();
        Ok(Reference { key: at, child_positions, parent, order })
    };
    table.foreign_keys.iter().enumerate().map(reference).collect()
}

fn spanning(table: &Table) -> Vec<Spanning<'_>> {
    if table.fragments.len() == 1 {
        return vec![];
    }
    let key = table.primary_key.as_ref().map(|name| (None, name.as_str(), table.key.as_slice()));
    let indexes =
        table.indexes.iter().filter(|i| i.unique).map(|i| (Some(i.id), i.name.as_str(), i.columns.as_slice()));
    key.into_iter()
        .chain(indexes)
        .filter(|(_, _, columns)| !table.confines_to_fragment(columns))
        .map(|(index, name, columns)| Spanning {
            index,
            name,
            columns,
            positions: columns.iter().filter_map(|c| table.position(*c)).collect(),
        })
        .collect()
}

/// The values at some positions of a new row, unless one is NULL or the old row has the same.
fn fresh_values(old: Option<&Row>, new: &Row, positions: &[usize]) -> Option<Vec<Value>> {
    if positions.iter().any(|p| new[*p].is_null()) {
        return None;
    }
    if old.is_some_and(|old| positions.iter().all(|p| old[*p].matches(&new[*p]))) {
        return None;
    }
    Some(positions.iter().map(|p| new[*p].clone()).collect())
}
