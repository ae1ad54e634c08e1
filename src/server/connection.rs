//! One connection: HTTP/1 the way native clients need it.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Version, header::CONNECTION},
    response::Response,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};
use tower::Service;

use crate::peer_list::Link;

/// The head of a request must be complete this long after its first byte.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// A connection on which nothing happens between requests is closed after
/// this long: longer than proxies keep theirs (nginx and AWS: 60 s), so that
/// it is them who close.
const IDLE_PATIENCE: Duration = Duration::from_secs(75);

/// The longest head of a request, in bytes; longer ones get a 431.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Serves the requests of a connection until either side closes it. When
/// `stopping` is cancelled, the request that is open is still answered.
/// `open` counts the connection as open while its stream exists.
pub(super) async fn serve<S>(
    stream: S,
    app: Router,
    stopping: CancellationToken,
    open: TaskTrackerToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let busy = Arc::new(AtomicBool::new(false));
    let stream = HeadTimeout::new(stream, busy.clone(), open);
    let link = Arc::new(Link::new());
    let is_stopping = stopping.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let mut app = app.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(link.clone());
        let version = request.version();
        busy.store(true, Ordering::Relaxed);
        let busy = busy.clone();
        let is_stopping = is_stopping.clone();
        let answer = app.call(request);
        async move {
            let mut response = answer.await?;
            busy.store(false, Ordering::Relaxed);
            prepare(&mut response, version, is_stopping.is_cancelled());
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .title_case_headers(true)
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // An error is a client that went away, timed out or spoke no HTTP; where
    // there was something to answer, it has been answered.
    let _ = tokio::select! {
        // The connection first: one that has just been opened would be closed
        // unanswered if it were told to stop before it was polled.
        biased;
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
}

/// What a client must be told about the connection. An HTTP/1.0 client is
/// always told that it closes, in an HTTP/1.0 response: without the word the
/// 3DStreamingToolkit client never polls again, and in an HTTP/1.1 response
/// hyper would add `keep-alive` for a client that asked for it.
fn prepare(response: &mut Response, version: Version, stopping: bool) {
    if version == Version::HTTP_10 {
        *response.version_mut() = Version::HTTP_10;
    }
    if version == Version::HTTP_10 || stopping {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}

/// A stream whose reads fail when the head of a request takes too long or
/// does not come at all. hyper has one timeout for both, which would close an
/// idle connection as soon as a slow head.
struct HeadTimeout<S> {
    stream: S,
    /// A request is being answered; the time is its own.
    busy: Arc<AtomicBool>,
    /// When the first byte of the head that is awaited has come, or else when
    /// it began to be awaited. None while busy.
    since: Option<(Part, Instant)>,
    /// Fires at the deadline or before; kept for the connection's life.
    timer: Option<Pin<Box<Sleep>>>,
    _open: TaskTrackerToken,
}

/// Which part of a request is awaited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    FirstByte,
    RestOfHead,
}

impl<S> HeadTimeout<S> {
    fn new(stream: S, busy: Arc<AtomicBool>, open: TaskTrackerToken) -> Self {
        Self {
            stream,
            busy,
            since: None,
            timer: None,
            _open: open,
        }
    }

    /// Ready when the head that is awaited is overdue.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.busy.load(Ordering::Relaxed) {
            self.since = None;
            return Poll::Pending;
        }
        let (part, since) = *self
            .since
            .get_or_insert_with(|| (Part::FirstByte, Instant::now()));
        let deadline = match part {
            Part::FirstByte => since + IDLE_PATIENCE,
            Part::RestOfHead => since + HEAD_PATIENCE,
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        // A timer that is early is set anew when it fires, which costs less
        // than to set it for each request.
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }

    fn bytes_came(&mut self) {
        let head_began = matches!(self.since, None | Some((Part::FirstByte, _)));
        if head_began && !self.busy.load(Ordering::Relaxed) {
            self.since = Some((Part::RestOfHead, Instant::now()));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            if buf.filled().len() > before {
                self.bytes_came();
            }
            return Poll::Ready(read);
        }
        match self.poll_overdue(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
