//! Which pages of other origins may use the server. Browsers send no preflight for a
//! WebSocket, nor for what a form or an image could send, so that the server has to check
//! the origin itself.

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{
        HeaderMap, HeaderValue,
        header::{HOST, ORIGIN},
    },
    response::{IntoResponse, Response},
};
use tower::util::MapResponseLayer;
use tower_http::validate_request::ValidateRequestHeaderLayer;

use super::{RequestError, SignalOpts};

/// Which pages may use the server (Cross-Origin Resource Sharing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cors {
    /// Pages of every origin may use the server.
    AnyOrigin,
    /// Pages of these origins may, such as `https://example.org`, or
    /// `https://*.example.org` for all hosts below `example.org`.
    Origins(Vec<HeaderValue>),
    /// Only pages of the server's own origin may.
    Off,
}

impl Cors {
    /// Whether an origin is in the list, if Cors has one.
    pub(crate) fn lists(&self, origin: &HeaderValue) -> bool {
        match self {
            Cors::Origins(origins) => origins.iter().any(|listed| is_meant(listed, origin)),
            Cors::AnyOrigin | Cors::Off => false,
        }
    }
}

/// Whether an entry of the list matches this origin.
fn is_meant(listed: &HeaderValue, origin: &HeaderValue) -> bool {
    let listed = listed.as_bytes();
    let Some(star) = listed.windows(4).position(|part| part == b"//*.") else {
        return listed == origin;
    };
    let (scheme, host) = (&listed[..star + 2], &listed[star + 3..]);
    let below = origin.as_bytes().strip_prefix(scheme);
    let below = below.and_then(|below| below.strip_suffix(host));
    below.is_some_and(|name| {
        let is_plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !name.is_empty() && name.iter().all(is_plain)
    })
}

/// What all requests of a door pass: its answers are counted, and requests of pages that may
/// not use the server are refused. Clients other than pages
/// send no origin, and pass.
#[expect(clippy::result_large_err, reason = "tower-http has it so")]
#[expect(clippy::type_complexity, reason = "closures have no names")]
pub(crate) fn guard(
    opts: &SignalOpts,
    door: &'static str,
) -> (
    MapResponseLayer<impl FnMut(Response) -> Response + Clone + use<>>,
    ValidateRequestHeaderLayer<impl Fn(&mut Request) -> Result<(), Response> + Clone + use<>>,
) {
    let answers = opts.counts.answers_of(door);
    let counting = MapResponseLayer::new(move |answer: Response| {
        answers.count(&answer);
        answer
    });
    let cors = Arc::new(opts.enable_cors.clone());
    let checking = ValidateRequestHeaderLayer::custom(move |request: &mut Request| {
        if may_use(&cors, request.headers()) {
            Ok(())
        } else {
            Err(RequestError::ForeignOrigin.into_response())
        }
    });
    (counting, checking)
}

fn may_use(cors: &Cors, headers: &HeaderMap) -> bool {
    if *cors == Cors::AnyOrigin {
        return true;
    }
    let Some(origin) = headers.get(ORIGIN) else {
        // Images and links send no origin; browsers mark them with `Sec-Fetch-Site`,
        // except on plain http.
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        return !matches!(site, Some(b"cross-site" | b"same-site"));
    };
    cors.lists(origin) || is_own(origin.as_bytes(), headers)
}

/// Whether the page comes from this server.
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

    #[test]
    fn a_star_means_the_hosts_below() {
        let listed = Cors::Origins(vec!["https://*.good.example:8443".parse().unwrap()]);
        for origin in [
            "https://a.good.example:8443",
            "https://a.b.good.example:8443",
        ] {
            assert!(may(&listed, Some(origin)), "{origin}");
        }
        for origin in [
            "https://good.example:8443",
            "https://.good.example:8443",
            "https://evilgood.example:8443",
            "https://a.good.example",
            "http://a.good.example:8443",
            "https://evil.example/.good.example:8443",
            "https://evil@a.good.example:8443",
        ] {
            assert!(!may(&listed, Some(origin)), "{origin}");
        }
    }

    #[test]
    fn a_request_of_another_site_that_names_no_origin_is_a_pages_too() {
        let listed = Cors::Origins(vec!["https://good.example".parse().unwrap()]);
        let may = |cors: &Cors, site: &'static str| {
            may_use(
                cors,
                &HeaderMap::from_iter([(
                    axum::http::HeaderName::from_static("sec-fetch-site"),
                    HeaderValue::from_static(site),
                )]),
            )
        };
        for cors in [&listed, &Cors::Off] {
            assert!(may(cors, "none") && may(cors, "same-origin"));
            assert!(!may(cors, "cross-site") && !may(cors, "same-site"));
        }
        assert!(may(&Cors::AnyOrigin, "cross-site"));
    }
}
