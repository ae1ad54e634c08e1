//! Sessions of Socket.IO that stall, or whose client is gone.

use super::*;

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
