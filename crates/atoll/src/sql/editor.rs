//! The interactive side of the shell: prompts, history, and completion of keywords, tables and columns.

use std::io::{self, BufRead};
use std::path::PathBuf;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::run::Shell;
use super::split::{Piece, Splitter};
use super::{End, ShellError};
use crate::term;

/// Lines of history kept.
const HISTORY: usize = 10_000;
/// Names of tables and columns fetched for completion.
const MAX_NAMES: usize = 20_000;

const KEYWORDS: &str = "ALTER ANALYZE AND AS ASC BEGIN BETWEEN BY CASE CAST COMMIT COPY COUNT CREATE CROSS DATE DEFAULT \
    DELETE DESC DISTINCT DROP ELSE END EXCEPT EXISTS EXPLAIN EXTRACT FALSE FILTER FOR FOREIGN FROM FULL GROUP HAVING IN \
    INDEX INNER INSERT INTERSECT INTERVAL INTO IS JOIN KEY LEFT LIKE ILIKE LIMIT LIST NOT NULL OFFSET ON OR ORDER OUTER \
    OVER PARTITION PRIMARY RANGE HASH RECURSIVE REFERENCES RETURNING RIGHT ROLLBACK SAVEPOINT SELECT SET SHOW SITE \
    TABLE TABLESPACE THEN TIMESTAMP TRUE TRUNCATE UNION UNIQUE UPDATE USING VALUES VERIFY VIEW WHEN WHERE WITH";

const META: &str = "\\? \\copy \\d \\di \\dt \\dv \\i \\l \\q \\timing \\x";

/// Knows the words that can be completed.
#[derive(Default)]
struct Words {
    names: Vec<String>,
    /// Rows are typed, in which a tab is a tab.
    rows: bool,
}

impl Completer for Words {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        if self.rows {
            let tab = String::from("\t");
            return Ok((at, vec![Pair { display: tab.clone(), replacement: tab }]));
        }
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '\\';
        let start = line[..at].char_indices().rev().find(|(_, c)| !is_part(*c)).map_or(0, |(i, c)| i + c.len_utf8());
        let typed = &line[start..at];
        if typed.is_empty() {
            return Ok((at, Vec::new()));
        }
        let lower = typed.to_lowercase();
        let upper = typed.chars().all(|c| !c.is_lowercase());
        let keywords = KEYWORDS.split_ascii_whitespace().map(|k| if upper { k.to_owned() } else { k.to_lowercase() });
        let mut found: Vec<String> = self
            .names
            .iter()
            .cloned()
            .chain(keywords)
            .chain(META.split(' ').map(str::to_owned))
            .filter(|word| word.to_lowercase().starts_with(&lower))
            .collect();
        found.sort();
        found.dedup();
        Ok((start, found.into_iter().map(|w| Pair { display: w.clone(), replacement: w }).collect()))
    }
}

impl Hinter for Words {
    type Hint = String;
}
impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

