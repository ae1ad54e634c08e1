//! The settings by subject: one group for each thing that is configured. Defaults come
//! from the library where it has them.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use axum::http::HeaderName;
use clap::{ArgAction, Args, ValueEnum};
use ipnet::IpNet;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::filter::Targets;

use super::{
    ConfigError, memory,
    values::{self, Doors, Folder, Networks, Port, Rate, WaitLimit, in_milliseconds},
};
use crate::{
    doors::{
        http::{AllowedRooms, Cors, SignalOpts, TrustedProxies},
        peerjs::PeerJsOpts,
    },
    operator::Webhook,
    peer_list::{ClientIdentity, ClusterOpts, HeartbeatOpts},
    server::{AppOpts, Host, OperatorOpts, Reached, ServeOpts, TlsOpts},
};

/// Where the server listens, and its connections.
#[derive(Args, Clone)]
#[command(next_help_heading = "Listening")]
pub(super) struct Listening {
    /// The port to listen on
    ///
    /// 0 takes a free port. `off`: only the port of TLS.
    #[arg(long, env = "PORT", default_value = "3000", value_parser = values::port_or_off)]
    pub port: Port,

    /// The address to listen on [default: all addresses, IPv6 and IPv4]
    ///
    /// An IP address, or a name that can be looked up. Without this, HOST counts. The shell tcsh
    /// and conda set HOST themselves, to the name or the kind of the machine: such values are
    /// ignored with a warning.
    #[arg(long, env = "WEBRTC_HOST", value_parser = values::host)]
    pub host: Option<Host>,

    /// A file with the certificate (PEM) for TLS, on a port of its own; needs WEBRTC_TLS_KEY
    ///
    /// The file also has the certificates between it and its authority.
    #[arg(
        long,
        env = "WEBRTC_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,

    /// A file with the private key (PEM) of that certificate; needs WEBRTC_TLS_CERT
    #[arg(
        long,
        env = "WEBRTC_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,

    /// The port for TLS
    ///
    /// 0 takes a free port.
    #[arg(long, env = "WEBRTC_TLS_PORT", value_name = "PORT", default_value_t = 3443, value_parser = values::port)]
    tls_port: u16,

    /// How many connections of clients may be open [default: the limit of open files (ulimit -n),
    /// less 128]
    ///
    /// One more gets a 503, or is closed without an answer if it comes by TLS.
    #[arg(long, env = "WEBRTC_MAX_CONNECTIONS", value_name = "CONNECTIONS", value_parser = values::count)]
    max_connections: Option<usize>,

    /// How many connections of one address may be open [default: any number]
    ///
    /// With IPv6, the addresses of one network of 64 bits count together. One more gets a 429, or
    /// is closed without an answer if it comes by TLS. Connections of WEBRTC_TRUSTED_PROXIES are
    /// not counted.
    #[arg(long, env = "WEBRTC_MAX_CONNECTIONS_PER_IP", value_name = "CONNECTIONS", value_parser = values::count)]
    max_connections_per_ip: Option<usize>,

    /// A connection on which nothing happens is closed after this long
    ///
    /// Proxies keep theirs open for up to 600 s: this has to be longer.
    #[arg(long, env = "WEBRTC_IDLE_MS", value_name = "MS", default_value = in_milliseconds(ServeOpts::default().idle_timeout), value_parser = values::milliseconds)]
    idle_ms: Duration,
}

impl Listening {
    pub fn tls(&self) -> Option<TlsOpts> {
        Some(TlsOpts {
            certificate: self.tls_cert.clone()?,
            key: self.tls_key.clone()?,
            port: self.tls_port,
        })
    }

    /// How a server with these settings is reached on this machine.
    pub fn reached(&self) -> Reached {
        let tls = Reached::Tls(self.tls_port);
        self.port.0.map_or(tls, Reached::Plain)
    }

    /// `proxies`: those whose connections are of many clients.
    pub fn serve_opts(&self, shows_addresses: bool, proxies: Vec<IpNet>) -> ServeOpts {
        ServeOpts {
            idle_timeout: self.idle_ms,
            shows_addresses,
            max_connections: self.max_connections,
            max_connections_per_address: self.max_connections_per_ip,
            proxies,
        }
    }
}

/// When peers are removed, and how much the list holds.
#[derive(Args, Clone)]
#[command(next_help_heading = "Peers")]
pub(super) struct Peers {
    /// How long a peer may be silent before it is stale
    ///
    /// This counts from its last heartbeat, or, if it never sent a heartbeat, from its last
    /// request. Timeouts of 10000 or more include 3000 more, as grace for late heartbeats.
    #[arg(long, env = "WEBRTC_HEARTBEAT_MS", value_name = "MS", default_value = in_milliseconds(HeartbeatOpts::default().timeout_period), value_parser = values::milliseconds)]
    pub heartbeat_ms: Duration,

