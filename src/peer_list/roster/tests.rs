//! Tests of the roster.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn text(lines: &Lines) -> String {
    String::from_utf8(lines.to_bytes().to_vec()).unwrap()
}

fn id(number: u32) -> PeerId {
    PeerId::new(number).unwrap()
}

/// What the roster is to look like, kept the simple way.
#[derive(Clone, Debug)]
struct ModelPeer {
    id: PeerId,
    name: Arc<str>,
    joined: u64,
    connected: Connected,
}

impl ModelPeer {
    fn line(&self, status: bool) -> String {
        format!("{},{},{}\n", self.name, self.id, u8::from(status))
    }

    fn status(&self, now: Instant) -> bool {
        match self.connected {
            Connected::Yes => true,
            Connected::Until(end) => end > now,
            Connected::No => false,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Join(String, bool),
    Leave(prop::sample::Index),
    Connected(prop::sample::Index, Option<u64>),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        // Long names, so that there are several pages.
        4 => (".{1,40}", 0usize..4000, any::<bool>())
            .prop_map(|(name, more, bare)| Step::Join(name + &"x".repeat(more), bare)),
        2 => any::<prop::sample::Index>().prop_map(Step::Leave),
        3 => (any::<prop::sample::Index>(), prop::option::of(0u64..3000))
            .prop_map(|(peer, ms)| Step::Connected(peer, ms)),
        2 => (0u64..1500).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn the_list_in_pages_always_equals_one_that_is_written_again(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut now = Instant::now();
        let mut roster = Roster::new(&Arc::default());
        let mut model: Vec<ModelPeer> = Vec::new();
        let mut first_bare: Option<u64> = None;
        let mut next_id = 0;
        let mut lines: Vec<String> = Vec::new();
        for step in steps {
            match step {
                Step::Join(name, bare) => {
                    let name: Arc<str> = name.into();
                    next_id += 1;
                    let id = id(next_id);
                    let dialect = if bare { Dialect::Bare } else { Dialect::Listed };
                    let joined = roster.join(id, &name, dialect, Connected::Yes);
                    model.push(ModelPeer { id, name, joined, connected: Connected::Yes });
                    lines.push(model.last().unwrap().line(true));
                    if bare {
                        first_bare.get_or_insert(joined);
                    }
                }
                Step::Leave(peer) if !model.is_empty() => {
                    let peer = model.remove(peer.index(model.len()));
                    prop_assert!(roster.leave(peer.joined, &peer.name));
                    prop_assert!(!roster.leave(peer.joined, &peer.name));
                    lines.push(peer.line(false));
                    if roster.bare_peers == 0 {
                        first_bare = None;
                    }
                }
                Step::Connected(peer, ms) if !model.is_empty() => {
                    let peer = peer.index(model.len());
                    model[peer].connected = match ms {
                        None => Connected::Yes,
                        Some(0) => Connected::No,
                        Some(ms) => Connected::Until(now + Duration::from_millis(ms)),
                    };
                    roster.set_connected(model[peer].joined, model[peer].connected);
                }
                Step::Pass(ms) => now += Duration::from_millis(ms),
                Step::Leave(_) | Step::Connected(..) => {}
            }
            let list: String = model.iter().rev().map(|p| p.line(p.status(now))).collect();
            prop_assert_eq!(text(&roster.list(now)), list);
            let heard = roster.current() / 2;
            let update: String = model
                .iter()
                .rev()
                .map(|p| p.line(p.joined > heard || p.status(now)))
                .collect();
            prop_assert_eq!(text(&roster.update(heard, now)), update);
            prop_assert_eq!(roster.len(), model.len());
            if let Some(peer) = model.get(model.len() / 2) {
                let others = model.iter().rev().filter(|other| other.id != peer.id);
                let list: String = [peer].into_iter().chain(others)
                    .map(|p| p.line(p.status(now)))
                    .collect();
                prop_assert_eq!(text(&roster.list_from(peer.joined, now)), list);
            }
            if let Some(joined) = first_bare {
                for heard in joined..roster.current() {
                    let line = roster.line_after(heard).map(|line| text(&line));
                    prop_assert_eq!(line.as_ref(), lines.get(heard as usize));
                }
            }
        }
    }
}

#[test]
fn peers_that_heard_the_same_share_the_bytes_of_an_update() {
    let mut roster = Roster::new(&Arc::default());
    let now = Instant::now();
    let name: Arc<str> = "n".into();
    let heard = roster.join(id(1), &name, Dialect::Listed, Connected::Yes);
    let gone = roster.join(id(2), &name, Dialect::Listed, Connected::No);
    let updates = [roster.update(heard, now), roster.update(heard, now)];
    assert_eq!(text(&updates[0]), "n,2,1\nn,1,1\n");
    assert_eq!(
        updates[0].parts()[0].as_ptr(),
        updates[1].parts()[0].as_ptr()
    );
    roster.set_connected(heard, Connected::No);
    assert_eq!(text(&roster.update(heard, now)), "n,2,1\nn,1,0\n");
    assert_eq!(text(&roster.update(gone, now)), "n,2,0\nn,1,0\n");
}

#[test]
fn the_log_drops_changes_beyond_its_length() {
    let mut roster = Roster::new(&Arc::default());
    let name: Arc<str> = "n".into();
    let start = roster.join(id(1), &name, Dialect::Bare, Connected::Yes);
    for _ in 0..LOG_LENGTH / 2 {
        let joined = roster.join(id(2), &name, Dialect::Listed, Connected::Yes);
        roster.leave(joined, &name);
    }
    assert!(roster.log_reaches(start));
    assert_eq!(text(&roster.line_after(start).unwrap()), "n,2,1\n");
    roster.join(id(3), &name, Dialect::Listed, Connected::Yes);
    assert!(!roster.log_reaches(start));
    assert_eq!(roster.line_after(start), None);
    assert_eq!(text(&roster.line_after(start + 1).unwrap()), "n,2,0\n");
}

#[test]
fn lists_that_follow_each_other_share_all_but_what_changed() {
    let mut roster = Roster::new(&Arc::default());
    let now = Instant::now();
    let name: Arc<str> = "x".repeat(500).into();
    let mut lists = Vec::new();
    for number in 1..=2000 {
        roster.join(id(number), &name, Dialect::Listed, Connected::Yes);
        if number > 1900 {
            lists.push(roster.list(now));
        }
    }
    let whole = lists[0].len();
    assert!(whole > 900_000);
    let mut parts: Vec<&Bytes> = lists.iter().flat_map(Lines::parts).collect();
    parts.sort_by_key(|part| part.as_ptr());
    parts.dedup_by_key(|part| part.as_ptr());
    let held: usize = parts.iter().map(|part| part.len()).sum();
    assert!(held < 4 * whole, "{held} bytes for {} lists", lists.len());
}

#[test]
fn pages_of_which_little_is_left_become_one() {
    let mut roster = Roster::new(&Arc::default());
    let name: Arc<str> = "x".repeat(100).into();
    let mut joined = Vec::new();
    for number in 1..=3000 {
        joined.push(roster.join(id(number), &name, Dialect::Listed, Connected::Yes));
    }
    assert!(roster.pages.len() > 10);
    for (number, joined) in joined.iter().enumerate() {
        if number % 150 != 0 {
            roster.leave(*joined, &name);
        }
    }
    assert_eq!(roster.len(), 20);
    assert!(roster.pages.len() <= 2, "{} pages", roster.pages.len());
}
