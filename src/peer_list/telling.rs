//! When changes of the list are told: at once where few peers would hear of
//! them, else several together.

use std::{sync::atomic::AtomicU64, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Up to this many peers each change is told at once, as the original does.
const SMALL_LIST: usize = 16;

/// How much longer the window in which changes are told together gets with
/// each peer above that. To tell one peer costs some 16 us (a reply, and the
/// next request), so that telling takes about an eighth of a core at most.
const WINDOW_PER_PEER: Duration = Duration::from_micros(120);

/// The window is never longer than this, however many peers there are: people would
/// notice.
const LONGEST_WINDOW: Duration = Duration::from_millis(55);

/// This many changes in a window are a storm, which is told after [`STORM_WINDOWS`]
/// windows. Measured with 500 peers and 200 changes a second (`make bench`): 0.7 ms of CPU
/// time a change, and 1.6 ms without.
const STORM: u32 = 4;

/// See [`STORM`].
const STORM_WINDOWS: u32 = 3;

/// When the changes that were made so far are to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Telling {
    /// Now: the caller tells them.
    Now,
    /// Then: the caller tells them then.
    At(Instant),
    /// An earlier caller was given [`Telling::At`] and does it.
    Scheduled,
}

/// When peers are told of changes, and up to which version of the list.
#[derive(Default)]
pub(super) struct Updates {
    /// Locked after the roster, if both are locked.
    pub schedule: Mutex<Schedule>,
    /// The version of the list that peers should have heard when they wait. It follows the
    /// current version, at most once a window.
    pub told: AtomicU64,
}

/// When the peers of a list are told of its changes.
#[derive(Default)]
pub(super) struct Schedule {
    last_told: Option<Instant>,
    /// The changes that are not told yet, if there are any.
    window: Option<Window>,
}

/// A time whose changes are told together at its end.
struct Window {
    /// When the first of them was made.
    start: Instant,
    end: Instant,
    changes: u32,
    is_storm: bool,
}

impl Schedule {
    /// Asked after each change of a list with this many peers: when the change is told.
    /// At once if the last telling was a while ago, otherwise together with the other
    /// changes of the window.
    pub fn changed(&mut self, peers: usize, now: Instant) -> Telling {
        let Some(window) = &mut self.window else {
            let length = window_length(peers);
            if self.last_told.is_none_or(|told| now >= told + 2 * length) {
                return self.tell(now);
            }
            let end = now + length;
            self.window = Some(Window {
                start: now,
                end,
                changes: 1,
                is_storm: false,
            });
            return Telling::At(end);
        };
        window.changes += 1;
        // A change late in the window ends it: the window waits for such changes.
        let late = window.start + (window.end - window.start) * 4 / 5;
        if window.changes < STORM && now >= late {
            return self.tell(now);
        }
        Telling::Scheduled
    }

    /// To be asked when the moment of [`Telling::At`] has come.
    pub fn scheduled(&mut self, now: Instant) -> Telling {
        match &mut self.window {
            Some(window) if now >= window.end => {
                if window.changes >= STORM && !window.is_storm {
                    window.is_storm = true;
                    window.end = window.start + STORM_WINDOWS * (window.end - window.start);
                    return Telling::At(window.end);
                }
                self.tell(now)
            }
            // That window was told early. A later one has its own moment.
            _ => Telling::Scheduled,
        }
    }

    fn tell(&mut self, now: Instant) -> Telling {
        self.window = None;
        self.last_told = Some(now);
        Telling::Now
    }
}

