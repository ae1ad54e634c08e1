//! What every engine of the peer list promises, as tests that run against each of them.
//!
//! A promise stands in the file of its subject, under its name, once. It runs against the
//! list in this process and against a real Redis (`redis-server` has to be installed), in the
//! root list and in a room. Time
//! passes only where a test says so, at both ([`TestList::pass`]).

mod acknowledgements;
mod channels;
mod counting;
mod events;
mod farewell;
mod interleavings;
mod list;
mod liveness;
mod polling_on;
mod returning;
mod rooms;
mod sockets;
mod test_list;
mod unlisted;
mod waiting;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{
    rules::{REPEAT_PAUSE, SPACE_PATIENCE},
    *,
};
use test_list::{EngineKind, TestList};

/// Makes a test for each engine of each of these functions.
macro_rules! every_engine {
    ($($test:ident,)+) => {
        mod memory {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                super::$test(super::EngineKind::Memory).await;
            })+
        }

        mod redis {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                super::$test(super::EngineKind::Redis).await;
            })+
        }
    };
}
use every_engine;

/// Makes a test for each engine of each of these functions, in the root list and in a room.
macro_rules! every_list {
    ($($test:ident,)+) => {
        every_engine! { $($test,)+ }

        mod memory_room {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                super::$test(super::EngineKind::MemoryRoom).await;
            })+
        }

        mod redis_room {
            $(#[tokio::test(start_paused = true)]
            async fn $test() {
                super::$test(super::EngineKind::RedisRoom).await;
            })+
        }
    };
}
use every_list;

/// Makes a property test for each engine of each of these functions, with this many cases.
macro_rules! every_engine_in_any_case {
    ($($test:ident: $check:ident($cases:expr), $memory:literal in memory, $redis:literal in redis;)+) => {
        mod in_any_case {
            use super::*;

            mod memory {
                use super::*;

                $(every_engine_in_any_case!(@test $test $check($cases) Memory $memory);)+
            }

            mod redis {
                use super::*;

                $(every_engine_in_any_case!(@test $test $check($cases) Redis $redis);)+
            }
        }
    };
    (@test $test:ident $check:ident($cases:expr) $engine:ident $count:literal) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases($count))]

            #[test]
            fn $test(case in $cases) {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .start_paused(true)
                    .build()
                    .unwrap();
                runtime.block_on($check(EngineKind::$engine, case));
            }
        }
    };
}
use every_engine_in_any_case;

type Waiting = Pin<Box<dyn Future<Output = Result<Delivery, Refusal>>>>;

/// Of whom nothing is known.
const NOBODY: Identity = Identity {
    user: None,
    address: None,
    network: None,
    ice_servers: None,
};

const LISTED: SignInOpts = SignInOpts {
    door: "http",
    dialect: Dialect::Listed,
    protected: false,
    has_socket: false,
    identity: NOBODY,
};

/// Its requests have to show its token.
const PROTECTED: SignInOpts = SignInOpts {
    protected: true,
    ..LISTED
};

const BARE: SignInOpts = SignInOpts {
    dialect: Dialect::Bare,
    ..LISTED
};

/// Of a peer that may come back.
const RESUMING: SocketOpts = SocketOpts {
    resumes: true,
    acknowledged: None,
};

const SOCKET: SignInOpts = SignInOpts {
    door: "websocket",
    dialect: Dialect::Silent,
    protected: false,
    has_socket: true,
    identity: NOBODY,
};

/// A request of a peer that waits until it is given something.
fn wait(list: &TimeoutPeerList, id: PeerId) -> Waiting {
    wait_with(list, id, WaitOpts::default())
}

fn wait_with(list: &TimeoutPeerList, id: PeerId, opts: WaitOpts) -> Waiting {
    let request = list.open_request(caller(id, None));
    Box::pin(async move { request?.wait(opts).await })
}

fn limited(limit: Duration) -> WaitOpts {
    WaitOpts {
        limit: Some(limit),
        ..WaitOpts::default()
    }
}

fn caller(id: PeerId, link: Option<&Arc<Link>>) -> Caller {
    Caller {
        id,
        proof: Proof::Trusted,
        link: link.cloned(),
        lingers: false,
    }
}

/// The peer of a client that closes its connection after each answer, as HTTP/1.0 has it.
fn old_caller(id: PeerId) -> Caller {
    Caller {
        lingers: true,
        ..caller(id, None)
    }
}

