//! The loads, and what each finds.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    task::{LocalSet, spawn_local},
    time::{sleep, sleep_until, timeout},
};

use crate::{
    client::{Client, message, wait},
    nodes,
    server::{Kind, Running},
    socket::Socket,
};

/// A name of a figure, its unit and its value.
pub type Figures = Vec<(&'static str, &'static str, f64)>;

type Run = for<'a> fn(&'a Running) -> Pin<Box<dyn Future<Output = Figures> + 'a>>;

/// One load.
pub struct Scenario {
    pub name: &'static str,
    pub servers: &'static [Kind],
    /// The script of what it is compared with, beside the floor.
    pub original: &'static str,
    pub rounds: usize,
    pub run: Run,
}

const SIGNAL_HTTP: &str = "server.js";
const ALL: &[Kind] = &[Kind::Ours, Kind::Floor, Kind::Original];
/// The original needs minutes and gigabytes to get so many peers signed in.
const NOT_ORIGINAL: &[Kind] = &[Kind::Ours, Kind::Floor];

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "relay, 1 pair",
        servers: ALL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(relay(s, 1, 10_000)),
    },
    Scenario {
        name: "relay, 64 pairs",
        servers: ALL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(relay(s, 64, 40_000)),
    },
    Scenario {
        name: "relay, 512 pairs",
        servers: NOT_ORIGINAL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(relay(s, 512, 60_000)),
    },
    Scenario {
        name: "burst, 16 x 200",
        servers: ALL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(burst(s)),
    },
    Scenario {
        name: "heartbeat, 64 connections",
        servers: ALL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(heartbeat(s)),
    },
    Scenario {
        name: "churn, 500 peers, 20/s",
        servers: ALL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(churn(s, 500, 20)),
    },
    Scenario {
        name: "churn, 500 peers, 200/s",
        servers: NOT_ORIGINAL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(churn(s, 500, 200)),
    },
    Scenario {
        name: "park, 1,000 peers",
        servers: NOT_ORIGINAL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(park(s, 1_000)),
    },
    Scenario {
        name: "park, 5,000 peers",
        servers: NOT_ORIGINAL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(park(s, 5_000)),
    },
    Scenario {
        name: "park, 10,000 peers",
        servers: NOT_ORIGINAL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(park(s, 10_000)),
    },
    Scenario {
        name: "park, 15,000 peers",
        servers: &[Kind::Ours],
        original: SIGNAL_HTTP,
        rounds: 1,
        run: |s| Box::pin(park(s, 15_000)),
    },
    Scenario {
        name: "churn, 1,000 peers that never poll, a minute",
        servers: &[Kind::Ours],
        original: SIGNAL_HTTP,
        rounds: 1,
        run: |s| Box::pin(sleepers(s)),
    },
    Scenario {
        name: "relay, 64 pairs, 1 node and Redis",
        servers: &[Kind::Ours],
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |_| Box::pin(nodes::relay(1)),
    },
    Scenario {
        name: "relay, 64 pairs, 2 nodes and Redis",
        servers: &[Kind::Ours],
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |_| Box::pin(nodes::relay(2)),
    },
    Scenario {
        name: "relay, 64 pairs, 3 nodes and Redis",
        servers: &[Kind::Ours],
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |_| Box::pin(nodes::relay(3)),
    },
    Scenario {
        name: "2,000 WebSocket peers",
        servers: &[Kind::Ours, Kind::Original],
        original: "signal-fire.js",
        rounds: 3,
        run: |s| Box::pin(web_sockets(s)),
    },
    Scenario {
        name: "broadcast to 500 Socket.IO peers",
        servers: &[Kind::Ours, Kind::Original],
        original: "socketio.js",
        rounds: 3,
        run: |s| Box::pin(broadcast(s)),
    },
];

pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// By the nearest rank: of a hundred, the 99th percentile is the 99th.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .map_or(f64::NAN, |found| micros(*found))
}

/// A message's body: its number, and bytes that depend on it.
fn body(number: u32) -> Vec<u8> {
    let mut body = format!("{number:08}").into_bytes();
    body.resize(256, b'a' + (number % 26) as u8);
    body
}

