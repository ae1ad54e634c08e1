//! The WebSocket door: `signal-fire`'s protocol, JSON objects as text frames.
//!
//! | frame | verb |
//! |---|---|
//! | the upgrade of `/` or `/ws`, answered with `{"type":"id","peerId":"7"}` | `add_peer` |
//! | an object with `receiverId` (or `peerId`) | `send` |
//! | close | `remove_peer` |
//!
//! A frame reaches its receiver byte for byte: clients put `senderId` in themselves. With
//! `events=true` in the query a client is also told of the peer list and of frames that
//! could not be delivered; other clients are not, because they take every frame for one
//! of a peer. With `resume=true` it gets the token with which it can come back: `peer_id`
//! and `peer_token` in the query.

use std::{borrow::Cow, str, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::Method,
    response::Response,
    routing::any,
};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::debug;
use tungstenite::protocol::frame::coding::CloseCode;

use super::kit::{
    Coming, Gate, RequestError, SignalOpts, guard, list_of, only,
    push::{End, PushPeer, Return, ping_interval},
    query::Query,
    talk::{Life, Lost, Talk, WebSocket},
    upgrade::{self, Stream, Upgrade},
};
use crate::access::Admitted;
use crate::peer_list::{
    Delivery, Dialect, Lines, News, PeerId, PeerToken, Reason, Refusal, SendOpts, SignInOpts,
    SignedIn, TimeoutPeerList,
};
#[cfg(feature = "ice")]
use crate::{doors::kit::ice::ice_for, ice::IceServers};

mod address;
mod peers_json;

use address::{Addressed, message_frame};
use peers_json::PeersJson;

/// The name of this door, as events and the operator's API show it.
const DOOR: &str = "websocket";

/// How many errors may wait to be sent. A client that does not read them misses some.
const UNTOLD_ERRORS: usize = 16;

/// One of the close codes that are free for applications.
const REPLACED: CloseCode = CloseCode::Library(4001);

#[derive(Clone)]
struct Door {
    peer_list: TimeoutPeerList,
    gate: Gate,
    max_message_bytes: usize,
    /// Whether a `senderId` must be the sender's own id.
    senders_are_proved: bool,
    /// The list as it was last sent, for all sockets.
    peers: Arc<PeersJson>,
    #[cfg(feature = "ice")]
    ice_servers: Arc<IceServers>,
}

/// The routes of this door, `/` and `/ws`.
pub(crate) fn routes(peer_list: TimeoutPeerList, opts: &SignalOpts) -> Router {
    let door = Door {
        peers: Arc::new(PeersJson::new(peer_list.buffered())),
        peer_list,
        gate: Gate::new(opts, DOOR),
        max_message_bytes: opts.max_message_bytes,
        senders_are_proved: opts.require_tokens,
        #[cfg(feature = "ice")]
        ice_servers: opts.ice_servers.clone(),
    };
    Router::new()
        .route("/", any(upgrade))
        .route("/ws", any(upgrade))
        .route_layer(guard(opts, DOOR))
        .with_state(door)
}

impl Door {
    /// The first frame. `token`: for a client that can come back with it. `events`: the client is
    /// told of more than messages.
    #[cfg_attr(not(feature = "ice"), expect(unused_variables))]
    fn hello(
        &self,
        peer: &PushPeer,
        token: Option<&PeerToken>,
        admitted: &Admitted,
        events: bool,
    ) -> Value {
        let mut hello = json!({"type": "id", "peerId": peer.id.to_string()});
        if let Some(token) = token {
            hello["peerToken"] = token.digits().into();
        }
        #[cfg(feature = "ice")]
        if events {
            let own = admitted.identity().ice_servers.as_deref();
            let config = ice_for(&self.ice_servers, &peer.list, Some(peer.id), own);
            if !config.ice_servers.is_empty() {
                hello["iceServers"] = json!(config.ice_servers);
                hello["ttl"] = json!(config.ttl);
            }
        }
        hello
    }
}

/// The query of the upgrade.
struct Joining {
    name: Option<String>,
    events: bool,
    back: Return,
}

impl Joining {
    fn of(request: &Request) -> Result<Self, RequestError> {
        let back = Return::of(request.uri(), request.headers())?;
        let query = Query::of(request);
        let name = query.first("peer_name").filter(|name| !name.is_empty());
        Ok(Self {
            name: name.map(Cow::into_owned),
            events: query.first("events").is_some_and(|value| value == "true"),
            back,
        })
    }
}

async fn upgrade(
    State(mut door): State<Door>,
    mut request: Request,
) -> Result<Response, RequestError> {
    door.peer_list = list_of(&request, &door.peer_list);
    only(&[Method::GET], &request)?;
    if !upgrade::is_asked_for(request.headers()) {
        return Err(RequestError::OnlyWebSockets);
    }
    let joining = Joining::of(&request)?;
    let upgrade = Upgrade::of(&mut request)?;
    let coming = Coming::of(&request, &door.peer_list, joining.name.as_deref());
    let admitted = door.gate.enter(coming).await?;
    if let Some((id, token)) = &joining.back.claim {
        door.peer_list.check_token(*id, Some(token)).await?;
    } else {
        door.peer_list.has_space(0)?;
    }
    Ok(upgrade.accept(move |stream| serve(door, joining, admitted, stream)))
}

