//! The contract of the peer list: what every engine does, each operation described
//! once.
//!
//! There are two engines: `memory` holds the list in this process, `redis` shares it
//! between processes. Doors use whichever they are given through
//! [`TimeoutPeerList`](super::TimeoutPeerList) and cannot tell them apart.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Added, Buffered, Caller, Card, Delivery, EventCursor, HeartbeatOpts, Held, Identity, Lines,
    ListCounts, Listing, LogEvents, PeerEvents, PeerId, PeerInfo, PeerToken, Reached, Reason,
    Refusal, RoomInfo, RoomName, ShardState, SignInOpts, SignedIn, Tally, Unlisted,
};

/// How long a wait lasts, and which messages its client has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitOpts {
    /// The number of the last message that the client has processed
    /// ([`Delivery::number`]; 0 at first). A message stays in the mailbox until it is
    /// acknowledged in this way; a wait that does not acknowledge it is given it again, at
    /// the soonest a second later. None: the client does not acknowledge, and a message
    /// that it is given is taken off.
    pub acknowledged: Option<u64>,
    /// The wait ends after this long if there is no news. None: never.
    pub limit: Option<Duration>,
}

/// How a message is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendOpts {
    /// The number of the message, for a sender that may have to send a message again.
    /// Such a sender numbers its messages with rising numbers from 1 and sends one after
    /// the other. The last message that was accepted is accepted again, and not delivered
    /// again; a lower number is [`Refusal::OutOfOrder`].
    pub number: Option<u64>,
    /// Whether to wait up to a second for room in a full mailbox: for senders whose
    /// protocol cannot refuse. A receiver whose socket is open and that makes no room in
    /// that time does not read, and is removed.
    pub waits_for_space: bool,
}

impl SendOpts {
    /// The sender's protocol cannot refuse a message.
    pub const PATIENT: Self = Self {
        number: None,
        waits_for_space: true,
    };

    /// The message has this number.
    pub fn numbered(number: impl Into<Option<u64>>) -> Self {
        Self {
            number: number.into(),
            waits_for_space: false,
        }
    }
}

/// How the socket of a peer is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOpts {
    /// The peer may come back with its token after the socket has closed, and stays in the
    /// list until it is stale.
    pub resumes: bool,
    /// As [`WaitOpts::acknowledged`]: what the socket is given stays in the mailbox until
    /// [`Mail::acknowledge`], and is given to the next socket or wait again until then. A peer
    /// that came in with a key ([`Unlisted::key`]) acknowledges in any case.
    pub acknowledged: Option<u64>,
}

/// How a message is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishOpts {
    /// As [`SendOpts::number`], except that a message whose number is not above all earlier
    /// ones is accepted and not delivered.
    pub number: Option<u64>,
    /// Whether the sender hears it too, if it is in the channel.
    pub echoes: bool,
}

impl PublishOpts {
    /// The message has this number.
    pub fn numbered(number: impl Into<Option<u64>>) -> Self {
        Self {
            number: number.into(),
            echoes: false,
        }
    }
}

/// How a peer joins a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JoinOpts {
    /// Published to those that are in the channel already: of two peers that join at the same time,
    /// one hears of the other. The farewell of the peer ([`Listing::farewell`]) is its counterpart.
    /// Empty: nothing is published.
    pub hello: Bytes,
    /// The channel is one of a group of this many peers: the peer joins the group that is being
    /// filled, and if that is full then, the next peer begins a new one. A peer that leaves before
    /// that makes its place free.
    pub group_of: Option<NonZeroU32>,
}

/// How peers sign in, come back, and leave.
#[async_trait]
pub trait Peers {
    /// Signs a peer in and tells the others. Without a name it is called `peer_` and
    /// its id.
    ///
    /// In the list, commas and control characters of the name are `_`, and only its
    /// first [`MAX_NAME_BYTES`](super::MAX_NAME_BYTES) bytes are kept.
    ///
    /// Refusals: [`NoName`](Refusal::NoName), [`Full`](Refusal::Full),
    /// [`RoomFull`](Refusal::RoomFull).
    async fn add_peer(&self, name: Option<&str>, opts: SignInOpts) -> Result<SignedIn, Refusal>;

