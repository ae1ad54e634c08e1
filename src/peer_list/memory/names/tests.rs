//! Tests of names.

use super::*;

const BOUND: usize = 10_000;

fn id(number: u32) -> PeerId {
    PeerId::new(number).unwrap()
}

fn names(peers: u32) -> Names {
    let mut names = Names::new(
        &HeartbeatOpts {
            max_pending_bytes: BOUND,
            ..HeartbeatOpts::default()
        },
        &Arc::default(),
    );
    for number in 1..=peers {
        names.enter(id(number), None).unwrap();
    }
    names
}

fn show(names: &mut Names, id: PeerId) -> (Audience, usize) {
    let (audience, cards) = names.show(id, "card".into(), "farewell".into()).unwrap();
    (audience, cards.len())
}

#[test]
fn what_is_published_reaches_each_other_peer_of_the_channels_once() {
    let mut names = names(4);
    for (peer, channel) in [(1, "a"), (2, "a"), (2, "b"), (3, "b"), (4, "c")] {
        names.join(id(peer), channel, None).unwrap();
    }
    let audience = |names: &Names, from, channels: &[&str]| {
        let mut audience = names.audience(Some(id(from)), channels);
        audience.sort();
        audience
    };
    assert_eq!(audience(&names, 1, &["a"]), [id(2)]);
    assert_eq!(audience(&names, 1, &["a", "b"]), [id(2), id(3)]);
    assert_eq!(audience(&names, 4, &["a", "nobody's"]), [id(1), id(2)]);
    names.leave(id(2), "a");
    assert_eq!(audience(&names, 1, &["a"]), []);
    assert_eq!(audience(&names, 3, &["b"]), [id(2)]);
}

#[test]
fn an_alias_has_one_holder_in_its_scope_until_that_is_removed() {
    let mut names = names(2);
    names.claim(id(1), "scope", "constructor").unwrap();
    names.claim(id(1), "scope", "constructor").unwrap();
    let taken = names.claim(id(2), "scope", "constructor");
    assert_eq!(taken, Err(Refusal::NameTaken));
    let second = names.claim(id(1), "scope", "other");
    assert_eq!(second, Err(Refusal::NameTaken));
    assert_eq!(names.holder("scope", "constructor"), Some(id(1)));
    assert_eq!(names.holder("another", "constructor"), None);
    names.remove(id(1));
    assert_eq!(names.holder("scope", "constructor"), None);
    names.claim(id(2), "scope", "constructor").unwrap();
}

#[test]
fn a_farewell_is_for_the_channels_that_its_peer_was_in() {
    let mut names = names(3);
    for peer in [1, 2] {
        names.join(id(peer), "a", None).unwrap();
    }
    show(&mut names, id(1));
    let (farewell, audience) = names.remove(id(1)).unwrap();
    assert_eq!(
        (farewell.as_ref(), audience),
        (b"farewell".as_ref(), vec![id(2)])
    );
    assert!(names.remove(id(2)).is_none(), "it was in no list");
}

#[test]
fn a_key_belongs_to_one_peer() {
    let mut names = names(0);
    assert_eq!(names.enter(id(1), Some("key")), Ok(()));
    assert_eq!(names.enter(id(2), Some("key")), Err(id(1)));
    names.remove(id(1));
    assert_eq!(names.enter(id(2), Some("key")), Ok(()));
}

#[test]
fn of_two_peers_each_hears_of_the_other_once() {
    let mut names = names(2);
    for peer in [1, 2] {
        names.join(id(peer), "a", None).unwrap();
    }
    assert_eq!(show(&mut names, id(1)), (vec![id(2)], 0));
    assert_eq!(show(&mut names, id(2)), (vec![id(1)], 1));
}

#[test]
fn a_peer_that_waits_for_a_name_hears_of_it_once() {
    let mut names = names(3);
    assert_eq!(names.watch_for(id(1), "name"), Ok(false));
    assert_eq!(names.watch_for(id(1), "name"), Ok(false));
    assert_eq!(names.announce(id(2), "name"), Ok(vec![id(1)]));
    assert_eq!(names.announce(id(2), "name"), Ok(vec![]));
    assert_eq!(names.watch_for(id(3), "name"), Ok(true));
}

#[test]
fn a_name_is_announced_as_long_as_one_of_its_announcers_is_signed_in() {
    let mut names = names(4);
    names.announce(id(1), "name").unwrap();
    names.announce(id(2), "name").unwrap();
    names.remove(id(1));
    assert_eq!(names.watch_for(id(3), "name"), Ok(true));
    names.remove(id(2));
    assert_eq!(names.watch_for(id(3), "name"), Ok(false));
    names.remove(id(3));
    assert!(names.announcements.is_empty());
    assert_eq!(names.announce(id(4), "name"), Ok(vec![]));
}

#[test]
fn what_the_names_of_a_peer_cost_is_bounded() {
    let costs = |names: usize| names * (MESSAGE_OVERHEAD_BYTES + 1);
    let mut names = names(2);
    names.bound = costs(3);
    assert_eq!(names.watch_for(id(1), "a"), Ok(false));
    assert_eq!(names.announce(id(1), "b"), Ok(vec![]));
    names.join(id(1), "c", None).unwrap();
    assert_eq!(names.join(id(1), "d", None), Err(Refusal::TooManyNames));
    assert_eq!(names.announce(id(1), "d"), Err(Refusal::TooManyNames));
    assert_eq!(names.watch_for(id(1), "d"), Err(Refusal::TooManyNames));
    // Names that it has cost nothing more.
    names.join(id(1), "c", None).unwrap();
    assert_eq!(names.announce(id(1), "a"), Ok(vec![id(1)]));
    names.leave(id(1), "c");
    assert_eq!(names.watch_for(id(1), "d"), Ok(false));
    // Nor does a question that was answered.
    names.announce(id(2), "d").unwrap();
    assert_eq!(names.watch_for(id(1), "e"), Ok(false));
}
