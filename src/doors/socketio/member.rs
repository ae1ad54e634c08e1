//! The task of a socket: it obeys the client's events one after the other and
//! passes on what the peer list has for it.

use std::{collections::HashMap, convert::Infallible, str, time::Duration};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use socketioxide::{SendError as EmitError, SocketError, extract::SocketRef};
use tokio::time::sleep;
use tracing::debug;

use super::{
    call::{Ack, Arguments, Call, Calls, Gone},
    events,
};
use crate::{
    doors::push::{End, PushPeer},
    peer_list::{
        Delivery, Family, MAX_NAME_BYTES, News, PeerId, Reason, SendError, TimeoutPeerList,
    },
};

/// The pause before what did not fit into the socket's buffer is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(2);

/// The longest `peerType`, as JSON, in bytes.
const MAX_TYPE_BYTES: usize = 512;

/// How many questions for rooms one socket may have open.
const MAX_QUESTIONS: usize = 1024;

/// Serves a socket until it is gone or its peer is removed. With a key its
/// client is one of ours, which numbers and acknowledges.
pub(super) async fn serve(
    list: TimeoutPeerList,
    socket: SocketRef,
    calls: Calls,
    key: Option<String>,
) {
    if let Ok((id, resumed)) = list.add_member(key.as_deref()).await
        && let Some(peer) = PushPeer::new(&list, id)
    {
        let mut member = Member {
            peer,
            socket: socket.clone(),
            name: None,
            is_numbered: key.is_some(),
            asked: HashMap::new(),
            questions: 0,
        };
        match member.run(calls, resumed).await {
            // It may come back until it is stale.
            Ended::Lost if member.is_numbered => {}
            Ended::Lost => member.peer.leave(End::CLOSED).await,
            Ended::For(end) => member.peer.leave(end).await,
        }
    }
    // Refused only while its buffer is full.
    while let Err(SocketError::InternalChannelFull) = socket.clone().disconnect() {
        sleep(FULL_PAUSE).await;
    }
}

/// How the session of a socket ended.
enum Ended {
    /// The connection was lost.
    Lost,
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
            Gone::Disconnected => Self::For(End::CLOSED),
        }
    }
}

struct Member {
    peer: PushPeer,
    socket: SocketRef,
    /// The name that it is in the list by, once it said `ready`.
    name: Option<String>,
    /// Messages are numbered, in both directions.
    is_numbered: bool,
    /// The acknowledgements that wait for a room to exist.
    asked: HashMap<String, Vec<Ack>>,
    questions: usize,
}

impl Member {
    async fn run(&mut self, calls: Calls, resumed: bool) -> Ended {
        match self.serve(calls, resumed).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn serve(&mut self, mut calls: Calls, resumed: bool) -> Result<Infallible, Ended> {
        if self.is_numbered {
            let resumed = events::json(&resumed);
            self.emit("session", &[&resumed]).await?;
        }
        loop {
            tokio::select! {
                call = calls.next() => {
                    self.obey(&call?).await?;
                }
                delivery = self.peer.news() => {
                    let delivery = delivery?;
                    self.tell(&delivery).await?;
                    delivery.done().await;
                }
            }
        }
    }

    async fn tell(&mut self, delivery: &Delivery) -> Result<(), Ended> {
        match delivery.news() {
            News::GroupMessage(arguments) => {
                // Written by a socket of this door, as an array.
                let arguments = serde_json::from_slice::<Vec<&RawValue>>(arguments);
                self.message(delivery.number(), &arguments.unwrap_or_default())
                    .await
            }
            News::Message { from, body } => {
                let name = self.name.as_deref().unwrap_or_default();
                let message = events::message(*from, name, body);
                self.message(delivery.number(), &[&message]).await
            }
            News::Room(room) => {
                let room = str::from_utf8(room).unwrap_or_default();
                let asked = self.asked.remove(room).unwrap_or_default();
                self.questions -= asked.len();
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

    async fn obey(&mut self, call: &Call) -> Result<(), Ended> {
        let Some((event, arguments)) = call.parts() else {
            return Ok(());
        };
        let ack = call.ack.as_ref();
        let id = self.peer.id;
        let list = &self.peer.list;
        match event.as_str() {
            "ready" => {
                list.show_family(id, Family::Names).await;
                self.ready(&arguments).await
            }
            "message" => {
                // An error means that the peer is removed, which it hears of
                // at once.
                let _ = list.broadcast(id, array(&arguments)).await;
                self.acknowledge(ack).await
            }
            // A message of our own client: its number before the arguments.
            "numbered" if self.is_numbered => {
                if let Some((number, arguments)) = arguments.split_first()
                    && let Some(number) = parse(number)
                    && list.is_first(id, number).await
                {
                    let _ = list.broadcast(id, array(arguments)).await;
                }
                self.acknowledge(ack).await
            }
            "got" if self.is_numbered => {
                if let Some(number) = arguments.first().and_then(|number| parse(number)) {
                    list.acknowledge(id, number).await;
                }
                Ok(())
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
                    && self.questions < MAX_QUESTIONS
                    && list.ask_for_room(id, room).await
                {
                    self.questions += 1;
                    let asked = self.asked.entry(room.to_owned()).or_default();
                    asked.push(ack.clone());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn ready(&mut self, arguments: &[&RawValue]) -> Result<(), Ended> {
        let name: Option<String> = arguments.first().and_then(|name| parse(name));
        let name = name.filter(|name| !name.is_empty() && name.len() <= MAX_NAME_BYTES);
        let (Some(name), None) = (name, &self.name) else {
            debug!("`ready` without a peer id of 1 to {MAX_NAME_BYTES} bytes, or a second one");
            return Ok(());
        };
        let peer_type = arguments.get(1).copied();
        let peer_type = peer_type.filter(|kind| kind.get().len() <= MAX_TYPE_BYTES);
        let socket_id = self.socket.id.to_string();
        let introduction = events::introduction(&socket_id, &name, peer_type);
        let list = &self.peer.list;
        match list.list_member(self.peer.id, &name, introduction).await {
            Ok(true) => {
                let greeting = events::greeting(&name, self.peer.id, &list.cards().await);
                self.name = Some(name);
                self.emit("message", &[&greeting]).await
            }
            Ok(false) => {
                let error = events::uniqueness_error(&name);
                self.emit("uniquenessError", &[&error]).await?;
                Err(End::Removed(Reason::SignedOut).into())
            }
            Err(_) => Err(End::CLOSED.into()),
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
        let sent = list.send_to_member(&target, array(arguments)).await;
        let Err(SendError::UnknownReceiver) = sent else {
            return sent;
        };
        let is_decimal = target.bytes().all(|b| b.is_ascii_digit());
        let id = target.parse().ok().filter(|_| is_decimal);
        let id = id.and_then(PeerId::new).ok_or(SendError::UnknownReceiver)?;
        let body = Bytes::copy_from_slice(message.get().as_bytes());
        list.send(self.peer.id, id, body).await
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
