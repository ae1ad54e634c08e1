//! Why the peer list refuses what it is asked for.

use thiserror::Error;

/// Why an operation changed nothing.
///
/// [`Refusal::Unavailable`] is the exception: the operation may have been carried
/// out, and only its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A peer cannot sign in with an empty name.
    #[error("the name is empty")]
    NoName,
    /// [`HeartbeatOpts::max_peers`](super::HeartbeatOpts::max_peers) are signed in.
    #[error("the peer list is full")]
    Full,
    /// [`HeartbeatOpts::max_room_peers`](super::HeartbeatOpts::max_room_peers) are in the
    /// room.
    #[error("the room is full")]
    RoomFull,
    /// The address of the client has as many peers as
    /// [`HeartbeatOpts::max_peers_per_network`](super::HeartbeatOpts::max_peers_per_network)
    /// allows.
    #[error("the address has too many peers")]
    NetworkFull,
    /// Another peer holds the name, or this peer already has one.
    #[error("the name is taken")]
    NameTaken,
    /// The names that the peer holds and waits for exceed the bound of a mailbox.
    #[error("the peer holds too many names")]
    TooManyNames,
    /// The peer that asks is not signed in.
    #[error("the peer is not signed in")]
    UnknownPeer,
    /// The receiver is not signed in.
    #[error("the receiver is not signed in")]
    UnknownReceiver,
    /// The token does not belong to the peer.
    #[error("the token does not belong to the peer")]
    WrongToken,
    /// The peer belongs to another user, so that this one cannot come back as it.
    #[error("the peer belongs to another user")]
    OtherUser,
    /// The peer is protected, and its token was not shown.
    #[error("the peer is protected, and its token was not shown")]
    MissingToken,
    /// The receiver's mailbox is full.
    #[error("the receiver's mailbox is full")]
    MailboxFull,
    /// Clients make this server hold
    /// [`HeartbeatOpts::max_buffered_bytes`](super::HeartbeatOpts::max_buffered_bytes).
    #[error("the server is out of memory for its clients")]
    OutOfMemory,
    /// A message with a higher number was accepted from this sender before.
    #[error("a later message of this sender has been accepted")]
    OutOfOrder,
    /// The peer list is in Redis, which cannot be reached now.
    #[error("the peer list cannot be reached")]
    Unavailable,
}
