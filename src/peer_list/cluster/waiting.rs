//! Waiting for news at this node, and the lease under which they are handed
//! over.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::redis::Cmd;
use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    ClusterList, LONG_PATIENCE, PATIENCE, flag, hash, known_arg, link_arg,
    node::{Node, OpenHere},
    redis::LONGEST_RETRY_PAUSE,
    row::Row,
    split,
    view::{View, bare_line},
};
use crate::peer_list::{
    Caller, Delivery, Dialect, News, PeerError, PeerId, Place, Reason, SendError, TimeoutPeerList,
};

/// How long the end of a wait waits for Redis, before it is answered with what
/// is known here.
const END_PATIENCE: Duration = Duration::from_millis(500);

/// What was lent, to be told of when it is handed over or not.
pub(in crate::peer_list) struct Lease {
    node: Arc<Node>,
    here: Arc<OpenHere>,
    id: PeerId,
    /// The number of the wait, or `s` and the session.
    name: String,
    hears: Hears,
    is_settled: bool,
}

#[derive(Clone, Copy)]
enum Hears {
    Message(u64),
    Version(u64),
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({}, {})", self.id, self.name)
    }
}

impl Lease {
    fn is_of_socket(&self) -> bool {
        self.name.starts_with('s')
    }

    /// The arguments of `done`: whether it was handed over.
    fn words(&self, verb: &mut Cmd, is_done: bool) {
        let (hears, number) = match self.hears {
            Hears::Message(number) => ("message", number),
            Hears::Version(version) => ("version", version),
        };
        verb.arg(self.id.get())
            .arg(&self.name)
            .arg(if is_done { hears } else { "" })
            .arg(number)
            .arg(flag(!self.is_of_socket()))
            .arg(flag(is_done));
    }

    /// The socket has it.
    pub async fn commit(mut self) {
        self.is_settled = true;
        if let Hears::Version(version) = self.hears {
            self.here.set_heard(Some(version));
        }
        let done = self.node.run("done", Some(LONG_PATIENCE), |verb| {
            self.words(verb, true);
            verb
        });
        let _ = done.await;
    }

    /// The reply is on its way; nobody waits for this.
    pub fn commit_later(mut self) {
        self.settle(true);
    }

    fn settle(&mut self, is_done: bool) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        self.node.later("done", |verb| self.words(verb, is_done));
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.settle(false);
    }
}

/// What a look for news has found.
enum Found {
    Lent(News, u64, Hears),
    Nothing,
    /// An older wait is being given something: look again then.
    Later(Duration),
    /// A newer wait is given what there is.
    Outdated,
    Replaced,
    Removed(Reason),
}

/// Something that is open here, and looks for news.
struct Looking {
    node: Arc<Node>,
    here: Arc<OpenHere>,
    id: PeerId,
}

impl Looking {
    fn new(node: &Arc<Node>, id: PeerId) -> Self {
        Self {
            node: node.clone(),
            here: node.open(id),
            id,
        }
    }

    /// Reads what the script found.
    async fn read(&self, mut row: Row, known: Option<u64>) -> Option<Found> {
        let kind = row.kind();
        let found = match kind.as_str() {
            "message" => {
                let number: u64 = row.number()?;
                let kind = row.kind();
                let from = row.text()?;
                let body = row.bytes()?;
                let news = match kind.as_str() {
                    "d" => News::Message {
                        from: PeerId::parse(&from)?,
                        body,
                    },
                    "r" => News::Room(body),
                    _ => News::GroupMessage(body),
                };
                Found::Lent(news, number, Hears::Message(number))
            }
            "list" => {
                let heard: u64 = row.number()?;
                let view = View::read(row.row()?, known)?;
                self.node.bring(view).await.ok()?;
                let mut cached = self.node.cached.lock();
                let list = cached.roster.update(heard, Instant::now());
                let version = Hears::Version(cached.roster.current());
                Found::Lent(News::Status(list), 0, version)
            }
            "line" => {
                let version = row.number()?;
                let line = bare_line(&row.text()?)?;
                Found::Lent(News::Status(line), 0, Hears::Version(version))
            }
            "none" => Found::Nothing,
            "lent" => Found::Later(Duration::from_millis(row.number()?)),
            "outdated" => Found::Outdated,
            "replaced" => Found::Replaced,
            "gone" => {
                let reason = self.here.removed();
                let told = row.text().and_then(|reason| Reason::read(&reason));
                Found::Removed(reason.or(told).unwrap_or(Reason::TimedOut))
            }
            _ => return None,
        };
        Some(found)
    }

