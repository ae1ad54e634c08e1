//! The events of a client, and what each does.

use std::str;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::debug;

use super::{Ended, Family, MAX_QUESTIONS, MAX_TYPE_BYTES, Member, NAME_KEPT, SCOPE};
#[cfg(feature = "ice")]
use crate::doors::kit::ice::ice_for;
use crate::{
    doors::{
        kit::push::End,
        socketio::{events, packet::Event},
    },
    peer_list::{Card, Cost, MAX_NAME_BYTES, PeerId, PublishOpts, Reason, Refusal, SendOpts},
};

impl Member {
    pub(super) async fn handle(&self, event: &Event) -> Result<(), Ended> {
        let Some((name, arguments)) = event.parts() else {
            return Ok(());
        };
        let ack = event.ack;
        if event.has_attachments {
            return self.answer_with(ack, &events::no_attachments()).await;
        }
        let id = self.peer.id;
        let list = &self.peer.list;
        match name.as_str() {
            "ready" => {
                self.show(Family::Names).await;
                self.ready(&arguments).await
            }
            "message" => {
                self.publish(&arguments, None).await?;
                self.acknowledge(ack).await
            }
            // A message of our own client: its number comes before the arguments.
            "numbered" if self.is_numbered => {
                if let Some((number, arguments)) = arguments.split_first()
                    && let Some(number) = parse(number)
                {
                    self.publish(arguments, Some(number)).await?;
                }
                self.acknowledge(ack).await
            }
            "messageOne" => {
                self.show(Family::Names).await;
                let outcome = events::outcome(self.send_one(&arguments).await);
                self.answer_with(ack, &outcome).await
            }
            "keep-in-server" | "keep-session" => {
                self.show(Family::Rooms).await;
                let Some(room) = room(&arguments) else {
                    return Ok(());
                };
                let announced = list.announce(id, room).await;
                let is_announced = announced.is_ok();
                accepted(announced)?;
                match is_announced {
                    true => self.acknowledge(ack).await,
                    false => Ok(()),
                }
            }
            "get-session-info" => {
                self.show(Family::Rooms).await;
                if let Some(room) = room(&arguments)
                    && let Some(ack) = ack
                {
                    return self.ask(room, ack).await;
                }
                Ok(())
            }
            #[cfg(feature = "ice")]
            "iceServers" => {
                let config = ice_for(
                    &self.ice_servers,
                    list,
                    Some(id),
                    self.admitted.identity().ice_servers.as_deref(),
                );
                self.answer_with(ack, &events::json(&config)).await
            }
            _ => Ok(()),
        }
    }

    /// The first protocol that the client shows counts.
    async fn show(&self, family: Family) {
        let is_first = {
            let mut shown = self.family.lock();
            let is_first = shown.is_none();
            shown.get_or_insert(family);
            is_first
        };
        if is_first {
            let other = family.other().channel();
            // An error means that the peer has ended, of which the client hears.
            let _ = self.peer.list.leave(self.peer.id, other).await;
        }
    }

    /// Passes a message on to all others.
    async fn publish(&self, arguments: &[&RawValue], number: Option<u64>) -> Result<(), Ended> {
        let family = *self.family.lock();
        let own = family.map(|family| [family.channel()]);
        let channels = own.as_ref().map_or(&Family::CHANNELS[..], |own| own);
        let list = &self.peer.list;
        let body = array(arguments);
        accepted(
            list.publish(self.peer.id, channels, body, PublishOpts::numbered(number))
                .await,
        )
    }

    async fn ask(&self, room: &str, ack: u64) -> Result<(), Ended> {
        {
            let mut asked = self.asked.lock();
            if asked.values().map(Vec::len).sum::<usize>() >= MAX_QUESTIONS {
                return Ok(());
            }
            // Noted before the question, because the answer may come at once.
            if !asked.contains_key(room) {
                accepted(self.held.add(Cost::own(room.len())))?;
            }
            asked.entry(room.to_owned()).or_default().push(ack);
        }
        let asked = self.peer.list.watch_for(self.peer.id, room).await;
        if asked.is_err() {
            self.forget(room);
        }
        accepted(asked)
    }

