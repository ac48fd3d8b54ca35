//! What an embedding program decides about the entrances.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Addresses, encryption and limits of the entrances.
#[derive(Clone)]
pub struct FrontConfig {
    /// Where the wire protocol is served; port 0: any free one.
    pub sql_addr: SocketAddr,
    /// Where HTTP is served; port 0: any free one.
    pub http_addr: SocketAddr,
    /// Encryption of both. `None`: clients that insist on TLS are refused.
    pub tls: Option<Tls>,
    /// The limits.
    pub limits: Limits,
    /// Makes up the salts shown for unknown users. Keep it across restarts, or their salts tell them from real ones.
    /// `None`: a random one.
    pub mock_secret: Option<[u8; 32]>,
    /// The user of HTTP requests without credentials, from loopback addresses only.
    pub default_user: String,
    /// The database of HTTP requests.
    pub database: String,
}

impl Default for FrontConfig {
    fn default() -> Self {
        FrontConfig {
            sql_addr: SocketAddr::from(([127, 0, 0, 1], 5433)),
            http_addr: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls: None,
            limits: Limits::default(),
            mock_secret: None,
            default_user: "atoll".to_string(),
            database: "atoll".to_string(),
        }
    }
}

/// What no client may exceed.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Sessions over the wire protocol; the next is refused with 53300.
    pub max_connections: usize,
    /// Largest message taken from a client, in bytes.
    pub max_message_bytes: usize,
    /// Prepared statements of one connection.
    pub max_statements: usize,
    /// Portals of one connection.
    pub max_portals: usize,
    /// Time to authenticate.
    pub authentication_timeout: Duration,
    /// Time given to running statements at shutdown before they are cancelled.
    pub shutdown_grace: Duration,
    /// HTTP connections.
    pub max_http_connections: usize,
    /// Largest HTTP request body, in bytes.
    pub max_http_body_bytes: usize,
    /// Rows in an HTTP answer; those beyond are left out, and the answer says so.
    pub max_http_rows: usize,
    /// Bytes of an HTTP answer; a larger one is refused.
    pub max_http_answer_bytes: usize,
    /// Time for an HTTP request.
    pub http_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: 500,
            max_message_bytes: 64 << 20,
            max_statements: 16_384,
            max_portals: 1024,
            authentication_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
            max_http_connections: 512,
            max_http_body_bytes: 8 << 20,
            max_http_rows: 10_000,
            max_http_answer_bytes: 64 << 20,
            http_timeout: Duration::from_secs(60),
        }
    }
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Tls {
    pub(crate) sql: Arc<rustls::ServerConfig>,
    pub(crate) http: Arc<rustls::ServerConfig>,
}

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text is not PEM, or lacks what is needed.
    #[error("cannot read the {what}: {why}")]
    Pem {
        /// Certificate or key.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// Key and certificate do not fit, or are of a kind that is not supported.
    #[error("cannot use the certificate: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Tls {
    /// From a PEM certificate chain and its PEM key.
    ///
    /// # Errors
    /// When they cannot be read or do not fit.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Tls, TlsError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<_, _>>()
            .map_err(|e| TlsError::Pem { what: "certificate", why: e.to_string() })?;
        if chain.is_empty() {
            return Err(TlsError::Pem { what: "certificate", why: "there is none in the file".to_string() });
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| TlsError::Pem { what: "key", why: e.to_string() })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let mut sql = config.clone();
        // Clients that start TLS at once (`sslnegotiation=direct`) must name the protocol.
        sql.alpn_protocols = vec![b"postgresql".to_vec()];
        let mut http = config;
        http.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls { sql: Arc::new(sql), http: Arc::new(http) })
    }
}
