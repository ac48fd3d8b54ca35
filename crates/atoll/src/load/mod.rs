//! `atoll load`: files into a table, through COPY.
//!
//! Invariant: each row of the files read so far is loaded or stands in a reject file, and what was not read is named
//! by its first line, so a load that stopped can be continued without losing or doubling a row.

pub mod pipeline;
pub mod progress;
mod rejects;
mod source;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::{Args, ValueEnum};
use tokio::sync::mpsc;

use crate::client::{ClientError, Target, quote_ident, quote_literal};
use crate::term;
use pipeline::{Batch, Counters, Loader, Reject, RejectSink};
use progress::{Measure, Progress};
use rejects::RejectFile;
use source::{Records, TableColumn, is_full, json_row};

/// Bytes of one batch, at most, but for its last row.
const BATCH_BYTES: usize = 4 << 20;

/// Flags of `atoll load`.
#[derive(Args, Debug)]
pub struct LoadArgs {
    /// The table, with its schema where it needs one
    table: String,
    /// Files or globs, plain or gzip; `-` is standard input
    #[arg(required = true)]
    files: Vec<String>,
    /// The server
    #[arg(long, env = "ATOLL_URL", default_value = crate::sql::DEFAULT_URL, hide_env_values = true)]
    url: String,
    /// The form of the files [default: by name: .json, .jsonl and .ndjson are JSON lines, others CSV]
    #[arg(long)]
    format: Option<Format>,
    /// The columns of a CSV file, in its order, instead of its header's
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    columns: Vec<String>,
    /// The first record of a CSV file is data
    #[arg(long)]
    no_header: bool,
    /// What stands between the fields of a CSV file
    #[arg(short, long, default_value = ",", value_parser = delimiter)]
    delimiter: char,
    /// What stands for NULL in a CSV file, unquoted
    #[arg(long, default_value = "", value_name = "TEXT")]
    null: String,
    /// Refused rows that are allowed; one more stops the load
    #[arg(long, default_value_t = 0, value_name = "N")]
    max_errors: u64,
    /// Write refused rows here [default: FILE.rej]
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Begin with this line of the file, to continue a load that stopped
    #[arg(long, value_name = "LINE", default_value_t = 1)]
    from_line: u64,
    /// Connections used at once
    #[arg(short, long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Rows in one COPY, which is one transaction
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    batch_rows: u32,
}

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Comma-separated values
    Csv,
    /// One JSON object on each line
    Json,
}

fn delimiter(text: &str) -> Result<char, String> {
    let mut chars = text.chars();
    match (text, chars.next(), chars.next()) {
        ("\\t" | "tab", ..) => Ok('\t'),
        (_, Some(c), None) if c.is_ascii() && !matches!(c, '"' | '\r' | '\n') => Ok(c),
        _ => Err("one ASCII character, or `tab`".into()),
    }
}

/// What ends a load before its rows are dealt with.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{0}: {1}")]
    File(String, io::Error),
    #[error("{0}")]
    Wrong(String),
}

/// Runs the load.
pub async fn run(args: LoadArgs) -> ExitCode {
    match load(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(refusal) => {
            term::fail(&refusal);
            let no_connection =
                matches!(refusal, Refusal::Client(ClientError::Connect { .. } | ClientError::Url { .. }));
            ExitCode::from(if no_connection { 2 } else { 1 })
        }
    }
}

