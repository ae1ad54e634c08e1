//! The list as it is now, and the end of the server.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    task::Waker,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{MemoryEngine, names::Names, peer::Peer, removal::Removal, room::Room};
use crate::peer_list::{
    Buffered, Engine, EventCursor, HeartbeatOpts, Lines, ListCounts, LogEvents, PeerEvents, PeerId,
    PeerInfo, Reason, Refusal, RoomInfo, RoomName, Rooms, ShardState, Tally, Watching,
};

#[async_trait]
impl Watching for MemoryEngine {
    fn opts(&self) -> &HeartbeatOpts {
        &self.shared.opts
    }

    fn len(&self) -> usize {
        self.room.roster.lock().len()
    }

    fn has_space(&self, coming: usize) -> Result<(), Refusal> {
        self.shared.buffered.has_space()?;
        let opts = &self.shared.opts;
        let has_space = |peers: usize, max: usize| peers.saturating_add(coming) < max;
        if !has_space(self.shared.count.load(Ordering::Relaxed), opts.max_peers) {
            return Err(Refusal::Full);
        }
        let max = opts.max_room_peers.filter(|_| self.room.name.is_some());
        if !has_space(self.room.peers(), max.unwrap_or(usize::MAX)) {
            return Err(Refusal::RoomFull);
        }
        Ok(())
    }

    fn counts(&self) -> &ListCounts {
        &self.shared.counts
    }

    async fn tally(&self) -> Result<Tally, Refusal> {
        let mut peers: BTreeMap<&'static str, u64> = BTreeMap::new();
        for peer in self.shared.all_peers() {
            *peers.entry(peer.state.lock().sign_in.door).or_default() += 1;
        }
        let peers = peers.into_iter();
        Ok(Tally {
            peers: peers
                .map(|(door, count)| (door.to_owned(), count))
                .collect(),
            rooms: self.rooms().await?.len() as u64,
        })
    }

    async fn shards(&self) -> Vec<ShardState> {
        Vec::new()
    }

    fn buffered(&self) -> &Arc<Buffered> {
        &self.shared.buffered
    }

    fn peer_ids(&self) -> Vec<PeerId> {
        self.room.roster.lock().ids()
    }

    fn format(&self) -> Lines {
        self.room.roster.lock().list(Instant::now())
    }

    async fn catch_up(&self) -> Result<(), Refusal> {
        Ok(())
    }

    async fn peer_info(&self, id: PeerId) -> Result<Option<PeerInfo>, Refusal> {
        let Ok(peer) = self.peer(id) else {
            return Ok(None);
        };
        let state = peer.state.lock();
        Ok(peer.info(&state).filter(|_| state.removed.is_none()))
    }

    async fn peer_infos(&self) -> Result<Vec<PeerInfo>, Refusal> {
        let mut infos = infos(&self.listed_peers());
        infos.sort_unstable_by_key(|info| info.id);
        Ok(infos)
    }

    async fn subscribe(&self, after: Option<&EventCursor>) -> PeerEvents {
        let after = after.map(|cursor| cursor.in_log(0, 1));
        PeerEvents::of(vec![self.shared.events.subscribe(after)])
    }

    async fn webhook_events(&self) -> Vec<LogEvents> {
        vec![self.shared.events.subscribe(None)]
    }

    async fn webhook_turn(&self, _: usize, _: u64) -> bool {
        true
    }

    async fn webhook_sent(&self, _: usize, _: u64) {}
}

#[async_trait]
impl Engine for MemoryEngine {
    async fn is_reachable(&self) -> bool {
        true
    }

    async fn purge(&self) -> Result<Vec<PeerId>, Refusal> {
        let of_this = |room: &Arc<Room>| Arc::ptr_eq(room, &self.room);
        Ok(self.shared.collect(of_this))
    }

    fn cancel_gc(&self) {
        if let Some(gc) = self.shared.gc.lock().take() {
            gc.abort();
        }
    }

    fn end_waits(&self) {
        self.shared.ending.store(true, Ordering::Release);
        let mut wakers: Vec<Waker> = Vec::new();
        for peer in self.shared.all_peers() {
            wakers.extend(peer.state.lock().waits.take_all());
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    async fn stop(&self) {
        self.cancel_gc();
        let mut peers = self.shared.all_peers();
        // Newest first: a list's text is shortened from that end without being moved.
        peers.sort_unstable_by_key(|peer| std::cmp::Reverse(peer.joined()));
        for peer in &peers {
            // No farewells: the peers that would hear them are removed too.
            *peer.room.names.lock() = Names::new(&self.shared.opts, &self.shared.buffered);
        }
        for peer in peers {
            let list = Self::of(&self.shared, &peer);
            list.take_off_if(&peer, |_| Some(Removal::Asked(Reason::Shutdown)));
        }
    }
}

#[async_trait]
impl Rooms for MemoryEngine {
    fn name(&self) -> Option<&RoomName> {
        self.room.name.as_ref()
    }

    fn room(&self, name: &RoomName) -> Arc<dyn Engine> {
        let shared = self.shared.clone();
        let room = Room::named(name, &shared);
        Arc::new(Self { shared, room })
    }

    async fn rooms(&self) -> Result<Vec<RoomInfo>, Refusal> {
        let rooms = self.shared.rooms.iter().filter_map(|room| room.upgrade());
        // Dropped when the map is not locked any more: a room that ends takes itself off.
        let rooms: Vec<Arc<Room>> = rooms.collect();
        let mut infos: Vec<RoomInfo> = rooms.iter().filter_map(|room| room.info()).collect();
        infos.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(infos)
    }

    async fn infos_of_all_rooms(&self) -> Result<Vec<PeerInfo>, Refusal> {
        let mut infos = infos(&self.shared.all_peers());
        infos.sort_unstable_by(|a, b| (&a.room, a.id).cmp(&(&b.room, b.id)));
        Ok(infos)
    }
}

fn infos(peers: &[Arc<Peer>]) -> Vec<PeerInfo> {
    let infos = peers.iter().filter_map(|peer| {
        let state = peer.state.lock();
        peer.info(&state).filter(|_| state.removed.is_none())
    });
    infos.collect()
}
