//! One connection after its start: the loop over messages, simple queries, transaction ends.
//!
//! Invariant: after an error in the extended protocol every message up to Sync is skipped; each Sync and each simple query is
//! answered by exactly one ReadyForQuery. A commit that fails takes the place of the CommandComplete before it, so that a
//! client which stops reading at CommandComplete never takes a lost transaction for a committed one.

use super::backend::{self, Severity};
use super::channel::Channel;
use super::extended::{Portal, Statement};
use super::frontend::{Formats, Message, violation};
use super::stop::Stop;
use super::workers::Workers;
use crate::config::Limits;
use crate::encode::Format;
use crate::metrics::{Kind, StatementMetrics};
use atoll_model::{Error, ErrorKind};
use atoll_ports::session::{Canceller, Execution, Parsed, Prepared, Session, TransactionStatus};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// A client's connection.
pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) session: Box<dyn Session>,
    pub(super) canceller: Arc<Canceller>,
    pub(super) workers: Workers,
    pub(super) limits: Arc<Limits>,
    pub(super) metrics: Arc<StatementMetrics>,
    /// Prepared statements; the unnamed one under the empty name.
    pub(super) statements: HashMap<Box<str>, Statement>,
    /// Portals; the unnamed one under the empty name.
    pub(super) portals: HashMap<Box<str>, Portal>,
    /// The engine was asked for something since the last sync.
    pub(super) dirty: bool,
    /// An extended message failed since the last Sync: skip to the next.
    pub(super) skipping: bool,
}

impl Connection {
    /// Serves the client until it leaves.
    pub(super) async fn run(mut self) {
        let stop = loop {
            if let Err(stop) = self.step().await {
                break stop;
            }
        };
        if let Stop::Fatal(error) = stop {
            self.metrics.error(&error);
            backend::error(&mut self.channel.out, Severity::Fatal, &error, None);
            self.channel.all_due();
        }
        self.channel.close().await;
    }

    async fn step(&mut self) -> Result<(), Stop> {
        let frame = self.channel.next_frame().await?;
        if self.skipping && !matches!(frame.tag, b'S' | b'X') {
            return Ok(());
        }
        let message = match frame.decode() {
            Ok(message) => message,
            Err(error) if matches!(frame.tag, b'Q' | b'F') => {
                self.fail(&error, None);
                return self.finish(true).await;
            }
            Err(error) => {
                self.fail_extended(&error, None);
                return Ok(());
            }
        };
        match message {
            Message::Query(sql) => self.simple_query(sql).await,
            Message::Sync => {
                let failed = std::mem::take(&mut self.skipping);
                self.finish(failed).await
            }
            Message::Flush => {
                self.channel.complete_stands();
                self.channel.all_due();
                self.channel.send_due().await
            }
            Message::Terminate => Err(Stop::Gone),
            // What is left of a COPY that has failed already.
            Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_) => Ok(()),
            Message::FunctionCall => {
                self.fail(&Error::unsupported("the function call protocol; use SELECT"), None);
                self.finish(true).await
            }
            Message::Password => Err(Stop::Fatal(violation("unexpected password message"))),
            extended => match self.extended(extended).await {
                Err(Stop::Failed { error, context }) => {
                    self.fail_extended(&error, context.as_deref());
                    Ok(())
                }
                other => other,
            },
        }
    }

    fn fail_extended(&mut self, error: &Error, context: Option<&str>) {
        self.fail(error, context);
        // A client that sent Flush instead of Sync waits for this before it sends more; that Flush will be skipped.
        self.channel.all_due();
        self.skipping = true;
    }

    /// Reports an error of a statement. As in PostgreSQL every one fails the transaction it happens in, also those that the
    /// engine does not see (a malformed parameter, a bad line of a COPY).
    fn fail(&mut self, error: &Error, context: Option<&str>) {
        self.session.fail();
        self.dirty = true;
        self.report(error, context);
    }

    /// Tells the client of an error, after the notices that came before it.
    pub(super) fn report(&mut self, error: &Error, context: Option<&str>) {
        self.notices();
        self.metrics.error(error);
        self.channel.complete_stands();
        backend::error(&mut self.channel.out, Severity::Error, error, context);
    }

    /// Passes on what the session has to say.
    pub(super) fn notices(&mut self) {
        for notice in self.session.notices() {
            self.channel.complete_stands();
            backend::notice(&mut self.channel.out, &notice);
        }
    }

    async fn simple_query(&mut self, sql: &str) -> Result<(), Stop> {
        // A simple query destroys the unnamed statement and portal.
        self.statements.remove("");
        self.portals.remove("");
        let failed = match self.simple_statements(sql).await {
            Ok(()) => false,
            Err(Stop::Failed { error, context }) => {
                self.fail(&error, context.as_deref());
                true
            }
            Err(stop) => return Err(stop),
        };
        self.finish(failed).await
    }

    async fn simple_statements(&mut self, sql: &str) -> Result<(), Stop> {
        let statements = self.session.parse(sql)?;
        if statements.is_empty() {
            backend::bare(&mut self.channel.out, backend::EMPTY_QUERY);
        }
        let mut from = 0;
        for statement in statements {
            let offset = locate(sql, &statement, &mut from);
            self.channel.complete_stands();
            self.simple_statement(statement).await.map_err(|stop| shift(stop, offset))?;
        }
        Ok(())
    }

    async fn simple_statement(&mut self, statement: Parsed) -> Result<(), Stop> {
        let started = Instant::now();
        self.dirty = true;
        self.canceller.reset();
        let prepared = self.channel.drive(&self.canceller, self.session.prepare(statement, &[])).await??;
        let execution = self.execute(&prepared, Vec::new()).await?;
        let all = Formats::All(Format::Text);
        let kind = self.answer(execution, &all, true).await?;
        self.metrics.statement(kind, started.elapsed());
        Ok(())
    }

    /// Runs a statement, unless it is one of those that concern this connection's own prepared statements.
    pub(super) async fn execute(
        &mut self,
        prepared: &Arc<Prepared>,
        params: Vec<atoll_model::Value>,
    ) -> Result<Execution, Stop> {
        if let Some(name) = deallocated(&prepared.sql)
            && !name.is_empty()
            && self.session.status() != TransactionStatus::Failed
            && self.statements.remove(name.as_str()).is_some()
        {
            return Ok(Execution::Done { tag: "DEALLOCATE", rows: None });
        }
        let execution = self.channel.drive(&self.canceller, self.session.execute(prepared, params)).await??;
        if let Execution::Done { tag: "DEALLOCATE ALL" | "DISCARD ALL", .. } = execution {
            self.statements.clear();
        }
        self.notices();
        Ok(execution)
    }

    /// Sends everything that a statement gave.
    async fn answer(&mut self, execution: Execution, formats: &Formats, describe: bool) -> Result<Kind, Stop> {
        use super::results::Cursor;
        match execution {
            Execution::Empty => {
                backend::bare(&mut self.channel.out, backend::EMPTY_QUERY);
                Ok(Kind::Other)
            }
            Execution::Done { tag, rows } => {
                self.channel.complete(tag, rows);
                Ok(Kind::of(tag))
            }
            Execution::CopyIn(copy) => self.copy_in(*copy).await,
            Execution::CopyOut { options, columns, schema: _, stream } => {
                self.copy_out(&options, &columns, stream).await
            }
            Execution::Batches { columns, stream, tag, .. } => {
                if describe {
                    backend::row_description(&mut self.channel.out, &columns, formats);
                }
                let mut cursor = Cursor::batches(columns, stream, tag);
                self.fetch(&mut cursor, formats, 0).await?;
                Ok(Kind::of(tag))
            }
            Execution::Rows { columns, rows, tag } => {
                if describe {
                    backend::row_description(&mut self.channel.out, &columns, formats);
                }
                let mut cursor = Cursor::rows(columns, rows, tag);
                self.fetch(&mut cursor, formats, 0).await?;
                Ok(Kind::of(tag))
            }
        }
    }

    /// Ends the implicit transaction and answers ReadyForQuery.
    async fn finish(&mut self, failed: bool) -> Result<(), Stop> {
        if std::mem::take(&mut self.dirty) {
            let done = self.channel.drive(&self.canceller, self.session.sync(failed)).await?;
            if let Err(error) = done {
                self.channel.take_back_complete();
                self.report(&error, None);
            }
            self.notices();
            for (name, value) in self.session.changed_settings() {
                backend::parameter_status(&mut self.channel.out, &name, &value);
            }
        }
        self.channel.complete_stands();
        let status = self.session.status();
        if status == TransactionStatus::Idle {
            // Portals live as long as their transaction.
            self.portals.clear();
        }
        backend::ready(&mut self.channel.out, status);
        self.channel.all_due();
        Ok(())
    }
}

