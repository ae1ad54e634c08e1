//! Unlisted peers, channels, aliases and announcements.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::{
    MemoryEngine,
    mailbox::Message,
    names::Names,
    peer::{Listed, Peer, Presence},
    removal::Removal,
};
use crate::peer_list::{
    Added, Card, Channels, Dialect, DoorCard, Identity, JoinOpts, Listing, PeerEvent, PeerId,
    PeerToken, PublishOpts, Reached, Reason, Refusal, SignInOpts, Unlisted, Watching,
    page::Connected, peer::name_for_list,
};

#[async_trait]
impl Channels for MemoryEngine {
    async fn add_unlisted(&self, unlisted: Unlisted<'_>) -> Result<Added, Refusal> {
        let Unlisted {
            key,
            door,
            channels,
            identity,
        } = unlisted;
        let known = key.and_then(|key| self.room.names.lock().with_key(key));
        if let Some(peer) = known.and_then(|id| self.peer(id).ok())
            && peer.state.lock().removed.is_none()
        {
            return self.returned_for(&peer, identity);
        }
        let peer = {
            let roster = self.room.roster.lock();
            let of_network = self.count_of_network(identity)?;
            let id = self.next_id()?;
            let presence = Presence::new(Instant::now());
            let dialect = Dialect::Silent;
            let opts = SignInOpts {
                door,
                dialect,
                protected: key.is_some(),
                has_socket: true,
                identity: identity.clone(),
            };
            let buffered = &self.shared.buffered;
            let heard = roster.current();
            let mut peer = Peer::new(id, &self.room, opts, buffered, heard, presence, of_network);
            peer.by_socket_only = true;
            let peer = Arc::new(peer);
            {
                let mut state = peer.state.lock();
                state.acknowledges = key.is_some();
                state.resumes = key.is_some();
            }
            self.put_on_map(peer.clone());
            peer
        };
        loop {
            let entered = self.room.names.lock().enter(peer.id, key);
            let Err(first) = entered else { break };
            // Two sockets come with the same key at once, and the other was first; or the
            // peer with that key is about to be removed.
            let lives = |first: &Arc<Peer>| first.state.lock().removed.is_none();
            if let Some(first) = self.peer(first).ok().filter(lives) {
                self.take_off_map(peer.id);
                return self.returned_for(&first, identity);
            }
            self.room.names.lock().forget_key(first);
        }
        for channel in channels {
            self.room.names.lock().put_in(peer.id, channel);
        }
        Ok(self.added(&peer, false))
    }

    async fn resume_unlisted(
        &self,
        id: PeerId,
        token: &PeerToken,
        identity: &Identity,
    ) -> Result<Added, Refusal> {
        let peer = self.peer(id)?;
        if !peer.by_socket_only {
            return Err(Refusal::UnknownPeer);
        }
        peer.admit(Some(token))?;
        if peer.state.lock().removed.is_some() {
            return Err(Refusal::UnknownPeer);
        }
        self.returned_for(&peer, identity)
    }

    async fn list_peer(&self, id: PeerId, listing: Listing<'_>) -> Result<Vec<Card>, Refusal> {
        let peer = self.peer(id)?;
        let Listing {
            name,
            card,
            hello,
            farewell,
        } = listing;
        let (audience, cards) =
            self.with_names(id, |names| names.show(id, card, farewell.clone()))?;
        {
            let state = peer.state.lock();
            let mut roster = self.room.roster.lock();
            let name = name_for_list(name);
            let joined = roster.join(id, &name, state.sign_in.dialect, Connected::Yes);
            self.enlist(&roster, &peer, &state, Listed { name, joined });
        }
        // Its STATUS may have changed in between, or it may have been removed.
        self.show_connected(&peer, peer.state.lock());
        let removed = {
            let state = peer.state.lock();
            state.removed.map(|reason| (reason, peer.info(&state)))
        };
        if let Some((reason, info)) = removed {
            self.unlist(&peer, Removal::Asked(reason), info);
            self.changed();
            // Its farewell has been published already.
            return Err(Refusal::UnknownPeer);
        }
        self.changed();
        self.push_to(&audience, Message::published(hello)).await;
        if peer.state.lock().removed.is_some() {
            // Some peers may have heard its farewell before its hello.
            self.push_to(&audience, Message::published(farewell)).await;
            return Err(Refusal::UnknownPeer);
        }
        Ok(self.with_cards(cards))
    }