    async fn ready(&self, arguments: &[&RawValue]) -> Result<(), Ended> {
        let name: Option<String> = arguments.first().and_then(|name| parse(name));
        let name = name.filter(|name| !name.is_empty() && name.len() <= MAX_NAME_BYTES);
        let name = name.filter(|name| self.admitted.name(Some(name)).is_ok());
        let Some(name) = name else {
            debug!("`ready` without a peer id of 1 to {MAX_NAME_BYTES} bytes");
            return Ok(());
        };
        let list = &self.peer.list;
        let own = self.name.lock().clone();
        if let Some(own) = own {
            // Said again. A client that came back gets one answer: the answer is the
            // whole list, and the question has twelve bytes.
            if *own != *name || *self.is_greeted.lock() {
                return Ok(());
            }
            let cards = list.cards().await.map_err(|_| End::CLOSED)?;
            return self.greet(&name, &cards).await;
        }
        let peer_type = arguments.get(1).copied();
        let peer_type = peer_type.filter(|kind| kind.get().len() <= MAX_TYPE_BYTES);
        let listing = events::listing(&self.public_id, &name, peer_type);
        let listed = match list.claim(self.peer.id, SCOPE, &name, NAME_KEPT).await {
            Ok(()) => list.list_peer(self.peer.id, listing).await,
            Err(refusal) => Err(refusal),
        };
        match listed {
            Ok(cards) => {
                *self.name.lock() = Some(name.as_str().into());
                self.greet(&name, &cards).await
            }
            Err(Refusal::NameTaken) => {
                debug!(name, "a Socket.IO client wanted a name that is taken");
                let error = events::uniqueness_error(&name);
                self.emit("uniquenessError", &[&error]).await?;
                Err(End::Removed(Reason::SignedOut).into())
            }
            Err(_) => Err(End::CLOSED.into()),
        }
    }

    async fn greet(&self, name: &str, there: &[Card]) -> Result<(), Ended> {
        *self.is_greeted.lock() = true;
        let greeting = self.connections.greeting(name, self.peer.id, there);
        self.session.outbox.push_list(greeting);
        self.room().await?;
        match &self.token {
            Some(token) => {
                let session = events::session(self.peer.id, token);
                self.emit("session", &[&session]).await
            }
            None => Ok(()),
        }
    }

    async fn send_one(&self, arguments: &[&RawValue]) -> Result<(), Refusal> {
        #[derive(Deserialize)]
        struct Targeted {
            target: String,
        }
        let message = arguments.first().ok_or(Refusal::UnknownReceiver)?;
        // serde accepts an array in place of a struct as well.
        let is_object = message.get().starts_with('{');
        let targeted = parse::<Targeted>(message).filter(|_| is_object);
        let target = targeted.ok_or(Refusal::UnknownReceiver)?.target;
        let list = &self.peer.list;
        let sent = list
            .send_to_alias(self.peer.id, SCOPE, &target, array(arguments))
            .await;
        match sent {
            Ok(_) => return Ok(()),
            // It may be the id of a peer of another door.
            Err(Refusal::UnknownReceiver) => {}
            Err(refusal) => return Err(refusal),
        }
        let id = PeerId::parse(&target).ok_or(Refusal::UnknownReceiver)?;
        let body = Bytes::copy_from_slice(message.get().as_bytes());
        list.send(self.peer.id, id, body, SendOpts::PATIENT).await
    }
}

/// A message is acknowledged only when it is accepted. Otherwise the connection ends, and
/// a client that can sends the message again.
fn accepted(sent: Result<(), Refusal>) -> Result<(), Ended> {
    match sent {
        Err(Refusal::Unavailable | Refusal::OutOfMemory) => Err(Ended::Lost),
        // A removed peer hears of that at once.
        Ok(()) | Err(_) => Ok(()),
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
