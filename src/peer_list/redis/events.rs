//! Peers and events in the form that they have in Redis.

use std::time::{Duration, SystemTime};

use super::member::Member;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::peer_list::{Identity, PeerEvent, PeerInfo, Reason};

/// Who is behind a peer, as Redis has it: the user, percent-encoded, and the address.
pub(super) fn words_of(identity: &Identity) -> (String, String) {
    let Identity { user, address, .. } = identity;
    let user = user.as_deref().unwrap_or_default();
    let user = utf8_percent_encode(user, NON_ALPHANUMERIC).to_string();
    let address = address.map(|address| address.to_string());
    (user, address.unwrap_or_default())
}

/// A peer: `ID DOOR CONNECTED SINCE SEEN HEARTBEAT CAPACITY ADDRESS USER NAME`, times in ms since
/// 1970. In a room, ID is `ROOM/ID`. What is not known is `-`.
pub(super) fn read_info(line: &str) -> Option<PeerInfo> {
    let mut fields = line.splitn(10, ' ');
    let mut field = || fields.next();
    let Member { room, id } = Member::read(field()?)?;
    let door = field()?.to_owned().into();
    let (connected, since, last_seen) = (field()? == "1", time_of(field()?)?, time_of(field()?)?);
    let heartbeat = field()?;
    let capacity = field()?.parse().ok();
    let address = field()?.parse().ok();
    let user = Some(field()?).filter(|user| *user != "-");
    let user = user.map(|user| percent_decode_str(user).decode_utf8_lossy().into());
    Some(PeerInfo {
        id,
        room,
        name: field()?.into(),
        door,
        connected,
        since,
        last_seen,
        heartbeat: heartbeat == "1",
        capacity,
        identity: Identity {
            user,
            address,
            network: None,
            ice_servers: None,
        },
    })
}

/// A time in ms since 1970.
pub(super) fn time_of(ms: &str) -> Option<SystemTime> {
    Some(SystemTime::UNIX_EPOCH + Duration::from_millis(ms.parse().ok()?))
}

/// An event: `NUMBER KIND REASON` and the peer.
pub(super) fn read_event(line: &str) -> Option<PeerEvent> {
    let mut fields = line.splitn(4, ' ');
    let _number = fields.next()?;
    let kind = fields.next()?;
    let reason = fields.next()?;
    let peer = read_info(fields.next()?)?;
    match kind {
        "connect" => Some(PeerEvent::PeerAdded(peer)),
        "reconnect" => Some(PeerEvent::PeerReconnected(peer)),
        "disconnect" => Some(PeerEvent::PeerRemoved {
            peer,
            reason: Reason::read(reason)?,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_event_in_redis_makes_the_reader_panic(
            line in "[0-9]{1,20} (connect|reconnect|disconnect|.{0,5}) (timeout|-|.{0,5}) ([a-z-]{0,3}/)?[0-9]{0,21} ([0-9]{0,21} |[a-z%-]{0,5} |.{0,3} ){0,9}.{0,20}",
        ) {
            let read = read_event(&line);
            let numbered = |peer: &PeerInfo| peer.id.get() > 0;
            prop_assert!(read.is_none_or(|event| numbered(event.peer())));
        }
    }

    #[test]
    fn an_event_in_redis_is_read_with_and_without_what_may_not_be_known() {
        let read = |known: &str| {
            let line = format!("7 connect - 3 a-newer-door 1 1000 2000 {known} a name");
            let Some(PeerEvent::PeerAdded(peer)) = read_event(&line) else {
                panic!("not read: {line}");
            };
            assert_eq!((peer.id.get(), &*peer.name), (3, "a name"));
            (peer.heartbeat, peer.capacity, peer.identity)
        };
        assert_eq!(read("1 - - -"), (true, None, Identity::default()));
        assert_eq!(read("0 12 - -"), (false, Some(12), Identity::default()));
        for user in ["an user", "-", "é/%2"] {
            let identity = Identity {
                user: Some(user.into()),
                address: "2001:db8::7".parse().ok(),
                network: None,
                ice_servers: None,
            };
            let (user, address) = words_of(&identity);
            let read = read(&format!("1 0 {address} {user}"));
            assert_eq!(read, (true, Some(0), identity));
        }
    }
}
