//! The loop of a WebSocket: it reads, writes, pings, notices when the client is gone, and
//! closes.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    io::{ReadHalf, WriteHalf, split},
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tungstenite::protocol::frame::coding::CloseCode;

use super::{
    frame::{Fragments, Message, Reader, Unreadable, Writer},
    heard::Heard,
    upgrade::Stream,
};
use crate::peer_list::Buffered;

/// A client to which nothing could be written for this long does not read any more. (A
/// slow client takes a little at a time.)
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// How long the last frame may take. A client that stopped reading and continues within
/// this time sees why it is closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// How long the server reads on after its close frame, so that what the client still
/// sends does not reset the connection before it has read the reason.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// An open WebSocket.
pub(crate) struct WebSocket {
    reader: Reader<ReadHalf<Stream>>,
    writer: Writer<WriteHalf<Stream>>,
    /// The code with which to answer a client that closes.
    answer: Option<u16>,
}

/// Why the connection to a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It closed, or its connection ended.
    Closed,
    /// What the client sent cannot be read.
    Unreadable(Unreadable),
    /// It was silent for too long.
    Silent,
    /// The client does not read.
    NotReading,
}

impl Lost {
    /// The code and the reason to close with.
    pub fn closing(self) -> (CloseCode, &'static str) {
        match self {
            Self::Closed => (CloseCode::Normal, ""),
            Self::Unreadable(error) => error.closing(),
            Self::Silent => (CloseCode::Away, "no sign of life"),
            Self::NotReading => (CloseCode::Again, "the client does not read"),
        }
    }
}

/// What a door sends and receives through a WebSocket.
pub(crate) trait Talk: Sync {
    /// Why the loop ended.
    type End: Send;

    /// What to tell when a text is written.
    type Receipt: Send;

    /// The client has sent a text or (if `is_text` is false) bytes. Nothing more is read
    /// until this is done.
    fn receive(
        &self,
        message: Bytes,
        is_text: bool,
    ) -> impl Future<Output = Result<(), Self::End>> + Send;

    /// Waits for the next text, in parts.
    fn next(&self) -> impl Future<Output = Result<(Vec<Bytes>, Self::Receipt), Self::End>> + Send;

    /// The text is written. If it could not be, its receipt is dropped.
    fn written(&self, receipt: Self::Receipt) -> impl Future<Output = ()> + Send;

    /// The client has read a part of the text.
    fn reads(&self);

    /// Ready when nothing more should be sent, whatever is being written.
    fn ended(&self) -> impl Future<Output = Self::End> + Send;

    /// The connection to the client is lost.
    fn lost(&self, why: Lost) -> Self::End;
}

/// How the loop finds out whether the client is still there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    /// How often the client is pinged. None: the protocol of the door has its own pings.
    pub ping_interval: Option<Duration>,
    /// A client that is silent for this long is lost.
    pub patience: Duration,
}

impl WebSocket {
    /// `limit`: the largest message of a client, in bytes.
    pub fn new(stream: Stream, limit: usize, buffered: Arc<Buffered>) -> Self {
        let (reader, writer) = split(stream);
        Self {
            reader: Reader::new(reader, limit, buffered),
            writer: Writer::new(writer),
            answer: None,
        }
    }

