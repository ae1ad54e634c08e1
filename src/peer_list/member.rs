//! Members of the group, as every list and the doors speak of them.

use std::sync::Arc;

use bytes::Bytes;

use super::{PeerId, PeerToken};

/// Which of the protocols that share the group a member has shown to speak.
/// Its broadcasts reach those of the same family, and those that have shown
/// none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Members have names and send to each other by them.
    Names,
    /// Members meet in rooms.
    Rooms,
}

/// How a member becomes a peer of the list.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// What others find out about it, in the form of the group's protocol.
    pub card: Bytes,
    /// Broadcast when it is in the list.
    pub hello: Bytes,
    /// Broadcast when it is removed, for whatever reason.
    pub farewell: Bytes,
}

/// A peer of the list, as the group knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its id.
    pub id: PeerId,
    /// Its name, as it stands in the list.
    pub name: Arc<str>,
    /// The [`Introduction::card`] of a member of the group.
    pub card: Option<Bytes>,
}

/// A member of the group, as
/// [`TimeoutPeerList::add_member`](super::TimeoutPeerList::add_member) found it.
#[derive(Clone, Debug)]
pub struct Added {
    /// Its id.
    pub id: PeerId,
    /// What it proves with that it is itself.
    pub token: PeerToken,
    /// It was known by its key, and is the same again.
    pub resumed: bool,
    /// The name that it is in the list by, if it is.
    pub name: Option<Arc<str>>,
}
