//! Rooms: which lists there are, and what they share.

use super::*;

fn room_name(text: &str) -> RoomName {
    text.parse().unwrap()
}

async fn rooms_share_their_ids_and_the_root_list_has_its_own(engine: EngineKind) {
    let root = engine.default_list().await;
    let (a, b) = (root.in_room("a"), root.in_room("b"));
    assert_eq!(sign_in(&root, "r").await.get(), 1);
    assert_eq!(sign_in(&a, "a").await.get(), 1);
    assert_eq!(sign_in(&b, "b").await.get(), 2);
    assert_eq!(sign_in(&a, "a2").await.get(), 3);
    assert_eq!(sign_in(&root, "r2").await.get(), 2);
}

async fn an_id_does_not_come_again_when_a_room_begins_again(engine: EngineKind) {
    let root = engine.default_list().await;
    let room = root.in_room("a");
    let first = added(&room, "a", LISTED).await;
    room.remove_peer(first.id, Reason::SignedOut).await.unwrap();
    drop(room);
    root.pass_secs(10).await;
    let room = root.in_room("a");
    let second = added(&room, "a", LISTED).await;
    assert_eq!((first.id.get(), second.id.get()), (1, 2));
    assert!(!room.remove_peer(first.id, Reason::SignedOut).await.unwrap());
    assert_eq!(text(&second.list), "a,2,1\n");
    let resumed = room.resume_peer(first.id, &first.token, Some("a"), LISTED);
    assert_eq!(resumed.await.unwrap_err(), Refusal::UnknownPeer);
}

async fn a_room_that_begins_again_has_existed_since_then(engine: EngineKind) {
    let root = engine.default_list().await;
    let room = root.in_room("a");
    for seconds in [0, 100] {
        root.pass_secs(seconds).await;
        let began = root.system_time();
        let id = sign_in(&room, "a").await;
        let since = root.rooms().await.unwrap()[0].since;
        // In Redis it is a whole number of ms, and time passes as the test says.
        let early = began.duration_since(since).unwrap_or_default();
        let exact = if engine.is_in_redis() { 1 } else { 0 };
        assert!(early <= Duration::from_millis(exact), "after {seconds} s");
        room.remove_peer(id, Reason::SignedOut).await.unwrap();
    }
}

async fn a_peer_of_another_room_is_unknown(engine: EngineKind) {
    let root = engine.default_list().await;
    let (here, there) = (root.in_room("here"), root.in_room("there"));
    let a = added(&here, "a", LISTED).await;
    let b = added(&there, "b", LISTED).await;
    let sent = here.send(a.id, b.id, "x".into(), SendOpts::default());
    assert_eq!(sent.await, Err(Refusal::UnknownReceiver));
    let sent = there.send(a.id, b.id, "x".into(), SendOpts::default());
    assert_eq!(sent.await, Err(Refusal::UnknownPeer));
    let waited = match there.open_request(caller(a.id, None)) {
        Ok(request) => request.wait(WaitOpts::default()).await.map(|_| ()),
        Err(refusal) => Err(refusal),
    };
    assert_eq!(waited, Err(Refusal::UnknownPeer));
    let beat = there.refresh_peer_timeout(a.id).await;
    assert_eq!(beat, Err(Refusal::UnknownPeer));
    assert!(!there.remove_peer(a.id, Reason::SignedOut).await.unwrap());
    let back = there.resume_peer(a.id, &a.token, None, LISTED).await;
    assert_eq!(back.unwrap_err(), Refusal::UnknownPeer);
    assert!(there.peer_info(a.id).await.unwrap().is_none());
    assert_eq!(here.ids().await, [a.id]);
    assert_eq!(there.ids().await, [b.id]);
}

async fn channels_aliases_announcements_and_keys_are_of_one_room(engine: EngineKind) {
    let root = engine.default_list().await;
    let (here, there) = (root.in_room("here"), root.in_room("there"));
    let (a, a_socket) = unlisted(&here, Some(KEY)).await;
    let (b, b_socket) = unlisted(&there, Some(KEY)).await;
    assert_ne!(a, b, "a key is known in its own room only");
    here.claim(a, SCOPE, "name", KEPT).await.unwrap();
    there.claim(b, SCOPE, "name", KEPT).await.unwrap();
    there.watch_for(b, "topic").await.unwrap();
    here.announce(a, "topic").await.unwrap();
    publish(&here, a, "hello").await;
    nothing_for(&there, &*b_socket).await;
    here.send_to_alias(a, SCOPE, "name", "to myself".into())
        .await
        .unwrap();
    assert_eq!(
        take_from(&here, &*a_socket).await,
        published(1, "to myself")
    );
    nothing_for(&there, &*b_socket).await;
}

