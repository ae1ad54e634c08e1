//! A wait or socket that is open at this node, and what of a peer has ended here.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedMutexGuard, TryLockError};

use crate::peer_list::{PeerId, Reason};

/// A wait or socket that is open at this node.
pub(super) struct OpenHere {
    /// Notified when there may be news for it. Only one task listens to this.
    pub news: Notify,
    /// Notified when it may be over.
    pub end: Notify,
    /// Notified when it is decided whether it may wait.
    decided: Notify,
    /// Locked until Redis knows that the peer has what it was given.
    handing: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<OpenState>,
}

#[derive(Default)]
struct OpenState {
    removed: Option<Reason>,
    /// The session of the peer, if this is its socket.
    session: Option<u64>,
    replaced: bool,
    /// The version of the list that its peer has heard. None: changes do not wake it,
    /// because its dialect hears of none, Redis has not answered yet, or it is outdated.
    heard: Option<u64>,
    /// The highest number that its client has acknowledged. None: the client does not
    /// acknowledge.
    acknowledged: Option<u64>,
    /// If it is a wait, it has ended: its peer has to poll again to show that it still
    /// runs.
    is_over: bool,
    /// Its number, if it is a wait.
    wait: Option<u64>,
    /// The connection on which its request came, if it is a wait.
    link: Option<u64>,
    /// If it is a wait, Redis has accepted or refused it, or has not answered in time.
    is_decided: bool,
    /// If it is a wait, a newer one has taken over.
    is_outdated: bool,
    /// Redis has said that there may be news, such as a message, beside changes of the list.
    has_news: bool,
    /// If it is a wait, the next request of its client has to ask Redis whether it may wait.
    must_ask: bool,
}

