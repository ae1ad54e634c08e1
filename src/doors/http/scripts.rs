//! The scripts for pages, and how long browsers may keep them.

use axum::{
    Router,
    extract::Request,
    http::{
        HeaderValue, Method,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::Response,
    routing::any,
};

use crate::doors::kit::{RequestError, only, query::Query, reply::script};

/// The path and the text of each.
const SCRIPTS: [(&str, &str); 6] = [
    ("/client.js", include_str!("client.js")),
    ("/client.d.ts", include_str!("client.d.ts")),
    ("/rtc.js", include_str!("rtc.js")),
    ("/rtc.d.ts", include_str!("rtc.d.ts")),
    ("/heartbeat.js", include_str!("heartbeat.js")),
    ("/heartbeat.d.ts", include_str!("heartbeat.d.ts")),
];

/// A script that is requested with its version never changes.
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// The routes of the scripts. If the query has the server's version as `v`, browsers may
/// keep the script for ever, otherwise for five minutes.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    SCRIPTS
        .into_iter()
        .fold(Router::new(), |router, (path, text)| {
            router.route(path, any(async move |request| serve(&request, path, text)))
        })
}

fn serve(request: &Request, path: &str, text: &'static str) -> Result<Response, RequestError> {
    only(&[Method::GET, Method::HEAD], request)?;
    let version = Query::of(request).text("v")?;
    let mut response = script(text);
    if path.ends_with(".d.ts") {
        // TypeScript has no media type.
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
    }
    if version.is_some_and(|version| version == env!("CARGO_PKG_VERSION")) {
        response.headers_mut().insert(CACHE_CONTROL, FOR_EVER);
    }
    Ok(response)
}
