//! The long-poll door: the API of `webrtc-signal-http` with its heartbeat
//! extension, and of WebRTC's `peerconnection_server`.
//!
//! | request | verb |
//! |---|---|
//! | `GET /sign_in?peer_name=NAME` or `?NAME` | `add_peer`, `resume_peer` |
//! | `GET /wait?peer_id=ID` | `wait` |
//! | `POST /message?peer_id=FROM&to=TO` | `send` |
//! | `GET /heartbeat?peer_id=ID` | `refresh_peer_timeout` |
//! | `GET` or `POST /sign_out?peer_id=ID` | `remove_peer` |
//! | `PUT /capacity?peer_id=ID&value=N` | `set_capacity` |
//!
//! Success is exactly 200 on all of them: native clients disconnect or go
//! deaf on anything else.

mod scripts;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, Method},
    response::{IntoResponse, Response},
    routing::any,
};
use tokio::time::sleep;
use tower::{service_fn, util::option_layer};

pub use super::kit::{AllowedRooms, Cors, DoorCounts, SignalOpts, TrustedProxies};

use super::kit::{
    Coming, Gate, RequestError, RoomDoors, Transport,
    body::{self, Whole},
    cors_layer, guard, list_of_room,
    log::names_peer,
    only,
    query::Query,
    reply::{HEARTBEAT_INTERVAL, MESSAGE_SEQ, PEER_TOKEN, reply, reply_from},
};
use crate::peer_list::{
    Caller, News, OpenRequest, PeerId, PeerToken, Proof, Reason, Refusal, SendOpts, SignInOpts,
    SignedIn, TimeoutPeerList, WaitOpts,
};

/// An error on `/wait` is answered after this pause: Unity and JavaScript clients poll
/// again at once after any error, and the client of a removed peer must not become a hot
/// loop.
const WAIT_ERROR_PAUSE: Duration = Duration::from_secs(1);

/// How long a peer may stay in the list after it said that it signs out, in ms. A
/// reloaded page is back sooner.
const MAX_GRACE_MS: u64 = 10_000;

/// The name of this door, as events and the operator's API show it.
const DOOR: &str = "http";

/// The routes of this door on a peer list, and below `/rooms/NAME` on the list of each of
/// its rooms. The router sets no fallback and claims only its own paths, so that it can be
/// merged with other routes.
///
/// Native clients need more than routes: see [`serve`](crate::serve).
pub fn signal_router(peer_list: TimeoutPeerList, opts: SignalOpts) -> Router {
    let cors = cors_layer(&opts.enable_cors);
    let rooms = opts.rooms.clone();
    let routes = routes(peer_list.clone(), opts);
    let rooms = RoomDoors::new(peer_list, rooms);
    rooms.with(routes).route_layer(option_layer(cors))
}

/// The routes without CORS and rooms.
pub(crate) fn routes(peer_list: TimeoutPeerList, opts: SignalOpts) -> Router {
    let door = Door {
        peer_list,
        gate: Gate::new(&opts, DOOR),
        opts: Arc::new(opts),
    };
    let waiting = door.clone();
    // Each handler checks the method itself: axum would answer HEAD with the handler of
    // GET, and a HEAD on /wait would consume a message.
    let guard = guard(&door.opts, DOOR);
    Router::new()
        .route("/sign_in", any(sign_in))
        .route_service(
            "/wait",
            service_fn(move |request| wait(waiting.clone().in_room_of(&request), request)),
        )
        .route("/message", any(message))
        .route("/heartbeat", any(heartbeat))
        .route("/sign_out", any(sign_out))
        .route("/capacity", any(capacity))
        .route_layer(guard)
        // Any page may load a script.
        .merge(scripts::routes())
        .with_state(door)
}

#[derive(Clone)]
struct Door {
    peer_list: TimeoutPeerList,
    gate: Gate,
    opts: Arc<SignalOpts>,
}

type Answer = Result<Response, RequestError>;

impl Door {
    /// The door to the room that a request is for.
    fn in_room_of(mut self, request: &Request) -> Self {
        if let Some(list) = list_of_room(request) {
            self.peer_list = list;
        }
        self
    }

    /// The token that a request shows, which it must show if tokens are required.
    fn token(&self, request: &Request) -> Result<Option<PeerToken>, RequestError> {
        let token = Query::of(request).token(request.headers())?;
        if token.is_none() && self.opts.require_tokens {
            return Err(RequestError::MissingToken);
        }
        Ok(token)
    }

    fn proof(&self, request: &Request) -> Result<Proof, RequestError> {
        Ok(self.token(request)?.into())
    }

