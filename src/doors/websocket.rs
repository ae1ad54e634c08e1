//! The WebSocket door: `signal-fire`'s protocol, JSON objects as text frames.
//!
//! | frame | verb |
//! |---|---|
//! | the upgrade of `/` or `/ws`, answered with `{"type":"id","peerId":"7"}` | `add_peer` |
//! | an object with `receiverId` (or `peerId`) | `send` |
//! | close | `remove_peer` |
//!
//! A frame reaches its receiver byte for byte: its clients put `senderId` in
//! themselves. With `events=true` in the query a client is also told of the
//! peer list and of frames that went nowhere; others never are, because they
//! take every frame for a peer's. With `resume=true` it gets the token that it
//! can come back with: `peer_id` and `peer_token` in the query.

use std::{convert::Infallible, pin::pin, str, time::Duration};

use axum::{
    Router,
    extract::{
        Request, State,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code},
    },
    http::{Method, header::UPGRADE},
    response::{IntoResponse, Response},
    routing::any,
};
use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, interval_at, sleep_until, timeout},
};

use super::{
    RequestError, only,
    push::{End, PushPeer, Return, ping_interval},
};
use crate::peer_list::{
    AddPeerError, Dialect, News, PeerError, PeerId, PeerToken, Reason, ResumeError, SendError,
    SignedIn, TimeoutPeerList, WayIn, WrongToken,
};

/// What those who watch the list know this door by.
const DOOR: &str = "websocket";

/// tungstenite sets aside 128 KiB by default; most peers are idle.
const READ_BUFFER_BYTES: usize = 2 * 1024;

/// A frame that is too large is read and discarded up to this many times the
/// limit, so that its sender sees the reason and no reset.
const DISCARDED: usize = 4;

/// How many errors may wait to be told. A client that does not read them
/// misses some.
const UNTOLD_ERRORS: usize = 16;

/// How long the last frame may take.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// RFC 6455's 1013, "try again later", is what `close_code` calls AGAIN.
const NOT_READING: u16 = close_code::AGAIN;

/// Of the codes that are free for applications.
const REPLACED: u16 = 4001;

#[derive(Clone)]
struct Door {
    peer_list: TimeoutPeerList,
    max_message_bytes: usize,
}

/// The routes of this door: `/` and `/ws`.
pub(crate) fn routes(peer_list: TimeoutPeerList, max_message_bytes: usize) -> Router {
    let door = Door {
        peer_list,
        max_message_bytes,
    };
    Router::new()
        .route("/", any(upgrade))
        .route("/ws", any(upgrade))
        .with_state(door)
}

/// What the query of the upgrade says.
struct Joining {
    name: Option<String>,
    events: bool,
    back: Return,
}

impl Joining {
    fn of(request: &Request) -> Result<Self, WrongToken> {
        let back = Return::of(request.uri(), request.headers())?;
        let query = request.uri().query().unwrap_or_default().as_bytes();
        let value = |name| {
            let mut pairs = form_urlencoded::parse(query);
            let found = pairs.find(|(key, _)| key == name);
            found.map(|(_, value)| value.into_owned())
        };
        Ok(Self {
            name: value("peer_name").filter(|name| !name.is_empty()),
            events: value("events").is_some_and(|value| value == "true"),
            back,
        })
    }
}

async fn upgrade(
    State(door): State<Door>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
    request: Request,
) -> Result<Response, RequestError> {
    only(&[Method::GET], &request)?;
    let wanted = request.headers().get(UPGRADE);
    if wanted.is_none_or(|wanted| !wanted.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(RequestError::OnlyWebSockets);
    }
    let joining = Joining::of(&request)?;
    if let Some((id, token)) = &joining.back.claim {
        door.peer_list.check_token(*id, token).await?;
    } else if door.peer_list.is_full() {
        return Err(RequestError::ServerFull);
    }
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return Ok(rejection.into_response()),
    };
    let discarded = door.max_message_bytes.saturating_mul(DISCARDED);
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(discarded)
        .max_frame_size(discarded);
    Ok(upgrade.on_upgrade(move |socket| serve(door, joining, socket)))
}

