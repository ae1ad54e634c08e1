//! What a connection does when time passes: over a stream in memory, with a
//! paused clock that jumps from timer to timer.

use std::{io, sync::Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    time::sleep,
};
use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    doors::http::SignalOpts,
    peer_list::{Dialect, HeartbeatOpts, SendOpts, TimeoutPeerList, WayIn},
    server::{AppOpts, app},
};

/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(75);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn way(dialect: Dialect) -> WayIn {
    WayIn {
        door: "http",
        dialect,
        protected: false,
    }
}

/// A list on which nobody times out.
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
    let open = TaskTracker::new().token();
    tokio::spawn(serve(stream, app, CancellationToken::new(), IDLE, open));
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

/// A Socket.IO client that polls: its id, after the handshake.
async fn handshake(client: &mut DuplexStream) -> String {
    let get = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(get).await.unwrap();
    let reply = read_reply(client).await;
    let (_, id) = reply.split_once("\"sid\":\"").unwrap();
    id.split('"').next().unwrap().to_owned()
}

/// One of its requests.
async fn transport(client: &mut DuplexStream, id: &str, packets: Option<&str>) -> String {
    let (method, body) = match packets {
        Some(packets) => ("POST", packets),
        None => ("GET", ""),
    };
    let length = body.len();
    let request = format!(
        "{method} /socket.io/?EIO=4&transport=polling&sid={id} HTTP/1.1\r\nHost: x\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    read_reply(client).await
}

#[tokio::test(start_paused = true)]
async fn a_socket_io_session_that_does_not_connect_ends_after_ten_seconds() {
    let list = peer_list();
    let mut client = connect(&list, SignalOpts::default());
    let id = handshake(&mut client).await;
    let start = Instant::now();
    let end = transport(&mut client, &id, None).await;
    assert!(end.ends_with("\r\n\r\n6"), "{end}");
    assert_eq!(start.elapsed().as_secs(), 10);
    let gone = transport(&mut client, &id, None).await;
    assert!(gone.starts_with("HTTP/1.1 400 "), "{gone}");
    assert!(gone.contains("Session ID unknown"), "{gone}");
}

#[tokio::test(start_paused = true)]
async fn a_socket_io_post_that_stalls_is_told_so_after_a_minute() {
    let mut client = connect(&peer_list(), SignalOpts::default());
    let id = handshake(&mut client).await;
    // A session that is connected lives as long as it answers pings.
    assert!(
        transport(&mut client, &id, Some("40"))
            .await
            .ends_with("ok")
    );
    let post = format!(
        "POST /socket.io/?EIO=4&transport=polling&sid={id} HTTP/1.1\r\nHost: x\r\n\
         Content-Length: 5\r\n\r\n42"
    );
    let start = Instant::now();
    client.write_all(post.as_bytes()).await.unwrap();
    let reply = read_reply(&mut client).await;
    assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
    assert_eq!(start.elapsed().as_secs(), 60);
    assert!(is_closed(&mut client).await);
}

#[tokio::test(start_paused = true)]
async fn a_socket_io_client_that_polls_no_more_and_has_hung_up_is_gone_in_seconds() {
    let list = peer_list();
    let app = app(list.clone(), AppOpts::default());
    let mut client = connect_to(app, 1 << 20);
    let id = handshake(&mut client).await;
    for packets in ["40", "42[\"ready\",\"a\"]"] {
        transport(&mut client, &id, Some(packets)).await;
        transport(&mut client, &id, None).await;
    }
    assert_eq!(list.format(), "a,1,1\n");
    // No poll is open, and the connection is closed.
    drop(client);
    sleep(seconds(4)).await;
    assert_eq!(list.format(), "a,1,1\n");
    sleep(seconds(4)).await;
    assert_eq!(list.format(), "");
}

#[tokio::test(start_paused = true)]
async fn a_socket_io_client_that_hangs_up_in_the_middle_of_a_poll_is_gone_at_once() {
    let list = peer_list();
    let mut client = connect(&list, SignalOpts::default());
    let id = handshake(&mut client).await;
    for packets in ["40", "42[\"ready\",\"a\"]"] {
        transport(&mut client, &id, Some(packets)).await;
        transport(&mut client, &id, None).await;
    }
    let poll =
        format!("GET /socket.io/?EIO=4&transport=polling&sid={id} HTTP/1.1\r\nHost: x\r\n\r\n");
    client.write_all(poll.as_bytes()).await.unwrap();
    sleep(seconds(1)).await;
    assert_eq!(list.format(), "a,1,1\n");
    drop(client);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(list.format(), "");
}

#[tokio::test(start_paused = true)]
async fn line_ends_between_requests_are_nothing() {
    let list = peer_list();
    list.add_peer(Some("a"), way(Dialect::Listed))
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
    list.add_peer(Some("a"), way(Dialect::Listed))
        .await
        .unwrap();
    list.add_peer(Some("b"), way(Dialect::Bare)).await.unwrap();
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
    list.add_peer(Some("a"), way(Dialect::Listed))
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
    list.add_peer(Some("a"), way(Dialect::Listed))
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
    list.add_peer(Some("b"), way(Dialect::Listed))
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
        .add_peer(Some("a"), way(Dialect::Listed))
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
    list.add_peer(Some("a"), way(Dialect::Listed))
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

const WAIT: &[u8] = b"GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_hang_up_behind_a_pipelined_request_ends_the_wait() {
    let list = peer_list();
    let id = list
        .add_peer(Some("a"), way(Dialect::Listed))
        .await
        .unwrap()
        .id;
    let mut client = connect(&list, SignalOpts::default());
    client.write_all(WAIT).await.unwrap();
    sleep(seconds(5)).await;
    assert_eq!(list.format(), "a,1,1\n");
    client.write_all(b"GET /heartbeat?pe").await.unwrap();
    drop(client);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(list.format(), "a,1,0\n");
    list.send(id, id, "kept".into(), SendOpts::default())
        .await
        .unwrap();
    let mut client = connect(&list, SignalOpts::default());
    client.write_all(WAIT).await.unwrap();
    assert!(read_reply(&mut client).await.ends_with("kept"));
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_behind_a_parked_wait_is_read_within_a_bound_and_all_answered() {
    const REQUESTS: usize = 2000;
    const IN_FLIGHT: usize = 1024;
    let list = peer_list();
    let id = list
        .add_peer(Some("a"), way(Dialect::Listed))
        .await
        .unwrap()
        .id;
    let app = app(list.clone(), AppOpts::default());
    let mut client = connect_to(app, IN_FLIGHT);
    let request = b"GET /heartbeat?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n";
    client.write_all(WAIT).await.unwrap();
    sleep(seconds(1)).await;
    let (mut replies, mut requests) = tokio::io::split(client);
    let sent = Arc::new(Mutex::new(0));
    let count = sent.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..REQUESTS {
            requests.write_all(request).await.unwrap();
            *count.lock().unwrap() += request.len();
        }
        let last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        requests.write_all(last).await.unwrap();
        requests
    });
    sleep(seconds(1)).await;
    assert!(*sent.lock().unwrap() < 16 * 1024, "read without bound");
    list.send(id, id, "news".into(), SendOpts::default())
        .await
        .unwrap();
    let mut read = String::new();
    replies.read_to_string(&mut read).await.unwrap();
    drop(sending.await.unwrap());
    let answers: Vec<&str> = read.split("HTTP/1.1 200 OK").skip(1).collect();
    assert_eq!(answers.len(), REQUESTS + 2);
    assert!(answers[0].ends_with("\r\n\r\nnews"));
    assert!(answers[REQUESTS + 1].ends_with("\r\n\r\nok"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_gets_every_byte_and_its_next_request_too() {
    let list = peer_list();
    let id = list
        .add_peer(Some("a"), way(Dialect::Listed))
        .await
        .unwrap()
        .id;
    let app = app(list.clone(), AppOpts::default());
    let mut client = connect_to(app, 100);
    client.write_all(WAIT).await.unwrap();
    sleep(seconds(1)).await;
    let large = "m".repeat(100_000);
    list.send(id, id, large.clone().into(), SendOpts::default())
        .await
        .unwrap();
    list.send(id, id, "next".into(), SendOpts::default())
        .await
        .unwrap();
    sleep(seconds(1)).await;
    client.write_all(WAIT).await.unwrap();
    let mut read = Vec::new();
    while !read.ends_with(b"next") {
        assert!(client.read_buf(&mut read).await.unwrap() > 0);
        sleep(Duration::from_millis(10)).await;
    }
    assert!(String::from_utf8(read).unwrap().contains(&large));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_for_half_a_minute_is_given_up() {
    let list = peer_list();
    let id = list
        .add_peer(Some("a"), way(Dialect::Listed))
        .await
        .unwrap()
        .id;
    let mut client = connect_to(app(list.clone(), AppOpts::default()), 100);
    list.send(id, id, vec![b'm'; 100_000].into(), SendOpts::default())
        .await
        .unwrap();
    client.write_all(WAIT).await.unwrap();
    let mut some = [0; 100];
    for _ in 0..3 {
        sleep(seconds(29)).await;
        client.read_exact(&mut some).await.unwrap();
    }
    sleep(seconds(31)).await;
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() <= some.len(), "{} bytes more", rest.len());
}

#[tokio::test(start_paused = true)]
async fn a_wait_with_a_body_is_answered_and_its_connection_closed() {
    let list = peer_list();
    let id = list
        .add_peer(Some("a"), way(Dialect::Listed))
        .await
        .unwrap()
        .id;
    let mut client = connect(&list, SignalOpts::default());
    let wait = b"GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody";
    client.write_all(wait).await.unwrap();
    sleep(seconds(1)).await;
    list.send(id, id, "news".into(), SendOpts::default())
        .await
        .unwrap();
    let reply = read_reply(&mut client).await;
    assert!(reply.contains("\r\nConnection: close\r\n"), "{reply}");
    assert!(reply.ends_with("\r\n\r\nnews"), "{reply}");
    assert!(is_closed(&mut client).await);
}

/// A body that comes in two halves, with a pause between them.
struct Halting(Vec<&'static str>, Pin<Box<Sleep>>);

impl HttpBody for Halting {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::ready!(self.1.as_mut().poll(cx));
        self.1.as_mut().reset(Instant::now() + seconds(100));
        Poll::Ready(self.0.pop().map(|half| Ok(Frame::data(half.into()))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_that_pauses_is_not_taken_for_the_end_of_it() {
    let route = axum::routing::get(async || {
        Body::new(Halting(
            vec!["half two", "half one"],
            Box::pin(sleep(seconds(100))),
        ))
    });
    let mut client = connect_to(Router::new().route("/halting", route), 1 << 20);
    for _ in 0..2 {
        let request = b"GET /halting HTTP/1.1\r\nHost: x\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"0\r\n\r\n") {
            assert!(client.read_buf(&mut read).await.unwrap() > 0);
        }
        let text = String::from_utf8(read).unwrap();
        assert!(text.contains("half one") && text.contains("half two"));
    }
}

/// Notes the length of each write to the stream.
struct Recorded {
    stream: DuplexStream,
    writes: Arc<Mutex<Vec<usize>>>,
}

impl AsyncRead for Recorded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.writes.lock().unwrap().push(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
        self.poll_write(cx, &all)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn the_head_and_the_body_of_a_reply_leave_in_one_write() {
    let list = peer_list();
    let id = list
        .add_peer(Some("a"), way(Dialect::Listed))
        .await
        .unwrap()
        .id;
    let (mut client, stream) = duplex(1 << 20);
    let writes = Arc::new(Mutex::new(Vec::new()));
    let stream = Recorded {
        stream,
        writes: writes.clone(),
    };
    let app = app(list.clone(), AppOpts::default());
    let open = TaskTracker::new().token();
    tokio::spawn(serve(stream, app, CancellationToken::new(), IDLE, open));
    let mut expected = Vec::new();
    for size in [1, 300, 70_000, 500_000] {
        list.send(id, id, vec![b'm'; size].into(), SendOpts::default())
            .await
            .unwrap();
        let wait = b"GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n";
        client.write_all(wait).await.unwrap();
        expected.push(read_reply(&mut client).await.len());
    }
    assert_eq!(*writes.lock().unwrap(), expected);
}