    /// How long a wait may take whose client asks for at most `asked` ms.
    fn wait_limit(&self, asked: Option<u64>) -> Option<Duration> {
        let own = self.opts.wait_timeout.map(with_jitter);
        let asked = asked.map(Duration::from_millis);
        own.into_iter().chain(asked).min()
    }

    /// Opens a request of a peer.
    fn open(
        &self,
        id: PeerId,
        proof: Proof,
        transport: Transport,
    ) -> Result<Box<dyn OpenRequest>, Refusal> {
        names_peer(id);
        self.peer_list.open_request(Caller {
            id,
            proof,
            link: transport.link,
            lingers: transport.closes_after_reply,
        })
    }
}

async fn sign_in(State(door): State<Door>, request: Request) -> Answer {
    let door = door.in_room_of(&request);
    only(&[Method::GET], &request)?;
    let query = Query::of(&request);
    let (name, dialect) = query.name()?;
    let protected = query.text("resume")?.is_some_and(|resume| resume == "true");
    let claim = if query.has("peer_id") {
        let id = query.peer_id("peer_id")?;
        door.token(&request)?.map(|token| (id, token))
    } else {
        // A malformed token is refused as everywhere, although the peer does not exist
        // yet.
        query.token(request.headers())?;
        None
    };
    let coming = Coming::of(&request, &door.peer_list, Some(&name));
    let admitted = door.gate.enter(coming).await?;
    let opts = SignInOpts {
        door: DOOR,
        dialect,
        protected,
        has_socket: false,
        identity: admitted.identity().clone(),
    };
    let resumed = match &claim {
        Some((id, token)) => {
            let resumed = door
                .peer_list
                .resume_peer(*id, token, Some(&name), opts.clone());
            resumed.await
        }
        None => Err(Refusal::UnknownPeer),
    };
    let SignedIn { id, token, list } = match resumed {
        Err(Refusal::UnknownPeer) => door.peer_list.add_peer(Some(&name), opts).await?,
        resumed => resumed?,
    };
    let transport = Transport::of(&request);
    // An error means that the peer was already removed. Its next request will tell it.
    if let Ok(open) = door.open(id, Proof::Trusted, transport) {
        open.answered();
    }
    let mut response = reply_from(id, body::lines(list, None));
    let headers = response.headers_mut();
    // The digits of a number are always a valid header value.
    if let Ok(token) = HeaderValue::try_from(token.digits()) {
        headers.insert(PEER_TOKEN, token);
    }
    let half = door.peer_list.opts().timeout_period / 2;
    let interval = door.opts.heartbeat_interval.unwrap_or(half);
    let interval = u64::try_from(interval.as_millis());
    // To clients, 0 means never.
    headers.insert(
        HEARTBEAT_INTERVAL,
        interval.map_or(u64::MAX, |ms| ms.max(1)).into(),
    );
    Ok(response)
}

/// Not an `async fn`: its future would keep the request for as long as it waits, and the
/// request keeps the read buffer of the connection, kilobytes for each peer.
fn wait(
    door: Door,
    request: Request,
) -> impl Future<Output = Result<Response, Infallible>> + Send + use<> {
    let allowed = only(&[Method::GET], &request);
    let query = Query::of(&request);
    let asked = query
        .peer_id("peer_id")
        .and_then(|id| Ok((id, door.proof(&request)?, query.number("ack")?)));
    let limit = query.number("limit");
    let transport = Transport::of(&request);
    Transport::suspend(&request);
    drop(request);
    let open = allowed.map(|()| {
        let (id, proof, acknowledged) = asked?;
        let limit = door.wait_limit(limit?);
        let opts = WaitOpts {
            acknowledged,
            limit,
        };
        Ok((id, opts, door.open(id, proof, transport)?))
    });
    async move {
        let answer = match open {
            Ok(Ok((id, opts, open))) => parked(id, opts, open).await,
            Ok(Err(error)) => refuse_wait(error).await,
            Err(error) => Err(error),
        };
        Ok(answer.into_response())
    }
}

