//! The form of every HTTP answer.

use axum::{
    body::Body,
    http::{
        HeaderMap,
        header::{
            ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, PRAGMA, RETRY_AFTER,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::Response,
};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use crate::peer_list::PeerId;

/// How long browsers may remember a preflight's answer (Chromium's maximum).
const PREFLIGHT_AGE: std::time::Duration = std::time::Duration::from_secs(7200);

/// The number of a message, for a client that acknowledges.
pub(super) const MESSAGE_SEQ: HeaderName = HeaderName::from_static("x-message-seq");

/// What a peer proves with that it is itself.
pub(super) const PEER_TOKEN: HeaderName = HeaderName::from_static("x-peer-token");

/// How often a client should send a heartbeat, in ms.
pub(super) const HEARTBEAT_INTERVAL: HeaderName = HeaderName::from_static("x-heartbeat-interval");

/// A 200 with these bytes. A message is delivered as text whatever it is, and
/// with `nosniff`: one peer must not be able to make another's browser take
/// it for a page.
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

/// A 200 that names a peer in `Pragma`: the sender of a message, or else the
/// receiver itself.
pub(super) fn reply_from(peer: PeerId, body: impl Into<Body>) -> Response {
    let mut response = reply(body);
    response
        .headers_mut()
        .insert(PRAGMA, HeaderValue::from(peer.get()));
    response
}

/// How long browsers may keep a script before they ask again: a new version of
/// the server has to reach its pages.
const SCRIPT_CACHING: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// A script for pages.
pub(super) fn script(script: &'static str) -> Response {
    let mut response = reply(script);
    let headers = response.headers_mut();
    let javascript = HeaderValue::from_static("text/javascript; charset=utf-8");
    headers.insert(CONTENT_TYPE, javascript);
    headers.insert(CACHE_CONTROL, SCRIPT_CACHING);
    response
}

/// Cross-Origin Resource Sharing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cors {
    /// Pages of every origin may use the server.
    AnyOrigin,
    /// Pages of these origins may, such as `https://example.org`.
    Origins(Vec<HeaderValue>),
    /// Only pages of the server's own origin may.
    Off,
}

/// Which pages of other origins may use the server.
pub(crate) fn cors_layer(cors: &Cors) -> Option<CorsLayer> {
    let (origins, vary) = match cors {
        Cors::Off => return None,
        Cors::AnyOrigin => (AllowOrigin::any(), vec![]),
        Cors::Origins(origins) => (
            AllowOrigin::list(origins.iter().cloned()),
            vec![axum::http::header::ORIGIN],
        ),
    };
    let layer = CorsLayer::new()
        .allow_origin(origins)
        // Mirrored, for a `*` does not cover `Authorization`.
        .allow_headers(AllowHeaders::mirror_request())
        .allow_methods(AllowMethods::mirror_request())
        .expose_headers([
            ALLOW,
            PRAGMA,
            RETRY_AFTER,
            MESSAGE_SEQ,
            PEER_TOKEN,
            HEARTBEAT_INTERVAL,
        ])
        .max_age(PREFLIGHT_AGE)
        .vary(vary);
    Some(layer)
}
