//! A page of the roster: some of its lines, as text in which single lines come, go
//! and change their STATUS without the others being written again.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Buffered, Dialect, PeerId};

/// The flag byte stands this far from the end of its line: `..,1\n`.
const FLAG_FROM_LINE_END: usize = 2;

/// A page takes no more lines once its text is longer than this, in bytes. A change
/// copies one page, and hyper writes about as much at once.
const PAGE_BYTES: usize = 16 * 1024;

/// The text of a page has at least this many bytes: enough for a room of two.
const SMALLEST_TEXT: usize = 64;

/// Whether a peer's STATUS is 1, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connected {
    Yes,
    /// Connected until this moment, unless this changes before.
    Until(Instant),
    No,
}

/// The position of one peer in the list.
pub(super) struct Slot {
    pub id: PeerId,
    /// The version at which it joined. Slots are sorted by it.
    pub joined: u64,
    pub dialect: Dialect,
    pub connected: Connected,
    /// The soonest entry for this slot in the roster's `expiring`.
    pub queued: Option<Instant>,
    /// Distance of the flag byte from the end of the page's text, in bytes. Counted from
    /// the end, it only changes when an older peer of the page leaves.
    flag: usize,
    /// Length of the peer's line, in bytes.
    line: usize,
}

/// `NAME,ID,STATUS\n` of some peers that joined one after the other.
#[derive(Default)]
pub(super) struct Page {
    /// The lines, newest first, in `text[start..]`. Filled from its end, so that a
    /// join only prepends.
    text: Vec<u8>,
    start: usize,
    /// Oldest first: the reverse order of the lines.
    slots: VecDeque<Slot>,
    /// The text as it was last handed out, until it changes.
    snapshot: Option<Bytes>,
}

impl Page {
    pub fn slots(&self) -> &VecDeque<Slot> {
        &self.slots
    }

    /// The length of the text, in bytes.
    pub fn len(&self) -> usize {
        self.text.len() - self.start
    }

    pub fn is_full(&self) -> bool {
        self.len() >= PAGE_BYTES
    }

    /// Whether this page and another one should be joined.
    pub fn should_merge(&self, other: &Page) -> bool {
        self.len() + other.len() <= PAGE_BYTES / 2
    }

    /// The index of the slot that joined at this version.
    pub fn index(&self, joined: u64) -> Option<usize> {
        self.slots
            .binary_search_by_key(&joined, |slot| slot.joined)
            .ok()
    }

    pub fn slot(&mut self, index: usize) -> &mut Slot {
        &mut self.slots[index]
    }

    /// Puts a peer first, as connected.
    pub fn join(&mut self, id: PeerId, name: &str, dialect: Dialect, joined: u64) {
        let line = format!("{name},{id},1\n");
        self.prepend(line.as_bytes());
        if self.slots.is_empty() {
            // Most rooms have two peers.
            self.slots.reserve_exact(2);
        }
        self.slots.push_back(Slot {
            id,
            joined,
            dialect,
            connected: Connected::Yes,
            queued: None,
            flag: self.len() - line.len() + FLAG_FROM_LINE_END,
            line: line.len(),
        });
        self.snapshot = None;
    }

    /// Takes a peer off the page.
    pub fn leave(&mut self, index: usize) -> Option<Slot> {
        let slot = self.slots.remove(index)?;
        let line_start = self.text.len() - slot.flag + FLAG_FROM_LINE_END - slot.line;
        self.text
            .copy_within(self.start..line_start, self.start + slot.line);
        self.start += slot.line;
        for newer in self.slots.range_mut(index..) {
            newer.flag -= slot.line;
        }
        self.snapshot = None;
        Some(slot)
    }

    /// Puts the lines of a newer page before those of this one.
    pub fn merge(&mut self, newer: Page) {
        let below = self.len();
        self.prepend(&newer.text[newer.start..]);
        self.slots.extend(newer.slots.into_iter().map(|mut slot| {
            slot.flag += below;
            slot
        }));
        self.snapshot = None;
    }

    /// Writes the flag of a peer. Returns whether that changed the flag.
    pub fn write_flag(&mut self, index: usize) -> bool {
        let slot = &self.slots[index];
        let at = self.text.len() - slot.flag;
        let flag = if slot.connected == Connected::No {
            b'0'
        } else {
            b'1'
        };
        if self.text[at] == flag {
            return false;
        }
        self.text[at] = flag;
        self.snapshot = None;
        true
    }

    /// The lines, newest first.
    pub fn snapshot(&mut self, buffered: &Arc<Buffered>) -> Bytes {
        let lines = &self.text[self.start..];
        self.snapshot
            .get_or_insert_with(|| buffered.share_anyway(Bytes::copy_from_slice(lines)))
            .clone()
    }

    /// As [`Page::snapshot`], in three parts: the lines before one peer's, that peer's,
    /// and those after it.
    pub fn snapshot_around(&mut self, index: usize, buffered: &Arc<Buffered>) -> [Bytes; 3] {
        let lines = self.snapshot(buffered);
        let slot = &self.slots[index];
        let start = lines.len() - slot.flag + FLAG_FROM_LINE_END - slot.line;
        let end = start + slot.line;
        [
            lines.slice(..start),
            lines.slice(start..end),
            lines.slice(end..),
        ]
    }

    /// As [`Page::snapshot`], except that peers which joined after a version count as
    /// connected. None if that makes no difference.
    pub fn announcement(&mut self, heard: u64, buffered: &Arc<Buffered>) -> Option<Bytes> {
        if self
            .slots
            .back()
            .is_none_or(|newest| newest.joined <= heard)
        {
            return None;
        }
        let lines = self.snapshot(buffered);
        let mut patched: Option<Vec<u8>> = None;
        for slot in self.slots.iter().rev().take_while(|s| s.joined > heard) {
            let flag = lines.len() - slot.flag;
            if lines[flag] == b'0' {
                patched.get_or_insert_with(|| lines.to_vec())[flag] = b'1';
            }
        }
        patched.map(|patched| buffered.share_anyway(patched.into()))
    }

    fn prepend(&mut self, lines: &[u8]) {
        if self.start < lines.len() {
            let used = self.len();
            let mut larger = vec![0; ((used + lines.len()) * 2).max(SMALLEST_TEXT)];
            let start = larger.len() - used;
            larger[start..].copy_from_slice(&self.text[self.start..]);
            self.text = larger;
            self.start = start;
        }
        self.start -= lines.len();
        self.text[self.start..self.start + lines.len()].copy_from_slice(lines);
    }
}
