//! The operator's page, at the root of the operator's listener: who is signed in, and a few
//! numbers. It has no rights of its own: it shows the operator's token to the API.

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue, Method, header::CACHE_CONTROL},
    response::Response,
    routing::any,
};

use crate::doors::{
    kit::{RequestError, asset::Asset, only},
    page::STYLE,
};

static HTML: Asset = Asset::new("text/html; charset=utf-8", include_str!("page.html"));
static SCRIPT: Asset = Asset::script(include_str!("operator.js"));

/// Nothing but what this listener has, and no script or style within the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page and what it loads; they tell nothing, and need no token.
pub(super) fn routes() -> Router {
    [
        ("/", &HTML),
        ("/page.css", &STYLE),
        ("/operator.js", &SCRIPT),
    ]
    .into_iter()
    .fold(Router::new(), |router, (path, asset)| {
        router.route(path, any(async move |request| serve(&request, asset)))
    })
}

fn serve(request: &Request, asset: &'static Asset) -> Result<Response, RequestError> {
    only(&[Method::GET, Method::HEAD], request)?;
    let mut response = asset.reply(request.headers());
    let headers = response.headers_mut();
    // The next version of the server has another page.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("referrer-policy", "no-referrer"),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    Ok(response)
}
