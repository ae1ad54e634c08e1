//! A Redis of the benchmark's own, or a cluster of them.

use std::{
    env, fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use ::redis::{Value, cmd};

use crate::server::cpu_of;

/// A Redis. Ends when it is dropped.
pub struct Redis {
    process: Child,
    port: u16,
    /// Where it keeps what it knows of its cluster.
    nodes: Option<PathBuf>,
}

impl Redis {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(options: &[&str]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("its number").port();
        drop(free);
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no"])
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server");
        let redis = Self {
            process,
            port,
            nodes: None,
        };
        while redis.try_ask::<Value>(&cmd("PING")).is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        redis
    }

    /// The masters of a cluster, and its URL.
    pub fn start_cluster(masters: usize) -> (Vec<Self>, String) {
        let all: Vec<_> = (0..masters)
            .map(|_| {
                let name = format!("bench-nodes-{:016x}.conf", fastrand::u64(..));
                let nodes = env::temp_dir().join(name);
                let file = nodes.to_str().expect("a path in UTF-8");
                let options = ["--cluster-enabled", "yes", "--cluster-config-file", file];
                let mut redis = Self::start_with(&options);
                redis.nodes = Some(nodes.clone());
                redis
            })
            .collect();
        let addresses: Vec<_> = all
            .iter()
            .map(|redis| format!("127.0.0.1:{}", redis.port))
            .collect();
        let created = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&addresses)
            .arg("--cluster-yes")
            .stdout(Stdio::null())
            .status();
        assert!(created.expect("redis-cli").success());
        for redis in &all {
            let is_ready = || {
                let info: Option<String> = redis.try_ask(cmd("CLUSTER").arg("INFO"));
                info.is_some_and(|info| info.contains("cluster_state:ok"))
            };
            while !is_ready() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        (all, format!("redis+cluster://{}", addresses.join(",")))
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    fn try_ask<T: ::redis::FromRedisValue>(&self, command: &::redis::Cmd) -> Option<T> {
        let mut connection = self.try_connect()?;
        command.query(&mut connection).ok()
    }

    fn try_connect(&self) -> Option<::redis::Connection> {
        let client = ::redis::Client::open(self.url()).ok()?;
        client.get_connection().ok()
    }

    pub fn ask<T: ::redis::FromRedisValue>(&self, command: &::redis::Cmd) -> T {
        self.try_ask(command).expect("an answer")
    }

    pub fn cpu(&self) -> Duration {
        cpu_of(self.process.id())
    }

    /// A number in one of its statistics.
    pub fn stat(&self, section: &str, name: &str) -> f64 {
        let info: String = self.ask(cmd("INFO").arg(section));
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        let value = line.unwrap_or("0").split(',').next().unwrap_or("0");
        value.trim().parse().expect("a number")
    }

    /// Signs in so many peers that say nothing for ten minutes, past all nodes. A node has to
    /// have been there.
    pub fn list_peers(&self, count: u32) {
        let libraries: Vec<Value> = self.ask(cmd("FUNCTION").arg("LIST"));
        let Some(Value::Map(library)) = libraries.into_iter().next().map(into_map) else {
            panic!("no library");
        };
        let name = library.into_iter().find_map(|(key, value)| {
            let key: String = ::redis::from_redis_value(key).ok()?;
            let value = ::redis::from_redis_value::<String>(value).ok()?;
            (key == "library_name").then_some(value)
        });
        let function = format!("{}_growing", name.expect("its name"));
        let mut connection = self.try_connect().expect("a connection");
        for some in (0..count).collect::<Vec<_>>().chunks(500) {
            let mut pipe = ::redis::pipe();
            for number in some {
                pipe.cmd("FCALL").arg(&function).arg(1).arg("{signal}:");
                pipe.arg("add_peer")
                    .arg("benchmark")
                    .arg("")
                    .arg(u64::MAX >> 12);
                pipe.arg(format!("op{number}"))
                    .arg(format!("listed{number}"));
                pipe.arg("http").arg("l").arg("token").arg(0).arg(0);
            }
            pipe.exec(&mut connection).expect("their sign-ins");
        }
    }

    /// From now on, calls that take longer than this are noted.
    pub fn note_slow(&self, slower_than: Duration) {
        let micros = u64::try_from(slower_than.as_micros()).expect("a short time");
        let mut set = cmd("CONFIG");
        set.arg("SET").arg("slowlog-log-slower-than").arg(micros);
        self.ask::<Value>(&set);
        self.ask::<Value>(cmd("SLOWLOG").arg("RESET"));
    }

    /// How long the slowest call has taken since, in ms.
    pub fn slowest(&self) -> f64 {
        let slow: Vec<Vec<Value>> = self.ask(cmd("SLOWLOG").arg("GET").arg(1000));
        let micros = slow
            .into_iter()
            .filter_map(|entry| ::redis::from_redis_value::<u64>(entry.into_iter().nth(2)?).ok());
        micros.max().unwrap_or(0) as f64 / 1000.0
    }
}

/// A map as RESP2 has it: a flat array.
fn into_map(value: Value) -> Value {
    let Value::Array(flat) = value else {
        return value;
    };
    let mut flat = flat.into_iter();
    let mut pairs = Vec::new();
    while let (Some(key), Some(value)) = (flat.next(), flat.next()) {
        pairs.push((key, value));
    }
    Value::Map(pairs)
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(nodes) = &self.nodes {
            let _ = fs::remove_file(nodes);
        }
    }
}
