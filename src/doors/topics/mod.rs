//! The topics door: what is published in a topic reaches all who have subscribed to it, as at
//! y-webrtc's signaling server and at Trystero's relay.
//!
//! | frame | verb |
//! |---|---|
//! | `subscribe`, `unsubscribe` | `join`, `leave` |
//! | `publish` | `publish` |
//! | `ping` | none: `pong` |
//!
//! A topic is two channels, one for each form of its frames: the form in which a client
//! subscribes is that in which it hears.

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::any,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tungstenite::protocol::frame::coding::CloseCode;

use super::kit::{
    RequestError, SignalOpts,
    closing::Closing,
    guard,
    push::{End, PushPeer},
    socket::{Answers, Opened, Shown, SocketDoor, Translate},
};
use crate::peer_list::{JoinOpts, PublishOpts, Reason, Refusal, TimeoutPeerList};

/// The name of this door, as events and the operator's API show it.
const DOOR: &str = "topics";

const PONG: &[u8] = br#"{"type":"pong"}"#;

/// The routes of this door.
pub(crate) fn routes(peer_list: TimeoutPeerList, opts: &SignalOpts) -> Router {
    Router::new()
        .route("/topics", any(upgrade))
        .route_layer(guard(opts, DOOR))
        .with_state(SocketDoor::new(peer_list, opts, DOOR))
}

async fn upgrade(
    State(door): State<SocketDoor>,
    request: Request,
) -> Result<Response, RequestError> {
    door.open(request, Shown::default(), serve).await
}

async fn serve(mut opened: Opened) {
    let Some(peer) = opened.come_in(DOOR).await else {
        return;
    };
    let session = Session {
        peer: &peer,
        answers: Answers::new(),
    };
    let closing = opened.socket.talk_with_pings(&peer, &session).await;
    drop(session);
    opened.socket.end(peer, closing).await;
}

/// The form of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// That of y-webrtc.
    Y,
    /// That of Trystero.
    Trystero,
}

impl Form {
    /// The channel of a topic for those that subscribed in this form.
    fn channel(self, topic: &str) -> String {
        match self {
            Self::Y => format!("topics y {topic}"),
            Self::Trystero => format!("topics t {topic}"),
        }
    }
}

/// A frame of a client.
#[derive(Deserialize)]
struct Said {
    #[serde(rename = "type")]
    kind: Kind,
    /// What is no text in it is passed over.
    topics: Option<Vec<serde_json::Value>>,
    topic: Option<String>,
    data: Option<Box<RawValue>>,
    payload: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Subscribe,
    Unsubscribe,
    Publish,
    Ping,
}

impl Said {
    /// The channels of its topics, in its form.
    fn channels(&self) -> Vec<String> {
        let (topics, form) = match (&self.topics, &self.topic) {
            (None, Some(topic)) => (vec![topic.as_str()], Form::Trystero),
            (topics, _) => {
                let topics = topics.iter().flatten().filter_map(|topic| topic.as_str());
                (topics.collect(), Form::Y)
            }
        };
        topics.iter().map(|topic| form.channel(topic)).collect()
    }
}

/// A message for subscribers in the form of y-webrtc.
#[derive(Serialize)]
struct ForY<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    topic: &'a str,
    data: &'a RawValue,
    /// How many have subscribed.
    clients: usize,
}

/// A message for subscribers in the form of Trystero.
#[derive(Serialize)]
struct ForTrystero<'a> {
    topic: &'a str,
    payload: &'a RawValue,
}

struct Session<'a> {
    peer: &'a PushPeer,
    answers: Answers,
}

impl Session<'_> {
    async fn publish(&self, topic: &str, said: &RawValue) -> Result<(), Refusal> {
        for form in [Form::Y, Form::Trystero] {
            let list = &self.peer.list;
            let channel = form.channel(topic);
            let clients = list.count_in(&channel).await?;
            if clients == 0 {
                continue;
            }
            // Texts and JSON: serde_json refuses none of them.
            let frame = match form {
                Form::Y => serde_json::to_vec(&ForY {
                    kind: "publish",
                    topic,
                    data: said,
                    clients,
                }),
                Form::Trystero => serde_json::to_vec(&ForTrystero {
                    topic,
                    payload: said,
                }),
            };
            let opts = PublishOpts {
                echoes: true,
                ..PublishOpts::default()
            };
            let frame = Bytes::from(frame.unwrap_or_default());
            list.publish(self.peer.id, &[&channel], frame, opts).await?;
        }
        Ok(())
    }

    async fn carry_out(&self, said: Said) -> Result<(), Refusal> {
        let Self { peer, answers } = self;
        match said.kind {
            Kind::Subscribe => {
                for channel in said.channels() {
                    let joined = peer.list.join(peer.id, &channel, JoinOpts::default());
                    joined.await?;
                }
            }
            Kind::Unsubscribe => {
                for channel in said.channels() {
                    peer.list.leave(peer.id, &channel).await?;
                }
            }
            Kind::Publish => {
                if let (Some(topic), Some(said)) = (said.topic, said.data.or(said.payload)) {
                    self.publish(&topic, &said).await?;
                }
            }
            Kind::Ping => answers.tell(Bytes::from_static(PONG)).await,
        }
        Ok(())
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
        let Ok(said) = serde_json::from_slice(&frame) else {
            return Ok(());
        };
        match self.carry_out(said).await {
            Ok(()) => Ok(()),
            Err(Refusal::UnknownPeer) => Err(End::Removed(Reason::SignedOut).into()),
            Err(Refusal::TooManyNames) => Err(Closing {
                end: End::CLOSED,
                code: CloseCode::Policy,
                reason: "too many topics",
            }),
            // Its client subscribes again when it is back.
            Err(_) => Err(Closing::unavailable()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_frame_of_topics_makes_the_reader_panic(
            text in "\\{(\"(type|topic|topics|data|payload|x)\":(\"(subscribe|unsubscribe|publish|ping|[^\"]{0,5})\"|[0-9]{1,25}|null|\\[\\]|\\[\"a\",7\\]),?){0,5}\\}|.{0,40}",
        ) {
            if let Ok(said) = serde_json::from_slice::<Said>(text.as_bytes()) {
                let topics = said.topics.as_ref().map_or(1, Vec::len);
                prop_assert!(said.channels().len() <= topics);
            }
        }
    }
}
