//! Which peers are in which channel, hold which alias, and announce which name.
//!
//! Pure state under one lock. Its methods return the peers that should hear something;
//! the engine puts that into their mailboxes. The engine has checked before that the peer
//! that calls is in the map.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::Arc,
};

use bytes::Bytes;

use crate::peer_list::{
    Buffered, Cost, HeartbeatOpts, Held, MESSAGE_OVERHEAD_BYTES, PeerId, Refusal,
};

/// The names that peers hold.
pub(super) struct Names {
    /// What the names of one peer may cost, in bytes.
    bound: usize,
    /// What all names cost.
    held: Held,
    holders: HashMap<PeerId, Holder>,
    /// Which peer came in by which key.
    keys: HashMap<Arc<str>, PeerId>,
    channels: HashMap<Arc<str>, HashSet<PeerId>>,
    /// The channels of the groups that are being filled, by what their names begin with.
    groups: HashMap<Box<str>, Arc<str>>,
    aliases: HashMap<Arc<Alias>, PeerId>,
    announcements: HashMap<Arc<str>, Announcement>,
}

/// A name and its scope.
#[derive(PartialEq, Eq, Hash)]
struct Alias {
    scope: Box<str>,
    name: Arc<str>,
}

#[derive(Default)]
struct Holder {
    key: Option<Arc<str>>,
    channels: HashSet<Arc<str>>,
    alias: Option<Arc<Alias>>,
    /// The names that it announces or waits for.
    announcements: HashSet<Arc<str>>,
    /// The cost of its names, in bytes.
    cost: usize,
    shown: Option<Shown>,
}

/// What other peers are shown of a listed peer, and what is published when it is removed.
struct Shown {
    card: Bytes,
    farewell: Bytes,
}

#[derive(Default)]
struct Announcement {
    announcers: HashSet<PeerId>,
    watchers: HashSet<PeerId>,
}

/// The peers that should hear something.
type Audience = Vec<PeerId>;

impl Names {
    pub fn new(opts: &HeartbeatOpts, buffered: &Arc<Buffered>) -> Self {
        Self {
            bound: opts.max_pending_bytes,
            held: buffered.hold(),
            holders: HashMap::new(),
            keys: HashMap::new(),
            channels: HashMap::new(),
            groups: HashMap::new(),
            aliases: HashMap::new(),
            announcements: HashMap::new(),
        }
    }

    /// A peer comes in by this key. An error names the peer that already came in by it.
    pub fn enter(&mut self, id: PeerId, key: Option<&str>) -> Result<(), PeerId> {
        if let Some(first) = key.and_then(|key| self.with_key(key)) {
            return Err(first);
        }
        let key: Option<Arc<str>> = key.map(Into::into);
        if let Some(key) = &key {
            self.keys.insert(key.clone(), id);
        }
        let holder = Holder {
            key,
            ..Holder::default()
        };
        self.holders.insert(id, holder);
        Ok(())
    }

    /// The key of this peer no longer leads to it.
    pub fn forget_key(&mut self, id: PeerId) {
        self.keys.retain(|_, holder| *holder != id);
    }

    /// The peer that came in by this key.
    pub fn with_key(&self, key: &str) -> Option<PeerId> {
        self.keys.get(key).copied()
    }

    // Channels -------------------------------------------------------------

    /// From now on a peer hears what is published in this channel, or in that of the group of so
    /// many peers that is being filled. Returns the channel.
    pub fn join(
        &mut self,
        id: PeerId,
        name: &str,
        group_of: Option<NonZeroU32>,
    ) -> Result<Arc<str>, Refusal> {
        let channel: Arc<str> = match (group_of, self.groups.get(name)) {
            (None, _) => name.into(),
            (Some(_), Some(open)) => open.clone(),
            (Some(_), None) => format!("{name} {id}").into(),
        };
        let holder = self.holders.entry(id).or_default();
        if !holder.channels.contains(&channel) {
            holder.pay(channel.len(), self.bound, &self.held)?;
            self.put_in(id, &channel);
        }
        if let Some(size) = group_of {
            self.groups.insert(name.into(), channel.clone());
            if self.count_in(&channel) >= size.get() as usize {
                self.groups.remove(name);
            }
        }
        Ok(channel)
    }

