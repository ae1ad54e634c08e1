//! The peer list that lives in Redis: any number of nodes are one server.
//!
//! Each verb is one step of the script, which Redis carries out as a whole. A
//! node keeps what cannot leave it: open waits and sockets (`node.rs`), and a
//! copy of the list that it brings up to date (`view.rs`).

mod connect;
mod group;
mod lease;
mod library;
mod node;
mod open;
mod redis;
mod row;
mod view;
mod waiting;

use std::{
    path::PathBuf,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use ::redis::Cmd;
use bytes::Bytes;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

pub use connect::ConnectError;
pub(super) use lease::Lease;
pub(super) use open::{OpenRequest, OpenSocket};

use super::{
    AddPeerError, Caller, Delivery, HeartbeatOpts, Lines, PeerError, PeerEvents, PeerId, PeerInfo,
    PeerToken, Proof, Reason, ResumeError, SendError, SignedIn, Unavailable, WayIn,
    events::read_info,
    peer::name_for_list,
    rules::{ANSWER_PATIENCE, ROOM_PATIENCE, sign_period},
};
use node::Node;
use redis::{Redis, WATCH_PERIOD};
use row::Row;
use view::dialect_letter;

/// How long a verb is tried for whose client can be refused: a short
/// stand-still of Redis is not seen.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same for what nobody waits for, or what cannot be refused.
const LONG_PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two looks whether a mailbox has room.
const ROOM_PAUSE: Duration = Duration::from_millis(20);

/// An answer that takes longer than this shows that Redis stands still.
const STILL: Duration = Duration::from_millis(200);

/// The time in an answer that took longer than this is not known well enough:
/// the script takes the clocks of nodes to differ by less.
const CLOCK_PATIENCE: Duration = Duration::from_millis(100);

/// How long a node that stops tries to say so.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Redis is reached if it answers within this time.
const READY_PATIENCE: Duration = Duration::from_millis(500);

/// How often a node asks whether another has sent an event to the webhook.
const TURN_PAUSE: Duration = Duration::from_secs(1);

/// So many peers are asked about at once: others wait for it.
const INFOS_AT_ONCE: usize = 200;

/// How often a node tells which library it uses.
const USE_PERIOD: Duration = Duration::from_secs(60);

/// Where a list lives that many nodes share.
#[derive(Clone, Debug)]
pub struct ClusterOpts {
    /// Where Redis is: `redis://` or `rediss://`, with user, password and
    /// database as usual.
    pub url: SecretString,
    /// What all keys begin with, so that several lists can be in one Redis.
    pub prefix: String,
    /// A file with the certificates (PEM) of the authorities that are trusted
    /// for `rediss://` instead of the public ones.
    pub ca: Option<PathBuf>,
}

/// The list in Redis, as one node sees it. Clones are the same node.
#[derive(Clone)]
pub(super) struct ClusterList(Arc<Node>);

/// The first word of an answer, and the rest.
type Answer = Result<(String, Row), Unavailable>;

impl ClusterList {
    pub async fn connect(opts: HeartbeatOpts, cluster: &ClusterOpts) -> Result<Self, ConnectError> {
        let (redis, pushes) = Redis::connect(cluster, &opts).await?;
        let list = Self(Arc::new(Node::new(opts, redis)));
        let unreachable = |_: Unavailable| ConnectError::Unreachable("it stopped answering".into());
        list.live().await.map_err(unreachable)?;
        list.0.sync(Some(PATIENCE)).await.map_err(unreachable)?;
        list.0
            .sync_events(true, Some(PATIENCE))
            .await
            .map_err(unreachable)?;
        node::start(&list.0, pushes);
        list.start_watching();
        list.start_collector();
        Ok(list)
    }

    /// Tells the others that this node lives, and buries those that do not.
    async fn live(&self) -> Result<(), Unavailable> {
        let asked = Instant::now();
        let highest = self.0.highest_id();
        let row = self.0.run("live", Some(PATIENCE), |verb| verb.arg(highest));
        let mut row = row.await?;
        let took = asked.elapsed();
        let is_new = row.kind() == "1";
        if let Some(now) = row.number::<u64>()
            && (took < CLOCK_PATIENCE || !self.0.knows_clock())
        {
            // It was told on the way between.
            let since = u64::try_from(took.as_millis() / 2).unwrap_or(0);
            self.0.set_clock(now + since);
        }
        if let Some(created) = row.number() {
            self.0.list_created(created);
        }
        if is_new {
            // It was taken for dead: what is open here has to be said again.
            self.0.recheck();
        }
        loop {
            let mut row = self.0.run("bury", Some(PATIENCE), |verb| verb).await?;
            log_removed(row.row());
            if row.kind() != "1" {
                return Ok(());
            }
        }
    }

    /// Tells which library this node uses, and drops those that no node has
    /// used for long.
    async fn use_library(&self) {
        let row = self.0.run("uses_library", Some(PATIENCE), |verb| verb);
        let Ok(mut row) = row.await else { return };
        let differ = row.kind() == "1";
        let differed = self.0.differ.swap(differ, Ordering::Relaxed);
        if differ && !differed {
            warn!(
                "nodes of another version, or with other settings, use this list or have a minute \
                 ago: settings are to be the same at all nodes"
            );
        }
        for old in row.row().map(Row::texts).unwrap_or_default() {
            let mut delete = ::redis::cmd("FUNCTION");
            delete.arg("DELETE").arg(&old);
            // Another node may have been faster.
            let mut connection = self.0.redis.commands.wire().connection.clone();
            let _ = delete.exec_async(&mut connection).await;
        }
    }

    /// Finds out when a connection is to a Redis that hangs and is replaced.
    fn start_watching(&self) {
        let node = Arc::downgrade(&self.0);
        let watching = every(WATCH_PERIOD, node, async |list| list.0.redis.watch().await);
        self.0.keep([tokio::spawn(watching).abort_handle()]);
    }

    fn start_collector(&self) {
        let node = Arc::downgrade(&self.0);
        let living = tokio::spawn(every(
            sign_period(&self.0.opts),
            node.clone(),
            async |list| {
                let _ = list.live().await;
            },
        ));
        let using = tokio::spawn(every(USE_PERIOD, node.clone(), async |list| {
            list.use_library().await;
        }));
        let period = self.0.opts.gc_interval;
        let collecting = tokio::spawn(async move {
            sleep(period).await;
            every(period, node, async |list| {
                let _ = list.purge().await;
            })
            .await;
        });
        self.0
            .keep([living, using, collecting].map(|task| task.abort_handle()));
    }

    pub async fn add_peer(&self, name: Option<&str>, way: WayIn) -> Result<SignedIn, AddPeerError> {
        if name.is_some_and(str::is_empty) {
            return Err(AddPeerError::NoName);
        }
        let name = name.map(name_for_list);
        let token = PeerToken::random();
        let op = op();
        let mut asking = SignIn::new(&self.0, &op);
        let row = self.0.run_in_time("add_peer", PATIENCE, |verb| {
            verb.arg(&op)
                .arg(name.as_deref().unwrap_or_default())
                .arg(way.door)
                .arg(dialect_letter(way.dialect))
                .arg(hash_token(&token))
                .arg(self.0.highest_id())
                .arg(flag(way.protected))
        });
        let (kind, row) = row.await.map_err(|_| AddPeerError::Unavailable)?;
        match kind.as_str() {
            "ok" => {}
            "full" => {
                asking.is_answered();
                return Err(AddPeerError::Full);
            }
            _ => return Err(AddPeerError::Unavailable),
        }
        let signed_in = self.signed_in(row, token).await;
        let signed_in = signed_in.ok_or(AddPeerError::Unavailable)?;
        asking.is_answered();
        info!(
            peer_id = signed_in.id.get(),
            name = name.as_deref(),
            "peer signed in"
        );
        Ok(signed_in)
    }

    pub async fn resume_peer(
        &self,
        id: PeerId,
        token: &PeerToken,
        name: Option<&str>,
        way: WayIn,
    ) -> Result<SignedIn, ResumeError> {
        let name = name.map(name_for_list);
        let op = op();
        let row = self.0.run_in_time("resume_peer", PATIENCE, |verb| {
            verb.arg(&op)
                .arg(id.get())
                .arg(hash_token(token))
                .arg(name.as_deref().unwrap_or_default())
                .arg(way.door)
                .arg(dialect_letter(way.dialect))
        });
        let (kind, row) = row.await.map_err(|_| ResumeError::Unavailable)?;
        match kind.as_str() {
            "ok" => {}
            "wrong" => return Err(ResumeError::WrongToken),
            "gone" => return Err(ResumeError::Gone),
            _ => return Err(ResumeError::Unavailable),
        }
        let signed_in = self.signed_in(row, *token).await;
        info!(peer_id = id.get(), "peer came back");
        signed_in.ok_or(ResumeError::Unavailable)
    }

    /// What a sign-in was answered with: id, and the list.
    async fn signed_in(&self, mut row: Row, token: PeerToken) -> Option<SignedIn> {
        let id = row.text().and_then(|id| PeerId::parse(&id))?;
        let version = row.number()?;
        self.0.sync_to(version, Some(PATIENCE)).await.ok()?;
        let list = self.0.cached.lock().list_from(id);
        Some(SignedIn { id, token, list })
    }

    pub async fn check_token(
        &self,
        id: PeerId,
        token: Option<&PeerToken>,
    ) -> Result<(), PeerError> {
        let row = self.0.run("check_token", Some(PATIENCE), |verb| {
            verb.arg(id.get())
                .arg(token.map(hash_token).unwrap_or_default())
        });
        accepted(row.await)
    }

    pub async fn wait(&self, id: PeerId, limit: Option<Duration>) -> Result<Delivery, PeerError> {
        self.wait_after(id, None, limit).await
    }

    pub async fn wait_after(
        &self,
        id: PeerId,
        acknowledged: Option<u64>,
        limit: Option<Duration>,
    ) -> Result<Delivery, PeerError> {
        waiting::wait(&self.0, &caller(id), acknowledged, limit).await
    }

    pub async fn send(&self, from: PeerId, to: PeerId, body: Bytes) -> Result<(), SendError> {
        self.send_as(&caller(from), to, body, None, false, PATIENCE)
            .await
    }

    pub async fn send_once(
        &self,
        from: PeerId,
        to: PeerId,
        body: Bytes,
        number: u64,
    ) -> Result<(), SendError> {
        let number = Some(number);
        self.send_as(&caller(from), to, body, number, false, PATIENCE)
            .await
    }

    async fn send_as(
        &self,
        caller: &Caller,
        to: PeerId,
        body: Bytes,
        number: Option<u64>,
        polls: bool,
        patience: Duration,
    ) -> Result<(), SendError> {
        // One that has its number needs no other name.
        let op = number.map_or_else(op, |_| String::new());
        let row = self.0.run_in_time("send", patience, |verb| {
            verb.arg(&op)
                .arg(caller.id.get())
                .arg(token_arg(caller))
                .arg(to.get())
                .arg(link_arg(caller))
                .arg(flag(caller.lingers))
                .arg(number_arg(number))
                .arg(flag(polls))
                .arg(&body[..])
        });
        let (kind, _) = row.await.map_err(|_| SendError::Unavailable)?;
        match kind.as_str() {
            "ok" => Ok(()),
            "sender" => Err(SendError::UnknownSender),
            "receiver" => Err(SendError::UnknownReceiver),
            "wrong" => Err(SendError::WrongToken),
            "token" => Err(SendError::MissingToken),
            "order" => Err(SendError::OutOfOrder),
            "mailbox" => Err(SendError::MailboxFull),
            _ => Err(SendError::Unavailable),
        }
    }

    pub async fn send_patiently(
        &self,
        from: PeerId,
        to: PeerId,
        body: Bytes,
    ) -> Result<(), SendError> {
        let from = caller(from);
        loop {
            let sent = self
                .send_as(&from, to, body.clone(), None, false, LONG_PATIENCE)
                .await;
            if sent != Err(SendError::MailboxFull) {
                return sent;
            }
            self.until_room(to, body.len(), Some(LONG_PATIENCE)).await?;
        }
    }

    /// Waits until a mailbox has room for so many bytes. A peer that takes
    /// nothing for a while may have to go for that.
    async fn until_room(
        &self,
        id: PeerId,
        bytes: usize,
        patience: Option<Duration>,
    ) -> Result<(), SendError> {
        let unavailable = |_: Unavailable| SendError::Unavailable;
        let mut taken = String::new();
        let mut deadline = Instant::now() + ROOM_PATIENCE;
        loop {
            sleep(ROOM_PAUSE).await;
            let asked = Instant::now();
            let row = self
                .0
                .run("has_room", patience, |verb| verb.arg(id.get()).arg(bytes));
            let (kind, mut row) = split(row.await).map_err(unavailable)?;
            let before = std::mem::replace(&mut taken, row.text().unwrap_or_default());
            match kind.as_str() {
                "ok" => return Ok(()),
                // Nobody reads for it.
                "away" => break,
                // It reads; or it could not, for Redis stood still.
                _ if taken != before || asked.elapsed() > STILL => {
                    deadline = Instant::now() + ROOM_PATIENCE;
                }
                _ if Instant::now() >= deadline => break,
                _ => {}
            }
        }
        let row = self.0.run("give_up", patience, |verb| {
            verb.arg(id.get()).arg(bytes).arg(&taken)
        });
        match split(row.await).map_err(unavailable)?.0.as_str() {
            "ok" => Ok(()),
            "gone" => Err(SendError::UnknownReceiver),
            "full" => Err(SendError::MailboxFull),
            _ => Err(SendError::Unavailable),
        }
    }

    pub async fn refresh_peer_timeout(&self, id: PeerId) -> Result<(), PeerError> {
        self.heartbeat(&caller(id)).await
    }

    async fn heartbeat(&self, caller: &Caller) -> Result<(), PeerError> {
        let row = self
            .0
            .run("heartbeat", Some(PATIENCE), |verb| as_caller(verb, caller));
        accepted(row.await)
    }

    async fn set_capacity(&self, caller: &Caller, capacity: u64) -> Result<(), PeerError> {
        let row = self.0.run("set_capacity", Some(PATIENCE), |verb| {
            as_caller(verb, caller).arg(capacity)
        });
        accepted(row.await)
    }

    async fn seen(&self, caller: &Caller) -> Result<(), PeerError> {
        let row = self
            .0
            .run("seen", Some(READY_PATIENCE), |verb| as_caller(verb, caller));
        accepted(row.await)
    }

    pub async fn sign_out_later(&self, id: PeerId, grace: Duration) -> Result<(), Unavailable> {
        let ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.0
            .run("sign_out_later", Some(PATIENCE), |verb| {
                verb.arg(id.get()).arg(ms)
            })
            .await?;
        let node = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut pause = grace;
            loop {
                sleep(pause).await;
                let Some(node) = node.upgrade() else { return };
                let left = node.run("leave", Some(LONG_PATIENCE), |verb| verb.arg(id.get()));
                // Else the collector finds it.
                let Ok(mut row) = left.await else { return };
                if let Some(removed) = row.row() {
                    log_one_removed(removed);
                }
                if row.kind() != "1" {
                    return;
                }
                pause = ANSWER_PATIENCE;
            }
        });
        Ok(())
    }

    pub async fn remove_peer(&self, id: PeerId, reason: Reason) -> Result<bool, Unavailable> {
        let row = self.0.run("remove_peer", Some(PATIENCE), |verb| {
            verb.arg(op()).arg(id.get()).arg(reason.to_string())
        });
        let (kind, mut row) = split(row.await)?;
        if let Some(removed) = row.row() {
            log_one_removed(removed);
        }
        Ok(kind == "ok")
    }

    pub async fn purge(&self) -> Result<Vec<PeerId>, Unavailable> {
        let mut all = Vec::new();
        loop {
            let mut row = self.0.run("collect", Some(PATIENCE), |verb| verb).await?;
            let removed = log_removed(row.row()).into_iter();
            all.extend(removed.filter_map(|(id, is_listed)| is_listed.then_some(id)));
            if row.kind() != "1" {
                return Ok(all);
            }
        }
    }

    pub async fn peer_info(&self, id: PeerId) -> Result<Option<PeerInfo>, Unavailable> {
        let mut row = self
            .0
            .run("peer_info", Some(PATIENCE), |verb| verb.arg(id.get()))
            .await?;
        Ok(row.text().and_then(|line| read_info(&line)))
    }

    pub async fn peer_infos(&self) -> Result<Vec<PeerInfo>, Unavailable> {
        let ids = self.0.run("listed", Some(PATIENCE), |verb| verb).await?;
        let mut infos: Vec<PeerInfo> = Vec::new();
        for ids in ids.texts().chunks(INFOS_AT_ONCE) {
            let row = self.0.run("peer_infos", Some(PATIENCE), |verb| {
                ids.iter().fold(verb, |verb, id| verb.arg(id))
            });
            let lines = row.await?.texts();
            infos.extend(lines.iter().filter_map(|line| read_info(line)));
        }
        infos.sort_unstable_by_key(|info| info.id);
        Ok(infos)
    }

    /// How many peers are in the list, as far as is known here; a sign-in is told
    /// exactly.
    pub fn len(&self) -> usize {
        self.0.cached.lock().roster.len()
    }

    pub fn opts(&self) -> &HeartbeatOpts {
        &self.0.opts
    }

    pub fn peer_ids(&self) -> Vec<PeerId> {
        self.0.cached.lock().roster.ids()
    }

    pub fn format(&self) -> Lines {
        self.0.cached.lock().roster.list(Instant::now())
    }

    pub fn subscribe(&self) -> PeerEvents {
        self.0.events.subscribe(None)
    }

    pub fn subscribe_after(&self, number: u64) -> PeerEvents {
        self.0.events.subscribe(Some(number))
    }

    pub fn cancel_gc(&self) {
        self.0.stop_tasks();
    }

    pub fn end_waits(&self) {
        self.0.end_waits();
    }

    pub async fn stop(&self) {
        self.0.stop_tasks();
        let stopping = async {
            loop {
                let mut row = self.0.run("stop", None, |verb| verb).await?;
                log_removed(row.row());
                if row.kind() != "1" {
                    return Ok::<(), Unavailable>(());
                }
            }
        };
        let _ = timeout(STOP_PATIENCE, stopping).await;
        // What was removed is told to those who subscribed here.
        let _ = timeout(STOP_PATIENCE, self.0.sync_events(false, None)).await;
    }

    pub async fn is_reachable(&self) -> bool {
        let asked = self.0.run("ready", Some(READY_PATIENCE), |verb| verb);
        asked.await.is_ok()
    }

    pub fn open_request(&self, caller: Caller) -> OpenRequest {
        OpenRequest::new(self.clone(), caller)
    }

    pub async fn open_socket(&self, id: PeerId, resumes: bool) -> Result<OpenSocket, PeerError> {
        OpenSocket::open(self, id, resumes).await
    }

    pub fn link_lost(&self, id: PeerId, link: u64) {
        self.0.link_is_over(id, link);
    }

    /// The events that the webhook is to be sent: those that it was not.
    pub async fn webhook_events(&self) -> PeerEvents {
        let row = self.0.run("webhook_sent_last", Some(PATIENCE), |verb| verb);
        let last = row.await.ok().and_then(|mut row| row.number());
        self.0.events.subscribe(last)
    }

    pub async fn webhook_turn(&self, number: u64) -> bool {
        loop {
            let row = self
                .0
                .run("webhook", Some(PATIENCE), |verb| verb.arg(number));
            match split(row.await) {
                Ok((kind, _)) if kind == "mine" => return true,
                Ok((kind, _)) if kind == "sent" => return false,
                _ => sleep(TURN_PAUSE).await,
            }
        }
    }

    pub async fn webhook_sent(&self, number: u64) {
        let row = self
            .0
            .run("webhook_sent", Some(PATIENCE), |verb| verb.arg(number));
        let _ = row.await;
    }
}

