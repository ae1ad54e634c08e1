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

mod cluster;
mod delivery;
mod error;
mod events;
mod lines;
mod local;
mod member;
mod page;
mod peer;
mod request;
mod roster;
mod rules;
mod telling;
mod token;

use std::{fmt, time::Duration};

use bytes::Bytes;

pub use cluster::{ClusterOpts, ConnectError};
pub use delivery::{Delivery, News, Receipt};
pub use error::{
    AddPeerError, PeerError, ResumeError, SendError, Unavailable, UnknownPeer, WrongToken,
};
pub use events::{EVENTS_KEPT, Missed, PeerEvent, PeerEvents, PeerInfo, Reason};
pub use lines::Lines;
pub use member::{Added, Card, Family, Introduction};
pub use peer::{Dialect, MAX_NAME_BYTES, PeerId, WayIn};
pub use request::{Caller, Link, OpenRequest, OpenSocket, Proof};
pub(crate) use rules::STANDSTILL;
pub use token::PeerToken;

use cluster::ClusterList;
use local::LocalList;
use request::{Open, Socket};

/// What a message costs its mailbox besides its own bytes, so that a flood of
/// empty messages is bounded too (an entry, its allocation and its share of
/// the queue take about this much).
pub const MESSAGE_OVERHEAD_BYTES: usize = 256;

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

/// A peer that has signed in.
#[derive(Clone, Debug)]
pub struct SignedIn {
    /// Its id.
    pub id: PeerId,
    /// What it proves with that it is itself.
    pub token: PeerToken,
    /// The list at that moment. It begins with the peer's own line: some
    /// clients take their id from there.
    pub list: Lines,
}

/// The list of signed-in peers. Clones are the same list.
#[derive(Clone)]
pub struct TimeoutPeerList(Place);

/// Where a list lives. Doors cannot tell. The futures of the list in Redis are
/// boxed, so that a door's future has no room for them where there is none.
#[derive(Clone)]
enum Place {
    /// In this process.
    Local(LocalList),
    /// In Redis, where other nodes use it too.
    Cluster(ClusterList),
}

impl TimeoutPeerList {
    /// An empty list, and the collector that removes stale peers from it.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, or if `gc_interval` is zero.
    pub fn new(opts: HeartbeatOpts) -> Self {
        Self(Place::Local(LocalList::new(opts)))
    }

    /// The list that lives in Redis, as one more node of it.
    pub async fn connect(opts: HeartbeatOpts, cluster: &ClusterOpts) -> Result<Self, ConnectError> {
        let list = ClusterList::connect(opts, cluster).await?;
        Ok(Self(Place::Cluster(list)))
    }

    /// Whether the list can be reached now.
    pub async fn is_reachable(&self) -> bool {
        match &self.0 {
            Place::Local(_) => true,
            Place::Cluster(list) => Box::pin(list.is_reachable()).await,
        }
    }

    /// The events that the webhook is to be sent: from now on, or, where other
    /// servers may have sent some, those that none has.
    pub async fn webhook_events(&self) -> PeerEvents {
        match &self.0 {
            Place::Local(list) => list.subscribe(),
            Place::Cluster(list) => Box::pin(list.webhook_events()).await,
        }
    }

    /// Waits until this server is the one of several that is to send the
    /// webhook this event. False: another has sent it.
    pub async fn webhook_turn(&self, number: u64) -> bool {
        match &self.0 {
            Place::Local(_) => true,
            Place::Cluster(list) => Box::pin(list.webhook_turn(number)).await,
        }
    }

    /// The webhook has been sent this event, or it was given up.
    pub async fn webhook_sent(&self, number: u64) {
        match &self.0 {
            Place::Local(_) => {}
            Place::Cluster(list) => Box::pin(list.webhook_sent(number)).await,
        }
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
        match &self.0 {
            Place::Local(list) => list.add_peer(name.into(), way).await,
            Place::Cluster(list) => Box::pin(list.add_peer(name.into(), way)).await,
        }
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
        match &self.0 {
            Place::Local(list) => list.resume_peer(id, token, name, way).await,
            Place::Cluster(list) => Box::pin(list.resume_peer(id, token, name, way)).await,
        }
    }

