//! What a process is among the others: a node, with its link to Redis, and the events.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{answers::EventLines, events::read_event, link::ProcessLink, verbs};
use crate::peer_list::{HeartbeatOpts, Refusal, event_log::EventLog};

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
    /// The highest id that was given in a room, as far as this node knows.
    pub highest_room_id: AtomicU32,
    /// The number of the last copy of a room's list.
    copies: AtomicU64,
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
            highest_room_id: AtomicU32::new(0),
            copies: AtomicU64::new(0),
        })
    }

    /// This id was given in a room.
    pub fn note_room_id(&self, id: u32) {
        self.highest_room_id.fetch_max(id, Ordering::Relaxed);
    }

    /// The number of another copy of a room's list.
    pub fn next_copy(&self) -> u64 {
        self.copies.fetch_add(1, Ordering::Relaxed) + 1
    }

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
