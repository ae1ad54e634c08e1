//! The peers in the list, in the form in which other peers are told of them: the lines,
//! their versions, and the log of changes.
//!
//! The roster is pure state under one lock. It does not know which peers wait.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    Buffered, Dialect, Lines, PeerId,
    page::{Connected, Page},
};

/// How many changes the log keeps for peers of the bare dialect.
pub(super) const LOG_LENGTH: usize = 65_536;

/// An entry of the log: one peer joined or left.
struct Change {
    id: PeerId,
    name: Arc<str>,
    joined: bool,
}

/// The peer list as text, its versions, and what changed.
pub(super) struct Roster {
    /// Oldest first, that is in the reverse order of the lines. None is empty.
    pages: VecDeque<Page>,
    peers: usize,
    /// The lines as they were last handed out, until they change.
    snapshot: Option<Lines>,
    /// The same for the last update that announced a peer which is no longer
    /// connected, and the version that it was for: most have heard the same.
    announcement: Option<(u64, Lines)>,
    /// Slots whose connection counts until a moment, soonest first.
    expiring: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Rises by one with each join and each leave; a change of STATUS alone
    /// is told to nobody and has no version.
    current: u64,
    /// The last changes; the newest has version `current`. Kept only while
    /// there is a peer of the bare dialect to read it.
    log: VecDeque<Change>,
    bare_peers: usize,
    /// Counts the lines that were handed out.
    buffered: Arc<Buffered>,
}

impl Roster {
    pub fn new(buffered: &Arc<Buffered>) -> Self {
        Self {
            buffered: buffered.clone(),
            pages: VecDeque::new(),
            peers: 0,
            snapshot: None,
            announcement: None,
            expiring: BinaryHeap::new(),
            current: 0,
            log: VecDeque::new(),
            bare_peers: 0,
        }
    }

    /// An empty list that takes the place of this one.
    #[cfg(feature = "redis")]
    pub fn cleared(&self) -> Self {
        Self::new(&self.buffered)
    }

    /// The current version of the list.
    pub fn current(&self) -> u64 {
        self.current
    }

    /// Continues at this version: the next change gets the version after it.
    #[cfg(feature = "redis")]
    pub fn continue_at(&mut self, version: u64) {
        self.current = version;
        self.forget_snapshot();
    }

    /// How many peers are signed in.
    pub fn len(&self) -> usize {
        self.peers
    }

    /// The ids of all peers, oldest first.
    pub fn ids(&self) -> Vec<PeerId> {
        let slots = self.pages.iter().flat_map(Page::slots);
        slots.map(|slot| slot.id).collect()
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
        if dialect == Dialect::Bare {
            self.bare_peers += 1;
        }
        self.push_change(id, name, true);
        let joined = self.current;
        if self.pages.is_empty() {
            // A small list needs no more.
            self.pages.reserve_exact(1);
        }
        if self.pages.back().is_none_or(Page::is_full) {
            self.pages.push_back(Page::default());
        }
        if let Some(page) = self.pages.back_mut() {
            page.join(id, name, dialect, joined);
        }
        self.peers += 1;
        self.set_connected(joined, connected);
        joined
    }

    /// Takes a peer off the list. False if the list does not have the peer.
    pub fn leave(&mut self, joined: u64, name: &Arc<str>) -> bool {
        let Some((page, index)) = self.find(joined) else {
            return false;
        };
        let Some(slot) = self.pages[page].leave(index) else {
            return false;
        };
        self.peers -= 1;
        self.join_pages(page);
        self.push_change(slot.id, name, false);
        if slot.dialect == Dialect::Bare {
            self.bare_peers -= 1;
        }
        if self.bare_peers == 0 {
            self.log = VecDeque::new();
        }
        true
    }

    /// Sets a peer's STATUS, of which other peers are not told.
    pub fn set_connected(&mut self, joined: u64, connected: Connected) {
        let Some((page, index)) = self.find(joined) else {
            return;
        };
        let slot = self.pages[page].slot(index);
        slot.connected = connected;
        if let Connected::Until(end) = connected
            && slot.queued.is_none_or(|queued| end < queued)
        {
            slot.queued = Some(end);
            self.expiring.push(Reverse((end, joined)));
        }
        self.write_flag(page, index);
    }

