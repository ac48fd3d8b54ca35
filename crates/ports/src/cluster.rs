//! What the query layer sees of the node: the catalog, and transactions over tables.
//!
//! A [`Transaction`] knows tables and fragments, not sites: it chooses the copy to read, writes every copy, keeps keys unique over
//! fragments, enforces foreign keys, and moves rows whose fragment changes.

use crate::query::SiteQuery;
use crate::session::BatchStream;
use crate::site::{
    BranchOptions, FragmentStatistics, Isolation, LockMode, LockWait, LockedRow, RowChange, ScanRequest,
};
use async_trait::async_trait;
use atoll_model::{
    Catalog, CatalogCommand, FragmentId, IndexId, RelationId, Result, Row, SiteId, Table, Timestamp, Value,
};
use std::sync::Arc;

/// The node, as the query layer sees it.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// The newest committed catalog.
    fn catalog(&self) -> Arc<Catalog>;

    /// Begins a transaction. Cheap: sites are opened at the first use.
    fn begin(&self, options: BranchOptions) -> Arc<dyn Transaction>;

    /// The next `count` values of a sequence, as the first of them (they are `increment` apart). Never given twice, whatever
    /// crashes; not undone by a rollback.
    ///
    /// # Errors
    /// `SequenceExhausted`, `UndefinedTable`.
    async fn next_values(&self, sequence: RelationId, count: u32) -> Result<i64>;

    /// Sets a sequence's position (`setval`): the next value is `value`, or the one after it when `called`.
    ///
    /// # Errors
    /// `UndefinedTable`, `InvalidParameterValue` outside its bounds.
    async fn set_sequence(&self, sequence: RelationId, value: i64, called: bool) -> Result<()>;

    /// The last value that was given (for `SELECT last_value FROM s`), and whether any was.
    ///
    /// # Errors
    /// `UndefinedTable`.
    async fn sequence_position(&self, sequence: RelationId) -> Result<(i64, bool)>;

    /// `count` fresh hidden keys for rows of tables without a primary key, as the first of consecutive numbers.
    fn row_ids(&self, count: u32) -> i64;

    /// Approximate size of a fragment (of the copy that would be read).
    fn statistics(&self, table: &Table, fragment: FragmentId) -> FragmentStatistics;

    /// The statement that a query is at a site.
    ///
    /// # Errors
    /// As [`Site::statement`](crate::site::Site::statement).
    fn statement(&self, site: SiteId, query: &SiteQuery) -> Result<String>;

    /// Transactions that are open now, for `atoll.transactions`.
    fn transactions(&self) -> Vec<TransactionInfo>;
}

/// One open transaction.
#[derive(Clone, Debug)]
pub struct TransactionInfo {
    /// Its number.
    pub id: u64,
    /// Its isolation.
    pub isolation: Isolation,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// Whether it has written.
    pub has_writes: bool,
}

/// What a transaction wants with a whole table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableLock {
    /// It will write rows.
    Write,
    /// It changes the definition: no other may write.
    Exclusive,
}

/// One fragment of a table, as of the transaction's catalog.
#[derive(Clone, Debug)]
pub struct FragmentRef {
    /// The table.
    pub table: Arc<Table>,
    /// Position in `table.fragments`.
    pub at: usize,
}

/// A transaction. Calls may come from several tasks at once (partitions of one query), but statements come one at a time.
/// Dropping it rolls it back.
#[async_trait]
pub trait Transaction: Send + Sync {
    /// Its number, for views and logs.
    fn id(&self) -> u64;

    /// How it was begun.
    fn options(&self) -> BranchOptions;

    /// The catalog that it sees: the committed one as of the statement's start, with the transaction's own DDL applied.
    fn catalog(&self) -> Arc<Catalog>;

    /// Starts a statement: in `ReadCommitted`, takes a new snapshot and catalog.
    ///
    /// # Errors
    /// `SiteUnavailable`.
    async fn begin_statement(&self) -> Result<()>;

