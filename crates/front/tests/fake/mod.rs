//! A database without an engine: a few made-up statements, enough to drive every path of the entrances.

#![allow(dead_code, clippy::unwrap_used, reason = "shared by several tests, each of which uses a part")]

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{Schema, SchemaRef};
use async_trait::async_trait;
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};
use atoll_ports::scram;
use atoll_ports::session::{
    Canceller, CopyFormat, CopyIn, CopyOptions, Credentials, Database, Execution, Notice, Parsed, Prepared,
    ResultColumn, RowSink, Session, Startup, TransactionStatus,
};
use futures::StreamExt;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the fake remembers.
#[derive(Default)]
pub struct Fake {
    /// Batches that a COPY brought, once it was finished.
    pub copied: Mutex<Vec<RecordBatch>>,
    /// INSERTs that were committed.
    pub committed: AtomicU64,
    /// Sessions that are open.
    pub sessions: AtomicU64,
    /// `SLEEP`s that were cancelled.
    pub cancelled: AtomicU64,
    /// An endless result was dropped.
    pub dropped: Arc<AtomicBool>,
    alice: String,
}

impl Fake {
    pub fn new() -> Arc<Fake> {
        Arc::new(Fake { alice: scram::verifier("sécret").unwrap(), ..Fake::default() })
    }
}

/// The database as `front` wants it.
pub struct FakeDatabase(pub Arc<Fake>);

#[async_trait]
impl Database for FakeDatabase {
    async fn connect(&self, startup: Startup) -> Result<Box<dyn Session>> {
        if startup.database == "nowhere" {
            return Err(Error::new(ErrorKind::InvalidCatalog, "database \"nowhere\" does not exist"));
        }
        self.0.sessions.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(FakeSession {
            fake: self.0.clone(),
            startup,
            status: TransactionStatus::Idle,
            canceller: Arc::default(),
            pending: 0,
            fail_commit: false,
            changed: Vec::new(),
            notices: Vec::new(),
        }))
    }

    fn credentials(&self, user: &str) -> Option<Credentials> {
        match user {
            "atoll" => Some(Credentials::NoPassword),
            "alice" => Some(Credentials::Scram(self.0.alice.clone())),
            _ => None,
        }
    }
}

