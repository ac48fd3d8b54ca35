//! Cursors: DECLARE, FETCH, CLOSE.
//!
//! Invariant: a cursor shows the database as it was when it was declared. While only FETCH follows, rows come as the query gives
//! them; before any other statement runs (which may write, or take a newer snapshot), what is left is read and kept, within bounds.

use super::bound::{self, Bound};
use super::{SqlSession, transaction};
use crate::pg::parse::Statement;
use crate::syntax::fold;
use atoll_model::{Error, ErrorKind, Result, SqlType, Value};
use atoll_ports::session::{BatchStream, Execution, ResultColumn};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast::{
    Declare, DeclareType, FetchDirection, Ident, Statement as Ast, Value as Literal, ValueWithSpan,
};
use futures::{StreamExt, TryStreamExt};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Cursors that one session may have open.
const MAX_CURSORS: usize = 256;

/// Bytes of rows that one cursor keeps when other statements run beside it.
const MAX_KEPT_BYTES: usize = 256 << 20;

/// The cursors of a session by name.
pub(crate) type Cursors = HashMap<String, Cursor>;

/// An open cursor.
pub(crate) struct Cursor {
    columns: Vec<ResultColumn>,
    schema: SchemaRef,
    /// Rows that were read ahead.
    ahead: VecDeque<RecordBatch>,
    /// What is not read yet; `None`: nothing.
    rest: Option<BatchStream>,
    /// WITH HOLD: outlives its transaction.
    hold: bool,
    /// Its transaction has committed.
    held: bool,
    /// Savepoints that there were when it was declared: returning to an earlier one closes it.
    depth: usize,
}

impl Cursor {
    /// Its columns.
    pub(super) fn columns(&self) -> &[ResultColumn] {
        &self.columns
    }

    /// The next rows, at most so many.
    async fn fetch(&mut self, mut count: usize) -> Result<Vec<RecordBatch>> {
        let mut out = vec![];
        while count > 0 {
            let batch = match self.ahead.pop_front() {
                Some(batch) => batch,
                None => match self.next().await? {
                    Some(batch) => batch,
                    None => break,
                },
            };
            let taken = batch.num_rows().min(count);
            count -= taken;
            if taken < batch.num_rows() {
                self.ahead.push_front(batch.slice(taken, batch.num_rows() - taken));
            }
            out.push(batch.slice(0, taken));
        }
        Ok(out)
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(rest) = &mut self.rest else { return Ok(None) };
        let batch = rest.try_next().await?;
        if batch.is_none() {
            self.rest = None;
        }
        Ok(batch)
    }

    /// Reads what is left, so that nothing that happens from now on is seen.
    async fn keep(&mut self) -> Result<()> {
        let mut bytes: usize = self.ahead.iter().map(RecordBatch::get_array_memory_size).sum();
        while let Some(batch) = self.next().await? {
            bytes += batch.get_array_memory_size();
            if bytes > MAX_KEPT_BYTES {
                return Err(Error::new(
                    ErrorKind::ProgramLimit,
                    "a cursor with this many rows left can only be fetched from while no other statement runs",
                )
                .hint("Fetch its rows first, or read and write in different sessions."));
            }
            self.ahead.push_back(batch);
        }
        Ok(())
    }
}

fn undefined(name: &str) -> Error {
    Error::new(ErrorKind::InvalidCursorName, format!("cursor \"{name}\" does not exist"))
}

impl SqlSession {
    pub(super) async fn declare(
        &mut self,
        declares: &[Declare],
        declaration: &Bound,
        params: &[Value],
    ) -> Result<Execution> {
        let [Declare { names, declare_type: Some(DeclareType::Cursor), scroll, hold, for_query: Some(query), .. }] =
            declares
        else {
            return Err(Error::new(ErrorKind::Syntax, "DECLARE declares one cursor, FOR a query"));
        };
        let hold = *hold == Some(true);
        if !hold && !self.current.is_explicit() {
            return Err(Error::new(
                ErrorKind::NoActiveTransaction,
                "DECLARE CURSOR can only be used in transaction blocks",
            ));
        }
        if *scroll == Some(true) {
            return Err(Error::unsupported("cursors only go forward: SCROLL is not supported")
                .hint("Run the query again, or keep the rows in the client."));
        }
        let name = names.first().map(fold).unwrap_or_default();
        if self.cursors.contains_key(&name) {
            return Err(Error::new(ErrorKind::DuplicateCursor, format!("cursor \"{name}\" already exists")));
        }
        if self.cursors.len() >= MAX_CURSORS {
            return Err(Error::new(ErrorKind::ProgramLimit, format!("more than {MAX_CURSORS} cursors")));
        }
        self.keep_cursors().await?;
        let txn = self.transaction()?;
        txn.begin_statement().await?;
        self.authorize(declaration, txn.catalog())?;
        let tree = Arc::new(Statement::Sql(Box::new(Ast::Query(query.clone()))));
        let declared: Vec<Option<SqlType>> = declaration.param_types.iter().cloned().map(Some).collect();
        let prepared = self.bind(query.to_string().into(), tree, &declared).await?;
        let bound =
            prepared.plan.clone().downcast::<Bound>().map_err(|_| Error::internal("a plan of another engine"))?;
        let (schema, stream) = match self.query(&txn, &bound, &prepared, params.to_vec()).await? {
            Execution::Batches { schema, stream, .. } => (schema, stream),
            Execution::Rows { columns, rows, .. } => {
                let types: Vec<_> = columns.iter().map(|c| c.ty.clone()).collect();
                let schema = crate::rows::schema_of(columns.iter().map(|c| (c.name.as_str(), &c.ty)));
                let batch = crate::rows::to_batch(&schema, &types, &rows)?;
                (schema, futures::stream::iter([Ok(batch)]).boxed())
            }
            _ => return Err(Error::internal("a query that gives no rows")),
        };
        let columns = bound::columns_of(&schema)?;
        let depth = self.current.savepoints();
        let cursor = Cursor { columns, schema, ahead: VecDeque::new(), rest: Some(stream), hold, held: false, depth };
        self.cursors.insert(name, cursor);
        if hold && !self.current.is_explicit() {
            // Its transaction ends with this statement.
            self.keep_cursors().await?;
        }
        Ok(Execution::Done { tag: "DECLARE CURSOR", rows: None })
    }

