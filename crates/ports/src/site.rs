//! The port to the places where rows live.
//!
//! A [`Site`] is one place; sites that share a journal (all embedded sites of one process) form one *participant* of a transaction,
//! and a [`Branch`] is a transaction's part at one participant, so a transaction over several sites of a process commits with
//! one durable write. Contract of every implementation (checked by a conformance suite in `adapters`):
//!
//! * A branch reads one snapshot plus its own writes. In `ReadCommitted`, [`Branch::begin_statement`] takes a new snapshot; once such a
//!   branch has locked or written, an engine that has no snapshot per statement may take one per call instead.
//! * A commit is durable before [`Branch::commit`] returns, unless the branch was begun with `synchronous_commit` off; nobody
//!   sees a commit that a crash could still undo.
//! * An update or delete needs the row's exclusive lock, taken through [`Branch::lock`]; an insert takes its locks itself.
//! * After a call that locks or writes has failed, a branch is good for nothing but [`Branch::rollback_to`] a savepoint taken before, or
//!   [`Branch::rollback`]. Never is a part of a failed call committed: [`Branch::commit`] and [`Branch::prepare`] then roll back and fail
//!   with `InFailedTransaction`, unless the call had done nothing.
//! * Dropping a branch rolls it back, without blocking.
//! * A prepared branch survives crashes of both sides, with its locks, until [`Site::finish`].
//! * A site that cannot be reached answers `SiteUnavailable` at once, and goes on working when it is back; nobody has to be told.

use crate::digest::{self, Digest};
use crate::query::{SiteExpr, SiteQuery};
use crate::session::BatchStream;
use async_trait::async_trait;
use atoll_model::{
    Error, FragmentId, IndexId, NewSequence, Result, Row, SiteEngine, SiteId, SqlType, Table, Timestamp, Value,
};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

pub use atoll_model::ParticipantId;

/// The name under which a participant keeps a prepared branch, until it is told how the transaction has ended.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PreparedName(String);

impl PreparedName {
    /// What every name begins with, so that a site tells Atoll's prepared transactions from those of others.
    pub const PREFIX: &'static str = "atoll_";

    /// Bytes of a name at most: what PostgreSQL takes.
    pub const MAX_LENGTH: usize = 199;

