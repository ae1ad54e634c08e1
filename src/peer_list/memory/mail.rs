//! How messages are sent and received.

use std::{cmp::Ordering, pin::pin, sync::Arc, task::Waker};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::{
    MemoryEngine,
    mailbox::{Kind, LARGE, Message},
    peer::Peer,
    wait::Wait,
};
use crate::peer_list::{
    Delivery, Mail, PeerId, Reason, Refusal, SendOpts, WaitOpts, rules::SPACE_PATIENCE,
};

#[async_trait]
impl Mail for MemoryEngine {
    async fn send(
        &self,
        from: PeerId,
        to: PeerId,
        body: Bytes,
        opts: SendOpts,
    ) -> Result<(), Refusal> {
        let sent = match self.counted(body) {
            Ok(body) if opts.waits_for_space => {
                self.send_patiently(from, to, body, opts.number).await
            }
            Ok(body) => self.send_now(from, to, body, opts.number),
            Err(refusal) => Err(refusal),
        };
        self.shared.counts.sent(&sent);
        sent
    }

    async fn acknowledge(&self, id: PeerId, number: u64) {
        if let Ok(peer) = self.peer(id) {
            peer.state.lock().mailbox.acknowledge(number);
            peer.space.notify_waiters();
        }
    }
}

impl MemoryEngine {
    /// A message as it is put into a mailbox: a large one counts by itself.
    fn counted(&self, body: Bytes) -> Result<Bytes, Refusal> {
        match body.len() {
            ..=LARGE => Ok(body),
            _ => self.shared.buffered.share(body),
        }
    }

    async fn send_patiently(
        &self,
        from: PeerId,
        to: PeerId,
        body: Bytes,
        number: Option<u64>,
    ) -> Result<(), Refusal> {
        let receiver = self.peer(to);
        let attempt = || self.send_now(from, to, body.clone(), number);
        match receiver {
            Ok(receiver) => {
                let uncounted = Some(body.len()).filter(|length| *length <= LARGE);
                self.patiently(&receiver, uncounted.unwrap_or(0), attempt)
                    .await
            }
            Err(_) => attempt(),
        }
    }

    pub(super) async fn wait_of(
        &self,
        peer: Arc<Peer>,
        opts: WaitOpts,
    ) -> Result<Delivery, Refusal> {
        let mut wait = Wait::of_poll(self, peer)?;
        let limit = opts.limit;
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        let delivery = self.news_until(&mut wait, opts.acknowledged, end).await;
        wait.answered();
        Ok(delivery)
    }

    async fn news_until(
        &self,
        wait: &mut Wait,
        acknowledged: Option<u64>,
        end: Option<Instant>,
    ) -> Delivery {
        if let Some(moment) = wait.acknowledge(acknowledged) {
            let too_late = end.filter(|end| *end <= moment);
            // Ends early if the peer is removed, which it hears of at once.
            let _ = timeout_at(too_late.unwrap_or(moment), wait.end()).await;
            if too_late.is_some() {
                return wait.nothing();
            }
        }
        let Some(end) = end else {
            return wait.news().await;
        };
        match timeout_at(end, wait.news()).await {
            Ok(delivery) => delivery,
            Err(_) => wait.nothing(),
        }
    }

    fn send_now(
        &self,
        from: PeerId,
        to: PeerId,
        body: Bytes,
        number: Option<u64>,
    ) -> Result<(), Refusal> {
        let sender = self.peer(from)?;
        // Locked until the message is in the mailbox: otherwise it could be accepted
        // twice.
        let mut last = number.map(|number| (number, sender.last_sent.lock()));
        if let Some((number, last)) = &last {
            match number.cmp(last) {
                Ordering::Less => return Err(Refusal::OutOfOrder),
                Ordering::Equal => return Ok(()),
                Ordering::Greater => {}
            }
        }
        let needs = sender.joined().ok_or(Refusal::UnknownPeer)?;
        let receiver = self.peer(to).map_err(|_| Refusal::UnknownReceiver)?;
        if receiver.joined().is_none() {
            return Err(Refusal::UnknownReceiver);
        }
        let message = Message {
            kind: Kind::Direct { from },
            body,
            needs,
        };
        self.push(&receiver, message)?;
        if let Some((number, last)) = &mut last {
            **last = *number;
        }
        Ok(())
    }

    /// Puts a message last in line.
    pub(super) fn push(&self, receiver: &Peer, message: Message) -> Result<(), Refusal> {
        let waker = {
            let mut state = receiver.state.lock();
            if state.removed.is_some() {
                return Err(Refusal::UnknownReceiver);
            }
            let bound = self.shared.opts.max_pending_bytes;
            let bound = bound.saturating_sub(state.outgoing());
            state.mailbox.push(message, bound)?;
            state.waits.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    pub(super) async fn push_patiently(
        &self,
        receiver: &Peer,
        message: Message,
    ) -> Result<(), Refusal> {
        // Its bytes count already.
        self.patiently(receiver, 0, || self.push(receiver, message.clone()))
            .await
    }

    /// Attempts to put a message into a mailbox until there is room for it, or the
    /// receiver is given up. `bytes`: what is held meanwhile.
    async fn patiently(
        &self,
        receiver: &Peer,
        bytes: usize,
        attempt: impl Fn() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let deadline = Instant::now() + SPACE_PATIENCE;
        let held = self.shared.buffered.hold();
        loop {
            // Listened to before the attempt, so that no room is missed.
            let mut space = pin!(receiver.space.notified());
            space.as_mut().enable();
            match attempt() {
                Err(Refusal::MailboxFull) => held.grow_to(bytes)?,
                pushed => return pushed,
            }
            let nobody_reads = {
                let state = receiver.state.lock();
                receiver.by_socket_only && state.resumes && state.presence.sockets == 0
            };
            if nobody_reads || timeout_at(deadline, space).await.is_err() {
                return Err(self.give_up(receiver));
            }
        }
    }

    /// A peer has made no room in its mailbox. One with an open socket does not read, and
    /// one that is away must not miss a part: it is removed. A peer that polls stays, and
    /// the sender is refused.
    pub(super) fn give_up(&self, receiver: &Peer) -> Refusal {
        let wakers = {
            let mut state = receiver.state.lock();
            let may_return = receiver.by_socket_only && state.resumes;
            if state.presence.sockets == 0 && !may_return {
                return Refusal::MailboxFull;
            }
            state.removed.get_or_insert(Reason::NotReading);
            state.mailbox.clear();
            state.waits.take_all()
        };
        receiver.space.notify_waiters();
        wakers.into_iter().for_each(Waker::wake);
        Refusal::UnknownReceiver
    }
}