    /// Signs a peer in that the list still holds, with the same id and mailbox. The others
    /// are told only if its name has changed (None: it keeps its name). Its earlier waits
    /// are given nothing any more; an open socket ends with
    /// [`News::Replaced`](super::News::Replaced).
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer) if the list no longer holds the
    /// peer, [`WrongToken`](Refusal::WrongToken).
    async fn resume_peer(
        &self,
        id: PeerId,
        token: &PeerToken,
        name: Option<&str>,
        opts: SignInOpts,
    ) -> Result<SignedIn, Refusal>;

    /// Whether a request with this token (None: it shows none) may act as the peer. A
    /// request that shows the right token protects the peer from then on: every later
    /// request has to show it. If the peer is not signed in, any token passes, and the
    /// operation that follows is refused.
    ///
    /// Refusals: [`WrongToken`](Refusal::WrongToken),
    /// [`MissingToken`](Refusal::MissingToken).
    async fn check_token(&self, id: PeerId, token: Option<&PeerToken>) -> Result<(), Refusal>;

    /// A heartbeat of a peer has come: the peer stays in the list for another
    /// [`HeartbeatOpts::timeout_period`].
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer).
    async fn refresh_peer_timeout(&self, id: PeerId) -> Result<(), Refusal>;

    /// Removes a peer, ends its waits and tells the others. False if the peer was not
    /// signed in.
    async fn remove_peer(&self, id: PeerId, reason: Reason) -> Result<bool, Refusal>;

    /// Removes a peer as [`Peers::remove_peer`] does, with [`Reason::SignedOut`], when
    /// `grace` is over, unless the peer has come back, waited, opened a socket or sent a
    /// heartbeat by then: a page cannot tell whether it is being closed or reloaded. What
    /// comes within a second, and goes, may have been sent before this.
    async fn sign_out_later(&self, id: PeerId, grace: Duration) -> Result<(), Refusal>;
}

/// What peers send and hear.
#[async_trait]
pub trait Mail {
    /// Puts a message last in line for a peer. What was accepted is delivered as long as
    /// the receiver stays signed in, in order, and not before the receiver has heard that
    /// the sender joined.
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer) for the sender,
    /// [`UnknownReceiver`](Refusal::UnknownReceiver),
    /// [`MailboxFull`](Refusal::MailboxFull), [`OutOfOrder`](Refusal::OutOfOrder).
    async fn send(
        &self,
        from: PeerId,
        to: PeerId,
        body: Bytes,
        opts: SendOpts,
    ) -> Result<(), Refusal>;

    /// Takes off all messages up to this number: the peer has acknowledged them.
    async fn acknowledge(&self, id: PeerId, number: u64);
}

/// Peers that come in unlisted, and the three things that protocols with names and
/// broadcasts are built on.
///
/// - A **channel** is heard by the peers that have joined it.
/// - An **alias** is a name that one peer at a time holds in its scope.
/// - An **announcement** is a name that peers can wait for.
///
/// All three end when their peer is removed. The memory that their names take is bounded
/// like a mailbox.
#[async_trait]
pub trait Channels {
    /// Adds a peer that is not in the list: it is not told who joins and leaves, and is
    /// reached through its socket only. If its key ([`Unlisted::key`]) is known, it is the
    /// same peer again.
    ///
    /// Refusals: [`Full`](Refusal::Full), [`RoomFull`](Refusal::RoomFull).
    async fn add_unlisted(&self, unlisted: Unlisted<'_>) -> Result<Added, Refusal>;

    /// A peer that came in unlisted comes back with its token. Its door opens the new
    /// socket next.
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer),
    /// [`WrongToken`](Refusal::WrongToken).
    async fn resume_unlisted(
        &self,
        id: PeerId,
        token: &PeerToken,
        identity: &Identity,
    ) -> Result<Added, Refusal>;

