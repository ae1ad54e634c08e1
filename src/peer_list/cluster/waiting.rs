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

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    ClusterList, LONG_PATIENCE, PATIENCE, flag, hash, known_arg, link_arg,
    node::{Node, OpenHere},
    op,
    redis::Row,
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

    /// What is told of it: `hears`, a number, and whether the wait is over.
    fn words(&self, is_done: bool) -> (&'static str, u64, &'static str, &'static str) {
        let (hears, number) = match self.hears {
            Hears::Message(number) => ("message", number),
            Hears::Version(version) => ("version", version),
        };
        let ends = flag(!self.is_of_socket());
        (
            if is_done { hears } else { "" },
            number,
            ends,
            flag(is_done),
        )
    }

    /// The socket has it.
    pub async fn commit(mut self) {
        self.is_settled = true;
        if let Hears::Version(version) = self.hears {
            self.here.set_heard(Some(version));
        }
        let (hears, number, ends, lingers) = self.words(true);
        let done = self.node.run("done", Some(LONG_PATIENCE), |verb| {
            verb.arg(self.id.get())
                .arg(&self.name)
                .arg(hears)
                .arg(number)
                .arg(ends)
                .arg(lingers)
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
        let (hears, number, ends, lingers) = self.words(is_done);
        let (id, name) = (self.id, self.name.clone());
        self.node.later("done", move |verb| {
            verb.arg(id.get())
                .arg(name)
                .arg(hears)
                .arg(number)
                .arg(ends)
                .arg(lingers);
        });
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
    /// What Redis knows it by, as long as it may know it.
    name: Mutex<Option<String>>,
}

impl Wait {
    /// It is over, and Redis knows.
    fn is_over(&self) {
        *self.name.lock() = None;
    }

    /// Its time is over, with nothing told.
    async fn nothing(&self, dialect: Dialect) -> Delivery {
        let Looking { node, id, .. } = &self.looking;
        let (known, statuses) = node.wants();
        let name = self.name.lock().take();
        if let Some(name) = name {
            let row = node.run("end_wait", Some(END_PATIENCE), |verb| {
                verb.arg(id.get())
                    .arg(&name)
                    .arg("1")
                    .arg(known_arg(known))
                    .arg(statuses)
            });
            match row.await {
                Ok(row) => {
                    if let Some(view) = View::read(row, known) {
                        let _ = node.bring(view).await;
                    }
                }
                // It is told later.
                Err(_) => *self.name.lock() = Some(name),
            }
        }
        Delivery::last(match dialect {
            Dialect::Bare => News::Nothing(Bytes::from_static(b"\n")),
            Dialect::Silent => News::Nothing(Bytes::new()),
            Dialect::Listed => {
                let mut cached = node.cached.lock();
                News::Nothing(cached.roster.list(Instant::now()))
            }
        })
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(name) = self.name.get_mut().take() {
            let id = self.looking.id;
            self.looking.node.later("end_wait", move |verb| {
                verb.arg(id.get()).arg(name).arg("0").arg("").arg("0");
            });
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
    let id = caller.id;
    let end = limit.and_then(|limit| Instant::now().checked_add(limit));
    // Before Redis is asked, so that nothing is told in between unheard.
    let name = op();
    let wait = Wait {
        looking: Looking::new(node, id),
        // Whether Redis has it or not: it may when the answer is lost.
        name: Mutex::new(Some(name.clone())),
    };
    let (known, statuses) = node.wants();
    let told = node.told(id);
    let (kind, mut row) = {
        // It is held like any other while Redis is away.
        let row = node.run("wait", None, |verb| {
            verb.arg(&name)
                .arg(id.get())
                .arg(caller.token.as_ref().map(hash).unwrap_or_default())
                .arg(link_arg(caller))
                .arg(
                    acknowledged
                        .map(|number| number.to_string())
                        .unwrap_or_default(),
                )
                .arg(told)
                .arg(known_arg(known))
                .arg(statuses)
        });
        let over = async {
            match end {
                Some(end) => sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            row = row => split(row)?,
            // Of one that nobody knows here, nothing can be said.
            () = over, if node.cached.lock().dialect(id).is_some() => {
                let dialect = node.cached.lock().dialect(id).unwrap_or(Dialect::Listed);
                return Ok(wait.nothing(dialect).await);
            }
        }
    };
    match kind.as_str() {
        "ok" | "pause" => {}
        refused => {
            wait.is_over();
            return Err(if refused == "wrong" {
                PeerError::WrongToken
            } else {
                PeerError::Unknown
            });
        }
    }
    accepted();
    let looking = &wait.looking;
    let mut found = Found::Nothing;
    if kind == "pause" {
        let left: u64 = row.number().unwrap_or(0);
        let moment = Instant::now() + Duration::from_millis(left);
        let is_late = end.is_some_and(|end| end <= moment);
        let until = end.filter(|_| is_late).unwrap_or(moment);
        let ended = async {
            while looking.here.removed().is_none() && !node.is_ending() {
                looking.here.news.notified().await;
            }
        };
        let _ = timeout_at(until, ended).await;
        if !is_late {
            found = look_until(end, looking, &name).await;
        }
    } else {
        let news = row.row().ok_or(PeerError::Unavailable)?;
        let heard: Option<u64> = row.number();
        looking.here.set_heard(heard);
        // Told while Redis answered, to one that was not known to be behind.
        let is_behind = heard.is_some_and(|heard| heard < node.told(id));
        match looking.read(news, known).await {
            Some(Found::Nothing) if is_behind => found = look_until(end, looking, &name).await,
            Some(first) => found = first,
            None => found = look_until(end, looking, &name).await,
        }
    }
    loop {
        match found {
            Found::Lent(news, message, hears) => {
                let delivery = looking.lend(&name, news, message, hears);
                wait.is_over();
                return Ok(delivery);
            }
            Found::Removed(reason) => {
                wait.is_over();
                return Ok(Delivery::last(News::Removed(reason)));
            }
            Found::Outdated | Found::Replaced => looking.here.set_outdated(),
            Found::Nothing | Found::Later(_) => {}
        }
        let again = match found {
            Found::Later(left) => Some(Instant::now() + left),
            _ => None,
        };
        let is_outdated = matches!(found, Found::Outdated | Found::Replaced);
        if let Some(reason) = looking.here.removed() {
            wait.is_over();
            return Ok(Delivery::last(News::Removed(reason)));
        }
        let is_over = node.is_ending() || {
            let news = looking.here.news.notified();
            match end {
                _ if again.is_some() => {
                    let again = again.into_iter().chain(end).min();
                    let _ = timeout_at(again.unwrap_or_else(Instant::now), news).await;
                    end.is_some_and(|end| end <= Instant::now())
                }
                Some(end) => timeout_at(end, news).await.is_err(),
                None => {
                    news.await;
                    false
                }
            }
        };
        if is_over || node.is_ending() {
            let dialect = node.cached.lock().dialect(id);
            return Ok(wait.nothing(dialect.unwrap_or(Dialect::Listed)).await);
        }
        found = if is_outdated {
            Found::Outdated
        } else {
            look_until(end, looking, &name).await
        };
    }
}

/// Looks for news, for as long as a wait lasts.
async fn look_until(end: Option<Instant>, looking: &Looking, name: &str) -> Found {
    let looked = looking.look(name);
    match end {
        Some(end) => timeout_at(end, looked).await.unwrap_or(Found::Nothing),
        None => looked.await,
    }
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
