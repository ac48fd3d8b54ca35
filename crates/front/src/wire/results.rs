//! Rows on their way to the client: from a portal or a simple query, at once or in pieces.
//!
//! Invariant: at most one batch is held; the next is asked for only when the client has taken the rows of the last.

use super::backend;
use super::channel::canceled;
use super::connection::Connection;
use super::frontend::{Formats, Message, violation};
use super::intake::Intake;
use super::stop::Stop;
use crate::cells::{Cell, Column, columns_of};
use crate::copy::{Decoder, encode};
use crate::metrics::Kind;
use atoll_model::{Error, ErrorKind, Result, Value};
use atoll_ports::session::{BatchStream, Canceller, CopyIn, CopyOptions, ResultColumn};
use futures::StreamExt;
use std::vec;

/// Rows that are left to send.
pub(super) struct Cursor {
    pub(super) columns: Vec<ResultColumn>,
    pub(super) tag: &'static str,
    source: Source,
}

enum Source {
    Rows(vec::IntoIter<Vec<Value>>),
    Batches { stream: BatchStream, current: Vec<Column>, next: usize, len: usize },
}

/// Whether a cursor has given all its rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Finished,
    Suspended,
}

impl Cursor {
    pub(super) fn rows(columns: Vec<ResultColumn>, rows: Vec<Vec<Value>>, tag: &'static str) -> Self {
        Cursor { columns, tag, source: Source::Rows(rows.into_iter()) }
    }

    pub(super) fn batches(columns: Vec<ResultColumn>, stream: BatchStream, tag: &'static str) -> Self {
        Cursor { columns, tag, source: Source::Batches { stream, current: Vec::new(), next: 0, len: 0 } }
    }
}

/// The next batch, unless the statement is cancelled first.
async fn next_batch(stream: &mut BatchStream, canceller: &Canceller) -> Option<Result<arrow_array::RecordBatch>> {
    tokio::select! {
        biased;
        batch = stream.next() => batch,
        () = canceller.cancelled() => Some(Err(canceled())),
    }
}

/// Tags without a number, as PostgreSQL has them.
fn counted(tag: &str) -> bool {
    !matches!(tag, "SHOW" | "EXPLAIN" | "CALL")
}

impl Connection {
    /// Sends rows, `max_rows` at most (0: all), and how the statement ended.
    pub(super) async fn fetch(
        &mut self,
        cursor: &mut Cursor,
        formats: &Formats,
        max_rows: usize,
    ) -> Result<Progress, Stop> {
        let limit = if max_rows == 0 { usize::MAX } else { max_rows };
        let mut sent = 0;
        let Cursor { columns, tag, source } = cursor;
        match source {
            Source::Rows(rows) => {
                while sent < limit
                    && let Some(row) = rows.next()
                {
                    if row.len() != columns.len() {
                        return Err(Error::internal("a result row has another number of values than columns").into());
                    }
                    backend::data_row(&mut self.channel.out, columns, formats, row.iter().map(Cell::from))?;
                    sent += 1;
                    self.channel.send_if_large().await?;
                }
            }
            Source::Batches { stream, current, next, len } => {
                while sent < limit {
                    if *next == *len {
                        let batch = self.channel.drive(&self.canceller, next_batch(stream, &self.canceller)).await?;
                        let Some(batch) = batch.transpose()? else { break };
                        *current = columns_of(&batch, columns)?;
                        (*next, *len) = (0, batch.num_rows());
                        continue;
                    }
                    let row = current.iter().map(|column| column.cell(*next));
                    backend::data_row(&mut self.channel.out, columns, formats, row)?;
                    *next += 1;
                    sent += 1;
                    self.channel.send_if_large().await?;
                    if self.canceller.is_cancelled() {
                        return Err(canceled().into());
                    }
                }
            }
        }
        self.metrics.rows(sent as u64);
        if sent == limit {
            backend::bare(&mut self.channel.out, backend::PORTAL_SUSPENDED);
            return Ok(Progress::Suspended);
        }
        self.channel.complete(tag, counted(tag).then_some(sent as u64));
        Ok(Progress::Finished)
    }

