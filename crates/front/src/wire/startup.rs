//! From an accepted socket to a session: encryption, the startup packet, authentication.
//!
//! Invariant: before a client has proved who it is, it costs a bounded amount of memory and a bounded time, and learns
//! nothing but whether its own proof was right.

use super::backend;
use super::channel::{Channel, Transport};
use super::connection::Connection;
use super::frontend::{Fields, startup_packet, violation};
use super::scram::{Exchange, MECHANISM, ScramError, mock_verifier};
use super::server::Shared;
use super::stop::Stop;
use crate::params::utf8;
use atoll_model::{Error, ErrorKind};
use atoll_ports::scram::{Verifier, random};
use atoll_ports::session::{Credentials, Startup};
use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;

const SSL_REQUEST: i32 = 80_877_103;
const GSS_REQUEST: i32 = 80_877_104;
const CANCEL_REQUEST: i32 = 80_877_102;
/// First byte of a TLS handshake: no startup packet is long enough to begin with it.
const TLS_HANDSHAKE: u8 = 0x16;
/// Largest password or SASL message.
const MAX_SASL: usize = 16 << 10;

/// What the first packets came to.
pub(super) enum Start {
    /// A session, with the place it takes among the connections.
    Session(Box<Connection>, i32, OwnedSemaphorePermit),
    /// A request to cancel a statement was carried out; there is no more to do.
    Cancelled,
}

/// Turns a new socket into a session.
///
/// # Errors
/// Why there is none; the caller tells the client where it can.
pub(super) async fn start(
    socket: TcpStream,
    peer: IpAddr,
    shared: &Arc<Shared>,
) -> Result<Start, (Stop, Option<Box<Channel>>)> {
    let (transport, input, packet) = match first_packet(socket, shared).await {
        Ok(found) => found,
        Err(stop) => return Err((stop, None)),
    };
    let mut channel = Box::new(Channel::new(transport, input, MAX_SASL, shared.shutdown.clone()));
    match negotiate(&mut channel, peer, shared, &packet).await {
        Ok(Some((session, process_id, permit))) => {
            channel.limit = shared.limits.max_message_bytes;
            let connection = Connection {
                canceller: session.canceller(),
                channel: *channel,
                session: shared.workers.session(session),
                workers: shared.workers.clone(),
                limits: shared.limits.clone(),
                metrics: shared.metrics.clone(),
                statements: HashMap::new(),
                portals: HashMap::new(),
                dirty: false,
                skipping: false,
            };
            Ok(Start::Session(Box::new(connection), process_id, permit))
        }
        Ok(None) => Ok(Start::Cancelled),
        Err(stop) => Err((stop, Some(channel))),
    }
}

/// Encrypts where the client asks for it, and reads the startup packet.
async fn first_packet(socket: TcpStream, shared: &Shared) -> Result<(Transport, BytesMut, Bytes), Stop> {
    let mut first = [0u8];
    let mut transport = if socket.peek(&mut first).await? == 1 && first[0] == TLS_HANDSHAKE {
        let tls = shared.tls.clone().ok_or(Stop::Gone)?;
        let stream = TlsAcceptor::from(tls).accept(socket).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"postgresql") {
            return Err(Stop::Gone);
        }
        Transport::Tls(Box::new(stream))
    } else {
        Transport::Plain(socket)
    };
    let mut input = BytesMut::with_capacity(1024);
    // SSLRequest and GSSENCRequest may come once each, in either order.
    for _ in 0..3 {
        let packet = loop {
            if let Some(packet) = startup_packet(&mut input).map_err(Stop::Fatal)? {
                break packet;
            }
            if transport.read_buf(&mut input).await? == 0 {
                return Err(Stop::Gone);
            }
        };
        let code = Fields::new(&packet).i32().map_err(Stop::Fatal)?;
        let asks_for_encryption = matches!(code, SSL_REQUEST | GSS_REQUEST);
        if !asks_for_encryption {
            return Ok((transport, input, packet));
        }
        match (transport, &shared.tls) {
            (Transport::Plain(mut socket), Some(tls)) if code == SSL_REQUEST => {
                // Anything sent before the handshake came in clear, from anyone: it must not be taken as encrypted.
                if !input.is_empty() {
                    return Err(Stop::Gone);
                }
                socket.write_all(b"S").await?;
                transport = Transport::Tls(Box::new(TlsAcceptor::from(tls.clone()).accept(socket).await?));
            }
            (mut plain, _) => {
                plain.write_all(b"N").await?;
                transport = plain;
            }
        }
    }
    Err(Stop::Gone)
}