/// Serves a WebSocket: its peer is signed in while the socket is open.
async fn serve(door: Door, joining: Joining, admitted: Admitted, stream: Stream) {
    let buffered = door.peer_list.buffered().clone();
    let mut socket = WebSocket::new(stream, door.max_message_bytes, buffered);
    let dialect = if joining.events {
        Dialect::Listed
    } else {
        Dialect::Silent
    };
    let opts = SignInOpts {
        door: DOOR,
        dialect,
        protected: joining.back.resumes,
        identity: admitted.identity().clone(),
    };
    let name = admitted.fixed_name().or(joining.name.as_deref());
    let signed_in = sign_in(&door.peer_list, name, &joining.back, opts).await;
    let SignedIn { id, token, list } = match signed_in {
        Ok(signed_in) => signed_in,
        Err((code, reason)) => return socket.close(code, reason).await,
    };
    let peer = match PushPeer::new(&door.peer_list, id, joining.back.resumes).await {
        Ok(peer) => peer,
        Err(Refusal::Unavailable) => {
            let (code, reason) = UNAVAILABLE;
            return socket.close(code, reason).await;
        }
        // The peer was removed in between.
        Err(_) => return socket.close(CloseCode::Normal, "signed out").await,
    };
    let life = Life {
        ping_interval: Some(ping_interval(&door.peer_list)),
        patience: door.peer_list.opts().timeout_period,
    };
    let token = joining.back.resumes.then_some(token);
    let hello = door.hello(&peer, token.as_ref(), &admitted, joining.events);
    let session = Session::new(&peer, &door, &hello, joining.events.then_some(list));
    let closing = socket.talk(&session, life).await;
    drop(session);
    peer.leave(closing.end).await;
    socket.close(closing.code, closing.reason).await;
}

/// How a socket is closed when the list cannot be reached.
const UNAVAILABLE: (CloseCode, &str) = (CloseCode::Again, "try again soon");

/// Signs a peer in; with its old id, if the client proves that it is that peer and the
/// list still holds it. An error says how to close the socket.
async fn sign_in(
    list: &TimeoutPeerList,
    name: Option<&str>,
    back: &Return,
    opts: SignInOpts,
) -> Result<SignedIn, (CloseCode, &'static str)> {
    if let Some((id, token)) = &back.claim {
        match list.resume_peer(*id, token, name, opts.clone()).await {
            Ok(signed_in) => return Ok(signed_in),
            Err(Refusal::UnknownPeer) => {}
            Err(Refusal::WrongToken) => return Err((CloseCode::Policy, "not your token")),
            Err(Refusal::OtherUser) => return Err((CloseCode::Policy, "not your peer")),
            Err(_) => return Err(UNAVAILABLE),
        }
    }
    let added = list.add_peer(name, opts).await;
    added.map_err(|refusal| match refusal {
        Refusal::Full => (CloseCode::Again, "the server is full"),
        Refusal::RoomFull => (CloseCode::Again, "the room is full"),
        Refusal::NetworkFull => (CloseCode::Again, "too many peers of this address"),
        _ => UNAVAILABLE,
    })
}

/// How a session ended.
struct Closing {
    end: End,
    code: CloseCode,
    reason: &'static str,
}

impl Closing {
    fn unavailable() -> Self {
        let (code, reason) = UNAVAILABLE;
        let end = End::CLOSED;
        Self { end, code, reason }
    }
}

impl From<Lost> for Closing {
    fn from(lost: Lost) -> Self {
        let (code, reason) = lost.closing();
        let end = match lost {
            Lost::Closed | Lost::Unreadable(_) => End::CLOSED,
            Lost::Silent => End::Removed(Reason::TimedOut),
            Lost::NotReading => End::Removed(Reason::NotReading),
        };
        Self { end, code, reason }
    }
}

impl From<End> for Closing {
    fn from(end: End) -> Self {
        let (code, reason) = match end {
            End::Removed(Reason::NotReading) => (CloseCode::Again, "too much waits for this peer"),
            End::Removed(Reason::Kicked) => (CloseCode::Policy, "removed by the operator"),
            End::Removed(Reason::TimedOut) => (CloseCode::Away, "timed out, or lost by the server"),
            // The node was cut off, and the others took it for dead.
            End::Removed(Reason::Closed) => (CloseCode::Away, "the connection was taken for lost"),
            End::Removed(_) => (CloseCode::Normal, "signed out"),
            End::Replaced => (REPLACED, "another session took over"),
            End::Stopping => (CloseCode::Away, "the server stops"),
        };
        Self { end, code, reason }
    }
}

/// What was wrong with a frame, as `events=true` tells it.
type FrameError = Value;

struct Session<'a> {
    peer: &'a PushPeer,
    door: &'a Door,
    /// The frames that are sent first, in reverse order.
    first: Mutex<Vec<Vec<Bytes>>>,
    /// Only with `events=true`.
    errors: Option<mpsc::Sender<FrameError>>,
    untold: tokio::sync::Mutex<Option<mpsc::Receiver<FrameError>>>,
}

