//! What the script answers, each verb in a type. Here: sign-ins, messages and removals.

mod waits;
mod watching;

use std::sync::Arc;

use tracing::info;

use super::{
    member::Member,
    moment::Moment,
    row::{Answer, Row},
};
use crate::peer_list::{ListCounts, PeerId, Reason, Refusal};

pub(super) use waits::{BegunWait, EndedWait, Next, OpenedSocket};
pub(super) use watching::{
    Cards, ClaimedHere, Counted, EventLines, Libraries, Life, Readiness, SentLast, SomeRooms, Turn,
};

/// Reads the first word of an answer, which says whether the verb was carried out, and
/// otherwise why it was not.
fn accepted(row: &mut Row) -> Result<(), Refusal> {
    Err(match row.kind().as_str() {
        "ok" => return Ok(()),
        "full" => Refusal::Full,
        "room full" => Refusal::RoomFull,
        "network full" => Refusal::NetworkFull,
        "gone" | "sender" | "unknown" => Refusal::UnknownPeer,
        "receiver" => Refusal::UnknownReceiver,
        "wrong" => Refusal::WrongToken,
        "user" => Refusal::OtherUser,
        "token" => Refusal::MissingToken,
        "mailbox" => Refusal::MailboxFull,
        "order" => Refusal::OutOfOrder,
        "taken" => Refusal::NameTaken,
        "costly" => Refusal::TooManyNames,
        _ => Refusal::Unavailable,
    })
}

/// For what an answer needs and does not have.
fn needed<T>(value: Option<T>) -> Result<T, Refusal> {
    value.ok_or(Refusal::Unavailable)
}

fn read_id(row: &mut Row) -> Result<PeerId, Refusal> {
    needed(row.text().and_then(|id| PeerId::parse(&id)))
}

/// The verb was carried out.
impl Answer for () {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        accepted(&mut row)
    }
}

/// Any answer: its caller needs only to know that there is one.
pub(super) struct Anything;

impl Answer for Anything {
    fn read(_: Row) -> Result<Self, Refusal> {
        Ok(Self)
    }
}

/// A peer has signed in or come back.
pub(super) struct SignedInAs {
    pub id: PeerId,
    /// When the list has it.
    pub moment: Moment,
}

impl Answer for SignedInAs {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        accepted(&mut row)?;
        Ok(Self {
            id: read_id(&mut row)?,
            moment: needed(Moment::read(&mut row))?,
        })
    }
}

/// What is kept for the door of a peer.
pub(super) struct Kept(pub Option<Arc<str>>);

impl Answer for Kept {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        accepted(&mut row)?;
        Ok(Self(row.text().map(Into::into)))
    }
}

/// A peer has come in unlisted.
pub(super) struct CameIn {
    pub id: PeerId,
    pub is_known: bool,
    pub alias: Option<String>,
    pub channels: Vec<String>,
}

impl Answer for CameIn {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        accepted(&mut row)?;
        Ok(Self {
            id: read_id(&mut row)?,
            is_known: needed(row.text())? == "1",
            alias: row.text(),
            channels: row.texts(),
        })
    }
}

/// A message was pushed into the mailboxes that had room for it.
pub(super) struct Owed {
    /// The peers that had none.
    pub full: Vec<PeerId>,
    /// It is still to be pushed to others: of those only a last answer tells.
    pub has_more: bool,
    /// When the list has the peer, if the verb has listed it.
    pub moment: Option<Moment>,
}

impl Owed {
    /// What all such answers begin with.
    fn read_head(row: &mut Row) -> Result<Self, Refusal> {
        accepted(row)?;
        let full = row.row().map(Row::texts).unwrap_or_default();
        Ok(Self {
            full: full.iter().filter_map(|id| PeerId::parse(id)).collect(),
            has_more: row.kind() == "1",
            moment: None,
        })
    }
}

impl Answer for Owed {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        let owed = Self::read_head(&mut row)?;
        let moment = Moment::read(&mut row);
        Ok(Self { moment, ..owed })
    }
}

/// As [`Owed`], for a message to the holder of an alias.
pub(super) struct OwedToHolder {
    pub owed: Owed,
    /// None: a call that was repeated found it gone.
    pub holder: Option<PeerId>,
    pub has_socket: bool,
}

impl Answer for OwedToHolder {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(Self {
            owed: Owed::read_head(&mut row)?,
            holder: row.text().and_then(|id| PeerId::parse(&id)),
            has_socket: row.kind() == "1",
        })
    }
}

