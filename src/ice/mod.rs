//! The ICE servers that peers are told of, and the time-limited credentials for TURN.
//!
//! The credentials are those of coturn's `use-auth-secret` (draft-uberti-behave-turn-rest-00):
//! the username is the time at which they end and the name of the peer, and the credential is
//! its HMAC-SHA1. Nothing is kept of them, here or at the TURN server.

mod url;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The ICE servers for all peers. By default there are none.
#[derive(Clone)]
pub struct IceServers {
    servers: Vec<IceServer>,
    secret: Option<SecretString>,
    ttl: Duration,
}

/// One or more addresses of an ICE server, as `RTCIceServer` of browsers has them.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct IceServer {
    urls: Urls,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    credential: Option<SecretString>,
}

/// JSON has either a text or an array of texts.
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Urls {
    One(String),
    Several(Vec<String>),
}

impl Urls {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(url) => std::slice::from_ref(url),
            Self::Several(urls) => urls,
        }
    }
}

/// Why ICE servers cannot be used.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum IceError {
    /// The text is neither a list of URLs nor JSON.
    #[error(
        "expected URLs such as stun:stun.example.org:3478,turn:turn.example.org, or a JSON array of \
         objects with urls, username and credential"
    )]
    Malformed,
    /// A text is not the URL of an ICE server.
    #[error(
        "{0:?} is not the URL of an ICE server: expected stun:HOST:PORT, stuns:HOST:PORT, or \
         turn:HOST:PORT or turns:HOST:PORT, with or without ?transport=udp or tcp"
    )]
    Url(String),
    /// Only one of username and credential is given.
    #[error("{0} has only one of username and credential: give both or neither")]
    HalfCredential(String),
    /// Browsers refuse a TURN server without credentials.
    #[error(
        "{0} needs credentials: set WEBRTC_TURN_SECRET, or give username and credential in JSON"
    )]
    NoCredential(String),
    /// There is a secret, and no TURN server to use it for.
    #[error(
        "there is no TURN server that WEBRTC_TURN_SECRET is for: add a turn: URL without credentials"
    )]
    UnusedSecret,
    /// One peer is told of too many.
    #[error("they take more than {MAX_OF_ONE} bytes")]
    TooMany,
    /// The first of several secrets is empty.
    #[error("expected secrets of at least one character, with commas between them")]
    EmptySecret,
}

/// What a peer is told, as `RTCPeerConnection` takes it.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct IceConfig {
    /// The servers.
    pub ice_servers: Vec<Told>,
    /// After this many seconds the credentials have ended.
    pub ttl: u64,
}

/// One server, as a peer is told of it.
#[derive(Clone, Deserialize, Serialize, PartialEq, Eq)]
pub struct Told {
    urls: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Told({:?})", self.urls)
    }
}

impl fmt::Debug for IceServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls = self.servers.iter().map(|server| server.urls.as_slice());
        f.debug_list().entries(urls.flatten()).finish()
    }
}

impl Default for IceServers {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            secret: None,
            ttl: Self::DEFAULT_TTL,
        }
    }
}

impl IceServers {
    /// How long credentials last if nothing else is set. coturn lets an allocation be refreshed
    /// after its credentials have ended, so that calls may last longer.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(4 * 60 * 60);

