//! Channels, aliases and announcements.

use std::num::NonZeroU32;

use super::*;

async fn a_copy_that_waits_for_room_is_delivered_though_its_sender_comes_back_meanwhile(
    engine: EngineKind,
) {
    let list = engine.bounded_list(1000).await;
    let (a, _a) = unlisted(&list, Some("the key of a, 16")).await;
    let (_, b) = unlisted(&list, None).await;
    let long = Bytes::from_static(&[b'x'; 700]);
    list.publish(a, &[CHANNEL], long.clone(), PublishOpts::numbered(1))
        .await
        .unwrap();
    let mut second = Box::pin(list.publish(a, &[CHANNEL], long.clone(), PublishOpts::numbered(2)));
    assert!(list.is_open(&mut second).await);
    list.pass(Duration::from_millis(10)).await;
    // Its socket is replaced, and its client says it again.
    drop(second);
    let mut again = Box::pin(list.publish(a, &[CHANNEL], long.clone(), PublishOpts::numbered(2)));
    assert!(list.is_open(&mut again).await);
    assert_eq!(take_from(&list, &*b).await.0, 1);
    list.within(SPACE_PATIENCE, again).await.unwrap();
    assert_eq!(take_from(&list, &*b).await.0, 2);
    nothing_for(&list, &*b).await;
}

/// More than are pushed to at once.
const MANY: usize = 600;

/// Peers in the channel, each with a socket.
async fn many(list: &TestList) -> Vec<(PeerId, Box<dyn OpenSocket>)> {
    let mut all = Vec::new();
    for _ in 0..MANY {
        all.push(unlisted(list, None).await);
    }
    all
}

/// Takes what each of them has, which is to be this, in this order.
async fn each_hears(list: &TestList, all: &[(PeerId, Box<dyn OpenSocket>)], words: &[&str]) {
    list.settle().await;
    for (_, socket) in all {
        for word in words {
            let delivery = list.now(socket.wait()).await;
            assert_eq!(
                *delivery.news(),
                News::Published(Bytes::copy_from_slice(word.as_bytes()))
            );
            delivery.done();
        }
    }
    list.settle().await;
    for (_, socket) in all {
        nothing_for(list, &**socket).await;
    }
}

async fn each_of_many_hears_each_message_once_and_in_order(engine: EngineKind) {
    let list = engine.default_list().await;
    let all = many(&list).await;
    let (a, _a) = unlisted(&list, None).await;
    for (number, word) in [(1, "one"), (2, "two")] {
        list.publish(a, &[CHANNEL], word.into(), PublishOpts::numbered(number))
            .await
            .unwrap();
    }
    publish(&list, a, "three").await;
    each_hears(&list, &all, &["one", "two", "three"]).await;
    // Its sender hears nothing of it when it leaves, and the channel goes on.
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    publish(&list, all[0].0, "four").await;
    each_hears(&list, &all[1..], &["four"]).await;
}

async fn what_many_hear_of_one_that_leaves_comes_before_what_is_said_later(engine: EngineKind) {
    let list = engine.default_list().await;
    let all = many(&list).await;
    let (a, a_socket) = unlisted(&list, None).await;
    let (b, b_socket) = unlisted(&list, None).await;
    list.list_peer(a, listing("a")).await.unwrap();
    each_hears(&list, &all, &["hello"]).await;
    a_socket.leave(Reason::Closed).await;
    list.list_peer(b, listing("b")).await.unwrap();
    publish(&list, b, "here I am").await;
    each_hears(&list, &all, &["farewell", "hello", "here I am"]).await;
    // Also if nothing is said later.
    b_socket.leave(Reason::Closed).await;
    each_hears(&list, &all, &["farewell"]).await;
}

