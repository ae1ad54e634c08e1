//! The connected clients as the JSON that clients of this door are sent, written once for
//! all of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{events, packet::Told};
use crate::peer_list::{Buffered, Card, PeerId};

/// A part has at most this many ids. When one of them changes, the part is written again.
const IDS: u32 = 64;

/// The parts that were sent last. What many clients have not read yet takes little more
/// memory than one copy.
pub(super) struct Connections {
    parts: Mutex<HashMap<u32, Arc<Part>>>,
    buffered: Arc<Buffered>,
}

/// Peers with neighbouring ids.
struct Part {
    cards: Vec<Card>,
    /// Members of an object, `,"KEY":CONNECTION`.
    by_key: Bytes,
    /// Elements of an array, `,CONNECTION`.
    list: Bytes,
}

impl Connections {
    /// `buffered`: counts the parts.
    pub fn new(buffered: &Arc<Buffered>) -> Self {
        Self {
            parts: Mutex::default(),
            buffered: buffered.clone(),
        }
    }

    /// The answer to `GET /connections`.
    pub fn list(&self, cards: &[Card]) -> Vec<Bytes> {
        let mut told = vec![Bytes::from_static(b"[")];
        let parts = self.parts(cards, None);
        told.extend(joined(parts.iter().map(|part| &part.list)));
        told.push(Bytes::from_static(b"]"));
        told
    }

    /// The first message to a socket that said `ready`: the other clients. `name`: its
    /// own.
    pub fn greeting(&self, name: &str, own: PeerId, cards: &[Card]) -> Told {
        let parts = self.parts(cards, Some(own));
        let name = Value::from(name);
        let head = format!(
            r#"42["message",{{"from":"all","target":{name},"action":"open","connections":{{"#
        );
        let mut told: Told = vec![head.into()];
        told.extend(joined(parts.iter().map(|part| &part.by_key)));
        let middle = br#"},"payload":{"action":"open","connections":["#;
        told.push(Bytes::from_static(middle));
        told.extend(joined(parts.iter().map(|part| &part.list)));
        told.push(Bytes::from_static(br#"],"bePolite":false}}]"#));
        told
    }

    /// `but`: the peer that is left out. The part without it is not shared.
    fn parts(&self, cards: &[Card], but: Option<PeerId>) -> Vec<Arc<Part>> {
        let mut grouped: BTreeMap<u32, Vec<&Card>> = BTreeMap::new();
        for card in cards.iter().filter(|card| Some(card.id) != but) {
            grouped.entry(card.id.get() / IDS).or_default().push(card);
        }
        let own = but.map(|id| id.get() / IDS);
        let mut known = self.parts.lock();
        known.retain(|number, _| grouped.contains_key(number));
        let parts = grouped.into_iter().map(|(number, cards)| {
            if Some(number) == own {
                return Arc::new(Part::of(&cards, &self.buffered));
            }
            let part = known.get(&number).cloned();
            let part = part.filter(|part| part.cards.iter().eq(cards.iter().copied()));
            part.unwrap_or_else(|| {
                let part = Arc::new(Part::of(&cards, &self.buffered));
                known.insert(number, part.clone());
                part
            })
        });
        parts.collect()
    }
}

impl Part {
    fn of(cards: &[&Card], buffered: &Arc<Buffered>) -> Self {
        let (mut by_key, mut list) = (String::new(), String::new());
        for card in cards {
            let connection = events::connection(card);
            if let Some(key) = key_of(&connection) {
                by_key.push_str(&format!(",{}:{connection}", Value::from(key)));
            }
            list.push(',');
            list.push_str(connection.get());
        }
        Self {
            cards: cards.iter().copied().cloned().collect(),
            by_key: buffered.share_anyway(by_key.into()),
            list: buffered.share_anyway(list.into()),
        }
    }
}

/// The `peerId` of a connection: the name that its client gave in `ready`, or the id of a
/// peer of another door.
fn key_of(connection: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Id {
        peer_id: String,
    }
    let id: Id = serde_json::from_str(connection.get()).ok()?;
    Some(id.peer_id)
}

/// Parts that begin with a comma, except the first.
fn joined<'a>(parts: impl Iterator<Item = &'a Bytes>) -> impl Iterator<Item = Bytes> {
    let parts = parts.filter(|part| !part.is_empty());
    parts.enumerate().map(|(number, part)| {
        if number == 0 {
            part.slice(1..)
        } else {
            part.clone()
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(number: u32) -> PeerId {
        PeerId::new(number).unwrap()
    }

    fn cards(ids: impl IntoIterator<Item = u32>) -> Vec<Card> {
        let card = |number: u32| Card {
            id: id(number),
            name: format!("n\"{number}").into(),
            card: None,
        };
        ids.into_iter().map(card).collect()
    }

    #[test]
    fn a_greeting_names_all_others_by_key_and_in_a_list() {
        let connections = Connections::new(&Arc::default());
        let told = connections
            .greeting("a", id(2), &cards([1, 2, 500]))
            .concat();
        let told: Value = serde_json::from_slice(&told[2..]).unwrap();
        let connection = |id: &str| json!({"peerId": id, "name": format!("n\"{id}")});
        let expected = json!(["message", {
            "from": "all",
            "target": "a",
            "action": "open",
            "connections": {"1": connection("1"), "500": connection("500")},
            "payload": {
                "action": "open",
                "connections": [connection("1"), connection("500")],
                "bePolite": false,
            },
        }]);
        assert_eq!(told, expected);
        let alone = connections.greeting("a", id(1), &cards([1])).concat();
        assert!(serde_json::from_slice::<Value>(&alone[2..]).is_ok());
        assert_eq!(connections.list(&[]).concat(), b"[]");
    }

    #[test]
    fn greetings_share_what_did_not_change() {
        let connections = Connections::new(&Arc::default());
        let others = cards(1..1000);
        let memory = |told: &Told| told.iter().map(|part| part.as_ptr()).collect::<Vec<_>>();
        let first = connections.greeting("a", id(1001), &others);
        let second = connections.greeting("b", id(1002), &others);
        let shared = memory(&first)
            .iter()
            .filter(|part| memory(&second).contains(part))
            .count();
        // All but the head, and the part with their own id, in both forms.
        assert_eq!(shared, first.len() - 3);
    }
}
