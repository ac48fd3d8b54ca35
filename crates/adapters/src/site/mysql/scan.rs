//! Reading a copy: one row by its key, or a range of an order as Arrow batches.
//!
//! A connection serves one answer at a time, so no answer may stay half-read while somebody else waits for it. Large scans are read in portions:
//! each is a statement of its own, which begins behind the last row of the one before, in the order of the scan and then of the key; the
//! next one is fetched while the last is being used. Where the next statement would see another moment, or what was written since, a scan
//! is read to its end at once, up to [`MAX_BUFFERED`] bytes.
//!
//! In `Serializable`, everything is read twice: locked, and so as it is now and stays, and in the transaction's snapshot.
//!
//! Invariant: a scan shows one moment, and nothing that the transaction writes after its beginning.

use super::branch::{Inner, Reading};
use super::layout::Layout;
use super::link::Link;
use super::lock::concurrent_update;
use super::seen::{key_number, number_of};
use super::values::{Params, decode, decode_row, number};
use crate::site::columns::{self, Batch};
use crate::site::predicate::Condition;
use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use atoll_model::{Error, ErrorKind, Result, Row, SqlType, Value};
use atoll_ports::session::BatchStream;
use atoll_ports::site::{KeyRange, ScanRequest};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Rows of the first portion; the later ones follow from how large rows are.
const FIRST_PORTION: usize = 1000;
const LAST_PORTION: usize = 65_536;

/// Bytes that a portion shall have.
pub(super) const PORTION: usize = 4 << 20;

/// Bytes of a scan that is read at once.
pub(super) const MAX_BUFFERED: usize = 256 << 20;

/// The row with this key.
pub(super) async fn get(inner: &Arc<Inner>, layout: &Layout, key: &[Value]) -> Result<Option<Row>> {
    if key.len() != layout.key.len() || key.iter().any(Value::is_null) {
        return Ok(None);
    }
    let (link, reading) = inner.reader(&[layout]).await?;
    let sql = format!("SELECT {} FROM {} WHERE {}", layout.columns, layout.relation, layout.equal(&layout.key));
    let params = || Params::of(layout.key.iter().map(|at| layout.ty(*at)).zip(key));
    let rows = inner.told(link.query(&sql, params()?).await)?;
    if inner.locks_reads() {
        let locked = inner.told(link.query(&format!("{sql} {}", link.flavor.shared()), params()?).await)?;
        inner.told(agree(rows.first().map(wire), locked.first().map(wire)))?;
    }
    let row = rows.into_iter().next().map(|row| decode_row(row, layout.types())).transpose();
    let row = inner.told(row)?;
    if reading == Reading::AtOnce {
        inner.seen.lock().saw(key_number(layout.fragment, key), row.as_ref().map(number_of));
    }
    Ok(row)
}

/// The values of a row as they came.
fn wire(row: &mysql_async::Row) -> Vec<Option<&mysql_async::Value>> {
    (0..row.len()).map(|at| row.as_ref(at)).collect()
}

/// What the transaction sees has to be what is there.
pub(super) fn agree<T: PartialEq>(seen: T, locked: T) -> Result<()> {
    if seen == locked { Ok(()) } else { Err(concurrent_update()) }
}

/// Rows of a range.
pub(super) fn scan(inner: Arc<Inner>, layout: Arc<Layout>, request: ScanRequest) -> Result<BatchStream> {
    let plan = Plan::new(layout, request)?;
    Ok(stream::once(undisturbed(open(inner, plan))).try_flatten().boxed())
}

/// Does something with a connection to its end, also when nobody waits for it any more: half an answer would be left on the connection.
pub(super) async fn undisturbed<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.map_err(|e| Error::internal(format!("a question to a site: {e}")))?
}

/// What to ask the site for, and in which form to give it.
struct Plan {
    layout: Arc<Layout>,
    request: ScanRequest,
    types: Vec<SqlType>,
    schema: SchemaRef,
    /// The order, and after it the rest of the key, which makes it one without equals.
    order: Vec<usize>,
}

/// Which columns a statement returns, and where in them to find those that are wanted.
struct Shape {
    fetched: Vec<usize>,
    wanted: Vec<usize>,
    order: Vec<usize>,
    key: Vec<usize>,
}