    /// Puts a peer that came in unlisted into the list, tells the others, and publishes its
    /// hello. Returns the other peers in the list. Of two peers that are listed at the same
    /// time, one finds the other in this answer, and the other hears the hello.
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer);
    /// [`NameTaken`](Refusal::NameTaken) if the peer is in the list already.
    async fn list_peer(&self, id: PeerId, listing: Listing<'_>) -> Result<Vec<Card>, Refusal>;

    /// Every peer in the list, oldest first.
    async fn cards(&self) -> Result<Vec<Card>, Refusal>;

    /// Gives a peer a name that no other peer has in this scope. A peer has at most one
    /// alias. A holder that lost its socket longer ago than `kept` is removed.
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer),
    /// [`NameTaken`](Refusal::NameTaken), [`TooManyNames`](Refusal::TooManyNames).
    async fn claim(
        &self,
        id: PeerId,
        scope: &str,
        name: &str,
        kept: Duration,
    ) -> Result<(), Refusal>;

    /// Puts a message into the mailbox of the peer that holds an alias. Waits for room as
    /// [`SendOpts::waits_for_space`] says. `from`: the sender. A list in Redis remembers the
    /// last message of each sender, so that a repeated call delivers it once.
    ///
    /// Returns the holder, and whether its socket is open.
    ///
    /// Refusals: [`UnknownReceiver`](Refusal::UnknownReceiver),
    /// [`MailboxFull`](Refusal::MailboxFull).
    async fn send_to_alias(
        &self,
        from: PeerId,
        scope: &str,
        name: &str,
        body: Bytes,
    ) -> Result<Reached, Refusal>;

    /// From now on a peer hears what is published in a channel. Returns the channel, which for a
    /// group has a name of its own.
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer),
    /// [`TooManyNames`](Refusal::TooManyNames).
    async fn join(&self, id: PeerId, channel: &str, opts: JoinOpts) -> Result<Arc<str>, Refusal>;

    /// How many peers are in a channel.
    async fn count_in(&self, channel: &str) -> Result<usize, Refusal>;

    /// A peer no longer hears what is published in a channel.
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer).
    async fn leave(&self, id: PeerId, channel: &str) -> Result<(), Refusal>;

    /// Puts a message into the mailbox of every other peer in these channels, once for a
    /// peer in several of them. Waits for room as [`SendOpts::waits_for_space`] says.
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer).
    async fn publish(
        &self,
        from: PeerId,
        channels: &[&str],
        body: Bytes,
        opts: PublishOpts,
    ) -> Result<(), Refusal>;

    /// From now on a name is announced, as long as this peer is signed in. Peers that wait
    /// for it hear [`News::Announced`](super::News::Announced).
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer),
    /// [`TooManyNames`](Refusal::TooManyNames).
    async fn announce(&self, id: PeerId, name: &str) -> Result<(), Refusal>;

    /// This peer hears [`News::Announced`](super::News::Announced) once: as soon as a name
    /// is announced, or now if it already is.
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer),
    /// [`TooManyNames`](Refusal::TooManyNames).
    async fn watch_for(&self, id: PeerId, name: &str) -> Result<(), Refusal>;
}

/// The open requests, connections and sockets of peers. They decide whether a peer is
/// connected and when it is stale.
#[async_trait]
pub trait Presence {
    /// Called by a door when the socket of a peer is open. The door keeps the result for as
    /// long as the socket is open. The socket takes the peer over from an earlier socket,
    /// and is given again what that one was given and has not acknowledged.
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer).
    async fn open_socket(
        &self,
        id: PeerId,
        opts: SocketOpts,
    ) -> Result<Box<dyn OpenSocket>, Refusal>;

    /// Called by a door when a request of a peer has come. The door keeps the result until
    /// the request is answered or given up.
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer),
    /// [`WrongToken`](Refusal::WrongToken), [`MissingToken`](Refusal::MissingToken);
    /// if the list is on another machine, the operation of the request returns them instead.
    fn open_request(&self, caller: Caller) -> Result<Box<dyn OpenRequest>, Refusal>;
}

