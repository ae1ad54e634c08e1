//! Which wait is given what, and in which order.

use super::*;

async fn only_the_newest_wait_receives_and_an_older_one_ends_at_its_own_time(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let mut older = wait_with(&list, a, limited(Duration::from_secs(25)));
    assert!(list.is_open(&mut older).await);
    let mut newest = wait(&list, a);
    assert!(list.is_open(&mut newest).await);
    say(&list, a, a, "to myself").await;
    assert!(list.is_open(&mut older).await);
    let delivery = list.now(&mut newest).await.unwrap();
    assert_eq!(*delivery.news(), message(a, "to myself"));
    delivery.done();
    assert!(list.is_open(&mut older).await);
    list.pass_secs(25).await;
    let end = list.now(&mut older).await.unwrap();
    assert_eq!(*end.news(), News::Nothing("a,1,1\n".into()));
}

async fn while_a_delivery_is_on_loan_no_other_wait_is_given_it_and_a_dropped_one_is_first_again(
    engine: EngineKind,
) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    say(&list, a, a, "one").await;
    say(&list, a, a, "two").await;
    let on_loan = list.now(wait(&list, a)).await.unwrap();
    let mut second = wait(&list, a);
    assert!(list.is_open(&mut second).await);
    drop(on_loan);
    list.settle().await;
    assert_eq!(
        *list.now(&mut second).await.unwrap().news(),
        message(a, "one")
    );
    assert_eq!(take(&list, a).await, message(a, "one"));
    assert_eq!(take(&list, a).await, message(a, "two"));
}

async fn every_open_wait_of_a_removed_peer_ends_at_once(engine: EngineKind) {
    let list = engine.default_list().await;
    let b = sign_in(&list, "b").await;
    // Its own sign-out is not an error to a peer, but its removal by others is.
    let reasons = [
        (Reason::SignedOut, News::Nothing("b,1,1\n".into())),
        (Reason::Kicked, News::Removed(Reason::Kicked)),
    ];
    let mut a = b;
    for (reason, end) in reasons {
        a = sign_in(&list, "a").await;
        let mut waits = [wait(&list, a), wait(&list, a), wait(&list, a)];
        for wait in &mut waits {
            assert!(list.is_open(wait).await);
        }
        assert!(list.remove_peer(a, reason).await.unwrap());
        assert!(!list.remove_peer(a, reason).await.unwrap());
        for wait in &mut waits {
            assert_eq!(*list.now(wait).await.unwrap().news(), end);
        }
    }
    let bare = added(&list, "c", BARE).await.id;
    let mut polls = wait(&list, bare);
    assert!(list.is_open(&mut polls).await);
    list.remove_peer(bare, Reason::SignedOut).await.unwrap();
    let end = list.now(&mut polls).await.unwrap();
    assert_eq!(*end.news(), News::Nothing("\n".into()));
    let late = list.send(a, a, Bytes::new(), SendOpts::default()).await;
    assert_eq!(late.unwrap_err(), Refusal::UnknownPeer);
}

async fn waits_that_came_while_a_peer_was_told_end_when_it_signs_out(engine: EngineKind) {
    for has_heard in [true, false] {
        end_when_it_signs_out(engine, has_heard).await;
    }
}

/// `has_heard`: the peer has heard what it was told, before it signs out.
async fn end_when_it_signs_out(engine: EngineKind, has_heard: bool) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let mut polls = wait(&list, a);
    assert!(list.is_open(&mut polls).await);
    let b = sign_in(&list, "b").await;
    let told = list.now(&mut polls).await.unwrap();
    let mut waits = [wait(&list, a), wait(&list, a)];
    for wait in &mut waits {
        assert!(list.is_open(wait).await);
    }
    if has_heard {
        told.done();
        for newest_first in [1, 0] {
            assert!(list.is_open(&mut waits[newest_first]).await);
        }
    }
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    for wait in &mut waits {
        let end = list.now(wait).await.unwrap();
        assert_eq!(*end.news(), News::Nothing(format!("b,{b},1\n").into()));
    }
}

async fn a_wait_that_is_refused_while_the_peer_is_told_takes_nothing_from_its_own(
    engine: EngineKind,
) {
    let list = engine.default_list().await;
    let a = added(&list, "a", PROTECTED).await;
    let of_a = |proof| {
        let caller = Caller {
            proof,
            ..caller(a.id, None)
        };
        let request = list.open_request(caller);
        Box::pin(async move { request?.wait(WaitOpts::default()).await })
    };
    let mut polls = of_a(Proof::Token(a.token));
    assert!(list.is_open(&mut polls).await);
    sign_in(&list, "b").await;
    let told = list.now(&mut polls).await.unwrap();
    let mut own = of_a(Proof::Token(a.token));
    assert!(list.is_open(&mut own).await);
    let mut of_another: Waiting = of_a(Proof::Nothing);
    if engine.is_in_redis() {
        assert!(list.is_open(&mut of_another).await);
    }
    told.done();
    assert!(list.is_open(&mut own).await);
    let refused = list.now(&mut of_another).await;
    assert_eq!(refused.unwrap_err(), Refusal::MissingToken);
    say(&list, a.id, a.id, "hi").await;
    let given = list.now(&mut own).await.unwrap();
    assert_eq!(*given.news(), message(a.id, "hi"));
}

