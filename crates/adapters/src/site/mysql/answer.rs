//! Answers to queries, as Arrow batches.
//!
//! The server has no cursors, and a connection serves one answer at a time: an answer is read while it is being used, about
//! [`PORTION`] bytes ahead, and the connection is its own until it ends. Should somebody else wait for the connection while nobody uses
//! the answer, it is read on, up to [`MAX_BUFFERED`] bytes ahead; should nobody want the rest, the server is told to stop. An answer is one statement of the
//! server, and so shows one moment at every level; what is written afterwards waits for its end, and is not in it.
//!
//! In `Serializable`, a query is answered twice, locked and in the snapshot, as scans are ([`super::scan`]). Where a statement has no snapshot
//! ([`Reading::AtOnce`]), whole rows come with those of the answer, and are remembered: somebody may lock them next.
//!
//! Invariant: whoever waits for the connection gets it, whether or not the answer is being used.

use super::branch::{Inner, Reading};
use super::layout::Layout;
use super::link::{Link, Queue, Reader};
use super::query::Statement;
use super::scan::{MAX_BUFFERED, PORTION, agree, undisturbed};
use super::seen::{key_number, number_of};
use super::values::{Params, decode, decode_computed, number};
use crate::site::columns::{self, Batch};
use arrow_array::RecordBatch;
use atoll_model::{Error, ErrorKind, Result, Row, hash_values};
use atoll_ports::session::BatchStream;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How long an answer may be left unused while somebody waits for the connection: perhaps its user does, too.
const PATIENCE: Duration = Duration::from_millis(50);

/// The answer to a query.
pub(super) fn answer(inner: Arc<Inner>, statement: Statement) -> BatchStream {
    stream::once(undisturbed(open(inner, statement))).try_flatten().boxed()
}

async fn open(inner: Arc<Inner>, statement: Statement) -> Result<BatchStream> {
    let layouts: Vec<&Layout> = statement.layouts.iter().map(|layout| &**layout).collect();
    let (link, reading) = inner.reader(&layouts).await?;
    if statement.types.is_empty() {
        return count(&inner, &link, &statement).await;
    }
    if inner.locks_reads() {
        let seen = inner.told(all(&link, &statement, "").await)?;
        let locked = inner.told(all(&link, &statement, link.flavor.shared()).await)?;
        inner.told(agree(&seen.numbers, &locked.numbers))?;
        return Ok(stream::iter(seen.batches.into_iter().map(Ok)).boxed());
    }
    let whole = reading == Reading::AtOnce && statement.shows_rows();
    let sql = statement.sql(whole, "")?;
    let ahead = Arc::new(Ahead::default());
    let mut reader = Forward {
        portion: Portion::new(Arc::new(statement)),
        remember: whole.then(|| inner.clone()),
        ahead: ahead.clone(),
        offered: false,
        idle_since: None,
    };
    let ending = Ending(ahead.clone());
    tokio::spawn(async move {
        let read = link.stream(&sql, &mut reader).await;
        // From here on the connection belongs to nobody, before the end is told.
        drop(link);
        ending.end(read.and_then(|()| reader.finish()));
    });
    let user = User { ahead, inner };
    Ok(stream::try_unfold(user, |user| async move { Ok(user.next().await?.map(|batch| (batch, user))) }).boxed())
}

async fn count(inner: &Inner, link: &Link, statement: &Statement) -> Result<BatchStream> {
    let number_of_rows = async |clause: &str| {
        let rows = link.query(&statement.sql(false, clause)?, Params::none()).await?;
        Ok(rows.first().map_or(0, |row| usize::try_from(number(row, 0)).unwrap_or_default()))
    };
    let rows = inner.told(number_of_rows("").await)?;
    if inner.locks_reads() {
        let locked = inner.told(number_of_rows(link.flavor.shared()).await)?;
        inner.told(agree(rows, locked))?;
    }
    Ok(stream::iter(columns::of_no_columns(statement.schema.clone(), rows, statement.batch_size())).boxed())
}

