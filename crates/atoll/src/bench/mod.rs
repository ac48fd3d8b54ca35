//! `atoll bench`: Atoll beside PostgreSQL on this machine, in one run, as Markdown for `docs/benchmarks.md`.
//!
//! Invariant: both servers run with default settings on the same disk, rounds alternate between them, and medians are
//! compared, so that a slow moment of the machine meets both.

mod copy;
mod pgbench;
mod report;
mod servers;
mod sites;
mod tpch;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::client::ClientError;
use crate::term;
pub use servers::Server;

/// Flags of `atoll bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// Rounds of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each round of pgbench
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// pgbench's scale: 100,000 accounts each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pgbench_scale: u32,
    /// TPC-H's scale: 1 is about 1 GB
    #[arg(long, default_value_t = 0.1, value_name = "N")]
    tpch_scale: f64,
    /// The scale of the demo's readings: 1 is a million
    #[arg(long, default_value_t = 1.0, value_name = "N")]
    copy_scale: f64,
    /// The directory of PostgreSQL's programs [default: the newest below /usr/lib/postgresql, 15 before others]
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
}

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// All of them
    All,
    /// Point reads and TPC-B with PostgreSQL's own pgbench
    Pgbench,
    /// COPY of the demo's readings
    Copy,
    /// The 22 queries of TPC-H
    Tpch,
    /// Atoll over two PostgreSQL servers, beside one of them alone and beside postgres_fdw over both
    Sites,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A server could not be had.
    #[error(transparent)]
    Server(#[from] servers::ServerError),
    /// A statement failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: String,
        /// What it said.
        output: String,
    },
    /// The system refused something.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A server did something else than it was asked for.
    #[error("{0}")]
    Wrong(String),
}

/// Runs the benchmarks.
pub async fn run(args: BenchArgs) -> ExitCode {
    match measure(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            term::fail(error);
            ExitCode::FAILURE
        }
    }
}

/// Measures and prints; false if a benchmark failed.
async fn measure(args: &BenchArgs) -> Result<bool, BenchError> {
    use std::io::Write;
    if cfg!(debug_assertions) {
        term::say("This is not a release build: its figures say nothing about Atoll.");
    }
    let bin = servers::postgres_bin(args.pg_bin.as_deref())?;
    let atoll = Server::atoll().await?;
    let idle = atoll.memory();
    let postgres = Server::postgres(args.pg_bin.as_deref(), &[]).await?;
    let mut client = postgres.target.connect().await?;
    let version = client.parameter("server_version").unwrap_or("of unknown version").to_owned();
    client.query("SELECT 1").await?;
    client.close().await;
    let both = [&atoll, &postgres];

    let mut out = io::stdout();
    writeln!(out, "Machine: {}.", report::machine())?;
    writeln!(out, "Atoll {} beside PostgreSQL {version}, both with default settings.", env!("CARGO_PKG_VERSION"))?;
    let command: Vec<String> = std::env::args().skip(1).collect();
    writeln!(out, "Command: `atoll {}`.", command.join(" "))?;
    if let Some(idle) = idle {
        writeln!(out, "Atoll's memory after start: {} MiB.", idle >> 20)?;
    }
    let pgbench = pgbench::Options { bin: &bin, scale: args.pgbench_scale, seconds: args.seconds, rounds: args.rounds };
    // A benchmark that fails does not take the others' figures with it.
    let mut all_well = true;
    for what in [What::Pgbench, What::Copy, What::Tpch, What::Sites] {
        if args.what != what && args.what != What::All {
            continue;
        }
        let tables = match what {
            What::Pgbench => pgbench::run(both, &pgbench).await.map(|table| vec![table]),
            What::Copy => copy::run(both, "", args.copy_scale, args.rounds).await.map(|table| vec![table]),
            What::Sites => sites::run(&pgbench, args.copy_scale).await,
            _ => tpch::run(both, args.tpch_scale, args.rounds).await.map(|table| vec![table]),
        };
        match tables {
            Ok(tables) => {
                for table in tables {
                    writeln!(out, "\n{}", table.markdown().trim_end())?;
                }
            }
            Err(error) => {
                term::fail(format_args!("{what:?}: {error}"));
                all_well = false;
            }
        }
    }
    Ok(all_well)
}
