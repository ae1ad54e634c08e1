//! The peer list: who is signed in, what waits for whom, and who went stale.
//!
//! This is the domain. It knows no HTTP, no socket and no JSON; the doors
//! translate their protocols into its five verbs, [`add_peer`], [`wait`],
//! [`send`], [`refresh_peer_timeout`] and [`remove_peer`], and all promises
//! about order, causality, liveness and limits are kept here, once.
//!
//! [`add_peer`]: TimeoutPeerList::add_peer
//! [`wait`]: TimeoutPeerList::wait
//! [`send`]: TimeoutPeerList::send
//! [`refresh_peer_timeout`]: TimeoutPeerList::refresh_peer_timeout
//! [`remove_peer`]: TimeoutPeerList::remove_peer

mod events;
mod gc;
mod group;
mod mailbox;
mod peer;
mod presence;
mod roster;
mod telling;
mod token;
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

pub use events::{EVENTS_KEPT, Missed, PeerEvent, PeerEvents, PeerInfo, Reason};
pub use group::{Family, Introduction};
pub use mailbox::MESSAGE_OVERHEAD_BYTES;
pub use peer::{Dialect, MAX_NAME_BYTES, PeerId, WayIn};
pub use presence::{Link, OpenRequest, OpenSocket};
pub use token::PeerToken;
pub use wait::{Delivery, News};

use events::EventLog;
use group::Group;
use mailbox::{Kind, Message};
use peer::{Listed, Peer, PeerState, Presence, Stale, name_for_list};
use roster::{Connected, Roster};
use telling::{Half, Schedule, Telling};
use wait::Wait;

/// How long a sender that cannot be refused waits for room in a mailbox.
const ROOM_PATIENCE: Duration = Duration::from_secs(1);

/// When peers are stale, and how much the list holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatOpts {
    /// How long after its last heartbeat a peer is stale; a peer that never
    /// sent one is stale when it has had no request open for this long.
    /// Default: 30 s.
    pub timeout_period: Duration,
    /// How often stale peers are removed. Not zero. Default: 15 s.
    pub gc_interval: Duration,
    /// Whether every request counts as a heartbeat, and an open wait as one
    /// that goes on: for browsers, which slow the timers of hidden pages to
    /// one a minute. Default: false.
    pub any_request: bool,
    /// The bound of each peer's mailbox in bytes, where each message counts
    /// [`MESSAGE_OVERHEAD_BYTES`] more than its length. Default: 2 MiB.
    pub max_pending_bytes: usize,
    /// How many peers can be signed in. Default: 100,000.
    pub max_peers: usize,
}

impl Default for HeartbeatOpts {
    fn default() -> Self {
        Self {
            timeout_period: Duration::from_secs(30),
            gc_interval: Duration::from_secs(15),
            any_request: false,
            max_pending_bytes: 2 * 1024 * 1024,
            max_peers: 100_000,
        }
    }
}

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

/// A peer of the list, as the group knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its id.
    pub id: PeerId,
    /// Its name, as it stands in the list.
    pub name: Arc<str>,
    /// The [`Introduction::card`] of a member of the group.
    pub card: Option<Bytes>,
}

/// A peer that has signed in.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// Its id.
    pub id: PeerId,
    /// What it proves with that it is itself.
    pub token: PeerToken,
    /// The list at that moment. It begins with the peer's own line: some
    /// clients take their id from there.
    pub list: Bytes,
}

/// A member of the group, as [`TimeoutPeerList::add_member`] found it.
#[derive(Clone, Debug)]
pub struct Added {
    /// Its id.
    pub id: PeerId,
    /// What it proves with that it is itself.
    pub token: PeerToken,
    /// It was known by its key, and is the same again.
    pub resumed: bool,
    /// The name that it is in the list by, if it is.
    pub name: Option<Arc<str>>,
}

/// No peer with that id is signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownPeer;

/// The token is not that of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongToken;

