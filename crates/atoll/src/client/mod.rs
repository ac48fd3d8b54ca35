//! A small PostgreSQL client: the simple query protocol and COPY, one connection, everything streamed.
//!
//! The driver that applications use hides what a shell must show (command tags, notices, column types of simple
//! queries) and what a loader must know (the full error of a refused COPY), so the subcommands speak the protocol
//! themselves, through `postgres-protocol`'s codec. Invariant: an error of the server leaves the connection usable;
//! an error of the connection ([`ClientError::Io`]) ends it, and whether the last statement took effect is unknown.

mod connect;
mod error;

use std::collections::BTreeMap;
use std::io;

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use connect::{CancelToken, Target};
pub use error::{ClientError, ServerError};

/// Bytes gathered before they are written to the socket.
const WRITE_BUFFER: usize = 64 << 10;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The OID of its type.
    pub type_oid: u32,
}

impl Column {
    /// Whether its values are numbers, which tables align to the right.
    pub fn is_numeric(&self) -> bool {
        // int8, int2, int4, oid, float4, float8, money, numeric.
        matches!(self.type_oid, 20 | 21 | 23 | 26 | 700 | 701 | 790 | 1700)
    }
}

/// One row of a result, in text format.
#[derive(Clone, Debug)]
pub struct Row {
    buffer: Bytes,
    fields: Vec<Option<(u32, u32)>>,
}

impl Row {
    fn decode(buffer: Bytes) -> io::Result<Self> {
        let truncated = || io::Error::new(io::ErrorKind::InvalidData, "a row that is cut off");
        let (mut at, mut fields) = (0usize, Vec::new());
        while at < buffer.len() {
            let length = buffer.get(at..at + 4).and_then(|b| b.try_into().ok()).ok_or_else(truncated)?;
            at += 4;
            match usize::try_from(i32::from_be_bytes(length)) {
                Err(_) => fields.push(None),
                Ok(length) => {
                    let end = at.checked_add(length).filter(|end| *end <= buffer.len()).ok_or_else(truncated)?;
                    // Offsets fit: a message is shorter than 4 GiB by its own length field.
                    fields.push(Some((at as u32, end as u32)));
                    at = end;
                }
            }
        }
        Ok(Self { buffer, fields })
    }

    /// The number of columns.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// The value of a column, `None` for NULL; what is not UTF-8 is shown with replacement characters.
    pub fn get(&self, column: usize) -> Option<std::borrow::Cow<'_, str>> {
        let (start, end) = (*self.fields.get(column)?)?;
        Some(String::from_utf8_lossy(&self.buffer[start as usize..end as usize]))
    }
}

/// What the server says while a statement runs.
#[derive(Debug)]
pub enum Event {
    /// A result begins.
    Columns(Vec<Column>),
    /// A row of it.
    Row(Row),
    /// A statement ended; its command tag.
    Complete(String),
    /// The statement was empty.
    Empty,
    /// The statement failed.
    Error(ServerError),
    /// A message that is no failure.
    Notice(ServerError),
    /// The server waits for the rows of `COPY ... FROM STDIN`.
    CopyIn,
    /// The rows of `COPY ... TO STDOUT` begin.
    CopyOut,
    /// Some of them.
    CopyData(Bytes),
    /// They ended.
    CopyDone,
    /// The server is ready for the next statement.
    Ready,
}

/// A whole result, for statements whose results are known to be small.
#[derive(Clone, Debug, Default)]
pub struct QueryResult {
    /// The columns of the last statement that had any.
    pub columns: Vec<Column>,
    /// Their rows.
    pub rows: Vec<Row>,
    /// The last command tag.
    pub tag: String,
}

impl QueryResult {
    /// The number in the command tag: rows inserted, copied, selected.
    pub fn affected(&self) -> u64 {
        self.tag.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
    }
}

/// A connection to a server.
pub struct Client {
    stream: Box<dyn Stream>,
    input: BytesMut,
    output: BytesMut,
    parameters: BTreeMap<String, String>,
    cancel: Option<CancelToken>,
    transaction: u8,
}

impl Client {
    fn new(stream: Box<dyn Stream>) -> Self {
        Self {
            stream,
            input: BytesMut::with_capacity(16 << 10),
            output: BytesMut::with_capacity(WRITE_BUFFER),
            parameters: BTreeMap::new(),
            cancel: None,
            transaction: b'I',
        }
    }

    /// A setting that the server reported, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// What cancels the statement that this connection runs.
    pub fn cancel_token(&self) -> Option<CancelToken> {
        self.cancel.clone()
    }

    /// The state of the transaction: `I` none, `T` open, `E` failed.
    pub fn transaction(&self) -> char {
        char::from(self.transaction)
    }

    /// Sends statements; [`Self::next`] gives what happens, until [`Event::Ready`].
    pub async fn send(&mut self, sql: &str) -> Result<(), ClientError> {
        frontend::query(sql, &mut self.output)?;
        self.flush().await
    }

