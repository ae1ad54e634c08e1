//! The mailbox of one peer: its messages, first in, first out, bounded in bytes.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use crate::peer_list::{Buffered, Cost, Held, MESSAGE_OVERHEAD_BYTES, PeerId, Refusal};

/// A queue with room for more entries than this frees its memory when it is empty: a
/// burst must not cost memory for as long as its peer stays.
const KEPT_CAPACITY: usize = 64;

/// A message of more bytes counts by itself, so that it still does in the reply to a wait,
/// which may be read slowly.
pub(super) const LARGE: usize = 16 * 1024;

/// A message on its way to a peer.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub kind: Kind,
    /// Its bytes, untouched.
    pub body: Bytes,
    /// The version of the peer list that first named the sender. A receiver
    /// hears of that version before it gets the message.
    pub needs: u64,
}

/// The kind of a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// From a peer to this one.
    Direct { from: PeerId },
    /// Published in a channel, or sent to an alias. Its bytes may be in many mailboxes, and
    /// count where they were accepted.
    Published,
    /// A name that is announced.
    Announced,
}

impl Message {
    /// A message of a channel, which needs no version of the list.
    pub fn published(body: Bytes) -> Self {
        Self {
            kind: Kind::Published,
            body,
            needs: 0,
        }
    }

    /// The message that a name is announced. The name counts by itself, as what is published.
    pub fn announced(name: Bytes) -> Self {
        Self {
            kind: Kind::Announced,
            body: name,
            needs: 0,
        }
    }

    fn cost(&self) -> Cost {
        let shared = match self.kind {
            Kind::Direct { .. } if self.body.len() <= LARGE => 0,
            _ => self.body.len(),
        };
        let own = self.body.len() - shared + MESSAGE_OVERHEAD_BYTES;
        Cost { own, shared }
    }
}

#[derive(Debug)]
pub(super) struct Mailbox {
    messages: VecDeque<Message>,
    /// The cost of all of `messages`.
    held: Held,
    /// How many of `messages` were handed to the peer already and are kept until the peer
    /// acknowledges them.
    handed: usize,
    /// How many messages have left the mailbox. Messages are numbered from 1.
    gone: u64,
    /// The highest number that was ever handed over.
    delivered: u64,
    /// The highest number that was ever lent.
    offered: u64,
}

impl Mailbox {
    pub fn new(buffered: &Arc<Buffered>) -> Self {
        Self {
            messages: VecDeque::new(),
            held: buffered.hold(),
            handed: 0,
            gone: 0,
            delivered: 0,
            offered: 0,
        }
    }

    /// Puts a message last in line, unless that would exceed `bound` bytes, or what this
    /// process may hold.
    pub fn push(&mut self, message: Message, bound: usize) -> Result<(), Refusal> {
        let cost = message.cost();
        if self.held.bytes() + cost.total() > bound {
            return Err(Refusal::MailboxFull);
        }
        match message.kind {
            Kind::Direct { .. } => self.held.add(cost)?,
            // Its bytes were accepted, and some receivers may have it.
            Kind::Published | Kind::Announced => self.held.add_anyway(cost),
        }
        self.messages.push_back(message);
        Ok(())
    }

    /// What its messages cost.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// The message that is first in line.
    pub fn front(&self) -> Option<&Message> {
        self.messages.get(self.handed)
    }

    /// The number of the message that is first in line.
    pub fn number(&self) -> u64 {
        self.gone + self.handed as u64 + 1
    }

    /// The message that is first in line is lent. The peer may acknowledge it before this
    /// server knows that the reply was written.
    pub fn lend(&mut self) {
        self.offered = self.offered.max(self.number());
    }

    /// The message with this number was handed over; `keep` it until it is acknowledged.
    /// If it was given before, the acknowledgement may already have come.
    pub fn hand_over(&mut self, number: u64, keep: bool) {
        let last = self.gone + self.messages.len() as u64;
        if number > last {
            // The mailbox was emptied.
            return;
        }
        self.delivered = self.delivered.max(number);
        if !keep {
            self.take_off(number);
        } else if let Ok(ahead) = usize::try_from(number.saturating_sub(self.gone)) {
            self.handed = self.handed.max(ahead);
        }
    }

    /// Whether the message that is first in line was handed over before.
    pub fn is_repeat(&self) -> bool {
        self.front().is_some() && self.number() <= self.delivered
    }

    /// The peer has all messages up to this number. A number that was never given
    /// acknowledges nothing: the client means another mailbox.
    pub fn acknowledge(&mut self, number: u64) {
        if number > self.delivered.max(self.offered) {
            return;
        }
        self.delivered = self.delivered.max(number);
        self.take_off(number);
    }

    /// Takes off all messages up to this number.
    fn take_off(&mut self, number: u64) {
        while self.gone < number {
            self.handed = self.handed.saturating_sub(1);
            self.pop();
        }
    }

    /// What was handed over and not acknowledged is first in line again.
    pub fn rewind(&mut self) {
        self.handed = 0;
    }

