//! Nonsense of every kind: a clear answer, and the server as before.

use std::time::Duration;

use proptest::prelude::*;
use signal_http_heartbeat::{HeartbeatOpts, SignalOpts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{TestServer, post, within_patience};

#[tokio::test]
async fn every_parameter_refuses_nonsense_and_says_what_is_wrong() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    let huge = "9".repeat(9_000);
    let nonsense = [
        "",
        "0",
        "-1",
        "%2B1",
        "1.5",
        "1e1",
        "0x1",
        "abc",
        "%00",
        "%FF%FE",
        "2147483648",
        "18446744073709551617",
        "1%0d%0aX-Evil:%201",
        "undefined",
        "NaN",
        "__proto__",
        &huge,
    ];
    for value in nonsense {
        for target in [
            format!("GET /heartbeat?peer_id={value}"),
            format!("GET /sign_out?peer_id={value}"),
            format!("POST /sign_out?peer_id={value}"),
            format!("POST /message?peer_id={value}&to=1"),
            format!("POST /message?peer_id=1&to={value}"),
        ] {
            let reply = server
                .request(format!(
                    "{target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
                ))
                .await;
            assert_eq!(reply.status, 400, "{target}");
            assert!(
                reply.text().contains(" is not a valid peer ID"),
                "{}",
                reply.text()
            );
        }
    }
    for (target, status) in [
        ("GET /wait?peer_id=1&peer_id=2", 400),
        ("GET /sign_in", 400),
        ("GET /sign_in?", 400),
        ("GET /sign_in?peer_name=", 400),
        ("GET /sign_in?peer_name=a&peer_name=b", 400),
        ("GET /sign_in?peer=a", 400),
        ("GET /heartbeat", 400),
        ("GET /heartbeat?PEER_ID=1", 400),
        ("GET /heartbeat?peer_id=1&peer_id=1", 400),
        ("GET /heartbeat?peer_id=2147483647", 404),
        ("POST /message?to=1", 400),
        ("POST /message?peer_id=1", 400),
        ("POST /message?peer_id=1&to=77", 404),
        ("POST /message?peer_id=77&to=1", 404),
        ("POST /message?peer_id=1&to=1&seq=0", 400),
        ("POST /message?peer_id=1&to=1&seq=x", 400),
        ("POST /message?peer_id=1&to=1&seq=2", 200),
        ("POST /message?peer_id=1&to=1&seq=2", 200),
        ("POST /message?peer_id=1&to=1&seq=1", 409),
        ("GET /wait?peer_id=1&limit=x", 400),
        ("GET /wait?peer_id=1&limit=-1", 400),
        ("GET /sign_out?peer_id=77", 200),
        ("GET //sign_in?peer_name=a", 404),
        ("GET /sign_in/?peer_name=a", 404),
        ("GET /../wait?peer_id=1", 404),
        ("OPTIONS * ", 400),
    ] {
        let request = format!("{target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(server.request(&request).await.status, status, "{target}");
    }
    assert_eq!(server.peer_count().await, 1);
    server.is_well().await;
}

#[tokio::test]
async fn a_name_cannot_forge_a_line_of_the_list() {
    let server = TestServer::start().await;
    for name in [
        "a%0Ab,9,1",
        "a%0D%0A",
        "%2C",
        "%C2%85",
        "%FF",
        "%F0%9F%A6%80",
    ] {
        server.sign_in(name).await;
    }
    server.sign_in(&"x".repeat(9_000)).await;
    let list = server.list().await;
    let names: Vec<&str> = list
        .lines()
        .map(|line| line.split(',').next().unwrap())
        .collect();
    let long = "x".repeat(512);
    assert_eq!(
        names,
        [&*long, "🦀", "\u{fffd}", "_", "_", "a__", "a_b_9_1"]
    );
    assert!(list.lines().all(|line| line.split(',').count() == 3));
}

fn small(max_message_bytes: usize) -> SignalOpts {
    SignalOpts {
        max_message_bytes,
        ..SignalOpts::default()
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_read_to_its_end_and_refused() {
    let server = TestServer::with(HeartbeatOpts::default(), small(1000)).await;
    server.sign_in("a").await;
    let mut client = server.connect().await;
    let target = "/message?peer_id=1&to=1";
    assert_eq!(client.request(post(target, [b'm'; 1000])).await.status, 200);
    for size in [1001, 2000, 4000] {
        let reply = client.request(post(target, vec![b'm'; size])).await;
        assert_eq!(reply.status, 413, "{size}");
        assert_eq!(
            reply.text(),
            "the message is too large: send at most 1000 bytes\n"
        );
    }
    assert_eq!(client.get("/wait?peer_id=1").await.body, [b'm'; 1000]);
}

#[tokio::test]
async fn a_message_far_too_large_is_refused_and_the_connection_closed() {
    let server = TestServer::with(HeartbeatOpts::default(), small(1000)).await;
    server.sign_in("a").await;
    let chunked =
        "POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("FA1\r\n{}\r\n", "m".repeat(4001));
    for request in [
        "POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 4001\r\n\r\n"
            .to_owned(),
        "POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
            .to_owned(),
        chunked.to_owned() + &chunk,
    ] {
        let mut client = server.connect().await;
        let reply = client.request(request).await;
        assert_eq!(reply.status, 413);
        assert_eq!(reply.header("Connection"), Some("close"));
        assert!(client.is_closed().await);
    }
    server.is_well().await;
}

/// Sends bytes, then reads what comes until the server closes.
async fn all_replies(server: &TestServer, bytes: &[u8]) -> String {
    let mut client = server.connect().await;
    // The server may have refused and closed before it has all.
    let _ = client.stream.write_all(bytes).await;
    let mut replies = Vec::new();
    let read = client.stream.read_to_end(&mut replies);
    let _ = within_patience(read).await;
    String::from_utf8_lossy(&replies).into_owned()
}

#[tokio::test]
async fn what_is_not_http_gets_an_empty_400_and_the_connection_is_closed() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    let post = "POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\n";
    for request in [
        "rubbish\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "GET /sign_in?a b HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHost: x\r\nNo colon\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n".to_owned(),
        format!("{post}Content-Length: -1\r\n\r\n"),
        format!("{post}Content-Length: 1, 2\r\n\r\nab"),
        format!("{post}Content-Length: 0x10\r\n\r\n"),
        format!("{post}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        format!("{post}Content-Length: 99999999999999999999\r\n\r\n"),
        format!("{post}Transfer-Encoding: gzip\r\n\r\n"),
        format!("{post}Transfer-Encoding: chunked, gzip\r\n\r\n"),
        "POST /message?peer_id=1&to=1 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
    ] {
        let replies = all_replies(&server, request.as_bytes()).await;
        assert!(replies.starts_with("HTTP/1.1 400 "), "{request}: {replies}");
        assert!(replies.contains("\r\nContent-Length: 0\r\n"), "{replies}");
        assert!(replies.contains("\r\nConnection: close\r\n"), "{replies}");
        assert!(replies.ends_with("\r\n\r\n"), "{replies}");
    }
    server.is_well().await;
}

#[tokio::test]
async fn of_two_framings_nothing_is_left_to_be_taken_for_a_second_request() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    let smuggled = "0\r\n\r\nGET /sign_in?peer_name=smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for framing in [
        format!(
            "Content-Length: {}\r\nTransfer-Encoding: chunked\r\n",
            smuggled.len()
        ),
        format!(
            "Transfer-Encoding: chunked\r\nContent-Length: {}\r\n",
            smuggled.len()
        ),
    ] {
        let request =
            format!("POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\n{framing}\r\n{smuggled}");
        let replies = all_replies(&server, request.as_bytes()).await;
        // The chunks count, and the connection ends (RFC 9112, section 6.3).
        assert!(replies.starts_with("HTTP/1.1 200 "), "{replies}");
        assert_eq!(replies.matches("HTTP/1.1 ").count(), 1, "{replies}");
    }
    assert_eq!(server.peer_count().await, 1);
}

#[tokio::test]
async fn a_broken_chunk_is_refused_and_nothing_is_delivered() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    let request = "POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\nZZ\r\n";
    let replies = all_replies(&server, request.as_bytes()).await;
    assert!(replies.starts_with("HTTP/1.1 400 "), "{replies}");
    server.post("/message?peer_id=1&to=1", "first").await;
    assert_eq!(server.get("/wait?peer_id=1").await.text(), "first");
}

