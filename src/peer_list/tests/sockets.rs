//! Peers whose socket is open, and peers that come in unlisted.

use super::*;

const SCOPE: &str = "names";
const CHANNEL: &str = "all";

fn listing(name: &str) -> Listing<'_> {
    Listing {
        name,
        card: "card".into(),
        hello: "hello".into(),
        farewell: "farewell".into(),
    }
}

async fn come(list: &TimeoutPeerList, key: Option<&str>) -> Added {
    let coming = Unlisted {
        key,
        door: "socketio",
        channels: &[CHANNEL],
    };
    list.add_unlisted(coming).await.unwrap()
}

async fn unlisted(list: &TimeoutPeerList, key: Option<&str>) -> (PeerId, Box<dyn OpenSocket>) {
    let id = come(list, key).await.id;
    (id, list.open_socket(id, false).await.unwrap())
}

/// Takes what is there for a socket, without waiting.
async fn take(socket: &dyn OpenSocket) -> (u64, News) {
    let delivery = {
        let mut wait = task::spawn(socket.wait());
        assert_ready!(wait.poll())
    };
    let taken = (delivery.number(), delivery.news().clone());
    delivery.done();
    taken
}

fn nothing_for(socket: &dyn OpenSocket) {
    assert_pending!(task::spawn(socket.wait()).poll());
}

fn published(number: u64, body: &'static str) -> (u64, News) {
    (number, News::Published(body.into()))
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_a_name_is_called_after_its_id() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let added = list.add_peer(None, way(Dialect::Silent)).await.unwrap();
    assert_eq!(
        (added.id.get(), text(&added.list).as_str()),
        (1, "peer_1,1,1\n")
    );
}

#[tokio::test(start_paused = true)]
async fn who_watches_for_the_end_of_a_socket_takes_no_news_from_it() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let silent = list.add_peer(Some("silent"), way(Dialect::Silent)).await;
    let id = silent.unwrap().id;
    let socket = list.open_socket(id, false).await.unwrap();
    let a = sign_in(&list, "a").await;
    let mut wait = task::spawn(socket.wait());
    assert_pending!(wait.poll());
    // As when a write has to wait for room in the socket, and then has it.
    assert_pending!(task::spawn(socket.ended()).poll());
    let mut ended = task::spawn(socket.ended());
    assert_pending!(ended.poll());
    say(&list, a, id, "hi").await;
    assert!(wait.is_woken());
    let delivery = assert_ready!(wait.poll());
    assert_eq!(delivery.news(), &message(a, "hi"));
    assert_pending!(ended.poll());
    list.remove_peer(id, Reason::Kicked).await.unwrap();
    assert!(ended.is_woken());
    assert_ready!(ended.poll());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_waits_for_room_is_delivered_though_its_sender_comes_back_meanwhile() {
    let list = TimeoutPeerList::new(HeartbeatOpts {
        max_pending_bytes: 1000,
        ..HeartbeatOpts::default()
    });
    let (a, _a) = unlisted(&list, Some("the key of a, 16")).await;
    let (_, b) = unlisted(&list, None).await;
    let long = Bytes::from_static(&[b'x'; 700]);
    list.publish(a, &[CHANNEL], long.clone(), Some(1))
        .await
        .unwrap();
    let mut second = task::spawn(list.publish(a, &[CHANNEL], long.clone(), Some(2)));
    assert_pending!(second.poll());
    pass(Duration::from_millis(10)).await;
    // Its socket is replaced, and its client says it again.
    drop(second);
    let mut again = task::spawn(list.publish(a, &[CHANNEL], long.clone(), Some(2)));
    assert_pending!(again.poll());
    assert_eq!(take(&*b).await.0, 1);
    again.await.unwrap();
    assert_eq!(take(&*b).await.0, 2);
    nothing_for(&*b);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_counts_before_its_delivery_is_done() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, _a) = unlisted(&list, None).await;
    let (b, socket) = unlisted(&list, Some("the key of b, 16")).await;
    list.publish(a, &[CHANNEL], "hi".into(), None)
        .await
        .unwrap();
    let delivery = assert_ready!(task::spawn(socket.wait()).poll());
    // Written, and answered, before its task went on.
    list.acknowledge(b, 1).await;
    delivery.done();
    drop(socket);
    let socket = list.open_socket(b, false).await.unwrap();
    nothing_for(&*socket);
    list.publish(a, &[CHANNEL], "ho".into(), None)
        .await
        .unwrap();
    assert_eq!(take(&*socket).await, published(2, "ho"));
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_hears_messages_and_nothing_of_the_list() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let silent = list
        .add_peer(Some("silent"), way(Dialect::Silent))
        .await
        .unwrap()
        .id;
    let socket = list.open_socket(silent, false).await.unwrap();
    let a = sign_in(&list, "a").await;
    nothing_for(&*socket);
    say(&list, a, silent, "hi").await;
    assert_eq!(take(&*socket).await, (1, message(a, "hi")));
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    nothing_for(&*socket);
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_connected_and_not_collected_while_its_socket_is_open() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = list
        .add_peer(Some("a"), way(Dialect::Silent))
        .await
        .unwrap()
        .id;
    let socket = list.open_socket(a, false).await.unwrap();
    list.refresh_peer_timeout(a).await.unwrap();
    pass(Duration::from_secs(600)).await;
    assert_eq!(text(&list.format()), "a,1,1\n");
    drop(socket);
    assert_eq!(text(&list.format()), "a,1,0\n");
    pass(Duration::from_secs(60)).await;
    assert_eq!(text(&list.format()), "");
}

