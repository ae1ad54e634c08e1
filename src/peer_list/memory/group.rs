//! Members that hear each other's broadcasts, whether they are in the list
//! yet or not: their families, names and rooms.
//!
//! Pure state under one lock. Who is to hear something is returned; the peer
//! list puts it into their mailboxes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;

use crate::peer_list::{Family, Introduction, MESSAGE_OVERHEAD_BYTES, PeerId, Refusal};

#[derive(Default)]
pub(super) struct Group {
    members: HashMap<PeerId, Member>,
    names: HashMap<Arc<str>, PeerId>,
    keys: HashMap<Arc<str>, PeerId>,
    rooms: HashMap<Arc<str>, Room>,
}

/// Who is to hear a hello, and the cards of those that are in the list before.
type Claimed = (Vec<PeerId>, HashMap<PeerId, Bytes>);

#[derive(Default)]
struct Member {
    family: Option<Family>,
    /// What it proves with that it is the same again.
    key: Option<Arc<str>>,
    listed: Option<Listed>,
    /// The rooms that it keeps or asked for.
    rooms: HashSet<Arc<str>>,
    /// What its rooms cost, in bytes.
    cost: usize,
}

struct Listed {
    name: Arc<str>,
    card: Bytes,
    farewell: Bytes,
}

#[derive(Default)]
struct Room {
    keepers: HashSet<PeerId>,
    askers: HashSet<PeerId>,
}

impl Group {
    /// A member that has shown nothing yet. An error if there is one with this key:
    /// it is that one.
    pub fn join(&mut self, id: PeerId, key: Option<&str>) -> Result<(), PeerId> {
        if let Some(first) = key.and_then(|key| self.with_key(key)) {
            return Err(first);
        }
        let key: Option<Arc<str>> = key.map(Into::into);
        if let Some(key) = &key {
            self.keys.insert(key.clone(), id);
        }
        let member = Member {
            key,
            ..Member::default()
        };
        self.members.insert(id, member);
        Ok(())
    }

    /// A member does not come back by its key any more.
    pub fn forget_key(&mut self, id: PeerId) {
        self.keys.retain(|_, holder| *holder != id);
    }

    /// The member that has this key.
    pub fn with_key(&self, key: &str) -> Option<PeerId> {
        self.keys.get(key).copied()
    }

    /// Gives a member its name. Returns who is to hear its hello, and the cards
    /// of those that are in the list before it: of any two, one hears of the
    /// other here, and the other's hello later.
    pub fn claim(
        &mut self,
        id: PeerId,
        name: &Arc<str>,
        introduction: &Introduction,
    ) -> Result<Claimed, Refusal> {
        let cards = self.cards();
        let member = self.members.get_mut(&id).ok_or(Refusal::UnknownPeer)?;
        if member.listed.is_some() || self.names.contains_key(name) {
            return Err(Refusal::NameTaken);
        }
        member.listed = Some(Listed {
            name: name.clone(),
            card: introduction.card.clone(),
            farewell: introduction.farewell.clone(),
        });
        self.names.insert(name.clone(), id);
        Ok((self.audience(id), cards))
    }

    /// The name of a member that is in the list.
    pub fn name(&self, id: PeerId) -> Option<Arc<str>> {
        let listed = self.members.get(&id)?.listed.as_ref()?;
        Some(listed.name.clone())
    }

    /// The member of that name.
    pub fn named(&self, name: &str) -> Option<PeerId> {
        self.names.get(name).copied()
    }

    /// The cards of the members that are in the list.
    pub fn cards(&self) -> HashMap<PeerId, Bytes> {
        let members = self.members.iter();
        let cards = members.filter_map(|(id, member)| {
            let listed = member.listed.as_ref()?;
            Some((*id, listed.card.clone()))
        });
        cards.collect()
    }

    /// A member has shown which protocol it speaks. The first time counts.
    pub fn show(&mut self, id: PeerId, family: Family) {
        if let Some(member) = self.members.get_mut(&id) {
            member.family.get_or_insert(family);
        }
    }

