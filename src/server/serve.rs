//! Serves connections until the server stops, and then drains them.

use std::time::Duration;

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{http1, listen::accept};
use crate::{
    doors::kit::log::{connection_span, spawn},
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
}

impl Default for ServeOpts {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(650),
            shows_addresses: true,
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
    let stopped = || peer_list.end_waits();
    accept_until(listener, app, &opts, stop, DRAIN, stopped).await;
    peer_list.stop().await;
}

/// Serves the operator's API until `stop` is cancelled, and open requests for at most a
/// second after that.
#[cfg(feature = "operator")]
pub(super) async fn serve_operator(listener: TcpListener, app: Router, stop: CancellationToken) {
    let opts = ServeOpts::default();
    accept_until(
        listener,
        app,
        &opts,
        stop.cancelled(),
        OPERATORS_DRAIN,
        || {},
    )
    .await;
}

async fn accept_until(
    listener: TcpListener,
    app: Router,
    opts: &ServeOpts,
    stop: impl Future<Output = ()>,
    drain: Duration,
    stopped: impl FnOnce(),
) {
    let connections = TaskTracker::new();
    let stopping = CancellationToken::new();
    let dropping = CancellationToken::new();
    let accepted = |stream: TcpStream| {
        let address = stream.peer_addr().ok();
        let span = connection_span(address.filter(|_| opts.shows_addresses));
        let open = connections.token();
        let idle = opts.idle_timeout;
        let address = address.map(|address| address.ip());
        let serve = http1::serve(stream, address, app.clone(), stopping.clone(), idle, open);
        let serve = dropping.clone().run_until_cancelled_owned(serve);
        spawn(serve, span);
    };
    tokio::select! {
        () = stop => {}
        () = accept(&listener, accepted) => {}
    }
    drop(listener);
    stopping.cancel();
    stopped();
    connections.close();
    let _ = timeout(drain, connections.wait()).await;
    dropping.cancel();
    // Connections that were upgraded to another protocol are not ours to drop.
    let _ = timeout(LEFT, connections.wait()).await;
}
