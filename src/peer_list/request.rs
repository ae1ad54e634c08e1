//! The peer that a request acts as, and the connection that the request came on.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{PeerId, PeerToken};

/// What a request shows as proof that it may act as its peer.
#[derive(Clone, Debug)]
pub enum Proof {
    /// The request shows no token, and may act only as a peer that is not protected.
    Nothing,
    /// The request shows this token.
    Token(PeerToken),
    /// No proof is needed: the request has just signed the peer in, or the server itself
    /// acts for the peer.
    Trusted,
}

impl Proof {
    /// Whether both show the same, in constant time for tokens.
    #[cfg(feature = "redis")]
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nothing, Self::Nothing) | (Self::Trusted, Self::Trusted) => true,
            (Self::Token(own), Self::Token(other)) => own.is(other),
            _ => false,
        }
    }
}

impl From<Option<PeerToken>> for Proof {
    fn from(token: Option<PeerToken>) -> Self {
        token.map_or(Self::Nothing, Self::Token)
    }
}

/// The peer that makes a request, and the connection of the request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The peer that it acts as.
    pub id: PeerId,
    /// The proof that it may.
    pub proof: Proof,
    /// The connection that the request came on, if the door can see it and it
    /// stays open after the answer.
    pub link: Option<Arc<Link>>,
    /// The client closes the connection after the answer and will connect again; until
    /// then, for at most two seconds, the peer still counts as connected.
    pub lingers: bool,
}

impl Caller {
    /// The token that it shows.
    pub(super) fn token(&self) -> Option<&PeerToken> {
        match &self.proof {
            Proof::Token(token) => Some(token),
            Proof::Nothing | Proof::Trusted => None,
        }
    }

    /// Notes that its peer is the last that used its connection. `list`: a number that this
    /// list has alone, for as long as what `lost` makes is kept. That is told the peer, and
    /// the number of the connection, when it is closed or another peer uses it.
    pub(super) fn uses_link<L>(&self, list: usize, lost: impl FnOnce() -> L)
    where
        L: FnOnce(PeerId, u64) + Send + 'static,
    {
        if let Some(link) = &self.link {
            link.used_by(list, self.id, lost);
        }
    }
}

/// A connection that a door sees opening and closing. While it is open, the
/// last peer that used it counts as connected: the last one only, because
/// proxies send the requests of many peers over one connection.
///
/// The door drops it when the connection is closed.
pub struct Link {
    pub(super) number: u64,
    is_suspendable: AtomicBool,
    last_used_by: Mutex<Option<User>>,
}

/// A peer that uses a connection.
struct User {
    list: usize,
    id: PeerId,
    lost: Box<dyn FnOnce(PeerId, u64) + Send>,
}

impl Link {
    /// A connection that no peer has used yet.
    pub fn new() -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            is_suspendable: AtomicBool::new(false),
            last_used_by: Mutex::new(None),
        }
    }

    /// Sets whether the open request may wait for long, so that the server can free what it
    /// keeps for requests that are answered soon. The server sets false when a request
    /// begins; a door that waits sets true.
    pub fn set_suspendable(&self, is: bool) {
        self.is_suspendable.store(is, Ordering::Relaxed);
    }

    /// See [`Link::set_suspendable`].
    pub fn is_suspendable(&self) -> bool {
        self.is_suspendable.load(Ordering::Relaxed)
    }

    fn used_by<L>(&self, list: usize, id: PeerId, lost: impl FnOnce() -> L)
    where
        L: FnOnce(PeerId, u64) + Send + 'static,
    {
        let mut last = self.last_used_by.lock();
        if last
            .as_ref()
            .is_some_and(|last| (last.list, last.id) == (list, id))
        {
            return;
        }
        let before = last.replace(User {
            list,
            id,
            lost: Box::new(lost()),
        });
        drop(last);
        self.lost_for(before);
    }

    fn lost_for(&self, user: Option<User>) {
        if let Some(User { id, lost, .. }) = user {
            lost(id, self.number);
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.number)
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let last = self.last_used_by.get_mut().take();
        self.lost_for(last);
    }
}
