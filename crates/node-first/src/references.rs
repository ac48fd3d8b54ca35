//! Foreign keys, and children that follow their parent to another fragment.
//!
//! A child holds its parent's row by a shared lock from its check to its end; whoever removes a parent's row holds it exclusively
//! before looking for children. So neither can miss the other, whatever their snapshots are.

use crate::transaction::Txn;
use crate::write::describe;
use arrow_array::RecordBatch;
use atoll_model::{
    Catalog, Error, ErrorKind, ForeignKey, FragmentBounds, Fragmentation, IndexId, ReferentialAction, Result, Row, Table,
    Value,
};
use atoll_ports::cluster::{FragmentRef, TableLock, Transaction};
use atoll_ports::site::{Branch, BranchOptions, Isolation, KeyRange, LockMode, LockWait, Replica, RowChange, ScanRequest};
use futures::TryStreamExt;
use std::collections::HashSet;
use std::sync::Arc;

/// Whether other tables depend on rows of this one.
pub(crate) fn is_parent(catalog: &Catalog, table: &Table) -> bool {
    catalog.tables.values().any(|t| {
        t.foreign_keys.iter().any(|f| f.parent == table.id)
            || matches!(t.fragmentation, Fragmentation::Derived { parent, direct: false, .. } if parent == table.id)
    })
}

/// A row of a batch as text that tells different rows apart.
pub(crate) fn show_row(batch: &RecordBatch, row: usize) -> String {
    let options = arrow_cast::display::FormatOptions::default();
    let mut shown = String::new();
    for column in batch.columns() {
        if let Ok(formatter) = arrow_cast::display::ArrayFormatter::try_new(column, &options) {
            let text = formatter.value(row).to_string();
            shown.push_str(&format!("{}:{text},", text.len()));
        }
    }
    shown
}

fn values_of(table: &Table, columns: &[atoll_model::ColumnId], row: &[Value]) -> Vec<Value> {
    columns.iter().filter_map(|c| table.position(*c)).map(|p| row[p].clone()).collect()
}

impl Txn {
    /// Checks that the parents of new or changed children exist.
    pub(crate) async fn check_parents(&self, catalog: &Catalog, table: &Arc<Table>, changes: &[RowChange]) -> Result<()> {
        for fk in &table.foreign_keys {
            let Some(parent) = catalog.tables.get(&fk.parent) else { continue };
            let mut known: HashSet<String> = HashSet::new();
            for change in changes {
                let (old, new) = match change {
                    RowChange::Insert(new) => (None, new),
                    RowChange::Update { old, new } => (Some(old), new),
                    RowChange::Delete(_) => continue,
                };
                let values = values_of(table, &fk.columns, new);
                if values.iter().any(Value::is_null) || old.is_some_and(|o| values_of(table, &fk.columns, o) == values) {
                    continue;
                }
                if !known.insert(format!("{values:?}")) {
                    continue;
                }
                // A row may refer to itself, or to another of the same statement.
                let within = parent.id == table.id
                    && changes.iter().any(|c| match c {
                        RowChange::Insert(row) | RowChange::Update { new: row, .. } => {
                            values_of(parent, &fk.parent_columns, row) == values
                        }
                        RowChange::Delete(_) => false,
                    });
                if !within && self.find_parent(parent, &fk.parent_columns, &values).await?.is_none() {
                    return Err(Error::new(
                        ErrorKind::ForeignKeyViolation,
                        format!(
                            "insert or update on table \"{}\" violates foreign key constraint \"{}\"",
                            table.name, fk.name
                        ),
                    )
                    .detail(format!(
                        "Key {} is not present in table \"{}\".",
                        describe(table, &fk.columns, &values),
                        parent.name
                    ))
                    .constraint(fk.name.clone())
                    .table(table.name.clone()));
                }
            }
        }
        Ok(())
    }

    /// What happens to the children of rows that went away or changed their key.
    pub(crate) async fn check_children(&self, catalog: &Catalog, parent: &Arc<Table>, removed: Vec<(Row, Option<Row>)>) -> Result<()> {
        for child in catalog.tables.values() {
            for fk in child.foreign_keys.iter().filter(|f| f.parent == parent.id) {
                for (old, new) in &removed {
                    let values = values_of(parent, &fk.parent_columns, old);
                    let changed = new.as_ref().map(|n| values_of(parent, &fk.parent_columns, n));
                    if values.iter().any(Value::is_null) || changed.as_ref() == Some(&values) {
                        continue;
                    }
                    // Another row of the statement may have taken the key's place.
                    if self.find_parent(parent, &fk.parent_columns, &values).await?.is_some() {
                        continue;
                    }
                    self.act_on_children(parent, child, fk, &values, changed).await?;
                }
            }
        }
        Ok(())
    }

