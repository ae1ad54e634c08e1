//! Who is there: the requests, connections and sockets of peers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    Delivery, PeerError, PeerId, PeerToken, Reason, SendError, TimeoutPeerList, cluster, local,
};

/// What a request proves with that it may act as its peer.
#[derive(Clone, Debug)]
pub enum Proof {
    /// It shows no token, and may act as peers that are not protected.
    Nothing,
    /// It shows this one.
    Token(PeerToken),
    /// It is the request that signed the peer in.
    SignIn,
}

impl From<Option<PeerToken>> for Proof {
    fn from(token: Option<PeerToken>) -> Self {
        token.map_or(Self::Nothing, Self::Token)
    }
}

/// Who makes a request, and what that shows of it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The peer that it acts as.
    pub id: PeerId,
    /// What it proves that with.
    pub proof: Proof,
    /// The connection that the request came on, if the door can see it and it
    /// stays open after the answer.
    pub link: Option<Arc<Link>>,
    /// Its client closes the connection after the answer and will be back;
    /// until then, for two seconds at most, it still counts as connected.
    pub lingers: bool,
}

impl Caller {
    /// The token that it shows.
    pub(super) fn token(&self) -> Option<&PeerToken> {
        match &self.proof {
            Proof::Token(token) => Some(token),
            Proof::Nothing | Proof::SignIn => None,
        }
    }

    /// It is the last peer that used its connection.
    pub(super) fn uses_link(&self, list: &TimeoutPeerList) {
        if let Some(link) = &self.link {
            link.used_by(list, self.id);
        }
    }
}

/// A connection that a door sees opening and closing. While it is open, the
/// last peer that used it counts as connected: the last one only, because
/// proxies send the requests of many peers over one connection.
///
/// The door drops it when the connection is closed.
#[derive(Debug)]
pub struct Link {
    pub(super) number: u64,
    last_used_by: Mutex<Option<(TimeoutPeerList, PeerId)>>,
}

impl Link {
    /// A connection that nobody has used yet.
    pub fn new() -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            last_used_by: Mutex::new(None),
        }
    }

    pub(super) fn used_by(&self, list: &TimeoutPeerList, id: PeerId) {
        let mut last = self.last_used_by.lock();
        if last.as_ref().is_some_and(|(_, last)| *last == id) {
            return;
        }
        let before = last.replace((list.clone(), id));
        drop(last);
        self.lost_for(before);
    }

    fn lost_for(&self, peer: Option<(TimeoutPeerList, PeerId)>) {
        let Some((list, id)) = peer else { return };
        list.link_lost(id, self.number);
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let last = self.last_used_by.get_mut().take();
        self.lost_for(last);
    }
}

/// A request of a peer that is open. As long as it lives, the peer is
/// connected, and alive unless it is one that sends heartbeats.
#[derive(Debug)]
pub struct OpenRequest(pub(super) Open);

#[derive(Debug)]
pub(super) enum Open {
    Local(local::OpenRequest),
    Cluster(Box<cluster::OpenRequest>),
}

impl OpenRequest {
    /// As [`TimeoutPeerList::wait_after`].
    pub async fn wait(
        &self,
        acknowledged: Option<u64>,
        limit: Option<Duration>,
    ) -> Result<Delivery, PeerError> {
        match &self.0 {
            Open::Local(open) => Ok(open.wait(acknowledged, limit).await?),
            // Boxed, so that a wait on a list in this process takes no room for
            // what that on another one needs.
            Open::Cluster(open) => Box::pin(open.wait(acknowledged, limit)).await,
        }
    }

    /// As [`TimeoutPeerList::send`], or with a number as
    /// [`TimeoutPeerList::send_once`].
    pub async fn send(
        &self,
        to: PeerId,
        body: Bytes,
        number: Option<u64>,
    ) -> Result<(), SendError> {
        match &self.0 {
            Open::Local(open) => open.send(to, body, number).await,
            Open::Cluster(open) => Box::pin(open.send(to, body, number)).await,
        }
    }

    /// As [`TimeoutPeerList::refresh_peer_timeout`].
    pub async fn heartbeat(&self) -> Result<(), PeerError> {
        match &self.0 {
            Open::Local(open) => Ok(open.heartbeat().await?),
            Open::Cluster(open) => Box::pin(open.heartbeat()).await,
        }
    }

    /// Notes how many viewers the peer can still serve, for those who watch the list.
    pub async fn set_capacity(&self, capacity: u64) -> Result<(), PeerError> {
        match &self.0 {
            Open::Local(open) => Ok(open.set_capacity(capacity)?),
            Open::Cluster(open) => Box::pin(open.set_capacity(capacity)).await,
        }
    }

    /// It asks for nothing that can be done, and shows only that its peer is
    /// there.
    ///
    /// # Errors
    ///
    /// As [`OpenRequest::heartbeat`].
    pub async fn seen(&self) -> Result<(), PeerError> {
        match &self.0 {
            // It was looked at when it was opened.
            Open::Local(_) => Ok(()),
            Open::Cluster(open) => Box::pin(open.seen()).await,
        }
    }

    /// The request was answered. `lingers`: its client closes its connection
    /// or pauses after the answer and will be back; until then, for two
    /// seconds at most, it still counts as connected.
    pub fn answered(self, lingers: bool) {
        match self.0 {
            Open::Local(open) => open.answered(lingers),
            Open::Cluster(open) => open.answered(lingers),
        }
    }
}

/// The socket of a peer, open as long as this lives. Until then the peer is
/// connected, is not collected, and is heard through this only; if its mailbox
/// is full, it does not read, and its door is told to remove it.
#[derive(Debug)]
pub struct OpenSocket(pub(super) Socket);

#[derive(Debug)]
pub(super) enum Socket {
    Local(local::OpenSocket),
    Cluster(Box<cluster::OpenSocket>),
}

impl OpenSocket {
    /// Waits for the next thing that the peer should hear. Ends with
    /// [`News::Removed`](super::News::Removed) when its door is to remove it,
    /// if that has not happened, and to close the socket; with
    /// [`News::Nothing`](super::News::Nothing) when the server stops, with
    /// [`News::Replaced`](super::News::Replaced) when another socket has taken
    /// over.
    pub async fn wait(&self) -> Delivery {
        match &self.0 {
            Socket::Local(socket) => socket.wait().await,
            Socket::Cluster(socket) => Box::pin(socket.wait()).await,
        }
    }

    /// Ready when the peer is to hear nothing any more: what is being written
    /// to it is to be given up.
    pub async fn ended(&self) {
        match &self.0 {
            Socket::Local(socket) => socket.ended().await,
            Socket::Cluster(socket) => Box::pin(socket.ended()).await,
        }
    }

    /// The socket is closed, or is about to be: its peer is removed, unless
    /// another session has taken it over, or it may come back and the network
    /// is the reason.
    pub async fn leave(self, reason: Reason) {
        match self.0 {
            Socket::Local(socket) => socket.leave(reason),
            Socket::Cluster(socket) => Box::pin(socket.leave(reason)).await,
        }
    }
}
