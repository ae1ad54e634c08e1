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
}
