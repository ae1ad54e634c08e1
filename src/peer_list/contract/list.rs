//! Signing in, and what is told of the list.

use futures_util::future::join_all;

use super::*;
use crate::peer_list::roster::LOG_LENGTH;

async fn a_peer_signs_in_with_its_own_line_first_and_the_others_newest_first(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", LISTED).await;
    assert_eq!((a.id.get(), text(&a.list).as_str()), (1, "a,1,1\n"));
    sign_in(&list, "b").await;
    let c = added(&list, "c,\n,9,1", BARE).await;
    assert_eq!(text(&c.list), "c___9_1,3,1\nb,2,1\na,1,1\n");
}

async fn a_peer_without_a_name_is_called_after_its_id(engine: EngineKind) {
    let list = engine.default_list().await;
    let added = list.add_peer(None, SOCKET).await.unwrap();
    assert_eq!(
        (added.id.get(), text(&added.list).as_str()),
        (1, "peer_1,1,1\n")
    );
}

async fn a_full_list_and_an_empty_name_are_refused(engine: EngineKind) {
    let list = engine
        .list(HeartbeatOpts {
            max_peers: 1,
            ..HeartbeatOpts::default()
        })
        .await;
    let nameless = list.add_peer(Some(""), LISTED).await;
    assert_eq!(nameless.unwrap_err(), Refusal::NoName);
    let a = sign_in(&list, "a").await;
    let full = list.add_peer(Some("b"), LISTED).await;
    assert_eq!(full.unwrap_err(), Refusal::Full);
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    assert_eq!(sign_in(&list, "b").await.get(), 2);
}

async fn a_peer_that_missed_many_changes_gets_one_list(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    for _ in 0..100 {
        let b = sign_in(&list, "b").await;
        list.remove_peer(b, Reason::SignedOut).await.unwrap();
    }
    sign_in(&list, "c").await;
    list.pass_secs(1).await;
    assert_eq!(take(&list, a).await, status("c,102,1\na,1,1\n"));
    assert_nothing(&list, a).await;
}

async fn a_bare_peer_hears_each_change_in_order_one_line_a_wait(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = added(&list, "a", BARE).await.id;
    let b = sign_in(&list, "b").await;
    sign_in(&list, "c").await;
    list.remove_peer(b, Reason::SignedOut).await.unwrap();
    list.pass_secs(1).await;
    for line in ["b,2,1\n", "c,3,1\n", "b,2,0\n"] {
        assert_eq!(take(&list, a).await, status(line));
    }
    assert_nothing(&list, a).await;
}

async fn a_bare_peer_that_cannot_be_told_every_change_any_more_is_removed(engine: EngineKind) {
    let list = engine.default_list().await;
    let polls = added(&list, "polls", BARE).await.id;
    let sleeps = added(&list, "sleeps", BARE).await.id;
    let renamed = join_all([LISTED; 256].map(|opts| list.add_peer(None, opts))).await;
    // Another name is two changes.
    for turn in 0..LOG_LENGTH / 2 / renamed.len() {
        let name = ["x", "y"][turn % 2];
        let peers = renamed.iter().map(|peer| peer.as_ref().unwrap());
        join_all(peers.map(|peer| resume(&list, peer, name))).await;
    }
    let mut events = list.subscribe().await;
    let end = list.now(wait(&list, polls)).await.unwrap();
    assert_eq!(*end.news(), News::Removed(Reason::TimedOut));
    list.settle().await;
    let removed = format!("- {polls} timed_out");
    assert_eq!(all_told(&list, &mut events).await, [removed]);
    // The other goes with a collection.
    assert_eq!(list.purge().await.unwrap(), [sleeps]);
    assert_eq!(list.ids().await.len(), renamed.len());
}

async fn a_waiting_message_goes_before_a_change_that_it_does_not_need(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let b = sign_in(&list, "b").await;
    take(&list, a).await;
    sign_in(&list, "c").await;
    list.pass_secs(1).await;
    say(&list, b, a, "hello").await;
    assert_eq!(take(&list, a).await, message(b, "hello"));
    assert_eq!(take(&list, a).await, status("c,3,1\nb,2,1\na,1,1\n"));
}

async fn a_message_follows_the_list_that_names_its_sender_at_once(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    for _ in 0..200 {
        // Keeps the window between two tellings open.
        sign_in(&list, "x").await;
    }
    list.pass_secs(1).await;
    take(&list, a).await;
    sign_in(&list, "x").await;
    let b = sign_in(&list, "b").await;
    take(&list, a).await;
    let c = sign_in(&list, "c").await;
    let mut waiting = wait(&list, a);
    assert!(list.is_open(&mut waiting).await);
    say(&list, c, a, "offer").await;
    say(&list, b, a, "hello").await;
    let told = list.now(&mut waiting).await.unwrap();
    assert!(matches!(told.news(), News::Status(news) if news.to_bytes().starts_with(b"c,")));
    told.done();
    assert_eq!(take(&list, a).await, message(c, "offer"));
    assert_eq!(take(&list, a).await, message(b, "hello"));
}

