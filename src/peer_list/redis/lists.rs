//! The lists of the rooms that are used here, and the root list.

use std::{
    sync::{Arc, OnceLock, Weak, atomic::Ordering},
    time::Duration,
};

use dashmap::{DashMap, Entry};
use parking_lot::Mutex;
use tracing::warn;

use super::{
    PATIENCE, answers::ClaimedHere, list::List, member::Member, node::Node, shard::Shard,
    tasks::Tasks, verbs,
};
use crate::peer_list::{Refusal, RoomName};

/// The list of a room is kept for this long after its last use: a client that was answered
/// is back by then.
const UNUSED_LIFE: Duration = Duration::from_secs(10);

/// All lists that this node uses.
pub(super) struct Lists {
    pub node: Arc<Node>,
    pub tasks: Tasks,
    root: OnceLock<Weak<List>>,
    rooms: DashMap<RoomName, Weak<List>>,
    /// The lists of rooms. They are kept for some time between two uses: a client that was
    /// answered is back soon.
    kept: Mutex<Vec<Arc<List>>>,
}

impl Lists {
    pub fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Self {
            node,
            tasks: Tasks::default(),
            root: OnceLock::new(),
            rooms: DashMap::new(),
            kept: Mutex::default(),
        })
    }

    /// Notes when the lists in a shard were created. If that has changed, the previous ones
    /// are lost.
    pub fn lists_created(self: &Arc<Self>, shard: &Arc<Shard>, when: u64) {
        let before = shard.created.swap(when, Ordering::Relaxed);
        if before != 0 && before != when {
            warn!(
                shard = shard.link.number,
                "Redis has lost the peer list: all peers have to sign in again"
            );
            self.catch_up(shard);
        }
    }

    /// The root list, which lives as long as the server.
    pub fn root_list(self: &Arc<Self>) -> Arc<List> {
        let list = Arc::new(List::new(self.node.clone(), None));
        let _ = self.root.set(Arc::downgrade(&list));
        list
    }

    /// The list of a room, for somebody who uses it now.
    pub fn room(self: &Arc<Self>, name: &RoomName) -> Arc<List> {
        let make = || Arc::new(List::new(self.node.clone(), Some(name.clone())));
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
            if Arc::strong_count(list) > 1 {
                list.use_now();
            }
            let is_unused = list.unused_for() > UNUSED_LIFE;
            list.is_kept.store(!is_unused, Ordering::Release);
            is_unused
        };
        self.kept.lock().extract_if(.., is_unused).for_each(drop);
        self.rooms.retain(|_, list| list.strong_count() > 0);
    }

    /// The node stops: no list is kept any more.
    pub fn drop_kept(&self) {
        self.kept.lock().clear();
    }

    /// The lists of a shard that are used here.
    pub fn used_lists_of(&self, shard: &Arc<Shard>) -> Vec<Arc<List>> {
        let mut lists = self.used_lists();
        lists.retain(|list| Arc::ptr_eq(&list.shard, shard));
        lists
    }

    pub fn end_waits(&self) {
        self.node.ending.cancel();
        for list in self.used_lists() {
            list.recheck();
            list.deliveries.report_all();
        }
    }

    /// Tells a shard what is not open here although the shard has it as open: it has lost
    /// that it was closed.
    pub async fn deny(self: &Arc<Self>, shard: &Shard) -> Result<(), Refusal> {
        let mut cursor = "0".to_owned();
        loop {
            let asked = shard.link.run(verbs::open_here(&cursor), Some(PATIENCE));
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
}
