//! Waiting for news, and the lease under which news are handed over.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use tokio::time::Instant;

use super::{
    MemoryEngine,
    mailbox::Kind,
    peer::{Peer, PeerState, Stale},
    removal::Removal,
};
use crate::peer_list::{
    Delivery, Dialect, Lines, News, Reason, Receipt, Refusal, delivery, rules::REPEAT_PAUSE,
};

/// What is committed when a delivery is done.
#[derive(Clone, Copy, Debug)]
enum Hears {
    /// The message with this number; `keep` it until it is acknowledged.
    Message { number: u64, keep: bool },
    /// The list up to this version.
    Version(u64),
}

struct Lease {
    peer: Arc<Peer>,
    session: u64,
    hears: Hears,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({}, {:?})", self.peer.id, self.hears)
    }
}

impl delivery::Lease for Lease {
    fn commit(self: Box<Self>) {
        let mut state = self.peer.state.lock();
        if state.session != self.session {
            // The socket that took over is given it again.
            return;
        }
        match self.hears {
            Hears::Message { number, keep } => {
                state.mailbox.hand_over(number, keep);
                state.last_given = Some(Instant::now());
                self.peer.space.notify_waiters();
                self.peer.room.counts.delivered.count();
            }
            Hears::Version(version) => {
                state.heard = version;
                self.peer.room.counts.updates.count();
            }
        }
        // Dropping the lease ends the loan.
    }

