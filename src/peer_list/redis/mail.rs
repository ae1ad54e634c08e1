//! How messages are sent and received, as calls of the script.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::{LONG_PATIENCE, PATIENCE, RedisEngine, accepted, caller, link_of, op, split, verbs};
use crate::peer_list::{Caller, Mail, PeerId, Refusal, SendOpts, rules::ROOM_PATIENCE};

/// The pause between two looks whether a mailbox has room.
const ROOM_PAUSE: Duration = Duration::from_millis(20);

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
        let from = caller(from);
        if !opts.waits_for_room {
            return self
                .send_as(&from, to, body, opts.number, false, PATIENCE)
                .await;
        }
        loop {
            let sending = self.send_as(&from, to, body.clone(), opts.number, false, LONG_PATIENCE);
            match sending.await {
                Err(Refusal::MailboxFull) => {}
                sent => return sent,
            }
            self.until_room(to, body.len(), Some(LONG_PATIENCE)).await?;
        }
    }

    async fn acknowledge(&self, id: PeerId, number: u64) {
        self.0.acknowledged(id, number);
        let _ = self.0.link.run(verbs::acknowledge(id, number), None).await;
    }
}

impl RedisEngine {
    pub(super) async fn send_as(
        &self,
        caller: &Caller,
        to: PeerId,
        body: Bytes,
        number: Option<u64>,
        polls: bool,
        patience: Duration,
    ) -> Result<(), Refusal> {
        // A message with a number needs no other name.
        let op = number.map_or_else(op, |_| String::new());
        let Caller { id, lingers, .. } = *caller;
        let (token, link) = (&caller.proof, link_of(caller));
        let send = verbs::send(&op, id, token, to, link, lingers, number, polls, &body);
        accepted(self.0.link.run_in_time(send, patience).await).map(drop)
    }

    /// Waits until a mailbox has room for this many bytes. A peer that takes nothing for
    /// too long is given up.
    pub(super) async fn until_room(
        &self,
        id: PeerId,
        bytes: usize,
        patience: Option<Duration>,
    ) -> Result<(), Refusal> {
        let mut taken = String::new();
        let mut deadline = Instant::now() + ROOM_PATIENCE;
        loop {
            sleep(ROOM_PAUSE).await;
            let asked = Instant::now();
            let row = self.0.link.run(verbs::has_room(id, bytes), patience).await;
            let (kind, mut row) = split(row)?;
            let before = std::mem::replace(&mut taken, row.text().unwrap_or_default());
            match kind.as_str() {
                "ok" => return Ok(()),
                // The receiver may come back, but has no socket open now: waiting does
                // not help.
                "away" => break,
                // The receiver reads; or it could not, because Redis stood still.
                _ if taken != before || asked.elapsed() > STILL => {
                    deadline = Instant::now() + ROOM_PATIENCE;
                }
                _ if Instant::now() >= deadline => break,
                _ => {}
            }
        }
        let row = self
            .0
            .link
            .run(verbs::give_up(id, bytes, &taken), patience)
            .await;
        match split(row)?.0.as_str() {
            "ok" => Ok(()),
            "gone" => Err(Refusal::UnknownReceiver),
            "full" => Err(Refusal::MailboxFull),
            _ => Err(Refusal::Unavailable),
        }
    }
}
