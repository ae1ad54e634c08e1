//! Peers whose socket is open, and the group.

use super::*;

fn introduction() -> Introduction {
    Introduction {
        card: "card".into(),
        hello: "hello".into(),
        farewell: "farewell".into(),
    }
}

async fn member(list: &TimeoutPeerList, key: Option<&str>) -> (PeerId, Box<dyn OpenSocket>) {
    let id = list.add_member(key, "socketio").await.unwrap().id;
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

fn group_message(number: u64, body: &'static str) -> (u64, News) {
    (number, News::GroupMessage(body.into()))
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
    let (a, _a) = member(&list, Some("the key of a, 16")).await;
    let (_, b) = member(&list, None).await;
    let long = Bytes::from_static(&[b'x'; 700]);
    list.broadcast(a, long.clone(), Some(1)).await.unwrap();
    let mut second = task::spawn(list.broadcast(a, long.clone(), Some(2)));
    assert_pending!(second.poll());
    pass(Duration::from_millis(10)).await;
    // Its socket is replaced, and its client says it again.
    drop(second);
    let mut again = task::spawn(list.broadcast(a, long.clone(), Some(2)));
    assert_pending!(again.poll());
    assert_eq!(take(&*b).await.0, 1);
    again.await.unwrap();
    assert_eq!(take(&*b).await.0, 2);
    nothing_for(&*b);
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_counts_before_its_delivery_is_done() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, _a) = member(&list, None).await;
    let (b, socket) = member(&list, Some("the key of b, 16")).await;
    list.broadcast(a, "hi".into(), None).await.unwrap();
    let delivery = assert_ready!(task::spawn(socket.wait()).poll());
    // Written, and answered, before its task went on.
    list.acknowledge(b, 1).await;
    delivery.done();
    drop(socket);
    let socket = list.open_socket(b, false).await.unwrap();
    nothing_for(&*socket);
    list.broadcast(a, "ho".into(), None).await.unwrap();
    assert_eq!(take(&*socket).await, group_message(2, "ho"));
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
async fn a_member_is_never_polled_for_also_while_it_is_away() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, socket) = member(&list, Some(KEY)).await;
    drop(socket);
    list.list_member(a, "A", introduction()).await.unwrap();
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
    let (_, socket) = member(&list, None).await;
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
async fn a_member_is_in_the_list_from_its_introduction_to_its_farewell() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let watcher = sign_in(&list, "watcher").await;
    let (a, _a) = member(&list, None).await;
    let (_, b) = member(&list, None).await;
    let refused = list
        .send(watcher, a, Bytes::new(), SendOpts::default())
        .await;
    assert_eq!(refused.unwrap_err(), Refusal::UnknownReceiver);
    let refused = list
        .send(a, watcher, Bytes::new(), SendOpts::default())
        .await;
    assert_eq!(refused.unwrap_err(), Refusal::UnknownPeer);
    assert_eq!(text(&list.format()), "watcher,1,1\n");

    let there = list.list_member(a, "A,", introduction()).await;
    let there = there.unwrap();
    assert_eq!(
        there.iter().map(|card| card.id).collect::<Vec<_>>(),
        [watcher]
    );
    assert_eq!(
        super::take(&list, watcher).await,
        status("A_,2,1\nwatcher,1,1\n")
    );
    assert_eq!(take(&*b).await, group_message(1, "hello"));
    let cards = list.cards().await.unwrap();
    let cards: Vec<_> = cards
        .iter()
        .map(|card| (card.id, &*card.name, card.card.is_some()))
        .collect();
    assert_eq!(cards, [(watcher, "watcher", false), (a, "A_", true)]);

    assert!(list.remove_peer(a, Reason::SignedOut).await.unwrap());
    pass(Duration::from_millis(100)).await;
    assert_eq!(super::take(&list, watcher).await, status("watcher,1,1\n"));
    assert_eq!(take(&*b).await, group_message(2, "farewell"));
    assert!(list.list_member(a, "A", introduction()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_name_of_the_group_is_given_once_and_is_an_address() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, socket) = member(&list, None).await;
    let (b, _b) = member(&list, None).await;
    let listed = list.list_member(a, "A", introduction()).await;
    assert!(listed.is_ok());
    let taken = list.list_member(b, "A", introduction()).await;
    assert_eq!(taken.unwrap_err(), Refusal::NameTaken);
    list.send_to_member(b, "A", "hi".into()).await.unwrap();
    assert_eq!(take(&*socket).await, group_message(1, "hi"));
    let unknown = list.send_to_member(b, "B", "hi".into()).await;
    assert_eq!(unknown.unwrap_err(), Refusal::UnknownReceiver);
}

#[tokio::test(start_paused = true)]
async fn the_name_of_a_member_is_free_when_its_socket_has_been_closed_for_long() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, socket) = member(&list, Some(KEY)).await;
    let claim = async |id| {
        let listed = list.list_member(id, "A", introduction()).await;
        listed.is_ok()
    };
    assert!(claim(a).await);
    pass(Duration::from_secs(60)).await;
    let (b, _b) = member(&list, None).await;
    assert!(!claim(b).await);
    // It may come back.
    drop(socket);
    pass(Duration::from_secs(4)).await;
    assert!(!claim(b).await);
    pass(Duration::from_secs(1)).await;
    assert!(claim(b).await);
    assert_eq!(list.peer_ids(), [b]);
}