#[tokio::test(start_paused = true)]
async fn who_is_heard_through_a_socket_cannot_be_polled_for() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let a = sign_in(&list, "a").await;
    let socket = list.open_socket(a, false).await.unwrap();
    assert_eq!(
        list.wait(a, WaitOpts::default()).await.unwrap_err(),
        Refusal::UnknownPeer
    );
    drop(socket);
    say(&list, a, a, "hi").await;
    let delivery = list.wait(a, WaitOpts::default()).await.unwrap();
    assert_eq!(*delivery.news(), message(a, "hi"));
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_does_not_read_is_told_to_go() {
    let opts = HeartbeatOpts {
        max_pending_bytes: 2 * MESSAGE_OVERHEAD_BYTES,
        ..HeartbeatOpts::default()
    };
    let list = TimeoutPeerList::new(opts);
    let a = sign_in(&list, "a").await;
    let deaf = list
        .add_peer(Some("deaf"), way(Dialect::Silent))
        .await
        .unwrap()
        .id;
    let socket = list.open_socket(deaf, false).await.unwrap();
    let on_loan = task::spawn(socket.wait());
    let mut ended = task::spawn(socket.ended());
    assert_pending!(ended.poll());
    for _ in 0..2 {
        say(&list, a, deaf, "").await;
    }
    assert_pending!(ended.poll());
    let refused = list.send(a, deaf, Bytes::new(), SendOpts::default()).await;
    assert_eq!(refused.unwrap_err(), Refusal::MailboxFull);
    assert_pending!(ended.poll());
    let refused = list.send(a, deaf, Bytes::new(), SendOpts::PATIENT).await;
    assert_eq!(refused.unwrap_err(), Refusal::UnknownReceiver);
    assert!(ended.is_woken());
    assert_ready!(ended.poll());
    drop(on_loan);
    let mut end = task::spawn(socket.wait());
    let end = assert_ready!(end.poll());
    assert_eq!(*end.news(), News::Removed(Reason::NotReading));
    // Its door does what it was told.
    assert!(list.remove_peer(deaf, Reason::NotReading).await.unwrap());
    assert_eq!(list.peer_ids(), [a]);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_refused_waits_for_room() {
    let opts = HeartbeatOpts {
        max_pending_bytes: 2 * MESSAGE_OVERHEAD_BYTES,
        ..HeartbeatOpts::default()
    };
    let list = TimeoutPeerList::new(opts);
    let a = sign_in(&list, "a").await;
    let slow = list
        .add_peer(Some("slow"), way(Dialect::Silent))
        .await
        .unwrap()
        .id;
    let socket = list.open_socket(slow, false).await.unwrap();
    let sending = async {
        for _ in 0..20 {
            let sent = list.send(a, slow, Bytes::new(), SendOpts::PATIENT).await;
            sent.unwrap();
        }
    };
    let reading = async {
        for number in 1..=20 {
            sleep(Duration::from_millis(900)).await;
            let delivery = socket.wait().await;
            assert_eq!(delivery.number(), number);
            delivery.done();
        }
    };
    tokio::join!(sending, reading);
    // One who polls can be refused, and is not removed.
    let b = list
        .add_peer(Some("b"), way(Dialect::Listed))
        .await
        .unwrap()
        .id;
    for _ in 0..2 {
        say(&list, a, b, "").await;
    }
    let refused = list.send(a, b, Bytes::new(), SendOpts::PATIENT).await;
    assert_eq!(refused.unwrap_err(), Refusal::MailboxFull);
    assert_eq!(list.peer_ids(), [a, slow, b]);
}

#[tokio::test(start_paused = true)]
async fn an_unlisted_peer_cannot_poll_also_while_it_is_away() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, socket) = unlisted(&list, Some(KEY)).await;
    drop(socket);
    list.list_peer(a, listing("A")).await.unwrap();
    assert_eq!(
        list.wait(a, WaitOpts::default()).await.unwrap_err(),
        Refusal::UnknownPeer
    );
    assert_eq!(
        list.open_request(caller(a, None)).unwrap_err(),
        Refusal::UnknownPeer
    );
    assert_eq!(
        list.refresh_peer_timeout(a).await.unwrap_err(),
        Refusal::UnknownPeer
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_server_ends_the_waits_of_sockets() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (_, socket) = unlisted(&list, None).await;
    let mut wait = task::spawn(socket.wait());
    assert_pending!(wait.poll());
    list.end_waits();
    assert!(wait.is_woken());
    assert!(matches!(
        assert_ready!(wait.poll()).news(),
        News::Nothing(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn an_unlisted_peer_is_in_the_list_from_its_hello_to_its_farewell() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let watcher = sign_in(&list, "watcher").await;
    let (a, _a) = unlisted(&list, None).await;
    let (_, b) = unlisted(&list, None).await;
    let refused = list
        .send(watcher, a, Bytes::new(), SendOpts::default())
        .await;
    assert_eq!(refused.unwrap_err(), Refusal::UnknownReceiver);
    let refused = list
        .send(a, watcher, Bytes::new(), SendOpts::default())
        .await;
    assert_eq!(refused.unwrap_err(), Refusal::UnknownPeer);
    assert_eq!(text(&list.format()), "watcher,1,1\n");

    let there = list.list_peer(a, listing("A,")).await;
    let there = there.unwrap();
    assert_eq!(
        there.iter().map(|card| card.id).collect::<Vec<_>>(),
        [watcher]
    );
    assert_eq!(
        super::take(&list, watcher).await,
        status("A_,2,1\nwatcher,1,1\n")
    );
    assert_eq!(take(&*b).await, published(1, "hello"));
    let cards = list.cards().await.unwrap();
    let cards: Vec<_> = cards
        .iter()
        .map(|card| (card.id, &*card.name, card.card.is_some()))
        .collect();
    assert_eq!(cards, [(watcher, "watcher", false), (a, "A_", true)]);

    assert!(list.remove_peer(a, Reason::SignedOut).await.unwrap());
    pass(Duration::from_millis(100)).await;
    assert_eq!(super::take(&list, watcher).await, status("watcher,1,1\n"));
    assert_eq!(take(&*b).await, published(2, "farewell"));
    assert!(list.list_peer(a, listing("A")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_alias_has_one_holder_and_is_an_address() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, socket) = unlisted(&list, None).await;
    let (b, _b) = unlisted(&list, None).await;
    list.claim(a, SCOPE, "A").await.unwrap();
    let taken = list.claim(b, SCOPE, "A").await;
    assert_eq!(taken.unwrap_err(), Refusal::NameTaken);
    list.claim(b, "another scope", "A").await.unwrap();
    let send = async |name: &str| list.send_to_alias(b, SCOPE, name, "hi".into()).await;
    send("A").await.unwrap();
    assert_eq!(take(&*socket).await, published(1, "hi"));
    assert_eq!(send("B").await.unwrap_err(), Refusal::UnknownReceiver);
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    let gone = list.claim(a, SCOPE, "A").await;
    assert_eq!(gone.unwrap_err(), Refusal::UnknownPeer);
}

#[tokio::test(start_paused = true)]
async fn an_alias_is_free_when_the_socket_of_its_holder_has_been_closed_for_long() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, socket) = unlisted(&list, Some(KEY)).await;
    let claim = async |id| list.claim(id, SCOPE, "A").await.is_ok();
    assert!(claim(a).await);
    pass(Duration::from_secs(60)).await;
    let (b, _b) = unlisted(&list, None).await;
    assert!(!claim(b).await);
    // It may come back.
    drop(socket);
    pass(Duration::from_secs(4)).await;
    assert!(!claim(b).await);
    pass(Duration::from_secs(1)).await;
    assert!(claim(b).await);
    assert!(list.open_socket(a, false).await.is_err(), "it is removed");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_comes_back_is_told_its_channels_and_its_alias_if_it_is_listed() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, _socket) = unlisted(&list, Some(KEY)).await;
    list.claim(a, SCOPE, "A").await.unwrap();
    list.join(a, "another").await.unwrap();
    list.leave(a, CHANNEL).await.unwrap();
    let again = come(&list, Some(KEY)).await;
    assert_eq!(
        (again.alias, again.channels),
        (None, vec!["another".into()])
    );
    list.list_peer(a, listing("A")).await.unwrap();
    let again = come(&list, Some(KEY)).await;
    assert_eq!(again.alias.as_deref(), Some("A"));
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_the_list_can_join_channels_too() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, _a) = unlisted(&list, None).await;
    let b = list
        .add_peer(Some("b"), way(Dialect::Silent))
        .await
        .unwrap()
        .id;
    list.join(b, CHANNEL).await.unwrap();
    list.join(b, "another").await.unwrap();
    list.publish(a, &[CHANNEL, "another"], "hi".into(), None)
        .await
        .unwrap();
    let heard = list.wait(b, WaitOpts::default()).await.unwrap();
    assert_eq!(heard.news(), &News::Published("hi".into()));
    heard.done();
    list.leave(b, CHANNEL).await.unwrap();
    list.publish(a, &[CHANNEL], "ho".into(), None)
        .await
        .unwrap();
    assert_pending!(wait(&list, b).poll());
    list.remove_peer(b, Reason::SignedOut).await.unwrap();
    let gone = list.join(b, CHANNEL).await;
    assert_eq!(gone.unwrap_err(), Refusal::UnknownPeer);
}

