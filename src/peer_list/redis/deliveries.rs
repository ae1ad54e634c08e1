//! What peers are being given here: each one thing at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};

use super::{library::LEASE, open_wait::OpenWait};
use crate::peer_list::PeerId;

/// A client that was told the list polls again within this time. Only after it Redis is told
/// that the wait is over: most clients have polled again, and Redis need not know.
const POLLS_AGAIN_WITHIN: Duration = Duration::from_millis(500);

/// The deliveries that go on here.
#[derive(Default)]
pub(super) struct DeliveriesHere(Mutex<HashMap<PeerId, Vec<Arc<Entry>>>>);

struct Entry {
    /// When it can no longer be known whether the peer hears it, as with a loan of Redis.
    end: Instant,
    state: Mutex<State>,
    changed: Notify,
    /// Notified when Redis is to be told at once, or need not be told.
    due: Notify,
}

enum State {
    /// Redis has lent it, and keeps the peer from being given more.
    Lent,
    /// The peer is told the list from this node's copy, and Redis does not know.
    FromCopy,
    /// The peer has heard the list: this is to be reported.
    Heard(Heard),
    /// It is being reported, by a call of its own.
    Reported,
    /// The next wait of the peer goes on with it, or reports it.
    Taken,
}

/// A wait that was answered with the list, up to this version.
#[derive(Clone)]
pub(super) struct Heard {
    pub wait: Arc<OpenWait>,
    pub version: u64,
    pub at: Instant,
}

impl Heard {
    /// For how long the wait has been over, in ms.
    pub fn ago(&self) -> u64 {
        u64::try_from(self.at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A delivery goes on, until Redis knows how it ended.
pub(super) struct Going {
    all: Arc<DeliveriesHere>,
    id: PeerId,
    entry: Arc<Entry>,
}

impl DeliveriesHere {
    /// Begins one that Redis has lent.
    pub fn begin_lent(self: &Arc<Self>, id: PeerId) -> Going {
        self.begin(id, State::Lent)
    }

    /// Begins one from this node's copy of the list. None: another goes on.
    pub fn begin_from_copy(self: &Arc<Self>, id: PeerId) -> Option<Going> {
        let goes_on = self.0.lock().contains_key(&id);
        (!goes_on).then(|| self.begin(id, State::FromCopy))
    }

    fn begin(self: &Arc<Self>, id: PeerId, state: State) -> Going {
        let entry = Arc::new(Entry {
            end: Instant::now() + LEASE,
            state: Mutex::new(state),
            changed: Notify::new(),
            due: Notify::new(),
        });
        self.0.lock().entry(id).or_default().push(entry.clone());
        let all = self.clone();
        Going { all, id, entry }
    }

    /// Waits while the peer is told the list from the copy, and it is not known whether it
    /// hears it.
    pub async fn settled(&self, id: PeerId) {
        while let Some(entry) = self.unknown_to_redis(id) {
            let changed = entry.changed.notified();
            let is_settled = matches!(*entry.state.lock(), State::Heard(_));
            // It may have ended before.
            let goes_on = self
                .unknown_to_redis(id)
                .is_some_and(|now| Arc::ptr_eq(&now, &entry));
            if is_settled || goes_on && timeout_at(entry.end, changed).await.is_err() {
                return;
            }
        }
    }

    /// What the next wait of a peer has to go on with, or to report.
    pub fn take_heard(&self, id: PeerId) -> Option<Heard> {
        let entry = self.unknown_to_redis(id)?;
        let heard = entry.take()?;
        self.remove(id, &entry);
        entry.due.notify_one();
        Some(heard)
    }

    /// Redis asks what a peer has heard here. Returns whether a report will say so: that of what
    /// it is told, or that what it was lent is over (before that was lent, Redis was told).
    pub fn will_report(&self, id: PeerId) -> bool {
        let all = self.0.lock();
        let entries = all.get(&id);
        for entry in entries.into_iter().flatten() {
            entry.due.notify_one();
        }
        entries.is_some()
    }

    /// The node stops: no further polls are waited for.
    pub fn report_all(&self) {
        let all = self.0.lock();
        all.values()
            .flatten()
            .for_each(|entry| entry.due.notify_one());
    }

    /// Waits until Redis knows how all of them have ended.
    pub async fn over(&self) {
        loop {
            let goes_on = self.0.lock().values().flatten().next().cloned();
            let Some(entry) = goes_on else { return };
            let changed = entry.changed.notified();
            // It may have ended before.
            if self
                .0
                .lock()
                .values()
                .flatten()
                .any(|now| Arc::ptr_eq(now, &entry))
            {
                changed.await;
            }
        }
    }

    fn remove(&self, id: PeerId, entry: &Arc<Entry>) {
        let mut all = self.0.lock();
        if let Some(entries) = all.get_mut(&id) {
            entries.retain(|other| !Arc::ptr_eq(other, entry));
            if entries.is_empty() {
                all.remove(&id);
            }
        }
    }

    fn unknown_to_redis(&self, id: PeerId) -> Option<Arc<Entry>> {
        let all = self.0.lock();
        let mut entries = all.get(&id)?.iter();
        let is_unknown = |entry: &&Arc<Entry>| {
            let state = entry.state.lock();
            matches!(*state, State::FromCopy | State::Heard(_) | State::Reported)
        };
        entries.find(is_unknown).cloned()
    }
}

impl Entry {
    fn take(&self) -> Option<Heard> {
        let mut state = self.state.lock();
        let State::Heard(heard) = &*state else {
            return None;
        };
        let heard = heard.clone();
        *state = State::Taken;
        Some(heard)
    }
}

impl Going {
    /// The peer has heard the list.
    pub fn heard(&self, heard: Heard) {
        *self.entry.state.lock() = State::Heard(heard);
        self.entry.changed.notify_waiters();
    }

    /// Waits until Redis has to be told of that. Returns whether it still has to.
    pub async fn is_due(&self) -> bool {
        let _ = timeout(POLLS_AGAIN_WITHIN, self.entry.due.notified()).await;
        matches!(*self.entry.state.lock(), State::Heard(_))
    }

    /// Whether a call of its own has to report it: this is asked when it is the turn of that
    /// call.
    pub fn is_to_report(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let entry = self.entry.clone();
        move || {
            let mut state = entry.state.lock();
            if let State::Heard(_) = *state {
                *state = State::Reported;
            }
            matches!(*state, State::Reported)
        }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.all.remove(self.id, &self.entry);
        self.entry.changed.notify_waiters();
    }
}
