//! The page that a person sees who opens the server's address in a browser: join, see who is
//! here, and talk to one of them.

use axum::{
    Router,
    extract::{OriginalUri, Request},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
        header::{ACCEPT, CACHE_CONTROL, LOCATION, UPGRADE},
    },
    middleware::Next,
    response::Response,
    routing::any,
};

use super::kit::{RequestError, asset::Asset, only, reply::reply};

static HTML: Asset = Asset::new("text/html; charset=utf-8", include_str!("page.html"));

/// Also that of the operator's page.
pub(crate) static STYLE: Asset = Asset::new("text/css; charset=utf-8", include_str!("page.css"));
static SCRIPT: Asset = Asset::script(include_str!("page.js"));

/// Nothing but what this server itself has, and no script or style within the page. (A page of
/// another origin must not show it in a frame, and get the camera by its name.)
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; media-src 'self' blob: mediastream:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// The routes of what the page loads.
pub(crate) fn routes() -> Router {
    [("/page.css", &STYLE), ("/page.js", &SCRIPT)]
        .into_iter()
        .fold(Router::new(), |router, (path, asset)| {
            router.route(path, any(async move |request| serve(&request, asset)))
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
    let mut response = shown(&HTML, request.headers());
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("permissions-policy", "camera=(self), microphone=(self)"),
        ("referrer-policy", "no-referrer"),
        ("vary", "Accept"),
    ] {
        let name = HeaderName::from_static(name);
        let value = HeaderValue::from_static(value);
        response.headers_mut().append(name, value);
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

fn serve(request: &Request, asset: &'static Asset) -> Result<Response, RequestError> {
    only(&[Method::GET, Method::HEAD], request)?;
    Ok(shown(asset, request.headers()))
}

fn shown(asset: &'static Asset, headers: &HeaderMap) -> Response {
    let mut response = asset.reply(headers);
    // The next version of the server has another page.
    let again = HeaderValue::from_static("no-cache");
    response.headers_mut().insert(CACHE_CONTROL, again);
    response
}
