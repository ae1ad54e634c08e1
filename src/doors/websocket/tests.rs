//! Tests of the WebSocket door.

use super::*;

fn id(number: u32) -> PeerId {
    PeerId::new(number).unwrap()
}

fn target(frame: &str) -> Option<PeerId> {
    Addressed::of(frame.as_bytes())?.target()?.id()
}

#[test]
fn a_frame_goes_to_receiver_id_or_else_to_peer_id() {
    assert_eq!(target(r#"{"receiverId":"7"}"#), Some(id(7)));
    assert_eq!(target(r#" {"peerId":7,"x":[{}]} "#), Some(id(7)));
    assert_eq!(target(r#"{"peerId":"8","receiverId":"7"}"#), Some(id(7)));
    assert_eq!(target(r#"{"peerId":"8","receiverId":null}"#), Some(id(8)));
}

#[test]
fn a_frame_that_is_not_an_object_or_names_no_peer_is_not_delivered() {
    let frames = [
        "",
        "null",
        "7",
        "[]",
        r#"["7"]"#,
        "{",
        "{}",
        r#"{"receiverId":true}"#,
        r#"{"receiverId":{"constructor":1}}"#,
        r#"{"receiverId":"constructor"}"#,
        r#"{"receiverId":"__proto__"}"#,
        r#"{"receiverId":0}"#,
        r#"{"receiverId":-1}"#,
        r#"{"receiverId":1.5}"#,
        r#"{"receiverId":"+1"}"#,
        r#"{"receiverId":1e3}"#,
        r#"{"receiverId":99999999999999999999999}"#,
        r#"{"receiverId":"7"}x"#,
    ];
    for frame in frames {
        assert_eq!(target(frame), None, "{frame}");
    }
}

fn framed(body: &str) -> String {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let frame = message_frame(Addressed::of(&body).as_ref(), id(3), id(7), &body);
    str::from_utf8(&frame).unwrap().to_owned()
}

#[test]
fn a_frame_that_names_its_receiver_stays_as_it_is() {
    for body in [
        r#" {"receiverId": "7",  "senderId":"3"} "#,
        r#"{"peerId":7}"#,
    ] {
        assert_eq!(framed(body), body);
    }
}

#[test]
fn another_object_gets_the_ids_and_the_rest_stays_as_it_was() {
    let ids = r#""senderId":"3","receiverId":"7"}"#;
    assert_eq!(
        framed(r#"{"type":"offer",  "n":1.50}"#),
        format!(r#"{{"type":"offer",  "n":1.50,{ids}"#)
    );
    assert_eq!(framed("{ }\n"), format!("{{ {ids}"));
    assert_eq!(
        framed(r#"{"senderId":"x"}"#),
        r#"{"senderId":"x","receiverId":"7"}"#
    );
}

#[test]
fn a_message_that_is_not_an_object_becomes_one() {
    assert_eq!(
        framed("hi \"Bob\""),
        r#"{"senderId":"3","receiverId":"7","data":"hi \"Bob\""}"#
    );
    let rubbish = Bytes::from_static(b"\xff[");
    let frame = message_frame(None, id(3), id(7), &rubbish);
    let frame: Value = serde_json::from_slice(&frame).unwrap();
    assert_eq!(frame["data"], "\u{fffd}[");
}
