//! One signed-in peer: its identity, what it has heard, and when it is stale.

use std::{
    fmt,
    sync::Arc,
    task::Waker,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{mailbox::Mailbox, room::Room};
use crate::peer_list::{
    Buffered, HeartbeatOpts, Held, Identity, OfNetwork, PeerId, PeerInfo, PeerToken, Reason,
    Refusal, SignInOpts,
    page::Connected,
    rules::{LATE_REQUEST, LINGER, patience},
};

/// A peer, which may not be listed yet.
#[derive(Debug)]
pub(super) struct Peer {
    pub id: PeerId,
    pub room: Arc<Room>,
    pub token: PeerToken,
    since: SystemTime,
    /// Its entry in the list, once it has one. No other lock is taken under this one.
    listed: Mutex<Option<Listed>>,
    /// It came in unlisted, and is reached through its sockets only.
    pub by_socket_only: bool,
    /// Notified when there is room in its mailbox again.
    pub space: Notify,
    /// The number of its last message, if it numbers them. Locked before any state.
    pub last_sent: Mutex<u64>,
    /// Locked while a numbered message of it is published.
    pub publishing: tokio::sync::Mutex<()>,
    /// Counts it for its network until it is removed.
    pub of_network: Mutex<Option<OfNetwork>>,
    pub state: Mutex<PeerState>,
}

/// The entry of a peer in the list.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub name: Arc<str>,
    /// The version of the list that first named the peer; its key there.
    pub joined: u64,
}

impl Peer {
    /// A peer that was made just now. `heard`: the version of the list that it knows.
    pub fn new(
        id: PeerId,
        room: &Arc<Room>,
        opts: SignInOpts,
        buffered: &Arc<Buffered>,
        heard: u64,
        presence: Presence,
        of_network: Option<OfNetwork>,
    ) -> Self {
        Self {
            id,
            room: room.clone(),
            token: PeerToken::random(),
            since: SystemTime::now(),
            listed: Mutex::new(None),
            by_socket_only: false,
            space: Notify::new(),
            last_sent: Mutex::new(0),
            publishing: tokio::sync::Mutex::default(),
            of_network: Mutex::new(of_network),
            state: Mutex::new(PeerState {
                mailbox: Mailbox::new(buffered),
                outgoing: None,
                heard: opts.dialect.knows(heard),
                lent: false,
                removed: None,
                waits: Waits::default(),
                presence,
                session: 0,
                by_socket: false,
                resumes: false,
                leaving: None,
                protected: opts.protected,
                sign_in: opts,
                capacity: None,
                acknowledges: false,
                last_given: None,
            }),
        }
    }
}

impl Peer {
    /// Whether a request that shows this token (None: no token) may act as the peer. The
    /// right token protects the peer from then on.
    pub fn admit(&self, token: Option<&PeerToken>) -> Result<(), Refusal> {
        let Some(token) = token else {
            let state = self.state.lock();
            // A peer that has a socket needs no requests.
            let is_protected = state.protected || state.resumes || state.by_socket;
            return if is_protected {
                Err(Refusal::MissingToken)
            } else {
                Ok(())
            };
        };
        if !self.token.is(token) {
            return Err(Refusal::WrongToken);
        }
        if !self.state.lock().protected {
            let mut last_sent = self.last_sent.lock();
            self.state.lock().protected = true;
            // Before the peer was protected, anybody may have numbered messages.
            *last_sent = 0;
        }
        Ok(())
    }

    /// Whether it can come back for this user.
    pub fn is_of(&self, identity: &Identity) -> Result<(), Refusal> {
        if self.state.lock().sign_in.identity.user == identity.user {
            Ok(())
        } else {
            Err(Refusal::OtherUser)
        }
    }

    /// Its entry in the list.
    pub fn listed(&self) -> Option<Listed> {
        self.listed.lock().clone()
    }

    /// The version of the list that first named it, if it is in the list.
    pub fn joined(&self) -> Option<u64> {
        self.listed.lock().as_ref().map(|listed| listed.joined)
    }

    /// It is in the list now, or its entry has changed.
    pub fn set_listed(&self, listed: Listed) {
        *self.listed.lock() = Some(listed);
    }

    /// The peer as the operator's API shows it. None if it is not in the list.
    pub fn info(&self, state: &PeerState) -> Option<PeerInfo> {
        let now = Instant::now();
        let presence = &state.presence;
        let unseen = now.saturating_duration_since(presence.last_seen(now));
        let present = SystemTime::now();
        Some(PeerInfo {
            id: self.id,
            room: self.room.name.clone(),
            name: self.listed()?.name,
            door: state.sign_in.door.into(),
            connected: match presence.shown {
                Connected::Yes => true,
                Connected::Until(end) => end > now,
                Connected::No => false,
            },
            since: self.since,
            last_seen: present.checked_sub(unseen).unwrap_or(present),
            heartbeat: presence.last_heartbeat.is_some(),
            capacity: state.capacity,
            identity: state.sign_in.identity.clone(),
        })
    }
}

