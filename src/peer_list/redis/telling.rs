//! When the waits and sockets here are told that the list has changed.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::{Instant, sleep_until};

use super::{list::List, retry};
use crate::peer_list::telling::{Schedule, Telling};

impl List {
    /// The version of the list that a peer should have heard when it waits.
    pub fn told(&self) -> u64 {
        self.updates.told.load(Ordering::Acquire)
    }

    pub fn changed(self: &Arc<Self>) {
        self.tell(Schedule::changed);
    }

    fn tell(self: &Arc<Self>, when: fn(&mut Schedule, usize, Instant) -> Telling) {
        let peers = self.cached.lock().roster.len();
        let telling = when(&mut self.updates.schedule.lock(), peers, Instant::now());
        let list = Arc::downgrade(self);
        match telling {
            Telling::Scheduled => {}
            Telling::Now => {
                tokio::spawn(async move {
                    if let Some(list) = list.upgrade() {
                        list.tell_now().await;
                    }
                });
            }
            Telling::At(end) => {
                tokio::spawn(async move {
                    sleep_until(end).await;
                    if let Some(list) = list.upgrade() {
                        list.tell(|schedule, _, now| schedule.scheduled(now));
                    }
                });
            }
        }
    }

    async fn tell_now(self: &Arc<Self>) {
        // Redis may be away for long, and no other task tells of this change.
        retry::until_answered(|| self.sync(None)).await;
        let current = self.cached.lock().roster.current();
        self.updates.told.fetch_max(current, Ordering::AcqRel);
        for here in self.all_open() {
            if here.is_behind(current) {
                here.news.notify_one();
            }
        }
    }
}
