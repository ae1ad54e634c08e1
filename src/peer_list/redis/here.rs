//! A wait or socket that is open at this node, and what of a peer is over.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedMutexGuard, TryLockError};

use crate::peer_list::Reason;

/// A wait or socket that is open at this node.
pub(super) struct OpenHere {
    /// There may be something for it. Only one waits for that.
    pub news: Notify,
    /// It may be over.
    pub end: Notify,
    /// Locked until Redis knows that it has what it was given.
    handing: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<OpenState>,
}

#[derive(Default)]
struct OpenState {
    removed: Option<Reason>,
    /// The session of the peer, if this is a socket of it.
    session: Option<u64>,
    replaced: bool,
    /// The version of the list that its peer has heard. None: it hears of
    /// none.
    heard: Option<u64>,
    /// The highest number that its client has acknowledged. None: it does not.
    acknowledged: Option<u64>,
    /// If it is a wait, it is over: its peer has to poll again to show that it is
    /// there.
    is_over: bool,
}

impl OpenHere {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            news: Notify::new(),
            end: Notify::new(),
            handing: Arc::default(),
            state: Mutex::default(),
        })
    }

    /// All that wait for something here look again.
    pub fn recheck(&self) {
        self.news.notify_one();
        self.end.notify_waiters();
    }

    /// Its peer is removed, or to be removed by its door.
    pub fn set_removed(&self, reason: Reason) {
        self.state.lock().removed = Some(reason);
        self.recheck();
    }

    /// If it is a wait, it is over.
    pub fn end_wait(&self) {
        self.state.lock().is_over = true;
        self.news.notify_one();
    }

    /// A session with this number has taken the peer over.
    pub fn replaced_by(&self, session: u64) {
        {
            let mut state = self.state.lock();
            state.replaced = state.session.is_some_and(|before| before < session);
        }
        self.recheck();
    }

    /// Of the list, it has heard at most this version.
    pub fn limit_heard(&self, version: u64) {
        let mut state = self.state.lock();
        state.heard = state.heard.map(|heard| heard.min(version));
    }

    /// Whether its peer has not heard of this version of the list.
    pub fn is_behind(&self, version: u64) -> bool {
        self.state.lock().heard.is_some_and(|heard| heard < version)
    }

    pub fn removed(&self) -> Option<Reason> {
        self.state.lock().removed
    }

    pub fn is_over(&self) -> bool {
        self.state.lock().is_over
    }

    pub fn is_replaced(&self) -> bool {
        self.state.lock().replaced
    }

    pub fn set_heard(&self, heard: Option<u64>) {
        self.state.lock().heard = heard;
    }

    pub fn set_acknowledged(&self, number: Option<u64>) {
        let mut state = self.state.lock();
        state.acknowledged = state.acknowledged.max(number);
    }

    pub fn acknowledged(&self) -> Option<u64> {
        self.state.lock().acknowledged
    }

    /// It has what it was given; Redis does not know yet. An error if it has
    /// more than that.
    pub fn handing(&self) -> Result<OwnedMutexGuard<()>, TryLockError> {
        self.handing.clone().try_lock_owned()
    }

    /// Waits until Redis knows that it has what it was given.
    pub async fn handed_over(&self) {
        drop(self.handing.lock().await);
    }

    pub fn set_session(&self, session: u64) {
        self.state.lock().session = Some(session);
    }

    /// What it is told from now on is of no use: it gets nothing.
    pub fn set_outdated(&self) {
        self.state.lock().heard = None;
    }
}

/// What of a peer is over here.
#[derive(Default)]
pub(super) struct Over {
    /// Its waits, up to the one with this number.
    pub wait: Option<u64>,
    /// Connections that it used. Redis has one at most: the last, or one of the
    /// first, if it is away since.
    pub links: Vec<u64>,
}
