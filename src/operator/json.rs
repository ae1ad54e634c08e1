//! Peers and events as JSON, which is the same in answers, event streams and the webhook.

use std::time::SystemTime;

use humantime::{Rfc3339Timestamp, format_rfc3339_millis};
use serde::{Serialize, Serializer};

use crate::peer_list::{PeerEvent, PeerId, PeerInfo, Reason, RoomInfo, RoomName};

/// A peer as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Peer<'a> {
    id: u32,
    room: Option<&'a str>,
    name: &'a str,
    door: &'a str,
    connected: bool,
    #[serde(serialize_with = "text")]
    since: Rfc3339Timestamp,
    #[serde(serialize_with = "text")]
    last_seen: Rfc3339Timestamp,
    heartbeat: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    capacity: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

fn text<S: Serializer>(time: &Rfc3339Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

impl<'a> From<&'a PeerInfo> for Peer<'a> {
    fn from(info: &'a PeerInfo) -> Self {
        let time = |time: SystemTime| format_rfc3339_millis(time);
        Self {
            id: info.id.get(),
            room: info.room.as_ref().map(RoomName::as_str),
            name: &info.name,
            door: &info.door,
            connected: info.connected,
            since: time(info.since),
            last_seen: time(info.last_seen),
            heartbeat: info.heartbeat,
            capacity: info.capacity,
            user: info.identity.user.as_deref(),
            address: info.identity.address.map(|address| address.to_string()),
        }
    }
}

/// An event as JSON.
#[derive(Serialize)]
struct Event<'a> {
    event: &'a str,
    sequence: u64,
    peer: Peer<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// The name of an event and its JSON, which is one line.
pub(crate) fn event(sequence: u64, event: &PeerEvent) -> (&'static str, String) {
    let (name, peer, reason): (_, _, Option<Reason>) = match event {
        PeerEvent::PeerAdded(peer) => ("connect", peer, None),
        PeerEvent::PeerReconnected(peer) => ("reconnect", peer, None),
        PeerEvent::PeerRemoved { peer, reason } => ("disconnect", peer, Some(*reason)),
    };
    let event = Event {
        event: name,
        sequence,
        peer: peer.into(),
        reason: reason.map(|reason| match reason {
            // The operator sees it as a socket that the server closed.
            Reason::NotReading => Reason::Closed.to_string(),
            reason => reason.to_string(),
        }),
    };
    (name, json(&event))
}

/// All peers, by id.
pub(super) fn peers(infos: &[PeerInfo]) -> String {
    let peers: Vec<Peer<'_>> = infos.iter().map(Peer::from).collect();
    json(&peers)
}

/// One peer.
pub(super) fn peer(info: &PeerInfo) -> String {
    json(&Peer::from(info))
}

/// A room as JSON.
#[derive(Serialize)]
struct Room<'a> {
    name: &'a str,
    peers: usize,
    #[serde(serialize_with = "text")]
    since: Rfc3339Timestamp,
}

/// Rooms, by name.
pub(super) fn rooms(infos: &[RoomInfo]) -> String {
    let rooms = infos.iter().map(|info| Room {
        name: info.name.as_str(),
        peers: info.peers,
        since: format_rfc3339_millis(info.since),
    });
    json(&rooms.collect::<Vec<_>>())
}

/// The ids of removed peers.
pub(super) fn removed(ids: &[PeerId]) -> String {
    let ids: Vec<u32> = ids.iter().map(|id| id.get()).collect();
    json(&serde_json::json!({"removed": ids}))
}

/// What this module writes has string keys and no parts that fail, so that it always
/// becomes JSON.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::peer_list::Identity;

    #[test]
    fn an_event_is_one_line_of_json_with_the_peer_as_it_was() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        let peer = PeerInfo {
            id: PeerId::new(7).unwrap(),
            room: Some("lobby".parse().unwrap()),
            name: "a \"b\"".into(),
            door: "http".into(),
            connected: false,
            since: time,
            last_seen: time + Duration::from_secs(60),
            heartbeat: true,
            capacity: Some(3),
            identity: Identity {
                user: Some("u-1".into()),
                address: "127.0.0.1".parse().ok(),
                network: None,
                ice_servers: None,
            },
        };
        let reason = Reason::TimedOut;
        let (name, json) = event(12, &PeerEvent::PeerRemoved { peer, reason });
        assert_eq!(name, "disconnect");
        assert_eq!(
            json,
            r#"{"event":"disconnect","sequence":12,"peer":{"id":7,"room":"lobby","name":"a \"b\"","door":"http","connected":false,"since":"1970-01-01T00:00:01.500Z","lastSeen":"1970-01-01T00:01:01.500Z","heartbeat":true,"capacity":3,"user":"u-1","address":"127.0.0.1"},"reason":"timed_out"}"#
        );
    }
}