/// Why a peer could not come back as itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeError {
    /// It is not in the list any more: it may sign in as anybody may.
    Gone,
    /// The token is not that of the peer.
    WrongToken,
}

/// Why a peer could not be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddPeerError {
    /// Its name is empty.
    NoName,
    /// [`HeartbeatOpts::max_peers`] are signed in.
    Full,
}

/// Why a message was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The sender is not signed in.
    UnknownSender,
    /// The receiver is not signed in.
    UnknownReceiver,
    /// The receiver's mailbox is full.
    MailboxFull,
}

impl fmt::Display for UnknownPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer is not signed in")
    }
}

impl fmt::Display for WrongToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the token is not that of the peer")
    }
}

impl fmt::Display for ResumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResumeError::Gone => UnknownPeer.fmt(f),
            ResumeError::WrongToken => WrongToken.fmt(f),
        }
    }
}

impl fmt::Display for AddPeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddPeerError::NoName => "the peer has no name",
            AddPeerError::Full => "the peer list is full",
        })
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::UnknownSender => "the sender is not signed in",
            SendError::UnknownReceiver => "the receiver is not signed in",
            SendError::MailboxFull => "the receiver's mailbox is full",
        })
    }
}

impl std::error::Error for UnknownPeer {}
impl std::error::Error for WrongToken {}
impl std::error::Error for ResumeError {}
impl std::error::Error for AddPeerError {}
impl std::error::Error for SendError {}

/// The list of signed-in peers. Clones are the same list.
#[derive(Clone)]
pub struct TimeoutPeerList(Arc<Shared>);

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
}

