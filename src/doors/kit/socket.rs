//! How a client comes in by a WebSocket as a peer that its door lists later, or never.

use axum::{extract::Request, http::Method, response::Response};
use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};
use tungstenite::protocol::frame::coding::CloseCode;

use super::{
    Coming, Gate, RequestError, SignalOpts,
    closing::{Closing, UNAVAILABLE},
    list_of, only,
    push::{PushPeer, ping_interval},
    talk::{Life, Lost, Talk, WebSocket},
    upgrade::{self, Upgrade},
};
use crate::{
    access::Admitted,
    peer_list::{Added, Delivery, News, Refusal, SocketOpts, TimeoutPeerList, Unlisted},
};

/// A door whose clients come in so.
#[derive(Clone)]
pub(crate) struct SocketDoor {
    pub peer_list: TimeoutPeerList,
    pub gate: Gate,
    pub max_message_bytes: usize,
}

/// What a client shows of itself, besides its request.
#[derive(Default)]
pub(crate) struct Shown {
    pub name: Option<String>,
    /// Used as its access token, if its request has none.
    pub token: Option<String>,
}

/// A socket that has been opened.
pub(crate) struct Opened {
    /// The list of its room.
    pub list: TimeoutPeerList,
    pub admitted: Admitted,
    pub socket: WebSocket,
}

impl SocketDoor {
    pub fn new(peer_list: TimeoutPeerList, opts: &SignalOpts, door: &'static str) -> Self {
        Self {
            peer_list,
            gate: Gate::new(opts, door),
            max_message_bytes: opts.max_message_bytes,
        }
    }

    /// Opens a socket, if its client may come in, and then serves it.
    pub async fn open<F>(
        &self,
        mut request: Request,
        shown: Shown,
        serve: impl FnOnce(Opened) -> F + Send + 'static,
    ) -> Result<Response, RequestError>
    where
        F: Future<Output = ()> + Send,
    {
        only(&[Method::GET], &request)?;
        if !upgrade::is_asked_for(request.headers()) {
            return Err(RequestError::OnlyWebSockets);
        }
        let list = list_of(&request, &self.peer_list);
        let upgrade = Upgrade::of(&mut request)?;
        let mut coming = Coming::of(&request, &list, shown.name.as_deref());
        if !coming.shows_token() {
            coming.token = shown.token.as_deref();
        }
        let admitted = self.gate.enter(coming).await?;
        let limit = self.max_message_bytes;
        Ok(upgrade.accept(move |stream| {
            let socket = WebSocket::new(stream, limit, list.buffered().clone());
            serve(Opened {
                list,
                admitted,
                socket,
            })
        }))
    }
}

impl Opened {
    /// The peer of a door with no way back comes in. None: it may not, and its socket is closed.
    pub async fn come_in(&mut self, door: &'static str) -> Option<PushPeer> {
        let unlisted = Unlisted {
            key: None,
            door,
            channels: &[],
            identity: self.admitted.identity(),
        };
        match come_in(&self.list, unlisted, SocketOpts::default()).await {
            Ok((peer, _)) => Some(peer),
            Err(refusal) => {
                let (code, reason) = why_not(refusal);
                self.socket.close(code, reason).await;
                None
            }
        }
    }
}

/// The peer comes in, or comes back by its key, and its socket is open.
pub(crate) async fn come_in(
    list: &TimeoutPeerList,
    unlisted: Unlisted<'_>,
    opts: SocketOpts,
) -> Result<(PushPeer, Added), Refusal> {
    let added = list.add_unlisted(unlisted).await?;
    let peer = PushPeer::new(list, added.id, opts).await?;
    Ok((peer, added))
}

/// How a socket is closed whose client may not come in.
pub(crate) fn why_not(refusal: Refusal) -> (CloseCode, &'static str) {
    match refusal {
        Refusal::Full | Refusal::OutOfMemory => (CloseCode::Again, "the server is full"),
        Refusal::RoomFull => (CloseCode::Again, "the room is full"),
        Refusal::NetworkFull => (CloseCode::Again, "too many peers of this address"),
        _ => UNAVAILABLE,
    }
}

