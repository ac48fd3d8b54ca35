//! SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677) in PostgreSQL's form.
//!
//! Invariant: a password itself is never kept: what is stored proves that a client knows it, and does not let its reader log in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};
use std::fmt;
use std::num::NonZeroU32;

/// Rounds of PBKDF2 for new verifiers, PostgreSQL's number.
pub const ITERATIONS: u32 = 4096;
/// More rounds than this in a stored verifier are refused: they would only burn the clients' time.
const MAX_ITERATIONS: u32 = 10_000_000;
/// Bytes of salt for new verifiers.
const SALT_LEN: usize = 16;
/// Bytes of a SHA-256 digest.
pub const KEY_LEN: usize = 32;

/// What is stored about a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Rounds of PBKDF2.
    pub iterations: NonZeroU32,
    /// The salt.
    pub salt: Vec<u8>,
    /// `H(ClientKey)`: checks the client's proof.
    pub stored_key: [u8; KEY_LEN],
    /// Signs the server's answer.
    pub server_key: [u8; KEY_LEN],
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

impl fmt::Display for Verifier {
    /// PostgreSQL's form: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key)
        )
    }
}

impl Verifier {
    /// Derives the verifier of a password.
    pub fn derive(password: &str, salt: &[u8], iterations: NonZeroU32) -> Verifier {
        // Passwords that SASLprep refuses are taken as they are, as PostgreSQL and its clients do.
        let prepared = stringprep::saslprep(password).unwrap_or(password.into());
        let mut salted = [0u8; KEY_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, prepared.as_bytes(), &mut salted);
        let client_key = sign(&salted, b"Client Key");
        Verifier {
            iterations,
            salt: salt.to_vec(),
            stored_key: hash(&client_key),
            server_key: sign(&salted, b"Server Key"),
        }
    }

    /// Reads PostgreSQL's form. `None`: it is not one.
    pub fn parse(text: &str) -> Option<Verifier> {
        let (rounds_salt, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (rounds, salt) = rounds_salt.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let iterations: NonZeroU32 = rounds.parse().ok()?;
        if iterations.get() > MAX_ITERATIONS {
            return None;
        }
        Some(Verifier {
            iterations,
            salt: BASE64.decode(salt).ok()?,
            stored_key: BASE64.decode(stored).ok()?.try_into().ok()?,
            server_key: BASE64.decode(server).ok()?.try_into().ok()?,
        })
    }

    /// Whether this is the password (for entrances that get it in clear, such as HTTP basic authentication). Takes
    /// milliseconds, on purpose.
    pub fn accepts(&self, password: &str) -> bool {
        let derived = Verifier::derive(password, &self.salt, self.iterations);
        same(&derived.stored_key, &self.stored_key)
    }
}

/// HMAC-SHA-256.
pub fn sign(key: &[u8], data: &[u8]) -> [u8; KEY_LEN] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    let mut out = [0u8; KEY_LEN];
    out.copy_from_slice(tag.as_ref());
    out
}

/// SHA-256.
pub fn hash(data: &[u8]) -> [u8; KEY_LEN] {
    let mut out = [0u8; KEY_LEN];
    out.copy_from_slice(digest::digest(&digest::SHA256, data).as_ref());
    out
}

/// Whether two secrets are equal, in a time that does not tell where they differ.
pub fn same(a: &[u8; KEY_LEN], b: &[u8; KEY_LEN]) -> bool {
    a.iter().zip(b).fold(0u8, |difference, (x, y)| std::hint::black_box(difference | (x ^ y))) == 0
}

/// The operating system has no random numbers to give.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system gave no random numbers")]
pub struct NoRandomness;

/// Random bytes that nobody can guess.
///
/// # Errors
/// When the operating system has none.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0u8; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// The verifier to store for a new password, in PostgreSQL's form, with a fresh salt.
///
/// # Errors
/// When the operating system has no random numbers.
pub fn verifier(password: &str) -> Result<String, NoRandomness> {
    let salt = random::<SALT_LEN>()?;
    let iterations = NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN);
    Ok(Verifier::derive(password, &salt, iterations).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A verifier that PostgreSQL 15 stored for the password `secret`.
    const FROM_POSTGRES: &str = "SCRAM-SHA-256$4096:HdZLMI5j6UfbZp0jr0Sq0w==$+JY4siFQSWeYRIrX1edSVANS4ASs4sMPCWdOuhv1J70=:dlvO/dkWtLYLHa+p9YooTBS1NTLtpVPkX5UP2MP+2hQ=";

    #[test]
    fn reads_and_writes_what_postgres_stores() {
        let verifier = Verifier::parse(FROM_POSTGRES).expect("a verifier");
        assert_eq!(verifier.to_string(), FROM_POSTGRES);
        assert!(verifier.accepts("secret"));
        assert!(!verifier.accepts("Secret"));
    }

    #[test]
    fn fresh_verifiers_differ_and_accept() {
        let (a, b) = (verifier("pw").expect("random"), verifier("pw").expect("random"));
        assert_ne!(a, b);
        assert!(Verifier::parse(&a).expect("a verifier").accepts("pw"));
    }

    #[test]
    fn refuses_what_is_no_verifier() {
        for bad in [
            "",
            "md5abc",
            "SCRAM-SHA-256$0:AA==$AA==:AA==",
            "SCRAM-SHA-256$4096:AA==$AA==:AA==",
            "SCRAM-SHA-256$4096:!$:",
        ] {
            assert_eq!(Verifier::parse(bad), None, "{bad}");
        }
    }
}
