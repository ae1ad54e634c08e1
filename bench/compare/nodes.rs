//! Many nodes on one Redis, or on a cluster: what messages, changes and sign-ins cost there.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    burst, change,
    client::Client,
    figures::{Figures, micros},
    redis::Redis,
    relay::relay_between,
    server::{Kind, Running},
};

const PAIRS: u32 = 64;
const MESSAGES: u32 = 20_000;

/// Nodes of one server.
fn start(count: usize, url: &str, settings: &[(&str, &str)]) -> (Vec<Running>, Vec<SocketAddr>) {
    let url = [("WEBRTC_REDIS_URL", url)];
    let settings = [&url, settings].concat();
    let nodes: Vec<Running> = (0..count)
        .map(|_| Running::start_with(Kind::Ours, "", &settings))
        .collect();
    let addresses = nodes.iter().map(|node| node.address).collect();
    (nodes, addresses)
}

fn cpu_of_all(nodes: &[Running]) -> Duration {
    nodes.iter().map(Running::cpu).sum()
}

/// One more peer, while many wait at two nodes.
pub async fn change() -> Figures {
    let redis = Redis::start();
    let (nodes, addresses) = start(2, &redis.url(), &[]);
    change::change(&addresses, || redis.cpu() + cpu_of_all(&nodes)).await
}

/// Sign-ins at once, at a node whose list in Redis has so many peers.
pub async fn burst(listed: u32, count: usize) -> Figures {
    let redis = Redis::start();
    let settings = [("WEBRTC_HEARTBEAT_MS", "600000")];
    let (nodes, _) = start(1, &redis.url(), &settings);
    redis.list_peers(listed);
    // The node has the whole list.
    let mut client = Client::connect(nodes[0].address).await;
    client.get("/connections").await;
    redis.note_slow(Duration::from_millis(1));
    let mut figures = burst::burst(nodes[0].address, count).await;
    client.get("/connections").await;
    figures.push(("slowest call of Redis", "ms", redis.slowest()));
    figures
}

/// Pairs in the root list of one Redis.
pub async fn relay(count: usize) -> Figures {
    let redis = Redis::start();
    let (nodes, addresses) = start(count, &redis.url(), &[]);
    let counts = || {
        [
            redis.stat("commandstats", "cmdstat_fcall:calls="),
            redis.stat("stats", "total_net_input_bytes:"),
            redis.stat("stats", "total_net_output_bytes:"),
        ]
    };
    let before = (counts(), redis.cpu());
    let mut figures =
        relay_between(&addresses, PAIRS, MESSAGES, false, || cpu_of_all(&nodes)).await;
    let after = counts();
    let busy = redis.cpu() - before.1;
    let messages = f64::from(MESSAGES / PAIRS * PAIRS);
    let each = |index: usize| (after[index] - before.0[index]) / messages;
    figures.extend([
        ("Redis: CPU per message", "us", micros(busy) / messages),
        ("Redis: round trips per message", "", each(0)),
        ("Redis: bytes in per message", "", each(1)),
        ("Redis: bytes out per message", "", each(2)),
    ]);
    figures
}

/// Pairs in a room each, of two nodes, on one Redis or on the masters of a cluster.
pub async fn relay_in_rooms(masters: usize) -> Figures {
    let (all, url) = match masters {
        1 => {
            let redis = Redis::start();
            let url = redis.url();
            (vec![redis], url)
        }
        _ => Redis::start_cluster(masters),
    };
    let shards = if masters == 1 { 1 } else { 4 * masters };
    let shards = shards.to_string();
    let (nodes, addresses) = start(2, &url, &[("WEBRTC_REDIS_SHARDS", &shards)]);
    let cpu = || all.iter().map(Redis::cpu).collect::<Vec<_>>();
    let (before, began) = (cpu(), Instant::now());
    let mut figures = relay_between(&addresses, PAIRS, MESSAGES, true, || cpu_of_all(&nodes)).await;
    let took = began.elapsed();
    let busy = cpu()
        .into_iter()
        .zip(before)
        .map(|(after, before)| after - before);
    let busiest = busy.max().unwrap_or_default();
    figures.extend([
        (
            "busiest Redis: CPU per message",
            "us",
            micros(busiest) / f64::from(MESSAGES),
        ),
        (
            "busiest Redis: busy",
            "%",
            100.0 * busiest.as_secs_f64() / took.as_secs_f64(),
        ),
    ]);
    figures
}