#[tokio::test(start_paused = true)]
async fn unlisted_peers_count_against_the_bound_of_peers() {
    let opts = HeartbeatOpts {
        max_peers: 1,
        ..HeartbeatOpts::default()
    };
    let list = TimeoutPeerList::new(opts);
    let _peer = unlisted(&list, None).await;
    let coming = Unlisted {
        key: None,
        door: "socketio",
        channels: &[],
    };
    let full = list.add_unlisted(coming).await;
    assert_eq!(full.unwrap_err(), Refusal::Full);
    let full = list.add_peer(Some("a"), way(Dialect::Listed)).await;
    assert_eq!(full.unwrap_err(), Refusal::Full);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_waits_for_a_name_hears_when_it_is_announced() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, asks) = unlisted(&list, None).await;
    let (b, keeps) = unlisted(&list, None).await;
    list.watch_for(a, "room").await.unwrap();
    nothing_for(&*asks);
    list.announce(b, "room").await.unwrap();
    assert_eq!(take(&*asks).await, (1, News::Announced("room".into())));
    list.watch_for(a, "room").await.unwrap();
    assert_eq!(take(&*asks).await, (2, News::Announced("room".into())));
    drop(keeps);
    list.remove_peer(b, Reason::Closed).await.unwrap();
    list.watch_for(a, "room").await.unwrap();
    nothing_for(&*asks);
}

