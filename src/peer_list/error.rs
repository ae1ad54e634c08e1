//! Why a verb of the peer list came to nothing.

use std::fmt;

/// No peer with that id is signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownPeer;

/// The token is not that of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongToken;

/// Why a peer could not come back as itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeError {
    /// It is not in the list any more: it may sign in as anybody may.
    Gone,
    /// The token is not that of the peer.
    WrongToken,
    /// The list cannot be reached.
    Unavailable,
}

/// Why a request of a peer came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerError {
    /// No peer with that id is signed in.
    Unknown,
    /// The token is not that of the peer.
    WrongToken,
    /// The peer is protected, and no token was shown.
    MissingToken,
    /// The list cannot be reached.
    Unavailable,
}

/// The list is on another machine and cannot be reached at present. What was
/// asked for may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable;

/// Why a peer could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddPeerError {
    /// Its name is empty.
    NoName,
    /// [`HeartbeatOpts::max_peers`](super::HeartbeatOpts::max_peers) are signed
    /// in.
    Full,
    /// The list cannot be reached.
    Unavailable,
}

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The sender is not signed in.
    UnknownSender,
    /// The receiver is not signed in.
    UnknownReceiver,
    /// The receiver's mailbox is full.
    MailboxFull,
    /// The message has a lower number than the last of its sender.
    OutOfOrder,
    /// The token is not that of the sender.
    WrongToken,
    /// The sender is protected, and no token was shown.
    MissingToken,
    /// The list cannot be reached.
    Unavailable,
}

impl fmt::Display for UnknownPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer is not signed in")
    }
}

const MISSING_TOKEN: &str = "the peer is protected, and its token was not shown";

impl fmt::Display for WrongToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the token is not that of the peer")
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer list cannot be reached")
    }
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerError::Unknown => UnknownPeer.fmt(f),
            PeerError::WrongToken => WrongToken.fmt(f),
            PeerError::MissingToken => f.write_str(MISSING_TOKEN),
            PeerError::Unavailable => Unavailable.fmt(f),
        }
    }
}

impl fmt::Display for ResumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResumeError::Gone => UnknownPeer.fmt(f),
            ResumeError::WrongToken => WrongToken.fmt(f),
            ResumeError::Unavailable => Unavailable.fmt(f),
        }
    }
}

impl fmt::Display for AddPeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddPeerError::NoName => "the peer has no name",
            AddPeerError::Full => "the peer list is full",
            AddPeerError::Unavailable => return Unavailable.fmt(f),
        })
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::UnknownSender => "the sender is not signed in",
            SendError::UnknownReceiver => "the receiver is not signed in",
            SendError::MailboxFull => "the receiver's mailbox is full",
            SendError::OutOfOrder => "a later message of the sender was accepted already",
            SendError::WrongToken => return WrongToken.fmt(f),
            SendError::MissingToken => MISSING_TOKEN,
            SendError::Unavailable => return Unavailable.fmt(f),
        })
    }
}

impl std::error::Error for UnknownPeer {}
impl std::error::Error for WrongToken {}
impl std::error::Error for ResumeError {}
impl std::error::Error for AddPeerError {}
impl std::error::Error for SendError {}
impl std::error::Error for Unavailable {}
impl std::error::Error for PeerError {}

impl From<UnknownPeer> for PeerError {
    fn from(_: UnknownPeer) -> Self {
        Self::Unknown
    }
}

impl From<WrongToken> for PeerError {
    fn from(_: WrongToken) -> Self {
        Self::WrongToken
    }
}

impl From<Unavailable> for PeerError {
    fn from(_: Unavailable) -> Self {
        Self::Unavailable
    }
}
