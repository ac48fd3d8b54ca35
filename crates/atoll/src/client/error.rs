//! What can go wrong with a connection, and the errors and notices of a server.

use std::fmt;
use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;

/// Why a statement did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused it; the connection is still good.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The connection is lost; what the last statement did is unknown.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// No connection was made.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        reason: String,
    },
    /// The address of the server makes no sense.
    #[error("`{url}` is not a connection string: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// Why it is refused.
        reason: String,
    },
    /// The server did something that the statement cannot have asked for.
    #[error("unexpected answer of the server: {0}")]
    Unexpected(&'static str),
}

impl From<ServerError> for ClientError {
    fn from(error: ServerError) -> Self {
        Self::Server(Box::new(error))
    }
}

impl ClientError {
    /// The SQLSTATE of a server's error.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.code),
            _ => None,
        }
    }
}

/// An error or a notice of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL`, `NOTICE` ...
    pub severity: String,
    /// The SQLSTATE.
    pub code: String,
    /// What happened.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// Where in the statement: characters from 1.
    pub position: Option<usize>,
    /// What the server was doing.
    pub context: Option<String>,
}

impl ServerError {
    pub(super) fn read(mut fields: ErrorFields<'_>) -> io::Result<Self> {
        let mut error = Self::default();
        while let Some(field) = fields.next()? {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'S' => error.severity = value,
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                b'P' => error.position = value.parse().ok(),
                b'W' => error.context = Some(value),
                _ => {}
            }
        }
        Ok(error)
    }

    /// The message as psql prints it, with the line of `statement` that it points into.
    pub fn render(&self, statement: &str) -> String {
        let mut out = format!("{}:  {}\n", self.severity, self.message);
        if let Some((number, line, column)) = self.position.and_then(|p| locate(statement, p)) {
            let head = format!("LINE {number}: ");
            // Tabs are kept, so that the caret stands below its character in any terminal.
            let indent: String = line.chars().take(column).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            out.push_str(&format!("{head}{line}\n{}{indent}^\n", " ".repeat(head.len())));
        }
        for (name, value) in [("DETAIL", &self.detail), ("HINT", &self.hint), ("CONTEXT", &self.context)] {
            if let Some(value) = value {
                out.push_str(&format!("{name}:  {value}\n"));
            }
        }
        if !matches!(self.code.as_str(), "" | "00000") {
            out.push_str(&format!("SQLSTATE:  {}\n", self.code));
        }
        out
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, "; {detail}")?;
        }
        Ok(())
    }
}

/// The line number, the line and the offset in it of a character counted from 1.
fn locate(statement: &str, position: usize) -> Option<(usize, &str, usize)> {
    let mut left = position.checked_sub(1)?;
    for (i, line) in statement.split('\n').enumerate() {
        let length = line.chars().count();
        if left <= length {
            return Some((i + 1, line, left));
        }
        left -= length + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_point_at_their_place() {
        let error = ServerError {
            severity: "ERROR".into(),
            code: "42703".into(),
            message: "column \"foo\" does not exist".into(),
            hint: Some("Perhaps \"fo\".".into()),
            position: Some(12),
            ..ServerError::default()
        };
        assert_eq!(
            error.render("SELECT é,\n\tfoo\nFROM t"),
            "ERROR:  column \"foo\" does not exist\nLINE 2: \tfoo\n        \t^\nHINT:  Perhaps \"fo\".\nSQLSTATE:  42703\n"
        );
        assert_eq!(locate("a", 3), None);
        assert_eq!(locate("a\nb", 3), Some((2, "b", 0)));
    }
}