    /// Whom a broadcast of this member reaches.
    pub fn audience(&self, from: PeerId) -> Vec<PeerId> {
        let family = self.members.get(&from).and_then(|member| member.family);
        self.others(from, family)
    }

    fn others(&self, from: PeerId, family: Option<Family>) -> Vec<PeerId> {
        let others = self.members.iter().filter(|(id, member)| {
            let differs = match (family, member.family) {
                (Some(ours), Some(theirs)) => ours != theirs,
                _ => false,
            };
            **id != from && !differs
        });
        others.map(|(id, _)| *id).collect()
    }

    /// A member keeps a room from now on. Returns who asked for it, or None if
    /// the member's rooms would cost more than `bound` bytes.
    pub fn keep(&mut self, id: PeerId, room: &str, bound: usize) -> Option<Vec<PeerId>> {
        let kept = self.enter(id, room, bound)?;
        kept.keepers.insert(id);
        let askers: Vec<PeerId> = kept.askers.drain().collect();
        // Their question costs nothing any more.
        for asker in askers.iter().filter(|asker| **asker != id) {
            if let Some(member) = self.members.get_mut(asker)
                && member.rooms.remove(room)
            {
                member.cost -= room_cost(room);
            }
        }
        Some(askers)
    }

    /// A member asks for a room. True if it exists; else the member is named
    /// when somebody keeps it. None: as for [`Group::keep`].
    pub fn ask(&mut self, id: PeerId, name: &str, bound: usize) -> Option<bool> {
        if let Some(room) = self.rooms.get(name)
            && !room.keepers.is_empty()
        {
            return Some(true);
        }
        let room = self.enter(id, name, bound)?;
        room.askers.insert(id);
        Some(false)
    }

    fn enter(&mut self, id: PeerId, name: &str, bound: usize) -> Option<&mut Room> {
        let member = self.members.get_mut(&id)?;
        if !member.rooms.contains(name) {
            let cost = member.cost + room_cost(name);
            if cost > bound {
                return None;
            }
            member.cost = cost;
            let shared = self.rooms.get_key_value(name);
            let shared = shared.map_or_else(|| name.into(), |(name, _)| name.clone());
            member.rooms.insert(shared);
        }
        Some(self.rooms.entry(name.into()).or_default())
    }

    /// A member is gone. Returns its farewell, if it was in the list, and who
    /// is to hear it.
    pub fn leave(&mut self, id: PeerId) -> Option<(Bytes, Vec<PeerId>)> {
        let member = self.members.remove(&id)?;
        if let Some(key) = &member.key
            && self.keys.get(key) == Some(&id)
        {
            self.keys.remove(key);
        }
        for name in &member.rooms {
            if let Some(room) = self.rooms.get_mut(name) {
                room.keepers.remove(&id);
                room.askers.remove(&id);
                if room.keepers.is_empty() && room.askers.is_empty() {
                    self.rooms.remove(name);
                }
            }
        }
        let listed = member.listed?;
        self.names.remove(&listed.name);
        Some((listed.farewell, self.others(id, member.family)))
    }
}