/// Does something at once and then at intervals, as long as the node is used.
async fn every(period: Duration, node: Weak<Node>, work: impl AsyncFn(&ClusterList)) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(node) = node.upgrade() else { return };
        work(&ClusterList(node)).await;
    }
}

fn caller(id: PeerId) -> Caller {
    Caller {
        id,
        proof: Proof::Nothing,
        link: None,
        lingers: false,
    }
}

/// Id, token, link, and whether it lingers.
fn as_caller<'a>(verb: &'a mut Cmd, caller: &Caller) -> &'a mut Cmd {
    verb.arg(caller.id.get())
        .arg(token_arg(caller))
        .arg(link_arg(caller))
        .arg(flag(caller.lingers))
}

fn token_arg(caller: &Caller) -> String {
    caller.token().map(hash_token).unwrap_or_default()
}

/// A sign-in that was asked for. If it is dropped while it has its name, whoever asked
/// was refused, or has left: it is undone.
struct SignIn<'a> {
    node: &'a Arc<Node>,
    op: Option<String>,
}

impl<'a> SignIn<'a> {
    fn new(node: &'a Arc<Node>, op: &str) -> Self {
        let op = Some(op.to_owned());
        Self { node, op }
    }

    fn is_answered(&mut self) {
        self.op = None;
    }
}

