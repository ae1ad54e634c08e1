//! The scripts for pages, and how long browsers may keep them.

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, Method, header::CACHE_CONTROL},
    response::Response,
    routing::any,
};

use crate::doors::kit::{
    RequestError,
    asset::{Asset, script},
    only,
    query::Query,
};

static SCRIPTS: [(&str, Asset); 6] = [
    (
        "/client.js",
        Asset::script(include_str!("../../../packages/client/client.js")),
    ),
    (
        "/client.d.ts",
        types(include_str!("../../../packages/client/client.d.ts")),
    ),
    (
        "/rtc.js",
        Asset::script(include_str!("../../../packages/client/rtc.js")),
    ),
    (
        "/rtc.d.ts",
        types(include_str!("../../../packages/client/rtc.d.ts")),
    ),
    (
        "/heartbeat.js",
        Asset::script(include_str!("../../../packages/client/heartbeat.js")),
    ),
    (
        "/heartbeat.d.ts",
        types(include_str!("../../../packages/client/heartbeat.d.ts")),
    ),
];

/// TypeScript has no media type.
const fn types(text: &'static str) -> Asset {
    Asset::new("text/plain; charset=utf-8", text)
}

/// A script that is requested with its version never changes.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// The routes of the scripts. If the query has the server's version as `v`, browsers may
/// keep the script for ever, otherwise for five minutes.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    SCRIPTS.iter().fold(Router::new(), |router, (path, asset)| {
        router.route(path, any(async move |request| serve(&request, asset)))
    })
}

fn serve(request: &Request, asset: &'static Asset) -> Result<Response, RequestError> {
    only(&[Method::GET, Method::HEAD], request)?;
    let version = Query::of(request).text("v")?;
    let mut response = script(asset, request.headers());
    if version.is_some_and(|version| version == env!("CARGO_PKG_VERSION")) {
        response.headers_mut().insert(CACHE_CONTROL, FOR_EVER);
    }
    Ok(response)
}