struct FakeSession {
    fake: Arc<Fake>,
    startup: Startup,
    status: TransactionStatus,
    canceller: Arc<Canceller>,
    pending: u64,
    fail_commit: bool,
    changed: Vec<(String, String)>,
    notices: Vec<Notice>,
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        self.fake.sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

pub fn column(name: &str, ty: SqlType) -> ResultColumn {
    ResultColumn::new(name, ty)
}

/// One value of each type, and its text.
pub fn one_of_each() -> Vec<(ResultColumn, Value, &'static str)> {
    let array = |t: SqlType| SqlType::Array(Box::new(t));
    vec![
        (column("bool", SqlType::Bool), Value::Bool(true), "t"),
        (column("int2", SqlType::Int2), Value::Int2(-7), "-7"),
        (column("int4", SqlType::Int4), Value::Int4(i32::MIN), "-2147483648"),
        (column("int8", SqlType::Int8), Value::Int8(i64::MAX), "9223372036854775807"),
        (column("float4", SqlType::Float4), Value::Float4(0.1), "0.1"),
        (column("float8", SqlType::Float8), Value::Float8(1e15), "1e+15"),
        (column("numeric", SqlType::Numeric(Some((10, 2)))), Value::Numeric(1250, 2), "12.50"),
        (column("numeric_free", SqlType::Numeric(None)), Value::Numeric(125_000_000_000, 10), "12.5"),
        (column("text", SqlType::Text), Value::Text("héllo".into()), "héllo"),
        (column("varchar", SqlType::Varchar(Some(9))), Value::Text("v".into()), "v"),
        (column("char", SqlType::Char(3)), Value::Text("c".into()), "c  "),
        (column("bytea", SqlType::Bytea), Value::Bytea(vec![0, 255]), "\\x00ff"),
        (column("date", SqlType::Date), Value::Date(0), "1970-01-01"),
        (column("time", SqlType::Time(None)), Value::Time(3_661_500_000), "01:01:01.5"),
        (column("timestamp", SqlType::Timestamp(None)), Value::Timestamp(0), "1970-01-01 00:00:00"),
        (column("timestamptz", SqlType::TimestampTz(None)), Value::TimestampTz(1), "1970-01-01 00:00:00.000001+00"),
        (column("interval", SqlType::Interval), Value::Text("1 day 02:00:00".into()), "1 day 02:00:00"),
        (
            column("uuid", SqlType::Uuid),
            Value::Text("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11".into()),
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ),
        (column("json", SqlType::Json), Value::Text("{\"a\":1}".into()), "{\"a\":1}"),
        (column("jsonb", SqlType::Jsonb), Value::Text("{\"a\": 1}".into()), "{\"a\": 1}"),
        (column("ints", array(SqlType::Int4)), Value::Array(vec![Value::Int4(1), Value::Null]), "{1,NULL}"),
        (column("null", SqlType::Text), Value::Null, ""),
    ]
}

/// Columns and schema of `SELECT SERIES` and of the table that is copied.
pub fn series_columns() -> (Vec<ResultColumn>, SchemaRef) {
    let columns = vec![column("n", SqlType::Int8), column("t", SqlType::Text)];
    let fields: Vec<_> = columns.iter().map(|c| c.ty.field(&c.name, true)).collect();
    (columns, Arc::new(Schema::new(fields)))
}

pub fn series(from: i64, to: i64) -> RecordBatch {
    let n: ArrayRef = Arc::new(Int64Array::from_iter_values(from..to));
    let t: ArrayRef = Arc::new(StringArray::from_iter((from..to).map(|i| (i % 10 != 0).then(|| format!("row {i}")))));
    RecordBatch::try_new(series_columns().1, vec![n, t]).unwrap()
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Sink {
    fake: Arc<Fake>,
    batches: Vec<RecordBatch>,
}

#[async_trait]
impl RowSink for Sink {
    async fn push(&mut self, batch: RecordBatch) -> Result<()> {
        // Gives other tasks a chance, as a real engine would.
        tokio::task::yield_now().await;
        self.batches.push(batch);
        Ok(())
    }
    async fn finish(self: Box<Self>) -> Result<u64> {
        let rows = self.batches.iter().map(|b| b.num_rows() as u64).sum();
        self.fake.copied.lock().extend(self.batches);
        Ok(rows)
    }
}

fn number_in(sql: &str) -> i64 {
    sql.split_ascii_whitespace().last().and_then(|w| w.parse().ok()).unwrap_or(0)
}

fn copy_options(sql: &str) -> CopyOptions {
    let csv = sql.contains("CSV");
    CopyOptions {
        format: if csv { CopyFormat::Csv } else { CopyFormat::Text },
        delimiter: if csv { b',' } else { b'\t' },
        null: if csv { String::new() } else { "\\N".to_string() },
        header: sql.contains("HEADER"),
        quote: b'"',
        escape: b'"',
    }
}

#[async_trait]
impl Session for FakeSession {
    fn parse(&mut self, sql: &str) -> Result<Vec<Parsed>> {
        if let Some(at) = sql.find("SYNTAX") {
            return Err(Error::new(ErrorKind::Syntax, "syntax error at or near \"SYNTAX\"").position(at as u32 + 1));
        }
        let statements = sql.split(';').map(str::trim).filter(|s| !s.is_empty());
        Ok(statements.map(|s| Parsed { sql: s.into(), tree: Arc::new(()) }).collect())
    }

    async fn prepare(&mut self, statement: Parsed, declared: &[Option<SqlType>]) -> Result<Arc<Prepared>> {
        let sql = statement.sql.clone();
        if sql.contains("MISSING") {
            return Err(Error::new(ErrorKind::UndefinedTable, "relation \"missing\" does not exist")
                .position(sql.find("MISSING").unwrap() as u32 + 1));
        }
        let (param_types, columns) = match sql.as_ref() {
            s if s.starts_with("SELECT abalance") => (vec![SqlType::Int4], vec![column("abalance", SqlType::Int4)]),
            s if s.starts_with("ECHO") => {
                let ty = s.strip_prefix("ECHO ").and_then(SqlType::parse);
                let ty = ty.or_else(|| declared.first().cloned().flatten()).unwrap_or(SqlType::Text);
                (vec![ty.clone()], vec![column("echo", ty)])
            }
            "SELECT TYPES" => (vec![], one_of_each().into_iter().map(|(c, _, _)| c).collect()),
            s if s.starts_with("SELECT SERIES") || s.starts_with("SELECT ENDLESS") || s == "SELECT BROKEN" => {
                (vec![], series_columns().0)
            }
            _ => (vec![], vec![]),
        };
        let returns_rows = !columns.is_empty();
        Ok(Arc::new(Prepared { sql, param_types, oid_params: vec![], columns, returns_rows, plan: Arc::new(()) }))
    }

    async fn execute(&mut self, prepared: &Arc<Prepared>, params: Vec<Value>) -> Result<Execution> {
        let sql = prepared.sql.as_ref();
        if self.status == TransactionStatus::Failed && !matches!(sql, "ROLLBACK" | "COMMIT") {
            return Err(Error::new(ErrorKind::InFailedTransaction, "current transaction is aborted"));
        }
        let done = |tag, rows| Ok(Execution::Done { tag, rows });
        let columns = prepared.columns.clone();
        let (_, schema) = series_columns();
        match sql {
            s if s.starts_with("SELECT abalance") => {
                let balance = params.first().and_then(Value::as_i64).unwrap_or(0) as i32;
                Ok(Execution::Rows { columns, rows: vec![vec![Value::Int4(balance)]], tag: "SELECT" })
            }
            s if s.starts_with("ECHO") => Ok(Execution::Rows { columns, rows: vec![params], tag: "SELECT" }),
            "SELECT TYPES" => {
                let row = one_of_each().into_iter().map(|(_, v, _)| v).collect();
                Ok(Execution::Rows { columns, rows: vec![row], tag: "SELECT" })
            }
            s if s.starts_with("SELECT SERIES") => {
                let n = number_in(s);
                let batches = (0..n).step_by(1000).map(move |from| Ok(series(from, (from + 1000).min(n))));
                Ok(Execution::Batches {
                    columns,
                    schema,
                    stream: futures::stream::iter(batches).boxed(),
                    tag: "SELECT",
                })
            }
            "SELECT ENDLESS" => {
                let guard = SetOnDrop(self.fake.dropped.clone());
                let stream = futures::stream::unfold((guard, 0), |(guard, n)| async move {
                    tokio::task::yield_now().await;
                    Some((Ok(series(n, n + 1000)), (guard, n + 1000)))
                });
                Ok(Execution::Batches { columns, schema, stream: stream.boxed(), tag: "SELECT" })
            }
            "SELECT BROKEN" => {
                let items = vec![Ok(series(0, 10)), Err(Error::new(ErrorKind::DivisionByZero, "division by zero"))];
                Ok(Execution::Batches { columns, schema, stream: futures::stream::iter(items).boxed(), tag: "SELECT" })
            }
            "SLEEP" => {
                self.canceller.cancelled().await;
                self.fake.cancelled.fetch_add(1, Ordering::SeqCst);
                self.fail();
                Err(Error::new(ErrorKind::QueryCanceled, "canceling statement due to user request"))
            }
            "FAIL" => {
                self.fail();
                Err(Error::new(ErrorKind::UniqueViolation, "duplicate key value violates unique constraint \"t_pkey\"")
                    .detail("Key (id)=(1) already exists.")
                    .hint("Use ON CONFLICT.")
                    .constraint("t_pkey")
                    .table("t"))
            }
            "FAIL COMMIT" => {
                self.fail_commit = true;
                done("INSERT 0", Some(1))
            }
            "INSERT" => {
                self.pending += 1;
                done("INSERT 0", Some(1))
            }
            "NOTICE" => {
                let message = "watch out".to_string();
                self.notices.push(Notice { severity: "WARNING", sqlstate: "01000", message });
                done("DO", None)
            }
            s if s.starts_with("SET ") => {
                self.changed.push(("application_name".to_string(), s[4..].to_string()));
                done("SET", None)
            }
            "BEGIN" | "START TRANSACTION" => {
                self.status = TransactionStatus::InTransaction;
                done("BEGIN", None)
            }
            "COMMIT" if self.status == TransactionStatus::InTransaction => {
                self.status = TransactionStatus::Idle;
                self.fake.committed.fetch_add(std::mem::take(&mut self.pending), Ordering::SeqCst);
                done("COMMIT", None)
            }
            "ROLLBACK" | "COMMIT" => {
                self.status = TransactionStatus::Idle;
                self.pending = 0;
                done("ROLLBACK", None)
            }
            s if s.starts_with("COPY t FROM") => {
                let (columns, schema) = series_columns();
                let sink = Box::new(Sink { fake: self.fake.clone(), batches: Vec::new() });
                Ok(Execution::CopyIn(Box::new(CopyIn {
                    options: copy_options(s),
                    table: "t".into(),
                    columns,
                    schema,
                    sink,
                })))
            }
            s if s.starts_with("COPY t TO") => {
                let (columns, schema) = series_columns();
                let stream = futures::stream::iter([Ok(series(0, 25))]).boxed();
                Ok(Execution::CopyOut { options: copy_options(s), columns, schema, stream })
            }
            other => Err(Error::new(ErrorKind::Syntax, format!("the fake does not know \"{other}\""))),
        }
    }

    async fn sync(&mut self, failed: bool) -> Result<()> {
        if self.status != TransactionStatus::Idle {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        if failed {
            self.fail_commit = false;
            return Ok(());
        }
        if std::mem::take(&mut self.fail_commit) {
            return Err(Error::new(ErrorKind::SerializationFailure, "could not serialize access"));
        }
        self.fake.committed.fetch_add(pending, Ordering::SeqCst);
        Ok(())
    }

    fn fail(&mut self) {
        if self.status == TransactionStatus::InTransaction {
            self.status = TransactionStatus::Failed;
        }
    }

    fn status(&self) -> TransactionStatus {
        self.status
    }

    fn reported_settings(&self) -> Vec<(String, String)> {
        let name = self.startup.settings.iter().find(|(n, _)| n == "application_name").map(|(_, v)| v.clone());
        [
            ("server_version", "15.0".to_string()),
            ("client_encoding", "UTF8".to_string()),
            ("DateStyle", "ISO, MDY".to_string()),
            ("TimeZone", "UTC".to_string()),
            ("standard_conforming_strings", "on".to_string()),
            ("application_name", name.unwrap_or_default()),
        ]
        .map(|(n, v)| (n.to_string(), v))
        .to_vec()
    }

    fn changed_settings(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.changed)
    }

    fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn canceller(&self) -> Arc<Canceller> {
        self.canceller.clone()
    }
}
