//! How one table's rows, keys and index entries are laid out: computed once per version of its definition.
//!
//! An index entry's key is the indexed values, each with a mark for NULL. Where the index is unique and no value is NULL the entry's
//! payload names the row (`FF FF` and its key); otherwise the row's key is appended to the entry's key, which keeps entries apart,
//! and the payload says where it begins (`u16`). The writer of an entry holds the exclusive lock on its unique values.

use super::key::{byte_range, describe, encode_value, key_prefix};
use super::row::{RowReader, corrupt};
use atoll_model::{ColumnId, Error, ErrorKind, Index, Result, Row, SqlType, Table, Value};
use fjall::Slice;
use std::ops::Bound;
use std::sync::Arc;

/// Payload of an entry that names its row itself.
const NAMED: [u8; 2] = [0xff; 2];

/// A table's layout.
pub struct TableCodec {
    pub(crate) table: Arc<Table>,
    /// Slot and type of each live column.
    pub(crate) slots: Vec<(u16, SqlType)>,
    /// Position and type of each column of the key.
    pub(crate) key: Vec<(usize, SqlType)>,
    pub(crate) indexes: Vec<IndexCodec>,
}

pub(crate) struct IndexCodec {
    pub(crate) id: u16,
    pub(crate) name: String,
    pub(crate) unique: bool,
    pub(crate) columns: Vec<(usize, SqlType)>,
}

/// An entry to be written.
pub(crate) struct Entry {
    pub(crate) key: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// Whether no other row may have these values: then the key is the values alone.
    pub(crate) exclusive: bool,
}

impl TableCodec {
    /// The layout of a table.
    ///
    /// # Errors
    /// `Internal` when the definition refers to columns that it does not have.
    pub fn new(table: Arc<Table>) -> Result<Self> {
        let column = |id: &ColumnId| -> Result<(usize, SqlType)> {
            let at = table
                .position(*id)
                .ok_or_else(|| Error::internal(format!("table {} has no column {id}", table.name)))?;
            Ok((at, table.columns[at].ty.clone()))
        };
        let index = |index: &Index| -> Result<IndexCodec> {
            Ok(IndexCodec {
                id: index.id.0,
                name: index.name.clone(),
                unique: index.unique,
                columns: index.columns.iter().map(column).collect::<Result<_>>()?,
            })
        };
        Ok(TableCodec {
            slots: table.columns.iter().map(|c| (c.id.0, c.ty.clone())).collect(),
            key: table.key.iter().map(column).collect::<Result<_>>()?,
            indexes: table.indexes.iter().map(index).collect::<Result<_>>()?,
            table,
        })
    }

