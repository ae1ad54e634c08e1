//! The list as a node knows it, and how changes bring it up to date.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    moment::Moment,
    part::Part,
    row::{Answer, Row},
};
use crate::peer_list::{
    Buffered, Card, Dialect, DoorCard, Lines, PeerId, Refusal, page::Connected, roster::Roster,
    rules::LINGER_FORESEEN,
};

/// Asking which peers are not connected costs Redis some time for each of them. It is
/// asked so rarely that this takes at most a tenth of the time.
const STATUS_COST: Duration = Duration::from_micros(10);

/// Answers overtake each other by less than this, in us.
const OVERTAKEN_WITHIN: u64 = 1_000_000;

/// The changes of the list since a version.
pub(super) struct View {
    version: u64,
    /// The changes are the whole list.
    is_whole: bool,
    /// The version that the node knew, if `changes` begin there.
    since: Option<u64>,
    /// The version that the node knew.
    asked_at: Option<u64>,
    changes: Vec<Change>,
    /// When Redis answered, by its clock in us.
    told_at: u64,
    /// The peers that have nothing open, each with how many more ms it counts as
    /// connected.
    lingering: Option<Vec<(PeerId, i64)>>,
    /// The counter of STATUS.
    counter: u64,
    /// Where the list goes on, if this has only a part of it.
    pub next_listed: Option<String>,
    /// Where the peers that have nothing open go on, if this has only some of them.
    pub next_lingering: Option<String>,
}

struct Change {
    joins: bool,
    joined: u64,
    id: PeerId,
    dialect: Dialect,
    name: Arc<str>,
}

impl View {
    /// Redis knows less than this node did: it has lost its last changes.
    pub fn is_older(&self) -> bool {
        self.asked_at.is_some_and(|known| known > self.version)
    }

    /// Nothing was ever in the list.
    pub fn is_of_nothing(&self) -> bool {
        self.version == 0
    }

    /// The answer to a node that knows this version.
    pub fn for_one_at(mut self, known: Option<u64>) -> Self {
        self.asked_at = known;
        if !self.is_whole {
            self.since = known;
        }
        self
    }

    fn read_row(mut row: Row) -> Option<Self> {
        let version = row.number()?;
        let whole: u8 = row.number()?;
        let changes = row.row()?.texts();
        let changes: Option<_> = changes.iter().map(|line| Change::read(line)).collect();
        let told_at = row.number()?;
        let lingering = row.row_or_nothing()?.map(Row::texts);
        let counter = row.number()?;
        let mut next = || row.text().map(|next| Some(next).filter(|next| next != "0"));
        let (next_listed, next_lingering) = (next()?, next()?);
        let mut view = Self {
            version,
            is_whole: whole == 1,
            since: None,
            asked_at: None,
            changes: changes?,
            told_at,
            lingering: None,
            counter,
            next_listed,
            next_lingering,
        };
        if let Some(texts) = lingering {
            view.lingering = Some(view.read_lingering(&texts));
        }
        Some(view)
    }

    /// Peers that have nothing open, each followed by the time until which it counts as
    /// connected.
    fn read_lingering(&self, texts: &[String]) -> Vec<(PeerId, i64)> {
        let now = i64::try_from(self.told_at / 1000).unwrap_or(i64::MAX);
        let (pairs, _) = texts.as_chunks::<2>();
        let pairs = pairs.iter().filter_map(|[id, until]| {
            let until: f64 = until.parse().ok()?;
            #[expect(clippy::cast_possible_truncation, reason = "a time in ms")]
            Some((PeerId::parse(id)?, until as i64 - now))
        });
        pairs.collect()
    }

    /// Adds another part of the list.
    pub fn add_listed(&mut self, part: Part) {
        let lines = part.texts.iter();
        self.changes
            .extend(lines.filter_map(|line| Change::read(line)));
        self.next_listed = part.next;
    }

    /// Adds more peers that have nothing open.
    pub fn add_lingering(&mut self, part: Part) {
        let more = self.read_lingering(&part.texts);
        self.lingering.get_or_insert_default().extend(more);
        self.next_lingering = part.next;
    }

    /// The whole list as it was at its version, oldest sign-in first: while parts of it came,
    /// peers may have joined, and some may have come twice.
    fn sort(&mut self) {
        self.changes.retain(|change| change.joined <= self.version);
        self.changes.sort_unstable_by_key(|change| change.joined);
        self.changes.dedup_by_key(|change| change.joined);
    }
}

impl Answer for View {
    fn read(row: Row) -> Result<Self, Refusal> {
        Self::read_row(row).ok_or(Refusal::Unavailable)
    }
}

