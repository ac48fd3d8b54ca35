//! What an entrance (wire protocol, HTTP) sees of the SQL engine: a [`Database`] that opens [`Session`]s.
//!
//! Transaction rules, as in PostgreSQL: outside of an explicit `BEGIN`, the statements between two [`Session::sync`] calls form
//! one implicit transaction, committed by `sync` if none failed and rolled back otherwise. After an error inside an explicit
//! transaction every statement but `ROLLBACK`, `ROLLBACK TO` and `COMMIT` fails with 25P02.

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use atoll_model::{Result, SqlType, Value};
use futures::stream::BoxStream;
use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Batches of result rows. Dropping it cancels the work behind it.
pub type BatchStream = BoxStream<'static, Result<RecordBatch>>;

/// The SQL engine, as an entrance sees it.
#[async_trait]
pub trait Database: Send + Sync {
    /// Opens a session for an authenticated user.
    ///
    /// # Errors
    /// `InvalidCatalog` when there is no such database, `TooManyConnections`, `AdminShutdown`.
    async fn connect(&self, startup: Startup) -> Result<Box<dyn Session>>;

    /// What is needed to authenticate `user`; `None`: no such user (the entrance must not let the client tell the difference).
    fn credentials(&self, user: &str) -> Option<Credentials>;
}

/// Who connects and with which settings.
#[derive(Clone, Debug, Default)]
pub struct Startup {
    /// The authenticated user.
    pub user: String,
    /// The database asked for.
    pub database: String,
    /// Settings from the startup message (`application_name`, `client_encoding`, `options` …), as `SET` would take them.
    pub settings: Vec<(String, String)>,
    /// Process id that the entrance shows to clients (for `pg_backend_pid()`).
    pub process_id: i32,
}

/// How a user proves who they are.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// No password is set: allowed from loopback addresses only.
    NoPassword,
    /// A SCRAM-SHA-256 verifier in PostgreSQL's form `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    Scram(String),
}

/// The state that ReadyForQuery reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionStatus {
    /// No explicit transaction.
    Idle,
    /// In a transaction block.
    InTransaction,
    /// In a failed transaction block.
    Failed,
}

/// The stack, in bytes, of threads that call sessions: planning recurses as deep as a statement is nested, and this is enough for the
/// deepest that the parser lets pass. Pages that are never touched cost nothing.
pub const STACK_BYTES: usize = 64 << 20;

/// One client's session. Calls come one at a time.
#[async_trait]
pub trait Session: Send {
    /// Splits a simple query's text into statements. An empty text gives none.
    ///
    /// # Errors
    /// `Syntax`, with the position in `sql`.
    fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>>;

    /// What [`Session::prepare`] would give, where it is known already and there is nothing else to say.
    fn recall(&self, _statement: &Parsed, _param_types: &[Option<SqlType>]) -> Option<Arc<Prepared>> {
        None
    }

    /// Whether [`Session::prepare`] has next to nothing to do: no planning, no waiting. If not, it is better done where it keeps no
    /// other connection waiting.
    fn prepares_at_once(&self, _statement: &Parsed) -> bool {
        false
    }

    /// As [`Session::prepares_at_once`], for [`Session::execute`]: it may wait, but works for microseconds, and spawns no tasks that would
    /// work for longer.
    fn runs_at_once(&self, _prepared: &Prepared) -> bool {
        false
    }

    /// Binds names and types. `param_types[i]` is what the client declared for `$(i+1)`, if anything.
    ///
    /// # Errors
    /// Whatever is wrong with the statement itself.
    async fn prepare(&mut self, statement: Parsed, param_types: &[Option<SqlType>]) -> Result<Arc<Prepared>>;

    /// Runs a prepared statement. `params[i]` is of the type `prepared.param_types[i]` (or NULL).
    ///
    /// # Errors
    /// Whatever the statement meets; after one, the caller skips to `sync` as the protocol says.
    async fn execute(&mut self, prepared: &Arc<Prepared>, params: Vec<Value>) -> Result<Execution>;

    /// End of an implicit transaction: commits it, or rolls it back when `failed`.
    ///
    /// # Errors
    /// Those of COMMIT: `SerializationFailure`, `StatementCompletionUnknown` …
    async fn sync(&mut self, failed: bool) -> Result<()>;

    /// Tells the session that a result stream or COPY which it handed out has failed (or was given up by the client), so that an
    /// explicit transaction is marked as failed.
    fn fail(&mut self);

    /// What ReadyForQuery reports.
    fn status(&self) -> TransactionStatus;

    /// Settings whose value clients must be told (`server_version`, `client_encoding`, `TimeZone`, `DateStyle`,
    /// `standard_conforming_strings`, `application_name`, `in_hot_standby` …): all of them after connecting.
    fn reported_settings(&self) -> Vec<(String, String)>;

    /// Those that have changed since this was last called.
    fn changed_settings(&mut self) -> Vec<(String, String)>;

    /// Notices (severity, SQLSTATE, message) that arose since this was last called.
    fn notices(&mut self) -> Vec<Notice>;

    /// The columns of a cursor that DECLARE opened: to clients it is a portal, which they describe before they FETCH from it.
    fn cursor_columns(&self, _name: &str) -> Option<Vec<ResultColumn>> {
        None
    }

    /// A handle with which another connection cancels the running statement.
    fn canceller(&self) -> Arc<Canceller>;
}

/// A message that is not an error.
#[derive(Clone, Debug)]
pub struct Notice {
    /// `NOTICE`, `WARNING` …
    pub severity: &'static str,
    /// Its SQLSTATE (`00000` for a plain notice).
    pub sqlstate: &'static str,
    /// The text.
    pub message: String,
}