#[tokio::test]
async fn a_sender_that_hangs_up_before_its_message_is_complete_sends_nothing() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    let mut client = server.connect().await;
    client
        .send("POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    drop(client);
    server.list_becomes("a,1,0\n").await;
    server.post("/message?peer_id=1&to=1", "whole").await;
    assert_eq!(server.get("/wait?peer_id=1").await.text(), "whole");
}

#[tokio::test]
async fn a_flood_of_headers_and_an_endless_target_are_refused() {
    let server = TestServer::start().await;
    let flood = "X-Flood: y\r\n".repeat(50_000);
    let long = "x".repeat(1_000_000);
    for (request, status) in [
        (
            format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{flood}\r\n"),
            "431",
        ),
        (
            format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"),
            "431",
        ),
    ] {
        let replies = all_replies(&server, request.as_bytes()).await;
        // The refusal may be overtaken by a reset: it came before we had sent
        // all, and the rest met a closed socket.
        let refused = replies.starts_with(&format!("HTTP/1.1 {status} "));
        assert!(refused || replies.is_empty(), "{replies}");
    }
    let many = "X-Flood: y\r\n".repeat(200);
    let replies = all_replies(
        &server,
        format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes(),
    )
    .await;
    assert!(replies.starts_with("HTTP/1.1 431 "), "{replies}");
    assert!(replies.contains("\r\nContent-Length: 0\r\n"), "{replies}");
    server.is_well().await;
}