const KEY: &str = "a key of its own";

#[tokio::test(start_paused = true)]
async fn who_comes_back_with_its_key_is_given_what_it_has_not_acknowledged() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (b, _b) = unlisted(&list, None).await;
    let (a, socket) = unlisted(&list, Some(KEY)).await;
    for body in ["one", "two", "three"] {
        list.publish(b, &[CHANNEL], body.into(), None)
            .await
            .unwrap();
    }
    assert_eq!(take(&*socket).await, published(1, "one"));
    assert_eq!(take(&*socket).await, published(2, "two"));
    list.acknowledge(a, 1).await;
    drop(socket);
    pass(Duration::from_secs(29)).await;
    let again = come(&list, Some(KEY)).await;
    assert_eq!((again.id, again.resumed), (a, true));
    let socket = list.open_socket(a, false).await.unwrap();
    assert_eq!(take(&*socket).await, published(2, "two"));
    assert_eq!(take(&*socket).await, published(3, "three"));
    nothing_for(&*socket);
    drop(socket);
    pass(Duration::from_secs(60)).await;
    assert!(!come(&list, Some(KEY)).await.resumed);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_takes_over_ends_the_one_before_and_what_that_was_lent() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, older) = unlisted(&list, Some(KEY)).await;
    let (b, _b) = unlisted(&list, None).await;
    let mut ended = task::spawn(older.ended());
    assert_pending!(ended.poll());
    list.publish(b, &[CHANNEL], "one".into(), None)
        .await
        .unwrap();
    let lent = older.wait().await;
    let newer = list.open_socket(a, false).await.unwrap();
    assert!(ended.is_woken());
    assert_ready!(ended.poll());
    assert_eq!(*older.wait().await.news(), News::Replaced);
    let lent_anew = newer.wait().await;
    // Too late: it would take the message off, or let it be lent twice.
    lent.done();
    nothing_for(&*newer);
    assert_eq!(lent_anew.number(), 1);
    lent_anew.done();
    list.publish(b, &[CHANNEL], "two".into(), None)
        .await
        .unwrap();
    drop(ended);
    drop(older);
    assert_eq!(take(&*newer).await, published(2, "two"));
}

