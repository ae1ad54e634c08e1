//! What doors hold: the peer list, whichever engine it has.

use std::{ops::Deref, sync::Arc};

#[cfg(feature = "redis")]
use super::{ClusterOpts, ConnectError, redis::RedisEngine};
use super::{Engine, HeartbeatOpts, RoomName, memory::MemoryEngine};

/// The list of signed-in peers, of a room or (without a room) the root list. Clones are the
/// same list; its operations are those of [`Engine`].
///
/// ```
/// use signal_http_heartbeat::{HeartbeatOpts, TimeoutPeerList};
/// use signal_http_heartbeat::peer_list::{Dialect, Identity, Refusal, SignInOpts};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Refusal> {
/// let list = TimeoutPeerList::new(HeartbeatOpts::default());
/// assert!(list.is_empty());
/// let opts = SignInOpts {
///     door: "mine",
///     dialect: Dialect::Listed,
///     protected: false,
///     has_socket: false,
///     identity: Identity::default(),
/// };
/// let alice = list.add_peer(Some("alice"), opts).await?;
/// assert_eq!(list.peer_ids(), [alice.id]);
/// assert_eq!(list.format(), "alice,1,1\n");
/// assert_eq!(list.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TimeoutPeerList(Arc<dyn Engine>);

impl TimeoutPeerList {
    /// Makes an empty list in this process, and the collector that removes its stale
    /// peers.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if `gc_interval` is zero.
    pub fn new(opts: HeartbeatOpts) -> Self {
        Self(Arc::new(MemoryEngine::new(opts)))
    }

    /// Joins the list that lives in Redis, as one more node.
    #[cfg(feature = "redis")]
    pub async fn connect(opts: HeartbeatOpts, cluster: &ClusterOpts) -> Result<Self, ConnectError> {
        let engine = RedisEngine::connect(opts, cluster).await?;
        Ok(Self(Arc::new(engine)))
    }

    /// The list of a room: a list of its own, whose peers see and reach only each other.
    /// A room begins with its first peer and ends with its last.
    ///
    /// ```
    /// # use signal_http_heartbeat::{HeartbeatOpts, TimeoutPeerList};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let root = TimeoutPeerList::new(HeartbeatOpts::default());
    /// let lobby = root.room(&"lobby".parse()?);
    /// assert_eq!(lobby.name().map(|name| name.as_str()), Some("lobby"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn room(&self, name: &RoomName) -> Self {
        Self(self.0.room(name))
    }
}

impl Deref for TimeoutPeerList {
    type Target = dyn Engine;

    fn deref(&self) -> &dyn Engine {
        &*self.0
    }
}
