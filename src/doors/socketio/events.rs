//! The JSON of this door's events, as the clients of
//! `simple_webrtc_signaling_server` read it: older ones the keys at the top,
//! newer ones `payload`.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use crate::peer_list::{Card, Introduction, PeerId, PeerToken, SendError};

const JOINED: &str = "Peer has joined the signaling server";
const LEFT: &str = "Peer has left the signaling server";

/// A socket that is ready, or a peer of another door.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Connection<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_id: Option<&'a str>,
    peer_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_type: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

/// How a socket that says `ready` is told of to others.
pub(super) fn introduction(
    socket_id: &str,
    peer_id: &str,
    peer_type: Option<&RawValue>,
) -> Introduction {
    let card = json(&Connection {
        socket_id: Some(socket_id),
        peer_id,
        peer_type,
        name: None,
    });
    // As arguments of the event.
    let hello = json(&json!([{
        "from": peer_id,
        "target": "all",
        "message": JOINED,
        "action": "open",
        "payload": {"action": "open", "connections": [&card], "bePolite": true},
    }]));
    let farewell = json(&json!([{
        "from": peer_id,
        "target": "all",
        "message": LEFT,
        "action": "close",
        "payload": {"action": "close", "message": LEFT},
    }]));
    Introduction {
        card: bytes(&card),
        hello: bytes(&hello),
        farewell: bytes(&farewell),
    }
}

/// Each peer of the list: the key that this protocol knows it by, and its card.
fn cards(list: &[Card]) -> impl Iterator<Item = (PeerId, Box<RawValue>)> {
    list.iter().map(|Card { id, name, card }| {
        let card = card
            .as_ref()
            .and_then(|card| serde_json::from_slice(card).ok());
        let card = card.unwrap_or_else(|| {
            json(&Connection {
                socket_id: None,
                peer_id: &id.to_string(),
                peer_type: None,
                name: Some(name),
            })
        });
        (*id, card)
    })
}

/// The answer to `GET /connections`.
pub(super) fn connections(list: &[Card]) -> String {
    let connections: Vec<_> = cards(list).map(|(_, card)| card).collect();
    json(&connections).get().to_owned()
}

/// What a socket that said `ready` is told first: who else is there.
pub(super) fn greeting(peer_id: &str, own: PeerId, list: &[Card]) -> Box<RawValue> {
    let others = cards(list).filter(|(id, _)| *id != own);
    let others: Vec<Box<RawValue>> = others.map(|(_, card)| card).collect();
    let by_id: BTreeMap<String, &RawValue> = others
        .iter()
        .filter_map(|card| Some((peer_id_of(card)?, &**card)))
        .collect();
    json(&json!({
        "from": "all",
        "target": peer_id,
        "action": "open",
        "connections": by_id,
        "payload": {"action": "open", "connections": others, "bePolite": false},
    }))
}

fn peer_id_of(card: &RawValue) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Id {
        peer_id: String,
    }
    let id: Id = serde_json::from_str(card.get()).ok()?;
    Some(id.peer_id)
}

/// A message that comes from a peer of another door: the JSON that it is, or
/// else the text.
pub(super) fn wrapped(from: PeerId, peer_id: &str, body: &[u8]) -> Box<RawValue> {
    let message = serde_json::from_slice::<Box<RawValue>>(body)
        .unwrap_or_else(|_| json(&String::from_utf8_lossy(body)));
    json(&json!({"from": from.to_string(), "target": peer_id, "message": message}))
}

/// What became of a message to one target, for a client that asked.
pub(super) fn outcome(sent: Result<(), SendError>) -> Box<RawValue> {
    json(&match sent {
        Ok(()) => json!({}),
        Err(SendError::MailboxFull) => json!({"error": "too much waits for the target"}),
        Err(SendError::UnknownReceiver | SendError::UnknownSender) => {
            json!({"error": "unknown target"})
        }
        Err(_) => json!({"error": "the peer list cannot be reached"}),
    })
}

/// The answer to an event with binary attachments.
pub(super) fn no_attachments() -> Box<RawValue> {
    json(&json!({"error": "binary attachments are not passed on"}))
}

/// What a socket comes back with.
pub(super) fn session(id: PeerId, token: &PeerToken) -> Box<RawValue> {
    json(&json!({"peerId": id.to_string(), "peerToken": token.digits()}))
}

/// Told to a socket whose name is taken.
pub(super) fn uniqueness_error(peer_id: &str) -> Box<RawValue> {
    let text = format!(
        "{peer_id} is already connected to the signalling server. \
         Please change your peer ID and try again."
    );
    json(&json!({"error": text, "message": text}))
}

/// Values of this module have string keys and no failing parts, so that they
/// always become JSON.
pub(super) fn json(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_default()
}

fn bytes(json: &RawValue) -> Bytes {
    Bytes::copy_from_slice(json.get().as_bytes())
}
