//! The requests of a session: polls, POSTs, and a WebSocket that takes over.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tungstenite::protocol::frame::coding::CloseCode;

use super::{CLOSE, Carrier, NOOP, RELEASE, Session, Unexpected};
use crate::{
    doors::{
        kit::talk::WebSocket,
        socketio::{engineio::queues::Gone, packet::Told},
    },
    peer_list::Link,
};

impl Session {
    /// A poll has come.
    pub fn poll(self: &Arc<Self>, link: Option<&Arc<Link>>) -> Result<Poll, Unexpected> {
        self.heard.now();
        let number = {
            let mut carrier = self.carrier.lock();
            let Carrier::Polls(polls) = &mut *carrier else {
                return Err(Unexpected);
            };
            polls.newest += 1;
            polls.is_open = true;
            polls.link = link.map(Arc::downgrade);
            polls.newest
        };
        // An earlier poll that is still open is answered.
        self.changed.notify_waiters();
        Ok(Poll {
            session: self.clone(),
            number,
            is_answered: false,
        })
    }

    /// A POST has come. An error if another one is being read.
    pub fn post(self: &Arc<Self>, link: Option<&Arc<Link>>) -> Result<Post, Unexpected> {
        self.heard.now();
        let mut carrier = self.carrier.lock();
        let Carrier::Polls(polls) = &mut *carrier else {
            return Err(Unexpected);
        };
        if std::mem::replace(&mut polls.is_posting, true) {
            return Err(Unexpected);
        }
        polls.link = link.map(Arc::downgrade);
        drop(carrier);
        Ok(Post(self.clone()))
    }

    /// A WebSocket wants to take over. An error if another one already does.
    pub fn probe(self: &Arc<Self>) -> Result<Probe, Unexpected> {
        match &mut *self.carrier.lock() {
            Carrier::Polls(polls) if !polls.is_asked => polls.is_asked = true,
            _ => return Err(Unexpected),
        }
        Ok(Probe(self.clone()))
    }
}

/// An open poll. If it is dropped without an answer, its client gave it up and closed the
/// connection: the session ends.
pub(in crate::doors::socketio) struct Poll {
    session: Arc<Session>,
    number: u64,
    is_answered: bool,
}

impl Poll {
    /// Waits for packets. If the poll ends without any, the answer is a noop, or a close
    /// packet when the server stops.
    pub async fn packets(mut self) -> Vec<Told> {
        let packets = self.wait().await;
        self.is_answered = true;
        packets
    }

    async fn wait(&self) -> Vec<Told> {
        let session = &self.session;
        loop {
            let changed = session.changed.notified();
            let (is_replaced, is_probed) = match &*session.carrier.lock() {
                Carrier::Polls(polls) => (polls.newest != self.number, polls.is_probed),
                Carrier::WebSocket => (true, true),
            };
            if is_replaced {
                return vec![vec![NOOP]];
            }
            let packets = session.outbox.take_all();
            if !packets.is_empty() {
                return packets;
            }
            if session.over.is_cancelled() {
                let closing = *session.closing.lock();
                let last = if closing.is_told { CLOSE } else { NOOP };
                return vec![vec![last]];
            }
            tokio::select! {
                () = changed => {}
                () = session.outbox.has_packets() => {}
                () = sleep(RELEASE), if is_probed => return vec![vec![NOOP]],
            }
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        if let Carrier::Polls(polls) = &mut *self.session.carrier.lock()
            && polls.newest == self.number
        {
            polls.is_open = false;
        }
        if !self.is_answered {
            self.session.close(Gone::Lost);
        }
    }
}

/// A POST that is being read.
pub(in crate::doors::socketio) struct Post(Arc<Session>);

impl Drop for Post {
    fn drop(&mut self) {
        if let Carrier::Polls(polls) = &mut *self.0.carrier.lock() {
            polls.is_posting = false;
        }
    }
}

/// A WebSocket that is about to take over.
pub(in crate::doors::socketio) struct Probe(Arc<Session>);

impl Probe {
    /// Answers the client's ping on the WebSocket, and lets the WebSocket take over when
    /// the client confirms. Gives up after `patience`.
    pub async fn take_over(self, mut socket: WebSocket, patience: Duration) {
        let session = &self.0;
        let probing = async {
            let ping = socket.receive_text().await?;
            if !ping.starts_with(b"2") {
                return None;
            }
            let pong = [b"3", &ping[1..]].concat();
            socket.send_text(pong.into()).await.ok()?;
            if let Carrier::Polls(polls) = &mut *session.carrier.lock() {
                polls.is_probed = true;
            }
            session.changed.notify_waiters();
            (*socket.receive_text().await? == *b"5").then_some(())
        };
        let probed = tokio::time::timeout(patience, probing).await;
        if !matches!(probed, Ok(Some(()))) || session.over.is_cancelled() {
            return socket.close(CloseCode::Normal, "").await;
        }
        *session.carrier.lock() = Carrier::WebSocket;
        // There is room: only one WebSocket can be probed at a time.
        let _ = session.upgraded.try_send(socket);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Carrier::Polls(polls) = &mut *self.0.carrier.lock() {
            polls.is_asked = false;
            polls.is_probed = false;
        }
    }
}
