//! What happens to peers, as subscribers hear of it.

use std::{borrow::Cow, fmt, sync::Arc, time::SystemTime};

use super::{Identity, PeerId, RoomName};

/// A peer as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its id.
    pub id: PeerId,
    /// The room that it is in. None: the root list.
    pub room: Option<RoomName>,
    /// Its name, as it stands in the list.
    pub name: Arc<str>,
    /// The name of the door that it last came in by, such as `http`.
    pub door: Cow<'static, str>,
    /// Its STATUS in the list: whether a request or socket of it is open, or it is
    /// expected to be back at once.
    pub connected: bool,
    /// When it signed in.
    pub since: SystemTime,
    /// When a request of it was last open; now, if one is open.
    pub last_seen: SystemTime,
    /// Whether it has ever sent a heartbeat.
    pub heartbeat: bool,
    /// How many more viewers it can serve, if it has said so (the capacity extension of
    /// 3DStreamingToolkit).
    pub capacity: Option<u64>,
    /// Who is behind it.
    pub identity: Identity,
}

/// What subscribers of the list hear.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerEvent {
    /// A peer signed in.
    PeerAdded(PeerInfo),
    /// A peer that is still in the list signed in again, with its token.
    PeerReconnected(PeerInfo),
    /// A peer is no longer in the list.
    PeerRemoved {
        /// The peer.
        peer: PeerInfo,
        /// Why it was removed.
        reason: Reason,
    },
}

impl PeerEvent {
    /// The peer that the event is about.
    pub fn peer(&self) -> &PeerInfo {
        match self {
            Self::PeerAdded(peer)
            | Self::PeerReconnected(peer)
            | Self::PeerRemoved { peer, .. } => peer,
        }
    }
}

/// Why a peer was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The peer signed out.
    SignedOut,
    /// The collector found it stale, or its socket was silent for too long.
    TimedOut,
    /// Its socket closed.
    Closed,
    /// Its socket is open, but the peer does not read; or it reads nothing while clients make
    /// the server hold almost as much as it may.
    NotReading,
    /// The operator removed it.
    Kicked,
    /// The server stopped.
    Shutdown,
}

impl Reason {
    pub(super) const ALL: [(Reason, &'static str); 6] = [
        (Reason::SignedOut, "signed_out"),
        (Reason::TimedOut, "timed_out"),
        (Reason::Closed, "closed"),
        (Reason::NotReading, "not_reading"),
        (Reason::Kicked, "kicked"),
        (Reason::Shutdown, "shutdown"),
    ];

    /// Reads a reason from its name.
    #[cfg(feature = "redis")]
    pub(super) fn read(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find_map(|(reason, its)| (its == name).then_some(reason))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Self::ALL.into_iter();
        let name = all.find_map(|(reason, name)| (reason == *self).then_some(name));
        f.write_str(name.unwrap_or_default())
    }
}

/// An event of some peer, for tests.
#[cfg(test)]
pub(super) fn test_event(id: u32) -> PeerEvent {
    PeerEvent::PeerAdded(PeerInfo {
        room: None,
        id: PeerId::new(id).unwrap(),
        name: "a".into(),
        door: "http".into(),
        connected: true,
        since: SystemTime::UNIX_EPOCH,
        last_seen: SystemTime::UNIX_EPOCH,
        heartbeat: false,
        capacity: None,
        identity: Identity::default(),
    })
}
