//! Peers that come in unlisted.

use super::*;

async fn an_unlisted_peer_cannot_poll_also_while_it_is_away(engine: EngineKind) {
    let list = engine.default_list().await;
    let (a, socket) = unlisted(&list, Some(KEY)).await;
    drop(socket);
    list.settle().await;
    list.list_peer(a, listing("A")).await.unwrap();
    assert_eq!(
        list.now(wait(&list, a)).await.unwrap_err(),
        Refusal::UnknownPeer
    );
    let request = list.open_request(caller(a, None));
    let seen = async { request?.seen().await };
    assert_eq!(seen.await.unwrap_err(), Refusal::UnknownPeer);
    assert_eq!(
        list.refresh_peer_timeout(a).await.unwrap_err(),
        Refusal::UnknownPeer
    );
}

async fn an_unlisted_peer_is_in_the_list_from_its_hello_to_its_farewell(engine: EngineKind) {
    let list = engine.default_list().await;
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
    assert_eq!(list.lines().await, "watcher,1,1\n");

    let there = list.list_peer(a, listing("A,")).await;
    let there = there.unwrap();
    assert_eq!(
        there.iter().map(|card| card.id).collect::<Vec<_>>(),
        [watcher]
    );
    assert_eq!(take(&list, watcher).await, status("A_,2,1\nwatcher,1,1\n"));
    assert_eq!(take_from(&list, &*b).await, published(1, "hello"));
    let cards = list.cards().await.unwrap();
    let cards: Vec<_> = cards
        .iter()
        .map(|card| (card.id, &*card.name, card.card.is_some()))
        .collect();
    assert_eq!(cards, [(watcher, "watcher", false), (a, "A_", true)]);

    assert!(list.remove_peer(a, Reason::SignedOut).await.unwrap());
    list.pass(Duration::from_millis(100)).await;
    assert_eq!(take(&list, watcher).await, status("watcher,1,1\n"));
    assert_eq!(take_from(&list, &*b).await, published(2, "farewell"));
    assert!(list.list_peer(a, listing("A")).await.is_err());
}

async fn unlisted_peers_count_against_the_bound_of_peers(engine: EngineKind) {
    let opts = HeartbeatOpts {
        max_peers: 1,
        ..HeartbeatOpts::default()
    };
    let list = engine.list(opts).await;
    let _peer = unlisted(&list, None).await;
    let coming = Unlisted {
        key: None,
        door: "relay",
        channels: &[],
        identity: &NOBODY,
    };
    let full = list.add_unlisted(coming).await;
    assert_eq!(full.unwrap_err(), Refusal::Full);
    let full = list.add_peer(Some("a"), LISTED).await;
    assert_eq!(full.unwrap_err(), Refusal::Full);
}

async fn a_network_has_only_so_many_peers_listed_or_not_and_others_have_theirs(engine: EngineKind) {
    let opts = HeartbeatOpts {
        max_peers_per_network: Some(2),
        ..HeartbeatOpts::default()
    };
    let list = engine.list(opts).await;
    let of = |network: &str| Identity {
        network: network.parse().ok(),
        ..NOBODY
    };
    let listed = async |network| {
        let identity = of(network);
        let opts = SignInOpts { identity, ..LISTED };
        list.add_peer(Some("a"), opts).await.map(|added| added.id)
    };
    let unlisted = async |network| {
        let coming = Unlisted {
            key: None,
            door: "relay",
            channels: &[],
            identity: &of(network),
        };
        list.add_unlisted(coming).await.map(|added| added.id)
    };
    let first = listed("192.0.2.1/32").await.unwrap();
    let second = unlisted("192.0.2.1/32").await.unwrap();
    assert_eq!(listed("192.0.2.1/32").await, Err(Refusal::NetworkFull));
    assert_eq!(unlisted("192.0.2.1/32").await, Err(Refusal::NetworkFull));
    assert!(listed("2001:db8::/64").await.is_ok());
    // Nobody knows of which network these are.
    for _ in 0..3 {
        assert!(listed("").await.is_ok());
    }
    for gone in [first, second] {
        assert!(list.remove_peer(gone, Reason::SignedOut).await.unwrap());
        assert!(listed("192.0.2.1/32").await.is_ok());
        assert_eq!(unlisted("192.0.2.1/32").await, Err(Refusal::NetworkFull));
    }
}

async fn a_peer_that_comes_back_with_its_key_is_given_what_it_has_not_acknowledged(
    engine: EngineKind,
) {
    let list = engine.default_list().await;
    let (b, _b) = unlisted(&list, None).await;
    let (a, socket) = unlisted(&list, Some(KEY)).await;
    for body in ["one", "two", "three"] {
        publish(&list, b, body).await;
    }
    assert_eq!(take_from(&list, &*socket).await, published(1, "one"));
    assert_eq!(take_from(&list, &*socket).await, published(2, "two"));
    list.acknowledge(a, 1).await;
    drop(socket);
    list.settle().await;
    list.pass_secs(29).await;
    let again = come(&list, Some(KEY)).await;
    assert_eq!((again.id, again.resumed), (a, true));
    let socket = list.open_socket(a, SocketOpts::default()).await.unwrap();
    assert_eq!(take_from(&list, &*socket).await, published(2, "two"));
    assert_eq!(take_from(&list, &*socket).await, published(3, "three"));
    nothing_for(&list, &*socket).await;
    drop(socket);
    list.settle().await;
    list.pass_secs(60).await;
    assert!(!come(&list, Some(KEY)).await.resumed);
}

