//! What Redis pushes to this node, and what the node asks for after a push may have been
//! missed.

use std::{
    future::ready,
    sync::{Arc, atomic::Ordering},
};

use ::redis::{PushInfo, PushKind, Value};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    PATIENCE, hearing::ECHO, here::OpenHere, list::List, lists::Lists, member::Member, retry,
    shard::Shard, verbs,
};
use crate::peer_list::{PeerId, Reason, Refusal, RoomName};

/// After a lost connection, the lists of at most this many rooms are asked for at a time.
const ROOMS_AT_ONCE: usize = 16;

/// Listens to pushes of a shard for as long as the node is used.
pub(super) fn start(
    lists: &Arc<Lists>,
    shard: &Arc<Shard>,
    mut pushes: UnboundedReceiver<PushInfo>,
) {
    let (lists, shard) = (Arc::downgrade(lists), Arc::downgrade(shard));
    tokio::spawn(async move {
        while let Some(push) = pushes.recv().await {
            let (Some(lists), Some(shard)) = (lists.upgrade(), shard.upgrade()) else {
                return;
            };
            match push.kind {
                PushKind::SMessage => {
                    if let Some(Value::BulkString(text)) = push.data.get(1)
                        && let Some(push) = Push::read(&String::from_utf8_lossy(text))
                    {
                        hear(&lists, &shard, push);
                    }
                }
                // The connection was lost in between: the node asks for what it may have
                // missed.
                PushKind::SSubscribe if is_last(&push) => lists.catch_up(&shard),
                // The shard has moved to another server of the cluster.
                PushKind::SUnsubscribe => shard.link.hearing.set_lost(),
                _ => {}
            }
        }
    });
}

/// Whether both channels are subscribed to.
fn is_last(push: &PushInfo) -> bool {
    matches!(push.data.get(1), Some(Value::Int(count)) if *count >= 2)
}

impl Lists {
    /// Finds out what a shard could not push, or has lost.
    pub fn catch_up(self: &Arc<Self>, shard: &Arc<Shard>) {
        let (weak, shard) = (Arc::downgrade(self), shard.clone());
        tokio::spawn(retry::until_answered(move || {
            let (lists, shard) = (weak.upgrade(), shard.clone());
            async move {
                match lists {
                    Some(lists) => lists.find_out(&shard).await,
                    None => Ok(()),
                }
            }
        }));
    }

    async fn find_out(self: &Arc<Self>, shard: &Arc<Shard>) -> Result<(), Refusal> {
        let mut rooms = self.used_lists_of(shard);
        let roots = rooms.extract_if(.., |list| list.room.is_none());
        for root in roots.collect::<Vec<_>>() {
            root.find_out().await?;
        }
        shard.sync_events(Some(PATIENCE)).await?;
        self.deny(shard).await?;
        // Some at a time, and each goes on as soon as it can.
        let found_out = stream::iter(rooms)
            .map(|list| async move { list.find_out().await })
            .buffer_unordered(ROOMS_AT_ONCE);
        found_out.try_for_each(|()| ready(Ok(()))).await
    }
}

/// Another has taken over from the wait of this name. `is_asked`: Redis wants to know what the
/// peer has heard here.
fn taken_over(lists: &Arc<Lists>, whom: &Member, wait: &str, is_asked: bool) {
    let list = lists.used_list(whom.room.as_ref());
    if let (Some(list), Some(number)) = (list, lists.node.number_of(wait)) {
        list.taken_over(whom.id, number, is_asked);
    }
}

impl List {
    fn taken_over(self: &Arc<Self>, id: PeerId, number: u64, is_asked: bool) {
        let open = self.open_of(id);
        let heard = open.iter().filter_map(|here| here.taken_over(number)).max();
        if is_asked && !self.deliveries.will_report(id) {
            let heard = verbs::heard_before(id, &self.wait_name(number), heard);
            self.later(heard, Some(PATIENCE));
        }
    }

    /// Redis may have lost changes, and may have given their versions to other changes.
    async fn find_out(self: &Arc<Self>) -> Result<(), Refusal> {
        let version = self.cached.lock().forget();
        self.sync(Some(PATIENCE)).await?;
        // What peers have heard counts as Redis has it.
        self.all_open().iter().for_each(|here| here.forget_heard());
        let current = self.cached.lock().roster.current();
        // Without any change the whole list is lost, which is logged elsewhere.
        if (1..version).contains(&current) {
            self.lost_changes();
        } else {
            self.forget_lost_changes();
        }
        self.recheck();
        self.changed();
        Ok(())
    }
}

/// A push of Redis to a node.
#[derive(Debug, PartialEq, Eq)]
enum Push {
    /// The list of this room has changed.
    Changed(Option<RoomName>),
    /// An event has happened.
    Event,
    /// There may be news for this peer.
    Wake(Member),
    /// Another wait of this peer, or a session, has taken over from that of this name here.
    Outdated(Member, String),
    /// The same, and Redis asks what the peer has heard here.
    TakenOver(Member, String),
    /// This peer is protected from now on: its wait here may be of somebody else.
    Protected(Member),
    /// The wait of this peer ends: it has to poll again.
    EndWait(Member),
    /// The session with this number has taken the peer over.
    Replaced(Member, u64),
    /// The peer was removed, or its door should remove it.
    Removed(Member, Reason),
    /// Farewells in this room are still to be published.
    Farewells(Option<RoomName>),
    /// What this node has pushed to itself.
    Echo,
}

