//! The fields that every log line of a connection carries: its address, and its peer.

use std::net::SocketAddr;

use tracing::{Instrument, Level, Span, debug_span, field::Empty};

use crate::peer_list::PeerId;

/// The span of a session that several connections carry. Its lines name its peer once
/// that is known ([`names_peer`]).
#[cfg(feature = "socketio")]
pub(crate) fn session_span() -> Span {
    debug_span!("session", peer_id = Empty)
}

/// The span of a connection. Its lines name the address, if that is shown, and the peer that
/// used the connection last ([`names_peer`]).
pub(crate) fn connection_span(address: Option<SocketAddr>) -> Span {
    debug_span!(
        "connection",
        address = address.map(tracing::field::display),
        peer_id = Empty
    )
}

/// Spawns a task whose log lines are in this span.
pub(crate) fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static, span: Span) {
    if span.is_disabled() {
        // A task in a span is larger than one without.
        tokio::spawn(task);
    } else {
        tokio::spawn(task.instrument(span));
    }
}

/// From now on the log lines of this connection or session name this peer.
pub(crate) fn names_peer(id: PeerId) {
    if tracing::enabled!(Level::DEBUG) {
        Span::current().record("peer_id", id.get());
    }
}
