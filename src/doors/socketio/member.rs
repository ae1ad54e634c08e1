//! The tasks of a socket: one handles the events of its client in order; another one,
//! side by side, passes on its news from the peer list.

use std::{
    collections::HashMap, convert::Infallible, future::pending, str, sync::Arc, time::Duration,
};

use parking_lot::Mutex;
use secrecy::SecretString;
use serde_json::value::RawValue;
use tokio::{sync::watch, time::sleep};
use tracing::debug;

use super::{
    Auth,
    connections::Connections,
    engineio::{Gone, Handshake, Session, Unconnected},
    events,
    packet::{self, Told},
};
#[cfg(feature = "ice")]
use crate::ice::IceServers;
use crate::{
    access::{Admitted, Denied},
    doors::kit::{
        Coming, Gate,
        push::{End, PushPeer, Return},
    },
    peer_list::{
        Added, Cost, Delivery, Held, News, PeerToken, Reason, Refusal, SocketOpts, TimeoutPeerList,
        Unlisted,
    },
};

mod said;

/// The name of this door, as events and the operator's API show it.
pub(super) const DOOR: &str = "socketio";

/// The scope of the names that clients give in `ready`.
const SCOPE: &str = "socketio";

/// The name of a client whose socket has been closed for this long is free for others: a client
/// that still runs is back by then. (Clients try again after 1 s, and 2.)
const NAME_KEPT: Duration = Duration::from_secs(5);

/// Which of the protocols of this door a client speaks, as far as it has shown. What it
/// publishes reaches the clients of the same protocol, and those that have not shown one
/// yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// That of `simple_webrtc_signaling_server`: clients have names, and send to each
    /// other by name.
    Names,
    /// That of Reliable-Signaler: clients meet in rooms.
    Rooms,
}

impl Family {
    /// The channel of the protocol. A client that has not shown one yet is in both.
    const CHANNELS: [&str; 2] = ["socketio names", "socketio rooms"];

    fn channel(self) -> &'static str {
        Self::CHANNELS[self as usize]
    }

    fn other(self) -> Self {
        match self {
            Self::Names => Self::Rooms,
            Self::Rooms => Self::Names,
        }
    }

    /// What a client in these channels has shown.
    fn of(channels: &[Arc<str>]) -> Option<Self> {
        let [channel] = channels else { return None };
        let mut both = [Self::Names, Self::Rooms].into_iter();
        both.find(|family| *family.channel() == **channel)
    }
}

/// How long a client may take from its handshake until it connects to the namespace.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// The pause before the list is asked again after it could not be reached.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(1);

/// How long a socket that is sent away may take to make room for the last packet.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// The longest `peerType`, as JSON, in bytes.
const MAX_TYPE_BYTES: usize = 512;

/// How many questions for rooms one socket may have open.
const MAX_QUESTIONS: usize = 1024;

/// What the sockets of this door share.
pub(super) struct Members {
    /// The token that clients have to show, if one is set.
    pub token: Option<SecretString>,
    pub gate: Gate,
    pub connections: Arc<Connections>,
    #[cfg(feature = "ice")]
    pub ice_servers: Arc<IceServers>,
}

/// Why a client may not connect, as its `connect_error` says it.
#[derive(Clone, Copy, Debug)]
enum Refused {
    Token,
    PeerToken,
    Full,
    RoomFull,
    NetworkFull,
}

impl Refused {
    fn text(self) -> &'static str {
        match self {
            Self::Token => "Authentication error",
            Self::PeerToken => "The peer token is wrong",
            Self::Full => "The server is full",
            Self::RoomFull => "The room is full",
            Self::NetworkFull => "Too many clients of this address",
        }
    }
}

