//! How a peer is taken off the list, for whatever reason.

use std::task::Waker;

use tracing::info;

use super::{
    MemoryEngine,
    mailbox::Message,
    peer::{Peer, PeerState, Stale},
};
use crate::peer_list::{Dialect, PeerEvent, PeerId, PeerInfo, Reason, Refusal};

/// Why a peer is taken off, in the detail that the log shows.
#[derive(Clone, Copy)]
pub(super) enum Removal {
    Asked(Reason),
    Stale(Stale),
}

impl Removal {
    fn reason(self) -> Reason {
        match self {
            Removal::Asked(reason) => reason,
            Removal::Stale(_) => Reason::TimedOut,
        }
    }

    fn why(self) -> Option<Stale> {
        match self {
            Removal::Asked(_) => None,
            Removal::Stale(why) => Some(why),
        }
    }
}

/// What the attempt to take a peer off the list has done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum TakenOff {
    /// The peer stays, or was removed before.
    Nothing,
    /// The peer was removed; it was not listed, so that no other peer is told.
    Unlisted,
    /// The peer was removed from the list.
    Listed,
}

impl MemoryEngine {
    /// Takes a peer off the list, if it is listed, and tells the others.
    pub(super) fn remove_now(&self, id: PeerId, removal: Removal) -> bool {
        let peer = self.peer(id);
        peer.is_ok_and(|peer| self.remove_if(&peer, |_| Some(removal)))
    }

    /// Removes a peer as [`MemoryEngine::take_off_if`] does, and tells the others.
    pub(super) fn remove_if(
        &self,
        peer: &Peer,
        reason: impl FnOnce(&PeerState) -> Option<Removal>,
    ) -> bool {
        let taken_off = self.take_off_if(peer, reason);
        if taken_off == TakenOff::Listed {
            self.changed();
        }
        taken_off != TakenOff::Nothing
    }

    /// Takes a peer off the list and ends its waits, if there is a reason while its state
    /// is locked. The caller tells the others.
    pub(super) fn take_off_if(
        &self,
        peer: &Peer,
        reason: impl FnOnce(&PeerState) -> Option<Removal>,
    ) -> TakenOff {
        let (removal, info, wakers) = {
            let mut state = peer.state.lock();
            let Some(removal) = reason(&state) else {
                return TakenOff::Nothing;
            };
            state.removed.get_or_insert(removal.reason());
            state.mailbox.clear();
            (removal, peer.info(&state), state.waits.take_all())
        };
        // The caller that takes it off the map removes it.
        if !self.take_off_map(peer.id) {
            return TakenOff::Nothing;
        }
        peer.space.notify_waiters();
        let farewell = self.room.names.lock().remove(peer.id);
        if let Some((farewell, audience)) = farewell {
            let message = Message::published(farewell);
            for other in audience.iter().filter_map(|id| self.peer(*id).ok()) {
                if self.push(&other, message.clone()) == Err(Refusal::MailboxFull) {
                    self.give_up(&other);
                }
            }
        }
        let was_listed = self.unlist(peer, removal, info);
        // Woken only now: if the peer has signed out, its own wait is answered with the
        // list, which must not name the peer any more.
        wakers.into_iter().for_each(Waker::wake);
        if was_listed {
            TakenOff::Listed
        } else {
            TakenOff::Unlisted
        }
    }

    /// Takes a removed peer off the list. False if the list does not have it. `info`: its
    /// last state.
    pub(super) fn unlist(&self, peer: &Peer, removal: Removal, info: Option<PeerInfo>) -> bool {
        let Some(mut info) = info else { return false };
        info.connected = false;
        let reason = removal.reason();
        let (listed, peers) = {
            // Under the lock of the roster, so that events come in the order of the list.
            let mut roster = self.room.roster.lock();
            let Some(listed) = peer.listed() else {
                return false;
            };
            if !roster.leave(listed.joined, &listed.name) {
                return false;
            }
            let removed = PeerEvent::PeerRemoved { peer: info, reason };
            self.shared.events.add(removed);
            (listed, roster.len())
        };
        info!(
            peer_id = peer.id.get(),
            room = self.room.name.as_ref().map(tracing::field::display),
            name = &*listed.name,
            %reason,
            why = removal.why().map(tracing::field::display),
            peers,
            "peer removed"
        );
        self.shared.counts.removed(reason);
        true
    }

    pub(super) fn fell_behind(&self, state: &PeerState) -> Option<Stale> {
        let bare = state.sign_in.dialect == Dialect::Bare;
        let behind = bare && !self.room.roster.lock().log_reaches(state.heard);
        behind.then_some(Stale::FellBehind)
    }
}
