//! Encryption: asked for in the protocol, started at once, and over HTTP. The certificate is for `localhost`, for tests only.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;
#[path = "fake/raw.rs"]
mod raw;

use atoll_front::{FrontConfig, FrontHandle, StatusSource, Tls, serve};
use fake::{Fake, FakeDatabase};
use raw::{Raw, V3, query, startup};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::{TlsConnector, rustls};

const CERTIFICATE: &[u8] = include_bytes!("tls/cert.pem");
const KEY: &[u8] = include_bytes!("tls/key.pem");

struct NoStatus;

#[async_trait::async_trait]
impl StatusSource for NoStatus {
    async fn status(&self) -> serde_json::Value {
        serde_json::json!({})
    }
}

async fn front() -> FrontHandle {
    let config = FrontConfig {
        sql_addr: "127.0.0.1:0".parse().unwrap(),
        http_addr: "127.0.0.1:0".parse().unwrap(),
        tls: Some(Tls::from_pem(CERTIFICATE, KEY).unwrap()),
        ..FrontConfig::default()
    };
    serve(config, Arc::new(FakeDatabase(Fake::new())), Arc::new(NoStatus)).await.unwrap()
}

async fn encrypt(stream: TcpStream, protocol: Option<&[u8]>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CERTIFICATE).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocol.into_iter().map(<[u8]>::to_vec).collect();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// Logs in, runs a query, and looks for a row of its result in what comes back.
async fn ask(mut stream: TlsStream<TcpStream>) {
    stream
        .write_all(&[startup(V3, &[("user", "atoll")]), query("SELECT SERIES 3"), raw::message(b'X', &[])].concat())
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.windows(5).any(|w| w == b"row 2"), "{answer:?}");
}

#[tokio::test]
async fn tls_by_request() {
    let front = front().await;
    let mut raw = Raw::open(front.sql_addr()).await;
    raw.send(&[8i32.to_be_bytes(), 80_877_103i32.to_be_bytes()].concat()).await;
    assert_eq!(raw.stream.read_u8().await.unwrap(), b'S');
    ask(encrypt(raw.stream, None).await.unwrap()).await;
    // Clear text that came with the request is not taken for encrypted.
    let mut raw = Raw::open(front.sql_addr()).await;
    let injected = startup(V3, &[("user", "atoll")]);
    raw.send(&[&8i32.to_be_bytes()[..], &80_877_103i32.to_be_bytes(), &injected].concat()).await;
    let mut rest = Vec::new();
    let _ = raw.stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn tls_at_once() {
    let front = front().await;
    let stream = TcpStream::connect(front.sql_addr()).await.unwrap();
    ask(encrypt(stream, Some(b"postgresql")).await.unwrap()).await;
    // Another protocol's client has come to the wrong door.
    let stream = TcpStream::connect(front.sql_addr()).await.unwrap();
    assert!(encrypt(stream, Some(b"h2")).await.is_err());
}

#[tokio::test]
async fn https() {
    let front = front().await;
    let stream = TcpStream::connect(front.http_addr()).await.unwrap();
    let mut stream = encrypt(stream, None).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn unusable_certificates_are_refused() {
    assert!(Tls::from_pem(b"", KEY).is_err());
    assert!(Tls::from_pem(CERTIFICATE, b"").is_err());
    assert!(Tls::from_pem(CERTIFICATE, CERTIFICATE).is_err());
}