async fn all_who_wait_for_a_name_hear_it_however_many(engine: EngineKind) {
    let list = engine.default_list().await;
    let all = many(&list).await;
    for (id, _) in &all {
        list.watch_for(*id, "name").await.unwrap();
    }
    let (a, _a) = unlisted(&list, None).await;
    list.announce(a, "name").await.unwrap();
    list.settle().await;
    for (_, socket) in &all {
        let (_, news) = take_from(&list, &**socket).await;
        assert_eq!(news, News::Announced("name".into()));
    }
    // They wait no more.
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    let (b, _b) = unlisted(&list, None).await;
    list.announce(b, "name").await.unwrap();
    for (_, socket) in &all {
        nothing_for(&list, &**socket).await;
    }
}

async fn an_alias_has_one_holder_and_is_an_address(engine: EngineKind) {
    let list = engine.default_list().await;
    // It stays for a while when its socket closes.
    let (a, socket) = unlisted(&list, Some(KEY)).await;
    let (b, _b) = unlisted(&list, None).await;
    list.claim(a, SCOPE, "A", KEPT).await.unwrap();
    let taken = list.claim(b, SCOPE, "A", KEPT).await;
    assert_eq!(taken.unwrap_err(), Refusal::NameTaken);
    list.claim(b, "another scope", "A", KEPT).await.unwrap();
    let send = async |name: &str| list.send_to_alias(b, SCOPE, name, "hi".into()).await;
    let reached = |has_socket| Reached { id: a, has_socket };
    assert_eq!(send("A").await.unwrap(), reached(true));
    assert_eq!(take_from(&list, &*socket).await, published(1, "hi"));
    assert_eq!(send("B").await.unwrap_err(), Refusal::UnknownReceiver);
    drop(socket);
    list.settle().await;
    assert_eq!(send("A").await.unwrap(), reached(false));
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    let gone = list.claim(a, SCOPE, "A", KEPT).await;
    assert_eq!(gone.unwrap_err(), Refusal::UnknownPeer);
}

async fn an_alias_is_free_when_the_socket_of_its_holder_has_been_closed_for_long(
    engine: EngineKind,
) {
    let list = engine.default_list().await;
    let (a, socket) = unlisted(&list, Some(KEY)).await;
    let claim = async |id| list.claim(id, SCOPE, "A", KEPT).await.is_ok();
    assert!(claim(a).await);
    list.pass_secs(60).await;
    let (b, _b) = unlisted(&list, None).await;
    assert!(!claim(b).await);
    // It may come back.
    drop(socket);
    list.settle().await;
    list.pass_secs(4).await;
    assert!(!claim(b).await);
    list.pass_secs(1).await;
    assert!(claim(b).await);
    assert!(
        list.open_socket(a, SocketOpts::default()).await.is_err(),
        "it is removed"
    );
}

async fn an_alias_that_is_not_kept_is_free_as_soon_as_its_holder_has_no_socket(engine: EngineKind) {
    let list = engine.default_list().await;
    let (a, socket) = unlisted(&list, Some(KEY)).await;
    let claim = async |id| list.claim(id, SCOPE, "A", Duration::ZERO).await.is_ok();
    assert!(claim(a).await);
    let (b, _b) = unlisted(&list, None).await;
    assert!(!claim(b).await);
    drop(socket);
    list.settle().await;
    assert!(claim(b).await);
}

async fn a_peer_of_the_list_can_join_channels_too(engine: EngineKind) {
    let list = engine.default_list().await;
    let (a, _a) = unlisted(&list, None).await;
    let b = added(&list, "b", SOCKET).await.id;
    list.join(b, CHANNEL, JoinOpts::default()).await.unwrap();
    list.join(b, "another", JoinOpts::default()).await.unwrap();
    list.publish(
        a,
        &[CHANNEL, "another"],
        "hi".into(),
        PublishOpts::default(),
    )
    .await
    .unwrap();
    let heard = list.now(wait(&list, b)).await.unwrap();
    assert_eq!(heard.news(), &News::Published("hi".into()));
    heard.done();
    list.leave(b, CHANNEL).await.unwrap();
    publish(&list, a, "ho").await;
    assert_nothing(&list, b).await;
    list.remove_peer(b, Reason::SignedOut).await.unwrap();
    let gone = list.join(b, CHANNEL, JoinOpts::default()).await;
    assert_eq!(gone.unwrap_err(), Refusal::UnknownPeer);
}