async fn load(args: &LoadArgs) -> Result<bool, Refusal> {
    let target = Target::parse(&args.url)?;
    let columns = table_columns(&target, &args.table).await?;
    let files = expand(&args.files)?;
    if args.from_line > 1 && files.len() > 1 {
        return Err(Refusal::Wrong("--from-line takes one file".into()));
    }
    if args.rejects.is_some() && files.len() > 1 {
        return Err(Refusal::Wrong("--rejects takes one file; without it each file has its own".into()));
    }
    for file in &files {
        if !load_file(args, &target, &columns, file).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The files that names and globs stand for, in order.
fn expand(patterns: &[String]) -> Result<Vec<PathBuf>, Refusal> {
    let mut files = Vec::new();
    for pattern in patterns {
        if pattern == "-" || Path::new(pattern).exists() {
            files.push(PathBuf::from(pattern));
            continue;
        }
        let found = glob::glob(pattern).map_err(|e| Refusal::Wrong(format!("{pattern}: {e}")))?;
        let before = files.len();
        for file in found {
            files.push(file.map_err(|e| Refusal::Wrong(e.to_string()))?);
        }
        if files.len() == before {
            return Err(Refusal::Wrong(format!("{pattern}: no such file")));
        }
    }
    Ok(files)
}

async fn table_columns(target: &Target, table: &str) -> Result<Vec<TableColumn>, Refusal> {
    let part = |name: &str| match name.strip_prefix('"').and_then(|n| n.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => name.to_lowercase(),
    };
    let (schema, name) = match table.split_once('.') {
        Some((schema, name)) => (format!(" AND table_schema = {}", quote_literal(&part(schema))), part(name)),
        None => (String::new(), part(table)),
    };
    let mut client = target.connect().await?;
    let result = client
        .query(&format!(
            "SELECT column_name, data_type FROM information_schema.columns \
             WHERE table_name = {}{schema} ORDER BY table_schema, ordinal_position",
            quote_literal(&name)
        ))
        .await?;
    client.close().await;
    if result.rows.is_empty() {
        return Err(Refusal::Wrong(format!("there is no table {table} in {}", target.database())));
    }
    let text = |row: &crate::client::Row, i| row.get(i).unwrap_or_default().into_owned();
    Ok(result.rows.iter().map(|r| TableColumn { name: text(r, 0), data_type: text(r, 1) }).collect())
}

/// Loads one file, and says what came of it; false if it stopped.
async fn load_file(args: &LoadArgs, target: &Target, columns: &[TableColumn], file: &Path) -> Result<bool, Refusal> {
    let shown = if file.as_os_str() == "-" { "stdin".to_owned() } else { file.display().to_string() };
    let refuse = |e| Refusal::File(shown.clone(), e);
    let read = Arc::new(AtomicU64::new(0));
    let input = source::open(file, read.clone()).map_err(refuse)?;
    let size = std::fs::metadata(file).ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
    let rejects =
        Arc::new(RejectFile::new(args.rejects.clone().unwrap_or_else(|| PathBuf::from(format!("{shown}.rej")))));
    let counters = Arc::new(Counters::default());
    let mut reader = Reader {
        args,
        columns,
        batch: Batch::default(),
        counters: counters.clone(),
        rejects: rejects.clone(),
        records: Records::new(input, None),
        statement: "".into(),
        single: false,
    };
    let json = args.format.unwrap_or_else(|| guess(file)) == Format::Json;
    reader.begin(json, &shown)?;

    let progress = Progress::start(&shown, Measure::Bytes(read, size), counters.clone());
    let (sender, receiver) = mpsc::channel(usize::from(args.jobs));
    let loader = Loader { target: target.clone(), jobs: usize::from(args.jobs), max_errors: args.max_errors };
    let sink: Arc<RejectSink> = {
        let rejects = rejects.clone();
        Arc::new(move |reject: &Reject<'_>| rejects.write(reject))
    };
    let work = tokio::spawn(async move { loader.run(receiver, counters, sink).await });
    // Reading blocks; the other threads of the runtime go on meanwhile.
    let ended = tokio::task::block_in_place(|| reader.pump(json, &sender));
    drop(sender);
    let outcome = work.await.map_err(|e| Refusal::Wrong(format!("a loader ended: {e}")))?;
    let counters = &reader.counters;
    let rejected = counters.rejected.load(Ordering::Acquire);
    let untried = counters.untried.load(Ordering::Acquire);
    let summary = progress.finish();
    term::say(format_args!("{shown}: {summary}, {} rejected", term::thousands(rejected)));
    rejects.close().map_err(|e| Refusal::File(rejects.path().display().to_string(), e))?;
    if rejected > 0 {
        term::say(format_args!("{shown}: rejected rows are in {}", rejects.path().display()));
    }
    if let Some(failure) = &outcome.failure {
        term::fail(format_args!("{shown}: {failure}"));
    }
    if let Err(error) = &ended {
        term::fail(format_args!("{shown}: {error}"));
    }
    let stopped = rejected > args.max_errors;
    if stopped {
        term::fail(format_args!("{shown}: stopped after {rejected} rejected rows (--max-errors {})", args.max_errors));
        if untried > 0 {
            term::say(format_args!("{untried} rows of the same batches were not tried; they are in the reject file"));
        }
    }
    if stopped || outcome.failure.is_some() {
        match outcome.resume.or(ended.as_ref().ok().copied().flatten()) {
            Some(line) => {
                term::say(format_args!("nothing from line {line} on was loaded: continue with --from-line {line}"))
            }
            None => term::say("every line before the end of the file was dealt with"),
        }
    }
    Ok(!stopped && outcome.failure.is_none() && ended.is_ok())
}

fn guess(file: &Path) -> Format {
    let name = file.to_string_lossy().to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let json = [".json", ".jsonl", ".ndjson"].iter().any(|suffix| name.ends_with(suffix));
    if json { Format::Json } else { Format::Csv }
}

/// Reads a file into batches.
struct Reader<'a> {
    args: &'a LoadArgs,
    columns: &'a [TableColumn],
    batch: Batch,
    counters: Arc<Counters>,
    rejects: Arc<RejectFile>,
    records: Records<Box<dyn io::BufRead + Send>>,
    statement: Arc<str>,
    /// Whether rows have one column, so that an empty line is a value.
    single: bool,
}

impl Reader<'_> {
    /// Reads the header, and settles the statement.
    fn begin(&mut self, json: bool, shown: &str) -> Result<(), Refusal> {
        let args = self.args;
        let names: Vec<String> = if json {
            self.columns.iter().map(|c| c.name.clone()).collect()
        } else {
            self.records.set_quote(Some(b'"'));
            let header = if args.no_header { Vec::new() } else { self.header(shown)? };
            match (args.columns.is_empty(), args.no_header) {
                (false, _) => args.columns.clone(),
                (true, true) => self.columns.iter().map(|c| c.name.clone()).collect(),
                (true, false) => header,
            }
        };
        let mut mapped = Vec::new();
        for name in &names {
            let exact = self.columns.iter().find(|c| c.name == *name);
            let found = exact.or_else(|| self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name.trim())));
            match found {
                Some(column) => mapped.push(quote_ident(&column.name)),
                None => {
                    let known: Vec<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
                    return Err(Refusal::Wrong(format!(
                        "{shown}: table {} has no column \"{name}\"; it has {}. Name the file's columns with --columns",
                        args.table,
                        known.join(", ")
                    )));
                }
            }
        }
        self.single = mapped.len() == 1;
        let (delimiter, null) = if json { (',', "") } else { (args.delimiter, args.null.as_str()) };
        self.statement = format!(
            "COPY {} ({}) FROM STDIN WITH (FORMAT csv, DELIMITER {}, NULL {})",
            args.table,
            mapped.join(", "),
            quote_literal(&delimiter.to_string()),
            quote_literal(null)
        )
        .into();
        Ok(())
    }

    fn header(&mut self, shown: &str) -> Result<Vec<String>, Refusal> {
        let mut record = Vec::new();
        let read = self.records.next(&mut record).map_err(|e| Refusal::File(shown.to_owned(), e))?;
        if read.is_none() {
            return Err(Refusal::Wrong(format!("{shown}: the file is empty; a header was expected")));
        }
        // The delimiter is ASCII: checked when the flag was read.
        let mut parser = csv::ReaderBuilder::new()
            .has_headers(false)
            .delimiter(self.args.delimiter as u8)
            .from_reader(record.as_slice());
        let fields = parser.records().next().and_then(Result::ok);
        fields
            .map(|f| f.iter().map(str::to_owned).collect())
            .ok_or_else(|| Refusal::Wrong(format!("{shown}: the header cannot be read")))
    }

    /// Reads and sends until the end or a stop; the next line where it stopped.
    fn pump(&mut self, json: bool, sender: &mpsc::Sender<Batch>) -> io::Result<Option<u64>> {
        let mut record = Vec::new();
        loop {
            if self.counters.stop.load(Ordering::Acquire) {
                // What was read but not sent counts as not read.
                return Ok(Some(self.batch.lines.first().copied().unwrap_or(self.records.line)));
            }
            record.clear();
            let Some(line) = self.records.next(&mut record)? else {
                break;
            };
            let blank = record == b"\n" && (json || !self.single);
            if line < self.args.from_line || blank {
                continue;
            }
            self.take(json, line, &record)?;
            if is_full(&self.batch, self.args.batch_rows as usize, BATCH_BYTES) {
                self.send(sender);
            }
        }
        self.send(sender);
        Ok(None)
    }

    fn take(&mut self, json: bool, line: u64, record: &[u8]) -> io::Result<()> {
        if !json {
            if record == b"\\.\n" {
                // Servers before PostgreSQL 18 would take it for the end of the data.
                return self.refuse(line, record, "a line that is only \\. ends a COPY; quote it");
            }
            self.batch.data.extend_from_slice(record);
            self.batch.end_row(line);
            return Ok(());
        }
        let before = self.batch.data.len();
        if let Err(bad) = json_row(record, self.columns, &mut self.batch.data) {
            self.batch.data.truncate(before);
            return self.refuse(line, record, &bad.0);
        }
        self.batch.end_row(line);
        let (raw, ends) = self.batch.raw.get_or_insert_default();
        raw.extend_from_slice(record);
        ends.push(raw.len());
        Ok(())
    }

    fn refuse(&self, line: u64, row: &[u8], reason: &str) -> io::Result<()> {
        self.rejects.write(&Reject { line, sqlstate: "22P04", reason, row })?;
        if self.counters.rejected.fetch_add(1, Ordering::AcqRel) >= self.args.max_errors {
            self.counters.stop.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn send(&mut self, sender: &mpsc::Sender<Batch>) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        batch.statement = self.statement.clone();
        // The loaders receive until the sender is dropped, even after a stop.
        let _ = sender.blocking_send(batch);
    }
}
