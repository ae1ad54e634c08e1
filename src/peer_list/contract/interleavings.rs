//! Any interleaving of what peers do, against a simple model.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    SignIn { bare: bool },
    SignOut(usize),
    Send { from: usize, to: usize },
    Wait(usize),
    DropWait(usize),
    Done(usize),
    DropDelivery(usize),
    Heartbeat(usize),
    Pass { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let peer = 0usize..6;
    prop_oneof![
        3 => any::<bool>().prop_map(|bare| Step::SignIn { bare }),
        1 => peer.clone().prop_map(Step::SignOut),
        8 => (peer.clone(), peer.clone()).prop_map(|(from, to)| Step::Send { from, to }),
        6 => peer.clone().prop_map(Step::Wait),
        2 => peer.clone().prop_map(Step::DropWait),
        8 => peer.clone().prop_map(Step::Done),
        3 => peer.clone().prop_map(Step::DropDelivery),
        1 => peer.prop_map(Step::Heartbeat),
        1 => (0u64..20).prop_map(|ms| Step::Pass { ms }),
        1 => (0u64..20_000).prop_map(|ms| Step::Pass { ms }),
    ]
}

/// No reply takes longer than this to be written.
const REPLY_TIME: Duration = Duration::from_secs(1);

type Given = (Result<Delivery, Refusal>, Box<dyn OpenRequest>);

/// A peer as the model sees it.
struct ModelPeer {
    id: PeerId,
    bare: bool,
    /// Sent to it and not yet received.
    pending: VecDeque<(PeerId, Bytes)>,
    /// The peers in the list, as far as it was told.
    knows: BTreeSet<PeerId>,
    /// Every peer that it was ever told of.
    met: BTreeSet<PeerId>,
    /// In the order in which they began.
    waits: Vec<Pin<Box<dyn Future<Output = Given>>>>,
    /// The last of `waits` is the newest that ever began. If not, that one has ended.
    has_newest: bool,
    delivery: Option<(Delivery, Box<dyn OpenRequest>)>,
    last_heartbeat: Option<Instant>,
    last_seen: Instant,
}

impl ModelPeer {
    fn stale(&self, now: Instant, engine: EngineKind) -> bool {
        match self.last_heartbeat {
            Some(beat) => now >= beat + Duration::from_secs(33),
            None => {
                let waits = if engine.is_in_redis() {
                    self.has_newest
                } else {
                    !self.waits.is_empty()
                };
                let open = waits || self.delivery.is_some();
                !open && now >= self.last_seen + Duration::from_secs(30)
            }
        }
    }

    /// Looks what its waits are given.
    async fn poll(&mut self, list: &TestList, peers: &BTreeSet<PeerId>) {
        let waits = self.waits.len();
        // An older wait may have to look what becomes of a newer one.
        for index in (0..waits).chain((0..waits).rev()) {
            let newest = self.has_newest && index + 1 == self.waits.len();
            let Some(wait) = self.waits.get_mut(index) else {
                continue;
            };
            let Some((delivery, request)) = list.try_now(wait).await else {
                continue;
            };
            let delivery = delivery.unwrap();
            if !newest {
                // Its client is told to ask again, and nothing else.
                let is_nothing = matches!(delivery.news(), News::Nothing(_));
                assert!(is_nothing, "an older wait was given something");
                drop((self.waits.remove(index), delivery, request));
                continue;
            }
            assert!(self.delivery.is_none(), "two deliveries at a time");
            self.check(delivery.news(), peers);
            drop(self.waits.remove(index));
            self.has_newest = false;
            self.delivery = Some((delivery, request));
        }
    }

    fn check(&self, news: &News, peers: &BTreeSet<PeerId>) {
        match news {
            News::Message { from, body } => {
                let first = self.pending.front().cloned();
                assert_eq!(first, Some((*from, body.clone())), "lost or out of order");
                let known = self.met.contains(from) || !(self.bare || peers.contains(from));
                assert!(known, "a message of {from} came before the news of it");
            }
            News::Status(_) => {}
            other => panic!("{other:?} out of the blue"),
        }
    }

