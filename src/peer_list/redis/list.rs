//! What a node keeps of the list of one room: a copy, and what is open here. It lives as
//! long as somebody uses it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::MutexGuard,
    time::{Instant, timeout},
};
use tracing::warn;

use super::{
    deliveries::DeliveriesHere,
    here::{EndedHere, OpenHere},
    moment::Moment,
    node::Node,
    row::Answer,
    shard::Shard,
    verbs::{self, Call, Known, TimedCall},
    view::Cached,
};
use crate::peer_list::{PeerId, Refusal, RoomName, telling::Updates};

/// The list of one room in Redis, or the root list, as this node sees it.
pub(super) struct List {
    pub node: Arc<Node>,
    /// Where it is.
    pub shard: Arc<Shard>,
    /// None: the root list.
    pub room: Option<RoomName>,
    /// The room and the number of this copy, as the script has them.
    words: String,
    pub cached: Mutex<Cached>,
    pub open: Mutex<HashMap<PeerId, Vec<Arc<OpenHere>>>>,
    pub updates: Updates,
    pub ended: EndedHere,
    pub deliveries: Arc<DeliveriesHere>,
    changes: ChangesAsked,
    /// Redis was asked something here, and may know of this copy.
    is_known: AtomicBool,
    /// When somebody last began to use it.
    used: Mutex<Instant>,
    /// Whether the node keeps it between two uses.
    pub is_kept: AtomicBool,
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

impl ChangesAsked {
    /// Waits until no question is open. Returns how much of the patience is left: the question
    /// before may be of somebody who waits for Redis however long that takes.
    async fn turn(
        &self,
        patience: Option<Duration>,
    ) -> Result<(MutexGuard<'_, ()>, Option<Duration>), Refusal> {
        let Some(patience) = patience else {
            return Ok((self.alone.lock().await, None));
        };
        let began = Instant::now();
        let turn = timeout(patience, self.alone.lock()).await;
        let turn = turn.map_err(|_| Refusal::Unavailable)?;
        Ok((turn, Some(patience.saturating_sub(began.elapsed()))))
    }
}

impl List {
    pub fn new(node: Arc<Node>, room: Option<RoomName>) -> Self {
        let words = match &room {
            None => String::new(),
            Some(room) => format!("{room} {}", node.next_copy()),
        };
        Self {
            shard: node.shard_of(room.as_ref()).clone(),
            cached: Mutex::new(Cached::new(&node.buffered)),
            node,
            room,
            words,
            open: Mutex::default(),
            updates: Updates::default(),
            ended: EndedHere::default(),
            deliveries: Arc::default(),
            changes: ChangesAsked::default(),
            is_known: AtomicBool::new(false),
            used: Mutex::new(Instant::now()),
            is_kept: AtomicBool::new(false),
        }
    }

    /// Somebody begins to use it.
    pub fn use_now(&self) {
        *self.used.lock() = Instant::now();
    }

    /// How long ago somebody last began to use it.
    pub fn unused_for(&self) -> Duration {
        self.used.lock().elapsed()
    }

    /// The room and the number of this copy, as the script has them.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// Carries out a verb in this room. `patience`: how long it is tried; without, until
    /// Redis is back.
    pub async fn run<A: Answer>(
        &self,
        call: Call<A>,
        patience: Option<Duration>,
    ) -> Result<A, Refusal> {
        self.is_known.store(true, Ordering::Relaxed);
        self.shard.link.run_in(&self.words, call, patience).await
    }

    /// Carries out a verb in this room, or refuses it, in time for a client that waits.
    pub async fn run_in_time<A: Answer>(
        &self,
        call: TimedCall<A>,
        patience: Duration,
    ) -> Result<A, Refusal> {
        self.is_known.store(true, Ordering::Relaxed);
        self.shard
            .link
            .run_in_time(&self.words, call, patience)
            .await
    }

    /// Carries out a verb in the background. `patience`: how long it is tried. Without, it
    /// waits until Redis is back, so that a caller has to bound how many there can be.
    pub fn later<A: Answer + 'static>(&self, call: Call<A>, patience: Option<Duration>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (link, words) = (self.shard.link.clone(), self.words.clone());
        runtime.spawn(async move {
            let _ = link.run_in(&words, call, patience).await;
        });
    }

    /// The highest id that was ever given here, as far as this node knows.
    pub fn highest_id(&self) -> u32 {
        match self.room {
            None => self.cached.lock().highest_id(),
            Some(_) => self.shard.highest_room_id.load(Ordering::Relaxed),
        }
    }

    /// This id was given.
    pub fn note_id(&self, id: PeerId) {
        self.cached.lock().note_id(id);
        if self.room.is_some() {
            self.shard.note_room_id(id.get());
        }
    }

    /// Brings the copy up to this moment, with the STATUS of all peers. Calls that come
    /// together share one question.
    pub async fn sync_to(&self, moment: Moment, patience: Option<Duration>) -> Result<(), Refusal> {
        let is_done = || self.cached.lock().is_at(moment);
        if is_done() {
            return Ok(());
        }
        let (_alone, patience) = self.changes.turn(patience).await?;
        if is_done() {
            return Ok(());
        }
        self.ask_for_changes(patience).await
    }

    /// Brings the copy up to date. `patience`: how long this is tried.
    pub async fn sync(&self, patience: Option<Duration>) -> Result<(), Refusal> {
        let (_alone, patience) = self.changes.turn(patience).await?;
        self.ask_for_changes(patience).await
    }

    /// Brings the copy up to what Redis has now or later. Calls that come while a
    /// question is open share the next one.
    pub async fn sync_now(&self, patience: Option<Duration>) -> Result<(), Refusal> {
        let begun = self.changes.begun.load(Ordering::Acquire);
        let (_alone, patience) = self.changes.turn(patience).await?;
        if self.changes.answered.load(Ordering::Acquire) > begun {
            return Ok(());
        }
        self.ask_for_changes(patience).await
    }

    async fn ask_for_changes(&self, patience: Option<Duration>) -> Result<(), Refusal> {
        let question = self.changes.begun.fetch_add(1, Ordering::AcqRel) + 1;
        // A list in parts is that of its first part: it has changed while the others came.
        while self.ask_for_view(patience).await? {}
        self.changes.answered.store(question, Ordering::Release);
        Ok(())
    }

    /// Returns whether the list came in parts.
    async fn ask_for_view(&self, patience: Option<Duration>) -> Result<bool, Refusal> {
        let (known, statuses) = {
            let mut cached = self.cached.lock();
            (cached.known(), cached.asks_for_statuses())
        };
        let asked = self.run(verbs::view(Known(known), statuses), patience);
        let mut view = asked.await?.for_one_at(known);
        let is_in_parts = view.next_listed.is_some();
        while let Some(next) = view.next_listed.take() {
            let part = self.run(verbs::more_listed(&next), patience).await?;
            view.add_listed(part);
        }
        while let Some(next) = view.next_lingering.take() {
            let part = self.run(verbs::more_lingering(&next), patience).await?;
            view.add_lingering(part);
        }
        // A room that has ended has no version.
        let is_older = view.is_older() && !(self.room.is_some() && view.is_of_nothing());
        let highest = {
            let mut cached = self.cached.lock();
            cached.apply(view);
            cached.highest_id()
        };
        if self.room.is_some() {
            self.shard.note_room_id(highest);
        }
        if is_older {
            self.lost_changes();
        }
        Ok(is_in_parts)
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
}

impl Drop for List {
    fn drop(&mut self) {
        if self.room.is_some() && self.is_known.load(Ordering::Relaxed) {
            self.later(verbs::forget_room(), None);
        }
    }
}
