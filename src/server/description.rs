//! The description of all requests, for people and for tools that make clients of it.

use axum::{Router, extract::Request, http::Method, response::Response, routing::any};

use crate::doors::kit::{RequestError, asset::Asset, only};

/// The media type is that of RFC 9512.
static DESCRIPTION: Asset = Asset::new("application/yaml", include_str!("../../openapi.yml"));

/// `/openapi.yml`.
pub(super) fn routes() -> Router {
    Router::new().route("/openapi.yml", any(serve))
}

async fn serve(request: Request) -> Result<Response, RequestError> {
    only(&[Method::GET, Method::HEAD], &request)?;
    Ok(DESCRIPTION.reply(request.headers()))
}