/// A whole answer.
struct All {
    batches: VecDeque<RecordBatch>,
    /// A number for each row, sorted: the server may give them in any order.
    numbers: Vec<u64>,
}

async fn all(link: &Link, statement: &Statement, clause: &str) -> Result<All> {
    // The text is what the portion has from the statement as well.
    let sql = statement.sql(false, clause)?;
    let mut portion = Portion::new(Arc::new(statement.clone()));
    let mut all = All { batches: VecDeque::new(), numbers: vec![] };
    let mut bytes = 0;
    link.each(&sql, Params::none(), &mut |wire| {
        let row = portion.decode(wire)?;
        bytes += row.iter().map(atoll_model::Value::size).sum::<usize>();
        if bytes > MAX_BUFFERED {
            return Err(too_large(portion.layout()));
        }
        all.numbers.push(hash_values(&row.iter().collect::<Vec<_>>()));
        all.batches.extend(portion.push(&row)?);
        Ok(())
    })
    .await?;
    all.batches.extend(portion.rest()?);
    all.numbers.sort_unstable();
    Ok(all)
}

/// A batch in the making.
struct Portion {
    statement: Arc<Statement>,
    batch: Batch,
    bytes: usize,
}

impl Portion {
    fn new(statement: Arc<Statement>) -> Self {
        Portion { batch: Batch::new(statement.schema.clone(), &statement.types), statement, bytes: 0 }
    }

    fn layout(&self) -> &Layout {
        // A statement reads a table at least.
        &self.statement.layouts[0]
    }

    /// The values of the answer's columns.
    fn decode(&self, wire: mysql_async::Row) -> Result<Row> {
        let types = &self.statement.types;
        let values = wire.unwrap().into_iter().zip(types).map(|(wire, ty)| decode_computed(ty, wire));
        values.collect::<Result<Row>>().map_err(|e| of_table(e, self.layout()))
    }

    /// Adds a row; a batch that is full.
    fn push(&mut self, row: &[atoll_model::Value]) -> Result<Option<RecordBatch>> {
        self.batch.push_values(row.iter())?;
        self.bytes += row.iter().map(atoll_model::Value::size).sum::<usize>();
        let full = self.batch.rows() >= self.statement.batch_size() || self.bytes > PORTION;
        if full { self.rest() } else { Ok(None) }
    }

    /// What has come since the last batch.
    fn rest(&mut self) -> Result<Option<RecordBatch>> {
        let next = Portion::new(self.statement.clone());
        let full = std::mem::replace(self, next).batch;
        if full.rows() == 0 { Ok(None) } else { full.finish().map(Some) }
    }
}

fn of_table(error: Error, layout: &Layout) -> Error {
    if error.table_name().is_none() { error.table(&layout.table.name) } else { error }
}

/// What has been read of an answer, and not used yet.
#[derive(Default)]
struct Ahead {
    held: Mutex<Held>,
    /// Something has come.
    come: Notify,
    /// Something has been used, or nothing will be any more.
    used: Notify,
}

#[derive(Default)]
struct Held {
    ready: VecDeque<RecordBatch>,
    bytes: usize,
    /// Batches that have been used.
    used: usize,
    end: Option<Result<()>>,
    given_up: bool,
}

impl Ahead {
    fn offer(&self, batch: RecordBatch, layout: &Layout) -> Result<()> {
        let mut held = self.held.lock();
        held.bytes += batch.get_array_memory_size();
        if held.bytes > MAX_BUFFERED {
            return Err(too_large(layout));
        }
        held.ready.push_back(batch);
        drop(held);
        self.come.notify_one();
        Ok(())
    }

    fn end(&self, end: Result<()>) {
        self.held.lock().end.get_or_insert(end);
        self.come.notify_one();
    }
}

/// Whatever becomes of the one who reads, the one who uses the answer is told.
struct Ending(Arc<Ahead>);

