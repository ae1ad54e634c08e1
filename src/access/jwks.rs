//! The keys that an issuer of JSON Web Tokens publishes (a JWK Set, RFC 7517).

use std::time::Duration;

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use parking_lot::Mutex;
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    Denied, KeyError,
    fetching::{self, Unread},
    key::Key,
};

/// Keys are asked for again after this long: those that are gone by then are not valid any more.
const KEPT: Duration = Duration::from_secs(600);

/// A key that is not known is looked for at most this often.
const PAUSE: Duration = Duration::from_secs(60);

/// The largest set that is read, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// A published set of keys, as it was last read.
pub(super) struct Jwks {
    url: Url,
    client: Client,
    read: Mutex<Read>,
    /// Held while the set is asked for.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Read {
    /// None: the set was never read.
    keys: Option<Vec<Published>>,
    /// When it was last asked for, and when it was last read.
    asked: Option<Instant>,
    at: Option<Instant>,
}

#[derive(Clone)]
struct Published {
    id: Option<String>,
    key: Key,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl Jwks {
    pub fn new(url: &str) -> Result<Self, KeyError> {
        Ok(Self {
            url: fetching::safe_url(url)?,
            client: fetching::client()?,
            read: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// The keys that can have signed a token with this header.
    ///
    /// # Errors
    ///
    /// [`Denied::Unavailable`] if the set was never read and cannot be read now;
    /// [`Denied::Invalid`] if it has no such key.
    pub async fn keys_for(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<Key>, Denied> {
        let asked_before = self.read.lock().asked;
        let known = self.known(id, algorithm);
        let is_old = self.read.lock().at.is_none_or(|at| at.elapsed() >= KEPT);
        if !known.is_empty() && !is_old {
            return Ok(known);
        }
        let _asking = self.asking.lock().await;
        // Another client may have asked meanwhile, or just before.
        let asked = self.read.lock().asked;
        let is_asked = asked != asked_before || asked.is_some_and(|at| at.elapsed() < PAUSE);
        if !is_asked {
            self.ask().await;
        }
        let known = self.known(id, algorithm);
        match (known.is_empty(), self.read.lock().keys.is_some()) {
            (false, _) => Ok(known),
            (true, true) => Err(Denied::Invalid),
            (true, false) => Err(Denied::Unavailable),
        }
    }

    fn known(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<Key> {
        let read = self.read.lock();
        let fits = |published: &&Published| {
            let is_named = id.is_none_or(|id| published.id.as_deref() == Some(id));
            is_named && published.key.algorithm == algorithm
        };
        let keys = read.keys.iter().flatten().filter(fits);
        keys.map(|published| published.key.clone()).collect()
    }

    /// Checks that the set can be read, and has a key that can be used.
    ///
    /// # Errors
    ///
    /// Why not.
    pub async fn check(&self) -> Result<(), KeyError> {
        match self.fetch().await {
            Ok(keys) if keys.is_empty() => Err(KeyError::NoKeys),
            Ok(_) => Ok(()),
            Err(why) => Err(KeyError::Unread(why.to_string())),
        }
    }

    async fn fetch(&self) -> Result<Vec<Published>, Unread> {
        let request = self.client.get(self.url.clone());
        let Set { keys } = fetching::read_json(request, MAX_BYTES).await?;
        Ok(keys.into_iter().filter_map(published).collect())
    }

    async fn ask(&self) {
        self.read.lock().asked = Some(Instant::now());
        match self.fetch().await {
            Ok(keys) => {
                if keys.is_empty() {
                    warn!("WEBRTC_JWKS_URL has no key of RS256, ES256 or EdDSA");
                }
                let mut read = self.read.lock();
                if read.keys.is_none() {
                    info!(keys = keys.len(), "the keys of WEBRTC_JWKS_URL are read");
                }
                read.keys = Some(keys);
                read.at = read.asked;
            }
            // Those that were read before stay: the issuer's outage is not ours.
            Err(why) => warn!(%why, "WEBRTC_JWKS_URL cannot be read: trying again"),
        }
    }
}

/// A key of the set that can be used here: no secret, not for encryption, and strong enough.
fn published(key: Value) -> Option<Published> {
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        _ => return None,
    };
    let named = jwk.common.key_algorithm.map(|named| named.to_string());
    let is_ours = named.is_none_or(|named| named.parse() == Ok(algorithm));
    let signs = matches!(
        jwk.common.public_key_use,
        None | Some(PublicKeyUse::Signature)
    );
    let key = Key {
        algorithm,
        key: DecodingKey::from_jwk(&jwk).ok()?,
    };
    (is_ours && signs && key.is_strong()).then_some(Published {
        id: jwk.common.key_id,
        key,
    })
}
