//! Writing rows and keeping their index entries and unique values.
//!
//! Locks: who inserts a row locks its key; who inserts *or removes* a unique value locks the value. So an insert waits for the
//! transaction that is removing the value, as in PostgreSQL, and "exists" is decided by committed data alone. The locks on a row to be
//! updated or deleted are the caller's ([`TableCodec::lock_rows`]).

use super::codec::{IndexCodec, TableCodec};
use super::key::describe;
use super::row::corrupt;
use crate::kv::{LockMode, LockWait, Space, Txn};
use atoll_model::{Error, ErrorKind, Result, Row, Value};
use std::ops::Bound;
use std::sync::Arc;

/// Bytes of fragment and index in front of a stored key; locks are taken on what follows.
const PREFIX: usize = 6;

/// A change of one row.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A new row.
    Insert(Row),
    /// A row in the place of another.
    Update {
        /// The row as it is.
        old: Row,
        /// The row as it shall be.
        new: Row,
    },
    /// No more row.
    Delete(Row),
}

/// What locking a row found.
#[derive(Clone, Debug, PartialEq)]
pub struct Locked {
    /// False: another transaction holds it and waiting was not wanted.
    pub locked: bool,
    /// The newest row.
    pub row: Option<Row>,
    /// Whether it differs from the snapshot's.
    pub changed: bool,
}

/// A row on its way into the store.
struct Incoming<'a> {
    row: &'a Row,
    key: Vec<u8>,
    /// The row in whose place it comes.
    old: Option<&'a Row>,
    /// Whether the key is new, and so may be taken.
    new_key: bool,
}

impl TableCodec {
    /// Locks rows by key and reads what they are now.
    ///
    /// # Errors
    /// `LockTimeout`, `Deadlock`, `SerializationFailure`; `DataCorrupted`, `Io`.
    pub async fn lock_rows(
        &self,
        txn: &Txn,
        space: &Space,
        fragment: u32,
        keys: &[Vec<Value>],
        mode: LockMode,
        wait: LockWait,
    ) -> Result<Vec<Locked>> {
        let mut found = Vec::with_capacity(keys.len());
        for values in keys {
            let key = self.row_key(fragment, values)?;
            if !txn.lock(self.locks(0), &key[PREFIX..], mode, wait).await? {
                found.push(Locked { locked: false, row: None, changed: false });
                continue;
            }
            let changed = !txn.wrote(space, &key) && txn.changed(space, &key)?;
            let row = txn.latest(space, &key)?.map(|stored| self.decode(stored.payload())).transpose()?;
            found.push(Locked { locked: true, row, changed });
        }
        Ok(found)
    }

    /// The newest row with these values in a unique index (0: the table's key), the values being locked.
    ///
    /// # Errors
    /// As [`TableCodec::lock_rows`].
    pub async fn find_unique(
        &self,
        txn: &Txn,
        space: &Space,
        fragment: u32,
        index: u16,
        values: &[Value],
        mode: LockMode,
        wait: LockWait,
    ) -> Result<Option<Row>> {
        let row_key = if index == 0 {
            if values.iter().any(Value::is_null) {
                return Ok(None);
            }
            let key = self.row_key(fragment, values)?;
            self.take(txn, 0, &key, mode, wait).await?;
            key
        } else {
            let codec = self.index(index)?;
            let Some(key) = self.unique_entry(codec, fragment, values)? else { return Ok(None) };
            self.take(txn, index, &key, mode, wait).await?;
            match txn.latest(space, &key)? {
                None => return Ok(None),
                Some(entry) => self.row_of_entry(fragment, &key, entry.payload())?,
            }
        };
        match txn.latest(space, &row_key)? {
            Some(stored) => Ok(Some(self.decode(stored.payload())?)),
            None if index == 0 => Ok(None),
            None => Err(self.named(corrupt("index entry without row"))),
        }
    }

    /// Locks a stored key of an order of the table; with [`LockWait::Never`], a lock that is held is an error.
    async fn take(&self, txn: &Txn, index: u16, key: &[u8], mode: LockMode, wait: LockWait) -> Result<()> {
        if txn.lock(self.locks(index), &key[PREFIX..], mode, wait).await? {
            return Ok(());
        }
        Err(self.not_available())
    }

    /// The error of a lock that was not to be waited for (`NOWAIT`).
    pub fn not_available(&self) -> Error {
        Error::new(ErrorKind::LockTimeout, format!("could not obtain lock on row in relation \"{}\"", self.table.name))
    }

