//! The server: listens, accepts, and drains when it is told to stop.

mod config;
mod connection;
mod health;
mod host;
mod webhook;

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use axum::Router;
use clap::ValueEnum;
use secrecy::SecretString;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::util::option_layer;
use tracing::warn;

pub use config::{ConfigError, Settings};
pub use health::check as healthcheck;
pub use host::Host;
pub use webhook::{Webhook, send_events};

use crate::{
    doors::{
        RequestError, cors_layer, cors_layer_with_credentials,
        http::{self, SignalOpts},
        socketio, websocket,
    },
    peer_list::TimeoutPeerList,
};

/// Connections that the kernel holds until they are accepted; it lowers this
/// to its own limit.
const BACKLOG: i32 = 4096;

/// What is not written this long after the stop is dropped: two seconds less
/// what it takes to end the process.
const DRAIN: Duration = Duration::from_millis(1900);

/// The same for the operator's listener, which stops after the doors.
const OPERATORS_DRAIN: Duration = Duration::from_millis(900);

/// How long what is dropped is waited for.
const LEFT: Duration = Duration::from_millis(50);

/// It is told no more often than this that connections cannot be accepted.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// How long to wait before accepting again when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The time after which a half-dead connection is found out: 30 s without a
/// byte and three unanswered probes, or 30 s without an acknowledgement. A
/// peer whose machine was unplugged must not stay in the list for ever.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// A protocol that clients can come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Door {
    /// Long polls over HTTP.
    Http,
    /// WebSockets, at `/` and `/ws`.
    WebSocket,
    /// Socket.IO.
    SocketIo,
}

/// How the binary serves. By default all doors are open.
#[derive(Clone, Debug)]
pub struct AppOpts {
    /// How the doors answer.
    pub signal: SignalOpts,
    /// The doors that are open.
    pub doors: Vec<Door>,
    /// What Socket.IO clients have to show, if anything.
    pub token: Option<SecretString>,
}

impl Default for AppOpts {
    fn default() -> Self {
        Self {
            signal: SignalOpts::default(),
            doors: Door::value_variants().to_vec(),
            token: None,
        }
    }
}

/// How connections are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeOpts {
    /// A connection on which nothing happens between requests is closed after this
    /// long. Longer than proxies keep theirs (nginx and AWS: 60 s, Traefik: 90 s,
    /// Google: 600 s), so that it is them who close: else a request may meet a
    /// connection that is just being closed. Default: 650 s.
    pub idle_timeout: Duration,
}

impl Default for ServeOpts {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(650),
        }
    }
}

/// Everything that the binary serves: the open doors and `/healthz`, and a
/// plain 404 for the rest.
pub fn app(peer_list: TimeoutPeerList, opts: AppOpts) -> Router {
    let cors = opts.signal.enable_cors.clone();
    let max_message_bytes = opts.signal.max_message_bytes;
    let mut app = health::routes(peer_list.clone());
    let mut with_credentials = Router::new();
    for door in opts.doors {
        let peer_list = peer_list.clone();
        app = app.merge(match door {
            Door::Http => http::routes(peer_list, opts.signal.clone()),
            Door::WebSocket => websocket::routes(peer_list, &opts.signal),
            Door::SocketIo => {
                let token = opts.token.clone();
                let routes = socketio::routes(peer_list, max_message_bytes, token, &cors);
                with_credentials = routes.transport;
                routes.others
            }
        });
    }
    with_credentials = with_credentials.layer(option_layer(cors_layer_with_credentials(&cors)));
    app.fallback(async || RequestError::NotFound)
        .layer(option_layer(cors_layer(&cors)))
        .merge(with_credentials)
}

/// Listens on an address, or without one on all of them, IPv6 and IPv4. Port
/// 0 takes a free one.
pub fn listen(host: Option<Host>, port: u16) -> io::Result<TcpListener> {
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match host {
        Some(host) => bind(host.at(port)),
        None => bind(all).or_else(|error| match error.kind() {
            io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
            // A machine without IPv6.
            _ => bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))),
        }),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // On Windows it would let two servers share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves `app` until `stop` is ready, in HTTP/1 the way native clients need
/// it: header names in Title-Case, and HTTP/1.0 with `Connection: close`.
///
/// Then the listener closes, all waits of the peer list end, what is being
/// answered is answered, and two seconds later whatever is left is dropped.
/// At last all peers are removed, so that subscribers hear of it.
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

/// Serves the operator's API until `stop` is cancelled, and what is being
/// answered then for a second at most.
pub async fn serve_operator(listener: TcpListener, app: Router, stop: CancellationToken) {
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
    let accepted = |stream| {
        let open = connections.token();
        let idle = opts.idle_timeout;
        let serve = connection::serve(stream, app.clone(), stopping.clone(), idle, open);
        tokio::spawn(dropping.clone().run_until_cancelled_owned(serve));
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
    // Those that became another protocol's are not ours to drop.
    let _ = timeout(LEFT, connections.wait()).await;
}

async fn accept(listener: &TcpListener, accepted: impl Fn(TcpStream)) {
    let mut warned: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                set_options(&stream);
                accepted(stream);
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                if warned.is_none_or(|warned| warned.elapsed() >= WARNING_PAUSE) {
                    warn!(%error, "cannot accept connections: is the limit of open files too low?");
                    warned = Some(Instant::now());
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

/// A system that lacks one of these options serves without it.
fn set_options(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_half_dead_connection_is_found_out_by_the_kernel() {
        let listener = listen(Host::find("127.0.0.1"), 0).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, _client) = tokio::join!(listener.accept(), client);
        let (stream, _) = accepted.unwrap();
        set_options(&stream);
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
        assert!(stream.nodelay().unwrap());
    }
}