/// A peer that has said that it signs out later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub said: Instant,
    pub end: Instant,
    /// A wait of it was ended after that: if it waits again, it still runs.
    pub is_asked: bool,
    /// Its socket was opened so soon after that that it may be of a page that is gone.
    pub has_late_socket: bool,
}

impl Leaving {
    /// Whether a request that comes at this moment shows that the peer still runs.
    pub fn is_belied(&self, at: Instant) -> bool {
        at >= self.said + LATE_REQUEST
    }
}

/// The part of a peer that changes.
#[derive(Debug)]
pub(super) struct PeerState {
    pub mailbox: Mailbox,
    /// What was taken off the mailbox and is on its way to the peer's socket.
    pub outgoing: Option<Arc<Held>>,
    /// How it last came in.
    pub sign_in: SignInOpts,
    /// The newest version of the list that it has heard.
    pub heard: u64,
    /// The next thing that it should hear is lent to a wait: no other wait is given it.
    pub lent: bool,
    /// It was removed, or its door is told here to remove it. Nothing is accepted for it
    /// any more.
    pub removed: Option<Reason>,
    pub waits: Waits,
    pub presence: Presence,
    /// Rises with each sign-in and each socket that takes over the peer.
    pub session: u64,
    /// The current session is a socket's, and that socket is open.
    pub by_socket: bool,
    /// It may come back after its socket has closed, and stays until it is stale.
    pub resumes: bool,
    /// It signs out later, unless it shows before then that it still runs.
    pub leaving: Option<Leaving>,
    /// Requests that act as it have to show its token.
    pub protected: bool,
    /// How many more viewers it can serve, as it says.
    pub capacity: Option<u64>,
    /// It acknowledges what it gets.
    pub acknowledges: bool,
    /// When it was last given a message.
    pub last_given: Option<Instant>,
}

impl PeerState {
    /// How much is held for the peer, in bytes.
    pub fn held(&self) -> usize {
        self.mailbox.held().bytes() + self.outgoing()
    }

    /// How much of that is on its way to its socket, in bytes.
    pub fn outgoing(&self) -> usize {
        self.outgoing
            .as_ref()
            .map_or(0, |outgoing| outgoing.bytes())
    }

    /// For how long the peer has read nothing of that.
    pub fn reads_nothing_for(&self) -> Duration {
        let unmoved = self.mailbox.held().unmoved_for();
        let outgoing = self.outgoing.as_ref();
        outgoing.map_or(unmoved, |outgoing| unmoved.min(outgoing.unmoved_for()))
    }

    /// The peer is back, by a socket or not. It does not sign out later, unless its socket may
    /// have been overtaken by the farewell of its page, and is closed before the grace ends.
    pub fn is_back(&mut self, by_socket: bool, now: Instant) {
        let leaving = self.leaving.filter(|_| by_socket);
        self.leaving = leaving.filter(|leaving| !leaving.is_belied(now));
        if let Some(leaving) = &mut self.leaving {
            leaving.has_late_socket = true;
        }
    }

    /// The peer signs in again, or its socket opens: its earlier waits are given nothing
    /// any more, and what they were given and the peer has not acknowledged is given
    /// again. Returns the wakers of those waits.
    pub fn begin_session(&mut self, by_socket: bool) -> Vec<Waker> {
        self.session += 1;
        self.by_socket = by_socket;
        self.outgoing = None;
        self.lent = false;
        self.mailbox.rewind();
        self.waits.take_all()
    }
}

/// The open waits of a peer.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// The number of the newest wait, the only one that is given anything.
    pub newest: u64,
    /// Wakes the newest wait, if it is suspended.
    pub waker: Option<Waker>,
    /// Wakes older waits and watches, which hear only of the end.
    pub older: Vec<(u64, Waker)>,
    /// How many watches there have been.
    watches: u64,
    /// Waits up to the one with this number are over.
    over: u64,
}

impl Waits {
    /// Begins a wait, which takes precedence over all earlier ones.
    pub fn begin(&mut self) -> u64 {
        if let Some(waker) = self.waker.take() {
            self.older.push((self.newest, waker));
        }
        self.newest += 1;
        self.newest
    }

    /// Ends all open waits. Returns their wakers.
    pub fn end_all(&mut self) -> Vec<Waker> {
        self.over = self.newest;
        self.take_all()
    }

    /// Whether a wait with this number is over.
    pub fn is_over(&self, number: u64) -> bool {
        number <= self.over
    }

    /// Whether the newest wait is open and has no news yet.
    pub fn is_parked(&self) -> bool {
        self.waker.is_some()
    }