/// A request that shows this token, or none.
async fn request(
    list: &TimeoutPeerList,
    id: PeerId,
    token: Option<&PeerToken>,
) -> Result<Box<dyn OpenRequest>, Refusal> {
    let request = list.open_request(Caller {
        proof: token.copied().into(),
        ..caller(id, None)
    })?;
    request.seen().await?;
    Ok(request)
}

fn text(lines: &Lines) -> String {
    String::from_utf8(lines.to_bytes().to_vec()).unwrap()
}

/// Signs a peer in, as a door does.
async fn added(list: &TestList, name: &str, opts: SignInOpts) -> SignedIn {
    let dialect = opts.dialect;
    let added = list.add_peer(Some(name), opts).await.unwrap();
    if dialect != Dialect::Silent {
        let request = list.open_request(old_caller(added.id)).unwrap();
        request.answered();
        list.settle().await;
    }
    added
}

async fn sign_in(list: &TestList, name: &str) -> PeerId {
    added(list, name, LISTED).await.id
}

async fn resume(list: &TimeoutPeerList, peer: &SignedIn, name: &str) -> SignedIn {
    let resumed = list.resume_peer(peer.id, &peer.token, Some(name), LISTED);
    resumed.await.unwrap()
}

/// Takes what is there for a peer, without waiting.
async fn take(list: &TestList, id: PeerId) -> News {
    let waiting = wait(list, id);
    let delivery = list.now(waiting).await.unwrap();
    let news = delivery.news().clone();
    delivery.done();
    list.settle().await;
    news
}

/// There is nothing for a peer.
async fn assert_nothing(list: &TestList, id: PeerId) {
    let mut waiting = wait(list, id);
    assert!(list.is_open(&mut waiting).await);
    drop(waiting);
    list.settle().await;
}

/// Takes what is there for a socket, without waiting: its number, and what it is.
async fn take_from(list: &TestList, socket: &dyn OpenSocket) -> (u64, News) {
    let delivery = list.now(socket.wait()).await;
    let taken = (delivery.number(), delivery.news().clone());
    delivery.done();
    list.settle().await;
    taken
}

async fn nothing_for(list: &TestList, socket: &dyn OpenSocket) {
    assert!(list.is_open(&mut Box::pin(socket.wait())).await);
}

fn status(news: &str) -> News {
    News::Status(news.to_owned().into())
}

fn message(from: PeerId, body: &'static str) -> News {
    News::Message {
        from,
        body: Bytes::from_static(body.as_bytes()),
    }
}

async fn say(list: &TimeoutPeerList, from: PeerId, to: PeerId, body: &'static str) {
    let body = Bytes::from_static(body.as_bytes());
    let sent = list.send(from, to, body, SendOpts::default());
    sent.await.unwrap();
}

/// An event as `+`, `=` or `-`, the peer's id, and why it was removed.
fn told(event: &PeerEvent) -> String {
    match event {
        PeerEvent::PeerAdded(peer) => format!("+ {}", peer.id),
        PeerEvent::PeerReconnected(peer) => format!("= {}", peer.id),
        PeerEvent::PeerRemoved { peer, reason } => format!("- {} {reason}", peer.id),
    }
}

/// What was told since, as [`told`].
async fn all_told(list: &TestList, events: &mut PeerEvents) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        tokio::select! {
            biased;
            event = events.next() => all.push(told(&event.unwrap().1)),
            () = list.settle() => return all,
        }
    }
}

// Peers that come in unlisted, and channels.

const SCOPE: &str = "names";
/// How long an alias is kept.
const KEPT: Duration = Duration::from_secs(5);
const CHANNEL: &str = "all";
const KEY: &str = "a key of its own";

fn listing(name: &str) -> Listing<'_> {
    Listing {
        name,
        card: "card".into(),
        hello: "hello".into(),
        farewell: "farewell".into(),
    }
}

async fn come(list: &TimeoutPeerList, key: Option<&str>) -> Added {
    let coming = Unlisted {
        key,
        door: "relay",
        channels: &[CHANNEL],
        identity: &NOBODY,
    };
    list.add_unlisted(coming).await.unwrap()
}

async fn unlisted(list: &TimeoutPeerList, key: Option<&str>) -> (PeerId, Box<dyn OpenSocket>) {
    let id = come(list, key).await.id;
    (
        id,
        list.open_socket(id, SocketOpts::default()).await.unwrap(),
    )
}

async fn publish(list: &TimeoutPeerList, from: PeerId, body: &'static str) {
    let published = list.publish(from, &[CHANNEL], body.into(), PublishOpts::default());
    published.await.unwrap();
}

fn published(number: u64, body: &'static str) -> (u64, News) {
    (number, News::Published(body.into()))
}
