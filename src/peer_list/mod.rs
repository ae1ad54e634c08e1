//! The peer list: which peers are signed in, what waits for them, and which are stale.
//!
//! This is the domain. It knows no HTTP, no socket and no JSON. Doors translate their
//! protocols into the operations of [`Engine`]; all promises about order, causality,
//! liveness and limits are kept here.
//!
//! | file | what it has |
//! |---|---|
//! | `engine.rs` | the contract: every operation, described once |
//! | `list.rs` | what doors hold |
//! | `memory/`, `redis/` | the two engines |
//! | the others | what both engines share |

mod buffered;
mod counts;
mod delivery;
mod engine;
mod event_log;
mod events;
mod lines;
mod list;
mod memory;
mod network;
mod page;
mod peer;
#[cfg(feature = "redis")]
mod redis;
mod refusal;
mod request;
mod room;
mod roster;
mod rules;
mod subscription;
mod telling;
mod token;
mod unlisted;

use std::time::Duration;

pub(crate) use buffered::UNCOUNTED;
pub use buffered::{Buffered, Cost, Held};
pub use counts::{ListCounts, ShardState, Tally, Unread};
pub use delivery::{Delivery, News, Receipt};
pub use engine::{
    Channels, Engine, JoinOpts, Mail, OpenRequest, OpenSocket, Peers, Presence, PublishOpts, Rooms,
    SendOpts, SocketOpts, WaitOpts, Watching,
};
pub use event_log::{EVENTS_KEPT, LogEvents, Missed};
pub use events::{PeerEvent, PeerInfo, Reason};
pub use lines::Lines;
pub use list::TimeoutPeerList;
pub(crate) use network::{OfNetwork, PerNetwork, network_of};
pub(crate) use peer::name_for_list;
pub use peer::{Dialect, Identity, MAX_NAME_BYTES, PeerId, SignInOpts};
#[cfg(feature = "redis")]
pub use redis::{ClientIdentity, ClusterOpts, ConnectError};
pub use refusal::Refusal;
pub use request::{Caller, Link, Proof};
pub use room::{MAX_ROOM_NAME_BYTES, RoomInfo, RoomName, RoomNameError};
pub(crate) use rules::STANDSTILL;
pub use subscription::{EventCursor, PeerEvents};
pub use token::PeerToken;
pub use unlisted::{Added, Card, DoorCard, Listing, Reached, Unlisted};

/// What a message costs its mailbox besides its own bytes, so that a flood of
/// empty messages is bounded too (an entry, its allocation and its share of
/// the queue take about this much).
pub const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// When peers are stale, and how much the list holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatOpts {
    /// How long after its last heartbeat a peer is stale; a peer that never
    /// sent one is stale when it has had no request open for this long.
    /// Default: 30 s.
    pub timeout_period: Duration,
    /// How often stale peers are removed. Not zero. Default: 15 s.
    pub gc_interval: Duration,
    /// Whether every request counts as a heartbeat, and an open wait as one
    /// that goes on: for browsers, which slow the timers of hidden pages to
    /// one a minute. Default: false.
    pub any_request: bool,
    /// The bound of each peer's mailbox in bytes, where each message counts
    /// [`MESSAGE_OVERHEAD_BYTES`] more than its length. Default: 2 MiB.
    pub max_pending_bytes: usize,
    /// How many peers can be signed in, in all rooms together. Default: 100,000.
    pub max_peers: usize,
    /// How many peers a room can have; the root list is not bounded by this. None: no
    /// limit of its own. Default: None.
    pub max_room_peers: Option<usize>,
    /// How many peers one address (with IPv6 one network of 64 bits) can have, in all rooms
    /// together; with several shards in Redis, in each of them. A peer that comes back from
    /// another address is counted where it came from first. None: any number. Default: None.
    pub max_peers_per_network: Option<usize>,
    /// How much memory clients can make this process hold, in bytes ([`Buffered`]). When
    /// little is left, peers that hold much and read nothing are removed; when nothing is
    /// left, messages and sign-ins are refused. Default: 1 GiB.
    pub max_buffered_bytes: usize,
}

impl Default for HeartbeatOpts {
    fn default() -> Self {
        Self {
            timeout_period: Duration::from_secs(30),
            gc_interval: Duration::from_secs(15),
            any_request: false,
            max_pending_bytes: 2 * 1024 * 1024,
            max_peers: 100_000,
            max_room_peers: None,
            max_peers_per_network: None,
            max_buffered_bytes: 1 << 30,
        }
    }
}

/// A peer that has signed in.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// Its id.
    pub id: PeerId,
    /// The token that proves that a request is this peer's.
    pub token: PeerToken,
    /// The list at that moment. It begins with the peer's own line, from which some
    /// clients take their id.
    pub list: Lines,
}

#[cfg(test)]
#[cfg(feature = "redis")]
mod contract;
