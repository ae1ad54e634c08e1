//! The peer list against a simple model, in any interleaving, and its rules
//! one by one. Time is paused: it passes only where a test says so.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use proptest::prelude::*;
use tokio::{
    task::yield_now,
    time::{Instant, sleep, timeout},
};
use tokio_test::{assert_pending, assert_ready, task};

use super::*;

mod acknowledgements;
mod returning;
mod sockets;

type WaitTask = task::Spawn<Pin<Box<dyn Future<Output = Result<Delivery, Refusal>>>>>;

fn wait(list: &TimeoutPeerList, id: PeerId) -> WaitTask {
    let list = list.clone();
    task::spawn(Box::pin(
        async move { list.wait(id, WaitOpts::default()).await },
    ))
}

/// Lets time pass (the clock is paused: it jumps from timer to timer), and
/// the list's own tasks run.
async fn pass(time: Duration) {
    sleep(time).await;
    for _ in 0..5 {
        yield_now().await;
    }
}

fn caller(id: PeerId, link: Option<&Arc<Link>>) -> Caller {
    Caller {
        id,
        proof: Proof::Nothing,
        link: link.cloned(),
        lingers: false,
    }
}

fn text(lines: &Lines) -> String {
    String::from_utf8(lines.to_bytes().to_vec()).unwrap()
}

fn way(dialect: Dialect) -> WayIn {
    WayIn {
        door: "http",
        dialect,
        protected: false,
    }
}

async fn sign_in(list: &TimeoutPeerList, name: &str) -> PeerId {
    list.add_peer(Some(name), way(Dialect::Listed))
        .await
        .unwrap()
        .id
}

/// An event as `+`, `=` or `-`, the peer's id, and why it was removed.
fn told(event: &PeerEvent) -> String {
    match event {
        PeerEvent::PeerAdded(peer) => format!("+ {}", peer.id),
        PeerEvent::PeerReconnected(peer) => format!("= {}", peer.id),
        PeerEvent::PeerRemoved { peer, reason } => format!("- {} {reason}", peer.id),
    }
}

/// Takes what is there for a peer, without waiting.
async fn take(list: &TimeoutPeerList, id: PeerId) -> News {
    let mut wait = wait(list, id);
    let delivery = assert_ready!(wait.poll()).unwrap();
    let news = delivery.news().clone();
    delivery.done();
    news
}

fn status(news: &str) -> News {
    News::Status(news.to_owned().into())
}

fn message(from: PeerId, body: &'static str) -> News {
    News::Message {
        from,
        body: Bytes::from_static(body.as_bytes()),
    }
}

async fn say(list: &TimeoutPeerList, from: PeerId, to: PeerId, body: &'static str) {
    let body = Bytes::from_static(body.as_bytes());
    list.send(from, to, body, SendOpts::default())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_signs_in_with_its_own_line_first_and_the_others_newest_first() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let added = list
        .add_peer(Some("a"), way(Dialect::Listed))
        .await
        .unwrap();
    assert_eq!((added.id.get(), text(&added.list).as_str()), (1, "a,1,1\n"));
    sign_in(&list, "b").await;
    let added = list
        .add_peer(Some("c,\n,9,1"), way(Dialect::Bare))
        .await
        .unwrap();
    assert_eq!(text(&added.list), "c___9_1,3,1\nb,2,1\na,1,1\n");
}

