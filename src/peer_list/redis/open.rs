//! An open request or socket of a peer at this node.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;

use super::{
    LONG_PATIENCE, PATIENCE, READY_PATIENCE, RedisEngine,
    answers::{ClosedSocket, Kept, OpenedSocket},
    here::Registered,
    link_of,
    list::List,
    looking::{Found, Looking},
    op, verbs,
    waiting::wait,
};
use crate::{
    counter::One,
    peer_list::{
        Caller, Delivery, Held, News, OpenRequest, OpenSocket, PeerId, Presence, Reason, Refusal,
        SendOpts, SocketOpts, WaitOpts,
    },
};

#[async_trait]
impl Presence for RedisEngine {
    async fn open_socket(
        &self,
        id: PeerId,
        opts: SocketOpts,
    ) -> Result<Box<dyn OpenSocket>, Refusal> {
        Ok(Box::new(Socket::open(self, id, opts).await?))
    }

    /// The operation of the request finds out whether the request may act as that peer.
    fn open_request(&self, caller: Caller) -> Result<Box<dyn OpenRequest>, Refusal> {
        Ok(Box::new(Request {
            engine: self.clone(),
            caller,
            is_told: AtomicBool::new(false),
        }))
    }
}

impl RedisEngine {
    /// Finds the list later, or another copy of it, without keeping it.
    fn to_find_list_again(&self) -> impl Fn() -> Option<Arc<List>> + Send + use<> {
        let (lists, room) = (Arc::downgrade(&self.lists), self.list.room.clone());
        move || {
            let lists = lists.upgrade()?;
            match &room {
                None => lists.used_list(None),
                Some(room) => Some(lists.room(room)),
            }
        }
    }
}

/// A request of a peer, as this node sees it.
struct Request {
    engine: RedisEngine,
    caller: Caller,
    /// Whether a verb has told Redis of it.
    is_told: AtomicBool,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({})", self.caller.id)
    }
}

impl Request {
    /// Tells Redis of it by a verb.
    async fn tell<T>(&self, verb: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        self.is_told.store(true, Ordering::Relaxed);
        let mut telling = Telling {
            request: self,
            is_refused: false,
        };
        let told = verb.await;
        telling.is_refused = told.as_ref().is_err_and(|refusal| {
            use Refusal::{MissingToken, UnknownPeer, WrongToken};
            matches!(refusal, UnknownPeer | WrongToken | MissingToken)
        });
        told
    }

    /// The connection of this request is that of its peer from now on.
    fn moves(&self) {
        let link = link_of(&self.caller);
        for here in self.engine.list.open_of(self.caller.id) {
            here.uses_link(link);
        }
    }

    fn uses_link(&self) {
        let number = Arc::as_ptr(&self.engine.list).addr();
        self.caller.uses_link(number, || {
            // An idle connection does not keep the list of a room.
            let list = self.engine.to_find_list_again();
            move |id, link| {
                if let Some(list) = list() {
                    list.link_is_over(id, link);
                }
            }
        });
    }
}

#[async_trait]
impl OpenRequest for Request {
    async fn wait(&self, opts: WaitOpts) -> Result<Delivery, Refusal> {
        self.tell(wait(&self.engine.list, &self.caller, opts)).await
    }

    async fn send(&self, to: PeerId, body: Bytes, opts: SendOpts) -> Result<(), Refusal> {
        self.moves();
        let sending = self
            .engine
            .send_as(&self.caller, to, body, opts.number, true, PATIENCE);
        let sent = self.tell(sending).await;
        self.engine.list.node.counts.sent(&sent);
        sent
    }

    async fn heartbeat(&self) -> Result<(), Refusal> {
        self.moves();
        self.tell(self.engine.heartbeat(&self.caller)).await
    }

    async fn set_capacity(&self, capacity: u64) -> Result<(), Refusal> {
        self.moves();
        let Caller { id, lingers, .. } = self.caller;
        let (token, link) = (&self.caller.proof, link_of(&self.caller));
        let set = verbs::set_capacity(id, token, link, lingers, capacity);
        self.tell(self.engine.list.run(set, Some(PATIENCE))).await
    }

    async fn seen(&self) -> Result<(), Refusal> {
        self.moves();
        let Caller { id, lingers, .. } = self.caller;
        let (token, link) = (&self.caller.proof, link_of(&self.caller));
        let seen = verbs::seen(id, token, link, lingers);
        self.tell(self.engine.list.run(seen, Some(READY_PATIENCE)))
            .await
    }