    /// The next thing that the server says.
    pub async fn next(&mut self) -> Result<Event, ClientError> {
        loop {
            return Ok(match self.message().await? {
                Message::RowDescription(body) => Event::Columns(
                    body.fields()
                        .map(|f| Ok(Column { name: f.name().to_owned(), type_oid: f.type_oid() }))
                        .collect()?,
                ),
                Message::DataRow(body) => Event::Row(Row::decode(body.buffer_bytes().clone())?),
                Message::CommandComplete(body) => Event::Complete(body.tag()?.to_owned()),
                Message::EmptyQueryResponse => Event::Empty,
                Message::ErrorResponse(body) => Event::Error(ServerError::read(body.fields())?),
                Message::NoticeResponse(body) => Event::Notice(ServerError::read(body.fields())?),
                Message::CopyInResponse(_) => Event::CopyIn,
                Message::CopyOutResponse(_) => Event::CopyOut,
                Message::CopyData(body) => Event::CopyData(body.into_bytes()),
                Message::CopyDone => Event::CopyDone,
                Message::ReadyForQuery(body) => {
                    self.transaction = body.status();
                    Event::Ready
                }
                Message::ParameterStatus(body) => {
                    self.parameters.insert(body.name()?.to_owned(), body.value()?.to_owned());
                    continue;
                }
                _ => continue,
            });
        }
    }

    /// Runs statements and gathers the last result.
    pub async fn query(&mut self, sql: &str) -> Result<QueryResult, ClientError> {
        self.send(sql).await?;
        self.gather().await
    }

    /// Starts `COPY ... FROM STDIN`. When this fails, the connection can go on with another statement.
    pub async fn copy_start(&mut self, sql: &str) -> Result<(), ClientError> {
        self.send(sql).await?;
        loop {
            match self.next().await? {
                Event::CopyIn => return Ok(()),
                Event::Error(error) => {
                    while !matches!(self.next().await?, Event::Ready) {}
                    return Err(error.into());
                }
                Event::Ready => {
                    return Err(ClientError::Unexpected("the statement copies nothing in"));
                }
                _ => {}
            }
        }
    }

    /// Sends rows of a COPY.
    pub async fn copy_data(&mut self, data: &[u8]) -> Result<(), ClientError> {
        for chunk in data.chunks(WRITE_BUFFER) {
            frontend::CopyData::new(chunk)?.write(&mut self.output);
            if self.output.len() >= WRITE_BUFFER {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Ends the rows of a COPY; [`Self::next`] gives what came of it.
    pub async fn copy_finish(&mut self) -> Result<(), ClientError> {
        frontend::copy_done(&mut self.output);
        self.flush().await
    }

    /// Ends a COPY; the rows that it added.
    pub async fn copy_end(&mut self) -> Result<u64, ClientError> {
        self.copy_finish().await?;
        Ok(self.gather().await?.affected())
    }

    /// Gives a COPY up.
    pub async fn copy_fail(&mut self, reason: &str) -> Result<(), ClientError> {
        frontend::copy_fail(reason, &mut self.output)?;
        self.flush().await
    }

    /// Says goodbye. A connection that is merely dropped is closed as well.
    pub async fn close(mut self) {
        frontend::terminate(&mut self.output);
        // The server notices the closed socket when this does not reach it.
        let _ = self.flush().await;
    }

    async fn gather(&mut self) -> Result<QueryResult, ClientError> {
        let (mut result, mut failed) = (QueryResult::default(), None);
        loop {
            match self.next().await? {
                Event::Columns(columns) => {
                    result.columns = columns;
                    result.rows.clear();
                }
                Event::Row(row) => result.rows.push(row),
                Event::Complete(tag) => result.tag = tag,
                Event::Error(error) => failed = Some(error),
                Event::CopyIn => self.copy_fail("this statement is not expected to copy").await?,
                Event::Ready => return failed.map_or(Ok(result), |error| Err(error.into())),
                _ => {}
            }
        }
    }

    async fn flush(&mut self) -> Result<(), ClientError> {
        self.stream.write_all(&self.output).await?;
        self.output.clear();
        self.stream.flush().await?;
        Ok(())
    }

    async fn message(&mut self) -> Result<Message, ClientError> {
        loop {
            if let Some(message) = Message::parse(&mut self.input)? {
                return Ok(message);
            }
            if self.input.capacity() - self.input.len() < 4096 {
                self.input.reserve(16 << 10);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection").into());
            }
        }
    }
}

/// `name` as an SQL identifier, quoted where it must be.
pub fn quote_ident(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain && !RESERVED.contains(&name) { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// `text` as an SQL string literal.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Words that PostgreSQL refuses as the name of a column.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_decode_and_refuse_what_is_cut_off() {
        let row = Row::decode(Bytes::from_static(b"\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0")).expect("a whole row");
        assert_eq!(row.len(), 3);
        assert_eq!(row.get(0).as_deref(), Some("ab"));
        assert_eq!(row.get(1), None);
        assert_eq!(row.get(2).as_deref(), Some(""));
        assert!(Row::decode(Bytes::from_static(b"\0\0\0\x05ab")).is_err());
        assert!(Row::decode(Bytes::from_static(b"\0\0")).is_err());
    }

    #[test]
    fn identifiers_and_literals_are_quoted_where_they_must_be() {
        assert_eq!(quote_ident("users_bj"), "users_bj");
        assert_eq!(quote_ident("User"), "\"User\"");
        assert_eq!(quote_ident("order"), "\"order\"");
        assert_eq!(quote_ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
    }
}
