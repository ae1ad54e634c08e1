//! The reasons for which a request can be refused, and the status and text of each.

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{
        Method, StatusCode,
        header::{
            ALLOW, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, WWW_AUTHENTICATE,
        },
    },
    response::{IntoResponse, Response},
};

use tracing::debug;

use super::reply::{self, reply};
use crate::{
    access::Denied,
    peer_list::{Refusal, RoomNameError, Unread},
};

/// Why a request was refused. A refused request has changed nothing, except that what was
/// asked of a list that cannot be reached may have been done ([`Refusal::Unavailable`]).
///
/// The status is never one that clients take for success or that stops them for ever: bad
/// input is a 4xx. No error is a 500, because one client family polls again at once after
/// a 500 and another stops for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestError {
    MissingName,
    MissingId(&'static str),
    MalformedId(&'static str),
    MalformedNumber(&'static str),
    MissingNumber(&'static str),
    /// The request has no Host header, several, or one that is not valid.
    BadHost,
    /// The body has a transfer coding other than chunked.
    BadTransferEncoding,
    /// The named parameter is above this maximum.
    TooHigh(&'static str, u64),
    /// The request shows no token, although its peer is protected or tokens are required.
    MissingToken,
    /// The token does not belong to the peer.
    WrongToken,
    /// The peer belongs to another user.
    OtherUser,
    /// Access control does not let the client in.
    Denied(Denied),
    Repeated(&'static str),
    /// The named parameter is the id of a peer that is not signed in.
    NotSignedIn(&'static str),
    ServerFull,
    RoomFull,
    /// The address of the client has as many peers as it may have.
    NetworkFull,
    /// The part of the path after `/rooms/` is not the name of a room.
    BadRoomName,
    /// The named parameter is not the name of a room.
    #[cfg(feature = "operator")]
    MalformedRoom(&'static str),
    /// The named parameter makes no sense in this request.
    #[cfg(feature = "operator")]
    Unfit(&'static str),
    /// Clients may not use the room.
    NoSuchRoom,
    MailboxFull,
    /// The number of a message is 0.
    MalformedSeq,
    /// A message has a lower `seq` than the last of its sender.
    OutOfOrder,
    /// The list is in a state that does not allow the request.
    Conflict(Refusal),
    /// The peer list is on another machine and cannot be reached.
    Unavailable,
    /// Clients make the server hold as much as it may.
    OutOfMemory,
    TooLarge {
        limit: usize,
    },
    /// The body did not arrive in time.
    BodyTooSlow,
    /// The body is not framed as its headers say.
    BrokenBody,
    /// The path takes only these methods.
    MethodNotAllowed(&'static [Method]),
    /// It names the paths that there are.
    NotFound(Arc<str>),
    /// The path is for upgrades only.
    OnlyWebSockets,
    /// The client speaks another version of the WebSocket protocol.
    WebSocketVersion,
    /// The opening handshake of a WebSocket lacks what RFC 6455 demands.
    BrokenHandshake,
    /// Pages of this origin may not use the server.
    ForeignOrigin,
    /// The operator's API is not for pages.
    #[cfg(feature = "operator")]
    OperatorsOnly,
    /// The operator's token is missing or wrong.
    #[cfg(feature = "operator")]
    Unauthorized,
}

impl RequestError {
    fn status(&self) -> StatusCode {
        match self {
            Self::MissingName
            | Self::MissingId(_)
            | Self::MalformedId(_)
            | Self::MalformedNumber(_)
            | Self::MissingNumber(_)
            | Self::BadHost
            | Self::BadTransferEncoding
            | Self::MalformedSeq
            | Self::TooHigh(..)
            | Self::Repeated(_)
            | Self::BrokenHandshake
            | Self::BrokenBody => StatusCode::BAD_REQUEST,
            Self::WebSocketVersion => StatusCode::UPGRADE_REQUIRED,
            Self::NotSignedIn(_)
            | Self::NotFound(_)
            | Self::BadRoomName
            | Self::NoSuchRoom
            | Self::OnlyWebSockets => StatusCode::NOT_FOUND,
            Self::ForeignOrigin | Self::MissingToken | Self::WrongToken | Self::OtherUser => {
                StatusCode::FORBIDDEN
            }
            Self::Denied(denied) => match denied {
                Denied::Missing | Denied::Invalid | Denied::Expired | Denied::TooEarly => {
                    StatusCode::UNAUTHORIZED
                }
                Denied::Room | Denied::Name | Denied::Refused => StatusCode::FORBIDDEN,
                Denied::TooOften { .. } => StatusCode::TOO_MANY_REQUESTS,
                Denied::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            },
            #[cfg(feature = "operator")]
            Self::MalformedRoom(_) | Self::Unfit(_) => StatusCode::BAD_REQUEST,
            #[cfg(feature = "operator")]
            Self::OperatorsOnly => StatusCode::FORBIDDEN,
            #[cfg(feature = "operator")]
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::OutOfOrder | Self::Conflict(_) => StatusCode::CONFLICT,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::NetworkFull => StatusCode::TOO_MANY_REQUESTS,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ServerFull
            | Self::RoomFull
            | Self::MailboxFull
            | Self::Unavailable
            | Self::OutOfMemory => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The text is never blank: the JavaScript client starts a second poll loop after a
    /// blank one.
    fn line(&self) -> String {
        match self {
            Self::MissingName => "the name is missing: sign in with ?peer_name=NAME".into(),
            Self::MissingId(name) => format!("{name} is missing: expected the ID of a peer"),
            Self::MalformedId(name) => {
                format!(
                    "{name} is not a valid peer ID: expected a whole number from 1 to 2147483647"
                )
            }
            Self::MalformedNumber(name) => {
                format!("{name} is not a valid number: expected a whole number of 0 or more")
            }
            Self::MissingNumber(name) => {
                format!("{name} is missing: expected a whole number of 0 or more")
            }
            Self::BadHost => {
                "an HTTP/1.1 request needs exactly one Host header, with a valid host".into()
            }
            Self::BadTransferEncoding => {
                "the only Transfer-Encoding here is chunked: use it, or send a Content-Length"
                    .into()
            }
            Self::TooHigh(name, highest) => format!("{name} is too high: at most {highest}"),
            Self::MissingToken => {
                "the peer's token is missing: send the X-Peer-Token header that its sign-in \
                 returned"
                    .into()
            }
            Self::WrongToken => {
                "the token does not belong to the peer: sign in again, without peer_id and token"
                    .into()
            }
            Self::OtherUser => {
                "the peer belongs to another user: sign in again, without peer_id and token".into()
            }
            Self::Denied(denied) => format!("{denied}: {}", way_out(*denied)),
            Self::Repeated(name) => format!("{name} is given more than once: send it once"),
            Self::NotSignedIn(name) => format!("the peer in {name} is not signed in"),
            Self::ServerFull => "the server is full: try again later".into(),
            Self::RoomFull => "the room is full: try again later".into(),
            Self::NetworkFull => {
                "too many peers of your address are signed in: sign one out".into()
            }
            Self::BadRoomName => format!("{RoomNameError}: use a path such as /rooms/NAME/sign_in"),
            #[cfg(feature = "operator")]
            Self::Unfit(name) => format!("{name} cannot be used here: leave it out"),
            #[cfg(feature = "operator")]
            Self::MalformedRoom(name) => format!("{name} is not valid: {RoomNameError}"),
            Self::NoSuchRoom => "this server does not have that room".into(),
            Self::MailboxFull => {
                "the receiver's mailbox is full: try again when the receiver has polled".into()
            }
            Self::MalformedSeq => "seq is 0: messages are numbered from 1".into(),
            Self::OutOfOrder => {
                "seq is lower than that of an earlier message: send one message after the other"
                    .into()
            }
            Self::Conflict(refusal) => refusal.to_string(),
            Self::Unavailable => {
                "the peer list cannot be reached, or its Redis is out of memory: try again soon"
                    .into()
            }
            Self::OutOfMemory => {
                "the server is out of memory for its clients: try again soon".into()
            }
            Self::TooLarge { limit } => {
                format!("the message is too large: send at most {limit} bytes")
            }
            Self::BodyTooSlow => "the message did not arrive in time: send it again".into(),
            Self::BrokenBody => {
                "the length or the chunks of the message are not as its headers say".into()
            }
            Self::MethodNotAllowed(allowed) => {
                format!("this path takes only {}", names(allowed, " or "))
            }
            Self::NotFound(paths) => format!("this path does not exist: there are {paths}"),
            Self::OnlyWebSockets => {
                "this path takes only WebSockets: connect with ws: or wss:".into()
            }
            Self::WebSocketVersion => {
                "the server speaks only version 13 of the WebSocket protocol (RFC 6455)".into()
            }
            Self::BrokenHandshake => {
                "this is not a valid WebSocket handshake: send a GET in HTTP/1.1 \
                 with Connection: Upgrade and a Sec-WebSocket-Key of 16 bytes in base64"
                    .into()
            }
            #[cfg(feature = "operator")]
            Self::Unauthorized => {
                "the operator's token is missing or wrong: send Authorization: Bearer TOKEN".into()
            }
            #[cfg(feature = "operator")]
            Self::OperatorsOnly => {
                "pages may not use the operator's API: call it from your backend".into()
            }
            Self::ForeignOrigin => {
                "pages of this origin may not use the server: its operator can allow them in \
                 WEBRTC_CORS"
                    .into()
            }
        }
    }

    /// The name of the error, if clients need to tell it from others with the same
    /// status. A message that was refused because of a full mailbox was not accepted;
    /// after a 503 of the list, or of a proxy on the way, it may have been.
    fn code(&self) -> Option<(HeaderName, HeaderValue)> {
        let is_full = matches!(self, Self::MailboxFull);
        is_full.then(|| (reply::ERROR, HeaderValue::from_static("mailbox_full")))
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::ServerFull
            | Self::RoomFull
            | Self::NetworkFull
            | Self::MailboxFull
            | Self::Unavailable
            | Self::OutOfMemory => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            #[cfg(feature = "operator")]
            Self::Unauthorized => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Self::Denied(Denied::TooOften { seconds }) => {
                Some((RETRY_AFTER, HeaderValue::from(*seconds)))
            }
            Self::Denied(Denied::Unavailable) => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
            Self::Denied(_) if self.status() == StatusCode::UNAUTHORIZED => {
                Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
            }
            Self::WebSocketVersion => Some((SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))),
            Self::MethodNotAllowed(allowed) => {
                let allowed = HeaderValue::try_from(names(allowed, ", "));
                allowed.ok().map(|allowed| (ALLOW, allowed))
            }
            _ => None,
        }
    }
}

/// What a client can do that may not come in.
fn way_out(denied: Denied) -> &'static str {
    match denied {
        Denied::Missing => "send Authorization: Bearer TOKEN, or access_token=TOKEN in the query",
        Denied::Invalid | Denied::Expired => "get another one",
        Denied::TooEarly => "wait, or set the clock",
        Denied::Room => "use a room that it names",
        Denied::Name => "use the name that it names",
        Denied::Refused => "ask its operator",
        Denied::TooOften { .. } => "wait a little",
        Denied::Unavailable => "try again soon",
    }
}

/// Refuses a request whose method the path does not take.
pub(crate) fn only(allowed: &'static [Method], request: &Request) -> Result<(), RequestError> {
    if allowed.contains(request.method()) {
        Ok(())
    } else {
        Err(RequestError::MethodNotAllowed(allowed))
    }
}

fn names(methods: &[Method], separator: &str) -> String {
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    names.join(separator)
}

impl RequestError {
    /// Why a message was not read, if that is what this says.
    pub fn unread(&self) -> Option<Unread> {
        match self {
            Self::TooLarge { .. } => Some(Unread::TooLarge),
            Self::BodyTooSlow => Some(Unread::TooSlow),
            Self::OutOfMemory => Some(Unread::OutOfMemory),
            _ => None,
        }
    }
}

impl IntoResponse for RequestError {
    fn into_response(self) -> Response {
        let (line, status) = (self.line(), self.status());
        debug!(status = status.as_u16(), why = line, "request refused");
        let mut response = reply(line + "\n");
        *response.status_mut() = status;
        response.headers_mut().extend(self.header());
        response.headers_mut().extend(self.code());
        response
    }
}

impl From<Refusal> for RequestError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoName => Self::MissingName,
            Refusal::Full => Self::ServerFull,
            Refusal::RoomFull => Self::RoomFull,
            Refusal::NetworkFull => Self::NetworkFull,
            Refusal::UnknownPeer => Self::NotSignedIn("`peer_id`"),
            Refusal::UnknownReceiver => Self::NotSignedIn("`to`"),
            Refusal::WrongToken => Self::WrongToken,
            Refusal::OtherUser => Self::OtherUser,
            Refusal::MissingToken => Self::MissingToken,
            Refusal::MailboxFull => Self::MailboxFull,
            Refusal::OutOfOrder => Self::OutOfOrder,
            Refusal::NameTaken | Refusal::TooManyNames => Self::Conflict(refusal),
            Refusal::Unavailable => Self::Unavailable,
            Refusal::OutOfMemory => Self::OutOfMemory,
        }
    }
}
