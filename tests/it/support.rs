//! A server on a free port, and a client that speaks raw bytes.

use std::{
    env,
    fmt::Write as _,
    future::Future,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::future::join_all;
use signal_http_heartbeat::{
    HeartbeatOpts, SignalOpts, TimeoutPeerList,
    peer_list::ClusterOpts,
    serve,
    server::{AppOpts, Host, ServeOpts, app, listen},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// No step of a test takes this long, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many nodes a server has: with more than one, the list is in Redis.
fn nodes() -> usize {
    env::var("NODES").map_or(1, |nodes| nodes.parse().unwrap())
}

/// A Redis of its own for one test. It ends when it is dropped.
struct Redis {
    process: Child,
    port: u16,
}

impl Redis {
    fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let server = std::env::var("REDIS_SERVER");
        let process = Command::new(server.as_deref().unwrap_or("redis-server"))
            .args(["--bind", "127.0.0.1", "--save", "", "--port"])
            .arg(port.to_string())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is missing: make install");
        Self { process, port }
    }

    async fn peer_list(&self, opts: HeartbeatOpts) -> TimeoutPeerList {
        let cluster = ClusterOpts {
            url: format!("redis://127.0.0.1:{}", self.port).into(),
            prefix: "signal".to_owned(),
            ca: None,
            identity: None,
            shards: NonZeroUsize::new(3).unwrap(),
        };
        TimeoutPeerList::connect(opts, &cluster).await.unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A server of its own for one test. It ends when it is dropped. Where it has
/// many nodes, each connection is to one of them, at random.
pub struct TestServer {
    nodes: Vec<Node>,
    _redis: Option<Redis>,
}

struct Node {
    address: SocketAddr,
    peer_list: TimeoutPeerList,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

impl Node {
    fn start(peer_list: TimeoutPeerList, signal: SignalOpts) -> Self {
        let listener = listen(Host::find("127.0.0.1"), 0).unwrap();
        let address = listener.local_addr().unwrap();
        let opts = AppOpts {
            signal,
            ..AppOpts::default()
        };
        let app = app(peer_list.clone(), opts);
        let (stop, stopped) = oneshot::channel::<()>();
        let list = peer_list.clone();
        let served = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            serve(listener, app, list, ServeOpts::default(), stopped).await;
        });
        Self {
            address,
            peer_list,
            stop: Some(stop),
            served,
        }
    }
}

impl TestServer {
    pub async fn start() -> Self {
        Self::with(HeartbeatOpts::default(), SignalOpts::default()).await
    }

    pub async fn with(heartbeat: HeartbeatOpts, signal: SignalOpts) -> Self {
        if nodes() == 1 {
            return Self::alone(heartbeat, signal);
        }
        let redis = Redis::start();
        let lists = join_all((0..nodes()).map(|_| redis.peer_list(heartbeat.clone()))).await;
        let nodes = lists.into_iter();
        Self {
            nodes: nodes
                .map(|list| Node::start(list, signal.clone()))
                .collect(),
            _redis: Some(redis),
        }
    }

    /// A server of one process, for what is about that, or about its time.
    pub fn alone(heartbeat: HeartbeatOpts, signal: SignalOpts) -> Self {
        Self {
            nodes: vec![Node::start(TimeoutPeerList::new(heartbeat), signal)],
            _redis: None,
        }
    }

    /// Where one of its nodes is.
    pub fn address(&self) -> SocketAddr {
        self.nodes[fastrand::usize(..self.nodes.len())].address
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.address()).await
    }

    /// One request on a connection of its own.
    pub async fn request(&self, request: impl AsRef<[u8]>) -> Reply {
        self.connect().await.request(request).await
    }

    pub async fn get(&self, target: &str) -> Reply {
        self.request(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await
    }

    pub async fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Reply {
        self.request(post(target, body)).await
    }

    /// Signs a peer in on a connection of its own, which is then closed.
    pub async fn sign_in(&self, name: &str) -> u32 {
        let reply = self.get(&format!("/sign_in?peer_name={name}")).await;
        assert_eq!(reply.status, 200, "{}", reply.head);
        reply.header("Pragma").unwrap().parse().unwrap()
    }

    /// The list as it is now.
    pub async fn list(&self) -> String {
        let infos = self.nodes[0].peer_list.peer_infos().await.unwrap();
        let mut list = String::new();
        for info in infos.iter().rev() {
            let status = u8::from(info.connected);
            writeln!(list, "{},{},{status}", info.name, info.id.get()).unwrap();
        }
        list
    }

    pub async fn peer_count(&self) -> usize {
        self.list().await.lines().count()
    }

    /// Waits until the list is this one.
    pub async fn list_becomes(&self, list: &str) {
        until(async || self.list().await == list).await;
    }

    /// The server still does its work.
    pub async fn is_well(&self) {
        assert_eq!(self.get("/healthz").await.body, b"ok");
    }

    /// Tells the server to stop; ready when it has.
    pub fn stop(&mut self) -> impl Future<Output = ()> + use<> {
        let stopped: Vec<_> = self
            .nodes
            .iter_mut()
            .map(|node| {
                drop(node.stop.take());
                std::mem::replace(&mut node.served, tokio::spawn(async {}))
            })
            .collect();
        async {
            for served in within_patience(join_all(stopped)).await {
                served.unwrap();
            }
        }
    }
}

pub fn post(target: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Polls a condition until it holds.
pub async fn until(mut holds: impl AsyncFnMut() -> bool) {
    within_patience(async {
        while !holds().await {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

pub async fn within_patience<T>(step: impl Future<Output = T>) -> T {
    timeout(PATIENCE, step).await.expect("it never happened")
}

/// A connection that sends and reads bytes as they are.
pub struct Client {
    pub stream: TcpStream,
    read: Vec<u8>,
}

/// An HTTP response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Status line and headers, each with its line end.
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    /// The value of a header, which must be written exactly so.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.split("\r\n").skip(1);
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within_patience(TcpStream::connect(address)).await.unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let send = self.stream.write_all(bytes.as_ref());
        within_patience(send).await.unwrap();
    }

    pub async fn request(&mut self, request: impl AsRef<[u8]>) -> Reply {
        self.send(request).await;
        self.reply().await
    }

    pub async fn get(&mut self, target: &str) -> Reply {
        self.request(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await
    }

    /// Reads one response. It must have a Content-Length, in Title-Case.
    pub async fn reply(&mut self) -> Reply {
        let mut reply = self.head().await;
        let length = reply.header("Content-Length");
        let length: usize = length.expect(&reply.head).parse().unwrap();
        while self.read.len() < length {
            assert!(self.read_more().await, "closed in the middle of a body");
        }
        reply.body = self.read.drain(..length).collect();
        reply
    }

    /// Reads one response without its body.
    pub async fn head(&mut self) -> Reply {
        let head_end = loop {
            let end = self.read.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            assert!(self.read_more().await, "closed after {:?}", self.read);
        };
        let head: Vec<u8> = self.read.drain(..head_end).collect();
        let mut reply = Reply {
            status: 0,
            head: String::from_utf8(head).unwrap(),
            body: Vec::new(),
        };
        let status = reply.head.split(' ').nth(1).unwrap();
        reply.status = status.parse().unwrap();
        reply
    }

    /// Whether the server has closed the connection, with nothing more said.
    pub async fn is_closed(&mut self) -> bool {
        self.read.is_empty() && !self.read_more().await
    }

    /// False at the end of the stream.
    async fn read_more(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.read);
        within_patience(read).await.is_ok_and(|read| read > 0)
    }
}