/// Serves a WebSocket: a peer that is signed in as long as it is open.
async fn serve(door: Door, joining: Joining, mut socket: WebSocket) {
    let dialect = if joining.events {
        Dialect::Listed
    } else {
        Dialect::Silent
    };
    let way = WayIn {
        door: DOOR,
        dialect,
    };
    let SignedIn { id, token, list } = match sign_in(&door.peer_list, &joining, way).await {
        Ok(signed_in) => signed_in,
        Err((code, reason)) => return close(&mut socket, code, reason).await,
    };
    let peer = match PushPeer::new(&door.peer_list, id, joining.back.resumes).await {
        Ok(peer) => peer,
        Err(PeerError::Unavailable) => {
            let (code, reason) = UNAVAILABLE;
            return close(&mut socket, code, reason).await;
        }
        Err(PeerError::Unknown | PeerError::WrongToken) => {
            return close(&mut socket, close_code::NORMAL, "signed out").await;
        }
    };
    let session = Session {
        peer: &peer,
        token: joining.back.resumes.then_some(token),
        max_message_bytes: door.max_message_bytes,
        events: joining.events,
        heard: Mutex::new(Some(Instant::now())),
    };
    // Not kept any longer than it is needed: it is as long as the room is
    // large.
    let list = joining.events.then_some(list);
    let closing = session.run(&mut socket, list).await;
    peer.leave(closing.end).await;
    close(&mut socket, closing.code, closing.reason).await;
}

/// How a socket is closed when the list cannot be reached.
const UNAVAILABLE: (u16, &str) = (close_code::AGAIN, "try again soon");

/// Signs a peer in, under the id that it proves to have if the list still
/// holds it. An error is how the socket is to be closed.
async fn sign_in(
    list: &TimeoutPeerList,
    joining: &Joining,
    way: WayIn,
) -> Result<SignedIn, (u16, &'static str)> {
    let name = joining.name.as_deref();
    if let Some((id, token)) = &joining.back.claim {
        match list.resume_peer(*id, token, name, way).await {
            Ok(signed_in) => return Ok(signed_in),
            Err(ResumeError::WrongToken) => return Err((close_code::POLICY, "not your token")),
            Err(ResumeError::Unavailable) => return Err(UNAVAILABLE),
            Err(ResumeError::Gone) => {}
        }
    }
    let added = list.add_peer(name, way).await;
    added.map_err(|error| match error {
        AddPeerError::Unavailable => UNAVAILABLE,
        AddPeerError::Full | AddPeerError::NoName => (close_code::AGAIN, "the server is full"),
    })
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str) {
    let reason = Utf8Bytes::from_static(reason);
    let frame = Message::Close(Some(CloseFrame { code, reason }));
    let _ = timeout(CLOSE_PATIENCE, async {
        // Until the client has closed too, so that what it still sends does
        // not reset the connection before it has read the reason.
        if socket.send(frame).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    })
    .await;
}

/// How a session ended.
struct Closing {
    end: End,
    code: u16,
    reason: &'static str,
}

impl Closing {
    fn new(end: End, code: u16, reason: &'static str) -> Self {
        Self { end, code, reason }
    }
}

impl From<End> for Closing {
    fn from(end: End) -> Self {
        let (code, reason) = match end {
            End::Removed(Reason::NotReading) => (NOT_READING, "too much waits for this peer"),
            End::Removed(Reason::Kicked) => (close_code::POLICY, "removed by the operator"),
            End::Removed(Reason::TimedOut) => (close_code::AWAY, "no sign of life"),
            // Its node was cut off, and the others took it for dead.
            End::Removed(Reason::Closed) => (close_code::AWAY, "the connection was taken for lost"),
            End::Removed(_) => (close_code::NORMAL, "signed out"),
            End::Replaced => (REPLACED, "another session took over"),
            End::Stopping => (close_code::AWAY, "the server stops"),
        };
        Self::new(end, code, reason)
    }
}

struct Session<'a> {
    peer: &'a PushPeer,
    /// Told to a client that can come back with it.
    token: Option<PeerToken>,
    max_message_bytes: usize,
    events: bool,
    /// When it was last heard. None: nothing is read from it, as what it sent
    /// last is still being delivered.
    heard: Mutex<Option<Instant>>,
}

/// What a frame went wrong with, as it is told with `events=true`.
type FrameError = Value;

