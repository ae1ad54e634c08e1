//! Members of the group: how they come, are listed, and hear each other.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::{
    MemoryEngine,
    mailbox::{Kind, Message},
    peer::{Listed, Peer, Presence},
    removal::Removal,
};
use crate::peer_list::{
    Added, Card, Dialect, Family, Group, Introduction, PeerEvent, PeerId, PeerToken, Reason,
    Refusal, Watching, WayIn, peer::name_for_list, roster::Connected, rules::NAME_KEPT,
};

#[async_trait]
impl Group for MemoryEngine {
    async fn add_member(&self, key: Option<&str>, door: &'static str) -> Result<Added, Refusal> {
        let known = key.and_then(|key| self.0.group.lock().with_key(key));
        if let Some(peer) = known.and_then(|id| self.peer(id).ok())
            && peer.state.lock().removed.is_none()
        {
            return Ok(self.returned_member(&peer));
        }
        let peer = {
            let mut roster = self.0.roster.lock();
            let id = self.next_id(&mut roster)?;
            let presence = Presence::new(Instant::now());
            let dialect = Dialect::Silent;
            let way = WayIn {
                door,
                dialect,
                protected: key.is_some(),
            };
            let mut peer = Peer::new(id, way, roster.current(), presence);
            peer.is_member = true;
            let peer = Arc::new(peer);
            {
                let mut state = peer.state.lock();
                state.acknowledges = key.is_some();
                state.resumes = key.is_some();
            }
            self.0.peers.insert(id, peer.clone());
            peer
        };
        loop {
            let joined = self.0.group.lock().join(peer.id, key);
            let Err(first) = joined else { break };
            // Of two sockets that come with the same key at once, one is first; or
            // that one is about to be removed.
            let lives = |first: &Arc<Peer>| first.state.lock().removed.is_none();
            if let Some(first) = self.peer(first).ok().filter(lives) {
                self.0.peers.remove(&peer.id);
                return Ok(self.returned_member(&first));
            }
            self.0.group.lock().forget_key(first);
        }
        Ok(Added {
            id: peer.id,
            token: peer.token,
            resumed: false,
            name: None,
        })
    }

    async fn resume_member(&self, id: PeerId, token: &PeerToken) -> Result<Added, Refusal> {
        let peer = self.peer(id)?;
        if !peer.is_member {
            return Err(Refusal::UnknownPeer);
        }
        if peer.admit(Some(token)).is_err() {
            return Err(Refusal::WrongToken);
        }
        if peer.state.lock().removed.is_some() {
            return Err(Refusal::UnknownPeer);
        }
        Ok(self.returned_member(&peer))
    }

    async fn list_member(
        &self,
        id: PeerId,
        name: &str,
        introduction: Introduction,
    ) -> Result<Vec<Card>, Refusal> {
        let peer = self.peer(id)?;
        self.free_name(id, name);
        let claimed = self.0.group.lock().claim(id, &name.into(), &introduction);
        let (audience, cards) = claimed?;
        {
            let state = peer.state.lock();
            let mut roster = self.0.roster.lock();
            let name = name_for_list(name);
            let joined = roster.join(id, &name, state.way.dialect, Connected::Yes);
            self.enlist(&roster, &peer, &state, Listed { name, joined });
        }
        // Its STATUS, and its removal if that came in between.
        self.show_connected(&peer, peer.state.lock());
        let removed = {
            let state = peer.state.lock();
            state.removed.map(|reason| (reason, peer.info(&state)))
        };
        if let Some((reason, info)) = removed {
            self.unlist(&peer, Removal::Asked(reason), info);
            self.changed();
            // Its farewell was said already.
            return Err(Refusal::UnknownPeer);
        }
        self.changed();
        let hello = Message::of_group(Kind::Group, introduction.hello);
        self.push_to_members(&audience, hello).await;
        if peer.state.lock().removed.is_some() {
            // Some may have heard its farewell before its hello.
            let farewell = Message::of_group(Kind::Group, introduction.farewell);
            self.push_to_members(&audience, farewell).await;
            return Err(Refusal::UnknownPeer);
        }
        Ok(self.with_cards(cards))
    }

    async fn broadcast(
        &self,
        from: PeerId,
        body: Bytes,
        number: Option<u64>,
    ) -> Result<(), Refusal> {
        let peer = self.peer(from)?;
        let Some(number) = number else {
            self.publish(from, body).await;
            return Ok(());
        };
        let list = self.clone();
        // It goes on when the socket by which it came is replaced: its client
        // sends it again, and that waits for this and is then a repeat.
        let sending = tokio::spawn(async move {
            let _alone = peer.broadcasting.lock().await;
            {
                let mut last = peer.last_sent.lock();
                if number <= *last {
                    return;
                }
                *last = number;
            }
            list.publish(from, body).await;
        });
        // An error: the server stops.
        let _ = sending.await;
        Ok(())
    }

