//! How peers sign in, come back and sign out, as calls of the script.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::sleep;
use tracing::info;

use super::{
    LONG_PATIENCE, PATIENCE, RedisEngine,
    answers::{Left, SignedInAs, WasRemoved},
    caller,
    events::words_of,
    link_of,
    list::List,
    op, verbs,
};
use crate::peer_list::{
    Caller, Identity, PeerId, PeerToken, Peers, Reason, Refusal, SignInOpts, SignedIn,
    peer::name_for_list, rules::REPOLL_PATIENCE,
};

impl RedisEngine {
    /// The network that a peer is counted for, or nothing.
    pub(super) fn counted_network(&self, identity: &Identity) -> String {
        let is_limited = self.list.node.opts.max_peers_per_network.is_some();
        let network = identity.network.filter(|_| is_limited);
        network
            .map(|network| network.to_string())
            .unwrap_or_default()
    }
}

#[async_trait]
impl Peers for RedisEngine {
    async fn add_peer(&self, name: Option<&str>, opts: SignInOpts) -> Result<SignedIn, Refusal> {
        if name.is_some_and(str::is_empty) {
            return Err(Refusal::NoName);
        }
        let name = name.map(name_for_list);
        let token = PeerToken::random();
        let op = op();
        let mut asking = SignIn::new(&self.list, &op);
        let (user, address) = words_of(&opts.identity);
        let add = verbs::add_peer(
            &op,
            name.as_deref().unwrap_or_default(),
            opts.door,
            opts.dialect,
            &token,
            self.list.highest_id(),
            opts.protected,
            &user,
            &address,
            opts.identity.ice_servers.as_deref().unwrap_or_default(),
            &self.counted_network(&opts.identity),
        );
        let added = self.list.run_in_time(add, PATIENCE).await;
        if let Err(Refusal::Full | Refusal::RoomFull | Refusal::NetworkFull) = added {
            asking.is_answered();
        }
        let signed_in = self.signed_in(added?, token).await?;
        asking.is_answered();
        info!(
            peer_id = signed_in.id.get(),
            room = self.list.room.as_ref().map(tracing::field::display),
            name = name.as_deref(),
            door = opts.door,
            address = opts.identity.address.map(tracing::field::display),
            user = opts.identity.user.as_deref(),
            "peer signed in"
        );
        self.list.node.counts.sign_ins.count();
        Ok(signed_in)
    }

    async fn resume_peer(
        &self,
        id: PeerId,
        token: &PeerToken,
        name: Option<&str>,
        opts: SignInOpts,
    ) -> Result<SignedIn, Refusal> {
        let name = name.map(name_for_list);
        let name = name.as_deref().unwrap_or_default();
        let (user, address) = words_of(&opts.identity);
        let resume = verbs::resume_peer(
            &op(),
            id,
            token,
            name,
            opts.door,
            opts.dialect,
            &user,
            &address,
            opts.identity.ice_servers.as_deref().unwrap_or_default(),
            opts.has_socket,
        );
        self.list.ask_next_time(id);
        let resumed = self.list.run_in_time(resume, PATIENCE).await?;
        let room = self.list.room.as_ref().map(tracing::field::display);
        let address = opts.identity.address.map(tracing::field::display);
        info!(
            peer_id = id.get(),
            room,
            door = opts.door,
            address,
            "peer came back"
        );
        self.list.node.counts.resumes.count();
        self.signed_in(resumed, *token).await
    }

    async fn check_token(&self, id: PeerId, token: Option<&PeerToken>) -> Result<(), Refusal> {
        let check = verbs::check_token(id, token);
        self.list.run(check, Some(PATIENCE)).await
    }

    async fn refresh_peer_timeout(&self, id: PeerId) -> Result<(), Refusal> {
        self.heartbeat(&caller(id)).await
    }

    async fn remove_peer(&self, id: PeerId, reason: Reason) -> Result<bool, Refusal> {
        self.list.ask_next_time(id);
        let remove = verbs::remove_peer(&op(), id, reason);
        let WasRemoved { was_there, peer } = self.list.run(remove, Some(PATIENCE)).await?;
        if let Some(peer) = peer {
            peer.note(&self.list.node.counts);
        }
        Ok(was_there)
    }

    async fn sign_out_later(&self, id: PeerId, grace: Duration) -> Result<(), Refusal> {
        let ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.list.ask_next_time(id);
        let later = verbs::sign_out_later(id, ms);
        self.list.run(later, Some(PATIENCE)).await?;
        // Held, so that the list of a room is there when the grace is over.
        let list = self.list.clone();
        tokio::spawn(async move {
            let mut pause = grace;
            loop {
                sleep(pause).await;
                let left = list.run(verbs::leave(id), Some(LONG_PATIENCE));
                // Otherwise the collector finds it.
                let Ok(Left { removed, is_asked }) = left.await else {
                    return;
                };
                if let Some(removed) = removed {
                    removed.note(&list.node.counts);
                }
                if !is_asked {
                    return;
                }
                pause = REPOLL_PATIENCE;
            }
        });
        Ok(())
    }
}

impl RedisEngine {
    pub(super) async fn heartbeat(&self, caller: &Caller) -> Result<(), Refusal> {
        let Caller { id, lingers, .. } = *caller;
        let heartbeat = verbs::heartbeat(id, &caller.proof, link_of(caller), lingers);
        self.list.run(heartbeat, Some(PATIENCE)).await
    }

    /// The answer to a sign-in: the id, and the list.
    async fn signed_in(
        &self,
        SignedInAs { id, moment }: SignedInAs,
        token: PeerToken,
    ) -> Result<SignedIn, Refusal> {
        self.list.note_id(id);
        self.list.sync_to(moment, Some(PATIENCE)).await?;
        let list = self.list.cached.lock().list_from(id);
        Ok(SignedIn { id, token, list })
    }
}

/// A sign-in that was asked for. If it is dropped while it has its name, its client was
/// refused or has left: the sign-in is undone.
pub(super) struct SignIn<'a> {
    list: &'a Arc<List>,
    op: Option<String>,
}

impl<'a> SignIn<'a> {
    pub fn new(list: &'a Arc<List>, op: &str) -> Self {
        let op = Some(op.to_owned());
        Self { list, op }
    }

    pub fn is_answered(&mut self) {
        self.op = None;
    }
}

impl Drop for SignIn<'_> {
    fn drop(&mut self) {
        if let Some(op) = self.op.take() {
            let give_up = verbs::give_up_sign_in(&op);
            // After a longer outage the peer is stale.
            self.list.later(give_up, Some(LONG_PATIENCE));
        }
    }
}
