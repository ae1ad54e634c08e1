//! The routes in a server of your own, for people who use the library without its default
//! features.

use std::{future::pending, process::Command, time::Duration};

use signal_http_heartbeat::{HeartbeatOpts, ServeOpts, router, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[tokio::test]
async fn peers_signal_through_the_routes_of_an_application() {
    let (signaling, peer_list) = router(HeartbeatOpts {
        timeout_period: Duration::from_secs(10),
        ..HeartbeatOpts::default()
    });
    let own = axum::routing::get(async || "hello");
    let app = axum::Router::new()
        .route("/own", own)
        .merge(signaling.clone())
        .nest("/below/{a}", signaling);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = serve(listener, app, peer_list, ServeOpts::default(), pending());
    let serving = tokio::spawn(serving);
    let ask = async |line: &str, body: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let length = body.len();
        let request = format!("{line} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        (head.to_owned(), body.to_owned())
    };
    assert_eq!(ask("GET /own", "").await.1, "hello");
    let (head, list) = ask("GET /sign_in?peer_name=a", "").await;
    assert_eq!(list, "a,1,1\n");
    assert!(
        head.contains("\r\nX-Heartbeat-Interval: 5000\r\n"),
        "{head}"
    );
    let (_, list) = ask("GET /sign_in?peer_name=b", "").await;
    assert!(list.starts_with("b,2,1\na,1,"), "{list}");
    // In rooms too, wherever the routes are.
    for room in ["/rooms/lobby", "/below/here/rooms/lobby"] {
        let (_, list) = ask(&format!("GET {room}/sign_in?peer_name=c"), "").await;
        assert!(list.starts_with("c,"), "{list}");
    }
    let (_, list) = ask("GET /below/here/rooms/lobby/sign_in?peer_name=d", "").await;
    assert_eq!(peer_ids(&list), ["3", "2", "1"]);
    ask("POST /message?peer_id=1&to=2", "an offer").await;
    assert_eq!(ask("GET /wait?peer_id=2", "").await.1, "an offer");
    serving.abort();
}

/// The ids in a list, newest peer first.
fn peer_ids(list: &str) -> Vec<&str> {
    let ids = list.lines().filter_map(|line| line.split(',').nth(1));
    ids.collect()
}

#[test]
fn the_routes_alone_need_neither_redis_nor_clap_nor_reqwest() {
    let tree = |features: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["tree", "--locked", "--edges=normal", "--prefix=none"]);
        let output = cargo.args(features).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let has = |tree: &str, name: &str| {
        tree.lines()
            .any(|line| line.split(' ').next() == Some(name))
    };
    let [all, alone] = [tree(&[]), tree(&["--no-default-features"])];
    for name in ["clap", "redis", "reqwest", "sha2", "tracing-subscriber"] {
        assert!(has(&all, name), "{name} is in no tree: is it called so?");
        assert!(!has(&alone, name), "{name}");
    }
}
