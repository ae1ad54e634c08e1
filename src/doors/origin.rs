//! Which pages may open a socket. Browsers ask no preflight for a WebSocket and
//! let any page open one, so that the server has to look itself.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap,
        header::{HOST, ORIGIN},
    },
    middleware::Next,
    response::Response,
};

use super::{RequestError, http::Cors};

/// Refuses the requests of pages that [`Cors`] does not let use the server. A
/// client that is no page names no origin.
pub(crate) async fn guard(
    State(cors): State<Arc<Cors>>,
    request: Request,
    next: Next,
) -> Result<Response, RequestError> {
    if may_use(&cors, request.headers()) {
        Ok(next.run(request).await)
    } else {
        Err(RequestError::ForeignOrigin)
    }
}

fn may_use(cors: &Cors, headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let is_listed = match cors {
        Cors::AnyOrigin => true,
        Cors::Origins(origins) => origins.contains(origin),
        Cors::Off => false,
    };
    is_listed || is_own(origin.as_bytes(), headers)
}

/// Whether the page comes from the server itself.
fn is_own(origin: &[u8], headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).map(|host| host.as_bytes());
    let scheme_end = origin.windows(3).position(|part| part == b"://");
    let origin_host = scheme_end.map(|end| &origin[end + 3..]);
    match (origin_host, host) {
        (Some(origin), Some(host)) => origin.eq_ignore_ascii_case(host),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(cors: &Cors, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "signal.example:3000".parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        may_use(cors, &headers)
    }

    #[test]
    fn pages_of_listed_origins_and_the_servers_own_may_open_sockets() {
        let listed = Cors::Origins(vec!["https://good.example".parse().unwrap()]);
        for cors in [&Cors::AnyOrigin, &listed, &Cors::Off] {
            assert!(may(cors, None));
            assert!(may(cors, Some("http://Signal.example:3000")));
        }
        for origin in ["https://evil.example", "null", "", "http://signal.example"] {
            assert!(may(&Cors::AnyOrigin, Some(origin)));
            assert!(!may(&listed, Some(origin)), "{origin}");
            assert!(!may(&Cors::Off, Some(origin)), "{origin}");
        }
        assert!(may(&listed, Some("https://good.example")));
        assert!(!may(&Cors::Off, Some("https://good.example")));
    }
}
