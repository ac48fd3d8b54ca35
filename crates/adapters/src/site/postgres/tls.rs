//! Encryption of connections to a site, with libpq's meaning of `sslmode`.
//!
//! `prefer` (the default) and `require` encrypt and trust any certificate: they keep out those who listen, not those who stand between.
//! `verify-full` with `sslrootcert` does both.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Makes encrypted connections.
#[derive(Clone)]
pub struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Takes `sslrootcert` and `sslmode=verify-full` out of a URL, which the driver does not know; gives what is left of it.
    pub(super) fn take(url: &str) -> Result<(Self, String), String> {
        let (head, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut root, mut verify, mut rest) = (None, false, vec![]);
        for parameter in query.split('&').filter(|p| !p.is_empty()) {
            match parameter.split_once('=') {
                Some(("sslrootcert", file)) => root = Some(file),
                Some(("sslmode", "verify-full")) => {
                    verify = true;
                    rest.push("sslmode=require");
                }
                Some(("sslmode", "verify-ca")) => {
                    return Err("sslmode=verify-ca is not supported: use verify-full".into());
                }
                _ => rest.push(parameter),
            }
        }
        let trusted = match (verify, root) {
            (true, Some(file)) => Some(roots(Path::new(file))?),
            (true, None) => return Err("sslmode=verify-full needs sslrootcert=FILE".into()),
            (false, _) => None,
        };
        let separator = if rest.is_empty() { "" } else { "?" };
        Ok((Self::new(trusted)?, format!("{head}{separator}{}", rest.join("&"))))
    }

    fn new(roots: Option<RootCertStore>) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let config = match roots {
            Some(roots) => builder.with_root_certificates(roots).with_no_client_auth(),
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth(),
        };
        Ok(Tls(Arc::new(config)))
    }
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| fail(&e))? {
        store.add(certificate.map_err(|e| fail(&e))?).map_err(|e| fail(&e))?;
    }
    if store.is_empty() { Err(fail(&"no certificate in it")) } else { Ok(store) }
}

impl<S> MakeTlsConnect<S> for Tls
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type TlsConnect = Handshake;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Handshake, InvalidDnsNameError> {
        Ok(Handshake { connector: TlsConnector::from(self.0.clone()), name: ServerName::try_from(domain.to_owned())? })
    }
}

/// An encrypted connection about to be made.
pub struct Handshake {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S> TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let shaking = self.connector.connect(self.name, stream);
        Box::pin(async move { Ok(Encrypted(shaking.await?)) })
    }
}

/// An encrypted connection.
pub struct Encrypted<S>(client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Trusts every certificate, but checks that the server holds its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::Tls;

    #[test]
    fn options_are_taken_out_of_the_url() {
        let left = |url: &str| Tls::take(url).map(|(_, rest)| rest);
        assert_eq!(left("postgres://h/d").as_deref(), Ok("postgres://h/d"));
        assert_eq!(left("postgres://h/d?sslrootcert=x&a=1").as_deref(), Ok("postgres://h/d?a=1"));
        for refused in ["sslmode=verify-ca", "sslmode=verify-full", "sslmode=verify-full&sslrootcert=/no/such/file"] {
            assert!(Tls::take(&format!("postgres://h/d?{refused}")).is_err(), "{refused}");
        }
    }
}