    /// Reads one message of a client before the loop begins.
    #[cfg(feature = "socketio")]
    pub async fn receive_text(&mut self) -> Option<Bytes> {
        match self.reader.receive(&mut Fragments::default()).await {
            Ok(Message::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Writes a text before the loop begins.
    pub async fn send_text(&mut self, text: Bytes) -> std::io::Result<()> {
        self.writer.text([text]);
        while !self.writer.is_written() {
            self.writer.write_some().await?;
        }
        Ok(())
    }

    /// Reads and writes until either side ends it.
    pub async fn talk<T: Talk>(&mut self, talk: &T, life: Life) -> T::End {
        let Self {
            reader,
            writer,
            answer,
        } = self;
        let client = Client {
            talk,
            heard: Heard::new(),
            ping: Mutex::new(None),
            pinged: Notify::new(),
        };
        // Reads before it looks at the time: after this process stood still, signs of
        // life are waiting to be read. Side by side, so that a client that reads slowly
        // is still heard.
        tokio::select! {
            biased;
            end = client.read(reader, answer) => end,
            end = client.write(writer, life.ping_interval) => end,
            () = client.heard.silent_for(life.patience) => talk.lost(Lost::Silent),
        }
    }

    /// Closes the socket. A client that closed first is sent its own code back.
    pub async fn close(&mut self, code: CloseCode, reason: &'static str) {
        let (code, reason) = self.answer.map_or((code.into(), reason), |code| (code, ""));
        self.writer.close(code, reason);
        let written = async {
            while !self.writer.is_written() {
                self.writer.write_some().await?;
            }
            self.writer.write_some().await
        };

        let written = timeout(CLOSE_PATIENCE, written).await;
        let has_closed = self.answer.is_some();
        if has_closed || !written.is_ok_and(|written| written.is_ok()) {
            return;
        }
        let _ = timeout(LAST_WORDS, async {
            let mut fragments = Fragments::default();
            while let Ok(message) = self.reader.receive(&mut fragments).await {
                if let Message::Close(_) = message {
                    return;
                }
            }
        })
        .await;
    }
}

/// What the tasks of the loop share.
struct Client<'a, T> {
    talk: &'a T,
    heard: Heard,
    /// The last ping of the client that was not answered yet.
    ping: Mutex<Option<Bytes>>,
    pinged: Notify,
}

impl<T: Talk> Client<'_, T> {
    async fn read(
        &self,
        reader: &mut Reader<ReadHalf<Stream>>,
        answer: &mut Option<u16>,
    ) -> T::End {
        let mut fragments = Fragments::default();
        loop {
            let message = match reader.receive(&mut fragments).await {
                Ok(message) => message,
                Err(Unreadable::HungUp) => return self.talk.lost(Lost::Closed),
                Err(error) => return self.talk.lost(Lost::Unreadable(error)),
            };
            let (bytes, is_text) = match message {
                Message::Text(text) => (text, true),
                Message::Binary(bytes) => (bytes, false),
                Message::Ping(payload) => {
                    self.heard.now();
                    *self.ping.lock() = Some(payload);
                    self.pinged.notify_one();
                    continue;
                }
                Message::Pong => {
                    self.heard.now();
                    continue;
                }
                Message::Close(code) => {
                    *answer = Some(code.unwrap_or(CloseCode::Normal.into()));
                    return self.talk.lost(Lost::Closed);
                }
            };
            // Nothing is read meanwhile, so that silence does not count.
            self.heard.pause();
            let received = self.talk.receive(bytes, is_text).await;
            self.heard.now();
            if let Err(end) = received {
                return end;
            }
        }
    }

    async fn write(
        &self,
        writer: &mut Writer<WriteHalf<Stream>>,
        ping_interval: Option<Duration>,
    ) -> T::End {
        let Err(end) = self.write_all(writer, ping_interval).await;
        end
    }

    async fn write_all(
        &self,
        writer: &mut Writer<WriteHalf<Stream>>,
        ping_interval: Option<Duration>,
    ) -> Result<Infallible, T::End> {
        let mut pings = ping_interval.map(|every| {
            let mut pings = interval_at(Instant::now() + every, every);
            pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pings
        });
        loop {
            let mut receipt = None;
            tokio::select! {
                next = self.talk.next() => {
                    let (parts, its) = next?;
                    writer.text(parts);
                    receipt = Some(its);
                }
                () = self.pinged.notified() => {
                    if let Some(payload) = self.ping.lock().take() {
                        writer.pong(payload);
                    }
                }
                _ = async {
                    match &mut pings {
                        Some(pings) => pings.tick().await,
                        None => std::future::pending().await,
                    }
                } => writer.ping(),
            }
            self.write_out(writer).await?;
            if let Some(receipt) = receipt {
                self.talk.written(receipt).await;
            }
        }
    }

    /// Writes all that is in line, and gives up on a client that does not read.
    async fn write_out(&self, writer: &mut Writer<WriteHalf<Stream>>) -> Result<(), T::End> {
        let mut ended = pin!(self.talk.ended());
        while !writer.is_written() {
            tokio::select! {
                biased;
                written = writer.write_some() => {
                    written.map_err(|_| self.talk.lost(Lost::Closed))?;
                    if !writer.is_written() {
                        self.talk.reads();
                    }
                }
                end = &mut ended => return Err(end),
                () = sleep(WRITE_PATIENCE) => return Err(self.talk.lost(Lost::NotReading)),
            }
        }
        Ok(())
    }
}
