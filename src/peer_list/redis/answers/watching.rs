//! Answers about the list and its events, and to nodes.

use bytes::Bytes;

use super::needed;
use crate::peer_list::{
    PeerInfo, Refusal, RoomInfo, Tally,
    redis::{
        events::{read_info, time_of},
        member::Member,
        row::{Answer, Row},
    },
};

/// The cards of the peers that were asked for, in their order. None: the peer did not come
/// in unlisted. An empty one: the peer shows no card.
pub(in crate::peer_list::redis) struct Cards(pub Vec<Option<Bytes>>);

impl Answer for Cards {
    fn read(row: Row) -> Result<Self, Refusal> {
        Ok(Self(row.all_bytes()))
    }
}

/// The peer that was asked for, if it is in the list.
impl Answer for Option<PeerInfo> {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(row.text().and_then(|line| read_info(&line)))
    }
}

/// Those of the peers that were asked for that are in the list.
impl Answer for Vec<PeerInfo> {
    fn read(row: Row) -> Result<Self, Refusal> {
        let lines = row.texts();
        Ok(lines.iter().filter_map(|line| read_info(line)).collect())
    }
}

/// How many peers and rooms a shard has.
pub(in crate::peer_list::redis) struct Counted(pub Tally);

impl Answer for Counted {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        let rooms = needed(row.number())?;
        let mut peers = Vec::new();
        while let Some(door) = row.text() {
            peers.push((door, needed(row.number())?));
        }
        Ok(Self(Tally { peers, rooms }))
    }
}

/// Some of the rooms of a shard.
pub(in crate::peer_list::redis) struct SomeRooms {
    /// Where to go on; `0` is the end.
    pub cursor: String,
    pub rooms: Vec<RoomInfo>,
}

impl Answer for SomeRooms {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        let cursor = needed(row.text())?;
        let rooms = row.row().map(Row::texts).unwrap_or_default();
        let (rooms, _) = rooms.as_chunks::<3>();
        let rooms = rooms.iter().filter_map(|[name, peers, since]| {
            Some(RoomInfo {
                name: name.parse().ok()?,
                peers: peers.parse().ok()?,
                since: time_of(since)?,
            })
        });
        Ok(Self {
            cursor,
            rooms: rooms.collect(),
        })
    }
}

/// Events.
pub(in crate::peer_list::redis) struct EventLines {
    /// The number of the last of them.
    pub last: u64,
    pub lines: Vec<String>,
    pub has_more: bool,
}

impl Answer for EventLines {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(Self {
            last: needed(row.number())?,
            lines: row.row().map(Row::texts).unwrap_or_default(),
            has_more: row.kind() == "1",
        })
    }
}

/// Which node sends the webhook an event.
pub(in crate::peer_list::redis) enum Turn {
    Mine,
    /// The event was sent.
    Sent,
    Others,
}

impl Answer for Turn {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(match row.kind().as_str() {
            "mine" => Self::Mine,
            "sent" => Self::Sent,
            _ => Self::Others,
        })
    }
}

/// The number of the last event that the webhook was sent.
pub(in crate::peer_list::redis) struct SentLast(pub Option<u64>);

impl Answer for SentLast {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(Self(row.number()))
    }
}

/// A node has said that it lives.
pub(in crate::peer_list::redis) struct Life {
    /// It is new to the others, or was taken for dead.
    pub is_new: bool,
    /// The time of Redis, in ms.
    pub now: Option<u64>,
    /// When the lists were created, by the clock of Redis in ms.
    pub created: Option<u64>,
    /// How many peers they have.
    pub peers: Option<u64>,
}

impl Answer for Life {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(Self {
            is_new: row.kind() == "1",
            now: row.number(),
            created: row.number(),
            peers: row.number(),
        })
    }
}

/// Some of what Redis has as open at a node.
pub(in crate::peer_list::redis) struct ClaimedHere {
    /// Where to go on; `0` is the end.
    pub cursor: String,
    /// Peers, each with the name of its wait, or `s` and its session.
    pub claimed: Vec<(Member, String)>,
}

impl Answer for ClaimedHere {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        let cursor = needed(row.text())?;
        let claimed = row.row().map(Row::texts).unwrap_or_default();
        let (claimed, _) = claimed.as_chunks::<2>();
        let claimed = claimed
            .iter()
            .filter_map(|[whom, name]| Some((Member::read(whom)?, name.clone())));
        Ok(Self {
            cursor,
            claimed: claimed.collect(),
        })
    }
}

/// Which libraries the nodes use.
pub(in crate::peer_list::redis) struct Libraries {
    /// Other nodes use another one now.
    pub differ: bool,
    /// No node has used these for long.
    pub old: Vec<String>,
}

impl Answer for Libraries {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(Self {
            differ: row.kind() == "1",
            old: row.row().map(Row::texts).unwrap_or_default(),
        })
    }
}

/// Whether Redis can do what the list needs.
pub(in crate::peer_list::redis) enum Readiness {
    Ready,
    /// What is stored has another schema than this version.
    OtherSchema {
        stored: String,
        own: String,
    },
    /// The lists are spread over another number of shards.
    OtherShards {
        stored: String,
    },
}

impl Answer for Readiness {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(match row.kind().as_str() {
            "schema" => Self::OtherSchema {
                stored: needed(row.text())?,
                own: needed(row.text())?,
            },
            "shards" => Self::OtherShards {
                stored: needed(row.text())?,
            },
            _ => Self::Ready,
        })
    }
}