async fn a_silent_peer_hears_messages_and_nothing_of_the_list(engine: EngineKind) {
    let list = engine.default_list().await;
    let silent = added(&list, "silent", SOCKET).await.id;
    let socket = list
        .open_socket(silent, SocketOpts::default())
        .await
        .unwrap();
    let a = sign_in(&list, "a").await;
    nothing_for(&list, &*socket).await;
    say(&list, a, silent, "hi").await;
    assert_eq!(take_from(&list, &*socket).await, (1, message(a, "hi")));
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    nothing_for(&list, &*socket).await;
}

async fn a_node_that_comes_to_a_long_list_has_all_of_it(engine: EngineKind) {
    let list = engine.default_list().await;
    let names: Vec<String> = (1..=1_100).map(|number| format!("peer{number}")).collect();
    let peers = join_all(names.iter().map(|name| list.add_peer(Some(name), LISTED))).await;
    let last = peers.last().unwrap().as_ref().unwrap().id;
    // Nobody is connected any more, but for one.
    let mut polls = wait(&list, last);
    list.pass_secs(3).await;
    assert!(list.try_now(&mut polls).await.is_none());
    let other = list.another_node().await;
    assert_eq!(other.cards().await.unwrap().len(), names.len());
    let status = |name: &str| u8::from(name == names[usize::try_from(last.get()).unwrap() - 1]);
    let lines = names.iter().enumerate().rev();
    let lines = lines.map(|(at, name)| format!("{name},{},{}\n", at + 1, status(name)));
    assert_eq!(text(&other.format()), lines.collect::<String>());
}

async fn a_change_of_status_alone_is_not_told(engine: EngineKind) {
    let list = engine.default_list().await;
    let a = sign_in(&list, "a").await;
    let b = sign_in(&list, "b").await;
    take(&list, a).await;
    let mut a_waits = wait(&list, a);
    assert!(list.is_open(&mut a_waits).await);
    list.pass_secs(10).await;
    let b_waits = wait(&list, b);
    let mut b_waits = b_waits;
    assert!(list.is_open(&mut b_waits).await);
    assert_eq!(list.lines().await, "b,2,1\na,1,1\n");
    drop(b_waits);
    list.settle().await;
    assert_eq!(list.lines().await, "b,2,0\na,1,1\n");
    assert!(list.is_open(&mut a_waits).await);
}

async fn a_peer_can_be_looked_up_while_it_is_in_the_list(engine: EngineKind) {
    let list = engine.default_list().await;
    let began = list.system_time();
    let a = sign_in(&list, "a").await;
    let info = list.peer_info(a).await.unwrap().unwrap();
    assert_eq!((info.heartbeat, info.capacity), (false, None));
    let late = info.since.duration_since(began).unwrap_or_default();
    assert!(late < Duration::from_secs(1), "{late:?}");
    let request = list.open_request(caller(a, None)).unwrap();
    request.set_capacity(3).await.unwrap();
    request.heartbeat().await.unwrap();
    request.answered();
    let info = list.peer_info(a).await.unwrap().unwrap();
    assert_eq!((info.heartbeat, info.capacity), (true, Some(3)));
    assert_eq!((&*info.name, &*info.door), ("a", LISTED.door));
    list.remove_peer(a, Reason::SignedOut).await.unwrap();
    assert!(list.peer_info(a).await.unwrap().is_none());
}

async fn every_node_counts_the_peers_in_the_list(engine: EngineKind) {
    let list = engine.default_list().await;
    let other = list.another_node().await;
    let (a, _socket) = unlisted(&list, None).await;
    let b = sign_in(&list, "b").await;
    list.settle().await;
    assert_eq!([list.len(), other.len()], [1, 1]);
    list.list_peer(a, listing("a")).await.unwrap();
    list.settle().await;
    assert_eq!([list.len(), other.len()], [2, 2]);
    list.remove_peer(b, Reason::SignedOut).await.unwrap();
    list.settle().await;
    assert_eq!([list.len(), other.len()], [1, 1]);
}

every_list! {
    a_bare_peer_that_cannot_be_told_every_change_any_more_is_removed,
    a_peer_signs_in_with_its_own_line_first_and_the_others_newest_first,
    a_peer_without_a_name_is_called_after_its_id,
    a_full_list_and_an_empty_name_are_refused,
    a_peer_that_missed_many_changes_gets_one_list,
    a_bare_peer_hears_each_change_in_order_one_line_a_wait,
    a_waiting_message_goes_before_a_change_that_it_does_not_need,
    a_message_follows_the_list_that_names_its_sender_at_once,
    a_silent_peer_hears_messages_and_nothing_of_the_list,
    a_node_that_comes_to_a_long_list_has_all_of_it,
    a_change_of_status_alone_is_not_told,
    a_peer_can_be_looked_up_while_it_is_in_the_list,
    every_node_counts_the_peers_in_the_list,
}