#[tokio::test(start_paused = true)]
async fn a_full_list_and_an_empty_name_are_refused() {
    let list = TimeoutPeerList::new(HeartbeatOpts {
        max_peers: 1,
        ..HeartbeatOpts::default()
    });
    let nameless = list.add_peer(Some(""), way(Dialect::Listed)).await;
    assert_eq!(nameless.unwrap_err(), Refusal::NoName);
    let a = sign_in(&list, "a").await;
    let full = list.add_peer(Some("b"), way(Dialect::Listed)).await;
    assert_eq!(full.unwrap_err(), Refusal::Full);
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    assert_eq!(sign_in(&list, "b").await.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_missed_many_changes_gets_one_list() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = sign_in(&list, "a").await;
    for _ in 0..100 {
        let b = sign_in(&list, "b").await;
        list.remove_peer(b, Reason::SignedOut).await.unwrap();
    }
    sign_in(&list, "c").await;
    pass(Duration::from_secs(1)).await;
    assert_eq!(take(&list, a).await, status("c,102,1\na,1,1\n"));
    assert_pending!(wait(&list, a).poll());
}

#[tokio::test(start_paused = true)]
async fn a_bare_peer_hears_each_change_in_order_one_line_a_wait() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = list
        .add_peer(Some("a"), way(Dialect::Bare))
        .await
        .unwrap()
        .id;
    let b = sign_in(&list, "b").await;
    sign_in(&list, "c").await;
    list.remove_peer(b, Reason::SignedOut).await.unwrap();
    pass(Duration::from_secs(1)).await;
    for line in ["b,2,1\n", "c,3,1\n", "b,2,0\n"] {
        assert_eq!(take(&list, a).await, status(line));
    }
    assert_pending!(wait(&list, a).poll());
}

#[tokio::test(start_paused = true)]
async fn a_bare_peer_that_cannot_be_told_every_change_any_more_is_removed() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let polls = list
        .add_peer(Some("a"), way(Dialect::Bare))
        .await
        .unwrap()
        .id;
    let sleeps = list
        .add_peer(Some("b"), way(Dialect::Bare))
        .await
        .unwrap()
        .id;
    let start = Instant::now();
    let mut last = list.subscribe(None);
    for _ in 0..roster::LOG_LENGTH / 2 {
        let c = sign_in(&list, "c").await;
        list.remove_peer(c, Reason::SignedOut).await.unwrap();
        last = list.subscribe(None);
    }
    pass(Duration::from_secs(1)).await;
    assert_eq!(take(&list, polls).await, News::Removed(Reason::TimedOut));
    for id in [polls, sleeps] {
        // The one by its wait, the other by the collector.
        let (_, event) = last.next().await.unwrap();
        assert_eq!(told(&event), format!("- {id} timed_out"));
    }
    assert_eq!(start.elapsed().as_secs(), 15, "not at the first collection");
}

#[tokio::test(start_paused = true)]
async fn a_message_follows_the_list_that_names_its_sender_at_once() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = sign_in(&list, "a").await;
    for _ in 0..200 {
        // Keeps the window between two tellings open.
        sign_in(&list, "x").await;
    }
    pass(Duration::from_secs(1)).await;
    take(&list, a).await;
    sign_in(&list, "x").await;
    let b = sign_in(&list, "b").await;
    take(&list, a).await;
    let c = sign_in(&list, "c").await;
    let mut waiting = wait(&list, a);
    assert_pending!(waiting.poll());
    say(&list, c, a, "offer").await;
    say(&list, b, a, "hello").await;
    assert!(waiting.is_woken());
    let told = assert_ready!(waiting.poll()).unwrap();
    assert!(matches!(told.news(), News::Status(news) if news.to_bytes().starts_with(b"c,")));
    told.done();
    assert_eq!(take(&list, a).await, message(c, "offer"));
    assert_eq!(take(&list, a).await, message(b, "hello"));
}

