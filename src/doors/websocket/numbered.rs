//! The form of this door that loses nothing, asked for with `ack` in the query: messages are
//! numbered in both directions, as in the long poll.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::address::Target;
use crate::peer_list::{Delivery, News, PeerId};

/// A frame of a client.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Said {
    /// A message to another peer. `seq`: as that of `POST /message`.
    Message { seq: u64, to: Target, data: String },
    /// The client has all messages up to this number.
    Ack { seq: u64 },
    /// Answered with the same, because a page sees no pings, and with the list if it has changed.
    Heartbeat,
}

impl Said {
    /// None if the frame is none of these.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let said = serde_json::from_slice(frame).ok();
        // Messages are numbered from 1.
        said.filter(|said| !matches!(said, Self::Message { seq: 0, .. }))
    }
}

/// A frame for a client.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Told<'a> {
    /// The server has the message with this number.
    Sent {
        seq: u64,
    },
    /// A message is not delivered. Without a number, the frame could not be read.
    Refused {
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        error: &'static str,
    },
    /// A message of another peer.
    Message {
        seq: u64,
        #[serde(serialize_with = "as_text")]
        from: PeerId,
        data: &'a str,
    },
    Heartbeat,
}

impl Told<'_> {
    pub fn frame(&self) -> Vec<Bytes> {
        // Numbers, a text and a fixed word: serde_json refuses none of them.
        let frame = serde_json::to_vec(self).unwrap_or_default();
        vec![frame.into()]
    }
}

/// The frame with a message; None for any other news. What is not UTF-8 is replaced.
pub(super) fn message_frame(delivery: &Delivery) -> Option<Vec<Bytes>> {
    let News::Message { from, body } = delivery.news() else {
        return None;
    };
    let message = Told::Message {
        seq: delivery.number(),
        from: *from,
        data: &String::from_utf8_lossy(body),
    };
    Some(message.frame())
}

fn as_text<S: serde::Serializer>(id: &PeerId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_numbered_frame_makes_the_reader_panic(
            text in "\\{(\"(type|seq|to|data|x)\":(\"(message|ack|heartbeat|[^\"]{0,5})\"|[0-9]{1,25}|null|\\[\\]),?){0,5}\\}|.{0,40}",
        ) {
            if let Some(Said::Message { seq, .. }) = Said::of(text.as_bytes()) {
                prop_assert!(seq > 0);
            }
        }
    }

    #[test]
    fn a_frame_is_read_if_it_has_all_that_its_type_asks_for() {
        let is_read = |frame: &str| Said::of(frame.as_bytes()).is_some();
        for frame in [
            r#"{"type":"message","seq":1,"to":"7","data":""}"#,
            r#"{"data":"x","to":7,"type":"message","seq":9007199254740991,"more":{}}"#,
            r#"{"type":"ack","seq":0}"#,
            r#"{"type":"heartbeat"}"#,
        ] {
            assert!(is_read(frame), "{frame}");
        }
        for frame in [
            r#"{"type":"message","seq":0,"to":"7","data":""}"#,
            r#"{"type":"message","seq":1,"to":"7"}"#,
            r#"{"type":"message","seq":1,"to":"7","data":{}}"#,
            r#"{"type":"message","seq":-1,"to":"7","data":""}"#,
            r#"{"type":"ack"}"#,
            r#"{"type":"other"}"#,
            r#"{"seq":1}"#,
            r#"[]"#,
            "\u{0}",
        ] {
            assert!(!is_read(frame), "{frame}");
        }
    }
}