/// The list as it is now, and the events of its peers.
#[async_trait]
pub trait Watching {
    /// What the list was made with.
    fn opts(&self) -> &HeartbeatOpts;

    /// The number of peers in the list, as far as this process knows.
    fn len(&self) -> usize;

    /// Whether the list is empty, as far as this process knows.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether one more peer can come in, besides `coming` others that are about to, as far
    /// as this process knows.
    ///
    /// Refusals: [`Full`](Refusal::Full), [`RoomFull`](Refusal::RoomFull).
    fn has_space(&self, coming: usize) -> Result<(), Refusal>;

    /// What has happened in this process.
    fn counts(&self) -> &ListCounts;

    /// How many peers and rooms there are.
    async fn tally(&self) -> Result<Tally, Refusal>;

    /// The parts of Redis that hold the list; none, if the list is in this process.
    async fn shards(&self) -> Vec<ShardState>;

    /// What clients make this process hold.
    fn buffered(&self) -> &Arc<Buffered>;

    /// The ids of all signed-in peers, oldest sign-in first.
    fn peer_ids(&self) -> Vec<PeerId>;

    /// The list as text, newest peer first: a line `NAME,ID,STATUS` for each. As far as this
    /// process knows: see [`Watching::catch_up`].
    fn format(&self) -> Lines;

    /// Brings what this process knows of the list up to date.
    async fn catch_up(&self) -> Result<(), Refusal>;

    /// The current state of a peer in the list.
    async fn peer_info(&self, id: PeerId) -> Result<Option<PeerInfo>, Refusal>;

    /// The current state of every peer in the list, by rising id.
    async fn peer_infos(&self) -> Result<Vec<PeerInfo>, Refusal>;

    /// The events of the peers of all rooms that sign in, come back or are removed, in
    /// order: from now on, or all that followed what the cursor has and are still kept.
    async fn subscribe(&self, after: Option<&EventCursor>) -> PeerEvents;

    /// The events to send to the webhook, of each log: those from now on; or, if several
    /// servers share the list, those that none of them has sent yet.
    async fn webhook_events(&self) -> Vec<LogEvents>;

    /// Waits until it is this server's turn to send an event to the webhook: that with this
    /// number in the log with this index. False: another server has sent it.
    async fn webhook_turn(&self, log: usize, number: u64) -> bool;

    /// This event was sent to the webhook, or was given up.
    async fn webhook_sent(&self, log: usize, number: u64);
}

/// The rooms of a server. Each is a list of its own, with the same contract; what is said
/// above of a list concerns one room, or the root list. Named rooms share their
/// ids, so that an id of one is unknown in every other; the root list has ids of its own.
#[async_trait]
pub trait Rooms {
    /// The name of the room whose list this is. None: it is the root list.
    fn name(&self) -> Option<&RoomName>;

    /// The list of the room with this name. The room begins with its first peer, and ends
    /// with its last.
    fn room(&self, name: &RoomName) -> Arc<dyn Engine>;

    /// The rooms that have a peer, by name.
    async fn rooms(&self) -> Result<Vec<RoomInfo>, Refusal>;

    /// The current state of every listed peer of all rooms and of the root list: the root
    /// list first, then by room, and by rising id.
    async fn infos_of_all_rooms(&self) -> Result<Vec<PeerInfo>, Refusal>;
}

