//! WebSocket messages (RFC 6455), read and written with no more memory than the current
//! message needs.
//!
//! `tungstenite` parses and formats the headers. Its own sockets keep two buffers as
//! large as the largest message so far for as long as they are open (100 idle pairs that
//! had exchanged 500 kB held 96 MiB), and cannot free them; so the buffers are ours.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io::{self, Cursor, IoSlice},
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};
use tungstenite::protocol::frame::{
    FrameHeader,
    coding::{CloseCode, Control, Data, OpCode},
};

use crate::peer_list::{Buffered, Held, UNCOUNTED, Unread};

/// A message that is too large is read and discarded up to this many times the limit, so
/// that its sender sees the reason and not a reset.
const DISCARDED: usize = 4;

/// The size of one read while the length of what comes is not known, in bytes. The buffer
/// is on the stack: a socket that waits has none.
const READ_STEP: usize = 4 * 1024;

/// At most this much memory is reserved because of a header alone, in bytes.
const TRUSTED: usize = 64 * 1024;

/// RFC 6455, 5.5: control frames carry at most this much, in bytes.
const MAX_CONTROL: u64 = 125;

/// How many slices go into one write.
const SLICES: usize = 16;

/// How long a message may take from its first frame to its last byte. The part that has
/// come is kept for that long.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(60);

/// What a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// UTF-8 text.
    Text(Bytes),
    Binary(Bytes),
    /// To be answered with a pong that carries the same bytes.
    Ping(Bytes),
    Pong,
    /// The client closes. The code to send back, if it named one.
    Close(Option<u16>),
}

/// Why nothing more can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// The connection has ended.
    HungUp,
    /// The message is larger than the limit.
    TooLarge,
    /// A text is not UTF-8.
    NotUtf8,
    /// The bytes are not what RFC 6455 allows.
    NotAFrame,
    /// The message was not complete in time.
    TooSlow,
    /// Clients make the server hold as much as it may.
    OutOfMemory,
}

impl Unreadable {
    /// Why a message was not read, if that is what this says.
    pub fn unread(self) -> Option<Unread> {
        match self {
            Self::TooLarge => Some(Unread::TooLarge),
            Self::TooSlow => Some(Unread::TooSlow),
            Self::OutOfMemory => Some(Unread::OutOfMemory),
            Self::HungUp | Self::NotUtf8 | Self::NotAFrame => None,
        }
    }

    /// The code and the reason to close with.
    pub fn closing(self) -> (CloseCode, &'static str) {
        match self {
            Self::HungUp => (CloseCode::Normal, ""),
            Self::TooLarge => (CloseCode::Size, "the message is too large"),
            Self::NotUtf8 => (CloseCode::Invalid, "the text is not UTF-8"),
            Self::NotAFrame => (CloseCode::Protocol, "not a WebSocket frame"),
            Self::TooSlow => (CloseCode::Policy, "the message took too long"),
            Self::OutOfMemory => (CloseCode::Again, "try again soon"),
        }
    }
}

/// Reads the messages of a client.
pub(crate) struct Reader<S> {
    stream: S,
    /// Read from the stream and not parsed yet.
    buffer: BytesMut,
    /// The largest message, in bytes.
    limit: usize,
    buffered: Arc<Buffered>,
}

/// The fragments of a message that have come so far.
struct Partial {
    kind: Data,
    bytes: Vec<u8>,
    /// The length, including what was discarded.
    length: usize,
    /// When the message has to be complete.
    end: Instant,
    held: Held,
}

impl Partial {
    async fn in_time<T>(
        &self,
        read: impl Future<Output = Result<T, Unreadable>>,
    ) -> Result<T, Unreadable> {
        let read = timeout_at(self.end, read).await;
        read.unwrap_or(Err(Unreadable::TooSlow))
    }
}

impl<S: AsyncRead + Unpin> Reader<S> {
    pub fn new(stream: S, limit: usize, buffered: Arc<Buffered>) -> Self {
        Self {
            buffered,
            stream,
            buffer: BytesMut::new(),
            limit,
        }
    }

