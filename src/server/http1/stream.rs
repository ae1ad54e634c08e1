//! The stream of a client as a connection uses it: it notices when a request begins, and
//! can move from one hyper connection to the next.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{Phase, Shared};
use crate::{counter::One, server::places::Open};

/// How much a client may send after a suspended request, in bytes. More stays in the
/// kernel, and a hang-up behind it is only noticed when the response is written.
const MAX_READ_AHEAD: usize = 8 * 1024;

/// The size of one read outside of hyper: most requests fit.
const READ_AHEAD_STEP: usize = 1024;

pub(super) struct ClientStream<S> {
    stream: S,
    shared: Arc<Shared>,
    /// Read first.
    stand_in: &'static [u8],
    /// Read from the stream before, and read again from `position`.
    read_ahead: Vec<u8>,
    position: usize,
    open: Open,
}

impl<S> ClientStream<S> {
    /// Counts its request as suspended, for as long as what is returned lives.
    pub fn suspend(&self) -> One {
        self.open.suspend()
    }

    pub fn new(stream: S, shared: Arc<Shared>, open: Open) -> Self {
        Self {
            stream,
            shared,
            stand_in: &[],
            read_ahead: Vec::new(),
            position: 0,
            open,
        }
    }

    /// Makes the stand-in what is read first.
    pub fn read_first(&mut self, stand_in: &'static [u8]) {
        self.stand_in = stand_in;
    }

    /// These bytes of a next request were read, and are read again before the bytes that
    /// follow them.
    pub fn read_again(&mut self, bytes: &[u8]) {
        let bytes = self.without_line_ends(bytes);
        if !bytes.is_empty() {
            let rest = &self.read_ahead[self.position..];
            self.read_ahead = [bytes, rest].concat();
            self.position = 0;
            self.note_first_byte();
        }
    }

    /// Whether something can be read without waiting for the client.
    pub fn has_bytes(&self) -> bool {
        !(self.stand_in.is_empty() && self.read_ahead.is_empty())
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Takes what is to be read again, as much as fits.
    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.stand_in.len().min(buf.remaining());
        let (now, later) = self.stand_in.split_at(length);
        buf.put_slice(now);
        self.stand_in = later;
        let rest = &self.read_ahead[self.position..];
        let length = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..length]);
        self.position += length;
        if self.position == self.read_ahead.len() {
            self.read_ahead = Vec::new();
            self.position = 0;
        }
    }

    /// Ignores line ends before a request: some clients send one after the body of a
    /// POST, and RFC 9112, section 2.2, asks to ignore it.
    fn without_line_ends<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        if !self.read_ahead.is_empty() || !matches!(*self.shared.phase.lock(), Phase::Idle(_)) {
            return bytes;
        }
        let begins = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
        &bytes[begins.unwrap_or(bytes.len())..]
    }

    /// Called when bytes of the client are handed on.
    fn note_first_byte(&self) {
        let mut phase = self.shared.phase.lock();
        if let Phase::Idle(_) = *phase {
            *phase = Phase::Head(Instant::now());
        }
    }

    fn note_written<T>(&self, written: Poll<T>) -> Poll<T> {
        let unwritten = written.is_pending();
        let was_unwritten = self.shared.unwritten.swap(unwritten, Ordering::Relaxed);
        if was_unwritten && !unwritten {
            // The client's time for its next request begins once it has read the
            // response.
            self.shared.phase.lock().restart(Instant::now());
        } else if unwritten && !was_unwritten {
            *self.shared.unwritten_since.lock() = Instant::now();
        }
        written
    }
}

impl<S: AsyncRead + Unpin> ClientStream<S> {
    /// Reads some bytes, to be read again later. An error means that the client has
    /// closed the stream, or its half of it. Pending also when enough was read.
    pub fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HungUp>> {
        if self.read_ahead.len() >= MAX_READ_AHEAD {
            return Poll::Pending;
        }
        let mut room = [0; READ_AHEAD_STEP];
        let mut buf = ReadBuf::new(&mut room);
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf));
        if read.is_err() || buf.filled().is_empty() {
            return Poll::Ready(Err(HungUp));
        }
        let bytes = self.without_line_ends(buf.filled());
        if !bytes.is_empty() {
            self.read_ahead.extend_from_slice(bytes);
            self.note_first_byte();
        }
        Poll::Ready(Ok(()))
    }
}

/// The client has closed the connection.
pub(super) struct HungUp;

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.has_bytes() {
            self.take(buf);
        } else {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        }
        if !self.without_line_ends(&buf.filled()[before..]).is_empty() {
            self.note_first_byte();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.note_written(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut_down = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.note_written(shut_down)
    }
}
