//! The tasks of a socket: one obeys the client's events one after the other,
//! beside it one passes on what the peer list has for it.

use std::{
    collections::HashMap, convert::Infallible, future::pending, str, sync::Arc, time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use socketioxide::{SendError as EmitError, SocketError, SocketIo, extract::SocketRef};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    call::{Ack, Arguments, Call, Calls, Gone},
    events,
};
use crate::{
    doors::push::{End, PushPeer, Return},
    peer_list::{
        AddPeerError, Added, Card, Delivery, Family, MAX_NAME_BYTES, News, PeerError, PeerId,
        PeerToken, Reason, ResumeError, SendError, TimeoutPeerList,
    },
};

/// What those who watch the list know this door by.
const DOOR: &str = "socketio";

/// The pause before what did not fit into the socket's buffer is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(2);

/// The pause before a list that cannot be reached is asked again.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(1);

/// How long a socket that is to go may take to make room for the word.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The longest `peerType`, as JSON, in bytes.
const MAX_TYPE_BYTES: usize = 512;

/// How many questions for rooms one socket may have open.
const MAX_QUESTIONS: usize = 1024;

/// Serves a socket until it is gone or its peer is removed. With a key its
/// client is one of ours, which numbers and acknowledges.
pub(super) async fn serve(
    list: TimeoutPeerList,
    io: SocketIo,
    socket: SocketRef,
    mut calls: Calls,
    key: Option<String>,
    back: Return,
) {
    if let Some((peer, added)) = join(&list, &socket, key.as_deref(), &back).await {
        let member = Member {
            peer,
            socket: socket.clone(),
            is_numbered: key.is_some(),
            token: back.resumes.then_some(added.token),
            name: Mutex::new(added.name),
            asked: Mutex::default(),
        };
        match member.run(&mut calls, added.resumed).await {
            // Not sent away: clients take that for the server's last word.
            // They see the connection close, and try again.
            Ended::For(End::Stopping) => return io.close().await,
            // It may come back until it is stale, if it is one that can.
            Ended::Lost => member.peer.leave(End::CLOSED).await,
            // The script of ours says so when its page is done.
            Ended::Disconnected if member.is_numbered => {
                member.peer.leave(End::Removed(Reason::SignedOut)).await;
            }
            Ended::Disconnected => member.peer.leave(End::CLOSED).await,
            Ended::For(end) => member.peer.leave(end).await,
        }
    }
    let _ = timeout(LAST_PATIENCE, async {
        while let Err(SocketError::InternalChannelFull) = socket.clone().disconnect() {
            sleep(FULL_PAUSE).await;
        }
    })
    .await;
}

/// None if the server is full, the token is wrong, or the socket is gone. While
/// the list cannot be reached the socket is held: sent away, it would not come
/// back.
async fn join(
    list: &TimeoutPeerList,
    socket: &SocketRef,
    key: Option<&str>,
    back: &Return,
) -> Option<(PushPeer, Added)> {
    while socket.connected() {
        let claimed = match &back.claim {
            Some((id, token)) => list.resume_member(*id, token).await,
            None => Err(ResumeError::Gone),
        };
        let added = match claimed {
            Ok(added) => Ok(added),
            Err(ResumeError::Gone) => match list.add_member(key, DOOR).await {
                Ok(added) => Ok(added),
                Err(AddPeerError::Unavailable) => Err(PeerError::Unavailable),
                Err(AddPeerError::Full | AddPeerError::NoName) => return None,
            },
            Err(ResumeError::WrongToken) => return None,
            Err(ResumeError::Unavailable) => Err(PeerError::Unavailable),
        };
        let opened = match added {
            Ok(added) => PushPeer::new(list, added.id, back.resumes)
                .await
                .map(|peer| (peer, added)),
            Err(error) => Err(error),
        };
        match opened {
            Ok(joined) => return Some(joined),
            Err(PeerError::Unavailable) => sleep(UNAVAILABLE_PAUSE).await,
            // One that comes back may be collected in between.
            Err(PeerError::Unknown | PeerError::WrongToken) => {}
        }
    }
    None
}

/// How the session of a socket ended.
enum Ended {
    /// The connection was lost.
    Lost,
    /// Its client said so.
    Disconnected,
    For(End),
}

impl From<End> for Ended {
    fn from(end: End) -> Self {
        Self::For(end)
    }
}

impl From<Gone> for Ended {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Lost => Self::Lost,
            Gone::Disconnected => Self::Disconnected,
        }
    }
}

struct Member {
    peer: PushPeer,
    socket: SocketRef,
    /// Messages are numbered, in both directions.
    is_numbered: bool,
    /// Told to a client that can come back with it.
    token: Option<PeerToken>,
    /// The name that it is in the list by, once it said `ready`.
    name: Mutex<Option<Arc<str>>>,
    /// The acknowledgements that wait for a room to exist.
    asked: Mutex<HashMap<String, Vec<Ack>>>,
}