    /// `COPY … TO STDOUT`.
    pub(super) async fn copy_out(
        &mut self,
        options: &CopyOptions,
        columns: &[ResultColumn],
        mut stream: BatchStream,
    ) -> Result<Kind, Stop> {
        let rows = self.copy_out_rows(options, columns, &mut stream).await?;
        backend::bare(&mut self.channel.out, backend::COPY_DONE);
        self.metrics.rows(rows);
        self.channel.complete("COPY", Some(rows));
        Ok(Kind::Copy)
    }

    async fn copy_out_rows(
        &mut self,
        options: &CopyOptions,
        columns: &[ResultColumn],
        stream: &mut BatchStream,
    ) -> Result<u64, Stop> {
        backend::copy_response(&mut self.channel.out, b'H', columns.len());
        if options.header {
            backend::copy_data(&mut self.channel.out, |out| encode::header(options, columns, out))?;
        }
        let mut sent = 0;
        while let Some(batch) = self.channel.drive(&self.canceller, next_batch(stream, &self.canceller)).await? {
            let batch = batch?;
            let current = columns_of(&batch, columns)?;
            for row in 0..batch.num_rows() {
                let cells = current.iter().map(|column| column.cell(row));
                backend::copy_data(&mut self.channel.out, |out| encode::row(options, columns, cells, out))?;
                self.channel.send_if_large().await?;
            }
            sent += batch.num_rows() as u64;
            if self.canceller.is_cancelled() {
                return Err(canceled().into());
            }
        }
        Ok(sent)
    }

    /// `COPY … FROM STDIN`.
    pub(super) async fn copy_in(&mut self, copy: CopyIn) -> Result<Kind, Stop> {
        let rows = self.copy_in_rows(copy).await?;
        self.channel.complete("COPY", Some(rows));
        Ok(Kind::Copy)
    }

    async fn copy_in_rows(&mut self, copy: CopyIn) -> Result<u64, Stop> {
        let CopyIn { options, table, columns, schema, sink } = copy;
        let width = columns.len();
        let mut decoder = Decoder::new(options, table, columns, schema)?;
        backend::copy_response(&mut self.channel.out, b'G', width);
        self.channel.all_due();
        self.channel.send_due().await?;
        let mut intake = Intake::new(sink, self.workers.clone());
        let read = self.copy_data(&mut decoder, &mut intake).await;
        // The batch on its way came first, so its error does too; and nobody may write when the transaction ends.
        match self.channel.drive(&self.canceller, intake.settle()).await {
            Ok(settled) => settled?,
            Err(stop) => {
                self.canceller.cancel();
                let _ = intake.settle().await;
                return Err(stop);
            }
        }
        read?;
        Ok(self.channel.drive(&self.canceller, intake.finish()).await??)
    }

    /// Reads until the client says that it was all, while the engine takes the batch before.
    async fn copy_data(&mut self, decoder: &mut Decoder, intake: &mut Intake) -> Result<(), Stop> {
        loop {
            let frame = self.channel.next_copy_frame(&self.canceller).await?;
            match frame.decode()? {
                Message::CopyData(mut data) => {
                    while let Some(batch) = decoder.decode(&mut data)? {
                        self.channel.drive(&self.canceller, intake.push(batch, decoder.context())).await??;
                    }
                }
                Message::CopyDone => break,
                Message::CopyFail(why) => {
                    return Err(Error::new(ErrorKind::QueryCanceled, format!("COPY from stdin failed: {why}")).into());
                }
                // As in PostgreSQL: a client may have sent them before it knew of the COPY.
                Message::Flush | Message::Sync => {}
                Message::Terminate => return Err(Stop::Gone),
                _ => {
                    let message = format!("unexpected message type 0x{:02X} during COPY from stdin", frame.tag);
                    return Err(violation(message).into());
                }
            }
        }
        if let Some(batch) = decoder.finish()? {
            self.channel.drive(&self.canceller, intake.push(batch, decoder.context())).await??;
        }
        Ok(())
    }
}
