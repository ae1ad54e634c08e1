//! What a process is among the others: a node, with its link to Redis, the events, and
//! the lists of the rooms that are used here.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::{DashMap, Entry};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    PATIENCE,
    answers::{ClaimedHere, EventLines},
    events::read_event,
    link::ProcessLink,
    list::List,
    member::Member,
    tasks::Tasks,
    verbs,
};
use crate::peer_list::{HeartbeatOpts, Refusal, RoomName, events::EventLog};

/// The list of a room is kept for this long after its last use: a client that was answered
/// is back by then.
const UNUSED_LIFE: Duration = Duration::from_secs(10);

/// A node: this process, as far as it shares lists with others.
pub(super) struct Node {
    pub opts: HeartbeatOpts,
    pub link: Arc<ProcessLink>,
    pub events: Arc<EventLog>,
    pub events_asked: EventsAsked,
    pub ending: CancellationToken,
    /// The number of the last wait that began here.
    pub waits: AtomicU64,
    /// When the lists in Redis were created, by its clock in ms. 0: not known yet.
    pub created: AtomicU64,
    pub tasks: Tasks,
    /// The highest id that was given in a room, as far as this node knows.
    pub highest_room_id: AtomicU32,
    root: OnceLock<Weak<List>>,
    rooms: DashMap<RoomName, Weak<List>>,
    /// The number of the last copy of a room's list.
    copies: AtomicU64,
    /// The lists of rooms. They are kept for some time between two uses: a client that was
    /// answered is back soon.
    kept: Mutex<Vec<Arc<List>>>,
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
    pub fn new(opts: HeartbeatOpts, link: ProcessLink) -> Arc<Self> {
        Arc::new(Self {
            opts,
            link: Arc::new(link),
            events: EventLog::new(),
            events_asked: EventsAsked::default(),
            ending: CancellationToken::new(),
            waits: AtomicU64::new(0),
            created: AtomicU64::new(0),
            tasks: Tasks::default(),
            highest_room_id: AtomicU32::new(0),
            root: OnceLock::new(),
            rooms: DashMap::new(),
            copies: AtomicU64::new(0),
            kept: Mutex::default(),
        })
    }

    /// Notes when the lists in Redis were created. If that has changed, the previous ones
    /// are lost.
    pub fn lists_created(self: &Arc<Self>, when: u64) {
        let before = self.created.swap(when, Ordering::Relaxed);
        if before != 0 && before != when {
            warn!("Redis has lost the peer list: all peers have to sign in again");
            self.catch_up();
        }
    }

    // Rooms ----------------------------------------------------------------

    /// The root list, which lives as long as the server.
    pub fn root_list(self: &Arc<Self>) -> Arc<List> {
        let list = Arc::new(List::new(self.clone(), None));
        let _ = self.root.set(Arc::downgrade(&list));
        list
    }

    /// The list of a room, for somebody who uses it now.
    pub fn room(self: &Arc<Self>, name: &RoomName) -> Arc<List> {
        let make = || Arc::new(List::new(self.clone(), Some(name.clone())));
        let list = match self.rooms.entry(name.clone()) {
            Entry::Occupied(mut known) => known.get().upgrade().unwrap_or_else(|| {
                let list = make();
                known.insert(Arc::downgrade(&list));
                list
            }),
            Entry::Vacant(place) => {
                let list = make();
                place.insert(Arc::downgrade(&list));
                list
            }
        };
        list.use_now();
        // It may not be new, and have been dropped from those that are kept just now.
        if !list.is_kept.swap(true, Ordering::AcqRel) {
            self.kept.lock().push(list.clone());
        }
        list
    }

    /// The list of a room that is used here, or the root list.
    pub fn used_list(&self, room: Option<&RoomName>) -> Option<Arc<List>> {
        match room {
            None => self.root.get()?.upgrade(),
            Some(name) => self.rooms.get(name)?.upgrade(),
        }
    }

    /// All lists that are used here.
    pub fn used_lists(&self) -> Vec<Arc<List>> {
        let root = self.root.get().and_then(Weak::upgrade);
        let rooms = self.rooms.iter().filter_map(|list| list.upgrade());
        root.into_iter().chain(rooms).collect()
    }

    /// Called now and then: drops the lists of rooms that nobody has used for a while.
    pub fn drop_unused(&self) {
        let is_unused = |list: &mut Arc<List>| {
            let is_unused = Arc::strong_count(list) == 1 && list.unused_for() > UNUSED_LIFE;
            list.is_kept.store(!is_unused, Ordering::Release);
            is_unused
        };
        // Dropped when nothing is locked: a list takes itself off.
        let unused: Vec<Arc<List>> = self.kept.lock().extract_if(.., is_unused).collect();
        drop(unused);
    }

    /// The node stops: no list is kept any more.
    pub fn drop_kept(&self) {
        let kept = std::mem::take(&mut *self.kept.lock());
        drop(kept);
    }

    /// The list of a room was dropped.
    pub fn forget_room(&self, name: &RoomName) {
        self.rooms
            .remove_if(name, |_, list| list.strong_count() == 0);
    }

    /// This id was given in a room.
    pub fn note_room_id(&self, id: u32) {
        self.highest_room_id.fetch_max(id, Ordering::Relaxed);
    }

    /// The number of another copy of a room's list.
    pub fn next_copy(&self) -> u64 {
        self.copies.fetch_add(1, Ordering::Relaxed) + 1
    }

    // What is open here ----------------------------------------------------

    pub fn end_waits(&self) {
        self.ending.cancel();
        self.used_lists().iter().for_each(|list| list.recheck());
    }

    /// Tells Redis what is not open here although Redis has it as open: Redis has lost
    /// that it was closed.
    pub async fn deny(self: &Arc<Self>) -> Result<(), Refusal> {
        let mut cursor = "0".to_owned();
        loop {
            let asked = self.link.run(verbs::open_here(&cursor), Some(PATIENCE));
            let ClaimedHere {
                cursor: next,
                claimed,
            } = asked.await?;
            cursor = next;
            for (Member { room, id }, name) in claimed {
                let list = match (&room, self.used_list(room.as_ref())) {
                    (_, Some(list)) => list,
                    (Some(name), None) => self.room(name),
                    (None, None) => return Ok(()),
                };
                if list.open_of(id).is_empty() {
                    list.run(verbs::not_open(id, &name), Some(PATIENCE)).await?;
                }
            }
            if cursor == "0" {
                return Ok(());
            }
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
