//! What the query layer sees of the node: the catalog, and transactions over tables.
//!
//! A [`Transaction`] knows tables and fragments, not sites: it chooses the copy to read, writes every copy, keeps keys unique over
//! fragments, enforces foreign keys, and moves rows whose fragment changes.

use crate::query::{SiteExpr, SiteQuery};
use crate::session::BatchStream;
use crate::site::{
    BranchOptions, FragmentStatistics, Isolation, LockMode, LockWait, LockedRow, PreparedBranch, RowChange,
    ScanRequest, SiteTable,
};
use crate::verify::Verified;
use async_trait::async_trait;
use atoll_model::{
    Catalog, CatalogCommand, Error, FragmentId, IndexId, RelationId, Result, Row, SiteId, Table, Timestamp, Value,
};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
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

    /// The tables of a schema of a site, for adopting them.
    ///
    /// # Errors
    /// Those of [`Site::tables`](crate::site::Site::tables).
    async fn site_tables(&self, site: SiteId, schema: &str) -> Result<Vec<SiteTable>> {
        Err(Error::unsupported(format!("tables of schema \"{schema}\" of site {site}")))
    }

    /// Moves a fragment, with those that correspond to it, to another site while it is used. What was begun goes on without the caller.
    ///
    /// # Errors
    /// Those of [`Catalog::apply`]; what ended the move, if it is waited for.
    async fn move_fragment(&self, order: MoveOrder) -> Result<()> {
        Err(Error::unsupported(format!("moving fragment \"{}\"", order.fragment)))
    }

    /// Gives a move up: the new copy is dropped.
    ///
    /// # Errors
    /// `NotInPrerequisiteState`: the fragment is not being moved.
    async fn cancel_move(&self, table: &str, fragment: &str) -> Result<()> {
        Err(Error::unsupported(format!("moving fragment \"{fragment}\" of table \"{table}\"")))
    }

    /// Copies that are being built, or set aside, and how the last ones have ended, for `atoll.moves`.
    fn moves(&self) -> Vec<MoveInfo> {
        vec![]
    }

    /// Waits until the copies at a site that is down are set aside.
    ///
    /// # Errors
    /// `SiteUnavailable`: that was not possible in time.
    async fn set_aside(&self, site: SiteId) -> Result<()> {
        Err(Error::new(atoll_model::ErrorKind::SiteUnavailable, format!("site {site} is down")))
    }

    /// Transactions that are open now, or decided and not yet applied at every site, for `atoll.transactions`.
    fn transactions(&self) -> Vec<TransactionInfo>;

    /// Branches that are prepared at the sites now, for `atoll.in_doubt`. Asks every site.
    async fn in_doubt(&self) -> Vec<InDoubt> {
        vec![]
    }

    /// The last transactions over several sites that have ended, the newest first, for `atoll.transactions_log`.
    fn transactions_log(&self) -> Vec<EndedTransaction> {
        vec![]
    }

    /// Ends what is prepared at the sites of a transaction whose decision nobody knows any more, as its name and `commit` say: the number of
    /// branches that were ended.
    ///
    /// # Errors
    /// `InvalidParameterValue` for what is no name; `UndefinedObject` when nothing of it is prepared; `NotInPrerequisiteState` when it was decided
    /// otherwise, or will be without help; `SiteUnavailable` when not all sites can be asked.
    async fn resolve(&self, name: &str, commit: bool) -> Result<u64> {
        let _ = commit;
        Err(Error::unsupported(format!("resolving transaction {name}")))
    }

    /// Compares what lies at the sites with the catalog, and copies with each other: of these tables, or of all. Each table is read
    /// in a read-only transaction of its own, in which its definition cannot change. Dropping the stream ends it.
    ///
    /// # Errors
    /// In the stream: `UndefinedTable`, `LockTimeout`. What concerns a single copy is a finding.
    fn verify(&self, tables: Option<Vec<String>>) -> BoxStream<'static, Result<Verified>> {
        let _ = tables;
        stream::once(async { Err(Error::unsupported("verifying tables")) }).boxed()
    }
}

/// A fragment that is to be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveOrder {
    /// Its table.
    pub table: String,
    /// Its name.
    pub fragment: String,
    /// The site of the copy that moves; `None`: the only one.
    pub from: Option<String>,
    /// Where it goes.
    pub to: String,
    /// Whether the caller waits until it is there.
    pub wait: bool,
}

