//! What a peer hears, and the loan under which it is handed over.

use bytes::Bytes;

use super::{Lines, PeerId, Reason, cluster, local};

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
    /// A member of the same group sent this, to this one or to all.
    GroupMessage(Bytes),
    /// The room of that name, which this member asked for, exists.
    Room(Bytes),
    /// Peers joined or left. To the listed dialect this is the whole list, to
    /// the bare dialect the line of one change.
    Status(Lines),
    /// The wait is over and nothing happened. The bytes are what such a peer
    /// takes no harm from: the list as it is, or to the bare dialect (which
    /// reads a list as the news of one peer) a lone line feed.
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
    lease: Option<Lease>,
}

/// What is committed when a delivery is done.
#[derive(Debug)]
pub(super) enum Lease {
    Local(local::Lease),
    Cluster(Box<cluster::Lease>),
}

impl From<local::Lease> for Lease {
    fn from(lease: local::Lease) -> Self {
        Self::Local(lease)
    }
}

impl From<cluster::Lease> for Lease {
    fn from(lease: cluster::Lease) -> Self {
        Self::Cluster(Box::new(lease))
    }
}

impl Delivery {
    /// What ends a wait: nothing is on loan.
    pub(super) fn last(news: News) -> Self {
        Self {
            news,
            number: 0,
            lease: None,
        }
    }

    pub(super) fn lent(news: News, number: u64, lease: impl Into<Lease>) -> Self {
        Self {
            news,
            number,
            lease: Some(lease.into()),
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

    /// The news are in a reply that is about to be written. A list in this
    /// process takes them off now: it ends with the connection. Others do when
    /// the receipt says so, and keep them if it is dropped before.
    pub fn receipt(self) -> Option<Receipt> {
        match self.lease {
            Some(Lease::Local(lease)) => {
                lease.commit();
                None
            }
            Some(Lease::Cluster(lease)) => Some(Receipt(lease)),
            None => None,
        }
    }

    /// The news reached the peer: they are taken off for good.
    pub async fn done(self) {
        match self.lease {
            Some(Lease::Local(lease)) => lease.commit(),
            Some(Lease::Cluster(lease)) => lease.commit(),
            None => {}
        }
    }
}

/// News on loan that are being written.
#[derive(Debug)]
pub struct Receipt(Box<cluster::Lease>);

impl Receipt {
    /// They are written: they are taken off.
    pub fn written(self) {
        self.0.commit_later();
    }
}