async fn a_peer_that_waits_for_a_name_hears_when_it_is_announced(engine: EngineKind) {
    let list = engine.default_list().await;
    let (a, asks) = unlisted(&list, None).await;
    let (b, keeps) = unlisted(&list, None).await;
    list.watch_for(a, "room").await.unwrap();
    nothing_for(&list, &*asks).await;
    list.announce(b, "room").await.unwrap();
    assert_eq!(
        take_from(&list, &*asks).await,
        (1, News::Announced("room".into()))
    );
    list.watch_for(a, "room").await.unwrap();
    assert_eq!(
        take_from(&list, &*asks).await,
        (2, News::Announced("room".into()))
    );
    drop(keeps);
    list.settle().await;
    list.remove_peer(b, Reason::Closed).await.unwrap();
    list.watch_for(a, "room").await.unwrap();
    nothing_for(&list, &*asks).await;
}

async fn what_its_sender_numbered_is_broadcast_once(engine: EngineKind) {
    let list = engine.default_list().await;
    let (a, _a) = unlisted(&list, Some(KEY)).await;
    let (_, socket) = unlisted(&list, None).await;
    for number in [1, 1, 2, 1, 5] {
        let body = Bytes::from(number.to_string());
        list.publish(a, &[CHANNEL], body, PublishOpts::numbered(number))
            .await
            .unwrap();
    }
    for body in ["1", "2", "5"] {
        let delivery = list.now(socket.wait()).await;
        assert_eq!(*delivery.news(), News::Published(body.into()));
        delivery.done();
    }
    assert!(list.is_open(&mut Box::pin(socket.wait())).await);
}

async fn a_publisher_does_not_hear_itself(engine: EngineKind) {
    let list = engine.default_list().await;
    let (a, of_a) = unlisted(&list, None).await;
    let (_, of_b) = unlisted(&list, None).await;
    publish(&list, a, "hi").await;
    assert_eq!(take_from(&list, &*of_b).await, published(1, "hi"));
    nothing_for(&list, &*of_a).await;
}

async fn a_sender_in_the_channel_hears_itself_if_it_asks_for_that(engine: EngineKind) {
    let list = engine.default_list().await;
    let (a, of_a) = unlisted(&list, None).await;
    let (b, of_b) = unlisted(&list, None).await;
    assert_eq!(list.count_in("topic").await.unwrap(), 0);
    for id in [a, b, a] {
        let joined = list.join(id, "topic", JoinOpts::default()).await.unwrap();
        assert_eq!(&*joined, "topic");
    }
    assert_eq!(list.count_in("topic").await.unwrap(), 2);
    let echoes = PublishOpts {
        echoes: true,
        ..PublishOpts::default()
    };
    list.publish(a, &["topic"], "hi".into(), echoes)
        .await
        .unwrap();
    assert_eq!(
        take_from(&list, &*of_a).await.1,
        News::Published("hi".into())
    );
    assert_eq!(
        take_from(&list, &*of_b).await.1,
        News::Published("hi".into())
    );
    list.leave(a, "topic").await.unwrap();
    list.publish(a, &["topic"], "ho".into(), echoes)
        .await
        .unwrap();
    assert_eq!(
        take_from(&list, &*of_b).await.1,
        News::Published("ho".into())
    );
    nothing_for(&list, &*of_a).await;
}

async fn of_two_that_join_a_channel_the_first_hears_the_hello_of_the_second(engine: EngineKind) {
    let list = engine.default_list().await;
    let (a, of_a) = unlisted(&list, None).await;
    let (b, of_b) = unlisted(&list, None).await;
    for (id, name) in [(a, "a"), (b, "b")] {
        let listing = Listing {
            name,
            card: Bytes::new(),
            hello: Bytes::new(),
            farewell: format!("{name} left").into(),
        };
        list.list_peer(id, listing).await.unwrap();
        let opts = JoinOpts {
            hello: format!("{name} joined").into(),
            group_of: None,
        };
        list.join(id, "game", opts).await.unwrap();
    }
    let hears = async |socket: &dyn OpenSocket| loop {
        // A peer that has joined the channel of all tests hears hellos and farewells there too.
        if let (_, News::Published(body)) = take_from(&list, socket).await
            && !body.is_empty()
        {
            break body;
        }
    };
    assert_eq!(hears(&*of_a).await, "b joined");
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    assert_eq!(hears(&*of_b).await, "a left");
}