/// What an engine of the peer list does.
///
/// Any operation may be refused with [`Refusal::Unavailable`] by an engine whose list is
/// on another machine; the documentation of each names the other refusals.
#[async_trait]
pub trait Engine:
    Peers + Mail + Channels + Presence + Watching + Rooms + fmt::Debug + Send + Sync + 'static
{
    /// Whether the list can be reached now.
    async fn is_reachable(&self) -> bool;

    /// Removes the stale peers now instead of at the next interval. Returns their ids.
    async fn purge(&self) -> Result<Vec<PeerId>, Refusal>;

    /// Stops the collector of this process: from now on this process removes stale peers
    /// only when [`Engine::purge`] is called.
    fn cancel_gc(&self);

    /// Ends every open wait, and from now on every wait without news, with
    /// [`News::Nothing`](super::News::Nothing): for a server that is about to stop.
    fn end_waits(&self);

    /// This server stops: the peers that exist only here are removed, with
    /// [`Reason::Shutdown`]; only subscribers are told.
    async fn stop(&self);
}

/// An open request of a peer. While it waits, the peer is connected, and cannot get stale
/// unless the peer sends heartbeats. If the list is in this process, both hold for as
/// long as this lives, whether it waits or not. If the list is in Redis, they hold only
/// while the newest wait of the peer is open.
#[async_trait]
pub trait OpenRequest: fmt::Debug + Send + Sync {
    /// Waits for the next thing that the peer should hear.
    ///
    /// Of several waits of one peer only the newest is given news; the others end when
    /// their time is over or the peer is removed. Dropping the future ends the wait and
    /// loses nothing.
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer), also for a peer whose socket is
    /// open: it gets its news through [`OpenSocket::wait`].
    async fn wait(&self, opts: WaitOpts) -> Result<Delivery, Refusal>;

    /// As [`Mail::send`].
    async fn send(&self, to: PeerId, body: Bytes, opts: SendOpts) -> Result<(), Refusal>;

    /// As [`Peers::refresh_peer_timeout`].
    async fn heartbeat(&self) -> Result<(), Refusal>;

    /// Notes how many more viewers the peer can serve, as the operator's API shows it.
    ///
    /// Refusals: [`UnknownPeer`](Refusal::UnknownPeer).
    async fn set_capacity(&self, capacity: u64) -> Result<(), Refusal>;

    /// The request asks for nothing that can be done, and only shows that its peer is
    /// connected.
    ///
    /// Refusals: as [`Presence::open_request`].
    async fn seen(&self) -> Result<(), Refusal>;

    /// As [`OpenRequest::seen`]. Returns the ICE servers that only this peer is told of.
    async fn ice_servers(&self) -> Result<Option<Arc<str>>, Refusal>;

    /// The request was answered. If it has waited, or if its client closes its connection
    /// after each answer ([`Caller::lingers`]), the client will be back, and the peer still
    /// counts as connected until then, for at most two seconds.
    fn answered(self: Box<Self>);
}

/// The socket of a peer, open as long as this lives. Until then the peer is connected,
/// is not collected, and gets its news through this only; if its mailbox is full, it does not
/// read, and its door is told to remove it.
#[async_trait]
pub trait OpenSocket: fmt::Debug + Send + Sync {
    /// Waits for the next thing that the peer should hear. Ends with
    /// [`News::Removed`](super::News::Removed) when its door is to remove the peer, if
    /// that has not happened, and to close the socket; with
    /// [`News::Nothing`](super::News::Nothing) when the server stops; with
    /// [`News::Replaced`](super::News::Replaced) when another socket has taken over.
    async fn wait(&self) -> Delivery;

    /// What the door has taken off the mailbox and not written yet: it counts in the
    /// peer's share ([`HeartbeatOpts::max_pending_bytes`]). A list in Redis does not know of it.
    fn holds(&self, outgoing: Arc<Held>);

    /// The client has read a part of what is being written to it.
    fn reads(&self);

    /// Ready when the peer is to hear nothing any more: what is being written to it is to
    /// be given up.
    async fn ended(&self);

    /// The socket is closed, or is about to be: its peer is removed, unless another
    /// session has taken it over, or it may come back and the network is the reason. One
    /// that is dropped without this has lost its connection ([`Reason::Closed`]).
    async fn leave(self: Box<Self>, reason: Reason);
}