impl<'a> Session<'a> {
    /// `hello`: the first frame. `list`: for a client that is
    /// told of the list.
    fn new(peer: &'a PushPeer, door: &'a Door, hello: &Value, list: Option<Lines>) -> Self {
        let (errors, untold) = match &list {
            Some(_) => {
                let (errors, untold) = mpsc::channel(UNTOLD_ERRORS);
                (Some(errors), Some(untold))
            }
            None => (None, None),
        };
        let list = list.map(|list| door.peers.frame(&list));
        let first = list.into_iter().chain([text(hello.to_string())]).collect();
        Self {
            peer,
            door,
            // Popped from the end: the hello is sent first, then the list.
            first: Mutex::new(first),
            errors,
            untold: tokio::sync::Mutex::new(untold),
        }
    }

    async fn send(&self, frame: Bytes) -> Result<(), Refused> {
        let addressed = Addressed::of(&frame);
        let addressed = addressed.filter(|addressed| self.trusts(addressed, self.peer.id));
        let target = addressed.and_then(Addressed::target);
        let target = target
            .ok_or_else(|| Refused::Frame(json!({"type": "error", "error": "bad_message"})))?;
        let sent = match target.id() {
            Some(to) => {
                let list = &self.peer.list;
                list.send(self.peer.id, to, frame, SendOpts::PATIENT).await
            }
            None => Err(Refusal::UnknownReceiver),
        };
        let error = match sent {
            Ok(()) => return Ok(()),
            Err(Refusal::UnknownPeer) => return Err(Refused::Sender),
            Err(Refusal::UnknownReceiver) => "unknown_receiver",
            Err(Refusal::MailboxFull) => "mailbox_full",
            // The token was checked when the socket opened, and frames have no numbers.
            Err(_) => return Err(Refused::Unavailable),
        };
        Err(Refused::Frame(
            json!({"type": "error", "error": error, "receiverId": target.text()}),
        ))
    }

    /// Whether this peer may send a frame: if tokens are required, the frame must not
    /// name another sender.
    fn trusts(&self, frame: &Addressed, from: PeerId) -> bool {
        let sender = frame.sender_id.as_ref();
        !self.door.senders_are_proved || sender.is_none_or(|sender| sender.id() == Some(from))
    }

    fn frame(&self, news: &News) -> Option<Vec<Bytes>> {
        match news {
            News::Message { from, body } => {
                let addressed = Addressed::of(body);
                let addressed = addressed.filter(|addressed| self.trusts(addressed, *from));
                let frame = message_frame(addressed.as_ref(), *from, self.peer.id, body);
                Some(vec![frame])
            }
            News::Status(list) => Some(self.door.peers.frame(list)),
            // A WebSocket peer joins no channel and waits for no announcement, and the
            // end of its wait is no news to it.
            News::Published(_)
            | News::Announced(_)
            | News::Nothing(_)
            | News::Removed(_)
            | News::Replaced => None,
        }
    }
}

impl Talk for Session<'_> {
    type End = Closing;
    type Receipt = Option<Delivery>;

    async fn receive(&self, message: Bytes, _: bool) -> Result<(), Closing> {
        match self.send(message).await {
            Ok(()) => Ok(()),
            Err(Refused::Sender) => Err(End::Removed(Reason::SignedOut).into()),
            Err(Refused::Unavailable) => Err(Closing::unavailable()),
            Err(Refused::Frame(error)) => {
                debug!(%error, "a frame was not delivered");
                let _ = self.errors.as_ref().map(|errors| errors.try_send(error));
                Ok(())
            }
        }
    }

    async fn next(&self) -> Result<(Vec<Bytes>, Option<Delivery>), Closing> {
        if let Some(first) = self.first.lock().pop() {
            return Ok((first, None));
        }
        loop {
            let mut untold = self.untold.lock().await;
            let error = async {
                match &mut *untold {
                    Some(untold) => untold.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                delivery = self.peer.news() => {
                    let delivery = delivery?;
                    match self.frame(delivery.news()) {
                        Some(frame) => return Ok((frame, Some(delivery))),
                        None => delivery.done(),
                    }
                }
                Some(error) = error => return Ok((text(error.to_string()), None)),
            }
        }
    }

    async fn written(&self, delivery: Option<Delivery>) {
        if let Some(delivery) = delivery {
            delivery.done();
        }
    }

    fn reads(&self) {
        self.peer.reads();
    }

    async fn ended(&self) -> Closing {
        self.peer.ended().await.into()
    }

    fn lost(&self, why: Lost) -> Closing {
        if let Lost::Unreadable(unreadable) = why
            && let Some(why) = unreadable.unread()
        {
            self.peer.list.counts().unread(why);
        }
        why.into()
    }
}

/// Why a frame was not delivered.
enum Refused {
    /// The peer is no longer signed in.
    Sender,
    /// The list cannot be reached.
    Unavailable,
    Frame(FrameError),
}

fn text(text: String) -> Vec<Bytes> {
    vec![text.into()]
}

#[cfg(test)]
mod tests;