/// One parsed statement; its syntax tree is the engine's own.
#[derive(Clone)]
pub struct Parsed {
    /// The statement's text.
    pub sql: Arc<str>,
    /// The engine's syntax tree.
    pub tree: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Parsed").field(&self.sql).finish()
    }
}

/// A column of a result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResultColumn {
    /// Its name.
    pub name: String,
    /// Its SQL type.
    pub ty: SqlType,
    /// A `bigint`, or an array of it, that clients know as `oid` or `oid[]`: a column of a system catalog.
    pub is_oid: bool,
}

impl ResultColumn {
    /// A column.
    pub fn new(name: impl Into<String>, ty: SqlType) -> Self {
        ResultColumn { name: name.into(), ty, is_oid: false }
    }
}

/// A bound statement, reusable with other parameters; the plan behind it is the engine's own.
pub struct Prepared {
    /// The statement's text.
    pub sql: Arc<str>,
    /// Types of `$1`, `$2` …
    pub param_types: Vec<SqlType>,
    /// Numbers, from 0, of parameters that clients know as `oid[]`.
    pub oid_params: Vec<usize>,
    /// The result's columns; empty when it returns no rows.
    pub columns: Vec<ResultColumn>,
    /// Whether it returns rows, which may be without columns.
    pub returns_rows: bool,
    /// The engine's plan.
    pub plan: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("sql", &self.sql).finish_non_exhaustive()
    }
}

/// What running a statement gave.
pub enum Execution {
    /// Rows, as batches. Command tag: `tag` followed by their number (`SELECT 3`, `INSERT 0 3` with RETURNING).
    Batches {
        /// The columns, as in [`Prepared::columns`]; each batch's fields are those in Arrow.
        columns: Vec<ResultColumn>,
        /// Arrow schema of every batch.
        schema: SchemaRef,
        /// The rows.
        stream: BatchStream,
        /// `SELECT`, `INSERT 0`, `UPDATE`, `DELETE`, `FETCH` …
        tag: &'static str,
    },
    /// A few rows that never were a batch (keyed access, SHOW, EXPLAIN).
    Rows {
        /// The columns.
        columns: Vec<ResultColumn>,
        /// The rows: one value per column.
        rows: Vec<Vec<Value>>,
        /// As above.
        tag: &'static str,
    },
    /// No rows. `rows` is the number in the command tag where it has one: `INSERT 0 5`, `UPDATE 5`; `CREATE TABLE` has none.
    Done {
        /// The tag without the number.
        tag: &'static str,
        /// The number.
        rows: Option<u64>,
    },
    /// `COPY … FROM STDIN`: the entrance decodes the client's data into batches of `schema` and feeds them to the sink.
    CopyIn(Box<CopyIn>),
    /// `COPY … TO STDOUT`: the entrance encodes the rows.
    CopyOut {
        /// Format and its options.
        options: CopyOptions,
        /// The columns.
        columns: Vec<ResultColumn>,
        /// Arrow schema of every batch.
        schema: SchemaRef,
        /// The rows.
        stream: BatchStream,
    },
    /// An empty statement.
    Empty,
}

/// Where the rows of a `COPY … FROM STDIN` go.
pub struct CopyIn {
    /// Format and its options.
    pub options: CopyOptions,
    /// The table's name, for error messages (`COPY users, line 7`).
    pub table: String,
    /// The columns, in the order in which the data has them.
    pub columns: Vec<ResultColumn>,
    /// Arrow schema of the batches to push.
    pub schema: SchemaRef,
    /// Takes the batches.
    pub sink: Box<dyn RowSink>,
}

/// Takes rows until it is finished or dropped (which takes nothing).
#[async_trait]
pub trait RowSink: Send {
    /// Takes a batch of the schema announced. Waits when the engine cannot keep up (back-pressure).
    ///
    /// # Errors
    /// The first constraint that a row violates, and so on; nothing of the COPY is kept then.
    async fn push(&mut self, batch: RecordBatch) -> Result<()>;

    /// All rows were pushed: returns how many.
    ///
    /// # Errors
    /// As `push`.
    async fn finish(self: Box<Self>) -> Result<u64>;
}

/// The options of COPY, as PostgreSQL documents them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CopyOptions {
    /// The format.
    pub format: CopyFormat,
    /// One byte: TAB for text, `,` for csv.
    pub delimiter: u8,
    /// Text that stands for NULL: `\N` for text, empty for csv.
    pub null: String,
    /// csv: the first line holds names.
    pub header: bool,
    /// csv: the quoting character.
    pub quote: u8,
    /// csv: the escape character within quotes.
    pub escape: u8,
}

/// The formats of COPY.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyFormat {
    /// Tab-separated with backslash escapes.
    Text,
    /// Comma-separated values.
    Csv,
}

/// Cancels a session's running statement from another task.
#[derive(Debug, Default)]
pub struct Canceller {
    requested: AtomicBool,
    notify: Notify,
}

impl Canceller {
    /// Asks the running statement to stop with 57014. Without a running statement, does nothing that lasts.
    pub fn cancel(&self) {
        self.requested.store(true, Ordering::Release);
        self.notify.notify_waiters();
    }

    /// Forgets an earlier request: called when a statement starts.
    pub fn reset(&self) {
        self.requested.store(false, Ordering::Release);
    }

    /// Whether a request is pending.
    pub fn is_cancelled(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    /// Waits until a request comes.
    pub async fn cancelled(&self) {
        loop {
            let notified = self.notify.notified();
            if self.is_cancelled() {
                return;
            }
            notified.await;
        }
    }
}