    fn into_receipt(self: Box<Self>) -> Option<Receipt> {
        self.commit();
        None
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.peer.state.lock();
            if state.session != self.session {
                return;
            }
            state.lent = false;
            state.waits.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// One open wait of a peer. Dropping it ends it.
pub(super) struct Wait {
    list: MemoryEngine,
    peer: Arc<Peer>,
    number: u64,
    /// The session of the peer that it belongs to.
    session: u64,
    began: Instant,
    /// How its client is told of changes. The peer's own dialect may change later.
    dialect: Dialect,
    is_socket: bool,
}

impl Wait {
    /// A wait of a peer that polls. An error if the peer has a socket: it is heard
    /// through that.
    pub fn of_poll(list: &MemoryEngine, peer: Arc<Peer>) -> Result<Self, Refusal> {
        let (number, session, dialect) = {
            let mut state = peer.state.lock();
            if state.by_socket {
                return Err(Refusal::UnknownPeer);
            }
            (state.waits.begin(), state.session, state.sign_in.dialect)
        };
        Ok(Self {
            list: list.clone(),
            peer,
            number,
            session,
            began: Instant::now(),
            dialect,
            is_socket: false,
        })
    }

    /// A wait of the socket of this session.
    pub fn of_socket(list: &MemoryEngine, peer: Arc<Peer>, session: u64) -> Self {
        Self::beside(list, peer, session, false)
    }

    /// Watches for the end of that socket, and takes no news from its wait.
    pub fn watch(list: &MemoryEngine, peer: Arc<Peer>, session: u64) -> Self {
        Self::beside(list, peer, session, true)
    }

    fn beside(list: &MemoryEngine, peer: Arc<Peer>, session: u64, watches: bool) -> Self {
        let (number, dialect) = {
            let mut state = peer.state.lock();
            // A wait of an older session must not take precedence.
            let number = if watches || session != state.session {
                state.waits.watch()
            } else {
                state.waits.begin()
            };
            (number, state.sign_in.dialect)
        };
        Self {
            list: list.clone(),
            peer,
            number,
            session,
            began: Instant::now(),
            dialect,
            is_socket: true,
        }
    }

    /// The peer polls, and has all messages up to this number (None: it does not say).
    /// The messages that it does not have are first in line again. Returns until when a
    /// repeat has to be put off.
    pub fn acknowledge(&self, number: Option<u64>) -> Option<Instant> {
        let mut state = self.peer.state.lock();
        state.acknowledges = number.is_some();
        state.mailbox.acknowledge(number.unwrap_or(0));
        state.mailbox.rewind();
        self.peer.space.notify_waiters();
        let repeats = number.is_some() && state.mailbox.is_repeat();
        let last = state.last_given.filter(|_| repeats);
        last.map(|last| last + REPEAT_PAUSE)
    }

    /// Whether this is an open poll whose own peer signs out. That is not an error to its
    /// client: 3DStreamingToolkit's throws an unhandled error on anything but a 200.
    fn is_goodbye(&self, reason: Reason) -> bool {
        reason == Reason::SignedOut && !self.is_socket
    }

    /// Another sign-in or socket has taken over the peer.
    fn is_replaced(&self, state: &PeerState) -> bool {
        self.session != state.session
    }

    /// The wait is answered, so its peer still runs: a peer that said that it signs out
    /// later, and polled after that, has come back. (A wait that its client gave up is
    /// dropped without an answer.)
    pub fn answered(&self) {
        let mut state = self.peer.state.lock();
        if state.waits.is_over(self.number) {
            return;
        }
        match &mut state.leaving {
            // This may be its last request, which came late. If it polls again, it still
            // runs.
            Some(leaving) if !leaving.is_belied(self.began) => leaving.is_asked = true,
            leaving => *leaving = None,
        }
    }

    /// Waits for news.
    pub async fn news(&mut self) -> Delivery {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Waits until there will be no news any more.
    pub async fn end(&mut self) {
        poll_fn(|cx| {
            let mut state = self.peer.state.lock();
            if state.removed.is_some()
                || self.is_replaced(&state)
                || self.list.shared.ending.load(Ordering::Acquire)
            {
                return Poll::Ready(());
            }
            state.waits.park(self.number, cx.waker());
            Poll::Pending
        })
        .await;
    }

    /// The answer to a wait whose time is over, or whose peer has signed out. It commits
    /// nothing: a peer may hear of the same change twice, but never misses a change
    /// because an older wait was told of it.
    pub fn nothing(&self) -> Delivery {
        let state = self.peer.state.lock();
        let removed = state.removed.filter(|reason| !self.is_goodbye(*reason));
        let news = match (removed, self.dialect) {
            (Some(reason), _) => News::Removed(reason),
            (None, Dialect::Bare) => News::Nothing("\n".into()),
            (None, Dialect::Listed) => News::Nothing(self.roster_update(&state).0),
            (None, Dialect::Silent) => News::Nothing("".into()),
        };
        Delivery::last(news)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Delivery> {
        let mut state = self.peer.state.lock();
        if let Some(reason) = state.removed {
            let is_goodbye = self.is_goodbye(reason);
            drop(state);
            return Poll::Ready(if is_goodbye {
                self.nothing()
            } else {
                Delivery::last(News::Removed(reason))
            });
        }
        let is_replaced = self.is_replaced(&state);
        if is_replaced && self.is_socket {
            return Poll::Ready(Delivery::last(News::Replaced));
        }
        // A poll that was replaced is not answered: its client may be gone, and a client
        // that is not would poll again at once.
        if !is_replaced && self.number == state.waits.newest && !state.lent {
            if !self.is_socket {
                // An earlier wait may have been given more than the client of this one
                // has.
                state.mailbox.rewind();
            }
            match self.next(&state) {
                Ok(Some((news, hears))) => {
                    state.lent = true;
                    if let Hears::Message { .. } = hears {
                        state.mailbox.lend();
                    }
                    let lease = Lease {
                        peer: self.peer.clone(),
                        session: state.session,
                        hears,
                    };
                    let number = state.mailbox.number();
                    return Poll::Ready(Delivery::lent(news, number, lease));
                }
                Ok(None) => {}
                Err(FellBehind) => {
                    drop(state);
                    let removal = Removal::Stale(Stale::FellBehind);
                    self.list.remove_now(self.peer.id, removal);
                    return Poll::Ready(Delivery::last(News::Removed(Reason::TimedOut)));
                }
            }
        }
        let is_over = !self.is_socket && state.waits.is_over(self.number);
        if is_over || self.list.shared.ending.load(Ordering::Acquire) {
            drop(state);
            return Poll::Ready(self.nothing());
        }
        // Under the same lock as the checks above, so that news that come from now on
        // find the waker.
        state.waits.park(self.number, cx.waker());
        Poll::Pending
    }

    /// The next thing that the peer should hear, if there is any.
    fn next(&self, state: &PeerState) -> Result<Option<(News, Hears)>, FellBehind> {
        let told = self.list.told();
        match state.mailbox.front() {
            Some(message) if message.needs <= state.heard => {
                let body = message.body.clone();
                let news = match message.kind {
                    Kind::Direct { from } => News::Message { from, body },
                    Kind::Published => News::Published(body),
                    Kind::Announced => News::Announced(body),
                };
                let number = state.mailbox.number();
                let keep = state.acknowledges;
                Ok(Some((news, Hears::Message { number, keep })))
            }
            None if state.heard >= told => Ok(None),
            _ => self.status(state).map(Some),
        }
    }

    fn status(&self, state: &PeerState) -> Result<(News, Hears), FellBehind> {
        match state.sign_in.dialect {
            // Peers of the silent dialect never get here.
            Dialect::Listed | Dialect::Silent => {
                let (list, version) = self.roster_update(state);
                Ok((News::Status(list), Hears::Version(version)))
            }
            Dialect::Bare => {
                let line = self.list.room.roster.lock().line_after(state.heard);
                let line = line.ok_or(FellBehind)?;
                Ok((News::Status(line), Hears::Version(state.heard + 1)))
            }
        }
    }

    fn roster_update(&self, state: &PeerState) -> (Lines, u64) {
        let mut roster = self.list.room.roster.lock();
        let list = roster.update(state.heard, Instant::now());
        (list, roster.current())
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.peer.state.lock().waits.end(self.number);
    }
}

/// The log no longer holds the change that the peer has to be told next.
struct FellBehind;