impl Change {
    fn read(line: &str) -> Option<Self> {
        let joins = line.starts_with('+');
        let mut fields = line.get(1..)?.splitn(4, ' ');
        let joined = fields.next()?.parse().ok()?;
        let id = PeerId::parse(fields.next()?)?;
        let dialect = read_dialect(fields.next()?)?;
        let name = fields.next()?.into();
        Some(Self {
            joins,
            joined,
            id,
            dialect,
            name,
        })
    }
}

pub(super) fn dialect_letter(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Listed => "l",
        Dialect::Bare => "b",
        Dialect::Silent => "s",
    }
}

pub(super) fn read_dialect(letter: &str) -> Option<Dialect> {
    match letter {
        "l" => Some(Dialect::Listed),
        "b" => Some(Dialect::Bare),
        "s" => Some(Dialect::Silent),
        _ => None,
    }
}

/// The line that tells a native client of a change.
pub(super) fn bare_line(line: &str) -> Option<Lines> {
    let change = Change::read(line)?;
    let Change {
        name, id, joins, ..
    } = change;
    Some(format!("{name},{id},{}\n", u8::from(joins)).into())
}

/// The list, as far as this node knows it.
pub(super) struct Cached {
    pub roster: Roster,
    peers: HashMap<PeerId, Place>,
    /// The peers that have nothing open.
    lingering: Vec<PeerId>,
    /// When they were last asked for.
    statuses_at: Option<Instant>,
    /// The counter of STATUS that they go with, and until when nothing but what it counts
    /// changes them.
    statuses_are: Option<(u64, Instant)>,
    /// When Redis told them, by its clock in us.
    statuses_of: u64,
    highest_id: u32,
    is_known: bool,
    /// The cards of listed peers, as far as they were asked for. The outer None: the peer
    /// did not come in unlisted. The inner None: the peer shows no card.
    cards: HashMap<PeerId, Option<Option<DoorCard>>>,
}

#[derive(Clone)]
struct Place {
    joined: u64,
    dialect: Dialect,
    name: Arc<str>,
}

impl Cached {
    pub fn new(buffered: &Arc<Buffered>) -> Self {
        Self {
            roster: Roster::new(buffered),
            peers: HashMap::new(),
            lingering: Vec::new(),
            statuses_at: None,
            statuses_are: None,
            statuses_of: 0,
            highest_id: 0,
            is_known: false,
            cards: HashMap::new(),
        }
    }

    /// The highest id that was given, as far as this node knows.
    pub fn highest_id(&self) -> u32 {
        self.highest_id
    }

    pub fn note_id(&mut self, id: PeerId) {
        self.highest_id = self.highest_id.max(id.get());
    }

    /// The known list may be a lost one: the next question asks for all of it. Returns
    /// its version.
    pub fn forget(&mut self) -> u64 {
        self.is_known = false;
        self.roster.current()
    }

    /// The known version. None: no version is known.
    pub fn known(&self) -> Option<u64> {
        self.is_known.then(|| self.roster.current())
    }

    /// Whether the copy is as the list was at this moment, or has asked for that so recently
    /// that it has to do.
    pub fn is_at(&self, moment: Moment) -> bool {
        let are_known = self
            .statuses_are
            .is_some_and(|(counter, end)| counter >= moment.statuses && Instant::now() < end);
        let has_changes = self.known().is_some_and(|known| known >= moment.version);
        has_changes && (are_known || !self.wants_statuses())
    }

    /// Whether it is time to ask which peers are connected.
    fn wants_statuses(&self) -> bool {
        let count = u32::try_from(self.lingering.len()).unwrap_or(u32::MAX);
        let pause = STATUS_COST.saturating_mul(count);
        self.statuses_at.is_none_or(|at| at.elapsed() >= pause)
    }

    /// As [`Cached::wants_statuses`]; if so, also notes that the question is asked, so
    /// that callers before its answer need not ask too.
    pub fn asks_for_statuses(&mut self) -> bool {
        // A whole list says nothing of them.
        let asks = !self.is_known || self.wants_statuses();
        if asks {
            self.statuses_at = Some(Instant::now());
        }
        asks
    }

    /// How a listed peer is told of changes, as far as this node knows.
    pub fn dialect(&self, id: PeerId) -> Option<Dialect> {
        self.peers.get(&id).map(|place| place.dialect)
    }

