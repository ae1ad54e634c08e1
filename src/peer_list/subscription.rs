//! A subscription to the events of all rooms, and what it has heard so far.

use std::{fmt, pin::Pin, str::FromStr};

use futures_util::future::select_all;

use super::{Missed, PeerEvent, event_log::LogEvents};

/// What a subscriber has heard: the number of the last event of each log. As text it is
/// these numbers with dots between them; with one log, it is that number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventCursor(Vec<u64>);

impl EventCursor {
    /// The number of the last event that was heard of this log. 0, which no event has: the
    /// cursor is of a server with another number of logs.
    pub(super) fn in_log(&self, log: usize, logs: usize) -> u64 {
        let is_ours = self.0.len() == logs;
        self.0.get(log).filter(|_| is_ours).copied().unwrap_or(0)
    }
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (log, number) in self.0.iter().enumerate() {
            let dot = if log == 0 { "" } else { "." };
            write!(f, "{dot}{number}")?;
        }
        Ok(())
    }
}

impl FromStr for EventCursor {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let numbers = text.split('.').map(str::parse);
        Ok(Self(numbers.collect::<Result<_, _>>()?))
    }
}

/// A subscription. The events of a room come in order, each with its number, which rises from
/// one event of the room to the next. Those of several rooms may be in several logs, and
/// come in any order then.
pub struct PeerEvents {
    logs: Vec<LogEvents>,
    /// The log that is asked first, so that a busy one does not hold up the others.
    first: usize,
}

impl PeerEvents {
    /// The events of several logs.
    pub(super) fn of(logs: Vec<LogEvents>) -> Self {
        Self { logs, first: 0 }
    }

    /// Waits for the next event of any log. Errors: as [`LogEvents::next`].
    pub async fn next(&mut self) -> Result<(u64, PeerEvent), Missed> {
        let (before, from) = self.logs.split_at_mut(self.first);
        let asked = from.iter_mut().chain(before).map(|log| log.next());
        let asked: Vec<Pin<Box<_>>> = asked.map(Box::pin).collect();
        let (next, index, _) = select_all(asked).await;
        self.first = (self.first + index + 1) % self.logs.len();
        next
    }

    /// What was heard so far.
    pub fn cursor(&self) -> EventCursor {
        EventCursor(self.logs.iter().map(LogEvents::taken).collect())
    }
}

impl fmt::Debug for PeerEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerEvents({})", self.cursor())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use tokio_test::{assert_pending, assert_ready_eq, task};

    use proptest::prelude::*;

    use super::*;
    use crate::peer_list::{event_log::EventLog, events::test_event as event};

    /// Logs whose numbers begin at 1, 101 and so on.
    fn logs(count: u64) -> Vec<Arc<EventLog>> {
        let starts =
            (0..count).map(|log| SystemTime::UNIX_EPOCH + Duration::from_micros(100 * log));
        starts.map(EventLog::beginning_at).collect()
    }

    fn subscribe(logs: &[Arc<EventLog>], after: Option<&EventCursor>) -> PeerEvents {
        let subscribed = logs.iter().enumerate().map(|(number, log)| {
            log.subscribe(after.map(|cursor| cursor.in_log(number, logs.len())))
        });
        PeerEvents::of(subscribed.collect())
    }

    #[test]
    fn a_busy_log_does_not_hold_up_another() {
        let logs = logs(2);
        let mut events = subscribe(&logs, None);
        for id in 1..=3 {
            logs[0].add(event(id));
        }
        logs[1].add(event(9));
        for (number, id) in [(1, 1), (101, 9), (2, 2), (3, 3)] {
            let next = Ok((number, event(id)));
            assert_ready_eq!(task::spawn(events.next()).poll(), next);
        }
        assert_pending!(task::spawn(events.next()).poll());
        assert_eq!(events.cursor().to_string(), "3.101");
    }

    #[test]
    fn one_that_comes_back_hears_what_it_missed_of_each_log() {
        let logs = logs(2);
        let before = subscribe(&logs, None);
        let cursor: EventCursor = before.cursor().to_string().parse().unwrap();
        logs[0].add(event(1));
        logs[1].add(event(2));
        let mut again = subscribe(&logs, Some(&cursor));
        let next = |events: &mut PeerEvents| task::spawn(events.next()).poll();
        assert_ready_eq!(next(&mut again), Ok((1, event(1))));
        assert_ready_eq!(next(&mut again), Ok((101, event(2))));
    }

    #[test]
    fn a_cursor_of_another_number_of_logs_is_a_gap_in_each() {
        let logs = logs(2);
        let other: EventCursor = "1".parse().unwrap();
        logs[1].add(event(2));
        let mut events = subscribe(&logs, Some(&other));
        let missed = Missed { after: 0 };
        assert_ready_eq!(task::spawn(events.next()).poll(), Err(missed));
        assert_ready_eq!(task::spawn(events.next()).poll(), Ok((101, event(2))));
    }

    #[test]
    fn what_is_no_cursor_is_not_read_as_one() {
        for wrong in ["", "x", "1.", "1.x", "-1", "1,2"] {
            assert!(wrong.parse::<EventCursor>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_cursor_makes_the_reader_panic(text in "[0-9.]{0,50}|.{0,20}") {
            if let Ok(cursor) = text.parse::<EventCursor>() {
                let again: EventCursor = cursor.to_string().parse().unwrap();
                prop_assert_eq!(again.to_string(), cursor.to_string());
            }
        }
    }
}
