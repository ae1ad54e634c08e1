//! What a node has of its own: the waits and sockets that are open here, its
//! copy of the list, and what Redis tells it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ::redis::{PushInfo, PushKind, Value};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OwnedMutexGuard, TryLockError, mpsc::UnboundedReceiver},
    task::AbortHandle,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Answer, PATIENCE,
    connection::{LONGEST_RETRY_PAUSE, Redis},
    row::Row,
    split,
    verbs::{self, Call, Known, TimedCall},
    view::{Cached, View},
};
use crate::peer_list::{
    HeartbeatOpts, PeerId, Reason, Refusal,
    events::{EventLog, read_event},
    telling::{Half, Schedule, Telling},
};

/// Of so many peers is told at once that something is over.
const OVER_AT_ONCE: usize = 100;

/// The part of the time for which a verb is tried in which Redis may begin with it.
const DONE_BY: f64 = 0.8;

/// See [`Over::links`].
const LINKS_KEPT: usize = 4;

pub(super) struct Node {
    pub opts: HeartbeatOpts,
    pub redis: Redis,
    pub cached: Mutex<Cached>,
    pub events: Arc<EventLog>,
    open: Mutex<HashMap<PeerId, Vec<Arc<OpenHere>>>>,
    /// As in the list of one process.
    schedules: Mutex<[Schedule; 2]>,
    told: [AtomicU64; 2],
    ending: CancellationToken,
    /// The number of the last wait that began here.
    waits: AtomicU64,
    /// Peers of whom Redis has to be told that something here is over.
    over: Mutex<HashMap<PeerId, Over>>,
    /// Somebody tells it.
    is_telling_over: AtomicBool,
    /// Nodes with other settings use the list too, as far as the log has told.
    pub differ: AtomicBool,
    /// Only one asks for changes of the list at a time: its answer is for all.
    asking_for_changes: tokio::sync::Mutex<()>,
    /// How many such questions have begun, and the last of them that was answered.
    questions: AtomicU64,
    answered: AtomicU64,
    /// Only one asks for events at a time, or they would come twice.
    asking_for_events: tokio::sync::Mutex<()>,
    /// Somebody is about to ask for events.
    is_asking: AtomicBool,
    /// Redis' time in ms when this node began.
    clock: AtomicU64,
    /// And when the list there did. 0: not known yet.
    created: AtomicU64,
    start: Instant,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// What of a peer is over here.
#[derive(Default)]
struct Over {
    /// Its waits, up to the one with this number.
    wait: Option<u64>,
    /// Connections that it used. Redis has one at most: the last, or one of the
    /// first, if it is away since.
    links: Vec<u64>,
}

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
    fn new() -> Arc<Self> {
        Arc::new(Self {
            news: Notify::new(),
            end: Notify::new(),
            handing: Arc::default(),
            state: Mutex::default(),
        })
    }

    /// All that wait for something here look again.
    fn recheck(&self) {
        self.news.notify_one();
        self.end.notify_waiters();
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

impl Node {
    pub fn new(opts: HeartbeatOpts, redis: Redis) -> Self {
        Self {
            opts,
            redis,
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
            clock: AtomicU64::new(0),
            created: AtomicU64::new(0),
            start: Instant::now(),
            tasks: Mutex::default(),
        }
    }

    /// Carries a verb out.
    pub async fn run(&self, call: Call, patience: Option<Duration>) -> Result<Row, Refusal> {
        self.redis.run(&call, None, patience).await
    }

    /// The same for one that is not to be done later than that. Returns the answer's first
    /// word, and the rest.
    pub async fn run_in_time(&self, TimedCall(call): TimedCall, patience: Duration) -> Answer {
        let ask = || {
            // What Redis does at the last moment is still answered in time.
            let end = self.clock_in(patience.mul_f64(DONE_BY));
            self.redis.run(&call, Some(end), Some(patience))
        };
        let (kind, mut row) = split(ask().await)?;
        if kind == "late"
            && let Some(now) = row.number()
        {
            // The clock of Redis was set forward.
            self.set_clock(now);
            return split(ask().await);
        }
        Ok((kind, row))
    }

    /// Carries a verb out that nobody waits for.
    pub fn later(self: &Arc<Self>, call: Call) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let node = self.clone();
        runtime.spawn(async move {
            let _ = node.run(call, None).await;
        });
    }

    /// Redis' time is this, in ms.
    pub fn set_clock(&self, now: u64) {
        let since = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0);
        self.clock
            .store(now.saturating_sub(since), Ordering::Relaxed);
    }

