//! The binary as a person starts and stops it.

use std::{
    ffi::OsStr,
    net::SocketAddr,
    os::unix::ffi::OsStrExt,
    path::Path,
    process::{Output, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::support::{Client, within_patience};

const BINARY: &str = env!("CARGO_BIN_EXE_signal-http-heartbeat");

/// A process of a test, killed when it is dropped.
pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// A command whose settings are only those of the test.
fn command(program: &Path, args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn run(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let output = command(Path::new(BINARY), args, variables).output();
    within_patience(output).await.unwrap()
}

impl Process {
    pub fn start(program: &Path, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = command(program, args, variables).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        Self {
            child,
            lines: BufReader::new(stdout).lines(),
        }
    }

    /// The next line of its output that holds this text.
    pub async fn line_with(&mut self, text: &str) -> String {
        loop {
            let line = within_patience(self.lines.next_line()).await.unwrap();
            let line = line.expect("it ended");
            if line.contains(text) {
                return line;
            }
        }
    }

    async fn event(&mut self, message: &str) -> serde_json::Value {
        let line = self.line_with(&format!("\"message\":\"{message}")).await;
        serde_json::from_str(&line).unwrap()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        let mut kill = std::process::Command::new("kill");
        let sent = kill.args(["-s", name, &id]).status().unwrap();
        assert!(sent.success());
    }

    async fn exit_code(&mut self) -> Option<i32> {
        within_patience(self.child.wait()).await.unwrap().code()
    }
}

/// The server on a free port, and its address.
async fn start(args: &[&str], variables: &[(&str, &str)]) -> (Process, SocketAddr) {
    let variables = [&[("PORT", "0"), ("HOST", "127.0.0.1")], variables].concat();
    let mut server = Process::start(Path::new(BINARY), args, &variables);
    let ready = server.event("ready").await;
    let address = ready["address"].as_str().unwrap().parse().unwrap();
    (server, address)
}

#[tokio::test]
async fn it_says_that_it_is_ready_and_with_which_settings() {
    let variables = [
        ("WEBRTC_HEARTBEAT_MS", "7000"),
        ("WEBRTC_HEARTBEAT_GC_MS", ""),
    ];
    let variables = [&variables[..], &[("PORT", "0")]].concat();
    let mut server = Process::start(Path::new(BINARY), &["--wait-ms", "5000"], &variables);
    let ready = server.event("ready").await;
    assert_eq!(ready["heartbeat_ms"], 7000);
    assert_eq!(ready["heartbeat_gc_ms"], 15000);
    assert_eq!(ready["wait_ms"], 5000);
    let address: SocketAddr = ready["address"].as_str().unwrap().parse().unwrap();
    for host in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(host.parse().unwrap(), address.port());
        if host == "::1" && std::net::TcpListener::bind("[::1]:0").is_err() {
            continue; // This machine has no IPv6.
        }
        assert_eq!(
            Client::connect(address).await.get("/healthz").await.status,
            200
        );
    }
}

#[tokio::test]
async fn the_flag_wins_over_the_variable() {
    let variables = [("WEBRTC_MAX_PEERS", "0"), ("WEBRTC_WAIT_MS", "nonsense")];
    let flags = ["--max-peers", "1", "--wait-ms=0"];
    let (_server, address) = start(&flags, &variables).await;
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("/sign_in?peer_name=a").await.status, 200);
    assert_eq!(client.get("/sign_in?peer_name=b").await.status, 503);
}

async fn stops_on(signal: &str) {
    let (mut server, address) = start(&[], &[]).await;
    let mut client = Client::connect(address).await;
    client.get("/sign_in?peer_name=a").await;
    let both = "GET /heartbeat?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\nGET /wait?peer_id=1 HTTP/1.1\r\nHost: x\r\n\r\n";
    client.request(both).await;
    server.signal(signal);
    let end = client.reply().await;
    assert_eq!((end.status, end.text()), (200, "a,1,1\n"));
    assert_eq!(end.header("Connection"), Some("close"));
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn sigterm_answers_the_open_waits_and_ends_with_0() {
    stops_on("TERM").await;
}

#[tokio::test]
async fn sigint_answers_the_open_waits_and_ends_with_0() {
    stops_on("INT").await;
}

/// A client that never ends its message.
async fn stalled_client(address: SocketAddr) -> Client {
    let mut stalled = Client::connect(address).await;
    stalled.get("/sign_in?peer_name=a").await;
    let half = "POST /message?peer_id=1&to=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf";
    stalled.send(half).await;
    stalled
}

#[tokio::test]
async fn what_cannot_be_answered_does_not_hold_up_the_stop_for_ever() {
    let (mut server, address) = start(&[], &[]).await;
    let _stalled = stalled_client(address).await;
    server.signal("TERM");
    assert_eq!(server.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (mut server, address) = start(&[], &[]).await;
    let _stalled = stalled_client(address).await;
    server.signal("TERM");
    server.line_with("stopping").await;
    server.signal("TERM");
    assert_eq!(server.exit_code().await, Some(128 + 15));
}

#[tokio::test]
async fn a_setting_that_cannot_be_used_is_one_line_and_status_2() {
    let output = run(&[], &[("PORT", "http")]).await;
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "signal-http-heartbeat: PORT (--port) is not valid: expected a port number from 0 \
         to 65535, or off, got \"http\"\n"
    );
    let output = run(&["--port"], &[]).await;
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "signal-http-heartbeat: --port has no value; --help shows what to give\n"
    );
    let mut not_utf8 = command(Path::new(BINARY), &[], &[]);
    not_utf8.env("HOST", OsStr::from_bytes(b"\xff"));
    let output = within_patience(not_utf8.output()).await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "signal-http-heartbeat: HOST is not valid UTF-8: \"\\xFF\"\n"
    );
    let output = run(&["--unknown"], &[]).await;
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(output.stderr.iter().filter(|b| **b == b'\n').count(), 1);
}

