//! How the doors answer.

use std::{sync::Arc, time::Duration};

use super::{AllowedRooms, Cors, DoorCounts, TrustedProxies};
use crate::access::Access;
#[cfg(feature = "ice")]
use crate::ice::IceServers;

/// How the doors answer. Sockets follow what concerns them: origins, tokens and sizes.
#[derive(Clone, Debug)]
pub struct SignalOpts {
    /// Which pages of other origins may use the server. Default: all.
    pub enable_cors: Cors,
    /// A wait without news ends after this long, less a random part of up to a fifth, so
    /// that peers told together do not return together. None: never. Default: 25 s,
    /// because proxies cut at 30 s.
    pub wait_timeout: Option<Duration>,
    /// Whether each request that acts as a peer has to show the token of that peer. If
    /// not, only a wrong token is refused, and a missing one for a protected peer.
    /// Default: false, because most clients do not know tokens.
    pub require_tokens: bool,
    /// How often clients are told to send heartbeats. None: every half of
    /// [`HeartbeatOpts::timeout_period`]. Default: None.
    ///
    /// [`HeartbeatOpts::timeout_period`]: crate::peer_list::HeartbeatOpts
    pub heartbeat_interval: Option<Duration>,
    /// The largest message, in bytes. The mailbox bound of the peer list,
    /// [`HeartbeatOpts::max_pending_bytes`], must have room for one with its
    /// overhead. Default: 512 KiB.
    ///
    /// [`HeartbeatOpts::max_pending_bytes`]: crate::peer_list::HeartbeatOpts
    pub max_message_bytes: usize,
    /// Which rooms clients may use. Default: all.
    pub rooms: Arc<AllowedRooms>,
    /// Who may come in. Default: everybody. If not everybody may, [`require_tokens`] should be
    /// set: ids can be guessed.
    ///
    /// [`require_tokens`]: SignalOpts::require_tokens
    pub access: Access,
    /// The proxies that are believed when they say whose request they pass on. Default: none.
    pub proxies: Arc<TrustedProxies>,
    /// Whether operators see the addresses of clients, in events, in the API and in the log.
    /// Default: true.
    pub shows_addresses: bool,
    /// What the doors count. Default: nothing so far.
    pub counts: Arc<DoorCounts>,
    /// The ICE servers that peers are told of. Default: none.
    #[cfg(feature = "ice")]
    pub ice_servers: Arc<IceServers>,
}

impl Default for SignalOpts {
    fn default() -> Self {
        Self {
            enable_cors: Cors::AnyOrigin,
            wait_timeout: Some(Duration::from_secs(25)),
            require_tokens: false,
            heartbeat_interval: None,
            max_message_bytes: 512 * 1024,
            rooms: Arc::default(),
            access: Access::default(),
            proxies: Arc::default(),
            shows_addresses: true,
            counts: Arc::default(),
            #[cfg(feature = "ice")]
            ice_servers: Arc::default(),
        }
    }
}
