//! What goes over the wire, byte for byte.

use signal_http_heartbeat::{Cors, HeartbeatOpts, SignalOpts};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use crate::support::{Client, TestServer, post, until};

mod closing;
mod pages;

#[tokio::test]
async fn the_bodies_of_the_original_hold() {
    let server = TestServer::start().await;
    let mut first = server.connect().await;
    let reply = first.get("/sign_in?peer_name=firstPeer").await;
    assert_eq!(reply.text(), "firstPeer,1,1\n");
    assert_eq!(reply.header("Pragma"), Some("1"));
    // Closed as soon as it is answered.
    let sign_in =
        "GET /sign_in?peer_name=secondPeer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let (joined, second) = tokio::join!(first.get("/wait?peer_id=1"), server.request(sign_in));
    assert_eq!(second.text(), "secondPeer,2,1\nfirstPeer,1,1\n");
    assert_eq!(joined.text(), "secondPeer,2,1\nfirstPeer,1,1\n");
    assert_eq!(joined.header("Pragma"), Some("1"));
    let (left, out) = tokio::join!(
        first.get("/wait?peer_id=1"),
        server.get("/sign_out?peer_id=2")
    );
    assert_eq!((out.status, out.body.len()), (200, 0));
    assert_eq!(left.text(), "firstPeer,1,1\n");
}

#[tokio::test]
async fn a_peer_whose_connection_is_closed_shows_status_0() {
    let server = TestServer::start().await;
    let close =
        "GET /sign_in?peer_name=a HTTP/1.1\r\nHost: x\r\nConnection: Keep-Alive, CLOSE\r\n\r\n";
    server.request(close).await;
    assert_eq!(server.list().await, "a,1,0\n");
    let mut open = server.connect().await;
    open.get("/sign_in?peer_name=b").await;
    assert_eq!(server.list().await, "b,2,1\na,1,0\n");
    drop(open);
    server.list_becomes("b,2,0\na,1,0\n").await;
}

#[tokio::test]
async fn a_client_that_closes_after_every_reply_still_counts_as_connected() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.request("GET /sign_in?a HTTP/1.0\r\n\r\n").await;
    assert!(client.is_closed().await);
    assert_eq!(server.list().await, "a,1,1\n");
}

#[tokio::test]
async fn every_reply_has_title_case_headers_and_is_never_cached_nor_sniffed() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    server.post("/message?peer_id=1&to=1", "<script>").await;
    let requests = [
        (200, "GET /sign_in?peer_name=b"),
        (200, "GET /wait?peer_id=1"),
        (200, "GET /heartbeat?peer_id=1"),
        (200, "GET /sign_out?peer_id=2"),
        (200, "POST /sign_out?peer_id=2"),
        (200, "POST /message?peer_id=1&to=1"),
        (200, "GET /healthz"),
        (400, "GET /sign_in"),
        (400, "GET /wait"),
        (404, "GET /heartbeat?peer_id=99"),
        (404, "GET /unknown"),
        (405, "POST /wait?peer_id=1"),
    ];
    let mut client = server.connect().await;
    for (status, request) in requests {
        let request = format!("{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let reply = client.request(&request).await;
        assert_eq!(reply.status, status, "{request}");
        for line in reply.head.split("\r\n").skip(1).filter(|l| !l.is_empty()) {
            let (name, _) = line.split_once(": ").unwrap();
            let title_case = name.split('-').all(|word| {
                let mut letters = word.chars();
                letters.next().is_some_and(|c| c.is_ascii_uppercase())
                    && letters.all(|c| c.is_ascii_lowercase())
            });
            assert!(title_case, "{line}");
        }
        let text = Some("text/plain; charset=utf-8");
        assert_eq!(reply.header("Content-Type"), text, "{request}");
        assert_eq!(reply.header("Cache-Control"), Some("no-store"));
        assert_eq!(reply.header("X-Content-Type-Options"), Some("nosniff"));
        assert_eq!(reply.header("Access-Control-Allow-Origin"), Some("*"));
        let exposed = reply.header("Access-Control-Expose-Headers").unwrap();
        let headers =
            "allow,pragma,retry-after,x-message-seq,x-peer-token,x-heartbeat-interval,x-error";
        assert_eq!(exposed, headers);
        assert!(!reply.head.contains("Transfer-Encoding"));
        if status != 200 {
            assert!(reply.text().trim().len() > 5, "{request}: blank");
            assert_eq!(reply.text().lines().count(), 1);
            assert!(!reply.text().starts_with(['{', '[', '"']));
        }
    }
}

#[tokio::test]
async fn http_1_0_gets_exactly_one_connection_close_and_is_closed() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    let requests = [
        "GET /sign_in?native HTTP/1.0\r\n\r\n",
        "GET /sign_in?native HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET /sign_out?peer_id=9 HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n",
        "GET /heartbeat?peer_id=9 HTTP/1.0\r\n\r\n",
        "POST /message?peer_id=1&to=1 HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi",
    ];
    for request in requests {
        let mut client = server.connect().await;
        let reply = client.request(request).await;
        assert!(reply.head.starts_with("HTTP/1.0 "), "{}", reply.head);
        assert_eq!(reply.head.matches("\r\nConnection: ").count(), 1);
        assert!(reply.head.contains("\r\nConnection: close\r\n"));
        assert!(client.is_closed().await);
    }
}