    fn received(&mut self, news: &News) {
        match news {
            News::Message { .. } => {
                self.pending.pop_front();
            }
            News::Status(lines) => {
                let lines = text(lines);
                let mut lines = lines.lines().map(|line| {
                    let mut fields = line.split(',');
                    let id: u32 = fields.nth(1).unwrap().parse().unwrap();
                    (PeerId::new(id).unwrap(), fields.next() == Some("1"))
                });
                if self.bare {
                    let (id, joined) = lines.next().unwrap();
                    let news = if joined {
                        self.knows.insert(id)
                    } else {
                        self.knows.remove(&id)
                    };
                    assert!(news, "a change was told twice");
                    assert_eq!(lines.next(), None);
                } else {
                    self.knows = lines.map(|(id, _)| id).collect();
                }
                self.met.extend(&self.knows);
            }
            other => assert!(matches!(other, News::Nothing(_) | News::Removed(_))),
        }
    }
}

struct Model {
    engine: EngineKind,
    list: TestList,
    /// The nodes that share the list. Each peer keeps to one.
    nodes: [TimeoutPeerList; 2],
    peers: BTreeMap<PeerId, ModelPeer>,
    messages: u32,
    next_collection: Instant,
}

impl Model {
    async fn new(engine: EngineKind, list: TestList) -> Self {
        Self {
            engine,
            nodes: [TimeoutPeerList::clone(&list), list.another_node().await],
            list,
            peers: BTreeMap::new(),
            messages: 0,
            next_collection: Instant::now() + Duration::from_secs(15),
        }
    }

    fn nth(&mut self, index: usize) -> Option<&mut ModelPeer> {
        let index = index % self.peers.len().max(1);
        self.peers.values_mut().nth(index)
    }

    async fn step(&mut self, step: Step) {
        let nodes = self.nodes.clone();
        let node_of = |id: PeerId| &nodes[id.get() as usize % nodes.len()];
        match step {
            Step::SignIn { bare } => self.sign_in(bare).await,
            Step::SignOut(peer) => {
                if let Some(id) = self.nth(peer).map(|peer| peer.id) {
                    assert!(
                        node_of(id)
                            .remove_peer(id, Reason::SignedOut)
                            .await
                            .unwrap()
                    );
                    self.removed(id, true).await;
                }
            }
            Step::Send { from, to } => {
                self.messages += 1;
                let body = Bytes::from(self.messages.to_string());
                if let Some(from) = self.nth(from).map(|peer| peer.id)
                    && let Some(to) = self.nth(to)
                {
                    let sent = node_of(from).send(from, to.id, body.clone(), SendOpts::default());
                    sent.await.unwrap();
                    to.pending.push_back((from, body));
                }
            }
            Step::Wait(peer) => {
                if let Some(peer) = self.nth(peer) {
                    let request = node_of(peer.id).open_request(caller(peer.id, None));
                    let request = request.unwrap();
                    peer.has_newest = true;
                    peer.waits.push(Box::pin(async move {
                        let delivery = request.wait(WaitOpts::default()).await;
                        (delivery, request)
                    }));
                }
            }
            Step::DropWait(peer) => {
                if let Some(peer) = self.nth(peer)
                    && !peer.waits.is_empty()
                {
                    let oldest = peer.waits.len() % 2;
                    let oldest_or_newest = (peer.waits.len() - 1) * oldest;
                    peer.has_newest &= oldest_or_newest + 1 < peer.waits.len();
                    drop(peer.waits.remove(oldest_or_newest));
                    peer.last_seen = Instant::now();
                }
            }
            Step::Done(peer) => {
                if let Some(peer) = self.nth(peer)
                    && let Some((delivery, request)) = peer.delivery.take()
                {
                    let news = delivery.news().clone();
                    peer.received(&news);
                    delivery.done();
                    request.answered();
                    peer.last_seen = Instant::now();
                }
            }
            Step::DropDelivery(peer) => {
                if let Some(peer) = self.nth(peer)
                    && peer.delivery.take().is_some()
                {
                    peer.last_seen = Instant::now();
                }
            }
            Step::Heartbeat(peer) => {
                if let Some(peer) = self.nth(peer) {
                    node_of(peer.id)
                        .refresh_peer_timeout(peer.id)
                        .await
                        .unwrap();
                    peer.last_heartbeat = Some(Instant::now());
                }
            }
            Step::Pass { ms } => {
                self.before(ms);
                self.list.pass(Duration::from_millis(ms)).await;
            }
        }
        self.look().await;
    }

    /// This many ms are about to pass.
    fn before(&mut self, ms: u64) {
        if Duration::from_millis(ms) > REPLY_TIME {
            for peer in self.peers.values_mut() {
                if peer.delivery.take().is_some() {
                    peer.last_seen = Instant::now();
                }
            }
        }
    }

