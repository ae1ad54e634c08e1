//! Measures the server beside the original and beside the floor: the least
//! that axum and hyper can do for the same bytes.
//!
//! Run it with `make bench`. Each server is started anew for each load and
//! gets the same load in turn, in several rounds. Judged by is the server's
//! CPU time per item, for the load shares the machine with it. Every byte of
//! a message is checked; a figure with faults is no figure.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod burst;
mod change;
mod churn;
mod client;
mod figures;
mod floor;
mod handshake;
mod nodes;
mod park;
mod push;
mod redis;
mod relay;
mod report;
mod rooms;
mod scenarios;
mod server;
mod socket;
mod tls;

use scenarios::SCENARIOS;
use server::{Kind, Running};

/// How often each server gets each load.
const ROUNDS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "floor") {
        return floor::run();
    }
    rlimit::increase_nofile_limit(u64::MAX).expect("the limit of open files");
    // Names of scenarios may be given; cargo adds flags of its own.
    let named: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let mut report = report::Report::default();
    for scenario in SCENARIOS {
        let wanted = named
            .iter()
            .any(|name| scenario.name.contains(name.as_str()));
        if !wanted && !named.is_empty() {
            continue;
        }
        for round in 0..ROUNDS.min(scenario.rounds) {
            for kind in [Kind::Ours, Kind::Floor, Kind::Original] {
                if !scenario.servers.contains(&kind) {
                    continue;
                }
                eprintln!("{} round {} {kind:?}", scenario.name, round + 1);
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let server = Running::start(kind, scenario.original);
                let figures = runtime.block_on((scenario.run)(&server));
                report.add(scenario.name, kind, figures);
            }
        }
    }
    report.print();
    if named.is_empty() {
        report.write("bench/results");
    }
}