#[tokio::test(start_paused = true)]
async fn an_unlisted_peer_that_is_to_be_removed_is_not_shown_to_the_others() {
    let list = TimeoutPeerList::new(HeartbeatOpts {
        max_pending_bytes: MESSAGE_OVERHEAD_BYTES,
        ..HeartbeatOpts::default()
    });
    let (a, socket) = unlisted(&list, None).await;
    let (b, _other) = unlisted(&list, None).await;
    for _ in 0..2 {
        // The second has no room.
        list.publish(b, &[CHANNEL], Bytes::new(), None)
            .await
            .unwrap();
    }
    let mut events = list.subscribe(None);
    let listed = list.list_peer(a, listing("a")).await;
    assert_eq!(listed.unwrap_err(), Refusal::UnknownPeer);
    assert!(list.peer_ids().is_empty());
    let (_, PeerEvent::PeerAdded(_)) = events.next().await.unwrap() else {
        panic!("it was not listed");
    };
    let end = socket.wait().await;
    assert_eq!(*end.news(), News::Removed(Reason::NotReading));
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_comes_after_its_farewell_is_followed_by_one_more() {
    let list = TimeoutPeerList::new(HeartbeatOpts {
        max_pending_bytes: 3 * (MESSAGE_OVERHEAD_BYTES + "farewell".len()),
        ..HeartbeatOpts::default()
    });
    let (a, _a) = unlisted(&list, None).await;
    let (_, b) = unlisted(&list, None).await;
    for _ in 0..3 {
        list.publish(a, &[CHANNEL], "whatever".into(), None)
            .await
            .unwrap();
    }
    let mut listed = task::spawn(list.list_peer(a, listing("a")));
    assert_pending!(listed.poll());
    for _ in 0..3 {
        take(&*b).await;
    }
    list.remove_peer(a, Reason::Kicked).await.unwrap();
    assert_ready!(listed.poll()).unwrap_err();
    let heard = [take(&*b).await, take(&*b).await, take(&*b).await];
    assert_eq!(
        heard,
        [
            published(4, "farewell"),
            published(5, "hello"),
            published(6, "farewell"),
        ]
    );
    nothing_for(&*b);
}

#[tokio::test(start_paused = true)]
async fn an_unlisted_peer_that_came_back_is_told_of_as_connected() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, socket) = unlisted(&list, Some(KEY)).await;
    list.list_peer(a, listing("a")).await.unwrap();
    drop(socket);
    pass(Duration::from_secs(10)).await;
    let mut events = list.subscribe(None);
    come(&list, Some(KEY)).await;
    let (_, PeerEvent::PeerReconnected(peer)) = events.next().await.unwrap() else {
        panic!("it did not come back");
    };
    assert!(peer.connected);
    let ago = peer.last_seen.elapsed().unwrap();
    assert!(ago < Duration::from_secs(5), "{ago:?}");
}

