//! The PeerJS door: what npm `peerjs` (1.0 to 1.5) asks of its server, npm `peer`.
//!
//! | request or frame | verb |
//! |---|---|
//! | `GET PATH` | none: says what is here |
//! | `GET PATH/KEY/id` | none: a fresh id |
//! | `GET PATH/KEY/peers`, if discovery is on | `cards` |
//! | the upgrade of `PATH/peerjs` | `add_unlisted`, `claim`, `list_peer`, `announce` |
//! | a frame with `dst` | `send_to_alias`, or `send` to a peer of another door, `signal-7` |
//! | a frame with `dst` that is not there | `watch_for` |
//! | `LEAVE` without `dst` | `remove_peer` |
//!
//! An id is an alias. A client that lost its socket keeps its id until it is stale, unless
//! somebody else asks for the id before: a page that is loaded again has another token.

mod absent;
mod frame;
mod session;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::any,
};

use super::kit::{
    Coming, RequestError, SignalOpts, guard, list_of, only,
    query::Query,
    reply::reply,
    socket::{Shown, SocketDoor},
    uuid::uuid,
};
use crate::peer_list::TimeoutPeerList;
use frame::is_own_id;
use session::Joining;

/// The name of this door, as events and the operator's API show it.
const DOOR: &str = "peerjs";

/// The scope of the ids, and what is announced of each.
const SCOPE: &str = "peerjs";

/// How pages reach the PeerJS door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerJsOpts {
    /// The path that clients are given as `path`. It begins and ends with a slash. Default:
    /// `/peerjs-server/`.
    pub path: String,
    /// The key that clients show; no secret. Default: `peerjs`, as in the client.
    pub key: String,
    /// Whether clients may ask for the ids of all others (`listAllPeers`). Default: false.
    pub discovery: bool,
}

impl Default for PeerJsOpts {
    fn default() -> Self {
        Self {
            path: "/peerjs-server/".to_owned(),
            key: "peerjs".to_owned(),
            discovery: false,
        }
    }
}

#[derive(Clone)]
struct Door {
    socket: SocketDoor,
    opts: Arc<PeerJsOpts>,
}

/// The routes of this door.
pub(crate) fn routes(peer_list: TimeoutPeerList, opts: &SignalOpts, peerjs: PeerJsOpts) -> Router {
    let path = peerjs.path.clone();
    let door = Door {
        socket: SocketDoor::new(peer_list, opts, DOOR),
        opts: Arc::new(peerjs),
    };
    let mut routes = Router::new();
    if path != "/" {
        routes = routes
            .route(path.trim_end_matches('/'), any(greeting))
            .route(&path, any(greeting));
    }
    routes
        .route(&format!("{path}peerjs"), any(upgrade))
        .route(&format!("{path}{{key}}/id"), any(fresh_id))
        .route(&format!("{path}{{key}}/peers"), any(ids))
        .route_layer(guard(opts, DOOR))
        .with_state(door)
}

async fn upgrade(State(door): State<Door>, request: Request) -> Result<Response, RequestError> {
    let joining = Joining::of(Query::of(&request), &door.opts.key);
    let shown = match &joining {
        Ok(Joining { id, token }) => Shown {
            name: Some(id.clone()),
            // A client can show an access token by no other means.
            token: Some(token.clone()),
        },
        Err(_) => Shown::default(),
    };
    let serve = move |opened| session::serve(joining, opened);
    door.socket.open(request, shown, serve).await
}

/// By which people see that they have the right path.
async fn greeting(request: Request) -> Result<Response, RequestError> {
    only(&[Method::GET], &request)?;
    let greeting = serde_json::json!({
        "name": env!("CARGO_PKG_NAME"),
        "description": "a signaling server for PeerJS clients",
    });
    Ok(json(&greeting))
}

async fn fresh_id(State(door): State<Door>, request: Request) -> Result<Response, RequestError> {
    only(&[Method::GET], &request)?;
    if key_in(&request) != door.opts.key {
        return Ok(refused("Invalid key provided"));
    }
    Ok(reply(uuid().ok_or(RequestError::Unavailable)?))
}

async fn ids(State(door): State<Door>, request: Request) -> Result<Response, RequestError> {
    only(&[Method::GET], &request)?;
    if key_in(&request) != door.opts.key {
        return Ok(refused("Invalid key provided"));
    }
    if !door.opts.discovery {
        return Ok(refused("the operator has not allowed to list all peers"));
    }
    let list = list_of(&request, &door.socket.peer_list);
    door.socket
        .gate
        .look(Coming::of(&request, &list, None))
        .await?;
    let cards = list.cards().await?;
    let cards = cards.into_iter().filter_map(|card| card.card);
    let own = cards.filter(|card| *card.door == *DOOR);
    let ids: Vec<String> = own
        .map(|card| String::from_utf8_lossy(&card.text).into_owned())
        .filter(|id| is_own_id(id))
        .collect();
    Ok(json(&ids.into()))
}

fn json(value: &serde_json::Value) -> Response {
    let mut response = reply(value.to_string());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// The part of the path before the last one. (Below `/rooms/NAME` it is not the only parameter.)
fn key_in(request: &Request) -> &str {
    let mut parts = request.uri().path().rsplit('/');
    parts.nth(1).unwrap_or_default()
}

fn refused(why: &'static str) -> Response {
    (StatusCode::UNAUTHORIZED, format!("{why}\n")).into_response()
}
