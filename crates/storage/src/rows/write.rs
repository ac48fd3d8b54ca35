//! Writing rows and keeping their index entries and unique values.
//!
//! Locks: who inserts a row locks its key; who inserts *or removes* a unique value locks the value. So an insert waits for the
//! transaction that is removing the value, as in PostgreSQL, and "exists" is decided by committed data alone. The locks on a row to be
//! updated or deleted are the caller's ([`TableCodec::lock_rows`]).

use super::codec::{Entry, IndexCodec, TableCodec};
use super::key::describe;
use super::row::{RowEncoder, corrupt};
use crate::kv::{Isolation, LockMode, LockWait, Space, Txn};
use atoll_model::{Error, ErrorKind, Result, Row, Value};
use std::ops::Bound;
use std::sync::Arc;

/// Bytes of fragment and index in front of a stored key; locks are taken on what follows.
const PREFIX: usize = 6;

/// New keys in one call from which they are looked up with one scan rather than one by one.
const MANY: usize = 32;

/// One copy of a fragment, as seen by a transaction.
#[derive(Clone, Copy)]
pub struct At<'a> {
    /// The transaction.
    pub txn: &'a Txn,
    /// The site's key space.
    pub space: &'a Arc<Space>,
    /// The fragment.
    pub fragment: u32,
    /// How long to wait for locks.
    pub wait: LockWait,
}

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
    pub async fn lock_rows(&self, at: At<'_>, keys: &[Vec<Value>], mode: LockMode) -> Result<Vec<Locked>> {
        let At { txn, space, fragment, wait } = at;
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
    pub async fn find_unique(&self, at: At<'_>, index: u16, values: &[Value], mode: LockMode) -> Result<Option<Row>> {
        let At { txn, space, fragment, .. } = at;
        let row_key = if index == 0 {
            if values.iter().any(Value::is_null) {
                return Ok(None);
            }
            let key = self.row_key(fragment, values)?;
            self.take(at, 0, &key, mode).await?;
            key
        } else {
            let codec = self.index(index)?;
            let Some(key) = self.unique_entry(codec, fragment, values)? else { return Ok(None) };
            self.take(at, index, &key, mode).await?;
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
    async fn take(&self, at: At<'_>, index: u16, key: &[u8], mode: LockMode) -> Result<()> {
        if at.txn.lock(self.locks(index), &key[PREFIX..], mode, at.wait).await? {
            return Ok(());
        }
        Err(self.not_available())
    }

    /// The error of a lock that was not to be waited for (`NOWAIT`).
    pub fn not_available(&self) -> Error {
        let table = &self.table.name;
        Error::new(ErrorKind::LockTimeout, format!("could not obtain lock on row in relation \"{table}\""))
    }

    /// Applies changes: first all old rows and entries go, then the new ones are checked and come.
    ///
    /// # Errors
    /// `UniqueViolation`; `LockTimeout`, `Deadlock`; `OutOfMemory`.
    pub async fn apply(&self, at: At<'_>, changes: &[Change]) -> Result<()> {
        let At { txn, space, fragment, .. } = at;
        let mut encoder = RowEncoder::default();
        let mut payload = Vec::with_capacity(128);
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
                    for index in self.indexes.iter().filter(|index| new_key || differs(index, old, new)) {
                        self.remove_entry(at, index, old, &from).await?;
                    }
                    if new_key {
                        txn.delete(space, &from)?;
                    }
                    incoming.push(Incoming { row: new, key: to, old: Some(old), new_key });
                }
                Change::Delete(row) => {
                    let key = self.key_of(fragment, row)?;
                    for index in &self.indexes {
                        self.remove_entry(at, index, row, &key).await?;
                    }
                    txn.delete(space, &key)?;
                    payload.clear();
                    encoder.encode(&self.slots, row, &mut payload)?;
                    rows -= 1;
                    bytes -= payload.len() as i64;
                }
            }
        }
        // Hidden keys are handed out once and for all, so nobody else can have one.
        if !self.table.has_hidden_key() {
            let claims: Vec<_> = incoming.iter().filter(|i| i.new_key).map(|i| (i.key.as_slice(), i.row)).collect();
            self.claim(at, None, &claims).await?;
        }
        {
            let mut writer = txn.writer(space)?;
            for Incoming { row, key, old, new_key } in &incoming {
                payload.clear();
                encoder.encode(&self.slots, row, &mut payload)?;
                if *new_key {
                    writer.put_new(key, &payload)?;
                } else {
                    writer.put(key, &payload)?;
                }
                if old.is_none() {
                    bytes += payload.len() as i64;
                }
            }
        }
        for index in &self.indexes {
            let mut entries = Vec::with_capacity(incoming.len());
            for Incoming { row, key, old, new_key } in &incoming {
                if *new_key || old.is_none_or(|old| differs(index, old, row)) {
                    entries.push((self.entry(index, fragment, row, key)?, *row));
                }
            }
            self.add_entries(at, index, &entries).await?;
        }
        txn.count(space, fragment, rows, bytes);
        Ok(())
    }

    async fn remove_entry(&self, at: At<'_>, index: &IndexCodec, row: &[Value], row_key: &[u8]) -> Result<()> {
        let entry = self.entry(index, at.fragment, row, row_key)?;
        if entry.exclusive {
            self.take(at, index.id, &entry.key, LockMode::Exclusive).await?;
        }
        at.txn.delete(at.space, &entry.key)
    }

    async fn add_entries(&self, at: At<'_>, index: &IndexCodec, entries: &[(Entry, &Row)]) -> Result<()> {
        if index.unique {
            let claims: Vec<_> =
                entries.iter().filter(|(e, _)| e.exclusive).map(|(e, row)| (e.key.as_slice(), *row)).collect();
            self.claim(at, Some(index), &claims).await?;
        }
        // Entries with the row's key in theirs are as new as the row, or were removed above.
        let mut writer = at.txn.writer(at.space)?;
        entries.iter().try_for_each(|(entry, _)| writer.put_new(&entry.key, &entry.payload))
    }

    /// Locks new keys of rows or unique entries and makes sure that nobody has them.
    async fn claim(&self, at: At<'_>, index: Option<&IndexCodec>, claims: &[(&[u8], &Row)]) -> Result<()> {
        let order = index.map_or(0, |index| index.id);
        let mut sorted: Vec<usize> = (0..claims.len()).collect();
        if !claims.is_sorted_by(|a, b| a.0 < b.0) {
            sorted.sort_unstable_by_key(|i| claims[*i].0);
            if let Some(pair) = sorted.windows(2).find(|pair| claims[pair[0]].0 == claims[pair[1]].0) {
                return Err(self.duplicate(index, claims[pair[1]].1));
            }
        }
        if sorted.len() >= MANY {
            let keys: Vec<&[u8]> = sorted.iter().map(|i| &claims[*i].0[PREFIX..]).collect();
            if !at.txn.lock_run(self.locks(order), &keys, at.wait).await? {
                return Err(self.not_available());
            }
        } else {
            for i in &sorted {
                self.take(at, order, claims[*i].0, LockMode::Exclusive).await?;
            }
        }
        match taken(at, claims, &sorted)? {
            Some(i) => Err(self.duplicate(index, claims[i].1)),
            None => Ok(()),
        }
    }

    /// Writes the entries of an index for all rows of a fragment. The caller has locked the table against writers.
    ///
    /// # Errors
    /// `UniqueViolation`; `OutOfMemory` when the entries exceed what a transaction may write.
    pub fn build_index(&self, at: At<'_>, index: u16) -> Result<()> {
        let At { txn, space, fragment, .. } = at;
        let index = self.index(index)?;
        let (lower, upper) = self.range(fragment, 0, &Bound::Unbounded, &Bound::Unbounded)?;
        let bounds = (lower.as_ref().map(|b| b.as_ref()), upper.as_ref().map(|b| b.as_ref()));
        // The newest rows, not the snapshot's: the index must serve whoever comes next.
        for stored in txn.newest_view(space).scan(bounds.0, bounds.1, false) {
            let (key, stored) = stored?;
            let row = self.decode(stored.payload())?;
            let entry = self.entry(index, fragment, &row, &key)?;
            if entry.exclusive && txn.wrote(space, &entry.key) {
                let columns =
                    index.columns.iter().map(|(at, ty)| (self.table.columns[*at].name.as_str(), ty, &row[*at]));
                return Err(Error::new(
                    ErrorKind::UniqueViolation,
                    format!("could not create unique index \"{}\"", index.name),
                )
                .detail(format!("Key {} is duplicated.", describe(columns)))
                .constraint(&index.name)
                .table(&self.table.name));
            }
            txn.put_new(space, &entry.key, &entry.payload)?;
        }
        Ok(())
    }
}

