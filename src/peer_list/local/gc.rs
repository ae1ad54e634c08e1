//! The collector: removes stale peers at an interval.

use std::sync::Weak;

use tokio::{
    task::AbortHandle,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{LocalList, Removal, Shared};
use crate::peer_list::PeerId;

/// Starts the collector of a list. It ends when the list is dropped or the
/// handle is aborted.
pub(super) fn start(list: &LocalList) -> AbortHandle {
    let period = list.0.opts.gc_interval;
    let list = std::sync::Arc::downgrade(&list.0);
    tokio::spawn(async move {
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(list) = Weak::<Shared>::upgrade(&list) else {
                return;
            };
            LocalList(list).collect();
        }
    })
    .abort_handle()
}

impl LocalList {
    /// Removes all stale peers and tells the others once. Returns who is
    /// removed.
    pub(super) fn collect(&self) -> Vec<PeerId> {
        let now = Instant::now();
        let mut removed = Vec::new();
        for peer in self.peers_where(|_| true) {
            let is_stale = self.take_off_if(&peer, |state| {
                if let Some(reason) = state.removed {
                    return Some(Removal::Asked(reason));
                }
                let stale = state.presence.stale(&self.0.opts, now);
                let stale = stale.or_else(|| self.fell_behind(state));
                stale.map(Removal::Stale)
            });
            if is_stale && peer.listed().is_some() {
                removed.push(peer.id);
            }
        }
        if !removed.is_empty() {
            self.changed();
        }
        removed
    }
}