    /// Begins to watch for the end, beside the waits and without taking precedence.
    pub fn watch(&mut self) -> u64 {
        self.watches += 1;
        u64::MAX - self.watches
    }

    /// Suspends a wait until there is something for it.
    pub fn park(&mut self, number: u64, waker: &Waker) {
        let waker = waker.clone();
        if number == self.newest {
            self.waker = Some(waker);
        } else {
            match self.older.iter_mut().find(|(older, _)| *older == number) {
                Some((_, parked)) => *parked = waker,
                None => self.older.push((number, waker)),
            }
        }
    }

    /// A wait is over.
    pub fn end(&mut self, number: u64) {
        if number == self.newest {
            self.waker = None;
        } else {
            self.older.retain(|(older, _)| *older != number);
        }
    }

    /// All wakers, for news that concern every open wait.
    pub fn take_all(&mut self) -> Vec<Waker> {
        let older = std::mem::take(&mut self.older);
        let older = older.into_iter().map(|(_, waker)| waker);
        older.chain(self.waker.take()).collect()
    }
}

/// What decides whether a peer counts as connected, and when it is stale.
#[derive(Debug)]
pub(super) struct Presence {
    /// How many of its requests and sockets are open.
    pub open: u32,
    /// How many of those are sockets.
    pub sockets: u32,
    /// The connection of its last request, while that connection is open.
    pub link: Option<u64>,
    /// The STATUS that the list shows.
    pub shown: Connected,
    /// Until this moment it counts as connected in any case.
    linger_until: Instant,
    /// When a request of it was last open; now, if one is open.
    last_seen: Instant,
    last_heartbeat: Option<Instant>,
}

impl Presence {
    /// The presence of a peer that has just signed in.
    pub fn new(now: Instant) -> Self {
        Self {
            open: 0,
            sockets: 0,
            link: None,
            shown: Connected::Until(now + LINGER),
            linger_until: now,
            last_seen: now,
            last_heartbeat: None,
        }
    }

    /// A heartbeat has come.
    pub fn heartbeat(&mut self, now: Instant) {
        self.last_heartbeat = Some(now);
    }

    /// It signed in again, which counts as a heartbeat.
    pub fn returned(&mut self, now: Instant) {
        self.last_seen = now;
        self.linger_until = now + LINGER;
        self.last_heartbeat = self.last_heartbeat.map(|_| now);
    }

    /// A socket of it has closed. While the socket was open it needed no heartbeat.
    pub fn socket_closed(&mut self, now: Instant) {
        self.sockets -= 1;
        self.last_heartbeat = self.last_heartbeat.map(|_| now);
    }

    /// When a request of it was last open, or a heartbeat came.
    pub fn last_seen(&self, now: Instant) -> Instant {
        if self.open > 0 {
            return now;
        }
        let beat = self.last_heartbeat.unwrap_or(self.last_seen);
        beat.max(self.last_seen)
    }

    /// A request has ended. `lingers`: the client is expected to be back soon, and counts
    /// as connected until then.
    pub fn request_ended(&mut self, lingers: bool, now: Instant) {
        self.open -= 1;
        self.last_seen = now;
        if lingers {
            self.linger_until = now + LINGER;
        }
    }

    /// Whether STATUS is 1.
    pub fn connected(&self, now: Instant) -> Connected {
        if self.open > 0 || self.link.is_some() {
            Connected::Yes
        } else if self.linger_until > now {
            Connected::Until(self.linger_until)
        } else {
            Connected::No
        }
    }

    /// Why the collector should remove the peer, if it should.
    pub fn stale(&self, opts: &HeartbeatOpts, now: Instant) -> Option<Stale> {
        if self.sockets > 0 {
            // The door of a socket pings it, and finds out.
            return None;
        }
        let timeout = opts.timeout_period;
        let patience = patience(opts);
        let (stale, why) = match self.last_heartbeat {
            beat if opts.any_request => {
                let last = beat.map_or(self.last_seen, |beat| beat.max(self.last_seen));
                let stale = self.open == 0 && now >= last + patience;
                (stale, Stale::NoRequest)
            }
            Some(beat) => (now >= beat + patience, Stale::NoHeartbeat),
            None => {
                let stale = self.open == 0 && now >= self.last_seen + timeout;
                (stale, Stale::NoRequest)
            }
        };
        stale.then_some(why)
    }
}

/// Why a peer is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    /// It used to send heartbeats and stopped.
    NoHeartbeat,
    /// It has had no request open for too long.
    NoRequest,
    /// It polls too slowly to be told each change in order.
    FellBehind,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stale::NoHeartbeat => "no heartbeat within the timeout",
            Stale::NoRequest => "no request within the timeout",
            Stale::FellBehind => "too many changes not yet heard",
        })
    }
}

#[cfg(test)]
mod tests;
