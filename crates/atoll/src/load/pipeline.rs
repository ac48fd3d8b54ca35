//! Copies batches of rows into a table over several connections, and finds the rows that the server refuses.
//!
//! A COPY takes all of its rows or none. A refused batch is split, at the line that the server names or else in the
//! middle, until each bad row stands alone. Invariant: every row handed in is loaded, handed to the reject sink, or
//! part of a batch from [`Outcome::resume`] on; nothing is dropped without a word. Memory is bounded by `jobs` batches
//! in work and as many waiting.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::client::{Client, ClientError, Target};

/// How often a batch that lost a conflict is tried again.
const RETRIES: u32 = 8;
/// The pause before the first retry; it doubles.
const PAUSE: Duration = Duration::from_millis(20);

/// Rows on their way to the server.
#[derive(Debug, Default)]
pub struct Batch {
    /// The COPY that takes them.
    pub statement: Arc<str>,
    /// The rows, as COPY wants them.
    pub data: Vec<u8>,
    /// Where each row ends in `data`.
    pub ends: Vec<usize>,
    /// The line of the source that each row begins on.
    pub lines: Vec<u64>,
    /// The rows as the source has them, where that differs from `data`; with their ends.
    pub raw: Option<(Vec<u8>, Vec<usize>)>,
}

impl Batch {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Notes that a row, begun on `line`, ends where `data` ends now.
    pub fn end_row(&mut self, line: u64) {
        self.ends.push(self.data.len());
        self.lines.push(line);
    }

    fn slice(&self, rows: Range<usize>) -> &[u8] {
        cut(&self.data, &self.ends, rows)
    }

    /// A row as the source has it.
    fn source_row(&self, row: usize) -> &[u8] {
        match &self.raw {
            Some((data, ends)) => cut(data, ends, row..row + 1),
            None => self.slice(row..row + 1),
        }
    }
}

fn cut<'a>(data: &'a [u8], ends: &[usize], rows: Range<usize>) -> &'a [u8] {
    let start = rows.start.checked_sub(1).map_or(0, |previous| ends[previous]);
    let end = rows.end.checked_sub(1).map_or(0, |last| ends[last]);
    &data[start..end]
}

/// A row that was not loaded.
#[derive(Debug)]
pub struct Reject<'a> {
    /// The line that it begins on.
    pub line: u64,
    /// The SQLSTATE of the refusal.
    pub sqlstate: &'a str,
    /// Why.
    pub reason: &'a str,
    /// The row as the source has it.
    pub row: &'a [u8],
}

/// Takes rejected rows.
pub type RejectSink = dyn Fn(&Reject<'_>) -> std::io::Result<()> + Send + Sync;

/// Counts, shared with whoever shows progress.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rows loaded.
    pub loaded: AtomicU64,
    /// Rows refused.
    pub rejected: AtomicU64,
    /// Rows not tried, because too many had been refused.
    pub untried: AtomicU64,
    /// Set when no more rows should be read.
    pub stop: AtomicBool,
}

/// How a load ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The line of the first row that was read but neither tried nor rejected.
    pub resume: Option<u64>,
    /// What stopped the load.
    pub failure: Option<LoadError>,
}

/// Why a load stopped.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The server refused the statement itself, not a row.
    #[error("lines {first} to {last} were not loaded: {source}")]
    Refused {
        /// The first line of the rows.
        first: u64,
        /// The last row's line.
        last: u64,
        /// What the server said.
        source: ClientError,
    },
    /// The connection was lost while rows were on their way.
    #[error("lines {first} to {last} may or may not have been loaded: {source}")]
    Unknown {
        /// The first line of the rows.
        first: u64,
        /// The last row's line.
        last: u64,
        /// What happened to the connection.
        source: ClientError,
    },
    /// The server took another number of rows than it was given.
    #[error("the server loaded {loaded} of the {sent} rows of lines {first} to {last} without an error")]
    Miscounted {
        /// Rows loaded.
        loaded: u64,
        /// Rows sent.
        sent: u64,
        /// The first line.
        first: u64,
        /// The last row's line.
        last: u64,
    },
    /// No connection was made.
    #[error(transparent)]
    Connect(#[from] ClientError),
    /// A row was refused where all of them are known to be good.
    #[error("the server refused {0}")]
    RowRefused(String),
    /// A rejected row could not be kept.
    #[error("a rejected row cannot be written: {0}")]
    Sink(std::io::Error),
}