/// Which of the claimed keys, if any, a row has already. `sorted` is their ascending order.
fn taken(at: At<'_>, claims: &[(&[u8], &Row)], sorted: &[usize]) -> Result<Option<usize>> {
    let mut left = sorted;
    // What a serializable transaction reads must be recorded, key by key.
    if let [first, .., last] = sorted
        && sorted.len() >= MANY
        && at.txn.options().isolation != Isolation::Serializable
    {
        // New keys often lie beyond those that are there (loads in key order): then few entries lie between the first and the last, and
        // reading those is cheaper than as many point reads. Where there are many, it is given up early.
        let mut budget = sorted.len() / 2;
        let view = at.txn.newest_view(at.space);
        let mut done = true;
        for entry in view.scan(Bound::Included(claims[*first].0), Bound::Included(claims[*last].0), false) {
            let (key, _) = entry?;
            while let [next, rest @ ..] = left
                && claims[*next].0 < key.as_ref()
            {
                left = rest;
            }
            if left.first().is_some_and(|next| claims[*next].0 == key.as_ref()) {
                return Ok(left.first().copied());
            }
            if budget == 0 {
                done = false;
                break;
            }
            budget -= 1;
        }
        if done {
            return Ok(None);
        }
    }
    for i in left {
        if at.txn.latest(at.space, claims[*i].0)?.is_some() {
            return Ok(Some(*i));
        }
    }
    Ok(None)
}

/// Whether an index has another entry for a row than for the one before it.
fn differs(index: &IndexCodec, old: &[Value], new: &[Value]) -> bool {
    index.columns.iter().any(|(at, _)| old.get(*at) != new.get(*at))
}
