//! Who is in the list, in the form in which peers are told of it: the lines,
//! their versions, and the log of changes.
//!
//! The roster is pure state under one lock. It does not know who waits.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Dialect, PeerId};

/// How many changes the log keeps for peers of the bare dialect.
pub(super) const LOG_LENGTH: usize = 65_536;

/// The flag byte stands this far from the end of its line: `..,1\n`.
const FLAG_FROM_LINE_END: usize = 2;

/// Whether a peer's STATUS is 1, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connected {
    Yes,
    /// Connected until then, unless told otherwise before.
    Until(Instant),
    No,
}

/// One peer's place in the list.
struct Slot {
    id: PeerId,
    /// The version at which it joined. Slots are sorted by it.
    joined: u64,
    dialect: Dialect,
    /// Distance of the flag byte from the end of `lines`, in bytes. Counted
    /// from the end, it only changes when an older peer leaves.
    flag: usize,
    /// Length of the peer's line, in bytes.
    line: usize,
    connected: Connected,
    /// The soonest entry for this slot in `expiring`.
    queued: Option<Instant>,
}

/// An entry of the log: one peer joined or left.
struct Change {
    id: PeerId,
    name: Arc<str>,
    joined: bool,
}

/// The peer list as text, its versions, and what changed.
pub(super) struct Roster {
    /// `NAME,ID,STATUS\n` of each peer, newest first, in `lines[start..]`.
    /// Filled from its end, so that a join only prepends.
    lines: Vec<u8>,
    start: usize,
    /// Oldest first, that is in the reverse order of `lines`.
    slots: VecDeque<Slot>,
    /// The lines as they were last handed out, while they are still right.
    snapshot: Option<Bytes>,
    /// The same for the last update that announced a peer which is no longer
    /// connected, and the version that it was for: most have heard the same.
    announcement: Option<(u64, Bytes)>,
    /// Slots whose connection counts until a moment, soonest first.
    expiring: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Rises by one with each join and each leave; a change of STATUS alone
    /// is told to nobody and has no version.
    current: u64,
    /// The last changes; the newest has version `current`. Kept only while
    /// there is a peer of the bare dialect to read it.
    log: VecDeque<Change>,
    bare_peers: usize,
    last_id: u32,
}

impl Roster {
    pub fn new() -> Self {
        Self {
            lines: Vec::new(),
            start: 0,
            slots: VecDeque::new(),
            snapshot: None,
            announcement: None,
            expiring: BinaryHeap::new(),
            current: 0,
            log: VecDeque::new(),
            bare_peers: 0,
            last_id: 0,
        }
    }

    /// The version of the list as it is now.
    pub fn current(&self) -> u64 {
        self.current
    }

    /// The changes up to this version are as good as made: the next one is the
    /// one after it.
    pub fn continue_at(&mut self, version: u64) {
        self.current = version;
        self.forget_snapshot();
    }

    /// How many peers are signed in.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The ids of all peers, oldest first.
    pub fn ids(&self) -> Vec<PeerId> {
        self.slots.iter().map(|slot| slot.id).collect()
    }

    /// Gives out the next id. Ids rise to 2^31 - 1 and then begin anew, past
    /// those that are `taken`.
    pub fn next_id(&mut self, taken: impl Fn(PeerId) -> bool) -> PeerId {
        loop {
            self.last_id = self.last_id % PeerId::MAX.get() + 1;
            if let Some(id) = PeerId::new(self.last_id)
                && !taken(id)
            {
                return id;
            }
        }
    }

    /// Puts a peer first in the list, with STATUS 1, and returns the version
    /// that first names it. It is the peer's key in all other methods.
    pub fn join(
        &mut self,
        id: PeerId,
        name: &Arc<str>,
        dialect: Dialect,
        connected: Connected,
    ) -> u64 {
        let line = format!("{name},{id},1\n");
        self.prepend(line.as_bytes());
        let used = self.lines.len() - self.start;
        if dialect == Dialect::Bare {
            self.bare_peers += 1;
        }
        self.push_change(id, name, true);
        let joined = self.current;
        self.slots.push_back(Slot {
            id,
            joined,
            dialect,
            flag: used - line.len() + FLAG_FROM_LINE_END,
            line: line.len(),
            connected: Connected::Yes,
            queued: None,
        });
        self.set_connected(joined, connected);
        joined
    }

