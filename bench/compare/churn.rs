//! Loads of peers that sign in and out while others watch, or only send heartbeats.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    task::{LocalSet, spawn_local},
    time::{sleep, sleep_until},
};

use crate::{
    client::{Client, wait},
    figures::{Figures, micros, percentile},
    server::Running,
};

/// What tells one state of the list from all others here: the newest id, and
/// how many there are.
fn state(list: &[u8]) -> (u32, usize) {
    let line = list.split(|b| *b == b'\n').next().unwrap_or_default();
    let id = line.split(|b| *b == b',').nth(1).unwrap_or_default();
    let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
    (
        id.unwrap_or(0),
        list.iter().filter(|b| **b == b'\n').count(),
    )
}

/// What the parked peers have heard of.
#[derive(Default)]
struct Heard {
    /// When each state came to be, in the order of the operations. The
    /// position of a state is its number.
    operations: RefCell<Vec<(Instant, (u32, usize))>>,
    /// The number of the newest state that each peer has heard.
    newest: RefCell<Vec<usize>>,
    /// The last list that each has heard, as its state.
    last: RefCell<Vec<(u32, usize)>>,
    /// For each operation, how long until the last peer knew.
    all_know: RefCell<Vec<Duration>>,
    bytes: Cell<u64>,
}

impl Heard {
    fn hears(&self, peer: usize, list: &[u8]) {
        let now = Instant::now();
        let state = state(list);
        self.last.borrow_mut()[peer] = state;
        let operations = self.operations.borrow();
        let Some(number) = operations.iter().rposition(|(_, s)| *s == state) else {
            return;
        };
        let newest = &mut self.newest.borrow_mut()[peer];
        for (operation, (began, _)) in operations.iter().enumerate().take(number + 1).skip(*newest)
        {
            let took = now.saturating_duration_since(*began);
            let mut all_know = self.all_know.borrow_mut();
            all_know[operation] = all_know[operation].max(took);
        }
        *newest = (number + 1).max(*newest);
    }
}

/// Parked peers, while others sign in and out at a rate.
pub async fn churn(server: &Running, parked: usize, rate: u32) -> Figures {
    const SECONDS: u32 = 5;
    /// So many of the others are signed in at a time.
    const GUESTS: usize = 5;
    let heard = Rc::new(Heard::default());
    heard.newest.borrow_mut().resize(parked, 0);
    heard.last.borrow_mut().resize(parked, (0, 0));
    let mut clients = Vec::new();
    for _ in 0..parked {
        let mut client = Client::connect(server.address).await;
        let id = client.sign_in("parked").await;
        clients.push((client, id));
    }
    let local = LocalSet::new();
    for (peer, (mut client, id)) in clients.into_iter().enumerate() {
        let heard = heard.clone();
        local.spawn_local(async move {
            loop {
                client.send(&wait(id)).await;
                let reply = client.reply().await;
                heard.bytes.set(heard.bytes.get() + reply.size as u64);
                heard.hears(peer, reply.body);
            }
        });
    }
    let figures = local.run_until(async {
        sleep(Duration::from_secs(1)).await;
        heard.bytes.set(0);
        let before = server.cpu();
        let mut client = Client::connect(server.address).await;
        let mut guests: VecDeque<u32> = VecDeque::new();
        let (mut newest, mut count) = (parked as u32, parked);
        let mut next = tokio::time::Instant::now();
        let mut late = Duration::ZERO;
        for _ in 0..SECONDS * rate {
            sleep_until(next).await;
            late = late.max(next.elapsed());
            next += Duration::from_secs(1) / rate;
            let began = Instant::now();
            // The state is known before the server has answered: nobody can
            // hear of it before that is noted.
            let leaves = if guests.len() == GUESTS {
                guests.pop_front()
            } else {
                None
            };
            if leaves.is_some() {
                count -= 1;
            } else {
                newest += 1;
                count += 1;
                guests.push_back(newest);
            }
            heard.operations.borrow_mut().push((began, (newest, count)));
            heard.all_know.borrow_mut().push(Duration::ZERO);
            match leaves {
                Some(id) => {
                    client.get(&format!("/sign_out?peer_id={id}")).await;
                }
                None => {
                    let id = client.sign_in("guest").await;
                    assert_eq!(id, newest, "ids do not rise by one");
                }
            }
        }
        sleep(Duration::from_secs(1)).await;
        let operations = f64::from(SECONDS * rate);
        let cpu = server.cpu() - before;
        let wrong = heard
            .last
            .borrow()
            .iter()
            .filter(|s| **s != (newest, count))
            .count();
        let mut all_know = heard.all_know.take();
        all_know.sort();
        vec![
            ("CPU per operation", "ms", micros(cpu) / 1000.0 / operations),
            (
                "bytes per operation",
                "kB",
                heard.bytes.get() as f64 / 1000.0 / operations,
            ),
            ("all know p99", "ms", percentile(&all_know, 99) / 1000.0),
            ("wrong last lists", "", wrong as f64),
            ("latest start", "ms", late.as_secs_f64() * 1000.0),
        ]
    });
    figures.await
}

/// A thousand peers that only send heartbeats, and a hundred that sign in and
/// out for a minute.
pub async fn sleepers(server: &Running) -> Figures {
    let mut sleepers = Vec::new();
    for _ in 0..1_000 {
        let mut client = Client::connect(server.address).await;
        let id = client.sign_in("sleeper").await;
        sleepers.push((client, id));
    }
    let local = LocalSet::new();
    local
        .run_until(async {
            let operations = Rc::new(Cell::new(0u32));
            for _ in 0..100 {
                let mut client = Client::connect(server.address).await;
                let operations = operations.clone();
                spawn_local(async move {
                    loop {
                        let id = client.sign_in("guest").await;
                        sleep(Duration::from_millis(500)).await;
                        client.get(&format!("/sign_out?peer_id={id}")).await;
                        sleep(Duration::from_millis(500)).await;
                        operations.set(operations.get() + 2);
                    }
                });
            }
            let mut resident = Vec::new();
            for _ in 0..6 {
                sleep(Duration::from_secs(10)).await;
                for (client, id) in &mut sleepers {
                    client.get(&format!("/heartbeat?peer_id={id}")).await;
                }
                resident.push(server.resident() as f64 / 1024.0);
            }
            vec![
                ("resident after 10 s", "MiB", resident[0]),
                ("resident after 60 s", "MiB", resident[5]),
                ("operations", "", f64::from(operations.get())),
            ]
        })
        .await
}