impl Plan {
    fn new(layout: Arc<Layout>, request: ScanRequest) -> Result<Self> {
        let mut order = layout.order(request.index)?;
        let rest: Vec<usize> = layout.key.iter().copied().filter(|at| !order.contains(at)).collect();
        order.extend(rest);
        Ok(Plan {
            types: request.columns.iter().map(|at| layout.ty(*at).clone()).collect(),
            schema: layout.arrow(&request.columns),
            request,
            layout,
            order,
        })
    }

    fn batch(&self) -> Batch {
        Batch::new(self.schema.clone(), &self.types)
    }

    /// The columns that are asked for; all of them if rows are to be remembered.
    fn shape(&self, all: bool) -> Shape {
        let mut fetched =
            if all { (0..self.layout.table.columns.len()).collect() } else { self.request.columns.clone() };
        for at in &self.order {
            if !fetched.contains(at) {
                fetched.push(*at);
            }
        }
        // Every position asked for is in `fetched` by now.
        let places = |positions: &[usize]| -> Vec<usize> {
            positions.iter().filter_map(|at| fetched.iter().position(|f| f == at)).collect()
        };
        Shape {
            wanted: places(&self.request.columns),
            order: places(&self.order),
            key: places(&self.layout.key),
            fetched,
        }
    }

    /// What is left of the range behind a row.
    fn range(&self, last: Option<&Vec<Value>>) -> KeyRange {
        let mut range = self.request.range.clone();
        if let Some(last) = last {
            let bound = Bound::Excluded(last.clone());
            if self.request.reverse { range.upper = bound } else { range.lower = bound }
        }
        range
    }

    fn sql(&self, shape: &Shape, read: &Read<'_>, clause: &str) -> Result<(String, Params)> {
        let layout = &*self.layout;
        let (condition, values) = Condition::of_range(layout, &self.order, &self.range(read.last));
        let direction = if self.request.reverse { " DESC" } else { "" };
        let order = self.order.iter().map(|at| {
            let column = layout.column(*at);
            // NULLs come last; the server has them first.
            let nullable = !layout.table.columns[*at].not_null && !layout.key.contains(at);
            let nulls = if nullable { format!("{column} IS NULL{direction}, ") } else { String::new() };
            format!("{nulls}{column}{direction}")
        });
        let sql = format!(
            "SELECT {} FROM {}{condition} ORDER BY {}{}",
            layout.list(&shape.fetched),
            layout.relation,
            order.collect::<Vec<_>>().join(", "),
            read.limit.map(|n| format!(" LIMIT {n}")).unwrap_or_default()
        );
        Ok((format!("{sql} {clause}"), Params::of(values.iter().map(|(ty, value)| (ty, value)))?))
    }

    fn count_sql(&self, clause: &str) -> Result<(String, Params)> {
        let relation = &self.layout.relation;
        let (condition, values) = Condition::of_range(&*self.layout, &self.order, &self.request.range);
        let sql = match self.request.limit {
            None => format!("SELECT COUNT(*) FROM {relation}{condition} {clause}"),
            Some(n) => format!("SELECT COUNT(*) FROM (SELECT 1 FROM {relation}{condition} LIMIT {n} {clause}) t"),
        };
        Ok((sql, Params::of(values.iter().map(|(ty, value)| (ty, value)))?))
    }
}

async fn open(inner: Arc<Inner>, plan: Plan) -> Result<BatchStream> {
    let (link, reading) = inner.reader(&[&plan.layout]).await?;
    if plan.request.columns.is_empty() {
        return count(&inner, &link, plan).await;
    }
    let progress = Progress {
        ready: VecDeque::new(),
        last: None,
        asked: plan.request.limit.unwrap_or(usize::MAX).min(FIRST_PORTION),
        left: plan.request.limit,
        done: plan.request.limit == Some(0),
        coming: None,
    };
    let cursor = Arc::new(Cursor { inner, link, plan: Arc::new(plan), progress: tokio::sync::Mutex::new(progress) });
    match reading {
        Reading::AtOnce => cursor.read_at_once().await?,
        Reading::PortionsBeforeWrites => cursor.inner.register(&cursor),
        Reading::Portions => {}
    }
    Ok(stream::try_unfold(cursor, |cursor| async move { Ok(cursor.next().await?.map(|batch| (batch, cursor))) })
        .boxed())
}