    /// Reads the next message. Dropping the future loses what was read of it.
    pub async fn receive(&mut self, partial: &mut Fragments) -> Result<Message, Unreadable> {
        loop {
            let header = self.header();
            let (header, length) = match &partial.0 {
                Some(partial) => partial.in_time(header).await?,
                None => header.await?,
            };
            let mask = header.mask.ok_or(Unreadable::NotAFrame)?;
            if header.rsv1 || header.rsv2 || header.rsv3 {
                return Err(Unreadable::NotAFrame);
            }
            match header.opcode {
                OpCode::Control(control) => {
                    if !header.is_final || length > MAX_CONTROL {
                        return Err(Unreadable::NotAFrame);
                    }
                    let mut payload = Vec::new();
                    let nothing = self.buffered.hold();
                    self.payload(length, mask, &mut payload, usize::MAX, &nothing)
                        .await?;
                    return control_message(control, payload.into());
                }
                OpCode::Data(kind) => {
                    let partial = match (kind, &mut partial.0) {
                        (Data::Continue, Some(partial)) => partial,
                        (Data::Text | Data::Binary, none @ None) => none.insert(Partial {
                            kind,
                            bytes: Vec::new(),
                            length: 0,
                            end: Instant::now() + MESSAGE_PATIENCE,
                            held: self.buffered.hold(),
                        }),
                        _ => return Err(Unreadable::NotAFrame),
                    };
                    let length = usize::try_from(length).map_err(|_| Unreadable::TooLarge)?;
                    partial.length = partial.length.saturating_add(length);
                    if partial.length > self.limit.saturating_mul(DISCARDED) {
                        return Err(Unreadable::TooLarge);
                    }
                    let mut bytes = std::mem::take(&mut partial.bytes);
                    let (limit, held) = (self.limit, &partial.held);
                    let payload = self.payload(length as u64, mask, &mut bytes, limit, held);
                    partial.in_time(payload).await?;
                    partial.bytes = bytes;
                    if !header.is_final {
                        count(&partial.held, &partial.bytes)?;
                    }
                }
            }
            if header.is_final
                && let Some(whole) = partial.0.take()
            {
                return self.data_message(whole);
            }
        }
    }

    fn data_message(&self, whole: Partial) -> Result<Message, Unreadable> {
        if whole.length > self.limit {
            return Err(Unreadable::TooLarge);
        }
        // Without spare capacity: the message may wait in a mailbox that counts its
        // bytes.
        let bytes = Bytes::from(whole.bytes.into_boxed_slice());
        match whole.kind {
            Data::Text if std::str::from_utf8(&bytes).is_err() => Err(Unreadable::NotUtf8),
            Data::Text => Ok(Message::Text(bytes)),
            _ => Ok(Message::Binary(bytes)),
        }
    }

    async fn header(&mut self) -> Result<(FrameHeader, u64), Unreadable> {
        loop {
            let mut cursor = Cursor::new(&self.buffer[..]);
            match FrameHeader::parse(&mut cursor) {
                Ok(Some(found)) => {
                    let length = cursor.position() as usize;
                    self.buffer.advance(length);
                    return Ok(found);
                }
                Ok(None) => self.fill().await?,
                Err(_) => return Err(Unreadable::NotAFrame),
            }
        }
    }

    /// Appends the payload of a frame to `into`, up to `limit` bytes in all; the rest is
    /// discarded. `held`: counts it while more has to be waited for.
    async fn payload(
        &mut self,
        length: u64,
        mask: [u8; 4],
        into: &mut Vec<u8>,
        limit: usize,
        held: &Held,
    ) -> Result<(), Unreadable> {
        let mut left = usize::try_from(length).map_err(|_| Unreadable::TooLarge)?;
        let mut at = 0;
        into.reserve_exact(left.min(TRUSTED).min(limit.saturating_sub(into.len())));
        while left > 0 {
            if self.buffer.is_empty() {
                count(held, into)?;
                let room = limit.saturating_sub(into.len()).min(left);
                if room >= READ_STEP {
                    let start = into.len();
                    into.reserve(room.min(TRUSTED));
                    let mut room = (&mut *into).limit(room.min(TRUSTED));
                    let read = self.stream.read_buf(&mut room).await;
                    let read = read.map_err(|_| Unreadable::HungUp)?;
                    if read == 0 {
                        return Err(Unreadable::HungUp);
                    }
                    unmask(&mut into[start..], mask, at);
                    at += read;
                    left -= read;
                    continue;
                }
                self.fill().await?;
            }
            let mut part = self.buffer.split_to(self.buffer.len().min(left));
            unmask(&mut part, mask, at);
            at += part.len();
            left -= part.len();
            let kept = limit.saturating_sub(into.len()).min(part.len());
            into.extend_from_slice(&part[..kept]);
        }
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(())
    }