    /// Applies DDL within the transaction. Takes the cluster's DDL lock and the exclusive locks of the tables concerned, which are
    /// held to the end. Builds the entries of new indexes. Visible to others at commit, atomically with the data.
    ///
    /// # Errors
    /// Those of [`Catalog::apply`]; `LockTimeout`; `UniqueViolation` from a new index.
    async fn apply(&self, command: CatalogCommand) -> Result<()>;

    /// Locks a table as a whole.
    ///
    /// # Errors
    /// `LockTimeout`, `Deadlock`; `SerializationFailure`, marked as before any effect, when the definition has changed since the
    /// statement began. The lock is held then, so after another `begin_statement` the definition is the one that stays.
    async fn lock_table(&self, table: &Arc<Table>, lock: TableLock) -> Result<()>;

    /// The row with this key (values of `Table::key`, in its order) in one fragment.
    ///
    /// # Errors
    /// Those of the site: as for every call below.
    async fn get(&self, fragment: &FragmentRef, key: &[Value]) -> Result<Option<Row>>;

    /// Scans one fragment; the copy is chosen by the table's `read_balance`. Also tells the site it chose.
    ///
    /// # Errors
    /// As above.
    fn scan(&self, fragment: &FragmentRef, request: ScanRequest) -> Result<(SiteId, BatchStream)>;

    /// The answer of one site, at which all sources are, to a query.
    ///
    /// # Errors
    /// As [`Branch::query`](crate::site::Branch::query).
    fn query(&self, site: SiteId, query: SiteQuery) -> Result<BatchStream>;

    /// The site whose copy a scan of this fragment would read now (the choice is kept for the statement).
    fn site_for_read(&self, fragment: &FragmentRef) -> SiteId;

    /// Locks rows of a fragment by key, at all its copies.
    ///
    /// # Errors
    /// `LockTimeout`, `Deadlock`, `SerializationFailure`.
    async fn lock(
        &self,
        fragment: &FragmentRef,
        keys: &[Vec<Value>],
        mode: LockMode,
        wait: LockWait,
    ) -> Result<Vec<LockedRow>>;

    /// The newest row of the whole table with these values of a unique index (`None`: the primary key), the values being locked
    /// until the transaction ends: for ON CONFLICT. With the position of its fragment.
    ///
    /// # Errors
    /// As `lock`.
    async fn find_unique(
        &self,
        table: &Arc<Table>,
        index: Option<IndexId>,
        values: &[Value],
    ) -> Result<Option<(usize, Row)>>;

    /// The fragment where a row belongs (looks up the parent's row for derived fragmentation).
    ///
    /// # Errors
    /// `CheckViolation`: no fragment takes it; `ForeignKeyViolation`: no parent row.
    async fn place(&self, table: &Arc<Table>, row: &[Value]) -> Result<usize>;

    /// Writes rows: finds each one's fragment, writes all copies, checks uniqueness over the whole table and foreign keys, cascades.
    /// NOT NULL, CHECK, defaults and types are the caller's. Rows to be updated or deleted have been locked.
    ///
    /// # Errors
    /// `UniqueViolation`, `ForeignKeyViolation`, `CheckViolation` (no fragment), `ReadOnlyTransaction`, `OutOfMemory`.
    async fn write(&self, table: &Arc<Table>, changes: Vec<RowChange>) -> Result<()>;

    /// Marks a place to return to.
    fn savepoint(&self) -> u64;

    /// Undoes writes and DDL since. Locks stay.
    fn rollback_to(&self, savepoint: u64);

    /// Whether anything was written.
    fn has_writes(&self) -> bool;

    /// Commits.
    ///
    /// # Errors
    /// `SerializationFailure` (rolled back); `StatementCompletionUnknown` (indeterminate); `DiskFull`.
    async fn commit(&self) -> Result<Timestamp>;

    /// Rolls back.
    fn rollback(&self);
}