#[tokio::test]
async fn a_port_that_is_taken_is_one_line_and_status_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run(&[], &[("PORT", &port), ("HOST", "127.0.0.1")]).await;
    assert_eq!(output.status.code(), Some(1));
    let line = format!(
        "signal-http-heartbeat: cannot listen on port {port}: another program uses it; stop that \
         one, or set PORT to another port\n"
    );
    assert_eq!(String::from_utf8(output.stderr).unwrap(), line);
}

#[tokio::test]
async fn help_names_each_variable_and_its_default_and_version_the_version() {
    let output = run(&["--help"], &[]).await;
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    let settings = [
        ("--port <PORT>", "PORT", "3000"),
        ("--heartbeat-ms <MS>", "WEBRTC_HEARTBEAT_MS", "30000"),
        ("--heartbeat-gc-ms <MS>", "WEBRTC_HEARTBEAT_GC_MS", "15000"),
        (
            "--heartbeat-any-request <BOOL>",
            "WEBRTC_HEARTBEAT_ANY_REQUEST",
            "false",
        ),
        ("--signal-logging <BOOL>", "WEBRTC_SIGNAL_LOGGING", "true"),
        ("--cors <ORIGINS>", "WEBRTC_CORS", "true"),
        ("--wait-ms <MS>", "WEBRTC_WAIT_MS", "25000"),
        (
            "--max-message-bytes <BYTES>",
            "WEBRTC_MAX_MESSAGE_BYTES",
            "524288",
        ),
        (
            "--max-pending-bytes <BYTES>",
            "WEBRTC_MAX_PENDING_BYTES",
            "2097152",
        ),
        ("--max-peers <PEERS>", "WEBRTC_MAX_PEERS", "100000"),
        ("--log-format <FORMAT>", "WEBRTC_LOG_FORMAT", "auto"),
    ];
    for (flag, variable, default) in settings {
        let after = help.split(flag).nth(1).expect(flag);
        let after = &after[..after.find("\n      --").unwrap_or(after.len())];
        // It is wrapped.
        let after = after.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            after.contains(&format!("[env: {variable}=]")),
            "{flag}: {after}"
        );
        assert!(
            after.contains(&format!("[default: {default}]")),
            "{flag}: {after}"
        );
    }
    assert!(help.contains("[env: WEBRTC_HOST=]"));
    let output = run(&["--version"], &[]).await;
    let version = format!("signal-http-heartbeat {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), version);
}

#[tokio::test]
async fn the_healthcheck_asks_the_server_on_its_port() {
    let (_server, address) = start(&[], &[]).await;
    let port = address.port().to_string();
    let output = run(&["healthcheck"], &[("PORT", &port)]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    let closes = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closes.local_addr().unwrap().port().to_string();
    let accept = tokio::spawn(async move { drop(closes.accept().await) });
    let output = run(&["healthcheck", "--port", &port], &[]).await;
    accept.await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains(&format!("127.0.0.1:{port}")), "{line}");
    assert_eq!(line.lines().count(), 1);
}

