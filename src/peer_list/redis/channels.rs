//! Unlisted peers, channels, aliases and announcements, as calls of the script.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tracing::info;

use super::{
    LONG_PATIENCE, PATIENCE, RedisEngine,
    answers::{CameIn, Cards, Count, More, Owed, Pushed},
    events::words_of,
    hash,
    list::List,
    op,
    peers::SignIn,
    verbs::{self, Call},
};
use crate::peer_list::{
    Added, Card, Channels, DoorCard, Identity, JoinOpts, Listing, PeerId, PeerToken, PublishOpts,
    Reached, Refusal, Unlisted, Watching, peer::name_for_list,
};

/// At most this many cards are asked for at once: other calls wait meanwhile.
const CARDS_AT_ONCE: usize = 500;

/// The kinds of messages in mailboxes, as the script names them.
const PUBLISHED: &str = "p";
const ANNOUNCED: &str = "a";
/// Published, but not after the farewell of its peer.
const HELLO: &str = "h";

#[async_trait]
impl Channels for RedisEngine {
    async fn add_unlisted(&self, unlisted: Unlisted<'_>) -> Result<Added, Refusal> {
        let token = PeerToken::random();
        let op = op();
        let mut asking = SignIn::new(&self.list, &op);
        let secret = unlisted.key.map(hash).unwrap_or_default();
        let Unlisted { door, channels, .. } = unlisted;
        let (user, address) = words_of(unlisted.identity);
        let highest = self.list.highest_id();
        let network = self.counted_network(unlisted.identity);
        let ice_servers = unlisted.identity.ice_servers.as_deref();
        let ice_servers = ice_servers.unwrap_or_default();
        let add = verbs::add_unlisted(
            &op,
            &secret,
            door,
            &token,
            highest,
            &user,
            &address,
            ice_servers,
            &network,
            channels,
        );
        let added = self.list.run_in_time(add, PATIENCE).await;
        if let Err(Refusal::Full | Refusal::RoomFull | Refusal::NetworkFull | Refusal::OtherUser) =
            added
        {
            asking.is_answered();
        }
        let added = self.added(added?, token);
        asking.is_answered();
        Ok(added)
    }

    async fn resume_unlisted(
        &self,
        id: PeerId,
        token: &PeerToken,
        identity: &Identity,
    ) -> Result<Added, Refusal> {
        let (user, address) = words_of(identity);
        let resume = verbs::resume_unlisted(
            &op(),
            id,
            token,
            &user,
            &address,
            identity.ice_servers.as_deref().unwrap_or_default(),
        );
        let came_in = self.list.run_in_time(resume, PATIENCE).await?;
        Ok(self.added(came_in, *token))
    }

    async fn list_peer(&self, id: PeerId, listing: Listing<'_>) -> Result<Vec<Card>, Refusal> {
        let listed = name_for_list(listing.name);
        let op = op();
        let (card, hello, farewell) = (&listing.card, &listing.hello, &listing.farewell);
        let list = verbs::list_peer(&op, id, &listed, card, hello, farewell);
        let owed = self.list.run(list, None).await?;
        let room = self.list.room.as_ref().map(tracing::field::display);
        info!(peer_id = id.get(), room, name = &*listed, "peer signed in");
        self.list.node.counts.sign_ins.count();
        let moment = owed.moment.ok_or(Refusal::Unavailable)?;
        self.push_owed(&op, id, None, owed, HELLO, listing.hello)
            .await;
        self.list.sync_to(moment, None).await?;
        let mut cards = self.known_cards().await?;
        cards.retain(|card| card.id != id);
        Ok(cards)
    }

    async fn claim(
        &self,
        id: PeerId,
        scope: &str,
        name: &str,
        kept: Duration,
    ) -> Result<(), Refusal> {
        let kept = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
        self.change(verbs::claim(id, scope, name, kept)).await
    }

    async fn send_to_alias(
        &self,
        from: PeerId,
        scope: &str,
        name: &str,
        body: Bytes,
    ) -> Result<Reached, Refusal> {
        let sent = self.push_to_alias(from, scope, name, body).await;
        self.list.node.counts.sent(&sent);
        sent
    }

    async fn join(&self, id: PeerId, channel: &str, opts: JoinOpts) -> Result<Arc<str>, Refusal> {
        let op = op();
        let size = opts.group_of.map(|size| size.get().into());
        let join = verbs::join(&op, id, channel, size, &opts.hello);
        let joined = self.list.run(join, None).await?;
        self.push_owed(&op, id, None, joined.owed, HELLO, opts.hello)
            .await;
        Ok(joined.channel.into())
    }

    async fn count_in(&self, channel: &str) -> Result<usize, Refusal> {
        let Count(count) = self
            .list
            .run(verbs::count_in(channel), Some(PATIENCE))
            .await?;
        Ok(count)
    }

    async fn leave(&self, id: PeerId, channel: &str) -> Result<(), Refusal> {
        self.change(verbs::leave_channel(id, channel)).await
    }

    async fn publish(
        &self,
        from: PeerId,
        channels: &[&str],
        body: Bytes,
        opts: PublishOpts,
    ) -> Result<(), Refusal> {
        let published = self.publish_in(from, channels, body, opts).await;
        self.list.node.counts.sent(&published);
        published
    }

    async fn announce(&self, id: PeerId, name: &str) -> Result<(), Refusal> {
        let op = op();
        let announce = verbs::announce(&op, id, name);
        self.announcement(&op, announce, id, name).await
    }

    async fn watch_for(&self, id: PeerId, name: &str) -> Result<(), Refusal> {
        let op = op();
        let watch = verbs::watch_for(&op, id, name);
        self.announcement(&op, watch, id, name).await
    }

