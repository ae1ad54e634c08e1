//! Engine.IO, the transport of Socket.IO: sessions by long poll and by WebSocket, in
//! the versions 3 and 4 of its protocol.
//!
//! It is ours because a library in its place published the secret of a session as its
//! name, bounded what waits for a client by count and not by size (51 MiB for one
//! socket), gave a POST and a handshake no time limit, and did not notice that the client
//! of an open poll had left.

mod payload;
mod queues;
mod session;

use std::{
    borrow::Cow,
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use dashmap::DashMap;
use hmac::{Hmac, Mac};
use serde_json::json;
use sha2::Sha256;
use tokio::sync::mpsc;

use super::version::Version;
use crate::{
    doors::kit::{
        RequestError, Transport,
        body::{self, Whole},
        list_of, list_of_room,
        log::{session_span, spawn},
        only,
        push::ping_interval,
        query::Query,
        reply::reply,
        talk::WebSocket,
        upgrade::{self, Stream, Upgrade},
    },
    peer_list::{Link, Refusal, TimeoutPeerList},
};

use payload::Packets;
pub(super) use queues::Gone;
pub(super) use session::Session;
use session::{PING_TIMEOUT, Unexpected};

/// How long a WebSocket may take until it has taken over from polls.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(10);

/// A body of version 3 may be this many times the largest message: its clients put all
/// that waits into one body, and know no limit.
const BATCH: usize = 4;

/// Serves the clients of sessions.
pub(super) trait Serve: Send + Sync + 'static {
    /// Whether one more client may begin a session. `from`: from where its request comes.
    ///
    /// # Errors
    ///
    /// Why not.
    fn may_begin(&self, from: Option<IpAddr>, headers: &HeaderMap) -> Result<(), RequestError>;

    /// Serves the client of a session until either is done. `connecting` counts the session
    /// until its client has connected.
    fn serve(
        &self,
        session: &Arc<Session>,
        handshake: Handshake,
        connecting: Unconnected,
    ) -> impl Future<Output = ()> + Send;
}

/// The handshake of a session.
pub(super) struct Handshake {
    /// The public id of the session, with which nobody can enter it.
    pub public_id: String,
    pub uri: Uri,
    pub headers: HeaderMap,
    /// From where the client connects, or a proxy does.
    pub from: Option<IpAddr>,
    /// The list of the room that the client comes into.
    pub list: TimeoutPeerList,
}

/// The sessions of this server.
pub(super) struct EngineIo<S> {
    sessions: DashMap<String, Arc<Session>>,
    server: S,
    peer_list: TimeoutPeerList,
    max_message_bytes: usize,
    /// The key that makes public ids of secret ones.
    key: [u8; 32],
    /// How many sessions have no peer yet.
    unconnected: Arc<AtomicUsize>,
}

/// Counts one session that has no peer yet, for as long as this lives.
pub(super) struct Unconnected(Arc<AtomicUsize>);