async fn a_room_exists_while_it_has_a_peer(engine: EngineKind) {
    let root = engine.default_list().await;
    let names = async || {
        let rooms = root.rooms().await.unwrap();
        let names = rooms.iter().map(|room| (room.name.to_string(), room.peers));
        names.collect::<Vec<_>>()
    };
    let began = root.system_time();
    let (b, a) = (root.in_room("b"), root.in_room("a"));
    assert!(names().await.is_empty(), "nobody is there");
    let in_b = sign_in(&b, "x").await;
    sign_in(&b, "y").await;
    let (member, socket) = unlisted(&a, None).await;
    assert_eq!(names().await, [("a".to_owned(), 0), ("b".to_owned(), 2)]);
    let since = root.rooms().await.unwrap()[0].since;
    assert!(since.duration_since(began).unwrap_or_default() < Duration::from_secs(1));
    b.remove_peer(in_b, Reason::SignedOut).await.unwrap();
    socket.leave(Reason::Closed).await;
    let _ = a.remove_peer(member, Reason::Closed).await;
    assert_eq!(names().await, [("b".to_owned(), 1)]);
    root.pass_secs(60).await;
    assert!(names().await.is_empty(), "its peer was stale");
    assert!(root.ids().await.is_empty());
}

async fn a_room_has_its_own_bound_beside_that_of_all_peers(engine: EngineKind) {
    let opts = HeartbeatOpts {
        max_peers: 3,
        max_room_peers: Some(1),
        ..HeartbeatOpts::default()
    };
    let root = engine.list(opts).await;
    let (a, b) = (root.in_room("a"), root.in_room("b"));
    sign_in(&a, "a").await;
    let refused = a.add_peer(Some("a"), LISTED).await;
    assert_eq!(refused.unwrap_err(), Refusal::RoomFull);
    sign_in(&root, "r").await;
    sign_in(&root, "the root list has no bound of its own").await;
    let refused = b.add_peer(Some("b"), LISTED).await;
    assert_eq!(refused.unwrap_err(), Refusal::Full);
}

async fn events_and_lists_name_the_room_of_a_peer(engine: EngineKind) {
    let root = engine.default_list().await;
    let room = root.in_room("a");
    let mut events = root.subscribe().await;
    let in_room = sign_in(&room, "x").await;
    let in_root = sign_in(&root, "y").await;
    let mut told = Vec::new();
    for _ in 0..2 {
        let (_, event) = root.now(events.next()).await.unwrap();
        told.push((event.peer().room.clone(), event.peer().id));
    }
    let name = Some(room_name("a"));
    assert_eq!(told, [(name.clone(), in_room), (None, in_root)]);
    let infos = root.infos_of_all_rooms().await.unwrap();
    let infos: Vec<_> = infos.into_iter().map(|info| (info.room, info.id)).collect();
    assert_eq!(infos, [(None, in_root), (name, in_room)]);
}

async fn a_collection_by_hand_is_of_one_room(engine: EngineKind) {
    let root = engine.default_list().await;
    root.cancel_gc();
    let (a, b) = (root.in_room("a"), root.in_room("b"));
    for _ in 0..150 {
        a.add_peer(None, LISTED).await.unwrap();
    }
    let in_b = sign_in(&b, "b").await;
    root.pass_secs(40).await;
    assert_eq!(b.purge().await.unwrap(), [in_b]);
    assert_eq!(a.ids().await.len(), 150);
    assert_eq!(a.purge().await.unwrap().len(), 150);
}

async fn a_waiting_peer_hears_of_its_room_at_every_node(engine: EngineKind) {
    let root = engine.default_list().await;
    let room = root.in_room("a");
    let other = root.another_node().await.room(&room_name("a"));
    let a = sign_in(&room, "a").await;
    let mut waiting = wait(&other, a);
    assert!(root.is_open(&mut waiting).await);
    sign_in(&root, "not for a").await;
    assert!(root.is_open(&mut waiting).await);
    let b = sign_in(&room, "b").await;
    let delivery = root.now(&mut waiting).await.unwrap();
    let lines = format!("b,{b},1\na,{a},1\n");
    assert_eq!(*delivery.news(), status(&lines));
}

