//! The keys that signatures of JSON Web Tokens are checked with.

use std::{fmt, sync::Arc};

use jsonwebtoken::{Algorithm, DecodingKey, errors};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use super::jwks::Jwks;

/// A secret that is shorter than the signature can be guessed sooner than that (RFC 7518,
/// section 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// The bytes of the point of a public key on the curve P-256: its mark, and two coordinates.
const P256_BYTES: usize = 65;

/// A public key of RSA with 2,048 bits has at least this many bytes.
const MIN_RSA_BYTES: usize = 256;

/// Why keys or tokens cannot be used for access control.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// There is no token, or one is empty.
    #[error("it has an empty token")]
    EmptyToken,
    /// The secret is too short.
    #[error("it has {0} bytes: use at least {MIN_SECRET_BYTES} random ones")]
    ShortSecret(usize),
    /// The key cannot be read, or is of a kind that is not supported.
    #[error(
        "it is no public key (PEM) of RSA with 2048 bits or more, of the curve P-256, or of Ed25519"
    )]
    NoPublicKey,
    /// It is a private key.
    #[error("it is a private key: give the server only the public one")]
    PrivateKey,
    /// The URL is not safe.
    #[error("it is no https:// URL, and no http:// URL of this machine")]
    UnsafeUrl,
    /// The published set cannot be read.
    #[error("{0}")]
    Unread(String),
    /// The published set has no key that can be used.
    #[error("it has no key of RS256, ES256 or EdDSA")]
    NoKeys,
    /// The HTTP client cannot be made.
    #[error("no HTTPS client can be made: {0}")]
    NoClient(String),
}

/// Where the keys are from that signatures are checked with.
pub struct JwtKeys(pub(super) Source);

pub(super) enum Source {
    Fixed(Key),
    Jwks(Arc<Jwks>),
}

/// A key, and the algorithm that it is for.
#[derive(Clone)]
pub(super) struct Key {
    pub algorithm: Algorithm,
    pub key: DecodingKey,
}

impl fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtKeys")
    }
}

impl JwtKeys {
    /// A secret that the issuer has too (HS256).
    ///
    /// # Errors
    ///
    /// It has less than 32 bytes.
    pub fn secret(secret: &SecretString) -> Result<Self, KeyError> {
        let secret = secret.expose_secret().as_bytes();
        if secret.len() < MIN_SECRET_BYTES {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        let key = DecodingKey::from_secret(secret).map_err(|_| KeyError::ShortSecret(0))?;
        Ok(Self(Source::Fixed(Key {
            algorithm: Algorithm::HS256,
            key,
        })))
    }

    /// The public key of the issuer, as PEM: RS256, ES256 or EdDSA.
    ///
    /// # Errors
    ///
    /// It is none of these.
    pub fn public_key(pem: &[u8]) -> Result<Self, KeyError> {
        if String::from_utf8_lossy(pem).contains("PRIVATE KEY") {
            return Err(KeyError::PrivateKey);
        }
        type Read = fn(&[u8]) -> errors::Result<DecodingKey>;
        let kinds: [(Algorithm, Read); 3] = [
            (Algorithm::RS256, DecodingKey::from_rsa_pem),
            (Algorithm::ES256, DecodingKey::from_ec_pem),
            (Algorithm::EdDSA, DecodingKey::from_ed_pem),
        ];
        let read = kinds.into_iter().find_map(|(algorithm, read)| {
            let key = Key {
                algorithm,
                key: read(pem).ok()?,
            };
            key.is_strong().then_some(key)
        });
        read.map(|key| Self(Source::Fixed(key)))
            .ok_or(KeyError::NoPublicKey)
    }

    /// The public keys that the issuer publishes at this URL (a JWK Set, RFC 7517).
    ///
    /// # Errors
    ///
    /// The URL is neither https nor of this machine.
    pub fn published_at(url: &str) -> Result<Self, KeyError> {
        Ok(Self(Source::Jwks(Arc::new(Jwks::new(url)?))))
    }
}

impl Key {
    /// Whether the key has the size that its algorithm needs.
    pub fn is_strong(&self) -> bool {
        let Ok(bytes) = self.key.try_get_as_bytes() else {
            // Parts of a key of RSA: ring refuses those that are too short.
            return true;
        };
        match self.algorithm {
            Algorithm::RS256 => bytes.len() >= MIN_RSA_BYTES,
            Algorithm::ES256 => bytes.len() == P256_BYTES,
            _ => true,
        }
    }
}
