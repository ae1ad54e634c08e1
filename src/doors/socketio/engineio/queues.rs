//! The queues of a session, bounded in bytes: packets for its client, and events of its
//! client that wait to be handled.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::{
    doors::socketio::packet::{Event, Told},
    peer_list::{Buffered, Cost, Held, MESSAGE_OVERHEAD_BYTES},
};

/// More is put into the outbox of a session only while it holds less than this, in bytes.
/// Only then is a message taken off the mailbox.
const OUTBOX_BYTES: usize = 64 * 1024;

/// Nothing more is read from a client while this much of what it sent waits, in bytes.
/// Our own client sends less than this ahead, so that its acknowledgements are always
/// read.
const INBOX_BYTES: usize = 128 * 1024;

/// Packets on their way to a client.
pub(in crate::doors::socketio) struct Outbox {
    waiting: Mutex<Waiting>,
    /// What of these packets counts for the peer.
    held: Arc<Held>,
    buffered: Arc<Buffered>,
    /// Notified when there is a packet, and when there is room.
    changed: Notify,
    /// No packets are taken any more.
    is_closed: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    packets: VecDeque<(Told, Size)>,
    /// The length of these packets, and of those that are being written, in bytes.
    bytes: usize,
}

/// What a packet takes.
#[derive(Clone, Copy)]
pub(in crate::doors::socketio) struct Size {
    /// Its length, in bytes.
    bytes: usize,
    /// What of it counts for the peer.
    cost: Cost,
}

/// The cost of a packet besides its bytes: a flood of empty packets is bounded too.
const PACKET_OVERHEAD: usize = 128;

/// Parts of packets with more bytes count until they are written, also while they are in a
/// reply.
const SHORT: usize = 1024;

fn length_of(packet: &Told) -> usize {
    packet.iter().map(Bytes::len).sum()
}

impl Outbox {
    /// `buffered`: counts what is in it.
    pub fn new(buffered: &Arc<Buffered>) -> Self {
        Self {
            waiting: Mutex::default(),
            held: Arc::new(buffered.hold()),
            buffered: buffered.clone(),
            changed: Notify::new(),
            is_closed: AtomicBool::new(false),
        }
    }

    /// What is in it.
    pub fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// Puts a packet last in line, whatever already waits.
    pub fn push(&self, packet: Told) {
        let counted = |part: Bytes| match part.len() {
            ..=SHORT => part,
            _ => self.buffered.share_anyway(part),
        };
        self.push_shared(packet.into_iter().map(counted).collect());
    }

    /// As [`Outbox::push`], for a packet whose long parts count already.
    pub fn push_shared(&self, packet: Told) {
        let cost = Cost {
            own: PACKET_OVERHEAD,
            shared: length_of(&packet),
        };
        self.put(packet, cost);
    }

    /// As [`Outbox::push_shared`], for the list, which all peers share: it leaves the peer's own
    /// share to messages, however long it is.
    pub fn push_list(&self, packet: Told) {
        self.put(packet, Cost::own(PACKET_OVERHEAD));
    }

    fn put(&self, packet: Told, cost: Cost) {
        if self.is_closed() {
            return;
        }
        {
            let mut waiting = self.waiting.lock();
            let bytes = PACKET_OVERHEAD + length_of(&packet);
            waiting.bytes += bytes;
            self.held.add_anyway(cost);
            waiting.packets.push_back((packet, Size { bytes, cost }));
        }
        self.changed.notify_waiters();
    }

    /// Waits until there is room, or no packets are taken any more.
    pub async fn has_space(&self) {
        self.until(|bytes| bytes < OUTBOX_BYTES).await;
    }

    /// Waits until all packets are written, or none are taken any more.
    pub async fn drained(&self) {
        self.until(|bytes| bytes == 0).await;
    }

    async fn until(&self, holds: impl Fn(usize) -> bool) {
        loop {
            let changed = self.changed.notified();
            if self.is_closed() || holds(self.waiting.lock().bytes) {
                return;
            }
            changed.await;
        }
    }

    /// Takes the packet that is first in line. It counts until it is written.
    pub async fn next(&self) -> (Told, Size) {
        loop {
            let changed = self.changed.notified();
            if let Some(packet) = self.waiting.lock().packets.pop_front() {
                return packet;
            }
            changed.await;
        }
    }