    /// The list, newest peer first, each with its current STATUS.
    pub fn list(&mut self, now: Instant) -> Lines {
        self.expire(now);
        let pages = self.pages.iter_mut().rev();
        self.snapshot
            .get_or_insert_with(|| pages.map(|page| page.snapshot(&self.buffered)).collect())
            .clone()
    }

    /// As [`Roster::list`], but this peer's line comes first.
    pub fn list_from(&mut self, joined: u64, now: Instant) -> Lines {
        let list = self.list(now);
        let Some((at, index)) = self.find(joined) else {
            return list;
        };
        let buffered = &self.buffered;
        let snapshot = |page: &mut Page| page.snapshot(buffered);
        let [before, own, after] = self.pages[at].snapshot_around(index, buffered);
        let newer = self.pages.range_mut(at + 1..).map(snapshot);
        let newer: Vec<_> = newer.collect();
        let older = self.pages.range_mut(..at).rev().map(snapshot);
        let others = newer.into_iter().rev().chain([before, after]).chain(older);
        [own].into_iter().chain(others).collect()
    }

    /// The list for a peer that last heard of version `heard`: as
    /// [`Roster::list`], except that peers which joined since then count as connected,
    /// because this is the update that announces them.
    pub fn update(&mut self, heard: u64, now: Instant) -> Lines {
        let list = self.list(now);
        if let Some((version, announcement)) = &self.announcement
            && *version == heard
        {
            return announcement.clone();
        }
        let mut is_patched = false;
        let buffered = &self.buffered;
        let announcement = self.pages.iter_mut().rev().map(|page| {
            let patched = page.announcement(heard, buffered);
            is_patched |= patched.is_some();
            patched.unwrap_or_else(|| page.snapshot(buffered))
        });
        let announcement: Lines = announcement.collect();
        if !is_patched {
            return list;
        }
        self.announcement = Some((heard, announcement.clone()));
        announcement
    }

    /// The one line that tells a peer of the bare dialect of the change after
    /// version `heard`. None if the log no longer holds it.
    pub fn line_after(&self, heard: u64) -> Option<Lines> {
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

    /// The page of a peer, and the peer's position there.
    fn find(&self, joined: u64) -> Option<(usize, usize)> {
        let newer = self.pages.partition_point(|page| {
            let oldest = page.slots().front();
            oldest.is_some_and(|slot| slot.joined <= joined)
        });
        let page = newer.checked_sub(1)?;
        Some((page, self.pages[page].index(joined)?))
    }

    /// Drops a page that has become empty, and joins two neighbours that have both become
    /// short: otherwise many nearly empty pages would remain.
    fn join_pages(&mut self, page: usize) {
        if self.pages[page].len() == 0 {
            self.pages.remove(page);
            return;
        }
        for older in [page.checked_sub(1), Some(page)].into_iter().flatten() {
            let newer = older + 1;
            if newer < self.pages.len()
                && self.pages[older].should_merge(&self.pages[newer])
                && let Some(text) = self.pages.remove(newer)
            {
                self.pages[older].merge(text);
                return;
            }
        }
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

    fn write_flag(&mut self, page: usize, index: usize) {
        if self.pages[page].write_flag(index) {
            self.forget_snapshot();
        }
    }

    fn forget_snapshot(&mut self) {
        self.snapshot = None;
        self.announcement = None;
    }

    /// Sets STATUS 0 for peers whose last connection counted only until now.
    fn expire(&mut self, now: Instant) {
        while let Some(&Reverse((end, joined))) = self.expiring.peek() {
            if end > now {
                break;
            }
            self.expiring.pop();
            let Some((page, index)) = self.find(joined) else {
                continue;
            };
            let slot = self.pages[page].slot(index);
            slot.queued = None;
            match slot.connected {
                Connected::Until(later) if later > now => {
                    slot.queued = Some(later);
                    self.expiring.push(Reverse((later, joined)));
                }
                Connected::Until(_) => {
                    slot.connected = Connected::No;
                    self.write_flag(page, index);
                }
                Connected::Yes | Connected::No => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
