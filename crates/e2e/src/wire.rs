//! A blocking client of the wire protocol 3.0 that shows what the server said and interprets nothing.
//!
//! Values stay text as the server wrote them, so two servers' answers can be compared to the letter; an error is its
//! SQLSTATE and message. A connection on which [`Error::Io`] occurred is unusable.

use bytes::{Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::message::{backend, frontend};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke, or the server sent what the protocol does not allow.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    /// The server refused the statement.
    #[error("{sqlstate}: {message}")]
    Sql {
        /// The five characters of the code.
        sqlstate: String,
        /// The primary message.
        message: String,
    },
}

impl Error {
    /// The SQLSTATE; a broken connection has none.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Io(_) => None,
            Error::Sql { sqlstate, .. } => Some(sqlstate),
        }
    }
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The OID of its type.
    pub type_oid: u32,
}

/// A row: the text of each value, `None` for NULL.
pub type Row = Vec<Option<String>>;

/// The answer to one statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The columns, if the statement returns rows.
    pub columns: Option<Vec<Column>>,
    /// The rows.
    pub rows: Vec<Row>,
    /// The command tag.
    pub tag: String,
}

impl Reply {
    /// The only value of an answer with one row and one column.
    pub fn scalar(&self) -> Option<&str> {
        match self.rows.as_slice() {
            [row] if row.len() == 1 => row[0].as_deref(),
            _ => None,
        }
    }
}

/// How statements are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A `Query` message.
    Simple,
    /// `Parse`, `Bind`, `Describe`, `Execute`, `Sync`.
    Extended,
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    status: u8,
    key: Option<(i32, i32)>,
    address: SocketAddr,
}

impl Client {
    /// Connects as `user` to `database`.
    pub fn connect(address: SocketAddr, user: &str, database: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut client =
            Client { stream, input: BytesMut::new(), output: BytesMut::new(), status: b'?', key: None, address };
        let parameters = [("user", user), ("database", database), ("client_encoding", "UTF8")];
        frontend::startup_message(parameters, &mut client.output)?;
        client.flush()?;
        client.collect()?;
        Ok(client)
    }

