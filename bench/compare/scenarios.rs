//! The loads.

use std::pin::Pin;

use crate::{
    churn,
    figures::Figures,
    nodes, park, push, relay,
    server::{Kind, Running},
};

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
        run: |s| Box::pin(relay::relay(s, 1, 10_000)),
    },
    Scenario {
        name: "relay, 64 pairs",
        servers: ALL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(relay::relay(s, 64, 40_000)),
    },
    Scenario {
        name: "relay, 512 pairs",
        servers: NOT_ORIGINAL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(relay::relay(s, 512, 60_000)),
    },
    Scenario {
        name: "burst, 16 x 200",
        servers: ALL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(relay::burst(s)),
    },
    Scenario {
        name: "heartbeat, 64 connections",
        servers: ALL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(relay::heartbeat(s)),
    },
    Scenario {
        name: "churn, 500 peers, 20/s",
        servers: ALL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(churn::churn(s, 500, 20)),
    },
    Scenario {
        name: "churn, 500 peers, 200/s",
        servers: NOT_ORIGINAL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(churn::churn(s, 500, 200)),
    },
    Scenario {
        name: "park, 1,000 peers",
        servers: NOT_ORIGINAL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(park::park(s, 1_000)),
    },
    Scenario {
        name: "park, 5,000 peers",
        servers: NOT_ORIGINAL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(park::park(s, 5_000)),
    },
    Scenario {
        name: "park, 10,000 peers",
        servers: NOT_ORIGINAL,
        original: SIGNAL_HTTP,
        rounds: 3,
        run: |s| Box::pin(park::park(s, 10_000)),
    },
    Scenario {
        name: "park, 15,000 peers",
        servers: &[Kind::Ours],
        original: SIGNAL_HTTP,
        rounds: 1,
        run: |s| Box::pin(park::park(s, 15_000)),
    },
    Scenario {
        name: "churn, 1,000 peers that never poll, a minute",
        servers: &[Kind::Ours],
        original: SIGNAL_HTTP,
        rounds: 1,
        run: |s| Box::pin(churn::sleepers(s)),
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
        run: |s| Box::pin(push::web_sockets(s)),
    },
    Scenario {
        name: "broadcast to 500 Socket.IO peers",
        servers: &[Kind::Ours, Kind::Original],
        original: "socketio.js",
        rounds: 3,
        run: |s| Box::pin(push::broadcast(s)),
    },
];
