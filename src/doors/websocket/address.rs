//! The receiver of a frame, and the ids that a frame from another door gets.

use std::str;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::peer_list::PeerId;

/// The receiver of a frame, and the sender that it names.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Addressed {
    pub(super) receiver_id: Option<Target>,
    pub(super) peer_id: Option<Target>,
    pub(super) sender_id: Option<Target>,
}

/// The id of a peer, which is a string or a number.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Target {
    Text(String),
    Number(u64),
    /// Neither, which is the id of no peer.
    Other(Value),
}

impl Addressed {
    /// None if the bytes are not a JSON object.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        // serde accepts an array in place of a struct as well.
        let is_object = bytes.trim_ascii_start().first() == Some(&b'{');
        // In bytes, serde would not check the strings that it skips.
        let text = str::from_utf8(bytes).ok()?;
        serde_json::from_str(text).ok().filter(|_| is_object)
    }

    /// The documented version of `signal-fire` routes by `peerId`, the published one and
    /// its client by `receiverId`; no frame has both.
    pub(super) fn target(self) -> Option<Target> {
        let target = self.receiver_id.or(self.peer_id);
        target.filter(|target| !matches!(target, Target::Other(_)))
    }

    pub(super) fn is_addressed(&self) -> bool {
        self.receiver_id.is_some() || self.peer_id.is_some()
    }
}

impl Target {
    pub(super) fn id(&self) -> Option<PeerId> {
        match self {
            Self::Text(text) => PeerId::parse(text),
            Self::Number(number) => PeerId::new(u32::try_from(*number).ok()?),
            Self::Other(_) => None,
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Other(value) => value.to_string(),
        }
    }
}

/// A message as a WebSocket peer gets it. A message that names its receiver is a frame of
/// this protocol and is not changed; another object gets the ids, and anything else
/// becomes an object. `addressed`: the parsed body, if it is an object and its `senderId`
/// is accepted.
pub(super) fn message_frame(
    addressed: Option<&Addressed>,
    from: PeerId,
    to: PeerId,
    body: &Bytes,
) -> Bytes {
    match addressed {
        Some(addressed) if addressed.is_addressed() => body.clone(),
        Some(addressed) => with_ids(body, from, to, addressed.sender_id.is_some()),
        None => {
            let data = String::from_utf8_lossy(body);
            let wrapped =
                json!({"senderId": from.to_string(), "receiverId": to.to_string(), "data": data});
            wrapped.to_string().into()
        }
    }
}

/// Puts the ids behind the last member of an object.
pub(super) fn with_ids(object: &[u8], from: PeerId, to: PeerId, has_sender: bool) -> Bytes {
    let object = object.trim_ascii_end();
    let open = object.strip_suffix(b"}").unwrap_or(object);
    let is_empty = open.trim_ascii() == b"{";
    let mut frame = open.to_vec();
    let mut add = |name: &str, id: PeerId, comma: bool| {
        let comma = if comma { "," } else { "" };
        frame.extend_from_slice(format!(r#"{comma}"{name}":"{id}""#).as_bytes());
    };
    if !has_sender {
        add("senderId", from, !is_empty);
    }
    add("receiverId", to, !(is_empty && has_sender));
    frame.push(b'}');
    frame.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_frame_makes_the_reader_panic(
            text in "\\{(\"(receiverId|peerId|senderId|x)\":(\"[^\"]{0,5}\"|[0-9]{1,25}|null|\\[\\]),?){0,4}\\}|.{0,40}",
        ) {
            let addressed = Addressed::of(text.as_bytes());
            if let Some(target) = addressed.and_then(Addressed::target) {
                let _ = target.id();
                let _ = target.text();
            }
        }
    }
}
