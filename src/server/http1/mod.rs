//! One connection: HTTP/1 as native clients need it, with little memory while nothing
//! happens.
//!
//! hyper reads requests and writes responses. For that it keeps two buffers of 8 KiB, and
//! most connections of this server only have a wait open. So hyper has a connection only
//! while a request is read or a response is written. When the connection is idle, or its
//! request is suspended, its task takes back the stream (and the router's future) and
//! drops the rest. The response to a suspended request goes out through a new hyper
//! connection, behind a stand-in for the request that the old one has read, so that hyper
//! still writes every byte of HTTP.

mod exchange;
mod stream;
mod strict;

use std::{
    convert::Infallible,
    future::{Future, Ready, poll_fn, ready},
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Method, Request, Version, header::CONNECTION},
    response::{IntoResponse, Response},
    routing::future::RouteFuture,
};
use futures_util::future::Either;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::places::Open;
use crate::{
    doors::kit::{Connection, RequestError, asks_to_close},
    peer_list::Link,
};
use exchange::{ToRouter, prepare};
use stream::ClientStream;

/// The head of a request must be complete this long after its first byte.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// hyper keeps a connection for this long between requests that follow each other:
/// setting hyper up costs a microsecond, keeping it costs 16 KiB.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);

/// A client to which nothing could be written for this long does not read any more. (A
/// slow client reads a little at a time.)
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// A connection with this many requests in a row that are not waits is busy. A sign-in,
/// after which the peer waits, does not make it busy.
const BUSY_FROM: u32 = 2;

/// The longest head of a request, in bytes; longer heads get a 431. hyper checks it
/// between reads, so that a little more may pass.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Serves the requests of a connection until either side closes it, or until a request
/// upgrades it to another protocol (a WebSocket). When `stopping` is cancelled, the open
/// request is still answered. `idle_timeout`: how long nothing may happen between
/// requests. `address`: from where it comes. `open` counts the connection as open while its stream exists.
pub(super) async fn serve<S>(
    stream: S,
    address: Option<IpAddr>,
    app: Router,
    stopping: CancellationToken,
    idle_timeout: Duration,
    open: Open,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = Arc::new(Shared::new(stopping, address));
    let mut overdue = Overdue::new(shared.clone());
    let mut stream = ClientStream::new(stream, shared.clone(), open);
    while stream.has_bytes() || request_comes(&mut stream, &mut overdue, idle_timeout).await {
        let service = ToRouter {
            app: app.clone(),
            shared: shared.clone(),
        };
        let Some(taken_back) = speak(stream, service, &mut overdue).await else {
            return;
        };
        stream = taken_back;
        if let Some(request) = shared.take_pending_request() {
            let stand_in = request.stand_in;
            let Some(response) = answer(request, &mut stream).await else {
                return;
            };
            stream.read_first(stand_in);
            *shared.exchange.lock() = Exchange::Answered(response);
        }
    }
}

