//! Who is there: the requests and connections of peers, as far as they decide
//! STATUS and staleness.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{
    Delivery, PeerId, Reason, Removal, TimeoutPeerList, UnknownPeer,
    peer::{Peer, PeerState},
    wait::Wait,
};

/// A connection that a door sees opening and closing. While it is open, the
/// last peer that used it counts as connected: the last one only, because
/// proxies send the requests of many peers over one connection.
///
/// The door drops it when the connection is closed.
#[derive(Debug)]
pub struct Link {
    number: u64,
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

    fn used_by(&self, list: &TimeoutPeerList, id: PeerId) {
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
        let Ok(peer) = list.peer(id) else { return };
        let mut state = peer.state.lock();
        if state.presence.link == Some(self.number) {
            state.presence.link = None;
            list.show_connected(&peer, state);
        }
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

/// A request (or socket) of a peer that is open. As long as it lives, the
/// peer is connected, and alive unless it is one that sends heartbeats.
#[derive(Debug)]
pub struct OpenRequest {
    list: TimeoutPeerList,
    peer: Arc<Peer>,
    lingers: bool,
}

impl OpenRequest {
    fn begin(
        list: &TimeoutPeerList,
        peer: &Arc<Peer>,
        mut state: MutexGuard<'_, PeerState>,
    ) -> Self {
        state.presence.open += 1;
        list.show_connected(peer, state);
        Self {
            list: list.clone(),
            peer: peer.clone(),
            lingers: false,
        }
    }

    /// The request was answered. `lingers`: its client closes its connection
    /// or pauses after the answer and will be back; until then, for two
    /// seconds at most, it still counts as connected.
    pub fn answered(mut self, lingers: bool) {
        self.lingers = lingers;
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut state = self.peer.state.lock();
        state.presence.request_ended(self.lingers, Instant::now());
        self.list.show_connected(&self.peer, state);
    }
}

/// The socket of a peer, open as long as this lives. Until then the peer is
/// connected, is not collected, and is heard through this only; if its mailbox
/// is full, it does not read, and its door is told to remove it.
#[derive(Debug)]
pub struct OpenSocket {
    request: OpenRequest,
    session: u64,
}

impl OpenSocket {
    /// Waits for the next thing that the peer should hear. Ends with
    /// [`News::Removed`](super::News::Removed) when its door is to remove it,
    /// if that has not happened, and to close the socket; with
    /// [`News::Nothing`](super::News::Nothing) when the server stops, with
    /// [`News::Replaced`](super::News::Replaced) when another socket has taken
    /// over.
    pub async fn wait(&self) -> Delivery {
        self.begin_wait().news().await
    }

    /// Ready when the peer is to hear nothing any more: what is being written
    /// to it is to be given up.
    pub async fn ended(&self) {
        self.begin_wait().end().await;
    }

    fn begin_wait(&self) -> Wait {
        let OpenRequest { list, peer, .. } = &self.request;
        Wait::of_socket(list, peer.clone(), self.session)
    }

    /// From now on the peer may come back with its token when its socket has
    /// closed: until it is stale it stays in the list.
    pub fn keep_for_return(&self) {
        self.request.peer.state.lock().resumes = true;
    }

    /// The socket is closed, or is about to be: its peer is removed, unless
    /// another session has taken it over, or it may come back and the network
    /// is the reason.
    pub async fn leave(self, reason: Reason) {
        let OpenRequest { list, peer, .. } = &self.request;
        let removed = list.take_off_if(peer, |state| {
            let lost = matches!(reason, Reason::Closed | Reason::TimedOut);
            let stays = state.session != self.session || (state.resumes && lost);
            match state.removed {
                Some(reason) => Some(Removal::Asked(reason)),
                None => (!stays).then_some(Removal::Asked(reason)),
            }
        });
        if removed {
            list.changed();
        }
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        let mut state = self.request.peer.state.lock();
        state.presence.sockets -= 1;
        if state.session == self.session {
            state.by_socket = false;
        }
    }
}

impl TimeoutPeerList {
    /// To be called by a door when the socket of a peer is open, and kept as
    /// long as it is. It takes the peer over from a socket before it, and is
    /// given anew what that one was given and has not acknowledged.
    pub fn open_socket(&self, id: PeerId) -> Result<OpenSocket, UnknownPeer> {
        let peer = self.peer(id)?;
        let mut state = peer.state.lock();
        if state.removed.is_some() {
            return Err(UnknownPeer);
        }
        state.presence.sockets += 1;
        let wakers = state.begin_session(true);
        let session = state.session;
        let request = OpenRequest::begin(self, &peer, state);
        wakers.into_iter().for_each(Waker::wake);
        Ok(OpenSocket { request, session })
    }

    /// To be called by a door when a request of a peer has come, and kept
    /// until it is answered or given up. `link` is the connection it came on,
    /// if the door can see it and it stays open after the answer.
    pub fn open_request(
        &self,
        id: PeerId,
        link: Option<&Link>,
    ) -> Result<OpenRequest, UnknownPeer> {
        let peer = self.polled_peer(id)?;
        if let Some(link) = link {
            link.used_by(self, id);
        }
        let mut state = peer.state.lock();
        state.presence.link = link.map(|link| link.number);
        Ok(OpenRequest::begin(self, &peer, state))
    }

    /// Brings the peer's STATUS in the list up to date. Takes the lock of its
    /// state, so that of two changes the later is shown.
    pub(super) fn show_connected(&self, peer: &Peer, mut state: MutexGuard<'_, PeerState>) {
        let connected = state.presence.connected(Instant::now());
        if connected != state.presence.shown {
            state.presence.shown = connected;
            if let Some(joined) = peer.joined() {
                let mut roster = self.0.roster.lock();
                roster.set_connected(joined, connected);
            }
        }
    }
}