#[tokio::test(start_paused = true)]
async fn members_count_against_the_bound_of_peers() {
    let opts = HeartbeatOpts {
        max_peers: 1,
        ..HeartbeatOpts::default()
    };
    let list = TimeoutPeerList::new(opts);
    let _member = member(&list, None).await;
    assert_eq!(
        list.add_member(None, "socketio").await.unwrap_err(),
        Refusal::Full
    );
    let full = list.add_peer(Some("a"), way(Dialect::Listed)).await;
    assert_eq!(full.unwrap_err(), Refusal::Full);
}

#[tokio::test(start_paused = true)]
async fn a_room_is_told_of_to_who_asked_when_it_exists() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, asks) = member(&list, None).await;
    let (b, keeps) = member(&list, None).await;
    list.ask_for_room(a, "room").await.unwrap();
    nothing_for(&*asks);
    list.keep_room(b, "room").await.unwrap();
    assert_eq!(take(&*asks).await, (1, News::Room("room".into())));
    list.ask_for_room(a, "room").await.unwrap();
    assert_eq!(take(&*asks).await, (2, News::Room("room".into())));
    drop(keeps);
    list.remove_peer(b, Reason::Closed).await.unwrap();
    list.ask_for_room(a, "room").await.unwrap();
    nothing_for(&*asks);
}

const KEY: &str = "a key of its own";

#[tokio::test(start_paused = true)]
async fn who_comes_back_with_its_key_is_given_what_it_has_not_acknowledged() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (b, _b) = member(&list, None).await;
    let (a, socket) = member(&list, Some(KEY)).await;
    for body in ["one", "two", "three"] {
        list.broadcast(b, body.into(), None).await.unwrap();
    }
    assert_eq!(take(&*socket).await, group_message(1, "one"));
    assert_eq!(take(&*socket).await, group_message(2, "two"));
    list.acknowledge(a, 1).await;
    drop(socket);
    pass(Duration::from_secs(29)).await;
    let again = list.add_member(Some(KEY), "socketio").await.unwrap();
    assert_eq!((again.id, again.resumed), (a, true));
    let socket = list.open_socket(a, false).await.unwrap();
    assert_eq!(take(&*socket).await, group_message(2, "two"));
    assert_eq!(take(&*socket).await, group_message(3, "three"));
    nothing_for(&*socket);
    drop(socket);
    pass(Duration::from_secs(60)).await;
    assert!(
        !list
            .add_member(Some(KEY), "socketio")
            .await
            .unwrap()
            .resumed
    );
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_takes_over_ends_the_one_before_and_what_that_was_lent() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, older) = member(&list, Some(KEY)).await;
    let (b, _b) = member(&list, None).await;
    let mut ended = task::spawn(older.ended());
    assert_pending!(ended.poll());
    list.broadcast(b, "one".into(), None).await.unwrap();
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
    list.broadcast(b, "two".into(), None).await.unwrap();
    drop(ended);
    drop(older);
    assert_eq!(take(&*newer).await, group_message(2, "two"));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_to_go_is_not_introduced_to_the_others() {
    let list = TimeoutPeerList::new(HeartbeatOpts {
        max_pending_bytes: MESSAGE_OVERHEAD_BYTES,
        ..HeartbeatOpts::default()
    });
    let (a, socket) = member(&list, None).await;
    let (b, _other) = member(&list, None).await;
    for _ in 0..2 {
        // The second has no room.
        list.broadcast(b, Bytes::new(), None).await.unwrap();
    }
    let mut events = list.subscribe(None);
    let listed = list.list_member(a, "a", introduction()).await;
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
    let (a, _a) = member(&list, None).await;
    let (_, b) = member(&list, None).await;
    for _ in 0..3 {
        list.broadcast(a, "whatever".into(), None).await.unwrap();
    }
    let mut listed = task::spawn(list.list_member(a, "a", introduction()));
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
            group_message(4, "farewell"),
            group_message(5, "hello"),
            group_message(6, "farewell"),
        ]
    );
    nothing_for(&*b);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_came_back_is_told_of_as_connected() {
    let list = TimeoutPeerList::new(HeartbeatOpts::default());
    let (a, socket) = member(&list, Some(KEY)).await;
    list.list_member(a, "a", introduction()).await.unwrap();
    drop(socket);
    pass(Duration::from_secs(10)).await;
    let mut events = list.subscribe(None);
    list.add_member(Some(KEY), "socketio").await.unwrap();
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
    let (a, _a) = member(&list, Some(KEY)).await;
    let (_, socket) = member(&list, None).await;
    for number in [1, 1, 2, 1, 5] {
        let body = Bytes::from(number.to_string());
        list.broadcast(a, body, Some(number)).await.unwrap();
    }
    for body in ["1", "2", "5"] {
        let delivery = socket.wait().await;
        assert_eq!(*delivery.news(), News::GroupMessage(body.into()));
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
    let (b, _b) = member(&list, None).await;
    let (a, socket) = member(&list, Some(KEY)).await;
    drop(socket);
    list.broadcast(b, Bytes::new(), None).await.unwrap();
    let again = list.add_member(Some(KEY), "socketio").await.unwrap();
    assert_eq!((again.id, again.resumed), (a, true));
    let start = Instant::now();
    list.broadcast(b, Bytes::new(), None).await.unwrap();
    assert_eq!(Instant::now(), start, "waited for one that is not there");
    assert!(
        !list
            .add_member(Some(KEY), "socketio")
            .await
            .unwrap()
            .resumed
    );
    pass(Duration::from_secs(20)).await;
    assert!(list.open_socket(a, false).await.is_err());
    let gone = list.resume_member(a, &again.token).await;
    assert_eq!(
        gone.unwrap_err(),
        Refusal::UnknownPeer,
        "it is not collected"
    );
}
