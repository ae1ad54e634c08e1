//! The peer list that lives in this process.

mod channels;
mod gc;
mod mail;
mod mailbox;
mod names;
mod peer;
mod peers;
mod presence;
mod removal;
mod telling;
mod wait;
mod watching;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
};

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::{task::AbortHandle, time::Instant};
use tracing::info;

use super::{
    HeartbeatOpts, PeerEvent, PeerId, Refusal, events::EventLog, roster::Roster, telling::Updates,
};
use gc::Awake;
use names::Names;
use peer::{Listed, Peer, PeerState};

/// The list in this process. Clones are the same list.
#[derive(Clone)]
pub(super) struct MemoryEngine(Arc<Shared>);

/// The contents of the list.
///
/// Locks are taken in the order peer state, roster, map shard. Wakers run without a lock.
/// DESIGN.md, number 70, has the whole order.
struct Shared {
    opts: HeartbeatOpts,
    /// All peers, also those that are not listed yet.
    peers: DashMap<PeerId, Arc<Peer>>,
    roster: Mutex<Roster>,
    /// Locked before a map shard, and under no other lock.
    names: Mutex<Names>,
    updates: Updates,
    /// The server is about to stop: waits without news end at once.
    ending: AtomicBool,
    events: Arc<EventLog>,
    gc: Mutex<Option<AbortHandle>>,
    /// Locked on its own only.
    awake: Mutex<Awake>,
}

impl MemoryEngine {
    /// An empty list, and the collector that removes stale peers from it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if `gc_interval` is zero.
    pub fn new(opts: HeartbeatOpts) -> Self {
        let awake = Awake::new(&opts, Instant::now());
        let names = Names::new(opts.max_pending_bytes);
        let list = Self(Arc::new(Shared {
            opts,
            peers: DashMap::new(),
            roster: Mutex::new(Roster::new()),
            names: Mutex::new(names),
            updates: Updates::default(),
            ending: AtomicBool::new(false),
            events: EventLog::new(),
            gc: Mutex::new(None),
            awake: Mutex::new(awake),
        }));
        *list.0.gc.lock() = Some(gc::start(&list));
        list
    }

    fn next_id(&self, roster: &mut Roster) -> Result<PeerId, Refusal> {
        if self.0.peers.len() >= self.0.opts.max_peers {
            return Err(Refusal::Full);
        }
        Ok(roster.next_id(|id| self.0.peers.contains_key(&id)))
    }

    /// Called with the roster locked, just after the peer has joined.
    fn enlist(&self, roster: &Roster, peer: &Peer, state: &PeerState, listed: Listed) {
        info!(
            peer_id = peer.id.get(),
            name = &*listed.name,
            peers = roster.len(),
            "peer signed in"
        );
        peer.set_listed(listed);
        if let Some(peer) = peer.info(state) {
            self.0.events.add(PeerEvent::PeerAdded(peer));
        }
    }

    fn peer(&self, id: PeerId) -> Result<Arc<Peer>, Refusal> {
        let peer = self.0.peers.get(&id).ok_or(Refusal::UnknownPeer)?;
        Ok(peer.value().clone())
    }

    /// A peer that may poll. A peer that came in unlisted may not: it is reached through
    /// its sockets only, also while it is away.
    fn polled_peer(&self, id: PeerId) -> Result<Arc<Peer>, Refusal> {
        let peer = self.peer(id)?;
        if peer.by_socket_only {
            return Err(Refusal::UnknownPeer);
        }
        Ok(peer)
    }

    /// All peers, cloned out of the map: the guards of the map must be dropped before the
    /// lock of a peer is taken.
    fn all_peers(&self) -> Vec<Arc<Peer>> {
        let peers = self.0.peers.iter();
        peers.map(|entry| entry.value().clone()).collect()
    }
}

impl fmt::Debug for MemoryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryEngine")
            .field("peers", &self.0.peers.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