#[tokio::test]
async fn http_1_1_keeps_its_connection_and_answers_pipelined_requests_in_order() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let pipelined = [
        "GET /sign_in?peer_name=a HTTP/1.1\r\nHost: x\r\n\r\n".as_bytes(),
        &post("/message?peer_id=1&to=1", "one"),
        &post("/message?peer_id=1&to=1", "two"),
        b"GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    client.send(pipelined.concat()).await;
    for body in ["a,1,1\n", "", "", "one", "two"] {
        assert_eq!(client.reply().await.text(), body);
    }
}

#[tokio::test]
async fn a_request_behind_a_parked_wait_is_answered_after_it() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    let mut client = server.connect().await;
    client
        .send("GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\nGET /heartbeat?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    server.list_becomes("a,1,1\n").await;
    server.post("/message?peer_id=1&to=1", "news").await;
    assert_eq!(client.reply().await.text(), "news");
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_understood() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    let mut client = server.connect().await;
    client.stream.set_nodelay(true).unwrap();
    for byte in post("/message?peer_id=1&to=1", "slow") {
        client.send([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.reply().await.status, 200);
    assert_eq!(client.get("/wait?peer_id=1").await.text(), "slow");
}

#[tokio::test]
async fn a_message_passes_untouched_whatever_its_type() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    let bytes: Vec<u8> = (0..=255).collect();
    let json = br#"{"type":"offer","sdp":"v=0\r\n"}"#.to_vec();
    for (kind, body) in [
        ("application/octet-stream", &bytes),
        ("application/json", &json),
        ("application/x-www-form-urlencoded", &json),
    ] {
        let head = format!(
            "POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let sent = server.request([head.as_bytes(), body].concat()).await;
        assert_eq!(sent.status, 200);
        assert_eq!(server.get("/wait?peer_id=1").await.body, *body);
    }
}

#[tokio::test]
async fn a_message_may_be_chunked_and_may_expect_to_be_asked_for() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    let chunked = "POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\noff\r\n2\r\ner\r\n0\r\n\r\n";
    assert_eq!(server.request(chunked).await.status, 200);
    assert_eq!(server.get("/wait?peer_id=1").await.text(), "offer");
    let mut client = server.connect().await;
    let head = "POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\
                Expect: 100-continue\r\n\r\n";
    client.send(head).await;
    let mut go_on = [0; 25];
    let read = client.stream.read_exact(&mut go_on);
    crate::support::within_patience(read).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.request("answer").await.status, 200);
    assert_eq!(server.get("/wait?peer_id=1").await.text(), "answer");
}

#[tokio::test]
async fn health_can_be_asked_for_with_head() {
    let server = TestServer::start().await;
    for path in ["/healthz", "/readyz"] {
        let mut client = server.connect().await;
        let head = format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        client.send(head).await;
        let reply = client.head().await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("Content-Length"), Some("2"));
        // Without a body: what follows is the next answer.
        assert_eq!(client.get(path).await.body, b"ok");
    }
}

#[tokio::test]
async fn a_capacity_is_taken_as_3dstreamingtoolkits_clients_say_it() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.get("/sign_in?peer_name=a").await;
    let cases = [
        ("/capacity?peer_id=1&value=5", 200),
        ("/capacity?peer_id=1&value=0", 200),
        ("/capacity?peer_id=1", 400),
        ("/capacity?value=1", 400),
        ("/capacity?peer_id=1&value=-1", 400),
        ("/capacity?peer_id=1&value=x", 400),
        ("/capacity?peer_id=99&value=1", 404),
    ];
    for (target, status) in cases {
        let put = format!("PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let reply = client.request(put).await;
        assert_eq!(reply.status, status, "{target}");
        assert_eq!(reply.body.is_empty(), status == 200);
        assert_eq!(reply.header("Access-Control-Allow-Origin"), Some("*"));
    }
    assert_eq!(server.list().await, "a,1,1\n");
}

#[tokio::test]
async fn a_peer_whose_token_was_shown_cannot_be_acted_for_without_it() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let reply = client.get("/sign_in?peer_name=a").await;
    let token = reply.header("X-Peer-Token").unwrap().to_owned();
    let with = format!("&peer_token={token}");
    assert_eq!(client.get("/heartbeat?peer_id=1").await.status, 200);
    let own = client.get(&format!("/heartbeat?peer_id=1{with}")).await;
    assert_eq!(own.status, 200);
    client.get("/sign_in?peer_name=b&resume=true").await;
    for id in [1, 2] {
        for path in ["wait", "heartbeat", "sign_out"] {
            let target = format!("/{path}?peer_id={id}");
            assert_eq!(server.get(&target).await.status, 403, "{target}");
        }
        let forged = server
            .post(&format!("/message?peer_id={id}&to=1"), "x")
            .await;
        assert_eq!(forged.status, 403);
    }
    assert_eq!(server.peer_count().await, 2);
    let left = client.get(&format!("/sign_out?peer_id=1{with}")).await;
    assert_eq!(left.status, 200);
}

