//! What subscribers of the list hear.

use super::*;

async fn subscribers_hear_of_each_peer_added_and_removed_in_order(engine: EngineKind) {
    let list = engine.default_list().await;
    let mut events = list.subscribe().await;
    let a = sign_in(&list, "a\n").await;
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    let mut next = async || list.now(events.next()).await.unwrap();
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

async fn when_the_server_stops_every_peer_that_is_only_here_is_told_of_as_removed(
    engine: EngineKind,
) {
    let list = engine.default_list().await;
    let mut sockets = Vec::new();
    for name in ["a", "b"] {
        let id = added(&list, name, SOCKET).await.id;
        sockets.push(list.open_socket(id, SocketOpts::default()).await.unwrap());
    }
    let mut events = list.subscribe().await;
    list.stop().await;
    let mut told = all_told(&list, &mut events).await;
    told.sort_unstable();
    assert_eq!(told, ["- 1 shutdown", "- 2 shutdown"]);
}

async fn an_unlisted_peer_that_came_back_is_told_of_as_connected(engine: EngineKind) {
    let list = engine.default_list().await;
    let (a, socket) = unlisted(&list, Some(KEY)).await;
    list.list_peer(a, listing("a")).await.unwrap();
    drop(socket);
    list.settle().await;
    list.pass_secs(10).await;
    let mut events = list.subscribe().await;
    come(&list, Some(KEY)).await;
    let (_, PeerEvent::PeerReconnected(peer)) = list.now(events.next()).await.unwrap() else {
        panic!("it did not come back");
    };
    assert!(peer.connected);
    let ago = list.system_time().duration_since(peer.last_seen).unwrap();
    assert!(ago < Duration::from_secs(5), "{ago:?}");
}

async fn every_node_tells_the_same_events_with_the_same_numbers(engine: EngineKind) {
    let list = engine.default_list().await;
    let other = list.another_node().await;
    let [mut here, mut there] = [list.subscribe().await, other.subscribe(None).await];
    let a = sign_in(&list, "a").await;
    let b = other.add_peer(Some("b"), LISTED).await.unwrap().id;
    list.remove_peer(b, Reason::SignedOut).await.unwrap();
    let mut first: Option<EventCursor> = None;
    for expected in ["+ 1", "+ 2", "- 2 signed_out"] {
        let [(number, event), (same, alike)] = [
            list.now(here.next()).await.unwrap(),
            list.now(there.next()).await.unwrap(),
        ];
        assert_eq!([told(&event), told(&alike)], [expected, expected]);
        assert_eq!(number, same);
        first.get_or_insert(here.cursor());
    }
    // One that comes back to the other node hears what it missed, each once.
    let mut again = other.subscribe(first.as_ref()).await;
    assert_eq!(all_told(&list, &mut again).await, ["+ 2", "- 2 signed_out"]);
    assert_eq!(list.ids().await, [a]);
}

async fn a_node_hears_of_events_while_somebody_wants_them(engine: EngineKind) {
    let list = engine.default_list().await;
    let other = list.another_node().await;
    sign_in(&list, "1").await;
    for round in 0..2 {
        let mut events = other.subscribe(None).await;
        let a = sign_in(&list, "a").await;
        list.remove_peer(a, Reason::SignedOut).await.unwrap();
        let told = all_told(&list, &mut events).await;
        assert_eq!(told.len(), 2, "round {round}: {told:?}");
        let cursor = events.cursor();
        drop(events);
        // Until the node has noticed that nobody does.
        list.pass_secs(5).await;
        let b = sign_in(&list, "b").await;
        let mut again = other.subscribe(Some(&cursor)).await;
        assert_eq!(all_told(&list, &mut again).await, [format!("+ {b}")]);
        drop(again);
        list.pass_secs(5).await;
        sign_in(&list, "c").await;
    }
}

/// How many commands Redis carries out for a sign-in.
async fn cost_of_a_sign_in(list: &TestList) -> u64 {
    let before = list.asked_of_redis().await;
    sign_in(list, "a").await;
    list.asked_of_redis().await - before
}

#[tokio::test(start_paused = true)]
async fn a_node_where_nobody_wants_events_does_not_ask_for_them() {
    let list = EngineKind::Redis.default_list().await;
    let events = list.subscribe().await;
    // The first one of a list costs more.
    cost_of_a_sign_in(&list).await;
    let told = cost_of_a_sign_in(&list).await;
    drop(events);
    list.pass_secs(5).await;
    let quiet = cost_of_a_sign_in(&list).await;
    assert!(
        quiet < told,
        "{quiet} commands, and {told} with a subscriber"
    );
}

async fn a_subscriber_hears_all_of_a_burst(engine: EngineKind) {
    let list = engine.default_list().await;
    let mut events = list.subscribe().await;
    let count = EVENTS_KEPT + 500;
    for number in 0..count {
        list.add_peer(Some(&number.to_string()), LISTED)
            .await
            .unwrap();
    }
    let told = all_told(&list, &mut events).await;
    assert_eq!(told.len(), count);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_taken_for_dead_hears_of_events_again() {
    let list = EngineKind::Redis.default_list().await;
    let mut events = list.subscribe().await;
    let node = list.nodes().await.remove(0);
    list.bury(&node).await;
    list.pass_secs(10).await;
    sign_in(&list, "a").await;
    assert_eq!(all_told(&list, &mut events).await, ["+ 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_stopped_is_told_of_no_events() {
    let list = EngineKind::Redis.default_list().await;
    let other = list.another_node().await;
    let events = other.subscribe(None).await;
    let listeners =
        async || -> Vec<String> { list.redis(&["SMEMBERS", &list.key("listeners")]).await };
    assert_eq!(listeners().await.len(), 1);
    other.stop().await;
    drop(events);
    list.settle().await;
    assert_eq!(listeners().await, Vec::<String>::new());
}

async fn the_webhook_is_sent_each_event_by_one_node(engine: EngineKind) {
    let list = engine.default_list().await;
    let other = list.another_node().await;
    let mut events = list.webhook_events().await.remove(0);
    sign_in(&list, "a").await;
    let (first, _) = list.now(events.next()).await.unwrap();
    assert!(list.now(list.webhook_turn(0, first)).await);
    list.webhook_sent(0, first).await;
    let mut later = other.webhook_events().await.remove(0);
    sign_in(&list, "b").await;
    let (second, event) = list.now(later.next()).await.unwrap();
    assert_eq!(told(&event), "+ 2");
    // A list in this process has one node.
    if let EngineKind::Redis = engine {
        assert!(!list.now(other.webhook_turn(0, first)).await);
        let mut turn = Box::pin(other.webhook_turn(0, second));
        assert!(list.is_open(&mut turn).await, "the other node lives");
    }
}

every_list! {
    subscribers_hear_of_each_peer_added_and_removed_in_order,
    when_the_server_stops_every_peer_that_is_only_here_is_told_of_as_removed,
    an_unlisted_peer_that_came_back_is_told_of_as_connected,
    every_node_tells_the_same_events_with_the_same_numbers,
    a_node_hears_of_events_while_somebody_wants_them,
    a_subscriber_hears_all_of_a_burst,
    the_webhook_is_sent_each_event_by_one_node,
}

/// What `ss-heartbeat-responder` tells its server, as the events here: a session is a peer,
/// `start` a sign-in with the token it has, `stop` a sign-out.
mod sessions {
    use super::*;

    enum Step {
        Start,
        Stop,
        Beat,
        Purge,
        Pass(u64),
    }
    use Step::*;

    async fn told_after(engine: EngineKind, steps: &[Step]) -> Vec<String> {
        let list = engine.default_list().await;
        let mut events = list.subscribe().await;
        let mut peer: Option<SignedIn> = None;
        for step in steps {
            match (step, &peer) {
                (Start, None) => peer = Some(added(&list, "a", LISTED).await),
                (Start, Some(known)) => drop(resume(&list, known, "a").await),
                (Stop, Some(known)) => {
                    list.remove_peer(known.id, Reason::SignedOut).await.unwrap();
                }
                (Beat, Some(known)) => list.refresh_peer_timeout(known.id).await.unwrap(),
                (Purge, _) => drop(list.purge().await.unwrap()),
                (Pass(seconds), _) => list.pass_secs(*seconds).await,
                (Stop | Beat, None) => unreachable!("nobody was started"),
            }
        }
        all_told(&list, &mut events).await
    }

    macro_rules! sessions {
        ($($name:ident: $steps:expr => $told:expr;)*) => {
            $(async fn $name(engine: EngineKind) {
                let told: &[&str] = &$told;
                assert_eq!(told_after(engine, &$steps).await, told);
            })*

            every_list! { $($name,)* }
        };
    }

    sessions! {
        to_start_twice_is_to_connect_and_to_reconnect: [Start, Start] => ["+ 1", "= 1"];
        to_stop_is_a_disconnect_at_once: [Start, Stop] => ["+ 1", "- 1 signed_out"];
        to_stop_twice_is_one_disconnect: [Start, Stop, Stop] => ["+ 1", "- 1 signed_out"];
        before_the_timeout_silence_is_nothing: [Start, Beat, Pass(32)] => ["+ 1"];
        silence_is_one_disconnect_an_interval_later_at_most:
            [Start, Beat, Pass(45), Pass(60)] => ["+ 1", "- 1 timed_out"];
        a_stale_peer_that_is_not_yet_collected_is_still_connected: [Start, Beat, Pass(44)] => ["+ 1"];
        a_stale_peer_that_is_not_yet_collected_comes_back:
            [Start, Beat, Pass(44), Start, Purge, Pass(30)] => ["+ 1", "= 1"];
        a_purge_brings_the_disconnect_forward:
            [Start, Beat, Pass(34), Purge, Pass(60)] => ["+ 1", "- 1 timed_out"];
        a_purge_leaves_a_peer_that_is_not_stale: [Start, Beat, Pass(10), Purge] => ["+ 1"];
        a_beat_keeps: [Start, Beat, Pass(25), Beat, Pass(25), Beat, Pass(25)] => ["+ 1"];
    }
}
