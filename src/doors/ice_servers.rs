//! `GET /ice-servers`: the ICE servers, for peers of every door.
//!
//! Those with credentials, and all with access control, are for a peer that is signed in and
//! shows its token: `peer_id` and `peer_token` in the query, or the token in `X-Peer-Token`.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::Method,
    response::Response,
    routing::any,
};

use super::kit::{
    RequestError, SignalOpts, guard, ice::ice_for, list_of, only, query::Query, reply::json_reply,
};
use crate::{
    ice::IceServers,
    peer_list::{Caller, Proof, TimeoutPeerList},
};

#[derive(Clone)]
struct Door {
    peer_list: TimeoutPeerList,
    servers: Arc<IceServers>,
    /// Whether they are told only to peers.
    is_for_peers: bool,
}

/// The route.
pub(crate) fn routes(peer_list: TimeoutPeerList, opts: &SignalOpts) -> Router {
    let servers = opts.ice_servers.clone();
    let door = Door {
        peer_list,
        is_for_peers: !servers.are_public() || !opts.access.is_open(),
        servers,
    };
    Router::new()
        .route("/ice-servers", any(ice_servers))
        .route_layer(guard(opts, "ice_servers"))
        .with_state(door)
}

async fn ice_servers(State(door): State<Door>, request: Request) -> Result<Response, RequestError> {
    only(&[Method::GET], &request)?;
    let list = list_of(&request, &door.peer_list);
    let caller = door.caller(&request)?;
    drop(request);
    let peer = caller.as_ref().map(|caller| caller.id);
    let mut own = None;
    if let Some(caller) = caller {
        let open = list.open_request(caller)?;
        own = open.ice_servers().await?;
        open.answered();
    }
    let config = ice_for(&door.servers, &list, peer, own.as_deref());
    // Texts and a number are always valid JSON.
    Ok(json_reply(
        serde_json::to_string(&config).unwrap_or_default(),
    ))
}

impl Door {
    /// The peer that asks, which has to show its token. None: anybody may ask.
    fn caller(&self, request: &Request) -> Result<Option<Caller>, RequestError> {
        let query = Query::of(request);
        // Refused as everywhere, also where they are not needed.
        let token = query.token(request.headers())?;
        let shown = query.has("peer_id").then(|| query.peer_id("peer_id"));
        let shown = shown.transpose()?;
        if !self.is_for_peers {
            return Ok(None);
        }
        let token = token.ok_or(RequestError::MissingToken)?;
        Ok(Some(Caller {
            id: shown.ok_or(RequestError::MissingId("peer_id"))?,
            proof: Proof::Token(token),
            // The peer may have a socket, and says nothing of where it is with this.
            link: None,
            lingers: false,
        }))
    }
}
