//! What all push doors share: a peer that is connected while its socket is open, hears
//! everything through it, and is removed if it does not read.

#[cfg(feature = "socketio")]
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, Uri};

use super::{RequestError, log::names_peer, query::Query};
#[cfg(feature = "socketio")]
use crate::peer_list::Held;
use crate::peer_list::{
    Delivery, News, OpenSocket, PeerId, PeerToken, Reason, Refusal, SocketOpts, TimeoutPeerList,
};

/// Pings are at most this far apart: proxies cut silent connections after 30 s or more.
const LONGEST_PING_INTERVAL: Duration = Duration::from_secs(25);

/// At most this many pings may stay unanswered before the peer times out.
const PINGS_PER_TIMEOUT: u32 = 3;

/// A peer that is told its news through a socket.
pub(crate) struct PushPeer {
    pub list: TimeoutPeerList,
    pub id: PeerId,
    socket: Box<dyn OpenSocket>,
}

/// Why a peer is told nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The peer was removed, or should be removed for this reason.
    Removed(Reason),
    /// Another socket has taken over the peer.
    Replaced,
    /// The server stops.
    Stopping,
}

impl End {
    /// The socket has closed.
    pub const CLOSED: Self = Self::Removed(Reason::Closed);
}

impl PushPeer {
    /// Opens the socket of a peer. An error if the peer has been removed, or the list
    /// cannot be reached.
    pub async fn new(
        list: &TimeoutPeerList,
        id: PeerId,
        opts: SocketOpts,
    ) -> Result<Self, Refusal> {
        let socket = list.open_socket(id, opts).await?;
        names_peer(id);
        let list = list.clone();
        Ok(Self { list, id, socket })
    }

    /// Counts in the peer's share what its door has for it.
    #[cfg(feature = "socketio")]
    pub fn holds(&self, outgoing: &Arc<Held>) {
        self.socket.holds(outgoing.clone());
    }

    /// The client has read a part of what is being written to it.
    pub fn reads(&self) {
        self.socket.reads();
    }

    /// Waits for the next news for the peer.
    pub async fn news(&self) -> Result<Delivery, End> {
        let delivery = self.socket.wait().await;
        match delivery.news() {
            News::Removed(reason) => Err(End::Removed(*reason)),
            News::Replaced => Err(End::Replaced),
            News::Nothing(_) => Err(End::Stopping),
            News::Message { .. } | News::Published(_) | News::Announced(_) | News::Status(_) => {
                Ok(delivery)
            }
        }
    }

    /// Ready when the peer is told nothing more, whatever is being written to it: a peer
    /// whose mailbox is full, because it does not read, is removed.
    pub async fn ended(&self) -> End {
        self.socket.ended().await;
        match self.news().await {
            Err(end) => end,
            // More news are waiting, but the server stops.
            Ok(_) => End::Stopping,
        }
    }

    /// The socket of the peer is closed or about to be closed: the peer is removed,
    /// unless it may come back.
    pub async fn leave(self, end: End) {
        match end {
            End::Removed(reason) => self.socket.leave(reason).await,
            End::Stopping => self.socket.leave(Reason::Shutdown).await,
            End::Replaced => {}
        }
    }
}

/// What the query of a handshake says about coming back.
#[derive(Debug, Default)]
pub(crate) struct Return {
    /// Whether the client can come back, and wants the token for that.
    pub resumes: bool,
    /// The peer that it claims to be.
    pub claim: Option<(PeerId, PeerToken)>,
}

impl Return {
    /// An error if the token is malformed, or comes with an impossible id. An id without
    /// a token claims nothing, and neither does a token without an id.
    pub fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, RequestError> {
        let query = Query::of_uri(uri);
        let claim = match (query.first("peer_id"), query.token(headers)?) {
            (Some(id), Some(token)) => {
                Some((PeerId::parse(&id).ok_or(RequestError::WrongToken)?, token))
            }
            _ => None,
        };
        let resumes = claim.is_some() || query.first("resume").is_some_and(|value| value == "true");
        Ok(Self { resumes, claim })
    }
}

/// How often a silent socket is pinged.
pub(crate) fn ping_interval(list: &TimeoutPeerList) -> Duration {
    let interval = list.opts().timeout_period / PINGS_PER_TIMEOUT;
    interval.min(LONGEST_PING_INTERVAL)
}
