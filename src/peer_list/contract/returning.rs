//! Peers that come back as themselves, and tokens.

use super::*;

async fn a_peer_comes_back_under_its_id_with_its_line_first_and_its_mailbox(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", LISTED).await;
    let b = added(&list, "b", LISTED).await;
    say(&list, b.id, a.id, "hi").await;
    let again = resume(&list, &a, "a").await;
    assert_eq!(again.id, a.id);
    assert_eq!(text(&again.list), "a,1,1\nb,2,1\n");
    assert_eq!(take(&list, a.id).await, message(b.id, "hi"));
    assert_nothing(&list, a.id).await;
    assert_eq!(list.ids().await, [a.id, b.id]);
    assert_eq!(list.lines().await, "b,2,1\na,1,1\n");
}

async fn the_others_are_told_of_a_return_only_if_the_name_is_another(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", LISTED).await;
    let b = added(&list, "b", LISTED).await;
    let mut waiting = wait(&list, b.id);
    assert!(list.is_open(&mut waiting).await);
    resume(&list, &a, "a").await;
    assert!(list.is_open(&mut waiting).await);
    let again = resume(&list, &a, "a,2").await;
    assert_eq!(text(&again.list), "a_2,1,1\nb,2,1\n");
    let told = list.now(&mut waiting).await.unwrap();
    assert_eq!(*told.news(), status("a_2,1,1\nb,2,1\n"));
    told.done();
    // And what it sends comes after that news.
    say(&list, a.id, b.id, "hi").await;
    assert_eq!(take(&list, b.id).await, message(a.id, "hi"));
}

async fn a_wait_from_before_is_given_nothing_and_ends_in_its_own_time(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", LISTED).await;
    let limit = Duration::from_secs(20);
    let mut before = wait_with(&list, a.id, limited(limit));
    assert!(list.is_open(&mut before).await);
    resume(&list, &a, "a").await;
    say(&list, a.id, a.id, "hi").await;
    assert!(list.is_open(&mut before).await);
    assert_eq!(take(&list, a.id).await, message(a.id, "hi"));
    assert!(list.is_open(&mut before).await);
    list.pass_secs(20).await;
    let end = list.now(&mut before).await.unwrap();
    assert!(matches!(end.news(), News::Nothing(_)));
}

async fn what_was_lent_to_an_earlier_connection_is_given_to_the_peer_that_came_back(
    engine: EngineKind,
) {
    let list = engine.default_list().await;
    let a = added(&list, "a", LISTED).await;
    say(&list, a.id, a.id, "hi").await;
    let lent = list.now(wait(&list, a.id)).await.unwrap();
    resume(&list, &a, "a").await;
    let given = list.now(wait(&list, a.id)).await.unwrap();
    assert_eq!(*given.news(), message(a.id, "hi"));
    lent.done();
    assert_nothing(&list, a.id).await;
    given.done();
    assert_nothing(&list, a.id).await;
}

async fn no_peer_comes_back_with_a_wrong_token_or_after_removal(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", LISTED).await;
    let b = added(&list, "b", LISTED).await;
    let wrong = list.resume_peer(a.id, &b.token, None, LISTED).await;
    assert_eq!(wrong.unwrap_err(), Refusal::WrongToken);
    assert_eq!(
        list.check_token(a.id, Some(&b.token)).await,
        Err(Refusal::WrongToken)
    );
    assert_eq!(list.check_token(a.id, Some(&a.token)).await, Ok(()));
    list.remove_peer(a.id, Reason::SignedOut).await.unwrap();
    let gone = list.resume_peer(a.id, &a.token, None, LISTED).await;
    assert_eq!(gone.unwrap_err(), Refusal::UnknownPeer);
}

/// Who is behind a peer.
fn user(name: &str, address: &str) -> Identity {
    Identity {
        user: Some(name.into()),
        address: Some(address.parse().unwrap()),
        network: None,
        ice_servers: None,
    }
}

async fn a_peer_comes_back_only_for_its_own_user(engine: EngineKind) {
    let list = engine.default_list().await;
    let mine = user("me, 100%", "192.0.2.7");
    let opts = |identity: &Identity| SignInOpts {
        identity: identity.clone(),
        ..LISTED
    };
    let a = added(&list, "a", opts(&mine)).await;
    let info = list.peer_info(a.id).await.unwrap().unwrap();
    assert_eq!(info.identity, mine);
    let another = user("another", "192.0.2.7");
    for other in [&another, &NOBODY] {
        let resumed = list.resume_peer(a.id, &a.token, None, opts(other));
        assert_eq!(resumed.await.unwrap_err(), Refusal::OtherUser);
    }
    let elsewhere = user("me, 100%", "2001:db8::7");
    let mut events = list.subscribe().await;
    let resumed = list.resume_peer(a.id, &a.token, None, opts(&elsewhere));
    assert_eq!(resumed.await.unwrap().id, a.id);
    let (_, event) = list.now(events.next()).await.unwrap();
    assert_eq!(event.peer().identity, elsewhere);
}

async fn an_unlisted_peer_comes_back_only_for_its_own_user(engine: EngineKind) {
    let list = engine.default_list().await;
    let (mine, another) = (user("me", "192.0.2.7"), user("another", "192.0.2.8"));
    let come = async |identity: &Identity| {
        let coming = Unlisted {
            key: Some(KEY),
            door: "relay",
            channels: &[CHANNEL],
            identity,
        };
        list.add_unlisted(coming).await
    };
    let a = come(&mine).await.unwrap();
    assert_eq!(come(&another).await.unwrap_err(), Refusal::OtherUser);
    let resumed = list.resume_unlisted(a.id, &a.token, &another).await;
    assert_eq!(resumed.unwrap_err(), Refusal::OtherUser);
    list.list_peer(a.id, listing("a")).await.unwrap();
    assert_eq!(come(&mine).await.unwrap().id, a.id);
    let info = list.peer_info(a.id).await.unwrap().unwrap();
    assert_eq!(info.identity, mine);
}