    /// Looks what has happened.
    async fn look(&mut self) {
        self.collect().await;
        self.list.settle().await;
        let here: BTreeSet<PeerId> = self.peers.keys().copied().collect();
        let listed = self.list.ids().await;
        assert_eq!(listed, here.iter().copied().collect::<Vec<_>>());
        for peer in self.peers.values_mut() {
            peer.poll(&self.list, &here).await;
        }
    }

    async fn sign_in(&mut self, bare: bool) {
        let opts = if bare { BARE } else { LISTED };
        let added = added(&self.list, "p", opts).await;
        let (id, lines) = (added.id, added.list);
        let knows: BTreeSet<PeerId> = text(&lines)
            .lines()
            .map(|line| line.split(',').nth(1).unwrap().parse().unwrap())
            .map(|id| PeerId::new(id).unwrap())
            .collect();
        assert!(text(&lines).starts_with(&format!("p,{id},1\n")));
        let peer = ModelPeer {
            id,
            bare,
            pending: VecDeque::new(),
            met: knows.clone(),
            knows,
            waits: Vec::new(),
            has_newest: false,
            delivery: None,
            last_heartbeat: None,
            last_seen: Instant::now(),
        };
        self.peers.insert(id, peer);
    }

    /// What the collector is to do when this much time has passed.
    async fn collect(&mut self) {
        while self.next_collection <= Instant::now() {
            let peers = self.peers.values();
            let stale = peers.filter(|peer| peer.stale(self.next_collection, self.engine));
            let stale: Vec<PeerId> = stale.map(|peer| peer.id).collect();
            for id in stale {
                self.removed(id, false).await;
            }
            self.next_collection += Duration::from_secs(15);
        }
    }

    /// All waits of a removed peer end. `signed_out`: it has asked for that itself.
    async fn removed(&mut self, id: PeerId, signed_out: bool) {
        let peer = self.peers.remove(&id).unwrap();
        for wait in peer.waits {
            let (delivery, _) = self.list.now(wait).await;
            let delivery = delivery.unwrap();
            let end = delivery.news();
            assert_eq!(matches!(end, News::Nothing(_)), signed_out, "{end:?}");
            assert_eq!(matches!(end, News::Removed(_)), !signed_out, "{end:?}");
        }
    }

    /// After a while of polling, everybody has everything.
    async fn settle(&mut self) {
        self.step(Step::Pass { ms: 1_001 }).await;
        let here: BTreeSet<PeerId> = self.peers.keys().copied().collect();
        for peer in self.peers.values_mut() {
            peer.waits.clear();
            peer.has_newest = false;
        }
        let mut is_given = true;
        while is_given {
            is_given = false;
            for peer in 0..here.len() {
                if self.nth(peer).unwrap().waits.is_empty() {
                    self.step(Step::Wait(peer)).await;
                }
                is_given |= self.nth(peer).unwrap().delivery.is_some();
                self.step(Step::Done(peer)).await;
            }
        }
        for peer in self.peers.values() {
            assert!(peer.pending.is_empty(), "{} misses messages", peer.id);
            assert_eq!(peer.knows, here, "{} has a stale list", peer.id);
        }
    }
}

async fn against_the_model(engine: EngineKind, steps: Vec<Step>) {
    let mut model = Model::new(engine, engine.default_list().await).await;
    for step in steps {
        model.step(step).await;
    }
    model.settle().await;
}

/// The root list and two rooms side by side: each is as if it were alone.
async fn in_rooms_against_a_model_of_each(engine: EngineKind, steps: Vec<(usize, Step)>) {
    let list = engine.default_list().await;
    let mut models = [
        Model::new(engine, list.clone()).await,
        Model::new(engine, list.in_room("room-1")).await,
        Model::new(engine, list.in_room("room-2")).await,
    ];
    for (room, step) in steps {
        let Step::Pass { ms } = step else {
            models[room].step(step).await;
            continue;
        };
        models.iter_mut().for_each(|model| model.before(ms));
        list.pass(Duration::from_millis(ms)).await;
        for model in &mut models {
            model.look().await;
        }
    }
    for model in &mut models {
        model.settle().await;
    }
}

every_engine_in_any_case! {
    nothing_is_lost_nor_told_twice_nor_out_of_order_in_any_interleaving:
        against_the_model(prop::collection::vec(step(), 1..150)), 200 in memory, 12 in redis;
    rooms_do_not_hear_of_each_other_in_any_interleaving:
        in_rooms_against_a_model_of_each(prop::collection::vec((0usize..3, step()), 1..150)),
        100 in memory, 8 in redis;
}