    /// Applies changes in order: first all old rows and entries go, then the new ones are checked and come.
    ///
    /// # Errors
    /// `UniqueViolation`; `LockTimeout`, `Deadlock`; `OutOfMemory`.
    pub async fn apply(
        &self,
        txn: &Txn,
        space: &Arc<Space>,
        fragment: u32,
        changes: &[Change],
        wait: LockWait,
    ) -> Result<()> {
        let mut incoming = Vec::with_capacity(changes.len());
        let (mut rows, mut bytes) = (0, 0);
        for change in changes {
            match change {
                Change::Insert(row) => {
                    let key = self.key_of(fragment, row)?;
                    incoming.push(Incoming { row, key, old: None, new_key: true });
                    rows += 1;
                }
                Change::Update { old, new } => {
                    let (from, to) = (self.key_of(fragment, old)?, self.key_of(fragment, new)?);
                    let new_key = from != to;
                    for index in &self.indexes {
                        if new_key || differs(index, old, new) {
                            self.remove_entry(txn, space, fragment, index, old, &from, wait).await?;
                        }
                    }
                    if new_key {
                        txn.delete(space, &from)?;
                    }
                    incoming.push(Incoming { row: new, key: to, old: Some(old), new_key });
                }
                Change::Delete(row) => {
                    let key = self.key_of(fragment, row)?;
                    for index in &self.indexes {
                        self.remove_entry(txn, space, fragment, index, row, &key, wait).await?;
                    }
                    txn.delete(space, &key)?;
                    rows -= 1;
                    bytes -= self.encode(row)?.len() as i64;
                }
            }
        }
        for Incoming { row, key, old, new_key } in incoming {
            // Hidden keys are handed out once and for all, so nobody else can have one.
            if new_key && !self.table.has_hidden_key() {
                self.take(txn, 0, &key, LockMode::Exclusive, wait).await?;
                if txn.latest(space, &key)?.is_some() {
                    return Err(self.duplicate(None, row));
                }
            }
            let payload = self.encode(row)?;
            if old.is_none() {
                bytes += payload.len() as i64;
            }
            txn.put(space, &key, &payload)?;
            for index in &self.indexes {
                if new_key || old.is_none_or(|old| differs(index, old, row)) {
                    self.add_entry(txn, space, fragment, index, row, &key, wait).await?;
                }
            }
        }
        txn.count(space, fragment, rows, bytes);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    async fn remove_entry(
        &self,
        txn: &Txn,
        space: &Arc<Space>,
        fragment: u32,
        index: &IndexCodec,
        row: &[Value],
        row_key: &[u8],
        wait: LockWait,
    ) -> Result<()> {
        let entry = self.entry(index, fragment, row, row_key)?;
        if let Some(values) = &entry.exclusive {
            txn.lock(self.locks(index.id), values, LockMode::Exclusive, wait).await?;
        }
        txn.delete(space, &entry.key)
    }

    #[allow(clippy::too_many_arguments)]
    async fn add_entry(
        &self,
        txn: &Txn,
        space: &Arc<Space>,
        fragment: u32,
        index: &IndexCodec,
        row: &[Value],
        row_key: &[u8],
        wait: LockWait,
    ) -> Result<()> {
        let entry = self.entry(index, fragment, row, row_key)?;
        if entry.exclusive.is_some() {
            self.take(txn, index.id, &entry.key, LockMode::Exclusive, wait).await?;
            if txn.latest(space, &entry.key)?.is_some() {
                return Err(self.duplicate(Some(index), row));
            }
        }
        txn.put(space, &entry.key, &entry.payload)
    }

    /// Writes the entries of an index for all rows of a fragment. The caller has locked the table against writers.
    ///
    /// # Errors
    /// `UniqueViolation`; `OutOfMemory` when the entries exceed what a transaction may write.
    pub fn build_index(&self, txn: &Txn, space: &Arc<Space>, fragment: u32, index: u16) -> Result<()> {
        let index = self.index(index)?;
        let (lower, upper) = self.range(fragment, 0, &Bound::Unbounded, &Bound::Unbounded)?;
        let bounds = (lower.as_ref().map(|b| b.as_ref()), upper.as_ref().map(|b| b.as_ref()));
        // The newest rows, not the snapshot's: the index must serve whoever comes next.
        for stored in txn.newest_view(space).scan(bounds.0, bounds.1, false) {
            let (key, stored) = stored?;
            let row = self.decode(stored.payload())?;
            let entry = self.entry(index, fragment, &row, &key)?;
            if entry.exclusive.is_some() && txn.wrote(space, &entry.key) {
                let columns = index.columns.iter().map(|(at, ty)| (self.table.columns[*at].name.as_str(), ty, &row[*at]));
                return Err(Error::new(
                    ErrorKind::UniqueViolation,
                    format!("could not create unique index \"{}\"", index.name),
                )
                .detail(format!("Key {} is duplicated.", describe(columns)))
                .constraint(&index.name)
                .table(&self.table.name));
            }
            txn.put(space, &entry.key, &entry.payload)?;
        }
        Ok(())
    }
}

/// Whether an index has another entry for a row than for the one before it.
fn differs(index: &IndexCodec, old: &[Value], new: &[Value]) -> bool {
    index.columns.iter().any(|(at, _)| old.get(*at) != new.get(*at))
}
