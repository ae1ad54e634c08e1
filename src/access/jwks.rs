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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Router, routing::get};
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use rcgen::KeyPair;
    use serde_json::json;
    use tokio::{net::TcpListener, time};

    use super::*;

    /// An issuer whose keys can be replaced, and how often it was asked for them.
    #[derive(Clone, Default)]
    struct Issuer(Arc<Mutex<(Vec<&'static str>, u32)>>);

    impl Issuer {
        async fn start(&self) -> Jwks {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let issuer = self.clone();
            let app = Router::new().route("/", get(async move || issuer.set().to_string()));
            tokio::spawn(async move { axum::serve(listener, app).await });
            Jwks::new(&format!("http://{address}/")).unwrap()
        }

        fn set(&self) -> Value {
            let mut issuer = self.0.lock();
            issuer.1 += 1;
            let keys: Vec<Value> = issuer.0.iter().map(|id| key(id)).collect();
            json!({"keys": keys})
        }

        /// From now on it has these keys.
        fn has(&self, ids: &[&'static str]) {
            self.0.lock().0 = ids.to_vec();
        }

        fn asked(&self) -> u32 {
            self.0.lock().1
        }
    }

    fn key(id: &str) -> Value {
        let pair = KeyPair::generate().unwrap();
        // A point: 4, and both coordinates.
        let (x, y) = pair.public_key_raw()[1..].split_at(32);
        let [x, y] = [x, y].map(|number| URL_SAFE_NO_PAD.encode(number));
        json!({"kty": "EC", "crv": "P-256", "kid": id, "x": x, "y": y})
    }

    async fn knows(jwks: &Jwks, id: &str) -> Result<usize, Denied> {
        let keys = jwks.keys_for(Some(id), Algorithm::ES256).await?;
        Ok(keys.len())
    }

    /// Lets time pass, which goes on by itself while an answer is awaited.
    async fn pass(time: Duration) {
        time::pause();
        time::advance(time).await;
        time::resume();
    }

    #[tokio::test]
    async fn new_keys_are_found_a_minute_after_the_last_question_and_replaced_ones_end() {
        let issuer = Issuer::default();
        issuer.has(&["a"]);
        let jwks = issuer.start().await;
        assert_eq!(knows(&jwks, "a").await, Ok(1));
        issuer.has(&["b"]);
        // A client that sends tokens with unknown keys does not make the server ask each time.
        for _ in 0..10 {
            assert_eq!(knows(&jwks, "b").await, Err(Denied::Invalid));
        }
        assert_eq!(issuer.asked(), 1);
        pass(PAUSE).await;
        assert_eq!(knows(&jwks, "b").await, Ok(1));
        assert_eq!(knows(&jwks, "a").await, Err(Denied::Invalid));
        assert_eq!(issuer.asked(), 2);
    }

    #[tokio::test]
    async fn a_key_that_is_withdrawn_ends_after_ten_minutes_although_it_is_known() {
        let issuer = Issuer::default();
        issuer.has(&["a", "b"]);
        let jwks = issuer.start().await;
        assert_eq!(knows(&jwks, "a").await, Ok(1));
        issuer.has(&["b"]);
        pass(KEPT - Duration::from_secs(1)).await;
        assert_eq!(knows(&jwks, "a").await, Ok(1));
        pass(Duration::from_secs(1)).await;
        assert_eq!(knows(&jwks, "a").await, Err(Denied::Invalid));
        assert_eq!(knows(&jwks, "b").await, Ok(1));
    }

    #[tokio::test]
    async fn without_ever_having_read_the_set_nobody_is_refused_for_good() {
        let unreachable = Jwks::new("http://127.0.0.1:1/").unwrap();
        assert_eq!(knows(&unreachable, "a").await, Err(Denied::Unavailable));
    }
}