    async fn cards(&self) -> Result<Vec<Card>, Refusal> {
        let cards = self.room.names.lock().cards();
        Ok(self.with_cards(cards))
    }

    async fn claim(
        &self,
        id: PeerId,
        scope: &str,
        name: &str,
        kept: Duration,
    ) -> Result<(), Refusal> {
        self.free(id, scope, name, kept);
        self.with_names(id, |names| names.claim(id, scope, name))
    }

    async fn send_to_alias(
        &self,
        _: PeerId,
        scope: &str,
        name: &str,
        body: Bytes,
    ) -> Result<Reached, Refusal> {
        let sent = self.push_to_alias(scope, name, body).await;
        self.shared.counts.sent(&sent);
        sent
    }

    async fn join(&self, id: PeerId, channel: &str, opts: JoinOpts) -> Result<Arc<str>, Refusal> {
        let JoinOpts { hello, group_of } = opts;
        if hello.is_empty() {
            return self.with_names(id, |names| names.join(id, channel, group_of));
        }
        let (channel, others, farewell) = self.with_names(id, |names| {
            let channel = names.join(id, channel, group_of)?;
            let others = names.audience(Some(id), &[&channel]);
            Ok((channel, others, names.farewell_of(id)))
        })?;
        if !others.is_empty() {
            let hello = self.shared.buffered.share_anyway(hello);
            self.push_to(&others, Message::published(hello)).await;
            let is_removed = self
                .peer(id)
                .map_or(true, |peer| peer.state.lock().removed.is_some());
            if let Some(farewell) = farewell.filter(|_| is_removed) {
                // Some peers may have heard its farewell before its hello.
                self.push_to(&others, Message::published(farewell)).await;
            }
        }
        Ok(channel)
    }

    async fn count_in(&self, channel: &str) -> Result<usize, Refusal> {
        Ok(self.room.names.lock().count_in(channel))
    }

    async fn leave(&self, id: PeerId, channel: &str) -> Result<(), Refusal> {
        self.with_names(id, |names| {
            names.leave(id, channel);
            Ok(())
        })
    }

    async fn publish(
        &self,
        from: PeerId,
        channels: &[&str],
        body: Bytes,
        opts: PublishOpts,
    ) -> Result<(), Refusal> {
        let published = self.publish_in(from, channels, body, opts).await;
        self.shared.counts.sent(&published);
        published
    }

    async fn announce(&self, id: PeerId, name: &str) -> Result<(), Refusal> {
        let announced = self.announced(name)?;
        let watchers = self.with_names(id, |names| names.announce(id, name))?;
        self.push_to(&watchers, announced).await;
        Ok(())
    }

    async fn watch_for(&self, id: PeerId, name: &str) -> Result<(), Refusal> {
        if self.with_names(id, |names| names.watch_for(id, name))? {
            let announced = self.announced(name)?;
            self.push_to(&[id], announced).await;
        }
        Ok(())
    }
}

impl MemoryEngine {
    fn announced(&self, name: &str) -> Result<Message, Refusal> {
        let name = Bytes::copy_from_slice(name.as_bytes());
        Ok(Message::announced(self.shared.buffered.share(name)?))
    }

    async fn push_to_alias(
        &self,
        scope: &str,
        name: &str,
        body: Bytes,
    ) -> Result<Reached, Refusal> {
        let to = self.room.names.lock().holder(scope, name);
        let to = to.and_then(|id| self.peer(id).ok());
        let to = to.ok_or(Refusal::UnknownReceiver)?;
        let body = self.shared.buffered.share(body)?;
        self.push_patiently(&to, Message::published(body)).await?;
        Ok(Reached {
            id: to.id,
            has_socket: to.state.lock().presence.sockets > 0,
        })
    }

