//! Writing rows: placing them, keeping keys unique over fragments, writing every copy, moving what changes its fragment.

use crate::transaction::Txn;
use atoll_model::{
    Catalog, ColumnId, Error, ErrorKind, Fragmentation, Index, IndexId, Place, Result, Row, Table, Value, text,
};
use atoll_ports::cluster::{FragmentRef, Transaction};
use atoll_ports::site::{KeyRange, LockMode, Replica, RowChange, ScanRequest};
use futures::TryStreamExt;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Changes by position of the fragment.
type ByFragment = BTreeMap<usize, Vec<RowChange>>;

impl Txn {
    /// Writes rows of a table. See `Transaction::write`.
    pub(crate) async fn write_rows(&self, table: &Arc<Table>, changes: Vec<RowChange>) -> Result<()> {
        let catalog = self.catalog();
        let is_parent = crate::references::is_parent(&catalog, table);
        if is_parent {
            self.forget_parents();
        }
        self.check_parents(&catalog, table, &changes).await?;
        let removed: Vec<(Row, Option<Row>)> = if is_parent {
            let gone = changes.iter().filter_map(|c| match c {
                RowChange::Insert(_) => None,
                RowChange::Update { old, new } => Some((old.clone(), Some(new.clone()))),
                RowChange::Delete(old) => Some((old.clone(), None)),
            });
            gone.collect()
        } else {
            vec![]
        };

        // First what goes away, so that a key may be freed and taken by one statement.
        let mut first = ByFragment::new();
        let mut second = ByFragment::new();
        let mut moves = vec![];
        for change in changes {
            match change {
                RowChange::Insert(row) => {
                    let at = self.place_row(table, &row).await?;
                    second.entry(at).or_default().push(RowChange::Insert(row));
                }
                RowChange::Delete(row) => {
                    let at = self.place_row(table, &row).await?;
                    first.entry(at).or_default().push(RowChange::Delete(row));
                }
                RowChange::Update { old, new } => {
                    let (from, to) = if self.same_place(table, &old, &new) {
                        let at = self.place_row(table, &old).await?;
                        (at, at)
                    } else {
                        (self.place_row(table, &old).await?, self.place_row(table, &new).await?)
                    };
                    if from == to {
                        second.entry(to).or_default().push(RowChange::Update { old, new });
                    } else {
                        if is_parent {
                            moves.push((old.clone(), from, to));
                        }
                        first.entry(from).or_default().push(RowChange::Delete(old));
                        second.entry(to).or_default().push(RowChange::Insert(new));
                    }
                }
            }
        }
        self.apply_all(table, first).await?;
        self.check_unique_elsewhere(table, &second).await?;
        self.apply_all(table, second).await?;
        for (row, from, to) in moves {
            self.move_children(&catalog, table, &row, from, to).await?;
        }
        if !removed.is_empty() {
            self.check_children(&catalog, table, removed).await?;
        }
        Ok(())
    }

    /// Whether two versions of a row surely belong to the same fragment.
    fn same_place(&self, table: &Table, old: &Row, new: &Row) -> bool {
        table.fragmentation_positions().iter().all(|p| old[*p].matches(&new[*p]))
    }

    async fn apply_all(&self, table: &Arc<Table>, changes: ByFragment) -> Result<()> {
        for (at, changes) in changes {
            let fragment = &table.fragments[at];
            let Some((last, others)) = fragment.replicas.split_last() else {
                return Err(Error::internal("a fragment without copies"));
            };
            for site in others {
                let replica = Replica { site: *site, fragment: fragment.id, table: table.clone() };
                self.branch(*site).await?.apply(&replica, changes.clone()).await?;
            }
            let replica = Replica { site: *last, fragment: fragment.id, table: table.clone() };
            self.branch(*last).await?.apply(&replica, changes).await?;
        }
        Ok(())
    }

