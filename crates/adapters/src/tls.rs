//! Encryption of a connection to a server, with libpq's meaning of `sslmode`.
//!
//! `prefer` (the default) and `require` encrypt, but trust any certificate: they keep out those who listen, not those who
//! stand between. `verify-full` with `sslrootcert` does both.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// What a connection string says about certificates, beyond what the driver's parser knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The file of the authority that must have signed the server's certificate.
    pub root: Option<String>,
    /// Whether the certificate must be good and for the host that was named.
    pub verify: bool,
}

impl Options {
    /// Takes `sslrootcert` and `sslmode=verify-full` out of a URL; what is left is for the driver's parser.
    ///
    /// # Errors
    /// What is not supported, or missing, in words.
    pub fn take(url: &str) -> Result<(Self, String), String> {
        let Some((head, query)) = url.split_once('?').filter(|_| url.contains("://")) else {
            return Ok((Self::default(), url.to_owned()));
        };
        let (mut options, mut rest) = (Self::default(), Vec::new());
        for parameter in query.split('&') {
            match parameter.split_once('=') {
                Some(("sslrootcert", file)) => options.root = Some(file.to_owned()),
                Some(("sslmode", "verify-full")) => {
                    options.verify = true;
                    rest.push("sslmode=require");
                }
                Some(("sslmode", "verify-ca")) => {
                    return Err("sslmode=verify-ca is not supported: use verify-full".into());
                }
                _ => rest.push(parameter),
            }
        }
        if options.verify && options.root.is_none() {
            return Err("sslmode=verify-full needs sslrootcert=FILE".into());
        }
        let separator = if rest.is_empty() { "" } else { "?" };
        Ok((options, format!("{head}{separator}{}", rest.join("&"))))
    }

    /// What rustls needs to know.
    ///
    /// # Errors
    /// What is wrong with the authority's file, which is named.
    pub fn client_config(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        Ok(match &self.root {
            Some(file) if self.verify => builder.with_root_certificates(roots(Path::new(file))?).with_no_client_auth(),
            _ => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth(),
        })
    }
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let fail = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|e| fail(&e))? {
        store.add(certificate.map_err(|e| fail(&e))?).map_err(|e| fail(&e))?;
    }
    if store.is_empty() {
        return Err(fail(&"no certificate in it"));
    }
    Ok(store)
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
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn options_are_taken_out_of_the_url() {
        let take = |url: &str| Options::take(url);
        assert_eq!(take("postgres://h/d"), Ok((Options::default(), "postgres://h/d".into())));
        let strict = Options { root: Some("ca.pem".into()), verify: true };
        assert_eq!(
            take("postgres://h/d?sslmode=verify-full&sslrootcert=ca.pem&connect_timeout=3"),
            Ok((strict, "postgres://h/d?sslmode=require&connect_timeout=3".into()))
        );
        assert!(take("postgres://h/d?sslmode=verify-full").is_err());
        assert!(take("postgres://h/d?sslmode=verify-ca").is_err());
    }
}
