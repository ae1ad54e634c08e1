//! Peers that sign out later, unless they show that they are there.

use super::*;

const GRACE: Duration = Duration::from_secs(5);

async fn a_peer_that_leaves_with_grace_stays_if_it_shows_before_then_that_it_still_runs(
    engine: EngineKind,
) {
    let list = engine.default_list().await;
    let mut left = Vec::new();
    for returns in 0..4 {
        let a = added(&list, "a", LISTED).await;
        list.sign_out_later(a.id, GRACE).await.unwrap();
        list.pass_secs(4).await;
        match returns {
            0 => drop(resume(&list, &a, "a").await),
            1 => list.refresh_peer_timeout(a.id).await.unwrap(),
            2 => {
                let limit = Duration::from_secs(1);
                let waiting = wait_with(&list, a.id, limited(limit));
                drop(list.within(limit, waiting).await);
            }
            _ => {}
        }
        list.pass_secs(2).await;
        left.push(!list.ids().await.contains(&a.id));
    }
    assert_eq!(left, [false, false, false, true]);
}

async fn of_two_farewells_the_sooner_counts(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", LISTED).await;
    list.sign_out_later(a.id, Duration::from_secs(9))
        .await
        .unwrap();
    list.sign_out_later(a.id, Duration::from_secs(3))
        .await
        .unwrap();
    list.sign_out_later(a.id, Duration::from_secs(9))
        .await
        .unwrap();
    list.pass_secs(3).await;
    assert!(list.ids().await.is_empty());
}

async fn a_page_that_polls_when_the_farewell_of_the_one_before_it_comes_stays(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let mut polls = wait(&list, a);
    assert!(list.is_open(&mut polls).await);
    list.sign_out_later(a, GRACE).await.unwrap();
    // It is asked to show that it is there.
    let end = list.now(&mut polls).await.unwrap();
    assert_eq!(*end.news(), News::Nothing("a,1,1\n".into()));
    let mut polls = wait(&list, a);
    assert!(list.is_open(&mut polls).await);
    list.pass(2 * GRACE).await;
    assert!(list.is_open(&mut polls).await);
    assert_eq!(list.ids().await, [a]);
}

async fn a_peer_is_gone_when_its_grace_is_over_whatever_of_it_is_still_open(engine: EngineKind) {
    let list = engine.default_list().await;
    // A frozen page, whose poll stays open.
    let a = sign_in(&list, "a").await;
    let mut frozen = wait(&list, a);
    assert!(list.is_open(&mut frozen).await);
    list.sign_out_later(a, GRACE).await.unwrap();
    list.pass(GRACE).await;
    assert!(list.ids().await.is_empty());
    drop(frozen);
    list.settle().await;
    // One whose last poll comes after the farewell, and whose connection is then
    // closed.
    let a = sign_in(&list, "a").await;
    list.sign_out_later(a, GRACE).await.unwrap();
    let mut late = wait(&list, a);
    assert!(list.is_open(&mut late).await);
    drop(late);
    list.settle().await;
    list.pass(GRACE).await;
    assert!(list.ids().await.is_empty());
    // One whose last poll comes after the farewell, and whose connection stays.
    let a = sign_in(&list, "a").await;
    list.sign_out_later(a, GRACE).await.unwrap();
    let mut late = wait(&list, a);
    assert!(list.is_open(&mut late).await);
    list.pass(GRACE).await;
    list.now(&mut late).await.unwrap();
    assert_eq!(list.ids().await, [a]);
    list.pass_secs(2).await;
    assert!(list.ids().await.is_empty());
    // One whose last heartbeat comes after the farewell.
    let a = sign_in(&list, "a").await;
    list.sign_out_later(a, GRACE).await.unwrap();
    list.refresh_peer_timeout(a).await.unwrap();
    list.pass(GRACE).await;
    assert!(list.ids().await.is_empty());
    // One that polls once more because its wait was answered, before its connection is
    // closed.
    let a = sign_in(&list, "a").await;
    let mut polls = wait(&list, a);
    assert!(list.is_open(&mut polls).await);
    list.sign_out_later(a, GRACE).await.unwrap();
    list.now(&mut polls).await.unwrap();
    let mut late = wait(&list, a);
    assert!(list.is_open(&mut late).await);
    drop(late);
    list.settle().await;
    list.pass(GRACE).await;
    assert!(list.ids().await.is_empty());
    // And a page that lives, whose poll came late: it polls again.
    let a = sign_in(&list, "a").await;
    list.sign_out_later(a, GRACE).await.unwrap();
    let mut polls = wait(&list, a);
    assert!(list.is_open(&mut polls).await);
    list.pass(GRACE).await;
    list.now(&mut polls).await.unwrap();
    let mut polls = wait(&list, a);
    assert!(list.is_open(&mut polls).await);
    list.pass(2 * GRACE).await;
    assert_eq!(list.ids().await, [a]);
}

async fn a_last_poll_that_came_late_and_was_answered_keeps_no_peer(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    say(&list, a, a, "1").await;
    list.sign_out_later(a, GRACE).await.unwrap();
    assert_eq!(take(&list, a).await, message(a, "1"));
    list.pass(GRACE).await;
    assert!(list.ids().await.is_empty());
    // A page that lives polls again.
    let a = sign_in(&list, "a").await;
    say(&list, a, a, "1").await;
    list.sign_out_later(a, GRACE).await.unwrap();
    assert_eq!(take(&list, a).await, message(a, "1"));
    let mut polls = wait(&list, a);
    assert!(list.is_open(&mut polls).await);
    list.pass(2 * GRACE).await;
    assert_eq!(list.ids().await, [a]);
}

async fn an_open_socket_does_not_keep_a_peer_that_signs_out_later(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let socket = list.open_socket(a, RESUMING).await.unwrap();
    let mut news = Box::pin(socket.wait());
    assert!(list.is_open(&mut news).await);
    list.sign_out_later(a, GRACE).await.unwrap();
    assert!(list.is_open(&mut news).await);
    list.pass(GRACE).await;
    assert!(list.ids().await.is_empty());
}

async fn a_socket_that_opened_late_keeps_a_peer_only_if_it_stays_open(engine: EngineKind) {
    let list = engine.default_list().await;
    let mut left = Vec::new();
    for (pause, closes) in [(0, true), (0, false), (2, true)] {
        let SignedIn { id: a, token, .. } = added(&list, "a", LISTED).await;
        list.sign_out_later(a, GRACE).await.unwrap();
        list.pass_secs(pause).await;
        list.resume_peer(a, &token, None, SOCKET).await.unwrap();
        let socket = list.open_socket(a, RESUMING).await.unwrap();
        let socket = (!closes).then_some(socket);
        list.settle().await;
        list.pass(GRACE).await;
        left.push(!list.ids().await.contains(&a));
        drop(socket);
        list.settle().await;
        list.pass(GRACE).await;
        assert_eq!(list.ids().await.contains(&a), !left[left.len() - 1]);
    }
    // What comes long after the farewell was sent after it.
    assert_eq!(left, [true, false, false]);
}

every_list! {
    a_peer_that_leaves_with_grace_stays_if_it_shows_before_then_that_it_still_runs,
    of_two_farewells_the_sooner_counts,
    a_page_that_polls_when_the_farewell_of_the_one_before_it_comes_stays,
    a_peer_is_gone_when_its_grace_is_over_whatever_of_it_is_still_open,
    a_last_poll_that_came_late_and_was_answered_keeps_no_peer,
    an_open_socket_does_not_keep_a_peer_that_signs_out_later,
    a_socket_that_opened_late_keeps_a_peer_only_if_it_stays_open,
}
