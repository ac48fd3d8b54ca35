//! Connection strings, connecting, authentication, cancelling.

use atoll_adapters::tls;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::{Host, SslMode};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Client, ClientError, ServerError, Stream};

/// How long a host may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A server, and who connects to it.
#[derive(Clone, Debug)]
pub struct Target {
    config: tokio_postgres::Config,
    address: Address,
    password: Option<Vec<u8>>,
    tls: tls::Options,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp(String, u16),
    Unix(std::path::PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Target {
    /// Reads a connection string: a URL or `key=value` pairs, as libpq takes them. What it leaves out is
    /// `postgres://atoll@127.0.0.1:5433/atoll`; a password may also come from `PGPASSWORD`.
    pub fn parse(url: &str) -> Result<Self, ClientError> {
        let refuse = |reason: String| ClientError::Url { url: hide_password(url), reason };
        let (tls, rest) = tls::Options::take(url).map_err(refuse)?;
        let mut config: tokio_postgres::Config = rest.parse().map_err(|e: tokio_postgres::Error| refuse(cause(&e)))?;
        if config.get_user().is_none() {
            config.user("atoll");
        }
        if config.get_dbname().is_none() {
            config.dbname("atoll");
        }
        let port = config.get_ports().first().copied().unwrap_or(5433);
        let address = match config.get_hosts().first() {
            Some(Host::Tcp(host)) => Address::Tcp(host.clone(), port),
            Some(Host::Unix(dir)) => Address::Unix(dir.join(format!(".s.PGSQL.{port}"))),
            None => Address::Tcp("127.0.0.1".into(), port),
        };
        if config.get_hosts().len() > 1 {
            return Err(refuse("give one host".into()));
        }
        let password = config
            .get_password()
            .map(<[u8]>::to_vec)
            .or_else(|| std::env::var_os("PGPASSWORD").map(|p| p.into_encoded_bytes()));
        Ok(Self { config, address, password, tls })
    }

    /// The name of the database.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or("atoll")
    }

    /// The name of the user.
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or("atoll")
    }

