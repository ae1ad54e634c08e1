//! The Socket.IO door: the events of `simple_webrtc_signaling_server` and of
//! Reliable-Signaler, in the namespace `/`.
//!
//! | event | verb |
//! |---|---|
//! | connect | `add_unlisted`, `resume_unlisted` |
//! | `ready` | `claim`, `list_peer` |
//! | `message` | `publish` |
//! | `messageOne` | `send_to_alias`, `send` |
//! | `keep-in-server`, `keep-session` | `announce` |
//! | `get-session-info` | `watch_for` |
//! | `iceServers` | none: it is answered with the ICE servers |
//! | disconnect | `remove_peer` |

mod connections;
mod engineio;
mod events;
mod member;
mod packet;
mod version;

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, header::CONTENT_TYPE},
    response::Response,
    routing::any,
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use subtle::ConstantTimeEq;
use tower::service_fn;

use super::kit::{
    Coming, Gate, RequestError, SignalOpts,
    asset::{self, Asset},
    body, guard, list_of, only,
    reply::reply,
};
use crate::peer_list::TimeoutPeerList;
use connections::Connections;
use engineio::{EngineIo, Handshake, Serve, Session, Unconnected};
use member::{DOOR, Members};

/// Our own small client, for pages that have none.
static CLIENT: Asset = Asset::script(include_str!("client.js"));

/// The script of Reliable-Signaler, which contains the client.
static SIGNALER: Asset = Asset::script(concat!(
    include_str!("client.js"),
    include_str!("signaler.js")
));

/// The routes of this door.
pub(crate) struct Routes {
    /// Routes that browsers request with credentials.
    pub transport: Router,
    pub others: Router,
}

/// The routes of this door. With a token, only clients that send it as `auth.token` may
/// connect.
pub(crate) fn routes(
    peer_list: TimeoutPeerList,
    opts: &SignalOpts,
    token: Option<SecretString>,
) -> Routes {
    let told = Arc::new(Connections::new(peer_list.buffered()));
    let gate = Gate::new(opts, DOOR);
    let members = Members {
        token,
        gate: gate.clone(),
        connections: told.clone(),
        #[cfg(feature = "ice")]
        ice_servers: opts.ice_servers.clone(),
    };
    let engine = EngineIo::new(peer_list.clone(), opts.max_message_bytes, members);
    let answer = service_fn(move |request| engine.clone().answer(request));
    let guard = guard(opts, DOOR);
    let transport = Router::new()
        .route_service("/socket.io/", answer)
        .route_layer(guard.clone());
    let others = Router::new()
        .route("/connections", any(connections))
        .route_layer(guard)
        // Any page may load a script.
        .route("/socket.io/socket.io.js", any(async |r| script(r, &CLIENT)))
        .route(
            "/reliable-signaler/signaler.js",
            any(async |r| script(r, &SIGNALER)),
        )
        .with_state((peer_list, gate, told));
    Routes { transport, others }
}

impl Serve for Members {
    fn may_begin(&self, from: Option<IpAddr>, headers: &HeaderMap) -> Result<(), RequestError> {
        Ok(self.gate.count_sign_in(from, headers)?)
    }

    async fn serve(&self, session: &Arc<Session>, handshake: Handshake, connecting: Unconnected) {
        Members::serve(self, session, handshake, connecting).await;
    }
}

/// What a client sends when it connects.
#[derive(Default, Deserialize)]
struct Auth {
    token: Option<String>,
    /// Sent by our own client: the key of its session.
    session: Option<String>,
}

impl Auth {
    /// The key of a session of our own client: long enough to be unguessable, and not
    /// longer than needed.
    fn session_key(&self) -> Option<&str> {
        let key = self.session.as_deref();
        key.filter(|key| (16..=64).contains(&key.len()))
    }

    /// The access token, if the client shows it by the means of Socket.IO.
    fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    fn shows(&self, wanted: Option<&SecretString>) -> bool {
        let Some(wanted) = wanted else { return true };
        let wanted = wanted.expose_secret();
        let shown = self.token.as_deref().unwrap_or_default();
        // In constant time, so that it does not tell how much of the token was right.
        shown.as_bytes().ct_eq(wanted.as_bytes()).into()
    }
}

async fn connections(
    State((peer_list, gate, told)): State<(TimeoutPeerList, Gate, Arc<Connections>)>,
    request: Request,
) -> Result<Response, RequestError> {
    only(&[Method::GET], &request)?;
    let list = list_of(&request, &peer_list);
    // They name peers.
    gate.look(Coming::of(&request, &list, None)).await?;
    let cards = list.cards().await?;
    let mut response = reply(body::parts(told.list(&cards)));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

fn script(request: Request, script: &'static Asset) -> Result<Response, RequestError> {
    only(&[Method::GET, Method::HEAD], &request)?;
    Ok(asset::script(script, request.headers()))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tokio::task::yield_now;
    use tower::ServiceExt;

    use super::*;
    use crate::peer_list::HeartbeatOpts;

    async fn ask(door: &Router, method: Method, sid: &str, body: &'static str) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/socket.io/?EIO=4&transport=polling{sid}"));
        let request = request.body(Body::from(body)).unwrap();
        let response = door.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_ends_before_it_connects_leaves_its_place_at_once() {
        let list = TimeoutPeerList::new(HeartbeatOpts {
            max_peers: 1,
            ..HeartbeatOpts::default()
        });
        let door = routes(list, &SignalOpts::default(), None).transport;
        let (status, hello) = ask(&door, Method::GET, "", "").await;
        assert_eq!(status, 200);
        let hello: Value = serde_json::from_str(&hello[1..]).unwrap();
        assert_eq!(ask(&door, Method::GET, "", "").await.0, 503);
        let sid = format!("&sid={}", hello["sid"].as_str().unwrap());
        assert_eq!(ask(&door, Method::POST, &sid, "1").await.0, 200);
        // Gives the task of the session a turn to notice; no time passes.
        yield_now().await;
        assert_eq!(ask(&door, Method::GET, "", "").await.0, 200);
    }
}