    /// A name: the prefix and letters, digits or any of `_.:-`. It stands in statements, so nothing else may be in it.
    ///
    /// # Errors
    /// `Internal` for any other text.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.:-".contains(&b);
        let sound = name.starts_with(Self::PREFIX) && name.len() <= Self::MAX_LENGTH && name.bytes().all(fits);
        if sound { Ok(PreparedName(name)) } else { Err(Error::internal(format!("no name of a transaction: {name:?}"))) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PreparedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One place where rows live.
#[async_trait]
pub trait Site: Send + Sync + fmt::Debug {
    /// Its id in the catalog.
    fn id(&self) -> SiteId;

    /// Its engine.
    fn engine(&self) -> SiteEngine;

    /// The participant that it belongs to.
    fn participant(&self) -> ParticipantId;

    /// Whether it is known that it cannot be reached now.
    fn is_down(&self) -> bool {
        false
    }

    /// Begins a branch, which serves every site of the participant.
    ///
    /// # Errors
    /// `SiteUnavailable`.
    async fn begin(&self, options: BranchOptions) -> Result<Arc<dyn Branch>>;

    /// The committed row with this key, as a transaction that does nothing else sees it. Of columns other than those `wanted` (positions
    /// in the table) it may show NULL.
    ///
    /// # Errors
    /// Those of [`Branch::get`].
    async fn read(&self, at: &Replica, key: &[Value], _wanted: &[usize]) -> Result<Option<Row>> {
        let options = BranchOptions { read_only: true, ..BranchOptions::default() };
        self.begin(options).await?.get(at, key).await
    }

    /// Approximate size of a fragment's copy here, for the optimizer and the views.
    fn statistics(&self, fragment: FragmentId) -> FragmentStatistics;

    /// Removes a fragment's rows and index entries for good. Called when no transaction can need them any more; may take long,
    /// is idempotent, and is called again after a crash.
    ///
    /// # Errors
    /// `Io`.
    async fn purge(&self, fragment: FragmentId) -> Result<()>;

    /// The statement that a query is here, in the site's dialect.
    ///
    /// # Errors
    /// `NotSupported` with the reason: the site cannot run it, or would not answer as the engine does.
    fn statement(&self, query: &SiteQuery) -> Result<String> {
        let _ = query;
        Err(Error::unsupported("a site that only scans"))
    }

    /// Whether its branches have [`Branch::update_row`].
    fn updates_rows(&self) -> bool {
        false
    }

    /// The tables of one of the site's own schemas.
    ///
    /// # Errors
    /// `NotSupported` by an engine without any; `InvalidSchema`; `SiteUnavailable`.
    async fn tables(&self, schema: &str) -> Result<Vec<SiteTable>> {
        Err(Error::unsupported(format!(
            "tables of schema \"{schema}\" of a site of the engine {}",
            self.engine().name()
        )))
    }

    /// The prepared branches at this site's participant, prepared by whichever coordinator.
    ///
    /// # Errors
    /// `SiteUnavailable`.
    async fn in_doubt(&self) -> Result<Vec<PreparedName>>;

    /// As [`Site::in_doubt`], with what the engine knows of each.
    ///
    /// # Errors
    /// `SiteUnavailable`.
    async fn prepared(&self) -> Result<Vec<PreparedBranch>> {
        let names = self.in_doubt().await?;
        Ok(names.into_iter().map(|name| PreparedBranch { name, since: None }).collect())
    }

    /// Ends a prepared branch, durably. From then on every snapshot shows what it has committed.
    ///
    /// # Errors
    /// Whether it was ended is not known after any of them: ask again.
    async fn finish(&self, name: &PreparedName, commit: bool) -> Result<Finished>;
}

/// A branch that is prepared at a site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreparedBranch {
    /// Its name.
    pub name: PreparedName,
    /// When it was prepared, in microseconds since 1970, where the engine tells.
    pub since: Option<i64>,
}

/// A table of a site's own, as its catalog describes it.
#[derive(Clone, Debug)]
pub struct SiteTable {
    /// Its name within its schema.
    pub name: String,
    /// Its columns, in order.
    pub columns: Vec<SiteColumn>,
    /// The columns of its primary key.
    pub key: Option<Vec<String>>,
    /// The columns of its other unique indexes over whole columns and all rows.
    pub unique: Vec<Vec<String>>,
}

/// A column of a [`SiteTable`].
#[derive(Clone, Debug)]
pub struct SiteColumn {
    /// Its name.
    pub name: String,
    /// Its type, if Atoll carries its values.
    pub ty: Option<SqlType>,
    /// Its type, as the site calls it.
    pub declared: String,
    /// NOT NULL.
    pub not_null: bool,
    /// Its default, in the site's SQL.
    pub default: Option<String>,
    /// The sequence that its values come from, with `start` at the next one; it has no name.
    pub sequence: Option<NewSequence>,
    /// Why Atoll cannot write or compare its values.
    pub problem: Option<&'static str>,
}

/// What became of the wish to end a prepared branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finished {
    /// It was there, and is ended as asked.
    Now,
    /// There is none of that name: it was ended before, or never prepared.
    Missing,
}

/// Isolation levels. `READ UNCOMMITTED` is `ReadCommitted`, as in PostgreSQL.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// A new snapshot for every statement.
    #[default]
    ReadCommitted,
    /// One snapshot; first updater wins (snapshot isolation).
    RepeatableRead,
    /// As if one transaction ran after the other.
    Serializable,
}

/// How much a read over several sites promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadConsistency {
    /// Of a commit over several participants it sees everything or nothing.
    #[default]
    Cluster,
    /// Each site answers for itself, and need not show yet what was committed over several.
    Site,
}

/// How a branch behaves.
#[derive(Clone, Copy, Debug)]
pub struct BranchOptions {
    /// Its isolation.
    pub isolation: Isolation,
    /// Refuses writes.
    pub read_only: bool,
    /// How long to wait for a lock; zero: for ever.
    pub lock_timeout: Duration,
    /// Whether commit waits for the disk.
    pub synchronous_commit: bool,
    /// What the transaction's reads over several participants promise; nothing to a single one.
    pub read_consistency: ReadConsistency,
}

