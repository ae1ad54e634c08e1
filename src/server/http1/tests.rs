//! What a connection does when time passes: over a stream in memory, with a
//! paused clock that jumps from timer to timer.

use std::{io, sync::Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    time::sleep,
};

use super::*;
use crate::{
    doors::http::SignalOpts,
    peer_list::{Dialect, HeartbeatOpts, Identity, SendOpts, SignInOpts, TimeoutPeerList},
    server::{AppOpts, app},
};

#[cfg(feature = "socketio")]
mod socket_io;
mod writing;

/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(75);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn signs_in(dialect: Dialect) -> SignInOpts {
    SignInOpts {
        door: "http",
        dialect,
        protected: false,
        has_socket: false,
        identity: Identity::default(),
    }
}

/// A list in which no peer times out.
fn peer_list() -> TimeoutPeerList {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    list.cancel_gc();
    list
}

/// The client's end of a connection to a server with this list.
fn connect(peer_list: &TimeoutPeerList, opts: SignalOpts) -> DuplexStream {
    connect_to(
        app(
            peer_list.clone(),
            AppOpts {
                signal: opts,
                ..AppOpts::default()
            },
        ),
        1 << 20,
    )
}

/// The client's end of a connection to these routes; either side can have
/// this many bytes on their way.
fn connect_to(app: Router, capacity: usize) -> DuplexStream {
    let (client, stream) = duplex(capacity);
    let open = Open::alone();
    tokio::spawn(serve(
        stream,
        None,
        app,
        CancellationToken::new(),
        IDLE,
        open,
    ));
    client
}

async fn read_reply(client: &mut DuplexStream) -> String {
    let mut reply = Vec::new();
    loop {
        let read = client.read_buf(&mut reply).await.unwrap();
        let text = String::from_utf8_lossy(&reply).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.split("Content-Length: ").nth(1).unwrap();
            let length: usize = length.lines().next().unwrap().parse().unwrap();
            if body.len() >= length {
                return text;
            }
        }
        assert!(read > 0, "closed after {text:?}");
    }
}