    /// Reads servers as a setting has them: URLs with commas between them, or a JSON array of
    /// `RTCIceServer` objects.
    ///
    /// `secrets`: those of `static-auth-secret` of the TURN servers, with commas between them;
    /// the first signs. `ttl`: how long credentials last, in whole seconds.
    ///
    /// # Errors
    ///
    /// Servers that no browser could use.
    pub fn new(
        servers: &str,
        secrets: Option<&SecretString>,
        ttl: Duration,
    ) -> Result<Self, IceError> {
        let servers = parse(servers)?;
        let secret = secrets.map(first_of).transpose()?;
        for server in &servers {
            server.check(secret.is_some())?;
        }
        if secret.is_some() && !servers.iter().any(IceServer::needs_credential) {
            return Err(IceError::UnusedSecret);
        }
        Ok(Self {
            servers,
            secret,
            ttl,
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// Whether strangers may know them: none has credentials.
    pub fn are_public(&self) -> bool {
        let has_credential = |server: &IceServer| server.is_turn() || server.credential.is_some();
        !self.servers.iter().any(has_credential)
    }

    /// What a peer is told at the time `now`. `name`: what the log of the TURN server shows of
    /// the peer; it has no colon.
    pub fn told(&self, name: &str, now: SystemTime) -> IceConfig {
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        // A clock before 1970 is wrong, and the credentials of its server have ended.
        let ends = now.unwrap_or_default() + self.ttl;
        let username = format!("{}:{name}", ends.as_secs());
        let signed = self.secret.as_ref().map(|secret| sign(secret, &username));
        let told = |server: &IceServer| {
            let (username, credential) = match &server.credential {
                Some(own) => (
                    server.username.clone(),
                    Some(own.expose_secret().to_owned()),
                ),
                None if server.is_turn() => (Some(username.clone()), signed.clone()),
                None => (None, None),
            };
            Told {
                urls: server.urls.as_slice().to_vec(),
                username,
                credential,
            }
        };
        IceConfig {
            ice_servers: self.servers.iter().map(told).collect(),
            ttl: self.ttl.as_secs(),
        }
    }
}

/// The largest list that is kept for one peer, in bytes of JSON.
const MAX_OF_ONE: usize = 8 * 1024;

/// Checks ICE servers that one peer is told of beside those for all: a JSON array of
/// `RTCIceServer` objects, with credentials where they need them. Returns them as peers are told
/// of them, in JSON.
///
/// # Errors
///
/// Servers that no browser could use, or too many.
pub fn told_only_to_one(json: &str) -> Result<Arc<str>, IceError> {
    let own = IceServers {
        servers: parse(json)?,
        ..IceServers::default()
    };
    for server in &own.servers {
        server.check(false)?;
    }
    let config = own.told("", SystemTime::UNIX_EPOCH);
    let text = serde_json::to_string(&config.ice_servers).map_err(|_| IceError::Malformed)?;
    if text.len() > MAX_OF_ONE {
        return Err(IceError::TooMany);
    }
    Ok(text.into())
}

/// The credential that belongs to a username.
fn sign(secret: &SecretString, username: &str) -> String {
    let secret = secret.expose_secret().as_bytes();
    // The TURN server checks it in the same way; as an HMAC, SHA-1 is not broken.
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    BASE64_STANDARD.encode(hmac::sign(&key, username.as_bytes()))
}

fn first_of(secrets: &SecretString) -> Result<SecretString, IceError> {
    let mut secrets = secrets.expose_secret().split(',').map(str::trim);
    let first = secrets.next().unwrap_or_default();
    if first.is_empty() || secrets.any(str::is_empty) {
        return Err(IceError::EmptySecret);
    }
    Ok(first.into())
}

fn parse(text: &str) -> Result<Vec<IceServer>, IceError> {
    let text = text.trim();
    if text.starts_with(['[', '{']) {
        return serde_json::from_str(text).map_err(|_| IceError::Malformed);
    }
    let urls = text.split(',').map(|url| url.trim().to_owned());
    let (turn, stun): (Vec<String>, Vec<String>) = urls.partition(|url| url::is_turn(url));
    let servers = [stun, turn].into_iter().filter(|urls| !urls.is_empty());
    let server = |urls| IceServer {
        urls: Urls::Several(urls),
        username: None,
        credential: None,
    };
    Ok(servers.map(server).collect())
}

impl IceConfig {
    /// Adds what [`told_only_to_one`] has returned.
    pub fn add(&mut self, only_to_one: &str) {
        // It was written by this program, perhaps in another version.
        if let Ok(servers) = serde_json::from_str::<Vec<Told>>(only_to_one) {
            self.ice_servers.extend(servers);
        }
    }
}

impl IceServer {
    fn is_turn(&self) -> bool {
        self.urls.as_slice().iter().any(|url| url::is_turn(url))
    }

    fn needs_credential(&self) -> bool {
        self.is_turn() && self.credential.is_none()
    }

    fn check(&self, has_secret: bool) -> Result<(), IceError> {
        let urls = self.urls.as_slice();
        let first = urls.first().ok_or(IceError::Malformed)?;
        if let Some(wrong) = urls.iter().find(|url| !url::is_valid(url)) {
            // Some write a password into it.
            let shown = wrong.rsplit('@').next().unwrap_or_default();
            return Err(IceError::Url(shown.into()));
        }
        if self.username.is_some() != self.credential.is_some() {
            return Err(IceError::HalfCredential(first.clone()));
        }
        if self.needs_credential() && !has_secret {
            return Err(IceError::NoCredential(first.clone()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn servers(text: &str, secret: Option<&str>) -> Result<IceServers, IceError> {
        let secret = secret.map(SecretString::from);
        IceServers::new(text, secret.as_ref(), HOUR)
    }

    fn told(servers: &IceServers) -> serde_json::Value {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_607_226);
        serde_json::to_value(servers.told("alice", now)).unwrap()
    }

    #[test]
    fn a_credential_is_the_one_that_coturn_expects() {
        // Found with coturn 4.6.1 and this secret.
        let servers = servers("turn:h", Some("secret-of-the-test")).unwrap();
        let told = &told(&servers)["iceServers"][0];
        assert_eq!(told["username"], "1795610826:alice");
        assert_eq!(told["credential"], "TU5SoDsMZ6yNJJZYfGyGWUUubNk=");
    }

    #[test]
    fn stun_servers_have_no_credentials_and_come_first() {
        let servers = servers(
            "turn:t, stun:s:3478,turns:t:5349?transport=tcp",
            Some("x,old"),
        );
        let told = &told(&servers.unwrap());
        assert_eq!(told["ttl"], 3600);
        let [stun, turn] = [&told["iceServers"][0], &told["iceServers"][1]];
        assert_eq!(*stun, serde_json::json!({"urls": ["stun:s:3478"]}));
        assert_eq!(
            turn["urls"],
            serde_json::json!(["turn:t", "turns:t:5349?transport=tcp"])
        );
        assert!(told["iceServers"][2].is_null());
    }

    #[test]
    fn servers_with_credentials_of_their_own_keep_them() {
        let json = r#"[{"urls": "turn:t", "username": "u", "credential": "p"}]"#;
        let servers = servers(json, None).unwrap();
        assert!(!servers.are_public());
        assert!(!format!("{servers:?}").contains('p'));
        assert_eq!(
            told(&servers)["iceServers"][0],
            serde_json::json!({"urls": ["turn:t"], "username": "u", "credential": "p"})
        );
    }

    #[test]
    fn servers_that_no_browser_could_use_are_refused() {
        let error = |text, secret| servers(text, secret).err();
        let url = |url: &str| Some(IceError::Url(url.into()));
        assert_eq!(error("", None), url(""));
        assert_eq!(error("stun:a,", None), url(""));
        assert_eq!(error("http://a", None), url("http://a"));
        assert_eq!(error("[]x", None), Some(IceError::Malformed));
        assert_eq!(error(r#"[{"urls":[]}]"#, None), Some(IceError::Malformed));
        assert_eq!(
            error(r#"[{"urls":"stun:a","password":"p"}]"#, None),
            Some(IceError::Malformed)
        );
        assert_eq!(
            error(r#"[{"urls":"turn:a","username":"u"}]"#, Some("x")),
            Some(IceError::HalfCredential("turn:a".into()))
        );
        assert_eq!(
            error("stun:a,turn:b", None),
            Some(IceError::NoCredential("turn:b".into()))
        );
        assert_eq!(error("stun:a", Some("x")), Some(IceError::UnusedSecret));
        assert_eq!(error("turn:a", Some("x,,y")), Some(IceError::EmptySecret));
    }

    #[test]
    fn only_servers_without_credentials_are_public() {
        assert!(IceServers::default().are_public());
        assert!(servers("stun:a", None).unwrap().are_public());
        assert!(!servers("stun:a,turn:b", Some("x")).unwrap().are_public());
    }

    proptest! {
        #[test]
        fn no_setting_makes_the_reader_panic(
            text in "((stun|turns?):|[a-z0-9.:?=,\\[\\]]|transport=|.){0,40}",
        ) {
            if let Ok(servers) = servers(&text, Some("secret")) {
                told(&servers);
            }
        }
    }
}