type Established = (Box<dyn atoll_ports::session::Session>, i32, OwnedSemaphorePermit);

async fn negotiate(
    channel: &mut Channel,
    peer: IpAddr,
    shared: &Arc<Shared>,
    packet: &[u8],
) -> Result<Option<Established>, Stop> {
    let mut fields = Fields::new(packet);
    let version = fields.i32().map_err(Stop::Fatal)?;
    if version == CANCEL_REQUEST {
        let (process_id, secret) = (fields.i32().map_err(Stop::Fatal)?, fields.i32().map_err(Stop::Fatal)?);
        shared.cancel(process_id, secret);
        return Ok(None);
    }
    let (major, minor) = (version >> 16, version & 0xffff);
    if major != 3 {
        let message = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0");
        return Err(Stop::Fatal(Error::unsupported(message)));
    }
    let (mut startup, unknown) = parameters(fields.rest()).map_err(Stop::Fatal)?;
    if minor > 0 || !unknown.is_empty() {
        backend::negotiate_version(&mut channel.out, &unknown);
    }
    if startup.user.is_empty() {
        let error = Error::new(ErrorKind::InvalidAuthorization, "no PostgreSQL user name specified in startup packet");
        return Err(Stop::Fatal(error));
    }
    if startup.database.is_empty() {
        startup.database.clone_from(&startup.user);
    }
    authenticate(channel, peer, shared, &startup.user).await?;
    // Only now: whoever cannot log in takes no place away from those who can.
    let permit = shared.places.clone().try_acquire_owned().map_err(|_| {
        metrics::counter!("atoll_connections_refused_total", "reason" => "too_many").increment(1);
        Stop::Fatal(Error::new(ErrorKind::TooManyConnections, "sorry, too many clients already"))
    })?;
    let process_id = shared.next_process_id();
    startup.process_id = process_id;
    let session = shared.database.connect(startup).await.map_err(Stop::Fatal)?;
    let secret = i32::from_be_bytes(random().map_err(|e| Stop::Fatal(Error::internal(e.to_string())))?);
    shared.register(process_id, secret, session.canceller());
    backend::authentication(&mut channel.out, 0, &[]);
    for (name, value) in session.reported_settings() {
        backend::parameter_status(&mut channel.out, &name, &value);
    }
    backend::backend_key(&mut channel.out, process_id, secret);
    backend::ready(&mut channel.out, session.status());
    channel.all_due();
    Ok(Some((session, process_id, permit)))
}

/// The parameters of a startup packet, behind its version: who connects and how, and protocol options that we do not know.
///
/// # Errors
/// 08P01, 22021; 0A000 for replication; 42601 for malformed `options`.
pub(super) fn parameters(body: &[u8]) -> Result<(Startup, Vec<&str>), Error> {
    let mut fields = Fields::new(body);
    let mut startup = Startup::default();
    let mut unknown = Vec::new();
    while !fields.is_empty() {
        let name = fields.text()?;
        if name.is_empty() {
            break;
        }
        let value = fields.text()?;
        match name {
            "user" => startup.user = value.to_string(),
            "database" => startup.database = value.to_string(),
            "replication" if !matches!(value, "false" | "off" | "no" | "0") => {
                return Err(Error::unsupported("replication connections"));
            }
            "replication" => {}
            "options" => startup.settings.extend(options(value)?),
            _ if name.starts_with("_pq_.") => unknown.push(name),
            _ => startup.settings.push((name.to_string(), value.to_string())),
        }
    }
    Ok((startup, unknown))
}

