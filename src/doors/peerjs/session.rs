//! A client of the PeerJS door, from its handshake until its socket has closed.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::debug;
use tungstenite::protocol::frame::coding::CloseCode;

use super::{
    DOOR, SCOPE,
    absent::Absent,
    frame::{self, Kind, Said},
};
use crate::{
    access::Admitted,
    doors::kit::{
        closing::Closing,
        push::{End, PushPeer},
        query::Query,
        socket::{Answers, Opened, Translate, come_in},
    },
    peer_list::{
        Delivery, Listing, News, PeerId, Reason, Refusal, SendOpts, SocketOpts, TimeoutPeerList,
        Unlisted,
    },
};

/// The longest token of a client, in bytes: it may be an access token.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Who wants to come in.
pub(super) struct Joining {
    pub id: String,
    /// By this, which no other client knows, the same client comes back.
    pub token: String,
}

impl Joining {
    /// An error is what the client is told.
    pub fn of(query: Query<'_>, own_key: &str) -> Result<Self, &'static str> {
        let given = |name| query.first(name).filter(|value| !value.is_empty());
        let (Some(id), Some(token), Some(key)) = (given("id"), given("token"), given("key")) else {
            return Err("No id, token, or key supplied to websocket server");
        };
        if key != own_key {
            return Err("Invalid key provided");
        }
        if !frame::is_own_id(&id) {
            return Err(
                "This id cannot be used: take letters and digits, with single spaces, _ or - between them",
            );
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err("The token is too long");
        }
        let (id, token) = (id.into_owned(), token.into_owned());
        Ok(Self { id, token })
    }
}

/// How far a message came.
enum Reach {
    /// Its receiver is there.
    There,
    /// This receiver has it in its mailbox, and has no socket.
    Away(PeerId),
    /// There is no receiver.
    Nobody,
    /// It was dropped: too many receivers are waited for.
    Dropped,
}

/// Why a client does not come in.
enum Refused {
    /// It is told why, and closed.
    Told(Bytes),
    Closed(Closing),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full | Refusal::RoomFull | Refusal::NetworkFull | Refusal::OutOfMemory => {
                Self::Told(frame::error("Server has reached its concurrent user limit"))
            }
            Refusal::NameTaken | Refusal::OtherUser => Self::Told(frame::ID_TAKEN.into()),
            _ => Self::Closed(Closing::unavailable()),
        }
    }
}

/// Serves a WebSocket.
pub(super) async fn serve(joining: Result<Joining, &'static str>, opened: Opened) {
    let Opened {
        list,
        admitted,
        mut socket,
    } = opened;
    let joined = match &joining {
        Ok(joining) => {
            let peer = join(&list, joining, &admitted).await;
            peer.map(|peer| (peer, &joining.id))
        }
        Err(why) => Err(Refused::Told(frame::error(why))),
    };
    let (peer, id) = match joined {
        Ok(joined) => joined,
        Err(Refused::Told(frame)) => {
            // A client that does not read it has gone.
            let _ = socket.send_text(frame).await;
            return socket.close(CloseCode::Normal, "").await;
        }
        Err(Refused::Closed(Closing { code, reason, .. })) => {
            return socket.close(code, reason).await;
        }
    };
    let session = Session::new(&peer, id);
    let closing = tokio::select! {
        closing = socket.talk_with_pings(&peer, &session) => closing,
        closing = session.wait_for_absent() => closing,
    };
    drop(session);
    socket.end(peer, closing).await;
}

/// A client comes in, or comes back.
async fn join(
    list: &TimeoutPeerList,
    joining: &Joining,
    admitted: &Admitted,
) -> Result<PushPeer, Refused> {
    let Joining { id, token } = joining;
    let unlisted = Unlisted {
        key: Some(&format!("{DOOR} {id} {token}")),
        door: DOOR,
        channels: &[],
        identity: admitted.identity(),
    };
    let opts = SocketOpts {
        resumes: true,
        ..SocketOpts::default()
    };
    let (peer, added) = come_in(list, unlisted, opts).await?;
    let listed = async {
        // A page that is loaded again takes its id over from the page before, whose socket is
        // closed by then.
        list.claim(peer.id, SCOPE, id, Duration::ZERO).await?;
        if added.alias.is_none() {
            let listing = Listing {
                name: id,
                card: Bytes::copy_from_slice(id.as_bytes()),
                hello: Bytes::new(),
                farewell: Bytes::new(),
            };
            list.list_peer(peer.id, listing).await?;
        }
        list.announce(peer.id, &announcement(id)).await
    };
    if let Err(refusal) = listed.await {
        peer.leave(End::Removed(Reason::SignedOut)).await;
        return Err(refusal.into());
    }
    Ok(peer)
}

/// What is announced when a peer with this id has come.
fn announcement(id: &str) -> String {
    format!("{SCOPE} {id}")
}

struct Session<'a> {
    peer: &'a PushPeer,
    id: &'a str,
    /// One message after the other: those that have waited go first.
    turn: tokio::sync::Mutex<()>,
    absent: Mutex<Absent>,
    absent_changed: Notify,
    answers: Answers,
}

impl<'a> Session<'a> {
    fn new(peer: &'a PushPeer, id: &'a str) -> Self {
        Self {
            peer,
            id,
            turn: tokio::sync::Mutex::new(()),
            absent: Mutex::new(Absent::new(peer.list.opts().max_pending_bytes)),
            absent_changed: Notify::new(),
            answers: Answers::beginning_with(frame::OPEN.into()),
        }
    }

