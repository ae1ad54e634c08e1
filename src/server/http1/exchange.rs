//! A request and its answer on their way through hyper.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Weak, atomic::Ordering},
    task::{Context, Poll},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    http::{HeaderValue, Request, Version, header::CONNECTION},
    response::Response,
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::Service,
};
use tokio::time::Instant;

use super::{Exchange, PendingRequest, Phase, Shared};

/// What a client is told about the connection. An HTTP/1.0 client is always told that it
/// closes, in an HTTP/1.0 response: without that, the 3DStreamingToolkit client never
/// polls again, and to an HTTP/1.1 response hyper would add `keep-alive` for a client
/// that asked for it.
pub(super) fn prepare(response: &mut Response, version: Version, closes: bool) {
    if version == Version::HTTP_10 {
        *response.version_mut() = Version::HTTP_10;
    }
    if version == Version::HTTP_10 || closes {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}

/// The router as hyper's service. Its answers are kept beside hyper's connection, and
/// outlive it.
pub(super) struct ToRouter {
    pub(super) app: Router,
    pub(super) shared: Arc<Shared>,
}

impl Service<Request<Incoming>> for ToRouter {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let mut exchange = self.shared.exchange.lock();
        if !matches!(*exchange, Exchange::Answered(_)) {
            let unread = !request.body().is_end_stream();
            self.shared.unread.store(unread, Ordering::Relaxed);
            let mut request = request.map(|body| {
                Body::new(RequestBody {
                    body,
                    shared: Arc::downgrade(&self.shared),
                })
            });
            self.shared.connection.link.set_suspendable(false);
            self.shared.in_a_row.fetch_add(1, Ordering::Relaxed);
            let extensions = request.extensions_mut();
            extensions.insert(self.shared.connection.clone());
            *self.shared.phase.lock() = Phase::Exchange;
            *exchange = Exchange::Pending(PendingRequest::new(request, &self.app));
        }
        Answer(self.shared.clone())
    }
}

/// The answer to the open request, while hyper has the connection.
pub(super) struct Answer(Arc<Shared>);

impl Future for Answer {
    type Output = Result<Response<AnswerBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = &self.0;
        let mut exchange = shared.exchange.lock();
        let response = match &mut *exchange {
            Exchange::Pending(request) => std::task::ready!(request.poll(shared, cx)),
            Exchange::Answered(response) => std::mem::take(response),
            // The request was suspended, and this is about to be dropped.
            Exchange::None => return Poll::Pending,
        };
        *exchange = Exchange::None;
        let shared = shared.clone();
        Poll::Ready(Ok(response.map(|body| AnswerBody { body, shared })))
    }
}

/// The body of a request, which notices when all of it was read.
struct RequestBody {
    body: Incoming,
    /// Weak, because what is shared holds the request, and the request holds this.
    shared: Weak<Shared>,
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if (frame.is_none() || self.body.is_end_stream())
            && let Some(shared) = self.shared.upgrade()
        {
            shared.unread.store(false, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response. hyper drops it once it has all of it.
pub(super) struct AnswerBody {
    body: Body,
    shared: Arc<Shared>,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // hyper may drop it late, when the next request is already open.
        let is_last = matches!(*self.shared.exchange.lock(), Exchange::None);
        if is_last {
            *self.shared.phase.lock() = Phase::Idle(Instant::now());
        }
    }
}
