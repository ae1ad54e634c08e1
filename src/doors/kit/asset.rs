//! Files for pages that are part of the binary, compressed for browsers that take it.

use std::{io::Write, sync::OnceLock};

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY},
    },
    response::Response,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

use super::reply::reply;

/// The header that says which pages may load a resource.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// How long browsers may keep a script before they ask again: pages have to get the
/// script of a new version soon.
const SCRIPT_CACHING: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// A file, and its compressed form once somebody has asked for it: compressing it for each
/// request would cost more than all else that the server does for a page.
pub(crate) struct Asset {
    kind: &'static str,
    text: &'static str,
    compressed: OnceLock<Bytes>,
}

impl Asset {
    pub const fn new(kind: &'static str, text: &'static str) -> Self {
        Self {
            kind,
            text,
            compressed: OnceLock::new(),
        }
    }

    pub const fn script(text: &'static str) -> Self {
        Self::new("text/javascript; charset=utf-8", text)
    }

    /// The answer to a request with these headers.
    pub fn reply(&'static self, headers: &HeaderMap) -> Response {
        let compressed = takes_gzip(headers).then(|| self.compressed());
        let mut response = match &compressed {
            Some(compressed) => reply(Body::from((*compressed).clone())),
            None => reply(self.text),
        };
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        if compressed.is_some() {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    fn compressed(&self) -> &Bytes {
        self.compressed.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            // A Vec takes all that is written to it.
            let written = encoder.write_all(self.text.as_bytes());
            let compressed = written.and_then(|()| encoder.finish());
            compressed.unwrap_or_default().into()
        })
    }
}

/// A script for pages, as the answer to a request with these headers.
pub(crate) fn script(script: &'static Asset, headers: &HeaderMap) -> Response {
    let mut response = script.reply(headers);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, SCRIPT_CACHING);
    // A page that is isolated (COEP), as pages of Unity with threads are, loads no
    // others.
    headers.insert(RESOURCE_POLICY, HeaderValue::from_static("cross-origin"));
    response
}

/// Whether gzip is in the list of encodings, and not refused (RFC 9110, 12.5.3). Browsers name
/// it; a client that takes any encoding (`*`) is given the text.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT_ENCODING).iter();
    let mut encodings = lists
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','));
    encodings.any(|encoding| {
        let (name, weight) = encoding.split_once(';').unwrap_or((encoding, ""));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        let is_refused = weight.parse() == Ok(0.0_f32);
        name.trim().eq_ignore_ascii_case("gzip") && !is_refused
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;
    use http_body_util::BodyExt;

    use super::*;

    static ASSET: Asset =
        Asset::script("the text, the text, the text, the text, the text, the text");

    async fn asked_with(accepted: Option<&'static str>) -> (Option<HeaderValue>, Bytes) {
        let mut headers = HeaderMap::new();
        if let Some(accepted) = accepted {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accepted));
        }
        let response = ASSET.reply(&headers);
        assert_eq!(response.headers()[VARY], "Accept-Encoding");
        let encoding = response.headers().get(CONTENT_ENCODING).cloned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (encoding, body)
    }

    #[tokio::test]
    async fn a_client_that_takes_gzip_is_given_it_and_others_the_text() {
        for accepted in ["gzip", "br, GZIP;q=0.5", "deflate , gzip ;q=1"] {
            let (encoding, body) = asked_with(Some(accepted)).await;
            assert_eq!(encoding.unwrap(), "gzip", "{accepted}");
            let mut text = String::new();
            GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
            assert_eq!(text, ASSET.text);
        }
        for accepted in [
            None,
            Some(""),
            Some("br"),
            Some("gzip;q=0"),
            Some("gzip; q=0.000"),
            Some("*"),
        ] {
            let (encoding, body) = asked_with(accepted).await;
            assert_eq!(
                (encoding, &*body),
                (None, ASSET.text.as_bytes()),
                "{accepted:?}"
            );
        }
    }
}
