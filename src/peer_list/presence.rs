//! Who is there: the requests and connections of peers, as far as they decide
//! STATUS and staleness.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::{
    PeerId, TimeoutPeerList, UnknownPeer,
    peer::{Peer, PeerState},
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

impl TimeoutPeerList {
    /// To be called by a door when a request of a peer has come, and kept
    /// until it is answered or given up. `link` is the connection it came on,
    /// if the door can see it and it stays open after the answer.
    pub fn open_request(
        &self,
        id: PeerId,
        link: Option<&Link>,
    ) -> Result<OpenRequest, UnknownPeer> {
        let peer = self.peer(id)?;
        if let Some(link) = link {
            link.used_by(self, id);
        }
        let mut state = peer.state.lock();
        state.presence.open += 1;
        state.presence.link = link.map(|link| link.number);
        self.show_connected(&peer, state);
        Ok(OpenRequest {
            list: self.clone(),
            peer,
            lingers: false,
        })
    }

    /// Brings the peer's STATUS in the list up to date. Takes the lock of its
    /// state, so that of two changes the later is shown.
    fn show_connected(&self, peer: &Peer, mut state: MutexGuard<'_, PeerState>) {
        let connected = state.presence.connected(Instant::now());
        if connected != state.presence.shown {
            state.presence.shown = connected;
            self.0.roster.lock().set_connected(peer.joined, connected);
        }
    }
}
