//! A cheap client: one connection, raw bytes, a buffer that is used again.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::handshake::connector;

/// Where to connect.
#[derive(Clone, Copy)]
pub struct At {
    pub address: SocketAddr,
    pub tls: bool,
}

impl From<SocketAddr> for At {
    fn from(address: SocketAddr) -> Self {
        let tls = false;
        Self { address, tls }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// One HTTP/1.1 connection.
pub struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// What of the buffer is read and not yet consumed.
    filled: std::ops::Range<usize>,
}

/// A reply; its body is in the client's buffer until the next request.
pub struct Reply<'a> {
    pub status: u16,
    pub pragma: u32,
    pub body: &'a [u8],
    /// Head and body, in bytes.
    pub size: usize,
}

impl Client {
    pub async fn connect(at: impl Into<At>) -> Self {
        let At { address, tls } = at.into();
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("an option");
        let stream: Box<dyn Stream> = if tls {
            let (connector, name) = connector();
            let stream = connector.connect(name, stream).await;
            Box::new(stream.expect("a handshake"))
        } else {
            Box::new(stream)
        };
        Self {
            stream,
            buffer: vec![0; 2048],
            filled: 0..0,
        }
    }

    pub async fn send(&mut self, request: &[u8]) {
        self.stream.write_all(request).await.expect("a request");
        // TLS may keep what it cannot write at once.
        self.stream.flush().await.expect("a request");
    }

    pub async fn get(&mut self, target: &str) -> Reply<'_> {
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        self.send(request.as_bytes()).await;
        self.reply().await
    }

    pub async fn reply(&mut self) -> Reply<'_> {
        let (head, status, pragma, length) = loop {
            if let Some(head) = self.head() {
                break head;
            }
            self.read_more().await;
        };
        let size = head + length;
        while self.filled.len() < size {
            self.reserve(size);
            self.read_more().await;
        }
        let start = self.filled.start;
        self.filled.start += size;
        Reply {
            status,
            pragma,
            body: &self.buffer[start + head..start + size],
            size,
        }
    }

    /// Length of the head, status, Pragma and Content-Length, when complete.
    fn head(&self) -> Option<(usize, u16, u32, usize)> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&self.buffer[self.filled.clone()]);
        let httparse::Status::Complete(head) = parsed.expect("HTTP") else {
            return None;
        };
        let number = |name: &str| {
            let header = response.headers.iter();
            let mut header = header.filter(|h| h.name.eq_ignore_ascii_case(name));
            let value = std::str::from_utf8(header.next()?.value).ok()?;
            value.parse::<usize>().ok()
        };
        let pragma = u32::try_from(number("pragma").unwrap_or(0)).unwrap_or(0);
        Some((
            head,
            response.code.unwrap_or(0),
            pragma,
            number("content-length").unwrap_or(0),
        ))
    }

    fn reserve(&mut self, size: usize) {
        self.buffer.copy_within(self.filled.clone(), 0);
        self.filled = 0..self.filled.len();
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
    }

    async fn read_more(&mut self) {
        if self.filled.is_empty() {
            self.filled = 0..0;
        } else if self.filled.end == self.buffer.len() {
            let size = self.buffer.len() * 2;
            self.reserve(size);
        }
        let room = &mut self.buffer[self.filled.end..];
        let read = self.stream.read(room).await.expect("a reply");
        assert!(read > 0, "the server closed the connection");
        self.filled.end += read;
    }

    /// Gives back the memory of a large reply: ten thousand clients do not
    /// keep one each.
    pub fn shrink(&mut self) {
        if self.filled.is_empty() {
            self.buffer = vec![0; 2048];
            self.filled = 0..0;
        }
    }

    /// Signs in and returns the id.
    pub async fn sign_in(&mut self, name: &str) -> u32 {
        self.sign_in_to("", name).await
    }

    /// As [`Client::sign_in`], to the room with this path.
    pub async fn sign_in_to(&mut self, room: &str, name: &str) -> u32 {
        let reply = self.get(&format!("{room}/sign_in?peer_name={name}")).await;
        assert_eq!(reply.status, 200);
        reply.pragma
    }
}

/// The bytes of a request to send a message.
pub fn message(from: u32, to: u32, body: &[u8]) -> Vec<u8> {
    message_in("", from, to, body)
}

/// As [`message`], in the room with this path.
pub fn message_in(room: &str, from: u32, to: u32, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {room}/message?peer_id={from}&to={to} HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The bytes of a request to wait.
pub fn wait(id: u32) -> Vec<u8> {
    wait_in("", id)
}

/// As [`wait`], in the room with this path.
pub fn wait_in(room: &str, id: u32) -> Vec<u8> {
    format!("GET {room}/wait?peer_id={id} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}
