//! A server under measurement: its process, its CPU time, its memory.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Ours,
    Floor,
    Original,
}

/// A running server. Ends when it is dropped.
pub struct Running {
    process: Child,
    pub address: SocketAddr,
    /// Where it speaks TLS, if it does.
    pub tls: Option<SocketAddr>,
}

impl Running {
    /// Starts a server. `original`: its script, in `bench/original`.
    pub fn start(kind: Kind, original: &str) -> Self {
        Self::start_with(kind, original, &[])
    }

    /// The same with settings.
    pub fn start_with(kind: Kind, original: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = match kind {
            Kind::Ours => Command::new(env!("CARGO_BIN_EXE_signal-http-heartbeat")),
            Kind::Floor => {
                let mut floor = Command::new(std::env::current_exe().expect("this program"));
                floor.arg("floor");
                floor
            }
            Kind::Original => {
                let mut node = Command::new("node");
                let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/original");
                node.arg(format!("{folder}/{original}"));
                node
            }
        };
        // Else nothing but the address is set: the defaults are measured.
        command.env("HOST", "127.0.0.1").env("PORT", "0");
        command.envs(settings.iter().copied());
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the server");
        let mut log = BufReader::new(process.stdout.take().expect("its output"));
        let mut ready = String::new();
        log.read_line(&mut ready).expect("its first line");
        let ready: serde_json::Value = serde_json::from_str(&ready).expect("its address");
        let address = ready["address"].as_str().expect("its address");
        // Its log is read, as a container's would be.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        // What it does at the start is over.
        std::thread::sleep(Duration::from_millis(300));
        Self {
            address: address.parse().expect("its address"),
            tls: ready["tls"]
                .as_str()
                .map(|tls| tls.parse().expect("its address")),
            process,
        }
    }

    /// CPU time so far.
    pub fn cpu(&self) -> Duration {
        cpu_of(self.process.id())
    }

    /// Resident memory, in KiB.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("its status");
        let line = status.lines().find(|line| line.starts_with("VmRSS"));
        let value = line.expect("its memory").split_whitespace().nth(1);
        value.expect("its memory").parse().expect("a number")
    }
}

/// CPU time of a process so far, user and system, of all threads.
pub fn cpu_of(process: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{process}/task"));
    let nanoseconds = tasks.expect("its threads").flatten().map(|task| {
        let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let on_cpu = stat.split(' ').next().unwrap_or_default();
        on_cpu.parse::<u64>().unwrap_or(0)
    });
    Duration::from_nanos(nanoseconds.sum())
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