#[tokio::test]
async fn the_log_tells_which_peers_came_and_went_and_why_and_names_cannot_forge_it() {
    let variables = [
        ("WEBRTC_HEARTBEAT_MS", "100"),
        ("WEBRTC_HEARTBEAT_GC_MS", "10"),
    ];
    let (mut server, address) = start(&[], &variables).await;
    let mut client = Client::connect(address).await;
    client
        .get("/sign_in?peer_name=%22%7D%0A%7B%22level%22%3A%22ERROR%E2%80%A8")
        .await;
    let signed_in = server.event("peer signed in").await;
    assert_eq!(signed_in["level"], "INFO");
    assert_eq!(signed_in["peer_id"], 1);
    assert_eq!(signed_in["name"], "\"}_{\"level\":\"ERROR_");
    assert_eq!(signed_in["door"], "http");
    assert_eq!(signed_in["address"], "127.0.0.1");
    client.get("/sign_out?peer_id=1").await;
    let removed = server.event("peer removed").await;
    assert_eq!(removed.get("why"), None);
    assert_eq!(
        (&removed["peer_id"], &removed["reason"]),
        (&1.into(), &"signed_out".into())
    );
    client.get("/sign_in?peer_name=b").await;
    client.get("/heartbeat?peer_id=2").await;
    let removed = server.event("peer removed").await;
    assert_eq!(removed["reason"], "timed_out");
    assert_eq!(removed["why"], "no heartbeat within the timeout");
    client.get("/sign_in?peer_name=c").await;
    let removed = server.event("peer removed").await;
    assert_eq!(removed["why"], "no request within the timeout");
}

#[tokio::test]
async fn without_logging_it_says_no_more_than_where_it_is() {
    // It does not say where it listens, so it is told, on an address of the
    // loopback network that no other test uses.
    let process = std::process::id().to_be_bytes();
    let host = std::net::Ipv4Addr::new(127, process[1] | 1, process[2], process[3] | 1);
    let free = std::net::TcpListener::bind((host, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let (host, port) = (host.to_string(), address.port().to_string());
    let variables = [
        ("HOST", &*host),
        ("PORT", &port),
        ("WEBRTC_SIGNAL_LOGGING", "false"),
    ];
    let mut server = Process::start(Path::new(BINARY), &[], &variables);
    crate::support::until(async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
    let mut client = Client::connect(address).await;
    client.get("/sign_in?peer_name=a").await;
    server.signal("TERM");
    assert_eq!(server.exit_code().await, Some(0));
    let ready = server.lines.next_line().await.unwrap().unwrap();
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    assert_eq!(ready["message"], "ready");
    assert_eq!(ready["address"], address.to_string());
    assert_eq!(ready["url"], format!("http://{address}"));
    assert_eq!(ready["doors"], "http,websocket,socketio");
    assert_eq!(server.lines.next_line().await.unwrap(), None);
}

#[tokio::test]
async fn a_refused_request_can_be_seen_in_the_log_with_its_connection_and_peer() {
    let variables = [("WEBRTC_LOG", "debug"), ("WEBRTC_LOG_FORMAT", "json")];
    let (mut server, address) = start(&[], &variables).await;
    let mut client = Client::connect(address).await;
    client.get("/sign_in?peer_name=a").await;
    assert_eq!(client.get("/heartbeat?peer_id=7").await.status, 404);
    let refused = server.event("request refused").await;
    assert_eq!(refused["status"], 404);
    let connection = &refused["span"];
    assert_eq!(connection["name"], "connection");
    assert_eq!(connection["peer_id"], 7);
    let from = connection["address"].as_str().unwrap();
    assert!(from.starts_with("127.0.0.1:"), "{from}");
}

#[tokio::test]
async fn the_log_is_text_where_that_is_set() {
    let variables = [("PORT", "0"), ("WEBRTC_LOG_FORMAT", "text")];
    let mut server = Process::start(Path::new(BINARY), &[], &variables);
    let ready = server.line_with("ready").await;
    assert!(ready.contains(" INFO ready version="), "{ready}");
}

#[tokio::test]
async fn a_log_that_is_not_read_stops_neither_the_server_nor_its_stop() {
    let (mut server, address) = start(&[], &[]).await;
    let mut client = Client::connect(address).await;
    // Some ten times as much log as a pipe holds.
    for _ in 0..1000 {
        let sign_in = format!("/sign_in?peer_name={}", "x".repeat(512));
        assert_eq!(client.get(&sign_in).await.status, 200);
    }
    server.signal("TERM");
    assert_eq!(server.exit_code().await, Some(0));
}
