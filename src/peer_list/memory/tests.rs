//! What the list in this process promises beyond the contract, or what its contract is
//! tested for more strictly than through Redis.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    task::yield_now,
    time::{advance, sleep, timeout},
};

use crate::peer_list::{
    Caller, Delivery, Dialect, HeartbeatOpts, Identity, Link, News, PeerId, Proof, Reason, Refusal,
    SendOpts, SignInOpts, TimeoutPeerList, WaitOpts,
};

async fn sign_in(list: &TimeoutPeerList, dialect: Dialect) -> PeerId {
    let opts = SignInOpts {
        door: "http",
        dialect,
        protected: false,
        has_socket: false,
        identity: Identity::default(),
    };
    list.add_peer(Some("peer"), opts).await.unwrap().id
}

async fn wait(list: &TimeoutPeerList, id: PeerId) -> Result<Delivery, Refusal> {
    let request = list.open_request(Caller {
        id,
        proof: Proof::Trusted,
        link: None,
        lingers: false,
    });
    request?.wait(WaitOpts::default()).await
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_taken_over_by_a_peer_of_another_list_with_the_same_id() {
    let lists = [(); 2].map(|()| TimeoutPeerList::new(HeartbeatOpts::default()));
    let link = Arc::new(Link::new());
    for list in &lists {
        let id = sign_in(list, Dialect::Listed).await;
        let request = list.open_request(Caller {
            id,
            proof: Proof::Trusted,
            link: Some(link.clone()),
            lingers: false,
        });
        request.unwrap().answered();
    }
    sleep(Duration::from_secs(3)).await;
    let connected = lists.each_ref().map(|list| {
        let lines = list.format().to_bytes();
        lines.ends_with(b",1\n")
    });
    assert_eq!(connected, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_grace_in_which_the_process_stood_still_begins_again() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = sign_in(&list, Dialect::Listed).await;
    let grace = Duration::from_secs(5);
    list.sign_out_later(a, grace).await.unwrap();
    // Its timer begins.
    yield_now().await;
    advance(3 * grace).await;
    yield_now().await;
    assert_eq!(list.peer_ids(), [a]);
    sleep(grace + Duration::from_millis(1)).await;
    assert!(list.peer_ids().is_empty());
}

/// Receives this many messages, with waits that are given up again and again.
async fn receive(list: TimeoutPeerList, id: PeerId, messages: usize) -> Vec<(PeerId, Bytes)> {
    let mut received = Vec::new();
    while received.len() < messages {
        let patience = Duration::from_micros(fastrand::u64(0..300));
        let Ok(delivery) = timeout(patience, wait(&list, id)).await else {
            continue;
        };
        let delivery = delivery.unwrap();
        // Some are dropped undone, as by a client that is gone.
        if fastrand::u8(0..4) == 0 {
            continue;
        }
        if let News::Message { from, body } = delivery.news() {
            received.push((*from, body.clone()));
        }
        delivery.done();
    }
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_many_threads_every_message_arrives_once_and_in_order() {
    const PEERS: usize = 8;
    const EACH: usize = 200;
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let mut ids = Vec::new();
    for _ in 0..PEERS {
        ids.push(sign_in(&list, Dialect::Listed).await);
    }
    let mut receivers = Vec::new();
    for id in &ids {
        receivers.push(tokio::spawn(receive(list.clone(), *id, PEERS * EACH)));
    }
    for from in ids.clone() {
        let (list, ids) = (list.clone(), ids.clone());
        tokio::spawn(async move {
            for number in 0..EACH {
                for to in &ids {
                    let body = Bytes::from(number.to_string());
                    list.send(from, *to, body, SendOpts::default())
                        .await
                        .unwrap();
                }
                // Keeps the roster changing under the messages.
                let passing = sign_in(&list, Dialect::Listed).await;
                list.remove_peer(passing, Reason::SignedOut).await.unwrap();
            }
        });
    }
    for receiver in receivers {
        let received = timeout(Duration::from_secs(60), receiver).await;
        let received = received.expect("a message or a wake-up is lost").unwrap();
        for sender in &ids {
            let bodies = received.iter().filter(|(from, _)| from == sender);
            let bodies: Vec<&str> = bodies
                .map(|(_, body)| std::str::from_utf8(body).unwrap())
                .collect();
            let all: Vec<String> = (0..EACH).map(|number| number.to_string()).collect();
            assert_eq!(bodies, all);
        }
    }
}