async fn count(inner: &Inner, link: &Link, plan: Plan) -> Result<BatchStream> {
    let rows = inner.told(number_of_rows(link, &plan, "").await)?;
    if inner.locks_reads() {
        let locked = inner.told(number_of_rows(link, &plan, link.flavor.shared()).await)?;
        inner.told(agree(rows, locked))?;
    }
    let batches = columns::of_no_columns(plan.schema, rows, plan.request.batch_size.max(1));
    Ok(stream::iter(batches).boxed())
}

async fn number_of_rows(link: &Link, plan: &Plan, clause: &str) -> Result<usize> {
    let (sql, params) = plan.count_sql(clause)?;
    let rows = link.query(&sql, params).await?;
    Ok(rows.first().map_or(0, |row| usize::try_from(number(row, 0)).unwrap_or_default()))
}

/// A scan in portions.
pub(super) struct Cursor {
    inner: Arc<Inner>,
    link: Arc<Link>,
    plan: Arc<Plan>,
    progress: tokio::sync::Mutex<Progress>,
}

/// How far it has come.
struct Progress {
    ready: VecDeque<RecordBatch>,
    /// The values of the order in the last row that was read.
    last: Option<Vec<Value>>,
    /// Rows of the portion that comes next.
    asked: usize,
    /// Rows that may still come.
    left: Option<usize>,
    done: bool,
    coming: Option<JoinHandle<Result<Portion>>>,
}

/// What one statement has brought.
struct Portion {
    batches: VecDeque<RecordBatch>,
    rows: usize,
    bytes: usize,
    last: Option<Vec<Value>>,
}

impl Cursor {
    async fn next(&self) -> Result<Option<RecordBatch>> {
        let mut progress = self.progress.lock().await;
        loop {
            if let Some(batch) = progress.ready.pop_front() {
                return Ok(Some(batch));
            }
            if progress.done {
                return Ok(None);
            }
            let portion = self.portion(&mut progress).await?;
            progress.absorb(portion);
            if !progress.done {
                progress.coming = Some(tokio::spawn(self.fetch(&progress)));
            }
        }
    }

    /// The portion that comes next.
    async fn portion(&self, progress: &mut Progress) -> Result<Portion> {
        let coming = progress.coming.take().unwrap_or_else(|| tokio::spawn(self.fetch(progress)));
        self.inner.told(coming.await.map_err(|e| Error::internal(format!("a scan at a site: {e}")))?)
    }

    fn fetch(&self, progress: &Progress) -> impl Future<Output = Result<Portion>> + Send + use<> {
        let (link, plan, last) = (self.link.clone(), self.plan.clone(), progress.last.clone());
        let (asked, locked) = (progress.asked, self.inner.locks_reads());
        async move {
            let read = Read { last: last.as_ref(), limit: Some(asked), bound: usize::MAX, locked };
            fetch(&link, &plan, &read, &mut |_, _| {}).await
        }
    }

    /// Reads what is left, before something is written.
    pub(super) async fn read_to_the_end(&self) -> Result<()> {
        let mut progress = self.progress.lock().await;
        if progress.coming.is_some() {
            let portion = self.portion(&mut progress).await?;
            progress.absorb(portion);
        }
        if progress.done {
            return Ok(());
        }
        let (last, left) = (progress.last.clone(), progress.left);
        let locked = self.inner.locks_reads();
        let read = Read { last: last.as_ref(), limit: left, bound: MAX_BUFFERED, locked };
        let rest = fetch(&self.link, &self.plan, &read, &mut |_, _| {}).await;
        let rest = self.inner.told(rest)?;
        progress.absorb(rest);
        progress.done = true;
        Ok(())
    }