#[tokio::test(start_paused = true)]
async fn what_its_sender_numbered_is_broadcast_once() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, _a) = unlisted(&list, Some(KEY)).await;
    let (_, socket) = unlisted(&list, None).await;
    for number in [1, 1, 2, 1, 5] {
        let body = Bytes::from(number.to_string());
        list.publish(a, &[CHANNEL], body, Some(number))
            .await
            .unwrap();
    }
    for body in ["1", "2", "5"] {
        let delivery = socket.wait().await;
        assert_eq!(*delivery.news(), News::Published(body.into()));
        delivery.done();
    }
    assert_pending!(task::spawn(socket.wait()).poll());
}

#[tokio::test(start_paused = true)]
async fn who_is_away_for_too_much_is_removed_rather_than_given_a_part() {
    let opts = HeartbeatOpts {
        max_pending_bytes: MESSAGE_OVERHEAD_BYTES,
        timeout_period: Duration::from_secs(3600),
        ..HeartbeatOpts::default()
    };
    let list = TimeoutPeerList::new(opts);
    let (b, _b) = unlisted(&list, None).await;
    let (a, socket) = unlisted(&list, Some(KEY)).await;
    drop(socket);
    list.publish(b, &[CHANNEL], Bytes::new(), None)
        .await
        .unwrap();
    let again = come(&list, Some(KEY)).await;
    assert_eq!((again.id, again.resumed), (a, true));
    let start = Instant::now();
    list.publish(b, &[CHANNEL], Bytes::new(), None)
        .await
        .unwrap();
    assert_eq!(Instant::now(), start, "waited for one that is not there");
    assert!(!come(&list, Some(KEY)).await.resumed);
    pass(Duration::from_secs(20)).await;
    assert!(list.open_socket(a, false).await.is_err());
    let gone = list.resume_unlisted(a, &again.token).await;
    assert_eq!(
        gone.unwrap_err(),
        Refusal::UnknownPeer,
        "it is not collected"
    );
}
