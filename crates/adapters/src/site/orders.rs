//! The orders of a table, its key's and its indexes', as positions of columns; and the numbers under which values of them are locked.

use atoll_model::{ColumnId, Error, ErrorKind, IndexId, Result, Table, Value, hash_values};

/// Positions of the columns of an order: the key's, or an index's.
pub(super) fn positions(table: &Table, index: Option<IndexId>) -> Result<Vec<usize>> {
    let Some(id) = index else { return Ok(table.key_positions()) };
    let found = table.index(id).ok_or_else(|| {
        Error::new(ErrorKind::SerializationFailure, format!("table \"{}\" has no index {id}", table.name))
    })?;
    of_columns(table, &found.columns)
}

fn of_columns(table: &Table, columns: &[ColumnId]) -> Result<Vec<usize>> {
    let lost = || Error::internal(format!("table \"{}\" has lost a column of an index", table.name));
    columns.iter().map(|id| table.position(*id).ok_or_else(lost)).collect()
}

/// Positions of the columns of every order in which values must not come twice, with the order.
pub(super) fn unique(table: &Table) -> Result<Vec<(Option<IndexId>, Vec<usize>)>> {
    // Hidden keys are handed out once and for all.
    let key = (!table.has_hidden_key()).then(|| (None, table.key_positions()));
    let indexes = table.indexes.iter().filter(|i| i.unique);
    let indexes: Result<Vec<_>> = indexes.map(|i| Ok((Some(i.id), of_columns(table, &i.columns)?))).collect();
    Ok(key.into_iter().chain(indexes?).collect())
}

/// Positions of all columns that are part of a unique order or of the key.
pub(super) fn unique_positions(table: &Table) -> Result<Vec<usize>> {
    let mut positions: Vec<usize> =
        unique(table)?.into_iter().flat_map(|(_, order)| order).chain(table.key_positions()).collect();
    positions.sort_unstable();
    positions.dedup();
    Ok(positions)
}

/// Whether a copy's own index decides alone about the values of an order.
pub(super) fn is_confined(table: &Table, index: Option<IndexId>) -> bool {
    let columns = match index.and_then(|id| table.index(id)) {
        Some(index) => &index.columns,
        None => &table.key,
    };
    table.confines_to_fragment(columns)
}

/// The number by which a value of an order is locked; that of no values stands for the order as a whole.
pub(super) fn lock_number(table: &Table, index: Option<IndexId>, values: &[Value]) -> u64 {
    let order = [Value::Int8(i64::from(table.id.0)), Value::Int8(index.map_or(0, |IndexId(id)| i64::from(id)))];
    hash_values(&order.iter().chain(values).collect::<Vec<_>>())
}

/// Positions of the columns of every order.
pub(super) fn all(table: &Table) -> Result<Vec<Vec<usize>>> {
    let indexes = table.indexes.iter().map(|index| of_columns(table, &index.columns));
    std::iter::once(Ok(table.key_positions())).chain(indexes).collect()
}
