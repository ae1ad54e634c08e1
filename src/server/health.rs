//! Health: its routes, and the check of a running server.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::Method,
    response::Response,
    routing::any,
};

use thiserror::Error;

use super::Host;
#[cfg(feature = "tls")]
use super::health_tls::through_tls;
use crate::{
    doors::kit::{RequestError, only, reply::reply},
    peer_list::TimeoutPeerList,
};

/// A server that takes longer to answer than this is not healthy.
const PATIENCE: Duration = Duration::from_secs(3);

/// `GET /healthz` (or `HEAD`, which some probes send): 200 `ok` as long as the server
/// answers. `GET /readyz`: the same while the peer list can be reached, otherwise 503.
pub(super) fn routes(peer_list: TimeoutPeerList) -> Router {
    Router::new()
        .route("/healthz", any(healthz))
        .route("/readyz", any(readyz))
        .with_state(peer_list)
}

async fn healthz(request: Request) -> Result<Response, RequestError> {
    only(&[Method::GET, Method::HEAD], &request)?;
    Ok(reply("ok"))
}

async fn readyz(
    State(peer_list): State<TimeoutPeerList>,
    request: Request,
) -> Result<Response, RequestError> {
    only(&[Method::GET, Method::HEAD], &request)?;
    if peer_list.is_reachable().await {
        Ok(reply("ok"))
    } else {
        Err(RequestError::Unavailable)
    }
}

/// Why a server is not healthy.
#[derive(Debug, Error)]
pub enum HealthError {
    /// The server does not answer.
    #[error("no answer from {address}: {source}; is the server running there?")]
    NoAnswer {
        /// Where it was asked.
        address: SocketAddr,
        /// The error of the connection.
        source: io::Error,
    },
    /// The server answers neither 200 nor that it is full.
    #[error("{address} is not healthy: it answered {status:?}")]
    Unhealthy {
        /// Where it was asked.
        address: SocketAddr,
        /// The first line of its answer.
        status: String,
    },
}

/// How a server on this machine is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// On this port.
    Plain(u16),
    /// Through TLS, on this port.
    #[cfg(feature = "tls")]
    Tls(u16),
}

impl Reached {
    fn port(self) -> u16 {
        match self {
            Self::Plain(port) => port,
            #[cfg(feature = "tls")]
            Self::Tls(port) => port,
        }
    }
}

/// Checks the server that listens on this address and port of this machine.
pub fn check(host: Option<Host>, reached: Reached) -> Result<(), HealthError> {
    let host = host.unwrap_or_else(|| Host::from(IpAddr::from(Ipv4Addr::LOCALHOST)));
    let address = host.reached_at(reached.port());
    let answer =
        ask(address, reached).map_err(|source| HealthError::NoAnswer { address, source })?;
    let status = answer.split("\r\n").next().unwrap_or_default();
    // A server with no place for one more connection is full, and not ill.
    let is_full = ["HTTP/1.1 503 ", "HTTP/1.1 429 "];
    let is_full = is_full.iter().any(|full| status.starts_with(full));
    if status == "HTTP/1.0 200 OK" || is_full {
        Ok(())
    } else {
        let status = status.to_owned();
        Err(HealthError::Unhealthy { address, status })
    }
}

fn ask(address: SocketAddr, reached: Reached) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    match reached {
        Reached::Plain(_) => ask_on(stream),
        #[cfg(feature = "tls")]
        Reached::Tls(_) => ask_on(through_tls(stream).map_err(io::Error::other)?),
    }
}

fn ask_on(mut stream: impl Read + Write) -> io::Result<String> {
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    let read = stream.take(1024).read_to_end(&mut answer);
    // Through TLS, a server that just closes the connection is an error.
    if answer.is_empty() {
        read?;
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