impl Members {
    /// Serves a socket until it has closed or its peer is removed.
    pub async fn serve(
        &self,
        session: &Arc<Session>,
        handshake: Handshake,
        connecting: Unconnected,
    ) {
        let shown = tokio::select! {
            shown = session.shown() => shown,
            () = session.gone() => return,
            () = sleep(CONNECT_PATIENCE) => {
                debug!("a Socket.IO client did not connect in time");
                return session.close(Gone::Lost);
            }
        };
        let auth: Auth = serde_json::from_slice(&shown).unwrap_or_default();
        drop(shown);
        let joined = Box::pin(self.join(session, &handshake, &auth)).await;
        let Joined {
            peer,
            added,
            back,
            admitted,
        } = match joined {
            Ok(Some(joined)) => joined,
            Ok(None) => return,
            Err(refused) => {
                let why = refused.text();
                debug!(why, "a Socket.IO client was refused");
                let refused = packet::refused(session.version, "/", why);
                return session.finish(Some(refused), LAST_PATIENCE).await;
            }
        };
        peer.holds(session.outbox.held());
        drop(connecting);
        // The headers are not needed any more.
        let Handshake { public_id, .. } = handshake;
        session
            .outbox
            .push(packet::connected(session.version, &public_id));
        let is_numbered = auth.session_key().is_some();
        let held = peer.list.buffered().hold();
        let member = Member {
            peer,
            session: session.clone(),
            connections: self.connections.clone(),
            #[cfg(feature = "ice")]
            ice_servers: self.ice_servers.clone(),
            public_id,
            is_numbered,
            token: back.resumes.then_some(added.token),
            admitted,
            family: Mutex::new(Family::of(&added.channels)),
            name: Mutex::new(added.alias),
            is_greeted: Mutex::new(false),
            asked: Mutex::default(),
            held,
        };
        let ended = Box::pin(member.run(added.resumed)).await;
        let Member { peer, .. } = member;
        match ended {
            Ended::For(end @ End::Stopping) => {
                peer.leave(end).await;
                return session.stop();
            }
            // A peer that can come back may do so until it is stale.
            Ended::Lost => peer.leave(End::CLOSED).await,
            // Our own client says so when its page is closed.
            Ended::Disconnected if is_numbered => {
                peer.leave(End::Removed(Reason::SignedOut)).await;
            }
            Ended::Disconnected => peer.leave(End::CLOSED).await,
            Ended::For(end) => peer.leave(end).await,
        }
        session
            .finish(Some(packet::disconnected()), LAST_PATIENCE)
            .await;
    }

    /// Asks until it can be found out whether the client may come in: one that is sent away would
    /// not come back.
    async fn admit(&self, handshake: &Handshake, auth: &Auth) -> Result<Admitted, Refused> {
        loop {
            let admitted = self.gate.admit(Coming {
                list: &handshake.list,
                uri: &handshake.uri,
                headers: &handshake.headers,
                from: handshake.from,
                // It says its name later.
                name: None,
                token: auth.token(),
            });
            match admitted.await {
                Err(Denied::Unavailable) => sleep(UNAVAILABLE_PAUSE).await,
                admitted => return admitted.map_err(|_| Refused::Token),
            }
        }
    }

    /// None if the socket has closed. While the list cannot be reached the socket stays
    /// open: a client that is sent away would not come back.
    async fn join(
        &self,
        session: &Session,
        handshake: &Handshake,
        auth: &Auth,
    ) -> Result<Option<Joined>, Refused> {
        if !auth.shows(self.token.as_ref()) {
            return Err(Refused::Token);
        }
        let back = Return::of(&handshake.uri, &handshake.headers);
        let back = back.map_err(|_| Refused::PeerToken)?;
        let key = auth.session_key();
        let joining = async {
            let admitted = self.admit(handshake, auth).await?;
            let (peer, added) = join_list(&handshake.list, key, &back, &admitted).await?;
            Ok(Joined {
                peer,
                added,
                back,
                admitted,
            })
        };
        tokio::select! {
            biased;
            () = session.gone() => Ok(None),
            joined = joining => joined.map(Some),
        }
    }
}

async fn join_list(
    list: &TimeoutPeerList,
    key: Option<&str>,
    back: &Return,
    admitted: &Admitted,
) -> Result<(PushPeer, Added), Refused> {
    let identity = admitted.identity();
    let coming = Unlisted {
        key,
        door: DOOR,
        channels: &Family::CHANNELS,
        identity,
    };
    loop {
        let claimed = match &back.claim {
            Some((id, token)) => list.resume_unlisted(*id, token, identity).await,
            None => Err(Refusal::UnknownPeer),
        };
        let added = match claimed {
            Err(Refusal::UnknownPeer) => list.add_unlisted(coming).await,
            claimed => claimed,
        };
        let opened = match added {
            Ok(added) => {
                let opts = SocketOpts {
                    resumes: back.resumes,
                    ..SocketOpts::default()
                };
                let opened = PushPeer::new(list, added.id, opts).await;
                opened.map(|peer| (peer, added))
            }
            Err(refusal) => Err(refusal),
        };
        match opened {
            Ok(joined) => return Ok(joined),
            Err(Refusal::Full | Refusal::OutOfMemory) => return Err(Refused::Full),
            Err(Refusal::RoomFull) => return Err(Refused::RoomFull),
            Err(Refusal::NetworkFull) => return Err(Refused::NetworkFull),
            Err(Refusal::WrongToken | Refusal::OtherUser) => return Err(Refused::PeerToken),
            // A peer that comes back may be collected in between.
            Err(Refusal::UnknownPeer) => {}
            Err(_) => sleep(UNAVAILABLE_PAUSE).await,
        }
    }
}

