//! Waits whose client sends more, reads slowly or hangs up, and how answers are written.

use axum::body::{Bytes, HttpBody};
use hyper::body::Frame;

use super::*;

const WAIT: &[u8] = b"GET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_hang_up_behind_a_pipelined_request_ends_the_wait() {
    let list = peer_list();
    let id = list
        .add_peer(Some("a"), signs_in(Dialect::Listed))
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
        .add_peer(Some("a"), signs_in(Dialect::Listed))
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
        .add_peer(Some("a"), signs_in(Dialect::Listed))
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
        .add_peer(Some("a"), signs_in(Dialect::Listed))
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
        .add_peer(Some("a"), signs_in(Dialect::Listed))
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
        .add_peer(Some("a"), signs_in(Dialect::Listed))
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
    let open = Open::alone();
    tokio::spawn(serve(
        stream,
        None,
        app,
        CancellationToken::new(),
        IDLE,
        open,
    ));
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
