//! What a process does beside the requests of its peers: for its link to Redis, and for
//! the list.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::warn;

use super::{
    PATIENCE,
    answers::{Libraries, Life},
    connection::WATCH_PERIOD,
    link::ShardLink,
    lists::Lists,
    shard::Shard,
    verbs,
};
use crate::peer_list::{Refusal, rules::sign_period};

/// How often a node says which library it uses.
const USE_PERIOD: Duration = Duration::from_secs(60);

/// The time in an answer that took longer than this is too inexact: the script assumes
/// that the clocks of nodes differ by less.
const CLOCK_PATIENCE: Duration = Duration::from_millis(100);

impl ShardLink {
    /// Says which library this node uses, and deletes the libraries that no node has used
    /// for long.
    async fn use_library(&self) {
        let asked = self.run(verbs::uses_library(), Some(PATIENCE));
        let Ok(Libraries { differ, old }) = asked.await else {
            return;
        };
        let differed = self.health.differ.swap(differ, Ordering::Relaxed);
        // All nodes use all shards, and one warning is enough.
        if differ && !differed && self.number.unwrap_or(0) == 0 {
            warn!(
                "other nodes have another version, or another value of WEBRTC_HEARTBEAT_MS, \
                 WEBRTC_HEARTBEAT_ANY_REQUEST, WEBRTC_MAX_PEERS, WEBRTC_MAX_PEERS_PER_IP, WEBRTC_MAX_ROOM_PEERS or \
                 WEBRTC_MAX_PENDING_BYTES: give all nodes the same"
            );
        }
        for old in old {
            let mut delete = ::redis::cmd("FUNCTION");
            delete.arg("DELETE").arg(&old);
            // Another node may have deleted it already.
            let mut connection = self.commands.wire().connection.clone();
            let _ = delete.exec_async(&mut connection).await;
        }
    }
}

impl Lists {
    /// The node comes to a shard: its first questions.
    pub async fn begin(self: &Arc<Self>, shard: &Arc<Shard>) -> Result<(), Refusal> {
        self.live(shard).await?;
        for list in self.used_lists_of(shard) {
            list.sync(Some(PATIENCE)).await?;
        }
        Ok(())
    }

    /// Tells the other nodes of a shard that this one lives, and removes those that do not.
    async fn live(self: &Arc<Self>, shard: &Arc<Shard>) -> Result<(), Refusal> {
        let asked = Instant::now();
        let root = self
            .used_list(None)
            .filter(|root| Arc::ptr_eq(&root.shard, shard));
        let highest = root.map_or(0, |root| root.highest_id());
        let highest_in_rooms = shard.highest_room_id.load(Ordering::Relaxed);
        let live = verbs::live(highest, highest_in_rooms, self.node.peers_beside(shard));
        let Life {
            is_new,
            now,
            created,
            peers,
        } = shard.link.run(live, Some(PATIENCE)).await?;
        let took = asked.elapsed();
        if let Some(now) = now
            && (took < CLOCK_PATIENCE || !shard.link.knows_clock())
        {
            // The time was read on the way between.
            let since = u64::try_from(took.as_millis() / 2).unwrap_or(0);
            shard.link.set_clock(now + since);
        }
        shard.peers.store(peers.unwrap_or(0), Ordering::Relaxed);
        if let Some(created) = created {
            self.lists_created(shard, created);
        }
        if is_new {
            // The others took this node for dead: it has to say again what is open here.
            // And nothing was pushed of the rooms whose lists it has copies of.
            for list in self.used_lists_of(shard) {
                list.recheck();
                list.changed();
            }
            shard.sync_events(Some(PATIENCE)).await?;
        }
        loop {
            let some = shard.link.run(verbs::bury(), Some(PATIENCE)).await?;
            let counts = &shard.counts;
            some.removed.iter().for_each(|removed| removed.note(counts));
            if !some.has_more {
                return Ok(());
            }
        }
    }

    /// Starts what a process does beside the requests of its peers.
    pub fn start_tasks(self: &Arc<Self>) {
        for shard in &self.node.shards {
            self.start_tasks_of(shard);
        }
        let dropping = every(
            sign_period(&self.node.opts),
            Arc::downgrade(self),
            async |lists| {
                lists.drop_unused();
            },
        );
        let dropping = tokio::spawn(dropping).abort_handle();
        self.tasks.running.lock().push(dropping);
    }

    /// Each shard has tasks of its own, so that none is late because another does not answer.
    fn start_tasks_of(self: &Arc<Self>, shard: &Arc<Shard>) {
        let lists = Arc::downgrade(self);
        let link = Arc::downgrade(&shard.link);
        let watching = every(WATCH_PERIOD, link.clone(), async |link| link.watch().await);
        let using = every(USE_PERIOD, link, async |link| link.use_library().await);
        let living = {
            let shard = shard.clone();
            every(sign_period(&self.node.opts), lists, async move |lists| {
                let _ = lists.live(&shard).await;
                let _ = shard.listen_if_needed().await;
            })
        };
        let period = self.node.opts.gc_interval;
        let collecting = {
            let shard = Arc::downgrade(shard);
            async move {
                sleep(period).await;
                every(period, shard, async |shard| {
                    let _ = shard.collect().await;
                })
                .await;
            }
        };
        let tasks = &self.tasks;
        let collector = tokio::spawn(collecting).abort_handle();
        tasks.collectors.lock().push(collector);
        tasks.running.lock().extend([
            tokio::spawn(watching).abort_handle(),
            tokio::spawn(using).abort_handle(),
            tokio::spawn(living).abort_handle(),
        ]);
    }
}

impl Shard {
    /// Removes stale peers of all lists.
    async fn collect(&self) -> Result<(), Refusal> {
        let mut skip = 0;
        loop {
            let collect = verbs::collect(false, skip);
            let some = self.link.run(collect, Some(PATIENCE)).await?;
            let counts = &self.counts;
            some.removed.iter().for_each(|removed| removed.note(counts));
            if !some.has_more {
                return Ok(());
            }
            skip = some.skip;
        }
    }
}

/// Does something now and then at intervals, for as long as what it is done for is used.
async fn every<T>(period: Duration, used: Weak<T>, work: impl AsyncFn(Arc<T>)) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(used) = used.upgrade() else { return };
        work(used).await;
    }
}