    async fn publish_in(
        &self,
        from: PeerId,
        channels: &[&str],
        body: Bytes,
        opts: PublishOpts,
    ) -> Result<(), Refusal> {
        let peer = self.peer(from)?;
        let but = (!opts.echoes).then_some(from);
        let audience = self.room.names.lock().audience(but, channels);
        let message = Message::published(self.shared.buffered.share(body)?);
        let Some(number) = opts.number else {
            self.push_to(&audience, message).await;
            return Ok(());
        };
        let list = self.clone();
        // Goes on when the sender's socket is replaced: the client sends the message
        // again, and that repeat waits for this call and is then dropped.
        let sending = tokio::spawn(async move {
            let _alone = peer.publishing.lock().await;
            {
                let mut last = peer.last_sent.lock();
                if number <= *last {
                    return;
                }
                *last = number;
            }
            list.push_to(&audience, message).await;
        });
        // An error means that the server stops.
        let _ = sending.await;
        Ok(())
    }

    /// Changes the names of a peer that is in the map.
    fn with_names<T>(
        &self,
        id: PeerId,
        change: impl FnOnce(&mut Names) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        // Locked before the look: a peer is taken off the map before its names are
        // removed.
        let mut names = self.room.names.lock();
        self.peer(id)?;
        change(&mut names)
    }

    /// A peer comes back, if it is of the same user.
    fn returned_for(&self, peer: &Peer, identity: &Identity) -> Result<Added, Refusal> {
        peer.is_of(identity)?;
        peer.state.lock().sign_in.identity = identity.clone();
        Ok(self.returned(peer))
    }

    fn returned(&self, peer: &Peer) -> Added {
        self.shared.counts.resumes.count();
        {
            let mut state = peer.state.lock();
            let now = Instant::now();
            state.presence.returned(now);
            state.presence.shown = state.presence.connected(now);
            let mut roster = self.room.roster.lock();
            if let Some(joined) = peer.joined() {
                roster.set_connected(joined, state.presence.shown);
            }
            if let Some(peer) = peer.info(&state) {
                self.shared.events.add(PeerEvent::PeerReconnected(peer));
            }
        }
        self.added(peer, true)
    }

    fn added(&self, peer: &Peer, resumed: bool) -> Added {
        let names = self.room.names.lock();
        Added {
            id: peer.id,
            token: peer.token,
            resumed,
            alias: names.alias_of(peer.id).filter(|_| peer.joined().is_some()),
            channels: names.channels_of(peer.id),
        }
    }

    /// Removes the holder of an alias that another peer claims, if its socket has been
    /// closed for long.
    fn free(&self, claimant: PeerId, scope: &str, name: &str, kept: Duration) {
        let holder = {
            let names = self.room.names.lock();
            let has_one = names.alias_of(claimant).is_some();
            names.holder(scope, name).filter(|_| !has_one)
        };
        let Some(holder) = holder.and_then(|id| self.peer(id).ok()) else {
            return;
        };
        self.remove_if(&holder, |state| {
            let now = Instant::now();
            let is_lost = state.presence.open == 0 && now >= state.presence.last_seen(now) + kept;
            is_lost.then_some(Removal::Asked(Reason::Closed))
        });
    }

    /// Every peer in the list, except peers that came in unlisted and show no card.
    fn with_cards(&self, mut cards: HashMap<PeerId, Bytes>) -> Vec<Card> {
        let peers = self.peer_ids().into_iter();
        let peers = peers.filter_map(|id| self.peer(id).ok());
        let cards = peers.filter_map(|peer| {
            let card = cards.remove(&peer.id);
            let is_shown = card.is_some() || !peer.by_socket_only;
            let card = card.map(|text| DoorCard {
                door: peer.state.lock().sign_in.door.into(),
                text,
            });
            is_shown.then_some(Card {
                id: peer.id,
                name: peer.listed()?.name,
                card,
            })
        });
        cards.collect()
    }

    async fn push_to(&self, peers: &[PeerId], message: Message) {
        let peers = peers.iter().filter_map(|id| self.peer(*id).ok());
        let full = peers.filter(|peer| {
            let pushed = self.push(peer, message.clone());
            pushed == Err(Refusal::MailboxFull)
        });
        let full: Vec<_> = full.collect();
        // Pushed side by side, so that many receivers that do not read take no longer
        // than one.
        join_all(
            full.iter()
                .map(|peer| self.push_patiently(peer, message.clone())),
        )
        .await;
    }
}
