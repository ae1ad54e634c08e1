//! The open requests and connections of peers, as far as they decide STATUS and
//! staleness.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Waker,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::MutexGuard;
use tokio::time::Instant;

use super::{
    MemoryEngine,
    peer::{Peer, PeerState},
    removal::Removal,
    wait::Wait,
};
use crate::{
    counter::One,
    peer_list::{
        Caller, Delivery, Held, Mail, OpenRequest, OpenSocket, PeerId, Peers, Presence, Proof,
        Reason, Refusal, SendOpts, SocketOpts, WaitOpts,
    },
};

/// An open request (or socket) of a peer.
#[derive(Debug)]
struct Request {
    list: MemoryEngine,
    peer: Arc<Peer>,
    /// Whether its client is expected back soon once it is answered.
    lingers: AtomicBool,
    is_answered: bool,
}

impl Request {
    fn begin(
        list: &MemoryEngine,
        peer: &Arc<Peer>,
        mut state: MutexGuard<'_, PeerState>,
        lingers: bool,
    ) -> Self {
        state.presence.open += 1;
        list.show_connected(peer, state);
        Self {
            list: list.clone(),
            peer: peer.clone(),
            lingers: AtomicBool::new(lingers),
            is_answered: false,
        }
    }
}

#[async_trait]
impl OpenRequest for Request {
    async fn wait(&self, opts: WaitOpts) -> Result<Delivery, Refusal> {
        self.lingers.store(true, Ordering::Relaxed);
        self.list.wait_of(self.peer.clone(), opts).await
    }

    async fn send(&self, to: PeerId, body: Bytes, opts: SendOpts) -> Result<(), Refusal> {
        self.list.send(self.peer.id, to, body, opts).await
    }

    async fn heartbeat(&self) -> Result<(), Refusal> {
        self.list.refresh_peer_timeout(self.peer.id).await
    }

    async fn set_capacity(&self, capacity: u64) -> Result<(), Refusal> {
        let mut state = self.peer.state.lock();
        if state.removed.is_some() {
            return Err(Refusal::UnknownPeer);
        }
        state.capacity = Some(capacity);
        Ok(())
    }

    async fn seen(&self) -> Result<(), Refusal> {
        // It was checked when the request was opened.
        Ok(())
    }

    async fn ice_servers(&self) -> Result<Option<Arc<str>>, Refusal> {
        Ok(self.peer.state.lock().sign_in.identity.ice_servers.clone())
    }

    fn answered(mut self: Box<Self>) {
        self.is_answered = true;
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut state = self.peer.state.lock();
        let lingers = self.is_answered && self.lingers.load(Ordering::Relaxed);
        state.presence.request_ended(lingers, Instant::now());
        self.list.show_connected(&self.peer, state);
    }
}

/// The socket of a peer, open for as long as this lives.
#[derive(Debug)]
struct Socket {
    request: Request,
    session: u64,
    /// Counts it.
    _open: One,
    /// Why it is closed.
    reason: Reason,
}

#[async_trait]
impl OpenSocket for Socket {
    async fn wait(&self) -> Delivery {
        let Request { list, peer, .. } = &self.request;
        let mut wait = Wait::of_socket(list, peer.clone(), self.session);
        wait.news().await
    }

    fn holds(&self, outgoing: Arc<Held>) {
        let mut state = self.request.peer.state.lock();
        if state.session == self.session {
            state.outgoing = Some(outgoing);
        }
    }

    fn reads(&self) {
        self.request.peer.state.lock().mailbox.held().is_read();
    }

    async fn ended(&self) {
        let Request { list, peer, .. } = &self.request;
        let mut watch = Wait::watch(list, peer.clone(), self.session);
        watch.end().await;
    }

    async fn leave(mut self: Box<Self>, reason: Reason) {
        self.reason = reason;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Request { list, peer, .. } = &self.request;
        list.remove_if(peer, |state| {
            let lost = matches!(self.reason, Reason::Closed | Reason::TimedOut);
            let stays = state.session != self.session || (state.resumes && lost);
            match state.removed {
                Some(reason) => Some(Removal::Asked(reason)),
                None => (!stays).then_some(Removal::Asked(self.reason)),
            }
        });
        let mut state = peer.state.lock();
        state.presence.socket_closed(Instant::now());
        if state.session == self.session {
            state.by_socket = false;
        }
    }
}

#[async_trait]
impl Presence for MemoryEngine {
    async fn open_socket(
        &self,
        id: PeerId,
        opts: SocketOpts,
    ) -> Result<Box<dyn OpenSocket>, Refusal> {
        let peer = self.peer(id)?;
        let mut state = peer.state.lock();
        if state.removed.is_some() {
            return Err(Refusal::UnknownPeer);
        }
        state.presence.sockets += 1;
        state.is_back(true, Instant::now());
        state.resumes |= opts.resumes;
        if let Some(number) = opts.acknowledged {
            state.mailbox.acknowledge(number);
            peer.space.notify_waiters();
        }
        let came_with_key = peer.by_socket_only && state.acknowledges;
        state.acknowledges = came_with_key || opts.acknowledged.is_some();
        let wakers = state.begin_session(true);
        let session = state.session;
        let request = Request::begin(self, &peer, state, false);
        wakers.into_iter().for_each(Waker::wake);
        Ok(Box::new(Socket {
            request,
            session,
            _open: self.shared.counts.sockets.one(),
            reason: Reason::Closed,
        }))
    }

    fn open_request(&self, caller: Caller) -> Result<Box<dyn OpenRequest>, Refusal> {
        let peer = self.polled_peer(caller.id)?;
        if !matches!(caller.proof, Proof::Trusted) {
            peer.admit(caller.token())?;
        }
        let mut state = peer.state.lock();
        state.presence.link = caller.link.as_ref().map(|link| link.number);
        let request = Request::begin(self, &peer, state, caller.lingers);
        // An idle connection does not keep a room. While it keeps this, no other room has
        // the same number.
        let number = Arc::as_ptr(&self.room).addr();
        caller.uses_link(number, || {
            let list = self.downgrade();
            move |id, link| {
                if let Some(list) = list.upgrade() {
                    list.link_lost(id, link);
                }
            }
        });
        Ok(Box::new(request))
    }
}

impl MemoryEngine {
    /// A connection is closed, or another peer uses it.
    fn link_lost(&self, id: PeerId, link: u64) {
        let Ok(peer) = self.peer(id) else { return };
        let mut state = peer.state.lock();
        if state.presence.link == Some(link) {
            state.presence.link = None;
            self.show_connected(&peer, state);
        }
    }

    /// Brings the peer's STATUS in the list up to date. Takes the lock of its state, so
    /// that the later of two changes is the one that is shown.
    pub(super) fn show_connected(&self, peer: &Peer, mut state: MutexGuard<'_, PeerState>) {
        let connected = state.presence.connected(Instant::now());
        if connected != state.presence.shown {
            state.presence.shown = connected;
            if let Some(joined) = peer.joined() {
                let mut roster = self.room.roster.lock();
                roster.set_connected(joined, connected);
            }
        }
    }
}
