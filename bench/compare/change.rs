//! Many peers that wait while one more signs in: what it costs to tell all of them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    client::{Client, wait},
    figures::{Figures, micros, percentile},
};

const PEERS: usize = 2_000;
const CHANGES: u32 = 10;

/// The peers wait at these servers, which are one. `cpu`: what all of them have used.
pub async fn change(servers: &[SocketAddr], cpu: impl Fn() -> Duration) -> Figures {
    let mut peers = Vec::with_capacity(PEERS);
    for server in servers.iter().cycle().take(PEERS) {
        let mut client = Client::connect(*server).await;
        let id = client.sign_in("peer").await;
        client.shrink();
        peers.push((client, id));
    }
    tell(&mut peers[..PEERS - 1], true).await;
    let (last, id) = &mut peers[PEERS - 1];
    last.send(&wait(*id)).await;
    // What a sign-in is followed by is over.
    sleep(Duration::from_secs(3)).await;
    let mut latencies = Vec::new();
    let before = cpu();
    for number in 0..CHANGES {
        let mut guest = Client::connect(servers[number as usize % servers.len()]).await;
        let began = Instant::now();
        guest.sign_in("guest").await;
        tell(&mut peers, false).await;
        latencies.push(began.elapsed());
        sleep(Duration::from_secs(1)).await;
    }
    latencies.sort();
    let cpu = micros(cpu() - before) / 1000.0 / f64::from(CHANGES);
    vec![
        ("CPU per change", "ms", cpu),
        ("all know p50", "ms", percentile(&latencies, 50) / 1000.0),
    ]
}

/// Each of them is told of a change, and waits again. `wait_first`: none waits yet.
async fn tell(peers: &mut [(Client, u32)], wait_first: bool) {
    if wait_first {
        for (client, id) in peers.iter_mut() {
            client.send(&wait(*id)).await;
        }
    }
    for (client, id) in peers {
        assert_eq!(client.reply().await.status, 200);
        client.shrink();
        client.send(&wait(*id)).await;
    }
}