    /// Takes a peer off the list. False if it is not in it.
    pub fn leave(&mut self, joined: u64, name: &Arc<str>) -> bool {
        let Some(index) = self.index(joined) else {
            return false;
        };
        let Some(slot) = self.slots.remove(index) else {
            return false;
        };
        let line_start = self.lines.len() - slot.flag + FLAG_FROM_LINE_END - slot.line;
        self.lines
            .copy_within(self.start..line_start, self.start + slot.line);
        self.start += slot.line;
        for newer in self.slots.range_mut(index..) {
            newer.flag -= slot.line;
        }
        self.push_change(slot.id, name, false);
        if slot.dialect == Dialect::Bare {
            self.bare_peers -= 1;
        }
        if self.bare_peers == 0 {
            self.log = VecDeque::new();
        }
        true
    }

    /// Sets a peer's STATUS. Told to nobody.
    pub fn set_connected(&mut self, joined: u64, connected: Connected) {
        let Some(index) = self.index(joined) else {
            return;
        };
        let slot = &mut self.slots[index];
        slot.connected = connected;
        if let Connected::Until(end) = connected
            && slot.queued.is_none_or(|queued| end < queued)
        {
            slot.queued = Some(end);
            self.expiring.push(Reverse((end, joined)));
        }
        self.write_flag(index);
    }

    /// The list, newest peer first, with each STATUS as it is now.
    pub fn list(&mut self, now: Instant) -> Bytes {
        self.expire(now);
        let lines = &self.lines[self.start..];
        self.snapshot
            .get_or_insert_with(|| Bytes::copy_from_slice(lines))
            .clone()
    }

    /// As [`Roster::list`], but this peer's line comes first.
    pub fn list_from(&mut self, joined: u64, now: Instant) -> Bytes {
        let list = self.list(now);
        let Some(slot) = self.index(joined).map(|index| &self.slots[index]) else {
            return list;
        };
        let start = list.len() - slot.flag + FLAG_FROM_LINE_END - slot.line;
        let end = start + slot.line;
        [&list[start..end], &list[..start], &list[end..]]
            .concat()
            .into()
    }

    /// The list for a peer that last heard of version `heard`: as
    /// [`Roster::list`], but who joined since counts as connected, for this
    /// is the update that announces them.
    pub fn update(&mut self, heard: u64, now: Instant) -> Bytes {
        let list = self.list(now);
        if let Some((version, announcement)) = &self.announcement
            && *version == heard
        {
            return announcement.clone();
        }
        let mut patched: Option<Vec<u8>> = None;
        for slot in self.slots.iter().rev().take_while(|s| s.joined > heard) {
            let flag = list.len() - slot.flag;
            if list[flag] == b'0' {
                patched.get_or_insert_with(|| list.to_vec())[flag] = b'1';
            }
        }
        let Some(patched) = patched else {
            return list;
        };
        let announcement = Bytes::from(patched);
        self.announcement = Some((heard, announcement.clone()));
        announcement
    }

    /// The one line that tells a peer of the bare dialect of the change after
    /// version `heard`. None if the log no longer holds it.
    pub fn line_after(&self, heard: u64) -> Option<Bytes> {
        let back = usize::try_from(self.current.checked_sub(heard)?).ok()?;
        let change = self.log.get(self.log.len().checked_sub(back)?)?;
        let Change { id, name, joined } = change;
        Some(format!("{name},{id},{}\n", u8::from(*joined)).into())
    }

    /// Whether a peer of the bare dialect that last heard of version `heard`
    /// can still be told every change since.
    pub fn log_reaches(&self, heard: u64) -> bool {
        self.current - heard <= self.log.len() as u64
    }