impl Drop for SignIn<'_> {
    fn drop(&mut self) {
        if let Some(op) = self.op.take() {
            self.node.later("give_up_sign_in", |verb| {
                verb.arg(op);
            });
        }
    }
}

fn link_arg(caller: &Caller) -> String {
    let link = caller.link.as_ref().map(|link| link.number.to_string());
    link.unwrap_or_default()
}

fn known_arg(known: Option<u64>) -> String {
    known.map_or_else(|| "-1".to_owned(), |known| known.to_string())
}

fn flag(is: bool) -> &'static str {
    if is { "1" } else { "0" }
}

/// The name of an operation, by which Redis knows it when it is asked again.
fn op() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// What is kept of a token or a key: whoever reads Redis cannot act as a peer.
fn hash(secret: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(secret))
}

fn hash_token(token: &PeerToken) -> String {
    hash(token.digits())
}

fn number_arg(number: Option<u64>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

fn accepted(row: Result<Row, Unavailable>) -> Result<(), PeerError> {
    match split(row)?.0.as_str() {
        "ok" => Ok(()),
        "wrong" => Err(PeerError::WrongToken),
        "token" => Err(PeerError::MissingToken),
        "unknown" => Err(PeerError::Unknown),
        _ => Err(PeerError::Unavailable),
    }
}

fn split(row: Result<Row, Unavailable>) -> Answer {
    let mut row = row?;
    let kind = row.kind();
    Ok((kind, row))
}

/// Logs who was removed. Returns them, and whether they were in the list.
fn log_removed(removed: Option<Row>) -> Vec<(PeerId, bool)> {
    let rows = removed.map(Row::rows).unwrap_or_default().into_iter();
    rows.filter_map(log_one_removed).collect()
}

fn log_one_removed(mut removed: Row) -> Option<(PeerId, bool)> {
    let id = removed.text().and_then(|id| PeerId::parse(&id))?;
    let reason = removed.text();
    let name = removed.text();
    if let Some(name) = &name {
        info!(peer_id = id.get(), name, reason, "peer removed");
    }
    Some((id, name.is_some()))
}
