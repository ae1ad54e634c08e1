//! How much memory clients make this process hold, and its bound.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use super::Refusal;

/// A peer is let in while this much is left, in bytes: the list that it is told may be copied
/// in part for it, as text and as JSON.
const ONE_PEER: usize = 64 * 1024;

/// So much of a body or message that has not come whole is not counted, in bytes: what clients
/// send in signs of life is never refused, and a connection has larger buffers than this.
pub(crate) const UNCOUNTED: usize = 4 * 1024;

/// A client that reads reads at least this much in a second, in bytes: as much as one that
/// sends a message in the time that it is given for that.
const SLOWEST: usize = 8 * 1024;

/// What clients can make grow: mailboxes, names, what is on its way to sockets, bodies and
/// messages that are being read, and lists that are being written.
pub struct Buffered {
    /// The bound, in bytes.
    limit: usize,
    bytes: AtomicUsize,
    /// Moments are counted from here.
    start: Instant,
    /// Notified when what is held should be looked at.
    pressed: Notify,
}

impl Buffered {
    /// Nothing is held yet; the bound is `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self::bounded(limit))
    }

    fn bounded(limit: usize) -> Self {
        Self {
            limit,
            bytes: AtomicUsize::new(0),
            start: Instant::now(),
            pressed: Notify::new(),
        }
    }

    /// How much is held now, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How much may be held, in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether there is room for another peer.
    ///
    /// # Errors
    ///
    /// [`Refusal::OutOfMemory`].
    pub fn has_space(&self) -> Result<(), Refusal> {
        if self.bytes().saturating_add(ONE_PEER) <= self.limit {
            Ok(())
        } else {
            self.press();
            Err(Refusal::OutOfMemory)
        }
    }

    /// Ends [`Buffered::pressed`]: what is held should be looked at.
    pub(super) fn press(&self) {
        self.pressed.notify_one();
    }

    /// Waits until what is held should be looked at: less than an eighth is left, something was
    /// refused, or the list is dropped.
    pub(super) async fn pressed(&self) {
        self.pressed.notified().await;
    }

    /// How many bytes too many there are for a quarter to be free.
    pub(super) fn excess(&self) -> usize {
        self.bytes().saturating_sub(self.limit - self.limit / 4)
    }

    /// A part that holds nothing yet.
    pub fn hold(self: &Arc<Self>) -> Held {
        Held {
            of: self.clone(),
            own: AtomicUsize::new(0),
            shared: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
        }
    }

    /// Bytes that several may hold. They count once, until the last of them lets go.
    ///
    /// # Errors
    ///
    /// [`Refusal::OutOfMemory`].
    pub fn share(self: &Arc<Self>, bytes: Bytes) -> Result<Bytes, Refusal> {
        let held = self.hold();
        held.add(Cost::own(bytes.len()))?;
        Ok(Bytes::from_owner(Counted { bytes, _held: held }))
    }

    /// As [`Buffered::share`], for what cannot be refused: the list, and what a peer is told
    /// because of what was accepted before.
    pub fn share_anyway(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        let held = self.hold();
        held.add_anyway(Cost::own(bytes.len()));
        Bytes::from_owner(Counted { bytes, _held: held })
    }

    /// Returns how much is held then.
    fn add_anyway(&self, bytes: usize) -> usize {
        let total = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if total > self.limit - self.limit / 8 {
            self.press();
        }
        total
    }

    fn add(&self, bytes: usize) -> Result<(), Refusal> {
        if self.add_anyway(bytes) > self.limit {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Refusal::OutOfMemory);
        }
        Ok(())
    }
}

/// No bound, for tests of what is counted.
impl Default for Buffered {
    fn default() -> Self {
        Self::bounded(usize::MAX)
    }
}

impl fmt::Debug for Buffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.bytes(), self.limit)
    }
}

/// What something costs its holder, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Held by this holder alone.
    pub own: usize,
    /// Held by others too, and counted where it was made ([`Buffered::share`]).
    pub shared: usize,
}

impl Cost {
    /// That of something which nobody else holds.
    pub fn own(bytes: usize) -> Self {
        Self {
            own: bytes,
            shared: 0,
        }
    }

    /// All of it.
    pub fn total(self) -> usize {
        self.own + self.shared
    }
}

/// A part of what is held: of one peer, or of one message that is being read. It no longer
/// counts when this is dropped.
pub struct Held {
    of: Arc<Buffered>,
    own: AtomicUsize,
    shared: AtomicUsize,
    /// When something of it was last taken away, and read, or put where nothing was; in
    /// milliseconds after the start.
    moved: AtomicU64,
}

impl Held {
    /// This much more is held.
    ///
    /// # Errors
    ///
    /// [`Refusal::OutOfMemory`]: nothing was added.
    pub fn add(&self, cost: Cost) -> Result<(), Refusal> {
        self.of.add(cost.own)?;
        self.note(cost);
        Ok(())
    }

    /// As [`Held::add`], for what cannot be refused.
    pub fn add_anyway(&self, cost: Cost) {
        self.of.add_anyway(cost.own);
        self.note(cost);
    }

    /// Holds as much as this alone, if it held less.
    ///
    /// # Errors
    ///
    /// [`Refusal::OutOfMemory`]: nothing was added.
    pub fn grow_to(&self, bytes: usize) -> Result<(), Refusal> {
        match bytes.checked_sub(self.own.load(Ordering::Relaxed)) {
            Some(more) if more > 0 => self.add(Cost::own(more)),
            _ => Ok(()),
        }
    }

