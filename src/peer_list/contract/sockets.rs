//! Peers whose socket is open.

use super::*;

async fn watching_for_the_end_of_a_socket_takes_no_news_from_it(engine: EngineKind) {
    let list = engine.default_list().await;
    let silent = list.add_peer(Some("silent"), SOCKET).await;
    let id = silent.unwrap().id;
    let socket = list.open_socket(id, SocketOpts::default()).await.unwrap();
    let a = sign_in(&list, "a").await;
    let mut wait = Box::pin(socket.wait());
    assert!(list.is_open(&mut wait).await);
    // As when a write has to wait for room in the socket, and then has it.
    assert!(list.is_open(&mut Box::pin(socket.ended())).await);
    let mut ended = Box::pin(socket.ended());
    assert!(list.is_open(&mut ended).await);
    say(&list, a, id, "hi").await;
    let delivery = list.now(&mut wait).await;
    assert_eq!(delivery.news(), &message(a, "hi"));
    assert!(list.is_open(&mut ended).await);
    list.remove_peer(id, Reason::Kicked).await.unwrap();
    list.now(&mut ended).await;
}

async fn a_peer_with_a_socket_cannot_be_polled_for(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let socket = list.open_socket(a, RESUMING).await.unwrap();
    assert_eq!(
        list.now(wait(&list, a)).await.unwrap_err(),
        Refusal::UnknownPeer
    );
    drop(socket);
    list.settle().await;
    say(&list, a, a, "hi").await;
    let delivery = list.now(wait(&list, a)).await.unwrap();
    assert_eq!(*delivery.news(), message(a, "hi"));
}

async fn a_socket_that_does_not_read_is_told_to_go(engine: EngineKind) {
    let list = engine.bounded_list(2 * MESSAGE_OVERHEAD_BYTES).await;
    let a = sign_in(&list, "a").await;
    let deaf = added(&list, "deaf", SOCKET).await.id;
    let socket = list.open_socket(deaf, SocketOpts::default()).await.unwrap();
    let on_loan = Box::pin(socket.wait());
    let mut ended = Box::pin(socket.ended());
    assert!(list.is_open(&mut ended).await);
    for _ in 0..2 {
        say(&list, a, deaf, "").await;
    }
    assert!(list.is_open(&mut ended).await);
    let refused = list.send(a, deaf, Bytes::new(), SendOpts::default()).await;
    assert_eq!(refused.unwrap_err(), Refusal::MailboxFull);
    assert!(list.is_open(&mut ended).await);
    let refused = list
        .within(
            2 * SPACE_PATIENCE,
            list.send(a, deaf, Bytes::new(), SendOpts::PATIENT),
        )
        .await;
    assert_eq!(refused.unwrap_err(), Refusal::UnknownReceiver);
    list.now(&mut ended).await;
    drop(on_loan);
    list.settle().await;
    let mut end = Box::pin(socket.wait());
    let end = list.now(&mut end).await;
    assert_eq!(*end.news(), News::Removed(Reason::NotReading));
    // Its door does what it was told.
    assert!(list.remove_peer(deaf, Reason::NotReading).await.unwrap());
    assert_eq!(list.ids().await, [a]);
}

async fn a_sender_that_cannot_be_refused_waits_for_room(engine: EngineKind) {
    let list = engine.bounded_list(2 * MESSAGE_OVERHEAD_BYTES).await;
    let a = sign_in(&list, "a").await;
    let slow = added(&list, "slow", SOCKET).await.id;
    let socket = list.open_socket(slow, SocketOpts::default()).await.unwrap();
    let sending = async {
        for _ in 0..20 {
            let sent = list.send(a, slow, Bytes::new(), SendOpts::PATIENT).await;
            sent.unwrap();
        }
    };
    let reading = async {
        for number in 1..=20 {
            list.pass(Duration::from_millis(900)).await;
            let delivery = list.now(socket.wait()).await;
            assert_eq!(delivery.number(), number);
            delivery.done();
        }
    };
    tokio::join!(sending, reading);
    // A sender that polls can be refused, and its receiver is not removed.
    let b = sign_in(&list, "b").await;
    for _ in 0..2 {
        say(&list, a, b, "").await;
    }
    let refused = list.send(a, b, Bytes::new(), SendOpts::PATIENT);
    let refused = list.within(2 * SPACE_PATIENCE, refused).await;
    assert_eq!(refused.unwrap_err(), Refusal::MailboxFull);
    assert_eq!(list.ids().await, [a, slow, b]);
}

async fn a_peer_that_may_come_back_and_signs_out_through_its_socket_is_removed(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", SOCKET).await.id;
    let socket = list.open_socket(a, RESUMING).await.unwrap();
    socket.leave(Reason::SignedOut).await;
    assert!(list.ids().await.is_empty());
}

async fn the_end_of_the_server_ends_the_waits_of_sockets(engine: EngineKind) {
    let list = engine.default_list().await;
    let (_, socket) = unlisted(&list, None).await;
    let mut wait = Box::pin(socket.wait());
    assert!(list.is_open(&mut wait).await);
    list.end_waits();
    assert!(matches!(list.now(&mut wait).await.news(), News::Nothing(_)));
}

