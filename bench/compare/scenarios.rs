//! The loads.

use std::{pin::Pin, slice};

use crate::{
    burst, change, churn,
    figures::Figures,
    nodes, park, push, relay, rooms,
    server::{Kind, Running},
    tls,
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
const OURS: &[Kind] = &[Kind::Ours];
const ALL: &[Kind] = &[Kind::Ours, Kind::Floor, Kind::Original];
/// The original needs minutes and gigabytes to get so many peers signed in.
const NOT_ORIGINAL: &[Kind] = &[Kind::Ours, Kind::Floor];

const fn long_poll(name: &'static str, servers: &'static [Kind], run: Run) -> Scenario {
    Scenario {
        name,
        servers,
        original: SIGNAL_HTTP,
        rounds: 3,
        run,
    }
}

pub const SCENARIOS: &[Scenario] = &[
    long_poll("relay, 1 pair", ALL, |s| {
        Box::pin(relay::relay(s, 1, 10_000))
    }),
    long_poll("relay, 64 pairs", ALL, |s| {
        Box::pin(relay::relay(s, 64, 40_000))
    }),
    long_poll("relay, 512 pairs", NOT_ORIGINAL, |s| {
        Box::pin(relay::relay(s, 512, 60_000))
    }),
    long_poll("burst, 16 x 200", ALL, |s| Box::pin(relay::burst(s))),
    long_poll("heartbeat, 64 connections", ALL, |s| {
        Box::pin(relay::heartbeat(s))
    }),
    long_poll("churn, 500 peers, 20/s", ALL, |s| {
        Box::pin(churn::churn(s, 500, 20))
    }),
    long_poll("churn, 500 peers, 200/s", NOT_ORIGINAL, |s| {
        Box::pin(churn::churn(s, 500, 200))
    }),
    long_poll("park, 1,000 peers", NOT_ORIGINAL, |s| {
        Box::pin(park::park(s, 1_000))
    }),
    long_poll("park, 5,000 peers", NOT_ORIGINAL, |s| {
        Box::pin(park::park(s, 5_000))
    }),
    long_poll("park, 10,000 peers", NOT_ORIGINAL, |s| {
        Box::pin(park::park(s, 10_000))
    }),
    Scenario {
        name: "park, 15,000 peers",
        servers: OURS,
        original: SIGNAL_HTTP,
        rounds: 1,
        run: |s| Box::pin(park::park(s, 15_000)),
    },
    // About as many peers as a process may have open files here (20,000).
    Scenario {
        name: "18,000 peers in 9,000 rooms",
        servers: OURS,
        original: SIGNAL_HTTP,
        rounds: 1,
        run: |s| Box::pin(rooms::memory(s, 9_000, 2)),
    },
    Scenario {
        name: "18,000 peers in 18 rooms",
        servers: OURS,
        original: SIGNAL_HTTP,
        rounds: 1,
        run: |s| Box::pin(rooms::memory(s, 18, 1_000)),
    },
    long_poll(
        "joins of a room of 2, beside 500/s in 2,000 others",
        OURS,
        |s| Box::pin(rooms::joins(s, 2_000, 500)),
    ),
    Scenario {
        name: "churn, 1,000 peers that never poll, a minute",
        servers: OURS,
        original: SIGNAL_HTTP,
        rounds: 1,
        run: |s| Box::pin(churn::sleepers(s)),
    },
    Scenario {
        name: "18,000 peers in 36 rooms",
        servers: OURS,
        original: SIGNAL_HTTP,
        rounds: 1,
        run: |s| Box::pin(rooms::memory(s, 36, 500)),
    },
    long_poll("3,000 sign-ins at once", OURS, |s| {
        Box::pin(burst::burst(s.address, 3_000))
    }),
    long_poll("3,000 sign-ins at once, Redis", OURS, |_| {
        Box::pin(nodes::burst(0, 3_000))
    }),
    long_poll("200 sign-ins at once, 20,000 listed, Redis", OURS, |_| {
        Box::pin(nodes::burst(20_000, 200))
    }),
    long_poll("a change, 2,000 waiting", OURS, |s| {
        Box::pin(change::change(slice::from_ref(&s.address), || s.cpu()))
    }),
    long_poll("a change, 2,000 waiting, 2 nodes and Redis", OURS, |_| {
        Box::pin(nodes::change())
    }),
    long_poll("park, 2,000 peers, beside TLS", OURS, |_| {
        Box::pin(tls::park(2_000, false))
    }),
    long_poll("park, 2,000 peers, TLS", OURS, |_| {
        Box::pin(tls::park(2_000, true))
    }),
    long_poll("relay, 64 pairs, TLS", OURS, |_| {
        Box::pin(tls::relay(64, 40_000))
    }),
    long_poll("connections, beside TLS", OURS, |_| {
        Box::pin(tls::handshakes(false, false))
    }),
    long_poll("connections, TLS with ECDSA", OURS, |_| {
        Box::pin(tls::handshakes(false, true))
    }),
    long_poll("connections, TLS with RSA", OURS, |_| {
        Box::pin(tls::handshakes(true, true))
    }),
    long_poll("relay, 64 pairs, 1 node and Redis", OURS, |_| {
        Box::pin(nodes::relay(1))
    }),
    long_poll("relay, 64 pairs, 2 nodes and Redis", OURS, |_| {
        Box::pin(nodes::relay(2))
    }),
    long_poll("relay, 64 pairs, 3 nodes and Redis", OURS, |_| {
        Box::pin(nodes::relay(3))
    }),
    long_poll(
        "relay, 64 pairs in a room each, 2 nodes, 1 Redis",
        OURS,
        |_| Box::pin(nodes::relay_in_rooms(1)),
    ),
    long_poll(
        "relay, 64 pairs in a room each, 2 nodes, 3 masters",
        OURS,
        |_| Box::pin(nodes::relay_in_rooms(3)),
    ),
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
