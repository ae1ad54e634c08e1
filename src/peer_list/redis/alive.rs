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
    answers::{Libraries, Life, Removed},
    link::{ProcessLink, WATCH_PERIOD},
    lists::Lists,
    verbs,
};
use crate::peer_list::{Refusal, rules::sign_period};

/// How often a node says which library it uses.
const USE_PERIOD: Duration = Duration::from_secs(60);

/// The time in an answer that took longer than this is too inexact: the script assumes
/// that the clocks of nodes differ by less.
const CLOCK_PATIENCE: Duration = Duration::from_millis(100);

impl ProcessLink {
    /// Says which library this node uses, and deletes the libraries that no node has used
    /// for long.
    async fn use_library(&self) {
        let asked = self.run(verbs::uses_library(), Some(PATIENCE));
        let Ok(Libraries { differ, old }) = asked.await else {
            return;
        };
        let differed = self.health.differ.swap(differ, Ordering::Relaxed);
        if differ && !differed {
            warn!(
                "other nodes use this list with another version or other settings: give all nodes \
                 the same settings"
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
    /// Tells the others that this node lives, and removes the nodes that do not.
    pub async fn live(self: &Arc<Self>) -> Result<(), Refusal> {
        let asked = Instant::now();
        let root = self.used_list(None);
        let highest = root.map_or(0, |root| root.highest_id());
        let highest_in_rooms = self.node.highest_room_id.load(Ordering::Relaxed);
        let live = verbs::live(highest, highest_in_rooms);
        let Life {
            is_new,
            now,
            created,
        } = self.node.link.run(live, Some(PATIENCE)).await?;
        let took = asked.elapsed();
        if let Some(now) = now
            && (took < CLOCK_PATIENCE || !self.node.link.knows_clock())
        {
            // The time was read on the way between.
            let since = u64::try_from(took.as_millis() / 2).unwrap_or(0);
            self.node.link.set_clock(now + since);
        }
        if let Some(created) = created {
            self.lists_created(created);
        }
        if is_new {
            // The others took this node for dead: it has to say again what is open here.
            // And nothing was pushed of the rooms whose lists it has copies of.
            for list in self.used_lists() {
                list.recheck();
                list.changed();
            }
        }
        loop {
            let some = self.node.link.run(verbs::bury(), Some(PATIENCE)).await?;
            some.removed.iter().for_each(Removed::log);
            if !some.has_more {
                return Ok(());
            }
        }
    }

    /// Removes stale peers of all lists.
    async fn collect(&self) -> Result<(), Refusal> {
        let mut skip = 0;
        loop {
            let collect = verbs::collect(false, skip);
            let some = self.node.link.run(collect, Some(PATIENCE)).await?;
            some.removed.iter().for_each(Removed::log);
            if !some.has_more {
                return Ok(());
            }
            skip = some.skip;
        }
    }

    /// Starts what a process does beside the requests of its peers.
    pub fn start_tasks(self: &Arc<Self>) {
        let lists = Arc::downgrade(self);
        let link = Arc::downgrade(&self.node.link);
        let watching = every(WATCH_PERIOD, link.clone(), async |link| link.watch().await);
        let using = every(USE_PERIOD, link, async |link| link.use_library().await);
        let living = every(sign_period(&self.node.opts), lists.clone(), async |lists| {
            let _ = lists.live().await;
            lists.drop_unused();
        });
        let period = self.node.opts.gc_interval;
        let collecting = async move {
            sleep(period).await;
            every(period, lists, async |lists| {
                let _ = lists.collect().await;
            })
            .await;
        };
        let tasks = &self.tasks;
        *tasks.collector.lock() = Some(tokio::spawn(collecting).abort_handle());
        tasks.running.lock().extend([
            tokio::spawn(watching).abort_handle(),
            tokio::spawn(using).abort_handle(),
            tokio::spawn(living).abort_handle(),
        ]);
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
