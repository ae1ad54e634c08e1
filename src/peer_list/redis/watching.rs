//! The list as it is now, and the end of the server.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{
    future::{join_all, select_ok, try_join_all},
    stream::{self, StreamExt, TryStreamExt},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    PATIENCE, RedisEngine,
    answers::{SentLast, Turn},
    shard::Shard,
    verbs,
};
use crate::peer_list::{
    Buffered, Engine, EventCursor, HeartbeatOpts, Lines, ListCounts, LogEvents, PeerEvents, PeerId,
    PeerInfo, Refusal, RoomInfo, RoomName, Rooms, ShardState, Tally, Watching,
};

/// How long a node that stops reports what its peers have heard.
const HEARD_PATIENCE: Duration = Duration::from_millis(150);

/// How long a node that stops tries to tell Redis.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// How often a node asks whether another node has sent an event to the webhook.
const TURN_PAUSE: Duration = Duration::from_secs(1);

/// The lists of at most this many rooms are asked for at a time.
const ROOMS_AT_ONCE: usize = 16;

#[async_trait]
impl Watching for RedisEngine {
    fn opts(&self) -> &HeartbeatOpts {
        &self.list.node.opts
    }

    fn len(&self) -> usize {
        self.list.cached.lock().roster.len()
    }

    fn has_space(&self, coming: usize) -> Result<(), Refusal> {
        self.buffered().has_space()?;
        // By what each shard last told. The script knows better, and refuses what is too much.
        let opts = self.opts();
        let told = self
            .all_shards()
            .iter()
            .map(|shard| shard.peers.load(Ordering::Relaxed));
        let told = usize::try_from(told.sum::<u64>()).unwrap_or(usize::MAX);
        if self.len().max(told).saturating_add(coming) >= opts.max_peers {
            return Err(Refusal::Full);
        }
        let max = opts.max_room_peers.filter(|_| self.list.room.is_some());
        if max.is_some_and(|max| self.len().saturating_add(coming) >= max) {
            return Err(Refusal::RoomFull);
        }
        Ok(())
    }

    fn counts(&self) -> &ListCounts {
        &self.list.node.counts
    }

    async fn tally(&self) -> Result<Tally, Refusal> {
        let asked = self.all_shards().iter().map(|shard| shard.tally());
        let mut all = Tally::default();
        for of_shard in try_join_all(asked).await? {
            all.rooms += of_shard.rooms;
            for (door, count) in of_shard.peers {
                match all.peers.iter_mut().find(|(known, _)| *known == door) {
                    Some((_, total)) => *total += count,
                    None => all.peers.push((door, count)),
                }
            }
        }
        all.peers.sort();
        Ok(all)
    }

    async fn shards(&self) -> Vec<ShardState> {
        join_all(self.all_shards().iter().map(|shard| shard.state())).await
    }

    fn buffered(&self) -> &Arc<Buffered> {
        &self.list.node.buffered
    }

    fn peer_ids(&self) -> Vec<PeerId> {
        self.list.cached.lock().roster.ids()
    }

    fn format(&self) -> Lines {
        self.list.cached.lock().roster.list(Instant::now())
    }

    async fn catch_up(&self) -> Result<(), Refusal> {
        self.list.sync_now(Some(PATIENCE)).await
    }

    async fn peer_info(&self, id: PeerId) -> Result<Option<PeerInfo>, Refusal> {
        self.list.run(verbs::peer_info(id), Some(PATIENCE)).await
    }

    async fn peer_infos(&self) -> Result<Vec<PeerInfo>, Refusal> {
        self.list.shard.infos_in(self.list.words()).await
    }

    async fn subscribe(&self, after: Option<&EventCursor>) -> PeerEvents {
        let shards = self.all_shards();
        let logs = shards.iter().enumerate().map(|(log, shard)| {
            shard.subscribe(after.map(|cursor| cursor.in_log(log, shards.len())))
        });
        PeerEvents::of(join_all(logs).await)
    }

