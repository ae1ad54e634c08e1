//! Loads of messages and heartbeats by long poll.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{
    task::LocalSet,
    time::{sleep, timeout},
};

use crate::{
    client::{At, Client, message, message_in, wait, wait_in},
    figures::{Figures, body, micros, percentile},
    server::Running,
};

/// Lets a peer hear of all that happened, so that the wait that it leaves
/// open is parked.
async fn settle(client: &mut Client, room: &str, id: u32) {
    loop {
        client.send(&wait_in(room, id)).await;
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
pub async fn relay(server: &Running, pairs: u32, messages: u32) -> Figures {
    relay_between(&[server.address], pairs, messages, false, || server.cpu()).await
}

/// Each sender and its receiver are at different nodes, if there are more than
/// one. `in_rooms`: each pair has a room. `cpu`: of all nodes.
pub async fn relay_between(
    nodes: &[impl Into<At> + Copy],
    pairs: u32,
    messages: u32,
    in_rooms: bool,
    cpu: impl Fn() -> Duration,
) -> Figures {
    let node = |number: u32| nodes[number as usize % nodes.len()];
    let room = |pair: u32| match in_rooms {
        true => format!("/rooms/pair{pair}"),
        false => String::new(),
    };
    let mut senders = Vec::new();
    let mut receivers = Vec::new();
    for pair in 0..pairs {
        let mut sender = Client::connect(node(pair)).await;
        let from = sender
            .sign_in_to(&room(pair), &format!("sender{pair}"))
            .await;
        senders.push((sender, from));
    }
    for pair in 0..pairs {
        let mut receiver = Client::connect(node(pair + 1)).await;
        let room = room(pair);
        let to = receiver.sign_in_to(&room, &format!("receiver{pair}")).await;
        receivers.push((receiver, to, room));
    }
    // All at once, so that nobody is idle for long: Node closes a connection
    // after five seconds.
    sleep(Duration::from_millis(200)).await;
    let settles = receivers
        .iter_mut()
        .map(|(client, id, room)| settle(client, room, *id));
    join_all(settles).await;
    let before = cpu();
    let started = Instant::now();
    let latencies = Rc::new(RefCell::new(Vec::with_capacity(messages as usize)));
    let faults = Rc::new(Cell::new(0u32));
    let local = LocalSet::new();
    for ((mut sender, from), (mut receiver, to, room)) in senders.into_iter().zip(receivers) {
        let (latencies, faults) = (latencies.clone(), faults.clone());
        local.spawn_local(async move {
            for number in 0..messages / pairs {
                let expected = body(number);
                let request = message_in(&room, from, to, &expected);
                let sent = Instant::now();
                let delivery = async {
                    loop {
                        let reply = receiver.reply().await;
                        if reply.pragma == to {
                            // A list, where peers still hear of changes.
                            receiver.send(&wait_in(&room, to)).await;
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
                receiver.send(&wait_in(&room, to)).await;
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

/// Sixteen senders, each two hundred messages back to back to one receiver.
pub async fn burst(server: &Running) -> Figures {
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

pub async fn heartbeat(server: &Running) -> Figures {
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
