//! The byte stream under a connection: what came in, what is to go out, and when it is sent.
//!
//! Invariant: answers leave in order and in as few writes as possible: they are collected and sent when the client can be
//! waiting for them (ReadyForQuery, Flush), when they exceed [`SEND_AT`], or when the engine lets us wait. Nothing grows
//! without bound: a client that does not read stops the statement that produces its rows.

use super::frontend::{self, Frame};
use super::stop::Stop;
use atoll_model::{Error, ErrorKind};
use atoll_ports::session::Canceller;
use bytes::BytesMut;
use metrics::Counter;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Collected answers are sent once they are this long.
pub(super) const SEND_AT: usize = 64 << 10;
/// Room made for each read.
const READ_SIZE: usize = 8 << 10;
/// How far input is read ahead while a statement runs.
const READ_AHEAD: usize = 64 << 10;
/// Time for a client to take its last answers.
const FAREWELL: Duration = Duration::from_secs(2);
/// Buffers that have grown beyond this are given back when the connection falls idle.
const KEEP: usize = 64 << 10;

/// TCP, with or without TLS.
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Transport::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Transport::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(s) => Pin::new(s).poll_flush(cx),
            Transport::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Transport::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

/// A connection's stream with its buffers.
pub(super) struct Channel {
    pub(super) io: Transport,
    pub(super) input: BytesMut,
    /// Answers not sent yet.
    pub(super) out: Vec<u8>,
    /// How many bytes of `out` the client may be waiting for.
    due: usize,
    /// Where the last CommandComplete starts in `out`, while nothing follows it and it is not sent.
    complete_at: Option<usize>,
    /// Largest message taken.
    pub(super) limit: usize,
    /// One wait for all of the connection, on a token of its own: to begin one takes a lock, which all connections would share.
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    received: Counter,
    sent: Counter,
}

impl Channel {
    pub(super) fn new(io: Transport, input: BytesMut, limit: usize, shutdown: CancellationToken) -> Self {
        Channel {
            io,
            input,
            out: Vec::new(),
            due: 0,
            complete_at: None,
            limit,
            shutdown: Box::pin(shutdown.child_token().cancelled_owned()),
            received: metrics::counter!("atoll_sql_bytes_received_total"),
            sent: metrics::counter!("atoll_sql_bytes_sent_total"),
        }
    }

    /// Reads more input; an end of the stream is [`Stop::Gone`].
    pub(super) async fn fill(&mut self) -> Result<(), Stop> {
        fill(&mut self.io, &mut self.input, self.limit, &self.received).await
    }

    /// The next message. Sends what is due before waiting for it.
    ///
    /// # Errors
    /// The stream's end, a broken stream, or a shutdown while waiting.
    pub(super) async fn next_frame(&mut self) -> Result<Frame, Stop> {
        loop {
            if let Some(frame) = frontend::frame(&mut self.input, self.limit).map_err(Stop::Fatal)? {
                return Ok(frame);
            }
            self.send_due().await?;
            if self.input.is_empty() {
                self.give_back();
            }
            let Channel { shutdown, io, input, limit, received, .. } = self;
            tokio::select! {
                biased;
                () = shutdown.as_mut() => return Err(Stop::Fatal(shutting_down())),
                read = fill(io, input, *limit, received) => read?,
            }
        }
    }

    /// As [`Channel::next_frame`], for the data of a COPY: a cancel request ends the wait.
    pub(super) async fn next_copy_frame(&mut self, canceller: &Canceller) -> Result<Frame, Stop> {
        loop {
            if let Some(frame) = frontend::frame(&mut self.input, self.limit).map_err(Stop::Fatal)? {
                return Ok(frame);
            }
            let Channel { shutdown, io, input, limit, received, .. } = self;
            tokio::select! {
                biased;
                read = fill(io, input, *limit, received) => read?,
                () = canceller.cancelled() => return Err(canceled().into()),
                () = shutdown.as_mut() => return Err(Stop::Fatal(shutting_down())),
            }
        }
    }