    /// Looks for news under a lease; waits for Redis as long as it takes.
    async fn look(&self, lease: &str) -> Found {
        loop {
            let (known, statuses) = self.node.wants();
            let told = self.node.told(self.id);
            let row = self.node.run("take", None, |verb| {
                verb.arg(self.id.get())
                    .arg(lease)
                    .arg(told)
                    .arg(known_arg(known))
                    .arg(statuses)
            });
            if let Ok(row) = row.await
                && let Some(found) = self.read(row, known).await
            {
                return found;
            }
            // Nothing that this version understands: another may have said it.
            sleep(LONGEST_RETRY_PAUSE).await;
        }
    }

    fn lend(&self, lease: &str, news: News, number: u64, hears: Hears) -> Delivery {
        let lease = Lease {
            node: self.node.clone(),
            here: self.here.clone(),
            id: self.id,
            name: lease.to_owned(),
            hears,
            is_settled: false,
        };
        Delivery::lent(news, number, lease)
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.node.close(self.id, &self.here);
    }
}

/// A wait of a peer that polls. Dropping it tells Redis that it is over.
struct Wait {
    looking: Looking,
    number: u64,
    /// What Redis knows it by.
    name: String,
    /// None: it lasts until there is news.
    end: Option<Instant>,
    /// Redis knows of it, or may.
    is_open: bool,
}

/// How a wait has begun.
enum Begun {
    /// Redis has it, and has found this for it.
    With(Found),
    /// What there is was given before. Nothing is to be given for so long.
    Repeats(Duration),
    /// Its time is over, and Redis was away.
    Over,
}

impl Wait {
    fn new(node: &Arc<Node>, id: PeerId, end: Option<Instant>) -> Self {
        let (number, name) = node.next_wait();
        Self {
            // Before Redis is asked, so that nothing is told in between unheard.
            looking: Looking::new(node, id),
            number,
            name,
            end,
            is_open: false,
        }
    }