/// A copy that is being built, or was of late.
#[derive(Clone, Debug)]
pub struct MoveInfo {
    /// The table.
    pub table: String,
    /// The fragment.
    pub fragment: String,
    /// The copy in whose place it comes; `None`: it was set aside, and catches up.
    pub source: Option<String>,
    /// Where it is.
    pub target: String,
    /// How far it is.
    pub state: &'static str,
    /// Rows looked at so far, in this pass.
    pub rows: u64,
    /// About how many rows there are.
    pub rows_estimated: u64,
    /// Rows that had to be written.
    pub rows_written: u64,
    /// When it began: microseconds since 1970.
    pub began: Option<i64>,
    /// What has held it up last, or ended it.
    pub last_error: Option<String>,
}

/// One transaction.
#[derive(Clone, Debug)]
pub struct TransactionInfo {
    /// Its number in this process, if it began there.
    pub id: Option<u64>,
    /// The name under which its branches are prepared, once it is being committed over several participants.
    pub name: Option<String>,
    /// How far it is.
    pub state: TransactionState,
    /// The sites (the embedded ones as one) at which it takes part.
    pub participants: Vec<String>,
    /// Those that have yet to apply what was decided.
    pub pending: Vec<String>,
    /// When it began, or its commit did where only that is known: microseconds since 1970.
    pub began: Option<i64>,
    /// Its isolation.
    pub isolation: Option<Isolation>,
    /// Whether it has written.
    pub has_writes: bool,
}

/// How far a transaction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionState {
    /// It is open.
    Active,
    /// Its participants are asked whether they can commit.
    Preparing,
    /// It is decided to commit, and not yet applied everywhere.
    Committed,
    /// It is being rolled back.
    RollingBack,
}

impl TransactionState {
    /// As views show it.
    pub fn name(self) -> &'static str {
        match self {
            TransactionState::Active => "active",
            TransactionState::Preparing => "preparing",
            TransactionState::Committed => "committed",
            TransactionState::RollingBack => "rolling back",
        }
    }
}

/// A branch that is prepared at a site, or a site that cannot be asked.
#[derive(Clone, Debug)]
pub struct InDoubt {
    /// The site.
    pub site: String,
    /// The branch; `None`: the site could not be asked.
    pub branch: Option<PreparedBranch>,
    /// The transaction that it is part of, if the name is one of Atoll's.
    pub transaction: Option<String>,
    /// Who prepared it.
    pub owner: Option<&'static str>,
    /// What is to become of it, or was decided; `None`: that is not known here.
    pub decision: Option<&'static str>,
    /// Why the site could not be asked.
    pub problem: Option<String>,
}

/// A transaction over several sites that has ended.
#[derive(Clone, Debug)]
pub struct EndedTransaction {
    /// Its name.
    pub name: String,
    /// Whether it has committed.
    pub committed: bool,
    /// The sites (the embedded ones as one) at which it took part.
    pub participants: Vec<String>,
    /// When its commit began: microseconds since 1970.
    pub began: Option<i64>,
    /// When the last participant had applied it.
    pub ended: i64,
    /// Why it was rolled back, or who has ended it.
    pub reason: Option<String>,
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

    /// As [`Transaction::get`], of the only row that the statement reads: its snapshot need not go with those of others. Of columns
    /// other than those `wanted` (positions in the table) it may show NULL.
    ///
    /// # Errors
    /// As above.
    async fn get_alone(&self, fragment: &FragmentRef, key: &[Value], _wanted: &[usize]) -> Result<Option<Row>> {
        self.get(fragment, key).await
    }

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

    /// The site that was down when a call failed, if its copies are being set aside for that: the transaction succeeds if it is run again
    /// after [`Cluster::set_aside`].
    fn lost_copy(&self) -> Option<SiteId> {
        None
    }

    /// Changes the row of a fragment with this key at its site, in one request: columns, by their positions, get the values of expressions over
    /// the row as it is. Whether there is such a row; `None`, and nothing is done: lock it, and [`Transaction::write`].
    ///
    /// # Errors
    /// As `lock` and `write`, and of the expressions.
    async fn update_row(
        &self,
        fragment: &FragmentRef,
        key: &[Value],
        set: &[(usize, SiteExpr)],
    ) -> Result<Option<bool>> {
        let _ = (fragment, key, set);
        Ok(None)
    }

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