/// A socket whose peer is in the list.
struct Joined {
    peer: PushPeer,
    added: Added,
    back: Return,
    admitted: Admitted,
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
    session: Arc<Session>,
    connections: Arc<Connections>,
    #[cfg(feature = "ice")]
    ice_servers: Arc<IceServers>,
    /// The public id of the socket.
    public_id: String,
    /// Messages are numbered in both directions.
    is_numbered: bool,
    /// What access control has found.
    admitted: Admitted,
    /// The token, for a client that can come back with it.
    token: Option<PeerToken>,
    family: Mutex<Option<Family>>,
    /// Its name in the list, once it has said `ready`.
    name: Mutex<Option<Arc<str>>>,
    /// Whether it was told which clients are connected.
    is_greeted: Mutex<bool>,
    /// The acknowledgements that wait for a room to exist.
    asked: Mutex<HashMap<String, Vec<u64>>>,
    /// Counts the names of these rooms.
    held: Held,
}

impl Member {
    async fn run(&self, resumed: bool) -> Ended {
        if self.is_numbered {
            let resumed = events::json(&resumed);
            if let Err(ended) = self.emit("resumed", &[&resumed]).await {
                return ended;
            }
        }
        let acknowledged = self.session.inbox.acknowledged();
        // Side by side: an event may have to wait for room in a mailbox, perhaps in this
        // peer's own.
        let ended = tokio::select! {
            ended = self.handle_all() => ended,
            ended = self.tell_all() => ended,
            never = self.acknowledge_all(acknowledged) => match never {},
        };
        match ended {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn handle_all(&self) -> Result<Infallible, Ended> {
        loop {
            let event = self.session.inbox.next().await?;
            self.handle(&event).await?;
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
            // Until the outbox has room the message counts in the mailbox.
            self.tell(&delivery).await?;
            if self.session.is_over() {
                // The message stays in the mailbox.
                drop(delivery);
                return pending().await;
            }
            delivery.done();
        }
    }

    async fn tell(&self, delivery: &Delivery) -> Result<(), Ended> {
        let number = self.is_numbered.then(|| delivery.number());
        let event = if self.is_numbered {
            "numbered"
        } else {
            "message"
        };
        match delivery.news() {
            News::Published(arguments) => {
                self.push_shared(packet::event_of(event, number, arguments))
                    .await
            }
            News::Message { from, body } => {
                let name = self.name.lock().clone().unwrap_or_default();
                let message = events::wrapped(*from, &name, body);
                let array = format!("[{message}]").into();
                self.push(packet::event_of(event, number, &array)).await
            }
            News::Announced(room) => {
                let room = str::from_utf8(room).unwrap_or_default();
                let asked = self.forget(room);
                let id = serde_json::from_str::<&RawValue>(room).ok();
                for ack in asked {
                    self.answer(ack, id.as_slice()).await?;
                }
                // Numbered like a message, and acknowledged like one.
                match number {
                    Some(_) => {
                        self.push(packet::event_of(event, number, &"[]".into()))
                            .await
                    }
                    None => Ok(()),
                }
            }
            News::Status(_) | News::Nothing(_) | News::Removed(_) | News::Replaced => Ok(()),
        }
    }

    /// The questions for a room, which are not open any more.
    fn forget(&self, room: &str) -> Vec<u64> {
        let Some(asked) = self.asked.lock().remove(room) else {
            return Vec::new();
        };
        self.held.remove(Cost::own(room.len()));
        asked
    }

    async fn acknowledge(&self, ack: Option<u64>) -> Result<(), Ended> {
        match ack {
            Some(ack) => self.answer(ack, &[]).await,
            None => Ok(()),
        }
    }

    async fn answer_with(&self, ack: Option<u64>, argument: &RawValue) -> Result<(), Ended> {
        match ack {
            Some(ack) => self.answer(ack, &[argument]).await,
            None => Ok(()),
        }
    }

    async fn answer(&self, ack: u64, arguments: &[&RawValue]) -> Result<(), Ended> {
        self.push(packet::ack(ack, arguments)).await
    }

    async fn emit(&self, event: &str, arguments: &[&RawValue]) -> Result<(), Ended> {
        self.push(packet::event(event, arguments)).await
    }

    /// Puts a packet last in line, and waits until there is room for another one: answers
    /// to a client's own questions count in the same bound as what others send it.
    async fn push(&self, packet: Told) -> Result<(), Ended> {
        self.session.outbox.push(packet);
        self.room().await
    }

    /// As [`Member::push`], for a packet whose long parts count already.
    async fn push_shared(&self, packet: Told) -> Result<(), Ended> {
        self.session.outbox.push_shared(packet);
        self.room().await
    }

    /// Waits for room in the outbox.
    async fn room(&self) -> Result<(), Ended> {
        tokio::select! {
            biased;
            () = self.session.outbox.has_space() => Ok(()),
            end = self.peer.ended() => Err(end.into()),
        }
    }
}
