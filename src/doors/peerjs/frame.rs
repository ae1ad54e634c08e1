//! The frames of PeerJS: JSON objects with `type`, `src`, `dst` and `payload`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::peer_list::PeerId;

/// Before the id of a peer of another door.
const OTHER_DOOR: &str = "signal-";

/// The longest id, in bytes. (The client's own ids are UUIDs.)
const MAX_ID_BYTES: usize = 256;

pub(super) const OPEN: &str = r#"{"type":"OPEN"}"#;
pub(super) const ID_TAKEN: &str = r#"{"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}"#;

/// What a client says.
#[derive(Debug)]
pub(super) enum Said {
    /// To pass on to another peer.
    Message {
        kind: Kind,
        dst: String,
        payload: Option<Box<RawValue>>,
    },
    /// The client is about to go.
    Leave,
    /// Nothing to do: a heartbeat, or what no client says.
    Nothing,
}

/// What peers send each other.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Kind {
    Offer,
    Answer,
    Candidate,
    /// The peer has closed its connection to the receiver.
    Leave,
    /// From a peer of another door, whose messages have no type.
    Message,
}

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: Kind,
    dst: Option<String>,
    payload: Option<Box<RawValue>>,
}

impl Said {
    pub fn of(frame: &[u8]) -> Self {
        let Ok(Frame { kind, dst, payload }) = serde_json::from_slice(frame) else {
            return Self::Nothing;
        };
        match (kind, dst.filter(|dst| !dst.is_empty())) {
            (Kind::Leave, None) => Self::Leave,
            (Kind::Message, _) | (_, None) => Self::Nothing,
            // No peer has such an id.
            (_, Some(dst)) if dst.len() > MAX_ID_BYTES => Self::Nothing,
            (kind, Some(dst)) => Self::Message { kind, dst, payload },
        }
    }
}

#[derive(Serialize)]
struct Told<'a, P> {
    #[serde(rename = "type")]
    kind: Kind,
    src: &'a str,
    dst: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<P>,
}

impl<P: Serialize> Told<'_, P> {
    fn frame(&self) -> Bytes {
        // Texts and JSON: serde_json refuses none of them.
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// The frame that passes a message on.
pub(super) fn message(kind: Kind, src: &str, dst: &str, payload: Option<&RawValue>) -> Bytes {
    Told {
        kind,
        src,
        dst,
        payload,
    }
    .frame()
}

/// A message of a peer of another door. It keeps its type and payload, if it has those of
/// PeerJS: any other type may be one by which only the server speaks.
pub(super) fn from_other_door(from: PeerId, dst: &str, body: &[u8]) -> Bytes {
    let src = &format!("{OTHER_DOOR}{from}");
    if let Ok(Frame { kind, payload, .. }) = serde_json::from_slice(body) {
        return message(kind, src, dst, payload.as_deref());
    }
    if let Ok(payload) = serde_json::from_slice::<Box<RawValue>>(body) {
        return message(Kind::Message, src, dst, Some(&payload));
    }
    let (kind, payload) = (Kind::Message, Some(String::from_utf8_lossy(body)));
    Told {
        kind,
        src,
        dst,
        payload,
    }
    .frame()
}

/// To the sender of messages that did not reach `dst`.
pub(super) fn expired(dst: &str, sender: &str) -> Bytes {
    let told = serde_json::json!({"type": "EXPIRE", "src": dst, "dst": sender});
    told.to_string().into()
}

/// Tells a client why it may not come in.
pub(super) fn error(why: &str) -> Bytes {
    let told = serde_json::json!({"type": "ERROR", "payload": {"msg": why}});
    told.to_string().into()
}

/// The peer of another door that an id stands for.
pub(super) fn of_other_door(id: &str) -> Option<PeerId> {
    PeerId::parse(id.strip_prefix(OTHER_DOOR)?)
}

/// Whether a client may have this id: letters and digits, with single spaces, `_` or `-` between
/// them, as in the client.
pub(super) fn is_own_id(id: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    id.len() <= MAX_ID_BYTES
        && id.split([' ', '_', '-']).all(is_part)
        && !id.starts_with(OTHER_DOOR)
}