#[tokio::test(start_paused = true)]
async fn a_waiting_message_goes_before_a_change_that_it_does_not_need() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = sign_in(&list, "a").await;
    let b = sign_in(&list, "b").await;
    take(&list, a).await;
    sign_in(&list, "c").await;
    pass(Duration::from_secs(1)).await;
    say(&list, b, a, "hello").await;
    assert_eq!(take(&list, a).await, message(b, "hello"));
    assert_eq!(take(&list, a).await, status("c,3,1\nb,2,1\na,1,1\n"));
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_wait_receives_and_an_older_one_ends_at_its_own_time() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = sign_in(&list, "a").await;
    let owned = list.clone();
    let mut older = task::spawn(async move {
        owned
            .wait(
                a,
                WaitOpts {
                    limit: Some(Duration::from_secs(25)),
                    ..WaitOpts::default()
                },
            )
            .await
    });
    assert_pending!(older.poll());
    let mut newest = wait(&list, a);
    assert_pending!(newest.poll());
    say(&list, a, a, "to myself").await;
    assert!(newest.is_woken() && !older.is_woken());
    let delivery = assert_ready!(newest.poll()).unwrap();
    assert_eq!(*delivery.news(), message(a, "to myself"));
    delivery.done();
    assert_pending!(older.poll());
    pass(Duration::from_secs(25)).await;
    let end = assert_ready!(older.poll()).unwrap();
    assert_eq!(*end.news(), News::Nothing("a,1,0\n".into()));
}

#[tokio::test(start_paused = true)]
async fn while_a_delivery_is_on_loan_nobody_else_takes_and_a_dropped_one_is_first_again() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = sign_in(&list, "a").await;
    say(&list, a, a, "one").await;
    say(&list, a, a, "two").await;
    let on_loan = assert_ready!(wait(&list, a).poll()).unwrap();
    let mut second = wait(&list, a);
    assert_pending!(second.poll());
    drop(on_loan);
    assert!(second.is_woken());
    assert_eq!(
        *assert_ready!(second.poll()).unwrap().news(),
        message(a, "one")
    );
    assert_eq!(take(&list, a).await, message(a, "one"));
    assert_eq!(take(&list, a).await, message(a, "two"));
}

#[tokio::test(start_paused = true)]
async fn every_open_wait_of_a_removed_peer_ends_at_once() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let b = sign_in(&list, "b").await;
    // Its own sign-out is no error to a peer, and its removal by others is one.
    let reasons = [
        (Reason::SignedOut, News::Nothing("b,1,1\n".into())),
        (Reason::Kicked, News::Removed(Reason::Kicked)),
    ];
    let mut a = b;
    for (reason, end) in reasons {
        a = sign_in(&list, "a").await;
        let mut waits = [wait(&list, a), wait(&list, a), wait(&list, a)];
        for wait in &mut waits {
            assert_pending!(wait.poll());
        }
        assert!(list.remove_peer(a, reason).await.unwrap());
        assert!(!list.remove_peer(a, reason).await.unwrap());
        for wait in &mut waits {
            assert!(wait.is_woken());
            assert_eq!(*assert_ready!(wait.poll()).unwrap().news(), end);
        }
    }
    let bare = list
        .add_peer(Some("c"), way(Dialect::Bare))
        .await
        .unwrap()
        .id;
    let mut polls = wait(&list, bare);
    assert_pending!(polls.poll());
    list.remove_peer(bare, Reason::SignedOut).await.unwrap();
    let end = assert_ready!(polls.poll()).unwrap();
    assert_eq!(*end.news(), News::Nothing("\n".into()));
    let late = list.send(a, a, Bytes::new(), SendOpts::default()).await;
    assert_eq!(late.unwrap_err(), Refusal::UnknownPeer);
}