    /// The fragment of a row; for derived fragmentation, that of its parent, whose row is locked so that it stays there.
    ///
    /// # Errors
    /// `CheckViolation`, `ForeignKeyViolation`.
    pub(crate) async fn place_row(&self, table: &Arc<Table>, row: &[Value]) -> Result<usize> {
        match table.place(row) {
            Place::Fragment(at) => Ok(at),
            Place::Nowhere => Err(Error::new(
                ErrorKind::CheckViolation,
                format!("no partition of relation \"{}\" found for row", table.name),
            )
            .detail(describe_key(table, row))
            .hint("Create a partition that takes the row, or a DEFAULT partition.")
            .table(table.name.clone())),
            Place::WithParent => {
                let Fragmentation::Derived { parent, column, parent_column, .. } = &table.fragmentation else {
                    return Err(Error::internal("only derived fragments follow a parent"));
                };
                let value = table.position(*column).map_or(&Value::Null, |p| &row[p]);
                let missing = |catalog: &Catalog| {
                    let parent = catalog.tables.get(parent).map_or("its parent", |t| t.name.as_str()).to_owned();
                    Error::new(
                        ErrorKind::ForeignKeyViolation,
                        format!("insert or update on table \"{}\" has no row of \"{parent}\" to be co-located with", table.name),
                    )
                    .detail(describe_key(table, row))
                    .hint(format!("Insert the row of \"{parent}\" first."))
                };
                let catalog = self.catalog();
                if value.is_null() {
                    return Err(missing(&catalog));
                }
                let known = (*parent, format!("{value:?}"));
                if let Some(at) = self.known_parent(&known) {
                    return Ok(at);
                }
                let parent_table = catalog.tables.get(parent).ok_or_else(|| missing(&catalog))?;
                let found = self.find_parent(parent_table, &[*parent_column], std::slice::from_ref(value)).await?;
                let (at, _) = found.ok_or_else(|| missing(&catalog))?;
                let id = parent_table.fragments[at].id;
                let own = table.fragments.iter().position(|f| f.bounds == atoll_model::FragmentBounds::Derived(id));
                let own = own.ok_or_else(|| Error::internal("a derived table lacks a fragment of its parent"))?;
                self.remember_parent(known, own);
                Ok(own)
            }
        }
    }

    /// The parent's row with these values of its key or of a unique index, held in place by a shared lock.
    pub(crate) async fn find_parent(&self, parent: &Arc<Table>, columns: &[ColumnId], values: &[Value]) -> Result<Option<(usize, Row)>> {
        let (index, ordered) = key_over(parent, columns, values)?;
        for at in self.fragments_of_key(parent, index, &ordered) {
            let (branch, replica) = self.primary(&FragmentRef { table: parent.clone(), at }).await?;
            if let Some(row) = branch.find_unique(&replica, index, &ordered, LockMode::Shared).await? {
                return Ok(Some((at, row)));
            }
        }
        Ok(None)
    }

    /// Fragments where a row with these values of a key can be.
    pub(crate) fn fragments_of_key(&self, table: &Table, index: Option<IndexId>, values: &[Value]) -> Vec<usize> {
        let columns = match index {
            None => &table.key,
            Some(id) => match table.index(id) {
                Some(index) => &index.columns,
                None => return vec![],
            },
        };
        let wanted: Option<Vec<&Value>> = match &table.fragmentation {
            Fragmentation::Derived { direct: false, .. } => None,
            _ => table
                .fragmentation_positions()
                .into_iter()
                .map(|p| columns.iter().position(|c| *c == table.columns[p].id).map(|i| &values[i]))
                .collect(),
        };
        match wanted {
            Some(values) if table.confines_to_fragment(columns) => table.place_key(&values).into_iter().collect(),
            _ => (0..table.fragments.len()).collect(),
        }
    }

