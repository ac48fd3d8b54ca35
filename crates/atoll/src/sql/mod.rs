//! `atoll sql`: a shell that speaks the PostgreSQL protocol to any server.
//!
//! Results go to standard output, everything else to standard error, so that output can be piped. Exit codes are
//! psql's: 0 done, 1 a failure of the shell itself (or of `-c`), 2 no connection, 3 a statement of a script failed.

mod copy;
mod editor;
mod meta;
mod print;
mod run;
mod split;

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::client::{ClientError, Target};
use crate::term;
pub use print::{Format, Printer, Style};
use run::Shell;
pub use run::next_or_cancel;
pub use split::{Piece, Splitter};

/// The server that is asked when no other is named.
pub const DEFAULT_URL: &str = "postgres://atoll@127.0.0.1:5433/atoll";

/// Flags of the shell.
#[derive(Args, Debug)]
pub struct SqlArgs {
    /// The server: a URL or key=value pairs, as psql takes them
    #[arg(env = "ATOLL_URL", default_value = DEFAULT_URL, hide_env_values = true)]
    url: String,
    /// Run this and exit (repeatable); several statements in one are one transaction
    #[arg(short = 'c', long, value_name = "SQL")]
    command: Vec<String>,
    /// Run this script and exit (repeatable; `-` is standard input)
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// The form of results
    #[arg(long, value_enum, default_value_t = Format::Aligned)]
    format: Format,
    /// Print each field on a line of its own
    #[arg(short = 'x', long)]
    expanded: bool,
    /// Print rows alone, without header and count
    #[arg(short, long)]
    tuples_only: bool,
    /// What stands for NULL
    #[arg(long, value_name = "TEXT", default_value = "")]
    null: String,
    /// Print how long each statement took
    #[arg(long)]
    timing: bool,
    /// Print results alone, without command tags and greetings
    #[arg(short, long)]
    quiet: bool,
    /// Go on after a statement of a script that failed
    #[arg(long)]
    keep_going: bool,
}

impl SqlArgs {
    /// Runs these statements at a server, one after the other.
    pub fn of(url: String, command: Vec<String>, format: Format) -> Self {
        SqlArgs {
            url,
            command,
            file: vec![],
            format,
            expanded: false,
            tuples_only: false,
            null: String::new(),
            timing: false,
            quiet: true,
            keep_going: false,
        }
    }
}

/// How the shell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Failed,
    NoConnection,
    ScriptFailed,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Done => 0,
            End::Failed => 1,
            End::NoConnection => 2,
            End::ScriptFailed => 3,
        })
    }
}

/// What ends the shell early.
#[derive(Debug, thiserror::Error)]
enum ShellError {
    /// The connection, not a statement.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Standard output is closed, or a file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Runs the shell.
pub async fn run(args: SqlArgs) -> ExitCode {
    let client = match Target::parse(&args.url) {
        Err(error) => Err(error),
        Ok(target) => target.connect().await.map(|client| (target, client)),
    };
    let (target, client) = match client {
        Ok(connected) => connected,
        Err(error) => {
            term::fail(error);
            return End::NoConnection.into();
        }
    };
    let style =
        Style { format: args.format, expanded: args.expanded, tuples_only: args.tuples_only, null: args.null.clone() };
    let interactive = args.command.is_empty() && args.file.is_empty() && io::stdin().is_terminal();
    let mut shell = Shell::new(target, client, style, args.timing);
    shell.tags = !args.quiet && args.format != Format::Json && args.format != Format::Csv;
    shell.keep_going = args.keep_going;
    let ended =
        if interactive { editor::interact(&mut shell, args.quiet).await } else { batch(&mut shell, &args).await };
    let flushed = shell.out.flush();
    match ended {
        Ok(end) if flushed.is_ok() => end.into(),
        Ok(_) => End::Failed.into(),
        // The reader of a pipe has seen enough: no error.
        Err(ShellError::Io(e)) if e.kind() == io::ErrorKind::BrokenPipe => End::Done.into(),
        Err(ShellError::Io(e)) => {
            term::fail(e);
            End::Failed.into()
        }
        Err(ShellError::Client(e)) => {
            term::fail(e);
            End::NoConnection.into()
        }
    }
}

/// Runs `-c` and `-f`, or the script on standard input.
async fn batch(shell: &mut Shell, args: &SqlArgs) -> Result<End, ShellError> {
    for command in &args.command {
        let ok = if command.trim_start().starts_with('\\') {
            shell.meta(command.trim()).await?
        } else {
            shell.execute(command, &mut io::empty()).await?
        };
        if !ok && !shell.keep_going {
            return Ok(End::Failed);
        }
    }
    let mut end = End::Done;
    for file in &args.file {
        shell.script = Some(file.display().to_string());
        shell.copy_lines = 0;
        let ok = if file.as_os_str() == "-" {
            script(shell, &mut io::stdin().lock()).await?
        } else {
            match std::fs::File::open(file) {
                Ok(opened) => script(shell, &mut io::BufReader::new(opened)).await?,
                Err(error) => {
                    term::fail(format_args!("{}: {error}", file.display()));
                    return Ok(End::Failed);
                }
            }
        };
        if !ok {
            end = End::ScriptFailed;
            if !shell.keep_going {
                return Ok(end);
            }
        }
    }
    if args.command.is_empty() && args.file.is_empty() && !script(shell, &mut io::stdin().lock()).await? {
        end = End::ScriptFailed;
    }
    Ok(end)
}

/// Runs the statements of `input`; false if one failed. Rows of `COPY ... FROM STDIN` follow it in the script, up to `\.`.
async fn script(shell: &mut Shell, input: &mut dyn BufRead) -> Result<bool, ShellError> {
    let (mut splitter, mut line, mut all_well) = (Splitter::default(), String::new(), true);
    loop {
        line.clear();
        let ended = input.read_line(&mut line)? == 0;
        let pieces = if ended {
            splitter.finish().into_iter().collect()
        } else {
            splitter.push(line.trim_end_matches(['\n', '\r']))
        };
        for piece in pieces {
            let ok = match piece {
                Piece::Statement(sql, number) => {
                    shell.line = number + shell.copy_lines;
                    shell.execute(&sql, input).await?
                }
                Piece::Meta(command, number) => {
                    shell.line = number + shell.copy_lines;
                    Box::pin(shell.meta(&command)).await?
                }
            };
            if shell.quit {
                return Ok(all_well && ok);
            }
            all_well &= ok;
            if !ok && !shell.keep_going {
                return Ok(false);
            }
        }
        if ended {
            return Ok(all_well);
        }
    }
}