#[tokio::test(start_paused = true)]
async fn at_the_end_every_open_wait_is_answered_and_none_parks_any_more() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = sign_in(&list, "a").await;
    let b = list
        .add_peer(Some("b"), way(Dialect::Bare))
        .await
        .unwrap()
        .id;
    take(&list, a).await;
    let mut waits = [wait(&list, a), wait(&list, b), wait(&list, b)];
    for wait in &mut waits {
        assert_pending!(wait.poll());
    }
    list.end_waits();
    let ends = ["b,2,1\na,1,1\n", "\n", "\n"];
    for (wait, end) in waits.iter_mut().zip(ends) {
        assert!(wait.is_woken());
        let delivery = assert_ready!(wait.poll()).unwrap();
        assert_eq!(*delivery.news(), News::Nothing(end.into()));
    }
    say(&list, a, b, "still delivered").await;
    assert_eq!(take(&list, b).await, message(a, "still delivered"));
    assert_eq!(take(&list, b).await, News::Nothing("\n".into()));
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_refuses_and_keeps_what_it_has() {
    let list = TimeoutPeerList::new(HeartbeatOpts {
        max_pending_bytes: 2 * MESSAGE_OVERHEAD_BYTES + 6,
        ..HeartbeatOpts::default()
    });
    let a = sign_in(&list, "a").await;
    say(&list, a, a, "one").await;
    say(&list, a, a, "two").await;
    let full = list.send(a, a, Bytes::new(), SendOpts::default()).await;
    assert_eq!(full.unwrap_err(), Refusal::MailboxFull);
    assert_eq!(take(&list, a).await, message(a, "one"));
    say(&list, a, a, "3").await;
    assert_eq!(take(&list, a).await, message(a, "two"));
    assert_eq!(take(&list, a).await, message(a, "3"));
}

#[tokio::test(start_paused = true)]
async fn who_joined_counts_as_connected_in_the_update_that_announces_it_only() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = sign_in(&list, "a").await;
    let b = sign_in(&list, "b").await;
    pass(Duration::from_secs(10)).await;
    let a_is_here = list.open_request(caller(a, None)).unwrap();
    assert_eq!(take(&list, a).await, status("b,2,1\na,1,1\n"));
    list.open_request(caller(b, None)).unwrap().answered(true);
    pass(Duration::from_millis(1_999)).await;
    assert_eq!(text(&list.format()), "b,2,1\na,1,1\n");
    pass(Duration::from_millis(1)).await;
    assert_eq!(text(&list.format()), "b,2,0\na,1,1\n");
    drop(a_is_here);
    assert_eq!(text(&list.format()), "b,2,0\na,1,0\n");
}

#[tokio::test(start_paused = true)]
async fn an_open_connection_counts_for_the_last_peer_that_used_it() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = sign_in(&list, "a").await;
    let b = sign_in(&list, "b").await;
    let proxy = Arc::new(Link::new());
    list.open_request(caller(a, Some(&proxy)))
        .unwrap()
        .answered(false);
    assert_eq!(text(&list.format()), "b,2,1\na,1,1\n");
    pass(Duration::from_secs(3)).await;
    assert_eq!(text(&list.format()), "b,2,0\na,1,1\n");
    list.open_request(caller(b, Some(&proxy)))
        .unwrap()
        .answered(false);
    assert_eq!(text(&list.format()), "b,2,1\na,1,0\n");
    let other = Arc::new(Link::new());
    list.open_request(caller(b, Some(&other)))
        .unwrap()
        .answered(false);
    drop(proxy);
    assert_eq!(text(&list.format()), "b,2,1\na,1,0\n");
    drop(other);
    assert_eq!(text(&list.format()), "b,2,0\na,1,0\n");
}

#[tokio::test(start_paused = true)]
async fn the_collector_removes_the_stale_and_the_others_hear_of_it() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = sign_in(&list, "a").await;
    let b = sign_in(&list, "b").await;
    let c = sign_in(&list, "c").await;
    let mut events = list.subscribe(None);
    take(&list, a).await;
    let _open = list.open_request(caller(a, None)).unwrap();
    let mut waiting = wait(&list, a);
    assert_pending!(waiting.poll());
    list.refresh_peer_timeout(c).await.unwrap();
    pass(Duration::from_millis(29_999)).await;
    assert_eq!(list.peer_ids(), [a, b, c]);
    pass(Duration::from_millis(1)).await;
    assert_eq!(list.peer_ids(), [a, c]);
    assert!(waiting.is_woken());
    let delivery = assert_ready!(waiting.poll()).unwrap();
    assert_eq!(*delivery.news(), status("c,3,0\na,1,1\n"));
    let (_, removed) = events.next().await.unwrap();
    assert_eq!(told(&removed), "- 2 timed_out");
    pass(Duration::from_secs(15)).await;
    assert_eq!(list.peer_ids(), [a]);
}