    /// Looks for rows of other fragments with the keys that are about to be written. Copies check their own fragment.
    async fn check_unique_elsewhere(&self, table: &Arc<Table>, changes: &ByFragment) -> Result<()> {
        if table.fragments.len() == 1 {
            return Ok(());
        }
        let mut keys: Vec<(Option<IndexId>, &str, &[ColumnId])> = vec![];
        if let Some(name) = &table.primary_key
            && !table.confines_to_fragment(&table.key)
        {
            keys.push((None, name, &table.key));
        }
        let unique = table.indexes.iter().filter(|i| i.unique && !table.confines_to_fragment(&i.columns));
        keys.extend(unique.map(|i| (Some(i.id), i.name.as_str(), i.columns.as_slice())));
        for (index, name, columns) in keys {
            let positions: Vec<usize> = columns.iter().filter_map(|c| table.position(*c)).collect();
            let mut seen: HashSet<String> = HashSet::new();
            for (at, changes) in changes {
                for change in changes {
                    let (old, new) = match change {
                        RowChange::Insert(new) => (None, new),
                        RowChange::Update { old, new } => (Some(old), new),
                        RowChange::Delete(_) => continue,
                    };
                    if positions.iter().any(|p| new[*p].is_null())
                        || old.is_some_and(|old| positions.iter().all(|p| old[*p].matches(&new[*p])))
                    {
                        continue;
                    }
                    let values: Vec<Value> = positions.iter().map(|p| new[*p].clone()).collect();
                    if !seen.insert(format!("{values:?}")) {
                        return Err(duplicate(table, name, columns, &values));
                    }
                    for other in (0..table.fragments.len()).filter(|o| o != at) {
                        let (branch, replica) = self.primary(&FragmentRef { table: table.clone(), at: other }).await?;
                        if branch.find_unique(&replica, index, &values, LockMode::Exclusive).await?.is_some() {
                            return Err(duplicate(table, name, columns, &values));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// A new unique index whose values may stand in several fragments: no value may stand twice.
    pub(crate) async fn check_unique_over_fragments(&self, table: &Arc<Table>, index: &Index) -> Result<()> {
        let positions: Vec<usize> = index.columns.iter().filter_map(|c| table.position(*c)).collect();
        let mut seen: HashSet<String> = HashSet::new();
        for at in 0..table.fragments.len() {
            let request = ScanRequest {
                columns: positions.clone(),
                index: None,
                range: KeyRange::ALL,
                reverse: false,
                limit: None,
                batch_size: 8192,
            };
            let (_, mut stream) = self.scan(&FragmentRef { table: table.clone(), at }, request)?;
            while let Some(batch) = stream.try_next().await? {
                for row in 0..batch.num_rows() {
                    if batch.columns().iter().any(|c| arrow_array::Array::is_null(c, row)) {
                        continue;
                    }
                    let shown = crate::references::show_row(&batch, row);
                    if !seen.insert(shown) {
                        return Err(Error::new(
                            ErrorKind::UniqueViolation,
                            format!("could not create unique index \"{}\"", index.name),
                        )
                        .detail("Some values stand more than once in the table.")
                        .constraint(index.name.clone())
                        .table(table.name.clone()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The key or unique index over exactly these columns, with the values in its order.
///
/// # Errors
/// `Internal`: the catalog keeps foreign keys to such.
fn key_over(table: &Table, columns: &[ColumnId], values: &[Value]) -> Result<(Option<IndexId>, Vec<Value>)> {
    let order = |wanted: &[ColumnId]| -> Option<Vec<Value>> {
        if wanted.len() != columns.len() {
            return None;
        }
        wanted.iter().map(|w| columns.iter().position(|c| c == w).map(|i| values[i].clone())).collect()
    };
    if let Some(values) = order(&table.key) {
        return Ok((None, values));
    }
    let index = table.indexes.iter().filter(|i| i.unique).find_map(|i| order(&i.columns).map(|v| (Some(i.id), v)));
    index.ok_or_else(|| Error::internal(format!("\"{}\" has no unique key over the referenced columns", table.name)))
}

fn duplicate(table: &Table, name: &str, columns: &[ColumnId], values: &[Value]) -> Error {
    let described = describe(table, columns, values);
    Error::new(ErrorKind::UniqueViolation, format!("duplicate key value violates unique constraint \"{name}\""))
        .detail(format!("Key {described} already exists."))
        .constraint(name)
        .table(table.name.clone())
}

/// `(a, b)=(1, x)`, as PostgreSQL's details show keys.
pub(crate) fn describe(table: &Table, columns: &[ColumnId], values: &[Value]) -> String {
    let found: Vec<_> = columns.iter().filter_map(|c| table.position(*c)).map(|p| &table.columns[p]).collect();
    let names: Vec<&str> = found.iter().map(|c| c.name.as_str()).collect();
    let shown: Vec<String> = found
        .iter()
        .zip(values)
        .map(|(c, v)| if v.is_null() { "null".into() } else { text::to_text(&c.ty, v) })
        .collect();
    format!("({})=({})", names.join(", "), shown.join(", "))
}

fn describe_key(table: &Table, row: &[Value]) -> String {
    let positions = table.fragmentation_positions();
    let columns: Vec<ColumnId> = positions.iter().map(|p| table.columns[*p].id).collect();
    let values: Vec<Value> = positions.iter().map(|p| row[*p].clone()).collect();
    format!("Partition key of the failing row contains {}.", describe(table, &columns, &values).replace("=(", " = ("))
}
