//! The operator's API, on its own listener: which peers are signed in, and which left or
//! came back.
//!
//! | request | verb |
//! |---|---|
//! | `GET /peers`, `GET /peers/{id}` | `peer_infos`, `peer_info` |
//! | `DELETE /peers/{id}` | `remove_peer` |
//! | `POST /purge` | `purge` |
//! | `GET /rooms` | `rooms` |
//! | `GET /events` | `subscribe` |
//! | `GET /metrics` | `counts`, `tally`, `shards` |
//!
//! `/rooms/NAME/peers` and `/rooms/NAME/purge` are the same for a room. `/` is a page that shows
//! all this.

mod json;
mod metrics;
mod page;
mod webhook;

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{
        HeaderName, HeaderValue, Method,
        header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN},
        uri::Authority,
    },
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::any,
};
use futures_util::{Stream, StreamExt, stream};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;
use tower_http::validate_request::ValidateRequestHeaderLayer;
use tracing::error;

pub use webhook::{Webhook, WebhookCounts, send_events};

use metrics::Metrics;

use crate::{
    doors::kit::{
        DoorCounts, RequestError, only,
        query::Query,
        reply::{json_reply, reply},
    },
    peer_list::{
        EVENTS_KEPT, Missed, PeerEvent, PeerEvents, PeerId, PeerInfo, Reason, RoomName,
        TimeoutPeerList,
    },
};

/// How often something is written to a silent event stream: proxies cut after 30 s or
/// more, and the server notices when a subscriber is gone.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

/// As an answer to a wrong path names them.
const PATHS: &str = "/peers, /rooms, /purge, /events and /metrics, and / for browsers";

#[derive(Clone)]
struct Operator {
    peer_list: TimeoutPeerList,
    /// When cancelled, event streams end after the events so far.
    stop: CancellationToken,
}

/// The operator's API. If there is a token, each request must show it as `Authorization:
/// Bearer`. Event streams end when `stop` is cancelled.
pub fn operator_router(
    peer_list: TimeoutPeerList,
    token: Option<SecretString>,
    doors: Arc<DoorCounts>,
    webhook: Option<Arc<WebhookCounts>>,
    stop: CancellationToken,
) -> Router {
    let metrics = Metrics {
        peer_list: peer_list.clone(),
        doors,
        webhook,
    };
    let operator = Operator { peer_list, stop };
    let token = token.map(Arc::new);
    #[expect(clippy::result_large_err, reason = "tower-http has it so")]
    let guard = move |request: &mut Request| {
        let token = token.as_deref().map(ExposeSecret::expose_secret);
        admit(request, token).map_err(IntoResponse::into_response)
    };
    Router::new()
        .route("/peers", any(peers))
        .route("/peers/{id}", any(peer))
        .route("/purge", any(purge))
        .route("/rooms", any(rooms))
        .route("/rooms/{room}/peers", any(peers))
        .route("/rooms/{room}/peers/{id}", any(peer))
        .route("/rooms/{room}/purge", any(purge))
        .route("/events", any(events))
        .route(
            "/metrics",
            any(move |request| show(metrics.clone(), request)),
        )
        .fallback(async || RequestError::NotFound(PATHS.into()))
        .layer(ValidateRequestHeaderLayer::custom(guard))
        .with_state(operator)
        .merge(page::routes())
}

/// Refuses requests without the token, and those of all pages but the operator's: a browser on
/// the operator's machine reaches the loopback interface too, whatever page it shows.
fn admit(request: &Request, token: Option<&str>) -> Result<(), RequestError> {
    if is_from_other_page(request, token.is_some()) {
        return Err(RequestError::OperatorsOnly);
    }
    if let Some(token) = token {
        let shown = request.headers().get(AUTHORIZATION);
        let shown = shown.and_then(bearer).ok_or(RequestError::Unauthorized)?;
        // In constant time, so that it does not tell how much of the token was right.
        if !bool::from(shown.ct_eq(token.as_bytes())) {
            return Err(RequestError::Unauthorized);
        }
    }
    Ok(())
}

