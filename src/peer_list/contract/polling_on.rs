//! Clients that poll again after they were told the list.

use super::*;

/// The peer hears of a newcomer at this node. Returns what it hears, once it is known that it has
/// heard that.
async fn told_of(list: &TestList, node: &TimeoutPeerList, id: PeerId, newcomer: &str) -> News {
    let mut waiting = wait(node, id);
    assert!(list.is_open(&mut waiting).await);
    sign_in(list, newcomer).await;
    let delivery = list.now(&mut waiting).await.unwrap();
    let news = delivery.news().clone();
    drop(waiting);
    delivery.done();
    list.settle().await;
    news
}

/// Longer than a node waits for the next poll of a client.
const LONG: Duration = Duration::from_secs(1);

async fn each_change_is_heard_once_however_soon_the_client_polls_again(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    for pause in [Duration::ZERO, LONG, Duration::ZERO, Duration::ZERO] {
        told_of(&list, &list, a, "b").await;
        list.pass(pause).await;
        let mut waiting = wait(&list, a);
        assert!(list.is_open(&mut waiting).await);
        list.pass(LONG).await;
        assert!(list.is_open(&mut waiting).await);
        drop(waiting);
        list.settle().await;
    }
}

async fn what_happens_between_two_polls_is_heard_at_the_second(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    told_of(&list, &list, a, "b").await;
    let c = sign_in(&list, "c").await;
    say(&list, c, a, "hi").await;
    say(&list, a, a, "to myself").await;
    assert!(matches!(take(&list, a).await, News::Status(_)));
    assert_eq!(take(&list, a).await, message(c, "hi"));
    assert_eq!(take(&list, a).await, message(a, "to myself"));
    assert_nothing(&list, a).await;
}

async fn a_message_comes_to_a_client_that_has_polled_on(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    told_of(&list, &list, a, "b").await;
    let mut waiting = wait(&list, a);
    assert!(list.is_open(&mut waiting).await);
    say(&list, a, a, "to myself").await;
    let delivery = list.now(&mut waiting).await.unwrap();
    assert_eq!(*delivery.news(), message(a, "to myself"));
    delivery.done();
    assert_nothing(&list, a).await;
}

async fn a_client_that_polls_another_node_is_not_told_again(engine: EngineKind) {
    let list = engine.default_list().await;
    let other = list.another_node().await;
    let nodes: [&TimeoutPeerList; 2] = [&list, &other];
    let a = sign_in(&list, "a").await;
    for (round, pause) in [Duration::ZERO, Duration::ZERO, LONG, LONG]
        .into_iter()
        .enumerate()
    {
        let (told, next) = (nodes[round % 2], nodes[(round + 1) % 2]);
        told_of(&list, told, a, "b").await;
        list.pass(pause).await;
        let mut waiting = wait(next, a);
        assert!(list.is_open(&mut waiting).await);
        list.pass(LONG).await;
        assert!(list.is_open(&mut waiting).await, "round {round}");
        drop(waiting);
        list.settle().await;
    }
}

async fn a_wait_that_went_on_and_is_left_is_not_told_again_elsewhere(engine: EngineKind) {
    let list = engine.default_list().await;
    let other = list.another_node().await;
    let a = sign_in(&list, "a").await;
    for is_closed in [true, false] {
        told_of(&list, &list, a, "b").await;
        told_of(&list, &list, a, "b").await;
        let mut left = wait(&list, a);
        assert!(list.is_open(&mut left).await);
        if is_closed {
            drop(left);
            list.settle().await;
            assert!(list.is_open(&mut wait(&other, a)).await);
        } else {
            assert!(list.is_open(&mut wait(&other, a)).await);
            list.pass(LONG).await;
            assert!(list.is_open(&mut wait(&other, a)).await);
        }
        list.settle().await;
    }
}

async fn a_client_hears_of_changes_although_it_polls_another_node(engine: EngineKind) {
    let list = engine.default_list().await;
    let other = list.another_node().await;
    let a = sign_in(&list, "a").await;
    told_of(&list, &list, a, "b").await;
    told_of(&list, &other, a, "c").await;
    let news = told_of(&list, &list, a, "d").await;
    assert_eq!(news, status("d,4,1\nc,3,1\nb,2,1\na,1,1\n"));
}

/// A request with this proof that waits.
fn polls(list: &TestList, id: PeerId, proof: Proof) -> Waiting {
    let request = list.open_request(Caller {
        proof,
        ..caller(id, None)
    });
    Box::pin(async move { request?.wait(WaitOpts::default()).await })
}