impl TimeoutPeerList {
    /// An empty list, and the collector that removes stale peers from it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if `gc_interval` is zero.
    pub fn new(opts: HeartbeatOpts) -> Self {
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
        }));
        *list.0.gc.lock() = Some(gc::start(&list));
        list
    }

    /// Signs a peer in and tells the others. Without a name it is called
    /// `peer_` and its id.
    ///
    /// In the list, commas and control characters of the name are `_`, and
    /// only its first [`MAX_NAME_BYTES`] bytes are kept.
    pub async fn add_peer<'a>(
        &self,
        name: impl Into<Option<&'a str>>,
        way: WayIn,
    ) -> Result<SignedIn, AddPeerError> {
        let name = name.into();
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

    /// Signs a peer in that the list still holds, under its id and with its
    /// mailbox as it is. The others are told only if it has another name now
    /// (None: the one it had). What waited for it before is given nothing any
    /// more; an open socket ends with [`News::Replaced`].
    pub async fn resume_peer(
        &self,
        id: PeerId,
        token: &PeerToken,
        name: Option<&str>,
        way: WayIn,
    ) -> Result<SignedIn, ResumeError> {
        let peer = self.polled_peer(id).map_err(|_| ResumeError::Gone)?;
        if !peer.token.is(token) {
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

    /// Whether this is the token of the peer. A peer that is not signed in has
    /// none, and the verb that follows says so.
    pub async fn check_token(&self, id: PeerId, token: &PeerToken) -> Result<(), WrongToken> {
        match self.peer(id) {
            Ok(peer) if !peer.token.is(token) => Err(WrongToken),
            _ => Ok(()),
        }
    }

    /// Adds a member of the group that is in no list: it hears what the group
    /// broadcasts, and nothing of who joins and leaves the list.
    ///
    /// With a `key`, a secret of its client's, it can come back: it keeps its
    /// mailbox when its socket closes, until it is stale, acknowledges what it
    /// gets, and is the same again with the same key.
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
            let way = WayIn { door, dialect };
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
        self.0.group.lock().join(peer.id, key);
        Ok(Added {
            id: peer.id,
            token: peer.token,
            resumed: false,
            name: None,
        })
    }

    /// A member of the group comes back with its token. The socket that it is
    /// to be heard through from now on is opened next.
    pub async fn resume_member(&self, id: PeerId, token: &PeerToken) -> Result<Added, ResumeError> {
        let peer = self.peer(id).map_err(|_| ResumeError::Gone)?;
        if !peer.is_member {
            return Err(ResumeError::Gone);
        }
        if !peer.token.is(token) {
            return Err(ResumeError::WrongToken);
        }
        if peer.state.lock().removed.is_some() {
            return Err(ResumeError::Gone);
        }
        Ok(self.returned_member(&peer))
    }

    fn returned_member(&self, peer: &Peer) -> Added {
        {
            let state = peer.state.lock();
            let _roster = self.0.roster.lock();
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

    /// A member that acknowledges has all messages up to this number.
    pub async fn acknowledge(&self, id: PeerId, number: u64) {
        if let Ok(peer) = self.peer(id) {
            peer.state.lock().mailbox.acknowledge(number);
            peer.room.notify_waiters();
        }
    }

    /// Whether an event that a member numbered is no repeat. From then on, it
    /// is.
    pub async fn is_first(&self, id: PeerId, number: u64) -> bool {
        self.peer(id).is_ok_and(|peer| {
            let mut last = peer.last_sent.lock();
            let is_first = number > *last;
            *last = number.max(*last);
            is_first
        })
    }

    /// Puts a member of the group into the list, tells the others, and
    /// broadcasts its hello. Returns who is in the list with it; of two members
    /// that are listed at the same time, one finds the other here, and that one
    /// hears the hello. None if another member holds the name or this one has
    /// one already.
    pub async fn list_member(
        &self,
        id: PeerId,
        name: &str,
        introduction: Introduction,
    ) -> Result<Option<Vec<Card>>, UnknownPeer> {
        let peer = self.peer(id)?;
        let claimed = self.0.group.lock().claim(id, &name.into(), &introduction);
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
        if let Some(reason) = peer.state.lock().removed {
            let info = peer.info(&peer.state.lock());
            self.unlist(&peer, Removal::Asked(reason), info);
        }
        self.changed();
        let hello = Message::of_group(Kind::Group, introduction.hello);
        self.push_to_members(&audience, hello).await;
        Ok(Some(self.with_cards(cards)))
    }

    fn next_id(&self, roster: &mut Roster) -> Result<PeerId, AddPeerError> {
        if self.is_full() {
            return Err(AddPeerError::Full);
        }
        Ok(roster.next_id(|id| self.0.peers.contains_key(&id)))
    }

    /// Whether as many peers are signed in as may be.
    pub fn is_full(&self) -> bool {
        self.0.peers.len() >= self.0.opts.max_peers
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

    /// Waits for the next thing that a peer should hear, for `limit` at most
    /// (None: for ever).
    ///
    /// Of several waits of one peer only the newest is given anything; the
    /// others end when their time is over or the peer is removed. Dropping
    /// the future ends the wait and loses nothing.
    ///
    /// A peer whose socket is open is heard through [`OpenSocket::wait`] and
    /// is unknown here.
    pub async fn wait(&self, id: PeerId, limit: Option<Duration>) -> Result<Delivery, UnknownPeer> {
        self.wait_after(id, None, limit).await
    }

    /// As [`TimeoutPeerList::wait`], of a peer that says up to which number it
    /// has processed its messages ([`Delivery::number`]; 0 at first). A message
    /// stays in the mailbox until it is acknowledged so, and is given again to
    /// a wait that does not, a second later at the soonest. None: it does not
    /// say, and what it is given is taken off.
    pub async fn wait_after(
        &self,
        id: PeerId,
        acknowledged: Option<u64>,
        limit: Option<Duration>,
    ) -> Result<Delivery, UnknownPeer> {
        let peer = self.polled_peer(id)?;
        let mut wait = Wait::of_poll(self, peer)?;
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        if let Some(moment) = wait.acknowledge(acknowledged) {
            let too_late = end.filter(|end| *end <= moment);
            // Over before if the peer is removed, which it hears of at once.
            let _ = timeout_at(too_late.unwrap_or(moment), wait.end()).await;
            if too_late.is_some() {
                return Ok(wait.nothing());
            }
        }
        let Some(end) = end else {
            return Ok(wait.news().await);
        };
        match timeout_at(end, wait.news()).await {
            Ok(delivery) => Ok(delivery),
            Err(_) => Ok(wait.nothing()),
        }
    }

    /// Puts a message last in line for a peer. What was accepted is delivered
    /// as long as the receiver stays signed in, in order, and not before the
    /// receiver has heard that the sender joined.
    pub async fn send(&self, from: PeerId, to: PeerId, body: Bytes) -> Result<(), SendError> {
        let (receiver, message) = self.address(from, to, body)?;
        self.push(&receiver, message)
    }

    /// As [`TimeoutPeerList::send`], of a sender that numbers its messages with
    /// rising numbers, because it may have to send one again: a number that
    /// was accepted before is accepted and not delivered again.
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
        if number <= *last {
            return Ok(());
        }
        let (receiver, message) = self.address(from, to, body)?;
        self.push(&receiver, message)?;
        *last = number;
        Ok(())
    }

    /// As [`TimeoutPeerList::send`], for senders whose protocol cannot refuse:
    /// waits a second for room. A receiver whose socket is open and that makes
    /// none does not read, and is removed by its door.
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

    /// Puts a message into the mailbox of every other member of the group
    /// that its family lets hear it. Waits for room as
    /// [`TimeoutPeerList::send_patiently`] does.
    pub async fn broadcast(&self, from: PeerId, body: Bytes) -> Result<(), UnknownPeer> {
        self.peer(from)?;
        let audience = self.0.group.lock().audience(from);
        self.push_to_members(&audience, Message::of_group(Kind::Group, body))
            .await;
        Ok(())
    }

    /// Puts a message into the mailbox of the member of the group that has
    /// this name. Waits for room as [`TimeoutPeerList::send_patiently`] does.
    pub async fn send_to_member(&self, name: &str, body: Bytes) -> Result<(), SendError> {
        let to = self.0.group.lock().named(name);
        let to = to.and_then(|id| self.peer(id).ok());
        let to = to.ok_or(SendError::UnknownReceiver)?;
        self.push_patiently(&to, Message::of_group(Kind::Group, body))
            .await
    }

    /// Notes which protocol a member of the group speaks.
    pub async fn show_family(&self, id: PeerId, family: Family) {
        self.0.group.lock().show(id, family);
    }

    /// From now on a room exists, as long as this member of the group does.
    /// Who asked for it hears [`News::Room`]. False if the names of the rooms
    /// that a member keeps and asks for exceed the bound of a mailbox.
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

    /// Asks for a room: this member of the group hears [`News::Room`] as soon
    /// as it exists. False: as for [`TimeoutPeerList::keep_room`].
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

    /// Every peer in the list, oldest first.
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

    /// A heartbeat of a peer has come: it stays in the list for another
    /// [`HeartbeatOpts::timeout_period`].
    pub async fn refresh_peer_timeout(&self, id: PeerId) -> Result<(), UnknownPeer> {
        let peer = self.polled_peer(id)?;
        let mut state = peer.state.lock();
        state.presence.heartbeat(Instant::now());
        state.leaving = None;
        Ok(())
    }

    /// Takes a peer off the list as [`TimeoutPeerList::remove_peer`] does, with
    /// [`Reason::SignedOut`], when `grace` is over, unless it has come back,
    /// waited or sent a heartbeat until then: a page cannot tell whether it is
    /// closed or loaded anew.
    pub async fn sign_out_later(&self, id: PeerId, grace: Duration) {
        let Ok(peer) = self.peer(id) else { return };
        let end = Instant::now() + grace;
        {
            let mut state = peer.state.lock();
            // Asked again: it is on its way.
            if state.leaving.is_some_and(|leaving| leaving <= end) {
                return;
            }
            state.leaving = Some(end);
        }
        let list = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            sleep_until(end).await;
            let Some(list) = list.upgrade() else { return };
            let list = Self(list);
            let removed = list.take_off_if(&peer, |state| {
                (state.leaving == Some(end)).then_some(Removal::Asked(Reason::SignedOut))
            });
            if removed {
                list.changed();
            }
        });
    }

    /// Takes a peer off the list, ends its waits and tells the others. False
    /// if it was not signed in.
    pub async fn remove_peer(&self, id: PeerId, reason: Reason) -> bool {
        self.remove_now(id, Removal::Asked(reason))
    }

    /// What the list was made with.
    pub fn opts(&self) -> &HeartbeatOpts {
        &self.0.opts
    }

    /// The ids of all signed-in peers, oldest sign-in first.
    pub fn peer_ids(&self) -> Vec<PeerId> {
        self.0.roster.lock().ids()
    }

    /// The list as text, newest peer first: a line `NAME,ID,STATUS` for each.
    pub fn format(&self) -> Bytes {
        self.0.roster.lock().list(Instant::now())
    }

    /// Every peer that signs in, comes back or is removed from now on, in
    /// order.
    pub fn subscribe(&self) -> PeerEvents {
        self.0.events.subscribe(None)
    }

    /// As [`TimeoutPeerList::subscribe`], beginning after the event with this
    /// number, as far as it is still kept.
    pub fn subscribe_after(&self, number: u64) -> PeerEvents {
        self.0.events.subscribe(Some(number))
    }

    /// A peer of the list as it is now.
    pub async fn peer_info(&self, id: PeerId) -> Option<PeerInfo> {
        let peer = self.peer(id).ok()?;
        let state = peer.state.lock();
        peer.info(&state).filter(|_| state.removed.is_none())
    }

    /// Every peer of the list as it is now, by rising id.
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

    /// Removes the stale now instead of at the next interval. Returns who is
    /// removed.
    pub async fn purge(&self) -> Vec<PeerId> {
        self.collect()
    }

    /// Stops the collector: nobody times out any more.
    pub fn cancel_gc(&self) {
        if let Some(gc) = self.0.gc.lock().take() {
            gc.abort();
        }
    }

    /// Ends every open wait, and from now on each wait for which there is
    /// nothing, with [`News::Nothing`]: for a server that is about to stop.
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
    pub fn remove_all(&self) {
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
        let Ok(peer) = self.peer(id) else {
            return false;
        };
        let removed = self.take_off_if(&peer, |_| Some(removal));
        if removed {
            self.changed();
        }
        removed
    }

    /// Takes a peer off the list and ends its waits, if there is a reason
    /// when its state is locked. The caller tells the others.
    fn take_off_if(&self, peer: &Peer, reason: impl FnOnce(&PeerState) -> Option<Removal>) -> bool {
        let (removal, info, wakers) = {
            let mut state = peer.state.lock();
            let Some(removal) = reason(&state) else {
                return false;
            };
            state.removed.get_or_insert(removal.reason());
            state.mailbox.clear();
            (removal, peer.info(&state), state.waits.take_all())
        };
        // Whoever takes it off the map removes it.
        if self.0.peers.remove(&peer.id).is_none() {
            return false;
        }
        wakers.into_iter().for_each(Waker::wake);
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
        self.unlist(peer, removal, info);
        true
    }

    /// Takes a removed peer off the list, if it is in it. `info`: what it was.
    fn unlist(&self, peer: &Peer, removal: Removal, info: Option<PeerInfo>) {
        let Some(mut info) = info else { return };
        info.connected = false;
        let reason = removal.reason();
        let (listed, peers) = {
            // With the roster locked, so that events come in its order.
            let mut roster = self.0.roster.lock();
            let Some(listed) = peer.listed() else { return };
            if !roster.leave(listed.joined, &listed.name) {
                return;
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
            let roster = self.0.roster.lock();
            let schedule = &mut self.0.schedules.lock()[half as usize];
            let telling = when(schedule, roster.len(), Instant::now());
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

impl fmt::Debug for TimeoutPeerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeoutPeerList")
            .field("peers", &self.0.peers.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