    /// The table as it was when the layout was computed.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    pub(crate) fn index(&self, id: u16) -> Result<&IndexCodec> {
        self.indexes
            .iter()
            .find(|index| index.id == id)
            .ok_or_else(|| Error::internal(format!("table {} has no index {id}", self.table.name)))
    }

    /// The numbering of the locks on keys of an order (0: rows) of the table: the same in all fragments and at all sites.
    pub(crate) fn locks(&self, index: u16) -> u64 {
        u64::from(self.table.id.0) << 16 | u64::from(index)
    }

    /// The stored key of the row with these key values. What follows the prefix of 6 bytes is what locks are taken on.
    pub(crate) fn row_key(&self, fragment: u32, values: &[Value]) -> Result<Vec<u8>> {
        if values.len() != self.key.len() {
            return Err(Error::internal(format!("{} values for a key of {}", values.len(), self.key.len())));
        }
        let mut key = key_prefix(fragment, 0);
        for ((_, ty), value) in self.key.iter().zip(values) {
            encode_value(ty, value, false, &mut key)?;
        }
        Ok(key)
    }

    /// The stored key of a row.
    pub(crate) fn key_of(&self, fragment: u32, row: &[Value]) -> Result<Vec<u8>> {
        self.check(row)?;
        let mut key = key_prefix(fragment, 0);
        for (at, ty) in &self.key {
            encode_value(ty, &row[*at], false, &mut key)?;
        }
        Ok(key)
    }

    fn check(&self, row: &[Value]) -> Result<()> {
        if row.len() == self.slots.len() {
            return Ok(());
        }
        Err(Error::internal(format!(
            "a row of {} values for table {} of {} columns",
            row.len(),
            self.table.name,
            self.slots.len()
        )))
    }

    /// The row in a stored form.
    ///
    /// # Errors
    /// `DataCorrupted`, naming the table.
    pub fn decode(&self, payload: &[u8]) -> Result<Row> {
        let decode = || -> Result<Row> {
            let reader = RowReader::new(payload)?;
            let columns = self.slots.iter().zip(&self.table.columns);
            columns.map(|((slot, ty), column)| reader.value(*slot, ty, &column.missing)).collect()
        };
        decode().map_err(|e| self.named(e))
    }

    /// Adds the table's name to an error of decoding.
    pub(crate) fn named(&self, error: Error) -> Error {
        Error::new(error.kind(), format!("table {}: {}", self.table.name, error.message())).table(&self.table.name)
    }

    /// The entry of a row whose stored key is `row_key`.
    pub(crate) fn entry(&self, index: &IndexCodec, fragment: u32, row: &[Value], row_key: &[u8]) -> Result<Entry> {
        self.check(row)?;
        let mut key = key_prefix(fragment, index.id);
        let prefix = key.len();
        let mut null = false;
        for (at, ty) in &index.columns {
            null |= row[*at].is_null();
            encode_value(ty, &row[*at], true, &mut key)?;
        }
        // The fragment and index in front of the row's key are known from the entry's.
        let row_key = &row_key[prefix..];
        if index.unique && !null {
            return Ok(Entry { key, payload: [&NAMED, row_key].concat(), exclusive: true });
        }
        let at =
            u16::try_from(key.len()).ok().filter(|at| at.to_le_bytes() != NAMED).ok_or_else(|| self.too_long(index))?;
        key.extend_from_slice(row_key);
        Ok(Entry { key, payload: at.to_le_bytes().to_vec(), exclusive: false })
    }

    fn too_long(&self, index: &IndexCodec) -> Error {
        Error::new(ErrorKind::ProgramLimit, format!("values are too long for index {:?}", index.name))
            .table(&self.table.name)
    }

    /// The stored key of the row that an entry leads to.
    pub(crate) fn row_of_entry(&self, fragment: u32, key: &[u8], payload: &[u8]) -> Result<Vec<u8>> {
        let damaged = || self.named(corrupt("index entry"));
        let (head, named) = payload.split_at_checked(2).ok_or_else(damaged)?;
        let tail = if head == NAMED {
            named
        } else {
            key.get(usize::from(u16::from_le_bytes([head[0], head[1]]))..).ok_or_else(damaged)?
        };
        let mut row_key = key_prefix(fragment, 0);
        row_key.extend_from_slice(tail);
        Ok(row_key)
    }

    /// The encoded values and the stored key of a unique index's entry; `None` when a value is NULL, which equals nothing.
    pub(crate) fn unique_entry(&self, index: &IndexCodec, fragment: u32, values: &[Value]) -> Result<Option<Vec<u8>>> {
        if values.len() != index.columns.len() {
            return Err(Error::internal(format!("{} values for index {:?}", values.len(), index.name)));
        }
        if values.iter().any(Value::is_null) {
            return Ok(None);
        }
        let mut key = key_prefix(fragment, index.id);
        for ((_, ty), value) in index.columns.iter().zip(values) {
            encode_value(ty, value, true, &mut key)?;
        }
        Ok(Some(key))
    }

    /// The bytes of a range of an order (0: rows).
    pub(crate) fn range(
        &self,
        fragment: u32,
        index: u16,
        lower: &Bound<Vec<Value>>,
        upper: &Bound<Vec<Value>>,
    ) -> Result<(Bound<Slice>, Bound<Slice>)> {
        let types = if index == 0 { &self.key } else { &self.index(index)?.columns };
        let (from, to) = byte_range(&key_prefix(fragment, index), types, index != 0, lower, upper)?;
        Ok((Bound::Included(Slice::from(from)), to.map_or(Bound::Unbounded, |to| Bound::Excluded(Slice::from(to)))))
    }

    /// The error of a second row with the same values.
    pub(crate) fn duplicate(&self, index: Option<&IndexCodec>, row: &[Value]) -> Error {
        let (name, columns) = match index {
            Some(index) => (index.name.as_str(), &index.columns),
            None => (self.table.primary_key.as_deref().unwrap_or("row id"), &self.key),
        };
        let columns = columns.iter().map(|(at, ty)| (self.table.columns[*at].name.as_str(), ty, &row[*at]));
        Error::new(ErrorKind::UniqueViolation, format!("duplicate key value violates unique constraint \"{name}\""))
            .detail(format!("Key {} already exists.", describe(columns)))
            .constraint(name)
            .table(&self.table.name)
    }
}
