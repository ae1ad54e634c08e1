//! The server: its listeners and connections, and the operator's part.

mod app;
mod description;
mod health;
#[cfg(feature = "tls")]
mod health_tls;
mod host;
mod http1;
mod listen;
#[cfg(feature = "operator")]
mod operator;
mod places;
mod refuse;
mod serve;
#[cfg(feature = "tls")]
mod tls;

use std::{io, net::SocketAddr};

use thiserror::Error;
use tokio::net::TcpListener;

pub use app::{AppOpts, Door, app};
pub use health::{HealthError, Reached, check as healthcheck};
pub use host::Host;
pub use listen::listen;
#[cfg(feature = "operator")]
pub use operator::OperatorOpts;
pub use serve::{ServeOpts, serve};
#[cfg(feature = "tls")]
pub use tls::{TlsError, TlsOpts};

#[cfg(feature = "operator")]
use crate::operator::Webhook;
#[cfg(feature = "redis")]
use crate::peer_list::{ClusterOpts, ConnectError};
use crate::peer_list::{HeartbeatOpts, TimeoutPeerList};
#[cfg(feature = "operator")]
use operator::Operator;
use serve::{Listener, serve_all};
#[cfg(feature = "tls")]
use tls::Tls;
#[cfg(feature = "tls")]
use tokio_util::task::AbortOnDropHandle;

/// All options of a server. By default it listens on port 3000 of all addresses, keeps
/// its peer list in this process, and has neither an operator's API nor a webhook.
#[derive(Clone, Debug)]
pub struct ServerOpts {
    /// The address to listen on. None: all, IPv6 and IPv4.
    pub host: Option<Host>,
    /// The port to listen on; 0 takes a free one. None: only TLS.
    pub port: Option<u16>,
    /// A second listener, for TLS.
    #[cfg(feature = "tls")]
    pub tls: Option<TlsOpts>,
    /// The peer list.
    pub heartbeat: HeartbeatOpts,
    /// Redis, if the peer list lives there.
    #[cfg(feature = "redis")]
    pub cluster: Option<ClusterOpts>,
    /// The doors.
    pub app: AppOpts,
    /// Connections.
    pub serve: ServeOpts,
    /// The operator's API, if there is one.
    #[cfg(feature = "operator")]
    pub operator: Option<OperatorOpts>,
    /// Where events are sent, if they are.
    #[cfg(feature = "operator")]
    pub webhook: Option<Webhook>,
}

impl Default for ServerOpts {
    fn default() -> Self {
        Self {
            host: None,
            port: Some(3000),
            #[cfg(feature = "tls")]
            tls: None,
            heartbeat: HeartbeatOpts::default(),
            #[cfg(feature = "redis")]
            cluster: None,
            app: AppOpts::default(),
            serve: ServeOpts::default(),
            #[cfg(feature = "operator")]
            operator: None,
            #[cfg(feature = "operator")]
            webhook: None,
        }
    }
}

/// Why a server cannot start.
#[derive(Debug, Error)]
pub enum BindError {
    /// The server cannot listen on its port.
    #[error("cannot listen on port {port}{}", listen_hint(setting, .source))]
    Listen {
        /// The port of the doors.
        port: u16,
        /// The setting that has it.
        setting: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The server cannot listen on the operator's address.
    #[cfg(feature = "operator")]
    #[error(
        "cannot listen on {address}: {}; set WEBRTC_ADMIN_LISTEN to another",
        operator::hint(.source)
    )]
    Operator {
        /// The address of the operator's API.
        address: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The peer list in Redis cannot be used.
    #[cfg(feature = "redis")]
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

fn listen_hint(setting: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(": another program uses it; stop that one, or set {setting} to another port")
        }
        io::ErrorKind::PermissionDenied => {
            format!(": this user may not use it; set {setting} to 1024 or higher")
        }
        io::ErrorKind::AddrNotAvailable => {
            ": WEBRTC_HOST (--host, HOST) is not an address of this machine; unset it to listen \
             on all addresses"
                .into()
        }
        _ => format!(": {error}"),
    }
}

