//! Rooms: what each costs, and how soon a room of two hears of a join while others are busy.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    task::{LocalSet, spawn_local},
    time::{interval, sleep},
};

use crate::{
    client::Client,
    figures::{Figures, percentile},
    server::Running,
};

/// The path of a room.
fn room(number: usize) -> String {
    format!("/rooms/room{number}")
}

async fn sign_in(client: &mut Client, room: &str) -> u32 {
    let reply = client.get(&format!("{room}/sign_in?peer_name=peer")).await;
    assert_eq!(reply.status, 200);
    reply.pragma
}

async fn wait(client: &mut Client, room: &str, id: u32) {
    let wait = format!("GET {room}/wait?peer_id={id} HTTP/1.1\r\nHost: x\r\n\r\n");
    client.send(wait.as_bytes()).await;
}

/// Peers that wait in rooms, each of this many, and have heard of all others of theirs.
async fn park(server: &Running, rooms: usize, each: usize) -> Vec<(Client, u32, String)> {
    let mut all = Vec::with_capacity(rooms * each);
    for number in 0..rooms {
        let room = room(number);
        let mut peers = Vec::with_capacity(each);
        for _ in 0..each {
            let mut client = Client::connect(server.address).await;
            let id = sign_in(&mut client, &room).await;
            client.shrink();
            peers.push((client, id, room.clone()));
        }
        for (client, id, room) in &mut peers {
            wait(client, room, *id).await;
        }
        // Each is told of those after it, the last one of nobody.
        for (client, id, room) in &mut peers[..each - 1] {
            assert_eq!(client.reply().await.status, 200);
            client.shrink();
            wait(client, room, *id).await;
        }
        all.append(&mut peers);
    }
    all
}

/// What waiting peers take in rooms of this size.
pub async fn memory(server: &Running, rooms: usize, each: usize) -> Figures {
    let idle = server.resident();
    let parked = park(server, rooms, each).await;
    sleep(Duration::from_secs(2)).await;
    let resident = server.resident().saturating_sub(idle) as f64;
    vec![
        ("resident per peer", "KiB", resident / parked.len() as f64),
        ("resident per room", "KiB", resident / rooms as f64),
    ]
}

/// Joins of a room of two, while this many a second happen in other rooms.
pub async fn joins(server: &Running, rooms: usize, rate: u32) -> Figures {
    LocalSet::new()
        .run_until(join_beside_others(server, rooms, rate))
        .await
}

async fn join_beside_others(server: &Running, rooms: usize, rate: u32) -> Figures {
    const JOINS: u32 = 1_000;
    let mut parked = park(server, rooms, 2).await;
    let (mut watcher, id, watched) = parked.remove(0);
    // Its other peer leaves, and a guest comes in its place again and again.
    let other = parked[0].1;
    let mut guest = Client::connect(server.address).await;
    guest
        .get(&format!("{watched}/sign_out?peer_id={other}"))
        .await;
    watcher.reply().await;
    wait(&mut watcher, &watched, id).await;
    let address = server.address;
    let joined = Rc::new(Cell::new(0u32));
    let count = joined.clone();
    let elsewhere = spawn_local(async move {
        let mut client = Client::connect(address).await;
        let mut ticks = interval(Duration::from_secs(1) / rate);
        loop {
            ticks.tick().await;
            let room = room(1 + count.get() as usize % (rooms - 1));
            let id = sign_in(&mut client, &room).await;
            client.get(&format!("{room}/sign_out?peer_id={id}")).await;
            count.set(count.get() + 1);
        }
    });
    let before = server.cpu();
    let started = Instant::now();
    let mut latencies = Vec::with_capacity(JOINS as usize);
    for _ in 0..JOINS {
        let sent = Instant::now();
        let guest_id = sign_in(&mut guest, &watched).await;
        assert_eq!(watcher.reply().await.status, 200);
        latencies.push(sent.elapsed());
        wait(&mut watcher, &watched, id).await;
        guest
            .get(&format!("{watched}/sign_out?peer_id={guest_id}"))
            .await;
        assert_eq!(watcher.reply().await.status, 200);
        wait(&mut watcher, &watched, id).await;
        sleep(Duration::from_millis(5)).await;
    }
    let took = started.elapsed().as_secs_f64();
    elsewhere.abort();
    let joined = f64::from(joined.get());
    let cpu = (server.cpu() - before).as_secs_f64() * 1e6;
    latencies.sort();
    vec![
        ("told p50", "ms", percentile(&latencies, 50) / 1000.0),
        ("told p99", "ms", percentile(&latencies, 99) / 1000.0),
        ("joins elsewhere", "1/s", joined / took),
        ("CPU per join", "us", cpu / (joined + f64::from(JOINS))),
    ]
}
