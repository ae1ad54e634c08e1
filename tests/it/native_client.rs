//! A small `peerconnection_client`, written to break exactly as the stock one
//! does: it searches headers by case, waits for ever for a reply without a
//! Content-Length, reads one line of an update, and takes any status but 200
//! for the end.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{TestServer, within_patience};

/// What the client tells its user.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    SignedIn,
    PeerConnected(i32, String),
    PeerDisconnected(i32),
    Message(i32, Vec<u8>),
    Disconnected,
}

/// One of the client's two channels: a connection for each request, and a
/// buffer that is only cleared when a whole reply was understood.
#[derive(Default)]
struct Channel {
    stream: Option<TcpStream>,
    data: Vec<u8>,
}

struct Response {
    status: i32,
    pragma: i32,
    body: Vec<u8>,
}

impl Channel {
    async fn send(&mut self, server: SocketAddr, request: &[u8]) {
        assert!(self.stream.is_none(), "the channel is in use");
        let mut stream = TcpStream::connect(server).await.unwrap();
        stream.write_all(request).await.unwrap();
        self.stream = Some(stream);
    }

    /// Reads until the reply is whole, as the client understands it.
    async fn response(&mut self) -> Response {
        let mut stream = self.stream.take().expect("nothing was asked");
        let length = loop {
            let read = within_patience(stream.read_buf(&mut self.data)).await;
            assert!(
                read.unwrap() > 0,
                "closed before a whole reply, the buffer is poisoned: {:?}",
                String::from_utf8_lossy(&self.data)
            );
            if let Some(length) = self.whole() {
                break length;
            }
        };
        let connection = self.header("\r\nConnection: ");
        // Only on this word does the client close and use the channel again.
        assert_eq!(connection.as_deref(), Some("close"));
        let head = self.head_end().unwrap();
        let data = std::mem::take(&mut self.data);
        let text = String::from_utf8_lossy(&data[..head]).into_owned();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        let pragma = text.split("\r\nPragma: ").nth(1).map_or(-1, atoi);
        Response {
            status,
            pragma,
            body: data[head..head + length].to_vec(),
        }
    }

    fn head_end(&self) -> Option<usize> {
        let end = self.data.windows(4).position(|four| four == b"\r\n\r\n")?;
        Some(end + 4)
    }

    fn whole(&self) -> Option<usize> {
        let head = self.head_end()?;
        let length = atoi(&self.header("\r\nContent-Length: ")?);
        let length = usize::try_from(length).unwrap();
        (self.data.len() >= head + length).then_some(length)
    }

    /// Finds a header by its exact bytes.
    fn header(&self, name: &str) -> Option<String> {
        let head = String::from_utf8_lossy(&self.data[..self.head_end()?]).into_owned();
        let value = head.split(name).nth(1)?;
        Some(value.split("\r\n").next()?.to_owned())
    }
}

fn atoi(text: impl AsRef<str>) -> i32 {
    let digits = text.as_ref().trim_start();
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().unwrap_or(0)
}

struct NativeClient {
    server: SocketAddr,
    id: i32,
    peers: BTreeMap<i32, String>,
    control: Channel,
    hanging_get: Channel,
    events: VecDeque<Event>,
}

impl NativeClient {
    async fn sign_in(server: &TestServer, name: &str) -> Self {
        let mut client = Self {
            server: server.address(),
            id: -1,
            peers: BTreeMap::new(),
            control: Channel::default(),
            hanging_get: Channel::default(),
            events: VecDeque::new(),
        };
        let request = format!("GET /sign_in?{name} HTTP/1.0\r\n\r\n");
        let response = client.command(request.as_bytes()).await.unwrap();
        client.id = response.pragma;
        assert_ne!(client.id, -1);
        for line in response.body.split_inclusive(|b| *b == b'\n') {
            if let Some((name, id, true)) = entry(line)
                && id != client.id
            {
                client.peer_connected(id, name);
            }
        }
        client.events.push_back(Event::SignedIn);
        client.hang().await;
        client
    }

    /// A request on the control channel. None: the server refused, which the
    /// client takes for the end.
    async fn command(&mut self, request: &[u8]) -> Option<Response> {
        self.control.send(self.server, request).await;
        let response = self.control.response().await;
        self.accept(response)
    }

    fn accept(&mut self, response: Response) -> Option<Response> {
        if response.status == 200 {
            return Some(response);
        }
        self.events.push_back(Event::Disconnected);
        None
    }

    async fn hang(&mut self) {
        let request = format!("GET /wait?peer_id={} HTTP/1.0\r\n\r\n", self.id);
        self.hanging_get.send(self.server, request.as_bytes()).await;
    }

    fn peer_connected(&mut self, id: i32, name: String) {
        self.peers.insert(id, name.clone());
        self.events.push_back(Event::PeerConnected(id, name));
    }