async fn nobody_polls_on_for_a_peer_that_shows_its_token(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", LISTED).await;
    let other = added(&list, "other", LISTED).await.token;
    assert!(matches!(take(&list, a.id).await, News::Status(_)));
    let shown = [
        (Proof::Nothing, Refusal::MissingToken),
        (Proof::Token(other), Refusal::WrongToken),
    ];
    for (proof, refusal) in shown {
        let mut waiting = polls(&list, a.id, Proof::Token(a.token));
        assert!(list.is_open(&mut waiting).await);
        sign_in(&list, "b").await;
        list.now(&mut waiting).await.unwrap().done();
        list.settle().await;
        let refused = list.now(polls(&list, a.id, proof)).await;
        assert_eq!(refused.unwrap_err(), refusal);
    }
}

async fn who_has_polled_without_the_token_does_not_poll_on_once_it_was_shown(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", LISTED).await;
    for is_waiting in [false, true] {
        let mut waiting = polls(&list, a.id, Proof::Nothing);
        assert!(list.is_open(&mut waiting).await);
        sign_in(&list, "b").await;
        list.now(&mut waiting).await.unwrap().done();
        list.settle().await;
        if is_waiting {
            break;
        }
        // As long as nobody has shown it.
        let mut waiting = polls(&list, a.id, Proof::Nothing);
        assert!(list.is_open(&mut waiting).await);
        drop(waiting);
        list.settle().await;
    }
    request(&list, a.id, Some(&a.token)).await.unwrap();
    list.settle().await;
    let refused = list.now(polls(&list, a.id, Proof::Nothing)).await;
    assert_eq!(refused.unwrap_err(), Refusal::MissingToken);
    let wrong = added(&list, "c", LISTED).await.token;
    let refused = list.now(polls(&list, a.id, Proof::Token(wrong))).await;
    assert_eq!(refused.unwrap_err(), Refusal::WrongToken);
}

async fn a_client_that_was_told_and_signs_out_is_unknown(engine: EngineKind) {
    let list = engine.default_list().await;
    for is_elsewhere in [false, true] {
        let node = match is_elsewhere {
            true => list.another_node().await,
            false => TimeoutPeerList::clone(&list),
        };
        let a = sign_in(&list, "a").await;
        told_of(&list, &list, a, "b").await;
        node.remove_peer(a, Reason::SignedOut).await.unwrap();
        list.settle().await;
        let gone = list.now(wait(&list, a)).await;
        assert_eq!(gone.unwrap_err(), Refusal::UnknownPeer);
    }
}

async fn a_client_that_was_told_and_comes_back_hears_everything(engine: EngineKind) {
    let list = engine.default_list().await;
    let other = list.another_node().await;
    let a = added(&list, "a", LISTED).await;
    for node in [&*list, &other] {
        told_of(&list, &list, a.id, "b").await;
        resume(node, &a, "a").await;
        list.settle().await;
        say(&list, a.id, a.id, "to myself").await;
        assert_eq!(take(&list, a.id).await, message(a.id, "to myself"));
        let mut waiting = wait(&list, a.id);
        assert!(list.is_open(&mut waiting).await);
        sign_in(&list, "c").await;
        list.now(&mut waiting).await.unwrap().done();
        list.settle().await;
    }
}

async fn a_client_that_was_told_is_connected_for_two_more_seconds(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    told_of(&list, &list, a, "b").await;
    let connected = async || list.lines().await.contains("a,1,1");
    let mut waiting = Box::pin({
        let request = list.open_request(old_caller(a)).unwrap();
        async move { request.wait(WaitOpts::default()).await }
    });
    assert!(list.is_open(&mut waiting).await);
    sign_in(&list, "c").await;
    list.now(&mut waiting).await.unwrap().done();
    list.settle().await;
    list.pass(Duration::from_millis(1900)).await;
    assert!(connected().await);
    list.pass(Duration::from_millis(200)).await;
    assert!(!connected().await);
}

async fn a_client_that_polls_another_node_is_told_although_the_first_one_died(engine: EngineKind) {
    let list = engine.default_list().await;
    let other = list.another_node().await;
    let a = sign_in(&list, "a").await;
    told_of(&list, &other, a, "b").await;
    drop(other);
    let mut waiting = wait(&list, a);
    let _ = list.try_now(&mut waiting).await;
    drop(waiting);
    list.pass(LONG).await;
    let mut waiting = wait(&list, a);
    if list.is_open(&mut waiting).await {
        sign_in(&list, "c").await;
    }
    let told = list.now(&mut waiting).await;
    assert!(matches!(told.unwrap().news(), News::Status(_)));
}

/// A wait on this connection.
fn wait_by(list: &TimeoutPeerList, id: PeerId, link: &Arc<Link>) -> Waiting {
    let request = list.open_request(caller(id, Some(link)));
    Box::pin(async move { request?.wait(WaitOpts::default()).await })
}

