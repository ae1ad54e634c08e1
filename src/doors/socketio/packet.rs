//! Packets of Socket.IO in the namespace `/`: reads those of clients, and writes those to
//! clients.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::version::Version;

/// A packet of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// The client connects, with this payload as JSON (empty: none).
    Connect(Bytes),
    /// The client connects to another namespace, which does not exist.
    ConnectElsewhere(String),
    Disconnect,
    Event(Event),
    /// An acknowledgement that was not asked for, or a packet for another namespace.
    Other,
}

/// An event of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The name and the arguments, as one JSON array of any content.
    pub array: Bytes,
    /// Binary attachments follow.
    pub has_attachments: bool,
    /// The number under which the client wants an acknowledgement.
    pub ack: Option<u64>,
}

/// This is not a packet of Socket.IO.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotAPacket;

impl Packet {
    /// Reads a packet: `TYPE[ATTACHMENTS-][NAMESPACE,][ACK][JSON]`. The bytes are
    /// UTF-8.
    pub fn read(packet: &Bytes) -> Result<Self, NotAPacket> {
        let kind = *packet.first().ok_or(NotAPacket)?;
        let mut rest = packet.slice(1..);
        if matches!(kind, b'5' | b'6') {
            let digits = digits(&rest);
            if digits == 0 || rest.get(digits) != Some(&b'-') {
                return Err(NotAPacket);
            }
            rest = rest.slice(digits + 1..);
        }
        let mut namespace = Bytes::from_static(b"/");
        if rest.first() == Some(&b'/') {
            let end = rest.iter().position(|byte| *byte == b',');
            namespace = rest.split_to(end.unwrap_or(rest.len()));
            rest = rest.slice(usize::from(end.is_some())..);
        }
        // Clients 1 and 2 may put a query behind the namespace.
        let name = namespace.split(|byte| *byte == b'?').next();
        let is_root = name == Some(b"/");
        match kind {
            b'0' if is_root => Ok(Self::Connect(rest)),
            b'0' => {
                let name = String::from_utf8_lossy(&namespace);
                Ok(Self::ConnectElsewhere(name.into_owned()))
            }
            b'1' if is_root => Ok(Self::Disconnect),
            b'2' | b'5' if is_root => {
                let digits = digits(&rest);
                let ack = std::str::from_utf8(&rest[..digits]).unwrap_or_default();
                let ack = match digits {
                    0 => None,
                    _ => Some(ack.parse().map_err(|_| NotAPacket)?),
                };
                Ok(Self::Event(Event {
                    array: rest.slice(digits..),
                    has_attachments: kind == b'5',
                    ack,
                }))
            }
            b'1'..=b'6' => Ok(Self::Other),
            _ => Err(NotAPacket),
        }
    }
}

fn digits(bytes: &[u8]) -> usize {
    let end = bytes.iter().position(|byte| !byte.is_ascii_digit());
    end.unwrap_or(bytes.len())
}

impl Event {
    /// The name and the arguments, each as it was sent. None if this is not an array that
    /// begins with a string.
    pub fn parts(&self) -> Option<(String, Vec<&RawValue>)> {
        let mut values: Vec<&RawValue> = serde_json::from_slice(&self.array).ok()?;
        if values.is_empty() {
            return None;
        }
        let name = values.remove(0);
        Some((serde_json::from_str(name.get()).ok()?, values))
    }
}

/// A packet for a client, in the form that Engine.IO takes: UTF-8 in parts, which are not
/// copied together.
pub(super) type Told = Vec<Bytes>;