    /// Gives up waiting for an answer after this long.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(timeout))
    }

    /// What the server last said of the transaction: `I` none, `T` in one, `E` in a failed one.
    pub fn transaction_status(&self) -> char {
        char::from(self.status)
    }

    /// Runs one statement (with the simple protocol, more; the last answer is returned).
    pub fn query(&mut self, sql: &str) -> Result<Reply, Error> {
        frontend::query(sql, &mut self.output)?;
        self.flush()?;
        self.collect()
    }

    /// Runs one statement the way `protocol` says.
    pub fn run(&mut self, sql: &str, protocol: Protocol) -> Result<Reply, Error> {
        match protocol {
            Protocol::Simple => self.query(sql),
            Protocol::Extended => self.execute(sql, &[]),
        }
    }

    /// Runs one statement with the extended protocol; parameters and results are text.
    pub fn execute(&mut self, sql: &str, parameters: &[Option<&str>]) -> Result<Reply, Error> {
        frontend::parse("", sql, [], &mut self.output)?;
        frontend::bind(
            "",
            "",
            [],
            parameters,
            |parameter, out| {
                Ok(match parameter {
                    Some(text) => {
                        out.extend_from_slice(text.as_bytes());
                        IsNull::No
                    }
                    None => IsNull::Yes,
                })
            },
            [],
            &mut self.output,
        )
        .map_err(|_| io::Error::other("a parameter is too large for the protocol"))?;
        frontend::describe(b'P', "", &mut self.output)?;
        frontend::execute("", 0, &mut self.output)?;
        frontend::sync(&mut self.output);
        self.flush()?;
        self.collect()
    }

    /// `COPY ... FROM STDIN` with this data.
    pub fn copy_in(&mut self, sql: &str, data: &[u8]) -> Result<Reply, Error> {
        frontend::query(sql, &mut self.output)?;
        self.flush()?;
        loop {
            match self.receive()? {
                backend::Message::CopyInResponse(_) => break,
                backend::Message::ErrorResponse(body) => {
                    let error = refusal(&body)?;
                    self.until_ready()?;
                    return Err(error);
                }
                _ => {}
            }
        }
        for chunk in data.chunks(32 * 1024) {
            frontend::CopyData::new(Bytes::copy_from_slice(chunk))?.write(&mut self.output);
            self.flush()?;
        }
        frontend::copy_done(&mut self.output);
        self.flush()?;
        self.collect()
    }

    /// `COPY ... TO STDOUT`: all of the data.
    pub fn copy_out(&mut self, sql: &str) -> Result<Vec<u8>, Error> {
        frontend::query(sql, &mut self.output)?;
        self.flush()?;
        let (mut data, mut error) = (Vec::new(), None);
        loop {
            match self.receive()? {
                backend::Message::CopyData(body) => data.extend_from_slice(body.data()),
                backend::Message::ErrorResponse(body) => error = Some(refusal(&body)?),
                backend::Message::ReadyForQuery(body) => {
                    self.status = body.status();
                    return error.map_or(Ok(data), Err);
                }
                _ => {}
            }
        }
    }

    /// Asks the server to cancel what this connection is running, over a connection of its own.
    pub fn cancel_handle(&self) -> Option<impl FnOnce() -> io::Result<()> + Send + use<>> {
        let ((process, secret), address) = (self.key?, self.address);
        Some(move || {
            let mut message = BytesMut::new();
            frontend::cancel_request(process, secret, &mut message);
            TcpStream::connect(address)?.write_all(&message)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    fn receive(&mut self) -> io::Result<backend::Message> {
        loop {
            if let Some(message) = backend::Message::parse(&mut self.input)? {
                return Ok(message);
            }
            let mut chunk = [0; 16 * 1024];
            let n = self.stream.read(&mut chunk)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&chunk[..n]);
        }
    }

    fn until_ready(&mut self) -> io::Result<()> {
        loop {
            if let backend::Message::ReadyForQuery(body) = self.receive()? {
                self.status = body.status();
                return Ok(());
            }
        }
    }

    /// Reads up to `ReadyForQuery`; a fatal error at start-up is not followed by one.
    fn collect(&mut self) -> Result<Reply, Error> {
        let mut reply = Reply::default();
        let mut error = None;
        loop {
            let message = match self.receive() {
                Ok(message) => message,
                Err(broken) => return Err(error.unwrap_or(Error::Io(broken))),
            };
            match message {
                backend::Message::RowDescription(body) => {
                    let columns = body
                        .fields()
                        .map(|f| Ok(Column { name: f.name().to_string(), type_oid: f.type_oid() }))
                        .collect()?;
                    reply = Reply { columns: Some(columns), ..Reply::default() };
                }
                backend::Message::DataRow(body) => {
                    let row = body
                        .ranges()
                        .map(|range| Ok(range.map(|r| String::from_utf8_lossy(&body.buffer()[r]).into_owned())))
                        .collect()?;
                    reply.rows.push(row);
                }
                backend::Message::CommandComplete(body) => reply.tag = body.tag()?.to_string(),
                backend::Message::BackendKeyData(body) => self.key = Some((body.process_id(), body.secret_key())),
                backend::Message::ErrorResponse(body) => error = Some(refusal(&body)?),
                // Not what this call is for: end the copy, so that the server can say so.
                backend::Message::CopyInResponse(_) => {
                    frontend::copy_fail("not expected", &mut self.output)?;
                    self.flush()?;
                }
                backend::Message::ReadyForQuery(body) => {
                    self.status = body.status();
                    return error.map_or(Ok(reply), Err);
                }
                _ => {}
            }
        }
    }
}

fn refusal(body: &backend::ErrorResponseBody) -> io::Result<Error> {
    let (mut sqlstate, mut message) = (String::new(), String::new());
    let mut fields = body.fields();
    while let Some(field) = fields.next()? {
        let value = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => sqlstate = value(),
            b'M' => message = value(),
            _ => {}
        }
    }
    Ok(Error::Sql { sqlstate, message })
}
