//! When waiting peers are told that the list has changed.

use std::sync::atomic::Ordering;

use tokio::time::{Instant, sleep_until};

use super::MemoryEngine;
use crate::peer_list::telling::{Schedule, Telling};

impl MemoryEngine {
    /// Called after each change of the list: tells the peers that wait, now or when the
    /// window is over.
    pub(super) fn changed(&self) {
        self.tell(Schedule::changed);
    }

    fn tell(&self, when: fn(&mut Schedule, usize, Instant) -> Telling) {
        let telling = {
            let roster = self.room.roster.lock();
            let peers = roster.len();
            let telling = when(
                &mut self.room.updates.schedule.lock(),
                peers,
                Instant::now(),
            );
            if telling == Telling::Now {
                self.room
                    .updates
                    .told
                    .store(roster.current(), Ordering::Release);
            }
            telling
        };
        match telling {
            Telling::Now => self.wake_behind(),
            Telling::Scheduled => {}
            Telling::At(end) => {
                let list = self.downgrade();
                tokio::spawn(async move {
                    sleep_until(end).await;
                    if let Some(list) = list.upgrade() {
                        list.tell(|schedule, _, now| schedule.scheduled(now));
                    }
                });
            }
        }
    }

    /// The version of the list that a peer should have heard when it waits.
    pub(super) fn told(&self) -> u64 {
        self.room.updates.told.load(Ordering::Acquire)
    }

    /// Wakes each suspended wait whose peer has not heard the told version.
    fn wake_behind(&self) {
        let told = self.told();
        for peer in self.listed_peers() {
            let waker = {
                let mut state = peer.state.lock();
                if state.heard < told {
                    state.waits.waker.take()
                } else {
                    None
                }
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}
