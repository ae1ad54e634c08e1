//! What waits for one peer: its messages, first in first out, bounded in bytes.

use std::collections::VecDeque;

use bytes::Bytes;

use super::PeerId;

/// What a message costs its mailbox besides its own bytes, so that a flood of
/// empty messages is bounded too (an entry, its allocation and its share of
/// the queue take about this much).
pub const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// Above this many entries an emptied queue gives its memory back: a burst
/// must not stay paid for by a peer that is quiet afterwards.
const KEPT_CAPACITY: usize = 64;

/// A message on its way to a peer.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// Who sent it.
    pub from: PeerId,
    /// Its bytes, untouched.
    pub body: Bytes,
    /// The version of the peer list that first named the sender. A receiver
    /// hears of that version before it gets the message.
    pub needs: u64,
}

impl Message {
    fn cost(&self) -> usize {
        self.body.len() + MESSAGE_OVERHEAD_BYTES
    }
}

/// The mailbox would exceed its bound.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug, Default)]
pub(super) struct Mailbox {
    messages: VecDeque<Message>,
    /// The cost of all of `messages`, in bytes.
    bytes: usize,
}

impl Mailbox {
    /// Puts a message last in line, unless that would exceed `bound` bytes.
    pub fn push(&mut self, message: Message, bound: usize) -> Result<(), Full> {
        let bytes = self.bytes + message.cost();
        if bytes > bound {
            return Err(Full);
        }
        self.bytes = bytes;
        self.messages.push_back(message);
        Ok(())
    }

    /// The message that is first in line.
    pub fn front(&self) -> Option<&Message> {
        self.messages.front()
    }

    /// Takes the first message off.
    pub fn pop(&mut self) {
        if let Some(message) = self.messages.pop_front() {
            self.bytes -= message.cost();
            if self.messages.is_empty() && self.messages.capacity() > KEPT_CAPACITY {
                self.messages = VecDeque::new();
            }
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(number: u32, size: usize) -> Message {
        Message {
            from: PeerId::new(number + 1).unwrap(),
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
            let mut mailbox = Mailbox::default();
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
                    mailbox.pop();
                    model.pop_front();
                }
                let front = mailbox.front().map(|m| (m.from.get() - 1, m.body.len()));
                prop_assert_eq!(front, model.front().copied());
            }
        }
    }

    #[test]
    fn an_emptied_mailbox_gives_a_bursts_memory_back() {
        let mut mailbox = Mailbox::default();
        for number in 0..1000 {
            mailbox.push(message(number, 0), usize::MAX).unwrap();
        }
        for _ in 0..1000 {
            mailbox.pop();
        }
        assert_eq!(mailbox.messages.capacity(), 0);
        assert_eq!(mailbox.bytes, 0);
    }
}
