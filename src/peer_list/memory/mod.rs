//! The peer list that lives in this process.

mod channels;
mod eviction;
mod gc;
mod ids;
mod mail;
mod mailbox;
mod names;
mod peer;
mod peers;
mod presence;
mod removal;
mod room;
mod telling;
mod wait;
mod watching;

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::{task::AbortHandle, time::Instant};
use tracing::info;

use super::{
    Buffered, HeartbeatOpts, Identity, ListCounts, OfNetwork, PeerEvent, PeerId, PerNetwork,
    Refusal, RoomName, SignInOpts, Watching, event_log::EventLog, roster::Roster,
};
use gc::Awake;
use ids::Ids;
use peer::{Listed, Peer, PeerState};
use room::Room;

/// The list of one room in this process. Clones are the same list.
#[derive(Clone)]
pub(super) struct MemoryEngine {
    shared: Arc<Shared>,
    room: Arc<Room>,
}

/// What all rooms share.
///
/// Locks are taken in the order peer state, roster, map shard. Wakers run without a lock.
/// DESIGN.md, number 70, has the whole order.
struct Shared {
    opts: HeartbeatOpts,
    buffered: Arc<Buffered>,
    counts: Arc<ListCounts>,
    /// All peers of all rooms, including unlisted ones.
    peers: DashMap<Key, Arc<Peer>>,
    /// How many peers there are, and are about to be put on the map.
    count: AtomicUsize,
    /// How many of them each network has.
    of_networks: PerNetwork,
    /// The rooms that have a name.
    rooms: DashMap<RoomName, Weak<Room>>,
    /// The ids of the root list, and those of all rooms. Locked after a roster.
    root_ids: Mutex<Ids>,
    room_ids: Mutex<Ids>,
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
        let shared = Arc::new(Shared {
            buffered: Buffered::new(opts.max_buffered_bytes),
            counts: Arc::default(),
            opts,
            peers: DashMap::new(),
            count: AtomicUsize::new(0),
            of_networks: PerNetwork::default(),
            rooms: DashMap::new(),
            root_ids: Mutex::default(),
            room_ids: Mutex::default(),
            ending: AtomicBool::new(false),
            events: EventLog::new(),
            gc: Mutex::new(None),
            awake: Mutex::new(awake),
        });
        *shared.gc.lock() = Some(gc::start(&shared));
        eviction::start(&shared);
        let room = Arc::new(Room::new(None, &shared));
        Self { shared, room }
    }

    /// The list of the room of this peer.
    fn of(shared: &Arc<Shared>, peer: &Peer) -> Self {
        Self {
            shared: shared.clone(),
            room: peer.room.clone(),
        }
    }

    /// Counts one more peer of its network, if that is limited.
    fn count_of_network(&self, identity: &Identity) -> Result<Option<OfNetwork>, Refusal> {
        let max = self.shared.opts.max_peers_per_network;
        let (Some(max), Some(network)) = (max, identity.network) else {
            return Ok(None);
        };
        let counted = self.shared.of_networks.take(network, max);
        counted.map(Some).ok_or(Refusal::NetworkFull)
    }

    /// The id of a peer that is to be put on the map. Called with the roster locked.
    fn next_id(&self) -> Result<PeerId, Refusal> {
        self.has_space(0)?;
        let max = self.shared.opts.max_peers;
        let one_more = |count: usize| (count < max).then_some(count + 1);
        let count = &self.shared.count;
        // Others may come into other rooms at the same moment.
        count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .map_err(|_| Refusal::Full)?;
        let mut ids = match self.room.name {
            None => self.shared.root_ids.lock(),
            Some(_) => self.shared.room_ids.lock(),
        };
        Ok(ids.next(|id| self.shared.peers.contains_key(&self.key(id))))
    }

    fn downgrade(&self) -> WeakEngine {
        WeakEngine {
            shared: Arc::downgrade(&self.shared),
            room: Arc::downgrade(&self.room),
        }
    }

    fn key(&self, id: PeerId) -> Key {
        let of_rooms = u64::from(self.room.name.is_some()) << u32::BITS;
        Key(of_rooms | u64::from(id.get()))
    }

    /// Called with the roster locked.
    fn put_on_map(&self, peer: Arc<Peer>) {
        self.shared.peers.insert(self.key(peer.id), peer);
        self.room.has_come();
    }

    /// False if the map does not have the peer.
    fn take_off_map(&self, id: PeerId) -> bool {
        let Some((_, peer)) = self.shared.peers.remove(&self.key(id)) else {
            return false;
        };
        self.room.has_gone();
        self.shared.count.fetch_sub(1, Ordering::Relaxed);
        // An answer to it may still be under way, and hold it.
        drop(peer.of_network.lock().take());
        true
    }

    /// Called with the roster locked, just after the peer has joined.
    fn enlist(&self, roster: &Roster, peer: &Peer, state: &PeerState, listed: Listed) {
        let SignInOpts { door, identity, .. } = &state.sign_in;
        info!(
            peer_id = peer.id.get(),
            room = self.room.name.as_ref().map(tracing::field::display),
            name = &*listed.name,
            door,
            address = identity.address.map(tracing::field::display),
            user = identity.user.as_deref(),
            peers = roster.len(),
            "peer signed in"
        );
        self.shared.counts.sign_ins.count();
        peer.set_listed(listed);
        if let Some(peer) = peer.info(state) {
            self.shared.events.add(PeerEvent::PeerAdded(peer));
        }
    }

    fn peer(&self, id: PeerId) -> Result<Arc<Peer>, Refusal> {
        let peer = self.shared.peers.get(&self.key(id));
        let peer = peer.map(|peer| peer.value().clone());
        let is_here = |peer: &Arc<Peer>| Arc::ptr_eq(&peer.room, &self.room);
        peer.filter(is_here).ok_or(Refusal::UnknownPeer)
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

    /// The peers in the list of this room.
    fn listed_peers(&self) -> Vec<Arc<Peer>> {
        let ids = self.room.roster.lock().ids().into_iter();
        ids.filter_map(|id| self.peer(id).ok()).collect()
    }
}

impl Shared {
    /// All peers of all rooms, cloned out of the map: the guards of the map must be dropped
    /// before the lock of a peer is taken.
    fn all_peers(&self) -> Vec<Arc<Peer>> {
        let peers = self.peers.iter();
        peers.map(|entry| entry.value().clone()).collect()
    }
}

/// The list of one room, if it is still used.
struct WeakEngine {
    shared: Weak<Shared>,
    room: Weak<Room>,
}

impl WeakEngine {
    fn upgrade(&self) -> Option<MemoryEngine> {
        Some(MemoryEngine {
            shared: self.shared.upgrade()?,
            room: self.room.upgrade()?,
        })
    }
}

/// The key of a peer in the map: its id, and above that whether it is of a room. Rooms
/// share their ids, and the root list has its own. (One number is hashed faster than two.)
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key(u64);

impl fmt::Debug for MemoryEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryEngine")
            .field("room", &self.room.name)
            .field("peers", &self.room.peers())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