/// Whether a page may have made a request that is not of this listener. Without a token, a
/// request for another host name than the loopback's may come from such a page: a page can make
/// its own host name resolve to this address, and then has the same origin.
fn is_from_other_page(request: &Request, has_token: bool) -> bool {
    let text = |name| {
        request
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let host = text(HOST);
    let site = text(HeaderName::from_static("sec-fetch-site"));
    if site.is_some_and(|site| !["none", "same-origin"].contains(&site)) {
        return true;
    }
    let origin =
        text(ORIGIN).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    if origin.is_some() && origin != host {
        return true;
    }
    !has_token && host.is_some_and(|host| !is_loopback(host))
}

/// Whether the host in `HOST:PORT` is the loopback interface.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address: Result<IpAddr, _> = address.parse();
    address.map_or(host.eq_ignore_ascii_case("localhost"), |address| {
        address.is_loopback()
    })
}

/// The token of `Bearer TOKEN`; RFC 9110 lets the scheme be in any case.
fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked("Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
}

type Answer = Result<Response, RequestError>;

/// The root list and all rooms, in `?room=`.
const ALL_ROOMS: &str = "*";

/// Where a page of peers begins: after this id, or after this peer of a room.
enum After {
    Id(u64),
    Peer(RoomName, PeerId),
}

impl After {
    fn of(query: Query<'_>) -> Result<Self, RequestError> {
        let text = query.text("after")?;
        let Some((room, id)) = text.as_deref().and_then(|text| text.split_once('/')) else {
            return Ok(Self::Id(query.number("after")?.unwrap_or(0)));
        };
        let id = PeerId::parse(id).ok_or(RequestError::MalformedId("the end of after"))?;
        let room = room.parse();
        Ok(Self::Peer(
            room.map_err(|_| RequestError::MalformedRoom("after"))?,
            id,
        ))
    }

    /// `of_all`: the peers of all rooms follow those of the root list.
    fn is_before(&self, peer: &PeerInfo, of_all: bool) -> bool {
        match self {
            Self::Id(_) if of_all && peer.room.is_some() => true,
            Self::Id(id) => u64::from(peer.id.get()) > *id,
            Self::Peer(room, id) => (peer.room.as_ref(), peer.id) > (Some(room), *id),
        }
    }
}

/// The room that the parameter `room` names.
fn room_in_query(name: &str) -> Result<RoomName, RequestError> {
    name.parse()
        .map_err(|_| RequestError::MalformedRoom("room"))
}

impl Operator {
    /// The list that the path names: `/rooms/NAME/..`, or else the root list. A room in the query
    /// is refused: otherwise the peer with the same id in the root list would be meant.
    fn list_in(&self, request: &Request) -> Result<TimeoutPeerList, RequestError> {
        if Query::of(request).text("room")?.is_some() {
            return Err(RequestError::Unfit("room"));
        }
        let path = request.uri().path().strip_prefix("/rooms/");
        let Some(name) = path.and_then(|path| path.split('/').next()) else {
            return Ok(self.peer_list.clone());
        };
        let name = name.parse().map_err(|_| RequestError::BadRoomName)?;
        Ok(self.peer_list.room(&name))
    }
}

