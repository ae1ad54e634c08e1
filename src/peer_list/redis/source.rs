//! Where the primary is: at one address, or where Sentinels say.

use std::{fs, path::Path, time::Duration};

use futures_util::future::select_ok;
use redis::{
    Client, ClientTlsConfig, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    RedisError, RedisResult, TlsCertificates, io::tcp::TcpSettings,
};
use secrecy::ExposeSecret;
use socket2::TcpKeepalive;
use tokio::time::timeout;

use super::{ClientIdentity, ClusterOpts, ConnectError};

/// A connection that acknowledges nothing for this long is dead; a silent connection is
/// probed at the same interval.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// A Sentinel that works answers within this time.
const SENTINEL_PATIENCE: Duration = Duration::from_millis(500);

const SENTINEL_PORT: u16 = 26379;

/// Where the primary is, and how to connect to it.
pub(super) struct Source {
    place: Place,
    certificates: Option<TlsCertificates>,
}

enum Place {
    Address(ConnectionInfo),
    Sentinels(Sentinels),
}

/// Sentinels, and the primary that they watch.
struct Sentinels {
    /// `redis` or `rediss`: both Sentinels and the primary are spoken to like this.
    scheme: &'static str,
    /// User and password of the primary with `@`, as in a URL, or nothing.
    user: String,
    /// Each `HOST:PORT`.
    addresses: Vec<String>,
    /// By which name they know the primary.
    name: String,
    db: i64,
}

impl Sentinels {
    /// Reads `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME/DB`; user, ports and
    /// database may be missing. None: it is no such URL.
    fn read(url: &str) -> Option<Self> {
        let (scheme, rest) = match url.strip_prefix("rediss+sentinel://") {
            Some(rest) => ("rediss", rest),
            None => ("redis", url.strip_prefix("redis+sentinel://")?),
        };
        let (authority, path) = rest.split_once('/')?;
        let (user, hosts) = match authority.rfind('@') {
            Some(at) => authority.split_at(at + 1),
            None => ("", authority),
        };
        let (name, db) = path.split_once('/').unwrap_or((path, "0"));
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        if name.is_empty() || !name.bytes().all(is_name) {
            return None;
        }
        let addresses = hosts.split(',').map(|host| {
            let has_port = host
                .rsplit_once(':')
                .is_some_and(|(_, port)| !port.contains(']'));
            match has_port {
                true => host.to_owned(),
                false => format!("{host}:{SENTINEL_PORT}"),
            }
        });
        let sentinels = Self {
            scheme,
            user: user.to_owned(),
            addresses: addresses.collect(),
            name: name.to_owned(),
            db: db.parse().ok()?,
        };
        let mut urls = sentinels
            .addresses
            .iter()
            .map(|address| sentinels.url_of(address));
        let are_valid = urls.all(|url| url.into_connection_info().is_ok());
        are_valid.then_some(sentinels)
    }

    /// The URL of a Sentinel.
    fn url_of(&self, address: &str) -> String {
        format!("{}://{address}/", self.scheme)
    }

    /// The URL of the primary.
    fn primary(&self, host: &str, port: u16) -> String {
        let Self {
            scheme, user, db, ..
        } = self;
        let host = match host.contains(':') {
            true => format!("[{host}]"),
            false => host.to_owned(),
        };
        format!("{scheme}://{user}{host}:{port}/{db}")
    }

    /// Asks all of them at once. One that hangs, or knows nothing, does not count.
    async fn ask(&self, certificates: Option<&TlsCertificates>) -> RedisResult<ConnectionInfo> {
        let asked = self.addresses.iter().map(|address| {
            let asking = async move {
                let sentinel = open(self.url_of(address).into_connection_info()?, certificates)?;
                let mut connection = sentinel.get_multiplexed_async_connection().await?;
                let mut ask = redis::cmd("SENTINEL");
                ask.arg("get-master-addr-by-name").arg(&self.name);
                let found: Option<(String, u16)> = ask.query_async(&mut connection).await?;
                let unknown = (
                    ErrorKind::MasterNameNotFoundBySentinel,
                    "the Sentinels do not know that name",
                );
                let (host, port) = found.ok_or(unknown)?;
                self.primary(&host, port).into_connection_info()
            };
            Box::pin(async move {
                let late = |_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
                timeout(SENTINEL_PATIENCE, asking).await.map_err(late)?
            })
        });
        let (found, _) = select_ok(asked).await?;
        Ok(found)
    }
}

