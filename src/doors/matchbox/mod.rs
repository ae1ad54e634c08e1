//! The matchbox door: the signaling of `matchbox_socket`, for games in Rust.
//!
//! | frame | verb |
//! |---|---|
//! | the upgrade of `/matchbox/ROOM` | `add_unlisted`, `claim`, `list_peer`, `join` |
//! | `Signal` | `send_to_alias` |
//! | close | `remove_peer` |
//!
//! With `next=N` in the query the room is one of groups of N, which fill one after the other. The
//! client never comes back: its socket is closed only when it must be.

use std::{num::NonZeroU32, time::Duration};

use axum::{
    Router,
    extract::{Path, Request, State},
    response::Response,
    routing::any,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::debug;
use tungstenite::protocol::frame::coding::CloseCode;

use super::kit::{
    RequestError, SignalOpts,
    closing::Closing,
    guard,
    push::{End, PushPeer},
    query::Query,
    socket::{Answers, Opened, Shown, SocketDoor, Translate},
    uuid::uuid,
};
use crate::peer_list::{JoinOpts, Listing, Reason, Refusal, TimeoutPeerList};

/// The name of this door, as events and the operator's API show it.
const DOOR: &str = "matchbox";

/// A frame for a client.
#[derive(Serialize)]
enum Told<'a> {
    IdAssigned(&'a str),
    NewPeer(&'a str),
    PeerLeft(&'a str),
    Signal { sender: &'a str, data: &'a RawValue },
}

impl Told<'_> {
    fn frame(&self) -> Bytes {
        // Texts and JSON: serde_json refuses none of them.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// A frame of a client. (It also says `"KeepAlive"`.)
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    signal: Signal,
}

#[derive(Deserialize)]
struct Signal {
    receiver: String,
    data: Box<RawValue>,
}

/// Where a client wants to play.
struct Game {
    room: String,
    group_of: Option<NonZeroU32>,
}

impl Game {
    /// What its channels begin with, and the scope of the ids in it.
    fn scope(&self) -> String {
        match self.group_of {
            Some(size) => format!("{DOOR} {} next {size}", self.room),
            None => format!("{DOOR} {}", self.room),
        }
    }
}

/// The routes of this door.
pub(crate) fn routes(peer_list: TimeoutPeerList, opts: &SignalOpts) -> Router {
    Router::new()
        .route("/matchbox/{room}", any(upgrade))
        .route_layer(guard(opts, DOOR))
        .with_state(SocketDoor::new(peer_list, opts, DOOR))
}

async fn upgrade(
    State(door): State<SocketDoor>,
    Path(params): Path<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, RequestError> {
    // Below `/rooms/NAME` there is another one before it.
    let room = params.into_iter().last().map(|(_, room)| room);
    let next = Query::of(&request).number("next")?;
    let game = Game {
        room: room.unwrap_or_default(),
        group_of: next.and_then(|next| u32::try_from(next).ok().and_then(NonZeroU32::new)),
    };
    let serve = move |opened| serve(game, opened);
    door.open(request, Shown::default(), serve).await
}

async fn serve(game: Game, mut opened: Opened) {
    let Some(id) = uuid() else {
        return opened
            .socket
            .close(CloseCode::Error, "no random numbers")
            .await;
    };
    let Some(peer) = opened.come_in(DOOR).await else {
        return;
    };
    let session = Session {
        peer: &peer,
        id: &id,
        scope: game.scope(),
        // Once: a second id makes the client panic.
        answers: Answers::beginning_with(Told::IdAssigned(&id).frame()),
    };
    let closing = match session.begin(game.group_of).await {
        Ok(()) => opened.socket.talk_with_pings(&peer, &session).await,
        Err(_) => Closing::unavailable(),
    };
    drop(session);
    opened.socket.end(peer, closing).await;
}

struct Session<'a> {
    peer: &'a PushPeer,
    id: &'a str,
    scope: String,
    answers: Answers,
}

impl Session<'_> {
    /// From now on the others hear of this peer, and can send to it.
    async fn begin(&self, group_of: Option<NonZeroU32>) -> Result<(), Refusal> {
        let Self {
            peer, id, scope, ..
        } = self;
        let list = &peer.list;
        list.claim(peer.id, scope, id, Duration::ZERO).await?;
        let listing = Listing {
            name: id,
            card: Bytes::copy_from_slice(id.as_bytes()),
            hello: Bytes::new(),
            farewell: Told::PeerLeft(id).frame(),
        };
        list.list_peer(peer.id, listing).await?;
        let opts = JoinOpts {
            hello: Told::NewPeer(id).frame(),
            group_of,
        };
        list.join(peer.id, scope, opts).await.map(|_| ())
    }
}

impl Translate for Session<'_> {
    fn peer(&self) -> &PushPeer {
        self.peer
    }

    fn answers(&self) -> &Answers {
        &self.answers
    }

    async fn hear(&self, frame: Bytes) -> Result<(), Closing> {
        let Ok(Said { signal }) = serde_json::from_slice(&frame) else {
            return Ok(());
        };
        let Self {
            peer, id, scope, ..
        } = self;
        let (sender, data) = (*id, &*signal.data);
        let told = Told::Signal { sender, data }.frame();
        let sent = peer
            .list
            .send_to_alias(peer.id, scope, &signal.receiver, told);
        match sent.await {
            Err(Refusal::UnknownPeer) => Err(End::Removed(Reason::SignedOut).into()),
            Err(refusal) => {
                debug!(?refusal, "a signal of a matchbox client was dropped");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_frame_of_matchbox_makes_the_reader_panic(
            text in "\\{(\"(Signal|receiver|data|x)\":(\"(nobody|[^\"]{0,5})\"|[0-9]{1,25}|null|\\[\\]|\\{\"receiver\":\"a\",\"data\":[1x]\\}),?){0,5}\\}|.{0,40}",
        ) {
            if let Ok(Said { signal }) = serde_json::from_slice(text.as_bytes()) {
                let (sender, data) = ("a", &*signal.data);
                let told: serde_json::Value = serde_json::from_slice(&Told::Signal { sender, data }.frame()).unwrap();
                prop_assert_eq!(&told["Signal"]["sender"], "a");
            }
        }
    }
}