#[tokio::test]
async fn other_methods_are_refused_and_have_no_effect() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    server.post("/message?peer_id=1&to=1", "kept").await;
    let cases = [
        ("HEAD", "/wait?peer_id=1", "GET"),
        ("HEAD", "/sign_in?peer_name=x", "GET"),
        ("HEAD", "/sign_out?peer_id=1", "GET, POST"),
        ("POST", "/sign_in?peer_name=x", "GET"),
        ("GET", "/message?peer_id=1&to=1", "POST"),
        ("PUT", "/message?peer_id=1&to=1", "POST"),
        ("DELETE", "/sign_out?peer_id=1", "GET, POST"),
        ("HEAD", "/heartbeat?peer_id=1", "GET"),
        ("BREW", "/wait?peer_id=1", "GET"),
        ("POST", "/healthz", "GET, HEAD"),
        ("POST", "/readyz", "GET, HEAD"),
        ("GET", "/capacity?peer_id=1&value=1", "PUT"),
    ];
    for (method, target, allowed) in cases {
        let mut client = server.connect().await;
        client
            .send(format!(
                "{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
        let reply = if method == "HEAD" {
            client.head().await
        } else {
            client.reply().await
        };
        assert_eq!(reply.status, 405, "{method} {target}");
        assert_eq!(reply.header("Allow"), Some(allowed));
    }
    assert_eq!(server.get("/wait?peer_id=1").await.text(), "kept");
    assert_eq!(server.peer_count().await, 1);
}

const PREFLIGHT: &str = "OPTIONS /message?peer_id=1&to=2 HTTP/1.1\r\nHost: x\r\n\
                         Origin: https://a.example\r\n\
                         Access-Control-Request-Method: POST\r\n\
                         Access-Control-Request-Headers: authorization,peer-type\r\n\r\n";

#[tokio::test]
async fn of_two_waits_the_newest_receives() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    server.list_becomes("a,1,0\n").await;
    let mut older = server.connect().await;
    older
        .send("GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    server.list_becomes("a,1,1\n").await;
    let mut newest = server.connect().await;
    newest
        .send("GET /heartbeat?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\nGET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    assert_eq!(newest.reply().await.status, 200);
    server.post("/message?peer_id=1&to=1", "one").await;
    assert_eq!(newest.reply().await.text(), "one");
    server.get("/sign_out?peer_id=1").await;
    // Its own sign-out is not an error to a peer.
    let end = older.reply().await;
    assert_eq!((end.status, end.text()), (200, ""));
    assert_eq!(end.header("Pragma"), Some("1"));
}

#[tokio::test]
async fn without_heartbeats_and_requests_a_peer_times_out_and_the_others_hear_of_it() {
    let heartbeat = HeartbeatOpts {
        timeout_period: std::time::Duration::from_millis(200),
        gc_interval: std::time::Duration::from_millis(20),
        ..HeartbeatOpts::default()
    };
    let server = TestServer::with(heartbeat, SignalOpts::default()).await;
    let mut stays = server.connect().await;
    stays.get("/sign_in?peer_name=stays").await;
    let goes = server.sign_in("goes").await;
    let mut lists = Vec::new();
    until(async || {
        lists.push(stays.get("/wait?peer_id=1").await.text().to_owned());
        lists.last().unwrap() == "stays,1,1\n"
    })
    .await;
    assert_eq!(lists[0], "goes,2,1\nstays,1,1\n");
    assert_eq!(
        server
            .get(&format!("/heartbeat?peer_id={goes}"))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn a_message_comes_again_until_its_sequence_is_acknowledged() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    client.get("/sign_in?peer_name=a").await;
    for body in ["one", "two"] {
        server.post("/message?peer_id=1&to=1", body).await;
    }
    let steps = [
        ("ack=0", "one", Some("1")),
        ("ack=0", "one", Some("1")),
        ("ack=1", "two", Some("2")),
        ("", "two", None),
    ];
    for (ack, body, sequence) in steps {
        let reply = client.get(&format!("/wait?peer_id=1&{ack}")).await;
        assert_eq!(reply.text(), body, "{ack}");
        assert_eq!(reply.header("X-Message-Seq"), sequence, "{ack}");
    }
}

#[tokio::test]
async fn a_message_whose_reply_was_lost_is_not() {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    let mut cut = server.connect().await;
    cut.send("GET /wait?peer_id=1&ack=0 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    server.post("/message?peer_id=1&to=1", "an offer").await;
    // The reply was written, and no client reads it.
    drop(cut);
    let reply = server.get("/wait?peer_id=1&ack=0").await;
    assert_eq!(reply.text(), "an offer");
}