impl Default for BranchOptions {
    fn default() -> Self {
        BranchOptions {
            isolation: Isolation::default(),
            read_only: false,
            lock_timeout: Duration::from_secs(30),
            synchronous_commit: true,
            read_consistency: ReadConsistency::default(),
        }
    }
}

/// One copy of one fragment, with the definition by which its rows are read.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Where it is.
    pub site: SiteId,
    /// Which fragment.
    pub fragment: FragmentId,
    /// The table, as of the transaction's catalog.
    pub table: Arc<Table>,
}

/// Approximate size of a fragment's copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentStatistics {
    /// Rows.
    pub rows: u64,
    /// Bytes of rows (without index entries).
    pub bytes: u64,
    /// Grows with every commit that wrote to the fragment: equal numbers mean equal content.
    pub modifications: u64,
}

/// Which entries of an order to read. Bounds are prefixes of the key: `Included([1])` of a key `(a, b)` takes every `b`.
#[derive(Clone, Debug)]
pub struct KeyRange {
    /// Lower bound.
    pub lower: Bound<Vec<Value>>,
    /// Upper bound.
    pub upper: Bound<Vec<Value>>,
}

impl KeyRange {
    /// Everything.
    pub const ALL: KeyRange = KeyRange { lower: Bound::Unbounded, upper: Bound::Unbounded };

    /// All entries that begin with these values.
    pub fn prefix(values: Vec<Value>) -> Self {
        KeyRange { lower: Bound::Included(values.clone()), upper: Bound::Included(values) }
    }
}

/// A scan of one copy.
#[derive(Clone, Debug)]
pub struct ScanRequest {
    /// Positions in `Table::columns` to return, in this order; may be empty (only the number of rows counts).
    pub columns: Vec<usize>,
    /// The order to follow: `None`: the key's; otherwise an index's.
    pub index: Option<IndexId>,
    /// Which part of it, in terms of the key's or the index's columns. NULLs are last in an index.
    pub range: KeyRange,
    /// Backwards.
    pub reverse: bool,
    /// Stop after so many rows.
    pub limit: Option<usize>,
    /// Rows per batch.
    pub batch_size: usize,
}

/// Strength of a row lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockMode {
    /// `FOR SHARE`, and a child's hold on its parent's row.
    Shared,
    /// `FOR UPDATE`, and every write.
    Exclusive,
}

/// What to do when a lock is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockWait {
    /// Wait up to `lock_timeout`.
    Wait,
    /// Fail at once with 55P03.
    NoWait,
    /// Leave the row out.
    SkipLocked,
}

/// A locked row.
#[derive(Clone, Debug)]
pub struct LockedRow {
    /// False with `SkipLocked` when another holds it: the other fields say nothing then.
    pub locked: bool,
    /// The newest committed row (or the branch's own), which now nobody else can change; `None`: there is none.
    pub row: Option<Row>,
    /// Whether it differs from the one in the statement's snapshot: in `ReadCommitted` the caller evaluates the statement anew
    /// (in the stricter levels `lock` has failed with 40001).
    pub changed: bool,
}

/// A change of one row. Rows are whole: one value for each live column.
#[derive(Clone, Debug, PartialEq)]
pub enum RowChange {
    /// A new row.
    Insert(Row),
    /// A row in the place of another; the key may differ.
    Update {
        /// The row as it is.
        old: Row,
        /// The row as it shall be.
        new: Row,
    },
    /// No more row.
    Delete(Row),
}

/// What a participant says of a copy's rows and its fragment.
#[derive(Clone, Debug, PartialEq)]
pub enum Belonging {
    /// All of them belong to it.
    All,
    /// Some do not.
    AllBut(Misplaced),
    /// It cannot tell as Atoll does, so that whoever asks has to look at each row.
    Unknown,
}

/// Rows of a copy that do not belong to its fragment.
#[derive(Clone, Debug, PartialEq)]
pub struct Misplaced {
    /// How many.
    pub rows: u64,
    /// The key of one of them.
    pub key: Vec<Value>,
    /// That row's values of the columns by which the table is fragmented.
    pub place: Vec<Value>,
}