    /// Reads some bytes into the buffer.
    async fn fill(&mut self) -> Result<(), Unreadable> {
        let Self { stream, buffer, .. } = self;
        poll_fn(|cx| {
            let mut room = [const { MaybeUninit::uninit() }; READ_STEP];
            let mut room = ReadBuf::uninit(&mut room);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut room));
            if read.is_err() || room.filled().is_empty() {
                return Poll::Ready(Err(Unreadable::HungUp));
            }
            buffer.extend_from_slice(room.filled());
            Poll::Ready(Ok(()))
        })
        .await
    }
}

/// The fragments of a message. Control frames may come between them.
#[derive(Default)]
pub(crate) struct Fragments(Option<Partial>);

/// Counts what has come of a message.
fn count(held: &Held, bytes: &Vec<u8>) -> Result<(), Unreadable> {
    if bytes.capacity() <= UNCOUNTED {
        return Ok(());
    }
    let grown = held.grow_to(bytes.capacity());
    grown.map_err(|_| Unreadable::OutOfMemory)
}

fn control_message(control: Control, payload: Bytes) -> Result<Message, Unreadable> {
    Ok(match control {
        Control::Ping => Message::Ping(payload),
        Control::Pong => Message::Pong,
        Control::Close => Message::Close(close_code(&payload)?),
        Control::Reserved(_) => return Err(Unreadable::NotAFrame),
    })
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, Unreadable> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(Unreadable::NotAFrame)
        };
    };
    let code = u16::from_be_bytes(*code);
    if !CloseCode::from(code).is_allowed() {
        return Err(Unreadable::NotAFrame);
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(Unreadable::NotUtf8);
    }
    Ok(Some(code))
}

/// `at`: how many bytes of the payload came before these.
fn unmask(bytes: &mut [u8], mut mask: [u8; 4], at: usize) {
    mask.rotate_left(at % 4);
    for (byte, mask) in bytes.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Writes messages to a client. What is not written yet is kept when a future is dropped,
/// so that the next frame follows the end of the last one.
pub(crate) struct Writer<S> {
    stream: S,
    unwritten: VecDeque<Bytes>,
}

impl<S: AsyncWrite + Unpin> Writer<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            unwritten: VecDeque::new(),
        }
    }

    /// Puts a text last in line, in parts that are not copied together.
    pub fn text(&mut self, parts: impl IntoIterator<Item = Bytes>) {
        self.frame(OpCode::Data(Data::Text), parts);
    }

    pub fn ping(&mut self) {
        self.frame(OpCode::Control(Control::Ping), []);
    }

    pub fn pong(&mut self, payload: Bytes) {
        self.frame(OpCode::Control(Control::Pong), [payload]);
    }

    pub fn close(&mut self, code: u16, reason: &'static str) {
        let mut payload = Vec::with_capacity(2 + reason.len());
        payload.put_u16(code);
        payload.extend_from_slice(reason.as_bytes());
        self.frame(OpCode::Control(Control::Close), [payload.into()]);
    }

    fn frame(&mut self, opcode: OpCode, parts: impl IntoIterator<Item = Bytes>) {
        let header_at = self.unwritten.len();
        self.unwritten.push_back(Bytes::new());
        let mut length = 0;
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            length += part.len() as u64;
            self.unwritten.push_back(part);
        }
        let header = FrameHeader {
            opcode,
            ..FrameHeader::default()
        };
        let mut bytes = Vec::with_capacity(header.len(length));
        // A `Vec` takes whatever is written to it.
        let _ = header.format(length, &mut bytes);
        self.unwritten[header_at] = bytes.into();
    }

    /// Writes some of what is in line. Ready when at least one byte was written, or
    /// nothing is left.
    pub async fn write_some(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_write_some(cx)).await
    }

    pub fn is_written(&self) -> bool {
        self.unwritten.is_empty()
    }

    fn poll_write_some(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unwritten.is_empty() {
            return Pin::new(&mut self.stream).poll_flush(cx);
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, bytes) in slices.iter_mut().zip(&self.unwritten) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..count]);
        let mut written = ready!(written)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        while let Some(front) = self.unwritten.front_mut() {
            if written < front.len() {
                front.advance(written);
                break;
            }
            written -= front.len();
            self.unwritten.pop_front();
        }
        if self.unwritten.is_empty() {
            self.unwritten = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests;