    fn index(&self, joined: u64) -> Option<usize> {
        self.slots
            .binary_search_by_key(&joined, |slot| slot.joined)
            .ok()
    }

    fn prepend(&mut self, line: &[u8]) {
        if self.start < line.len() {
            let used = self.lines.len() - self.start;
            let mut larger = vec![0; ((used + line.len()) * 2).max(1024)];
            let start = larger.len() - used;
            larger[start..].copy_from_slice(&self.lines[self.start..]);
            self.lines = larger;
            self.start = start;
        }
        self.start -= line.len();
        self.lines[self.start..self.start + line.len()].copy_from_slice(line);
    }

    fn push_change(&mut self, id: PeerId, name: &Arc<str>, joined: bool) {
        self.current += 1;
        self.forget_snapshot();
        if self.bare_peers > 0 {
            if self.log.len() == LOG_LENGTH {
                self.log.pop_front();
            }
            self.log.push_back(Change {
                id,
                name: name.clone(),
                joined,
            });
        }
    }

    fn write_flag(&mut self, index: usize) {
        let slot = &self.slots[index];
        let at = self.lines.len() - slot.flag;
        let flag = if slot.connected == Connected::No {
            b'0'
        } else {
            b'1'
        };
        if self.lines[at] != flag {
            self.lines[at] = flag;
            self.forget_snapshot();
        }
    }

    fn forget_snapshot(&mut self) {
        self.snapshot = None;
        self.announcement = None;
    }

