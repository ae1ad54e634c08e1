//! What is open at this node: by peer, and by the names that Redis has for it.

use std::sync::{Arc, atomic::Ordering};

use super::{PATIENCE, answers::ClaimedHere, here::OpenHere, node::Node, verbs};
use crate::peer_list::{PeerId, Refusal};

impl Node {
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

    /// Makes every open wait and socket look again.
    pub fn recheck(&self) {
        for here in self.all_open() {
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

    /// Waits until the waits here should end.
    pub async fn ended(&self) {
        self.ending.cancelled().await;
    }

    /// Tells Redis what is not open here although Redis has it as open: Redis has lost
    /// that it was closed.
    pub async fn deny(&self) -> Result<(), Refusal> {
        let mut cursor = "0".to_owned();
        loop {
            let asked = self.link.run(verbs::open_here(&cursor), Some(PATIENCE));
            let ClaimedHere {
                cursor: next,
                claimed,
            } = asked.await?;
            cursor = next;
            for (id, name) in claimed {
                if self.open_of(id).is_empty() {
                    self.link
                        .run(verbs::not_open(id, &name), Some(PATIENCE))
                        .await?;
                }
            }
            if cursor == "0" {
                return Ok(());
            }
        }
    }

    /// A name for a wait that begins here. It contains the node, and a number that rises.
    pub fn next_wait(&self) -> (u64, String) {
        let number = self.waits.fetch_add(1, Ordering::Relaxed) + 1;
        (number, self.wait_name(number))
    }

    pub fn wait_name(&self, number: u64) -> String {
        format!("{}.{number}", self.link.node)
    }
}
