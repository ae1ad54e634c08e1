//! Which peers are connected, and which are stale.

use super::*;

async fn a_peer_that_joined_counts_as_connected_only_in_the_update_that_announces_it(
    engine: EngineKind,
) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let b = sign_in(&list, "b").await;
    list.pass_secs(10).await;
    assert_eq!(take(&list, a).await, status("b,2,1\na,1,1\n"));
    let mut a_is_here = wait(&list, a);
    assert!(list.is_open(&mut a_is_here).await);
    list.open_request(old_caller(b)).unwrap().answered();
    list.pass(Duration::from_millis(1_999)).await;
    assert_eq!(list.lines().await, "b,2,1\na,1,1\n");
    list.pass(Duration::from_millis(1)).await;
    assert_eq!(list.lines().await, "b,2,0\na,1,1\n");
    drop(a_is_here);
    list.settle().await;
    assert_eq!(list.lines().await, "b,2,0\na,1,0\n");
}

async fn a_client_that_closes_its_connection_after_an_answer_counts_for_two_seconds_more(
    engine: EngineKind,
) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    list.pass_secs(10).await;
    let request = list.open_request(old_caller(a)).unwrap();
    request.heartbeat().await.unwrap();
    request.answered();
    list.pass(Duration::from_millis(1_999)).await;
    assert_eq!(list.lines().await, "a,1,1\n");
    list.pass(Duration::from_millis(1)).await;
    assert_eq!(list.lines().await, "a,1,0\n");
    let request = list.open_request(caller(a, None)).unwrap();
    request.heartbeat().await.unwrap();
    request.answered();
    list.settle().await;
    assert_eq!(list.lines().await, "a,1,0\n");
}

async fn a_peer_that_was_away_is_connected_in_the_list_that_it_is_told(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    list.pass_secs(10).await;
    assert_eq!(list.lines().await, "a,1,0\n");
    sign_in(&list, "b").await;
    assert_eq!(take(&list, a).await, status("b,2,1\na,1,1\n"));
}

async fn a_peer_that_polls_again_within_two_seconds_stays_connected_for_all(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let b = sign_in(&list, "b").await;
    take(&list, a).await;
    let ended = |id, limit| list.within(limit, wait_with(&list, id, limited(limit)));
    let moment = Duration::from_millis(100);
    ended(a, moment).await.unwrap().done();
    list.pass_secs(1).await;
    // Nodes ask who is connected.
    sign_in(&list, "c").await;
    assert_eq!(take(&list, a).await, status("c,3,1\nb,2,1\na,1,1\n"));
    let mut polls = wait(&list, a);
    assert!(list.is_open(&mut polls).await);
    take(&list, b).await;
    let seen = ended(b, Duration::from_millis(1500)).await.unwrap();
    let News::Nothing(lines) = seen.news() else {
        panic!("{seen:?}");
    };
    assert!(text(lines).contains("a,1,1\n"), "{}", text(lines));
}

async fn an_open_connection_counts_for_the_last_peer_that_used_it(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let b = sign_in(&list, "b").await;
    let proxy = Arc::new(Link::new());
    list.open_request(caller(a, Some(&proxy)))
        .unwrap()
        .answered();
    list.settle().await;
    assert_eq!(list.lines().await, "b,2,1\na,1,1\n");
    list.pass_secs(3).await;
    assert_eq!(list.lines().await, "b,2,0\na,1,1\n");
    list.open_request(caller(b, Some(&proxy)))
        .unwrap()
        .answered();
    list.settle().await;
    assert_eq!(list.lines().await, "b,2,1\na,1,0\n");
    let other = Arc::new(Link::new());
    list.open_request(caller(b, Some(&other)))
        .unwrap()
        .answered();
    list.settle().await;
    drop(proxy);
    list.settle().await;
    assert_eq!(list.lines().await, "b,2,1\na,1,0\n");
    drop(other);
    list.settle().await;
    assert_eq!(list.lines().await, "b,2,0\na,1,0\n");
}

async fn the_collector_removes_the_stale_and_the_others_hear_of_it(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let b = sign_in(&list, "b").await;
    let c = sign_in(&list, "c").await;
    let mut events = list.subscribe().await;
    take(&list, a).await;
    let mut waiting = wait(&list, a);
    assert!(list.is_open(&mut waiting).await);
    list.refresh_peer_timeout(c).await.unwrap();
    list.pass(Duration::from_millis(29_999)).await;
    assert_eq!(list.ids().await, [a, b, c]);
    list.pass(Duration::from_millis(1)).await;
    assert_eq!(list.ids().await, [a, c]);
    let delivery = list.now(&mut waiting).await.unwrap();
    assert_eq!(*delivery.news(), status("c,3,0\na,1,1\n"));
    let (_, removed) = list.now(events.next()).await.unwrap();
    assert_eq!(told(&removed), "- 2 timed_out");
    list.pass_secs(15).await;
    assert_eq!(list.ids().await, [a]);
}

async fn without_its_collector_no_peer_times_out(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    list.cancel_gc();
    list.pass_secs(120).await;
    assert_eq!(list.ids().await, [a]);
}

async fn a_list_that_is_collected_by_hand_alone_does_not_stand_still(engine: EngineKind) {
    let list = engine.default_list().await;
    list.cancel_gc();
    let a = sign_in(&list, "a").await;
    list.pass_secs(60).await;
    assert_eq!(list.purge().await.unwrap(), [a]);
}

