//! Where rows belong and where they are.
//!
//! A derived table's row lies where its parent's row lies. When a row is *written*, the parent's row is locked (shared), so it can
//! neither go nor move before this transaction ends, and what was found may be kept ([`Known`]). To *find* a row that is there already,
//! the transaction's view is enough: whoever then locks the row learns whether the view is still true.

use super::Txn;
use atoll_model::{
    Error, ErrorKind, Fragmentation, IndexId, Place, RelationId, Result, Table, Value, hash_values, text,
};
use atoll_ports::site::LockMode;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// Parents' rows kept in mind at most; beyond, all are forgotten (their locks stay) and looked up anew.
const MAX_KNOWN: usize = 100_000;

/// Table, unique order, and a hash of the values.
type KnownKey = (RelationId, Option<IndexId>, u64);

/// Parents' rows that this transaction has found and locked: the values, and the fragment that they are in.
#[derive(Default)]
pub(super) struct Known {
    rows: HashMap<KnownKey, Vec<(Vec<Value>, usize)>>,
}

impl Known {
    fn get(&self, table: RelationId, index: Option<IndexId>, values: &[&Value]) -> Option<usize> {
        let bucket = self.rows.get(&(table, index, hash_values(values)))?;
        bucket.iter().find(|(v, _)| v.iter().zip(values).all(|(a, b)| a.matches(b))).map(|(_, at)| *at)
    }

    fn put(&mut self, table: RelationId, index: Option<IndexId>, values: &[&Value], at: usize) {
        if self.rows.len() >= MAX_KNOWN {
            self.rows.clear();
        }
        let key = (table, index, hash_values(values));
        self.rows.entry(key).or_default().push((values.iter().map(|v| (*v).clone()).collect(), at));
    }

    pub(super) fn clear(&mut self) {
        self.rows.clear();
    }

    /// Forgets a table's rows, because some of them are about to change.
    pub(super) fn forget(&mut self, table: RelationId) {
        if !self.rows.is_empty() {
            self.rows.retain(|(t, _, _), _| *t != table);
        }
    }
}

/// The columns of a row as `(a, b) = (1, x)`.
pub(crate) trait Describe {
    /// For DETAIL lines.
    fn describe(&self, columns: &[atoll_model::ColumnId], values: &[Value]) -> String;
}

impl Describe for Table {
    fn describe(&self, columns: &[atoll_model::ColumnId], values: &[Value]) -> String {
        let (mut names, mut shown) = (String::new(), String::new());
        for (id, value) in columns.iter().zip(values) {
            let Some(column) = self.columns.iter().find(|c| c.id == *id) else { continue };
            let separator = if names.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(names, "{separator}{}", column.name);
            let value = if value.is_null() { "null".to_string() } else { text::to_text(&column.ty, value) };
            let _ = write!(shown, "{separator}{value}");
        }
        format!("({names})=({shown})")
    }
}

impl Txn {
    /// The fragment of a row that is there, or that would be written, as this transaction sees it; locks nothing.
    pub(super) async fn place_seen(&self, table: &Arc<Table>, row: &[Value]) -> Result<usize> {
        match table.place(row) {
            Place::Fragment(at) => Ok(at),
            Place::Nowhere => Err(no_fragment_for(table, row)),
            Place::WithParent => {
                let (parent, value) = self.parent_of(table, row)?;
                if let Some(at) = self.known.lock().get(parent.id, None, &[value]) {
                    return Ok(at);
                }
                for at in 0..parent.fragments.len() {
                    let replica = Self::first_replica(&parent, at)?;
                    let branch = self.branch_at(replica.site).await?;
                    if branch.get(&replica, std::slice::from_ref(value)).await?.is_some() {
                        return Ok(at);
                    }
                }
                Err(no_parent(table, row, &parent))
            }
        }
    }

