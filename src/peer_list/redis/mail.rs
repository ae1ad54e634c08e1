//! How messages are sent and received, as calls of the script.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{
    LONG_PATIENCE, PATIENCE, RedisEngine,
    answers::{Space, SpaceAfterAll, SpaceState},
    caller, link_of, op, verbs,
};
use crate::peer_list::{
    Caller, Cost, Held, MESSAGE_OVERHEAD_BYTES, Mail, PeerId, Refusal, SendOpts,
    rules::SPACE_PATIENCE,
};

/// The pause between two looks whether a mailbox has room.
const SPACE_PAUSE: Duration = Duration::from_millis(20);

/// An answer that takes longer than this shows that Redis stands still.
const STILL: Duration = Duration::from_millis(200);

#[async_trait]
impl Mail for RedisEngine {
    async fn send(
        &self,
        from: PeerId,
        to: PeerId,
        body: Bytes,
        opts: SendOpts,
    ) -> Result<(), Refusal> {
        let sent = if opts.waits_for_space {
            self.send_patiently(from, to, body, opts.number).await
        } else {
            let from = caller(from);
            self.send_as(&from, to, body, opts.number, false, PATIENCE)
                .await
        };
        self.list.node.counts.sent(&sent);
        sent
    }

    async fn acknowledge(&self, id: PeerId, number: u64) {
        self.list.acknowledged(id, number);
        let _ = self.list.run(verbs::acknowledge(id, number), None).await;
    }
}

impl RedisEngine {
    async fn send_patiently(
        &self,
        from: PeerId,
        to: PeerId,
        body: Bytes,
        number: Option<u64>,
    ) -> Result<(), Refusal> {
        let from = caller(from);
        loop {
            let sending = self.send_as(&from, to, body.clone(), number, false, LONG_PATIENCE);
            match sending.await {
                Err(Refusal::MailboxFull) => {}
                sent => return sent,
            }
            self.until_space(to, body.len(), Some(LONG_PATIENCE))
                .await?;
        }
    }

    /// A message of this many bytes is on its way to Redis while this lives.
    pub(super) fn held(&self, bytes: usize) -> Result<Held, Refusal> {
        let held = self.list.node.buffered.hold();
        held.add(Cost::own(bytes + MESSAGE_OVERHEAD_BYTES))?;
        Ok(held)
    }

    pub(super) async fn send_as(
        &self,
        caller: &Caller,
        to: PeerId,
        body: Bytes,
        number: Option<u64>,
        polls: bool,
        patience: Duration,
    ) -> Result<(), Refusal> {
        let _held = self.held(body.len())?;
        // A message with a number needs no other name.
        let op = number.map_or_else(op, |_| String::new());
        let Caller { id, lingers, .. } = *caller;
        let (token, link) = (&caller.proof, link_of(caller));
        let send = verbs::send(&op, id, token, to, link, lingers, number, polls, &body);
        self.list.run_in_time(send, patience).await
    }

    /// Waits until a mailbox has room for this many bytes. A peer that takes nothing for
    /// too long is given up.
    pub(super) async fn until_space(
        &self,
        id: PeerId,
        bytes: usize,
        patience: Option<Duration>,
    ) -> Result<(), Refusal> {
        let mut taken = String::new();
        let mut deadline = Instant::now() + SPACE_PATIENCE;
        loop {
            sleep(SPACE_PAUSE).await;
            let asked = Instant::now();
            let Space { state, taken: now } =
                self.list.run(verbs::has_space(id, bytes), patience).await?;
            let before = std::mem::replace(&mut taken, now);
            match state {
                SpaceState::Free => return Ok(()),
                // Waiting does not help.
                SpaceState::Away => break,
                // The receiver reads; or it could not, because Redis stood still.
                SpaceState::Full if taken != before || asked.elapsed() > STILL => {
                    deadline = Instant::now() + SPACE_PATIENCE;
                }
                SpaceState::Full if Instant::now() >= deadline => break,
                SpaceState::Full => {}
            }
        }
        let give_up = verbs::give_up(id, bytes, &taken);
        self.list
            .run(give_up, patience)
            .await
            .map(|SpaceAfterAll| ())
    }
}
