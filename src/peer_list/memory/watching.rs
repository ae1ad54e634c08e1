//! The list as it is now, and the end of the server.

use std::{sync::atomic::Ordering, task::Waker};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{MemoryEngine, names::Names, removal::Removal};
use crate::peer_list::{
    Engine, HeartbeatOpts, Lines, PeerEvents, PeerId, PeerInfo, Reason, Refusal, Watching,
};

#[async_trait]
impl Watching for MemoryEngine {
    fn opts(&self) -> &HeartbeatOpts {
        &self.0.opts
    }

    fn len(&self) -> usize {
        self.0.roster.lock().len()
    }

    fn peer_ids(&self) -> Vec<PeerId> {
        self.0.roster.lock().ids()
    }

    fn format(&self) -> Lines {
        self.0.roster.lock().list(Instant::now())
    }

    async fn peer_info(&self, id: PeerId) -> Result<Option<PeerInfo>, Refusal> {
        let Ok(peer) = self.peer(id) else {
            return Ok(None);
        };
        let state = peer.state.lock();
        Ok(peer.info(&state).filter(|_| state.removed.is_none()))
    }

    async fn peer_infos(&self) -> Result<Vec<PeerInfo>, Refusal> {
        let peers = self.all_peers().into_iter();
        let infos = peers.filter_map(|peer| {
            let state = peer.state.lock();
            peer.info(&state).filter(|_| state.removed.is_none())
        });
        let mut infos: Vec<PeerInfo> = infos.collect();
        infos.sort_unstable_by_key(|info| info.id);
        Ok(infos)
    }

    fn subscribe(&self, after: Option<u64>) -> PeerEvents {
        self.0.events.subscribe(after)
    }

    async fn webhook_events(&self) -> PeerEvents {
        self.subscribe(None)
    }

    async fn webhook_turn(&self, _: u64) -> bool {
        true
    }

    async fn webhook_sent(&self, _: u64) {}
}

#[async_trait]
impl Engine for MemoryEngine {
    async fn is_reachable(&self) -> bool {
        true
    }

    async fn purge(&self) -> Result<Vec<PeerId>, Refusal> {
        Ok(self.collect())
    }

    fn cancel_gc(&self) {
        if let Some(gc) = self.0.gc.lock().take() {
            gc.abort();
        }
    }

    fn end_waits(&self) {
        self.0.ending.store(true, Ordering::Release);
        let mut wakers: Vec<Waker> = Vec::new();
        for peer in self.all_peers() {
            wakers.extend(peer.state.lock().waits.take_all());
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    async fn stop(&self) {
        self.cancel_gc();
        // No farewells: the peers that would hear them are removed too.
        *self.0.names.lock() = Names::new(self.0.opts.max_pending_bytes);
        let mut peers = self.all_peers();
        // Newest first: the list's text is shortened from that end without being moved.
        peers.sort_unstable_by_key(|peer| std::cmp::Reverse(peer.joined()));
        for peer in peers {
            self.take_off_if(&peer, |_| Some(Removal::Asked(Reason::Shutdown)));
        }
    }
}
