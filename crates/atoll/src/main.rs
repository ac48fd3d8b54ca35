//! Atoll: one binary that makes one database out of many sites.
//!
//! This crate is the outermost layer: configuration, the wiring of concrete backends, and the subcommands. The client
//! subcommands (`sql`, `load`, `bench`, and the demo's own queries) speak the PostgreSQL protocol like any other client.

mod bench;
mod client;
mod config;
mod demo;
mod gauges;
mod load;
mod logging;
mod serve;
mod serve_args;
mod sql;
mod term;
mod txn;
mod units;
mod verify;
mod wiring;

use std::io::{self, Write};
use std::process::ExitCode;

use atoll_ports::session::STACK_BYTES;
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One database out of many sites
#[derive(Parser)]
#[command(
    name = "atoll",
    version,
    about = "One database out of many sites, behind the PostgreSQL protocol.",
    after_help = "Examples:\n  \
        atoll demo                          start three sites, load the news data, show queries, stay up\n  \
        atoll serve --data /var/lib/atoll   start a server\n  \
        atoll sql -c 'SELECT 1'             ask the server on this machine\n  \
        atoll load flights flights.csv.gz   load a file into a table\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong usage or no connection, 3 a statement of a script failed.",
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a server and keep it in the foreground
    #[command(after_help = "Examples:\n  \
        atoll serve\n  \
        atoll serve --config /etc/atoll.toml --log-format json\n  \
        ATOLL_SQL_ADDR=0.0.0.0:5433 atoll serve --data /var/lib/atoll")]
    Serve(Box<serve_args::ServeArgs>),
    /// Start three sites in one process, load the news data, show queries, stay up
    #[command(after_help = "Examples:\n  \
        atoll demo                       a million readings, in a temporary directory\n  \
        atoll demo --scale 0.01 --exit   a small one that ends by itself\n  \
        atoll demo --data news           keeps its data; the next start finds it\n  \
        atoll demo --site beijing=postgres://app:secret@db/news\n                                   \
        has a site at a server")]
    Demo(Box<demo::DemoArgs>),
    /// Ask a server: an interactive shell, or statements and scripts
    #[command(after_help = "Examples:\n  \
        atoll sql                                        a shell on the server of this machine\n  \
        atoll sql -c 'SELECT count(*) FROM users'\n  \
        atoll sql -f schema.sql postgres://app@db:5433/atoll\n  \
        atoll sql --format csv -c 'TABLE users' > users.csv\n\n\
        Exit codes: 0 done, 1 failed, 2 no connection, 3 a statement of a script failed.")]
    Sql(Box<sql::SqlArgs>),
    /// Load CSV or JSON lines into a table
    #[command(after_help = "Examples:\n  \
        atoll load flights flights.csv.gz\n  \
        atoll load events 'logs/*.jsonl' --jobs 4 --max-errors 100\n  \
        zcat x.tsv.gz | atoll load t - --delimiter tab --null '\\N' --no-header\n\n\
        Rows that the server refuses go to FILE.rej with line, SQLSTATE and reason; more than --max-errors of\n\
        them stop the load. Exit codes: 0 all loaded but the allowed rejects, 1 stopped, 2 no connection.")]
    Load(Box<load::LoadArgs>),
    /// Show transactions over several sites, and resolve those that nobody decides any more
    #[command(after_help = "Examples:\n  \
        atoll txn list\n  \
        atoll txn resolve atoll_00c0ffee00c0ffee_2-1_17 rollback\n\n\
        Exit codes: 0 done, 1 refused, 2 no connection.")]
    Txn(Box<txn::TxnArgs>),
    /// Compare the copies at all sites with each other and with the catalog
    #[command(after_help = "Examples:\n  \
        atoll verify                         all tables\n  \
        atoll verify users reads --format csv\n  \
        atoll verify --quiet || mail -s 'atoll verify' dba\n\n\
        Exit codes: 0 nothing found, 1 something found, 2 no connection, 3 refused or broken off.")]
    Verify(Box<verify::VerifyArgs>),
    /// Measure Atoll beside PostgreSQL on this machine
    #[command(after_help = "Examples:\n  \
        atoll bench all > figures.md\n  \
        atoll bench tpch --tpch-scale 1 --rounds 5\n\n\
        Needs PostgreSQL's programs (postgres, initdb, pgbench) and a release build.")]
    Bench(Box<bench::BenchArgs>),
    /// Show the configuration
    #[command(after_help = "Examples:\n  \
        atoll config --example > atoll.toml          a commented file with every default\n  \
        ATOLL_LOG_LEVEL=debug atoll config           what a server started now would use")]
    Config(Box<ConfigArgs>),
}

#[derive(clap::Args)]
struct ConfigArgs {
    /// Print a commented file with every setting at its default
    #[arg(long)]
    example: bool,
    #[command(flatten)]
    serve: serve_args::ServeArgs,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            term::fail(format_args!("cannot start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Serve(args) => serve::run(*args).await,
            Command::Demo(args) => demo::run(*args).await,
            Command::Sql(args) => sql::run(*args).await,
            Command::Load(args) => load::run(*args).await,
            Command::Txn(args) => txn::run(*args).await,
            Command::Verify(args) => verify::run(*args).await,
            Command::Bench(args) => bench::run(*args).await,
            Command::Config(args) => show_config(*args),
        }
    });
    // Blocking threads (a reader of standard input) must not keep a finished process alive.
    runtime.shutdown_background();
    code
}

fn show_config(args: ConfigArgs) -> ExitCode {
    let text = if args.example {
        config::EXAMPLE.to_owned()
    } else {
        let resolved = args.serve.resolve().map_err(|e| e.to_string());
        match resolved.and_then(|c| toml::to_string(&c).map_err(|e| e.to_string())) {
            Ok(text) => text,
            Err(error) => {
                term::fail(error);
                return ExitCode::from(2);
            }
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
