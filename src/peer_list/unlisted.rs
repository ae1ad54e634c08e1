//! Peers that come in before they are in the list, and how they are listed.

use std::sync::Arc;

use bytes::Bytes;

use super::{Identity, PeerId, PeerToken};

/// A peer that is about to come in unlisted.
#[derive(Clone, Copy, Debug)]
pub struct Unlisted<'a> {
    /// A secret that the client made, with which it can come back. With a key, the peer
    /// keeps its mailbox after its socket has closed, until it is stale, and acknowledges
    /// what it gets.
    pub key: Option<&'a str>,
    /// The name of its door, as events and the operator's API show it. It has no spaces.
    pub door: &'static str,
    /// The channels that it is in from the start, at no cost.
    pub channels: &'a [&'a str],
    /// Who is behind it.
    pub identity: &'a Identity,
}

/// A peer that came in unlisted, as
/// [`Channels::add_unlisted`](super::Channels::add_unlisted) found it.
#[derive(Clone, Debug)]
pub struct Added {
    /// Its id.
    pub id: PeerId,
    /// The token with which it comes back.
    pub token: PeerToken,
    /// Whether it was known by its key or token, and is the same peer again.
    pub resumed: bool,
    /// Its alias, if it has one and is in the list.
    pub alias: Option<Arc<str>>,
    /// The channels that it is in.
    pub channels: Vec<Arc<str>>,
}

/// The peer that holds an alias, as
/// [`Channels::send_to_alias`](super::Channels::send_to_alias) found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its id.
    pub id: PeerId,
    /// Whether its socket is open. If not, the message waits for it.
    pub has_socket: bool,
}

/// How an unlisted peer becomes a peer of the list.
#[derive(Clone, Debug)]
pub struct Listing<'a> {
    /// Its name in the list.
    pub name: &'a str,
    /// What other peers can ask about it, in the form of its protocol.
    pub card: Bytes,
    /// Published in its channels when it is in the list.
    pub hello: Bytes,
    /// Published in its channels when it is removed, for whatever reason.
    pub farewell: Bytes,
}

/// A peer of the list, as [`Channels::cards`](super::Channels::cards) shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its id.
    pub id: PeerId,
    /// Its name, as it stands in the list.
    pub name: Arc<str>,
    /// The card of a peer that came in unlisted.
    pub card: Option<DoorCard>,
}

/// The [`Listing::card`] of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorCard {
    /// The name of its door. Other doors cannot read the card.
    pub door: Arc<str>,
    /// The card, in the form of that door.
    pub text: Bytes,
}
