//! What a process has of one list in Redis: its copy, its events, and what is open here.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    events::read_event,
    here::{OpenHere, Over},
    link::Link,
    row::Row,
    verbs::{self, Known},
    view::{Cached, View},
};
use crate::peer_list::{
    HeartbeatOpts, PeerId, Refusal,
    events::EventLog,
    telling::{Half, Schedule},
};

/// One list in Redis, as this process has it.
pub(super) struct Node {
    pub opts: HeartbeatOpts,
    pub link: Arc<Link>,
    pub cached: Mutex<Cached>,
    pub events: Arc<EventLog>,
    pub open: Mutex<HashMap<PeerId, Vec<Arc<OpenHere>>>>,
    /// As in the list of one process.
    pub schedules: Mutex<[Schedule; 2]>,
    pub told: [AtomicU64; 2],
    pub ending: CancellationToken,
    /// The number of the last wait that began here.
    pub waits: AtomicU64,
    /// Peers of whom Redis has to be told that something here is over.
    pub over: Mutex<HashMap<PeerId, Over>>,
    /// Somebody tells it.
    pub is_telling_over: AtomicBool,
    /// Nodes with other settings use the list too, as far as the log has told.
    pub differ: AtomicBool,
    /// Only one asks for changes of the list at a time: its answer is for all.
    pub asking_for_changes: tokio::sync::Mutex<()>,
    /// How many such questions have begun, and the last of them that was answered.
    questions: AtomicU64,
    answered: AtomicU64,
    /// Only one asks for events at a time, or they would come twice.
    asking_for_events: tokio::sync::Mutex<()>,
    /// Somebody is about to ask for events.
    pub is_asking: AtomicBool,
    /// When the list in Redis was created, by its clock in ms. 0: not known yet.
    pub created: AtomicU64,
    tasks: Mutex<Vec<AbortHandle>>,
    pub collector: Mutex<Option<AbortHandle>>,
}

impl Node {
    pub fn new(opts: HeartbeatOpts, link: Link) -> Self {
        Self {
            opts,
            link: Arc::new(link),
            cached: Mutex::new(Cached::new()),
            events: EventLog::new(),
            open: Mutex::default(),
            schedules: Mutex::new(Half::BOTH.map(Schedule::new)),
            told: Default::default(),
            ending: CancellationToken::new(),
            waits: AtomicU64::new(0),
            over: Mutex::default(),
            is_telling_over: AtomicBool::new(false),
            differ: AtomicBool::new(false),
            asking_for_changes: tokio::sync::Mutex::new(()),
            questions: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            asking_for_events: tokio::sync::Mutex::new(()),
            is_asking: AtomicBool::new(false),
            created: AtomicU64::new(0),
            tasks: Mutex::default(),
            collector: Mutex::new(None),
        }
    }

    /// Redis has a list that was created at this time: if that is another than before,
    /// the one before is lost.
    pub fn list_created(self: &Arc<Self>, when: u64) {
        let before = self.created.swap(when, Ordering::Relaxed);
        if before != 0 && before != when {
            warn!("Redis has lost the peer list: all who were signed in have to sign in anew");
            self.catch_up();
        }
    }

    /// The highest id that was ever given, as far as is known here.
    pub fn highest_id(&self) -> u32 {
        self.cached.lock().highest_id()
    }

    // The list -------------------------------------------------------------

    /// Brings the list up to this version, and knows who is connected. Calls that
    /// come together have one question between them.
    pub async fn sync_to(&self, version: u64, patience: Option<Duration>) -> Result<(), Refusal> {
        let is_done = || {
            let cached = self.cached.lock();
            cached.known().is_some_and(|known| known >= version) && !cached.wants_statuses()
        };
        if is_done() {
            return Ok(());
        }
        let _alone = self.asking_for_changes.lock().await;
        if is_done() {
            return Ok(());
        }
        self.ask_for_changes(patience).await
    }

    /// Brings the list up to date. `patience`: how long this is tried.
    pub async fn sync(&self, patience: Option<Duration>) -> Result<(), Refusal> {
        let _alone = self.asking_for_changes.lock().await;
        self.ask_for_changes(patience).await
    }

    /// Brings the list up to what Redis has at this moment or later. Calls that come while
    /// a question is open have the next one between them.
    pub async fn sync_now(&self, patience: Option<Duration>) -> Result<(), Refusal> {
        let begun = self.questions.load(Ordering::Acquire);
        let _alone = self.asking_for_changes.lock().await;
        if self.answered.load(Ordering::Acquire) > begun {
            return Ok(());
        }
        self.ask_for_changes(patience).await
    }

    async fn ask_for_changes(&self, patience: Option<Duration>) -> Result<(), Refusal> {
        let question = self.questions.fetch_add(1, Ordering::AcqRel) + 1;
        let (known, statuses) = {
            let mut cached = self.cached.lock();
            (cached.known(), cached.asks_for_statuses())
        };
        let row = self
            .link
            .run(verbs::view(Known(known), statuses), patience)
            .await?;
        let view = View::read(row, known).ok_or(Refusal::Unavailable)?;
        let is_older = view.is_older();
        self.cached.lock().apply(view);
        if is_older {
            self.lost_changes();
        }
        self.answered.store(question, Ordering::Release);
        Ok(())
    }

    pub fn lost_changes(&self) {
        warn!(
            "Redis has lost its last changes (it was not persistent, or a replica took over): peers \
             may have to sign in anew, and messages may be lost"
        );
        self.forget_lost_changes();
    }

    /// Redis may have lost changes: what was told beyond the list's version is
    /// of another list.
    pub fn forget_lost_changes(&self) {
        let current = self.cached.lock().roster.current();
        for told in &self.told {
            told.fetch_min(current, Ordering::AcqRel);
        }
        for here in self.all_open(|_| true) {
            here.limit_heard(current);
        }
    }

    // Events ---------------------------------------------------------------

    /// Asks for the events that happened. `all`: those that are kept from
    /// before this node too. `patience`: how long this is tried.
    pub async fn sync_events(&self, all: bool, patience: Option<Duration>) -> Result<(), Refusal> {
        let _alone = self.asking_for_events.lock().await;
        // What happens from now on is asked for again.
        self.is_asking.store(false, Ordering::Release);
        let known = if all { 0 } else { self.events.newest() };
        let mut row = self.link.run(verbs::events(known), patience).await?;
        let newest: u64 = row.number().ok_or(Refusal::Unavailable)?;
        let lines = row.row().map(Row::texts).unwrap_or_default();
        let first = newest + 1 - lines.len() as u64;
        for (number, line) in (first..).zip(&lines) {
            self.events.go_on_at(number);
            let event = read_event(line);
            if event.is_none() {
                warn!(
                    line,
                    "an event in Redis is of a newer version: it is passed over"
                );
            }
            self.events.add(event);
        }
        self.events.go_on_at(newest + 1);
        Ok(())
    }

    pub fn keep(&self, tasks: impl IntoIterator<Item = AbortHandle>) {
        self.tasks.lock().extend(tasks);
    }

    pub fn stop_collector(&self) {
        if let Some(collector) = self.collector.lock().take() {
            collector.abort();
        }
    }

    pub fn stop_tasks(&self) {
        self.stop_collector();
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_tasks();
    }
}
