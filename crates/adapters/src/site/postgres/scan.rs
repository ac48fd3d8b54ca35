//! Reading a copy: one row by its key, or a range of an order as Arrow batches.
//!
//! Invariant: an answer is never left half-read on the connection while somebody else waits for it: one scan's slow reader would hold up
//! every other statement of the transaction. So large scans go through a cursor, in portions that are read to their end by a
//! task of their own, the next one while the last is being used; two portions of about [`PORTION`] bytes are what a scan keeps in memory.

use super::branch::{Inner, decode_row};
use super::connection::Link;
use super::layout::Layout;
use super::predicate::{key_equals, parameters, typed};
use super::types;
use super::values::{Param, Raw};
use crate::site::columns::{self, Batch};
use crate::site::predicate::Condition;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use atoll_model::{Error, ErrorKind, Result, Row, SqlType, Value};
use atoll_ports::query::SiteQuery;
use atoll_ports::session::BatchStream;
use atoll_ports::site::ScanRequest;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future, stream};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinHandle;
use tokio_postgres::{Column, RowStream};

/// A scan of at most so many rows is one answer.
const SMALL: usize = 1000;

/// Rows of the first portion; the later ones follow from how large rows are.
const FIRST_PORTION: usize = 1000;
const LAST_PORTION: usize = 65_536;

/// Bytes that a portion shall have.
const PORTION: usize = 4 << 20;

/// The row with this key.
pub(super) async fn get(inner: &Arc<Inner>, layout: &Layout, key: &[Value]) -> Result<Option<Row>> {
    if key.len() != layout.key.len() || key.iter().any(Value::is_null) {
        return Ok(None);
    }
    let link = inner.reader_of_rows().await?;
    let sql =
        format!("SELECT {} FROM {} WHERE {}", layout.columns, layout.relation, key_equals(layout, &layout.key, 1));
    let parameters: Vec<Param<'_>> = layout.key.iter().zip(key).map(|(at, v)| Param(layout.ty(*at), v)).collect();
    let rows = inner.told_of(layout, link.query(&sql, &typed(&parameters)).await)?;
    rows.first().map(|row| decode_row(layout, row, 0)).transpose()
}

/// Rows of a range.
pub(super) fn scan(inner: Arc<Inner>, layout: Arc<Layout>, request: ScanRequest) -> Result<BatchStream> {
    let plan = Plan::new(layout, &request)?;
    Ok(stream::once(async move { open(inner, plan).await }).try_flatten().boxed())
}

/// The answer to a query.
pub(super) fn query(inner: Arc<Inner>, layout: Arc<Layout>, query: &SiteQuery, sql: String) -> BatchStream {
    let outputs = query.outputs.iter();
    let plan = Plan {
        names: outputs.clone().map(|output| output.name.clone()).collect(),
        types: outputs.clone().map(|output| output.ty.clone()).collect(),
        schema: columns::schema(outputs.map(|output| (output.name.as_str(), &output.ty, output.nullable))),
        values: vec![],
        batch_size: query.batch_size.max(1),
        limit: query.limit.and_then(|n| usize::try_from(n).ok()),
        layout,
        sql,
    };
    stream::once(async move { open(inner, plan).await }).try_flatten().boxed()
}

/// What to ask the site for, and in which form to give it.
struct Plan {
    layout: Arc<Layout>,
    /// What the columns are called; none: the answer is the number of rows.
    names: Vec<String>,
    types: Vec<SqlType>,
    schema: SchemaRef,
    sql: String,
    values: Vec<(SqlType, Value)>,
    batch_size: usize,
    limit: Option<usize>,
}

impl Plan {
    fn new(layout: Arc<Layout>, request: &ScanRequest) -> Result<Self> {
        let order = layout.order(request.index)?;
        let (condition, values) = Condition::of_range(&*layout, &order, &request.range);
        let limit = request.limit.map(|n| format!(" LIMIT {n}")).unwrap_or_default();
        let sql = if request.columns.is_empty() {
            // Only their number counts.
            match request.limit {
                None => format!("SELECT count(*) FROM {}{condition}", layout.relation),
                Some(_) => format!("SELECT count(*) FROM (SELECT FROM {}{condition}{limit}) t", layout.relation),
            }
        } else {
            let direction = if request.reverse { " DESC" } else { "" };
            let order: Vec<String> = order.iter().map(|at| format!("{}{direction}", layout.ordered(*at))).collect();
            format!(
                "SELECT {} FROM {}{condition} ORDER BY {}{limit}",
                layout.list(&request.columns),
                layout.relation,
                order.join(", ")
            )
        };
        Ok(Plan {
            names: request.columns.iter().map(|at| layout.table.columns[*at].name.clone()).collect(),
            types: request.columns.iter().map(|at| layout.ty(*at).clone()).collect(),
            schema: layout.arrow(&request.columns),
            batch_size: request.batch_size.max(1),
            limit: request.limit,
            layout,
            sql,
            values,
        })
    }
}

