//! What is open at this node: by peer, and by the names that Redis has for it.

use std::sync::{Arc, atomic::Ordering};

use super::{
    here::{OpenHere, Registered},
    list::List,
};
use crate::peer_list::PeerId;

impl List {
    /// A wait or socket of a peer is open here from now on.
    pub fn open(self: &Arc<Self>, id: PeerId) -> (Arc<OpenHere>, Registered) {
        let here = OpenHere::new();
        let mut open = self.open.lock();
        open.entry(id).or_default().push(here.clone());
        let (list, closed) = (self.clone(), here.clone());
        (here, Registered::new(move || list.close(id, &closed)))
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
        if self.ended.has(id) {
            self.start_reporting_ended();
        }
    }

    pub fn open_of(&self, id: PeerId) -> Vec<Arc<OpenHere>> {
        self.open.lock().get(&id).cloned().unwrap_or_default()
    }

    pub fn all_open(&self) -> Vec<Arc<OpenHere>> {
        self.open.lock().values().flatten().cloned().collect()
    }

    /// The client of an open wait or socket has acknowledged the messages up to this
    /// number.
    pub fn acknowledged(&self, id: PeerId, number: u64) {
        for here in self.open_of(id) {
            here.set_acknowledged(Some(number));
        }
    }

    /// Whether no other wait or socket of a peer was opened here after this one.
    pub fn is_newest(&self, id: PeerId, here: &Arc<OpenHere>) -> bool {
        let open = self.open.lock();
        let newest = open.get(&id).and_then(|all| all.last());
        newest.is_some_and(|newest| Arc::ptr_eq(newest, here))
    }

    /// The next request of a peer that waits has to ask Redis whether it may: the peer is about
    /// to leave or to come back.
    pub fn ask_next_time(&self, id: PeerId) {
        self.open_of(id).iter().for_each(|here| here.set_must_ask());
    }

    /// The last wait of a peer that began here before that with this number, and what the peer
    /// has heard there: the last one that Redis is known to have, if there is one.
    pub fn last_before(&self, id: PeerId, number: u64) -> Option<(u64, Option<u64>)> {
        let open = self.open_of(id);
        let before = open
            .iter()
            .filter_map(|here| here.heard_before_wait(number));
        before.max_by_key(|(number, heard)| (heard.is_some(), *number))
    }

    /// Waits until it is known of all later waits of a peer here whether they may wait. A wait
    /// that comes meanwhile is not waited for: a client that is refused again and again holds
    /// up nobody.
    pub async fn later_are_decided(&self, id: PeerId, number: u64) {
        for here in self.open_of(id) {
            if here.is_undecided_after(number) {
                here.decided().await;
            }
        }
    }

    /// The waits of a peer here up to that with this number are told nothing any more.
    pub fn set_outdated(&self, id: PeerId, number: u64) {
        for here in self.open_of(id) {
            here.set_outdated_up_to(number);
        }
    }

    /// Makes every open wait and socket look again: pushes may have been lost.
    pub fn recheck(&self) {
        for here in self.all_open() {
            here.set_must_ask();
            here.recheck();
        }
    }

    pub fn is_ending(&self) -> bool {
        self.node.ending.is_cancelled()
    }

    /// Waits until the waits here should end.
    pub async fn ended(&self) {
        self.node.ending.cancelled().await;
    }

    /// A name for a wait that begins here. It contains the node, and a number that rises.
    pub fn next_wait(&self) -> (u64, String) {
        let number = self.node.waits.fetch_add(1, Ordering::Relaxed) + 1;
        (number, self.wait_name(number))
    }

    pub fn wait_name(&self, number: u64) -> String {
        self.node.wait_name(number)
    }
}
