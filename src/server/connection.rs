//! One connection: HTTP/1 the way native clients need it.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Request, Version, header::CONNECTION},
    response::Response,
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
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
    let phase = Arc::new(Mutex::new(Phase::FirstByte(Instant::now())));
    let stream = Watched {
        stream,
        phase: phase.clone(),
        _open: open,
    };
    let service = service(app, phase.clone(), stopping.clone());
    let connection = http1::Builder::new()
        .title_case_headers(true)
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut overdue = Overdue { phase, timer: None };
    let mut stop = pin!(stopping.cancelled());
    poll_fn(|cx| {
        // The connection first: one that has just been opened would be closed
        // unanswered if it were told to stop before it was polled.
        let mut ended = connection.as_mut().poll(cx);
        if ended.is_pending() && stop.as_mut().poll(cx).is_ready() {
            connection.as_mut().graceful_shutdown();
            ended = connection.as_mut().poll(cx);
        }
        // Ended with an error is a client that went away or spoke no HTTP;
        // where there was something to answer, it has been answered.
        if ended.is_ready() {
            return Poll::Ready(());
        }
        overdue.poll(cx)
    })
    .await;
}

/// The router, with what a connection adds to each request and response.
fn service(
    app: Router,
    phase: Arc<Mutex<Phase>>,
    stopping: CancellationToken,
) -> impl HttpService<Incoming, ResBody = Body, Error = Infallible, Future: Send> {
    let link = Arc::new(Link::new());
    service_fn(move |request: Request<Incoming>| {
        *phase.lock() = Phase::Answer;
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(link.clone());
        let version = request.version();
        let answer = app.clone().call(request);
        let phase = phase.clone();
        let stopping = stopping.clone();
        async move {
            let mut response = answer.await?;
            *phase.lock() = Phase::FirstByte(Instant::now());
            prepare(&mut response, version, stopping.is_cancelled());
            Ok(response)
        }
    })
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

/// What a connection waits for.
#[derive(Clone, Copy)]
enum Phase {
    /// The first byte of a request, since then.
    FirstByte(Instant),
    /// The rest of its head; the first byte came then.
    RestOfHead(Instant),
    /// The answer, which takes the time that it takes.
    Answer,
}

/// Tells when a connection has waited for a request for too long. hyper has
/// one timeout for a slow head and an idle connection, and would close the
/// one as soon as the other.
struct Overdue {
    phase: Arc<Mutex<Phase>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Overdue {
    /// To be polled after the connection, which is what changes the phase.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = match *self.phase.lock() {
            Phase::FirstByte(since) => since + IDLE_PATIENCE,
            Phase::RestOfHead(since) => since + HEAD_PATIENCE,
            Phase::Answer => return Poll::Pending,
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
}

/// A stream that notes when the first byte of a request comes.
struct Watched<S> {
    stream: S,
    phase: Arc<Mutex<Phase>>,
    _open: TaskTrackerToken,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            let mut phase = self.phase.lock();
            if let Phase::FirstByte(_) = *phase {
                *phase = Phase::RestOfHead(Instant::now());
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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

#[cfg(test)]
mod tests;