impl Plan {
    fn check_types(&self, columns: &[Column]) -> Result<()> {
        let expected = self.names.iter().map(String::as_str).zip(&self.types);
        check_types(&self.layout.table.name, expected, columns)
    }
}

async fn open(inner: Arc<Inner>, plan: Plan) -> Result<BatchStream> {
    let (link, ask) = inner.reader().await?;
    if ask {
        inner.saw(&link).await?;
    }
    if plan.names.is_empty() {
        return count(&inner, &link, plan).await;
    }
    if plan.limit.is_some_and(|n| n <= SMALL) {
        let params = parameters(&plan.values);
        let rows = inner.told_of(&plan.layout, link.query(&plan.sql, &typed(&params)).await)?;
        let batches = rows.chunks(plan.batch_size).map(|rows| batch(&plan, rows)).collect::<Vec<_>>();
        return Ok(stream::iter(batches).boxed());
    }
    let cursor = Cursor::open(inner, link, plan);
    Ok(stream::try_unfold(cursor, |mut cursor| async move { Ok(cursor.next().await?.map(|batch| (batch, cursor))) })
        .boxed())
}

fn batch(plan: &Plan, rows: &[tokio_postgres::Row]) -> Result<RecordBatch> {
    let mut batch = Batch::new(plan.schema.clone(), &plan.types);
    for row in rows {
        plan.check_types(row.columns())?;
        batch.push((0..plan.types.len()).map(|at| raw(row, at)))?;
    }
    batch.finish()
}

async fn count(inner: &Inner, link: &Link, plan: Plan) -> Result<BatchStream> {
    let params = parameters(&plan.values);
    let rows = inner.told_of(&plan.layout, link.query(&plan.sql, &typed(&params)).await)?;
    let count: i64 = rows.first().and_then(|row| row.try_get(0).ok()).unwrap_or_default();
    let rows = usize::try_from(count).unwrap_or_default();
    Ok(stream::iter(columns::of_no_columns(plan.schema, rows, plan.batch_size)).boxed())
}

/// A cursor at the site, with a portion on its way.
struct Cursor {
    inner: Arc<Inner>,
    link: Arc<Link>,
    plan: Arc<Plan>,
    name: String,
    /// What [`Inner::close_cursor`] wants to know.
    returns: u64,
    ready: VecDeque<RecordBatch>,
    coming: Option<JoinHandle<Result<Portion>>>,
    asked: usize,
}

/// What one FETCH has brought.
struct Portion {
    batches: VecDeque<RecordBatch>,
    rows: usize,
    bytes: usize,
}

impl Cursor {
    fn open(inner: Arc<Inner>, link: Arc<Link>, plan: Plan) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("atoll_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let plan = Arc::new(plan);
        let coming = sent(first(link.clone(), plan.clone(), name.clone()));
        let returns = inner.returns();
        Cursor { inner, link, plan, name, returns, ready: VecDeque::new(), coming: Some(coming), asked: FIRST_PORTION }
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            let Some(coming) = self.coming.take() else { return Ok(None) };
            let fetched = coming.await.map_err(|e| Error::internal(format!("a scan at a site: {e}")))?;
            let portion = self.inner.told_of(&self.plan.layout, fetched)?;
            if portion.rows == self.asked {
                let size = (portion.bytes / portion.rows).max(1);
                self.asked = (PORTION / size).clamp(1, LAST_PORTION);
                let (link, plan, name) = (self.link.clone(), self.plan.clone(), self.name.clone());
                let count = self.asked;
                self.coming = Some(sent(async move { fetch(&link, &plan, &name, count).await }));
            } else {
                self.inner.close_cursor(&self.link, &self.name, self.returns);
            }
            self.ready = portion.batches;
        }
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        if self.coming.is_some() {
            // The task that fetches goes on to its portion's end, so that the connection is free for others after that.
            self.inner.close_cursor(&self.link, &self.name, self.returns);
        }
    }
}

