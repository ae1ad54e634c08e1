//! Connections that either side closes in the middle of something.

use super::*;

async fn hangs_up_in_the_middle_of_a_wait(hang_up: impl AsyncFnOnce(&mut Client)) {
    let server = TestServer::start().await;
    server.sign_in("a").await;
    server.list_becomes("a,1,0\n").await;
    let mut client = server.connect().await;
    client
        .send("GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    server.list_becomes("a,1,1\n").await;
    hang_up(&mut client).await;
    server.list_becomes("a,1,0\n").await;
    server.post("/message?peer_id=1&to=1", "news").await;
    assert_eq!(server.get("/wait?peer_id=1").await.text(), "news");
}

#[tokio::test]
async fn a_client_that_hangs_up_in_the_middle_of_a_wait_takes_no_message_along() {
    hangs_up_in_the_middle_of_a_wait(async |client| {
        client.stream.set_zero_linger().unwrap();
        client.stream.shutdown().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_client_that_half_closes_in_the_middle_of_a_wait_takes_no_message_along() {
    hangs_up_in_the_middle_of_a_wait(async |client| client.stream.shutdown().await.unwrap()).await;
}

#[tokio::test]
async fn at_shutdown_open_waits_are_answered_and_told_that_it_closes() {
    let mut server = TestServer::start().await;
    server.sign_in("a").await;
    server.get("/sign_in?bare").await;
    server.get("/wait?peer_id=1").await;
    server.list_becomes("bare,2,0\na,1,1\n").await;
    let mut listed = server.connect().await;
    listed
        .send("GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let mut bare = server.connect().await;
    bare.send("GET /wait?peer_id=2 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let mut idle = server.connect().await;
    idle.get("/healthz").await;
    let mut never_used = server.connect().await;
    server.list_becomes("bare,2,1\na,1,1\n").await;
    let stopped = server.stop();
    let reply = listed.reply().await;
    assert_eq!((reply.status, reply.text()), (200, "bare,2,1\na,1,1\n"));
    assert_eq!(reply.header("Pragma"), Some("1"));
    assert_eq!(reply.header("Connection"), Some("close"));
    let reply = bare.reply().await;
    assert_eq!((reply.status, reply.text()), (200, "\n"));
    assert_eq!(reply.header("Pragma"), Some("2"));
    for client in [&mut listed, &mut bare, &mut idle, &mut never_used] {
        assert!(client.is_closed().await);
    }
    stopped.await;
    let refused = tokio::net::TcpStream::connect(server.address()).await;
    assert!(refused.is_err(), "the listener is still open");
}

#[tokio::test]
async fn a_request_is_carried_out_even_if_its_client_closes_at_once() {
    let server = TestServer::start().await;
    server.sign_in("receiver").await;
    for number in 0..20 {
        let leaves = server.sign_in("leaves").await;
        let mut client = server.connect().await;
        client
            .send(post(
                &format!("/message?peer_id={leaves}&to=1"),
                format!("{number}"),
            ))
            .await;
        drop(client);
        until(async || {
            let news = server.get("/wait?peer_id=1").await;
            news.header("Pragma") != Some("1")
        })
        .await;
        let mut client = server.connect().await;
        client
            .send(format!("GET /sign_out?peer_id={leaves} HTTP/1.0\r\n\r\n"))
            .await;
        drop(client);
        until(async || server.peer_count().await == 1).await;
    }
}

#[tokio::test]
async fn a_client_that_half_closes_after_its_request_is_answered() {
    let server = TestServer::start().await;
    for version in ["1.0", "1.1"] {
        for _ in 0..20 {
            let mut client = server.connect().await;
            client
                .send(format!("GET /healthz HTTP/{version}\r\nHost: x\r\n\r\n"))
                .await;
            client.stream.shutdown().await.unwrap();
            assert_eq!(client.reply().await.text(), "ok");
            assert!(client.is_closed().await);
        }
    }
}

#[tokio::test]
async fn a_reply_before_the_body_was_read_says_that_the_connection_closes() {
    let server = TestServer::start().await;
    for target in ["/sign_out?peer_id=1", "/unknown", "/wait?peer_id=1"] {
        let mut client = server.connect().await;
        let head = format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n");
        let reply = client.request(head).await;
        assert_eq!(reply.header("Connection"), Some("close"), "{target}");
        client.send("late").await;
        assert!(client.is_closed().await);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_finished_two_seconds_after_the_stop_is_dropped() {
    let mut server = TestServer::alone(HeartbeatOpts::default(), SignalOpts::default());
    server.sign_in("a").await;
    server.list_becomes("a,1,0\n").await;
    let mut stalled = server.connect().await;
    stalled
        .send("POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
        .await;
    server.list_becomes("a,1,1\n").await;
    let start = Instant::now();
    server.stop().await;
    assert_eq!(start.elapsed().as_millis() / 100, 19);
    assert!(stalled.is_closed().await);
    assert_eq!(
        server.list().await,
        "",
        "all are signed out when it has stopped"
    );
}