    /// Reads all, and remembers what was read.
    async fn read_at_once(&self) -> Result<()> {
        let mut progress = self.progress.lock().await;
        if progress.done {
            return Ok(());
        }
        let fragment = self.plan.layout.fragment;
        let width = self.plan.layout.table.columns.len();
        let mut remember = |key: &[Value], row: &[Value]| {
            let number = number_of(&row[..width].to_vec());
            self.inner.seen.lock().saw(key_number(fragment, key), Some(number));
        };
        let read = Read { last: None, limit: progress.left, bound: MAX_BUFFERED, locked: false };
        let all = fetch(&self.link, &self.plan, &read, &mut remember).await;
        let all = self.inner.told(all)?;
        progress.absorb(all);
        progress.done = true;
        Ok(())
    }
}

impl Progress {
    fn absorb(&mut self, portion: Portion) {
        self.left = self.left.map(|left| left.saturating_sub(portion.rows));
        self.done = portion.rows < self.asked || self.left == Some(0);
        if let Some(size) = portion.bytes.checked_div(portion.rows) {
            self.asked = (PORTION / size.max(1)).clamp(1, LAST_PORTION).min(self.left.unwrap_or(usize::MAX));
        }
        self.last = portion.last.or(self.last.take());
        self.ready.extend(portion.batches);
    }
}

/// Which rows to read.
struct Read<'a> {
    /// Those behind this one.
    last: Option<&'a Vec<Value>>,
    limit: Option<usize>,
    /// Bytes at most; where there is such a bound, nothing can be read later.
    bound: usize,
    /// They have to be locked.
    locked: bool,
}

/// Reads rows. `see` is given the key and all columns of each, where there is a bound.
async fn fetch(
    link: &Link,
    plan: &Plan,
    read: &Read<'_>,
    see: &mut (dyn FnMut(&[Value], &[Value]) + Send),
) -> Result<Portion> {
    let portion = fetch_as(link, plan, read, "", see).await?;
    if read.locked {
        let locked = fetch_as(link, plan, read, link.flavor.shared(), &mut |_, _| {}).await?;
        agree((&portion.batches, &portion.last), (&locked.batches, &locked.last))?;
    }
    Ok(portion)
}

async fn fetch_as(
    link: &Link,
    plan: &Plan,
    read: &Read<'_>,
    clause: &str,
    see: &mut (dyn FnMut(&[Value], &[Value]) + Send),
) -> Result<Portion> {
    let bound = read.bound;
    let shape = plan.shape(bound < usize::MAX);
    let (sql, params) = plan.sql(&shape, read, clause)?;
    let types: Vec<&SqlType> = shape.fetched.iter().map(|at| plan.layout.ty(*at)).collect();
    let batch_size = plan.request.batch_size.max(1);
    let mut portion = Portion { batches: VecDeque::new(), rows: 0, bytes: 0, last: None };
    let mut batch = plan.batch();
    let pick = |row: &[Value], places: &[usize]| places.iter().map(|at| row[*at].clone()).collect::<Vec<_>>();
    link.each(&sql, params, &mut |wire| {
        let row = wire.unwrap().into_iter().zip(&types).map(|(wire, ty)| decode(ty, wire)).collect::<Result<Row>>()?;
        portion.rows += 1;
        portion.bytes += shape.wanted.iter().map(|at| row[*at].size()).sum::<usize>();
        if portion.bytes > bound {
            return Err(too_large(plan));
        }
        batch.push_values(shape.wanted.iter().map(|at| &row[*at]))?;
        if batch.rows() == batch_size {
            portion.batches.push_back(std::mem::replace(&mut batch, plan.batch()).finish()?);
        }
        if bound < usize::MAX {
            see(&pick(&row, &shape.key), &row);
        }
        portion.last = Some(pick(&row, &shape.order));
        Ok(())
    })
    .await
    .map_err(|e| if e.table_name().is_none() { e.table(&plan.layout.table.name) } else { e })?;
    if batch.rows() > 0 {
        portion.batches.push_back(batch.finish()?);
    }
    Ok(portion)
}

fn too_large(plan: &Plan) -> Error {
    Error::new(
        ErrorKind::OutOfMemory,
        format!("more than {} MiB of table \"{}\" to be kept", MAX_BUFFERED >> 20, plan.layout.table.name),
    )
    .detail("In a transaction that writes, a MySQL site's rows have to be read at once.")
    .hint("Read them before the first write, in ISOLATION LEVEL REPEATABLE READ, or in another transaction.")
}
