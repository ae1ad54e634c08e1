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

/// The frame that passes a message on.
pub(super) fn message(kind: Kind, src: &str, dst: &str, payload: Option<impl Serialize>) -> Bytes {
    let told = Told {
        kind,
        src,
        dst,
        payload,
    };
    // Texts and JSON: serde_json refuses none of them.
    serde_json::to_vec(&told).unwrap_or_default().into()
}

/// A message of a peer of another door. It keeps its type and payload, if it has those of
/// PeerJS: any other type may be one by which only the server speaks.
pub(super) fn from_other_door(from: PeerId, dst: &str, body: &[u8]) -> Bytes {
    let src = &format!("{OTHER_DOOR}{from}");
    if let Ok(Frame { kind, payload, .. }) = serde_json::from_slice(body) {
        return message(kind, src, dst, payload);
    }
    match serde_json::from_slice::<Box<RawValue>>(body) {
        Ok(payload) => message(Kind::Message, src, dst, Some(payload)),
        Err(_) => message(Kind::Message, src, dst, Some(String::from_utf8_lossy(body))),
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_frame_of_peerjs_makes_the_reader_panic(
            text in "\\{(\"(type|src|dst|payload|x)\":(\"(OFFER|LEAVE|HEARTBEAT|signal-7|[^\"]{0,5})\"|[0-9]{1,25}|null|\\[\\]),?){0,5}\\}|.{0,40}",
        ) {
            if let Said::Message { dst, .. } = Said::of(text.as_bytes()) {
                prop_assert!(!dst.is_empty());
            }
            let told = from_other_door(PeerId::parse("7").unwrap(), "a", text.as_bytes());
            let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
            prop_assert_eq!(&told["src"], "signal-7");
            prop_assert_eq!(&told["dst"], "a");
        }

        #[test]
        fn an_id_is_a_clients_own_or_that_of_a_peer_of_another_door_or_none(id in "(signal-)?[a-z0-9 _-]{0,8}") {
            prop_assert!(!(is_own_id(&id) && of_other_door(&id).is_some()), "{}", id);
        }
    }

    #[test]
    fn an_id_has_letters_and_digits_with_single_marks_between_them() {
        for good in ["a", "7", "a b", "a-b_c d", "Signal-7", &"x".repeat(256)] {
            assert!(is_own_id(good), "{good}");
        }
        for bad in [
            "",
            " ",
            "a ",
            "-a",
            "a--b",
            "a/b",
            "\u{e9}",
            "signal-",
            "signal-x",
            &"x".repeat(257),
        ] {
            assert!(!is_own_id(bad), "{bad}");
        }
    }
}