    /// Sends a message, or keeps it until its receiver is there.
    async fn send(&self, kind: Kind, dst: &str, message: Bytes) -> Result<(), Closing> {
        let _turn = self.turn.lock().await;
        let has_others = self.absent.lock().has_messages(dst);
        if kind == Kind::Leave && !has_others {
            // It means nothing to a peer that is not there.
            return self.attempt(dst, &message).await.map(|_| ());
        }
        if !has_others {
            match self.reaches(dst, &message).await? {
                Reach::There => {
                    self.absent.lock().is_there(dst);
                    return Ok(());
                }
                Reach::Away(_) | Reach::Dropped => return Ok(()),
                Reach::Nobody => {}
            }
        }
        // Counted until it is sent.
        let kept = self.peer.list.buffered().share(message);
        if !kept.is_ok_and(|message| self.absent.lock().keep(dst, message)) {
            debug!(
                dst,
                "a message to a PeerJS peer that is not there was dropped"
            );
        }
        Ok(())
    }

    /// Tries to send a message.
    async fn attempt(&self, dst: &str, message: &Bytes) -> Result<Reach, Closing> {
        let Self { peer, .. } = self;
        let message = message.clone();
        let sent = match frame::of_other_door(dst) {
            Some(id) => {
                let sent = peer.list.send(peer.id, id, message, SendOpts::PATIENT);
                sent.await.map(|()| Reach::There)
            }
            None => {
                let sent = peer.list.send_to_alias(peer.id, SCOPE, dst, message);
                sent.await.map(|reached| match reached.has_socket {
                    true => Reach::There,
                    false => Reach::Away(reached.id),
                })
            }
        };
        match sent {
            Ok(reach) => Ok(reach),
            Err(Refusal::UnknownReceiver) => Ok(Reach::Nobody),
            // It does not read, and is about to be removed.
            Err(Refusal::MailboxFull) => Ok(Reach::There),
            Err(Refusal::UnknownPeer) => Err(End::Removed(Reason::SignedOut).into()),
            Err(_) => Err(Closing::unavailable()),
        }
    }

    /// Tries to send a message. If the receiver is not there, it is waited for.
    async fn reaches(&self, dst: &str, message: &Bytes) -> Result<Reach, Closing> {
        let reach = self.attempt(dst, message).await?;
        let holder = match reach {
            Reach::There | Reach::Dropped => return Ok(reach),
            Reach::Away(holder) => Some(holder),
            Reach::Nobody => None,
        };
        let is_noted = self.absent.lock().note(dst, holder, Instant::now());
        self.absent_changed.notify_one();
        if !is_noted {
            self.answers.tell(frame::expired(dst, self.id)).await;
            return Ok(Reach::Dropped);
        }
        if holder.is_none() && frame::of_other_door(dst).is_none() {
            let Self { peer, .. } = self;
            let watched = peer.list.watch_for(peer.id, &announcement(dst)).await;
            if let Err(Refusal::Unavailable) = watched {
                return Err(Closing::unavailable());
            }
        }
        Ok(reach)
    }

    /// Sends what waits for peers that come, and tells the client of those that do not.
    async fn wait_for_absent(&self) -> Closing {
        loop {
            let end = self.absent.lock().next_end();
            tokio::select! {
                () = self.absent_changed.notified() => {}
                () = async {
                    match end {
                        Some(end) => sleep_until(end).await,
                        None => std::future::pending().await,
                    }
                } => {}
            }
            let _turn = self.turn.lock().await;
            if let Err(closing) = self.send_to_come().await {
                return closing;
            }
            self.give_up().await;
        }
    }

    async fn send_to_come(&self) -> Result<(), Closing> {
        loop {
            let Some(id) = self.absent.lock().next_come() else {
                return Ok(());
            };
            loop {
                let Some(message) = self.absent.lock().first(&id) else {
                    break;
                };
                let reach = self.reaches(&id, &message).await?;
                if let Reach::Nobody = reach {
                    // It has left again, and is waited for.
                    break;
                }
                let mut absent = self.absent.lock();
                absent.take(&id);
                if let Reach::There = reach {
                    absent.is_there(&id);
                }
            }
        }
    }

    async fn give_up(&self) {
        loop {
            let Some((id, holder)) = self.absent.lock().give_up(Instant::now()) else {
                return;
            };
            let is_back = match holder {
                Some(holder) => {
                    let info = self.peer.list.peer_info(holder).await;
                    info.is_ok_and(|info| info.is_some_and(|info| info.connected))
                }
                None => false,
            };
            if !is_back {
                self.answers.tell(frame::expired(&id, self.id)).await;
            }
        }
    }
}

impl Translate for Session<'_> {
    const HAS_KEY: bool = true;

    fn peer(&self) -> &PushPeer {
        self.peer
    }

    fn answers(&self) -> &Answers {
        &self.answers
    }

    async fn hear(&self, frame: Bytes) -> Result<(), Closing> {
        match Said::of(&frame) {
            Said::Message { kind, dst, payload } => {
                let message = frame::message(kind, self.id, &dst, payload);
                self.send(kind, &dst, message).await
            }
            Said::Leave => Err(End::Removed(Reason::SignedOut).into()),
            Said::Nothing => Ok(()),
        }
    }

    fn frame(&self, delivery: &Delivery) -> Option<Bytes> {
        match delivery.news() {
            News::Published(frame) => Some(frame.clone()),
            News::Message { from, body } => Some(frame::from_other_door(*from, self.id, body)),
            News::Announced(name) => {
                let name = String::from_utf8_lossy(name);
                if let Some(id) = name.strip_prefix(&announcement("")) {
                    self.absent.lock().has_come(id);
                    self.absent_changed.notify_one();
                }
                None
            }
            News::Status(_) | News::Nothing(_) | News::Removed(_) | News::Replaced => None,
        }
    }
}
