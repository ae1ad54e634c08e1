//! Which version of the protocols a client speaks.

/// The version of the Engine.IO protocol that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// socket.io-client 1 and 2. The client pings.
    V3,
    /// socket.io-client 3 and 4. The server pings.
    V4,
}
