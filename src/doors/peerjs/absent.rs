//! Messages to peers that are not there: they are kept for a while, and then the sender is told.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::peer_list::{MESSAGE_OVERHEAD_BYTES, PeerId};

/// How long messages are kept for a peer that is not there.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many peers a client can wait for.
const MAX_PEERS: usize = 1000;

/// The peers that a client has sent messages to, and that are not there.
pub(super) struct Absent {
    peers: HashMap<String, Waiting>,
    /// How much of what all messages may cost is left, in bytes.
    left: usize,
}

/// What waits for a peer.
pub(super) struct Waiting {
    messages: VecDeque<Bytes>,
    until: Instant,
    /// The peer has come.
    has_come: bool,
    /// The peer that has the messages in its mailbox, and has no socket.
    holder: Option<PeerId>,
}

impl Absent {
    pub fn new(bound: usize) -> Self {
        Self {
            peers: HashMap::new(),
            left: bound,
        }
    }

    /// A peer is not there. `holder`: it has the message in its mailbox, and has no socket. False:
    /// too many are waited for.
    pub fn note(&mut self, id: &str, holder: Option<PeerId>, now: Instant) -> bool {
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(id) {
            return false;
        }
        let waiting = self.peers.entry(id.to_owned()).or_insert_with(|| Waiting {
            messages: VecDeque::new(),
            until: now + PATIENCE,
            has_come: false,
            holder: None,
        });
        waiting.holder = holder;
        true
    }

    /// Whether messages wait for a peer, and another one has to wait behind them.
    pub fn has_messages(&self, id: &str) -> bool {
        let waiting = self.peers.get(id);
        waiting.is_some_and(|waiting| !waiting.messages.is_empty())
    }

    /// Keeps a message for a peer that was noted. False: there is no space for it.
    pub fn keep(&mut self, id: &str, message: Bytes) -> bool {
        let Some(waiting) = self.peers.get_mut(id) else {
            return false;
        };
        let Some(left) = self.left.checked_sub(cost(&message)) else {
            return false;
        };
        self.left = left;
        waiting.messages.push_back(message);
        true
    }

    /// A peer that messages wait for is there now.
    pub fn has_come(&mut self, id: &str) {
        if let Some(waiting) = self.peers.get_mut(id) {
            waiting.has_come = true;
        }
    }

    /// One that is there now, and is not marked so any more.
    pub fn next_come(&mut self) -> Option<String> {
        let mut peers = self.peers.iter_mut();
        let (id, waiting) = peers.find(|(_, waiting)| waiting.has_come)?;
        waiting.has_come = false;
        Some(id.clone())
    }

    /// The first message for a peer.
    pub fn first(&self, id: &str) -> Option<Bytes> {
        self.peers.get(id)?.messages.front().cloned()
    }

    /// The first message for a peer was sent, or is given up.
    pub fn take(&mut self, id: &str) {
        if let Some(waiting) = self.peers.get_mut(id)
            && let Some(message) = waiting.messages.pop_front()
        {
            self.left += cost(&message);
        }
    }

    /// A peer has got a message. If no other one waits for it, it is not absent any more.
    pub fn is_there(&mut self, id: &str) {
        if !self.has_messages(id) {
            self.peers.remove(id);
        }
    }

    /// When the next one is given up.
    pub fn next_end(&self) -> Option<Instant> {
        self.peers.values().map(|waiting| waiting.until).min()
    }

    /// Gives up a peer that was waited for in vain until now. Returns its id, and the peer that has
    /// messages in its mailbox.
    pub fn give_up(&mut self, now: Instant) -> Option<(String, Option<PeerId>)> {
        let mut peers = self.peers.iter();
        let (id, waiting) = peers.find(|(_, waiting)| waiting.until <= now)?;
        let (id, holder) = (id.clone(), waiting.holder);
        while self.has_messages(&id) {
            self.take(&id);
        }
        self.peers.remove(&id);
        Some((id, holder))
    }
}

fn cost(message: &Bytes) -> usize {
    message.len() + MESSAGE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn next_of(absent: &mut Absent, id: &str) -> Option<Bytes> {
        let first = absent.first(id);
        absent.take(id);
        first
    }

    #[test]
    fn what_waits_for_a_peer_that_comes_is_taken_in_order() {
        let now = Instant::now();
        let mut absent = Absent::new(10_000);
        assert!(absent.note("a", None, now));
        for message in ["one", "two"] {
            assert!(absent.keep("a", message.into()));
        }
        assert_eq!(absent.next_come(), None);
        absent.has_come("a");
        absent.has_come("nobody");
        assert_eq!(absent.next_come().as_deref(), Some("a"));
        assert_eq!(absent.next_come(), None);
        assert_eq!(next_of(&mut absent, "a"), Some("one".into()));
        absent.is_there("a");
        assert!(absent.has_messages("a"));
        assert_eq!(next_of(&mut absent, "a"), Some("two".into()));
        absent.is_there("a");
        assert_eq!(absent.give_up(now + 10 * SECOND), None);
    }

    #[test]
    fn a_peer_is_given_up_once_five_seconds_after_the_first_message() {
        let now = Instant::now();
        let mut absent = Absent::new(10_000);
        let holder = PeerId::parse("7");
        absent.note("a", None, now);
        absent.note("b", holder, now + SECOND);
        absent.note("a", None, now + 4 * SECOND);
        assert_eq!(absent.next_end(), Some(now + 5 * SECOND));
        assert_eq!(absent.give_up(now + 4 * SECOND), None);
        assert_eq!(
            absent.give_up(now + 5 * SECOND),
            Some(("a".to_owned(), None))
        );
        assert_eq!(absent.give_up(now + 5 * SECOND), None);
        assert_eq!(
            absent.give_up(now + 6 * SECOND),
            Some(("b".to_owned(), holder))
        );
        assert_eq!(absent.next_end(), None);
    }

    #[test]
    fn what_waits_is_bounded_and_the_bound_is_given_back() {
        let now = Instant::now();
        let mut absent = Absent::new(2 * (MESSAGE_OVERHEAD_BYTES + 3));
        absent.note("a", None, now);
        absent.note("b", None, now);
        assert!(absent.keep("a", "one".into()));
        assert!(absent.keep("b", "two".into()));
        assert!(!absent.keep("a", "".into()));
        absent.give_up(now + 10 * SECOND);
        absent.give_up(now + 10 * SECOND);
        absent.note("a", None, now);
        assert!(absent.keep("a", "one".into()));
        assert!(!absent.keep("nobody", "".into()));
        for number in 0..MAX_PEERS - 1 {
            assert!(absent.note(&number.to_string(), None, now));
        }
        assert!(!absent.note("one more", None, now));
        assert!(absent.note("a", None, now));
    }
}