async fn a_socket_that_takes_over_ends_the_one_before_and_what_that_was_lent(engine: EngineKind) {
    let list = engine.default_list().await;
    let (a, older) = unlisted(&list, Some(KEY)).await;
    let (b, _b) = unlisted(&list, None).await;
    let mut ended = Box::pin(older.ended());
    assert!(list.is_open(&mut ended).await);
    publish(&list, b, "one").await;
    let lent = list.now(older.wait()).await;
    let newer = list.open_socket(a, SocketOpts::default()).await.unwrap();
    list.now(&mut ended).await;
    assert_eq!(*list.now(older.wait()).await.news(), News::Replaced);
    let lent_again = list.now(newer.wait()).await;
    // Too late: it takes nothing off any more.
    lent.done();
    list.settle().await;
    assert_eq!(lent_again.number(), 1);
    lent_again.done();
    list.settle().await;
    nothing_for(&list, &*newer).await;
    publish(&list, b, "two").await;
    drop(ended);
    list.settle().await;
    drop(older);
    list.settle().await;
    assert_eq!(take_from(&list, &*newer).await, published(2, "two"));
}

async fn an_acknowledgement_counts_before_its_delivery_is_done(engine: EngineKind) {
    let list = engine.default_list().await;
    let (a, _a) = unlisted(&list, None).await;
    let (b, socket) = unlisted(&list, Some("the key of b, 16")).await;
    publish(&list, a, "hi").await;
    let delivery = list.now(socket.wait()).await;
    // Written, and answered, before its task went on.
    list.acknowledge(b, 1).await;
    delivery.done();
    drop(socket);
    list.settle().await;
    let socket = list.open_socket(b, SocketOpts::default()).await.unwrap();
    nothing_for(&list, &*socket).await;
    publish(&list, a, "ho").await;
    assert_eq!(take_from(&list, &*socket).await, published(2, "ho"));
}

async fn a_socket_takes_off_what_it_is_given_also_if_its_peer_acknowledged_before(
    engine: EngineKind,
) {
    let list = engine.bounded_list(2 * MESSAGE_OVERHEAD_BYTES).await;
    let a = sign_in(&list, "a").await;
    let mut poll = wait_with(
        &list,
        a,
        WaitOpts {
            acknowledged: Some(0),
            limit: Some(Duration::ZERO),
        },
    );
    list.now(&mut poll).await.unwrap();
    drop(poll);
    let socket = list.open_socket(a, RESUMING).await.unwrap();
    for _ in 0..10 {
        say(&list, a, a, "").await;
        list.now(socket.wait()).await.done();
    }
}

async fn what_a_socket_was_given_and_its_peer_has_not_acknowledged_comes_again(engine: EngineKind) {
    let list = engine.default_list().await;
    let acknowledging = |number| SocketOpts {
        resumes: true,
        acknowledged: Some(number),
    };
    let a = sign_in(&list, "a").await;
    let b = added(&list, "b", SOCKET).await.id;
    let socket = list.open_socket(b, acknowledging(0)).await.unwrap();
    for text in ["1", "2", "3", "4"] {
        say(&list, a, b, text).await;
    }
    // Without an acknowledgement in between.
    for number in 1..=4 {
        assert_eq!(take_from(&list, &*socket).await.0, number);
    }
    list.acknowledge(b, 1).await;
    drop(socket);
    list.settle().await;
    let socket = list.open_socket(b, acknowledging(2)).await.unwrap();
    assert_eq!(take_from(&list, &*socket).await, (3, message(a, "3")));
    drop(socket);
    list.settle().await;
    // Also to a wait.
    let acknowledged = Some(3);
    let wait = wait_with(
        &list,
        b,
        WaitOpts {
            acknowledged,
            limit: None,
        },
    );
    let delivery = list.within(2 * REPEAT_PAUSE, wait).await.unwrap();
    assert_eq!((delivery.number(), delivery.news()), (4, &message(a, "4")));
    delivery.done();
    list.settle().await;
    let socket = list.open_socket(b, RESUMING).await.unwrap();
    assert_eq!(take_from(&list, &*socket).await, (4, message(a, "4")));
}

every_list! {
    what_a_socket_was_given_and_its_peer_has_not_acknowledged_comes_again,
    watching_for_the_end_of_a_socket_takes_no_news_from_it,
    a_peer_with_a_socket_cannot_be_polled_for,
    a_socket_that_does_not_read_is_told_to_go,
    a_sender_that_cannot_be_refused_waits_for_room,
    a_peer_that_may_come_back_and_signs_out_through_its_socket_is_removed,
    the_end_of_the_server_ends_the_waits_of_sockets,
    a_socket_that_takes_over_ends_the_one_before_and_what_that_was_lent,
    an_acknowledgement_counts_before_its_delivery_is_done,
    a_socket_takes_off_what_it_is_given_also_if_its_peer_acknowledged_before,
}
