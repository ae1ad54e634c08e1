//! One signed-in peer: who it is, what it has heard, and when it is stale.

use std::{fmt, sync::Arc, task::Waker, time::SystemTime};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::mailbox::Mailbox;
use crate::peer_list::{
    HeartbeatOpts, PeerId, PeerInfo, PeerToken, Reason, Refusal, WayIn,
    page::Connected,
    rules::{LINGER, patience},
};

/// A peer, which may be in no list yet.
#[derive(Debug)]
pub(super) struct Peer {
    pub id: PeerId,
    pub token: PeerToken,
    since: SystemTime,
    /// Its place in the list, once it has one. Nothing is locked under it.
    listed: Mutex<Option<Listed>>,
    /// It came in unlisted, and is reached through its sockets only.
    pub by_socket_only: bool,
    /// Told when there is room in its mailbox again.
    pub room: Notify,
    /// The number of the last message that it sent, if it numbers them. Locked
    /// before any state.
    pub last_sent: Mutex<u64>,
    /// Locked while it publishes what has a number.
    pub publishing: tokio::sync::Mutex<()>,
    pub state: Mutex<PeerState>,
}

/// What a peer is in the list.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub name: Arc<str>,
    /// The version of the list that first named the peer; its key there.
    pub joined: u64,
}

impl Peer {
    /// One that was made just now. `heard`: the version of the list that it
    /// knows.
    pub fn new(id: PeerId, way: WayIn, heard: u64, presence: Presence) -> Self {
        Self {
            id,
            token: PeerToken::random(),
            since: SystemTime::now(),
            listed: Mutex::new(None),
            by_socket_only: false,
            room: Notify::new(),
            last_sent: Mutex::new(0),
            publishing: tokio::sync::Mutex::default(),
            state: Mutex::new(PeerState {
                mailbox: Mailbox::default(),
                way,
                heard: way.dialect.knows(heard),
                lent: false,
                removed: None,
                waits: Waits::default(),
                presence,
                session: 0,
                by_socket: false,
                resumes: false,
                leaving: None,
                protected: way.protected,
                capacity: None,
                acknowledges: false,
                last_given: None,
            }),
        }
    }
}

impl Peer {
    /// Whether a request that shows this token (None: it shows none) may act as the
    /// peer. One with the right token protects the peer from then on.
    pub fn admit(&self, token: Option<&PeerToken>) -> Result<(), Refusal> {
        let Some(token) = token else {
            let state = self.state.lock();
            // Through its socket it needs no requests.
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
            // Whoever numbered messages before may have been anybody.
            *last_sent = 0;
        }
        Ok(())
    }

    /// Its place in the list.
    pub fn listed(&self) -> Option<Listed> {
        self.listed.lock().clone()
    }

    /// The version of the list that first named it, if it is in the list.
    pub fn joined(&self) -> Option<u64> {
        self.listed.lock().as_ref().map(|listed| listed.joined)
    }

    /// It has a place in the list now, or another one.
    pub fn set_listed(&self, listed: Listed) {
        *self.listed.lock() = Some(listed);
    }

    /// The peer as it is now, for those who run an application. None if it is
    /// not in the list.
    pub fn info(&self, state: &PeerState) -> Option<PeerInfo> {
        let now = Instant::now();
        let presence = &state.presence;
        let unseen = now.saturating_duration_since(presence.last_seen(now));
        let present = SystemTime::now();
        Some(PeerInfo {
            id: self.id,
            name: self.listed()?.name,
            door: state.way.door.into(),
            connected: match presence.shown {
                Connected::Yes => true,
                Connected::Until(end) => end > now,
                Connected::No => false,
            },
            since: self.since,
            last_seen: present.checked_sub(unseen).unwrap_or(present),
            heartbeat: presence.last_heartbeat.is_some(),
            capacity: state.capacity,
        })
    }
}

/// A peer that signs out later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub said: Instant,
    pub end: Instant,
    /// A wait of it was ended after it said so: if it waits again, it is there.
    pub is_asked: bool,
}

