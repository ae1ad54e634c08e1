//! What each room has of its own. A room lives as long as a peer of it, or somebody asks
//! for it.

use std::{
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use dashmap::Entry;
use parking_lot::Mutex;

use super::{Shared, names::Names};
use crate::peer_list::{ListCounts, RoomInfo, RoomName, roster::Roster, telling::Updates};

/// A room, or (without a name) the root list.
pub(super) struct Room {
    pub name: Option<RoomName>,
    /// When it last began to have peers.
    since: Mutex<SystemTime>,
    pub roster: Mutex<Roster>,
    /// Locked before a map shard, and under no other lock.
    pub names: Mutex<Names>,
    pub updates: Updates,
    peers: AtomicUsize,
    pub counts: Arc<ListCounts>,
    shared: Weak<Shared>,
}

impl Room {
    pub fn new(name: Option<RoomName>, shared: &Arc<Shared>) -> Self {
        Self {
            name,
            since: Mutex::new(SystemTime::now()),
            roster: Mutex::new(Roster::new(&shared.buffered)),
            names: Mutex::new(Names::new(&shared.opts, &shared.buffered)),
            updates: Updates::default(),
            peers: AtomicUsize::new(0),
            counts: shared.counts.clone(),
            shared: Arc::downgrade(shared),
        }
    }

    /// The room with this name, which begins if it does not exist.
    pub fn named(name: &RoomName, shared: &Arc<Shared>) -> Arc<Self> {
        let make = || Arc::new(Self::new(Some(name.clone()), shared));
        match shared.rooms.entry(name.clone()) {
            Entry::Occupied(mut known) => known.get().upgrade().unwrap_or_else(|| {
                let room = make();
                known.insert(Arc::downgrade(&room));
                room
            }),
            Entry::Vacant(place) => {
                let room = make();
                place.insert(Arc::downgrade(&room));
                room
            }
        }
    }

    /// It has one more peer.
    pub fn has_come(&self) {
        if self.peers.fetch_add(1, Ordering::Relaxed) == 0 {
            *self.since.lock() = SystemTime::now();
        }
    }

    /// It has one peer less.
    pub fn has_gone(&self) {
        self.peers.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many peers it has, including unlisted ones.
    pub fn peers(&self) -> usize {
        self.peers.load(Ordering::Relaxed)
    }

    /// The room as others see it. None if it is the root list, or has no peer.
    pub fn info(&self) -> Option<RoomInfo> {
        let has_peers = self.peers() > 0;
        Some(RoomInfo {
            name: self.name.clone().filter(|_| has_peers)?,
            peers: self.roster.lock().len(),
            since: *self.since.lock(),
        })
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Room({:?})", self.name)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let (Some(name), Some(shared)) = (&self.name, self.shared.upgrade()) else {
            return;
        };
        // Another room of the same name may have begun.
        shared
            .rooms
            .remove_if(name, |_, room| room.strong_count() == 0);
    }
}