    async fn ice_servers(&self) -> Result<Option<Arc<str>>, Refusal> {
        self.moves();
        let Caller { id, lingers, .. } = self.caller;
        let (token, link) = (&self.caller.proof, link_of(&self.caller));
        let asked = verbs::ice_servers(id, token, link, lingers);
        let Kept(ice_servers) = self
            .tell(self.engine.list.run(asked, Some(READY_PATIENCE)))
            .await?;
        Ok(ice_servers)
    }

    /// Tells Redis of a sign-in, if no verb has.
    fn answered(self: Box<Self>) {
        if self.is_told.load(Ordering::Relaxed) {
            return;
        }
        self.uses_link();
        let Caller { id, lingers, .. } = self.caller;
        let signed_in = verbs::signed_in(id, link_of(&self.caller), lingers);
        self.engine.list.later(signed_in, Some(LONG_PATIENCE));
    }
}

/// A request that Redis is being told of. Unless it is refused, Redis then has its link,
/// or may have it, also if this is dropped before the answer.
struct Telling<'a> {
    request: &'a Request,
    is_refused: bool,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if !self.is_refused {
            self.request.uses_link();
        }
    }
}

/// An attempt to open a socket. If it is dropped while it has its name, its outcome is
/// not known, and what it may have opened is closed.
struct Opening<'a> {
    engine: &'a RedisEngine,
    id: PeerId,
    name: Option<String>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            let drop_socket = verbs::drop_socket(self.id, &name);
            // After a longer outage the node denies what it has not open.
            self.engine.list.later(drop_socket, Some(LONG_PATIENCE));
        }
    }
}

/// The open socket of a peer at this node.
struct Socket {
    looking: Looking,
    /// Keeps it open at this node.
    _open: Registered,
    session: u64,
    /// Why the socket is closed.
    reason: Reason,
    /// Whether Redis knows that it is closed.
    has_left: bool,
    /// Counts it.
    _counted: One,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.looking.id)
    }
}

impl Socket {
    async fn open(engine: &RedisEngine, id: PeerId, opts: SocketOpts) -> Result<Self, Refusal> {
        engine.list.ask_next_time(id);
        let (here, open) = engine.list.open(id);
        let looking = Looking {
            list: engine.list.clone(),
            here,
            id,
        };
        let name = op();
        let ask = verbs::open_socket(&name, id, opts.resumes, opts.acknowledged);
        let mut opening = Opening {
            engine,
            id,
            name: Some(name),
        };
        let OpenedSocket { session, heard } = engine.list.run_in_time(ask, PATIENCE).await?;
        opening.name = None;
        looking.here.set_session(session);
        looking.here.set_heard(heard);
        Ok(Self {
            looking,
            _open: open,
            session,
            reason: Reason::Closed,
            has_left: false,
            _counted: engine.list.node.counts.sockets.one(),
        })
    }
}

#[async_trait]
impl OpenSocket for Socket {
    async fn wait(&self) -> Delivery {
        let Looking { list, here, .. } = &self.looking;
        let lease = format!("s{}", self.session);
        loop {
            if let Some(reason) = here.removed() {
                return Delivery::last(News::Removed(reason));
            }
            let news = here.news.notified();
            here.handed_over().await;
            match self.looking.look(&lease, 0).await {
                Found::Lent(news, number, hears) => {
                    return self.looking.lend(&lease, news, number, hears);
                }
                Found::Removed(reason) => return Delivery::last(News::Removed(reason)),
                Found::Outdated => return Delivery::last(News::Replaced),
                Found::Later(left) => {
                    let _ = timeout(left, news).await;
                    continue;
                }
                Found::Nothing => {}
            }
            if list.is_ending() {
                return Delivery::last(News::Nothing("".into()));
            }
            news.await;
        }
    }

    fn holds(&self, _: Arc<Held>) {
        // The mailbox is in Redis, and bounded there.
    }

    fn reads(&self) {}

    async fn ended(&self) {
        let Looking { list, here, .. } = &self.looking;
        loop {
            let end = here.end.notified();
            if here.removed().is_some() || here.is_replaced() || list.is_ending() {
                return;
            }
            end.await;
        }
    }

    async fn leave(mut self: Box<Self>, reason: Reason) {
        self.reason = reason;
        let Looking { list, id, .. } = &self.looking;
        let close = verbs::close_socket(*id, self.session, reason);
        if let Ok(ClosedSocket(removed)) = list.run(close, Some(PATIENCE)).await {
            self.has_left = true;
            if let Some(removed) = removed {
                removed.note(&list.node.counts);
            }
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.has_left {
            let close = verbs::close_socket(self.looking.id, self.session, self.reason);
            self.looking.list.later(close, None);
        }
    }
}
