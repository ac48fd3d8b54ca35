//! `POST /query`: SQL in, JSON out.
//!
//! Invariant: a request is one implicit transaction: it has committed when `success` is true. A request whose client goes away
//! or whose time is up is cancelled, and its session is dropped only when the engine has let go of it.

use super::auth::Guard;
use super::json;
use super::{Failure, Peer};
use crate::cells::{Cell, columns_of};
use crate::config::Limits;
use crate::metrics::{Kind, StatementMetrics};
use atoll_model::{Error, ErrorKind, Result, Value};
use atoll_ports::session::{Canceller, Database, Execution, ResultColumn, Session, Startup, TransactionStatus};
use axum::Json;
use axum::extract::{Extension, FromRequest, Request, State};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use utoipa::ToSchema;

/// Time for a cancelled statement to end.
const CANCEL_TIME: Duration = Duration::from_secs(10);

/// What the handlers of queries share.
pub(super) struct Queries {
    pub(super) database: Arc<dyn Database>,
    pub(super) guard: Arc<Guard>,
    pub(super) limits: Limits,
    pub(super) metrics: StatementMetrics,
    pub(super) database_name: String,
}

/// A statement with its parameters.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QueryRequest {
    /// The SQL text; several statements, separated by `;`, run as one transaction.
    #[schema(example = "SELECT uid, name FROM users WHERE region = $1")]
    query: String,
    /// Values of `$1`, `$2` …; with one statement only. Text is taken for every type, in PostgreSQL's form.
    #[serde(default)]
    #[schema(value_type = Vec<Object>)]
    params: Vec<serde_json::Value>,
}

/// The answer to a statement that ran.
#[derive(Serialize, ToSchema)]
pub(super) struct QueryAnswer {
    /// Always true here.
    success: bool,
    /// The command tag: `SELECT 3`, `UPDATE 1` …
    message: String,
    /// The rows, each an object with the columns' names.
    #[schema(value_type = Vec<Object>)]
    data: Box<RawValue>,
    /// Names and types of the columns, in order. A name that comes again has `_2`, `_3` … appended.
    columns: Vec<AnswerColumn>,
    /// Rows returned, inserted, updated or deleted.
    rows_affected: u64,
    /// The sites that took part, where the engine tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    executed_on: Option<Vec<String>>,
    /// The commit's timestamp, where the engine tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<u64>,
    /// Whether rows beyond the limit were left out of `data`.
    truncated: bool,
    /// Notices and warnings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notices: Vec<String>,
}

/// A result column.
#[derive(Serialize, ToSchema)]
pub(super) struct AnswerColumn {
    /// The key in each row.
    name: String,
    /// The SQL type.
    #[serde(rename = "type")]
    #[schema(example = "integer")]
    ty: String,
}

/// Runs SQL.
#[utoipa::path(
    post,
    path = "/query",
    request_body = QueryRequest,
    responses(
        (status = 200, description = "The statement ran and is committed", body = QueryAnswer),
        (status = "4XX", description = "The statement, or the request, is wrong", body = super::ErrorAnswer),
        (status = "5XX", description = "The statement could not run now", body = super::ErrorAnswer),
    ),
    security((), ("basic" = [])),
)]
pub(super) async fn query(
    State(queries): State<Arc<Queries>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Result<Json<QueryAnswer>, Failure> {
    // Before the body is read: who has no business here may not send megabytes either.
    let user = queries.guard.user(peer, request.headers(), request.uri()).await?;
    let Json(request): Json<QueryRequest> = Json::from_request(request, &()).await.map_err(|rejection| {
        Failure::with_status(rejection.status(), Error::new(ErrorKind::ProtocolViolation, rejection.body_text()))
    })?;
    let startup = Startup {
        user,
        database: queries.database_name.clone(),
        settings: vec![("application_name".to_string(), "http".to_string())],
        process_id: 0,
    };
    let session = queries.database.connect(startup).await?;
    let canceller = session.canceller();
    canceller.reset();
    let cancel = CancelOnDrop(canceller.clone());
    let timeout = queries.limits.http_timeout;
    // A task of its own: when the client goes away, this future is dropped in the middle, and the engine must not be.
    let mut work = tokio::spawn(run(queries, session, canceller, request));
    let answer = match tokio::time::timeout(timeout, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            cancel.0.cancel();
            match tokio::time::timeout(CANCEL_TIME, &mut work).await {
                Ok(done) => done,
                Err(_) => {
                    work.abort();
                    let message = "the statement did not end in time, nor when it was cancelled";
                    return Err(Error::new(ErrorKind::QueryCanceled, message).indeterminate().into());
                }
            }
        }
    };
    let answer = answer.map_err(|e| Error::internal(format!("running a query failed: {e}")))??;
    Ok(Json(answer))
}

