//! What a request shows about its connection.

use std::{net::IpAddr, sync::Arc};

use axum::http::{Request, Version, header::CONNECTION};

use crate::peer_list::Link;

/// A connection of our own server, which adds it to each request; servers of others do not.
#[derive(Clone)]
pub(crate) struct Connection {
    pub link: Arc<Link>,
    /// From where it comes.
    pub address: Option<IpAddr>,
}

impl Connection {
    fn of<B>(request: &Request<B>) -> Option<&Self> {
        request.extensions().get()
    }
}

/// The connection of a request, as far as it matters for the peer.
pub(crate) struct Transport {
    /// The connection, if it stays open after the answer.
    pub link: Option<Arc<Link>>,
    /// The client speaks HTTP/1.0: it closes the connection after every reply.
    pub closes_after_reply: bool,
}

impl Transport {
    pub fn of<B>(request: &Request<B>) -> Self {
        let closes_after_reply = request.version() == Version::HTTP_10;
        let stays_open = !closes_after_reply && !asks_to_close(request);
        Self {
            link: Self::link_of(request).filter(|_| stays_open),
            closes_after_reply,
        }
    }

    /// The connection, whether it stays open after the answer or not.
    pub fn link_of<B>(request: &Request<B>) -> Option<Arc<Link>> {
        Connection::of(request).map(|connection| connection.link.clone())
    }

    /// From where the request comes: the client, or a proxy.
    pub fn address_of<B>(request: &Request<B>) -> Option<IpAddr> {
        Connection::of(request)?.address
    }

    /// The request is about to wait for long: the server may suspend its connection.
    pub fn suspend<B>(request: &Request<B>) {
        if let Some(connection) = Connection::of(request) {
            connection.link.set_suspendable(true);
        }
    }
}

/// Whether the client asks that the connection be closed after the answer.
pub(crate) fn asks_to_close<B>(request: &Request<B>) -> bool {
    let values = request.headers().get_all(CONNECTION).into_iter();
    let mut tokens = values.flat_map(|value| value.as_bytes().split(|b| *b == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}