    /// How many peers are in a channel.
    pub fn count_in(&self, channel: &str) -> usize {
        self.channels.get(channel).map_or(0, HashSet::len)
    }

    /// A peer is in this channel from the start, at no cost: its door chose the channel.
    pub fn put_in(&mut self, id: PeerId, channel: &str) {
        let holder = self.holders.entry(id).or_default();
        let known = self.channels.get_key_value(channel);
        let name = known.map_or_else(|| channel.into(), |(name, _)| name.clone());
        holder.channels.insert(name.clone());
        self.channels.entry(name).or_default().insert(id);
    }

    /// A peer no longer hears what is published in this channel.
    pub fn leave(&mut self, id: PeerId, channel: &str) {
        let holder = self.holders.entry(id).or_default();
        if holder.channels.remove(channel) {
            // The channel may have cost nothing.
            let cost = cost(channel.len()).min(holder.cost);
            holder.cost -= cost;
            self.held.remove(Cost::own(cost));
            self.take_off_channel(id, channel);
        }
    }

    fn take_off_channel(&mut self, id: PeerId, channel: &str) {
        if let Some(peers) = self.channels.get_mut(channel) {
            peers.remove(&id);
            if peers.is_empty() {
                self.channels.remove(channel);
                if let Some((group, _)) = channel.rsplit_once(' ')
                    && self
                        .groups
                        .get(group)
                        .is_some_and(|open| **open == *channel)
                {
                    self.groups.remove(group);
                }
            }
        }
    }

    /// The channels that a peer is in.
    pub fn channels_of(&self, id: PeerId) -> Vec<Arc<str>> {
        let holder = self.holders.get(&id);
        let channels = holder.map(|holder| holder.channels.iter().cloned().collect());
        channels.unwrap_or_default()
    }

    /// The peers in these channels, each once. `but`: without this one.
    pub fn audience<C: AsRef<str>>(&self, but: Option<PeerId>, channels: &[C]) -> Audience {
        let sets: Vec<&HashSet<PeerId>> = channels
            .iter()
            .filter_map(|channel| self.channels.get(channel.as_ref()))
            .collect();
        let peers = sets.iter().enumerate().flat_map(|(number, set)| {
            let before = &sets[..number];
            set.iter()
                .filter(move |id| !before.iter().any(|set| set.contains(id)))
        });
        peers.copied().filter(|id| Some(*id) != but).collect()
    }

    /// The other peers in the channels of this one.
    pub fn neighbours(&self, id: PeerId) -> Audience {
        self.audience(Some(id), &self.channels_of(id))
    }

    // Aliases --------------------------------------------------------------

    /// Gives a peer its alias.
    pub fn claim(&mut self, id: PeerId, scope: &str, name: &str) -> Result<(), Refusal> {
        let holder = self.holders.entry(id).or_default();
        let alias = alias(scope, name);
        if let Some(own) = &holder.alias {
            return if **own == alias {
                Ok(())
            } else {
                Err(Refusal::NameTaken)
            };
        }
        if self.aliases.contains_key(&alias) {
            return Err(Refusal::NameTaken);
        }
        holder.pay(scope.len() + name.len(), self.bound, &self.held)?;
        let alias = Arc::new(alias);
        holder.alias = Some(alias.clone());
        self.aliases.insert(alias, id);
        Ok(())
    }

    /// The alias of a peer.
    pub fn alias_of(&self, id: PeerId) -> Option<Arc<str>> {
        let alias = self.holders.get(&id)?.alias.as_ref()?;
        Some(alias.name.clone())
    }

    /// The peer that holds an alias.
    pub fn holder(&self, scope: &str, name: &str) -> Option<PeerId> {
        self.aliases.get(&alias(scope, name)).copied()
    }

    // Announcements --------------------------------------------------------

    /// From now on a peer announces a name. Returns the peers that wait for the name.
    pub fn announce(&mut self, id: PeerId, name: &str) -> Result<Audience, Refusal> {
        let announced = self.note(id, name)?;
        announced.announcers.insert(id);
        let watchers: Audience = announced.watchers.drain().collect();
        // The wait for it costs nothing any more.
        for watcher in watchers.iter().filter(|watcher| **watcher != id) {
            if let Some(holder) = self.holders.get_mut(watcher)
                && holder.announcements.remove(name)
            {
                holder.cost -= cost(name.len());
                self.held.remove(Cost::own(cost(name.len())));
            }
        }
        Ok(watchers)
    }

