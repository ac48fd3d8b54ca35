//! Runs one statement and prints what the server says about it.

use std::io::{self, BufRead, BufWriter, Stdout, Write};
use std::time::Instant;

use super::ShellError;
use super::print::{Format, Printer, Style};
use crate::client::{Client, ClientError, Event, Target};
use crate::term;

/// A connection, and how its results are shown.
pub struct Shell {
    /// The server.
    pub target: Target,
    /// The connection to it.
    pub client: Client,
    /// How results are printed.
    pub style: Style,
    /// Where they are printed.
    pub out: BufWriter<Stdout>,
    /// Whether statements are timed.
    pub timing: bool,
    /// Whether command tags are printed.
    pub tags: bool,
    /// Whether a script goes on after an error.
    pub keep_going: bool,
    /// The script that is running, for its errors.
    pub script: Option<String>,
    /// The line of it.
    pub line: usize,
    /// The lines of it that were rows of a COPY.
    pub copy_lines: usize,
    /// Set by `\q`.
    pub quit: bool,
    /// Set when a statement changed the schema, so that the names for completion are out of date.
    pub schema_changed: bool,
}

impl Shell {
    /// A shell over a fresh connection.
    pub fn new(target: Target, client: Client, style: Style, timing: bool) -> Self {
        Self {
            target,
            client,
            style,
            out: BufWriter::new(io::stdout()),
            timing,
            tags: true,
            keep_going: false,
            script: None,
            line: 0,
            copy_lines: 0,
            quit: false,
            schema_changed: true,
        }
    }

    /// Runs statements; false if one failed. `copy` has the rows of a `COPY ... FROM STDIN`, up to `\.` or its end.
    pub async fn execute(&mut self, sql: &str, copy: &mut dyn BufRead) -> Result<bool, ShellError> {
        let began = Instant::now();
        self.client.send(sql).await?;
        let ok = self.answers(sql, copy).await?;
        if self.timing {
            writeln!(self.out, "Time: {:.3} ms", began.elapsed().as_secs_f64() * 1e3)?;
        }
        self.out.flush()?;
        Ok(ok)
    }

    async fn answers(&mut self, sql: &str, copy: &mut dyn BufRead) -> Result<bool, ShellError> {
        let style = self.style.clone();
        let (mut printer, mut ok): (Option<Printer<'_>>, bool) = (None, true);
        loop {
            match next_or_cancel(&mut self.client).await? {
                Event::Columns(columns) => printer = Some(Printer::begin(&style, columns, &mut self.out)?),
                Event::Row(row) => {
                    if let Some(printer) = &mut printer {
                        printer.row(&row, &mut self.out)?;
                    }
                }
                Event::Complete(tag) => {
                    self.schema_changed |=
                        ["CREATE", "DROP", "ALTER", "IMPORT"].iter().any(|verb| tag.starts_with(verb));
                    match printer.take() {
                        Some(printer) => {
                            printer.end(&mut self.out)?;
                            // RETURNING: the rows, then the tag.
                            if self.tags && !["SELECT", "SHOW", "EXPLAIN", "FETCH"].iter().any(|t| tag.starts_with(t)) {
                                writeln!(self.out, "{tag}")?;
                            }
                        }
                        None if self.tags => writeln!(self.out, "{tag}")?,
                        None => {}
                    }
                }
                Event::Error(error) => {
                    ok = false;
                    // The rows so far are no result; JSON alone is closed, to stay well-formed.
                    if let Some(printer) = printer.take().filter(|_| style.format == Format::Json) {
                        printer.end(&mut self.out)?;
                    }
                    self.out.flush()?;
                    self.complain(error.render(sql).trim_end());
                }
                Event::Notice(notice) => {
                    self.out.flush()?;
                    self.complain(notice.render(sql).trim_end());
                }
                Event::CopyIn => self.send_lines(copy).await?,
                Event::CopyData(data) => self.out.write_all(&data)?,
                Event::CopyOut | Event::CopyDone | Event::Empty => {}
                Event::Ready => return Ok(ok),
            }
        }
    }

    /// Sends the lines that follow a `COPY ... FROM STDIN`.
    async fn send_lines(&mut self, input: &mut dyn BufRead) -> Result<(), ShellError> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            self.copy_lines += 1;
            if line.trim_ascii_end() == b"\\." {
                break;
            }
            self.client.copy_data(&line).await?;
        }
        self.client.copy_finish().await?;
        Ok(())
    }

    /// Writes an error or a notice, with the script's name and line where there is one.
    pub fn complain(&self, text: &str) {
        match &self.script {
            Some(script) => term::say(format_args!("{script}:{}: {text}", self.line)),
            None => term::say(text),
        }
    }
}

/// The next answer; Ctrl-C in between cancels the statement, whose error is then the answer.
pub async fn next_or_cancel(client: &mut Client) -> Result<Event, ClientError> {
    let token = client.cancel_token();
    loop {
        tokio::select! {
            event = client.next() => return event,
            // Where signals cannot be had, Ctrl-C ends the process as ever.
            Ok(()) = tokio::signal::ctrl_c() => {
                if let Some(token) = &token {
                    term::say("Cancel request sent");
                    token.cancel().await?;
                }
            }
        }
    }
}
