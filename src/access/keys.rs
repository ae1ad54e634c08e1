//! The keys that signatures of JSON Web Tokens are checked with.

use std::{fmt, sync::Arc};

use jsonwebtoken::{Algorithm, DecodingKey, errors};
use secrecy::{ExposeSecret, SecretString};

use super::{
    jwks::Jwks,
    key::{Key, KeyError, MIN_SECRET_BYTES},
};

/// Where the keys are from that signatures are checked with.
pub struct JwtKeys(pub(super) Source);

pub(super) enum Source {
    Fixed(Key),
    Jwks(Arc<Jwks>),
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
