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
//! and `peer_token` in the query. With `ack` in the query it speaks a form of its own, `numbered`.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash, Hasher},
    str,
    sync::Arc,
};

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
use tracing::debug;
use tungstenite::protocol::frame::coding::CloseCode;

use super::kit::{
    Coming, Gate, RequestError, SignalOpts,
    closing::{Closing, UNAVAILABLE},
    guard, list_of, only,
    push::{End, PushPeer, Return, ping_interval},
    query::Query,
    socket::{Answers, lost, why_not},
    talk::{Life, Lost, Talk, WebSocket},
    upgrade::{self, Stream, Upgrade},
};
use crate::access::Admitted;
use crate::peer_list::{
    Delivery, Dialect, Lines, News, PeerId, PeerToken, Reason, Refusal, SendOpts, SignInOpts,
    SignedIn, SocketOpts, TimeoutPeerList,
};
#[cfg(feature = "ice")]
use crate::{doors::kit::ice::ice_for, ice::IceServers};

mod address;
mod numbered;
mod peers_json;

use address::{Addressed, Target, message_frame};
use numbered::{Said, Told};
use peers_json::PeersJson;

/// The name of this door, as events and the operator's API show it.
const DOOR: &str = "websocket";

/// A client of the numbered form comes back as a peer that is not signed in, or that is another's.
const UNKNOWN: CloseCode = CloseCode::Library(4004);

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
    /// The first frame. `token`: for a client that can come back with it.
    #[cfg_attr(not(feature = "ice"), expect(unused_variables))]
    fn hello(
        &self,
        peer: &PushPeer,
        token: Option<&PeerToken>,
        admitted: &Admitted,
        form: Form,
    ) -> Value {
        let mut hello = json!({"type": "id", "peerId": peer.id.to_string()});
        if let Some(token) = token {
            hello["peerToken"] = token.digits().into();
        }
        if form.is_numbered() {
            hello["maxFrameBytes"] = self.max_message_bytes.into();
        }
        #[cfg(feature = "ice")]
        if form != Form::Silent {
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

/// What a client is told, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Frames of other peers only.
    Silent,
    /// The list, and what was wrong with frames, too.
    Events,
    /// The list too; messages are numbered in both directions. The client has the messages up
    /// to this number.
    Numbered { acknowledged: u64 },
}

impl Form {
    fn is_numbered(self) -> bool {
        matches!(self, Self::Numbered { .. })
    }
}

/// The query of the upgrade.
struct Joining {
    name: Option<String>,
    form: Form,
    back: Return,
}

impl Joining {
    fn of(request: &Request) -> Result<Self, RequestError> {
        let mut back = Return::of(request.uri(), request.headers())?;
        let query = Query::of(request);
        let name = query.first("peer_name").filter(|name| !name.is_empty());
        let is = |name, value| query.first(name).is_some_and(|given| given == value);
        let acknowledged = match is("ack", "true") {
            true => Some(0),
            false => query.number("ack")?,
        };
        let form = match acknowledged {
            Some(acknowledged) => Form::Numbered { acknowledged },
            None if is("events", "true") => Form::Events,
            None => Form::Silent,
        };
        back.resumes |= acknowledged.is_some();
        Ok(Self {
            name: name.map(Cow::into_owned),
            form,
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
        // A page does not see why it is refused: a socket of the numbered form is told by the code
        // with which it is closed.
        if !joining.form.is_numbered() {
            door.peer_list.check_token(*id, Some(token)).await?;
        }
    } else {
        door.peer_list.has_space(0)?;
    }
    Ok(upgrade.accept(move |stream| serve(door, joining, admitted, stream)))
}

/// Serves a WebSocket: its peer is signed in while the socket is open.
async fn serve(door: Door, joining: Joining, admitted: Admitted, stream: Stream) {
    let buffered = door.peer_list.buffered().clone();
    let mut socket = WebSocket::new(stream, door.max_message_bytes, buffered);
    let dialect = match joining.form {
        Form::Silent => Dialect::Silent,
        Form::Events | Form::Numbered { .. } => Dialect::Listed,
    };
    let opts = SignInOpts {
        door: DOOR,
        dialect,
        protected: joining.back.resumes,
        has_socket: true,
        identity: admitted.identity().clone(),
    };
    let name = admitted.fixed_name().or(joining.name.as_deref());
    let signed_in = sign_in(&door.peer_list, name, &joining, opts).await;
    let SignedIn { id, token, list } = match signed_in {
        Ok(signed_in) => signed_in,
        Err((code, reason)) => return socket.close(code, reason).await,
    };
    let opts = SocketOpts {
        resumes: joining.back.resumes,
        acknowledged: match joining.form {
            Form::Numbered { acknowledged } => Some(acknowledged),
            Form::Silent | Form::Events => None,
        },
    };
    let peer = match PushPeer::new(&door.peer_list, id, opts).await {
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
    let hello = door.hello(&peer, token.as_ref(), &admitted, joining.form);
    let session = Session::new(&peer, &door, joining.form, &hello, &list);
    let closing = socket.talk(&session, life).await;
    drop(session);
    peer.leave(closing.end).await;
    socket.close(closing.code, closing.reason).await;
}

/// Signs a peer in; with its old id, if the client proves that it is that peer and the
/// list still holds it. An error says how to close the socket.
async fn sign_in(
    list: &TimeoutPeerList,
    name: Option<&str>,
    joining: &Joining,
    opts: SignInOpts,
) -> Result<SignedIn, (CloseCode, &'static str)> {
    if let Some((id, token)) = &joining.back.claim {
        match list.resume_peer(*id, token, name, opts.clone()).await {
            Ok(signed_in) => return Ok(signed_in),
            // Its numbers mean nothing to another peer; and a client that has gone meanwhile
            // must leave none behind. (A server that was restarted may have given its id to another.)
            Err(Refusal::UnknownPeer | Refusal::WrongToken) if joining.form.is_numbered() => {
                return Err((UNKNOWN, "not signed in any more"));
            }
            Err(Refusal::UnknownPeer) => {}
            Err(Refusal::WrongToken) => return Err((CloseCode::Policy, "not your token")),
            Err(Refusal::OtherUser) => return Err((CloseCode::Policy, "not your peer")),
            Err(_) => return Err(UNAVAILABLE),
        }
    }
    let added = list.add_peer(name, opts).await;
    added.map_err(why_not)
}

struct Session<'a> {
    peer: &'a PushPeer,
    door: &'a Door,
    form: Form,
    /// The frames that are sent first, in reverse order.
    first: Mutex<Vec<Vec<Bytes>>>,
    /// The hash of the list that followed the last heartbeat, if no other list followed.
    beaten: Mutex<Option<u64>>,
    /// What the client is told of its own frames; not of the silent form, which costs less
    /// memory without.
    replies: Option<Answers<Reply>>,
}

enum Reply {
    Frame(Vec<Bytes>),
    /// To a heartbeat: the list may have changed without news.
    Heartbeat,
}

impl<'a> Session<'a> {
    /// `hello`: the first frame. `list`: that of the sign-in.
    fn new(peer: &'a PushPeer, door: &'a Door, form: Form, hello: &Value, list: &Lines) -> Self {
        let is_told = form != Form::Silent;
        let list = is_told.then(|| door.peers.frame(list));
        let first = list.into_iter().chain([text(hello.to_string())]).collect();
        Self {
            peer,
            door,
            form,
            // Popped from the end: the hello is sent first, then the list.
            first: Mutex::new(first),
            beaten: Mutex::new(None),
            replies: is_told.then(Answers::new),
        }
    }

    /// The next reply to a frame of the client.
    async fn reply(&self) -> Option<Vec<Bytes>> {
        match self.replies.as_ref()?.next().await? {
            Reply::Frame(frame) => Some(frame),
            Reply::Heartbeat => {
                // Read now, not when the heartbeat came: a newer list may have been sent meanwhile.
                self.first.lock().extend(self.list_if_changed());
                Some(Told::Heartbeat.frame())
            }
        }
    }

    /// The list, unless it is the one that went with the last heartbeat. A change of STATUS
    /// alone is no news, and a client that waits for it would show it wrong for ever.
    fn list_if_changed(&self) -> Option<Vec<Bytes>> {
        let list = self.peer.list.format();
        let mut hasher = DefaultHasher::new();
        list.parts().hash(&mut hasher);
        let hash = Some(hasher.finish());
        let before = std::mem::replace(&mut *self.beaten.lock(), hash);
        (before != hash).then(|| self.door.peers.frame(&list))
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

    /// A frame of the numbered form. Its reply waits until there is room for it; meanwhile
    /// nothing more is read.
    async fn receive_numbered(&self, frame: Bytes) -> Result<(), Closing> {
        let reply = match Said::of(&frame) {
            Some(Said::Message { seq, to, data }) => {
                Reply::Frame(self.send_numbered(seq, &to, data).await?.frame())
            }
            Some(Said::Ack { seq }) => {
                self.peer.list.acknowledge(self.peer.id, seq).await;
                return Ok(());
            }
            Some(Said::Heartbeat) => {
                // Without it the client gets the list that is known here.
                let _ = self.peer.list.catch_up().await;
                Reply::Heartbeat
            }
            None => {
                let (seq, error) = (None, "bad_message");
                Reply::Frame(Told::Refused { seq, error }.frame())
            }
        };
        if let Some(replies) = &self.replies {
            replies.tell(reply).await;
        }
        Ok(())
    }

    async fn send_numbered(
        &self,
        seq: u64,
        to: &Target,
        data: String,
    ) -> Result<Told<'static>, Closing> {
        let list = &self.peer.list;
        let opts = SendOpts::numbered(seq);
        let sent = match to.id() {
            Some(to) => list.send(self.peer.id, to, data.into(), opts).await,
            None => Err(Refusal::UnknownReceiver),
        };
        let error = match sent {
            Ok(()) => return Ok(Told::Sent { seq }),
            Err(Refusal::UnknownPeer) => return Err(End::Removed(Reason::SignedOut).into()),
            Err(Refusal::UnknownReceiver) => "unknown_receiver",
            Err(Refusal::MailboxFull) => "mailbox_full",
            Err(Refusal::OutOfOrder) => "out_of_order",
            // It may have been accepted: the client sends it again when it is back.
            Err(_) => return Err(Closing::unavailable()),
        };
        let seq = Some(seq);
        Ok(Told::Refused { seq, error })
    }

    /// Whether this peer may send a frame: if tokens are required, the frame must not
    /// name another sender.
    fn trusts(&self, frame: &Addressed, from: PeerId) -> bool {
        let sender = frame.sender_id.as_ref();
        !self.door.senders_are_proved || sender.is_none_or(|sender| sender.id() == Some(from))
    }

    fn frame(&self, delivery: &Delivery) -> Option<Vec<Bytes>> {
        match delivery.news() {
            News::Message { .. } if self.form.is_numbered() => numbered::message_frame(delivery),
            News::Message { from, body } => {
                let addressed = Addressed::of(body);
                let addressed = addressed.filter(|addressed| self.trusts(addressed, *from));
                let frame = message_frame(addressed.as_ref(), *from, self.peer.id, body);
                Some(vec![frame])
            }
            News::Status(list) => {
                *self.beaten.lock() = None;
                Some(self.door.peers.frame(list))
            }
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
        if self.form.is_numbered() {
            return self.receive_numbered(message).await;
        }
        match self.send(message).await {
            Ok(()) => Ok(()),
            Err(Refused::Sender) => Err(End::Removed(Reason::SignedOut).into()),
            Err(Refused::Unavailable) => Err(Closing::unavailable()),
            Err(Refused::Frame(error)) => {
                debug!(%error, "a frame was not delivered");
                if let Some(replies) = &self.replies {
                    replies.tell_if_read(Reply::Frame(text(error.to_string())));
                }
                Ok(())
            }
        }
    }

    async fn next(&self) -> Result<(Vec<Bytes>, Option<Delivery>), Closing> {
        if let Some(first) = self.first.lock().pop() {
            return Ok((first, None));
        }
        loop {
            tokio::select! {
                delivery = self.peer.news() => {
                    let delivery = delivery?;
                    match self.frame(&delivery) {
                        Some(frame) => return Ok((frame, Some(delivery))),
                        None => delivery.done(),
                    }
                }
                Some(reply) = self.reply() => return Ok((reply, None)),
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
        lost(self.peer, why)
    }
}

/// Why a frame was not delivered.
enum Refused {
    /// The peer is no longer signed in.
    Sender,
    /// The list cannot be reached.
    Unavailable,
    /// What `events=true` tells of it.
    Frame(Value),
}

fn text(text: String) -> Vec<Bytes> {
    vec![text.into()]
}

#[cfg(test)]
mod tests;
