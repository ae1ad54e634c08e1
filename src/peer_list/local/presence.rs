//! Who is there: the requests and connections of peers, as far as they decide
//! STATUS and staleness.

use std::{sync::Arc, task::Waker, time::Duration};

use bytes::Bytes;
use parking_lot::MutexGuard;
use tokio::time::Instant;

use super::{
    LocalList, Removal, UnknownPeer,
    peer::{Peer, PeerState},
    wait::Wait,
};
use crate::peer_list::{Caller, Delivery, PeerError, PeerId, Proof, Reason, SendError};

/// A request (or socket) of a peer that is open.
#[derive(Debug)]
pub(in crate::peer_list) struct OpenRequest {
    list: LocalList,
    peer: Arc<Peer>,
    lingers: bool,
}

impl OpenRequest {
    fn begin(list: &LocalList, peer: &Arc<Peer>, mut state: MutexGuard<'_, PeerState>) -> Self {
        state.presence.open += 1;
        list.show_connected(peer, state);
        Self {
            list: list.clone(),
            peer: peer.clone(),
            lingers: false,
        }
    }

    pub async fn wait(
        &self,
        acknowledged: Option<u64>,
        limit: Option<Duration>,
    ) -> Result<Delivery, UnknownPeer> {
        self.list
            .wait_of(self.peer.clone(), acknowledged, limit)
            .await
    }

    pub async fn send(
        &self,
        to: PeerId,
        body: Bytes,
        number: Option<u64>,
    ) -> Result<(), SendError> {
        let (list, id) = (&self.list, self.peer.id);
        match number {
            Some(number) => list.send_once(id, to, body, number).await,
            None => list.send(id, to, body).await,
        }
    }

    pub async fn heartbeat(&self) -> Result<(), UnknownPeer> {
        self.list.refresh_peer_timeout(self.peer.id).await
    }

    pub fn set_capacity(&self, capacity: u64) -> Result<(), UnknownPeer> {
        let mut state = self.peer.state.lock();
        if state.removed.is_some() {
            return Err(UnknownPeer);
        }
        state.capacity = Some(capacity);
        Ok(())
    }

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

/// The socket of a peer, open as long as this lives.
#[derive(Debug)]
pub(in crate::peer_list) struct OpenSocket {
    request: OpenRequest,
    session: u64,
}

impl OpenSocket {
    pub async fn wait(&self) -> Delivery {
        let OpenRequest { list, peer, .. } = &self.request;
        let mut wait = Wait::of_socket(list, peer.clone(), self.session);
        wait.news().await
    }

    pub async fn ended(&self) {
        let OpenRequest { list, peer, .. } = &self.request;
        let mut watch = Wait::watch(list, peer.clone(), self.session);
        watch.end().await;
    }

    pub fn leave(self, reason: Reason) {
        let OpenRequest { list, peer, .. } = &self.request;
        list.remove_if(peer, |state| {
            let lost = matches!(reason, Reason::Closed | Reason::TimedOut);
            let stays = state.session != self.session || (state.resumes && lost);
            match state.removed {
                Some(reason) => Some(Removal::Asked(reason)),
                None => (!stays).then_some(Removal::Asked(reason)),
            }
        });
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        let mut state = self.request.peer.state.lock();
        state.presence.socket_closed(Instant::now());
        if state.session == self.session {
            state.by_socket = false;
        }
    }
}

impl LocalList {
    /// It takes the peer over from a socket before it, and is given anew what
    /// that one was given and has not acknowledged.
    pub fn open_socket(&self, id: PeerId, resumes: bool) -> Result<OpenSocket, UnknownPeer> {
        let peer = self.peer(id)?;
        let mut state = peer.state.lock();
        if state.removed.is_some() {
            return Err(UnknownPeer);
        }
        state.presence.sockets += 1;
        state.resumes |= resumes;
        // Sockets do not, but for those of members that said so.
        state.acknowledges &= peer.is_member;
        let wakers = state.begin_session(true);
        let session = state.session;
        let request = OpenRequest::begin(self, &peer, state);
        wakers.into_iter().for_each(Waker::wake);
        Ok(OpenSocket { request, session })
    }

    pub fn open_request(&self, caller: &Caller) -> Result<OpenRequest, PeerError> {
        let peer = self.polled_peer(caller.id)?;
        if !matches!(caller.proof, Proof::SignIn) {
            peer.admit(caller.token())?;
        }
        let mut state = peer.state.lock();
        state.presence.link = caller.link.as_ref().map(|link| link.number);
        Ok(OpenRequest::begin(self, &peer, state))
    }

    /// A connection is closed, or another peer uses it.
    pub fn link_lost(&self, id: PeerId, link: u64) {
        let Ok(peer) = self.peer(id) else { return };
        let mut state = peer.state.lock();
        if state.presence.link == Some(link) {
            state.presence.link = None;
            self.show_connected(&peer, state);
        }
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