/// Where rows go.
#[derive(Clone, Debug)]
pub struct Loader {
    /// The server.
    pub target: Target,
    /// Connections used at once.
    pub jobs: usize,
    /// Refused rows that are too many when exceeded.
    pub max_errors: u64,
}

struct Shared {
    batches: tokio::sync::Mutex<mpsc::Receiver<Batch>>,
    counters: Arc<Counters>,
    max_errors: u64,
    rejects: Arc<RejectSink>,
    outcome: Mutex<Outcome>,
}

impl Loader {
    /// Loads batches until there are no more, or something stops it.
    pub async fn run(
        &self,
        batches: mpsc::Receiver<Batch>,
        counters: Arc<Counters>,
        rejects: Arc<RejectSink>,
    ) -> Outcome {
        let shared = Arc::new(Shared {
            batches: tokio::sync::Mutex::new(batches),
            counters,
            max_errors: self.max_errors,
            rejects,
            outcome: Mutex::default(),
        });
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..self.jobs.max(1) {
            let (shared, target) = (shared.clone(), self.target.clone());
            workers.spawn(async move {
                if let Err(error) = shared.work(&target).await {
                    shared.fail(error);
                    shared.drain().await;
                }
            });
        }
        while let Some(joined) = workers.join_next().await {
            if let Err(panic) = joined {
                std::panic::resume_unwind(panic.into_panic());
            }
        }
        std::mem::take(&mut *shared.outcome.lock())
    }
}

impl Shared {
    async fn work(&self, target: &Target) -> Result<(), LoadError> {
        let mut client = target.connect().await?;
        while let Some(batch) = self.next().await {
            self.load(&mut client, &batch).await?;
        }
        client.close().await;
        Ok(())
    }

    /// The next batch to load. After a stop, notes where the batches begin that are not.
    async fn next(&self) -> Option<Batch> {
        // The stop is looked at under the lock, so that what is skipped always comes after what was tried.
        let mut batches = self.batches.lock().await;
        let batch = batches.recv().await?;
        if !self.counters.stop.load(Ordering::Acquire) {
            return Some(batch);
        }
        self.note_skipped(&batch);
        while let Some(batch) = batches.recv().await {
            self.note_skipped(&batch);
        }
        None
    }

    async fn drain(&self) {
        while self.next().await.is_some() {}
    }

    fn note_skipped(&self, batch: &Batch) {
        let resume = &mut self.outcome.lock().resume;
        if let Some(&line) = batch.lines.first() {
            *resume = Some(resume.map_or(line, |earlier| earlier.min(line)));
        }
    }

    fn fail(&self, error: LoadError) {
        self.counters.stop.store(true, Ordering::Release);
        self.outcome.lock().failure.get_or_insert(error);
    }