    /// Carries a step out. None: the wait's time is over, or its node stops.
    async fn in_time<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        let over = async {
            match self.end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            value = step => Some(value),
            () = over => None,
            () = self.looking.node.ended() => None,
        }
    }

    /// Tells Redis of it. It is held like any other while Redis is away.
    async fn begin(
        &mut self,
        caller: &Caller,
        acknowledged: Option<u64>,
    ) -> Result<Begun, PeerError> {
        let Looking { node, id, here } = &self.looking;
        let (known, statuses) = node.wants();
        let told = node.told(*id);
        let acknowledged = acknowledged.map(|number| number.to_string());
        // It may have it even when the answer is lost.
        self.is_open = true;
        let asked = node.run("wait", None, |verb| {
            verb.arg(&self.name)
                .arg(id.get())
                .arg(caller.token.as_ref().map(hash).unwrap_or_default())
                .arg(link_arg(caller))
                .arg(acknowledged.unwrap_or_default())
                .arg(told)
                .arg(known_arg(known))
                .arg(statuses)
        });
        let Some(row) = self.in_time(asked).await else {
            return Ok(Begun::Over);
        };
        let (kind, mut row) = split(row)?;
        match kind.as_str() {
            "ok" => {}
            "pause" => {
                let left = row.number().unwrap_or_default();
                return Ok(Begun::Repeats(Duration::from_millis(left)));
            }
            refused => {
                self.is_open = false;
                return Err(match refused {
                    "wrong" => PeerError::WrongToken,
                    "unknown" => PeerError::Unknown,
                    _ => PeerError::Unavailable,
                });
            }
        }
        let found = row.row().ok_or(PeerError::Unavailable)?;
        let heard: Option<u64> = row.number();
        here.set_heard(heard);
        // Told while Redis answered, to one that was not known to be behind.
        let is_behind = heard.is_some_and(|heard| heard < node.told(*id));
        Ok(match self.looking.read(found, known).await {
            Some(found) if !is_behind || !matches!(found, Found::Nothing) => Begun::With(found),
            _ => Begun::With(self.look().await),
        })
    }

    async fn look(&self) -> Found {
        let looked = self.in_time(self.looking.look(&self.name)).await;
        looked.unwrap_or(Found::Nothing)
    }

    /// Gives nothing for so long.
    async fn pause(&self, left: Duration) -> Found {
        let here = &self.looking.here;
        let removed = async {
            while here.removed().is_none() {
                here.news.notified().await;
            }
        };
        match self.in_time(timeout(left, removed)).await {
            Some(_) => self.look().await,
            None => Found::Nothing,
        }
    }

    /// Waits until it is time to look again, `left` from now at the latest.
    /// False: the wait is over.
    async fn until_news(&self, left: Option<Duration>) -> bool {
        let news = self.looking.here.news.notified();
        let again = async {
            match left {
                Some(left) => drop(timeout(left, news).await),
                None => news.await,
            }
        };
        self.in_time(again).await.is_some() && !self.looking.node.is_ending()
    }

    /// It is over, with this: what it was given tells Redis, or that its peer
    /// is gone.
    fn with(mut self, delivery: impl FnOnce(&Self) -> Delivery) -> Delivery {
        self.is_open = false;
        delivery(&self)
    }

    /// Its time is over, with nothing told.
    async fn nothing(mut self) -> Result<Delivery, PeerError> {
        let Looking { node, id, .. } = &self.looking;
        let (known, statuses) = node.wants();
        let ended = node.run("end_wait", Some(END_PATIENCE), |verb| {
            verb.arg(id.get())
                .arg(&self.name)
                .arg("1")
                .arg(known_arg(known))
                .arg(statuses)
        });
        if let Ok(row) = ended.await {
            self.is_open = false;
            if let Some(view) = View::read(row, known) {
                let _ = node.bring(view).await;
            }
        }
        let mut cached = node.cached.lock();
        // Of a peer that nobody knows here, nothing can be said.
        let dialect = cached.dialect(*id).ok_or(PeerError::Unavailable)?;
        Ok(Delivery::last(News::Nothing(match dialect {
            Dialect::Bare => Bytes::from_static(b"\n"),
            Dialect::Silent => Bytes::new(),
            Dialect::Listed => cached.roster.list(Instant::now()),
        })))
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Looking { node, id, here } = &self.looking;
        if self.is_open {
            node.close(*id, here);
            node.wait_is_over(*id, self.number);
        }
    }
}

/// See [`TimeoutPeerList::wait_after`](crate::TimeoutPeerList::wait_after).
pub(super) async fn wait(
    node: &Arc<Node>,
    caller: &Caller,
    acknowledged: Option<u64>,
    limit: Option<Duration>,
    accepted: impl FnOnce(),
) -> Result<Delivery, PeerError> {
    let end = limit.and_then(|limit| Instant::now().checked_add(limit));
    let mut wait = Wait::new(node, caller.id, end);
    let begun = wait.begin(caller, acknowledged).await?;
    accepted();
    let mut found = match begun {
        Begun::With(found) => found,
        Begun::Repeats(left) => wait.pause(left).await,
        Begun::Over => return wait.nothing().await,
    };
    loop {
        let mut left = None;
        match found {
            Found::Lent(news, message, hears) => {
                return Ok(wait.with(|wait| wait.looking.lend(&wait.name, news, message, hears)));
            }
            Found::Removed(reason) => return Ok(wait.with(|_| removed(reason))),
            Found::Outdated | Found::Replaced => wait.looking.here.set_outdated(),
            Found::Later(soon) => left = Some(soon),
            Found::Nothing => {}
        }
        if let Some(reason) = wait.looking.here.removed() {
            return Ok(wait.with(|_| removed(reason)));
        }
        if !wait.until_news(left).await {
            return wait.nothing().await;
        }
        // One that is outdated has only its end to wait for.
        if !matches!(found, Found::Outdated | Found::Replaced) {
            found = wait.look().await;
        }
    }
}

fn removed(reason: Reason) -> Delivery {
    Delivery::last(News::Removed(reason))
}

/// A request of a peer, as far as this node has to do with it.
pub(in crate::peer_list) struct OpenRequest {
    list: ClusterList,
    caller: Caller,
    /// A verb has told Redis of it.
    is_told: AtomicBool,
}

impl fmt::Debug for OpenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenRequest({})", self.caller.id)
    }
}

impl OpenRequest {
    pub fn new(list: ClusterList, caller: Caller) -> Self {
        Self {
            list,
            caller,
            is_told: AtomicBool::new(false),
        }
    }

