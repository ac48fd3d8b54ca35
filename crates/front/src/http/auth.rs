//! Who may use HTTP: basic authentication against the users' SCRAM verifiers, loopback without one.
//!
//! Invariant: without a password nothing is answered to another machine, nor to a web page: a request that relies on its
//! address alone must name this machine by address or `localhost` (a page's own host name, rebound to loopback, does not).

use super::Peer;
use atoll_model::{Error, ErrorKind, Result};
use atoll_ports::scram::{Verifier, sign};
use atoll_ports::session::{Credentials, Database};
use axum::http::{HeaderMap, Uri, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Remembered logins.
const CACHE: usize = 1024;
/// Passwords checked at a time: each takes milliseconds of a processor.
const CHECKS: usize = 2;

/// Checks credentials.
pub(super) struct Guard {
    database: Arc<dyn Database>,
    default_user: String,
    secret: [u8; 32],
    /// Keyed digests of the passwords that were right, each with the verifier it was checked against.
    known: Mutex<HashMap<String, (String, [u8; 32])>>,
    checks: Arc<Semaphore>,
}

impl Guard {
    pub(super) fn new(database: Arc<dyn Database>, default_user: String, secret: [u8; 32]) -> Self {
        Guard { database, default_user, secret, known: Mutex::default(), checks: Arc::new(Semaphore::new(CHECKS)) }
    }

    /// The user of a request.
    ///
    /// # Errors
    /// 28P01 or 28000.
    pub(super) async fn user(&self, peer: Peer, headers: &HeaderMap, uri: &Uri) -> Result<String> {
        match headers.get(header::AUTHORIZATION) {
            None => match self.database.credentials(&self.default_user) {
                Some(Credentials::NoPassword) if is_local(peer, headers, uri) => Ok(self.default_user.clone()),
                _ => Err(Error::new(ErrorKind::InvalidAuthorization, "credentials are required")
                    .hint("Send the user's name and password with HTTP basic authentication.")),
            },
            Some(value) => {
                let (user, password) = basic(value.as_bytes())
                    .ok_or_else(|| Error::new(ErrorKind::InvalidAuthorization, "unreadable Authorization header"))?;
                if self.accepts(peer, headers, uri, &user, password).await? {
                    return Ok(user);
                }
                Err(Error::new(
                    ErrorKind::InvalidPassword,
                    format!("password authentication failed for user \"{user}\""),
                ))
            }
        }
    }

    /// Status and metrics show no data: loopback needs no credentials for them.
    ///
    /// # Errors
    /// As [`Guard::user`].
    pub(super) async fn observer(&self, peer: Peer, headers: &HeaderMap, uri: &Uri) -> Result<()> {
        if is_local(peer, headers, uri) { Ok(()) } else { self.user(peer, headers, uri).await.map(drop) }
    }

    async fn accepts(&self, peer: Peer, headers: &HeaderMap, uri: &Uri, user: &str, password: String) -> Result<bool> {
        let text = match self.database.credentials(user) {
            Some(Credentials::NoPassword) => return Ok(is_local(peer, headers, uri)),
            Some(Credentials::Scram(text)) => Some(text),
            None => None,
        };
        let digest = sign(&self.secret, password.as_bytes());
        if let Some(text) = &text
            && self.known.lock().get(user).is_some_and(|(v, d)| v == text && *d == digest)
        {
            return Ok(true);
        }
        // An unknown user takes as long as a known one.
        let verifier = text.as_deref().and_then(Verifier::parse);
        let right = self.check(verifier, password, user).await?;
        if right && let Some(text) = text {
            let mut known = self.known.lock();
            if known.len() >= CACHE {
                known.clear();
            }
            known.insert(user.to_string(), (text, digest));
        }
        Ok(right)
    }

    async fn check(&self, verifier: Option<Verifier>, password: String, user: &str) -> Result<bool> {
        let closed = |_| Error::new(ErrorKind::AdminShutdown, "the server is shutting down");
        let permit = self.checks.clone().acquire_owned().await.map_err(closed)?;
        let mock = crate::wire::mock_verifier(&self.secret, user);
        let check = tokio::task::spawn_blocking(move || {
            let right = verifier.as_ref().unwrap_or(&mock).accepts(&password) && verifier.is_some();
            drop(permit);
            right
        });
        check.await.map_err(|e| Error::internal(format!("checking a password failed: {e}")))
    }
}

fn basic(value: &[u8]) -> Option<(String, String)> {
    let value = std::str::from_utf8(value).ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(encoded.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_string(), password.to_string()))
}

/// Whether the request comes from this machine and was meant for it.
fn is_local(peer: Peer, headers: &HeaderMap, uri: &Uri) -> bool {
    if !peer.0.to_canonical().is_loopback() {
        return false;
    }
    let host = uri.authority().map(|a| a.as_str()).or_else(|| headers.get(header::HOST)?.to_str().ok());
    // HTTP/1.0 may do without; a browser never does.
    host.is_none_or(names_this_machine)
}

fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (host, local) in [
            ("localhost:8080", true),
            ("127.0.0.1", true),
            ("[::1]:80", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(names_this_machine(host), local, "{host}");
        }
    }

    #[test]
    fn basic_credentials() {
        assert_eq!(basic(b"Basic YTpiOmM="), Some(("a".into(), "b:c".into())));
        for bad in [&b"Basic"[..], b"Bearer x", b"Basic !!!", b"Basic YQ==", b"\xff"] {
            assert_eq!(basic(bad), None);
        }
    }
}