impl OpenHere {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            news: Notify::new(),
            end: Notify::new(),
            decided: Notify::new(),
            handing: Arc::default(),
            state: Mutex::default(),
        })
    }

    /// Makes every task that waits here look again.
    pub fn recheck(&self) {
        self.wake();
        self.end.notify_waiters();
    }

    /// If it is a wait, the next request of its client has to ask Redis whether it may wait.
    pub fn set_must_ask(&self) {
        self.state.lock().must_ask = true;
    }

    /// Whether the next request of the client that had this wait can go on with it, without
    /// asking Redis: nothing has happened to the peer but changes of the list.
    pub fn can_go_on(&self) -> bool {
        let state = self.state.lock();
        let is_ended = state.is_over || state.is_outdated || state.removed.is_some();
        !state.must_ask && !is_ended && !state.has_news
    }

    /// The number of this wait, and what its peer has heard, if it began before that with this
    /// number.
    pub fn heard_before_wait(&self, number: u64) -> Option<(u64, Option<u64>)> {
        let state = self.state.lock();
        let own = state.wait.filter(|own| *own < number)?;
        Some((own, state.heard))
    }

    /// It is the wait with this number, whose request came on this connection.
    pub fn set_wait(&self, number: u64, link: Option<u64>) {
        let mut state = self.state.lock();
        state.wait = Some(number);
        state.link = link;
    }

    /// Its peer uses this connection now: if that is another, Redis has to be told when the peer
    /// waits on this one again.
    pub fn uses_link(&self, link: Option<u64>) {
        let mut state = self.state.lock();
        state.must_ask |= state.link != link;
    }

    /// What its peer has heard may be of a list that Redis has lost.
    pub fn forget_heard(&self) {
        self.state.lock().heard = None;
    }

    /// Another wait has taken over: changes of the list do not wake this one any more.
    pub fn set_outdated(&self) {
        self.state.lock().set_outdated();
    }

    /// Whether it is a wait that began after that with this number, of which it is not known
    /// whether it may wait.
    pub fn is_undecided_after(&self, number: u64) -> bool {
        let state = self.state.lock();
        !state.is_decided && state.wait.is_some_and(|own| own > number)
    }

    /// Whether it is a wait that is outdated, or that began after that with this number.
    pub fn is_outdated_or_after(&self, number: u64) -> bool {
        let state = self.state.lock();
        state.is_outdated || state.wait.is_some_and(|own| own > number)
    }

    /// Waits until it is known whether this wait may wait.
    pub async fn decided(&self) {
        let decided = self.decided.notified();
        let is_decided = self.state.lock().is_decided;
        if !is_decided {
            decided.await;
        }
    }

    fn decide(&self) {
        self.state.lock().is_decided = true;
        self.decided.notify_waiters();
    }

    /// There may be a message for its peer.
    pub fn wake(&self) {
        self.state.lock().has_news = true;
        self.news.notify_one();
    }

    /// What Redis has said may be there is looked for now.
    pub fn looks(&self) {
        self.state.lock().has_news = false;
    }

    /// The version of the list that its peer has heard, if nothing but a later one is to be
    /// told.
    pub fn heard_before(&self, version: u64) -> Option<u64> {
        let state = self.state.lock();
        let heard = state.heard.filter(|heard| *heard < version);
        heard.filter(|_| !state.has_news && !state.is_over && state.removed.is_none())
    }

    /// Its peer was removed, or its door should remove the peer.
    pub fn set_removed(&self, reason: Reason) {
        self.state.lock().removed = Some(reason);
        self.recheck();
    }

    /// Whether Redis has to be asked, because it has said that there are news, or because its
    /// peer has not heard this version of the list.
    pub fn has_to_look(&self, version: u64) -> bool {
        let state = self.state.lock();
        state.has_news || state.heard.is_some_and(|heard| heard < version)
    }

    /// Ends it if it is a wait.
    pub fn end_wait(&self) {
        self.state.lock().is_over = true;
        self.news.notify_one();
    }

    /// The session with this number has taken the peer over.
    pub fn replaced_by(&self, session: u64) {
        {
            let mut state = self.state.lock();
            state.replaced = state.session.is_some_and(|before| before < session);
        }
        self.recheck();
    }

    /// Its peer has heard at most this version of the list.
    pub fn limit_heard(&self, version: u64) {
        let mut state = self.state.lock();
        state.heard = state.heard.map(|heard| heard.min(version));
    }

    /// Whether its peer has not yet heard of this version of the list.
    pub fn is_behind(&self, version: u64) -> bool {
        self.state.lock().heard.is_some_and(|heard| heard < version)
    }

    pub fn removed(&self) -> Option<Reason> {
        self.state.lock().removed
    }

    /// Waits until its peer is removed.
    pub async fn until_removed(&self) -> Reason {
        loop {
            let end = self.end.notified();
            if let Some(reason) = self.removed() {
                return reason;
            }
            end.await;
        }
    }

    pub fn is_over(&self) -> bool {
        self.state.lock().is_over
    }

    pub fn is_replaced(&self) -> bool {
        self.state.lock().replaced
    }

    pub fn set_heard(&self, heard: Option<u64>) {
        let mut state = self.state.lock();
        if !state.is_outdated {
            state.heard = heard;
        }
    }

    pub fn heard(&self) -> Option<u64> {
        self.state.lock().heard
    }

    pub fn set_acknowledged(&self, number: Option<u64>) {
        let mut state = self.state.lock();
        state.acknowledged = state.acknowledged.max(number);
    }

    pub fn acknowledged(&self) -> Option<u64> {
        self.state.lock().acknowledged
    }

    /// Its peer has what it was given, and Redis does not know yet. An error if the peer
    /// has already been given more.
    pub fn handing(&self) -> Result<OwnedMutexGuard<()>, TryLockError> {
        self.handing.clone().try_lock_owned()
    }

    /// Waits until Redis knows that its peer has what it was given.
    pub async fn handed_over(&self) {
        drop(self.handing.lock().await);
    }

    pub fn set_session(&self, session: u64) {
        self.state.lock().session = Some(session);
    }

    pub fn is_outdated(&self) -> bool {
        self.state.lock().is_outdated
    }

    /// Redis has given what this wait was to hear to another, if it is that with this number or
    /// began before. Returns what its peer has heard.
    pub fn taken_over(&self, number: u64) -> Option<u64> {
        let mut state = self.state.lock();
        state.wait.filter(|own| *own <= number)?;
        let heard = state.heard;
        state.set_outdated();
        drop(state);
        self.news.notify_one();
        heard
    }

    /// A wait that began after that with this number has taken over.
    pub fn set_outdated_up_to(&self, number: u64) {
        let mut state = self.state.lock();
        if state.wait.is_some_and(|own| own <= number) {
            state.set_outdated();
        }
    }
}

impl OpenState {
    fn set_outdated(&mut self) {
        self.heard = None;
        self.is_outdated = true;
    }
}

/// Something is open at this node until this is dropped, which then does this.
pub(super) struct Registered(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Registered {
    pub fn new(close: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(close)))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(close) = self.0.take() {
            close();
        }
    }
}

/// A wait of which it is not known whether it may wait, until this is dropped.
pub(super) struct Undecided(pub Arc<OpenHere>);

impl Drop for Undecided {
    fn drop(&mut self) {
        self.0.decide();
    }
}

/// What of a peer has ended here.
#[derive(Default)]
pub(super) struct Ended {
    /// Its waits, up to the one with this number.
    pub wait: Option<u64>,
    /// The version of the list that it has heard there.
    pub heard: Option<u64>,
    /// Connections that it used. Redis has at most one of them: the last, or one of the
    /// first if it has been away since.
    pub links: Vec<u64>,
}

/// What has ended here, and Redis has to be told of.
#[derive(Default)]
pub(super) struct EndedHere {
    pub peers: Mutex<HashMap<PeerId, Ended>>,
    /// A task is telling Redis.
    pub is_reporting: AtomicBool,
}

impl EndedHere {
    /// Whether Redis has to be told something of this peer.
    pub fn has(&self, id: PeerId) -> bool {
        self.peers.lock().contains_key(&id)
    }

    /// Whether Redis has to be told that a wait of this peer is over.
    pub fn has_wait(&self, id: PeerId) -> bool {
        let peers = self.peers.lock();
        peers.get(&id).is_some_and(|ended| ended.wait.is_some())
    }
}
