//! `atoll demo`: a server with three sites, the news platform in it, and its queries. The sites are in this process, or at servers that
//! `--site` names.
//!
//! The demo is a client like any other: it makes the schema with SQL, loads through COPY, and asks over the wire.

pub mod news;
mod sites;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::client::{Client, ClientError, QueryResult, Target};
use crate::config::{ConfigError, LogConfig, ServeConfig};
use crate::load::pipeline::{Counters, LoadError, Loader, Reject, RejectSink};
use crate::load::progress::{Measure, Progress};
use crate::serve::StopSignals;
use crate::sql::{Format, Piece, Printer, Splitter, Style};
use crate::wiring::{self, RunningServer, StartError};
use crate::{logging, serve, term};
use news::{Scale, Table};
use sites::{Placement, SiteArg, SiteError};

const SCHEMA: &str = include_str!("../../../../examples/news/schema.sql");
const DERIVE: &str = include_str!("../../../../examples/news/derive.sql");
const QUERIES: &str = include_str!("../../../../examples/news/queries.sql");

/// Connections that load at once.
const JOBS: usize = 2;
/// Rows of a result that are shown.
const SHOWN_ROWS: usize = 10;

/// Flags of the demo.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How much data: 1 is 10,000 users, 10,000 articles and 1,000,000 readings; fractions are allowed
    #[arg(long, default_value_t = 1.0, value_name = "N", value_parser = scale)]
    scale: f64,
    /// Keep the database in this directory [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Have a site (beijing, hongkong) at a server of PostgreSQL, MySQL or MariaDB (repeatable)
    #[arg(long = "site", value_name = "NAME=URL")]
    sites: Vec<SiteArg>,
    /// End after the queries instead of serving
    #[arg(long)]
    exit: bool,
    /// Listen for PostgreSQL clients here [default: 127.0.0.1:5433, or a free port]
    #[arg(long, value_name = "HOST:PORT")]
    sql_addr: Option<SocketAddr>,
    /// Listen for HTTP clients here [default: 127.0.0.1:8080, or a free port]
    #[arg(long, value_name = "HOST:PORT")]
    http_addr: Option<SocketAddr>,
    /// What is logged
    #[arg(long, default_value = "warn", value_name = "FILTER")]
    log_level: String,
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(n) if n > 0.0 && n <= 1000.0 => Ok(n),
        _ => Err("a number above 0 and up to 1000".into()),
    }
}