fn window_length(peers: usize) -> Duration {
    let peers = peers.saturating_sub(SMALL_LIST);
    let peers = u32::try_from(peers).unwrap_or(u32::MAX);
    WINDOW_PER_PEER.saturating_mul(peers).min(LONGEST_WINDOW)
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use proptest::prelude::*;

    use super::*;

    /// Enough for the longest window.
    const LARGE_LIST: usize = 1000;

    proptest! {
        #[test]
        fn every_change_is_told_in_time_whatever_follows_it(
            changes in prop::collection::vec((0u64..80, 1usize..200), 1..60),
        ) {
            let mut now = Instant::now();
            let mut schedule = Schedule::default();
            let mut peers = 0;
            let mut timers: BinaryHeap<Reverse<Instant>> = BinaryHeap::new();
            let mut untold_since: Option<Instant> = None;
            let mut note = |telling, now: Instant, timers: &mut BinaryHeap<_>| match telling {
                Telling::Now => {
                    let since = untold_since.take().unwrap_or(now);
                    assert!(now - since <= STORM_WINDOWS * LONGEST_WINDOW);
                }
                Telling::At(end) => {
                    untold_since.get_or_insert(now);
                    timers.push(Reverse(end));
                }
                Telling::Scheduled => assert!(timers.len() < 50),
            };
            for (pause, joins) in changes {
                let next = now + Duration::from_millis(pause);
                while let Some(&Reverse(end)) = timers.peek()
                    && end <= next
                {
                    timers.pop();
                    note(schedule.scheduled(end), end, &mut timers);
                }
                now = next;
                for _ in 0..joins {
                    peers += 1;
                    note(schedule.changed(peers, now), now, &mut timers);
                }
            }
            while let Some(Reverse(end)) = timers.pop() {
                note(schedule.scheduled(end), end, &mut timers);
            }
            prop_assert!(schedule.window.is_none(), "a change is never told");
        }
    }

    /// The schedule of a large list that was told at the given time.
    fn large_list(told: Instant) -> Schedule {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.changed(LARGE_LIST, told), Telling::Now);
        schedule
    }

    #[test]
    fn in_a_small_list_every_change_is_told_at_once() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        for peers in 1..=SMALL_LIST {
            assert_eq!(schedule.changed(peers, now), Telling::Now);
        }
    }

    #[test]
    fn in_a_large_list_a_change_after_a_quiet_time_is_told_at_once() {
        let start = Instant::now();
        let mut schedule = large_list(start);
        let later = start + 2 * LONGEST_WINDOW;
        assert_eq!(schedule.changed(LARGE_LIST, later), Telling::Now);
        let end = later + LONGEST_WINDOW;
        assert_eq!(schedule.changed(LARGE_LIST, later), Telling::At(end));
        assert_eq!(schedule.changed(LARGE_LIST, later), Telling::Scheduled);
        assert_eq!(schedule.scheduled(end), Telling::Now);
    }

    #[test]
    fn a_change_late_in_a_window_ends_it() {
        let start = Instant::now();
        let mut schedule = large_list(start);
        let end = start + LONGEST_WINDOW;
        assert_eq!(schedule.changed(LARGE_LIST, start), Telling::At(end));
        let late = start + LONGEST_WINDOW * 9 / 10;
        assert_eq!(schedule.changed(LARGE_LIST, late), Telling::Now);
        let later = late + LONGEST_WINDOW;
        assert_eq!(schedule.changed(LARGE_LIST, late), Telling::At(later));
        // The moment of the window that was told early.
        assert_eq!(schedule.scheduled(end), Telling::Scheduled);
        assert_eq!(schedule.scheduled(later), Telling::Now);
    }

    #[test]
    fn a_window_ends_at_its_time_even_if_the_list_has_grown() {
        let mut schedule = Schedule::default();
        let start = Instant::now();
        assert_eq!(schedule.changed(100, start), Telling::Now);
        let Telling::At(end) = schedule.changed(100, start) else {
            panic!("there is no window");
        };
        for peers in 101..103 {
            assert_eq!(schedule.changed(peers, start), Telling::Scheduled);
        }
        assert_eq!(schedule.scheduled(end), Telling::Now);
    }

    #[test]
    fn a_storm_is_told_once_in_three_windows() {
        let start = Instant::now();
        let mut schedule = large_list(start);
        let middle = start + LONGEST_WINDOW;
        assert_eq!(schedule.changed(LARGE_LIST, start), Telling::At(middle));
        for _ in 1..STORM {
            assert_eq!(schedule.changed(LARGE_LIST, start), Telling::Scheduled);
        }
        let end = middle + 2 * LONGEST_WINDOW;
        assert_eq!(schedule.scheduled(middle), Telling::At(end));
        assert_eq!(schedule.changed(LARGE_LIST, middle), Telling::Scheduled);
        assert_eq!(schedule.scheduled(end), Telling::Now);
    }
}
