//! Peers and events in the form that they have in Redis.

use std::time::{Duration, SystemTime};

use super::member::Member;
use crate::peer_list::{PeerEvent, PeerInfo, Reason};

/// A peer: `ID DOOR CONNECTED SINCE SEEN HEARTBEAT NAME`, times in ms since 1970. In a room,
/// ID is `ROOM/ID`. A known
/// capacity follows HEARTBEAT and a comma; versions that did not know capacities wrote
/// nothing there.
pub(super) fn read_info(line: &str) -> Option<PeerInfo> {
    let mut fields = line.splitn(7, ' ');
    let mut field = || fields.next();
    let Member { room, id } = Member::read(field()?)?;
    let door = field()?.to_owned().into();
    let (connected, since, last_seen) = (field()? == "1", time_of(field()?)?, time_of(field()?)?);
    let heartbeat = field()?;
    let (heartbeat, capacity) = match heartbeat.split_once(',') {
        Some((heartbeat, capacity)) => (heartbeat, capacity.parse().ok()),
        None => (heartbeat, None),
    };
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
    use super::*;

    #[test]
    fn an_event_in_redis_is_read_with_and_without_a_capacity() {
        let read = |heartbeat: &str| {
            let line = format!("7 connect - 3 a-newer-door 1 1000 2000 {heartbeat} a name");
            let Some(PeerEvent::PeerAdded(peer)) = read_event(&line) else {
                panic!("not read: {line}");
            };
            assert_eq!((peer.id.get(), &*peer.name), (3, "a name"));
            (peer.heartbeat, peer.capacity)
        };
        assert_eq!(read("1"), (true, None));
        assert_eq!(read("0,12"), (false, Some(12)));
        assert_eq!(read("1,0"), (true, Some(0)));
    }
}