async fn is_closed(client: &mut DuplexStream) -> bool {
    client.read(&mut [0; 1]).await.unwrap() == 0
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_in_is_cut_ten_seconds_after_its_first_byte() {
    let mut client = connect(&peer_list(), SignalOpts::default());
    sleep(seconds(60)).await;
    let start = Instant::now();
    for byte in b"GET /h" {
        client.write_all(&[*byte]).await.unwrap();
        sleep(seconds(1)).await;
    }
    assert!(is_closed(&mut client).await);
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_begins_behind_another_request_has_ten_seconds_too() {
    let mut client = connect(&peer_list(), SignalOpts::default());
    let start = Instant::now();
    let requests = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea";
    client.write_all(requests).await.unwrap();
    assert!(read_reply(&mut client).await.ends_with("ok"));
    assert!(is_closed(&mut client).await);
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn line_ends_between_requests_are_nothing() {
    let list = peer_list();
    list.add_peer(Some("a"), signs_in(Dialect::Listed))
        .await
        .unwrap();
    let mut client = connect(&list, SignalOpts::default());
    let post =
        b"POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi\r\n";
    for _ in 0..2 {
        client.write_all(post).await.unwrap();
        assert!(read_reply(&mut client).await.starts_with("HTTP/1.1 200 "));
        // Longer than a head may take.
        sleep(seconds(20)).await;
        client.write_all(b"\r\n").await.unwrap();
        sleep(seconds(20)).await;
    }
    // Behind a wait, too.
    for _ in 0..2 {
        let wait = b"GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n\r\n";
        client.write_all(wait).await.unwrap();
        assert!(read_reply(&mut client).await.ends_with("hi"));
        sleep(seconds(20)).await;
    }
    let start = Instant::now();
    client.write_all(b"\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut client).await);
    assert!(start.elapsed() < IDLE, "line ends keep a connection open");
}

#[tokio::test(start_paused = true)]
async fn a_malformed_request_is_refused_and_the_connection_closed() {
    let requests = [
        "GET /healthz HTTP/1.1\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: a b\r\n\r\n",
        "POST /message HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ];
    for request in requests {
        let mut client = connect(&peer_list(), SignalOpts::default());
        client.write_all(request.as_bytes()).await.unwrap();
        let reply = read_reply(&mut client).await;
        assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
        assert!(reply.contains("\r\nConnection: close\r\n"), "{reply}");
        assert!(is_closed(&mut client).await);
    }
    let mut client = connect(&peer_list(), SignalOpts::default());
    client
        .write_all(b"GET /healthz HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    assert!(read_reply(&mut client).await.ends_with("ok"));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_may_stay_for_its_time_between_requests() {
    let mut client = connect(&peer_list(), SignalOpts::default());
    for _ in 0..3 {
        sleep(seconds(74)).await;
        client
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            .await
            .unwrap();
        sleep(seconds(9)).await;
        client.write_all(b"\r\n").await.unwrap();
        assert!(read_reply(&mut client).await.ends_with("ok"));
    }
    let start = Instant::now();
    assert!(is_closed(&mut client).await);
    assert_eq!(start.elapsed().as_secs(), 75);
}

#[tokio::test(start_paused = true)]
async fn a_wait_without_news_ends_after_its_time_less_up_to_a_fifth_with_the_list() {
    let list = peer_list();
    list.add_peer(Some("a"), signs_in(Dialect::Listed))
        .await
        .unwrap();
    list.add_peer(Some("b"), signs_in(Dialect::Bare))
        .await
        .unwrap();
    let mut client = connect(&list, SignalOpts::default());
    let wait = b"GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(wait).await.unwrap();
    read_reply(&mut client).await;
    let mut ends = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        client.write_all(wait).await.unwrap();
        let reply = read_reply(&mut client).await;
        assert!(reply.contains("\r\nPragma: 1\r\n"), "{reply}");
        assert!(reply.ends_with("\r\n\r\nb,2,0\na,1,1\n"), "{reply}");
        ends.push(start.elapsed());
    }
    assert!(ends.iter().all(|end| (20..=25).contains(&end.as_secs())));
    ends.dedup();
    assert!(ends.len() > 10, "not random: {ends:?}");
    let wait = b"GET /wait?peer_id=2 HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(wait).await.unwrap();
    let reply = read_reply(&mut client).await;
    assert!(reply.ends_with("Content-Length: 1\r\n\r\n\n") || reply.ends_with("\r\n\r\n\n"));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_sooner_if_its_client_asks_for_that_and_not_later() {
    let list = peer_list();
    list.add_peer(Some("a"), signs_in(Dialect::Listed))
        .await
        .unwrap();
    let mut client = connect(&list, SignalOpts::default());
    let mut lasted = async |limit: &str| {
        let start = Instant::now();
        let wait = format!("GET /wait?peer_id=1&limit={limit} HTTP/1.1\r\nHost: x\r\n\r\n");
        client.write_all(wait.as_bytes()).await.unwrap();
        let reply = read_reply(&mut client).await;
        assert!(reply.ends_with("\r\n\r\na,1,1\n"), "{reply}");
        start.elapsed()
    };
    assert_eq!(lasted("1500").await, Duration::from_millis(1500));
    assert_eq!(lasted("0").await, Duration::ZERO);
    assert!(lasted("18446744073709551615").await <= Duration::from_secs(25));
}

#[tokio::test(start_paused = true)]
async fn a_wait_may_last_for_ever() {
    let list = peer_list();
    list.add_peer(Some("a"), signs_in(Dialect::Listed))
        .await
        .unwrap();
    let opts = SignalOpts {
        wait_timeout: None,
        ..SignalOpts::default()
    };
    let mut client = connect(&list, opts);
    let wait = b"GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(wait).await.unwrap();
    sleep(seconds(100_000)).await;
    list.add_peer(Some("b"), signs_in(Dialect::Listed))
        .await
        .unwrap();
    let reply = read_reply(&mut client).await;
    assert!(reply.ends_with("\r\n\r\nb,2,1\na,1,1\n"), "{reply}");
}

#[tokio::test(start_paused = true)]
async fn an_error_on_wait_is_answered_after_a_pause_but_a_removal_at_once() {
    let list = peer_list();
    let mut client = connect(&list, SignalOpts::default());
    for (query, status) in [("?peer_id=5", "404"), ("?peer_id=x", "400"), ("", "400")] {
        let start = Instant::now();
        let wait = format!("GET /wait{query} HTTP/1.1\r\nHost: x\r\n\r\n");
        client.write_all(wait.as_bytes()).await.unwrap();
        let reply = read_reply(&mut client).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
        assert_eq!(start.elapsed().as_secs(), 1);
    }
    let id = list
        .add_peer(Some("a"), signs_in(Dialect::Listed))
        .await
        .unwrap()
        .id;
    let wait = b"GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(wait).await.unwrap();
    sleep(seconds(5)).await;
    let start = Instant::now();
    list.remove_peer(id, crate::Reason::Kicked).await.unwrap();
    let reply = read_reply(&mut client).await;
    assert!(reply.starts_with("HTTP/1.1 404 "), "{reply}");
    assert!(start.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn a_slow_sender_has_a_minute_and_a_stalled_one_is_told_so() {
    let list = peer_list();
    list.add_peer(Some("a"), signs_in(Dialect::Listed))
        .await
        .unwrap();
    let post = b"POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n";
    let mut client = connect(&list, SignalOpts::default());
    client.write_all(post).await.unwrap();
    for byte in b"offer" {
        sleep(Duration::from_millis(11_900)).await;
        client.write_all(&[*byte]).await.unwrap();
    }
    assert!(read_reply(&mut client).await.starts_with("HTTP/1.1 200 "));
    let start = Instant::now();
    client.write_all(post).await.unwrap();
    client.write_all(b"off").await.unwrap();
    let reply = read_reply(&mut client).await;
    assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
    assert!(reply.contains("\r\nConnection: close\r\n"), "{reply}");
    assert_eq!(start.elapsed().as_secs(), 60);
    assert!(is_closed(&mut client).await);
}
