//! Engine.IO packets, and how one body of an HTTP request or response carries several of
//! them.

use std::fmt::Write;

use bytes::Bytes;

use crate::doors::socketio::version::Version;

/// The separator of two packets in a body of version 4.
const SEPARATOR: char = '\x1e';

/// A packet of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doors::socketio) enum Packet {
    Close,
    /// A ping, with the text for the pong.
    Ping(Bytes),
    Pong,
    /// A packet of Socket.IO, which is UTF-8.
    Message(Bytes),
    Upgrade,
    Noop,
    /// Bytes that belong to an earlier message. Messages of the other doors cannot carry
    /// them.
    Binary,
}

/// These bytes are not packets.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::doors::socketio) struct NotPackets;

impl Packet {
    /// Reads a packet from a text of a WebSocket. The bytes are UTF-8.
    pub fn read(text: Bytes) -> Result<Self, NotPackets> {
        let kind = *text.first().ok_or(NotPackets)?;
        if kind == b'b' {
            return Ok(Self::Binary);
        }
        let data = text.slice(1..);
        match kind {
            b'1' => Ok(Self::Close),
            b'2' => Ok(Self::Ping(data)),
            b'3' => Ok(Self::Pong),
            b'4' => Ok(Self::Message(data)),
            b'5' => Ok(Self::Upgrade),
            b'6' => Ok(Self::Noop),
            _ => Err(NotPackets),
        }
    }
}

/// The packets in the body of a POST, read one after the other, because a body can hold a
/// million of them. No packets follow an error.
pub(super) struct Packets {
    version: Version,
    is_binary: bool,
    /// None: all packets are read.
    rest: Option<Bytes>,
    /// The length of the whole body, in bytes.
    whole: usize,
}

impl Packets {
    /// `is_binary`: the headers say that the body is bytes and not text.
    pub fn of(version: Version, body: Bytes, is_binary: bool) -> Result<Self, NotPackets> {
        let is_binary = is_binary && version == Version::V3;
        if !is_binary && std::str::from_utf8(&body).is_err() {
            return Err(NotPackets);
        }
        Ok(Self {
            version,
            is_binary,
            whole: body.len(),
            rest: Some(body).filter(|body| version == Version::V4 || !body.is_empty()),
        })
    }

    /// Reads the first packet, and returns it with the rest of the body.
    fn read(&self, body: &Bytes) -> Result<(Packet, Option<Bytes>), NotPackets> {
        if self.is_binary {
            return read_binary(body);
        }
        let text = std::str::from_utf8(body).map_err(|_| NotPackets)?;
        match self.version {
            Version::V3 => {
                let (packet, rest) = read_counted(text)?;
                Ok((packet, rest_of(body, rest.as_bytes())))
            }
            Version::V4 => {
                let (packet, rest) = match text.split_once(SEPARATOR) {
                    Some((packet, rest)) => (packet, Some(body.slice_ref(rest.as_bytes()))),
                    None => (text, None),
                };
                // A part keeps all of the body: a small one is copied.
                let part = match 2 * packet.len() < self.whole {
                    true => Bytes::copy_from_slice(packet.as_bytes()),
                    false => body.slice_ref(packet.as_bytes()),
                };
                Ok((Packet::read(part)?, rest))
            }
        }
    }
}

impl Iterator for Packets {
    type Item = Result<Packet, NotPackets>;