async fn a_group_is_full_when_as_many_have_joined_as_it_is_of(engine: EngineKind) {
    let list = engine.default_list().await;
    let opts = JoinOpts {
        group_of: NonZeroU32::new(2),
        ..JoinOpts::default()
    };
    let mut sockets = Vec::new();
    let mut join = async || {
        let (id, socket) = unlisted(&list, None).await;
        sockets.push(socket);
        (id, list.join(id, "game", opts.clone()).await.unwrap())
    };
    let (a, first) = join().await;
    // It leaves before the group is full: its place is free, and then the group is gone.
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    let (b, second) = join().await;
    let (c, same) = join().await;
    assert_ne!(first, second);
    assert_eq!(second, same);
    let (_, third) = join().await;
    assert_ne!(second, third);
    // A full group takes nobody in, though somebody left.
    list.remove_peer(b, Reason::SignedOut).await.unwrap();
    list.remove_peer(c, Reason::SignedOut).await.unwrap();
    let (_, same) = join().await;
    assert_eq!(third, same);
    let (e, fourth) = join().await;
    assert_ne!(third, fourth);
    let (_, same) = join().await;
    assert_eq!(fourth, same);
    assert_eq!(list.count_in(&fourth).await.unwrap(), 2);
    // Nor did one that left by itself.
    list.leave(e, &fourth).await.unwrap();
    assert_eq!(list.count_in(&fourth).await.unwrap(), 1);
}

async fn the_names_of_a_peer_are_bounded_like_a_mailbox(engine: EngineKind) {
    let list = engine.bounded_list(3 * (MESSAGE_OVERHEAD_BYTES + 10)).await;
    let (a, _a) = unlisted(&list, None).await;
    let names = ["ten bytes1", "ten bytes2", "ten bytes3"];
    list.join(a, names[0], JoinOpts::default()).await.unwrap();
    list.announce(a, names[1]).await.unwrap();
    let held = list.join(a, names[0], JoinOpts::default()).await;
    held.unwrap();
    list.watch_for(a, names[2]).await.unwrap();
    for refused in [
        list.join(a, "one", JoinOpts::default()).await.map(|_| ()),
        list.announce(a, "two").await,
        list.watch_for(a, "three").await,
        list.claim(a, SCOPE, "four", KEPT).await,
    ] {
        assert_eq!(refused.unwrap_err(), Refusal::TooManyNames);
    }
    list.leave(a, names[0]).await.unwrap();
    list.claim(a, "scope", "alias", KEPT).await.unwrap();
    assert_eq!(
        list.join(a, "x", JoinOpts::default()).await.unwrap_err(),
        Refusal::TooManyNames
    );
}

every_list! {
    each_of_many_hears_each_message_once_and_in_order,
    what_many_hear_of_one_that_leaves_comes_before_what_is_said_later,
    all_who_wait_for_a_name_hear_it_however_many,
    a_copy_that_waits_for_room_is_delivered_though_its_sender_comes_back_meanwhile,
    an_alias_has_one_holder_and_is_an_address,
    a_sender_in_the_channel_hears_itself_if_it_asks_for_that,
    of_two_that_join_a_channel_the_first_hears_the_hello_of_the_second,
    a_group_is_full_when_as_many_have_joined_as_it_is_of,
    an_alias_that_is_not_kept_is_free_as_soon_as_its_holder_has_no_socket,
    an_alias_is_free_when_the_socket_of_its_holder_has_been_closed_for_long,
    a_peer_of_the_list_can_join_channels_too,
    a_peer_that_waits_for_a_name_hears_when_it_is_announced,
    what_its_sender_numbered_is_broadcast_once,
    a_publisher_does_not_hear_itself,
    the_names_of_a_peer_are_bounded_like_a_mailbox,
}