/// What a copy's storage is otherwise than the table's definition says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drift {
    /// The column, index or table of the site that it is about.
    pub object: String,
    /// What is there, and what should be.
    pub detail: String,
    /// Whether rows of the copy can be read in spite of it.
    pub readable: bool,
}

/// A transaction's part at one participant. Calls may come from several tasks at once.
#[async_trait]
pub trait Branch: Send + Sync {
    /// The timestamp of the current snapshot.
    fn snapshot(&self) -> Timestamp;

    /// Takes a new snapshot in `ReadCommitted`; otherwise does nothing. An engine may put off taking it to the first read.
    fn begin_statement(&self);

    /// Takes the snapshot now that the next read would take: for reads of several sites, whose snapshots have to fit each other.
    /// Does nothing where there is none to take (see the head of this file).
    ///
    /// # Errors
    /// `SiteUnavailable`.
    async fn take_snapshot(&self) -> Result<()>;

    /// The row with this key in the branch's view. [`LockedRow::changed`] does not tell of changes to what only this has read.
    ///
    /// # Errors
    /// `DataCorrupted`, `Io`, `SiteUnavailable`: as for every call below.
    async fn get(&self, at: &Replica, key: &[Value]) -> Result<Option<Row>>;

    /// Rows in the branch's view, as batches whose columns are those asked for.
    ///
    /// # Errors
    /// As above.
    fn scan(&self, at: &Replica, request: ScanRequest) -> Result<BatchStream>;

    /// The answer to a query in the branch's view, as batches whose columns are its outputs.
    ///
    /// # Errors
    /// As [`Site::statement`], and as above.
    fn query(&self, query: SiteQuery) -> Result<BatchStream> {
        let _ = query;
        Err(Error::unsupported("a site that only scans"))
    }

    /// Locks rows by key and reads what they are now. A row's lock is one for all its copies at a participant. A key without a row
    /// need not be locked: that is what [`Branch::find_unique`] is for.
    ///
    /// # Errors
    /// `LockTimeout`, `Deadlock`, `SerializationFailure`.
    async fn lock(&self, at: &Replica, keys: &[Vec<Value>], mode: LockMode, wait: LockWait) -> Result<Vec<LockedRow>>;

    /// The newest row (committed or the branch's own) with these values in a unique index (`None`: the key itself), after having
    /// locked the values, so that the answer stays true until the branch ends: for this copy, and against all others that look for
    /// or bring the same values at this participant, whatever the fragment. Used before inserting when uniqueness spans fragments,
    /// for ON CONFLICT and for foreign keys.
    ///
    /// # Errors
    /// As `lock`.
    async fn find_unique(
        &self,
        at: &Replica,
        index: Option<IndexId>,
        values: &[Value],
        mode: LockMode,
    ) -> Result<Option<Row>>;

    /// Applies changes in order. Checks keys and unique indexes within this copy's fragment; index entries of all deletes and
    /// updates of one call are removed before the new ones are checked.
    ///
    /// # Errors
    /// `UniqueViolation` (with the constraint and PostgreSQL's detail), `OutOfMemory` when the transaction grows beyond its limit.
    async fn apply(&self, at: &Replica, changes: Vec<RowChange>) -> Result<()>;

    /// Gives columns of the row with this key, by their positions, the values of expressions over the row as it is (source 0), in one
    /// request: what [`Branch::lock`] and [`Branch::apply`] do in two. The columns are not part of the key or of a unique index. Whether
    /// there is such a row.
    ///
    /// # Errors
    /// As `lock` and `apply`; of the expressions; `NotSupported` by a site that does not say [`Site::updates_rows`].
    async fn update_row(&self, at: &Replica, key: &[Value], set: &[(usize, SiteExpr)]) -> Result<bool> {
        let _ = (key, set);
        Err(Error::unsupported(format!("an update of table \"{}\" in one request", at.table.name)))
    }

    /// Fills a new index from the rows that are there.
    ///
    /// # Errors
    /// `UniqueViolation`.
    async fn build_index(&self, at: &Replica, index: IndexId) -> Result<()>;