    /// How often stale peers are removed
    #[arg(long, env = "WEBRTC_HEARTBEAT_GC_MS", value_name = "MS", default_value = in_milliseconds(HeartbeatOpts::default().gc_interval), value_parser = values::milliseconds)]
    heartbeat_gc_ms: Duration,

    /// Whether every request, and an open wait, counts as a heartbeat
    ///
    /// Use it for pages with a client of your own: browsers slow the timers of hidden pages to one
    /// a minute.
    #[arg(long, env = "WEBRTC_HEARTBEAT_ANY_REQUEST", value_name = "BOOL", default_value_t = HeartbeatOpts::default().any_request, value_parser = values::boolean, action = ArgAction::Set)]
    heartbeat_any_request: bool,

    /// How often clients are told to send a heartbeat, less than WEBRTC_HEARTBEAT_MS [default: half
    /// of WEBRTC_HEARTBEAT_MS]
    ///
    /// They are told in the header X-Heartbeat-Interval.
    #[arg(long, env = "WEBRTC_HEARTBEAT_INTERVAL_MS", value_name = "MS", value_parser = values::milliseconds)]
    pub heartbeat_interval_ms: Option<Duration>,

    /// How many peers can be signed in, in all rooms and the root list together
    ///
    /// Beyond it, sign-ins and sockets get a 503.
    #[arg(long, env = "WEBRTC_MAX_PEERS", value_name = "PEERS", default_value_t = HeartbeatOpts::default().max_peers, value_parser = values::count)]
    max_peers: usize,

    /// How many peers a room can have [default: any number]
    ///
    /// Beyond it, sign-ins get a 503. The root list is not a room.
    #[arg(long, env = "WEBRTC_MAX_ROOM_PEERS", value_name = "PEERS", value_parser = values::count)]
    max_room_peers: Option<usize>,

    /// How many peers of one address can be signed in, in all rooms together [default: any number]
    ///
    /// With IPv6, the addresses of one network of 64 bits count together. One more gets a 429.
    /// Behind proxies this needs WEBRTC_TRUSTED_PROXIES. All nodes count together; with several
    /// shards in Redis, each shard counts for itself.
    #[arg(long, env = "WEBRTC_MAX_PEERS_PER_IP", value_name = "PEERS", value_parser = values::count)]
    max_peers_per_ip: Option<usize>,

    /// The size of a mailbox: how many bytes of messages may wait for one peer
    ///
    /// That includes messages on their way to the Socket.IO connection of the peer. Each message
    /// counts 256 bytes more than its own size. When the mailbox is full, senders get a 503. The
    /// smallest value is WEBRTC_MAX_MESSAGE_BYTES plus 256.
    #[arg(long, env = "WEBRTC_MAX_PENDING_BYTES", value_name = "BYTES", default_value_t = HeartbeatOpts::default().max_pending_bytes, value_parser = values::bytes)]
    pub max_pending_bytes: usize,

    /// How much memory all clients together can make the server hold [default: 1 GiB, or half of
    /// what the process may use, if that is less]
    ///
    /// From seven eighths of it on, peers that hold 16 KiB or more and have read nothing for 5 s
    /// are removed, the largest first. Beyond it, messages and sign-ins get a 503, and sockets that
    /// send are closed with 1013; waits, heartbeats and sign-outs go on. With the list in Redis no
    /// peer is removed for it.
    #[arg(long, env = "WEBRTC_MAX_BUFFERED_BYTES", value_name = "BYTES", value_parser = values::count)]
    max_buffered_bytes: Option<usize>,
}

impl Peers {
    /// How much memory clients can make the server hold, in bytes.
    pub fn max_buffered_bytes(&self) -> usize {
        self.max_buffered_bytes.unwrap_or_else(|| {
            let most = HeartbeatOpts::default().max_buffered_bytes;
            memory::allowed().map_or(most, |allowed| most.min(allowed / 2))
        })
    }

    pub fn opts(&self) -> HeartbeatOpts {
        HeartbeatOpts {
            max_buffered_bytes: self.max_buffered_bytes(),
            timeout_period: self.heartbeat_ms,
            gc_interval: self.heartbeat_gc_ms,
            any_request: self.heartbeat_any_request,
            max_pending_bytes: self.max_pending_bytes,
            max_peers: self.max_peers,
            max_room_peers: self.max_room_peers,
            max_peers_per_network: self.max_peers_per_ip,
        }
    }
}

