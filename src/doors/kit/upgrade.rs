//! The opening handshake of a WebSocket (RFC 6455, section 4.2).

use axum::{
    extract::Request,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version,
        header::{
            CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
            SEC_WEBSOCKET_VERSION, UPGRADE,
        },
    },
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tracing::Span;
use tungstenite::handshake::derive_accept_key;

use super::{RequestError, log::spawn};

/// The stream of a connection that became a WebSocket.
pub(crate) type Stream = TokioIo<Upgraded>;

/// A valid request to become a WebSocket.
pub(crate) struct Upgrade {
    upgraded: OnUpgrade,
    accept: HeaderValue,
    protocol: Option<HeaderValue>,
}

/// Whether a request asks to become a WebSocket.
pub(crate) fn is_asked_for(headers: &HeaderMap) -> bool {
    has_token(headers, &UPGRADE, "websocket")
}

impl Upgrade {
    /// Checks the handshake.
    ///
    /// # Errors
    ///
    /// What RFC 6455 requires and the request lacks.
    pub fn of(request: &mut Request) -> Result<Self, RequestError> {
        let headers = request.headers();
        let version = headers.get(SEC_WEBSOCKET_VERSION);
        if version.is_some_and(|version| version != "13") {
            return Err(RequestError::WebSocketVersion);
        }
        let is_in_order = version.is_some()
            && request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && has_token(headers, &CONNECTION, "upgrade");
        let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
        let key = key.filter(|key| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16));
        let accept = key.and_then(|key| HeaderValue::try_from(derive_accept_key(key)).ok());
        let protocol = first_protocol(headers);
        let upgraded = request.extensions_mut().remove::<OnUpgrade>();
        match (is_in_order, accept, upgraded) {
            (true, Some(accept), Some(upgraded)) => Ok(Self {
                upgraded,
                accept,
                protocol,
            }),
            _ => Err(RequestError::BrokenHandshake),
        }
    }

    /// Accepts the handshake. `serve` gets the stream once the answer is written.
    pub fn accept<F>(self, serve: impl FnOnce(Stream) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send,
    {
        let Self {
            upgraded,
            accept,
            protocol,
        } = self;
        let serving = async move {
            // An error means that the client left before it had the answer.
            if let Ok(stream) = upgraded.await {
                serve(TokioIo::new(stream)).await;
            }
        };
        spawn(serving, Span::current());
        let mut response = Response::default();
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}

/// The first subprotocol that a client offers. Browsers close the connection if they
/// offered some and the server chose none; npm `ws`, which signal-fire uses, chooses the
/// first.
fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(SEC_WEBSOCKET_PROTOCOL)?.as_bytes();
    let first = offered.split(|byte| *byte == b',').next()?.trim_ascii();
    HeaderValue::from_bytes(first)
        .ok()
        .filter(|first| !first.is_empty())
}

/// Whether a header with a comma-separated list contains this word.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter();
    let mut tokens = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    tokens.any(|found| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}
