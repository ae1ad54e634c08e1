//! WebRTC signaling over plain HTTP, with a heartbeat.
//!
//! Before two WebRTC peers can talk directly, they must find each other and
//! exchange offers, answers and ICE candidates. This server does that for
//! clients of `webrtc-signal-http` with `webrtc-signal-http-heartbeat` (Node)
//! and for WebRTC's native `peerconnection_client`: sign in, long-poll
//! `/wait`, POST `/message`, and a `/heartbeat` without which a peer is
//! removed, so that dead peers do not linger in the list. Clients on a
//! WebSocket or on Socket.IO are in the same list.
//!
//! The crate has three layers, and imports go down only:
//!
//! - [`server`] accepts connections and speaks HTTP/1 as native clients need it; it knows
//!   every setting.
//! - [`doors`] are how clients come in, one door for each protocol. Beside them,
//!   [`operator`] has the operator's API, the stream of events and the webhook.
//!   [`access`] says who may come in, and `ice` which STUN and TURN servers peers are told
//!   of.
//! - [`peer_list`] is the domain: which peers are signed in, what waits for them, and
//!   which are stale.
//!
//! The binary is a [`server::Server`]. To add the signaling routes to a server of your
//! own, see [`router`].

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod access;
#[cfg(feature = "cli")]
pub mod cli;
pub mod counter;
pub mod doors;
#[cfg(feature = "ice")]
pub mod ice;
#[cfg(feature = "operator")]
pub mod operator;
pub mod peer_list;
pub mod server;

pub use doors::http::{Cors, SignalOpts, signal_router};
pub use peer_list::{HeartbeatOpts, PeerEvent, PeerId, Reason, TimeoutPeerList};
pub use server::{ServeOpts, serve};

/// The signaling routes, to be merged with other routes, and their peer list. For more
/// settings, make the list yourself and give it to [`signal_router`].
///
/// ```no_run
/// use signal_http_heartbeat::{HeartbeatOpts, ServeOpts, router, serve};
///
/// # #[tokio::main]
/// # async fn main() -> std::io::Result<()> {
/// let (signaling, peer_list) = router(HeartbeatOpts::default());
/// let app = axum::Router::new()
///     .route("/new-endpoint", axum::routing::get(async || "hello"))
///     .merge(signaling);
///
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// serve(listener, app, peer_list, ServeOpts::default(), std::future::pending()).await;
/// # Ok(())
/// # }
/// ```
///
/// # Panics
///
/// Like [`TimeoutPeerList::new`].
pub fn router(opts: HeartbeatOpts) -> (axum::Router, TimeoutPeerList) {
    let peer_list = TimeoutPeerList::new(opts);
    let router = signal_router(peer_list.clone(), SignalOpts::default());
    (router, peer_list)
}
