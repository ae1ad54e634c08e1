//! The answer to a connection for which there is no place.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};

use super::places::NoPlace;

/// How many connections may be open only to be told that there is no place for them. Others are
/// closed without a word: the limit is there to save descriptors.
const AT_ONCE: usize = 64;

/// How long such a connection may take to send its request and read the answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The connections that are just told.
#[derive(Clone, Debug)]
pub(super) struct Refusals(Arc<Semaphore>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Refusals {
    /// Tells a client why there is no place for it, if there is time for that.
    pub fn refuse(&self, stream: TcpStream, why: NoPlace) {
        if let Ok(permit) = self.0.clone().try_acquire_owned() {
            tokio::spawn(async move {
                // An error means that the client has gone.
                let _ = timeout(PATIENCE, answer(stream, why)).await;
                drop(permit);
            });
        }
    }
}

async fn answer(mut stream: TcpStream, why: NoPlace) -> std::io::Result<()> {
    let (status, line) = match why {
        NoPlace::Full => (
            "503 Service Unavailable",
            "too many connections are open: try again later\n",
        ),
        NoPlace::OfAddress => (
            "429 Too Many Requests",
            "too many connections of your address are open: close some\n",
        ),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Retry-After: 1\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
         Access-Control-Allow-Origin: *\r\nConnection: close\r\n\r\n{line}",
        line.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    // Closed with unread bytes, the connection would be reset, and the answer lost.
    let mut unread = [0; 512];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}
