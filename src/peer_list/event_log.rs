//! A log of events: each has a number, and the last ones are kept for subscribers that come
//! late.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::watch;

use super::PeerEvent;

/// At most this many events are kept for subscribers that are late or come back.
pub const EVENTS_KEPT: usize = 1000;

/// At most this many events are kept for a subscriber that has not taken them yet: all
/// peers of a large list may be removed at once.
pub(super) const EVENTS_QUEUED: usize = 65_536;

/// The last events, and the subscribers that wait for the next one.
pub(super) struct EventLog {
    kept: Mutex<Kept>,
    /// The number of the newest event.
    newest: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    /// None stands for an event that this version does not know.
    events: VecDeque<Option<PeerEvent>>,
    /// For each subscriber, the number of the last event that it took.
    taken: Vec<Weak<AtomicU64>>,
}

impl Kept {
    /// Forgets the oldest events above [`EVENTS_KEPT`]. Those that a subscriber has not
    /// taken yet stay, up to [`EVENTS_QUEUED`]. `newest`: the number of the last event.
    fn trim(&mut self, newest: u64) {
        while self.events.len() > EVENTS_KEPT {
            let oldest = newest - self.events.len() as u64 + 1;
            let is_wanted = self.events.len() <= EVENTS_QUEUED
                && self.taken.iter().any(|taken| {
                    let taken = taken.upgrade();
                    taken.is_some_and(|taken| taken.load(Ordering::Relaxed) < oldest)
                });
            if is_wanted {
                return;
            }
            self.events.pop_front();
        }
        self.events.shrink_to(EVENTS_KEPT);
    }
}

impl EventLog {
    pub fn new() -> Arc<Self> {
        Self::beginning_at(SystemTime::now())
    }

    /// Numbers begin at `start`, in us since 1970, so that every number of an earlier
    /// server is lower than all numbers of this one and can be recognized.
    pub fn beginning_at(start: SystemTime) -> Arc<Self> {
        let start = start.duration_since(SystemTime::UNIX_EPOCH);
        let start = u64::try_from(start.as_ref().map_or(0, Duration::as_micros));
        Arc::new(Self {
            kept: Mutex::default(),
            newest: watch::Sender::new(start.unwrap_or(0)),
        })
    }

    /// Adds the next event. None: an event of a newer version, which this version does
    /// not know. It has a number like any other, and subscribers do not hear of it.
    pub fn add(&self, event: impl Into<Option<PeerEvent>>) {
        let mut kept = self.kept.lock();
        kept.events.push_back(event.into());
        // Sent while the log is locked, so that the number and the log agree.
        self.newest.send_modify(|newest| *newest += 1);
        kept.trim(*self.newest.borrow());
    }

    /// Whether anybody wants to hear of events.
    #[cfg(feature = "redis")]
    pub fn has_subscribers(&self) -> bool {
        let kept = self.kept.lock();
        kept.taken.iter().any(|taken| taken.strong_count() > 0)
    }

    /// The number of the newest event.
    #[cfg(feature = "redis")]
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// Sets the number of the next event: those between are not known here.
    #[cfg(feature = "redis")]
    pub fn go_on_at(&self, next: u64) {
        let mut kept = self.kept.lock();
        if next != self.newest() + 1 {
            kept.events.clear();
            self.newest.send_replace(next.saturating_sub(1));
        }
    }

    /// The events after the one with this number, or (None) from now on.
    pub fn subscribe(self: &Arc<Self>, after: Option<u64>) -> LogEvents {
        let mut kept = self.kept.lock();
        let newest = self.newest.subscribe();
        let now = *newest.borrow();
        let after = after.unwrap_or(now);
        let taken = Arc::new(AtomicU64::new(after));
        kept.taken.retain(|taken| taken.strong_count() > 0);
        kept.taken.push(Arc::downgrade(&taken));
        drop(kept);
        // A higher number is of an earlier server, so that all kept events are new.
        let missed = (after > now).then_some(Missed { after });
        LogEvents {
            log: self.clone(),
            newest,
            taken,
            missed,
        }
    }
}

/// A subscription to one log: events in order, each with its number. Numbers begin at the
/// time when the log was made, in us since 1970, and have no gaps.
pub struct LogEvents {
    log: Arc<EventLog>,
    newest: watch::Receiver<u64>,
    /// The number of the last event that was taken.
    taken: Arc<AtomicU64>,
    /// The gap to report first.
    missed: Option<Missed>,
}