    /// What the client tells its user next; it polls until there is something.
    async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            let response = self.hanging_get.response().await;
            let Some(response) = self.accept(response) else {
                continue;
            };
            if response.pragma != self.id {
                let message = Event::Message(response.pragma, response.body);
                self.events.push_back(message);
            } else {
                // One line only, and an empty body would be an abort.
                assert!(!response.body.is_empty());
                match entry(&response.body) {
                    Some((name, id, true)) => self.peer_connected(id, name),
                    Some((_, id, false)) => {
                        self.peers.remove(&id);
                        self.events.push_back(Event::PeerDisconnected(id));
                    }
                    None => {}
                }
            }
            self.hang().await;
        }
    }

    async fn send(&mut self, to: i32, message: &[u8]) {
        let head = format!(
            "POST /message?peer_id={}&to={to} HTTP/1.0\r\nContent-Length: {}\r\nContent-Type: text/plain\r\n\r\n",
            self.id,
            message.len()
        );
        let request = [head.as_bytes(), message].concat();
        self.command(&request).await.unwrap();
    }

    async fn sign_out(&mut self) {
        self.hanging_get = Channel::default();
        let request = format!("GET /sign_out?peer_id={} HTTP/1.0\r\n\r\n", self.id);
        self.command(request.as_bytes()).await.unwrap();
    }
}

/// Reads one line of a list; the rest of the bytes is not looked at.
fn entry(line: &[u8]) -> Option<(String, i32, bool)> {
    let line = std::str::from_utf8(line).unwrap();
    let (name, rest) = line.split_once(',')?;
    let connected = rest.split_once(',').map_or(0, |(_, flag)| atoi(flag));
    (!name.is_empty()).then(|| (name.to_owned(), atoi(rest), connected != 0))
}

fn joined(id: i32, name: &str) -> Event {
    Event::PeerConnected(id, name.to_owned())
}

#[tokio::test]
async fn three_native_clients_hold_a_conversation() {
    let server = TestServer::start().await;
    let mut a = NativeClient::sign_in(&server, "a@host").await;
    assert_eq!(a.event().await, Event::SignedIn);
    let mut b = NativeClient::sign_in(&server, "b@host").await;
    assert_eq!(b.event().await, joined(1, "a@host"));
    assert_eq!(b.event().await, Event::SignedIn);
    assert_eq!(a.event().await, joined(2, "b@host"));
    let mut c = NativeClient::sign_in(&server, "c@host").await;
    assert_eq!(c.event().await, joined(2, "b@host"));
    assert_eq!(c.event().await, joined(1, "a@host"));
    assert_eq!(c.event().await, Event::SignedIn);

    // Both ways, back to back, in order, and one that is large.
    let large = vec![b'x'; 70_000];
    assert_eq!(a.event().await, joined(3, "c@host"));
    assert_eq!(b.event().await, joined(3, "c@host"));
    b.send(1, b"offer").await;
    b.send(1, &large).await;
    b.send(1, b"candidate").await;
    assert_eq!(a.event().await, Event::Message(2, b"offer".to_vec()));
    assert_eq!(a.event().await, Event::Message(2, large));
    assert_eq!(a.event().await, Event::Message(2, b"candidate".to_vec()));
    a.send(2, b"answer").await;
    assert_eq!(b.event().await, Event::Message(1, b"answer".to_vec()));
    c.send(1, b"to a").await;
    c.send(2, b"to b").await;
    assert_eq!(a.event().await, Event::Message(3, b"to a".to_vec()));
    assert_eq!(b.event().await, Event::Message(3, b"to b".to_vec()));

    // The end of a call, and of each client.
    b.send(1, b"BYE").await;
    assert_eq!(a.event().await, Event::Message(2, b"BYE".to_vec()));
    b.sign_out().await;
    assert_eq!(a.event().await, Event::PeerDisconnected(2));
    assert_eq!(c.event().await, Event::PeerDisconnected(2));
    a.sign_out().await;
    assert_eq!(c.event().await, Event::PeerDisconnected(1));
    assert!(c.peers.is_empty());
    c.sign_out().await;
    assert_eq!(server.list().await, "");
}

#[tokio::test]
async fn a_native_client_meets_clients_of_the_other_dialect() {
    let server = TestServer::start().await;
    let page = server.sign_in("page").await;
    server.list_becomes("page,1,0\n").await;
    let mut native = NativeClient::sign_in(&server, "native").await;
    assert_eq!(native.event().await, Event::SignedIn);
    let told = server.get(&format!("/wait?peer_id={page}")).await;
    assert_eq!(told.text(), "native,2,1\npage,1,1\n");
    native.send(1, b"offer").await;
    let told = server.get(&format!("/wait?peer_id={page}")).await;
    assert_eq!(told.text(), "offer");
    assert_eq!(told.header("Pragma"), Some("2"));
    server.post("/message?peer_id=1&to=2", "answer").await;
    assert_eq!(native.event().await, Event::Message(1, b"answer".to_vec()));
    server.get("/sign_out?peer_id=1").await;
    assert_eq!(native.event().await, Event::PeerDisconnected(1));
}

#[tokio::test]
async fn a_native_client_that_is_removed_learns_that_it_is_disconnected() {
    let server = TestServer::start().await;
    let mut native = NativeClient::sign_in(&server, "native").await;
    assert_eq!(native.event().await, Event::SignedIn);
    server.list_becomes("native,1,1\n").await;
    server.get("/sign_out?peer_id=1").await;
    assert_eq!(native.event().await, Event::Disconnected);
}