    fn next(&mut self) -> Option<Self::Item> {
        let body = self.rest.take()?;
        match self.read(&body) {
            Ok((packet, rest)) => {
                self.rest = rest;
                Some(Ok(packet))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

fn rest_of(body: &Bytes, rest: &[u8]) -> Option<Bytes> {
    (!rest.is_empty()).then(|| body.slice_ref(rest))
}

/// Version 3: `LENGTH:PACKET` one after the other, the length in UTF-16 units.
fn read_counted(text: &str) -> Result<(Packet, &str), NotPackets> {
    let (length, rest) = text.split_once(':').ok_or(NotPackets)?;
    let is_decimal = length.bytes().all(|b| b.is_ascii_digit());
    let length: usize = length.parse().map_err(|_| NotPackets)?;
    let end = utf16_end(rest, length).filter(|_| is_decimal);
    let (packet, rest) = rest.split_at(end.ok_or(NotPackets)?);
    Ok((Packet::read(decoded(packet).into())?, rest))
}

/// The index in bytes after this many UTF-16 units.
fn utf16_end(text: &str, mut units: usize) -> Option<usize> {
    for (at, c) in text.char_indices() {
        if units == 0 {
            return Some(at);
        }
        units = units.checked_sub(c.len_utf16())?;
    }
    (units == 0).then_some(text.len())
}

/// socket.io-client 1 encodes the text of a packet as UTF-8 before the whole body is
/// encoded, so that each byte of it is a character here; socket.io-client 2 does not, and
/// nothing else tells them apart. Characters that all fit in a byte, and are UTF-8
/// together, are decoded as those of version 1.
fn decoded(packet: &str) -> String {
    if packet.is_ascii() {
        return packet.to_owned();
    }
    let bytes: Option<Vec<u8>> = packet.chars().map(|c| u8::try_from(c).ok()).collect();
    let twice = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    twice.unwrap_or_else(|| packet.to_owned())
}

/// Version 3, used if a packet is binary: for each packet a byte that says whether it is
/// text (0), its length in digits that are bytes, 255, and the packet.
fn read_binary(body: &Bytes) -> Result<(Packet, Option<Bytes>), NotPackets> {
    let (kind, rest) = body.split_first().ok_or(NotPackets)?;
    let digits = rest.iter().position(|byte| *byte == 255);
    let (digits, rest) = rest.split_at(digits.ok_or(NotPackets)?);
    let length = digits.iter().try_fold(0usize, |length, digit| {
        let digit = (*digit <= 9).then_some(usize::from(*digit))?;
        length.checked_mul(10)?.checked_add(digit)
    });
    let end = length.and_then(|length| length.checked_add(1));
    let end = end.filter(|end| *end <= rest.len()).ok_or(NotPackets)?;
    let (packet, rest) = (&rest[1..end], &rest[end..]);
    let packet = if *kind == 0 {
        // Encoded once, by both clients.
        let text = std::str::from_utf8(packet).map_err(|_| NotPackets)?;
        Packet::read(Bytes::copy_from_slice(text.as_bytes()))?
    } else {
        Packet::Binary
    };
    Ok((packet, rest_of(body, rest)))
}

/// The body that carries these packets to a client, in parts. The parts of each packet
/// together are UTF-8.
pub(super) fn write(version: Version, packets: &[Vec<Bytes>]) -> Vec<Bytes> {
    let mut body = Vec::new();
    for (number, packet) in packets.iter().enumerate() {
        match version {
            Version::V4 => {
                if number > 0 {
                    body.push(Bytes::from_static(b"\x1e"));
                }
                body.extend_from_slice(packet);
            }
            Version::V3 => {
                let at = body.len();
                body.extend(packet.iter().map(ascii));
                let length: usize = body[at..].iter().map(Bytes::len).sum();
                body.insert(at, format!("{length}:").into());
            }
        }
    }
    body
}

/// Everything beyond ASCII in these packets is in JSON strings, where it can be escaped:
/// then both clients of version 3 count and decode alike.
fn ascii(json: &Bytes) -> Bytes {
    if json.is_ascii() {
        return json.clone();
    }
    let mut ascii = String::with_capacity(json.len());
    for c in String::from_utf8_lossy(json).chars() {
        if c.is_ascii() {
            ascii.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(ascii, "\\u{unit:04x}");
        }
    }
    ascii.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(text: &str) -> Packet {
        Packet::Message(text.to_owned().into())
    }

    fn read(version: Version, body: Bytes, is_binary: bool) -> Result<Vec<Packet>, NotPackets> {
        Packets::of(version, body, is_binary)?.collect()
    }

    fn read_text(version: Version, body: &str) -> Result<Vec<Packet>, NotPackets> {
        read(version, body.to_owned().into(), false)
    }

    #[test]
    fn packets_of_version_4_are_separated() {
        assert_eq!(
            read_text(Version::V4, "42[\"é\"]\x1e3\x1ebAAAA\x1e1"),
            Ok(vec![
                message("2[\"é\"]"),
                Packet::Pong,
                Packet::Binary,
                Packet::Close
            ])
        );
        for bad in ["", "\x1e", "7", "x", "4\x1e"] {
            assert_eq!(read_text(Version::V4, bad), Err(NotPackets), "{bad:?}");
        }
    }

    #[test]
    fn packets_of_version_3_are_counted_in_utf_16() {
        assert_eq!(
            read_text(Version::V3, "7:42[\"🦀\"1:2"),
            Ok(vec![message("2[\"🦀\""), Packet::Ping("".into())])
        );
        for bad in [
            "1",
            "2:4",
            ":4",
            "+1:4",
            "-1:4",
            "99999999999999999999:4",
            "1:🦀",
            "1:7",
        ] {
            assert_eq!(read_text(Version::V3, bad), Err(NotPackets), "{bad:?}");
        }
    }

    #[test]
    fn text_that_client_1_has_encoded_twice_is_decoded_twice() {
        // How engine.io-parser 1.3, the client's, encodes `42["é🦀"]`.
        let twice: String = "42[\"é🦀\"]".bytes().map(char::from).collect();
        let body = format!("{}:{twice}", twice.chars().count());
        assert_eq!(
            read_text(Version::V3, &body),
            Ok(vec![message("2[\"é🦀\"]")])
        );
        // How client 2 encodes an é.
        assert_eq!(
            read_text(Version::V3, "7:42[\"é\"]"),
            Ok(vec![message("2[\"é\"]")])
        );
    }

    #[test]
    fn a_body_of_bytes_has_its_texts_encoded_once() {
        let body = b"\x00\x04\xff42\xc3\xa9\x01\x02\xff\x04x\x00\x01\xff3";
        let read = |body: &[u8]| read(Version::V3, Bytes::copy_from_slice(body), true);
        assert_eq!(
            read(body),
            Ok(vec![message("2é"), Packet::Binary, Packet::Pong])
        );
        for bad in [
            &b"\x00"[..],
            b"\x00\xff",
            b"\x00\x05\xff4",
            b"\x00\x0a\xff4",
            b"\x00\x01\xff\xff",
        ] {
            assert_eq!(read(bad), Err(NotPackets), "{bad:?}");
        }
    }

    #[test]
    fn what_is_written_for_version_3_is_ascii() {
        let packets = [vec!["42".into(), "[\"é🦀\"]".into()], vec!["3".into()]];
        assert_eq!(
            write(Version::V3, &packets).concat(),
            br#"24:42["\u00e9\ud83e\udd80"]1:3"#
        );
        assert_eq!(
            write(Version::V4, &packets).concat(),
            "42[\"é🦀\"]\x1e3".as_bytes()
        );
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,50}") {
            for body in [Bytes::from(body), Bytes::from(text)] {
                for version in [Version::V3, Version::V4] {
                    for is_binary in [false, true] {
                        let _ = read(version, body.clone(), is_binary);
                    }
                }
            }
        }

        #[test]
        fn what_client_2_sends_is_read_as_it_was(texts in prop::collection::vec("[a-z:0-9é🦀漢]{0,20}", 1..5)) {
            let body: String = texts
                .iter()
                .map(|text| format!("{}:4{text}", text.encode_utf16().count() + 1))
                .collect();
            let packets = texts.iter().map(|text| message(text)).collect();
            prop_assert_eq!(read_text(Version::V3, &body), Ok(packets));
        }
    }
}
