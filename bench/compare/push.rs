//! Loads of peers that are heard through a socket.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{task::LocalSet, time::sleep};

use crate::{
    figures::{Figures, body, micros, percentile},
    server::Running,
    socket::Socket,
};

/// Two thousand WebSocket peers, most of them idle, and messages to one after
/// the other.
pub async fn web_sockets(server: &Running) -> Figures {
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
pub async fn broadcast(server: &Running) -> Figures {
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
