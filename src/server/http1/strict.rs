//! Rules of HTTP for the headers of a request that hyper does not check.

use axum::http::{
    HeaderMap, HeaderValue, Request, Version,
    header::{HOST, TRANSFER_ENCODING},
    uri::Authority,
};

use crate::doors::kit::RequestError;

/// Checks a request: if two servers read one request differently, another request can be
/// smuggled past the first.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), RequestError> {
    let headers = request.headers();
    if !has_one_host(headers, request.version()) {
        return Err(RequestError::BadHost);
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).into_iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(RequestError::BadTransferEncoding),
    }
}

/// RFC 9112, section 3.2: a request in HTTP/1.1 has exactly one valid `Host`. (Stock
/// native clients speak HTTP/1.0 and send none.)
fn has_one_host(headers: &HeaderMap, version: Version) -> bool {
    let mut hosts = headers.get_all(HOST).into_iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => is_host(host),
        (None, _) => version == Version::HTTP_10,
        (Some(_), Some(_)) => false,
    }
}

/// Whether this is `HOST` or `HOST:PORT`; it may be empty.
fn is_host(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    if value.is_empty() {
        return true;
    }
    let authority = Authority::try_from(value);
    authority.is_ok_and(|authority| {
        let host = authority.host();
        let port = authority.as_str().strip_prefix(host);
        // What remains has no user, and no port that is not a number.
        !host.is_empty() && port.is_some_and(|port| port.is_empty() || is_port(port))
    })
}

fn is_port(text: &str) -> bool {
    let digits = text.strip_prefix(':');
    digits.is_some_and(|digits| digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(version: Version, hosts: &[&str]) -> bool {
        let mut request = Request::new(());
        *request.version_mut() = version;
        for host in hosts {
            request.headers_mut().append(HOST, host.parse().unwrap());
        }
        check(&request).is_ok()
    }

    #[test]
    fn a_request_in_http_1_1_names_one_valid_host() {
        for host in [
            "x",
            "example.org",
            "example.org:80",
            "[::1]:3000",
            "127.0.0.1",
            "a_b",
            "",
        ] {
            assert!(hosts(Version::HTTP_11, &[host]), "{host}");
        }
        for host in [
            "a b", "user@a", "a:x", "a:1:2", "a/b", "[::1", ":80", "a:999999", "é",
        ] {
            assert!(!hosts(Version::HTTP_11, &[host]), "{host}");
        }
        assert!(!hosts(Version::HTTP_11, &[]));
        assert!(!hosts(Version::HTTP_11, &["a", "a"]));
        assert!(hosts(Version::HTTP_10, &[]));
        assert!(!hosts(Version::HTTP_10, &["a", "b"]));
    }

    #[test]
    fn a_body_is_encoded_in_chunks_or_not_at_all() {
        let check = |encodings: &[&str]| {
            let mut request = Request::new(());
            request.headers_mut().insert(HOST, "x".parse().unwrap());
            for encoding in encodings {
                let headers = request.headers_mut();
                headers.append(TRANSFER_ENCODING, encoding.parse().unwrap());
            }
            check(&request).is_ok()
        };
        assert!(check(&[]) && check(&["chunked"]) && check(&["Chunked"]));
        for bad in [
            &["gzip, chunked"][..],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["identity"],
            &["x\tchunked"],
            &[""],
        ] {
            assert!(!check(bad), "{bad:?}");
        }
    }
}
