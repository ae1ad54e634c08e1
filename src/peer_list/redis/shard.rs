//! A shard: the part of Redis that holds the lists of some rooms, under one hash tag.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use tracing::warn;

use super::{
    INFOS_AT_ONCE, PATIENCE, READY_PATIENCE,
    answers::{Counted, EventLines, SomeRooms},
    events::read_event,
    link::ShardLink,
    part::Part,
    verbs,
};
use crate::peer_list::{
    ListCounts, LogEvents, PeerInfo, Refusal, RoomInfo, ShardState, Tally, event_log::EventLog,
};

/// How long a subscriber waits until events are listened to.
const LISTEN_PATIENCE: Duration = Duration::from_secs(1);

/// A shard, as this node sees it.
pub(super) struct Shard {
    pub link: Arc<ShardLink>,
    /// What this node counts, of all shards.
    pub counts: Arc<ListCounts>,
    pub events: Arc<EventLog>,
    pub events_asked: EventsAsked,
    /// When its lists in Redis were created, by its clock in ms. 0: not known yet.
    pub created: AtomicU64,
    /// The highest id that was given in one of its rooms, as far as this node knows.
    pub highest_room_id: AtomicU32,
    /// How many peers it has, as it last told this node.
    pub peers: AtomicU64,
}

/// The questions for events, of which one at a time is open: otherwise events would come
/// twice.
#[derive(Default)]
pub(super) struct EventsAsked {
    alone: tokio::sync::Mutex<()>,
    /// A task is about to ask.
    pub is_next: AtomicBool,
    /// Redis tells this node when there are events, or may do so.
    is_listening: AtomicBool,
}

impl Shard {
    pub fn new(link: ShardLink, counts: Arc<ListCounts>) -> Arc<Self> {
        Arc::new(Self {
            link: Arc::new(link),
            counts,
            events: EventLog::new(),
            events_asked: EventsAsked::default(),
            created: AtomicU64::new(0),
            highest_room_id: AtomicU32::new(0),
            peers: AtomicU64::new(0),
        })
    }

    /// This id was given in a room.
    pub fn note_room_id(&self, id: u32) {
        self.highest_room_id.fetch_max(id, Ordering::Relaxed);
    }

    /// Subscribes to its events after the one with this number, or (None) from now on. While
    /// nobody does, Redis does not tell this node of any. If Redis is away, the subscriber
    /// hears of a gap when it is back.
    pub async fn subscribe(&self, after: Option<u64>) -> LogEvents {
        // Not longer, because the subscriber waits. What is cut short is repeated soon.
        let listening = timeout(LISTEN_PATIENCE, async {
            let alone = self.events_asked.alone.lock().await;
            let _ = self.listen(Some(LISTEN_PATIENCE)).await;
            alone
        });
        // Held until it is known that there is a subscriber.
        let _alone = listening.await;
        self.events.subscribe(after)
    }

    /// Asks for the events that were kept before this node began to listen, if it does not.
    async fn listen(&self, patience: Option<Duration>) -> Result<(), Refusal> {
        if self.events_asked.is_listening.load(Ordering::Acquire) {
            return Ok(());
        }
        self.ask_for_events(0, patience).await
    }

    /// Called now and then: begins to listen for a subscriber that came while Redis was away,
    /// and ends that when nobody subscribes any more.
    pub async fn listen_if_needed(&self) -> Result<(), Refusal> {
        let asked = &self.events_asked;
        let _alone = asked.alone.lock().await;
        if self.events.has_subscribers() {
            return self.listen(Some(PATIENCE)).await;
        }
        if asked.is_listening.load(Ordering::Acquire) {
            self.hear_no_events(Some(PATIENCE)).await;
        }
        Ok(())
    }

    /// Redis tells this node of no more events.
    async fn hear_no_events(&self, patience: Option<Duration>) {
        let asked = &self.events_asked;
        // A subscriber that comes from now on asks for them again. If Redis does not carry this
        // out, it is asked again when it tells of an event.
        asked.is_listening.store(false, Ordering::Release);
        let _ = self.link.run(verbs::hear_no_events(), patience).await;
    }

