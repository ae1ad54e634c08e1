//! The page that a person sees who opens the server's address in a browser: join, see who is
//! here, and talk to one of them.

use axum::{
    Router,
    extract::{OriginalUri, Request},
    http::{
        HeaderName, HeaderValue, Method, StatusCode,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, LOCATION, UPGRADE},
    },
    middleware::Next,
    response::Response,
    routing::any,
};

use super::kit::{RequestError, only, reply::reply};

const HTML: &str = include_str!("page.html");

/// What the page loads: the path, the type, and the text.
const FILES: [(&str, &str, &str); 2] = [
    (
        "/page.css",
        "text/css; charset=utf-8",
        include_str!("page.css"),
    ),
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        include_str!("page.js"),
    ),
];

/// Nothing but what this server itself has, and no script or style within the page. (A page of
/// another origin must not show it in a frame, and get the camera by its name.)
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; media-src 'self' blob: mediastream:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// The routes of what the page loads.
pub(crate) fn routes() -> Router {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| {
            router.route(path, any(async move |request| serve(&request, kind, text)))
        })
}

/// Shows the page at the root of the server, or of a room, to a browser that wants to show
/// something. All other requests go on.
pub(crate) async fn show(request: Request, next: Next) -> Response {
    if !is_wanted(&request) {
        return next.run(request).await;
    }
    let original = request.extensions().get::<OriginalUri>();
    let path = original.map_or(request.uri().path(), |OriginalUri(uri)| uri.path());
    if let Some(name) = path.rsplit('/').next().filter(|name| !name.is_empty()) {
        return with_slash(name);
    }
    let mut response = with_type("text/html; charset=utf-8", HTML);
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("permissions-policy", "camera=(self), microphone=(self)"),
        ("referrer-policy", "no-referrer"),
        ("vary", "Accept"),
    ] {
        let name = HeaderName::from_static(name);
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Leads from `/rooms/NAME` to `/rooms/NAME/`, from where the page finds what it loads.
fn with_slash(name: &str) -> Response {
    let mut response = reply(());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    // It is the name of a room, of which every character is valid here.
    if let Ok(location) = HeaderValue::try_from(format!("{name}/")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

fn is_wanted(request: &Request) -> bool {
    let headers = request.headers();
    let accepted = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    [Method::GET, Method::HEAD].contains(request.method())
        && request.uri().path().ends_with('/')
        && !headers.contains_key(UPGRADE)
        && accepted.is_some_and(|accepted| accepted.contains("text/html"))
}

fn serve(
    request: &Request,
    kind: &'static str,
    text: &'static str,
) -> Result<Response, RequestError> {
    only(&[Method::GET, Method::HEAD], request)?;
    Ok(with_type(kind, text))
}

fn with_type(kind: &'static str, text: &'static str) -> Response {
    let mut response = reply(text);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // The next version of the server has another page.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