    async fn act_on_children(
        &self,
        parent: &Arc<Table>,
        child: &Arc<Table>,
        fk: &ForeignKey,
        values: &[Value],
        changed: Option<Vec<Value>>,
    ) -> Result<()> {
        let children = self.children(child, &fk.columns, values).await?;
        if children.is_empty() {
            return Ok(());
        }
        let action = if changed.is_some() { fk.on_update } else { fk.on_delete };
        let replaced = |row: &Row, with: &dyn Fn(usize) -> Value| {
            let mut new = row.clone();
            for (i, column) in fk.columns.iter().enumerate() {
                if let Some(p) = child.position(*column) {
                    new[p] = with(i);
                }
            }
            new
        };
        let changes: Vec<RowChange> = match (action, changed) {
            (ReferentialAction::NoAction, _) => {
                return Err(Error::new(
                    ErrorKind::ForeignKeyViolation,
                    format!(
                        "update or delete on table \"{}\" violates foreign key constraint \"{}\" on table \"{}\"",
                        parent.name, fk.name, child.name
                    ),
                )
                .detail(format!(
                    "Key {} is still referenced from table \"{}\".",
                    describe(parent, &fk.parent_columns, values),
                    child.name
                ))
                .constraint(fk.name.clone())
                .table(child.name.clone()));
            }
            (ReferentialAction::Cascade, None) => children.into_iter().map(RowChange::Delete).collect(),
            (ReferentialAction::Cascade, Some(to)) => children
                .into_iter()
                .map(|old| RowChange::Update { new: replaced(&old, &|i| to[i].clone()), old })
                .collect(),
            (ReferentialAction::SetNull, _) => children
                .into_iter()
                .map(|old| RowChange::Update { new: replaced(&old, &|_| Value::Null), old })
                .collect(),
        };
        if let Some(column) = child.columns.iter().find(|c| {
            c.not_null && changes.iter().any(|ch| matches!(ch, RowChange::Update { new, .. } if child.position(c.id).is_some_and(|p| new[p].is_null())))
        }) {
            return Err(Error::new(
                ErrorKind::NotNullViolation,
                format!("null value in column \"{}\" of relation \"{}\" violates not-null constraint", column.name, child.name),
            ));
        }
        self.lock_table(child, TableLock::Write).await?;
        Box::pin(self.write_rows(child, changes)).await
    }

    /// The newest children with these values, locked: those that the transaction sees and those committed since.
    async fn children(&self, child: &Arc<Table>, columns: &[atoll_model::ColumnId], values: &[Value]) -> Result<Vec<Row>> {
        let mut rows = vec![];
        for at in 0..child.fragments.len() {
            let fragment = FragmentRef { table: child.clone(), at };
            let (own, replica) = self.primary(&fragment).await?;
            let mut keys = keys_with(own.as_ref(), &replica, columns, values).await?;
            let fresh = BranchOptions { isolation: Isolation::ReadCommitted, read_only: true, ..self.options() };
            let site = self.node.site(&self.catalog(), replica.site)?;
            let fresh = site.begin(fresh).await?;
            for key in keys_with(fresh.as_ref(), &replica, columns, values).await? {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            fresh.rollback();
            // The lock tells what each is now; in the stricter levels it fails with 40001 where the transaction cannot see it.
            for locked in self.lock(&fragment, &keys, LockMode::Exclusive, LockWait::Wait).await? {
                rows.extend(locked.row.filter(|r| values_of(child, columns, r) == values));
            }
        }
        Ok(rows)
    }

    /// Children of a derived table go where their parent's row went.
    pub(crate) async fn move_children(&self, catalog: &Catalog, parent: &Arc<Table>, row: &Row, from: usize, to: usize) -> Result<()> {
        for child in catalog.tables.values() {
            let Fragmentation::Derived { parent: id, column, parent_column, direct: false } = &child.fragmentation else {
                continue;
            };
            if *id != parent.id {
                continue;
            }
            let position = |at: usize| {
                let bounds = FragmentBounds::Derived(parent.fragments[at].id);
                child.fragments.iter().position(|f| f.bounds == bounds)
            };
            let (Some(from), Some(to)) = (position(from), position(to)) else { continue };
            let value = values_of(parent, std::slice::from_ref(parent_column), row);
            self.lock_table(child, TableLock::Write).await?;
            for moved in self.children(child, std::slice::from_ref(column), &value).await? {
                for (at, change) in [(from, RowChange::Delete(moved.clone())), (to, RowChange::Insert(moved.clone()))] {
                    for site in &child.fragments[at].replicas {
                        let replica = Replica { site: *site, fragment: child.fragments[at].id, table: child.clone() };
                        self.branch(*site).await?.apply(&replica, vec![change.clone()]).await?;
                    }
                }
                Box::pin(self.move_children(catalog, child, &moved, from, to)).await?;
            }
        }
        Ok(())
    }
}

/// Keys of the rows with these values in one copy, through an index where there is one.
async fn keys_with(branch: &dyn Branch, at: &Replica, columns: &[atoll_model::ColumnId], values: &[Value]) -> Result<Vec<Vec<Value>>> {
    let table = &at.table;
    let index: Option<(IndexId, Vec<Value>)> = table.indexes.iter().find_map(|i| {
        let prefix = i.columns.get(..columns.len())?;
        let ordered: Option<Vec<Value>> =
            prefix.iter().map(|c| columns.iter().position(|w| w == c).map(|p| values[p].clone())).collect();
        ordered.map(|v| (i.id, v))
    });
    let (index, range) = match index {
        Some((id, values)) => (Some(id), KeyRange::prefix(values)),
        None => (None, KeyRange::ALL),
    };
    let request =
        ScanRequest { columns: (0..table.columns.len()).collect(), index, range, reverse: false, limit: None, batch_size: 1024 };
    let mut stream = branch.scan(at, request)?;
    let mut keys = vec![];
    while let Some(batch) = stream.try_next().await? {
        for row in 0..batch.num_rows() {
            let row = table
                .columns
                .iter()
                .zip(batch.columns())
                .map(|(c, array)| atoll_ports::rows::value_at(array, row, &c.ty))
                .collect::<Result<Row>>()?;
            if values_of(table, columns, &row).iter().zip(values).all(|(a, b)| a.matches(b)) {
                keys.push(table.key_of(&row));
            }
        }
    }
    Ok(keys)
}
