//! `atoll txn`: transactions over several sites, seen and resolved by the server's own views and functions.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use crate::client::quote_literal;
use crate::sql::{self, DEFAULT_URL, Format, SqlArgs};

/// What this server is committing, or has decided and not yet seen applied everywhere.
const UNDER_WAY: &str = "SELECT transaction_name, state, participants, pending, began, age_ms FROM atoll.transactions \
     WHERE transaction_name IS NOT NULL ORDER BY began, transaction_name";

/// What is prepared at the sites, by whomever.
const IN_DOUBT: &str = "SELECT transaction_name, site, age_ms, owner, decision, problem FROM atoll.in_doubt \
     ORDER BY transaction_name, site";

/// Flags of `atoll txn`.
#[derive(Args, Debug)]
pub struct TxnArgs {
    #[command(subcommand)]
    command: TxnCommand,
}

/// The server that is asked, and how its answer is shown.
#[derive(Args, Debug)]
struct Asked {
    /// The server: a URL or key=value pairs, as psql takes them
    #[arg(long, env = "ATOLL_URL", default_value = DEFAULT_URL, hide_env_values = true)]
    url: String,
    /// The form of results
    #[arg(long, value_enum, default_value_t = Format::Aligned)]
    format: Format,
}

#[derive(Subcommand, Debug)]
enum TxnCommand {
    /// Show what is being committed over several sites, and what is prepared at each of them
    List {
        #[command(flatten)]
        asked: Asked,
    },
    /// End what is prepared of a transaction whose decision nobody knows any more
    Resolve {
        /// The transaction's name, as `list` shows it
        id: String,
        /// How to end it
        outcome: Outcome,
        #[command(flatten)]
        asked: Asked,
    },
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Outcome {
    /// Everything it has prepared is committed
    Commit,
    /// Everything it has prepared is undone
    Rollback,
}

/// Runs the subcommand.
pub async fn run(args: TxnArgs) -> ExitCode {
    let (asked, statements) = match args.command {
        TxnCommand::List { asked } => (asked, vec![UNDER_WAY.to_owned(), IN_DOUBT.to_owned()]),
        TxnCommand::Resolve { id, outcome, asked } => {
            let outcome = match outcome {
                Outcome::Commit => "commit",
                Outcome::Rollback => "rollback",
            };
            let id = quote_literal(&id);
            (asked, vec![format!("SELECT atoll.resolve_transaction({id}, '{outcome}') AS branches_ended")])
        }
    };
    sql::run(SqlArgs::of(asked.url, statements, asked.format)).await
}