    /// Makes the copy's storage fit the table's definition. `before`: the definition until now, by which it was made; `None`: a new
    /// copy, whose storage may be there already, but empty. Indexes that are new on a table that is not are
    /// left to [`Branch::build_index`]. Undone with the branch.
    ///
    /// # Errors
    /// `NotSupported`, with the reason: the engine cannot hold such a table; `DatatypeMismatch`: an adopted table is another;
    /// `DuplicateTable`: where a new copy should be is one with rows.
    async fn define(&self, at: &Replica, before: Option<&Table>) -> Result<()>;

    /// Has the participant itself look for rows of a copy that do not belong to its fragment.
    ///
    /// # Errors
    /// As [`Branch::get`].
    async fn misplaced(&self, at: &Replica) -> Result<Belonging> {
        let _ = at;
        Ok(Belonging::Unknown)
    }

    /// The digest of the rows in a range of the key, which is the same for the same rows at every engine (see [`crate::digest`]).
    ///
    /// # Errors
    /// As [`Branch::get`].
    async fn digest(&self, at: &Replica, range: &KeyRange) -> Result<Digest> {
        match self.own_digest(at, range).await? {
            Some(digest) => Ok(digest),
            None => digest::of_scan(at, self.scan(at, digest::whole_rows(at, range))?).await,
        }
    }

    /// The digest as the site itself computes it; `None`: it cannot, for this table.
    ///
    /// # Errors
    /// As [`Branch::get`].
    async fn own_digest(&self, at: &Replica, range: &KeyRange) -> Result<Option<Digest>> {
        let _ = (at, range);
        Ok(None)
    }

    /// Compares the copy's storage with the table's definition, where somebody else can have changed it.
    ///
    /// # Errors
    /// As [`Branch::get`].
    async fn drift(&self, at: &Replica) -> Result<Vec<Drift>> {
        let _ = at;
        Ok(vec![])
    }

    /// Deletes all rows of an adopted copy, for TRUNCATE: other copies are given a new id instead, and purged.
    ///
    /// # Errors
    /// `NotSupported` by an engine whose tables cannot be adopted; as [`Branch::apply`].
    async fn clear(&self, at: &Replica) -> Result<()> {
        Err(Error::unsupported(format!("TRUNCATE of an adopted copy of table \"{}\"", at.table.name)))
    }

    /// The node's own values, where this participant keeps them.
    fn meta(&self) -> Option<&dyn Meta>;

    /// The number under which the participant knows the owner of the branch's locks.
    fn lock_owner(&self) -> u64;

    /// Owners of locks for which the branch waits now.
    fn blocked_by(&self) -> Vec<u64>;

    /// Marks a place to return to.
    fn savepoint(&self) -> u64;

    /// Undoes what was written since. Locks stay.
    fn rollback_to(&self, savepoint: u64);

    /// Whether anything was written.
    fn has_writes(&self) -> bool;

    /// Whether it has locked rows or values, on which what the transaction writes elsewhere may rest: then the locks have to last until
    /// that is decided. True also when the locks are gone with a savepoint.
    fn has_locks(&self) -> bool;

    /// Commits. One-phase: this is the only participant with writes.
    ///
    /// # Errors
    /// `SerializationFailure` (determinate: rolled back); `StatementCompletionUnknown` (indeterminate); `DiskFull`.
    async fn commit(&self) -> Result<Timestamp>;

    /// First phase of two: what the branch has done is durable and can be committed whatever happens. It ends for this transaction;
    /// [`Site::finish`] decides what becomes of it.
    ///
    /// # Errors
    /// As `commit`, and then there is nothing to finish, except after `SiteUnavailable`, when there may be. `NotSupported`: the
    /// participant does not take part in two phases; its own `commit`, made last, can be the decision.
    async fn prepare(&self, name: &PreparedName) -> Result<()>;

    /// Rolls back and gives the locks back.
    fn rollback(&self);
}

/// Small values of the node's own (the catalog, sequence positions, decisions), kept atomically with the rest of a branch.
pub trait Meta {
    /// Stores a value, or removes it.
    fn put(&self, key: &[u8], value: Option<Vec<u8>>);

    /// Reads a value.
    ///
    /// # Errors
    /// As [`Branch::get`].
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// All values whose keys begin so, with their keys, in order.
    ///
    /// # Errors
    /// As [`Branch::get`].
    fn list(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;

    /// From now on the branch's commit waits for the disk, whatever it was begun with.
    fn require_durable(&self);
}
