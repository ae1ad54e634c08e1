//! What a peer hears, and the loan under which it is handed over.

use std::fmt;

use bytes::Bytes;

use super::{Lines, PeerId, Reason};

/// What a peer hears when it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A peer sent this one a message.
    Message {
        /// The sender.
        from: PeerId,
        /// The message, untouched.
        body: Bytes,
    },
    /// A peer published this in a channel, or sent it to this peer's alias.
    Published(Bytes),
    /// This name, which the peer waits for, is announced.
    Announced(Bytes),
    /// Peers joined or left. To the listed dialect this is the whole list, to
    /// the bare dialect the line of one change.
    Status(Lines),
    /// The wait is over and nothing happened. The bytes are harmless to the peer: the
    /// current list, or in the bare dialect (which takes a list for news of one peer) a
    /// lone line feed.
    Nothing(Lines),
    /// The peer was removed from the list.
    Removed(Reason),
    /// Told to a socket: another, or a sign-in, has taken over the peer.
    Replaced,
}

/// News on loan. [`Delivery::done`] says that the peer has them; a delivery
/// that is dropped instead leaves them first in line for the next wait.
/// While they are on loan, no other wait is given anything.
#[derive(Debug)]
pub struct Delivery {
    news: News,
    number: u64,
    lease: Option<Box<dyn Lease>>,
}

/// What an engine does when a delivery is over. Dropping a lease that is not committed ends
/// the loan: the news stay first in line.
pub(super) trait Lease: fmt::Debug + Send + Sync {
    /// The news reached the peer: they are taken off for good.
    fn commit(self: Box<Self>);

    /// The news are in a reply that is about to be written. None: they are taken off now.
    fn into_receipt(self: Box<Self>) -> Option<Receipt>;
}

impl Delivery {
    /// A delivery that ends a wait, with nothing on loan.
    pub(super) fn last(news: News) -> Self {
        Self {
            news,
            number: 0,
            lease: None,
        }
    }

    pub(super) fn lent(news: News, number: u64, lease: impl Lease + 'static) -> Self {
        Self {
            news,
            number,
            lease: Some(Box::new(lease)),
        }
    }

    /// What is delivered.
    pub fn news(&self) -> &News {
        &self.news
    }

    /// The number of the message, if it is one: messages to a peer are
    /// numbered from 1, without gaps.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The news are in a reply that is about to be written. A list in this process takes
    /// them off now, because it ends with the connection. Others take them off when the
    /// receipt says so, and keep them if it is dropped before.
    pub fn receipt(self) -> Option<Receipt> {
        self.lease.and_then(Lease::into_receipt)
    }

    /// The news reached the peer: they are taken off for good.
    pub fn done(self) {
        if let Some(lease) = self.lease {
            lease.commit();
        }
    }
}

/// News on loan that are being written.
pub struct Receipt(Box<dyn FnOnce() + Send>);

impl Receipt {
    /// `written`: what is done when the news are written. If it is dropped instead, they
    /// stay first in line.
    #[cfg(feature = "redis")]
    pub(super) fn new(written: impl FnOnce() + Send + 'static) -> Self {
        Self(Box::new(written))
    }

    /// The news are written: they are taken off.
    pub fn written(self) {
        (self.0)();
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt")
    }
}
