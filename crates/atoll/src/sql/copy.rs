//! `\copy`: COPY between the server and a file on this machine.

use std::fs::File;
use std::io::{self, Read, Write};

use super::ShellError;
use super::run::{Shell, next_or_cancel};
use crate::client::Event;

/// Bytes read from the file at once.
const CHUNK: usize = 256 << 10;

/// A `\copy` command, taken apart: the COPY to send, and the file.
#[derive(Debug, PartialEq, Eq)]
struct Command {
    sql: String,
    path: String,
    from: bool,
}

/// Finds `from FILE` or `to FILE` outside of parentheses and quotes, and puts STDIN or STDOUT in its place.
fn parse(text: &str) -> Option<Command> {
    let (mut depth, mut quoted) = (0usize, None);
    let bytes = text.as_bytes();
    for (i, &b) in bytes.iter().enumerate() {
        match (quoted, b) {
            (Some(q), b) if q == b => quoted = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"') => quoted = Some(b),
            (None, b'(') => depth += 1,
            (None, b')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if quoted.is_some() || depth > 0 || !b.is_ascii_whitespace() {
            continue;
        }
        let rest = text[i..].trim_start();
        let word = rest.split_ascii_whitespace().next().unwrap_or_default();
        let from = word.eq_ignore_ascii_case("from");
        if !from && !word.eq_ignore_ascii_case("to") {
            continue;
        }
        let file = rest[word.len()..].trim_start();
        let (path, options) = match file.strip_prefix('\'') {
            Some(inner) => inner.split_once('\'')?,
            None => file.split_once(char::is_whitespace).unwrap_or((file, "")),
        };
        let stream = if from { "FROM STDIN" } else { "TO STDOUT" };
        let sql = format!("COPY {} {stream} {}", text[..i].trim(), options.trim()).trim_end().to_owned();
        return (!path.is_empty()).then(|| Command { sql, path: path.to_owned(), from });
    }
    None
}

impl Shell {
    /// Runs `\copy` with what follows it; false if it failed.
    pub async fn copy(&mut self, text: &str) -> Result<bool, ShellError> {
        let Some(command) = parse(text.trim_end_matches(';')) else {
            self.complain("\\copy: write \\copy TABLE from 'FILE' [OPTIONS] or \\copy TABLE to 'FILE' [OPTIONS]");
            return Ok(false);
        };
        let opened = if command.from { File::open(&command.path) } else { File::create(&command.path) };
        let mut file = match opened {
            Ok(file) => file,
            Err(error) => {
                self.complain(&format!("{}: {error}", command.path));
                return Ok(false);
            }
        };
        self.client.send(&command.sql).await?;
        let mut ok = true;
        loop {
            match next_or_cancel(&mut self.client).await? {
                Event::CopyIn => match self.send_file(&mut file).await? {
                    Ok(()) => self.client.copy_finish().await?,
                    Err(error) => self.client.copy_fail(&error.to_string()).await?,
                },
                Event::CopyData(data) => file.write_all(&data)?,
                Event::Complete(tag) if self.tags => writeln!(self.out, "{tag}")?,
                Event::Error(error) => {
                    ok = false;
                    self.complain(error.render(&command.sql).trim_end());
                }
                Event::Ready => break,
                _ => {}
            }
        }
        file.flush()?;
        self.out.flush()?;
        Ok(ok)
    }

    async fn send_file(&mut self, file: &mut File) -> Result<io::Result<()>, ShellError> {
        let mut chunk = vec![0; CHUNK];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return Ok(Ok(())),
                Ok(n) => self.client.copy_data(&chunk[..n]).await?,
                Err(error) => return Ok(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_file_is_found_and_replaced() {
        let command = parse("t (a, b) from 'my file.csv' csv header").expect("a command");
        assert_eq!(command.sql, "COPY t (a, b) FROM STDIN csv header");
        assert_eq!((command.path.as_str(), command.from), ("my file.csv", true));
        let command = parse("(select a from t) to out.txt").expect("a command");
        assert_eq!(command.sql, "COPY (select a from t) TO STDOUT");
        assert_eq!((command.path.as_str(), command.from), ("out.txt", false));
        assert_eq!(parse("t"), None);
        assert_eq!(parse("t from"), None);
    }
}