    /// This node stops: subscribers hear of the last events, and Redis need not tell of more.
    pub async fn stop_events(&self) {
        let _ = self.sync_events(None).await;
        let _alone = self.events_asked.alone.lock().await;
        if self.events_asked.is_listening.load(Ordering::Acquire) {
            self.hear_no_events(None).await;
        }
    }

    /// Redis has told that there are events.
    pub async fn hear_of_events(&self) -> Result<(), Refusal> {
        self.sync_events(None).await?;
        let _alone = self.events_asked.alone.lock().await;
        if !self.events_asked.is_listening.load(Ordering::Acquire) {
            self.hear_no_events(Some(PATIENCE)).await;
        }
        Ok(())
    }

    /// Asks for the events that have happened, if this node listens. `patience`: how long this
    /// is tried.
    pub async fn sync_events(&self, patience: Option<Duration>) -> Result<(), Refusal> {
        let _alone = self.events_asked.alone.lock().await;
        // Events from now on need another question.
        self.events_asked.is_next.store(false, Ordering::Release);
        if !self.events_asked.is_listening.load(Ordering::Acquire) {
            return Ok(());
        }
        self.ask_for_events(self.events.newest(), patience).await
    }

    /// `known`: the number of the last event that is known here. 0: the last ones are asked for.
    async fn ask_for_events(
        &self,
        mut known: u64,
        patience: Option<Duration>,
    ) -> Result<(), Refusal> {
        loop {
            let asked = self.link.run(verbs::events(known), patience);
            let EventLines {
                last,
                lines,
                has_more,
            } = asked.await?;
            self.events_asked
                .is_listening
                .store(true, Ordering::Release);
            let first = last + 1 - lines.len() as u64;
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
            self.events.go_on_at(last + 1);
            if !has_more {
                return Ok(());
            }
            known = last;
        }
    }

    /// Its rooms, in any order. One may be named twice while rooms come and go.
    pub async fn rooms(&self) -> Result<Vec<RoomInfo>, Refusal> {
        let mut all = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let asked = self.link.run(verbs::rooms(&cursor), Some(PATIENCE));
            let SomeRooms {
                cursor: next,
                rooms,
            } = asked.await?;
            all.extend(rooms);
            cursor = next;
            if cursor == "0" {
                return Ok(all);
            }
        }
    }

    /// Whether it answers now, and can be written to.
    pub async fn ready(&self) -> Result<(), Refusal> {
        let asked = self.link.run(verbs::ready(), Some(READY_PATIENCE));
        asked.await.map(drop)
    }

    /// Its peers, and its rooms.
    pub async fn tally(&self) -> Result<Tally, Refusal> {
        let Counted(tally) = self.link.run(verbs::tally(), Some(READY_PATIENCE)).await?;
        Ok(tally)
    }

    /// Its state, as this node sees it.
    pub async fn state(&self) -> ShardState {
        ShardState {
            is_reachable: self.ready().await.is_ok(),
            calls: self.link.calls.get(),
            failures: self.link.failures.get(),
            time: Duration::from_micros(self.link.time.get()),
        }
    }

    /// The peers in the list of a room, as the script names it, by rising id.
    pub async fn infos_in(&self, room: &str) -> Result<Vec<PeerInfo>, Refusal> {
        let mut infos: Vec<PeerInfo> = Vec::new();
        let mut cursor = Some("0".to_owned());
        while let Some(from) = cursor {
            let listed = self.link.run_in(room, verbs::listed(&from), Some(PATIENCE));
            let Part { next, texts: ids } = listed.await?;
            for ids in ids.chunks(INFOS_AT_ONCE) {
                let asked = verbs::peer_infos(ids);
                infos.extend(self.link.run_in(room, asked, Some(PATIENCE)).await?);
            }
            cursor = next;
        }
        infos.sort_unstable_by_key(|info| info.id);
        // While the list changes, an id may come twice.
        infos.dedup_by_key(|info| info.id);
        Ok(infos)
    }
}
