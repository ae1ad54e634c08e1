//! The JSON of this door's events, as clients of `simple_webrtc_signaling_server` read
//! it: older clients read the keys at the top, newer ones `payload`.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use super::member::DOOR;
use crate::peer_list::{Card, Listing, PeerId, PeerToken, Refusal};

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

/// How other clients are told of a socket that said `ready`.
pub(super) fn listing<'a>(
    socket_id: &str,
    peer_id: &'a str,
    peer_type: Option<&RawValue>,
) -> Listing<'a> {
    let card = json(&Connection {
        socket_id: Some(socket_id),
        peer_id,
        peer_type,
        name: None,
    });
    // The arguments of the event.
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
    Listing {
        name: peer_id,
        card: bytes(&card),
        hello: bytes(&hello),
        farewell: bytes(&farewell),
    }
}

/// A listed peer, as other clients are told of it.
pub(super) fn connection(Card { id, name, card }: &Card) -> Box<RawValue> {
    let card = card.as_ref().filter(|card| *card.door == *DOOR);
    let card = card.and_then(|card| serde_json::from_slice(&card.text).ok());
    card.unwrap_or_else(|| {
        json(&Connection {
            socket_id: None,
            peer_id: &id.to_string(),
            peer_type: None,
            name: Some(name),
        })
    })
}

/// A message from a peer of another door: its JSON, or its text if it is not JSON.
pub(super) fn wrapped(from: PeerId, peer_id: &str, body: &[u8]) -> Box<RawValue> {
    let message = serde_json::from_slice::<Box<RawValue>>(body)
        .unwrap_or_else(|_| json(&String::from_utf8_lossy(body)));
    json(&json!({"from": from.to_string(), "target": peer_id, "message": message}))
}

/// The result of a message to one target, for a client that asked for it.
pub(super) fn outcome(sent: Result<(), Refusal>) -> Box<RawValue> {
    json(&match sent {
        Ok(()) => json!({}),
        Err(Refusal::MailboxFull) => json!({"error": "too much waits for the target"}),
        Err(Refusal::UnknownReceiver | Refusal::UnknownPeer) => {
            json!({"error": "unknown target"})
        }
        Err(_) => json!({"error": "the peer list cannot be reached"}),
    })
}

/// The answer to an event with binary attachments.
pub(super) fn no_attachments() -> Box<RawValue> {
    json(&json!({"error": "binary attachments are not passed on"}))
}

/// What a socket needs to come back.
pub(super) fn session(id: PeerId, token: &PeerToken) -> Box<RawValue> {
    json(&json!({"peerId": id.to_string(), "peerToken": token.digits()}))
}

/// The refusal for a socket whose name is taken.
pub(super) fn uniqueness_error(peer_id: &str) -> Box<RawValue> {
    let text = format!(
        "{peer_id} is already connected to the signalling server. \
         Please change your peer ID and try again."
    );
    json(&json!({"error": text, "message": text}))
}

/// The values of this module have string keys and no parts that fail, so that they always
/// become JSON.
pub(super) fn json(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_default()
}

fn bytes(json: &RawValue) -> Bytes {
    Bytes::copy_from_slice(json.get().as_bytes())
}