async fn an_unlisted_peer_that_is_to_be_removed_is_not_shown_to_the_others(engine: EngineKind) {
    let list = engine.bounded_list(MESSAGE_OVERHEAD_BYTES).await;
    let (a, socket) = unlisted(&list, None).await;
    let (b, _other) = unlisted(&list, None).await;
    publish(&list, b, "").await;
    // The second has no room.
    let second = publish(&list, b, "");
    list.within(2 * SPACE_PATIENCE, second).await;
    let watcher = sign_in(&list, "watcher").await;
    let listed = list.list_peer(a, listing("a")).await;
    assert_eq!(listed.unwrap_err(), Refusal::UnknownPeer);
    assert_eq!(list.ids().await, [watcher]);
    list.pass_secs(1).await;
    // Not even in what others may be told.
    if let Some(told) = list.try_now(&mut wait(&list, watcher)).await {
        assert_eq!(*told.unwrap().news(), status("watcher,3,1\n"));
    }
    let end = list.now(socket.wait()).await;
    assert_eq!(*end.news(), News::Removed(Reason::NotReading));
}

async fn a_hello_that_comes_after_its_farewell_is_followed_by_one_more(engine: EngineKind) {
    let list = engine
        .bounded_list(3 * (MESSAGE_OVERHEAD_BYTES + "farewell".len()))
        .await;
    let (a, _a) = unlisted(&list, None).await;
    let (_, b) = unlisted(&list, None).await;
    for _ in 0..3 {
        publish(&list, a, "whatever").await;
    }
    let mut listed = Box::pin(list.list_peer(a, listing("a")));
    assert!(list.is_open(&mut listed).await);
    for _ in 0..3 {
        take_from(&list, &*b).await;
    }
    list.remove_peer(a, Reason::Kicked).await.unwrap();
    // Whether it was listed before that depends on the engine.
    let _ = list.within(2 * SPACE_PATIENCE, &mut listed).await;
    let mut heard = Vec::new();
    while let Some(delivery) = list.try_now(&mut Box::pin(b.wait())).await {
        heard.push(delivery.news().clone());
        delivery.done();
        list.settle().await;
    }
    let [farewell, hello] = ["farewell", "hello"].map(|body| News::Published(body.into()));
    assert!(
        heard == [farewell.clone()] || heard == [farewell.clone(), hello, farewell],
        "{heard:?}"
    );
}

async fn a_peer_that_is_away_for_too_much_is_removed_rather_than_given_a_part(engine: EngineKind) {
    let opts = HeartbeatOpts {
        max_pending_bytes: MESSAGE_OVERHEAD_BYTES,
        timeout_period: Duration::from_secs(3600),
        ..HeartbeatOpts::default()
    };
    let list = engine.list(opts).await;
    let (b, _b) = unlisted(&list, None).await;
    let (a, socket) = unlisted(&list, Some(KEY)).await;
    drop(socket);
    list.settle().await;
    publish(&list, b, "").await;
    let again = come(&list, Some(KEY)).await;
    assert_eq!((again.id, again.resumed), (a, true));
    // No sender waits for a peer that is away.
    list.now(publish(&list, b, "")).await;
    assert!(!come(&list, Some(KEY)).await.resumed);
    list.pass_secs(20).await;
    assert!(list.open_socket(a, SocketOpts::default()).await.is_err());
    let gone = list.resume_unlisted(a, &again.token, &NOBODY).await;
    assert_eq!(
        gone.unwrap_err(),
        Refusal::UnknownPeer,
        "it is not collected"
    );
}

async fn a_peer_that_comes_back_is_told_its_channels_and_its_alias_if_it_is_listed(
    engine: EngineKind,
) {
    let list = engine.default_list().await;
    let (a, _socket) = unlisted(&list, Some(KEY)).await;
    list.claim(a, SCOPE, "A", KEPT).await.unwrap();
    list.join(a, "another", JoinOpts::default()).await.unwrap();
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

every_list! {
    an_unlisted_peer_cannot_poll_also_while_it_is_away,
    an_unlisted_peer_is_in_the_list_from_its_hello_to_its_farewell,
    unlisted_peers_count_against_the_bound_of_peers,
    a_network_has_only_so_many_peers_listed_or_not_and_others_have_theirs,
    a_peer_that_comes_back_with_its_key_is_given_what_it_has_not_acknowledged,
    an_unlisted_peer_that_is_to_be_removed_is_not_shown_to_the_others,
    a_hello_that_comes_after_its_farewell_is_followed_by_one_more,
    a_peer_that_is_away_for_too_much_is_removed_rather_than_given_a_part,
    a_peer_that_comes_back_is_told_its_channels_and_its_alias_if_it_is_listed,
}
