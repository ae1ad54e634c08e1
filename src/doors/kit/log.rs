//! What the lines of the log name besides what they say: the connection, and its peer.

use tracing::{Instrument, Level, Span, debug_span, field::Empty};

use crate::peer_list::PeerId;

/// A session that is not that of one connection. Its lines name its peer as soon as that is
/// known ([`names_peer`]).
#[cfg(feature = "socketio")]
pub(crate) fn session_span() -> Span {
    debug_span!("session", peer_id = Empty)
}

/// A connection. Its lines name the address, and the peer that used it last
/// ([`names_peer`]).
pub(crate) fn connection_span(stream: &tokio::net::TcpStream) -> Span {
    debug_span!(
        "connection",
        address = stream.peer_addr().ok().map(tracing::field::display),
        peer_id = Empty
    )
}

/// Spawns a task whose lines are in this span.
pub(crate) fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static, span: Span) {
    if span.is_disabled() {
        // A task in a span is larger.
        tokio::spawn(task);
    } else {
        tokio::spawn(task.instrument(span));
    }
}

/// From now on the lines of this connection or session name this peer.
pub(crate) fn names_peer(id: PeerId) {
    if tracing::enabled!(Level::DEBUG) {
        Span::current().record("peer_id", id.get());
    }
}