    fn note(&self, cost: Cost) {
        if self.bytes() == 0 {
            self.has_moved(0);
        }
        self.own.fetch_add(cost.own, Ordering::Relaxed);
        self.shared.fetch_add(cost.shared, Ordering::Relaxed);
    }

    /// A part of it was handed over, and is not held any more.
    pub fn remove(&self, cost: Cost) {
        self.own.fetch_sub(cost.own, Ordering::Relaxed);
        self.shared.fetch_sub(cost.shared, Ordering::Relaxed);
        self.of.bytes.fetch_sub(cost.own, Ordering::Relaxed);
        self.has_moved(cost.total());
    }

    /// Its client has taken a part of what is being written.
    pub fn is_read(&self) {
        self.has_moved(0);
    }

    /// Nothing of it is held any more.
    pub fn clear(&self) {
        let own = self.own.swap(0, Ordering::Relaxed);
        self.shared.store(0, Ordering::Relaxed);
        self.of.bytes.fetch_sub(own, Ordering::Relaxed);
    }

    /// How much this is, with what is shared, in bytes.
    pub fn bytes(&self) -> usize {
        self.own.load(Ordering::Relaxed) + self.shared.load(Ordering::Relaxed)
    }

    /// For how long nothing of it was taken away, although what was taken away last should have
    /// been read by then.
    pub(super) fn unmoved_for(&self) -> Duration {
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        self.of.start.elapsed().saturating_sub(moved)
    }

    /// `given`: how many bytes are on their way to a client, which may be slow.
    fn has_moved(&self, given: usize) {
        let read = self.of.start.elapsed() + Duration::from_secs(1) * (given / SLOWEST) as u32;
        let read = u64::try_from(read.as_millis());
        self.moved
            .store(read.unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes())
    }
}

/// Bytes that count while anybody has a part of them.
struct Counted {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_exceed_the_bound_is_refused_and_not_counted() {
        let buffered = Buffered::new(100 + ONE_PEER);
        let held = buffered.hold();
        held.add(Cost::own(60 + ONE_PEER)).unwrap();
        assert_eq!(buffered.has_space(), Err(Refusal::OutOfMemory));
        let other = buffered.hold();
        assert_eq!(other.add(Cost::own(41)), Err(Refusal::OutOfMemory));
        other.add(Cost::own(40)).unwrap();
        held.remove(Cost::own(10));
        assert_eq!(
            (held.bytes(), buffered.bytes()),
            (50 + ONE_PEER, 90 + ONE_PEER)
        );
        drop((held, other));
        assert_eq!(buffered.bytes(), 0);
        buffered.has_space().unwrap();
    }

    #[test]
    fn what_cannot_be_refused_counts_too() {
        let buffered = Buffered::new(100);
        let held = buffered.hold();
        held.add_anyway(Cost::own(150));
        assert_eq!(buffered.bytes(), 150);
        held.clear();
        assert_eq!(buffered.bytes(), 0);
    }

    #[test]
    fn shared_bytes_count_once_until_the_last_part_is_dropped() {
        let buffered = Buffered::new(100);
        let bytes = buffered.share(vec![b'x'; 80].into()).unwrap();
        let part = bytes.slice(10..20);
        let holders = [buffered.hold(), buffered.hold()];
        let shared = Cost { own: 5, shared: 80 };
        for holder in &holders {
            holder.add(shared).unwrap();
            assert_eq!(holder.bytes(), 85);
        }
        assert_eq!(buffered.bytes(), 90);
        drop((bytes, holders));
        assert_eq!(buffered.bytes(), 80);
        assert_eq!(part, "x".repeat(10));
        drop(part);
        assert_eq!(buffered.bytes(), 0);
    }

    #[test]
    fn a_message_that_is_read_counts_as_far_as_it_has_grown() {
        let buffered = Buffered::new(100);
        let held = buffered.hold();
        for (bytes, counted) in [(10, 10), (5, 10), (30, 30)] {
            held.grow_to(bytes).unwrap();
            assert_eq!(buffered.bytes(), counted);
        }
        assert_eq!(held.grow_to(101), Err(Refusal::OutOfMemory));
        assert_eq!(buffered.bytes(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn something_is_unmoved_since_it_came_or_a_part_was_taken_away() {
        let buffered = Buffered::new(100);
        let second = Duration::from_secs(1);
        let held = buffered.hold();
        tokio::time::advance(second).await;
        held.add(Cost::own(10)).unwrap();
        tokio::time::advance(second).await;
        held.add(Cost::own(10)).unwrap();
        assert_eq!(held.unmoved_for(), second);
        held.remove(Cost::own(1));
        assert_eq!(held.unmoved_for(), Duration::ZERO);
        held.is_read();
        tokio::time::advance(second).await;
        assert_eq!(held.unmoved_for(), second);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_has_time_for_what_it_was_given() {
        let buffered = Buffered::new(1 << 20);
        let held = buffered.hold();
        held.add(Cost::own(20 * SLOWEST)).unwrap();
        held.remove(Cost::own(10 * SLOWEST));
        tokio::time::advance(Duration::from_secs(12)).await;
        assert_eq!(held.unmoved_for(), Duration::from_secs(2));
    }
}