/// A server that listens, and does not answer yet.
///
/// ```no_run
/// use signal_http_heartbeat::server::{Server, ServerOpts};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), signal_http_heartbeat::server::BindError> {
/// let server = Server::bind(ServerOpts::default()).await?;
/// let stop = async { drop(tokio::signal::ctrl_c().await) };
/// server.run(stop).await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    listener: Option<TcpListener>,
    #[cfg(feature = "tls")]
    tls: Option<(TcpListener, Tls)>,
    peer_list: TimeoutPeerList,
    app: AppOpts,
    serve: ServeOpts,
    #[cfg(feature = "operator")]
    operator: Operator,
}

impl Server {
    /// Listens, and connects to the peer list.
    ///
    /// # Panics
    ///
    /// As [`TimeoutPeerList::new`].
    pub async fn bind(opts: ServerOpts) -> Result<Self, BindError> {
        let listen_on = |port, setting| {
            listen(opts.host, port).map_err(|source| BindError::Listen {
                port,
                setting,
                source,
            })
        };
        let listener = opts.port.map(|port| listen_on(port, "PORT")).transpose()?;
        #[cfg(feature = "tls")]
        let tls = match opts.tls {
            Some(tls) => {
                let listener = listen_on(tls.port, "WEBRTC_TLS_PORT")?;
                Some((listener, Tls::new(tls)?))
            }
            None => None,
        };
        #[cfg(feature = "operator")]
        let operator = Operator::bind(opts.operator, opts.webhook)?;
        #[cfg(not(feature = "redis"))]
        let peer_list = TimeoutPeerList::new(opts.heartbeat);
        #[cfg(feature = "redis")]
        let peer_list = match &opts.cluster {
            None => TimeoutPeerList::new(opts.heartbeat),
            Some(cluster) => TimeoutPeerList::connect(opts.heartbeat, cluster).await?,
        };
        Ok(Self {
            listener,
            #[cfg(feature = "tls")]
            tls,
            peer_list,
            app: opts.app,
            serve: opts.serve,
            #[cfg(feature = "operator")]
            operator,
        })
    }

    /// The address of the doors, but that of TLS.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.as_ref()?.local_addr().ok()
    }

    /// The address of the doors through TLS, if they are open there.
    #[cfg(feature = "tls")]
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        let (listener, _) = self.tls.as_ref()?;
        listener.local_addr().ok()
    }

    /// The address of the operator's API, if there is one.
    #[cfg(feature = "operator")]
    pub fn operator_addr(&self) -> Option<SocketAddr> {
        self.operator.local_addr()
    }

    /// The peer list of this server.
    pub fn peer_list(&self) -> &TimeoutPeerList {
        &self.peer_list
    }

    /// Serves until `stop` is ready; then answers the open requests, tells subscribers and
    /// the webhook that all peers were removed, and ends, at the latest three seconds later
    /// (four, if Redis cannot be reached).
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { peer_list, .. } = self;
        #[cfg(feature = "operator")]
        let running = self
            .operator
            .start(&peer_list, &self.app.signal.counts)
            .await;
        let counts = self.app.signal.counts.clone();
        let app = app(peer_list.clone(), self.app);
        let plain = self.listener.map(Listener::Plain);
        #[cfg_attr(not(feature = "tls"), expect(unused_mut))]
        let mut listeners: Vec<Listener> = plain.into_iter().collect();
        #[cfg(feature = "tls")]
        let following = self.tls.map(|(listener, tls)| {
            listeners.push(Listener::Tls(listener, tls.acceptor()));
            AbortOnDropHandle::new(tokio::spawn(tls.follow_files()))
        });
        serve_all(listeners, app, peer_list, self.serve, counts, stop).await;
        #[cfg(feature = "tls")]
        drop(following);
        #[cfg(feature = "operator")]
        running.stop().await;
    }
}