/// Cancels the statement when the request is given up.
struct CancelOnDrop(Arc<Canceller>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

async fn run(
    queries: Arc<Queries>,
    mut session: Box<dyn Session>,
    canceller: Arc<Canceller>,
    request: QueryRequest,
) -> Result<QueryAnswer> {
    let mut answer = statements(&queries, session.as_mut(), &canceller, &request).await;
    if answer.is_err() {
        session.fail();
    }
    let in_block = session.status() != TransactionStatus::Idle;
    if answer.is_ok() && in_block {
        answer =
            Err(Error::new(ErrorKind::ActiveTransaction, "the request leaves a transaction open: it is rolled back")
                .hint("Send the whole transaction in one request; without BEGIN it is one already."));
    }
    let synced = session.sync(answer.is_err()).await;
    let mut answer =
        answer.and_then(|answer| synced.map(|()| answer)).inspect_err(|error| queries.metrics.error(error))?;
    answer.notices = session.notices().into_iter().map(|n| format!("{}: {}", n.severity, n.message)).collect();
    Ok(answer)
}

async fn statements(
    queries: &Queries,
    session: &mut dyn Session,
    canceller: &Canceller,
    request: &QueryRequest,
) -> Result<QueryAnswer> {
    let statements = session.parse(&request.query)?;
    if statements.len() > 1 && !request.params.is_empty() {
        return Err(Error::new(ErrorKind::Syntax, "parameters go with a single statement"));
    }
    let mut answer = Rows::default().answer("", None)?;
    for statement in statements {
        let started = Instant::now();
        let prepared = session.prepare(statement, &[]).await?;
        if prepared.param_types.len() != request.params.len() {
            return Err(Error::new(
                ErrorKind::UndefinedParameter,
                format!(
                    "{} parameters were given where the statement has {}",
                    request.params.len(),
                    prepared.param_types.len()
                ),
            ));
        }
        let params = prepared.param_types.iter().zip(&request.params).map(|(ty, v)| json::parameter(ty, v));
        let params = params.collect::<Result<Vec<Value>>>()?;
        let execution = session.execute(&prepared, params).await?;
        let (kind, next) = collect(execution, canceller, &queries.limits).await?;
        queries.metrics.statement(kind, started.elapsed());
        if !next.columns.is_empty() {
            queries.metrics.rows(next.rows_affected);
        }
        answer = next;
    }
    Ok(answer)
}

async fn collect(execution: Execution, canceller: &Canceller, limits: &Limits) -> Result<(Kind, QueryAnswer)> {
    match execution {
        Execution::Empty => Ok((Kind::Other, Rows::default().answer("", None)?)),
        Execution::Done { tag, rows } => Ok((Kind::of(tag), Rows::default().answer(tag, rows)?)),
        Execution::Rows { columns, rows, tag } => {
            let mut collected = Rows::new(columns, limits);
            for row in &rows {
                collected.push(row.iter().map(Cell::from))?;
            }
            let count = Some(collected.count);
            Ok((Kind::of(tag), collected.answer(tag, count)?))
        }
        Execution::Batches { columns, mut stream, tag, .. } => {
            let mut collected = Rows::new(columns, limits);
            while let Some(batch) = stream.next().await {
                let batch = batch?;
                let cells = columns_of(&batch, &collected.columns)?;
                for row in 0..batch.num_rows() {
                    collected.push(cells.iter().map(|c| c.cell(row)))?;
                }
                // A SELECT need not be run to its end; a writing statement must be.
                if collected.truncated && tag == "SELECT" {
                    break;
                }
                if canceller.is_cancelled() {
                    return Err(Error::new(ErrorKind::QueryCanceled, "canceling statement due to timeout"));
                }
            }
            let count = Some(collected.count);
            Ok((Kind::of(tag), collected.answer(tag, count)?))
        }
        Execution::CopyIn(_) | Execution::CopyOut { .. } => {
            Err(Error::unsupported("COPY over HTTP").hint("Use the PostgreSQL wire protocol, or `atoll load`."))
        }
    }
}

/// Rows as they are collected.
#[derive(Default)]
struct Rows {
    columns: Vec<ResultColumn>,
    /// The keys, each with its colon, as JSON.
    keys: Vec<Vec<u8>>,
    names: Vec<String>,
    data: Vec<u8>,
    /// Rows given by the engine, and how many of them are in `data`.
    count: u64,
    kept: usize,
    max_rows: usize,
    max_bytes: usize,
    truncated: bool,
}

impl Rows {
    fn new(columns: Vec<ResultColumn>, limits: &Limits) -> Self {
        let names = distinct(&columns);
        let keys = names.iter().map(|name| {
            let mut key = Vec::new();
            json::write_string(name, &mut key);
            key.push(b':');
            key
        });
        Rows {
            keys: keys.collect(),
            names,
            columns,
            max_rows: limits.max_http_rows,
            max_bytes: limits.max_http_answer_bytes,
            ..Rows::default()
        }
    }

    fn push<'a>(&mut self, cells: impl Iterator<Item = Cell<'a>>) -> Result<()> {
        self.count += 1;
        if self.kept >= self.max_rows {
            self.truncated = true;
            return Ok(());
        }
        if self.kept > 0 {
            self.data.push(b',');
        }
        self.kept += 1;
        self.data.push(b'{');
        for (i, ((cell, column), key)) in cells.zip(&self.columns).zip(&self.keys).enumerate() {
            if i > 0 {
                self.data.push(b',');
            }
            self.data.extend_from_slice(key);
            json::write(&column.ty, cell, &mut self.data);
        }
        self.data.push(b'}');
        if self.data.len() > self.max_bytes {
            return Err(Error::new(
                ErrorKind::ProgramLimit,
                format!("the answer is larger than {} bytes", self.max_bytes),
            )
            .hint("Ask for fewer rows or columns, or use the PostgreSQL wire protocol."));
        }
        Ok(())
    }

    fn answer(self, tag: &str, count: Option<u64>) -> Result<QueryAnswer> {
        let message = match count {
            Some(n) => format!("{tag} {n}"),
            None => tag.to_string(),
        };
        let message = if self.truncated {
            format!("{message}; only the first {} rows are in this answer", self.kept)
        } else {
            message
        };
        let data = String::from_utf8([b"[", self.data.as_slice(), b"]"].concat())
            .map_err(|e| e.to_string())
            .and_then(|text| RawValue::from_string(text).map_err(|e| e.to_string()))
            .map_err(|e| Error::internal(format!("the answer is not JSON: {e}")))?;
        let columns = self.names.into_iter().zip(&self.columns);
        Ok(QueryAnswer {
            success: true,
            message,
            data,
            columns: columns.map(|(name, c)| AnswerColumn { name, ty: c.ty.to_string() }).collect(),
            rows_affected: count.unwrap_or(0),
            executed_on: None,
            timestamp: None,
            truncated: self.truncated,
            notices: Vec::new(),
        })
    }
}

/// The columns' names, made distinct: an object has each key once.
fn distinct(columns: &[ResultColumn]) -> Vec<String> {
    let mut seen: HashSet<String> = HashSet::new();
    let mut names = Vec::with_capacity(columns.len());
    for column in columns {
        let mut name = column.name.clone();
        let mut n = 2;
        while !seen.insert(name.clone()) {
            name = format!("{}_{n}", column.name);
            n += 1;
        }
        names.push(name);
    }
    names
}
