//! An Engine.IO session: a client that first polls and may then go on through a
//! WebSocket, or begins with one.

use std::{
    future::pending,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tungstenite::protocol::frame::coding::CloseCode;

use super::{
    payload::Packet,
    queues::{Gone, Inbox, Outbox, Size},
};
use crate::{
    doors::{
        kit::{
            heard::Heard,
            talk::{Life, Lost, Talk, WebSocket},
        },
        socketio::{
            packet::{self, Told},
            version::Version,
        },
    },
    peer_list::{Buffered, Link, RoomName},
};

/// A client that polls is given up this long after it was last heard, if it has no poll
/// open and its connection is closed. A client that still runs polls again at once.
const ABSENCE: Duration = Duration::from_secs(5);

/// How often the session looks for such a client.
const ABSENCE_LOOK: Duration = Duration::from_secs(1);

/// How long a client may take to answer a ping, as in the original.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The largest payload with which a client may connect, in bytes: it holds a token, and a
/// key.
const MAX_SHOWN: usize = 8 * 1024;

/// A poll that is open while a WebSocket takes over is answered after this long, as in
/// the original: a client that has not noticed yet polls again.
const RELEASE: Duration = Duration::from_millis(100);

const PING: Bytes = Bytes::from_static(b"2");
const NOOP: Bytes = Bytes::from_static(b"6");
const CLOSE: Bytes = Bytes::from_static(b"1");

/// What is exchanged with the client of a session, whatever transport carries it.
pub(in crate::doors::socketio) struct Session {
    pub version: Version,
    /// The room through whose path it began: its requests come there.
    pub room: Option<RoomName>,
    pub outbox: Outbox,
    pub inbox: Inbox,
    connecting: Mutex<Connecting>,
    /// Notified when the client has connected to the namespace.
    connected: Notify,
    heard: Heard,
    carrier: Mutex<Carrier>,
    /// Notified when polls should look again.
    changed: Notify,
    /// Takes a WebSocket in place of polls.
    upgraded: mpsc::Sender<WebSocket>,
    /// Nothing more is sent.
    over: CancellationToken,
    closing: Mutex<Closing>,
}

/// Whether the client has connected to the namespace.
enum Connecting {
    Awaited,
    /// The client has connected, with this payload as JSON.
    With(Bytes),
    /// The payload was taken.
    Done,
}

/// The transport of a session.
enum Carrier {
    Polls(Polls),
    WebSocket,
}

#[derive(Default)]
struct Polls {
    /// The number of the newest poll.
    newest: u64,
    is_open: bool,
    /// Whether a POST is being read.
    is_posting: bool,
    /// Whether a WebSocket asks to take over.
    is_asked: bool,
    /// The client was heard through the WebSocket: polls are answered soon, because the
    /// client waits for the last one to end.
    is_probed: bool,
    /// The connection of the last request, if the server can see it.
    link: Option<Weak<Link>>,
}

/// How the connection is ended.
#[derive(Clone, Copy)]
struct Closing {
    code: CloseCode,
    reason: &'static str,
    /// Whether an open poll is answered with a close packet, after which the client tries
    /// again, and not with a noop.
    is_told: bool,
}

/// A request that the session cannot use: the client is confused, or it is another
/// client.
#[derive(Debug)]
pub(in crate::doors::socketio) struct Unexpected;

impl Session {
    /// A session that begins with polls, or (if `polls` is false) with a WebSocket. The
    /// receiver is for [`Session::carry`].
    pub fn new(
        version: Version,
        room: Option<RoomName>,
        polls: bool,
        buffered: &Arc<Buffered>,
    ) -> (Arc<Self>, mpsc::Receiver<WebSocket>) {
        let (upgraded, sockets) = mpsc::channel(1);
        let carrier = if polls {
            Carrier::Polls(Polls::default())
        } else {
            Carrier::WebSocket
        };
        let session = Arc::new(Self {
            version,
            room,
            outbox: Outbox::new(buffered),
            inbox: Inbox::new(buffered),
            connecting: Mutex::new(Connecting::Awaited),
            connected: Notify::new(),
            heard: Heard::new(),
            carrier: Mutex::new(carrier),
            changed: Notify::new(),
            upgraded,
            over: CancellationToken::new(),
            closing: Mutex::new(Closing {
                code: CloseCode::Normal,
                reason: "",
                is_told: false,
            }),
        });
        (session, sockets)
    }

    /// The WebSocket that the session begins with.
    pub fn begin_with(&self, socket: WebSocket) {
        // There is room: this is the first.
        let _ = self.upgraded.try_send(socket);
    }

    /// Waits until the client has connected to the namespace, and returns its payload.
    /// Clients of version 3 are connected by their handshake.
    pub async fn shown(&self) -> Bytes {
        if self.version == Version::V3 {
            return Bytes::new();
        }
        loop {
            let connected = self.connected.notified();
            {
                let mut connecting = self.connecting.lock();
                if let Connecting::With(shown) = &mut *connecting {
                    let shown = std::mem::take(shown);
                    *connecting = Connecting::Done;
                    return shown;
                }
            }
            connected.await;
        }
    }

    /// Waits until nothing more is sent.
    pub async fn gone(&self) {
        self.over.cancelled().await;
    }

    /// Whether nothing more is sent.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// The client is gone, or its connection is.
    pub fn close(&self, gone: Gone) {
        self.inbox.close(gone);
        self.outbox.close();
        self.over.cancel();
        self.changed.notify_waiters();
    }

    /// Ends the connection when `last` and everything before it is written, but at the
    /// latest after `patience`.
    pub async fn finish(&self, last: Option<Told>, patience: Duration) {
        if let Some(last) = last {
            self.outbox.push(last);
        }
        let _ = tokio::time::timeout(patience, self.outbox.drained()).await;
        self.close(Gone::Lost);
    }

    /// The server stops. It sends no disconnect packet, after which the client would
    /// never try again: the client sees its connection close, and tries again.
    pub fn stop(&self) {
        *self.closing.lock() = Closing {
            code: CloseCode::Away,
            reason: "the server stops",
            is_told: true,
        };
        self.close(Gone::Lost);
    }

    /// Handles a packet of the client.
    pub async fn receive(&self, packet: Packet) -> Result<(), Gone> {
        self.heard.now();
        match packet {
            Packet::Close => Err(Gone::Disconnected),
            Packet::Ping(data) => {
                self.outbox.push(vec![Bytes::from_static(b"3"), data]);
                // A client that does not read its pongs is not read any further.
                self.outbox.has_space().await;
                Ok(())
            }
            Packet::Message(message) => self.receive_message(&message).await,
            Packet::Pong | Packet::Upgrade | Packet::Noop | Packet::Binary => Ok(()),
        }
    }

    async fn receive_message(&self, message: &Bytes) -> Result<(), Gone> {
        match packet::Packet::read(message).map_err(|_| Gone::Lost)? {
            packet::Packet::Connect(shown) if shown.len() > MAX_SHOWN => return Err(Gone::Lost),
            packet::Packet::Connect(shown) => {
                let mut connecting = self.connecting.lock();
                if matches!(*connecting, Connecting::Awaited) {
                    *connecting = Connecting::With(Bytes::copy_from_slice(&shown));
                    drop(connecting);
                    self.connected.notify_waiters();
                }
            }
            packet::Packet::ConnectElsewhere(namespace) => {
                let why = "Invalid namespace";
                self.outbox
                    .push(packet::refused(self.version, &namespace, why));
                self.outbox.has_space().await;
            }
            packet::Packet::Disconnect => return Err(Gone::Disconnected),
            packet::Packet::Event(event) => self.inbox.put(event).await,
            packet::Packet::Other => {}
        }
        Ok(())
    }

    /// Carries packets until the connection ends.
    pub async fn carry(&self, sockets: mpsc::Receiver<WebSocket>, ping_interval: Duration) {
        tokio::select! {
            () = self.carry_packets(sockets, ping_interval + PING_TIMEOUT) => {}
            // Independent of the transport: the client gets its ping in time also while a
            // WebSocket takes over.
            never = self.ping(ping_interval) => match never {},
        }
        self.close(Gone::Lost);
    }

    async fn carry_packets(&self, mut sockets: mpsc::Receiver<WebSocket>, patience: Duration) {
        let life = Life {
            ping_interval: None,
            patience,
        };
        tokio::select! {
            biased;
            socket = sockets.recv() => {
                if let Some(mut socket) = socket {
                    // Open polls are answered, and no other transport is left.
                    self.changed.notify_waiters();
                    let end = socket.talk(self, life).await;
                    self.close(end.gone);
                    let Closing { code, reason, .. } = end.closing;
                    socket.close(code, reason).await;
                }
            }
            () = self.heard.silent_for(patience) => {}
            () = self.absence() => {}
            () = self.over.cancelled() => {}
        }
    }

    /// Pings a client of version 4. Older clients send pings themselves.
    async fn ping(&self, every: Duration) -> std::convert::Infallible {
        if self.version == Version::V3 {
            return pending().await;
        }
        loop {
            sleep(every).await;
            self.outbox.push(vec![PING]);
        }
    }

    /// Ready when the client has neither an open poll nor a connection any more.
    async fn absence(&self) {
        let mut looks = interval(ABSENCE_LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut absent_for = Duration::ZERO;
        loop {
            looks.tick().await;
            let is_absent = match &*self.carrier.lock() {
                Carrier::Polls(polls) => {
                    let link = polls.link.as_ref();
                    !polls.is_open
                        && !polls.is_posting
                        && link.is_some_and(|link| link.strong_count() == 0)
                }
                Carrier::WebSocket => false,
            };
            // Counted in looks, so that time in which this process stood still does not
            // count.
            absent_for = if is_absent {
                absent_for + ABSENCE_LOOK
            } else {
                Duration::ZERO
            };
            if absent_for > ABSENCE {
                return;
            }
        }
    }
}

/// How the loop of a WebSocket ended.
pub(in crate::doors::socketio) struct End {
    gone: Gone,
    closing: Closing,
}

impl Talk for Session {
    type End = End;
    type Receipt = Size;

    async fn receive(&self, message: Bytes, is_text: bool) -> Result<(), End> {
        if !is_text {
            return Ok(());
        }
        let packet = Packet::read(message).map_err(|_| Gone::Lost);
        let received = match packet {
            Ok(packet) => Session::receive(self, packet).await,
            Err(gone) => Err(gone),
        };
        received.map_err(|gone| End {
            gone,
            closing: *self.closing.lock(),
        })
    }

    async fn next(&self) -> Result<(Vec<Bytes>, Size), End> {
        tokio::select! {
            biased;
            packet = self.outbox.next() => Ok(packet),
            end = self.ended() => Err(end),
        }
    }

    async fn written(&self, size: Size) {
        self.outbox.written(size);
    }

    fn reads(&self) {
        self.outbox.held().is_read();
    }

    async fn ended(&self) -> End {
        self.over.cancelled().await;
        End {
            gone: Gone::Lost,
            closing: *self.closing.lock(),
        }
    }

    fn lost(&self, why: Lost) -> End {
        let (code, reason) = why.closing();
        let gone = Gone::Lost;
        let closing = Closing {
            code,
            reason,
            is_told: false,
        };
        End { gone, closing }
    }
}

mod requests;
#[cfg(test)]
mod tests;