/// What ends a demo early.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the server did not start: {0}")]
    Start(#[from] StartError),
    #[error("{doing}: {source}")]
    Statement { doing: String, source: ClientError },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("loading {table}: {source}")]
    Load { table: &'static str, source: LoadError },
    #[error("{0} holds a demo that was not loaded to the end: remove the directory and start again")]
    HalfLoaded(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs the demo.
pub async fn run(args: DemoArgs) -> ExitCode {
    match demo(args).await {
        Ok(()) => ExitCode::SUCCESS,
        // A reader of the output that went away has seen enough.
        Err(DemoError::Io(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error @ DemoError::Site(_)) => {
            term::fail(error);
            ExitCode::from(2)
        }
        Err(error) => {
            term::fail(error);
            ExitCode::FAILURE
        }
    }
}

async fn demo(args: DemoArgs) -> Result<(), DemoError> {
    let placement = Placement::of(&args.sites, &site_names())?;
    let mut signals = StopSignals::listen()?;
    // Dropped last, when the server has let go of it.
    let (data, _temporary) = match &args.data {
        Some(data) => (data.clone(), None),
        None => {
            let dir = tempfile::Builder::new().prefix("atoll-demo-").tempdir()?;
            (dir.path().to_owned(), Some(dir))
        }
    };
    let defaults = ServeConfig::default();
    let config = ServeConfig {
        data,
        sql_addr: args.sql_addr.unwrap_or_else(|| free_or_any("PostgreSQL clients", defaults.sql_addr)),
        http_addr: args.http_addr.unwrap_or_else(|| free_or_any("HTTP clients", defaults.http_addr)),
        log: LogConfig { level: args.log_level.clone(), ..LogConfig::default() },
        ..defaults
    };
    config.validate()?;
    logging::init(&config.log)?;
    let server = wiring::start(&config).await?;
    let shown = tokio::select! {
        shown = show(&args, &placement, &server) => shown,
        signal = signals.next() => {
            term::say(format_args!("{signal}: stopping"));
            serve::stop(server, &config, signals.next()).await;
            return Ok(());
        }
    };
    if shown.is_ok() && !args.exit {
        tell_how_to_connect(&args, &placement, &server)?;
        signals.next().await;
        term::say("stopping");
    }
    serve::stop(server, &config, signals.next()).await;
    shown
}

/// `wanted` if nobody listens there, else any port of the same host, and says so.
fn free_or_any(whose: &str, wanted: SocketAddr) -> SocketAddr {
    match TcpListener::bind(wanted) {
        Ok(_) => wanted,
        Err(error) => {
            term::say(format_args!("{wanted} is not free ({error}): {whose} get another port, shown below"));
            SocketAddr::new(wanted.ip(), 0)
        }
    }
}

/// Loads what is missing, and runs the queries.
async fn show(args: &DemoArgs, placement: &Placement, server: &RunningServer) -> Result<(), DemoError> {
    let target = Target::parse(&format!("postgres://atoll@{}/atoll", server.sql_addr()))?;
    let mut client = target.connect().await?;
    if is_loaded(args, placement, &mut client).await? {
        term::say("The data of an earlier demo is there.");
    } else {
        load(args, placement, &target, &mut client).await?;
    }
    ask(&mut client).await?;
    client.close().await;
    Ok(())
}

async fn is_loaded(args: &DemoArgs, placement: &Placement, client: &mut Client) -> Result<bool, DemoError> {
    let tables =
        client.query("SELECT table_name FROM information_schema.tables WHERE table_name = 'popular_rank'").await?;
    if tables.rows.is_empty() {
        return Ok(false);
    }
    for (site, sql) in placement.moves() {
        let fail = |source| DemoError::Statement { doing: format!("ALTER SITE {site}"), source };
        client.query(&sql).await.map_err(fail)?;
    }
    // Monthly ranks come last of all.
    let last = client.query("SELECT rank FROM popular_rank WHERE granularity = 'monthly' LIMIT 1").await?;
    if last.rows.is_empty() {
        let data = args.data.as_ref().map_or_else(String::new, |d| d.display().to_string());
        return Err(DemoError::HalfLoaded(data));
    }
    Ok(true)
}

async fn load(args: &DemoArgs, placement: &Placement, target: &Target, client: &mut Client) -> Result<(), DemoError> {
    let began = Instant::now();
    let scale = Scale::of(args.scale);
    term::say("Making the sites beijing and hongkong beside main, and the tables of a news platform.");
    for (site, engine) in placement.engines() {
        report(site, &format!("at a server, engine {engine}"));
    }
    for (title, sql) in statements(SCHEMA) {
        // Named before the statement is given a URL, with its password.
        let doing = match sites::made_by(&sql) {
            Some(site) => format!("CREATE SITE {site}"),
            None if title.is_empty() => sql.lines().next().unwrap_or_default().to_owned(),
            None => title,
        };
        let sql = placement.apply(sql);
        client.query(&sql).await.map_err(|source| DemoError::Statement { doing, source })?;
    }
    // At a server, two loads of keys that are unique over several fragments exclude each other.
    let jobs = if placement.is_empty() { JOBS } else { 1 };
    for table in Table::ALL {
        load_table(table, scale, target, jobs).await?;
    }
    for (title, sql) in statements(DERIVE) {
        let (label, _) = title.split_once(':').unwrap_or((title.as_str(), ""));
        let start = Instant::now();
        let result =
            client.query(&sql).await.map_err(|source| DemoError::Statement { doing: label.to_owned(), source })?;
        report(label, &rows_in(result.affected(), start.elapsed()));
    }
    report("in all", &format!("{:.1} s", began.elapsed().as_secs_f64()));
    Ok(())
}

/// Generates a table and loads it, through the same pipeline as `atoll load`.
pub async fn copy_table(
    table: Table,
    scale: Scale,
    target: &Target,
    jobs: usize,
    counters: Arc<Counters>,
) -> Result<(), LoadError> {
    let (sender, receiver) = mpsc::channel(jobs);
    let stop = counters.clone();
    let generator = tokio::task::spawn_blocking(move || {
        for batch in table.batches(scale) {
            let stopped = stop.stop.load(std::sync::atomic::Ordering::Acquire);
            if stopped || sender.blocking_send(batch).is_err() {
                return;
            }
        }
    });
    let refused: Arc<Mutex<Option<String>>> = Arc::default();
    let sink: Arc<RejectSink> = {
        let refused = refused.clone();
        Arc::new(move |r: &Reject<'_>| {
            refused.lock().get_or_insert_with(|| format!("row {}: {} (SQLSTATE {})", r.line, r.reason, r.sqlstate));
            Ok(())
        })
    };
    let loader = Loader { target: target.clone(), jobs, max_errors: 0 };
    let outcome = loader.run(receiver, counters, sink).await;
    // A generator cannot fail, and it ends once the loader does.
    let _ = generator.await;
    if let Some(failure) = outcome.failure {
        return Err(failure);
    }
    match refused.lock().take() {
        Some(row) => Err(LoadError::RowRefused(row)),
        None => Ok(()),
    }
}

async fn load_table(table: Table, scale: Scale, target: &Target, jobs: usize) -> Result<(), DemoError> {
    let counters = Arc::new(Counters::default());
    let progress = Progress::start(table.name(), Measure::Rows(table.rows(scale)), counters.clone());
    let copied = copy_table(table, scale, target, jobs, counters).await;
    let summary = progress.finish();
    copied.map_err(|source| DemoError::Load { table: table.name(), source })?;
    report(table.name(), &summary);
    Ok(())
}

fn report(label: &str, text: &str) {
    term::say(format_args!("  {label:<14} {text}"));
}

fn rows_in(rows: u64, elapsed: Duration) -> String {
    format!("{} rows in {:.2} s", term::thousands(rows), elapsed.as_secs_f64())
}

/// Runs the example's queries, each with its result, its time, and what each site was asked for.
async fn ask(client: &mut Client) -> Result<(), DemoError> {
    let colour = term::colours(&io::stdout());
    let style = Style { format: Format::Aligned, expanded: false, tuples_only: false, null: String::new() };
    let mut out = io::stdout().lock();
    for (title, sql) in statements(QUERIES) {
        let fail = |source| DemoError::Statement { doing: title.clone(), source };
        writeln!(out, "\n{}", term::bold(&title, colour))?;
        for line in sql.lines() {
            writeln!(out, "  {line}")?;
        }
        writeln!(out)?;
        let (result, first) = timed(client, &sql).await.map_err(fail)?;
        let (_, again) = timed(client, &sql).await.map_err(fail)?;
        let mut printer = Printer::begin(&style, result.columns.clone(), &mut out)?;
        for row in result.rows.iter().take(SHOWN_ROWS) {
            printer.row(row, &mut out)?;
        }
        printer.end(&mut out)?;
        writeln!(out, "{:.1} ms, {:.1} ms when asked again. Which sites were asked for what:", first, again)?;
        let plan = client.query(&format!("EXPLAIN {sql}")).await.map_err(fail)?;
        for line in plan.rows.iter().filter_map(|r| r.get(0)) {
            writeln!(out, "{}", term::dim(format_args!("    {line}"), colour))?;
        }
    }
    writeln!(out)?;
    out.flush()?;
    Ok(())
}

async fn timed(client: &mut Client, sql: &str) -> Result<(QueryResult, f64), ClientError> {
    let start = Instant::now();
    let result = client.query(sql).await?;
    Ok((result, start.elapsed().as_secs_f64() * 1e3))
}

fn tell_how_to_connect(args: &DemoArgs, placement: &Placement, server: &RunningServer) -> io::Result<()> {
    let (sql, http) = (server.sql_addr(), server.http_addr());
    let mut out = io::stdout().lock();
    writeln!(out, "Atoll is ready. From another terminal:")?;
    writeln!(out, "  psql -h {} -p {} -U atoll atoll", sql.ip(), sql.port())?;
    writeln!(out, "  atoll sql postgres://atoll@{sql}/atoll")?;
    writeln!(out, "  curl -s http://{http}/query -d '{{\"query\": \"SELECT count(*) FROM users\"}}'")?;
    match &args.data {
        Some(data) => writeln!(out, "Ctrl-C stops it; the data stays in {}.", data.display())?,
        None if placement.is_empty() => writeln!(out, "Ctrl-C stops it and removes the data.")?,
        None => writeln!(out, "Ctrl-C stops it; the tables at the servers stay there.")?,
    }
    out.flush()
}

/// The sites that the schema makes.
fn site_names() -> Vec<String> {
    statements(SCHEMA).iter().filter_map(|(_, sql)| sites::made_by(sql)).map(str::to_owned).collect()
}

/// The statements of a script, each with the comment lines before it.
fn statements(script: &str) -> Vec<(String, String)> {
    let (mut splitter, mut title, mut found) = (Splitter::default(), String::new(), Vec::new());
    for line in script.lines() {
        if splitter.is_empty() && line.trim().is_empty() {
            title.clear();
        }
        if let Some(comment) = line.strip_prefix("-- ").filter(|_| splitter.is_empty()) {
            title.push_str(if title.is_empty() { "" } else { " " });
            title.push_str(comment);
            continue;
        }
        for piece in splitter.push(line) {
            if let Piece::Statement(sql, _) = piece {
                let sql = sql.trim_end_matches(';').to_owned();
                found.push((std::mem::take(&mut title), sql));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_cut_into_titled_statements() {
        let found = statements("-- Head\n\n-- One\n-- two\nSELECT 1\n-- inside\n;\nSELECT 2;\n");
        assert_eq!(found, [("One two".into(), "SELECT 1\n-- inside\n".into()), (String::new(), "SELECT 2".to_owned())]);
    }

    #[test]
    fn every_query_of_the_example_has_a_title() {
        let queries = statements(QUERIES);
        assert_eq!(queries.len(), 8);
        assert!(queries.iter().chain(&statements(DERIVE)).all(|(title, _)| !title.is_empty()));
        assert_eq!(statements(SCHEMA).len(), 13);
        assert_eq!(site_names(), ["beijing", "hongkong"]);
    }
}