impl Member {
    async fn run(&self, calls: &mut Calls, resumed: bool) -> Ended {
        if self.is_numbered {
            let resumed = events::json(&resumed);
            if let Err(ended) = self.emit("resumed", &[&resumed]).await {
                return ended;
            }
        }
        let overflowed = calls.overflowed();
        let acknowledged = calls.acknowledged();
        // Side by side: what is obeyed may have to wait for room in a mailbox,
        // this one's included.
        let ended = tokio::select! {
            ended = self.obey_all(calls) => ended,
            ended = self.tell_all() => ended,
            never = self.acknowledge_all(acknowledged) => match never {},
            () = overflowed.cancelled() => Err(Ended::Lost),
        };
        match ended {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn obey_all(&self, calls: &mut Calls) -> Result<Infallible, Ended> {
        loop {
            let call = calls.next().await?;
            self.obey(&call).await?;
        }
    }

    async fn acknowledge_all(&self, mut acknowledged: watch::Receiver<u64>) -> Infallible {
        while self.is_numbered && acknowledged.changed().await.is_ok() {
            let number = *acknowledged.borrow_and_update();
            self.peer.list.acknowledge(self.peer.id, number).await;
        }
        pending().await
    }

    async fn tell_all(&self) -> Result<Infallible, Ended> {
        loop {
            let delivery = self.peer.news().await?;
            self.tell(&delivery).await?;
            delivery.done().await;
        }
    }

    async fn tell(&self, delivery: &Delivery) -> Result<(), Ended> {
        match delivery.news() {
            News::GroupMessage(arguments) => {
                // Written by a socket of this door, as an array.
                let arguments = serde_json::from_slice::<Vec<&RawValue>>(arguments);
                self.message(delivery.number(), &arguments.unwrap_or_default())
                    .await
            }
            News::Message { from, body } => {
                let name = self.name.lock().clone().unwrap_or_default();
                let message = events::wrapped(*from, &name, body);
                self.message(delivery.number(), &[&message]).await
            }
            News::Room(room) => {
                let room = str::from_utf8(room).unwrap_or_default();
                let asked = self.asked.lock().remove(room).unwrap_or_default();
                let id = serde_json::from_str::<&RawValue>(room).ok();
                for ack in asked {
                    self.answer(&ack, id.as_slice()).await?;
                }
                // Numbered like a message, and so acknowledged like one.
                if self.is_numbered {
                    self.message(delivery.number(), &[]).await?;
                }
                Ok(())
            }
            News::Status(_) | News::Nothing(_) | News::Removed(_) | News::Replaced => Ok(()),
        }
    }

    async fn message(&self, number: u64, arguments: &[&RawValue]) -> Result<(), Ended> {
        if !self.is_numbered {
            return self.emit("message", arguments).await;
        }
        let number = events::json(&number);
        let numbered: Vec<&RawValue> = [&*number]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        self.emit("numbered", &numbered).await
    }

    async fn obey(&self, call: &Call) -> Result<(), Ended> {
        let Some((event, arguments)) = call.parts() else {
            return Ok(());
        };
        let ack = call.ack.as_ref();
        if call.has_attachments {
            return match ack {
                Some(ack) => self.answer(ack, &[&events::no_attachments()]).await,
                None => Ok(()),
            };
        }
        let id = self.peer.id;
        let list = &self.peer.list;
        match event.as_str() {
            "ready" => {
                list.show_family(id, Family::Names).await;
                self.ready(&arguments).await
            }
            "message" => {
                accepted(list.broadcast(id, array(&arguments)).await)?;
                self.acknowledge(ack).await
            }
            // A message of our own client: its number before the arguments.
            "numbered" if self.is_numbered => {
                if let Some((number, arguments)) = arguments.split_first()
                    && let Some(number) = parse(number)
                {
                    let sent = list.broadcast_once(id, array(arguments), number).await;
                    accepted(sent)?;
                }
                self.acknowledge(ack).await
            }
            "messageOne" => {
                list.show_family(id, Family::Names).await;
                let outcome = events::outcome(self.send_one(&arguments).await);
                match ack {
                    Some(ack) => self.answer(ack, &[&outcome]).await,
                    None => Ok(()),
                }
            }
            "keep-in-server" | "keep-session" => {
                list.show_family(id, Family::Rooms).await;
                match room(&arguments) {
                    Some(room) if list.keep_room(id, room).await => self.acknowledge(ack).await,
                    _ => Ok(()),
                }
            }
            "get-session-info" => {
                list.show_family(id, Family::Rooms).await;
                if let Some(room) = room(&arguments)
                    && let Some(ack) = ack
                {
                    self.ask(room, ack).await;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn ask(&self, room: &str, ack: &Ack) {
        {
            let mut asked = self.asked.lock();
            if asked.values().map(Vec::len).sum::<usize>() >= MAX_QUESTIONS {
                return;
            }
            // Before it is asked, for the answer may come at once.
            asked.entry(room.to_owned()).or_default().push(ack.clone());
        }
        if !self.peer.list.ask_for_room(self.peer.id, room).await {
            self.asked.lock().remove(room);
        }
    }

    async fn ready(&self, arguments: &[&RawValue]) -> Result<(), Ended> {
        let name: Option<String> = arguments.first().and_then(|name| parse(name));
        let name = name.filter(|name| !name.is_empty() && name.len() <= MAX_NAME_BYTES);
        let Some(name) = name else {
            debug!("`ready` without a peer id of 1 to {MAX_NAME_BYTES} bytes");
            return Ok(());
        };
        let list = &self.peer.list;
        let own = self.name.lock().clone();
        if let Some(own) = own {
            // Said again, by a client that came back.
            if *own != *name {
                return Ok(());
            }
            let cards = list.cards().await.map_err(|_| End::CLOSED)?;
            return self.greet(&name, &cards).await;
        }
        let peer_type = arguments.get(1).copied();
        let peer_type = peer_type.filter(|kind| kind.get().len() <= MAX_TYPE_BYTES);
        let socket_id = self.socket.id.to_string();
        let introduction = events::introduction(&socket_id, &name, peer_type);
        match list.list_member(self.peer.id, &name, introduction).await {
            Ok(Some(cards)) => {
                *self.name.lock() = Some(name.as_str().into());
                self.greet(&name, &cards).await
            }
            Ok(None) => {
                let error = events::uniqueness_error(&name);
                self.emit("uniquenessError", &[&error]).await?;
                Err(End::Removed(Reason::SignedOut).into())
            }
            Err(_) => Err(End::CLOSED.into()),
        }
    }

    async fn greet(&self, name: &str, there: &[Card]) -> Result<(), Ended> {
        let greeting = events::greeting(name, self.peer.id, there);
        self.emit("message", &[&greeting]).await?;
        match &self.token {
            Some(token) => {
                let session = events::session(self.peer.id, token);
                self.emit("session", &[&session]).await
            }
            None => Ok(()),
        }
    }

    async fn send_one(&self, arguments: &[&RawValue]) -> Result<(), SendError> {
        #[derive(Deserialize)]
        struct Targeted {
            target: String,
        }
        let message = arguments.first().ok_or(SendError::UnknownReceiver)?;
        // serde takes an array for a struct as well.
        let is_object = message.get().starts_with('{');
        let targeted = parse::<Targeted>(message).filter(|_| is_object);
        let target = targeted.ok_or(SendError::UnknownReceiver)?.target;
        let list = &self.peer.list;
        let sent = list
            .send_to_member(self.peer.id, &target, array(arguments))
            .await;
        let Err(SendError::UnknownReceiver) = sent else {
            return sent;
        };
        let id = PeerId::parse(&target).ok_or(SendError::UnknownReceiver)?;
        let body = Bytes::copy_from_slice(message.get().as_bytes());
        list.send_patiently(self.peer.id, id, body).await
    }

    async fn acknowledge(&self, ack: Option<&Ack>) -> Result<(), Ended> {
        match ack {
            Some(ack) => self.answer(ack, &[]).await,
            None => Ok(()),
        }
    }

    async fn answer(&self, ack: &Ack, arguments: &[&RawValue]) -> Result<(), Ended> {
        self.retry(|| ack.send(Arguments(arguments))).await
    }

    async fn emit(&self, event: &str, arguments: &[&RawValue]) -> Result<(), Ended> {
        let arguments = Arguments(arguments);
        self.retry(|| self.socket.emit(event, &arguments)).await
    }

    /// The socket's buffer holds a number of packets and refuses more.
    async fn retry(&self, emit: impl Fn() -> Result<(), EmitError>) -> Result<(), Ended> {
        let emitted = async {
            loop {
                match emit() {
                    Err(EmitError::Socket(SocketError::InternalChannelFull)) => {
                        sleep(FULL_PAUSE).await;
                    }
                    result => return result,
                }
            }
        };
        let written = self.peer.write(emitted).await;
        written.map_err(|end| match end {
            End::CLOSED => Ended::Lost,
            end => end.into(),
        })
    }
}

/// A message is acknowledged only when it is accepted: else the connection
/// ends, and a client that knows how sends it again.
fn accepted(sent: Result<(), PeerError>) -> Result<(), Ended> {
    match sent {
        // One that is removed hears of it at once.
        Ok(()) | Err(PeerError::Unknown | PeerError::WrongToken) => Ok(()),
        Err(PeerError::Unavailable) => Err(Ended::Lost),
    }
}

/// The arguments as one JSON array, each as it was sent.
fn array(arguments: &[&RawValue]) -> Bytes {
    let arguments: Vec<&str> = arguments.iter().map(|argument| argument.get()).collect();
    format!("[{}]", arguments.join(",")).into()
}

fn parse<T: serde::de::DeserializeOwned>(value: &RawValue) -> Option<T> {
    serde_json::from_str(value.get()).ok()
}

/// The id of a room as it was sent: a string or a number.
fn room<'a>(arguments: &[&'a RawValue]) -> Option<&'a str> {
    let room = arguments.first()?.get();
    let is_id = room.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
    is_id.then_some(room)
}