async fn show(metrics: Metrics, request: Request) -> Answer {
    only(&[Method::GET], &request)?;
    let text = metrics.text().await.unwrap_or_else(|error| {
        // Two metrics have the same name: a fault that the tests find.
        error!(%error, "the metrics cannot be shown");
        String::new()
    });
    let mut response = reply(text);
    let kind = HeaderValue::from_static(metrics::TEXT);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

async fn peers(State(operator): State<Operator>, request: Request) -> Answer {
    only(&[Method::GET], &request)?;
    let query = Query::of(&request);
    let name = query.text("name")?;
    let limit = query.number("limit")?.unwrap_or(u64::MAX);
    let after = After::of(query)?;
    let room = query.text("room")?;
    let mut peers = match room.as_deref() {
        Some(_) if request.uri().path() != "/peers" => return Err(RequestError::Unfit("room")),
        Some(ALL_ROOMS) => operator.peer_list.infos_of_all_rooms().await?,
        Some(room) => {
            let room = room_in_query(room)?;
            operator.peer_list.room(&room).peer_infos().await?
        }
        None => operator.list_in(&request)?.peer_infos().await?,
    };
    let of_all = room.as_deref() == Some(ALL_ROOMS);
    peers.retain(|peer| {
        after.is_before(peer, of_all) && name.as_ref().is_none_or(|name| *name == *peer.name)
    });
    peers.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(json_reply(json::peers(&peers)))
}

async fn rooms(State(operator): State<Operator>, request: Request) -> Answer {
    only(&[Method::GET], &request)?;
    let query = Query::of(&request);
    let limit = query.number("limit")?.unwrap_or(u64::MAX);
    let after = query.text("after")?;
    let mut rooms = operator.peer_list.rooms().await?;
    rooms.retain(|room| {
        after
            .as_deref()
            .is_none_or(|after| room.name.as_str() > after)
    });
    rooms.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(json_reply(json::rooms(&rooms)))
}

async fn peer(State(operator): State<Operator>, request: Request) -> Answer {
    only(&[Method::GET, Method::DELETE], &request)?;
    let id = id_of(&request).ok_or(RequestError::MalformedId("the last part of the path"))?;
    let missing = RequestError::NotSignedIn("the path");
    let list = operator.list_in(&request)?;
    // The operator's API shows only listed peers.
    let info = list.peer_info(id).await?;
    if request.method() == Method::GET {
        let info = info.ok_or(missing)?;
        return Ok(json_reply(json::peer(&info)));
    }
    if info.is_some() && list.remove_peer(id, Reason::Kicked).await? {
        Ok(json_reply(json::removed(&[id])))
    } else {
        Err(missing)
    }
}

fn id_of(request: &Request) -> Option<PeerId> {
    let (_, id) = request.uri().path().rsplit_once('/')?;
    PeerId::parse(id)
}

async fn purge(State(operator): State<Operator>, request: Request) -> Answer {
    only(&[Method::POST], &request)?;
    let removed = operator.list_in(&request)?.purge().await?;
    Ok(json_reply(json::removed(&removed)))
}

async fn events(State(operator): State<Operator>, request: Request) -> Answer {
    only(&[Method::GET], &request)?;
    let room = match Query::of(&request).text("room")?.as_deref() {
        None | Some(ALL_ROOMS) => None,
        Some(room) => Some(room_in_query(room)?),
    };
    let events = match request.headers().get("last-event-id") {
        None => operator.peer_list.subscribe(None).await,
        Some(last) => {
            let last = last.to_str().ok().and_then(|last| last.trim().parse().ok());
            // Anything other than a cursor of this server is a gap. A browser that is
            // refused would never ask again.
            operator
                .peer_list
                .subscribe(Some(&last.unwrap_or_default()))
                .await
        }
    };
    let stream = sent(events, room, operator.stop);
    let keep_alive = KeepAlive::new().interval(COMMENT_INTERVAL);
    let mut response = Sse::new(stream).keep_alive(keep_alive).into_response();
    // nginx would keep events until its buffer is full.
    response.headers_mut().insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(response)
}

/// The events of a subscription, or of one room only, as they are sent, until the stop and
/// including what happened before it.
fn sent(
    events: PeerEvents,
    room: Option<RoomName>,
    stop: CancellationToken,
) -> impl Stream<Item = Result<Event, Infallible>> {
    // Headers go out with the first bytes, and a client waits for them.
    let hello = stream::once(async { Ok(Event::default().comment("events follow")) });
    hello.chain(stream::unfold(
        (events, room, stop),
        move |(mut events, room, stop)| async move {
            let next = tokio::select! {
                biased;
                next = next_of(&mut events, room.as_ref()) => next,
                () = stop.cancelled() => return None,
            };
            let heard = Event::default().id(events.cursor().to_string());
            let event = match next {
                Next::Event(number, event) => {
                    let (name, json) = json::event(number, &event);
                    heard.event(name).data(json)
                }
                Next::Gap(missed) => {
                    let json = format!(r#"{{"event":"gap","after":{}}}"#, missed.after);
                    heard.event("gap").data(json)
                }
                Next::OthersOnly => heard,
            };
            Some((Ok(event), (events, room, stop)))
        },
    ))
}

/// What a subscriber is sent next.
enum Next {
    Event(u64, PeerEvent),
    Gap(Missed),
    /// Nothing but how far it has heard: there were many events in other rooms.
    OthersOnly,
}

/// After this many events in other rooms a subscriber is told how far it has heard. Otherwise
/// it would find a gap when it comes back, although nothing happened in its room.
const OTHERS: usize = EVENTS_KEPT / 10;

async fn next_of(events: &mut PeerEvents, room: Option<&RoomName>) -> Next {
    for _ in 0..OTHERS {
        match events.next().await {
            Ok((_, event)) if room.is_some() && event.peer().room.as_ref() != room => {}
            Ok((number, event)) => return Next::Event(number, event),
            Err(missed) => return Next::Gap(missed),
        }
    }
    Next::OthersOnly
}
