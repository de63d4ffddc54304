//! Join tokens: `nm1.<hex SHA-256 of the authority's SubjectPublicKeyInfo>.<base64url of 32 random bytes>`.
//!
//! Invariants: the secret part leaves a machine only after the pin was checked; the control plane stores its SHA-256 and
//! never the secret; neither type has `Display` or `Serialize`, and `Debug` shows no secret.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

const VERSION: &str = "nm1";

/// The secret part of a join token: 32 random bytes. What a joining machine shows to be let in.
#[derive(Clone)]
pub struct JoinSecret([u8; 32]);

impl JoinSecret {
    fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        Some(Self(bytes.as_slice().try_into().ok()?))
    }

    pub(crate) fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0))
    }

    /// SHA-256 of the secret as 64 lower-case hexadecimal digits: what is stored, and what a token is looked up by. A plain
    /// hash is enough, for the secret is 256 random bits.
    pub fn hash(&self) -> String {
        hex::encode(Sha256::digest(self.0))
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(…)")
    }
}

impl Drop for JoinSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A permission for one machine to join, and the means to know the control plane it is for.
#[derive(Clone)]
pub struct JoinToken {
    /// SHA-256 of the authority's SubjectPublicKeyInfo.
    pub pin: [u8; 32],
    pub secret: JoinSecret,
}

/// A text that is not a join token. It does not quote the text, which may be a token mistyped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    #[error("a join token has the form nm1.<64 hexadecimal digits>.<43 characters>; copy it whole")]
    Form,
    #[error("this join token is of a version this program does not know; the control plane is newer than the agent")]
    Version,
}

impl JoinToken {
    /// A new token for the authority with this pin. Fails only when the operating system has no random bytes.
    pub fn generate(pin: [u8; 32]) -> Result<Self, getrandom::Error> {
        Ok(Self {
            pin,
            secret: JoinSecret::generate()?,
        })
    }

    pub fn parse(text: &str) -> Result<Self, BadToken> {
        let mut parts = text.trim().split('.');
        let (Some(version), Some(pin), Some(secret), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(BadToken::Form);
        };
        if version != VERSION {
            let newer = version
                .strip_prefix("nm")
                .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
            return Err(if newer { BadToken::Version } else { BadToken::Form });
        }
        let mut bytes = [0u8; 32];
        hex::decode_to_slice(pin, &mut bytes).map_err(|_| BadToken::Form)?;
        Ok(Self {
            pin: bytes,
            secret: JoinSecret::parse(secret).ok_or(BadToken::Form)?,
        })
    }

    /// The token as text, to be shown once to whoever asked for it.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{VERSION}.{}.{}", hex::encode(self.pin), *self.secret.reveal()))
    }

    /// See [`JoinSecret::hash`].
    pub fn secret_hash(&self) -> String {
        self.secret.hash()
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("pin", &hex::encode(self.pin))
            .field("secret", &self.secret)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_shows_no_secret() {
        let token = JoinToken::generate([7; 32]).unwrap();
        let text = token.reveal();
        let again = JoinToken::parse(&format!(" {}\n", *text)).unwrap();
        assert_eq!(again.pin, token.pin);
        assert_eq!(again.secret_hash(), token.secret_hash());
        assert_eq!(text.len(), 4 + 64 + 1 + 43);
        let secret = text.rsplit('.').next().unwrap();
        assert!(!format!("{token:?}{:?}", token.secret).contains(secret));
        assert_ne!(JoinToken::generate([7; 32]).unwrap().secret_hash(), token.secret_hash());
    }

    #[test]
    fn other_texts_are_refused() {
        let good = JoinToken::generate([1; 32]).unwrap().reveal();
        let mut cut = good.to_string();
        cut.pop();
        for bad in [
            "",
            "nm1",
            "nm1..",
            "nm1.ab.cd",
            &cut,
            &good.replace("nm1", "xx1"),
            &format!("{}.x", *good),
            &good.replace('.', ":"),
        ] {
            assert_eq!(JoinToken::parse(bad).unwrap_err(), BadToken::Form, "{bad}");
        }
        assert_eq!(JoinToken::parse(&good.replace("nm1", "nm2")).unwrap_err(), BadToken::Version);
    }
}