/// The settings in the command-line options of a client (`-c name=value`, `--name=value`), which `PGOPTIONS` sends.
fn options(text: &str) -> Result<Vec<(String, String)>, Error> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            // A backslash keeps a blank, or itself, in a word.
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let assignment = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(rest), _) => Some(rest.to_string()),
            (None, Some("")) => words.next(),
            (None, Some(rest)) => Some(rest.to_string()),
            (None, None) => None,
        };
        let (name, value) = assignment.as_deref().and_then(|a| a.split_once('=')).ok_or_else(|| {
            Error::new(ErrorKind::Syntax, format!("invalid command-line argument for server process: {word}"))
        })?;
        // PostgreSQL reads a dash in an option's name as an underscore.
        settings.push((name.replace('-', "_"), value.to_string()));
    }
    Ok(settings)
}

async fn authenticate(channel: &mut Channel, peer: IpAddr, shared: &Shared, user: &str) -> Result<(), Stop> {
    let mock = || (mock_verifier(&shared.mock_secret, user), true);
    let (verifier, is_mock) = match shared.database.credentials(user) {
        Some(Credentials::NoPassword) if peer.to_canonical().is_loopback() => return Ok(()),
        Some(Credentials::Scram(text)) => match Verifier::parse(&text) {
            Some(verifier) => (verifier, false),
            None => {
                tracing::error!(user, "the stored password verifier is unreadable");
                mock()
            }
        },
        Some(Credentials::NoPassword) | None => mock(),
    };
    let refused = || {
        metrics::counter!("atoll_connections_refused_total", "reason" => "password").increment(1);
        let message = format!("password authentication failed for user \"{user}\"");
        Stop::Fatal(Error::new(ErrorKind::InvalidPassword, message))
    };
    let fatal = |error: ScramError| match error {
        ScramError::Malformed(why) => Stop::Fatal(violation(why)),
        ScramError::Refused => refused(),
    };
    let mut mechanisms = MECHANISM.as_bytes().to_vec();
    mechanisms.extend_from_slice(&[0, 0]);
    backend::authentication(&mut channel.out, 10, &mechanisms);
    let message = sasl_message(channel).await?;
    let mut fields = Fields::new(&message);
    let mechanism = fields.text().map_err(Stop::Fatal)?;
    if mechanism != MECHANISM {
        return Err(Stop::Fatal(violation("client selected an invalid SASL authentication mechanism")));
    }
    // Minus one: no first message; this mechanism needs one.
    let len = fields.i32().map_err(Stop::Fatal)?;
    let first = fields.rest();
    if usize::try_from(len).ok() != Some(first.len()) {
        return Err(Stop::Fatal(violation("malformed SASL initial response")));
    }
    let first = utf8(first).map_err(Stop::Fatal)?;
    let exchange = Exchange::start(verifier, is_mock, first)
        .map_err(|e| Stop::Fatal(Error::internal(e.to_string())))?
        .map_err(fatal)?;
    backend::authentication(&mut channel.out, 11, exchange.server_first().as_bytes());
    let message = sasl_message(channel).await?;
    let last = exchange.finish(utf8(&message).map_err(Stop::Fatal)?).map_err(fatal)?;
    backend::authentication(&mut channel.out, 12, last.as_bytes());
    Ok(())
}

/// Sends what is written and waits for the client's answer to it.
async fn sasl_message(channel: &mut Channel) -> Result<Bytes, Stop> {
    channel.all_due();
    let frame = channel.next_frame().await?;
    match frame.tag {
        b'p' => Ok(frame.body),
        b'X' => Err(Stop::Gone),
        tag => Err(Stop::Fatal(violation(format!("expected SASL response, got message type {tag}")))),
    }
}

#[cfg(test)]
mod tests {
    use super::options;

    #[test]
    fn command_line_options() {
        let pair = |n: &str, v: &str| (n.to_string(), v.to_string());
        let text = "-c statement_timeout=5s -cgeqo=off  --search-path=a\\ b,c\\\\d";
        let want = vec![pair("statement_timeout", "5s"), pair("geqo", "off"), pair("search_path", "a b,c\\d")];
        assert_eq!(options(text).ok(), Some(want));
        assert_eq!(options("").ok(), Some(vec![]));
        for bad in ["-c", "-c x", "x=y", "-d 5"] {
            assert!(options(bad).is_err(), "{bad}");
        }
    }
}
