//! What a peer list counts, for the metrics.

use std::time::Duration;

use super::{Reason, Refusal};
use crate::counter::{Counter, Gauge};

/// What happened to the peers and messages of this process since it began.
#[derive(Debug, Default)]
pub struct ListCounts {
    /// Peers that signed in.
    pub sign_ins: Counter,
    /// Peers that came back with their token or key.
    pub resumes: Counter,
    removals: [Counter; Reason::ALL.len()],
    /// Messages that were accepted, each once, however many peers hear it; those that a client
    /// sent again are accepted again.
    pub accepted: Counter,
    /// Messages that were handed over to a peer.
    pub delivered: Counter,
    refused: [Counter; REFUSALS.len()],
    unread: [Counter; Unread::ALL.len()],
    /// Lists, and lines of the list, that were handed over to a peer.
    pub updates: Counter,
    /// The sockets that are open.
    pub sockets: Gauge,
}

/// Why messages are refused by the list. The other names are those of [`Unread`].
const REFUSALS: [(Refusal, &str); 6] = [
    (Refusal::UnknownPeer, "unknown_sender"),
    (Refusal::UnknownReceiver, "unknown_receiver"),
    (Refusal::MailboxFull, "mailbox_full"),
    (Refusal::OutOfMemory, "out_of_memory"),
    (Refusal::OutOfOrder, "out_of_order"),
    (Refusal::Unavailable, "unavailable"),
];

/// Why a message did not even reach the list: its door refused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is larger than messages may be.
    TooLarge,
    /// It did not come whole in time.
    TooSlow,
    /// There was no memory for what had come of it.
    OutOfMemory,
}

impl Unread {
    const ALL: [(Unread, &'static str); 3] = [
        (Unread::TooLarge, "too_large"),
        (Unread::TooSlow, "too_slow"),
        (Unread::OutOfMemory, "unread_out_of_memory"),
    ];
}

impl ListCounts {
    /// A door refused a message while it read it.
    pub fn unread(&self, why: Unread) {
        let mut all = Unread::ALL.iter().zip(&self.unread);
        if let Some((_, counter)) = all.find(|((its, _), _)| *its == why) {
            counter.count();
        }
    }

    /// A peer was removed.
    pub(super) fn removed(&self, reason: Reason) {
        let mut all = Reason::ALL.iter().zip(&self.removals);
        if let Some((_, counter)) = all.find(|((its, _), _)| *its == reason) {
            counter.count();
        }
    }

    /// How often peers were removed, for each reason.
    pub fn removals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let all = Reason::ALL.iter().zip(&self.removals);
        all.map(|((_, name), counter)| (*name, counter.get()))
    }

    /// A message was accepted, or refused. A wrong token is counted as a request, not here.
    pub(super) fn sent<T>(&self, sent: &Result<T, Refusal>) {
        match sent {
            Ok(_) => self.accepted.count(),
            Err(refusal) => {
                let mut all = REFUSALS.iter().zip(&self.refused);
                if let Some((_, counter)) = all.find(|((its, _), _)| its == refusal) {
                    counter.count();
                }
            }
        }
    }

    /// How often messages were refused, for each reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let refused = REFUSALS.iter().zip(&self.refused);
        let refused = refused.map(|((_, name), counter)| (*name, counter.get()));
        let unread = Unread::ALL.iter().zip(&self.unread);
        refused.chain(unread.map(|((_, name), counter)| (*name, counter.get())))
    }
}

/// What there is now, in all rooms together. A list in Redis is the same for all its nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The doors by which peers came in, and how many came in by each.
    pub peers: Vec<(String, u64)>,
    /// The rooms that have a peer.
    pub rooms: u64,
}

/// A part of Redis that holds the lists of some rooms, as this process sees it.
#[derive(Clone, Copy, Debug)]
pub struct ShardState {
    /// Whether it can be reached now.
    pub is_reachable: bool,
    /// How often it was asked something.
    pub calls: u64,
    /// How many of those questions had no answer in time.
    pub failures: u64,
    /// How long all answers took together.
    pub time: Duration,
}
