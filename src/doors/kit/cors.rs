//! What browsers are told about pages of other origins (CORS).

use std::time::Duration;

use axum::http::header::{ALLOW, HeaderName, ORIGIN, PRAGMA, RETRY_AFTER};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use super::{
    origin::Cors,
    reply::{ERROR, HEARTBEAT_INTERVAL, MESSAGE_SEQ, PEER_TOKEN},
};

/// How long browsers may remember a preflight's answer (Chromium's maximum).
const PREFLIGHT_AGE: Duration = Duration::from_secs(7200);

/// Which pages of other origins may use the server.
pub(crate) fn cors_layer(cors: &Cors) -> Option<CorsLayer> {
    match cors {
        Cors::Off => None,
        Cors::AnyOrigin => Some(layer(AllowOrigin::any(), vec![])),
        Cors::Origins(_) => Some(layer(listed(cors), vec![ORIGIN])),
    }
}

/// The CORS layer for requests that browsers send with credentials, which socket.io's
/// clients 1 and 2 always do: they do not accept `*` in an answer.
#[cfg(feature = "socketio")]
pub(crate) fn cors_layer_with_credentials(cors: &Cors) -> Option<CorsLayer> {
    let origins = match cors {
        Cors::Off => return None,
        Cors::AnyOrigin => AllowOrigin::mirror_request(),
        Cors::Origins(_) => listed(cors),
    };
    Some(layer(origins, vec![ORIGIN]).allow_credentials(true))
}

fn listed(cors: &Cors) -> AllowOrigin {
    let cors = cors.clone();
    AllowOrigin::predicate(move |origin, _| cors.lists(origin))
}

fn layer(origins: AllowOrigin, vary: Vec<HeaderName>) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(origins)
        // Mirrored, because a `*` does not cover `Authorization`.
        .allow_headers(AllowHeaders::mirror_request())
        .allow_methods(AllowMethods::mirror_request())
        .expose_headers([
            ALLOW,
            PRAGMA,
            RETRY_AFTER,
            MESSAGE_SEQ,
            PEER_TOKEN,
            HEARTBEAT_INTERVAL,
            ERROR,
        ])
        .max_age(PREFLIGHT_AGE)
        .vary(vary)
}
