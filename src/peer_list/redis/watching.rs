//! The list as it is now, and the end of the server.

use std::{slice, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};

use super::{
    PATIENCE, READY_PATIENCE, RedisEngine,
    answers::{ListedIds, Removed, SentLast, SomeRooms, Turn},
    node::Node,
    verbs,
};
use crate::peer_list::{
    Engine, EventCursor, HeartbeatOpts, Lines, LogEvents, PeerEvents, PeerId, PeerInfo, Refusal,
    RoomInfo, RoomName, Rooms, Watching,
};

/// How long a node that stops tries to tell Redis.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// How often a node asks whether another node has sent an event to the webhook.
const TURN_PAUSE: Duration = Duration::from_secs(1);

/// At most this many peers are asked about at once: other calls wait meanwhile.
const INFOS_AT_ONCE: usize = 200;

#[async_trait]
impl Watching for RedisEngine {
    fn opts(&self) -> &HeartbeatOpts {
        &self.list.node.opts
    }

    fn len(&self) -> usize {
        self.list.cached.lock().roster.len()
    }

    fn has_space(&self, coming: usize) -> Result<(), Refusal> {
        // The script knows those in rooms that are not used here, too, and refuses what is
        // too much.
        let opts = self.opts();
        let lists = self.lists.used_lists().into_iter();
        let known: usize = lists.map(|list| list.cached.lock().roster.len()).sum();
        if known.saturating_add(coming) >= opts.max_peers {
            return Err(Refusal::Full);
        }
        let max = opts.max_room_peers.filter(|_| self.list.room.is_some());
        if max.is_some_and(|max| self.len().saturating_add(coming) >= max) {
            return Err(Refusal::RoomFull);
        }
        Ok(())
    }

    fn peer_ids(&self) -> Vec<PeerId> {
        self.list.cached.lock().roster.ids()
    }

    fn format(&self) -> Lines {
        self.list.cached.lock().roster.list(Instant::now())
    }

    async fn peer_info(&self, id: PeerId) -> Result<Option<PeerInfo>, Refusal> {
        self.list.run(verbs::peer_info(id), Some(PATIENCE)).await
    }

    async fn peer_infos(&self) -> Result<Vec<PeerInfo>, Refusal> {
        self.list.node.infos_in(self.list.words()).await
    }

    fn subscribe(&self, after: Option<&EventCursor>) -> PeerEvents {
        PeerEvents::of(slice::from_ref(&self.list.node.events), after)
    }

    async fn webhook_events(&self) -> Vec<LogEvents> {
        let asked = self.list.run(verbs::webhook_sent_last(), Some(PATIENCE));
        let last = asked.await.ok().and_then(|SentLast(number)| number);
        vec![self.list.node.events.subscribe(last)]
    }

    async fn webhook_turn(&self, _: usize, number: u64) -> bool {
        loop {
            match self.list.run(verbs::webhook(number), Some(PATIENCE)).await {
                Ok(Turn::Mine) => return true,
                Ok(Turn::Sent) => return false,
                Ok(Turn::Others) | Err(_) => sleep(TURN_PAUSE).await,
            }
        }
    }

    async fn webhook_sent(&self, _: usize, number: u64) {
        let _ = self
            .list
            .run(verbs::webhook_sent(number), Some(PATIENCE))
            .await;
    }
}

#[async_trait]
impl Engine for RedisEngine {
    async fn is_reachable(&self) -> bool {
        let asked = self.list.run(verbs::ready(), Some(READY_PATIENCE));
        asked.await.is_ok()
    }

    async fn purge(&self) -> Result<Vec<PeerId>, Refusal> {
        let mut all = Vec::new();
        let mut skip = 0;
        loop {
            let collect = verbs::collect(true, skip);
            let some = self.list.run(collect, Some(PATIENCE)).await?;
            for peer in some.removed.iter().filter(|peer| peer.was_listed()) {
                peer.log();
                all.push(peer.id());
            }
            if !some.has_more {
                return Ok(all);
            }
            skip = some.skip;
        }
    }

    fn cancel_gc(&self) {
        self.lists.tasks.stop_collector();
    }

    fn end_waits(&self) {
        self.lists.end_waits();
    }

    async fn stop(&self) {
        self.lists.tasks.stop();
        self.lists.drop_kept();
        let stopping = async {
            loop {
                let some = self.list.run(verbs::stop(), None).await?;
                some.removed.iter().for_each(Removed::log);
                if !some.has_more {
                    return Ok::<(), Refusal>(());
                }
            }
        };
        let _ = timeout(STOP_PATIENCE, stopping).await;
        // Subscribers of this node are told of the removals.
        let _ = timeout(STOP_PATIENCE, self.list.node.sync_events(false, None)).await;
    }
}

#[async_trait]
impl Rooms for RedisEngine {
    fn name(&self) -> Option<&RoomName> {
        self.list.room.as_ref()
    }

    fn room(&self, name: &RoomName) -> Arc<dyn Engine> {
        let lists = self.lists.clone();
        let list = lists.room(name);
        Arc::new(Self { lists, list })
    }

    async fn rooms(&self) -> Result<Vec<RoomInfo>, Refusal> {
        let mut all = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let asked = self.list.run(verbs::rooms(&cursor), Some(PATIENCE));
            let SomeRooms {
                cursor: next,
                rooms,
            } = asked.await?;
            all.extend(rooms);
            cursor = next;
            if cursor == "0" {
                break;
            }
        }
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        // A room may be named twice while rooms come and go.
        all.dedup_by(|a, b| a.name == b.name);
        Ok(all)
    }

    async fn infos_of_all_rooms(&self) -> Result<Vec<PeerInfo>, Refusal> {
        let mut all = self.list.node.infos_in("").await?;
        for room in self.rooms().await? {
            // No copy of its list is made for this.
            let words = format!("{} 0", room.name);
            all.extend(self.list.node.infos_in(&words).await?);
        }
        Ok(all)
    }
}

impl Node {
    /// The peers in the list of a room, as the script names it, by rising id.
    async fn infos_in(&self, room: &str) -> Result<Vec<PeerInfo>, Refusal> {
        let listed = self.link.run_in(room, verbs::listed(), Some(PATIENCE));
        let ListedIds(ids) = listed.await?;
        let mut infos = Vec::new();
        for ids in ids.chunks(INFOS_AT_ONCE) {
            let asked = self
                .link
                .run_in(room, verbs::peer_infos(ids), Some(PATIENCE));
            infos.extend(asked.await?);
        }
        infos.sort_unstable_by_key(|info| info.id);
        Ok(infos)
    }
}
