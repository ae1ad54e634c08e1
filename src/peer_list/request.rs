//! The peer that a request acts as, and the connection that the request came on.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{Engine, PeerId, PeerToken};

/// What a request proves with that it may act as its peer.
#[derive(Clone, Debug)]
pub enum Proof {
    /// It shows no token, and may act as peers that are not protected.
    Nothing,
    /// It shows this one.
    Token(PeerToken),
    /// It needs none: it is the request that signed the peer in, or the server itself acts
    /// for the peer.
    Trusted,
}

impl From<Option<PeerToken>> for Proof {
    fn from(token: Option<PeerToken>) -> Self {
        token.map_or(Self::Nothing, Self::Token)
    }
}

/// Who makes a request, and what that shows of it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The peer that it acts as.
    pub id: PeerId,
    /// What it proves that with.
    pub proof: Proof,
    /// The connection that the request came on, if the door can see it and it
    /// stays open after the answer.
    pub link: Option<Arc<Link>>,
    /// Its client closes the connection after the answer and will be back;
    /// until then, for two seconds at most, it still counts as connected.
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

    /// Notes that its peer is the last that used its connection. `list`: the address of the
    /// engine's insides, by which two lists of one process are told apart.
    pub(super) fn uses_link<E: Engine + Clone>(&self, engine: &E, list: usize) {
        if let Some(link) = &self.link {
            link.used_by(engine, list, self.id);
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
    engine: Box<dyn Engine>,
    /// Stays the address of this list alone while the engine is kept.
    list: usize,
    id: PeerId,
}

impl Link {
    /// A connection that nobody has used yet.
    pub fn new() -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Self {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            is_suspendable: AtomicBool::new(false),
            last_used_by: Mutex::new(None),
        }
    }

    /// Whether the request that is open on it may wait for long, so that a server can do
    /// without what it keeps for requests that are answered soon. A server says no when a
    /// request begins, and a door yes.
    pub fn set_suspendable(&self, is: bool) {
        self.is_suspendable.store(is, Ordering::Relaxed);
    }

    /// See [`Link::set_suspendable`].
    pub fn is_suspendable(&self) -> bool {
        self.is_suspendable.load(Ordering::Relaxed)
    }

    fn used_by<E: Engine + Clone>(&self, engine: &E, list: usize, id: PeerId) {
        let mut last = self.last_used_by.lock();
        if last
            .as_ref()
            .is_some_and(|last| (last.list, last.id) == (list, id))
        {
            return;
        }
        let before = last.replace(User {
            engine: Box::new(engine.clone()),
            list,
            id,
        });
        drop(last);
        self.lost_for(before);
    }

    fn lost_for(&self, user: Option<User>) {
        if let Some(User { engine, id, .. }) = user {
            engine.link_lost(id, self.number);
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