    /// A peer waits for a name. True if the name is announced; otherwise
    /// [`Names::announce`] returns the peer later.
    pub fn watch_for(&mut self, id: PeerId, name: &str) -> Result<bool, Refusal> {
        if let Some(announced) = self.announcements.get(name)
            && !announced.announcers.is_empty()
        {
            return Ok(true);
        }
        self.note(id, name)?.watchers.insert(id);
        Ok(false)
    }

    fn note(&mut self, id: PeerId, name: &str) -> Result<&mut Announcement, Refusal> {
        let holder = self.holders.entry(id).or_default();
        if !holder.announcements.contains(name) {
            holder.pay(name.len(), self.bound, &self.held)?;
            let known = self.announcements.get_key_value(name);
            let known = known.map_or_else(|| name.into(), |(name, _)| name.clone());
            holder.announcements.insert(known.clone());
            return Ok(self.announcements.entry(known).or_default());
        }
        Ok(self.announcements.entry(name.into()).or_default())
    }

    // The list -------------------------------------------------------------

    /// From now on a peer is in the list. Returns the peers that should hear its hello,
    /// and the cards of the peers that were listed before: of any two peers, one sees the
    /// other here, and the other hears the hello later.
    pub fn show(
        &mut self,
        id: PeerId,
        card: Bytes,
        farewell: Bytes,
    ) -> Result<(Audience, HashMap<PeerId, Bytes>), Refusal> {
        let cards = self.cards();
        let holder = self.holders.entry(id).or_default();
        if holder.shown.is_some() {
            return Err(Refusal::NameTaken);
        }
        holder.shown = Some(Shown { card, farewell });
        Ok((self.neighbours(id), cards))
    }

    /// The cards of the peers that are in the list.
    pub fn cards(&self) -> HashMap<PeerId, Bytes> {
        let holders = self.holders.iter();
        let cards =
            holders.filter_map(|(id, holder)| Some((*id, holder.shown.as_ref()?.card.clone())));
        cards.collect()
    }

    /// What is published when a peer is removed, if it is in the list.
    pub fn farewell_of(&self, id: PeerId) -> Option<Bytes> {
        let shown = self.holders.get(&id)?.shown.as_ref()?;
        Some(shown.farewell.clone())
    }

    /// A peer is gone. Returns its farewell, if it was listed, and the peers that should
    /// hear it.
    pub fn remove(&mut self, id: PeerId) -> Option<(Bytes, Audience)> {
        let neighbours = self.neighbours(id);
        let holder = self.holders.remove(&id)?;
        self.held.remove(Cost::own(holder.cost));
        if let Some(key) = &holder.key
            && self.keys.get(key) == Some(&id)
        {
            self.keys.remove(key);
        }
        for channel in &holder.channels {
            self.take_off_channel(id, channel);
        }
        if let Some(alias) = &holder.alias {
            self.aliases.remove(alias);
        }
        for name in &holder.announcements {
            if let Some(announced) = self.announcements.get_mut(name) {
                announced.announcers.remove(&id);
                announced.watchers.remove(&id);
                if announced.announcers.is_empty() && announced.watchers.is_empty() {
                    self.announcements.remove(name);
                }
            }
        }
        Some((holder.shown?.farewell, neighbours))
    }
}

impl Holder {
    /// A peer holds one more name, of this length in bytes.
    fn pay(&mut self, length: usize, bound: usize, held: &Held) -> Result<(), Refusal> {
        let total = self.cost + cost(length);
        if total > bound {
            return Err(Refusal::TooManyNames);
        }
        held.add(Cost::own(cost(length)))?;
        self.cost = total;
        Ok(())
    }
}

fn alias(scope: &str, name: &str) -> Alias {
    Alias {
        scope: scope.into(),
        name: name.into(),
    }
}

/// What a name of this length costs the peer that holds it, in bytes.
fn cost(length: usize) -> usize {
    length + MESSAGE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests;