    /// Host and port, for messages.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    async fn open(&self) -> Result<Box<dyn Stream>, ClientError> {
        let refuse = |reason: String| ClientError::Connect { address: self.address.to_string(), reason };
        let opening = async {
            Ok::<Box<dyn Stream>, io::Error>(match &self.address {
                Address::Tcp(host, port) => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    self.encrypt(stream, host).await?
                }
                Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            })
        };
        let timeout = self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        match tokio::time::timeout(timeout, opening).await {
            Ok(opened) => opened.map_err(|e| refuse(e.to_string())),
            Err(_) => Err(refuse(format!("no answer in {} s", timeout.as_secs()))),
        }
    }

    /// Encrypts the connection, if the server can and the connection string does not forbid it.
    async fn encrypt(&self, mut stream: TcpStream, host: &str) -> io::Result<Box<dyn Stream>> {
        let mode = self.config.get_ssl_mode();
        if mode == SslMode::Disable {
            return Ok(Box::new(stream));
        }
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await?;
        // One byte alone: what an attacker has sent beside it must not be taken for the server's.
        match stream.read_u8().await? {
            b'S' => {
                let config = self.tls.client_config().map_err(io::Error::other)?;
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let connector = TlsConnector::from(Arc::new(config));
                Ok(Box::new(connector.connect(name, stream).await?))
            }
            _ if mode == SslMode::Require => {
                Err(io::Error::other("the server does not encrypt, and sslmode requires it"))
            }
            _ => Ok(Box::new(stream)),
        }
    }

    /// Connects and authenticates.
    pub async fn connect(&self) -> Result<Client, ClientError> {
        let mut client = Client::new(self.open().await?);
        let name = self.config.get_application_name().unwrap_or("atoll");
        let mut parameters = vec![
            ("user", self.user()),
            ("database", self.database()),
            ("application_name", name),
            ("client_encoding", "UTF8"),
        ];
        if let Some(options) = self.config.get_options() {
            parameters.push(("options", options));
        }
        frontend::startup_message(parameters, &mut client.output)?;
        client.flush().await?;
        self.authenticate(&mut client).await?;
        loop {
            match client.message().await? {
                Message::BackendKeyData(body) => {
                    client.cancel = Some(CancelToken {
                        target: self.clone(),
                        process: body.process_id(),
                        secret: body.secret_key(),
                    });
                }
                Message::ParameterStatus(body) => {
                    client.parameters.insert(body.name()?.to_owned(), body.value()?.to_owned());
                }
                Message::ErrorResponse(body) => {
                    return Err(self.refused(ServerError::read(body.fields())?));
                }
                Message::ReadyForQuery(_) => return Ok(client),
                _ => {}
            }
        }
    }

    fn refused(&self, error: ServerError) -> ClientError {
        ClientError::Connect { address: self.address.to_string(), reason: error.to_string() }
    }

    async fn authenticate(&self, client: &mut Client) -> Result<(), ClientError> {
        let need = || {
            self.password.as_deref().ok_or_else(|| ClientError::Connect {
                address: self.address.to_string(),
                reason: format!(
                    "the server asks for the password of {}: put it into the URL or into PGPASSWORD",
                    self.user()
                ),
            })
        };
        let mut scram: Option<sasl::ScramSha256> = None;
        let no_dialogue = || ClientError::Unexpected("an answer to an authentication that was not begun");
        loop {
            match client.message().await? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(need()?, &mut client.output)?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(self.user().as_bytes(), need()?, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut client.output)?;
                }
                Message::AuthenticationSasl(body) => {
                    if !body.mechanisms().any(|m| Ok(m == sasl::SCRAM_SHA_256))? {
                        return Err(ClientError::Unexpected("no SASL mechanism that this client knows"));
                    }
                    let dialogue = sasl::ScramSha256::new(need()?, sasl::ChannelBinding::unsupported());
                    frontend::sasl_initial_response(sasl::SCRAM_SHA_256, dialogue.message(), &mut client.output)?;
                    scram = Some(dialogue);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let dialogue = scram.as_mut().ok_or_else(no_dialogue)?;
                    dialogue.update(body.data())?;
                    frontend::sasl_response(dialogue.message(), &mut client.output)?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    scram.as_mut().ok_or_else(no_dialogue)?.finish(body.data())?;
                }
                Message::ErrorResponse(body) => {
                    return Err(self.refused(ServerError::read(body.fields())?));
                }
                Message::NoticeResponse(_) => {}
                _ => {
                    return Err(ClientError::Unexpected("an authentication method that this client does not know"));
                }
            }
            client.flush().await?;
        }
    }
}

/// What cancels the running statement of a connection.
#[derive(Clone, Debug)]
pub struct CancelToken {
    target: Target,
    process: i32,
    secret: i32,
}

impl CancelToken {
    /// Asks the server to cancel; the statement then fails with 57014, or has just ended.
    pub async fn cancel(&self) -> Result<(), ClientError> {
        let mut stream = self.target.open().await?;
        let mut request = BytesMut::new();
        frontend::cancel_request(self.process, self.secret, &mut request);
        stream.write_all(&request).await?;
        // The server closes the connection once it has acted.
        let _ = stream.read(&mut [0]).await?;
        Ok(())
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

fn hide_password(url: &str) -> String {
    let Some((head, tail)) = url.split_once("://") else {
        return url.to_owned();
    };
    match tail.split_once('@') {
        Some((user, host)) if user.contains(':') => {
            format!("{head}://{}:***@{host}", user.split(':').next().unwrap_or_default())
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_leaves_out_is_atoll_on_this_machine() {
        let target = Target::parse("postgres://").expect("an empty URL");
        assert_eq!((target.user(), target.database(), target.address().as_str()), ("atoll", "atoll", "127.0.0.1:5433"));
        let target = Target::parse("postgres://ada@[::1]:77/news").expect("a full URL");
        assert_eq!((target.user(), target.database(), target.address().as_str()), ("ada", "news", "[::1]:77"));
        assert!(Target::parse("http://x").is_err());
        assert!(Target::parse("postgres://a,b/").is_err());
    }

    #[test]
    fn a_refused_url_does_not_show_its_password() {
        let error = Target::parse("postgres://ada:secret@h/db?nonsense=1").expect_err("an unknown option").to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