impl Drop for Unconnected {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a request is refused, with the number that Engine.IO has for that.
#[derive(Debug)]
enum Refused {
    UnknownTransport,
    UnknownSession,
    BadMethod,
    BadRequest,
    UnsupportedVersion,
    /// A reason that other doors have as well.
    Other(RequestError),
}

impl From<Unexpected> for Refused {
    fn from(_: Unexpected) -> Self {
        Self::BadRequest
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Other(refusal.into())
    }
}

impl From<RequestError> for Refused {
    fn from(error: RequestError) -> Self {
        Self::Other(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (code, message) = match self {
            Self::UnknownTransport => (0, "Transport unknown"),
            Self::UnknownSession => (1, "Session ID unknown"),
            Self::BadMethod => (2, "Bad handshake method"),
            Self::BadRequest => (3, "Bad request"),
            Self::UnsupportedVersion => (5, "Unsupported protocol version"),
            Self::Other(error) => return error.into_response(),
        };
        let mut response = reply(json!({"code": code, "message": message}).to_string());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

/// The query of a request.
struct Asked {
    version: Version,
    is_web_socket: bool,
    id: Option<String>,
}

impl Asked {
    fn of(uri: &Uri) -> Result<Self, Refused> {
        let query = Query::of_uri(uri);
        let is_web_socket = match query.first("transport").as_deref() {
            Some("polling") => false,
            Some("websocket") => true,
            _ => return Err(Refused::UnknownTransport),
        };
        let version = match query.first("EIO").as_deref() {
            Some("3") => Version::V3,
            Some("4") => Version::V4,
            _ => return Err(Refused::UnsupportedVersion),
        };
        let id = query.first("sid").map(Cow::into_owned);
        Ok(Self {
            version,
            is_web_socket,
            id,
        })
    }
}

impl<S: Serve> EngineIo<S> {
    pub fn new(peer_list: TimeoutPeerList, max_message_bytes: usize, server: S) -> Arc<Self> {
        Arc::new(Self {
            sessions: DashMap::new(),
            server,
            peer_list,
            max_message_bytes,
            key: random(),
            unconnected: Arc::default(),
        })
    }

    /// Answers a request of a client.
    pub async fn answer(self: Arc<Self>, request: Request) -> Result<Response, Infallible> {
        let answer = Box::pin(self.handle(request)).await;
        Ok(answer.unwrap_or_else(IntoResponse::into_response))
    }

    async fn handle(self: Arc<Self>, mut request: Request) -> Result<Response, Refused> {
        only(&[Method::GET, Method::POST], &request)?;
        let asked = Asked::of(request.uri())?;
        let is_get = request.method() == Method::GET;
        let Some(id) = &asked.id else {
            if !is_get {
                return Err(Refused::BadMethod);
            }
            let list = list_of(&request, &self.peer_list);
            let from = Transport::address_of(&request);
            self.server.may_begin(from, request.headers())?;
            let connecting = self.connecting(&list)?;
            let (uri, headers) = (request.uri().clone(), request.headers().clone());
            let handshake = self.handshake(uri, headers, from, list);
            if asked.is_web_socket {
                let upgrade = upgrade(&mut request)?;
                return Ok(upgrade.accept(async move |stream| {
                    self.begin(asked.version, handshake, connecting, stream)
                        .await;
                }));
            }
            drop(request);
            return Ok(self.begin_polls(asked.version, handshake, connecting));
        };
        let session = self.sessions.get(id).map(|session| session.clone());
        let room = list_of_room(&request);
        let room = room.as_ref().and_then(|list| list.name());
        let session = session
            .filter(|session| session.version == asked.version && session.room.as_ref() == room);
        let session = session.ok_or(Refused::UnknownSession)?;
        if asked.is_web_socket {
            let upgrade = upgrade(&mut request)?;
            let probe = session.probe()?;
            let limit = self.max_message_bytes;
            let buffered = self.peer_list.buffered().clone();
            return Ok(upgrade.accept(async move |stream| {
                let socket = WebSocket::new(stream, limit, buffered);
                probe.take_over(socket, UPGRADE_PATIENCE).await;
            }));
        }
        let link = Transport::link_of(&request);
        if !is_get {
            return self.post(&session, link.as_ref(), request).await;
        }
        let poll = session.poll(link.as_ref())?;
        Transport::suspend(&request);
        // The request keeps the read buffer of the connection, and its link.
        drop((request, link));
        let version = session.version;
        drop(session);
        let packets = poll.packets().await;
        Ok(packets_reply(version, &packets))
    }

    async fn post(
        &self,
        session: &Arc<Session>,
        link: Option<&Arc<Link>>,
        request: Request,
    ) -> Result<Response, Refused> {
        let posting = session.post(link)?;
        let kind = request.headers().get(CONTENT_TYPE);
        let is_binary =
            kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/octet-stream"));
        let limit = match session.version {
            Version::V3 => self.max_message_bytes.saturating_mul(BATCH),
            Version::V4 => self.max_message_bytes,
        };
        let read = body::read(request.into_body(), limit, self.peer_list.buffered()).await;
        let posted = match read {
            Ok(Whole { bytes, held }) => {
                let received = self.receive(session, bytes, is_binary).await;
                drop(held);
                received
            }
            Err(error) => {
                if let Some(why) = error.unread() {
                    self.peer_list.counts().unread(why);
                }
                Err(error.into())
            }
        };
        if let Err(refused) = posted {
            // The packets of this POST are lost, and would be missing before what the
            // client sends next: the session ends.
            session.close(Gone::Lost);
            return Err(refused);
        }
        drop(posting);
        let mut response = reply("ok");
        let html = HeaderValue::from_static("text/html");
        response.headers_mut().insert(CONTENT_TYPE, html);
        Ok(response)
    }

    async fn receive(
        &self,
        session: &Session,
        body: Bytes,
        is_binary: bool,
    ) -> Result<(), Refused> {
        let packets = Packets::of(session.version, body, is_binary);
        for packet in packets.map_err(|_| Refused::BadRequest)? {
            let packet = packet.map_err(|_| Refused::BadRequest)?;
            if let Err(gone) = session.receive(packet).await {
                session.close(gone);
                break;
            }
        }
        Ok(())
    }

    /// Counts one more session without a peer.
    fn connecting(&self, list: &TimeoutPeerList) -> Result<Unconnected, Refused> {
        let unconnected = self.unconnected.fetch_add(1, Ordering::Relaxed);
        let connecting = Unconnected(self.unconnected.clone());
        // A client that comes back by its key or token adds no peer to a full list, so that
        // one session is always let in.
        if unconnected > 0 {
            self.peer_list.has_space(unconnected)?;
            list.has_space(0)?;
        }
        Ok(connecting)
    }

    fn begin_polls(
        self: Arc<Self>,
        version: Version,
        (id, handshake): (String, Handshake),
        connecting: Unconnected,
    ) -> Response {
        let room = handshake.list.name().cloned();
        let (session, sockets) = Session::new(version, room, true, self.peer_list.buffered());
        let hello = self.hello(version, &id, true);
        self.sessions.insert(id.clone(), session.clone());
        let running = async move {
            self.run(&session, sockets, handshake, connecting).await;
            self.sessions.remove(&id);
        };
        spawn(running, session_span());
        packets_reply(version, &[vec![hello]])
    }

    /// Begins a session with a WebSocket.
    async fn begin(
        &self,
        version: Version,
        (id, handshake): (String, Handshake),
        connecting: Unconnected,
        stream: Stream,
    ) {
        let room = handshake.list.name().cloned();
        let buffered = self.peer_list.buffered();
        let (session, sockets) = Session::new(version, room, false, buffered);
        let hello = self.hello(version, &id, false);
        session.outbox.push(vec![hello]);
        let socket = WebSocket::new(stream, self.max_message_bytes, buffered.clone());
        session.begin_with(socket);
        self.run(&session, sockets, handshake, connecting).await;
    }

    async fn run(
        &self,
        session: &Arc<Session>,
        sockets: mpsc::Receiver<WebSocket>,
        handshake: Handshake,
        connecting: Unconnected,
    ) {
        tokio::join!(
            session.carry(sockets, ping_interval(&self.peer_list)),
            self.server.serve(session, handshake, connecting),
        );
    }

    /// A secret id for a session, and its handshake.
    fn handshake(
        &self,
        uri: Uri,
        headers: HeaderMap,
        from: Option<IpAddr>,
        list: TimeoutPeerList,
    ) -> (String, Handshake) {
        let id = hex::encode(random::<16>());
        #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("a key");
        mac.update(id.as_bytes());
        let public = mac.finalize().into_bytes();
        let handshake = Handshake {
            public_id: hex::encode(&public[..PUBLIC_ID_BYTES]),
            uri,
            headers,
            from,
            list,
        };
        (id, handshake)
    }

    fn hello(&self, version: Version, id: &str, can_upgrade: bool) -> Bytes {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let upgrades: &[&str] = if can_upgrade { &["websocket"] } else { &[] };
        let mut hello = json!({
            "sid": id,
            "upgrades": upgrades,
            "pingInterval": ms(ping_interval(&self.peer_list)),
            "pingTimeout": ms(PING_TIMEOUT),
        });
        if version == Version::V4 {
            hello["maxPayload"] = self.max_message_bytes.into();
        }
        format!("0{hello}").into()
    }
}

/// How long a public id is, in bytes.
const PUBLIC_ID_BYTES: usize = 10;

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(clippy::expect_used, reason = "without secrets nobody may be let in")]
    getrandom::fill(&mut bytes).expect("the system has a source of randomness");
    bytes
}

fn upgrade(request: &mut Request) -> Result<Upgrade, Refused> {
    if !upgrade::is_asked_for(request.headers()) {
        return Err(Refused::BadRequest);
    }
    Ok(Upgrade::of(request)?)
}

fn packets_reply(version: Version, packets: &[Vec<Bytes>]) -> Response {
    reply(body::parts(payload::write(version, packets)))
}