impl Ending {
    fn end(&self, end: Result<()>) {
        self.0.end(end);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(Err(Error::internal("an answer of a site was not read to its end")));
    }
}

/// Reads the answer ahead of its use.
struct Forward {
    portion: Portion,
    /// Where rows are remembered, if they come whole.
    remember: Option<Arc<Inner>>,
    ahead: Arc<Ahead>,
    /// A batch has been offered since there was room.
    offered: bool,
    /// How many had been used when patience ended.
    idle_since: Option<usize>,
}

impl Forward {
    fn finish(mut self) -> Result<()> {
        match self.portion.rest()? {
            Some(batch) => self.ahead.offer(batch, self.portion.layout()),
            None => Ok(()),
        }
    }

    /// Remembers the rows that lie behind the answer's columns.
    fn saw(&self, inner: &Inner, mut whole: impl Iterator<Item = mysql_async::Value>) -> Result<()> {
        for layout in &self.portion.statement.layouts {
            let row = layout.types().zip(whole.by_ref()).map(|(ty, wire)| decode(ty, wire)).collect::<Result<Row>>();
            let row = row.map_err(|e| of_table(e, layout))?;
            let key = layout.table.key_of(&row);
            // An outer join has brought none.
            if !key.iter().any(atoll_model::Value::is_null) {
                inner.seen.lock().saw(key_number(layout.fragment, &key), Some(number_of(&row)));
            }
        }
        Ok(())
    }
}

impl Reader for Forward {
    fn take(&mut self, row: mysql_async::Row) -> Result<()> {
        if let Some(inner) = &self.remember {
            self.saw(inner, row.clone().unwrap().into_iter().skip(self.portion.statement.types.len()))?;
        }
        let row = self.portion.decode(row)?;
        if let Some(batch) = self.portion.push(&row)? {
            self.offered = true;
            self.ahead.offer(batch, self.portion.layout())?;
        }
        Ok(())
    }

    async fn given_up(&self) {
        while !self.ahead.held.lock().given_up {
            self.ahead.used.notified().await;
        }
    }

    async fn room(&mut self, queue: &Queue) -> bool {
        if !std::mem::take(&mut self.offered) {
            return true;
        }
        loop {
            {
                let held = self.ahead.held.lock();
                if held.given_up {
                    return false;
                }
                let idle = self.idle_since == Some(held.used);
                if held.bytes < PORTION || idle && queue.is_waiting() {
                    return true;
                }
            }
            // The first two do not forget what has happened since it was looked.
            tokio::select! {
                () = self.ahead.used.notified() => {}
                () = queue.grown() => {}
                () = tokio::time::sleep(PATIENCE), if queue.is_waiting() => {
                    self.idle_since = Some(self.ahead.held.lock().used);
                }
            }
        }
    }
}

/// Uses the answer.
struct User {
    ahead: Arc<Ahead>,
    inner: Arc<Inner>,
}

impl User {
    async fn next(&self) -> Result<Option<RecordBatch>> {
        loop {
            {
                let mut held = self.ahead.held.lock();
                if let Some(batch) = held.ready.pop_front() {
                    held.bytes -= batch.get_array_memory_size();
                    held.used += 1;
                    drop(held);
                    self.ahead.used.notify_one();
                    return Ok(Some(batch));
                }
                if let Some(end) = held.end.clone() {
                    return self.inner.told(end).map(|()| None);
                }
            }
            self.ahead.come.notified().await;
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.ahead.held.lock().given_up = true;
        self.ahead.used.notify_one();
    }
}

fn too_large(layout: &Layout) -> Error {
    Error::new(
        ErrorKind::OutOfMemory,
        format!("more than {} MiB of an answer to be kept, of table \"{}\"", MAX_BUFFERED >> 20, layout.table.name),
    )
    .detail(
        "A connection to a MySQL site serves one answer at a time, and another one was wanted while this was not used.",
    )
    .hint("Ask for less of it, or put it into a table first.")
}