impl Session<'_> {
    async fn run(&self, socket: &mut WebSocket, list: Option<Bytes>) -> Closing {
        let (mut sink, stream) = socket.split();
        let (errors, untold) = if self.events {
            let (errors, untold) = mpsc::channel(UNTOLD_ERRORS);
            (Some(errors), Some(untold))
        } else {
            (None, None)
        };
        // Side by side, so that one that is slow to read is still heard.
        tokio::select! {
            closing = self.read(stream, errors) => closing,
            end = self.write(&mut sink, list, untold) => end.into(),
            () = self.silence() => End::Removed(Reason::TimedOut).into(),
        }
    }

    /// Ready when nothing has come for the timeout of a peer.
    async fn silence(&self) {
        let patience = self.peer.list.opts().timeout_period;
        loop {
            let heard = *self.heard.lock();
            let end = heard.unwrap_or_else(Instant::now) + patience;
            if Instant::now() >= end {
                return;
            }
            sleep_until(end).await;
        }
    }

    async fn read(
        &self,
        stream: impl Stream<Item = Result<Message, axum::Error>>,
        errors: Option<mpsc::Sender<FrameError>>,
    ) -> Closing {
        let mut stream = pin!(stream);
        while let Some(frame) = stream.next().await {
            *self.heard.lock() = Some(Instant::now());
            let frame = match frame {
                Ok(Message::Text(text)) => Bytes::from(text),
                Ok(Message::Binary(bytes)) => bytes,
                // A close is answered while the end of the stream is read.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_)) => continue,
                Err(error) => return unreadable(&error),
            };
            if frame.len() > self.max_message_bytes {
                return Closing::new(End::CLOSED, close_code::SIZE, "the frame is too large");
            }
            *self.heard.lock() = None;
            let received = self.receive(&frame).await;
            *self.heard.lock() = Some(Instant::now());
            match received {
                Ok(()) => {}
                Err(Refused::Sender) => return End::Removed(Reason::SignedOut).into(),
                Err(Refused::Unavailable) => {
                    let (code, reason) = UNAVAILABLE;
                    return Closing::new(End::CLOSED, code, reason);
                }
                Err(Refused::Frame(error)) => {
                    let _ = errors.as_ref().map(|errors| errors.try_send(error));
                }
            }
        }
        Closing::new(End::CLOSED, close_code::NORMAL, "")
    }

    async fn receive(&self, frame: &Bytes) -> Result<(), Refused> {
        let addressed = Addressed::of(frame);
        let target = addressed.and_then(|addressed| addressed.target());
        let target = target
            .ok_or_else(|| Refused::Frame(json!({"type": "error", "error": "bad_message"})))?;
        // Copied out of the connection's read buffer: a slice would keep all
        // of it while it waits in a mailbox that counts its bytes.
        let body = Bytes::copy_from_slice(frame);
        let sent = match target.id() {
            Some(to) => self.peer.list.send_patiently(self.peer.id, to, body).await,
            None => Err(SendError::UnknownReceiver),
        };
        let error = match sent {
            Ok(()) => return Ok(()),
            Err(SendError::UnknownSender) => return Err(Refused::Sender),
            Err(SendError::UnknownReceiver) => "unknown_receiver",
            Err(SendError::MailboxFull) => "mailbox_full",
            // Its token was looked at when it came in, and nothing is numbered.
            Err(SendError::Unavailable | SendError::WrongToken | SendError::OutOfOrder) => {
                return Err(Refused::Unavailable);
            }
        };
        Err(Refused::Frame(
            json!({"type": "error", "error": error, "receiverId": target.text()}),
        ))
    }

    async fn write(
        &self,
        sink: &mut (impl SinkExt<Message, Error = axum::Error> + Unpin),
        list: Option<Bytes>,
        mut untold: Option<mpsc::Receiver<FrameError>>,
    ) -> End {
        let written: Result<Infallible, End> = async {
            let mut hello = json!({"type": "id", "peerId": self.peer.id.to_string()});
            if let Some(token) = &self.token {
                hello["peerToken"] = token.digits().into();
            }
            self.peer.write(sink.send(text(hello.to_string()))).await?;
            if let Some(list) = list {
                self.peer.write(sink.send(peers_frame(&list))).await?;
            }
            let interval = ping_interval(&self.peer.list);
            let mut pings = interval_at(Instant::now() + interval, interval);
            loop {
                tokio::select! {
                    delivery = self.peer.news() => {
                        let delivery = delivery?;
                        if let Some(frame) = self.frame(delivery.news()) {
                            self.peer.write(sink.send(frame)).await?;
                        }
                        delivery.done().await;
                    }
                    Some(error) = next(&mut untold) => {
                        self.peer.write(sink.send(text(error.to_string()))).await?;
                    }
                    _ = pings.tick() => {
                        self.peer.write(sink.send(Message::Ping(Bytes::new()))).await?;
                    }
                }
            }
        }
        .await;
        let Err(end) = written;
        end
    }

    fn frame(&self, news: &News) -> Option<Message> {
        match news {
            News::Message { from, body } => Some(message_frame(*from, self.peer.id, body)),
            News::Status(list) => Some(peers_frame(list)),
            // A WebSocket peer is in no group and asks for no room, and how
            // its wait ends is no news.
            News::GroupMessage(_)
            | News::Room(_)
            | News::Nothing(_)
            | News::Removed(_)
            | News::Replaced => None,
        }
    }
}