    fn give_back(&mut self) {
        if self.input.capacity() > KEEP {
            self.input = BytesMut::new();
        }
        if self.out.is_empty() && self.out.capacity() > KEEP {
            self.out = Vec::new();
        }
    }

    /// Waits for work of the engine. While it lasts, sends what is due and watches the client: one that has hung up
    /// has its statement cancelled.
    ///
    /// # Errors
    /// The client is gone; the work has ended by then.
    pub(super) async fn drive<T>(&mut self, canceller: &Canceller, work: impl Future<Output = T>) -> Result<T, Stop> {
        let mut work = pin!(work);
        if let Poll::Ready(done) = futures::poll!(work.as_mut()) {
            return Ok(done);
        }
        self.send_due().await?;
        let mut open = true;
        loop {
            let watch = open && self.input.len() < READ_AHEAD;
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                read = self.fill(), if watch => match read {
                    Ok(()) => {}
                    // Messages that came before the end are still to be answered.
                    Err(_) if !self.input.is_empty() => open = false,
                    Err(stop) => {
                        canceller.cancel();
                        work.await;
                        return Err(stop);
                    }
                }
            }
        }
    }

    /// Everything written so far may be sent.
    pub(super) fn all_due(&mut self) {
        self.due = self.out.len();
    }

    /// Sends what is due, if anything.
    pub(super) async fn send_due(&mut self) -> Result<(), Stop> {
        if self.due == 0 {
            return Ok(());
        }
        self.io.write_all(&self.out[..self.due]).await?;
        self.io.flush().await?;
        self.sent.increment(self.due as u64);
        self.complete_at = self.complete_at.and_then(|at| at.checked_sub(self.due));
        self.out.drain(..self.due);
        self.due = 0;
        Ok(())
    }

    /// Sends what is due for the last time, and ends the stream in an orderly way. The client may be gone: that is not
    /// waited for.
    pub(super) async fn close(&mut self) {
        let orderly = async {
            self.send_due().await?;
            Ok::<(), Stop>(self.io.shutdown().await?)
        };
        // Either way there is nobody left to tell.
        let _ = tokio::time::timeout(FAREWELL, orderly).await;
    }

    /// Sends all there is, once that is worth a write.
    pub(super) async fn send_if_large(&mut self) -> Result<(), Stop> {
        if self.out.len() >= SEND_AT {
            self.all_due();
            self.send_due().await?;
        }
        Ok(())
    }

    /// Ends a statement's answer, in a way that [`Channel::take_back_complete`] can undo.
    pub(super) fn complete(&mut self, tag: &str, rows: Option<u64>) {
        self.complete_at = Some(self.out.len());
        super::backend::command_complete(&mut self.out, tag, rows);
    }

    /// The commit failed: the statement that was called complete is not. Works while the message has not been sent.
    pub(super) fn take_back_complete(&mut self) {
        if let Some(at) = self.complete_at.take() {
            self.out.truncate(at);
        }
    }

    /// More is written behind the last CommandComplete: it stands.
    pub(super) fn complete_stands(&mut self) {
        self.complete_at = None;
    }
}

/// Reads more input; an end of the stream is [`Stop::Gone`].
async fn fill(io: &mut Transport, input: &mut BytesMut, limit: usize, received: &Counter) -> Result<(), Stop> {
    // A large message is made room for as it arrives, not as it is announced.
    let wanted = frontend::missing(input, limit).min(input.len().max(READ_SIZE)).max(READ_SIZE / 2);
    input.reserve(wanted);
    let n = io.read_buf(input).await?;
    received.increment(n as u64);
    if n == 0 { Err(Stop::Gone) } else { Ok(()) }
}

pub(super) fn shutting_down() -> Error {
    Error::new(ErrorKind::AdminShutdown, "terminating connection due to administrator command")
}

pub(super) fn canceled() -> Error {
    Error::new(ErrorKind::QueryCanceled, "canceling statement due to user request")
}