impl WebSocket {
    /// Reads and writes until either side ends it. Its client is there as long as it answers pings.
    pub async fn talk_with_pings<T: Talk>(&mut self, peer: &PushPeer, talk: &T) -> T::End {
        let life = Life {
            ping_interval: Some(ping_interval(&peer.list)),
            patience: peer.list.opts().timeout_period,
        };
        self.talk(talk, life).await
    }

    /// Closes the socket of a peer, which stays or goes as `closing` says.
    pub async fn end(&mut self, peer: PushPeer, closing: Closing) {
        peer.leave(closing.end).await;
        self.close(closing.code, closing.reason).await;
    }
}

/// What a door makes of frames and news. The rest of the conversation is the same for all.
pub(crate) trait Translate: Sync {
    /// Whether the peer came in by a key. Its mailbox keeps what is not acknowledged, and the client
    /// acknowledges nothing: what is written counts as processed.
    const HAS_KEY: bool = false;

    fn peer(&self) -> &PushPeer;

    /// What its client is told besides news, and before them.
    fn answers(&self) -> &Answers;

    /// The client says something. Nothing more is read until this is done.
    fn hear(&self, frame: Bytes) -> impl Future<Output = Result<(), Closing>> + Send;

    /// The frame with these news, if the client is told of them: by default what is published,
    /// as it is.
    fn frame(&self, delivery: &Delivery) -> Option<Bytes> {
        match delivery.news() {
            News::Published(frame) => Some(frame.clone()),
            _ => None,
        }
    }
}

impl<T: Translate> Talk for T {
    type End = Closing;
    type Receipt = Option<Delivery>;

    async fn receive(&self, frame: Bytes, _: bool) -> Result<(), Closing> {
        self.hear(frame).await
    }

    async fn next(&self) -> Result<(Vec<Bytes>, Option<Delivery>), Closing> {
        loop {
            tokio::select! {
                biased;
                Some(frame) = self.answers().next() => return Ok((vec![frame], None)),
                delivery = self.peer().news() => {
                    let delivery = delivery?;
                    match self.frame(&delivery) {
                        Some(frame) => return Ok((vec![frame], Some(delivery))),
                        None => self.written(Some(delivery)).await,
                    }
                }
            }
        }
    }

    async fn written(&self, delivery: Option<Delivery>) {
        let Some(delivery) = delivery else { return };
        let number = delivery.number();
        delivery.done();
        if T::HAS_KEY {
            let peer = self.peer();
            peer.list.acknowledge(peer.id, number).await;
        }
    }

    fn reads(&self) {
        self.peer().reads();
    }

    async fn ended(&self) -> Closing {
        self.peer().ended().await.into()
    }

    fn lost(&self, why: Lost) -> Closing {
        lost(self.peer(), why)
    }
}

/// The connection to the client of a peer is lost.
pub(crate) fn lost(peer: &PushPeer, why: Lost) -> Closing {
    if let Lost::Unreadable(unreadable) = why
        && let Some(why) = unreadable.unread()
    {
        peer.list.counts().unread(why);
    }
    why.into()
}

/// How many answers of the server itself may wait to be sent.
const UNTOLD: usize = 16;

/// What a client is told besides its news: frames, or how to make them.
pub(crate) struct Answers<T = Bytes> {
    told: mpsc::Sender<T>,
    untold: Mutex<mpsc::Receiver<T>>,
}

impl<T> Answers<T> {
    pub fn new() -> Self {
        let (told, untold) = mpsc::channel(UNTOLD);
        let untold = Mutex::new(untold);
        Self { told, untold }
    }

    /// Waits until there is room for it: the client may read slowly.
    pub async fn tell(&self, answer: T) {
        // The other end is in `self`.
        let _ = self.told.send(answer).await;
    }

    /// Drops what there is no room for.
    pub fn tell_if_read(&self, answer: T) {
        let _ = self.told.try_send(answer);
    }

    /// The client is told this first.
    pub fn beginning_with(answer: T) -> Self {
        let answers = Self::new();
        answers.tell_if_read(answer);
        answers
    }

    /// The next one.
    pub async fn next(&self) -> Option<T> {
        self.untold.lock().await.recv().await
    }
}
