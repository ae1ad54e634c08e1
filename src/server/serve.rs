//! Serves connections until the server stops, and then drains them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use axum::Router;
use futures_util::future::join_all;
use ipnet::IpNet;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Span, debug};

#[cfg(feature = "tls")]
use super::tls::Acceptor;
use super::{
    http1,
    listen::accept,
    places::{Open, Places},
    refuse::Refusals,
};
use crate::{
    doors::kit::{
        DoorCounts,
        log::{connection_span, spawn},
    },
    peer_list::TimeoutPeerList,
};

/// What is not written this long after the stop is dropped: two seconds, less the time
/// that it takes to end the process.
const DRAIN: Duration = Duration::from_millis(1900);

/// The drain of the operator's listener, which stops after the doors.
#[cfg(feature = "operator")]
const OPERATORS_DRAIN: Duration = Duration::from_millis(900);

/// How long to wait for connections that were dropped.
const LEFT: Duration = Duration::from_millis(50);

/// How connections are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeOpts {
    /// A connection on which nothing happens between requests is closed after this long.
    /// That is longer than proxies keep theirs (nginx and AWS: 60 s, Traefik: 90 s,
    /// Google: 600 s), so that the proxy closes first: otherwise a request may meet a
    /// connection that is just being closed. Default: 650 s.
    pub idle_timeout: Duration,
    /// Whether the log shows the addresses of clients. Default: true.
    pub shows_addresses: bool,
    /// How many connections may be open. One more is answered with 503 and closed. None, the
    /// default: any number.
    pub max_connections: Option<usize>,
    /// How many connections of one address (with IPv6 one network of 64 bits) may be open. One
    /// more is answered with 429 and closed. None, the default: any number.
    pub max_connections_per_address: Option<usize>,
    /// Proxies, whose connections are not counted by address. Default: none.
    pub proxies: Vec<IpNet>,
}

impl Default for ServeOpts {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(650),
            shows_addresses: true,
            max_connections: None,
            max_connections_per_address: None,
            proxies: Vec::new(),
        }
    }
}

/// Serves `app` until `stop` is ready, in HTTP/1 as native clients need it: header names
/// in Title-Case, and HTTP/1.0 with `Connection: close`.
///
/// Then the listener closes, all waits of the peer list end, open requests are answered,
/// and two seconds later whatever is left is dropped. Finally all peers are removed, so
/// that subscribers hear of it.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    peer_list: TimeoutPeerList,
    opts: ServeOpts,
    stop: impl Future<Output = ()>,
) {
    let listeners = vec![Listener::Plain(listener)];
    serve_all(listeners, app, peer_list, opts, Arc::default(), stop).await;
}

/// The same with several listeners.
pub(super) async fn serve_all(
    listeners: Vec<Listener>,
    app: Router,
    peer_list: TimeoutPeerList,
    opts: ServeOpts,
    counts: Arc<DoorCounts>,
    stop: impl Future<Output = ()>,
) {
    let stopped = || peer_list.end_waits();
    accept_until(listeners, app, &opts, counts, stop, DRAIN, stopped).await;
    peer_list.stop().await;
}

/// Serves the operator's API until `stop` is cancelled, and open requests for at most a
/// second after that.
#[cfg(feature = "operator")]
pub(super) async fn serve_operator(listener: TcpListener, app: Router, stop: CancellationToken) {
    let opts = ServeOpts::default();
    accept_until(
        vec![Listener::Plain(listener)],
        app,
        &opts,
        Arc::default(),
        stop.cancelled(),
        OPERATORS_DRAIN,
        || {},
    )
    .await;
}

/// Where clients connect.
pub(super) enum Listener {
    Plain(TcpListener),
    #[cfg(feature = "tls")]
    Tls(TcpListener, Acceptor),
}

impl Listener {
    fn tcp(&self) -> &TcpListener {
        match self {
            Self::Plain(listener) => listener,
            #[cfg(feature = "tls")]
            Self::Tls(listener, _) => listener,
        }
    }
}

async fn accept_until(
    listeners: Vec<Listener>,
    app: Router,
    opts: &ServeOpts,
    counts: Arc<DoorCounts>,
    stop: impl Future<Output = ()>,
    drain: Duration,
    stopped: impl FnOnce(),
) {
    let connections = TaskTracker::new();
    let stopping = CancellationToken::new();
    let dropping = CancellationToken::new();
    let places = Places::new(opts, counts);
    let refusals = Refusals::default();
    let accepted = |stream: TcpStream, listener: &Listener| {
        let address = stream.peer_addr().ok();
        let span = connection_span(address.filter(|_| opts.shows_addresses));
        let place = match places.take(address.map(|address| address.ip())) {
            Ok(place) => place,
            Err(why) => {
                let _entered = span.enter();
                debug!(?why, "a connection was refused");
                return match listener {
                    Listener::Plain(_) => refusals.refuse(stream, why),
                    // An answer would need a handshake.
                    #[cfg(feature = "tls")]
                    Listener::Tls(..) => {}
                };
            }
        };
        let serving = Serving {
            address: address.map(|address| address.ip()),
            app: app.clone(),
            stopping: stopping.clone(),
            idle_timeout: opts.idle_timeout,
            open: Open {
                _token: connections.token(),
                place,
            },
        };
        let dropping = dropping.clone();
        match listener {
            Listener::Plain(_) => serving.spawn(stream, dropping, span),
            #[cfg(feature = "tls")]
            Listener::Tls(_, acceptor) => {
                let handshake = serving.stopping.clone();
                let handshake =
                    handshake.run_until_cancelled_owned(acceptor.clone().accept(stream));
                // A task of its own, so that the one that serves has no room for it.
                let shake_hands = async move {
                    if let Some(Some(stream)) = handshake.await {
                        serving.spawn(stream, dropping, Span::current());
                    }
                };
                spawn(shake_hands, span);
            }
        }
    };
    let accept_at = |listener| accept(Listener::tcp(listener), |stream| accepted(stream, listener));
    tokio::select! {
        () = stop => {}
        _ = join_all(listeners.iter().map(accept_at)) => {}
    }
    drop(listeners);
    stopping.cancel();
    stopped();
    connections.close();
    let _ = timeout(drain, connections.wait()).await;
    dropping.cancel();
    // Connections that were upgraded to another protocol are not ours to drop.
    let _ = timeout(LEFT, connections.wait()).await;
}

/// How a connection is served.
struct Serving {
    address: Option<IpAddr>,
    app: Router,
    stopping: CancellationToken,
    idle_timeout: Duration,
    open: Open,
}

impl Serving {
    /// Serves a stream until it is closed, or until all are dropped.
    fn spawn<S>(self, stream: S, dropping: CancellationToken, span: Span)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self {
            address,
            app,
            stopping,
            idle_timeout,
            open,
        } = self;
        let serve = http1::serve(stream, address, app, stopping, idle_timeout, open);
        spawn(dropping.run_until_cancelled_owned(serve), span);
    }
}