async fn a_poll_takes_a_peer_over_from_its_socket_and_the_other_way_round(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", SOCKET).await;
    let socket = list.open_socket(a.id, SocketOpts::default()).await.unwrap();
    assert!(
        list.now(wait(&list, a.id)).await.is_err(),
        "heard by its socket"
    );
    let mut ended = Box::pin(socket.ended());
    assert!(list.is_open(&mut ended).await);
    resume(&list, &a, "a").await;
    list.now(&mut ended).await;
    drop(ended);
    list.settle().await;
    assert_eq!(*list.now(socket.wait()).await.news(), News::Replaced);
    let mut poll = wait(&list, a.id);
    assert!(list.is_open(&mut poll).await);
    // The end of the old socket is nothing to the peer.
    socket.leave(Reason::Closed).await;
    say(&list, a.id, a.id, "hi").await;
    let given = list.now(&mut poll).await.unwrap();
    assert_eq!(*given.news(), message(a.id, "hi"));
    given.done();
    let back = list.resume_peer(a.id, &a.token, None, SOCKET).await;
    assert_eq!(back.unwrap().id, a.id);
    let socket = list.open_socket(a.id, SocketOpts::default()).await.unwrap();
    assert!(list.now(wait(&list, a.id)).await.is_err());
    socket.leave(Reason::Closed).await;
    assert!(list.ids().await.is_empty());
}

async fn a_replaced_socket_that_waits_again_does_not_come_before_the_poll(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", SOCKET).await;
    let socket = list.open_socket(a.id, SocketOpts::default()).await.unwrap();
    resume(&list, &a, "a").await;
    let mut poll = wait(&list, a.id);
    assert!(list.is_open(&mut poll).await);
    assert_eq!(*list.now(socket.wait()).await.news(), News::Replaced);
    say(&list, a.id, a.id, "hi").await;
    list.now(&mut poll).await.unwrap();
}

async fn a_poll_that_a_socket_replaced_ends_in_the_form_that_its_client_knows(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", LISTED).await;
    let mut poll = wait_with(&list, a.id, limited(Duration::from_secs(1)));
    assert!(list.is_open(&mut poll).await);
    let resumed = list.resume_peer(a.id, &a.token, None, SOCKET);
    resumed.await.unwrap();
    list.pass_secs(1).await;
    let end = list.now(&mut poll).await.unwrap();
    assert_eq!(*end.news(), News::Nothing("a,1,1\n".into()));
}

async fn a_peer_that_has_shown_its_token_is_protected_from_then_on(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", LISTED).await;
    assert!(request(&list, a.id, None).await.is_ok());
    assert!(request(&list, a.id, Some(&a.token)).await.is_ok());
    assert_eq!(
        request(&list, a.id, None).await.unwrap_err(),
        Refusal::MissingToken
    );
    assert_eq!(
        list.check_token(a.id, None).await,
        Err(Refusal::MissingToken)
    );
    assert_eq!(list.check_token(a.id, Some(&a.token)).await, Ok(()));
    // One that came back has shown it too.
    let b = added(&list, "b", LISTED).await;
    resume(&list, &b, "b").await;
    assert_eq!(
        request(&list, b.id, None).await.unwrap_err(),
        Refusal::MissingToken
    );
    // And one that asked for it at its sign-in.
    let c = added(&list, "c", PROTECTED).await;
    assert_eq!(
        request(&list, c.id, None).await.unwrap_err(),
        Refusal::MissingToken
    );
    assert!(request(&list, c.id, Some(&c.token)).await.is_ok());
    // No request may act for a peer whose socket is open, nor for one that may
    // open one again.
    let d = added(&list, "d", SOCKET).await;
    let socket = list.open_socket(d.id, SocketOpts::default()).await.unwrap();
    assert_eq!(
        list.check_token(d.id, None).await,
        Err(Refusal::MissingToken)
    );
    drop(socket);
    list.settle().await;
    let d = added(&list, "d", SOCKET).await;
    drop(list.open_socket(d.id, RESUMING).await.unwrap());
    list.settle().await;
    assert_eq!(
        list.check_token(d.id, None).await,
        Err(Refusal::MissingToken)
    );
}

every_list! {
    a_peer_comes_back_under_its_id_with_its_line_first_and_its_mailbox,
    the_others_are_told_of_a_return_only_if_the_name_is_another,
    a_wait_from_before_is_given_nothing_and_ends_in_its_own_time,
    what_was_lent_to_an_earlier_connection_is_given_to_the_peer_that_came_back,
    no_peer_comes_back_with_a_wrong_token_or_after_removal,
    a_peer_comes_back_only_for_its_own_user,
    an_unlisted_peer_comes_back_only_for_its_own_user,
    a_poll_takes_a_peer_over_from_its_socket_and_the_other_way_round,
    a_replaced_socket_that_waits_again_does_not_come_before_the_poll,
    a_poll_that_a_socket_replaced_ends_in_the_form_that_its_client_knows,
    a_peer_that_has_shown_its_token_is_protected_from_then_on,
}