/// The answer to a client that connects. `socket_id`: its public id.
pub(super) fn connected(version: Version, socket_id: &str) -> Told {
    match version {
        Version::V3 => whole("40".into()),
        Version::V4 => whole(format!(r#"40{{"sid":"{socket_id}"}}"#)),
    }
}

/// A client may not connect to this namespace.
pub(super) fn refused(version: Version, namespace: &str, why: &str) -> Told {
    let why = serde_json::Value::from(why);
    let why = match version {
        Version::V3 => why,
        Version::V4 => serde_json::json!({"message": why}),
    };
    let namespace = match namespace {
        "/" => String::new(),
        other => format!("{other},"),
    };
    whole(format!("44{namespace}{why}"))
}

/// Sends the client away.
pub(super) fn disconnected() -> Told {
    whole("41".into())
}

/// An event with these arguments.
pub(super) fn event(name: &str, arguments: &[&RawValue]) -> Told {
    let mut packet = format!("42[\"{name}\"");
    for argument in arguments {
        packet.push(',');
        packet.push_str(argument.get());
    }
    packet.push(']');
    whole(packet)
}

/// An event whose arguments are a JSON array, which is not copied. `first`: a number to
/// put before them.
pub(super) fn event_of(name: &str, first: Option<u64>, array: &Bytes) -> Told {
    let mut head = format!("42[\"{name}\"");
    if let Some(first) = first {
        head.push(',');
        head.push_str(&first.to_string());
    }
    let open = array.iter().position(|byte| *byte == b'[');
    let rest = array.slice(open.map_or(0, |open| open + 1)..);
    if rest.trim_ascii_start().first() != Some(&b']') {
        head.push(',');
    }
    vec![head.into(), rest]
}

/// The acknowledgement of the event with this number.
pub(super) fn ack(number: u64, arguments: &[&RawValue]) -> Told {
    let arguments: Vec<&str> = arguments.iter().map(|argument| argument.get()).collect();
    whole(format!("43{number}[{}]", arguments.join(",")))
}

fn whole(packet: String) -> Told {
    vec![packet.into()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(packet: &str) -> Result<Packet, NotAPacket> {
        Packet::read(&packet.to_owned().into())
    }

    fn event_packet(
        array: &str,
        has_attachments: bool,
        ack: Option<u64>,
    ) -> Result<Packet, NotAPacket> {
        Ok(Packet::Event(Event {
            array: array.to_owned().into(),
            has_attachments,
            ack,
        }))
    }

    #[test]
    fn packets_of_the_root_namespace_are_read() {
        assert_eq!(read("0"), Ok(Packet::Connect("".into())));
        assert_eq!(read("0{\"a\":1}"), Ok(Packet::Connect("{\"a\":1}".into())));
        assert_eq!(read("0/?t=1,{}"), Ok(Packet::Connect("{}".into())));
        assert_eq!(
            read("0/admin,"),
            Ok(Packet::ConnectElsewhere("/admin".into()))
        );
        assert_eq!(read("1"), Ok(Packet::Disconnect));
        assert_eq!(read("1/admin,"), Ok(Packet::Other));
        assert_eq!(read("2[\"x\"]"), event_packet("[\"x\"]", false, None));
        assert_eq!(
            read("2/,12[\"x\"]"),
            event_packet("[\"x\"]", false, Some(12))
        );
        assert_eq!(read("51-7[\"x\"]"), event_packet("[\"x\"]", true, Some(7)));
        assert_eq!(read("3[]"), Ok(Packet::Other));
        for bad in [
            "",
            "7",
            "x",
            "5[\"x\"]",
            "5-",
            "299999999999999999999[\"x\"]",
        ] {
            assert_eq!(read(bad), Err(NotAPacket), "{bad}");
        }
    }

    #[test]
    fn an_event_is_an_array_that_begins_with_its_name() {
        let parts = |array: &str| {
            let Ok(Packet::Event(event)) = read(&format!("2{array}")) else {
                unreachable!("it is an event");
            };
            event.parts().map(|(name, values)| (name, values.len()))
        };
        assert_eq!(parts(r#"["a",1,{"b":[]}]"#), Some(("a".into(), 2)));
        for bad in ["", "[]", "[1]", "{}", "[\"a\"", "null", "[null]"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    fn text(told: Told) -> String {
        String::from_utf8(told.concat()).unwrap()
    }

    #[test]
    fn what_clients_are_told_is_written_as_they_read_it() {
        let value: Box<RawValue> = serde_json::from_str("{\"a\": 1}").unwrap();
        assert_eq!(
            text(event("message", &[&value, &value])),
            r#"42["message",{"a": 1},{"a": 1}]"#
        );
        assert_eq!(text(ack(7, &[])), "437[]");
        assert_eq!(text(ack(7, &[&value])), "437[{\"a\": 1}]");
        let array = Bytes::from_static(b"[1,\"x\"]");
        assert_eq!(
            text(event_of("message", None, &array)),
            r#"42["message",1,"x"]"#
        );
        assert_eq!(
            text(event_of("numbered", Some(9), &array)),
            r#"42["numbered",9,1,"x"]"#
        );
        assert_eq!(
            text(event_of("numbered", Some(9), &"[]".into())),
            r#"42["numbered",9]"#
        );
        assert_eq!(
            text(refused(Version::V4, "/", "no")),
            r#"44{"message":"no"}"#
        );
        assert_eq!(text(refused(Version::V3, "/x", "no")), r#"44/x,"no""#);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,60}", digit in "[0-7]") {
            let _ = read(&(digit + &text));
        }
    }
}