/// The next error that is to be told, to a client that wants that.
async fn next(untold: &mut Option<mpsc::Receiver<FrameError>>) -> Option<FrameError> {
    untold.as_mut()?.recv().await
}

/// Why a frame could not be read. The library's error has no other name here.
fn unreadable(error: &axum::Error) -> Closing {
    if error.to_string().starts_with("Space limit exceeded") {
        return Closing::new(End::CLOSED, close_code::SIZE, "the frame is too large");
    }
    Closing::new(End::CLOSED, close_code::PROTOCOL, "not a WebSocket frame")
}

/// What became of a frame.
enum Refused {
    /// The peer is not signed in any more.
    Sender,
    /// The list cannot be reached.
    Unavailable,
    Frame(FrameError),
}

fn text(text: impl Into<Utf8Bytes>) -> Message {
    Message::Text(text.into())
}

/// Whom a frame is for, and who says that it is from them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Addressed {
    receiver_id: Option<Target>,
    peer_id: Option<Target>,
    sender_id: Option<serde::de::IgnoredAny>,
}

/// The id of a peer, which is a string or a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Target {
    Text(String),
    Number(u64),
    /// Neither, and so nobody's.
    Other(Value),
}

impl Addressed {
    /// None if the bytes are not a JSON object.
    fn of(bytes: &[u8]) -> Option<Self> {
        // serde takes an array for a struct as well.
        let is_object = bytes.trim_ascii_start().first() == Some(&b'{');
        // Of bytes, serde would not look at the strings that it skips.
        let text = str::from_utf8(bytes).ok()?;
        serde_json::from_str(text).ok().filter(|_| is_object)
    }

    /// The documented version of `signal-fire` routes on `peerId`, the
    /// published one and its client on `receiverId`; no frame has both.
    fn target(self) -> Option<Target> {
        let target = self.receiver_id.or(self.peer_id);
        target.filter(|target| !matches!(target, Target::Other(_)))
    }

    fn is_addressed(&self) -> bool {
        self.receiver_id.is_some() || self.peer_id.is_some()
    }
}

impl Target {
    fn id(&self) -> Option<PeerId> {
        match self {
            Self::Text(text) => PeerId::parse(text),
            Self::Number(number) => PeerId::new(u32::try_from(*number).ok()?),
            Self::Other(_) => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Other(value) => value.to_string(),
        }
    }
}

/// A message as a WebSocket peer gets it. What names its receiver is a frame
/// of this protocol and stays as it is; another object gets the ids, and
/// anything else becomes one.
fn message_frame(from: PeerId, to: PeerId, body: &Bytes) -> Message {
    let frame = match Addressed::of(body) {
        Some(addressed) if addressed.is_addressed() => body.clone(),
        Some(addressed) => with_ids(body, from, to, addressed.sender_id.is_some()),
        None => {
            let data = String::from_utf8_lossy(body);
            let wrapped =
                json!({"senderId": from.to_string(), "receiverId": to.to_string(), "data": data});
            wrapped.to_string().into()
        }
    };
    match Utf8Bytes::try_from(frame) {
        Ok(frame) => Message::Text(frame),
        // Not reached: an object is UTF-8, and JSON of ours is.
        Err(_) => text(""),
    }
}

