//! What a process is among the others: a node, with a link to each shard.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::shard::Shard;
use crate::peer_list::{Buffered, HeartbeatOpts, ListCounts, RoomName};

/// A node: this process, as far as it shares lists with others.
pub(super) struct Node {
    pub opts: HeartbeatOpts,
    /// What clients make this process hold. What waits for peers is in Redis.
    pub buffered: Arc<Buffered>,
    pub counts: Arc<ListCounts>,
    /// Its name among the nodes.
    pub name: String,
    pub shards: Box<[Arc<Shard>]>,
    pub ending: CancellationToken,
    /// The number of the last wait that began here.
    pub waits: AtomicU64,
    /// The number of the last copy of a room's list.
    copies: AtomicU64,
}

impl Node {
    /// A node of these shards, of which there is at least one.
    pub fn new(
        opts: HeartbeatOpts,
        name: String,
        counts: Arc<ListCounts>,
        shards: Vec<Arc<Shard>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            counts,
            buffered: Buffered::new(opts.max_buffered_bytes),
            opts,
            name,
            shards: shards.into(),
            ending: CancellationToken::new(),
            waits: AtomicU64::new(0),
            copies: AtomicU64::new(0),
        })
    }

    /// The shard that holds the list of a room, or the root list.
    pub fn shard_of(&self, room: Option<&RoomName>) -> &Arc<Shard> {
        let number = number_of_shard(room, self.shards.len());
        &self.shards[number]
    }

    /// The name in Redis of the wait with this number here.
    pub fn wait_name(&self, number: u64) -> String {
        format!("{}.{number}", self.name)
    }

    /// The number of a wait, if it is one of this node.
    pub fn number_of(&self, wait: &str) -> Option<u64> {
        let (name, number) = wait.split_once('.')?;
        number.parse().ok().filter(|_| name == self.name)
    }

    /// The number of another copy of a room's list.
    pub fn next_copy(&self) -> u64 {
        self.copies.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many peers the other shards have, as each last told this node.
    pub fn peers_beside(&self, shard: &Arc<Shard>) -> u64 {
        let others = self
            .shards
            .iter()
            .filter(|other| !Arc::ptr_eq(other, shard));
        others
            .map(|other| other.peers.load(Ordering::Relaxed))
            .sum()
    }
}

/// The root list is in the first shard. A room is where the SHA-256 of its name leads: its
/// first eight bytes as a number, modulo the number of shards. Nodes of all versions have to
/// agree on this.
fn number_of_shard(room: Option<&RoomName>, shards: usize) -> usize {
    let Some(room) = room else { return 0 };
    let digest = Sha256::digest(room.as_str());
    let first = digest
        .iter()
        .take(8)
        .fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    usize::try_from(first % shards as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_finds_a_room_in_the_same_shard() {
        let found = |room: &str| number_of_shard(Some(&room.parse().unwrap()), 16);
        let shards = ["lobby", "a", "b", "A", "room-1"].map(found);
        // As any other program for SHA-256 has it.
        assert_eq!(shards, [2, 10, 10, 9, 15]);
        assert_eq!(number_of_shard(None, 16), 0);
    }

    #[test]
    fn rooms_are_spread_evenly() {
        let mut rooms = [0; 8];
        for number in 0..8000 {
            let room: RoomName = format!("room-{number}").parse().unwrap();
            rooms[number_of_shard(Some(&room), rooms.len())] += 1;
        }
        assert!(
            rooms.iter().all(|count| (900..1100).contains(count)),
            "{rooms:?}"
        );
    }
}
