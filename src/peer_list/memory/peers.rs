//! How peers sign in, come back and sign out.

use std::{sync::Arc, task::Waker, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::{
    MemoryEngine,
    peer::{Leaving, Listed, Peer, Presence},
    removal::Removal,
};
use crate::peer_list::{
    PeerEvent, PeerId, PeerToken, Peers, Reason, Refusal, SignInOpts, SignedIn,
    peer::name_for_list,
    rules::{REPOLL_PATIENCE, STANDSTILL},
};

#[async_trait]
impl Peers for MemoryEngine {
    async fn add_peer(&self, name: Option<&str>, opts: SignInOpts) -> Result<SignedIn, Refusal> {
        if name.is_some_and(str::is_empty) {
            return Err(Refusal::NoName);
        }
        let signed_in = {
            let mut roster = self.room.roster.lock();
            let of_network = self.count_of_network(&opts.identity)?;
            let id = self.next_id()?;
            let name = name.map_or_else(|| format!("peer_{id}").into(), name_for_list);
            let now = Instant::now();
            let presence = Presence::new(now);
            let joined = roster.join(id, &name, opts.dialect, presence.shown);
            let peer = Arc::new(Peer::new(
                id,
                &self.room,
                opts,
                &self.shared.buffered,
                joined,
                presence,
                of_network,
            ));
            // No other code knows this peer yet, so that its state may be locked after
            // the roster.
            self.enlist(&roster, &peer, &peer.state.lock(), Listed { name, joined });
            let signed_in = SignedIn {
                id,
                token: peer.token,
                list: roster.list(now),
            };
            // Put into the map before any client can read the id in the list.
            self.put_on_map(peer);
            signed_in
        };
        self.changed();
        Ok(signed_in)
    }

    async fn resume_peer(
        &self,
        id: PeerId,
        token: &PeerToken,
        name: Option<&str>,
        opts: SignInOpts,
    ) -> Result<SignedIn, Refusal> {
        let peer = self.polled_peer(id)?;
        if peer.admit(Some(token)).is_err() {
            return Err(Refusal::WrongToken);
        }
        peer.is_of(&opts.identity)?;
        let now = Instant::now();
        let (door, address) = (opts.door, opts.identity.address);
        let (list, renamed, wakers) = {
            let mut state = peer.state.lock();
            if state.removed.is_some() {
                return Err(Refusal::UnknownPeer);
            }
            let mut roster = self.room.roster.lock();
            let mut listed = peer.listed().ok_or(Refusal::UnknownPeer)?;
            let name = name.map(name_for_list);
            let name = name.filter(|name| !name.is_empty() && *name != listed.name);
            let renamed = name.is_some();
            state.is_back(opts.has_socket, now);
            state.presence.returned(now);
            state.presence.shown = state.presence.connected(now);
            if let Some(name) = name {
                roster.leave(listed.joined, &listed.name);
                let joined = roster.join(id, &name, opts.dialect, state.presence.shown);
                listed = Listed { name, joined };
                peer.set_listed(listed.clone());
            } else {
                roster.set_connected(listed.joined, state.presence.shown);
            }
            let wakers = state.begin_session(false);
            state.heard = opts.dialect.knows(roster.current());
            state.sign_in = opts;
            if let Some(peer) = peer.info(&state) {
                self.shared.events.add(PeerEvent::PeerReconnected(peer));
            }
            (roster.list_from(listed.joined, now), renamed, wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
        let room = self.room.name.as_ref().map(tracing::field::display);
        let address = address.map(tracing::field::display);
        info!(peer_id = id.get(), room, door, address, "peer came back");
        self.shared.counts.resumes.count();
        if renamed {
            self.changed();
        }
        let token = *token;
        Ok(SignedIn { id, token, list })
    }

    async fn check_token(&self, id: PeerId, token: Option<&PeerToken>) -> Result<(), Refusal> {
        match self.peer(id) {
            Ok(peer) => peer.admit(token),
            Err(_) => Ok(()),
        }
    }

    async fn refresh_peer_timeout(&self, id: PeerId) -> Result<(), Refusal> {
        let peer = self.polled_peer(id)?;
        let mut state = peer.state.lock();
        let now = Instant::now();
        state.presence.heartbeat(now);
        state.leaving = state.leaving.filter(|leaving| !leaving.is_belied(now));
        Ok(())
    }

    async fn remove_peer(&self, id: PeerId, reason: Reason) -> Result<bool, Refusal> {
        Ok(self.remove_now(id, Removal::Asked(reason)))
    }

    async fn sign_out_later(&self, id: PeerId, grace: Duration) -> Result<(), Refusal> {
        let Ok(peer) = self.peer(id) else {
            return Ok(());
        };
        let said = Instant::now();
        let end = said + grace;
        let wakers = {
            let mut state = peer.state.lock();
            // The peer said so before: its removal is on its way.
            if state.leaving.is_some_and(|leaving| leaving.end <= end) {
                return Ok(());
            }
            // The page may be frozen, or may have been reloaded before this request came:
            // a peer that polls again still runs.
            let is_asked = state.waits.is_parked() && !state.by_socket;
            state.leaving = Some(Leaving {
                said,
                end,
                is_asked,
                has_late_socket: false,
            });
            state.waits.end_all()
        };
        wakers.into_iter().for_each(Waker::wake);
        self.leave_at(peer, end);
        Ok(())
    }
}

impl MemoryEngine {
    /// Removes a peer when its grace ends, unless it has shown before that it still runs.
    fn leave_at(&self, peer: Arc<Peer>, end: Instant) {
        let list = self.downgrade();
        tokio::spawn(async move {
            sleep_until(end).await;
            let Some(list) = list.upgrade() else { return };
            let woken = Instant::now();
            let later = {
                let mut state = peer.state.lock();
                let leaving = state.leaving.filter(|leaving| leaving.end == end);
                match leaving {
                    // This process stood still, and no peer could show that it runs.
                    Some(leaving) if woken > end + STANDSTILL => {
                        let end = woken + (end - leaving.said);
                        state.leaving = Some(Leaving { end, ..leaving });
                        Some((end, Vec::new()))
                    }
                    Some(leaving) if leaving.has_late_socket && state.by_socket => {
                        state.leaving = None;
                        None
                    }
                    Some(leaving) if state.waits.is_parked() && !state.by_socket => {
                        // It waits although it said that it signs out, or although its
                        // wait was ended after that. It still runs; or this wait was its
                        // last request, which came late.
                        let end = end + REPOLL_PATIENCE;
                        let asks = !leaving.is_asked;
                        state.leaving = asks.then_some(Leaving {
                            end,
                            is_asked: true,
                            ..leaving
                        });
                        asks.then(|| (end, state.waits.end_all()))
                    }
                    _ => None,
                }
            };
            if let Some((end, wakers)) = later {
                wakers.into_iter().for_each(Waker::wake);
                return list.leave_at(peer, end);
            }
            list.remove_if(&peer, |state| {
                let leaves = state.leaving.is_some_and(|leaving| leaving.end == end);
                leaves.then_some(Removal::Asked(Reason::SignedOut))
            });
        });
    }
}