/// Sends a request now, before whatever is sent to the site next (a CLOSE, a return to a savepoint), and leaves its answer to a task.
fn sent(request: impl Future<Output = Result<Portion>> + Send + 'static) -> JoinHandle<Result<Portion>> {
    let mut request = request.boxed();
    match (&mut request).now_or_never() {
        Some(done) => tokio::spawn(future::ready(done)),
        None => tokio::spawn(request),
    }
}

/// Declares the cursor and fetches at once.
async fn first(link: Arc<Link>, plan: Arc<Plan>, name: String) -> Result<Portion> {
    let params = parameters(&plan.values);
    let typed = typed(&params);
    let sql = format!("DECLARE {name} NO SCROLL CURSOR FOR {}", plan.sql);
    let declaring = link.watched(link.client().execute_typed(&sql, &typed));
    // In this order: both are sent by being polled first.
    let (declared, fetched) = future::join(declaring, fetch(&link, &plan, &name, FIRST_PORTION)).await;
    declared?.map_err(|e| link.failed(&e))?;
    fetched
}

async fn fetch(link: &Link, plan: &Plan, name: &str, count: usize) -> Result<Portion> {
    let sql = format!("FETCH FORWARD {count} FROM {name}");
    let none: [(&(dyn tokio_postgres::types::ToSql + Sync), tokio_postgres::types::Type); 0] = [];
    link.watched(async {
        let rows = link.client().query_typed_raw(&sql, none).await.map_err(|e| link.failed(&e))?;
        read(link, plan, rows).await
    })
    .await?
}

async fn read(link: &Link, plan: &Plan, rows: RowStream) -> Result<Portion> {
    let mut rows = std::pin::pin!(rows);
    let mut portion = Portion { batches: VecDeque::new(), rows: 0, bytes: 0 };
    let mut batch = Batch::new(plan.schema.clone(), &plan.types);
    // An answer is read to its end, also after a value that cannot be held.
    let mut wrong = None;
    while let Some(row) = rows.next().await {
        let row = row.map_err(|e| link.failed(&e))?;
        if wrong.is_some() {
            continue;
        }
        if portion.rows == 0
            && let Err(error) = plan.check_types(row.columns())
        {
            wrong = Some(error);
            continue;
        }
        if let Err(error) = batch.push((0..plan.types.len()).map(|at| raw(&row, at))) {
            wrong = Some(error);
            continue;
        }
        portion.rows += 1;
        portion.bytes += row.raw_size_bytes();
        if batch.rows() == plan.batch_size {
            let full = std::mem::replace(&mut batch, Batch::new(plan.schema.clone(), &plan.types));
            portion.batches.push_back(full.finish()?);
        }
    }
    if let Some(error) = wrong {
        return Err(error.table(&plan.layout.table.name));
    }
    if batch.rows() > 0 {
        portion.batches.push_back(batch.finish()?);
    }
    Ok(portion)
}

fn raw(row: &tokio_postgres::Row, at: usize) -> Result<Option<&[u8]>> {
    let value = row.try_get::<_, Raw<'_>>(at).map_err(|e| Error::internal(format!("a row of a site: {e}")))?;
    Ok(value.0)
}

/// Whether the site's columns are of the types that the table's definition says.
pub(super) fn check_types<'a>(
    table: &str,
    expected: impl Iterator<Item = (&'a str, &'a SqlType)>,
    columns: &[Column],
) -> Result<()> {
    for ((name, ty), column) in expected.zip(columns) {
        let oid = column.type_().oid();
        let known = oid == ty.pg_oid() || types::of_site(oid, -1).is_some_and(|site| types::carries(&site, ty));
        if !known {
            return Err(Error::new(
                ErrorKind::DatatypeMismatch,
                format!(
                    "column \"{name}\" of table \"{table}\" is of type {ty}, but of type {} at the site",
                    column.type_().name()
                ),
            )
            .hint("Somebody has changed the table at the site.")
            .table(table));
        }
    }
    Ok(())
}