/// What changes about a peer.
#[derive(Debug)]
pub(super) struct PeerState {
    pub mailbox: Mailbox,
    /// How it came in, the last time that it did.
    pub way: WayIn,
    /// The newest version of the list that it has heard.
    pub heard: u64,
    /// The next thing it should hear is lent to a wait: nobody else takes.
    pub lent: bool,
    /// It was removed, or will be by its door, which this tells to do so.
    /// Nothing is accepted for it any more.
    pub removed: Option<Reason>,
    pub waits: Waits,
    pub presence: Presence,
    /// Rises with each sign-in and each socket that takes over the peer.
    pub session: u64,
    /// The present session is that of a socket, and that is open.
    pub by_socket: bool,
    /// It may come back when its socket has closed, and stays until it is
    /// stale.
    pub resumes: bool,
    /// It signs out later, unless it shows before that it is still there.
    pub leaving: Option<Leaving>,
    /// Requests that act as it have to show its token.
    pub protected: bool,
    /// How many viewers it says that it can still serve.
    pub capacity: Option<u64>,
    /// It acknowledges what it gets.
    pub acknowledges: bool,
    /// When it was last given a message.
    pub last_given: Option<Instant>,
}

impl PeerState {
    /// The peer signs in again, or its socket opens: what waited for it until
    /// now is given nothing any more, and what that was given and did not
    /// acknowledge is given anew. Returns who is to be told.
    pub fn begin_session(&mut self, by_socket: bool) -> Vec<Waker> {
        self.session += 1;
        self.by_socket = by_socket;
        self.lent = false;
        self.leaving = None;
        self.mailbox.rewind();
        self.waits.take_all()
    }
}

/// The waits of a peer that are open.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// The number of the newest wait; only that one is given anything.
    pub newest: u64,
    /// Wakes the newest wait, if it is parked.
    pub waker: Option<Waker>,
    /// Wakes older waits and watches, which only hear of the end.
    pub older: Vec<(u64, Waker)>,
    /// How many watches there have been.
    watches: u64,
    /// Waits up to the one with this number are over.
    over: u64,
}

impl Waits {
    /// Begins a wait, which takes precedence over all before it.
    pub fn begin(&mut self) -> u64 {
        if let Some(waker) = self.waker.take() {
            self.older.push((self.newest, waker));
        }
        self.newest += 1;
        self.newest
    }

    /// Ends all waits that are open. Returns who is to be told.
    pub fn end_all(&mut self) -> Vec<Waker> {
        self.over = self.newest;
        self.take_all()
    }

    /// Whether a wait with this number is over.
    pub fn is_over(&self, number: u64) -> bool {
        number <= self.over
    }

    /// Whether the newest wait is open, and has nothing to be told.
    pub fn is_parked(&self) -> bool {
        self.waker.is_some()
    }

    /// Begins to watch for the end, beside the waits and after none of them.
    pub fn watch(&mut self) -> u64 {
        self.watches += 1;
        u64::MAX - self.watches
    }

    /// Parks a wait until there is something for it.
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

/// What is known of a peer's being there: for its STATUS and for the
/// collector.
#[derive(Debug)]
pub(super) struct Presence {
    /// How many of its requests and sockets are open.
    pub open: u32,
    /// How many of those are sockets.
    pub sockets: u32,
    /// The connection that its last request came on, while that is open.
    pub link: Option<u64>,
    /// What the list shows at present.
    pub shown: Connected,
    /// It counts as connected until then, whatever else.
    linger_until: Instant,
    /// When a request of it was last open. Now, if one is.
    last_seen: Instant,
    last_heartbeat: Option<Instant>,
}

impl Presence {
    /// A peer that was signed in just now.
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

    /// It signed in again, which is as good as a heartbeat.
    pub fn returned(&mut self, now: Instant) {
        self.last_seen = now;
        self.linger_until = now + LINGER;
        self.last_heartbeat = self.last_heartbeat.map(|_| now);
    }

    /// A socket of it is closed, until which it needed no heartbeat.
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

    /// A request has ended. `lingers`: its client is expected to be back
    /// soon, and counts as connected until then.
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
            // Its door pings, and finds out.
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
    /// It has no request open and has made none for long.
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