async fn a_peer_that_sent_heartbeats_and_whose_socket_closes_has_another_timeout(
    engine: EngineKind,
) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    list.refresh_peer_timeout(a).await.unwrap();
    let socket = list.open_socket(a, RESUMING).await.unwrap();
    list.pass_secs(100).await;
    socket.leave(Reason::Closed).await;
    assert!(list.purge().await.unwrap().is_empty());
    list.pass_secs(29).await;
    assert_eq!(list.ids().await, [a]);
    list.pass_secs(20).await;
    assert!(list.ids().await.is_empty());
}

async fn a_peer_is_connected_and_not_collected_while_its_socket_is_open(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", SOCKET).await.id;
    let socket = list.open_socket(a, RESUMING).await.unwrap();
    list.refresh_peer_timeout(a).await.unwrap();
    list.pass_secs(200).await;
    assert_eq!(list.lines().await, "a,1,1\n");
    drop(socket);
    list.settle().await;
    assert_eq!(list.lines().await, "a,1,0\n");
    list.pass_secs(60).await;
    assert_eq!(list.lines().await, "");
    // One that may not come back is gone.
    let b = added(&list, "b", SOCKET).await.id;
    drop(list.open_socket(b, SocketOpts::default()).await.unwrap());
    list.settle().await;
    assert_eq!(list.lines().await, "");
}

async fn a_peer_that_can_come_back_stays_until_it_is_stale_when_its_socket_closes(
    engine: EngineKind,
) {
    let list = engine.default_list().await;
    let a = added(&list, "a", SOCKET).await;
    let mut events = list.subscribe().await;
    let socket = list.open_socket(a.id, RESUMING).await.unwrap();
    list.pass_secs(15).await;
    socket.leave(Reason::Closed).await;
    assert_eq!(list.lines().await, "a,1,0\n");
    list.pass_secs(29).await;
    assert_eq!(list.ids().await, [a.id]);
    list.pass_secs(1).await;
    assert_eq!(all_told(&list, &mut events).await, ["- 1 timed_out"]);
}

async fn where_every_request_counts_as_a_heartbeat_requests_and_waits_keep_a_peer(
    engine: EngineKind,
) {
    let opts = HeartbeatOpts {
        any_request: true,
        ..HeartbeatOpts::default()
    };
    let list = engine.list(opts).await;
    let a = sign_in(&list, "a").await;
    list.refresh_peer_timeout(a).await.unwrap();
    for _ in 0..4 {
        list.pass_secs(20).await;
        request(&list, a, None).await.unwrap().answered();
    }
    let mut waiting = wait(&list, a);
    assert!(list.is_open(&mut waiting).await);
    list.pass_secs(100).await;
    assert_eq!(list.ids().await, [a]);
    drop(waiting);
    list.settle().await;
    list.pass_secs(60).await;
    assert!(list.ids().await.is_empty());
}

async fn a_late_heartbeat_has_grace_from_a_timeout_of_ten_seconds_on(engine: EngineKind) {
    for (timeout, grace) in [(9_999, 0), (10_000, 3_000)] {
        let list = engine
            .list(HeartbeatOpts {
                timeout_period: Duration::from_millis(timeout),
                gc_interval: Duration::from_secs(600),
                ..HeartbeatOpts::default()
            })
            .await;
        let a = sign_in(&list, "a").await;
        list.refresh_peer_timeout(a).await.unwrap();
        list.pass(Duration::from_millis(timeout + grace - 1)).await;
        assert!(list.purge().await.unwrap().is_empty(), "{timeout} ms");
        list.pass(Duration::from_millis(1)).await;
        assert_eq!(list.purge().await.unwrap(), [a], "{timeout} ms");
    }
}

async fn after_all_stood_still_no_peer_is_collected_for_one_timeout(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let b = sign_in(&list, "b").await;
    list.pass_secs(10).await;
    list.stand_still(Duration::from_secs(300)).await;
    list.pass_secs(20).await;
    list.refresh_peer_timeout(a).await.unwrap();
    assert_eq!(list.ids().await, [a, b]);
    // One that said nothing goes with the first collection after the timeout.
    list.pass_secs(25).await;
    assert_eq!(list.ids().await, [a]);
}

every_list! {
    after_all_stood_still_no_peer_is_collected_for_one_timeout,
    a_peer_that_joined_counts_as_connected_only_in_the_update_that_announces_it,
    a_client_that_closes_its_connection_after_an_answer_counts_for_two_seconds_more,
    a_peer_that_was_away_is_connected_in_the_list_that_it_is_told,
    a_peer_that_polls_again_within_two_seconds_stays_connected_for_all,
    an_open_connection_counts_for_the_last_peer_that_used_it,
    the_collector_removes_the_stale_and_the_others_hear_of_it,
    without_its_collector_no_peer_times_out,
    a_list_that_is_collected_by_hand_alone_does_not_stand_still,
    a_peer_that_sent_heartbeats_and_whose_socket_closes_has_another_timeout,
    a_peer_is_connected_and_not_collected_while_its_socket_is_open,
    a_peer_that_can_come_back_stays_until_it_is_stale_when_its_socket_closes,
    where_every_request_counts_as_a_heartbeat_requests_and_waits_keep_a_peer,
    a_late_heartbeat_has_grace_from_a_timeout_of_ten_seconds_on,
}