/// Lets a peer hear of all that happened, so that the wait that it leaves
/// open is parked.
async fn settle(client: &mut Client, id: u32) {
    loop {
        client.send(&wait(id)).await;
        if timeout(Duration::from_millis(100), client.reply())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Pairs that pass one message after the other, each sender waiting for
/// delivery.
async fn relay(server: &Running, pairs: u32, messages: u32) -> Figures {
    let address = [server.address];
    relay_between(&address, pairs, messages, || server.cpu()).await
}

/// Each sender and its receiver are at different nodes, if there are more than
/// one. `cpu`: of all nodes.
pub async fn relay_between(
    nodes: &[SocketAddr],
    pairs: u32,
    messages: u32,
    cpu: impl Fn() -> Duration,
) -> Figures {
    let node = |number: u32| nodes[number as usize % nodes.len()];
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for pair in 0..pairs {
        let mut sender = Client::connect(node(pair)).await;
        let from = sender.sign_in(&format!("sender{pair}")).await;
        senders.push((sender, from));
    }
    for pair in 0..pairs {
        let mut receiver = Client::connect(node(pair + 1)).await;
        let to = receiver.sign_in(&format!("receiver{pair}")).await;
        receivers.push((receiver, to));
    }
    // All at once, so that nobody is idle for long: Node closes a connection
    // after five seconds.
    sleep(Duration::from_millis(200)).await;
    let settles = receivers.iter_mut().map(|(client, id)| settle(client, *id));
    join_all(settles.collect()).await;
    let before = cpu();
    let started = Instant::now();
    let latencies = Rc::new(RefCell::new(Vec::with_capacity(messages as usize)));
    let faults = Rc::new(Cell::new(0u32));
    let local = LocalSet::new();
    for ((mut sender, from), (mut receiver, to)) in senders.into_iter().zip(receivers) {
        let (latencies, faults) = (latencies.clone(), faults.clone());
        local.spawn_local(async move {
            for number in 0..messages / pairs {
                let expected = body(number);
                let request = message(from, to, &expected);
                let sent = Instant::now();
                let delivery = async {
                    loop {
                        let reply = receiver.reply().await;
                        if reply.pragma == to {
                            // A list, where peers still hear of changes.
                            receiver.send(&wait(to)).await;
                            continue;
                        }
                        let took = sent.elapsed();
                        if reply.pragma != from || reply.body != expected {
                            faults.set(faults.get() + 1);
                        }
                        break took;
                    }
                };
                sender.send(&request).await;
                let accepted = async { sender.reply().await.status };
                let (accepted, took) = tokio::join!(accepted, delivery);
                if accepted != 200 {
                    faults.set(faults.get() + 1);
                }
                latencies.borrow_mut().push(took);
                receiver.send(&wait(to)).await;
            }
        });
    }
    local.await;
    let elapsed = started.elapsed();
    let cpu = cpu() - before;
    let mut latencies = latencies.take();
    latencies.sort();
    let count = latencies.len() as f64;
    vec![
        ("CPU per message", "us", micros(cpu) / count),
        ("latency p50", "us", percentile(&latencies, 50)),
        ("latency p99", "us", percentile(&latencies, 99)),
        ("rate", "1/s", count / elapsed.as_secs_f64()),
        ("faults", "", f64::from(faults.get())),
    ]
}

/// Lets all of them run side by side to their end.
async fn join_all<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

/// Sixteen senders, each two hundred messages back to back to one receiver.
async fn burst(server: &Running) -> Figures {
    const SENDERS: u32 = 16;
    const EACH: u32 = 200;
    let mut receiver = Client::connect(server.address).await;
    let to = receiver.sign_in("receiver").await;
    let mut senders = Vec::new();
    for _ in 0..SENDERS {
        let mut sender = Client::connect(server.address).await;
        let from = sender.sign_in("sender").await;
        senders.push((sender, from));
    }
    let local = LocalSet::new();
    for (mut sender, from) in senders {
        local.spawn_local(async move {
            for number in 0..EACH {
                sender.send(&message(from, to, &body(number))).await;
                assert_eq!(sender.reply().await.status, 200);
            }
        });
    }
    let receive = local.spawn_local(async move {
        let mut got: HashMap<u32, Vec<u32>> = HashMap::new();
        loop {
            receiver.send(&wait(to)).await;
            let Ok(reply) = timeout(Duration::from_secs(2), receiver.reply()).await else {
                return got;
            };
            let digits = reply.body.get(..8).unwrap_or_default();
            let number = std::str::from_utf8(digits)
                .ok()
                .and_then(|d| d.parse().ok());
            if reply.pragma != to
                && let Some(number) = number
            {
                got.entry(reply.pragma).or_default().push(number);
            }
        }
    });
    local.await;
    let got = receive.await.expect("the receiver");
    let (mut received, mut disordered, mut repeated) = (0, 0, 0);
    for numbers in got.values() {
        received += numbers.len();
        disordered += numbers.windows(2).filter(|pair| pair[0] > pair[1]).count();
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        sorted.dedup();
        repeated += numbers.len() - sorted.len();
    }
    let lost = (SENDERS * EACH) as usize - (received - repeated);
    vec![
        ("lost", "", lost as f64),
        ("repeated", "", repeated as f64),
        ("out of order", "", disordered as f64),
    ]
}

async fn heartbeat(server: &Running) -> Figures {
    const CONNECTIONS: usize = 64;
    const REQUESTS: usize = 1_000;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = Client::connect(server.address).await;
        let id = client.sign_in("peer").await;
        clients.push((client, id));
    }
    let before = server.cpu();
    let started = Instant::now();
    let local = LocalSet::new();
    for (mut client, id) in clients {
        local.spawn_local(async move {
            let request = format!("GET /heartbeat?peer_id={id} HTTP/1.1\r\nHost: x\r\n\r\n");
            for _ in 0..REQUESTS {
                client.send(request.as_bytes()).await;
                assert_eq!(client.reply().await.status, 200);
            }
        });
    }
    local.await;
    let count = (CONNECTIONS * REQUESTS) as f64;
    vec![
        (
            "CPU per request",
            "us",
            micros(server.cpu() - before) / count,
        ),
        ("rate", "1/s", count / started.elapsed().as_secs_f64()),
    ]
}

/// What tells one state of the list from all others here: the newest id, and
/// how many there are.
fn state(list: &[u8]) -> (u32, usize) {
    let line = list.split(|b| *b == b'\n').next().unwrap_or_default();
    let id = line.split(|b| *b == b',').nth(1).unwrap_or_default();
    let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
    (
        id.unwrap_or(0),
        list.iter().filter(|b| **b == b'\n').count(),
    )
}

/// What the parked peers have heard of.
#[derive(Default)]
struct Heard {
    /// When each state came to be, in the order of the operations. The
    /// position of a state is its number.
    operations: RefCell<Vec<(Instant, (u32, usize))>>,
    /// The number of the newest state that each peer has heard.
    newest: RefCell<Vec<usize>>,
    /// The last list that each has heard, as its state.
    last: RefCell<Vec<(u32, usize)>>,
    /// For each operation, how long until the last peer knew.
    all_know: RefCell<Vec<Duration>>,
    bytes: Cell<u64>,
}

impl Heard {
    fn hears(&self, peer: usize, list: &[u8]) {
        let now = Instant::now();
        let state = state(list);
        self.last.borrow_mut()[peer] = state;
        let operations = self.operations.borrow();
        let Some(number) = operations.iter().rposition(|(_, s)| *s == state) else {
            return;
        };
        let newest = &mut self.newest.borrow_mut()[peer];
        for (operation, (began, _)) in operations.iter().enumerate().take(number + 1).skip(*newest)
        {
            let took = now.saturating_duration_since(*began);
            let mut all_know = self.all_know.borrow_mut();
            all_know[operation] = all_know[operation].max(took);
        }
        *newest = (number + 1).max(*newest);
    }
}

/// Parked peers, while others sign in and out at a rate.
async fn churn(server: &Running, parked: usize, rate: u32) -> Figures {
    const SECONDS: u32 = 5;
    /// So many of the others are signed in at a time.
    const GUESTS: usize = 5;
    let heard = Rc::new(Heard::default());
    heard.newest.borrow_mut().resize(parked, 0);
    heard.last.borrow_mut().resize(parked, (0, 0));
    let mut clients = Vec::new();
    for _ in 0..parked {
        let mut client = Client::connect(server.address).await;
        let id = client.sign_in("parked").await;
        clients.push((client, id));
    }
    let local = LocalSet::new();
    for (peer, (mut client, id)) in clients.into_iter().enumerate() {
        let heard = heard.clone();
        local.spawn_local(async move {
            loop {
                client.send(&wait(id)).await;
                let reply = client.reply().await;
                heard.bytes.set(heard.bytes.get() + reply.size as u64);
                heard.hears(peer, reply.body);
            }
        });
    }
    let figures = local.run_until(async {
        sleep(Duration::from_secs(1)).await;
        heard.bytes.set(0);
        let before = server.cpu();
        let mut client = Client::connect(server.address).await;
        let mut guests: std::collections::VecDeque<u32> = std::collections::VecDeque::new();
        let (mut newest, mut count) = (parked as u32, parked);
        let mut next = tokio::time::Instant::now();
        let mut late = Duration::ZERO;
        for _ in 0..SECONDS * rate {
            sleep_until(next).await;
            late = late.max(next.elapsed());
            next += Duration::from_secs(1) / rate;
            let began = Instant::now();
            // The state is known before the server has answered: nobody can
            // hear of it before that is noted.
            let leaves = if guests.len() == GUESTS {
                guests.pop_front()
            } else {
                None
            };
            if leaves.is_some() {
                count -= 1;
            } else {
                newest += 1;
                count += 1;
                guests.push_back(newest);
            }
            heard.operations.borrow_mut().push((began, (newest, count)));
            heard.all_know.borrow_mut().push(Duration::ZERO);
            match leaves {
                Some(id) => {
                    client.get(&format!("/sign_out?peer_id={id}")).await;
                }
                None => {
                    let id = client.sign_in("guest").await;
                    assert_eq!(id, newest, "ids do not rise by one");
                }
            }
        }
        sleep(Duration::from_secs(1)).await;
        let operations = f64::from(SECONDS * rate);
        let cpu = server.cpu() - before;
        let wrong = heard
            .last
            .borrow()
            .iter()
            .filter(|s| **s != (newest, count))
            .count();
        let mut all_know = heard.all_know.take();
        all_know.sort();
        vec![
            ("CPU per operation", "ms", micros(cpu) / 1000.0 / operations),
            (
                "bytes per operation",
                "kB",
                heard.bytes.get() as f64 / 1000.0 / operations,
            ),
            ("all know p99", "ms", percentile(&all_know, 99) / 1000.0),
            ("wrong last lists", "", wrong as f64),
            ("latest start", "ms", late.as_secs_f64() * 1000.0),
        ]
    });
    figures.await
}

/// Peers that have a wait open, each answered once before.
async fn park(server: &Running, peers: usize) -> Figures {
    let idle = server.resident();
    let started = Instant::now();
    let mut clients = Vec::with_capacity(peers);
    for number in 0..peers {
        let mut client = Client::connect(server.address).await;
        let id = client.sign_in(&format!("peer{number}")).await;
        client.shrink();
        clients.push((client, id));
    }
    for (client, id) in &mut clients {
        client.send(&wait(*id)).await;
    }
    // Each is told of those after it, the last one of nobody.
    for (client, id) in &mut clients[..peers - 1] {
        assert_eq!(client.reply().await.status, 200);
        client.shrink();
        client.send(&wait(*id)).await;
    }
    let parked = started.elapsed();
    sleep(Duration::from_secs(2)).await;
    let resident = server.resident().saturating_sub(idle);
    let mut sender = Client::connect(server.address).await;
    let from = clients[0].1;
    let mut latencies = Vec::new();
    let mut faults = 0u32;
    for number in 0..2_000u32 {
        let (client, id) = &mut clients[1 + (number as usize * 7919) % (peers - 1)];
        let expected = body(number);
        let request = message(from, *id, &expected);
        let sent = Instant::now();
        sender.send(&request).await;
        let reply = client.reply().await;
        latencies.push(sent.elapsed());
        faults += u32::from(reply.pragma != from || reply.body != expected);
        client.send(&wait(*id)).await;
        assert_eq!(sender.reply().await.status, 200);
    }
    latencies.sort();
    vec![
        ("signed in and parked", "s", parked.as_secs_f64()),
        ("resident per peer", "KiB", resident as f64 / peers as f64),
        ("wake p50", "us", percentile(&latencies, 50)),
        ("wake p99", "us", percentile(&latencies, 99)),
        ("faults", "", f64::from(faults)),
    ]
}

/// A thousand peers that only send heartbeats, and a hundred that sign in and
/// out for a minute.
async fn sleepers(server: &Running) -> Figures {
    let mut sleepers = Vec::new();
    for _ in 0..1_000 {
        let mut client = Client::connect(server.address).await;
        let id = client.sign_in("sleeper").await;
        sleepers.push((client, id));
    }
    let local = LocalSet::new();
    local
        .run_until(async {
            let operations = Rc::new(Cell::new(0u32));
            for _ in 0..100 {
                let mut client = Client::connect(server.address).await;
                let operations = operations.clone();
                spawn_local(async move {
                    loop {
                        let id = client.sign_in("guest").await;
                        sleep(Duration::from_millis(500)).await;
                        client.get(&format!("/sign_out?peer_id={id}")).await;
                        sleep(Duration::from_millis(500)).await;
                        operations.set(operations.get() + 2);
                    }
                });
            }
            let mut resident = Vec::new();
            for _ in 0..6 {
                sleep(Duration::from_secs(10)).await;
                for (client, id) in &mut sleepers {
                    client.get(&format!("/heartbeat?peer_id={id}")).await;
                }
                resident.push(server.resident() as f64 / 1024.0);
            }
            vec![
                ("resident after 10 s", "MiB", resident[0]),
                ("resident after 60 s", "MiB", resident[5]),
                ("operations", "", f64::from(operations.get())),
            ]
        })
        .await
}

/// Two thousand WebSocket peers, most of them idle, and messages to one after
/// the other.
async fn web_sockets(server: &Running) -> Figures {
    const PEERS: usize = 2_000;
    const MESSAGES: usize = 10_000;
    let idle = server.resident();
    let mut peers = Vec::with_capacity(PEERS);
    for _ in 0..PEERS {
        let mut socket = Socket::connect(server.address, "/").await;
        let hello: serde_json::Value =
            serde_json::from_str(socket.receive().await).expect("a first frame");
        let id = hello["peerId"].as_str().expect("an id").to_owned();
        peers.push((socket, id));
    }
    sleep(Duration::from_secs(2)).await;
    let resident = server.resident().saturating_sub(idle);
    let (mut sender, own) = peers.swap_remove(0);
    let before = server.cpu();
    let (mut latencies, mut faults) = (Vec::new(), 0u32);
    for number in 0..MESSAGES {
        let count = peers.len();
        let (receiver, id) = &mut peers[(number * 7919) % count];
        let text = String::from_utf8(body(number as u32)).expect("text");
        let frame = format!(r#"{{"receiverId":"{id}","senderId":"{own}","payload":"{text}"}}"#);
        let sent = Instant::now();
        sender.send(&frame).await;
        faults += u32::from(receiver.receive().await != frame);
        latencies.push(sent.elapsed());
    }
    latencies.sort();
    vec![
        ("resident per peer", "KiB", resident as f64 / PEERS as f64),
        (
            "CPU per message",
            "us",
            micros(server.cpu() - before) / MESSAGES as f64,
        ),
        ("latency p50", "us", percentile(&latencies, 50)),
        ("latency p99", "us", percentile(&latencies, 99)),
        ("faults", "", f64::from(faults)),
    ]
}

/// Five hundred Socket.IO peers, of which one sends to all others.
async fn broadcast(server: &Running) -> Figures {
    const PEERS: usize = 500;
    const MESSAGES: u32 = 200;
    let idle = server.resident();
    let mut peers = Vec::with_capacity(PEERS);
    for _ in 0..PEERS {
        let path = "/socket.io/?EIO=4&transport=websocket";
        let mut socket = Socket::connect(server.address, path).await;
        assert!(socket.receive().await.starts_with('0'));
        socket.send("40").await;
        assert!(socket.receive().await.starts_with("40"));
        peers.push(socket);
    }
    sleep(Duration::from_secs(1)).await;
    let resident = server.resident().saturating_sub(idle);
    let mut sender = peers.swap_remove(0);
    let frame = |number| {
        let text = String::from_utf8(body(number)).expect("text");
        format!(r#"42["message",{{"from":"A","target":"all","payload":"{text}"}}]"#)
    };
    let faults = Rc::new(Cell::new(0u32));
    let (heard, mut all_heard) = tokio::sync::mpsc::unbounded_channel();
    let local = LocalSet::new();
    for mut peer in peers {
        let (heard, faults) = (heard.clone(), faults.clone());
        local.spawn_local(async move {
            for number in 0..MESSAGES {
                let differs = peer.receive().await != frame(number);
                faults.set(faults.get() + u32::from(differs));
                let _ = heard.send(());
            }
        });
    }
    let before = server.cpu();
    let mut latencies = Vec::new();
    local
        .run_until(async {
            for number in 0..MESSAGES {
                let sent = Instant::now();
                sender.send(&frame(number)).await;
                for _ in 1..PEERS {
                    let _ = all_heard.recv().await;
                }
                latencies.push(sent.elapsed());
            }
        })
        .await;
    latencies.sort();
    let deliveries = f64::from(MESSAGES) * (PEERS - 1) as f64;
    vec![
        ("resident per peer", "KiB", resident as f64 / PEERS as f64),
        (
            "CPU per delivery",
            "us",
            micros(server.cpu() - before) / deliveries,
        ),
        ("all have it p50", "ms", percentile(&latencies, 50) / 1000.0),
        ("all have it p99", "ms", percentile(&latencies, 99) / 1000.0),
        ("faults", "", f64::from(faults.get())),
    ]
}