    pub fn knows_clock(&self) -> bool {
        self.clock.load(Ordering::Relaxed) > 0
    }

    /// Redis has a list that was created at this time: if that is another than before,
    /// the one before is lost.
    pub fn list_created(self: &Arc<Self>, when: u64) {
        let before = self.created.swap(when, Ordering::Relaxed);
        if before != 0 && before != when {
            warn!("Redis has lost the peer list: all who were signed in have to sign in anew");
            catch_up(self);
        }
    }

    /// The highest id that was ever given, as far as is known here.
    pub fn highest_id(&self) -> u32 {
        self.cached.lock().highest_id()
    }

    /// What Redis' time will be by then, in ms.
    pub fn clock_in(&self, later: Duration) -> u64 {
        let since = u64::try_from((self.start.elapsed() + later).as_millis()).unwrap_or(0);
        self.clock.load(Ordering::Relaxed) + since
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

    fn lost_changes(&self) {
        warn!(
            "Redis has lost its last changes (it was not persistent, or a replica took over): peers \
             may have to sign in anew, and messages may be lost"
        );
        self.forget_lost_changes();
    }

    /// Redis may have lost changes: what was told beyond the list's version is
    /// of another list.
    fn forget_lost_changes(&self) {
        let current = self.cached.lock().roster.current();
        for told in &self.told {
            told.fetch_min(current, Ordering::AcqRel);
        }
        for here in self.all_open(|_| true) {
            let mut state = here.state.lock();
            state.heard = state.heard.map(|heard| heard.min(current));
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
        let mut row = self.run(verbs::events(known), patience).await?;
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

    // What is open here ----------------------------------------------------

    /// A wait or socket of a peer is open here from now on.
    pub fn open(&self, id: PeerId) -> Arc<OpenHere> {
        let here = OpenHere::new();
        let mut open = self.open.lock();
        open.entry(id).or_default().push(here.clone());
        here
    }

    pub fn close(self: &Arc<Self>, id: PeerId, here: &Arc<OpenHere>) {
        let mut open = self.open.lock();
        if let Some(all) = open.get_mut(&id) {
            all.retain(|other| !Arc::ptr_eq(other, here));
            if all.is_empty() {
                open.remove(&id);
            }
        }
        drop(open);
        if self.over.lock().contains_key(&id) {
            self.start_telling_over();
        }
    }

    /// Some of the peers of whom something here is over, with nothing else open.
    fn over_now(&self) -> Vec<PeerId> {
        let open = self.open.lock();
        let over = self.over.lock();
        let now = over.keys().filter(|id| !open.contains_key(id));
        now.take(OVER_AT_ONCE).copied().collect()
    }

    /// Takes them.
    fn take_over(&self) -> Vec<(PeerId, Over)> {
        let some = self.over_now();
        let mut over = self.over.lock();
        some.into_iter()
            .filter_map(|id| Some((id, over.remove(&id)?)))
            .collect()
    }

    fn open_of(&self, id: PeerId) -> Vec<Arc<OpenHere>> {
        self.open.lock().get(&id).cloned().unwrap_or_default()
    }

    fn all_open(&self, wanted: impl Fn(PeerId) -> bool) -> Vec<Arc<OpenHere>> {
        let open = self.open.lock();
        let wanted = open.iter().filter(|(id, _)| wanted(**id));
        wanted.flat_map(|(_, all)| all.iter().cloned()).collect()
    }

    /// The client of what is open here has acknowledged this.
    pub fn acknowledged(&self, id: PeerId, number: u64) {
        for here in self.open_of(id) {
            here.set_acknowledged(Some(number));
        }
    }

    /// Everything that is open here looks again.
    pub fn recheck(&self) {
        for here in self.all_open(|_| true) {
            here.recheck();
        }
    }

    pub fn end_waits(&self) {
        self.ending.cancel();
        self.recheck();
    }

    pub fn is_ending(&self) -> bool {
        self.ending.is_cancelled()
    }

    /// Waits until the waits here are to end.
    pub async fn ended(&self) {
        self.ending.cancelled().await;
    }

    /// Tells Redis what is not open here, though Redis says so: it has lost that
    /// it was closed.
    async fn deny(&self) -> Result<(), Refusal> {
        let mut cursor = "0".to_owned();
        loop {
            let row = self.run(verbs::open_here(&cursor), Some(PATIENCE));
            let mut row = row.await?;
            cursor = row.text().ok_or(Refusal::Unavailable)?;
            let claimed = row.row().map(Row::texts).unwrap_or_default();
            let (claimed, _) = claimed.as_chunks::<2>();
            for [id, name] in claimed {
                let Some(id) = PeerId::parse(id) else {
                    continue;
                };
                if self.open_of(id).is_empty() {
                    self.run(verbs::not_open(id, name), Some(PATIENCE)).await?;
                }
            }
            if cursor == "0" {
                return Ok(());
            }
        }
    }

    /// A name for a wait that begins here: it tells the node, and which waits
    /// of it were before.
    pub fn next_wait(&self) -> (u64, String) {
        let number = self.waits.fetch_add(1, Ordering::Relaxed) + 1;
        (number, self.wait_name(number))
    }

    fn wait_name(&self, number: u64) -> String {
        format!("{}.{number}", self.redis.node)
    }

    /// A wait of a peer is over, and Redis may not know. While it is away only
    /// the newest of each peer is kept: the end of one is the end of those
    /// before.
    pub fn wait_is_over(self: &Arc<Self>, id: PeerId, number: u64) {
        let mut over = self.over.lock();
        let wait = &mut over.entry(id).or_default().wait;
        *wait = (*wait).max(Some(number));
        drop(over);
        self.start_telling_over();
    }

    /// A connection that a peer used last is closed.
    pub fn link_is_over(self: &Arc<Self>, id: PeerId, link: u64) {
        let mut over = self.over.lock();
        let links = &mut over.entry(id).or_default().links;
        links.truncate(LINKS_KEPT - 1);
        links.push(link);
        drop(over);
        self.start_telling_over();
    }

    fn start_telling_over(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !self.is_telling_over.swap(true, Ordering::AcqRel) {
            let node = self.clone();
            runtime.spawn(async move { node.tell_over().await });
        }
    }

    /// Tells Redis what is over.
    async fn tell_over(&self) {
        loop {
            let some = self.take_over();
            if some.is_empty() {
                self.is_telling_over.store(false, Ordering::Release);
                // One may have come in between.
                if self.over_now().is_empty() || self.is_telling_over.swap(true, Ordering::AcqRel) {
                    return;
                }
                continue;
            }
            join_all(some.into_iter().map(async |(id, over)| {
                if let Some(number) = over.wait {
                    let name = self.wait_name(number);
                    let _ = self.run(verbs::end_wait(id, &name, false), None).await;
                }
                for link in over.links {
                    let _ = self.run(verbs::unlink(id, link), None).await;
                }
            }))
            .await;
        }
    }

    /// The version of the list that a peer is to have heard when it waits.
    pub fn told(&self, id: PeerId) -> u64 {
        self.told[Half::of(id) as usize].load(Ordering::Acquire)
    }

    // Tasks ----------------------------------------------------------------

    pub fn keep(&self, tasks: impl IntoIterator<Item = AbortHandle>) {
        self.tasks.lock().extend(tasks);
    }

    pub fn stop_tasks(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }

    fn changed(self: &Arc<Self>) {
        for half in Half::BOTH {
            self.tell(half, Schedule::changed);
        }
    }

    fn tell(self: &Arc<Self>, half: Half, when: fn(&mut Schedule, usize, Instant) -> Telling) {
        let peers = self.cached.lock().roster.len();
        let telling = when(
            &mut self.schedules.lock()[half as usize],
            peers,
            Instant::now(),
        );
        let node = Arc::downgrade(self);
        match telling {
            Telling::Scheduled => {}
            Telling::Now => {
                tokio::spawn(async move {
                    if let Some(node) = node.upgrade() {
                        node.tell_now(half).await;
                    }
                });
            }
            Telling::At(end) => {
                tokio::spawn(async move {
                    sleep_until(end).await;
                    if let Some(node) = node.upgrade() {
                        node.tell(half, |schedule, _, now| schedule.scheduled(now));
                    }
                });
            }
        }
    }

    async fn tell_now(self: &Arc<Self>, half: Half) {
        // It may be away for longer, and nobody else tells of this change.
        while self.sync(None).await.is_err() {
            sleep(LONGEST_RETRY_PAUSE).await;
        }
        let current = self.cached.lock().roster.current();
        let told = &self.told[half as usize];
        told.fetch_max(current, Ordering::AcqRel);
        for here in self.all_open(|id| Half::of(id) == half) {
            let is_behind = here.state.lock().heard.is_some_and(|heard| heard < current);
            if is_behind {
                here.news.notify_one();
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop_tasks();
    }
}

/// Listens to what Redis tells, as long as the node is used.
pub(super) fn start(node: &Arc<Node>, mut pushes: UnboundedReceiver<PushInfo>) {
    let node = Arc::downgrade(node);
    tokio::spawn(async move {
        while let Some(push) = pushes.recv().await {
            let Some(node) = node.upgrade() else { return };
            match push.kind {
                PushKind::Message => {
                    if let Some(Value::BulkString(text)) = push.data.get(1) {
                        hear(&node, &String::from_utf8_lossy(text));
                    }
                }
                // The connection was lost in between: whatever was told then
                // is to be found out.
                PushKind::Subscribe if is_last(&push) => catch_up(&node),
                _ => {}
            }
        }
    });
}

/// Whether both channels are subscribed to.
fn is_last(push: &PushInfo) -> bool {
    matches!(push.data.get(1), Some(Value::Int(count)) if *count >= 2)
}

fn catch_up(node: &Arc<Node>) {
    let weak = Arc::downgrade(node);
    tokio::spawn(async move {
        let found = async |node: Weak<Node>| {
            let node = node.upgrade()?;
            // It may have lost changes, and have got others for them.
            let version = node.cached.lock().forget();
            node.sync(Some(PATIENCE)).await.ok()?;
            let current = node.cached.lock().roster.current();
            // Without any change the whole list is lost, which is told of elsewhere.
            if (1..version).contains(&current) {
                node.lost_changes();
            } else {
                node.forget_lost_changes();
            }
            node.sync_events(false, Some(PATIENCE)).await.ok()?;
            node.deny().await.ok()?;
            node.recheck();
            node.changed();
            Some(())
        };
        while found(weak.clone()).await.is_none() && weak.strong_count() > 0 {
            sleep(LONGEST_RETRY_PAUSE).await;
        }
    });
}

fn hear(node: &Arc<Node>, text: &str) {
    let (kind, rest) = text.split_at_checked(1).unwrap_or_default();
    let mut words = rest.splitn(2, ' ');
    let mut word = || words.next().unwrap_or_default();
    match kind {
        "v" => node.changed(),
        "e" if !node.is_asking.swap(true, Ordering::AcqRel) => {
            let node = node.clone();
            tokio::spawn(async move {
                while node.sync_events(false, None).await.is_err() {
                    sleep(LONGEST_RETRY_PAUSE).await;
                }
            });
        }
        "w" => {
            for here in PeerId::parse(word())
                .map(|id| node.open_of(id))
                .unwrap_or_default()
            {
                here.news.notify_one();
            }
        }
        "b" => {
            for here in PeerId::parse(word())
                .map(|id| node.open_of(id))
                .unwrap_or_default()
            {
                here.state.lock().is_over = true;
                here.news.notify_one();
            }
        }
        "x" => {
            let all = PeerId::parse(word())
                .map(|id| node.open_of(id))
                .unwrap_or_default();
            let session: u64 = word().parse().unwrap_or(0);
            for here in all {
                let mut state = here.state.lock();
                state.replaced = state.session.is_some_and(|before| before < session);
                drop(state);
                here.recheck();
            }
        }
        "r" => {
            let all = PeerId::parse(word())
                .map(|id| node.open_of(id))
                .unwrap_or_default();
            let reason = Reason::read(word()).unwrap_or(Reason::TimedOut);
            for here in all {
                here.state.lock().removed = Some(reason);
                here.recheck();
            }
        }
        _ => {}
    }
}