async fn parked(id: PeerId, opts: WaitOpts, open: Box<dyn OpenRequest>) -> Answer {
    let delivery = match open.wait(opts).await {
        Ok(delivery) => delivery,
        Err(error) => return refuse_wait(error.into()).await,
    };
    let number = match delivery.news() {
        News::Message { .. } if opts.acknowledged.is_some() => Some(delivery.number()),
        _ => None,
    };
    let (from, news) = match delivery.news() {
        News::Message { from, body } => (*from, body.clone().into()),
        News::Status(lines) | News::Nothing(lines) => (id, lines.clone()),
        // Answered at once: native clients then report that they are disconnected. The
        // other news are for sockets.
        News::Removed(_) | News::Replaced | News::Published(_) | News::Announced(_) => {
            return Err(Refusal::UnknownPeer.into());
        }
    };
    let mut response = reply_from(from, body::lines(news, delivery.receipt()));
    if let Some(number) = number {
        response.headers_mut().insert(MESSAGE_SEQ, number.into());
    }
    open.answered();
    Ok(response)
}

/// Refuses a wait after a pause.
async fn refuse_wait(error: RequestError) -> Answer {
    sleep(WAIT_ERROR_PAUSE).await;
    Err(error)
}

/// Not an `async fn`, for the reason given at [`wait`]: with the request in it, its
/// future took 1,112 bytes, more than the allocator keeps at hand.
fn message(
    State(door): State<Door>,
    request: Request,
) -> impl Future<Output = Answer> + Send + use<> {
    let door = door.in_room_of(&request);
    let allowed = only(&[Method::POST], &request);
    let query = Query::of(&request);
    let ids = query
        .peer_id("peer_id")
        .and_then(|from| Ok((from, query.peer_id("to")?, door.proof(&request)?)));
    let number = query.number("seq").and_then(|number| match number {
        Some(0) => Err(RequestError::MalformedSeq),
        number => Ok(number),
    });
    let transport = Transport::of(&request);
    let body = request.into_body();
    async move {
        allowed?;
        let open = ids.and_then(|(from, to, proof)| Ok((door.open(from, proof, transport)?, to)));
        // Read before any answer, also before an error: if the server hangs up while a
        // POST is in flight, the native client is reset.
        let limit = door.opts.max_message_bytes;
        let body = body::read(body, limit, door.peer_list.buffered()).await;
        // From here on the list counts it.
        let body = body.map(|Whole { bytes, .. }| bytes);
        if let Some(why) = body.as_ref().err().and_then(RequestError::unread) {
            door.peer_list.counts().unread(why);
        }
        let (open, to) = open?;
        let sent = match (number, body) {
            (Ok(number), Ok(body)) => Ok(open.send(to, body, SendOpts::numbered(number)).await?),
            (Err(error), _) | (_, Err(error)) => match open.seen().await {
                Ok(()) | Err(Refusal::Unavailable) => Err(error),
                Err(refusal) => return Err(refusal.into()),
            },
        };
        open.answered();
        sent.map(reply)
    }
}

async fn heartbeat(State(door): State<Door>, request: Request) -> Answer {
    let door = door.in_room_of(&request);
    only(&[Method::GET], &request)?;
    let id = Query::of(&request).peer_id("peer_id")?;
    let transport = Transport::of(&request);
    let open = door.open(id, door.proof(&request)?, transport)?;
    open.heartbeat().await?;
    open.answered();
    Ok(reply(()))
}

async fn sign_out(State(door): State<Door>, request: Request) -> Answer {
    let door = door.in_room_of(&request);
    only(&[Method::GET, Method::POST], &request)?;
    let query = Query::of(&request);
    let id = query.peer_id("peer_id")?;
    let grace = query.number("grace")?.unwrap_or(0);
    if grace > MAX_GRACE_MS {
        return Err(RequestError::TooHigh("grace", MAX_GRACE_MS));
    }
    // If the peer is not signed in, any token passes.
    let token = door.token(&request)?;
    door.peer_list.check_token(id, token.as_ref()).await?;
    if grace == 0 {
        door.peer_list.remove_peer(id, Reason::SignedOut).await?;
    } else {
        let grace = Duration::from_millis(grace);
        door.peer_list.sign_out_later(id, grace).await?;
    }
    Ok(reply(()))
}

/// Clients of 3DStreamingToolkit say how many more viewers they can serve.
async fn capacity(State(door): State<Door>, request: Request) -> Answer {
    let door = door.in_room_of(&request);
    only(&[Method::PUT], &request)?;
    let query = Query::of(&request);
    let id = query.peer_id("peer_id")?;
    let value = query.number("value")?;
    let value = value.ok_or(RequestError::MissingNumber("value"))?;
    let transport = Transport::of(&request);
    let open = door.open(id, door.proof(&request)?, transport)?;
    open.set_capacity(value).await?;
    open.answered();
    Ok(reply(()))
}

/// The limit, less a random part of up to a fifth.
fn with_jitter(limit: Duration) -> Duration {
    limit.mul_f64(1.0 - 0.2 * fastrand::f64())
}
