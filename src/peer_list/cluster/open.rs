//! What of a peer is open at this node: a request, or its socket.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::timeout;

use super::{
    ClusterList, PATIENCE, flag, link_arg, log_one_removed, op,
    waiting::{Found, Looking, wait},
};
use crate::peer_list::{
    Caller, Delivery, News, PeerError, PeerId, Place, Reason, SendError, TimeoutPeerList,
};

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

    /// Tells Redis of it by a verb.
    async fn tell<T, E>(
        &self,
        verb: impl Future<Output = Result<T, E>>,
        is_refusal: fn(&E) -> bool,
    ) -> Result<T, E> {
        self.is_told.store(true, Ordering::Relaxed);
        let mut telling = Telling {
            request: self,
            is_refused: false,
        };
        let told = verb.await;
        telling.is_refused = told.as_ref().is_err_and(is_refusal);
        told
    }

    fn uses_link(&self) {
        let list = TimeoutPeerList(Place::Cluster(self.list.clone()));
        self.caller.uses_link(&list);
    }

    pub async fn wait(
        &self,
        acknowledged: Option<u64>,
        limit: Option<Duration>,
    ) -> Result<Delivery, PeerError> {
        let waiting = wait(&self.list.0, &self.caller, acknowledged, limit);
        self.tell(waiting, is_refusal).await
    }

    pub async fn send(
        &self,
        to: PeerId,
        body: Bytes,
        number: Option<u64>,
    ) -> Result<(), SendError> {
        let list = &self.list;
        let sending = list.send_as(&self.caller, to, body, number, true, PATIENCE);
        self.tell(sending, |error| {
            use SendError::{MissingToken, UnknownSender, WrongToken};
            matches!(error, WrongToken | MissingToken | UnknownSender)
        })
        .await
    }

    pub async fn heartbeat(&self) -> Result<(), PeerError> {
        self.tell(self.list.heartbeat(&self.caller), is_refusal)
            .await
    }

    pub async fn set_capacity(&self, capacity: u64) -> Result<(), PeerError> {
        self.tell(self.list.set_capacity(&self.caller, capacity), is_refusal)
            .await
    }

    pub async fn seen(&self) -> Result<(), PeerError> {
        self.tell(self.list.seen(&self.caller), is_refusal).await
    }

    /// A sign-in, if no verb has told of it.
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

/// A request that Redis is being told of. Unless it was refused, Redis has its
/// link then, or may have it: also when it is dropped before there is an answer.
struct Telling<'a> {
    request: &'a OpenRequest,
    is_refused: bool,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if !self.is_refused {
            self.request.uses_link();
        }
    }
}

fn is_refusal(error: &PeerError) -> bool {
    !matches!(error, PeerError::Unavailable)
}

/// An attempt to open a socket. If it is dropped while it has its name, nobody
/// knows whether it has succeeded, and what it has opened is closed.
struct Opening<'a> {
    list: &'a ClusterList,
    id: PeerId,
    name: Option<String>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name.take() {
            self.list.0.later("drop_socket", |verb| {
                verb.arg(self.id.get()).arg(name);
            });
        }
    }
}

/// The socket of a peer that is open at this node.
pub(in crate::peer_list) struct OpenSocket {
    looking: Looking,
    session: u64,
    /// Why it is closed.
    reason: Reason,
    /// Redis knows that it is closed.
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
        let mut opening = Opening {
            list,
            id,
            name: Some(op()),
        };
        let name = opening.name.clone();
        let row = list.0.run_in_time("open_socket", PATIENCE, |verb| {
            verb.arg(&name).arg(id.get()).arg(flag(resumes))
        });
        let (kind, mut row) = row.await?;
        match kind.as_str() {
            "ok" => {}
            "unknown" => return Err(PeerError::Unknown),
            _ => return Err(PeerError::Unavailable),
        }
        let session = row.number().ok_or(PeerError::Unavailable)?;
        opening.name = None;
        looking.here.set_session(session);
        looking.here.set_heard(row.number());
        Ok(Self {
            looking,
            session,
            reason: Reason::Closed,
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
            if node.is_ending() {
                return Delivery::last(News::Nothing("".into()));
            }
            news.await;
        }
    }

    pub async fn ended(&self) {
        let Looking { node, here, .. } = &self.looking;
        loop {
            let end = here.end.notified();
            if here.removed().is_some() || here.is_replaced() || node.is_ending() {
                return;
            }
            end.await;
        }
    }

    pub async fn leave(mut self, reason: Reason) {
        self.reason = reason;
        let Looking { node, id, .. } = &self.looking;
        let row = node.run("close_socket", Some(PATIENCE), |verb| {
            verb.arg(id.get()).arg(self.session).arg(reason.to_string())
        });
        if let Ok(mut row) = row.await {
            self.has_left = true;
            if let Some(removed) = row.row() {
                log_one_removed(removed);
            }
        }
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        if !self.has_left {
            self.looking.node.later("close_socket", |verb| {
                verb.arg(self.looking.id.get())
                    .arg(self.session)
                    .arg(self.reason.to_string());
            });
        }
    }
}