    /// Whether a request with this token (None: it shows none) may act as the peer.
    /// One that shows the right token protects the peer from then on: others have to
    /// show it too. A peer that is not signed in has none, and the verb that follows
    /// says so.
    pub async fn check_token(
        &self,
        id: PeerId,
        token: Option<&PeerToken>,
    ) -> Result<(), PeerError> {
        match &self.0 {
            Place::Local(list) => list.check_token(id, token).await,
            Place::Cluster(list) => Box::pin(list.check_token(id, token)).await,
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
        match &self.0 {
            Place::Local(list) => list.add_member(key, door).await,
            Place::Cluster(list) => Box::pin(list.add_member(key, door)).await,
        }
    }

    /// A member of the group comes back with its token. The socket that it is
    /// to be heard through from now on is opened next.
    pub async fn resume_member(&self, id: PeerId, token: &PeerToken) -> Result<Added, ResumeError> {
        match &self.0 {
            Place::Local(list) => list.resume_member(id, token).await,
            Place::Cluster(list) => Box::pin(list.resume_member(id, token)).await,
        }
    }

    /// A member that acknowledges has all messages up to this number.
    pub async fn acknowledge(&self, id: PeerId, number: u64) {
        match &self.0 {
            Place::Local(list) => list.acknowledge(id, number).await,
            Place::Cluster(list) => Box::pin(list.acknowledge(id, number)).await,
        }
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
    ) -> Result<Option<Vec<Card>>, PeerError> {
        match &self.0 {
            Place::Local(list) => Ok(list.list_member(id, name, introduction).await?),
            Place::Cluster(list) => Box::pin(list.list_member(id, name, introduction)).await,
        }
    }

    /// Whether as many peers are signed in as may be.
    pub fn is_full(&self) -> bool {
        !self.has_room_beside(0)
    }

    /// Whether there is room for one more peer, beside so many that are about to
    /// sign in.
    pub fn has_room_beside(&self, coming: usize) -> bool {
        let peers = match &self.0 {
            Place::Local(list) => list.len(),
            Place::Cluster(list) => list.len(),
        };
        peers.saturating_add(coming) < self.opts().max_peers
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
    pub async fn wait(&self, id: PeerId, limit: Option<Duration>) -> Result<Delivery, PeerError> {
        match &self.0 {
            Place::Local(list) => Ok(list.wait(id, limit).await?),
            Place::Cluster(list) => Box::pin(list.wait(id, limit)).await,
        }
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
    ) -> Result<Delivery, PeerError> {
        match &self.0 {
            Place::Local(list) => Ok(list.wait_after(id, acknowledged, limit).await?),
            Place::Cluster(list) => Box::pin(list.wait_after(id, acknowledged, limit)).await,
        }
    }

    /// Puts a message last in line for a peer. What was accepted is delivered
    /// as long as the receiver stays signed in, in order, and not before the
    /// receiver has heard that the sender joined.
    pub async fn send(&self, from: PeerId, to: PeerId, body: Bytes) -> Result<(), SendError> {
        match &self.0 {
            Place::Local(list) => list.send(from, to, body).await,
            Place::Cluster(list) => Box::pin(list.send(from, to, body)).await,
        }
    }

    /// As [`TimeoutPeerList::send`], of a sender that numbers its messages with
    /// rising numbers from 1 and sends one after the other, because it may have
    /// to send one again: the last that was accepted is accepted again, and not
    /// delivered again. One before it is refused: whether it was accepted is
    /// not known any more.
    pub async fn send_once(
        &self,
        from: PeerId,
        to: PeerId,
        body: Bytes,
        number: u64,
    ) -> Result<(), SendError> {
        match &self.0 {
            Place::Local(list) => list.send_once(from, to, body, number).await,
            Place::Cluster(list) => Box::pin(list.send_once(from, to, body, number)).await,
        }
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
        match &self.0 {
            Place::Local(list) => list.send_patiently(from, to, body).await,
            Place::Cluster(list) => Box::pin(list.send_patiently(from, to, body)).await,
        }
    }

    /// Puts a message into the mailbox of every other member of the group
    /// that its family lets hear it. Waits for room as
    /// [`TimeoutPeerList::send_patiently`] does.
    pub async fn broadcast(&self, from: PeerId, body: Bytes) -> Result<(), PeerError> {
        match &self.0 {
            Place::Local(list) => Ok(list.broadcast(from, body).await?),
            Place::Cluster(list) => Box::pin(list.broadcast(from, body)).await,
        }
    }

    /// As [`TimeoutPeerList::broadcast`], of a member that numbers what it
    /// broadcasts with rising numbers, because it may have to send it again: a
    /// number that is not above all before is accepted and not delivered.
    pub async fn broadcast_once(
        &self,
        from: PeerId,
        body: Bytes,
        number: u64,
    ) -> Result<(), PeerError> {
        match &self.0 {
            Place::Local(list) => Ok(list.broadcast_once(from, body, number).await?),
            Place::Cluster(list) => Box::pin(list.broadcast_once(from, body, number)).await,
        }
    }

    /// Puts a message into the mailbox of the member of the group that has
    /// this name. Waits for room as [`TimeoutPeerList::send_patiently`] does.
    /// `from`: the member that says it; a list in Redis remembers of each what
    /// it said last, so that it is done once.
    pub async fn send_to_member(
        &self,
        from: PeerId,
        name: &str,
        body: Bytes,
    ) -> Result<(), SendError> {
        match &self.0 {
            Place::Local(list) => list.send_to_member(name, body).await,
            Place::Cluster(list) => Box::pin(list.send_to_member(from, name, body)).await,
        }
    }

    /// Notes which protocol a member of the group speaks.
    pub async fn show_family(&self, id: PeerId, family: Family) {
        match &self.0 {
            Place::Local(list) => list.show_family(id, family).await,
            Place::Cluster(list) => Box::pin(list.show_family(id, family)).await,
        }
    }

    /// From now on a room exists, as long as this member of the group does.
    /// Who asked for it hears [`News::Room`]. False if the names of the rooms
    /// that a member keeps and asks for exceed the bound of a mailbox.
    pub async fn keep_room(&self, id: PeerId, room: &str) -> bool {
        match &self.0 {
            Place::Local(list) => list.keep_room(id, room).await,
            Place::Cluster(list) => Box::pin(list.keep_room(id, room)).await,
        }
    }

    /// Asks for a room: this member of the group hears [`News::Room`] as soon
    /// as it exists. False: as for [`TimeoutPeerList::keep_room`].
    pub async fn ask_for_room(&self, id: PeerId, room: &str) -> bool {
        match &self.0 {
            Place::Local(list) => list.ask_for_room(id, room).await,
            Place::Cluster(list) => Box::pin(list.ask_for_room(id, room)).await,
        }
    }

    /// Every peer in the list, oldest first.
    ///
    /// # Errors
    ///
    /// The list cannot be reached.
    pub async fn cards(&self) -> Result<Vec<Card>, Unavailable> {
        match &self.0 {
            Place::Local(list) => Ok(list.cards().await),
            Place::Cluster(list) => Box::pin(list.cards()).await,
        }
    }

    /// A heartbeat of a peer has come: it stays in the list for another
    /// [`HeartbeatOpts::timeout_period`].
    pub async fn refresh_peer_timeout(&self, id: PeerId) -> Result<(), PeerError> {
        match &self.0 {
            Place::Local(list) => Ok(list.refresh_peer_timeout(id).await?),
            Place::Cluster(list) => Box::pin(list.refresh_peer_timeout(id)).await,
        }
    }

    /// Takes a peer off the list as [`TimeoutPeerList::remove_peer`] does, with
    /// [`Reason::SignedOut`], when `grace` is over, unless it has come back,
    /// waited or sent a heartbeat until then: a page cannot tell whether it is
    /// closed or loaded anew.
    pub async fn sign_out_later(&self, id: PeerId, grace: Duration) -> Result<(), Unavailable> {
        match &self.0 {
            Place::Local(list) => list.sign_out_later(id, grace).await,
            Place::Cluster(list) => return Box::pin(list.sign_out_later(id, grace)).await,
        }
        Ok(())
    }

    /// Takes a peer off the list, ends its waits and tells the others. False
    /// if it was not signed in.
    pub async fn remove_peer(&self, id: PeerId, reason: Reason) -> Result<bool, Unavailable> {
        match &self.0 {
            Place::Local(list) => Ok(list.remove_peer(id, reason).await),
            Place::Cluster(list) => Box::pin(list.remove_peer(id, reason)).await,
        }
    }

    /// What the list was made with.
    pub fn opts(&self) -> &HeartbeatOpts {
        match &self.0 {
            Place::Local(list) => list.opts(),
            Place::Cluster(list) => list.opts(),
        }
    }

    /// The ids of all signed-in peers, oldest sign-in first.
    pub fn peer_ids(&self) -> Vec<PeerId> {
        match &self.0 {
            Place::Local(list) => list.peer_ids(),
            Place::Cluster(list) => list.peer_ids(),
        }
    }

    /// The list as text, newest peer first: a line `NAME,ID,STATUS` for each.
    pub fn format(&self) -> Lines {
        match &self.0 {
            Place::Local(list) => list.format(),
            Place::Cluster(list) => list.format(),
        }
    }

    /// Every peer that signs in, comes back or is removed from now on, in
    /// order.
    pub fn subscribe(&self) -> PeerEvents {
        match &self.0 {
            Place::Local(list) => list.subscribe(),
            Place::Cluster(list) => list.subscribe(),
        }
    }

    /// As [`TimeoutPeerList::subscribe`], beginning after the event with this
    /// number, as far as it is still kept.
    pub fn subscribe_after(&self, number: u64) -> PeerEvents {
        match &self.0 {
            Place::Local(list) => list.subscribe_after(number),
            Place::Cluster(list) => list.subscribe_after(number),
        }
    }

    /// A peer of the list as it is now.
    pub async fn peer_info(&self, id: PeerId) -> Result<Option<PeerInfo>, Unavailable> {
        match &self.0 {
            Place::Local(list) => Ok(list.peer_info(id).await),
            Place::Cluster(list) => Box::pin(list.peer_info(id)).await,
        }
    }

    /// Every peer of the list as it is now, by rising id.
    pub async fn peer_infos(&self) -> Result<Vec<PeerInfo>, Unavailable> {
        match &self.0 {
            Place::Local(list) => Ok(list.peer_infos().await),
            Place::Cluster(list) => Box::pin(list.peer_infos()).await,
        }
    }

    /// Removes the stale now instead of at the next interval. Returns who is
    /// removed.
    pub async fn purge(&self) -> Result<Vec<PeerId>, Unavailable> {
        match &self.0 {
            Place::Local(list) => Ok(list.purge().await),
            Place::Cluster(list) => Box::pin(list.purge()).await,
        }
    }

    /// Stops the collector: nobody times out any more.
    pub fn cancel_gc(&self) {
        match &self.0 {
            Place::Local(list) => list.cancel_gc(),
            Place::Cluster(list) => list.cancel_gc(),
        }
    }

    /// Ends every open wait, and from now on each wait for which there is
    /// nothing, with [`News::Nothing`]: for a server that is about to stop.
    pub fn end_waits(&self) {
        match &self.0 {
            Place::Local(list) => list.end_waits(),
            Place::Cluster(list) => list.end_waits(),
        }
    }

    /// This server stops: the peers that are only here are removed, with
    /// [`Reason::Shutdown`]; nobody is told but those who subscribed.
    pub async fn stop(&self) {
        match &self.0 {
            Place::Local(list) => list.stop().await,
            Place::Cluster(list) => Box::pin(list.stop()).await,
        }
    }

    /// To be called by a door when the socket of a peer is open, and kept as
    /// long as it is. It takes the peer over from a socket before it, and is
    /// given anew what that one was given and has not acknowledged. `resumes`:
    /// the peer may come back with its token when the socket has closed; until
    /// it is stale it stays in the list.
    pub async fn open_socket(&self, id: PeerId, resumes: bool) -> Result<OpenSocket, PeerError> {
        let socket = match &self.0 {
            Place::Local(list) => Socket::Local(list.open_socket(id, resumes)?),
            Place::Cluster(list) => {
                let socket = Box::pin(list.open_socket(id, resumes)).await?;
                Socket::Cluster(Box::new(socket))
            }
        };
        Ok(OpenSocket(socket))
    }

    /// To be called by a door when a request of a peer has come, and kept
    /// until it is answered or given up.
    pub fn open_request(&self, caller: Caller) -> Result<OpenRequest, PeerError> {
        let open = match &self.0 {
            Place::Local(list) => {
                let open = list.open_request(&caller)?;
                caller.uses_link(self);
                Open::Local(open)
            }
            // Whether it is that peer, its verb finds out.
            Place::Cluster(list) => Open::Cluster(Box::new(list.open_request(caller))),
        };
        Ok(OpenRequest(open))
    }

    /// A connection is closed, or another peer uses it.
    fn link_lost(&self, id: PeerId, link: u64) {
        match &self.0 {
            Place::Local(list) => list.link_lost(id, link),
            Place::Cluster(list) => list.link_lost(id, link),
        }
    }
}

impl fmt::Debug for TimeoutPeerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Local(list) => list.fmt(f),
            Place::Cluster(_) => f.write_str("TimeoutPeerList(in Redis)"),
        }
    }
}

#[cfg(test)]
mod tests;
