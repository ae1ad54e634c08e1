//! The peer list that lives in this process.

mod gc;
mod group;
mod mailbox;
mod peer;
mod presence;
mod wait;

use std::{
    collections::HashMap,
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use bytes::Bytes;
use dashmap::DashMap;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::info;

pub(super) use presence::{OpenRequest, OpenSocket};
pub(super) use wait::Lease;

use super::{
    AddPeerError, Added, Card, Delivery, Dialect, Family, HeartbeatOpts, Introduction, Lines,
    PeerError, PeerEvent, PeerEvents, PeerId, PeerInfo, PeerToken, Reason, ResumeError, SendError,
    SignedIn, UnknownPeer, WayIn,
    events::EventLog,
    peer::name_for_list,
    roster::{Connected, Roster},
    rules::{ANSWER_PATIENCE, LATE_REQUEST, NAME_KEPT, ROOM_PATIENCE, STANDSTILL},
    telling::{Half, Schedule, Telling},
};
use gc::Awake;
use group::Group;
use mailbox::{Kind, Message};
use peer::{Leaving, Listed, Peer, PeerState, Presence, Stale};
use wait::Wait;

/// Why a peer is taken off, in the detail that the log tells.
#[derive(Clone, Copy)]
enum Removal {
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

/// What came of taking a peer off the list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TakenOff {
    /// There was no reason to, or it was done before.
    Nothing,
    /// It was in no list: nobody is to be told.
    Unlisted,
    /// It was in the list.
    Listed,
}

/// The list in this process. Clones are the same list.
#[derive(Clone)]
pub(super) struct LocalList(Arc<Shared>);

/// The list's insides.
///
/// Locks are taken in the order peer state, roster, map shard, and none is
/// held across an `await`. The wakers of waits run without a lock.
struct Shared {
    opts: HeartbeatOpts,
    /// All peers, and the members of the group that are in no list yet.
    peers: DashMap<PeerId, Arc<Peer>>,
    roster: Mutex<Roster>,
    /// Never locked together with anything else.
    group: Mutex<Group>,
    /// When the halves of the peers are told. Locked after the roster, if both
    /// are.
    schedules: Mutex<[Schedule; 2]>,
    /// For each half of the peers, the version of the list that they are to
    /// have heard when they wait. It follows the roster's current version, at
    /// most once a window.
    told: [AtomicU64; 2],
    /// Waits end instead of parking.
    ending: AtomicBool,
    events: Arc<EventLog>,
    gc: Mutex<Option<AbortHandle>>,
    /// Never locked together with anything else.
    awake: Mutex<Awake>,
}

impl LocalList {
    /// An empty list, and the collector that removes stale peers from it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if `gc_interval` is zero.
    pub fn new(opts: HeartbeatOpts) -> Self {
        let awake = Awake::new(&opts, Instant::now());
        let list = Self(Arc::new(Shared {
            opts,
            peers: DashMap::new(),
            roster: Mutex::new(Roster::new()),
            group: Mutex::default(),
            schedules: Mutex::new(Half::BOTH.map(Schedule::new)),
            told: Default::default(),
            ending: AtomicBool::new(false),
            events: EventLog::new(),
            gc: Mutex::new(None),
            awake: Mutex::new(awake),
        }));
        *list.0.gc.lock() = Some(gc::start(&list));
        list
    }

    pub async fn add_peer(&self, name: Option<&str>, way: WayIn) -> Result<SignedIn, AddPeerError> {
        if name.is_some_and(str::is_empty) {
            return Err(AddPeerError::NoName);
        }
        let signed_in = {
            let mut roster = self.0.roster.lock();
            let id = self.next_id(&mut roster)?;
            let name = name.map_or_else(|| format!("peer_{id}").into(), name_for_list);
            let now = Instant::now();
            let presence = Presence::new(now);
            let joined = roster.join(id, &name, way.dialect, presence.shown);
            let peer = Arc::new(Peer::new(id, way, joined, presence));
            // Nobody else knows this peer yet, so that its state may be locked
            // after the roster.
            self.enlist(&roster, &peer, &peer.state.lock(), Listed { name, joined });
            let signed_in = SignedIn {
                id,
                token: peer.token,
                list: roster.list(now),
            };
            // In the map before anybody can read the id in the list.
            self.0.peers.insert(id, peer);
            signed_in
        };
        self.changed();
        Ok(signed_in)
    }

    pub async fn resume_peer(
        &self,
        id: PeerId,
        token: &PeerToken,
        name: Option<&str>,
        way: WayIn,
    ) -> Result<SignedIn, ResumeError> {
        let peer = self.polled_peer(id).map_err(|_| ResumeError::Gone)?;
        if peer.admit(Some(token)).is_err() {
            return Err(ResumeError::WrongToken);
        }
        let now = Instant::now();
        let (list, renamed, wakers) = {
            let mut state = peer.state.lock();
            if state.removed.is_some() {
                return Err(ResumeError::Gone);
            }
            let mut roster = self.0.roster.lock();
            let mut listed = peer.listed().ok_or(ResumeError::Gone)?;
            let name = name.map(name_for_list);
            let name = name.filter(|name| !name.is_empty() && *name != listed.name);
            let renamed = name.is_some();
            state.presence.returned(now);
            state.presence.shown = state.presence.connected(now);
            if let Some(name) = name {
                roster.leave(listed.joined, &listed.name);
                let joined = roster.join(id, &name, way.dialect, state.presence.shown);
                listed = Listed { name, joined };
                peer.set_listed(listed.clone());
            } else {
                roster.set_connected(listed.joined, state.presence.shown);
            }
            let wakers = state.begin_session(false);
            state.way = way;
            state.heard = way.dialect.knows(roster.current());
            if let Some(peer) = peer.info(&state) {
                self.0.events.add(PeerEvent::PeerReconnected(peer));
            }
            (roster.list_from(listed.joined, now), renamed, wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
        info!(peer_id = id.get(), "peer came back");
        if renamed {
            self.changed();
        }
        let token = *token;
        Ok(SignedIn { id, token, list })
    }

    pub async fn check_token(
        &self,
        id: PeerId,
        token: Option<&PeerToken>,
    ) -> Result<(), PeerError> {
        match self.peer(id) {
            Ok(peer) => peer.admit(token),
            Err(UnknownPeer) => Ok(()),
        }
    }

    pub async fn add_member(
        &self,
        key: Option<&str>,
        door: &'static str,
    ) -> Result<Added, AddPeerError> {
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

    pub async fn resume_member(&self, id: PeerId, token: &PeerToken) -> Result<Added, ResumeError> {
        let peer = self.peer(id).map_err(|_| ResumeError::Gone)?;
        if !peer.is_member {
            return Err(ResumeError::Gone);
        }
        if peer.admit(Some(token)).is_err() {
            return Err(ResumeError::WrongToken);
        }
        if peer.state.lock().removed.is_some() {
            return Err(ResumeError::Gone);
        }
        Ok(self.returned_member(&peer))
    }

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

    pub async fn acknowledge(&self, id: PeerId, number: u64) {
        if let Ok(peer) = self.peer(id) {
            peer.state.lock().mailbox.acknowledge(number);
            peer.room.notify_waiters();
        }
    }

    pub async fn list_member(
        &self,
        id: PeerId,
        name: &str,
        introduction: Introduction,
    ) -> Result<Option<Vec<Card>>, UnknownPeer> {
        let peer = self.peer(id)?;
        self.free_name(id, name);
        let claimed = self.0.group.lock().claim(id, &name.into(), &introduction)?;
        let Some((audience, cards)) = claimed else {
            return Ok(None);
        };
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
            return Err(UnknownPeer);
        }
        self.changed();
        let hello = Message::of_group(Kind::Group, introduction.hello);
        self.push_to_members(&audience, hello).await;
        if peer.state.lock().removed.is_some() {
            // Some may have heard its farewell before its hello.
            let farewell = Message::of_group(Kind::Group, introduction.farewell);
            self.push_to_members(&audience, farewell).await;
            return Err(UnknownPeer);
        }
        Ok(Some(self.with_cards(cards)))
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

    fn next_id(&self, roster: &mut Roster) -> Result<PeerId, AddPeerError> {
        if self.len() >= self.0.opts.max_peers {
            return Err(AddPeerError::Full);
        }
        Ok(roster.next_id(|id| self.0.peers.contains_key(&id)))
    }

    /// How many peers there are, with those that are in no list.
    pub fn len(&self) -> usize {
        self.0.peers.len()
    }

    /// Called with the roster locked, where the peer has joined.
    fn enlist(&self, roster: &Roster, peer: &Peer, state: &PeerState, listed: Listed) {
        info!(
            peer_id = peer.id.get(),
            name = &*listed.name,
            peers = roster.len(),
            "peer signed in"
        );
        peer.set_listed(listed);
        if let Some(peer) = peer.info(state) {
            self.0.events.add(PeerEvent::PeerAdded(peer));
        }
    }

    pub async fn wait(&self, id: PeerId, limit: Option<Duration>) -> Result<Delivery, UnknownPeer> {
        self.wait_after(id, None, limit).await
    }

    pub async fn wait_after(
        &self,
        id: PeerId,
        acknowledged: Option<u64>,
        limit: Option<Duration>,
    ) -> Result<Delivery, UnknownPeer> {
        let peer = self.polled_peer(id)?;
        self.wait_of(peer, acknowledged, limit).await
    }

    async fn wait_of(
        &self,
        peer: Arc<Peer>,
        acknowledged: Option<u64>,
        limit: Option<Duration>,
    ) -> Result<Delivery, UnknownPeer> {
        let mut wait = Wait::of_poll(self, peer)?;
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        let delivery = self.news_until(&mut wait, acknowledged, end).await;
        wait.answered();
        Ok(delivery)
    }

    async fn news_until(
        &self,
        wait: &mut Wait,
        acknowledged: Option<u64>,
        end: Option<Instant>,
    ) -> Delivery {
        if let Some(moment) = wait.acknowledge(acknowledged) {
            let too_late = end.filter(|end| *end <= moment);
            // Over before if the peer is removed, which it hears of at once.
            let _ = timeout_at(too_late.unwrap_or(moment), wait.end()).await;
            if too_late.is_some() {
                return wait.nothing();
            }
        }
        let Some(end) = end else {
            return wait.news().await;
        };
        match timeout_at(end, wait.news()).await {
            Ok(delivery) => delivery,
            Err(_) => wait.nothing(),
        }
    }

    pub async fn send(&self, from: PeerId, to: PeerId, body: Bytes) -> Result<(), SendError> {
        let (receiver, message) = self.address(from, to, body)?;
        self.push(&receiver, message)
    }

    pub async fn send_once(
        &self,
        from: PeerId,
        to: PeerId,
        body: Bytes,
        number: u64,
    ) -> Result<(), SendError> {
        let sender = self.peer(from).map_err(|_| SendError::UnknownSender)?;
        // Locked as long as it takes, or the same message could pass twice.
        let mut last = sender.last_sent.lock();
        match number.cmp(&last) {
            std::cmp::Ordering::Less => return Err(SendError::OutOfOrder),
            std::cmp::Ordering::Equal => return Ok(()),
            std::cmp::Ordering::Greater => {}
        }
        let (receiver, message) = self.address(from, to, body)?;
        self.push(&receiver, message)?;
        *last = number;
        Ok(())
    }

    pub async fn send_patiently(
        &self,
        from: PeerId,
        to: PeerId,
        body: Bytes,
    ) -> Result<(), SendError> {
        let (receiver, message) = self.address(from, to, body)?;
        self.push_patiently(&receiver, message).await
    }

    fn address(
        &self,
        from: PeerId,
        to: PeerId,
        body: Bytes,
    ) -> Result<(Arc<Peer>, Message), SendError> {
        let sender = self.peer(from).map_err(|_| SendError::UnknownSender)?;
        let needs = sender.joined().ok_or(SendError::UnknownSender)?;
        let receiver = self.peer(to).map_err(|_| SendError::UnknownReceiver)?;
        if receiver.joined().is_none() {
            return Err(SendError::UnknownReceiver);
        }
        let message = Message {
            kind: Kind::Direct { from },
            body,
            needs,
        };
        Ok((receiver, message))
    }

    pub async fn broadcast(&self, from: PeerId, body: Bytes) -> Result<(), UnknownPeer> {
        self.peer(from)?;
        let audience = self.0.group.lock().audience(from);
        self.push_to_members(&audience, Message::of_group(Kind::Group, body))
            .await;
        Ok(())
    }

    pub async fn broadcast_once(
        &self,
        from: PeerId,
        body: Bytes,
        number: u64,
    ) -> Result<(), UnknownPeer> {
        let peer = self.peer(from)?;
        let list = self.clone();
        // It goes on when the socket by which it came is replaced: its client
        // sends it again, and that waits for this and is then a repeat.
        let sending = tokio::spawn(async move {
            let _alone = peer.broadcasting.lock().await;
            {
                let mut last = peer.last_sent.lock();
                if number <= *last {
                    return Ok(());
                }
                *last = number;
            }
            list.broadcast(from, body).await
        });
        // An error: the server stops.
        sending.await.unwrap_or(Ok(()))
    }

    pub async fn send_to_member(&self, name: &str, body: Bytes) -> Result<(), SendError> {
        let to = self.0.group.lock().named(name);
        let to = to.and_then(|id| self.peer(id).ok());
        let to = to.ok_or(SendError::UnknownReceiver)?;
        self.push_patiently(&to, Message::of_group(Kind::Group, body))
            .await
    }

    pub async fn show_family(&self, id: PeerId, family: Family) {
        self.0.group.lock().show(id, family);
    }

    pub async fn keep_room(&self, id: PeerId, room: &str) -> bool {
        let bound = self.0.opts.max_pending_bytes;
        let askers = self.0.group.lock().keep(id, room, bound);
        let name = Bytes::copy_from_slice(room.as_bytes());
        if let Some(askers) = &askers {
            self.push_to_members(askers, Message::of_group(Kind::Room, name))
                .await;
        }
        askers.is_some()
    }

    pub async fn ask_for_room(&self, id: PeerId, room: &str) -> bool {
        let bound = self.0.opts.max_pending_bytes;
        let exists = self.0.group.lock().ask(id, room, bound);
        if exists == Some(true) {
            let name = Bytes::copy_from_slice(room.as_bytes());
            self.push_to_members(&[id], Message::of_group(Kind::Room, name))
                .await;
        }
        exists.is_some()
    }

    pub async fn cards(&self) -> Vec<Card> {
        let cards = self.0.group.lock().cards();
        self.with_cards(cards)
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

    async fn push_to_members(&self, members: &[PeerId], message: Message) {
        let members = members.iter().filter_map(|id| self.peer(*id).ok());
        let full = members.filter(|peer| {
            let pushed = self.push(peer, message.clone());
            pushed == Err(SendError::MailboxFull)
        });
        let full: Vec<_> = full.collect();
        // Side by side, so that many that do not read take no longer than one.
        join_all(
            full.iter()
                .map(|peer| self.push_patiently(peer, message.clone())),
        )
        .await;
    }

    /// Puts a message last in line.
    fn push(&self, receiver: &Peer, message: Message) -> Result<(), SendError> {
        let waker = {
            let mut state = receiver.state.lock();
            if state.removed.is_some() {
                return Err(SendError::UnknownReceiver);
            }
            let pushed = state.mailbox.push(message, self.0.opts.max_pending_bytes);
            pushed.map_err(|_| SendError::MailboxFull)?;
            state.waits.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    async fn push_patiently(&self, receiver: &Peer, message: Message) -> Result<(), SendError> {
        let deadline = Instant::now() + ROOM_PATIENCE;
        loop {
            // Listened to before the look, so that no room is missed.
            let mut room = pin!(receiver.room.notified());
            room.as_mut().enable();
            match self.push(receiver, message.clone()) {
                Err(SendError::MailboxFull) => {}
                pushed => return pushed,
            }
            let nobody_reads = {
                let state = receiver.state.lock();
                receiver.is_member && state.resumes && state.presence.sockets == 0
            };
            if nobody_reads || timeout_at(deadline, room).await.is_err() {
                return Err(self.give_up(receiver));
            }
        }
    }

    /// A peer has made no room in its mailbox. Through its socket nobody can
    /// be refused, nor may one that is away miss a part: it is to go.
    fn give_up(&self, receiver: &Peer) -> SendError {
        let wakers = {
            let mut state = receiver.state.lock();
            let may_return = receiver.is_member && state.resumes;
            if state.presence.sockets == 0 && !may_return {
                return SendError::MailboxFull;
            }
            state.removed.get_or_insert(Reason::NotReading);
            state.mailbox.clear();
            state.waits.take_all()
        };
        receiver.room.notify_waiters();
        wakers.into_iter().for_each(Waker::wake);
        SendError::UnknownReceiver
    }

    pub async fn refresh_peer_timeout(&self, id: PeerId) -> Result<(), UnknownPeer> {
        let peer = self.polled_peer(id)?;
        let mut state = peer.state.lock();
        let now = Instant::now();
        state.presence.heartbeat(now);
        state.leaving = state
            .leaving
            .filter(|leaving| now < leaving.said + LATE_REQUEST);
        Ok(())
    }

    pub async fn sign_out_later(&self, id: PeerId, grace: Duration) {
        let Ok(peer) = self.peer(id) else { return };
        let said = Instant::now();
        let end = said + grace;
        let wakers = {
            let mut state = peer.state.lock();
            // Asked again: it is on its way.
            if state.leaving.is_some_and(|leaving| leaving.end <= end) {
                return;
            }
            // Its page may be frozen, or have been loaded again before this came:
            // whoever polls again is there.
            let is_asked = state.waits.is_parked() && !state.by_socket;
            state.leaving = Some(Leaving {
                said,
                end,
                is_asked,
            });
            state.waits.end_all()
        };
        wakers.into_iter().for_each(Waker::wake);
        self.leave_at(peer, end);
    }

    /// Takes a peer off when its grace ends, unless it shows before that it is there.
    fn leave_at(&self, peer: Arc<Peer>, end: Instant) {
        let list = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            sleep_until(end).await;
            let Some(list) = list.upgrade() else { return };
            let list = Self(list);
            let woken = Instant::now();
            let later = {
                let mut state = peer.state.lock();
                let leaving = state.leaving.filter(|leaving| leaving.end == end);
                match leaving {
                    // This process stood still, and nobody could show that they are there.
                    Some(leaving) if woken > end + STANDSTILL => {
                        let end = woken + (end - leaving.said);
                        state.leaving = Some(Leaving { end, ..leaving });
                        Some((end, Vec::new()))
                    }
                    Some(leaving) if state.waits.is_parked() && !state.by_socket => {
                        // It waits, though it was asked or said farewell before: it is
                        // there, or that was its last request, which came late.
                        let end = end + ANSWER_PATIENCE;
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

    pub async fn remove_peer(&self, id: PeerId, reason: Reason) -> bool {
        self.remove_now(id, Removal::Asked(reason))
    }

    pub fn opts(&self) -> &HeartbeatOpts {
        &self.0.opts
    }

    pub fn peer_ids(&self) -> Vec<PeerId> {
        self.0.roster.lock().ids()
    }

    pub fn format(&self) -> Lines {
        self.0.roster.lock().list(Instant::now())
    }

    pub fn subscribe(&self) -> PeerEvents {
        self.0.events.subscribe(None)
    }

    pub fn subscribe_after(&self, number: u64) -> PeerEvents {
        self.0.events.subscribe(Some(number))
    }

    pub async fn peer_info(&self, id: PeerId) -> Option<PeerInfo> {
        let peer = self.peer(id).ok()?;
        let state = peer.state.lock();
        peer.info(&state).filter(|_| state.removed.is_none())
    }

    pub async fn peer_infos(&self) -> Vec<PeerInfo> {
        let peers = self.peers_where(|_| true).into_iter();
        let infos = peers.filter_map(|peer| {
            let state = peer.state.lock();
            peer.info(&state).filter(|_| state.removed.is_none())
        });
        let mut infos: Vec<PeerInfo> = infos.collect();
        infos.sort_unstable_by_key(|info| info.id);
        infos
    }

    pub async fn purge(&self) -> Vec<PeerId> {
        self.collect()
    }

    pub fn cancel_gc(&self) {
        if let Some(gc) = self.0.gc.lock().take() {
            gc.abort();
        }
    }

    pub fn end_waits(&self) {
        self.0.ending.store(true, Ordering::Release);
        let mut wakers: Vec<Waker> = Vec::new();
        for peer in self.peers_where(|_| true) {
            wakers.extend(peer.state.lock().waits.take_all());
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Removes every peer because the server stops: nobody is told but those
    /// who subscribed.
    pub async fn stop(&self) {
        self.cancel_gc();
        // No farewells: those who would hear them are removed too.
        *self.0.group.lock() = Group::default();
        let mut peers = self.peers_where(|_| true);
        // The newest first, for that is the end from which the list's text is
        // shortened without being moved.
        peers.sort_unstable_by_key(|peer| std::cmp::Reverse(peer.joined()));
        for peer in peers {
            self.take_off_if(&peer, |_| Some(Removal::Asked(Reason::Shutdown)));
        }
    }

    fn peer(&self, id: PeerId) -> Result<Arc<Peer>, UnknownPeer> {
        let peer = self.0.peers.get(&id).ok_or(UnknownPeer)?;
        Ok(peer.value().clone())
    }

    /// A peer that is not a member of the group: those are heard through their
    /// sockets only, also while they are away.
    fn polled_peer(&self, id: PeerId) -> Result<Arc<Peer>, UnknownPeer> {
        let peer = self.peer(id)?;
        if peer.is_member {
            return Err(UnknownPeer);
        }
        Ok(peer)
    }

    /// The peers with certain ids, cloned out of the map: its guards must be
    /// gone before the lock of a peer is taken.
    fn peers_where(&self, wanted: impl Fn(PeerId) -> bool) -> Vec<Arc<Peer>> {
        let peers = self.0.peers.iter();
        let peers = peers.filter(|entry| wanted(*entry.key()));
        peers.map(|entry| entry.value().clone()).collect()
    }

    /// Takes a peer off the list, if it is in it, and tells the others.
    fn remove_now(&self, id: PeerId, removal: Removal) -> bool {
        let peer = self.peer(id);
        peer.is_ok_and(|peer| self.remove_if(&peer, |_| Some(removal)))
    }

    /// Removes a peer as [`LocalList::take_off_if`] does, and tells the others.
    fn remove_if(&self, peer: &Peer, reason: impl FnOnce(&PeerState) -> Option<Removal>) -> bool {
        let taken_off = self.take_off_if(peer, reason);
        if taken_off == TakenOff::Listed {
            self.changed();
        }
        taken_off != TakenOff::Nothing
    }

    /// Takes a peer off the list and ends its waits, if there is a reason
    /// when its state is locked. The caller tells the others.
    fn take_off_if(
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
        // Whoever takes it off the map removes it.
        if self.0.peers.remove(&peer.id).is_none() {
            return TakenOff::Nothing;
        }
        peer.room.notify_waiters();
        let farewell = self.0.group.lock().leave(peer.id);
        if let Some((farewell, audience)) = farewell {
            let message = Message::of_group(Kind::Group, farewell);
            for member in audience.iter().filter_map(|id| self.peer(*id).ok()) {
                if self.push(&member, message.clone()) == Err(SendError::MailboxFull) {
                    self.give_up(&member);
                }
            }
        }
        let was_listed = self.unlist(peer, removal, info);
        // Those that wait may be told the list without the peer.
        wakers.into_iter().for_each(Waker::wake);
        if was_listed {
            TakenOff::Listed
        } else {
            TakenOff::Unlisted
        }
    }

    /// Takes a removed peer off the list. False if it is not in it. `info`: what it
    /// was.
    fn unlist(&self, peer: &Peer, removal: Removal, info: Option<PeerInfo>) -> bool {
        let Some(mut info) = info else { return false };
        info.connected = false;
        let reason = removal.reason();
        let (listed, peers) = {
            // With the roster locked, so that events come in its order.
            let mut roster = self.0.roster.lock();
            let Some(listed) = peer.listed() else {
                return false;
            };
            if !roster.leave(listed.joined, &listed.name) {
                return false;
            }
            let removed = PeerEvent::PeerRemoved { peer: info, reason };
            self.0.events.add(removed);
            (listed, roster.len())
        };
        info!(
            peer_id = peer.id.get(),
            name = &*listed.name,
            %reason,
            why = removal.why().map(tracing::field::display),
            peers,
            "peer removed"
        );
        true
    }

    fn fell_behind(&self, state: &PeerState) -> Option<Stale> {
        let bare = state.way.dialect == Dialect::Bare;
        let behind = bare && !self.0.roster.lock().log_reaches(state.heard);
        behind.then_some(Stale::FellBehind)
    }

    /// To be called after each change of who is in the list: tells those who
    /// wait, now or when the window is over.
    fn changed(&self) {
        for half in Half::BOTH {
            self.tell(half, Schedule::changed);
        }
    }

    fn tell(&self, half: Half, when: fn(&mut Schedule, usize, Instant) -> Telling) {
        let telling = {
            // To tell takes a look at each peer, also at those that are in no list.
            let peers = self.len();
            let roster = self.0.roster.lock();
            let schedule = &mut self.0.schedules.lock()[half as usize];
            let telling = when(schedule, peers, Instant::now());
            if telling == Telling::Now {
                self.0.told[half as usize].store(roster.current(), Ordering::Release);
            }
            telling
        };
        match telling {
            Telling::Now => self.wake_behind(half),
            Telling::Scheduled => {}
            Telling::At(end) => {
                let list = Arc::downgrade(&self.0);
                tokio::spawn(async move {
                    sleep_until(end).await;
                    if let Some(list) = list.upgrade() {
                        Self(list).tell(half, |schedule, _, now| schedule.scheduled(now));
                    }
                });
            }
        }
    }

    /// The version of the list that a peer is to have heard when it waits.
    fn told(&self, id: PeerId) -> u64 {
        self.0.told[Half::of(id) as usize].load(Ordering::Acquire)
    }

    /// Wakes each parked wait in a half whose peer has not heard the told
    /// version.
    fn wake_behind(&self, half: Half) {
        for peer in self.peers_where(|id| Half::of(id) == half) {
            let told = self.told(peer.id);
            let waker = {
                let mut state = peer.state.lock();
                if state.heard < told {
                    state.waits.waker.take()
                } else {
                    None
                }
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl fmt::Debug for LocalList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalList")
            .field("peers", &self.0.peers.len())
            .finish_non_exhaustive()
    }
}