/// Whether a request has to show its peer's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PeerTokens {
    /// Only for a peer that has shown it before.
    Optional,
    /// Always.
    Required,
}

/// How clients come in.
#[derive(Args, Clone)]
#[command(next_help_heading = "Clients")]
pub(super) struct Clients {
    /// The protocols that clients can use
    ///
    /// There are `http` (long polls), `websocket`, `socketio`, `peerjs`, `topics` and
    /// `matchbox`.
    #[arg(long, env = "WEBRTC_DOORS", value_name = "DOORS", default_value = "http,websocket,socketio", value_parser = values::doors)]
    doors: Doors,

    /// Whether browsers are shown a page at / to try the server
    ///
    /// It needs the door `http`.
    #[arg(long, env = "WEBRTC_PAGE", value_name = "BOOL", default_value_t = AppOpts::default().page, value_parser = values::boolean, action = ArgAction::Set)]
    page: bool,

    /// The rooms that clients can use: any, none, or a comma-separated list of names
    #[arg(long, env = "WEBRTC_ROOMS", value_name = "ROOMS", default_value = "any", value_parser = values::rooms)]
    rooms: AllowedRooms,

    /// Which pages of other origins may use the server: true (all), false (none), or a
    /// comma-separated list of origins
    ///
    /// An origin is `https://example.org`, for example, or `https://*.example.org`. The setting
    /// holds for sockets too.
    #[arg(long, env = "WEBRTC_CORS", value_name = "ORIGINS", default_value = "true", value_parser = values::cors)]
    cors: Cors,

    /// A wait without news ends after this long; 0: never
    ///
    /// A random part of up to a fifth is taken off. If your own client sends its heartbeats only
    /// when a wait returns, set this below WEBRTC_HEARTBEAT_MS; client.js sends them in time by
    /// itself.
    #[arg(long, env = "WEBRTC_WAIT_MS", value_name = "MS", default_value = in_milliseconds(SignalOpts::default().wait_timeout.unwrap_or_default()), value_parser = values::milliseconds_or_never)]
    wait_ms: WaitLimit,

    /// The largest message, in bytes
    ///
    /// A larger one gets a 413.
    #[arg(long, env = "WEBRTC_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value_t = SignalOpts::default().max_message_bytes, value_parser = values::bytes)]
    pub max_message_bytes: usize,

    /// Whether each request has to show the token of its peer: optional or required [default:
    /// optional; with access control, required]
    #[arg(
        long,
        env = "WEBRTC_PEER_TOKENS",
        value_name = "WHEN",
        ignore_case = true,
        hide_possible_values = true
    )]
    peer_tokens: Option<PeerTokens>,

    /// How many clients of one address may sign in, such as 10/s, 100/min or 1000/h [default: any
    /// number]
    ///
    /// That many may also sign in all at once; one more gets a 429. With IPv6, the addresses of one
    /// network of 64 bits count together. Behind proxies this needs WEBRTC_TRUSTED_PROXIES. Each
    /// node counts for itself.
    #[arg(long, env = "WEBRTC_SIGN_INS_PER_IP", value_name = "RATE", value_parser = values::sign_in_rate)]
    pub sign_ins_per_ip: Option<Rate>,

    /// The proxies whose word the server takes for the address of a client [default: none]
    ///
    /// They are networks or addresses with commas between them, such as `10.0.0.0/8,::1`.
    #[arg(long, env = "WEBRTC_TRUSTED_PROXIES", value_name = "NETWORKS", value_parser = values::networks)]
    trusted_proxies: Option<Networks>,

    /// The header in which these proxies send the address of the client
    #[arg(long, env = "WEBRTC_CLIENT_ADDRESS_HEADER", value_name = "HEADER", default_value = "X-Forwarded-For", value_parser = values::header)]
    client_address_header: HeaderName,

    /// The token that Socket.IO clients must send as auth.token [default: none]
    #[arg(long, env = "TOKEN", hide_env_values = true, value_parser = values::secret)]
    token: Option<SecretString>,

    /// The path of the door `peerjs`, which pages give to PeerJS as `path`
    #[arg(long, env = "WEBRTC_PEERJS_PATH", value_name = "PATH", default_value = PeerJsOpts::default().path, value_parser = values::path)]
    peerjs_path: Folder,

    /// The key that pages give to PeerJS as `key`; no secret
    #[arg(long, env = "WEBRTC_PEERJS_KEY", value_name = "KEY", default_value = PeerJsOpts::default().key, value_parser = values::word)]
    peerjs_key: String,

    /// Whether PeerJS clients may list the ids of all others (listAllPeers)
    #[arg(long, env = "WEBRTC_PEERJS_DISCOVERY", value_name = "BOOL", default_value_t = PeerJsOpts::default().discovery, value_parser = values::boolean, action = ArgAction::Set)]
    peerjs_discovery: bool,
}