/// As [`Owed`], for the hello of a peer that has joined a channel.
pub(super) struct OwedInChannel {
    pub owed: Owed,
    pub channel: String,
}

impl Answer for OwedInChannel {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(Self {
            owed: Owed::read_head(&mut row)?,
            channel: row.text().ok_or(Refusal::Unavailable)?,
        })
    }
}

/// How many there are of something.
pub(super) struct Count(pub usize);

impl Answer for Count {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        row.number().map(Self).ok_or(Refusal::Unavailable)
    }
}

/// Whether there is more to be done.
pub(super) struct More(pub bool);

impl Answer for More {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(Self(row.kind() == "1"))
    }
}

/// Whether a message is in a mailbox now. The refusal is that of its receiver.
pub(super) struct Pushed(pub bool);

impl Answer for Pushed {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        match row.kind().as_str() {
            "ok" => Ok(Self(true)),
            "unknown" => Err(Refusal::UnknownReceiver),
            _ => Ok(Self(false)),
        }
    }
}

/// Whether a mailbox has room.
pub(super) struct Space {
    pub state: SpaceState,
    /// How many messages its peer has taken, as the script counts them.
    pub taken: String,
}

pub(super) enum SpaceState {
    Free,
    /// The peer may come back, but has no socket open.
    Away,
    Full,
}

impl Answer for Space {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(Self {
            state: match row.kind().as_str() {
                "ok" => SpaceState::Free,
                "away" => SpaceState::Away,
                _ => SpaceState::Full,
            },
            taken: row.text().unwrap_or_default(),
        })
    }
}

/// A mailbox has room after all. The refusals are those of its peer.
pub(super) struct SpaceAfterAll;

impl Answer for SpaceAfterAll {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        match row.kind().as_str() {
            "ok" => Ok(Self),
            "gone" => Err(Refusal::UnknownReceiver),
            "full" => Err(Refusal::MailboxFull),
            _ => Err(Refusal::Unavailable),
        }
    }
}

/// A peer that the verb has removed.
pub(super) struct Removed {
    whom: Member,
    reason: Option<String>,
    /// None: it was not in the list.
    name: Option<String>,
}

impl Removed {
    fn of(mut row: Row) -> Option<Self> {
        Some(Self {
            whom: Member::read(&row.text()?)?,
            reason: row.text(),
            name: row.text(),
        })
    }

    fn all(row: Option<Row>) -> Vec<Self> {
        let rows = row.map(Row::rows).unwrap_or_default().into_iter();
        rows.filter_map(Self::of).collect()
    }

    pub fn id(&self) -> PeerId {
        self.whom.id
    }

    /// Whether it was in the list.
    pub fn was_listed(&self) -> bool {
        self.name.is_some()
    }

    /// Logs and counts it.
    pub fn note(&self, counts: &ListCounts) {
        if let Some(name) = &self.name {
            info!(
                peer_id = self.whom.id.get(),
                room = self.whom.room.as_ref().map(tracing::field::display),
                name,
                reason = self.reason,
                "peer removed"
            );
            let reason = self.reason.as_deref().and_then(Reason::read);
            counts.removed(reason.unwrap_or(Reason::TimedOut));
        }
    }
}

/// Whether a peer was there to be removed.
pub(super) struct WasRemoved {
    pub was_there: bool,
    /// None if an earlier call has removed it.
    pub peer: Option<Removed>,
}

impl Answer for WasRemoved {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(Self {
            was_there: row.kind() == "ok",
            peer: row.row().and_then(Removed::of),
        })
    }
}

/// A socket is closed, and its peer may be removed with it.
pub(super) struct ClosedSocket(pub Option<Removed>);

impl Answer for ClosedSocket {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(Self(row.row().and_then(Removed::of)))
    }
}

/// The grace of a peer is over.
pub(super) struct Left {
    pub removed: Option<Removed>,
    /// The peer was asked whether it still runs: the verb is to be asked again.
    pub is_asked: bool,
}

impl Answer for Left {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(Self {
            removed: row.row().and_then(Removed::of),
            is_asked: row.kind() == "1",
        })
    }
}

/// Some peers are removed.
pub(super) struct RemovedSome {
    pub removed: Vec<Removed>,
    /// There may be more to be removed.
    pub has_more: bool,
    /// How many are to be passed over then.
    pub skip: u64,
}

impl Answer for RemovedSome {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(Self {
            removed: Removed::all(row.row()),
            has_more: row.kind() == "1",
            skip: row.number().unwrap_or(0),
        })
    }
}