/// A peer whose node did not hear that it polls another node, or was taken for dead meanwhile, and
/// that polls the first one again. It hears a message within 10 s.
async fn hears_a_message_all_the_same(is_dead: bool) {
    let list = EngineKind::Redis.default_list().await;
    let node = list.nodes().await.remove(0);
    let other = list.another_node().await;
    let a = sign_in(&list, "a").await;
    told_of(&list, &list, a, "b").await;
    if is_dead {
        list.bury(&node).await;
    } else {
        list.cut_subscriptions().await;
    }
    let mut there = wait(&other, a);
    let _ = list.try_now(&mut there).await;
    drop(there);
    list.settle().await;
    let mut waiting = wait(&list, a);
    if list.is_open(&mut waiting).await {
        list.pass_secs(5).await;
        say(&list, a, a, "to myself").await;
    }
    // A client whose wait ends polls again.
    let hears = async {
        loop {
            let delivery = (&mut waiting).await.unwrap();
            if *delivery.news() == message(a, "to myself") {
                return;
            }
            delivery.done();
            waiting = wait(&list, a);
        }
    };
    list.within(Duration::from_secs(10), hears).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_polls_on_hears_messages_although_a_push_was_lost() {
    hears_a_message_all_the_same(false).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_polls_on_hears_messages_although_its_node_was_taken_for_dead() {
    hears_a_message_all_the_same(true).await;
}

async fn a_short_poll_while_the_list_is_written_makes_the_next_one_not_deaf(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let mut waiting = wait(&list, a);
    assert!(list.is_open(&mut waiting).await);
    sign_in(&list, "b").await;
    let written_late = list.now(&mut waiting).await.unwrap();
    drop(waiting);
    let mut short = wait_with(&list, a, limited(Duration::from_secs(2)));
    let ended = list.within(Duration::from_secs(3), &mut short).await;
    drop((short, ended));
    written_late.done();
    list.settle().await;
    let mut waiting = wait(&list, a);
    while let Some(told_again) = list.try_now(&mut waiting).await {
        told_again.unwrap().done();
        list.settle().await;
        waiting = wait(&list, a);
    }
    list.pass_secs(60).await;
    assert_eq!(list.lines().await, "a,1,1\n", "it polls");
    say(&list, a, a, "to myself").await;
    let delivery = list.now(wait(&list, a)).await.unwrap();
    assert_eq!(*delivery.news(), message(a, "to myself"));
}

async fn a_short_poll_gets_a_message_that_is_there(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    told_of(&list, &list, a, "b").await;
    say(&list, a, a, "to myself").await;
    let short = wait_with(&list, a, limited(Duration::ZERO));
    let delivery = list.now(short).await.unwrap();
    assert_eq!(*delivery.news(), message(a, "to myself"));
}

async fn a_client_that_acknowledges_no_more_hears_each_message_once(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let acknowledging = WaitOpts {
        acknowledged: Some(0),
        ..WaitOpts::default()
    };
    let mut waiting = wait_with(&list, a, acknowledging);
    assert!(list.is_open(&mut waiting).await);
    sign_in(&list, "b").await;
    list.now(&mut waiting).await.unwrap().done();
    list.settle().await;
    let mut waiting = wait(&list, a);
    assert!(list.is_open(&mut waiting).await);
    say(&list, a, a, "to myself").await;
    let delivery = list.now(&mut waiting).await.unwrap();
    assert_eq!(*delivery.news(), message(a, "to myself"));
    delivery.done();
    list.settle().await;
    list.pass(REPEAT_PAUSE).await;
    assert_nothing(&list, a).await;
}

async fn the_connection_of_the_last_poll_keeps_a_client_connected(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let (polling, other) = (Arc::new(Link::new()), Arc::new(Link::new()));
    let told_by = async |name: &str| {
        let mut waiting = wait_by(&list, a, &polling);
        if list.is_open(&mut waiting).await {
            sign_in(&list, name).await;
        }
        list.now(&mut waiting).await.unwrap().done();
        list.settle().await;
    };
    told_by("b").await;
    told_by("c").await;
    let beat = list.open_request(caller(a, Some(&other))).unwrap();
    beat.heartbeat().await.unwrap();
    beat.answered();
    told_by("d").await;
    drop(other);
    list.settle().await;
    told_by("e").await;
    list.pass_secs(3).await;
    assert!(list.lines().await.contains("a,1,1"));
}

#[tokio::test(start_paused = true)]
async fn a_client_polls_on_although_another_connection_of_it_was_closed() {
    let list = EngineKind::Redis.default_list().await;
    let a = sign_in(&list, "a").await;
    let (polling, other) = (Arc::new(Link::new()), Arc::new(Link::new()));
    let mut asked = Vec::new();
    let mut other = Some(other);
    for round in 0..6 {
        let mut waiting = wait_by(&list, a, &polling);
        let before = list.asked_of_redis().await;
        let _ = list.try_now(&mut waiting).await;
        asked.push(list.asked_of_redis().await - before);
        sign_in(&list, "b").await;
        list.now(&mut waiting).await.unwrap().done();
        if round == 1 {
            let other = other.take().unwrap();
            let beat = list.open_request(caller(a, Some(&other))).unwrap();
            beat.heartbeat().await.unwrap();
            beat.answered();
        }
        list.settle().await;
    }
    // The first is told of what was there before; the third comes after the other connection.
    assert_eq!(asked[1], asked[5], "{asked:?}");
    assert!(asked[2] > asked[5], "{asked:?}");
}

async fn a_poll_that_is_aborted_loses_nothing_of_what_was_heard(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let (one, two) = (Arc::new(Link::new()), Arc::new(Link::new()));
    let mut waiting = wait_by(&list, a, &one);
    if list.is_open(&mut waiting).await {
        sign_in(&list, "b").await;
    }
    list.now(&mut waiting).await.unwrap().done();
    list.settle().await;
    // Before Redis is asked.
    let mut aborted = wait_by(&list, a, &two);
    let _ = futures_util::poll!(&mut aborted);
    drop(aborted);
    list.settle().await;
    let mut waiting = wait_by(&list, a, &two);
    list.pass(LONG).await;
    assert!(list.is_open(&mut waiting).await);
    // And several.
    let mut second = wait(&list, a);
    let _ = futures_util::poll!(&mut second);
    drop((waiting, second));
    list.settle().await;
    assert!(list.is_open(&mut wait(&list, a)).await);
}

#[tokio::test(start_paused = true)]
async fn clients_that_poll_again_late_do_not_make_nodes_ask_for_all_statuses() {
    let list = EngineKind::Redis.default_list().await;
    let a = sign_in(&list, "a").await;
    told_of(&list, &list, a, "b").await;
    list.pass_secs(5).await;
    let mut waiting = wait(&list, a);
    let _ = list.try_now(&mut waiting).await;
    let changed = async || -> Option<u64> { list.redis(&["GET", &list.key("statuses")]).await };
    let before = changed().await;
    sign_in(&list, "c").await;
    let since = changed().await;
    list.now(&mut waiting).await.unwrap().done();
    list.settle().await;
    list.pass(LONG).await;
    assert_eq!(changed().await, since, "{before:?}");
}

async fn a_client_that_was_told_by_one_of_three_nodes_is_not_told_again(engine: EngineKind) {
    let list = engine.default_list().await;
    let (second, third) = (list.another_node().await, list.another_node().await);
    let a = sign_in(&list, "a").await;
    told_of(&list, &list, a, "b").await;
    let mut there = wait(&second, a);
    let _ = futures_util::poll!(&mut there);
    let mut waiting = wait(&third, a);
    assert!(list.is_open(&mut waiting).await);
    list.pass(LONG).await;
    assert!(list.is_open(&mut waiting).await);
}

#[tokio::test(start_paused = true)]
async fn redis_is_not_asked_for_a_client_that_polls_on() {
    let list = EngineKind::Redis.default_list().await;
    let a = sign_in(&list, "a").await;
    told_of(&list, &list, a, "b").await;
    let before = list.asked_of_redis().await;
    let mut waiting = wait(&list, a);
    assert!(list.is_open(&mut waiting).await);
    let asked = list.asked_of_redis().await - before;
    // The questions of this test itself.
    assert!(asked <= 3, "{asked} commands");
}

every_engine! {
    each_change_is_heard_once_however_soon_the_client_polls_again,
    what_happens_between_two_polls_is_heard_at_the_second,
    a_message_comes_to_a_client_that_has_polled_on,
    a_client_that_polls_another_node_is_not_told_again,
    a_wait_that_went_on_and_is_left_is_not_told_again_elsewhere,
    a_client_hears_of_changes_although_it_polls_another_node,
    nobody_polls_on_for_a_peer_that_shows_its_token,
    who_has_polled_without_the_token_does_not_poll_on_once_it_was_shown,
    a_client_that_was_told_and_signs_out_is_unknown,
    a_client_that_was_told_and_comes_back_hears_everything,
    a_client_that_was_told_is_connected_for_two_more_seconds,
    a_client_that_polls_another_node_is_told_although_the_first_one_died,
    a_short_poll_while_the_list_is_written_makes_the_next_one_not_deaf,
    a_short_poll_gets_a_message_that_is_there,
    a_client_that_acknowledges_no_more_hears_each_message_once,
    the_connection_of_the_last_poll_keeps_a_client_connected,
    a_poll_that_is_aborted_loses_nothing_of_what_was_heard,
    a_client_that_was_told_by_one_of_three_nodes_is_not_told_again,
}