    async fn cards(&self) -> Result<Vec<Card>, Refusal> {
        self.catch_up().await?;
        self.known_cards().await
    }
}

/// A card as the script has it, with its door. None: the peer shows none.
fn card_in(shown: Bytes) -> Option<DoorCard> {
    let space = shown.iter().position(|byte| *byte == b' ')?;
    Some(DoorCard {
        door: String::from_utf8_lossy(&shown[..space]).into(),
        text: shown.slice(space + 1..),
    })
}

impl List {
    /// Publishes farewells that many are to hear, until no more are left.
    pub async fn say_farewells(&self) {
        while let Ok(More(true)) = self.run(verbs::say_farewells(), None).await {}
    }
}

impl RedisEngine {
    async fn push_to_alias(
        &self,
        from: PeerId,
        scope: &str,
        name: &str,
        body: Bytes,
    ) -> Result<Reached, Refusal> {
        let _held = self.held(body.len())?;
        let op = op();
        let send = verbs::send_to_alias(&op, from, scope, name, &body);
        let sent = self.list.run(send, Some(LONG_PATIENCE)).await;
        let sent = sent.map_err(|refusal| match refusal {
            Refusal::UnknownPeer => Refusal::UnknownReceiver,
            other => other,
        })?;
        let pushed = self.push_owed(&op, from, None, sent.owed, PUBLISHED, body);
        if let Some(refusal) = pushed.await.pop() {
            return Err(refusal);
        }
        Ok(Reached {
            id: sent.holder.ok_or(Refusal::UnknownReceiver)?,
            has_socket: sent.has_socket,
        })
    }

    async fn publish_in(
        &self,
        from: PeerId,
        channels: &[&str],
        body: Bytes,
        opts: PublishOpts,
    ) -> Result<(), Refusal> {
        let _held = self.held(body.len())?;
        let op = op();
        let PublishOpts { number, echoes } = opts;
        let publish = verbs::publish(&op, from, number, echoes, &body, channels);
        let owed = self.list.run(publish, None).await?;
        self.push_owed(&op, from, number, owed, PUBLISHED, body)
            .await;
        Ok(())
    }

    /// Changes the names of a peer.
    async fn change(&self, change: Call<()>) -> Result<(), Refusal> {
        self.list.run(change, None).await
    }

    /// Every peer in the list, from this node's copy.
    async fn known_cards(&self) -> Result<Vec<Card>, Refusal> {
        loop {
            let unknown = {
                let cached = self.list.cached.lock();
                let mut unknown = cached.without_card();
                if unknown.is_empty() {
                    return Ok(cached.cards());
                }
                // After a reconnect the copy is made again, without cards: all is asked again.
                unknown.truncate(CARDS_AT_ONCE);
                unknown
            };
            let asked = self.list.run(verbs::cards_of(&unknown), Some(PATIENCE));
            let Cards(shown) = asked.await?;
            let mut cached = self.list.cached.lock();
            for (id, shown) in unknown.iter().zip(shown) {
                // A peer that came in unlisted and shows no card has an empty one.
                let card = shown.map(card_in);
                cached.set_card(*id, card);
            }
        }
    }

    /// A peer that has come in unlisted.
    fn added(&self, came_in: CameIn, token: PeerToken) -> Added {
        let CameIn { id, alias, .. } = came_in;
        // The peer may stay unlisted for long.
        self.list.note_id(id);
        if came_in.is_known {
            self.list.node.counts.resumes.count();
        }
        Added {
            id,
            token,
            resumed: came_in.is_known,
            alias: alias.map(Into::into),
            channels: came_in.channels.into_iter().map(Into::into).collect(),
        }
    }

    /// Carries out `announcement`, a call of `announce` or `watch_for` for this name, and
    /// pushes the name to the peers that had no room for it.
    async fn announcement(
        &self,
        op: &str,
        announcement: Call<Owed>,
        id: PeerId,
        name: &str,
    ) -> Result<(), Refusal> {
        let owed = self.list.run(announcement, None).await?;
        let word = Bytes::copy_from_slice(name.as_bytes());
        self.push_owed(op, id, None, owed, ANNOUNCED, word).await;
        Ok(())
    }

    /// Pushes a message to all who have not got it yet: first to those who only have to wait
    /// for their turn, then, when there is room, to those who had none. Returns a refusal for each peer that it did not reach.
    async fn push_owed(
        &self,
        op: &str,
        from: PeerId,
        number: Option<u64>,
        mut owed: Owed,
        kind: &'static str,
        body: Bytes,
    ) -> Vec<Refusal> {
        while owed.has_more {
            let push = verbs::push_more(op, from, number, kind, &body);
            owed = match self.list.run(push, None).await {
                Ok(owed) => owed,
                Err(refusal) => return vec![refusal],
            };
        }
        let full = owed.full.into_iter();
        // Tried side by side, so that many receivers that do not read take no longer than
        // one.
        let pushed = full.map(|id| self.push_patiently(op, from, number, id, kind, body.clone()));
        let pushed = join_all(pushed).await;
        pushed.into_iter().filter_map(Result::err).collect()
    }

    async fn push_patiently(
        &self,
        op: &str,
        from: PeerId,
        number: Option<u64>,
        id: PeerId,
        kind: &'static str,
        body: Bytes,
    ) -> Result<(), Refusal> {
        loop {
            self.until_space(id, body.len(), None).await?;
            let push = verbs::push_owed(op, from, number, id, kind, &body);
            if let Pushed(true) = self.list.run(push, None).await? {
                return Ok(());
            }
        }
    }
}
