//! Many nodes on one Redis: what a message between two nodes costs them and it.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    figures::{Figures, micros},
    relay::relay_between,
    server::{Kind, Running, cpu_of},
};

const PAIRS: u32 = 64;
const MESSAGES: u32 = 20_000;

/// A Redis of its own. Ends when it is dropped.
struct Redis {
    process: Child,
    url: String,
}

impl Redis {
    fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("its number").port().to_string();
        drop(free);
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port])
            .args(["--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server");
        let url = format!("redis://127.0.0.1:{port}/");
        let redis = Self { process, url };
        while redis.try_info("server").is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        redis
    }

    fn try_info(&self, section: &str) -> Option<String> {
        let client = redis::Client::open(self.url.as_str()).ok()?;
        let mut connection = client.get_connection().ok()?;
        redis::cmd("INFO").arg(section).query(&mut connection).ok()
    }

    /// A number in one of its statistics.
    fn stat(&self, section: &str, name: &str) -> f64 {
        let info = self.try_info(section).expect("its statistics");
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap_or("0").split(',').next().unwrap_or("0");
        value.trim().parse().expect("a number")
    }

    fn counts(&self) -> [f64; 3] {
        [
            self.stat("commandstats", "cmdstat_fcall:calls="),
            self.stat("stats", "total_net_input_bytes:"),
            self.stat("stats", "total_net_output_bytes:"),
        ]
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub async fn relay(count: usize) -> Figures {
    let redis = Redis::start();
    let settings = [("WEBRTC_REDIS_URL", redis.url.as_str())];
    let nodes: Vec<Running> = (0..count)
        .map(|_| Running::start_with(Kind::Ours, "", &settings))
        .collect();
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    let before = (redis.counts(), cpu_of(redis.process.id()));
    let cpu = || nodes.iter().map(Running::cpu).sum();
    let mut figures = relay_between(&addresses, PAIRS, MESSAGES, cpu).await;
    let after = redis.counts();
    let busy = cpu_of(redis.process.id()) - before.1;
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