    fn uses_link(&self) {
        let list = TimeoutPeerList(Place::Cluster(self.list.clone()));
        self.caller.uses_link(&list);
    }

    fn told(&self) -> &Caller {
        self.is_told.store(true, Ordering::Relaxed);
        &self.caller
    }

    pub async fn wait(
        &self,
        acknowledged: Option<u64>,
        limit: Option<Duration>,
    ) -> Result<Delivery, PeerError> {
        let uses_link = || self.uses_link();
        wait(&self.list.0, self.told(), acknowledged, limit, uses_link).await
    }

    pub async fn send(
        &self,
        to: PeerId,
        body: Bytes,
        number: Option<u64>,
    ) -> Result<(), SendError> {
        let caller = self.told();
        let sent = self
            .list
            .send_as(caller, to, body, number, true, PATIENCE)
            .await;
        if !matches!(sent, Err(SendError::WrongToken | SendError::UnknownSender)) {
            self.uses_link();
        }
        sent
    }

    pub async fn heartbeat(&self) -> Result<(), PeerError> {
        self.list.heartbeat(self.told()).await?;
        self.uses_link();
        Ok(())
    }

    /// A sign-in, then, if no verb has told of it.
    pub fn answered(self, lingers: bool) {
        if self.is_told.load(Ordering::Relaxed) {
            return;
        }
        self.uses_link();
        let (id, link) = (self.caller.id, link_arg(&self.caller));
        self.list.0.later("signed_in", move |verb| {
            verb.arg(id.get()).arg(link).arg(flag(lingers));
        });
    }
}

/// The socket of a peer that is open at this node.
pub(in crate::peer_list) struct OpenSocket {
    looking: Looking,
    session: u64,
    has_left: bool,
}

impl fmt::Debug for OpenSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenSocket({})", self.looking.id)
    }
}

impl OpenSocket {
    pub async fn open(list: &ClusterList, id: PeerId, resumes: bool) -> Result<Self, PeerError> {
        let looking = Looking::new(&list.0, id);
        let row = list.0.run("open_socket", Some(PATIENCE), |verb| {
            verb.arg(id.get()).arg(flag(resumes))
        });
        let (kind, mut row) = split(row.await)?;
        if kind != "ok" {
            return Err(PeerError::Unknown);
        }
        let session = row.number().ok_or(PeerError::Unavailable)?;
        looking.here.set_session(session);
        looking.here.set_heard(row.number());
        Ok(Self {
            looking,
            session,
            has_left: false,
        })
    }

    pub async fn wait(&self) -> Delivery {
        let Looking { node, here, .. } = &self.looking;
        let lease = format!("s{}", self.session);
        loop {
            if let Some(reason) = here.removed() {
                return Delivery::last(News::Removed(reason));
            }
            let news = here.news.notified();
            match self.looking.look(&lease).await {
                Found::Lent(news, number, hears) => {
                    return self.looking.lend(&lease, news, number, hears);
                }
                Found::Removed(reason) => return Delivery::last(News::Removed(reason)),
                Found::Replaced | Found::Outdated => return Delivery::last(News::Replaced),
                Found::Nothing | Found::Later(_) => {}
            }
            if node.is_ending() {
                return Delivery::last(News::Nothing(Bytes::new()));
            }
            news.await;
        }
    }

    pub async fn ended(&self) {
        let Looking { node, here, .. } = &self.looking;
        while here.removed().is_none() && !here.is_replaced() && !node.is_ending() {
            here.news.notified().await;
        }
        // Whoever waits for news is to hear of it too.
        here.news.notify_one();
    }

    pub async fn leave(mut self, reason: Reason) {
        self.has_left = true;
        let Looking { node, id, .. } = &self.looking;
        let row = node.run("close_socket", Some(LONG_PATIENCE), |verb| {
            verb.arg(id.get()).arg(self.session).arg(reason.to_string())
        });
        if let Ok(mut row) = row.await
            && let Some(removed) = row.row()
        {
            super::log_one_removed(removed);
        }
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        if !self.has_left {
            let (id, session) = (self.looking.id, self.session);
            self.looking.node.later("close_socket", move |verb| {
                verb.arg(id.get())
                    .arg(session)
                    .arg(Reason::Closed.to_string());
            });
        }
    }
}
