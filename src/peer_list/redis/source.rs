//! Where the primary of a shard is: at one address, or where Sentinels or a cluster say.

mod cluster;
mod hosts;
mod said;
mod sentinels;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    Client, ClientTlsConfig, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisResult,
    TlsCertificates, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use secrecy::ExposeSecret;
use socket2::TcpKeepalive;
use tokio::{task::AbortHandle, time::sleep};

use self::{cluster::Cluster, said::newest, sentinels::Sentinels};
use super::{ClientIdentity, ClusterOpts, ConnectError};

/// A connection that acknowledges nothing for this long is dead; a silent connection is
/// probed at the same interval.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// The pause before a Sentinel that could not be reached is tried again.
const LISTENING_PAUSE: Duration = Duration::from_secs(1);

/// Where the primary of each shard is, and how to connect to it.
pub(super) struct Source {
    place: Place,
    certificates: Option<TlsCertificates>,
    /// How often Sentinels have said that another server is the primary.
    switches: AtomicU64,
}

enum Place {
    Address(ConnectionInfo),
    Sentinels(Sentinels),
    Cluster(Cluster),
}

impl Place {
    fn read(url: &str) -> RedisResult<Self> {
        if let Some(sentinels) = Sentinels::read(url) {
            return Ok(Self::Sentinels(sentinels));
        }
        if let Some(cluster) = Cluster::read(url) {
            return Ok(Self::Cluster(cluster));
        }
        url.into_connection_info().map(Self::Address)
    }
}

impl Source {
    pub fn of(opts: &ClusterOpts) -> Result<Self, ConnectError> {
        Ok(Self {
            place: Place::read(opts.url.expose_secret())?,
            certificates: certificates(opts)?,
            switches: AtomicU64::new(0),
        })
    }

    /// Whether this is a URL that [`ClusterOpts::url`] takes.
    pub fn is_url(url: &str) -> bool {
        match Place::read(url) {
            Ok(Place::Address(_)) => ["redis://", "rediss://"]
                .iter()
                .any(|scheme| url.starts_with(scheme)),
            Ok(Place::Sentinels(_) | Place::Cluster(_)) => true,
            Err(_) => false,
        }
    }

    /// A client of the primary that has this key, as it is known now.
    pub async fn client(&self, key: &str) -> RedisResult<Client> {
        let primary = match &self.place {
            Place::Address(info) => info.clone(),
            Place::Sentinels(sentinels) => {
                let addresses = sentinels.hosts.addresses().iter();
                newest(addresses.map(async |address| {
                    // The password is that of the primary.
                    let url = sentinels.hosts.without_user(address);
                    sentinels.ask(self.connect(url).await?).await
                }))
                .await?
            }
            Place::Cluster(cluster) => {
                let addresses = cluster.hosts.addresses().iter();
                newest(addresses.map(async |address| {
                    let url = cluster.hosts.with_user(address, 0);
                    cluster.ask(address, self.connect(url).await?, key).await
                }))
                .await?
            }
        };
        self.open(primary)
    }

    async fn connect(&self, url: String) -> RedisResult<MultiplexedConnection> {
        let client = self.open(url.into_connection_info()?)?;
        client.get_multiplexed_async_connection().await
    }

    /// Rises when Sentinels have said that another server is the primary.
    pub fn switches(&self) -> u64 {
        self.switches.load(Ordering::Relaxed)
    }

    /// Listens to the Sentinels, if there are any. Otherwise a node would not leave a primary
    /// that was told to hand over, and what that accepts is lost.
    pub fn listen(self: &Arc<Self>) -> Vec<AbortHandle> {
        let Place::Sentinels(sentinels) = &self.place else {
            return Vec::new();
        };
        let addresses = sentinels.hosts.addresses().iter().cloned();
        let listening = addresses.map(|address| {
            let source = self.clone();
            tokio::spawn(async move { source.listen_to(&address).await }).abort_handle()
        });
        listening.collect()
    }

    async fn listen_to(&self, address: &str) {
        let Place::Sentinels(sentinels) = &self.place else {
            return;
        };
        let is_switched = || {
            self.switches.fetch_add(1, Ordering::Relaxed);
        };
        loop {
            let url = sentinels.hosts.without_user(address);
            let client = url.into_connection_info().and_then(|info| self.open(info));
            if let Ok(client) = client {
                let _ = sentinels.listen(&client, is_switched).await;
            }
            sleep(LISTENING_PAUSE).await;
        }
    }

    /// Whether the primary may move to another address.
    pub fn may_move(&self) -> bool {
        !matches!(self.place, Place::Address(_))
    }

    /// The address in the URL, without user and password.
    pub fn address(&self) -> String {
        match &self.place {
            Place::Address(info) => info.addr().to_string(),
            Place::Sentinels(Sentinels { hosts, name, .. }) => {
                format!("{name} of the Sentinels {}", hosts.addresses().join(","))
            }
            Place::Cluster(Cluster { hosts }) => {
                format!("the cluster at {}", hosts.addresses().join(","))
            }
        }
    }

    /// The number of the database.
    pub fn db(&self) -> i64 {
        match &self.place {
            Place::Address(info) => info.redis_settings().db(),
            Place::Sentinels(sentinels) => sentinels.db,
            Place::Cluster(_) => 0,
        }
    }

    fn open(&self, info: ConnectionInfo) -> RedisResult<Client> {
        let info = with_settings(info);
        match &self.certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        }
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
