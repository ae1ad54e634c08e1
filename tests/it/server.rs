//! The server as a value: bound, run and stopped by another program.

use std::net::Ipv4Addr;

use signal_http_heartbeat::{
    PeerEvent, Reason,
    server::{BindError, Host, OperatorOpts, Server, ServerOpts},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};

fn opts(port: u16) -> ServerOpts {
    ServerOpts {
        host: Host::find("127.0.0.1"),
        port: Some(port),
        ..ServerOpts::default()
    }
}

async fn ask(port: u16, target: &str) -> String {
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    let request = format!("GET {target} HTTP/1.0\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_bound_server_answers_when_it_runs_and_ends_when_it_is_told_to() {
    let operator = OperatorOpts {
        address: ([127, 0, 0, 1], 0).into(),
        token: None,
    };
    let server = Server::bind(ServerOpts {
        operator: Some(operator),
        ..opts(0)
    });
    let server = server.await.unwrap();
    let port = server.local_addr().unwrap().port();
    let operator = server.operator_addr().unwrap().port();
    let mut events = server.peer_list().subscribe(None).await;
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run(async { drop(stopped.await) }));

    assert!(
        ask(port, "/sign_in?peer_name=alice")
            .await
            .ends_with("alice,1,1\n")
    );
    assert!(
        ask(operator, "/peers/1")
            .await
            .contains(r#""name":"alice""#)
    );
    let (_, PeerEvent::PeerAdded(_)) = events.next().await.unwrap() else {
        panic!("it did not sign in");
    };
    stop.send(()).unwrap();
    running.await.unwrap();
    let (_, PeerEvent::PeerRemoved { reason, .. }) = events.next().await.unwrap() else {
        panic!("it was not removed");
    };
    assert_eq!(reason, Reason::Shutdown);
}

#[tokio::test]
async fn a_server_that_cannot_listen_says_where_and_what_to_do() {
    let first = Server::bind(opts(0)).await.unwrap();
    let port = first.local_addr().unwrap().port();
    let second = Server::bind(opts(port)).await.unwrap_err();
    assert!(matches!(second, BindError::Listen { .. }));
    assert_eq!(
        second.to_string(),
        format!(
            "cannot listen on port {port}: another program uses it; stop that one, or set PORT to \
             another port"
        )
    );
    let elsewhere = ServerOpts {
        // Of the range that is for documentation only.
        host: Host::find("192.0.2.1"),
        ..opts(0)
    };
    let text = Server::bind(elsewhere).await.unwrap_err().to_string();
    assert!(
        text.contains("WEBRTC_HOST (--host, HOST) is not an address"),
        "{text}"
    );
}