impl LogEvents {
    /// Waits for the next event. An error is a gap: the subscriber is more than 65,536
    /// events late (after coming back: [`EVENTS_KEPT`]), or its number is of an earlier
    /// server. The kept events follow.
    pub async fn next(&mut self) -> Result<(u64, PeerEvent), Missed> {
        loop {
            // Marked before the look, so that an event in between is noticed.
            self.newest.mark_unchanged();
            if let Some(next) = self.next_kept() {
                return next;
            }
            if self.newest.changed().await.is_err() {
                // Never reached: the sender is in the log, which `self` holds.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The number of the last event that was taken.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// The number of events that have happened and were not taken.
    pub fn left(&self) -> u64 {
        let newest = *self.log.newest.borrow();
        newest.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    fn next_kept(&mut self) -> Option<Result<(u64, PeerEvent), Missed>> {
        let mut kept = self.log.kept.lock();
        let newest = *self.log.newest.borrow();
        let before_kept = newest - kept.events.len() as u64;
        let after = self.taken.load(Ordering::Relaxed);
        let missed = self.missed.take();
        // Numbers go back when Redis has lost the last events.
        let is_gap = after < before_kept || after > newest;
        if let Some(missed) = missed.or(is_gap.then_some(Missed { after })) {
            self.taken.store(before_kept, Ordering::Relaxed);
            return Some(Err(missed));
        }
        let first = usize::try_from(after - before_kept).ok()?;
        let mut ahead = (after + 1..).zip(kept.events.range(first..));
        let found = ahead.find_map(|(number, event)| Some((number, event.clone()?)));
        let taken = found.as_ref().map_or(newest, |(number, _)| *number);
        self.taken.store(taken, Ordering::Relaxed);
        kept.trim(newest);
        found.map(Ok)
    }
}

impl fmt::Debug for LogEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogEvents")
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}

/// Some events were dropped before they were heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("events after number {after} were missed")]
pub struct Missed {
    /// The number of the last event that was heard.
    pub after: u64,
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready_eq, task};

    use super::*;
    use crate::peer_list::events::test_event as event;

    /// A log whose numbers begin at 1, which is easier to read.
    fn log() -> Arc<EventLog> {
        EventLog::beginning_at(SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn a_subscriber_hears_what_comes_after_it_subscribed() {
        let log = log();
        log.add(event(1));
        let mut events = log.subscribe(None);
        let mut next = task::spawn(events.next());
        assert_pending!(next.poll());
        log.add(event(2));
        assert!(next.is_woken());
        assert_ready_eq!(next.poll(), Ok((2, event(2))));
    }

    #[test]
    fn an_event_of_a_newer_version_is_skipped_and_the_others_stay() {
        let log = log();
        log.add(event(1));
        log.add(None);
        log.add(event(3));
        log.add(None);
        let mut events = log.subscribe(Some(0));
        assert_ready_eq!(task::spawn(events.next()).poll(), Ok((1, event(1))));
        assert_ready_eq!(task::spawn(events.next()).poll(), Ok((3, event(3))));
        assert_pending!(task::spawn(events.next()).poll());
        assert_eq!(events.left(), 0);
        log.add(event(5));
        assert_ready_eq!(task::spawn(events.next()).poll(), Ok((5, event(5))));
    }

    #[test]
    fn one_that_comes_back_hears_what_it_missed() {
        let log = log();
        for id in 1..=3 {
            log.add(event(id));
        }
        let mut events = log.subscribe(Some(1));
        for id in 2..=3 {
            let next = (u64::from(id), event(id));
            assert_ready_eq!(task::spawn(events.next()).poll(), Ok(next));
        }
        assert_pending!(task::spawn(events.next()).poll());
    }

    #[test]
    fn events_that_are_no_longer_kept_are_told_as_a_gap() {
        let log = log();
        let kept = u32::try_from(EVENTS_KEPT).unwrap();
        for id in 1..=kept + 5 {
            log.add(event(id));
        }
        let mut events = log.subscribe(Some(0));
        assert_ready_eq!(task::spawn(events.next()).poll(), Err(Missed { after: 0 }));
        assert_ready_eq!(task::spawn(events.next()).poll(), Ok((6, event(6))));
    }

    #[test]
    fn a_burst_is_kept_for_a_subscriber_that_reads_it_and_not_for_ever() {
        let log = log();
        let mut events = log.subscribe(None);
        let deaf = log.subscribe(None);
        let queued = u32::try_from(EVENTS_QUEUED).unwrap();
        for id in 1..=queued {
            log.add(event(id));
        }
        assert_ready_eq!(task::spawn(events.next()).poll(), Ok((1, event(1))));
        for id in 1..=5 {
            log.add(event(queued + id));
        }
        assert_eq!(log.kept.lock().events.len(), EVENTS_QUEUED);
        assert_ready_eq!(task::spawn(events.next()).poll(), Err(Missed { after: 1 }));
        drop(deaf);
        for id in 6..=queued + 5 {
            let next = (u64::from(id), event(id));
            assert_ready_eq!(task::spawn(events.next()).poll(), Ok(next));
        }
        assert_eq!(log.kept.lock().events.len(), EVENTS_KEPT);
    }

    #[test]
    fn a_number_of_an_earlier_server_is_lower_than_all_of_this_one() {
        let before = EventLog::new();
        before.add(event(1));
        let last = *before.newest.borrow();
        let now = EventLog::beginning_at(SystemTime::now() + Duration::from_secs(1));
        now.add(event(1));
        let mut events = now.subscribe(Some(last));
        assert_ready_eq!(
            task::spawn(events.next()).poll(),
            Err(Missed { after: last })
        );
    }

    #[test]
    fn a_number_of_an_earlier_server_is_a_gap_and_all_kept_events_follow() {
        let log = log();
        log.add(event(1));
        let mut events = log.subscribe(Some(77));
        let missed = Missed { after: 77 };
        assert_ready_eq!(task::spawn(events.next()).poll(), Err(missed));
        assert_ready_eq!(task::spawn(events.next()).poll(), Ok((1, event(1))));
    }
}