    /// Applies what the node does not know yet. Changes behind a gap are left out: the next
    /// question asks for them again.
    pub fn apply(&mut self, mut view: View) {
        if view.is_whole {
            view.sort();
        }
        match view.since {
            None if view.is_older() || self.known().is_none_or(|known| known < view.version) => {
                self.roster = self.roster.cleared();
                self.peers.clear();
                self.cards.clear();
                self.lingering.clear();
                self.statuses_are = None;
                if view.lingering.is_none() {
                    self.statuses_at = None;
                }
                for change in &view.changes {
                    self.roster.continue_at(change.joined - 1);
                    self.change(change);
                }
                self.roster.continue_at(view.version);
                self.is_known = true;
            }
            None => {}
            Some(since) => {
                for (version, change) in (since + 1..).zip(&view.changes) {
                    if version > self.roster.current() + 1 {
                        return;
                    }
                    if version == self.roster.current() + 1 {
                        self.change(change);
                    }
                }
            }
        }
        // Answers that came at the same time are read in any order. An answer that is
        // older by more was given before the clock of Redis was set back.
        let overtaken_by = self.statuses_of.saturating_sub(view.told_at);
        let is_overtaken = (1..OVERTAKEN_WITHIN).contains(&overtaken_by);
        if let Some(lingering) = view.lingering
            && view.version == self.roster.current()
            && !is_overtaken
        {
            self.statuses_of = view.told_at;
            let end = self.set_statuses(&lingering);
            self.statuses_are = Some((view.counter, end));
        }
    }

    /// Listed peers whose cards are not known.
    pub fn without_card(&self) -> Vec<PeerId> {
        let unknown = self.peers.keys().filter(|id| !self.cards.contains_key(id));
        unknown.copied().collect()
    }

    /// The card of a peer.
    pub fn set_card(&mut self, id: PeerId, card: Option<Option<DoorCard>>) {
        if self.peers.contains_key(&id) {
            self.cards.insert(id, card);
        }
    }

    /// Every peer in the list, oldest first, except peers that came in unlisted and show
    /// no card.
    pub fn cards(&self) -> Vec<Card> {
        let ids = self.roster.ids().into_iter();
        let cards = ids.filter_map(|id| {
            let card = match self.cards.get(&id)? {
                None => None,
                Some(card) => Some(card.clone()?),
            };
            let name = self.peers.get(&id)?.name.clone();
            Some(Card { id, name, card })
        });
        cards.collect()
    }

    fn change(&mut self, change: &Change) {
        let Change {
            id, joined, name, ..
        } = change;
        if change.joins {
            self.note_id(*id);
            let dialect = change.dialect;
            let joined = self.roster.join(*id, name, dialect, Connected::Yes);
            let name = name.clone();
            let place = Place {
                joined,
                dialect,
                name,
            };
            self.peers.insert(*id, place);
        } else if self.roster.leave(*joined, name) {
            // Removes only the entry of this sign-in, not that of a later one.
            if self
                .peers
                .get(id)
                .is_some_and(|place| place.joined == *joined)
            {
                self.peers.remove(id);
                self.cards.remove(id);
            }
        } else {
            // This peer is not known to have joined. The version counts all the same.
            self.roster.continue_at(self.roster.current() + 1);
        }
    }

    /// Returns until when they hold: a peer that lingers may be back by then, and one of which
    /// nothing is said here may linger since they were asked for.
    fn set_statuses(&mut self, lingering: &[(PeerId, i64)]) -> Instant {
        let now = Instant::now();
        let asked = self.statuses_at.unwrap_or(now);
        let mut end = asked + LINGER_FORESEEN;
        for id in std::mem::take(&mut self.lingering) {
            if let Some(place) = self.peers.get(&id) {
                self.roster.set_connected(place.joined, Connected::Yes);
            }
        }
        for (id, left) in lingering {
            let Some(place) = self.peers.get(id) else {
                continue;
            };
            let left = u64::try_from(*left).ok().filter(|left| *left > 0);
            let connected = match left {
                Some(left) => {
                    let left = Duration::from_millis(left);
                    end = end.min(asked + left);
                    Connected::Until(now + left)
                }
                None => Connected::No,
            };
            self.roster.set_connected(place.joined, connected);
            self.lingering.push(*id);
        }
        end
    }

    /// Shows a peer that waits here as connected, even if Redis has not said so. Returns what
    /// the peer has to hear that has heard this version (None: nothing).
    pub fn list_for_waiting(&mut self, id: PeerId, heard: Option<u64>) -> Lines {
        if let Some(place) = self.peers.get(&id) {
            self.roster.set_connected(place.joined, Connected::Yes);
        }
        let now = Instant::now();
        match heard {
            Some(heard) => self.roster.update(heard, now),
            None => self.roster.list(now),
        }
    }

    /// The list, with this peer's line first.
    pub fn list_from(&mut self, id: PeerId) -> Lines {
        let now = Instant::now();
        match self.peers.get(&id) {
            Some(place) => self.roster.list_from(place.joined, now),
            None => self.roster.list(now),
        }
    }
}