    async fn send_to_member(&self, _: PeerId, name: &str, body: Bytes) -> Result<(), Refusal> {
        let to = self.0.group.lock().named(name);
        let to = to.and_then(|id| self.peer(id).ok());
        let to = to.ok_or(Refusal::UnknownReceiver)?;
        self.push_patiently(&to, Message::of_group(Kind::Group, body))
            .await
    }

    async fn show_family(&self, id: PeerId, family: Family) {
        self.0.group.lock().show(id, family);
    }

    async fn keep_room(&self, id: PeerId, room: &str) -> Result<(), Refusal> {
        let bound = self.0.opts.max_pending_bytes;
        let askers = self.0.group.lock().keep(id, room, bound);
        let askers = askers.ok_or(Refusal::TooManyNames)?;
        self.tell_of_room(&askers, room).await;
        Ok(())
    }

    async fn ask_for_room(&self, id: PeerId, room: &str) -> Result<(), Refusal> {
        let bound = self.0.opts.max_pending_bytes;
        let exists = self.0.group.lock().ask(id, room, bound);
        if exists.ok_or(Refusal::TooManyNames)? {
            self.tell_of_room(&[id], room).await;
        }
        Ok(())
    }

    async fn cards(&self) -> Result<Vec<Card>, Refusal> {
        let cards = self.0.group.lock().cards();
        Ok(self.with_cards(cards))
    }
}

impl MemoryEngine {
    fn returned_member(&self, peer: &Peer) -> Added {
        {
            let mut state = peer.state.lock();
            let now = Instant::now();
            state.presence.returned(now);
            state.presence.shown = state.presence.connected(now);
            let mut roster = self.0.roster.lock();
            if let Some(joined) = peer.joined() {
                roster.set_connected(joined, state.presence.shown);
            }
            if let Some(peer) = peer.info(&state) {
                self.0.events.add(PeerEvent::PeerReconnected(peer));
            }
        }
        Added {
            id: peer.id,
            token: peer.token,
            resumed: true,
            name: self.0.group.lock().name(peer.id),
        }
    }

    /// Removes the holder of a name that another member claims, if its socket has been
    /// closed for long.
    fn free_name(&self, claimant: PeerId, name: &str) {
        let holder = {
            let group = self.0.group.lock();
            let is_named = group.name(claimant).is_some();
            group.named(name).filter(|_| !is_named)
        };
        let Some(holder) = holder.and_then(|id| self.peer(id).ok()) else {
            return;
        };
        self.remove_if(&holder, |state| {
            let now = Instant::now();
            let seen = state.presence.last_seen(now);
            (now >= seen + NAME_KEPT).then_some(Removal::Asked(Reason::Closed))
        });
    }

    /// Every peer in the list but the members of the group without a card.
    fn with_cards(&self, mut cards: HashMap<PeerId, Bytes>) -> Vec<Card> {
        let peers = self.peer_ids().into_iter();
        let peers = peers.filter_map(|id| self.peer(id).ok());
        let cards = peers.filter_map(|peer| {
            let card = cards.remove(&peer.id);
            let is_shown = card.is_some() || !peer.is_member;
            is_shown.then_some(Card {
                id: peer.id,
                name: peer.listed()?.name,
                card,
            })
        });
        cards.collect()
    }

    async fn publish(&self, from: PeerId, body: Bytes) {
        let audience = self.0.group.lock().audience(from);
        self.push_to_members(&audience, Message::of_group(Kind::Group, body))
            .await;
    }

    async fn tell_of_room(&self, askers: &[PeerId], room: &str) {
        let name = Bytes::copy_from_slice(room.as_bytes());
        self.push_to_members(askers, Message::of_group(Kind::Room, name))
            .await;
    }

    async fn push_to_members(&self, members: &[PeerId], message: Message) {
        let members = members.iter().filter_map(|id| self.peer(*id).ok());
        let full = members.filter(|peer| {
            let pushed = self.push(peer, message.clone());
            pushed == Err(Refusal::MailboxFull)
        });
        let full: Vec<_> = full.collect();
        // Side by side, so that many that do not read take no longer than one.
        join_all(
            full.iter()
                .map(|peer| self.push_patiently(peer, message.clone())),
        )
        .await;
    }
}