#[tokio::test(start_paused = true)]
async fn without_its_collector_nobody_times_out() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = sign_in(&list, "a").await;
    list.cancel_gc();
    pass(Duration::from_secs(3600)).await;
    assert_eq!(list.peer_ids(), [a]);
}

#[tokio::test(start_paused = true)]
async fn subscribers_hear_of_each_peer_added_and_removed_in_order() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let mut events = list.subscribe(None);
    let a = sign_in(&list, "a\n").await;
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    let mut next = async || events.next().await.unwrap();
    let (first, PeerEvent::PeerAdded(peer)) = next().await else {
        panic!("not a sign-in");
    };
    assert_eq!((peer.id, &*peer.name), (a, "a_"));
    assert_eq!((&*peer.door, peer.connected), ("http", true));
    let (second, PeerEvent::PeerRemoved { peer, reason }) = next().await else {
        panic!("not a removal");
    };
    assert_eq!((second - first, peer.id, reason), (1, a, Reason::SignedOut));
    assert!(!peer.connected);
}

/// Receives this many messages, with waits that are given up again and again.
async fn receive(list: TimeoutPeerList, id: PeerId, messages: usize) -> Vec<(PeerId, Bytes)> {
    let mut received = Vec::new();
    while received.len() < messages {
        let patience = Duration::from_micros(fastrand::u64(0..300));
        let Ok(delivery) = timeout(patience, list.wait(id, WaitOpts::default())).await else {
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
        ids.push(sign_in(&list, "peer").await);
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
                let passing = sign_in(&list, "passing").await;
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

// Any interleaving against a model.

#[derive(Clone, Debug)]
enum Step {
    SignIn { bare: bool },
    SignOut(usize),
    Send { from: usize, to: usize },
    Wait(usize),
    DropWait(usize),
    Done(usize),
    DropDelivery(usize),
    Heartbeat(usize),
    Pass { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0usize..6;
    prop_oneof![
        3 => any::<bool>().prop_map(|bare| Step::SignIn { bare }),
        1 => peer.clone().prop_map(Step::SignOut),
        8 => (peer.clone(), peer.clone()).prop_map(|(from, to)| Step::Send { from, to }),
        6 => peer.clone().prop_map(Step::Wait),
        2 => peer.clone().prop_map(Step::DropWait),
        8 => peer.clone().prop_map(Step::Done),
        3 => peer.clone().prop_map(Step::DropDelivery),
        1 => peer.prop_map(Step::Heartbeat),
        1 => (0u64..20).prop_map(|ms| Step::Pass { ms }),
        1 => (0u64..20_000).prop_map(|ms| Step::Pass { ms }),
    ]
}

/// A peer as the model sees it.
struct ModelPeer {
    id: PeerId,
    bare: bool,
    /// Sent to it and not yet received.
    pending: VecDeque<(PeerId, Bytes)>,
    /// Who is there, as far as it was told.
    knows: BTreeSet<PeerId>,
    /// Every peer that it was ever told of.
    met: BTreeSet<PeerId>,
    /// The newest is last.
    waits: Vec<(WaitTask, Box<dyn OpenRequest>)>,
    delivery: Option<(Delivery, Box<dyn OpenRequest>)>,
    last_heartbeat: Option<Instant>,
    last_seen: Instant,
}

impl ModelPeer {
    fn stale(&self, now: Instant) -> bool {
        match self.last_heartbeat {
            Some(beat) => now >= beat + Duration::from_secs(33),
            None => {
                let open = !self.waits.is_empty() || self.delivery.is_some();
                !open && now >= self.last_seen + Duration::from_secs(30)
            }
        }
    }

    /// Polls those of its waits that were woken, as a runtime would.
    fn poll(&mut self, peers: &BTreeSet<PeerId>) {
        let mut index = 0;
        while index < self.waits.len() {
            let newest = index + 1 == self.waits.len();
            if self.waits[index].0.is_woken()
                && let std::task::Poll::Ready(delivery) = self.waits[index].0.poll()
            {
                assert!(newest, "an older wait was given something");
                assert!(self.delivery.is_none(), "two deliveries at a time");
                let delivery = delivery.unwrap();
                self.check(delivery.news(), peers);
                let (_, request) = self.waits.remove(index);
                self.delivery = Some((delivery, request));
            } else {
                index += 1;
            }
        }
    }

    fn check(&self, news: &News, peers: &BTreeSet<PeerId>) {
        match news {
            News::Message { from, body } => {
                let first = self.pending.front().cloned();
                assert_eq!(first, Some((*from, body.clone())), "lost or out of order");
                let known = self.met.contains(from) || !(self.bare || peers.contains(from));
                assert!(known, "a message of {from} came before the news of it");
            }
            News::Status(_) => {}
            other => panic!("{other:?} out of the blue"),
        }
    }

    fn received(&mut self, news: &News) {
        match news {
            News::Message { .. } => {
                self.pending.pop_front();
            }
            News::Status(lines) => {
                let lines = text(lines);
                let mut lines = lines.lines().map(|line| {
                    let mut fields = line.split(',');
                    let id: u32 = fields.nth(1).unwrap().parse().unwrap();
                    (PeerId::new(id).unwrap(), fields.next() == Some("1"))
                });
                if self.bare {
                    let (id, joined) = lines.next().unwrap();
                    let news = if joined {
                        self.knows.insert(id)
                    } else {
                        self.knows.remove(&id)
                    };
                    assert!(news, "a change was told twice");
                    assert_eq!(lines.next(), None);
                } else {
                    self.knows = lines.map(|(id, _)| id).collect();
                }
                self.met.extend(&self.knows);
            }
            other => assert!(matches!(other, News::Nothing(_) | News::Removed(_))),
        }
    }
}

struct Model {
    list: TimeoutPeerList,
    peers: BTreeMap<PeerId, ModelPeer>,
    messages: u32,
    next_collection: Instant,
}

impl Model {
    fn new() -> Self {
        Self {
            list: TimeoutPeerList::new(HeartbeatOpts::default()),
            peers: BTreeMap::new(),
            messages: 0,
            next_collection: Instant::now() + Duration::from_secs(15),
        }
    }

    fn nth(&mut self, index: usize) -> Option<&mut ModelPeer> {
        let index = index % self.peers.len().max(1);
        self.peers.values_mut().nth(index)
    }

    async fn step(&mut self, step: Step) {
        let list = self.list.clone();
        match step {
            Step::SignIn { bare } => self.sign_in(bare).await,
            Step::SignOut(peer) => {
                if let Some(id) = self.nth(peer).map(|peer| peer.id) {
                    assert!(list.remove_peer(id, Reason::SignedOut).await.unwrap());
                    self.removed(id, true);
                }
            }
            Step::Send { from, to } => {
                self.messages += 1;
                let body = Bytes::from(self.messages.to_string());
                if let Some(from) = self.nth(from).map(|peer| peer.id)
                    && let Some(to) = self.nth(to)
                {
                    list.send(from, to.id, body.clone(), SendOpts::default())
                        .await
                        .unwrap();
                    to.pending.push_back((from, body));
                }
            }
            Step::Wait(peer) => {
                if let Some(peer) = self.nth(peer) {
                    let request = list.open_request(caller(peer.id, None)).unwrap();
                    let mut wait = wait(&list, peer.id);
                    // Its first poll is due without a wake-up.
                    wait.enter(|context, _| context.waker().wake_by_ref());
                    peer.waits.push((wait, request));
                }
            }
            Step::DropWait(peer) => {
                if let Some(peer) = self.nth(peer)
                    && !peer.waits.is_empty()
                {
                    let oldest = peer.waits.len() % 2;
                    let oldest_or_newest = (peer.waits.len() - 1) * oldest;
                    drop(peer.waits.remove(oldest_or_newest));
                    peer.last_seen = Instant::now();
                }
            }
            Step::Done(peer) => {
                if let Some(peer) = self.nth(peer)
                    && let Some((delivery, request)) = peer.delivery.take()
                {
                    let news = delivery.news().clone();
                    peer.received(&news);
                    delivery.done();
                    request.answered(true);
                    peer.last_seen = Instant::now();
                }
            }
            Step::DropDelivery(peer) => {
                if let Some(peer) = self.nth(peer)
                    && peer.delivery.take().is_some()
                {
                    peer.last_seen = Instant::now();
                }
            }
            Step::Heartbeat(peer) => {
                if let Some(peer) = self.nth(peer) {
                    list.refresh_peer_timeout(peer.id).await.unwrap();
                    peer.last_heartbeat = Some(Instant::now());
                }
            }
            Step::Pass { ms } => {
                pass(Duration::from_millis(ms)).await;
                self.collect();
            }
        }
        let here: BTreeSet<PeerId> = self.peers.keys().copied().collect();
        assert_eq!(list.peer_ids(), here.iter().copied().collect::<Vec<_>>());
        for peer in self.peers.values_mut() {
            peer.poll(&here);
        }
    }

    async fn sign_in(&mut self, bare: bool) {
        let dialect = if bare { Dialect::Bare } else { Dialect::Listed };
        let added = self.list.add_peer(Some("p"), way(dialect)).await.unwrap();
        let (id, lines) = (added.id, added.list);
        let knows: BTreeSet<PeerId> = text(&lines)
            .lines()
            .map(|line| line.split(',').nth(1).unwrap().parse().unwrap())
            .map(|id| PeerId::new(id).unwrap())
            .collect();
        assert!(text(&lines).starts_with(&format!("p,{id},1\n")));
        let peer = ModelPeer {
            id,
            bare,
            pending: VecDeque::new(),
            met: knows.clone(),
            knows,
            waits: Vec::new(),
            delivery: None,
            last_heartbeat: None,
            last_seen: Instant::now(),
        };
        self.peers.insert(id, peer);
    }

    /// What the collector is to do when this much time has passed.
    fn collect(&mut self) {
        while self.next_collection <= Instant::now() {
            let peers = self.peers.values();
            let stale = peers.filter(|peer| peer.stale(self.next_collection));
            let stale: Vec<PeerId> = stale.map(|peer| peer.id).collect();
            for id in stale {
                self.removed(id, false);
            }
            self.next_collection += Duration::from_secs(15);
        }
    }

    /// All waits of a removed peer end. `signed_out`: it has asked for that itself.
    fn removed(&mut self, id: PeerId, signed_out: bool) {
        let mut peer = self.peers.remove(&id).unwrap();
        for (wait, _) in &mut peer.waits {
            assert!(wait.is_woken());
            let delivery = assert_ready!(wait.poll()).unwrap();
            let end = delivery.news();
            assert_eq!(matches!(end, News::Nothing(_)), signed_out, "{end:?}");
            assert_eq!(matches!(end, News::Removed(_)), !signed_out, "{end:?}");
        }
    }

    /// After a while of polling, everybody has everything.
    async fn settle(&mut self) {
        pass(Duration::from_millis(100)).await;
        self.collect();
        let here: BTreeSet<PeerId> = self.peers.keys().copied().collect();
        for peer in self.peers.values_mut() {
            peer.waits.clear();
        }
        for _ in 0..500 {
            for peer in 0..here.len() {
                if self.nth(peer).unwrap().waits.is_empty() {
                    self.step(Step::Wait(peer)).await;
                }
                self.step(Step::Done(peer)).await;
            }
        }
        for peer in self.peers.values() {
            assert!(peer.pending.is_empty(), "{} misses messages", peer.id);
            assert_eq!(peer.knows, here, "{} has a stale list", peer.id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_is_lost_nor_told_twice_nor_out_of_order_in_any_interleaving(
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut model = Model::new();
            for step in steps {
                model.step(step).await;
            }
            model.settle().await;
        });
    }
}