impl Clients {
    /// The proxies that are believed.
    pub fn proxies(&self) -> Vec<IpNet> {
        self.trusted_proxies.clone().unwrap_or_default().0
    }

    /// `others`: what other groups say.
    pub fn opts(&self, others: SignalOpts) -> AppOpts {
        let required = self.peer_tokens == Some(PeerTokens::Required);
        AppOpts {
            signal: SignalOpts {
                enable_cors: self.cors.clone(),
                wait_timeout: self.wait_ms.0,
                // Ids can be guessed, so that a check at the sign-in alone would guard nothing.
                require_tokens: required || !others.access.is_open(),
                max_message_bytes: self.max_message_bytes,
                rooms: Arc::new(self.rooms.clone()),
                proxies: Arc::new(TrustedProxies {
                    networks: self.proxies(),
                    header: self.client_address_header.clone(),
                }),
                ..others
            },
            doors: self.doors.0.clone(),
            page: self.page,
            token: self.token.clone(),
            peerjs: PeerJsOpts {
                path: self.peerjs_path.0.clone(),
                key: self.peerjs_key.clone(),
                discovery: self.peerjs_discovery,
            },
        }
    }

    /// Checks what cannot be beside access control. `way`: the setting that says who may come
    /// in.
    pub fn check_beside(&self, way: &str) -> Result<(), ConfigError> {
        if self.peer_tokens == Some(PeerTokens::Optional) {
            return Err(ConfigError(format!(
                "WEBRTC_PEER_TOKENS (--peer-tokens) is optional, but with {way} the tokens of peers \
                 are required: unset it"
            )));
        }
        if self.token.is_some() {
            return Err(ConfigError(format!(
                "TOKEN (--token) and {way} are both set, and one has to say who may come in: unset \
                 TOKEN"
            )));
        }
        Ok(())
    }
}

/// The operator's API and the webhook.
#[derive(Args, Clone)]
#[command(next_help_heading = "Operator")]
pub(super) struct Operator {
    /// The address and port of the operator's API and page, such as 127.0.0.1:3001 [default: none]
    ///
    /// An address other than loopback needs WEBRTC_ADMIN_TOKEN too.
    #[arg(long, env = "WEBRTC_ADMIN_LISTEN", value_name = "ADDRESS", value_parser = values::address)]
    pub admin_listen: Option<SocketAddr>,

    /// The token that the operator must send as Authorization: Bearer; needs WEBRTC_ADMIN_LISTEN
    #[arg(long, env = "WEBRTC_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true, value_parser = values::secret, requires = "admin_listen")]
    pub admin_token: Option<SecretString>,

    /// The URL to which each event of a peer is POSTed [default: none]
    #[arg(long, env = "WEBRTC_WEBHOOK_URL", value_name = "URL", hide_env_values = true, value_parser = values::webhook_url)]
    webhook_url: Option<Url>,

    /// The key with which those events are signed; needs WEBRTC_WEBHOOK_URL
    ///
    /// The header `X-Signature-256` has `sha256=` and the HMAC of the body.
    #[arg(long, env = "WEBRTC_WEBHOOK_SECRET", value_name = "SECRET", hide_env_values = true, value_parser = values::secret, requires = "webhook_url")]
    webhook_secret: Option<SecretString>,
}

impl Operator {
    pub fn opts(&self) -> Option<OperatorOpts> {
        Some(OperatorOpts {
            address: self.admin_listen?,
            token: self.admin_token.clone(),
        })
    }

    pub fn webhook(&self) -> Option<Webhook> {
        Some(Webhook {
            url: self.webhook_url.clone()?,
            secret: self.webhook_secret.clone(),
        })
    }
}

/// The place of the peer list if several servers share it.
#[derive(Args, Clone)]
#[command(next_help_heading = "Several nodes")]
pub(super) struct Redis {
    /// The Redis that holds the peer list if several nodes share it [default: the list is in this
    /// process]
    ///
    /// `redis://` or `rediss://`, with user, password (percent-encoded) and database;
    /// `redis+sentinel://host1,host2,host3/NAME`; or `redis+cluster://host1,host2,host3`. If it
    /// cannot be used, the server exits with status 2; if it does not answer for 5 s, with status
    /// 1.
    #[arg(long, env = "WEBRTC_REDIS_URL", value_name = "URL", hide_env_values = true, value_parser = values::redis_url)]
    pub redis_url: Option<SecretString>,

