//! Which pages may use the server.

use super::*;

fn opts(enable_cors: Cors) -> SignalOpts {
    SignalOpts {
        enable_cors,
        ..SignalOpts::default()
    }
}

#[tokio::test]
async fn a_page_of_an_origin_that_is_not_listed_does_nothing() {
    let good = vec!["https://good.example".parse().unwrap()];
    let server = TestServer::with(HeartbeatOpts::default(), opts(Cors::Origins(good))).await;
    server.sign_in("a").await;
    let acts = [
        "GET /sign_in?peer_name=x",
        "GET /wait?peer_id=1",
        "POST /message?peer_id=1&to=1",
        "GET /heartbeat?peer_id=1",
        "GET /sign_out?peer_id=1",
        "POST /sign_out?peer_id=1",
        "PUT /capacity?peer_id=1&value=1",
        "GET /connections",
        "GET /socket.io/?EIO=4&transport=polling",
        "GET /ws",
    ];
    let pages = [
        "Origin: https://evil.example",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ];
    for act in acts {
        for page in pages {
            let request =
                format!("{act} HTTP/1.1\r\nHost: x\r\n{page}\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(server.request(request).await.status, 403, "{act}, {page}");
        }
    }
    assert_eq!(server.peer_count().await, 1);
    let good =
        "GET /heartbeat?peer_id=1 HTTP/1.1\r\nHost: x\r\nOrigin: https://good.example\r\n\r\n";
    assert_eq!(server.request(good).await.status, 200);
    // A script may be loaded by any page.
    let script = "GET /client.js HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: cross-site\r\n\r\n";
    let reply = server.request(script).await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("Cross-Origin-Resource-Policy"),
        Some("cross-origin")
    );
}

#[tokio::test]
async fn socket_ios_clients_are_answered_as_credentials_need_it() {
    let server = TestServer::start().await;
    let request = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nOrigin: https://a.example\r\n\r\n";
    let reply = server.request(request).await;
    let origin = reply.header("Access-Control-Allow-Origin");
    assert_eq!(origin, Some("https://a.example"));
    let credentials = reply.header("Access-Control-Allow-Credentials");
    assert_eq!(credentials, Some("true"));
    assert_eq!(reply.head.matches("Access-Control-Allow-Origin").count(), 1);
}

#[tokio::test]
async fn pages_of_every_origin_may_use_the_server() {
    let server = TestServer::start().await;
    let reply = server.request(PREFLIGHT).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("Access-Control-Allow-Origin"), Some("*"));
    assert_eq!(reply.header("Access-Control-Allow-Methods"), Some("POST"));
    let headers = reply.header("Access-Control-Allow-Headers");
    assert_eq!(headers, Some("authorization,peer-type"));
}

#[tokio::test]
async fn with_a_list_of_origins_only_those_are_allowed() {
    let origin = "https://a.example".parse().unwrap();
    let cors = Cors::Origins(vec![origin]);
    let server = TestServer::with(HeartbeatOpts::default(), opts(cors)).await;
    for target in ["/sign_in?peer_name=a", "/unknown", "/healthz"] {
        let request =
            |origin: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n\r\n");
        let reply = server.request(request("https://a.example")).await;
        let allowed = reply.header("Access-Control-Allow-Origin");
        assert_eq!(allowed, Some("https://a.example"));
        assert_eq!(reply.header("Vary").unwrap().to_lowercase(), "origin");
        let reply = server.request(request("https://b.example")).await;
        assert_eq!(reply.header("Access-Control-Allow-Origin"), None);
        assert_eq!(reply.header("Vary").unwrap().to_lowercase(), "origin");
    }
    assert_eq!(server.request(PREFLIGHT).await.status, 200);
}

#[tokio::test]
async fn without_cors_answers_have_no_cors_headers() {
    let server = TestServer::with(HeartbeatOpts::default(), opts(Cors::Off)).await;
    let reply = server.get("/sign_in?peer_name=a").await;
    assert!(!reply.head.contains("Access-Control"), "{}", reply.head);
    // Pages of other origins may do nothing here.
    assert_eq!(server.request(PREFLIGHT).await.status, 403);
}