/// Reads and runs statements until `\q` or Ctrl-D.
pub async fn interact(shell: &mut Shell, quiet: bool) -> Result<End, ShellError> {
    let config = Config::builder()
        .max_history_size(HISTORY)
        .map_err(io::Error::other)?
        .history_ignore_space(true)
        .auto_add_history(false)
        .completion_type(CompletionType::List)
        .build();
    let mut editor: Editor<Words, FileHistory> = Editor::with_config(config).map_err(io::Error::other)?;
    editor.set_helper(Some(Words::default()));
    let history = history_file();
    if let Some(path) = &history {
        // The first start has no history yet.
        let _ = editor.load_history(path);
    }
    if !quiet {
        let version = shell.client.parameter("server_version").unwrap_or("unknown");
        term::say(format_args!(
            "atoll {} at {}, server {version}. \\? for help, \\q to leave.",
            env!("CARGO_PKG_VERSION"),
            shell.target.address(),
        ));
    }
    let mut splitter = Splitter::default();
    let mut typed = String::new();
    loop {
        if shell.schema_changed && shell.client.transaction() == 'I' {
            shell.schema_changed = false;
            let names = names(shell).await?;
            if let Some(helper) = editor.helper_mut() {
                helper.names = names;
            }
        }
        let transaction = match shell.client.transaction() {
            'T' => "*",
            'E' => "!",
            _ => "",
        };
        let prompt = format!("{}{}{transaction}> ", shell.target.database(), splitter.prompt_char());
        let line = match tokio::task::block_in_place(|| editor.readline(&prompt)) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                splitter.clear();
                typed.clear();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(io::Error::other(error).into()),
        };
        typed.push_str(if typed.is_empty() { "" } else { "\n" });
        typed.push_str(&line);
        let pieces = splitter.push(&line);
        if splitter.is_empty() {
            // A statement of several lines is one entry, so that it comes back whole.
            let _ = editor.add_history_entry(std::mem::take(&mut typed).trim());
        }
        for piece in pieces {
            match piece {
                Piece::Statement(sql, _) => {
                    let mut rows = TypedRows { editor: &mut editor, line: Vec::new(), at: 0 };
                    shell.execute(&sql, &mut rows).await?;
                }
                Piece::Meta(command, _) => {
                    shell.meta(&command).await?;
                }
            }
        }
        if shell.quit {
            break;
        }
    }
    if let Some(path) = &history {
        if let Some(dir) = path.parent() {
            let _ = std::fs::create_dir_all(dir);
        }
        if let Err(error) = editor.save_history(path) {
            term::fail(format_args!("history was not saved to {}: {error}", path.display()));
        }
    }
    Ok(End::Done)
}

/// Where history is kept: `ATOLL_HISTORY`, or the place that XDG gives it.
fn history_file() -> Option<PathBuf> {
    let under = |variable: &str, rest: &str| {
        std::env::var_os(variable).filter(|v| !v.is_empty()).map(|v| PathBuf::from(v).join(rest))
    };
    under("ATOLL_HISTORY", "")
        .map(|p| p.components().collect())
        .or_else(|| under("XDG_STATE_HOME", "atoll/history"))
        .or_else(|| under("HOME", ".local/state/atoll/history"))
}

/// The names of tables and columns. A server that does not tell costs completion, nothing else.
async fn names(shell: &mut Shell) -> Result<Vec<String>, ShellError> {
    let sql = format!(
        "SELECT table_name, column_name FROM information_schema.columns \
         WHERE table_schema NOT IN ('information_schema', 'pg_catalog') LIMIT {MAX_NAMES}"
    );
    let mut names: Vec<String> = match shell.client.query(&sql).await {
        Ok(result) => result.rows.iter().flat_map(|r| [r.get(0), r.get(1)]).flatten().map(|n| n.into_owned()).collect(),
        Err(crate::client::ClientError::Server(_)) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    names.sort();
    names.dedup();
    Ok(names)
}

/// The rows of a `COPY ... FROM STDIN` that is typed, line by line, until `\.` or Ctrl-D.
struct TypedRows<'a> {
    editor: &'a mut Editor<Words, FileHistory>,
    line: Vec<u8>,
    at: usize,
}

impl io::Read for TypedRows<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let n = ready.len().min(buffer.len());
        buffer[..n].copy_from_slice(&ready[..n]);
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for TypedRows<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.line.len() {
            self.at = 0;
            let editor = &mut *self.editor;
            let rows = |editor: &mut Editor<Words, FileHistory>, on| {
                if let Some(helper) = editor.helper_mut() {
                    helper.rows = on;
                }
            };
            rows(editor, true);
            let line = tokio::task::block_in_place(|| editor.readline(">> "));
            rows(editor, false);
            self.line = match line {
                Ok(line) => format!("{line}\n").into_bytes(),
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Vec::new(),
                Err(error) => return Err(io::Error::other(error)),
            };
        }
        Ok(&self.line[self.at..])
    }

    fn consume(&mut self, n: usize) {
        self.at += n;
    }
}