    /// A file with the certificates (PEM) of the authorities to trust for rediss:// [default: the
    /// public authorities]
    #[arg(long, env = "WEBRTC_REDIS_CA", value_name = "FILE", value_parser = values::certificates)]
    redis_ca: Option<PathBuf>,

    /// A file with the certificate (PEM) to show to a Redis that asks for one; needs
    /// WEBRTC_REDIS_KEY
    #[arg(long, env = "WEBRTC_REDIS_CERT", value_name = "FILE", value_parser = values::certificates, requires = "redis_key")]
    redis_cert: Option<PathBuf>,

    /// A file with the private key (PEM) of that certificate; needs WEBRTC_REDIS_CERT
    #[arg(long, env = "WEBRTC_REDIS_KEY", value_name = "FILE", value_parser = values::private_key, requires = "redis_cert")]
    redis_key: Option<PathBuf>,

    /// What all keys in Redis begin with
    ///
    /// With different prefixes, several lists can share a Redis.
    #[arg(long, env = "WEBRTC_REDIS_PREFIX", value_name = "PREFIX", default_value = "signal", value_parser = values::redis_prefix)]
    redis_prefix: String,

    /// Over how many parts of the keys the lists of rooms are spread, up to 128
    ///
    /// With `redis+cluster://`, more than 1. All nodes need the same number, which cannot be
    /// changed later.
    #[arg(long, env = "WEBRTC_REDIS_SHARDS", value_name = "NUMBER", default_value = "1", value_parser = values::shards)]
    redis_shards: NonZeroUsize,
}

impl Redis {
    fn identity(&self) -> Option<ClientIdentity> {
        Some(ClientIdentity {
            certificate: self.redis_cert.clone()?,
            key: self.redis_key.clone()?,
        })
    }

    /// The first setting that counts only through TLS, if one is set.
    pub fn of_tls(&self) -> Option<&'static str> {
        let ca = self
            .redis_ca
            .as_ref()
            .map(|_| "WEBRTC_REDIS_CA (--redis-ca)");
        let cert = self.redis_cert.as_ref();
        ca.or(cert.map(|_| "WEBRTC_REDIS_CERT (--redis-cert)"))
    }

    /// Whether there are to be several shards, and no Redis that has them.
    pub fn has_shards_of_nothing(&self) -> bool {
        self.redis_url.is_none() && self.redis_shards.get() > 1
    }

    /// Whether the URL is that of a Redis Cluster, and all lists would be on one of its masters.
    pub fn is_cluster_of_one(&self) -> bool {
        let url = self.redis_url.as_ref().map(ExposeSecret::expose_secret);
        let is_cluster = url.is_some_and(|url| url.contains("+cluster://"));
        is_cluster && self.redis_shards.get() == 1
    }

    pub fn opts(&self) -> Option<ClusterOpts> {
        Some(ClusterOpts {
            url: self.redis_url.clone()?,
            prefix: self.redis_prefix.clone(),
            ca: self.redis_ca.clone(),
            identity: self.identity(),
            shards: self.redis_shards,
        })
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, otherwise JSON.
    Auto,
    /// Text for people.
    Text,
    /// A JSON object in each line.
    Json,
}

/// What is logged, and how.
#[derive(Args, Clone)]
#[command(next_help_heading = "Log")]
pub struct LogOpts {
    /// What is logged: error, warn, info, debug or trace [default: info]
    ///
    /// Or a list such as `info,signal_http_heartbeat::doors=debug`. With debug, what is refused is
    /// logged too, with address and peer.
    #[arg(long = "log", env = "WEBRTC_LOG", value_name = "FILTER", value_parser = values::log_filter)]
    pub filter: Option<Targets>,

    /// The format of the log: auto, text or json
    ///
    /// auto: text on a terminal, otherwise JSON.
    #[arg(
        long = "log-format",
        env = "WEBRTC_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto",
        ignore_case = true,
        hide_possible_values = true
    )]
    pub format: LogFormat,

    /// Whether sign-ins and removals are logged
    ///
    /// false: warnings and errors only, unless WEBRTC_LOG is set.
    #[arg(long, env = "WEBRTC_SIGNAL_LOGGING", value_name = "BOOL", default_value_t = true, value_parser = values::boolean, action = ArgAction::Set)]
    pub signal_logging: bool,

    /// Whether the addresses of clients are shown, in the log, in events and in the operator's API
    #[arg(long, env = "WEBRTC_LOG_ADDRESSES", value_name = "BOOL", default_value_t = true, value_parser = values::boolean, action = ArgAction::Set)]
    pub log_addresses: bool,
}
