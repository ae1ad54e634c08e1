//! Peers that wait, and what they take.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{
    client::{At, Client, message, wait},
    figures::{Figures, body, percentile},
    server::Running,
};

/// Peers that have a wait open, each answered once before.
pub async fn park(server: &Running, peers: usize) -> Figures {
    park_at(server, server.address.into(), peers).await
}

/// The same, that connect there.
pub async fn park_at(server: &Running, at: At, peers: usize) -> Figures {
    let idle = server.resident();
    let started = Instant::now();
    let mut clients = Vec::with_capacity(peers);
    for number in 0..peers {
        let mut client = Client::connect(at).await;
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
    let mut sender = Client::connect(at).await;
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