/// Puts the ids behind the last member of an object.
fn with_ids(object: &[u8], from: PeerId, to: PeerId, has_sender: bool) -> Bytes {
    let object = object.trim_ascii_end();
    let open = object.strip_suffix(b"}").unwrap_or(object);
    let is_empty = open.trim_ascii() == b"{";
    let mut frame = open.to_vec();
    let mut add = |name: &str, id: PeerId, comma: bool| {
        let comma = if comma { "," } else { "" };
        frame.extend_from_slice(format!(r#"{comma}"{name}":"{id}""#).as_bytes());
    };
    if !has_sender {
        add("senderId", from, !is_empty);
    }
    add("receiverId", to, !(is_empty && has_sender));
    frame.push(b'}');
    frame.into()
}

/// The peer list, from its lines `NAME,ID,STATUS`.
fn peers_frame(list: &[u8]) -> Message {
    let list = String::from_utf8_lossy(list);
    let peers = list.lines().filter_map(|line| {
        let (line, status) = line.rsplit_once(',')?;
        let (name, id) = line.rsplit_once(',')?;
        Some(json!({"peerId": id, "name": name, "connected": status == "1"}))
    });
    let peers: Vec<Value> = peers.collect();
    text(json!({"type": "peers", "peers": peers}).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> PeerId {
        PeerId::new(number).unwrap()
    }

    fn target(frame: &str) -> Option<PeerId> {
        Addressed::of(frame.as_bytes())?.target()?.id()
    }

    #[test]
    fn a_frame_goes_to_receiver_id_or_else_to_peer_id() {
        assert_eq!(target(r#"{"receiverId":"7"}"#), Some(id(7)));
        assert_eq!(target(r#" {"peerId":7,"x":[{}]} "#), Some(id(7)));
        assert_eq!(target(r#"{"peerId":"8","receiverId":"7"}"#), Some(id(7)));
        assert_eq!(target(r#"{"peerId":"8","receiverId":null}"#), Some(id(8)));
    }

    #[test]
    fn what_is_no_object_or_names_nobody_goes_nowhere() {
        let frames = [
            "",
            "null",
            "7",
            "[]",
            r#"["7"]"#,
            "{",
            "{}",
            r#"{"receiverId":true}"#,
            r#"{"receiverId":{"constructor":1}}"#,
            r#"{"receiverId":"constructor"}"#,
            r#"{"receiverId":"__proto__"}"#,
            r#"{"receiverId":0}"#,
            r#"{"receiverId":-1}"#,
            r#"{"receiverId":1.5}"#,
            r#"{"receiverId":"+1"}"#,
            r#"{"receiverId":1e3}"#,
            r#"{"receiverId":99999999999999999999999}"#,
            r#"{"receiverId":"7"}x"#,
        ];
        for frame in frames {
            assert_eq!(target(frame), None, "{frame}");
        }
    }

    fn framed(body: &str) -> String {
        let frame = message_frame(id(3), id(7), &Bytes::copy_from_slice(body.as_bytes()));
        frame.into_text().unwrap().as_str().to_owned()
    }

    #[test]
    fn a_frame_that_names_its_receiver_stays_as_it_is() {
        for body in [
            r#" {"receiverId": "7",  "senderId":"3"} "#,
            r#"{"peerId":7}"#,
        ] {
            assert_eq!(framed(body), body);
        }
    }

    #[test]
    fn another_object_gets_the_ids_and_the_rest_stays_as_it_was() {
        let ids = r#""senderId":"3","receiverId":"7"}"#;
        assert_eq!(
            framed(r#"{"type":"offer",  "n":1.50}"#),
            format!(r#"{{"type":"offer",  "n":1.50,{ids}"#)
        );
        assert_eq!(framed("{ }\n"), format!("{{ {ids}"));
        assert_eq!(
            framed(r#"{"senderId":"x"}"#),
            r#"{"senderId":"x","receiverId":"7"}"#
        );
    }

    #[test]
    fn what_is_no_object_becomes_one() {
        assert_eq!(
            framed("hi \"Bob\""),
            r#"{"senderId":"3","receiverId":"7","data":"hi \"Bob\""}"#
        );
        let rubbish = Bytes::from_static(b"\xff[");
        let frame = message_frame(id(3), id(7), &rubbish).into_text().unwrap();
        let frame: Value = serde_json::from_str(&frame).unwrap();
        assert_eq!(frame["data"], "\u{fffd}[");
    }

    #[test]
    fn the_list_is_told_as_objects() {
        let frame = peers_frame("a \"b\",2,1\né,1,0\n".as_bytes())
            .into_text()
            .unwrap();
        let frame: Value = serde_json::from_str(&frame).unwrap();
        let peers = json!([
            {"peerId": "2", "name": "a \"b\"", "connected": true},
            {"peerId": "1", "name": "é", "connected": false},
        ]);
        assert_eq!(frame, json!({"type": "peers", "peers": peers}));
    }
}