    async fn load(&self, client: &mut Client, batch: &Batch) -> Result<(), LoadError> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        ranges.push(0..batch.len());
        while let Some(rows) = ranges.pop() {
            if rows.is_empty() {
                continue;
            }
            if self.counters.rejected.load(Ordering::Acquire) > self.max_errors {
                self.counters.stop.store(true, Ordering::Release);
                for row in rows {
                    self.counters.untried.fetch_add(1, Ordering::AcqRel);
                    self.reject(batch, row, "", "not tried: too many rows before it were refused")?;
                }
                continue;
            }
            let error = match self.copy(client, batch, rows.clone()).await? {
                Ok(n) => {
                    self.counters.loaded.fetch_add(n, Ordering::AcqRel);
                    continue;
                }
                Err(error) => error,
            };
            if rows.len() == 1 {
                self.counters.rejected.fetch_add(1, Ordering::AcqRel);
                let reason = match &error {
                    ClientError::Server(e) => match &e.detail {
                        Some(detail) => format!("{}: {detail}", e.message),
                        None => e.message.clone(),
                    },
                    other => other.to_string(),
                };
                self.reject(batch, rows.start, error.sqlstate().unwrap_or_default(), &reason)?;
                continue;
            }
            match named_row(&error).map(|n| rows.start + n).filter(|bad| rows.contains(bad)) {
                Some(bad) => ranges.extend([bad + 1..rows.end, bad..bad + 1, rows.start..bad]),
                None => {
                    let middle = rows.start + rows.len() / 2;
                    ranges.extend([middle..rows.end, rows.start..middle]);
                }
            }
        }
        if self.counters.rejected.load(Ordering::Acquire) > self.max_errors {
            self.counters.stop.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn reject(&self, batch: &Batch, row: usize, sqlstate: &str, reason: &str) -> Result<(), LoadError> {
        let reject = Reject { line: batch.lines[row], sqlstate, reason, row: batch.source_row(row) };
        (self.rejects)(&reject).map_err(LoadError::Sink)
    }

    /// One COPY of some rows. The inner error is one of a row; the outer ends the load.
    async fn copy(
        &self,
        client: &mut Client,
        batch: &Batch,
        rows: Range<usize>,
    ) -> Result<Result<u64, ClientError>, LoadError> {
        let (first, last) = (batch.lines[rows.start], batch.lines[rows.end - 1]);
        let sent = rows.len() as u64;
        let mut pause = PAUSE;
        for attempt in 0.. {
            let copied = async {
                client.copy_start(&batch.statement).await?;
                client.copy_data(batch.slice(rows.clone())).await?;
                client.copy_end().await
            };
            return match copied.await {
                Ok(loaded) if loaded != sent => Err(LoadError::Miscounted { loaded, sent, first, last }),
                Ok(loaded) => Ok(Ok(loaded)),
                Err(error) if error.sqlstate().is_some_and(is_conflict) && attempt < RETRIES => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    continue;
                }
                Err(error) if error.sqlstate().is_some_and(is_about_a_row) => Ok(Err(error)),
                Err(source @ ClientError::Server(_)) => Err(LoadError::Refused { first, last, source }),
                Err(source) => Err(LoadError::Unknown { first, last, source }),
            };
        }
        unreachable!("the loop returns or goes on")
    }
}

/// Conflicts that another attempt may win: serialization failures and deadlocks.
fn is_conflict(code: &str) -> bool {
    matches!(code, "40001" | "40P01")
}

/// Errors that the data causes: data exceptions, violated constraints, values too large.
fn is_about_a_row(code: &str) -> bool {
    code.starts_with("22") || code.starts_with("23") || code == "54000"
}

/// The row, from 0, that an error names in its context (`COPY t, line 5, column a: ...`). Only a hint: a wrong one
/// costs a statement.
fn named_row(error: &ClientError) -> Option<usize> {
    let ClientError::Server(error) = error else {
        return None;
    };
    let context = error.context.as_deref()?;
    let digits = context.split_once(", line ")?.1;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse::<usize>().ok()?.checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ServerError;

    #[test]
    fn rows_are_cut_out_of_a_batch() {
        let mut batch = Batch::default();
        for (line, row) in [(2, "a\n"), (3, "bb\n"), (5, "c\n")] {
            batch.data.extend_from_slice(row.as_bytes());
            batch.end_row(line);
        }
        assert_eq!(batch.slice(0..3), b"a\nbb\nc\n");
        assert_eq!(batch.slice(1..2), b"bb\n");
        assert_eq!(batch.slice(0..0), b"");
        assert_eq!(batch.source_row(2), b"c\n");
    }

    #[test]
    fn the_line_that_an_error_names_is_found() {
        let error =
            |context: &str| ClientError::from(ServerError { context: Some(context.into()), ..ServerError::default() });
        assert_eq!(named_row(&error("COPY t, line 5, column a: \"x\"")), Some(4));
        assert_eq!(named_row(&error("COPY t, line 1")), Some(0));
        assert_eq!(named_row(&error("SQL function \"f\"")), None);
    }
}