    /// A packet of this size is written.
    pub fn written(&self, size: Size) {
        let mut waiting = self.waiting.lock();
        // After the queue was closed nothing counts any more.
        if !self.is_closed() {
            waiting.bytes -= size.bytes;
            self.held.remove(size.cost);
        }
        drop(waiting);
        self.changed.notify_waiters();
    }

    /// Takes all packets.
    pub fn take_all(&self) -> Vec<Told> {
        let packets: Vec<Told> = {
            let mut waiting = self.waiting.lock();
            let packets = std::mem::take(&mut waiting.packets).into_iter();
            let packets = packets.map(|(packet, size)| {
                waiting.bytes -= size.bytes;
                self.held.remove(size.cost);
                packet
            });
            packets.collect()
        };
        if !packets.is_empty() {
            self.changed.notify_waiters();
        }
        packets
    }

    /// Waits for a packet.
    pub async fn has_packets(&self) {
        loop {
            let changed = self.changed.notified();
            if !self.waiting.lock().packets.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Drops what waits: it is not taken any more.
    pub fn close(&self) {
        {
            let mut waiting = self.waiting.lock();
            self.is_closed.store(true, Ordering::Release);
            *waiting = Waiting::default();
            self.held.clear();
        }
        self.changed.notify_waiters();
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::doors::socketio) enum Gone {
    /// Its client said so.
    Disconnected,
    /// Its connection was lost.
    Lost,
}

/// Events of a client on their way to be handled.
pub(in crate::doors::socketio) struct Inbox {
    events: Mutex<Events>,
    /// The cost of these events.
    held: Held,
    /// Notified when there is an event, and when there is room.
    changed: Notify,
    acknowledged: watch::Sender<u64>,
}

#[derive(Default)]
struct Events {
    waiting: VecDeque<Event>,
    /// What the event that is being handled costs, in bytes.
    handled: usize,
    gone: Option<Gone>,
}

fn cost(event: &Event) -> usize {
    event.array.len() + MESSAGE_OVERHEAD_BYTES
}

impl Inbox {
    /// `buffered`: counts what is in it.
    pub fn new(buffered: &Arc<Buffered>) -> Self {
        Self {
            events: Mutex::default(),
            held: buffered.hold(),
            changed: Notify::new(),
            acknowledged: watch::Sender::new(0),
        }
    }

    /// Puts an event last in line, and waits until there is room for another.
    ///
    /// An acknowledgement does not wait in line: what is handled before it may wait for
    /// the room that it makes.
    pub async fn put(&self, event: Event) {
        if let Some(number) = acknowledges(&event) {
            self.acknowledged.send_if_modified(|highest| {
                let rises = number > *highest;
                *highest = number.max(*highest);
                rises
            });
            return;
        }
        {
            let mut events = self.events.lock();
            self.held.add_anyway(Cost::own(cost(&event)));
            events.waiting.push_back(event);
        }
        self.changed.notify_waiters();
        loop {
            let changed = self.changed.notified();
            {
                let events = self.events.lock();
                if self.held.bytes() - events.handled < INBOX_BYTES || events.gone.is_some() {
                    return;
                }
            }
            changed.await;
        }
    }

    /// The session has ended, after all that its client sent.
    pub fn close(&self, gone: Gone) {
        self.events.lock().gone.get_or_insert(gone);
        self.changed.notify_waiters();
    }

    /// The next event. An error when the session has ended.
    pub async fn next(&self) -> Result<Event, Gone> {
        loop {
            let changed = self.changed.notified();
            let (next, gone) = {
                let mut events = self.events.lock();
                let next = events.waiting.pop_front();
                let handled = next.as_ref().map_or(0, cost);
                let before = std::mem::replace(&mut events.handled, handled);
                self.held.remove(Cost::own(before));
                (next, events.gone)
            };
            match (next, gone) {
                (Some(event), _) => {
                    self.changed.notify_waiters();
                    return Ok(event);
                }
                (None, Some(gone)) => return Err(gone),
                (None, None) => changed.await,
            }
        }
    }

    /// The highest number that the client has acknowledged.
    pub fn acknowledged(&self) -> watch::Receiver<u64> {
        self.acknowledged.subscribe()
    }
}

/// The number up to which our own client has all messages, if this event says so.
fn acknowledges(event: &Event) -> Option<u64> {
    if !event.array.starts_with(b"[\"got\",") {
        return None;
    }
    let (_, arguments) = event.parts()?;
    serde_json::from_str(arguments.first()?.get()).ok()
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, assert_ready_eq, task};

    use super::*;

    fn event(bytes: usize) -> Event {
        Event {
            array: vec![b'x'; bytes].into(),
            has_attachments: false,
            ack: None,
        }
    }

    fn packet(bytes: usize) -> Told {
        vec![vec![b'x'; bytes].into()]
    }

    #[test]
    fn events_come_in_order_and_before_the_end() {
        let inbox = Inbox::new(&Arc::default());
        for bytes in [1, 2] {
            assert_ready!(task::spawn(inbox.put(event(bytes))).poll());
        }
        inbox.close(Gone::Disconnected);
        inbox.close(Gone::Lost);
        for bytes in [1, 2] {
            assert_ready_eq!(task::spawn(inbox.next()).poll(), Ok(event(bytes)));
        }
        assert_ready_eq!(task::spawn(inbox.next()).poll(), Err(Gone::Disconnected));
    }

    #[test]
    fn a_client_that_sends_faster_than_it_is_handled_waits() {
        let inbox = Inbox::new(&Arc::default());
        let mut put = task::spawn(inbox.put(event(INBOX_BYTES)));
        assert_pending!(put.poll());
        assert_ready!(task::spawn(inbox.next()).poll()).unwrap();
        assert!(put.is_woken());
        assert_ready!(put.poll());
        // Nor does it wait for ever when events are not handled any more.
        let mut put = task::spawn(inbox.put(event(INBOX_BYTES)));
        assert_pending!(put.poll());
        inbox.close(Gone::Lost);
        assert_ready!(put.poll());
    }

    #[test]
    fn an_acknowledgement_overtakes_what_waits() {
        let inbox = Inbox::new(&Arc::default());
        let acknowledged = inbox.acknowledged();
        let mut put = task::spawn(inbox.put(event(INBOX_BYTES)));
        assert_pending!(put.poll());
        for number in [7, 5] {
            let got = Event {
                array: format!("[\"got\",{number}]").into(),
                ..event(0)
            };
            assert_ready!(task::spawn(inbox.put(got)).poll());
        }
        assert_eq!(*acknowledged.borrow(), 7);
    }

    #[test]
    fn an_outbox_has_no_room_until_what_is_in_it_is_written() {
        let outbox = Outbox::new(&Arc::default());
        assert_ready!(task::spawn(outbox.has_space()).poll());
        outbox.push(packet(OUTBOX_BYTES));
        let mut room = task::spawn(outbox.has_space());
        assert_pending!(room.poll());
        let (_, size) = assert_ready!(task::spawn(outbox.next()).poll());
        assert_pending!(room.poll());
        outbox.written(size);
        assert_ready!(room.poll());
        assert_ready!(task::spawn(outbox.drained()).poll());
    }

    #[test]
    fn a_list_that_waits_is_not_in_the_share_of_its_peer() {
        let outbox = Outbox::new(&Arc::default());
        outbox.push_list(packet(OUTBOX_BYTES));
        assert_eq!(outbox.held().bytes(), PACKET_OVERHEAD);
        assert_pending!(task::spawn(outbox.has_space()).poll());
        outbox.push_shared(packet(1000));
        assert_eq!(outbox.held().bytes(), 2 * PACKET_OVERHEAD + 1000);
        assert_eq!(outbox.take_all().len(), 2);
        assert_eq!(outbox.held().bytes(), 0);
        assert_ready!(task::spawn(outbox.drained()).poll());
    }

    #[test]
    fn a_closed_outbox_keeps_nothing_and_holds_up_no_sender() {
        let outbox = Outbox::new(&Arc::default());
        outbox.push(packet(OUTBOX_BYTES));
        let mut room = task::spawn(outbox.has_space());
        assert_pending!(room.poll());
        outbox.close();
        assert_ready!(room.poll());
        outbox.push(packet(1));
        assert!(outbox.take_all().is_empty());
    }
}
