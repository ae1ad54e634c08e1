//! Members of the group, whose broadcasts reach each other at all nodes.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tracing::info;

use super::{
    LONG_PATIENCE, PATIENCE, RedisEngine, Row, hash, hash_token, number_arg, op, peers::SignIn,
    split,
};
use crate::peer_list::{
    Added, Card, Family, Group, Introduction, PeerId, PeerToken, Refusal, peer::name_for_list,
};

/// The cards of so many peers are asked for at once: others wait for it.
const CARDS_AT_ONCE: usize = 500;

#[async_trait]
impl Group for RedisEngine {
    async fn add_member(&self, key: Option<&str>, door: &'static str) -> Result<Added, Refusal> {
        let token = PeerToken::random();
        let op = op();
        let mut asking = SignIn::new(&self.0, &op);
        let row = self.0.run_in_time("add_member", PATIENCE, |verb| {
            verb.arg(&op)
                .arg(key.map(hash).unwrap_or_default())
                .arg(door)
                .arg(hash_token(&token))
                .arg(self.0.highest_id())
        });
        let (kind, row) = row.await?;
        let added = match kind.as_str() {
            "ok" => self.added(row, token).ok_or(Refusal::Unavailable)?,
            "full" => {
                asking.is_answered();
                return Err(Refusal::Full);
            }
            _ => return Err(Refusal::Unavailable),
        };
        asking.is_answered();
        Ok(added)
    }

    async fn resume_member(&self, id: PeerId, token: &PeerToken) -> Result<Added, Refusal> {
        let op = op();
        let row = self.0.run_in_time("resume_member", PATIENCE, |verb| {
            verb.arg(&op).arg(id.get()).arg(hash_token(token))
        });
        let (kind, row) = row.await?;
        match kind.as_str() {
            "ok" => self.added(row, *token).ok_or(Refusal::Unavailable),
            "wrong" => Err(Refusal::WrongToken),
            "gone" => Err(Refusal::UnknownPeer),
            _ => Err(Refusal::Unavailable),
        }
    }

    async fn list_member(
        &self,
        id: PeerId,
        name: &str,
        introduction: Introduction,
    ) -> Result<Vec<Card>, Refusal> {
        let listed = name_for_list(name);
        let op = op();
        let row = self.0.run("list_member", None, |verb| {
            verb.arg(&op)
                .arg(id.get())
                .arg(&*listed)
                .arg(name)
                .arg(&introduction.card[..])
                .arg(&introduction.hello[..])
                .arg(&introduction.farewell[..])
        });
        let (kind, mut row) = split(row.await)?;
        match kind.as_str() {
            "ok" => {}
            "taken" => return Err(Refusal::NameTaken),
            "unknown" => return Err(Refusal::UnknownPeer),
            _ => return Err(Refusal::Unavailable),
        }
        info!(peer_id = id.get(), name = &*listed, "peer signed in");
        let full = row.row();
        let version = row.number().ok_or(Refusal::Unavailable)?;
        self.push_owed(&op, id, None, full, "g", introduction.hello)
            .await;
        self.0.sync_to(version, None).await?;
        let mut cards = self.cards().await?;
        cards.retain(|card| card.id != id);
        Ok(cards)
    }

    async fn broadcast(
        &self,
        from: PeerId,
        body: Bytes,
        number: Option<u64>,
    ) -> Result<(), Refusal> {
        let op = op();
        let row = self.0.run("broadcast", None, |verb| {
            verb.arg(&op)
                .arg(from.get())
                .arg(number_arg(number))
                .arg(&body[..])
        });
        let (kind, mut row) = split(row.await)?;
        if kind != "ok" {
            return Err(Refusal::UnknownPeer);
        }
        self.push_owed(&op, from, number, row.row(), "g", body)
            .await;
        Ok(())
    }

    async fn send_to_member(&self, from: PeerId, name: &str, body: Bytes) -> Result<(), Refusal> {
        let op = op();
        let row = self.0.run("send_to_member", Some(LONG_PATIENCE), |verb| {
            verb.arg(&op).arg(from.get()).arg(name).arg(&body[..])
        });
        let (kind, mut row) = split(row.await)?;
        if kind != "ok" {
            return Err(Refusal::UnknownReceiver);
        }
        match self
            .push_owed(&op, from, None, row.row(), "g", body)
            .await
            .pop()
        {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn show_family(&self, id: PeerId, family: Family) {
        let letter = match family {
            Family::Names => "n",
            Family::Rooms => "r",
        };
        let row = self
            .0
            .run("show_family", None, |verb| verb.arg(id.get()).arg(letter));
        let _ = row.await;
    }

    async fn keep_room(&self, id: PeerId, room: &str) -> Result<(), Refusal> {
        self.room("keep_room", id, room).await
    }

    async fn ask_for_room(&self, id: PeerId, room: &str) -> Result<(), Refusal> {
        self.room("ask_for_room", id, room).await
    }

    async fn cards(&self) -> Result<Vec<Card>, Refusal> {
        let unknown = self.0.cached.lock().without_card();
        for ids in unknown.chunks(CARDS_AT_ONCE) {
            let row = self.0.run("cards_of", Some(PATIENCE), |verb| {
                ids.iter().fold(verb, |verb, id| verb.arg(id.get()))
            });
            let shown = row.await?.all_bytes();
            let mut cached = self.0.cached.lock();
            for (id, shown) in ids.iter().zip(shown) {
                // A member of whom nothing is shown has an empty card.
                let card = shown.map(|card| Some(card).filter(|card| !card.is_empty()));
                cached.set_card(*id, card);
            }
        }
        Ok(self.0.cached.lock().cards())
    }
}

impl RedisEngine {
    /// A member, as the script tells of it.
    fn added(&self, mut row: Row, token: PeerToken) -> Option<Added> {
        let id = row.text().and_then(|id| PeerId::parse(&id))?;
        // It may be in no list for long.
        self.0.cached.lock().note_id(id);
        Some(Added {
            id,
            token,
            resumed: row.text()? == "1",
            name: row.text().map(Into::into),
        })
    }

    async fn room(&self, verb: &str, id: PeerId, room: &str) -> Result<(), Refusal> {
        let op = op();
        let row = self
            .0
            .run(verb, None, |verb| verb.arg(&op).arg(id.get()).arg(room));
        let (kind, mut row) = split(row.await)?;
        let name = Bytes::copy_from_slice(room.as_bytes());
        self.push_owed(&op, id, None, row.row(), "r", name).await;
        match kind.as_str() {
            "ok" => Ok(()),
            _ => Err(Refusal::TooManyNames),
        }
    }

    /// Waits for room in the mailboxes of those that had none. Returns why each
    /// that made none is not told.
    async fn push_owed(
        &self,
        op: &str,
        from: PeerId,
        number: Option<u64>,
        full: Option<Row>,
        kind: &'static str,
        body: Bytes,
    ) -> Vec<Refusal> {
        let full = full.map(Row::texts).unwrap_or_default();
        let full = full.iter().filter_map(|id| PeerId::parse(id));
        // Side by side, so that many that do not read take no longer than one.
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
            self.until_room(id, body.len(), None).await?;
            let row = self.0.run("push_owed", None, |verb| {
                verb.arg(op)
                    .arg(from.get())
                    .arg(number_arg(number))
                    .arg(id.get())
                    .arg(kind)
                    .arg(&body[..])
            });
            let pushed = split(row.await)?;
            match pushed.0.as_str() {
                "ok" => return Ok(()),
                "unknown" => return Err(Refusal::UnknownReceiver),
                _ => {}
            }
        }
    }
}
