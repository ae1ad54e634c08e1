//! What a process keeps of one list in Redis: the copy, the events, and what is open
//! here.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    answers::EventLines,
    events::read_event,
    here::{EndedHere, OpenHere},
    link::ProcessLink,
    tasks::Tasks,
    verbs::{self, Known},
    view::Cached,
};
use crate::peer_list::{HeartbeatOpts, PeerId, Refusal, events::EventLog, telling::Updates};

/// One list in Redis, as this process sees it.
pub(super) struct Node {
    pub opts: HeartbeatOpts,
    pub link: Arc<ProcessLink>,
    pub cached: Mutex<Cached>,
    pub events: Arc<EventLog>,
    pub open: Mutex<HashMap<PeerId, Vec<Arc<OpenHere>>>>,
    pub updates: Updates,
    pub ending: CancellationToken,
    /// The number of the last wait that began here.
    pub waits: AtomicU64,
    pub ended: EndedHere,
    changes: ChangesAsked,
    pub events_asked: EventsAsked,
    /// When the list in Redis was created, by its clock in ms. 0: not known yet.
    pub created: AtomicU64,
    pub tasks: Tasks,
}

/// The questions for changes of the list, of which one at a time is open: its answer
/// serves all.
#[derive(Default)]
struct ChangesAsked {
    alone: tokio::sync::Mutex<()>,
    /// How many questions have begun.
    begun: AtomicU64,
    /// The last of them that was answered.
    answered: AtomicU64,
}

/// The questions for events, of which one at a time is open: otherwise events would come
/// twice.
#[derive(Default)]
pub(super) struct EventsAsked {
    alone: tokio::sync::Mutex<()>,
    /// A task is about to ask.
    pub is_next: AtomicBool,
}

impl Node {
    pub fn new(opts: HeartbeatOpts, link: ProcessLink) -> Self {
        Self {
            opts,
            link: Arc::new(link),
            cached: Mutex::new(Cached::new()),
            events: EventLog::new(),
            open: Mutex::default(),
            updates: Updates::default(),
            ending: CancellationToken::new(),
            waits: AtomicU64::new(0),
            ended: EndedHere::default(),
            changes: ChangesAsked::default(),
            events_asked: EventsAsked::default(),
            created: AtomicU64::new(0),
            tasks: Tasks::default(),
        }
    }

    /// Notes when the list in Redis was created. If that has changed, the previous list
    /// is lost.
    pub fn list_created(self: &Arc<Self>, when: u64) {
        let before = self.created.swap(when, Ordering::Relaxed);
        if before != 0 && before != when {
            warn!("Redis has lost the peer list: all peers have to sign in again");
            self.catch_up();
        }
    }

    /// The highest id that was ever given, as far as this node knows.
    pub fn highest_id(&self) -> u32 {
        self.cached.lock().highest_id()
    }

    // The list -------------------------------------------------------------

    /// Brings the copy up to this version, with the STATUS of all peers. Calls that come
    /// together share one question.
    pub async fn sync_to(&self, version: u64, patience: Option<Duration>) -> Result<(), Refusal> {
        let is_done = || {
            let cached = self.cached.lock();
            cached.known().is_some_and(|known| known >= version) && !cached.wants_statuses()
        };
        if is_done() {
            return Ok(());
        }
        let _alone = self.changes.alone.lock().await;
        if is_done() {
            return Ok(());
        }
        self.ask_for_changes(patience).await
    }

    /// Brings the copy up to date. `patience`: how long this is tried.
    pub async fn sync(&self, patience: Option<Duration>) -> Result<(), Refusal> {
        let _alone = self.changes.alone.lock().await;
        self.ask_for_changes(patience).await
    }

    /// Brings the copy up to what Redis has now or later. Calls that come while a
    /// question is open share the next one.
    pub async fn sync_now(&self, patience: Option<Duration>) -> Result<(), Refusal> {
        let begun = self.changes.begun.load(Ordering::Acquire);
        let _alone = self.changes.alone.lock().await;
        if self.changes.answered.load(Ordering::Acquire) > begun {
            return Ok(());
        }
        self.ask_for_changes(patience).await
    }

    async fn ask_for_changes(&self, patience: Option<Duration>) -> Result<(), Refusal> {
        let question = self.changes.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let (known, statuses) = {
            let mut cached = self.cached.lock();
            (cached.known(), cached.asks_for_statuses())
        };
        let asked = self.link.run(verbs::view(Known(known), statuses), patience);
        let view = asked.await?.for_one_at(known);
        let is_older = view.is_older();
        self.cached.lock().apply(view);
        if is_older {
            self.lost_changes();
        }
        self.changes.answered.store(question, Ordering::Release);
        Ok(())
    }

    pub fn lost_changes(&self) {
        warn!(
            "Redis has lost its last changes (it was not persistent, or a replica took over): peers \
             may have to sign in again, and messages may be lost"
        );
        self.forget_lost_changes();
    }

    /// Redis may have lost changes: versions above the current one are of the lost list.
    pub fn forget_lost_changes(&self) {
        let current = self.cached.lock().roster.current();
        self.updates.told.fetch_min(current, Ordering::AcqRel);
        for here in self.all_open() {
            here.limit_heard(current);
        }
    }

    // Events ---------------------------------------------------------------

    /// Asks for the events that have happened. `all`: also for those that were kept
    /// before this node started. `patience`: how long this is tried.
    pub async fn sync_events(&self, all: bool, patience: Option<Duration>) -> Result<(), Refusal> {
        let _alone = self.events_asked.alone.lock().await;
        // Events from now on need another question.
        self.events_asked.is_next.store(false, Ordering::Release);
        let known = if all { 0 } else { self.events.newest() };
        let EventLines { newest, lines } = self.link.run(verbs::events(known), patience).await?;
        let first = newest + 1 - lines.len() as u64;
        for (number, line) in (first..).zip(&lines) {
            self.events.go_on_at(number);
            let event = read_event(line);
            if event.is_none() {
                warn!(
                    line,
                    "skipped an event in Redis, which a newer version has written"
                );
            }
            self.events.add(event);
        }
        self.events.go_on_at(newest + 1);
        Ok(())
    }
}
