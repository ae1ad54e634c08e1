//! Tests of sessions.

use tokio_test::{assert_pending, task};

use super::*;

#[tokio::test]
async fn a_client_that_does_not_read_its_pongs_is_read_no_further() {
    let (session, _sockets) = Session::new(Version::V4, None, true, &Arc::default());
    for _ in 0..100_000 {
        let ping = Packet::Ping(Bytes::new());
        if task::spawn(session.receive(ping)).poll().is_pending() {
            return;
        }
    }
    panic!("all were read");
}

#[tokio::test]
async fn what_a_client_shows_is_taken_once() {
    let (session, _sockets) = Session::new(Version::V4, None, true, &Arc::default());
    let connect = || Packet::Message("0{\"token\":\"t\"}".into());
    session.receive(connect()).await.unwrap();
    assert_eq!(session.shown().await, "{\"token\":\"t\"}");
    session.receive(connect()).await.unwrap();
    assert_pending!(task::spawn(session.shown()).poll());
    let shown = "x".repeat(MAX_SHOWN + 1);
    let large = Packet::Message(format!("0\"{shown}\"").into());
    assert!(session.receive(large).await.is_err());
}