/// What a room costs each member that keeps it or asks for it, in bytes.
fn room_cost(name: &str) -> usize {
    name.len() + MESSAGE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: usize = 10_000;

    fn id(number: u32) -> PeerId {
        PeerId::new(number).unwrap()
    }

    fn group(members: u32) -> Group {
        let mut group = Group::default();
        for number in 1..=members {
            group.join(id(number), None).unwrap();
        }
        group
    }

    fn introduction() -> Introduction {
        Introduction {
            card: "card".into(),
            hello: "hello".into(),
            farewell: "farewell".into(),
        }
    }

    #[test]
    fn a_broadcast_reaches_all_but_the_sender_and_the_other_family() {
        let mut group = group(4);
        group.show(id(1), Family::Names);
        group.show(id(2), Family::Rooms);
        group.show(id(3), Family::Names);
        group.show(id(3), Family::Rooms);
        let audience = |from| {
            let mut audience = group.audience(from);
            audience.sort();
            audience
        };
        assert_eq!(audience(id(1)), [id(3), id(4)]);
        assert_eq!(audience(id(2)), [id(4)]);
        assert_eq!(audience(id(4)), [id(1), id(2), id(3)]);
    }

    #[test]
    fn a_name_is_held_by_one_member_until_it_leaves() {
        let mut group = group(2);
        let name: Arc<str> = "constructor".into();
        let claim =
            |group: &mut Group, id, name: &Arc<str>| group.claim(id, name, &introduction()).is_ok();
        assert!(claim(&mut group, id(1), &name));
        assert!(!claim(&mut group, id(2), &name));
        assert!(!claim(&mut group, id(1), &"other".into()));
        assert_eq!(group.named("constructor"), Some(id(1)));
        let (farewell, audience) = group.leave(id(1)).unwrap();
        assert_eq!(
            (farewell.as_ref(), audience),
            (b"farewell".as_ref(), vec![id(2)])
        );
        assert_eq!(group.named("constructor"), None);
        assert!(claim(&mut group, id(2), &name));
        // It is gone, which is not the same as a name that is taken.
        let refused = group.claim(id(1), &name, &introduction());
        assert_eq!(refused.unwrap_err(), Refusal::UnknownPeer);
    }

    #[test]
    fn a_key_is_of_one_member() {
        let mut group = Group::default();
        assert_eq!(group.join(id(1), Some("key")), Ok(()));
        assert_eq!(group.join(id(2), Some("key")), Err(id(1)));
        group.leave(id(1));
        assert_eq!(group.join(id(2), Some("key")), Ok(()));
    }

    #[test]
    fn of_two_members_each_hears_of_the_other_once() {
        let mut group = group(2);
        let (hear, cards) = group.claim(id(1), &"a".into(), &introduction()).unwrap();
        assert_eq!((hear, cards.len()), (vec![id(2)], 0));
        let (hear, cards) = group.claim(id(2), &"b".into(), &introduction()).unwrap();
        assert_eq!(hear, [id(1)]);
        assert_eq!(cards.into_keys().collect::<Vec<_>>(), [id(1)]);
    }

    #[test]
    fn who_asks_for_a_room_hears_of_it_once_when_it_is_kept() {
        let mut group = group(3);
        assert_eq!(group.ask(id(1), "room", BOUND), Some(false));
        assert_eq!(group.ask(id(1), "room", BOUND), Some(false));
        assert_eq!(group.keep(id(2), "room", BOUND), Some(vec![id(1)]));
        assert_eq!(group.keep(id(2), "room", BOUND), Some(vec![]));
        assert_eq!(group.ask(id(3), "room", BOUND), Some(true));
    }

    #[test]
    fn a_room_lives_as_long_as_somebody_keeps_it() {
        let mut group = group(4);
        group.keep(id(1), "room", BOUND);
        group.keep(id(2), "room", BOUND);
        group.leave(id(1));
        assert_eq!(group.ask(id(3), "room", BOUND), Some(true));
        group.leave(id(2));
        assert_eq!(group.ask(id(3), "room", BOUND), Some(false));
        group.leave(id(3));
        assert!(group.rooms.is_empty());
        assert_eq!(group.keep(id(4), "room", BOUND), Some(vec![]));
    }

    #[test]
    fn what_the_rooms_of_a_member_cost_is_bounded() {
        let mut group = group(1);
        let bound = 2 * (MESSAGE_OVERHEAD_BYTES + 1);
        assert_eq!(group.ask(id(1), "a", bound), Some(false));
        assert_eq!(group.keep(id(1), "b", bound), Some(vec![]));
        assert_eq!(group.keep(id(1), "c", bound), None);
        assert_eq!(group.keep(id(1), "a", bound), Some(vec![id(1)]));

        // A question that was answered costs nothing any more.
        let mut group = super::tests::group(2);
        assert_eq!(group.ask(id(1), "c", bound), Some(false));
        group.keep(id(2), "c", bound);
        assert_eq!(group.ask(id(1), "d", bound), Some(false));
        assert_eq!(group.ask(id(1), "e", bound), Some(false));
        assert_eq!(group.ask(id(1), "f", bound), None);
    }
}
