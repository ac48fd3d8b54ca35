//! Copies that are tables of a site's own, at the moment when the catalog takes them over, and when TRUNCATE empties them.
//!
//! Invariant: when a fragment with an adopted copy is in the catalog, each of its rows belongs to it, and no unique value of them is in another
//! fragment of the table. Writers that go around Atoll can break that later: nobody is locked out at the site.

use super::Txn;
use super::placement::Describe;
use crate::definitions::Definitions;
use crate::rows::compare_keys;
use atoll_model::{Catalog, CatalogCommand, ColumnId, Error, ErrorKind, IndexId, Result, SqlType, Table, Value};
use atoll_ports::site::Misplaced;
use futures::{Stream, TryStreamExt as _};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

impl Txn {
    /// Looks through the rows of copies that a command adopts, and deletes those of adopted copies that it empties.
    pub(super) async fn take_adopted(
        &self,
        before: &Definitions,
        next: &Arc<Catalog>,
        command: &CatalogCommand,
    ) -> Result<()> {
        if let CatalogCommand::Truncate { tables, .. } = command {
            return self.clear_adopted(next, tables).await;
        }
        for (id, table) in &next.tables {
            let old = before.tables.get(id);
            if old.is_some_and(|old| Arc::ptr_eq(old, table)) {
                continue;
            }
            for (at, fragment) in table.fragments.iter().enumerate() {
                if old.is_some_and(|old| old.fragments.iter().any(|f| f.id == fragment.id)) {
                    continue;
                }
                for site in fragment.adopted.keys() {
                    let replica = Self::replica(table, at, *site)?;
                    let branch = self.branch_at(*site).await?;
                    // In `ReadCommitted`, look at what is committed now.
                    branch.begin_statement();
                    if let Some(some) = self.misplaced_at(&replica, &*branch, None).await? {
                        return Err(misplaced(table, at, &some));
                    }
                    self.check_unique_beside_others(table, at).await?;
                }
            }
        }
        Ok(())
    }

    async fn clear_adopted(&self, catalog: &Catalog, tables: &[String]) -> Result<()> {
        for table in tables.iter().filter_map(|name| catalog.table(name)) {
            for (at, fragment) in table.fragments.iter().enumerate() {
                for site in fragment.adopted.keys() {
                    self.branch_at(*site).await?.clear(&Self::replica(table, at, *site)?).await?;
                }
            }
        }
        Ok(())
    }

    /// Makes sure that no unique value of a fragment is in another one of its table.
    async fn check_unique_beside_others(&self, table: &Arc<Table>, at: usize) -> Result<()> {
        let key = table.primary_key.as_deref().map(|name| (None, name, &table.key));
        let indexes = table.indexes.iter().filter(|i| i.unique).map(|i| (Some(i.id), i.name.as_str(), &i.columns));
        for (index, name, columns) in key.into_iter().chain(indexes) {
            if table.confines_to_fragment(columns) {
                continue;
            }
            for other in (0..table.fragments.len()).filter(|other| *other != at) {
                if let Some(values) = self.common_value(table, index, columns, [at, other]).await? {
                    return Err(Error::new(
                        ErrorKind::UniqueViolation,
                        format!("duplicate key value violates unique constraint \"{name}\""),
                    )
                    .detail(format!(
                        "Key {} is in fragment \"{}\" already.",
                        table.describe(columns, &values),
                        table.fragments[other].name
                    ))
                    .constraint(name)
                    .table(&table.name));
                }
            }
        }
        Ok(())
    }

    /// A value of an index that two fragments have, found by reading both in its order.
    async fn common_value(
        &self,
        table: &Arc<Table>,
        index: Option<IndexId>,
        columns: &[ColumnId],
        fragments: [usize; 2],
    ) -> Result<Option<Vec<Value>>> {
        let positions: Vec<usize> = columns.iter().filter_map(|c| table.position(*c)).collect();
        // Sites need not have one order for these.
        if positions.iter().any(|p| matches!(table.columns[*p].ty, SqlType::Jsonb | SqlType::Array(_))) {
            return Err(Error::unsupported(
                "adopting rows whose unique jsonb or array values other fragments may have",
            )
            .hint("Fragment the table by these columns."));
        }
        let [a, b] = fragments;
        let mut a = Ordered::new(self.stored_columns(table, a, index, &positions).await?);
        let mut b = Ordered::new(self.stored_columns(table, b, index, &positions).await?);
        let (mut left, mut right) = (b.next().await?, None);
        if left.is_some() {
            right = a.next().await?;
        }
        while let (Some(l), Some(r)) = (&left, &right) {
            match compare_keys(l, r) {
                Ordering::Equal => return Ok(left),
                Ordering::Less => left = b.next().await?,
                Ordering::Greater => right = a.next().await?,
            }
        }
        Ok(None)
    }
}

fn misplaced(table: &Table, at: usize, some: &Misplaced) -> Error {
    let fragment = &table.fragments[at];
    let columns = |positions: &[usize]| -> Vec<ColumnId> { positions.iter().map(|p| table.columns[*p].id).collect() };
    let key = table.describe(&table.key, &some.key);
    let place = table.describe(&columns(&table.fragmentation_positions()), &some.place);
    let (rows, do_not, them) = if some.rows == 1 { ("row", "does not", "it") } else { ("rows", "do not", "them") };
    Error::new(
        ErrorKind::CheckViolation,
        format!("{} {rows} of the adopted table {do_not} belong to fragment \"{}\"", some.rows, fragment.name),
    )
    .detail(format!("One has the key {key}, and {place}."))
    .hint(format!("Move {them} at the site, or declare other bounds."))
    .table(&table.name)
}

/// Values in order, one after the other; those that are unique because of a NULL are left out.
struct Ordered<S> {
    chunks: S,
    waiting: VecDeque<Vec<Value>>,
}

impl<S: Stream<Item = Result<Vec<Vec<Value>>>> + Unpin> Ordered<S> {
    fn new(chunks: S) -> Self {
        Ordered { chunks, waiting: VecDeque::new() }
    }

    async fn next(&mut self) -> Result<Option<Vec<Value>>> {
        loop {
            while let Some(values) = self.waiting.pop_front() {
                if !values.iter().any(Value::is_null) {
                    return Ok(Some(values));
                }
            }
            match self.chunks.try_next().await? {
                Some(chunk) => self.waiting = chunk.into(),
                None => return Ok(None),
            }
        }
    }
}