async fn a_peer_that_polls_another_node_is_told_what_it_has_missed(engine: EngineKind) {
    let root = engine.default_list().await;
    let another = root.another_node().await;
    for list in [root.clone(), root.in_room("a")] {
        let a = sign_in(&list, "a").await;
        let b = sign_in(&list, "b").await;
        list.pass_secs(1).await;
        let lines = format!("b,{b},1\na,{a},1\n");
        let other = match list.name() {
            None => another.clone(),
            // Which was not used there before.
            Some(name) => another.room(name),
        };
        let delivery = list.now(wait(&other, a)).await.unwrap();
        assert_eq!(*delivery.news(), status(&lines));
    }
}

async fn a_node_hears_of_a_room_that_begins_again(engine: EngineKind) {
    let root = engine.default_list().await;
    let room = root.in_room("a");
    let other = root.another_node().await.room(&room_name("a"));
    let first = sign_in(&room, "first").await;
    assert!(root.is_open(&mut wait(&other, first)).await);
    room.remove_peer(first, Reason::SignedOut).await.unwrap();
    root.settle().await;
    assert!(root.rooms().await.unwrap().is_empty());
    let a = sign_in(&room, "a").await;
    let b = sign_in(&room, "b").await;
    root.pass_secs(1).await;
    let delivery = root.now(wait(&other, a)).await.unwrap();
    let lines = format!("b,{b},1\na,{a},1\n");
    assert_eq!(*delivery.news(), status(&lines));
}

async fn a_peer_that_signs_out_later_is_gone_in_time_although_nobody_uses_its_room(
    engine: EngineKind,
) {
    let opts = HeartbeatOpts {
        gc_interval: Duration::from_secs(600),
        ..HeartbeatOpts::default()
    };
    let root = engine.list(opts).await;
    let room = root.in_room("a");
    let a = sign_in(&room, "a").await;
    sign_in(&room, "b").await;
    room.sign_out_later(a, Duration::from_secs(30))
        .await
        .unwrap();
    drop(room);
    root.pass_secs(30).await;
    let infos = root.infos_of_all_rooms().await.unwrap();
    assert!(infos.iter().all(|info| info.id != a), "{infos:?}");
}

async fn an_idle_connection_keeps_its_peer_connected_in_a_room_that_nobody_uses(
    engine: EngineKind,
) {
    let root = engine.default_list().await;
    let room = root.in_room("a");
    let a = sign_in(&room, "a").await;
    let link = Arc::new(Link::new());
    let request = room.open_request(caller(a, Some(&link))).unwrap();
    request.heartbeat().await.unwrap();
    request.answered();
    drop(room);
    // Asked without a use of the list.
    let is_connected = async || root.infos_of_all_rooms().await.unwrap()[0].connected;
    root.pass_secs(20).await;
    assert!(is_connected().await);
    drop(link);
    root.settle().await;
    assert!(!is_connected().await);
}

async fn a_room_that_has_ended_leaves_nothing(engine: EngineKind) {
    let root = engine.default_list().await;
    let room = root.in_room("a-room");
    let other = root.another_node().await.room(&room_name("a-room"));
    let a = added(&room, "a", BARE).await.id;
    assert!(root.is_open(&mut wait(&other, a)).await);
    let (b, socket) = unlisted(&room, Some(KEY)).await;
    room.claim(b, SCOPE, "name", KEPT).await.unwrap();
    room.announce(b, "topic").await.unwrap();
    say(&room, a, a, "hello").await;
    assert_ne!(root.stored("a-room").await, Vec::<String>::new());
    room.remove_peer(a, Reason::SignedOut).await.unwrap();
    room.remove_peer(b, Reason::SignedOut).await.unwrap();
    drop((socket, room, other));
    root.pass_secs(60).await;
    assert_eq!(root.stored("a-room").await, Vec::<String>::new());
    assert!(root.rooms().await.unwrap().is_empty());
}

every_engine! {
    a_room_that_has_ended_leaves_nothing,
    a_peer_that_signs_out_later_is_gone_in_time_although_nobody_uses_its_room,
    an_idle_connection_keeps_its_peer_connected_in_a_room_that_nobody_uses,
    a_node_hears_of_a_room_that_begins_again,
    a_peer_that_polls_another_node_is_told_what_it_has_missed,
    rooms_share_their_ids_and_the_root_list_has_its_own,
    a_room_that_begins_again_has_existed_since_then,
    an_id_does_not_come_again_when_a_room_begins_again,
    a_peer_of_another_room_is_unknown,
    channels_aliases_announcements_and_keys_are_of_one_room,
    a_room_exists_while_it_has_a_peer,
    a_room_has_its_own_bound_beside_that_of_all_peers,
    events_and_lists_name_the_room_of_a_peer,
    a_collection_by_hand_is_of_one_room,
    a_waiting_peer_hears_of_its_room_at_every_node,
}
