//! A peer as what all rooms share in Redis has it: `ID`, or `ROOM/ID`.

use crate::peer_list::{PeerId, RoomName};

/// A peer, and the room that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// None: the root list.
    pub room: Option<RoomName>,
    pub id: PeerId,
}

impl Member {
    pub fn read(text: &str) -> Option<Self> {
        let (room, id) = match text.rsplit_once('/') {
            Some((room, id)) => (Some(room.parse().ok()?), id),
            None => (None, text),
        };
        let id = PeerId::parse(id)?;
        Some(Self { room, id })
    }
}
