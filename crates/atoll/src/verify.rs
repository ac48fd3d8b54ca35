//! `atoll verify`: whether what lies at the sites is what it should be, told by VERIFY and by the exit status.
//!
//! Invariant: the exit status is 0 only if the server has looked at everything that was asked for and found nothing.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use crate::client::{Client, ClientError, Column, Event, Target, quote_ident};
use crate::sql::{DEFAULT_URL, Format, Printer, Style, next_or_cancel};
use crate::term;

/// The kind of a row that is no finding but sums a table up.
const SUMMARY: &str = "summary";

/// Flags of `atoll verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The tables; all, if none is named
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
    /// The server: a URL or key=value pairs, as psql takes them
    #[arg(long, env = "ATOLL_URL", default_value = DEFAULT_URL, hide_env_values = true)]
    url: String,
    /// The form of the result
    #[arg(long, value_enum, default_value_t = Format::Aligned)]
    format: Format,
    /// Print nothing: only the exit code tells
    #[arg(short, long)]
    quiet: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Clean,
    Findings,
    NoConnection,
    Refused,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Clean => 0,
            End::Findings => 1,
            End::NoConnection => 2,
            End::Refused => 3,
        })
    }
}

/// What keeps it from an end.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// The connection.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Standard output is closed.
    #[error("{0}")]
    Output(#[from] io::Error),
}

/// Runs the subcommand.
pub async fn run(args: VerifyArgs) -> ExitCode {
    let client = match Target::parse(&args.url) {
        Err(error) => Err(error),
        Ok(target) => target.connect().await,
    };
    let outcome = match client {
        Err(error) => Err(Broken::Client(error)),
        Ok(mut client) => {
            let outcome = verify(&mut client, &args, &mut io::stdout().lock()).await;
            client.close().await;
            outcome
        }
    };
    match outcome {
        Ok(end) => end.into(),
        Err(Broken::Client(error)) => {
            term::fail(error);
            End::NoConnection.into()
        }
        Err(Broken::Output(error)) => {
            term::fail(error);
            End::Refused.into()
        }
    }
}

fn statement(tables: &[String]) -> String {
    if tables.is_empty() {
        return "VERIFY ALL".into();
    }
    let names: Vec<String> = tables.iter().map(|name| quote_ident(name)).collect();
    format!("VERIFY TABLE {}", names.join(", "))
}

async fn verify(client: &mut Client, args: &VerifyArgs, out: &mut dyn Write) -> Result<End, Broken> {
    let sql = statement(&args.tables);
    let style = Style { format: args.format, expanded: false, tuples_only: false, null: String::new() };
    let (mut printer, mut kind): (Option<Printer<'_>>, Option<usize>) = (None, None);
    let (mut findings, mut complete, mut refused) = (0u64, false, false);
    client.send(&sql).await?;
    loop {
        match next_or_cancel(client).await? {
            Event::Columns(columns) => {
                kind = position_of_kind(&columns);
                printer = if args.quiet { None } else { Some(Printer::begin(&style, columns, out)?) };
            }
            Event::Row(row) => {
                let is_summary = kind.and_then(|at| row.get(at)).is_some_and(|kind| kind == SUMMARY);
                findings += u64::from(!is_summary);
                if let Some(printer) = &mut printer {
                    printer.row(&row, out)?;
                }
            }
            Event::Complete(_) => {
                complete = true;
                if let Some(printer) = printer.take() {
                    printer.end(out)?;
                }
            }
            Event::Error(error) => {
                refused = true;
                // What was found until then is worth showing.
                if let Some(printer) = printer.take() {
                    printer.end(out)?;
                }
                out.flush()?;
                term::say(error.render(&sql).trim_end());
            }
            Event::Notice(notice) => term::say(notice.render(&sql).trim_end()),
            Event::Ready => break,
            Event::CopyIn | Event::CopyOut | Event::CopyData(_) | Event::CopyDone | Event::Empty => {}
        }
    }
    out.flush()?;
    Ok(match (refused || !complete, findings) {
        (true, _) => End::Refused,
        (false, 0) => End::Clean,
        (false, _) => End::Findings,
    })
}

fn position_of_kind(columns: &[Column]) -> Option<usize> {
    columns.iter().position(|column| column.name == "kind")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        assert_eq!(statement(&[]), "VERIFY ALL");
        assert_eq!(statement(&["users".into(), "a\"b".into()]), "VERIFY TABLE users, \"a\"\"b\"");
    }
}