    pub(super) async fn fetch(&mut self, name: &Ident, direction: &FetchDirection) -> Result<Execution> {
        let name = fold(name);
        let cursor = self.cursors.get_mut(&name).ok_or_else(|| undefined(&name))?;
        let count = match direction {
            FetchDirection::Next | FetchDirection::Forward { limit: None } => 1,
            FetchDirection::All | FetchDirection::ForwardAll => usize::MAX,
            FetchDirection::Count { limit } | FetchDirection::Forward { limit: Some(limit) } => number(limit)?,
            FetchDirection::Relative { limit } if number(limit)? == 1 => 1,
            _ => {
                return Err(Error::new(ErrorKind::NotInPrerequisiteState, "cursor can only scan forward")
                    .hint("Atoll's cursors are NO SCROLL."));
            }
        };
        let columns = cursor.columns.clone();
        let schema = cursor.schema.clone();
        let stream = if count == usize::MAX {
            let ahead: Vec<Result<RecordBatch>> = cursor.ahead.drain(..).map(Ok).collect();
            let ahead = futures::stream::iter(ahead);
            match cursor.rest.take() {
                Some(rest) => ahead.chain(rest).boxed(),
                None => ahead.boxed(),
            }
        } else {
            futures::stream::iter(cursor.fetch(count).await?.into_iter().map(Ok)).boxed()
        };
        Ok(Execution::Batches { columns, schema, stream: self.guard(stream), tag: "FETCH" })
    }

    /// CLOSE; `None` closes all.
    pub(super) fn close(&mut self, name: Option<&Ident>) -> Result<Execution> {
        match name.map(fold) {
            None => self.cursors.clear(),
            Some(name) => {
                self.cursors.remove(&name).ok_or_else(|| undefined(&name))?;
            }
        }
        Ok(Execution::Done { tag: if name.is_none() { "CLOSE CURSOR ALL" } else { "CLOSE CURSOR" }, rows: None })
    }

    /// Columns of what a FETCH gives, for clients that ask before running it.
    pub(super) fn cursor_columns(&self, name: &Ident) -> Vec<ResultColumn> {
        self.cursors.get(&fold(name)).map(|c| c.columns.clone()).unwrap_or_default()
    }

    /// Makes open cursors independent of what comes.
    pub(super) async fn keep_cursors(&mut self) -> Result<()> {
        for cursor in self.cursors.values_mut().filter(|c| c.rest.is_some()) {
            cursor.keep().await?;
        }
        Ok(())
    }

    /// Ends the cursors of a transaction that ends; those to be held stay after a commit.
    pub(super) fn end_cursors(&mut self, committed: bool) {
        self.cursors.retain(|_, c| c.held || (committed && c.hold));
        for cursor in self.cursors.values_mut() {
            cursor.held = true;
        }
    }

    /// Ends the cursors that were declared after a savepoint, which is the `at`th.
    pub(super) fn end_cursors_since(&mut self, at: usize) {
        self.cursors.retain(|_, c| c.held || c.depth <= at);
    }

    /// Fails unless the transaction may go on.
    pub(super) fn not_failed(&self) -> Result<()> {
        if self.current.is_failed() { Err(transaction::failed()) } else { Ok(()) }
    }
}

fn number(value: &ValueWithSpan) -> Result<usize> {
    match &value.value {
        Literal::Number(n, _) => n.parse().map_err(|_| {
            Error::new(ErrorKind::NumericOutOfRange, format!("value \"{n}\" is out of range for a number of rows"))
        }),
        other => Err(Error::new(ErrorKind::Syntax, format!("a number of rows is needed, not {other}"))),
    }
}
