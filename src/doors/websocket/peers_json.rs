//! The peer list as the JSON that sockets with `events=true` are sent, written once for
//! all of them.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;

use crate::peer_list::{Buffered, Lines};

const HEAD: Bytes = Bytes::from_static(br#"{"type":"peers","peers":["#);
const COMMA: Bytes = Bytes::from_static(b",");
const TAIL: Bytes = Bytes::from_static(b"]}");

/// The parts of the list that was sent last, each with its JSON. Consecutive lists share
/// most of their parts.
pub(super) struct PeersJson {
    parts: Mutex<Vec<(Bytes, Bytes)>>,
    buffered: Arc<Buffered>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Peer<'a> {
    peer_id: &'a str,
    name: &'a str,
    connected: bool,
}

impl PeersJson {
    /// `buffered`: counts the parts.
    pub fn new(buffered: &Arc<Buffered>) -> Self {
        Self {
            parts: Mutex::default(),
            buffered: buffered.clone(),
        }
    }

    /// The frame with this list, in parts that frames share.
    pub fn frame(&self, list: &Lines) -> Vec<Bytes> {
        let parts = list.parts().iter().filter(|part| !part.is_empty());
        let mut known = self.parts.lock();
        let written: Vec<(Bytes, Bytes)> = parts
            .map(|part| {
                let json = known.iter().find(|(text, _)| is_same(text, part));
                let json = json.map(|(_, json)| json.clone());
                let json = json.unwrap_or_else(|| self.buffered.share_anyway(objects(part)));
                (part.clone(), json)
            })
            .collect();
        let mut frame = vec![HEAD];
        for (number, (_, json)) in written.iter().enumerate() {
            if number > 0 {
                frame.push(COMMA);
            }
            frame.push(json.clone());
        }
        frame.push(TAIL);
        *known = written;
        frame
    }
}

/// Whether both are the same bytes in the same memory.
fn is_same(a: &Bytes, b: &Bytes) -> bool {
    a.as_ptr() == b.as_ptr() && a.len() == b.len()
}

/// Lines `NAME,ID,STATUS` as objects with commas between them.
fn objects(lines: &[u8]) -> Bytes {
    let lines = String::from_utf8_lossy(lines);
    let objects = lines.lines().filter_map(|line| {
        let (line, status) = line.rsplit_once(',')?;
        let (name, peer_id) = line.rsplit_once(',')?;
        let connected = status == "1";
        serde_json::to_string(&Peer {
            peer_id,
            name,
            connected,
        })
        .ok()
    });
    objects.collect::<Vec<_>>().join(",").into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_list_is_told_as_objects() {
        let told = PeersJson::new(&Arc::default());
        let list: Lines = ["a \"b\",2,1\n".into(), "é,1,0\n".into()]
            .into_iter()
            .collect();
        let frame: Value = serde_json::from_slice(&told.frame(&list).concat()).unwrap();
        let peers = json!([
            {"peerId": "2", "name": "a \"b\"", "connected": true},
            {"peerId": "1", "name": "é", "connected": false},
        ]);
        assert_eq!(frame, json!({"type": "peers", "peers": peers}));
        let empty = told.frame(&"".into()).concat();
        assert_eq!(empty, br#"{"type":"peers","peers":[]}"#);
    }

    #[test]
    fn what_lists_share_is_written_once() {
        let told = PeersJson::new(&Arc::default());
        let old = Bytes::from_static(b"a,1,1\n");
        let first = told.frame(&[old.clone()].into_iter().collect());
        let second = told.frame(&["b,2,1\n".into(), old].into_iter().collect());
        assert_eq!(first[1].as_ptr(), second[3].as_ptr());
    }
}