    fn pop(&mut self) {
        if let Some(message) = self.messages.pop_front() {
            self.held.remove(message.cost());
            self.gone += 1;
            if self.messages.is_empty() && self.messages.capacity() > KEPT_CAPACITY {
                self.messages = VecDeque::new();
            }
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.held.clear();
        self.messages = VecDeque::new();
        (self.handed, self.gone) = (0, 0);
        (self.delivered, self.offered) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(number: u32, size: usize) -> Message {
        Message {
            kind: Kind::Direct {
                from: PeerId::new(number + 1).unwrap(),
            },
            body: Bytes::from(vec![b'm'; size]),
            needs: 0,
        }
    }

    proptest! {
        #[test]
        fn a_mailbox_is_a_queue_that_refuses_what_would_exceed_its_bound(
            steps in prop::collection::vec(prop::option::of(0usize..2000), 1..200),
            bound in 256usize..8000,
        ) {
            let mut mailbox = Mailbox::new(&Arc::default());
            let mut model: VecDeque<(u32, usize)> = VecDeque::new();
            for (number, step) in (0u32..).zip(steps) {
                if let Some(size) = step {
                    let held: usize = model.iter().map(|(_, size)| size + MESSAGE_OVERHEAD_BYTES).sum();
                    let fits = held + size + MESSAGE_OVERHEAD_BYTES <= bound;
                    prop_assert_eq!(mailbox.push(message(number, size), bound).is_ok(), fits);
                    if fits {
                        model.push_back((number, size));
                    }
                } else {
                    if !model.is_empty() {
                        mailbox.hand_over(mailbox.number(), false);
                    }
                    model.pop_front();
                }
                let front = mailbox.front().map(|m| match m.kind {
                    Kind::Direct { from } => (from.get() - 1, m.body.len()),
                    Kind::Published | Kind::Announced => unreachable!("none was put in"),
                });
                prop_assert_eq!(front, model.front().copied());
            }
        }
    }

    /// One operation on a mailbox whose peer acknowledges.
    #[derive(Clone, Debug)]
    enum Step {
        Push,
        HandOver,
        Acknowledge(u64),
        Rewind,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Push),
            3 => Just(Step::HandOver),
            2 => (0u64..40).prop_map(Step::Acknowledge),
            1 => Just(Step::Rewind),
        ]
    }

    proptest! {
        #[test]
        fn what_is_not_acknowledged_comes_again_under_its_number(
            steps in prop::collection::vec(step(), 1..100),
        ) {
            let mut mailbox = Mailbox::new(&Arc::default());
            let (mut pushed, mut acknowledged, mut handed) = (0u32, 0u64, 0u64);
            let mut delivered = 0;
            for step in steps {
                match step {
                    Step::Push => {
                        mailbox.push(message(pushed, 0), usize::MAX).unwrap();
                        pushed += 1;
                    }
                    Step::HandOver => {
                        if mailbox.front().is_some() {
                            mailbox.hand_over(mailbox.number(), true);
                            handed += 1;
                            delivered = handed.max(delivered);
                        }
                    }
                    Step::Acknowledge(number) => {
                        mailbox.acknowledge(number);
                        if number <= delivered {
                            acknowledged = acknowledged.max(number);
                            handed = handed.max(acknowledged);
                        }
                    }
                    Step::Rewind => {
                        mailbox.rewind();
                        handed = acknowledged;
                    }
                }
                prop_assert_eq!(mailbox.number(), handed + 1);
                let front = mailbox.front().map(|m| match m.kind {
                    Kind::Direct { from } => u64::from(from.get()),
                    Kind::Published | Kind::Announced => unreachable!("none was put in"),
                });
                let next = Some(handed + 1).filter(|next| *next <= u64::from(pushed));
                prop_assert_eq!(front, next);
                prop_assert_eq!(mailbox.is_repeat(), next.is_some_and(|next| next <= delivered));
                prop_assert_eq!(mailbox.messages.len() as u64, u64::from(pushed) - acknowledged);
            }
        }
    }

    #[test]
    fn what_is_acknowledged_while_it_is_lent_again_does_not_count_for_the_next() {
        let mut mailbox = Mailbox::new(&Arc::default());
        for number in 0..2 {
            mailbox.push(message(number, 0), usize::MAX).unwrap();
        }
        mailbox.hand_over(1, true);
        mailbox.rewind();
        let lent = mailbox.number();
        mailbox.acknowledge(1);
        mailbox.hand_over(lent, true);
        assert_eq!(mailbox.number(), 2);
        assert!(!mailbox.is_repeat());
        mailbox.acknowledge(2);
        assert!(mailbox.front().is_some());
    }

    #[test]
    fn an_emptied_mailbox_gives_a_bursts_memory_back() {
        let mut mailbox = Mailbox::new(&Arc::default());
        for number in 0..1000 {
            mailbox.push(message(number, 0), usize::MAX).unwrap();
        }
        for _ in 0..1000 {
            mailbox.hand_over(mailbox.number(), false);
        }
        assert_eq!(mailbox.messages.capacity(), 0);
        assert_eq!(mailbox.held.bytes(), 0);
    }
}
