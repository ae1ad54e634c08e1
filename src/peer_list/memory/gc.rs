//! The collector: removes stale peers at an interval.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    task::AbortHandle,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

use super::{
    MemoryEngine, Shared,
    removal::{Removal, TakenOff},
    room::Room,
};
use crate::peer_list::{HeartbeatOpts, PeerId, rules::sign_period};

/// Whether this process runs, and has run for long enough.
///
/// While the process stood still (a suspended machine, SIGSTOP) no peer could show that
/// it is alive: that time does not count. The list in Redis has the same rule.
pub(super) struct Awake {
    period: Duration,
    timeout: Duration,
    /// When it last looked, which it does once a period.
    looked: Instant,
    /// Until this moment no peer is collected.
    grace: Option<Instant>,
}

impl Awake {
    pub fn new(opts: &HeartbeatOpts, now: Instant) -> Self {
        Self {
            period: sign_period(opts),
            timeout: opts.timeout_period,
            looked: now,
            grace: None,
        }
    }

    /// Looks at the clock. Returns whether peers may be collected.
    fn look(&mut self, now: Instant) -> bool {
        // A look may be late on a busy machine, but not by a whole period.
        if now.saturating_duration_since(self.looked) > 2 * self.period {
            self.grace = Some(now + self.timeout);
        }
        self.looked = now;
        self.grace.is_none_or(|grace| now >= grace)
    }
}

/// Starts the collector of a list. It ends when the list is dropped or the handle is
/// aborted.
pub(super) fn start(shared: &Arc<Shared>) -> AbortHandle {
    let mut looks = every(sign_period(&shared.opts));
    let mut collections = every(shared.opts.gc_interval);
    let shared = Arc::downgrade(shared);
    tokio::spawn(async move {
        loop {
            let collects = tokio::select! {
                biased;
                _ = looks.tick() => false,
                _ = collections.tick() => true,
            };
            let Some(shared) = Weak::<Shared>::upgrade(&shared) else {
                return;
            };
            if collects {
                shared.collect(|_| true);
            } else {
                shared.awake.lock().look(Instant::now());
            }
        }
    })
    .abort_handle()
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval_at(Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl Shared {
    /// Removes all stale peers of these rooms and tells the others of each room once.
    /// Returns the removed peers.
    pub(super) fn collect(self: &Arc<Self>, rooms: impl Fn(&Arc<Room>) -> bool) -> Vec<PeerId> {
        let now = Instant::now();
        // Without a collector nothing looks at the clock, and a standstill stays unknown.
        let is_watched = self.gc.lock().is_some();
        if is_watched && !self.awake.lock().look(now) {
            return Vec::new();
        }
        let mut removed = Vec::new();
        let mut changed: HashMap<*const Room, MemoryEngine> = HashMap::new();
        for peer in self.all_peers() {
            if !rooms(&peer.room) {
                continue;
            }
            let list = MemoryEngine::of(self, &peer);
            let taken_off = list.take_off_if(&peer, |state| {
                if let Some(reason) = state.removed {
                    return Some(Removal::Asked(reason));
                }
                let stale = state.presence.stale(&self.opts, now);
                let stale = stale.or_else(|| list.fell_behind(state));
                stale.map(Removal::Stale)
            });
            if taken_off == TakenOff::Listed {
                removed.push(peer.id);
                changed.insert(Arc::as_ptr(&peer.room), list);
            }
        }
        changed.values().for_each(MemoryEngine::changed);
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_standstill_no_peer_is_collected_for_a_timeout() {
        let opts = HeartbeatOpts::default();
        let start = Instant::now();
        let mut awake = Awake::new(&opts, start);
        let period = sign_period(&opts);
        let mut now = start;
        for _ in 0..3 {
            now += period;
            assert!(awake.look(now));
        }
        now += 2 * period + Duration::from_millis(1);
        let woken = now;
        while now < woken + opts.timeout_period {
            assert!(!awake.look(now));
            now += period;
        }
        assert!(awake.look(now));
    }
}