    /// The fragment into which a row is to be written; a parent that decides it is locked.
    pub(super) async fn place_for_write(&self, table: &Arc<Table>, row: &[Value]) -> Result<usize> {
        match table.place(row) {
            Place::Fragment(at) => Ok(at),
            Place::Nowhere => Err(no_fragment_for(table, row)),
            Place::WithParent => {
                let (parent, value) = self.parent_of(table, row)?;
                let fragments = 0..parent.fragments.len();
                self.locked_parent(&parent, None, &[value], fragments)
                    .await?
                    .ok_or_else(|| no_parent(table, row, &parent))
            }
        }
    }

    /// The parent of a derived table, and the value by which a row refers to it.
    fn parent_of<'a>(&self, table: &Table, row: &'a [Value]) -> Result<(Arc<Table>, &'a Value)> {
        let Fragmentation::Derived { parent, column, .. } = &table.fragmentation else {
            return Err(Error::internal("only rows of derived tables lie with a parent"));
        };
        let parent = self
            .definitions()
            .tables
            .get(parent)
            .cloned()
            .ok_or_else(|| Error::internal(format!("the parent of table \"{}\" is missing", table.name)))?;
        let value = table.position(*column).map_or(&Value::Null, |p| &row[p]);
        if value.is_null() {
            return Err(no_fragment_for(table, row));
        }
        Ok((parent, value))
    }

    /// The fragment, of these, where a parent's row with these unique values is, the row being locked (shared).
    pub(super) async fn locked_parent(
        &self,
        parent: &Arc<Table>,
        index: Option<IndexId>,
        values: &[&Value],
        fragments: impl Iterator<Item = usize>,
    ) -> Result<Option<usize>> {
        if let Some(at) = self.known.lock().get(parent.id, index, values) {
            return Ok(Some(at));
        }
        let owned: Vec<Value> = values.iter().map(|v| (*v).clone()).collect();
        for at in fragments {
            let replica = Self::first_replica(parent, at)?;
            let branch = self.branch_at(replica.site).await?;
            if branch.find_unique(&replica, index, &owned, LockMode::Shared).await?.is_some() {
                self.known.lock().put(parent.id, index, values, at);
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// The fragments in which a row with these unique values can be.
    pub(super) async fn fragments_of_unique(
        &self,
        table: &Arc<Table>,
        index: Option<IndexId>,
        values: &[Value],
    ) -> Result<Vec<usize>> {
        let columns = match index {
            None => &table.key,
            Some(id) => match table.index(id) {
                Some(index) => &index.columns,
                None => return Err(Error::internal(format!("table \"{}\" has no such index", table.name))),
            },
        };
        if table.fragments.len() > 1 && table.confines_to_fragment(columns) {
            // Only the columns of the unique order are known, which are enough to place the row.
            let mut row = vec![Value::Null; table.columns.len()];
            for (column, value) in columns.iter().zip(values) {
                if let Some(at) = table.position(*column) {
                    row[at] = value.clone();
                }
            }
            return match self.place_seen(table, &row).await {
                Ok(at) => Ok(vec![at]),
                Err(e) if matches!(e.kind(), ErrorKind::CheckViolation | ErrorKind::ForeignKeyViolation) => Ok(vec![]),
                Err(e) => Err(e),
            };
        }
        Ok((0..table.fragments.len()).collect())
    }
}

fn no_fragment_for(table: &Table, row: &[Value]) -> Error {
    let (columns, values): (Vec<_>, Vec<_>) =
        table.fragmentation_positions().into_iter().map(|p| (table.columns[p].id, row[p].clone())).unzip();
    let described = table.describe(&columns, &values).replacen(")=(", ") = (", 1);
    Error::new(ErrorKind::CheckViolation, format!("no partition of relation \"{}\" found for row", table.name))
        .detail(format!("Partition key of the failing row contains {described}."))
        .table(&table.name)
}

fn no_parent(table: &Table, row: &[Value], parent: &Table) -> Error {
    let Fragmentation::Derived { column, .. } = &table.fragmentation else { return no_fragment_for(table, row) };
    let key = table.foreign_keys.iter().find(|k| k.parent == parent.id && k.columns == [*column]);
    let name = key.map_or("", |k| k.name.as_str());
    let value: Vec<Value> = table.position(*column).map(|p| row[p].clone()).into_iter().collect();
    super::foreign::missing_parent(table, name, &[*column], &value, parent)
}
