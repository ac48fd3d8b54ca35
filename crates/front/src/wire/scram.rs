//! The server's side of a SCRAM-SHA-256 exchange (RFC 5802 with RFC 7677; no channel binding).
//!
//! Invariant: an unknown user goes through the same exchange as a known one, with a salt that only depends on the name, and
//! fails at its end: nothing on the wire tells whether a user exists.

use atoll_ports::scram::{ITERATIONS, KEY_LEN, NoRandomness, Verifier, hash, random, same, sign};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::num::NonZeroU32;

/// The only mechanism offered.
pub(super) const MECHANISM: &str = "SCRAM-SHA-256";

/// The exchange cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ScramError {
    /// A message is malformed.
    Malformed(&'static str),
    /// The proof is wrong, or there is no such user.
    Refused,
}

/// An exchange after the server's first message.
pub(super) struct Exchange {
    verifier: Verifier,
    /// No password can be right.
    mock: bool,
    /// `gs2-header`, as the client must repeat it.
    header: String,
    nonce: String,
    client_first_bare: String,
    server_first: String,
}

/// A verifier for a user who does not exist.
pub(crate) fn mock_verifier(secret: &[u8; 32], user: &str) -> Verifier {
    let salt = sign(secret, user.as_bytes());
    Verifier {
        iterations: NonZeroU32::new(ITERATIONS).unwrap_or(NonZeroU32::MIN),
        salt: salt[..16].to_vec(),
        stored_key: [0; KEY_LEN],
        server_key: [0; KEY_LEN],
    }
}

impl Exchange {
    /// Reads the client's first message and answers it.
    pub(super) fn start(
        verifier: Verifier,
        mock: bool,
        client_first: &str,
    ) -> Result<Result<Exchange, ScramError>, NoRandomness> {
        let nonce = BASE64.encode(random::<18>()?);
        Ok(Self::with_nonce(verifier, mock, client_first, &nonce))
    }

    fn with_nonce(verifier: Verifier, mock: bool, client_first: &str, nonce: &str) -> Result<Exchange, ScramError> {
        let malformed = ScramError::Malformed;
        // gs2-header: channel binding flag, authorization identity (which PostgreSQL does not use either).
        let mut parts = client_first.splitn(3, ',');
        let (Some(flag), Some(identity), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("incomplete SCRAM client-first message"));
        };
        match flag {
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(malformed("SCRAM channel binding was not offered")),
            _ => return Err(malformed("unexpected SCRAM channel binding flag")),
        }
        if !identity.is_empty() {
            return Err(malformed("SCRAM authorization identities are not supported"));
        }
        let mut attributes = bare.split(',');
        if !attributes.next().is_some_and(|a| a.starts_with("n=")) {
            // This is also where the mandatory extension attribute `m=` would stand.
            return Err(malformed("SCRAM user name expected"));
        }
        let client_nonce = attributes
            .next()
            .and_then(|a| a.strip_prefix("r="))
            .filter(|n| !n.is_empty() && n.bytes().all(|b| (0x21..=0x7e).contains(&b)))
            .ok_or(malformed("SCRAM nonce expected"))?;
        let nonce = format!("{client_nonce}{nonce}");
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        Ok(Exchange {
            verifier,
            mock,
            header: format!("{flag},{identity},"),
            nonce,
            client_first_bare: bare.to_string(),
            server_first,
        })
    }

    /// The server's first message.
    pub(super) fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Checks the client's proof; gives the server's last message.
    pub(super) fn finish(&self, client_final: &str) -> Result<String, ScramError> {
        let malformed = ScramError::Malformed;
        let (without_proof, proof) = client_final.rsplit_once(",p=").ok_or(malformed("SCRAM proof expected"))?;
        let mut attributes = without_proof.split(',');
        let binding =
            attributes.next().and_then(|a| a.strip_prefix("c=")).ok_or(malformed("SCRAM channel binding expected"))?;
        if BASE64.decode(binding).ok().as_deref() != Some(self.header.as_bytes()) {
            return Err(malformed("unexpected SCRAM channel binding"));
        }
        if attributes.next().and_then(|a| a.strip_prefix("r=")) != Some(self.nonce.as_str()) {
            return Err(malformed("SCRAM nonce does not match"));
        }
        let proof: [u8; KEY_LEN] =
            BASE64.decode(proof).ok().and_then(|p| p.try_into().ok()).ok_or(malformed("malformed SCRAM proof"))?;
        let message = format!("{},{},{without_proof}", self.client_first_bare, self.server_first);
        let signature = sign(&self.verifier.stored_key, message.as_bytes());
        let mut client_key = proof;
        client_key.iter_mut().zip(signature).for_each(|(k, s)| *k ^= s);
        let right = same(&hash(&client_key), &self.verifier.stored_key);
        if !right || self.mock {
            return Err(ScramError::Refused);
        }
        Ok(format!("v={}", BASE64.encode(sign(&self.verifier.server_key, message.as_bytes()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The exchange of RFC 7677, section 3.
    fn rfc() -> Exchange {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let verifier = Verifier::derive("pencil", &salt, NonZeroU32::new(4096).expect("not zero"));
        let server_nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        Exchange::with_nonce(verifier, false, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO", server_nonce).expect("well-formed")
    }

    #[test]
    fn the_exchange_of_the_rfc() {
        let exchange = rfc();
        assert_eq!(
            exchange.server_first(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = exchange.finish(
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        );
        assert_eq!(last.as_deref(), Ok("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
    }

    #[test]
    fn wrong_proofs_and_nonces_are_refused() {
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let zero = BASE64.encode([0u8; 32]);
        assert_eq!(rfc().finish(&format!("c=biws,r={nonce},p={zero}")), Err(ScramError::Refused));
        for bad in [
            format!("c=biws,r={nonce}x,p={proof}"),
            format!("c=eSws,r={nonce},p={proof}"),
            format!("c=biws,r={nonce}"),
            format!("c=biws,r={nonce},p=AAAA"),
            String::new(),
        ] {
            assert!(matches!(rfc().finish(&bad), Err(ScramError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn mock_users_always_fail_and_keep_their_salt() {
        let verifier = mock_verifier(&[7; 32], "nobody");
        assert_eq!(verifier, mock_verifier(&[7; 32], "nobody"));
        assert_ne!(verifier.salt, mock_verifier(&[7; 32], "someone").salt);
    }

    proptest! {
        #[test]
        fn no_text_panics(first in "([npy],|p=x,)?,?(n=,)?(r=)?.{0,20}", last in "(c=biws,)?(r=)?.{0,30}(,p=)?.{0,50}") {
            let verifier = mock_verifier(&[1; 32], "x");
            if let Ok(exchange) = Exchange::with_nonce(verifier, true, &first, "n") {
                prop_assert!(exchange.finish(&last).is_err());
            }
        }
    }
}
