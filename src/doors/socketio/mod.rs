//! The Socket.IO door: the events of `simple_webrtc_signaling_server` and of
//! Reliable-Signaler, in the namespace `/`.
//!
//! | event | verb |
//! |---|---|
//! | connect | `add_member` |
//! | `ready` | `list_member` |
//! | `message` | `broadcast` |
//! | `messageOne` | `send_to_member`, `send` |
//! | `keep-in-server`, `keep-session` | `keep_room` |
//! | `get-session-info` | `ask_for_room` |
//! | disconnect | `remove_peer` |

mod call;
mod events;
mod member;

use std::{fmt, future::ready, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, Method, header::CONTENT_TYPE},
    response::Response,
    routing::any,
};
use serde::Deserialize;
use socketioxide::{
    SocketIo,
    extract::{SocketRef, TryData},
    handler::ConnectHandler,
    socket::DisconnectReason,
};
use subtle::ConstantTimeEq;

use super::{
    RequestError, only,
    push::{Return, ping_interval},
    reply::{self, reply},
};
use crate::peer_list::{PeerError, TimeoutPeerList};
use call::{Call, Gone, calls};

/// A small client of our own, for pages that have none.
const CLIENT: &str = include_str!("client.js");

/// Reliable-Signaler's script, which brings the client along.
const SIGNALER: &str = concat!(include_str!("client.js"), include_str!("signaler.js"));

/// How many packets a socket may have besides its mailbox, which counts bytes.
/// The library closes a socket whose buffer is full when it is to be pinged,
/// so it must have room for a burst.
const BUFFERED_PACKETS: usize = 128;

/// What a client sent may wait to be obeyed, up to so many times the bound of a
/// mailbox: the library reads on whatever waits.
const UNOBEYED_MAILBOXES: usize = 8;

/// How long a client may take to answer a ping, as in the original.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The routes of this door. With a token, only clients that send it as
/// `auth.token` may connect.
pub(crate) fn routes(
    peer_list: TimeoutPeerList,
    max_message_bytes: usize,
    token: Option<String>,
) -> Router {
    let (service, io) = SocketIo::builder()
        .ping_interval(ping_interval(&peer_list))
        .ping_timeout(PING_TIMEOUT)
        .max_buffer_size(BUFFERED_PACKETS)
        .max_payload(u64::try_from(max_message_bytes).unwrap_or(u64::MAX))
        .ws_max_message_size(max_message_bytes)
        .ws_max_frame_size(max_message_bytes)
        .build_svc();
    let token: Option<Arc<str>> = token.map(Into::into);
    let list = peer_list.clone();
    let may_connect = move |socket: SocketRef, auth: TryData<Auth>| {
        let auth = auth.0.unwrap_or_default();
        let shown = auth.shows(token.as_deref());
        let comes_back = auth.session.is_some();
        let request = socket.req_parts();
        let back = Return::of(&request.uri, &request.headers);
        let list = list.clone();
        async move {
            if !shown {
                return Err(Refused::Token);
            }
            match back.map_err(|_| Refused::PeerToken)?.claim {
                Some((id, token)) => {
                    match list.check_token(id, &token).await {
                        Err(PeerError::WrongToken) => Err(Refused::PeerToken),
                        // Whoever joins is looked at again.
                        Ok(()) | Err(PeerError::Unknown | PeerError::Unavailable) => Ok(()),
                    }
                }
                None if list.is_full() && !comes_back => Err(Refused::Full),
                None => Ok(()),
            }
        }
    };
    let list = peer_list.clone();
    // The body runs before any event of the socket is looked at; what it
    // returned would run beside them.
    let connected = move |socket: SocketRef, io: SocketIo, auth: TryData<Auth>| {
        let key = auth.0.unwrap_or_default().session.filter(|key| is_key(key));
        let (inbox, calls) = calls(UNOBEYED_MAILBOXES * list.opts().max_pending_bytes);
        let gone = inbox.clone();
        socket.on_fallback(move |call: Call| {
            inbox.put(call);
            ready(())
        });
        socket.on_disconnect(move |reason: DisconnectReason| {
            gone.close(match reason {
                DisconnectReason::ClientNSDisconnect => Gone::Disconnected,
                _ => Gone::Lost,
            });
            ready(())
        });
        // Looked at before it was let in.
        let request = socket.req_parts();
        let back = Return::of(&request.uri, &request.headers).unwrap_or_default();
        tokio::spawn(member::serve(list.clone(), io, socket, calls, key, back));
        ready(())
    };
    io.ns("/", connected.with(may_connect));
    Router::new()
        .route("/connections", any(connections))
        .route("/socket.io/socket.io.js", any(async |r| script(r, CLIENT)))
        .route(
            "/reliable-signaler/signaler.js",
            any(async |r| script(r, SIGNALER)),
        )
        .route_service("/socket.io/", service)
        .with_state(peer_list)
}

/// What a client shows when it connects.
#[derive(Default, Deserialize)]
struct Auth {
    token: Option<String>,
    /// Sent by our own client: the key of its session.
    session: Option<String>,
}

/// Long enough not to be guessed, and no longer than it need be.
fn is_key(key: &str) -> bool {
    (16..=64).contains(&key.len())
}

impl Auth {
    fn shows(&self, wanted: Option<&str>) -> bool {
        let Some(wanted) = wanted else { return true };
        let shown = self.token.as_deref().unwrap_or_default();
        // Not telling how much of it was right by the time it takes.
        shown.as_bytes().ct_eq(wanted.as_bytes()).into()
    }
}

/// Why a client may not connect, as its `connect_error` tells it.
#[derive(Clone, Copy, Debug)]
enum Refused {
    Token,
    PeerToken,
    Full,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "Authentication error",
            Self::PeerToken => "The peer token is wrong",
            Self::Full => "The server is full",
        })
    }
}

impl std::error::Error for Refused {}

async fn connections(
    State(peer_list): State<TimeoutPeerList>,
    request: Request,
) -> Result<Response, RequestError> {
    only(&[Method::GET], &request)?;
    let cards = peer_list.cards().await?;
    let mut response = reply(events::connections(&cards));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

fn script(request: Request, script: &'static str) -> Result<Response, RequestError> {
    only(&[Method::GET, Method::HEAD], &request)?;
    Ok(reply::script(script))
}