/// Waits for the first bytes of a request. False if the connection should be closed: the
/// client closed it, it was idle for too long, or the server stops.
async fn request_comes<S>(
    stream: &mut ClientStream<S>,
    overdue: &mut Overdue,
    idle_timeout: Duration,
) -> bool
where
    S: AsyncRead + Unpin,
{
    let shared = overdue.shared.clone();
    let idle_since = Instant::now();
    let mut stop = pin!(shared.stopping.cancelled());
    poll_fn(|cx| {
        // A request that has come is answered even if the server stops.
        while let Poll::Ready(read) = stream.poll_read_ahead(cx) {
            if read.is_err() {
                return Poll::Ready(false);
            }
            if stream.has_bytes() {
                if idle_since.elapsed() > BUSY_PATIENCE {
                    shared.in_a_row.store(0, Ordering::Relaxed);
                }
                return Poll::Ready(true);
            }
        }
        let ended = stop.as_mut().poll(cx).is_ready() || overdue.poll(cx, idle_timeout).is_ready();
        if ended {
            Poll::Ready(false)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Lets hyper have the connection until it closes it or hands it over to another protocol
/// (None), or has nothing to do: because the connection is idle, or because the open
/// request is suspended.
async fn speak<S>(
    stream: ClientStream<S>,
    service: ToRouter,
    overdue: &mut Overdue,
) -> Option<ClientStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = service.shared.clone();
    // In a box, so that the task does not reserve room for it at other times.
    let mut connection = Box::new(
        http1::Builder::new()
            .title_case_headers(true)
            // A client may send a request and close its half at once. Whether a client
            // that waits is still there is noticed while its request is suspended.
            .half_close(true)
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades(),
    );
    let leaves = poll_fn(|cx| {
        // An error means that the client went away or did not speak HTTP; if an answer
        // was possible, hyper has sent it.
        if Pin::new(&mut *connection).poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        if shared.nothing_to_do() {
            return Poll::Ready(true);
        }
        // While the body is unread, what comes next may be the rest of it.
        let waited = overdue.poll(cx, BUSY_PATIENCE);
        waited.map(|()| {
            shared.is_idle()
                && !shared.unread.load(Ordering::Relaxed)
                && !shared.unwritten.load(Ordering::Relaxed)
        })
    });
    if !leaves.await {
        return None;
    }
    // None only after hyper's connection has ended.
    let parts = connection.into_parts()?;
    let mut stream = parts.io.into_inner();
    stream.read_again(&parts.read_buf);
    Some(stream)
}

/// Waits for the answer to a suspended request. None if the client hangs up.
async fn answer<S>(mut request: PendingRequest, stream: &mut ClientStream<S>) -> Option<Response>
where
    S: AsyncRead + Unpin,
{
    let _suspended = stream.suspend();
    poll_fn(|cx| {
        // Looks for a hang-up first: otherwise a dead client would take a message along.
        while let Poll::Ready(read) = stream.poll_read_ahead(cx) {
            if read.is_err() {
                return Poll::Ready(None);
            }
        }
        request.poll(stream.shared(), cx).map(Some)
    })
    .await
}

/// What the parts of a connection share.
struct Shared {
    stopping: CancellationToken,
    connection: Connection,
    phase: Mutex<Phase>,
    exchange: Mutex<Exchange>,
    /// How many requests came soon after each other, without one that was suspended.
    in_a_row: AtomicU32,
    /// The body of the request is not read to its end yet.
    unread: AtomicBool,
    /// Some bytes could not be written: the client does not read.
    unwritten: AtomicBool,
    /// Since when they could not be written.
    unwritten_since: Mutex<Instant>,
}

/// What a connection is doing.
#[derive(Clone, Copy)]
enum Phase {
    /// Nothing, since this moment.
    Idle(Instant),
    /// Reading the head of a request, whose first byte came at this moment.
    Head(Instant),
    /// A request and its response, which may take any time.
    Exchange,
}

/// The request that a connection is busy with.
enum Exchange {
    None,
    Pending(PendingRequest),
    /// It was suspended, and this is the answer to the stand-in that hyper reads next.
    Answered(Response),
}

impl Phase {
    fn restart(&mut self, now: Instant) {
        match self {
            Phase::Idle(since) | Phase::Head(since) => *since = now,
            Phase::Exchange => {}
        }
    }
}

impl Shared {
    fn new(stopping: CancellationToken, address: Option<IpAddr>) -> Self {
        Self {
            stopping,
            connection: Connection {
                link: Arc::new(Link::new()),
                address,
            },
            phase: Mutex::new(Phase::Idle(Instant::now())),
            exchange: Mutex::new(Exchange::None),
            in_a_row: AtomicU32::new(0),
            unread: AtomicBool::new(false),
            unwritten: AtomicBool::new(false),
            unwritten_since: Mutex::new(Instant::now()),
        }
    }

    /// Asked when hyper is pending: whether hyper will stay so for long, because no
    /// request is expected soon, or because the handler of the open request said so.
    fn nothing_to_do(&self) -> bool {
        if self.unread.load(Ordering::Relaxed) || self.unwritten.load(Ordering::Relaxed) {
            return false;
        }
        let waits = self.connection.link.is_suspendable();
        match *self.phase.lock() {
            Phase::Idle(_) => waits || self.in_a_row.load(Ordering::Relaxed) < BUSY_FROM,
            Phase::Head(_) => false,
            Phase::Exchange => {
                waits
                    && matches!(&*self.exchange.lock(), Exchange::Pending(request) if request.is_get)
            }
        }
    }

    fn is_idle(&self) -> bool {
        matches!(*self.phase.lock(), Phase::Idle(_))
    }

    fn take_pending_request(&self) -> Option<PendingRequest> {
        let mut exchange = self.exchange.lock();
        match std::mem::replace(&mut *exchange, Exchange::None) {
            Exchange::Pending(request) => {
                self.in_a_row.store(0, Ordering::Relaxed);
                Some(request)
            }
            Exchange::None | Exchange::Answered(_) => None,
        }
    }
}

/// A request that is being answered.
struct PendingRequest {
    answer: Pin<Box<Either<RouteFuture<Infallible>, Refused>>>,
    version: Version,
    /// Whether this is a GET, as the stand-in is. Only a GET is suspended: to a HEAD
    /// hyper would write no body.
    is_get: bool,
    /// A request line that makes hyper treat the connection after the response as this
    /// request would.
    stand_in: &'static [u8],
}

impl PendingRequest {
    fn new(request: Request<Body>, app: &Router) -> Self {
        let version = request.version();
        let is_get = request.method() == Method::GET;
        let stand_in: &[u8] = if version == Version::HTTP_10 {
            b"GET / HTTP/1.0\r\n\r\n"
        } else if asks_to_close(&request) {
            b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"
        } else {
            b"GET / HTTP/1.1\r\n\r\n"
        };
        let answer = match strict::check(&request) {
            Ok(()) => Either::Left(tower::Service::call(&mut app.clone(), request)),
            Err(error) => Either::Right(ready(Ok(refusal(error)))),
        };
        Self {
            answer: Box::pin(answer),
            version,
            is_get,
            stand_in,
        }
    }

    fn poll(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<Response> {
        let Ok(mut response) = std::task::ready!(self.answer.as_mut().poll(cx));
        let closes = shared.stopping.is_cancelled() || shared.unread.load(Ordering::Relaxed);
        prepare(&mut response, self.version, closes);
        Poll::Ready(response)
    }
}

type Refused = Ready<Result<Response, Infallible>>;

/// The connection is closed after it, because it is not certain where the next request
/// begins.
fn refusal(error: RequestError) -> Response {
    let mut response = error.into_response();
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

/// Notices when a connection has waited for too long: for a request, or for its client to
/// read. hyper has one timeout for both a slow head and an idle connection, and cannot
/// tell them apart.
struct Overdue {
    shared: Arc<Shared>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Overdue {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            timer: None,
        }
    }

    /// Polled after the connection, which changes the phase.
    fn poll(&mut self, cx: &mut Context<'_>, idle_patience: Duration) -> Poll<()> {
        let deadline = if self.shared.unwritten.load(Ordering::Relaxed) {
            *self.shared.unwritten_since.lock() + WRITE_PATIENCE
        } else {
            match *self.shared.phase.lock() {
                Phase::Idle(since) => since + idle_patience,
                Phase::Head(since) => since + HEAD_PATIENCE,
                Phase::Exchange => return Poll::Pending,
            }
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        // A timer that is early is set again when it fires, which costs less than setting
        // it for each request.
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            std::task::ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests;