    async fn webhook_events(&self) -> Vec<LogEvents> {
        let asked = self.all_shards().iter().map(|shard| async {
            let asked = shard.link.run(verbs::webhook_sent_last(), Some(PATIENCE));
            let last = asked.await.ok().and_then(|SentLast(number)| number);
            shard.subscribe(last).await
        });
        join_all(asked).await
    }

    async fn webhook_turn(&self, log: usize, number: u64) -> bool {
        let Some(shard) = self.all_shards().get(log) else {
            return false;
        };
        loop {
            match shard.link.run(verbs::webhook(number), Some(PATIENCE)).await {
                Ok(Turn::Mine) => return true,
                Ok(Turn::Sent) => return false,
                Ok(Turn::Others) | Err(_) => sleep(TURN_PAUSE).await,
            }
        }
    }

    async fn webhook_sent(&self, log: usize, number: u64) {
        if let Some(shard) = self.all_shards().get(log) {
            let sent = verbs::webhook_sent(number);
            let _ = shard.link.run(sent, Some(PATIENCE)).await;
        }
    }
}

#[async_trait]
impl Engine for RedisEngine {
    async fn is_reachable(&self) -> bool {
        // A shard that is away must not take its nodes out of the load balancer: they serve
        // the rooms of the others.
        let asked = self.all_shards().iter().map(|shard| shard.ready());
        select_ok(asked.map(Box::pin)).await.is_ok()
    }

    async fn purge(&self) -> Result<Vec<PeerId>, Refusal> {
        let mut all = Vec::new();
        let mut skip = 0;
        loop {
            let collect = verbs::collect(true, skip);
            let some = self.list.run(collect, Some(PATIENCE)).await?;
            for peer in some.removed.iter().filter(|peer| peer.was_listed()) {
                peer.note(&self.list.node.counts);
                all.push(peer.id());
            }
            if !some.has_more {
                return Ok(all);
            }
            skip = some.skip;
        }
    }

    fn cancel_gc(&self) {
        self.lists.tasks.stop_collectors();
    }

    fn end_waits(&self) {
        self.lists.end_waits();
    }

    async fn stop(&self) {
        self.lists.tasks.stop();
        let lists = self.lists.used_lists();
        // Otherwise the shards would give other waits what peers have just heard here.
        let heard = join_all(lists.iter().map(|list| list.deliveries.over()));
        let _ = timeout(HEARD_PATIENCE, heard).await;
        drop(lists);
        self.lists.drop_kept();
        join_all(self.all_shards().iter().map(|shard| shard.stop())).await;
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
        let asked = self.all_shards().iter().map(|shard| shard.rooms());
        let mut all = try_join_all(asked).await?.concat();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        // A room may be named twice while rooms come and go.
        all.dedup_by(|a, b| a.name == b.name);
        Ok(all)
    }

    async fn infos_of_all_rooms(&self) -> Result<Vec<PeerInfo>, Refusal> {
        let node = &self.list.node;
        let root = node.shard_of(None).infos_in("").await?;
        let rooms = stream::iter(self.rooms().await?)
            .map(|room| async move {
                // No copy of its list is made for this.
                let words = format!("{} 0", room.name);
                node.shard_of(Some(&room.name)).infos_in(&words).await
            })
            .buffered(ROOMS_AT_ONCE);
        let rooms: Vec<_> = rooms.try_collect().await?;
        Ok([vec![root], rooms].concat().concat())
    }
}

impl RedisEngine {
    fn all_shards(&self) -> &[Arc<Shard>] {
        &self.list.node.shards
    }
}

impl Shard {
    /// This node stops.
    async fn stop(&self) {
        let stopping = async {
            loop {
                let some = self.link.run(verbs::stop(), None).await?;
                let counts = &self.counts;
                some.removed.iter().for_each(|removed| removed.note(counts));
                if !some.has_more {
                    return Ok::<(), Refusal>(());
                }
            }
        };
        let _ = timeout(STOP_PATIENCE, stopping).await;
        // Subscribers of this node are told of the removals.
        let _ = timeout(STOP_PATIENCE, self.stop_events()).await;
    }
}