    /// Sets STATUS 0 where a connection counted until before now.
    fn expire(&mut self, now: Instant) {
        while let Some(&Reverse((end, joined))) = self.expiring.peek() {
            if end > now {
                break;
            }
            self.expiring.pop();
            let Some(index) = self.index(joined) else {
                continue;
            };
            let slot = &mut self.slots[index];
            slot.queued = None;
            match slot.connected {
                Connected::Until(later) if later > now => {
                    slot.queued = Some(later);
                    self.expiring.push(Reverse((later, joined)));
                }
                Connected::Until(_) => {
                    slot.connected = Connected::No;
                    self.write_flag(index);
                }
                Connected::Yes | Connected::No => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn text(bytes: &Bytes) -> String {
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn id(number: u32) -> PeerId {
        PeerId::new(number).unwrap()
    }

    /// What the roster is to look like, kept the simple way.
    #[derive(Clone, Debug)]
    struct ModelPeer {
        id: PeerId,
        name: Arc<str>,
        joined: u64,
        connected: Connected,
    }

    impl ModelPeer {
        fn line(&self, status: bool) -> String {
            format!("{},{},{}\n", self.name, self.id, u8::from(status))
        }

        fn status(&self, now: Instant) -> bool {
            match self.connected {
                Connected::Yes => true,
                Connected::Until(end) => end > now,
                Connected::No => false,
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join(String, bool),
        Leave(prop::sample::Index),
        Connected(prop::sample::Index, Option<u64>),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (".{1,40}", any::<bool>()).prop_map(|(name, bare)| Step::Join(name, bare)),
            2 => any::<prop::sample::Index>().prop_map(Step::Leave),
            3 => (any::<prop::sample::Index>(), prop::option::of(0u64..3000))
                .prop_map(|(peer, ms)| Step::Connected(peer, ms)),
            2 => (0u64..1500).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn the_flat_list_always_equals_one_that_is_written_anew(
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let mut now = Instant::now();
            let mut roster = Roster::new();
            let mut model: Vec<ModelPeer> = Vec::new();
            let mut first_bare: Option<u64> = None;
            let mut lines: Vec<String> = Vec::new();
            for step in steps {
                match step {
                    Step::Join(name, bare) => {
                        let name: Arc<str> = name.into();
                        let id = roster.next_id(|_| false);
                        let dialect = if bare { Dialect::Bare } else { Dialect::Listed };
                        let joined = roster.join(id, &name, dialect, Connected::Yes);
                        model.push(ModelPeer { id, name, joined, connected: Connected::Yes });
                        lines.push(model.last().unwrap().line(true));
                        if bare {
                            first_bare.get_or_insert(joined);
                        }
                    }
                    Step::Leave(peer) if !model.is_empty() => {
                        let peer = model.remove(peer.index(model.len()));
                        prop_assert!(roster.leave(peer.joined, &peer.name));
                        prop_assert!(!roster.leave(peer.joined, &peer.name));
                        lines.push(peer.line(false));
                        if roster.bare_peers == 0 {
                            first_bare = None;
                        }
                    }
                    Step::Connected(peer, ms) if !model.is_empty() => {
                        let peer = peer.index(model.len());
                        model[peer].connected = match ms {
                            None => Connected::Yes,
                            Some(0) => Connected::No,
                            Some(ms) => Connected::Until(now + Duration::from_millis(ms)),
                        };
                        roster.set_connected(model[peer].joined, model[peer].connected);
                    }
                    Step::Pass(ms) => now += Duration::from_millis(ms),
                    Step::Leave(_) | Step::Connected(..) => {}
                }
                let list: String = model.iter().rev().map(|p| p.line(p.status(now))).collect();
                prop_assert_eq!(text(&roster.list(now)), list);
                let heard = roster.current() / 2;
                let update: String = model
                    .iter()
                    .rev()
                    .map(|p| p.line(p.joined > heard || p.status(now)))
                    .collect();
                prop_assert_eq!(text(&roster.update(heard, now)), update);
                prop_assert_eq!(roster.len(), model.len());
                if let Some(joined) = first_bare {
                    for heard in joined..roster.current() {
                        let line = roster.line_after(heard).map(|line| text(&line));
                        prop_assert_eq!(line.as_ref(), lines.get(heard as usize));
                    }
                }
            }
        }
    }

    #[test]
    fn peers_that_heard_the_same_share_the_bytes_of_an_update() {
        let mut roster = Roster::new();
        let now = Instant::now();
        let name: Arc<str> = "n".into();
        let heard = roster.join(id(1), &name, Dialect::Listed, Connected::Yes);
        let gone = roster.join(id(2), &name, Dialect::Listed, Connected::No);
        let updates = [roster.update(heard, now), roster.update(heard, now)];
        assert_eq!(text(&updates[0]), "n,2,1\nn,1,1\n");
        assert_eq!(updates[0].as_ptr(), updates[1].as_ptr());
        roster.set_connected(heard, Connected::No);
        assert_eq!(text(&roster.update(heard, now)), "n,2,1\nn,1,0\n");
        assert_eq!(text(&roster.update(gone, now)), "n,2,0\nn,1,0\n");
    }

    #[test]
    fn ids_begin_anew_after_the_largest_and_pass_over_those_in_use() {
        let mut roster = Roster::new();
        roster.last_id = PeerId::MAX.get() - 1;
        assert_eq!(roster.next_id(|_| false), PeerId::MAX);
        let in_use = [id(1), id(2)];
        assert_eq!(roster.next_id(|id| in_use.contains(&id)), id(3));
    }

    #[test]
    fn the_log_forgets_what_is_older_than_its_length() {
        let mut roster = Roster::new();
        let name: Arc<str> = "n".into();
        let start = roster.join(id(1), &name, Dialect::Bare, Connected::Yes);
        for _ in 0..LOG_LENGTH / 2 {
            let joined = roster.join(id(2), &name, Dialect::Listed, Connected::Yes);
            roster.leave(joined, &name);
        }
        assert!(roster.log_reaches(start));
        assert_eq!(text(&roster.line_after(start).unwrap()), "n,2,1\n");
        roster.join(id(3), &name, Dialect::Listed, Connected::Yes);
        assert!(!roster.log_reaches(start));
        assert_eq!(roster.line_after(start), None);
        assert_eq!(text(&roster.line_after(start + 1).unwrap()), "n,2,0\n");
    }
}