async fn what_a_peer_heard_when_its_node_stopped_is_not_given_again(engine: EngineKind) {
    let list = engine.default_list().await;
    let other = list.another_node().await;
    let a = sign_in(&list, "a").await;
    for body in ["one", "two"] {
        say(&list, a, a, body).await;
    }
    let delivery = list.now(wait(&other, a)).await.unwrap();
    assert_eq!(*delivery.news(), message(a, "one"));
    delivery.done();
    // A list of this process has no other node that could go on.
    if engine.is_in_redis() {
        other.end_waits();
        other.stop().await;
    }
    assert_eq!(take(&list, a).await, message(a, "two"));
    assert_nothing(&list, a).await;
}

async fn at_the_end_every_open_wait_is_answered_and_none_parks_any_more(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let b = added(&list, "b", BARE).await.id;
    take(&list, a).await;
    let mut waits = [wait(&list, a), wait(&list, b), wait(&list, b)];
    for wait in &mut waits {
        assert!(list.is_open(wait).await);
    }
    list.end_waits();
    let ends = ["b,2,1\na,1,1\n", "\n", "\n"];
    for (wait, end) in waits.iter_mut().zip(ends) {
        let delivery = list.now(wait).await.unwrap();
        assert_eq!(*delivery.news(), News::Nothing(end.into()));
    }
    say(&list, a, b, "still delivered").await;
    assert_eq!(take(&list, b).await, message(a, "still delivered"));
    assert_eq!(take(&list, b).await, News::Nothing("\n".into()));
}

async fn a_full_mailbox_refuses_and_keeps_what_it_has(engine: EngineKind) {
    let list = engine.bounded_list(2 * MESSAGE_OVERHEAD_BYTES + 6).await;
    let a = sign_in(&list, "a").await;
    say(&list, a, a, "one").await;
    say(&list, a, a, "two").await;
    let full = list.send(a, a, Bytes::new(), SendOpts::default()).await;
    assert_eq!(full.unwrap_err(), Refusal::MailboxFull);
    assert_eq!(take(&list, a).await, message(a, "one"));
    say(&list, a, a, "3").await;
    assert_eq!(take(&list, a).await, message(a, "two"));
    assert_eq!(take(&list, a).await, message(a, "3"));
}

async fn a_message_that_is_sent_again_with_its_number_is_delivered_once(engine: EngineKind) {
    let list = engine.bounded_list(MESSAGE_OVERHEAD_BYTES + 1).await;
    let a = sign_in(&list, "a").await;
    let send = async |body: &'static str, number| {
        list.send(a, a, body.into(), SendOpts::numbered(number))
            .await
    };
    assert_eq!(send("1", 1).await, Ok(()));
    // What was refused was not sent.
    assert_eq!(send("2", 2).await, Err(Refusal::MailboxFull));
    assert_eq!(send("1", 1).await, Ok(()));
    // It is not known whether this was sent.
    assert_eq!(send("0", 0).await, Err(Refusal::OutOfOrder));
    assert_eq!(take(&list, a).await, message(a, "1"));
    for _ in 0..2 {
        assert_eq!(send("2", 2).await, Ok(()));
    }
    assert_eq!(take(&list, a).await, message(a, "2"));
    assert_eq!(send("2", 2).await, Ok(()));
    assert_nothing(&list, a).await;
}

async fn a_number_that_somebody_forged_does_not_lock_a_peer_out(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", LISTED).await;
    let forged = request(&list, a.id, None).await.unwrap();
    forged
        .send(a.id, "x".into(), SendOpts::numbered(u64::MAX))
        .await
        .unwrap();
    let own = request(&list, a.id, Some(&a.token)).await.unwrap();
    assert_eq!(
        own.send(a.id, "1".into(), SendOpts::numbered(1)).await,
        Ok(())
    );
    assert_eq!(take(&list, a.id).await, message(a.id, "x"));
    assert_eq!(take(&list, a.id).await, message(a.id, "1"));
}

async fn a_wait_without_news_ends_at_its_limit_with_what_its_client_expects(engine: EngineKind) {
    let list = engine.default_list().await;
    let bare = added(&list, "bare", BARE).await.id;
    let listed = sign_in(&list, "listed").await;
    take(&list, bare).await;
    let limit = Duration::from_secs(25);
    let mut waits = [listed, bare].map(|id| wait_with(&list, id, limited(limit)));
    for wait in &mut waits {
        assert!(list.is_open(wait).await);
    }
    list.pass(limit).await;
    let mut news = Vec::new();
    for wait in &mut waits {
        news.push(list.now(wait).await.unwrap().news().clone());
    }
    let current = format!("listed,{listed},1\nbare,{bare},1\n");
    assert_eq!(
        news,
        [News::Nothing(current.into()), News::Nothing("\n".into())]
    );
}

every_list! {
    only_the_newest_wait_receives_and_an_older_one_ends_at_its_own_time,
    while_a_delivery_is_on_loan_no_other_wait_is_given_it_and_a_dropped_one_is_first_again,
    every_open_wait_of_a_removed_peer_ends_at_once,
    waits_that_came_while_a_peer_was_told_end_when_it_signs_out,
    a_wait_that_is_refused_while_the_peer_is_told_takes_nothing_from_its_own,
    what_a_peer_heard_when_its_node_stopped_is_not_given_again,
    at_the_end_every_open_wait_is_answered_and_none_parks_any_more,
    a_full_mailbox_refuses_and_keeps_what_it_has,
    a_message_that_is_sent_again_with_its_number_is_delivered_once,
    a_number_that_somebody_forged_does_not_lock_a_peer_out,
    a_wait_without_news_ends_at_its_limit_with_what_its_client_expects,
}
