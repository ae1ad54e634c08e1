//! Rooms: separate peer lists in one server.

use std::{fmt, str::FromStr, sync::Arc, time::SystemTime};

use thiserror::Error;

/// The longest name of a room, in bytes.
pub const MAX_ROOM_NAME_BYTES: usize = 64;

/// The name of a room: 1 to 64 of `A-Z a-z 0-9 . _ ~ -`, which stand in a path as they
/// are (the unreserved characters of RFC 3986), but not `.` or `..`, which clients resolve.
/// Case matters.
///
/// ```
/// use signal_http_heartbeat::peer_list::RoomName;
///
/// let name: RoomName = "lobby".parse()?;
/// assert_eq!(name.as_str(), "lobby");
/// assert!("two/parts".parse::<RoomName>().is_err());
/// # Ok::<(), signal_http_heartbeat::peer_list::RoomNameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomName(Arc<str>);

/// The text is not the name of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a room's name is 1 to 64 of A-Z a-z 0-9 . _ ~ - and neither . nor ..")]
pub struct RoomNameError;

impl RoomName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RoomName {
    type Err = RoomNameError;

    fn from_str(text: &str) -> Result<Self, RoomNameError> {
        let is_unreserved = |b: u8| b.is_ascii_alphanumeric() || b"._~-".contains(&b);
        let is_name = (1..=MAX_ROOM_NAME_BYTES).contains(&text.len())
            && text.bytes().all(is_unreserved)
            && !matches!(text, "." | "..");
        if is_name {
            Ok(Self(text.into()))
        } else {
            Err(RoomNameError)
        }
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A room as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomInfo {
    /// Its name.
    pub name: RoomName,
    /// The number of peers in its list.
    pub peers: usize,
    /// Since when it exists.
    pub since: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_1_to_64_unreserved_characters() {
        let longest = "x".repeat(MAX_ROOM_NAME_BYTES);
        for name in ["a", "lobby", "A.b_c~d-9", "...", ".a", &longest] {
            assert!(name.parse::<RoomName>().is_ok(), "{name}");
        }
        let too_long = "x".repeat(MAX_ROOM_NAME_BYTES + 1);
        for name in [
            "", ".", "..", "a/b", "a b", "%61", "é", "a\n", "*", &too_long,
        ] {
            assert_eq!(name.parse::<RoomName>(), Err(RoomNameError), "{name}");
        }
    }
}
