//! The list as it is now, and the end of the server.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};

use super::{PATIENCE, READY_PATIENCE, RedisEngine, events::read_info, log_removed, split, verbs};
use crate::peer_list::{
    Engine, HeartbeatOpts, Lines, PeerEvents, PeerId, PeerInfo, Refusal, Watching,
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
        &self.0.opts
    }

    fn len(&self) -> usize {
        self.0.cached.lock().roster.len()
    }

    fn peer_ids(&self) -> Vec<PeerId> {
        self.0.cached.lock().roster.ids()
    }

    fn format(&self) -> Lines {
        self.0.cached.lock().roster.list(Instant::now())
    }

    async fn peer_info(&self, id: PeerId) -> Result<Option<PeerInfo>, Refusal> {
        let mut row = self
            .0
            .link
            .run(verbs::peer_info(id), Some(PATIENCE))
            .await?;
        Ok(row.text().and_then(|line| read_info(&line)))
    }

    async fn peer_infos(&self) -> Result<Vec<PeerInfo>, Refusal> {
        let ids = self.0.link.run(verbs::listed(), Some(PATIENCE)).await?;
        let mut infos: Vec<PeerInfo> = Vec::new();
        for ids in ids.texts().chunks(INFOS_AT_ONCE) {
            let row = self
                .0
                .link
                .run(verbs::peer_infos(ids), Some(PATIENCE))
                .await?;
            let lines = row.texts();
            infos.extend(lines.iter().filter_map(|line| read_info(line)));
        }
        infos.sort_unstable_by_key(|info| info.id);
        Ok(infos)
    }

    fn subscribe(&self, after: Option<u64>) -> PeerEvents {
        self.0.events.subscribe(after)
    }

    async fn webhook_events(&self) -> PeerEvents {
        let row = self.0.link.run(verbs::webhook_sent_last(), Some(PATIENCE));
        let last = row.await.ok().and_then(|mut row| row.number());
        self.0.events.subscribe(last)
    }

    async fn webhook_turn(&self, number: u64) -> bool {
        loop {
            let row = self.0.link.run(verbs::webhook(number), Some(PATIENCE));
            match split(row.await) {
                Ok((kind, _)) if kind == "mine" => return true,
                Ok((kind, _)) if kind == "sent" => return false,
                _ => sleep(TURN_PAUSE).await,
            }
        }
    }

    async fn webhook_sent(&self, number: u64) {
        let _ = self
            .0
            .link
            .run(verbs::webhook_sent(number), Some(PATIENCE))
            .await;
    }
}

#[async_trait]
impl Engine for RedisEngine {
    async fn is_reachable(&self) -> bool {
        let asked = self.0.link.run(verbs::ready(), Some(READY_PATIENCE));
        asked.await.is_ok()
    }

    async fn purge(&self) -> Result<Vec<PeerId>, Refusal> {
        let mut all = Vec::new();
        loop {
            let mut row = self.0.link.run(verbs::collect(), Some(PATIENCE)).await?;
            let removed = log_removed(row.row()).into_iter();
            all.extend(removed.filter_map(|(id, is_listed)| is_listed.then_some(id)));
            if row.kind() != "1" {
                return Ok(all);
            }
        }
    }

    fn cancel_gc(&self) {
        self.0.tasks.stop_collector();
    }

    fn end_waits(&self) {
        self.0.end_waits();
    }

    async fn stop(&self) {
        self.0.tasks.stop();
        let stopping = async {
            loop {
                let mut row = self.0.link.run(verbs::stop(), None).await?;
                log_removed(row.row());
                if row.kind() != "1" {
                    return Ok::<(), Refusal>(());
                }
            }
        };
        let _ = timeout(STOP_PATIENCE, stopping).await;
        // Subscribers of this node are told of the removals.
        let _ = timeout(STOP_PATIENCE, self.0.sync_events(false, None)).await;
    }
}
