//! One key that signatures are checked with, and why one cannot be used.

use jsonwebtoken::{Algorithm, DecodingKey};
use thiserror::Error;

/// A secret that is shorter than the signature can be guessed sooner than that (RFC 7518,
/// section 3.2).
pub(super) const MIN_SECRET_BYTES: usize = 32;

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

/// A key, and the algorithm that it is for.
#[derive(Clone)]
pub(super) struct Key {
    pub algorithm: Algorithm,
    pub key: DecodingKey,
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
