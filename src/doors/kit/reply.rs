//! The form of every HTTP answer.

use axum::{
    body::Body,
    http::{
        HeaderMap,
        header::{
            CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, PRAGMA, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::Response,
};

use crate::peer_list::PeerId;

/// The number of a message, for a client that acknowledges.
pub(crate) const MESSAGE_SEQ: HeaderName = HeaderName::from_static("x-message-seq");

/// The token of a peer.
pub(crate) const PEER_TOKEN: HeaderName = HeaderName::from_static("x-peer-token");

/// How often a client should send a heartbeat, in ms.
pub(crate) const HEARTBEAT_INTERVAL: HeaderName = HeaderName::from_static("x-heartbeat-interval");

/// The name of an error, for clients that do not show its text to a person.
pub(crate) const ERROR: HeaderName = HeaderName::from_static("x-error");

/// A 200 with these bytes. A message is always sent as text, with `nosniff`: one peer
/// must not be able to make the browser of another take it for a page.
pub(crate) fn reply(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A 200 with JSON.
#[cfg(any(feature = "ice", feature = "operator"))]
pub(crate) fn json_reply(json: String) -> Response {
    let mut response = reply(json);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// A 200 that names a peer in `Pragma`: the sender of a message, otherwise the receiver.
pub(crate) fn reply_from(peer: PeerId, body: impl Into<Body>) -> Response {
    let mut response = reply(body);
    response
        .headers_mut()
        .insert(PRAGMA, HeaderValue::from(peer.get()));
    response
}