#[tokio::test]
async fn a_mailbox_that_is_not_read_refuses_when_it_is_full_and_loses_nothing() {
    let heartbeat = HeartbeatOpts {
        max_pending_bytes: 10 * (1000 + 256),
        ..HeartbeatOpts::default()
    };
    let server = TestServer::with(heartbeat, small(1000)).await;
    server.sign_in("a").await;
    let mut client = server.connect().await;
    for number in 0..10u8 {
        let sent = client
            .request(post("/message?peer_id=1&to=1", [number; 1000]))
            .await;
        assert_eq!(sent.status, 200);
    }
    let full = client.request(post("/message?peer_id=1&to=1", "")).await;
    assert_eq!(full.status, 503);
    assert_eq!(full.header("Retry-After"), Some("1"));
    assert_eq!(full.header("X-Error"), Some("mailbox_full"));
    for number in 0..10u8 {
        assert_eq!(client.get("/wait?peer_id=1").await.body, [number; 1000]);
    }
    let sent = client.request(post("/message?peer_id=1&to=1", "")).await;
    assert_eq!(sent.status, 200);
}

#[tokio::test]
async fn a_full_server_refuses_sign_ins_until_somebody_leaves() {
    let heartbeat = HeartbeatOpts {
        max_peers: 2,
        ..HeartbeatOpts::default()
    };
    let server = TestServer::with(heartbeat, SignalOpts::default()).await;
    server.sign_in("a").await;
    server.sign_in("b").await;
    let full = server.get("/sign_in?peer_name=c").await;
    assert_eq!(full.status, 503);
    assert_eq!(full.header("Retry-After"), Some("1"));
    assert_eq!(full.header("X-Error"), None);
    server.get("/sign_out?peer_id=1").await;
    assert_eq!(server.sign_in("c").await, 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_do_no_harm(
        start in prop::sample::select(vec![
            "", "GET /", "GET /sign_in?", "POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\n",
            "GET /wait?peer_id=9 HTTP/1.1\r\nHost: x\r\n", "POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        ]),
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = TestServer::start().await;
            server.sign_in("a").await;
            let mut client = server.connect().await;
            let _ = client.stream.write_all(&[start.as_bytes(), &bytes].concat()).await;
            let _ = client.stream.shutdown().await;
            let mut replies = Vec::new();
            let read = client.stream.read_to_end(&mut replies);
            let _ = within_patience(read).await;
            prop_assert!(!replies.starts_with(b"HTTP/1.1 5"));
            server.is_well().await;
            server.post("/message?peer_id=1&to=1", "still").await;
            let told = server.get("/wait?peer_id=1").await;
            prop_assert_eq!(told.status, 200);
            Ok(())
        })?;
        runtime.shutdown_timeout(Duration::ZERO);
    }
}