impl Source {
    pub fn of(opts: &ClusterOpts) -> Result<Self, ConnectError> {
        let url = opts.url.expose_secret();
        let place = match Sentinels::read(url) {
            Some(sentinels) => Place::Sentinels(sentinels),
            None => Place::Address(url.into_connection_info()?),
        };
        let certificates = certificates(opts)?;
        Ok(Self {
            place,
            certificates,
        })
    }

    /// Whether this is a URL that [`ClusterOpts::url`] takes.
    pub fn is_url(url: &str) -> bool {
        let is_redis = ["redis://", "rediss://"]
            .iter()
            .any(|scheme| url.starts_with(scheme));
        let is_address = is_redis && url.into_connection_info().is_ok();
        is_address || Sentinels::read(url).is_some()
    }

    /// A client of the primary, as it is known now.
    pub async fn client(&self) -> RedisResult<Client> {
        let info = match &self.place {
            Place::Address(info) => info.clone(),
            Place::Sentinels(sentinels) => sentinels.ask(self.certificates.as_ref()).await?,
        };
        open(info, self.certificates.as_ref())
    }

    /// Whether the primary may move to another address.
    pub fn may_move(&self) -> bool {
        matches!(self.place, Place::Sentinels(_))
    }

    /// The address in the URL, without user and password.
    pub fn address(&self) -> String {
        match &self.place {
            Place::Address(info) => info.addr().to_string(),
            Place::Sentinels(sentinels) => {
                let Sentinels {
                    name, addresses, ..
                } = sentinels;
                format!("{name} of the Sentinels {}", addresses.join(","))
            }
        }
    }

    pub fn db(&self) -> i64 {
        match &self.place {
            Place::Address(info) => info.redis_settings().db(),
            Place::Sentinels(sentinels) => sentinels.db,
        }
    }
}

fn open(info: ConnectionInfo, certificates: Option<&TlsCertificates>) -> RedisResult<Client> {
    let info = with_settings(info);
    match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates.clone()),
        None => Client::open(info),
    }
}

fn certificates(opts: &ClusterOpts) -> Result<Option<TlsCertificates>, ConnectError> {
    if opts.ca.is_none() && opts.identity.is_none() {
        return Ok(None);
    }
    let read = |setting: &str, path: &Path| {
        fs::read(path).map_err(|error| {
            let path = path.display();
            ConnectError::unusable(format!("{setting}, {path}, cannot be read: {error}"))
        })
    };
    let root_cert = opts.ca.as_deref();
    let root_cert = root_cert
        .map(|ca| read("WEBRTC_REDIS_CA", ca))
        .transpose()?;
    let client_tls = match &opts.identity {
        Some(ClientIdentity { certificate, key }) => Some(ClientTlsConfig {
            client_cert: read("WEBRTC_REDIS_CERT", certificate)?,
            client_key: read("WEBRTC_REDIS_KEY", key)?,
        }),
        None => None,
    };
    Ok(Some(TlsCertificates {
        client_tls,
        root_cert,
    }))
}

fn with_settings(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone();
    let settings = settings.set_protocol(ProtocolVersion::RESP3);
    let keepalive = TcpKeepalive::new()
        .with_time(UNACKNOWLEDGED)
        .with_interval(UNACKNOWLEDGED)
        .with_retries(3);
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(UNACKNOWLEDGED);
    info.set_redis_settings(settings).set_tcp_settings(tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_sentinels_names_them_and_the_primary() {
        let read = |url: &str| {
            let Sentinels {
                addresses, name, ..
            } = Sentinels::read(url)?;
            Some((addresses.join(" "), name))
        };
        let found = |addresses: &str, name: &str| Some((addresses.to_owned(), name.to_owned()));
        assert_eq!(
            read("redis+sentinel://a,b:1/main"),
            found("a:26379 b:1", "main")
        );
        assert_eq!(
            read("rediss+sentinel://[::1],[::2]:7/x/3"),
            found("[::1]:26379 [::2]:7", "x")
        );
        let with_user = Sentinels::read("redis+sentinel://u:p%40ss@a,b/main/2").unwrap();
        assert_eq!(with_user.primary("::1", 9), "redis://u:p%40ss@[::1]:9/2");
        for wrong in [
            "redis://a/main",
            "redis+sentinel://a",
            "redis+sentinel://a/",
            "redis+sentinel:///main",
            "redis+sentinel://a:x/main",
            "redis+sentinel://a,/main",
            "redis+sentinel://a/main/x",
            "redis+sentinel://a/main/1/2",
            "redis+sentinel://a/ma in",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
