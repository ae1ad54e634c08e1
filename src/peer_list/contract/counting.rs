//! What is counted for the metrics.

use super::*;

async fn peers_are_counted_by_door_and_rooms_while_they_have_one(engine: EngineKind) {
    let root = engine.default_list().await;
    let room = root.in_room("a");
    assert_eq!(root.tally().await.unwrap(), Tally::default());
    let first = added(&root, "a", LISTED).await;
    let second = sign_in(&room, "b").await;
    let (third, socket) = unlisted(&room, None).await;
    let door = LISTED.door;
    let tally = |peers: &[(&str, u64)], rooms| Tally {
        peers: peers
            .iter()
            .map(|(door, count)| ((*door).to_owned(), *count))
            .collect(),
        rooms,
    };
    assert_eq!(
        room.tally().await.unwrap(),
        tally(&[(door, 2), ("relay", 1)], 1)
    );
    // One that comes back by another door is counted there.
    let other = SignInOpts {
        door: "other",
        ..LISTED
    };
    root.resume_peer(first.id, &first.token, None, other)
        .await
        .unwrap();
    let expected = [(door, 1), ("other", 1), ("relay", 1)];
    assert_eq!(root.tally().await.unwrap(), tally(&expected, 1));
    room.remove_peer(second, Reason::SignedOut).await.unwrap();
    room.remove_peer(third, Reason::SignedOut).await.unwrap();
    drop(socket);
    assert_eq!(root.tally().await.unwrap(), tally(&[("other", 1)], 0));
}

async fn what_happens_to_peers_and_messages_is_counted(engine: EngineKind) {
    let list = engine.default_list().await;
    let first = added(&list, "a", LISTED).await;
    let (a, b) = (first.id, sign_in(&list, "b").await);
    list.resume_peer(a, &first.token, None, LISTED)
        .await
        .unwrap();
    say(&list, b, a, "hello").await;
    let to_nobody = list.send(a, PeerId::new(77).unwrap(), "x".into(), SendOpts::default());
    assert!(to_nobody.await.is_err());
    // It knows of the other from its second sign-in.
    assert_eq!(take(&list, a).await, message(b, "hello"));
    list.remove_peer(b, Reason::Kicked).await.unwrap();
    let counts = list.counts();
    assert_eq!((counts.sign_ins.get(), counts.resumes.get()), (2, 1));
    assert_eq!((counts.accepted.get(), counts.delivered.get()), (1, 1));
    assert_eq!(counts.updates.get(), 0);
    assert!(matches!(take(&list, a).await, News::Status(_)));
    assert_eq!(counts.updates.get(), 1);
    let only = |all: Vec<(&'static str, u64)>| -> Vec<_> {
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    };
    assert_eq!(only(counts.removals().collect()), [("kicked", 1)]);
    assert_eq!(only(counts.refused().collect()), [("unknown_receiver", 1)]);
    let (c, socket) = unlisted(&list, None).await;
    assert_eq!(counts.sockets.get(), 1);
    publish(&list, c, "to all").await;
    drop(socket);
    assert_eq!((counts.sockets.get(), counts.accepted.get()), (0, 2));
}

every_engine! {
    peers_are_counted_by_door_and_rooms_while_they_have_one,
    what_happens_to_peers_and_messages_is_counted,
}