/// Where the statement starts in the whole text, in characters: positions in its errors count from there.
fn locate(sql: &str, statement: &Parsed, from: &mut usize) -> u32 {
    let Some(at) = sql.get(*from..).and_then(|rest| rest.find(&*statement.sql)).map(|at| at + *from) else { return 0 };
    *from = at + statement.sql.len();
    u32::try_from(sql[..at].chars().count()).unwrap_or(u32::MAX)
}

fn shift(stop: Stop, offset: u32) -> Stop {
    match stop {
        Stop::Failed { error, context } => {
            let error = match error.position_in_statement() {
                Some(position) => error.position(position.saturating_add(offset)),
                None => error,
            };
            Stop::Failed { error, context }
        }
        other => other,
    }
}

/// The name in `DEALLOCATE [PREPARE] name`; `ALL` is for the engine.
fn deallocated(sql: &str) -> Option<String> {
    let keyword = sql.get(..10).filter(|w| w.eq_ignore_ascii_case("deallocate"))?;
    let mut rest = sql[keyword.len()..].trim().trim_end_matches(';').trim_end();
    if let Some(word) = rest.get(..8)
        && word.eq_ignore_ascii_case("prepare ")
    {
        rest = rest[8..].trim_start();
    }
    if rest.eq_ignore_ascii_case("all") {
        return None;
    }
    match rest.strip_prefix('"').and_then(|r| r.strip_suffix('"')) {
        Some(quoted) => Some(quoted.replace("\"\"", "\"")),
        None => Some(rest.to_ascii_lowercase()),
    }
}

/// What is refused when there are too many of something.
pub(super) fn too_many(what: &str, limit: usize) -> Error {
    Error::new(ErrorKind::ProgramLimit, format!("too many {what}: the limit is {limit}"))
        .hint("Close those that are no longer needed.")
}

#[cfg(test)]
mod tests {
    use super::deallocated;

    #[test]
    fn deallocate_names() {
        for (sql, want) in [
            ("DEALLOCATE a", Some("a")),
            ("deallocate prepare \"_pg3_0\" ;", Some("_pg3_0")),
            ("DEALLOCATE Abc", Some("abc")),
            ("DEALLOCATE ALL", None),
            ("SELECT 1", None),
            ("", None),
        ] {
            assert_eq!(deallocated(sql).as_deref(), want, "{sql}");
        }
    }
}