impl Push {
    /// None if it is of another version. The letters are those of `tell` and `tell_all`
    /// in the script.
    fn read(text: &str) -> Option<Self> {
        let (letter, rest) = text.split_at_checked(1)?;
        let mut words = rest.splitn(2, ' ');
        let whom = words.next().and_then(Member::read);
        let word = words.next().unwrap_or_default();
        Some(match letter {
            "v" => Self::Changed(read_room(rest)?),
            "f" => Self::Farewells(read_room(rest)?),
            "e" => Self::Event,
            ECHO => Self::Echo,
            "w" => Self::Wake(whom?),
            "o" => Self::Outdated(whom?, word.to_owned()),
            "q" => Self::TakenOver(whom?, word.to_owned()),
            "p" => Self::Protected(whom?),
            "b" => Self::EndWait(whom?),
            "x" => Self::Replaced(whom?, word.parse().ok()?),
            "r" => Self::Removed(whom?, Reason::read(word).unwrap_or(Reason::TimedOut)),
            _ => return None,
        })
    }
}

/// A room, or the root list (an inner None).
#[allow(
    clippy::option_option,
    reason = "the outer one says whether it can be read"
)]
fn read_room(text: &str) -> Option<Option<RoomName>> {
    match text {
        "" => Some(None),
        name => name.parse().ok().map(Some),
    }
}

fn hear(lists: &Arc<Lists>, shard: &Arc<Shard>, push: Push) {
    match push {
        Push::Changed(room) => {
            if let Some(list) = lists.used_list(room.as_ref()) {
                list.changed();
            }
        }
        Push::Event => {
            if shard.events_asked.is_next.swap(true, Ordering::AcqRel) {
                return;
            }
            let shard = shard.clone();
            tokio::spawn(async move {
                retry::until_answered(|| shard.hear_of_events()).await;
            });
        }
        Push::Farewells(room) => {
            // If nothing of the room is used here any more, the collector goes on.
            if let Some(list) = lists.used_list(room.as_ref()) {
                tokio::spawn(async move { list.say_farewells().await });
            }
        }
        Push::Echo => shard.link.hearing.heard_echo(),
        Push::Wake(whom) => lists.open_of(&whom, OpenHere::wake),
        Push::Outdated(whom, wait) => taken_over(lists, &whom, &wait, false),
        Push::TakenOver(whom, wait) => taken_over(lists, &whom, &wait, true),
        Push::Protected(whom) => lists.open_of(&whom, OpenHere::set_must_ask),
        Push::EndWait(whom) => lists.open_of(&whom, OpenHere::end_wait),
        Push::Replaced(whom, session) => lists.open_of(&whom, |here| here.replaced_by(session)),
        Push::Removed(whom, reason) => lists.open_of(&whom, |here| here.set_removed(reason)),
    }
}

impl Lists {
    /// Does something to each wait and socket of a peer that is open here.
    fn open_of(&self, whom: &Member, what: impl Fn(&OpenHere)) {
        if let Some(list) = self.used_list(whom.room.as_ref()) {
            list.open_of(whom.id).iter().for_each(|here| what(here));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_push_makes_the_reader_panic(text in "[a-z]?([a-z-]{0,3}/)?[0-9]{0,21} ?.{0,20}") {
            let _ = Push::read(&text);
        }
    }

    #[test]
    fn what_redis_tells_is_read_and_what_another_version_tells_is_passed_over() {
        let id = PeerId::new(7).unwrap();
        let room: RoomName = "a-room".parse().unwrap();
        let root = Member { room: None, id };
        let in_room = Member {
            room: Some(room.clone()),
            id,
        };
        let read = [
            ("v", Some(Push::Changed(None))),
            ("va-room", Some(Push::Changed(Some(room)))),
            ("va/room", None),
            ("f", Some(Push::Farewells(None))),
            ("e", Some(Push::Event)),
            (ECHO, Some(Push::Echo)),
            ("w7", Some(Push::Wake(root.clone()))),
            ("wa-room/7", Some(Push::Wake(in_room.clone()))),
            ("wa room/7", None),
            ("o7 x.9", Some(Push::Outdated(root.clone(), "x.9".into()))),
            ("q7 x.9", Some(Push::TakenOver(root.clone(), "x.9".into()))),
            ("p7", Some(Push::Protected(root.clone()))),
            ("b7", Some(Push::EndWait(root.clone()))),
            ("x7 12", Some(Push::Replaced(root.clone(), 12))),
            (
                "ra-room/7 kicked",
                Some(Push::Removed(in_room, Reason::Kicked)),
            ),
            ("r7 newer", Some(Push::Removed(root, Reason::TimedOut))),
            ("", None),
            ("w", None),
            ("wx", None),
            ("x7", None),
            ("?7", None),
            ("\u{e9}", None),
        ];
        for (text, push) in read {
            assert_eq!(Push::read(text), push, "{text}");
        }
    }
}
