//! A connection to Redis that can be replaced.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{
    Client, Cmd, RedisResult, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    retry::{self, late},
    source::Source,
};

/// How often the connections are checked.
pub(super) const WATCH_PERIOD: Duration = Duration::from_millis(250);

/// A connection with an open question and no answer for this long may lead to a Redis
/// that hangs.
const SUSPICION: Duration = Duration::from_millis(1000);

/// While calls fail, it is asked this often where the primary is.
const ASK_PAUSE: Duration = Duration::from_millis(250);

/// A Redis that works answers a new connection within this time.
const PROBE_PATIENCE: Duration = Duration::from_millis(1000);

/// A connection that can be replaced. The redis crate reconnects after a cut, but stays
/// for ever with a connection that is refused when it reconnects (a password that is
/// wrong for a moment), or whose Redis hangs (a stalled machine) while another Redis has
/// taken over its address.
pub(super) struct Connection {
    source: Arc<Source>,
    /// A key of the shard, which says where in a cluster the shard is.
    key: String,
    config: ConnectionManagerConfig,
    current: Mutex<Arc<Wire>>,
    /// When it was last asked where the primary is, because of an error.
    asked: Mutex<Instant>,
}

/// A connection, and the time of its last answer that was believed.
pub(super) struct Wire {
    pub connection: ConnectionManager,
    /// Where it leads.
    address: String,
    made: Instant,
    heard: Mutex<Instant>,
    /// Whether an answer was believed.
    is_believed: AtomicBool,
    /// Locked while it is asked whether its server is still the primary.
    doubted: tokio::sync::Mutex<()>,
    /// Cancelled when another connection has taken its place: open questions are asked
    /// there.
    replaced: CancellationToken,
}

impl Wire {
    fn new(connection: ConnectionManager, address: String) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            connection,
            address,
            made: now,
            heard: Mutex::new(now),
            is_believed: AtomicBool::new(false),
            doubted: tokio::sync::Mutex::default(),
            replaced: CancellationToken::new(),
        })
    }

    /// Asks on this connection until it is replaced.
    async fn ask(&self, call: &Cmd) -> RedisResult<Value> {
        let mut connection = self.connection.clone();
        tokio::select! {
            biased;
            () = self.replaced.cancelled() => Err(late()),
            // An error within an answer is that of one of several calls.
            answer = connection.send_packed_command(call) => answer.and_then(whole),
        }
    }

    /// Whether its next answer may be that of a server that hung, or whose connection was made
    /// before that.
    fn is_doubtful(&self) -> bool {
        !self.is_believed.load(Ordering::Relaxed) || !self.has_answered()
    }

    /// Whether it has answered recently.
    fn has_answered(&self) -> bool {
        self.heard.lock().elapsed() < SUSPICION
    }
}

/// What a check of a connection has found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    Answers,
    Silent,
    /// It was replaced.
    Replaced,
}

impl Connection {
    pub async fn connect(
        source: Arc<Source>,
        key: &str,
        config: ConnectionManagerConfig,
    ) -> RedisResult<Self> {
        let client = source.client(key).await?;
        let address = address_of(&client);
        let connection = ConnectionManager::new_with_config(client, config.clone()).await?;
        Ok(Self {
            source,
            key: key.to_owned(),
            config,
            current: Mutex::new(Wire::new(connection, address)),
            asked: Mutex::new(Instant::now()),
        })
    }

    pub fn wire(&self) -> Arc<Wire> {
        self.current.lock().clone()
    }

    /// Asks the primary.
    pub async fn ask(&self, call: &Cmd) -> RedisResult<Value> {
        let wire = self.wire();
        let answer = wire.ask(call).await?;
        self.believe(&wire).await?;
        Ok(answer)
    }

    /// Believes an answer, unless the server has hung, and another has taken over meanwhile: then
    /// the connection is replaced.
    async fn believe(&self, wire: &Arc<Wire>) -> RedisResult<()> {
        if self.source.may_move() && wire.is_doubtful() {
            // One asks for all.
            let _alone = wire.doubted.lock().await;
            if wire.is_doubtful()
                && !wire.replaced.is_cancelled()
                && let Ok(client) = self.source.client(&self.key).await
                && wire.address != address_of(&client)
            {
                self.replace(wire, client);
            }
            if wire.replaced.is_cancelled() {
                return Err(late());
            }
        }
        *wire.heard.lock() = Instant::now();
        wire.is_believed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Replaces this connection by a new one to where the primary is now. One to the same
    /// address is kept for a while.
    pub async fn renew(&self, wire: &Arc<Wire>) {
        {
            let mut asked = self.asked.lock();
            if asked.elapsed() < ASK_PAUSE {
                return;
            }
            *asked = Instant::now();
        }
        if let Ok(client) = self.source.client(&self.key).await
            && (wire.made.elapsed() >= retry::LONGEST_PAUSE || wire.address != address_of(&client))
        {
            self.replace(wire, client);
        }
    }

    /// Replaces this connection if the primary is at another address. Returns whether it was
    /// replaced.
    pub async fn follow(&self) -> RedisResult<bool> {
        let wire = self.wire();
        let client = self.source.client(&self.key).await?;
        let is_moved = wire.address != address_of(&client);
        if is_moved {
            self.replace(&wire, client);
        }
        Ok(is_moved)
    }

    /// Rises when the primary may have moved.
    pub fn switches(&self) -> u64 {
        self.source.switches()
    }

    /// Replaces this connection, if no other task has.
    fn replace(&self, wire: &Arc<Wire>, client: Client) {
        let mut current = self.current.lock();
        if !Arc::ptr_eq(&current, wire) {
            return;
        }
        let address = address_of(&client);
        let made = ConnectionManager::new_lazy_with_config(client, self.config.clone());
        if let Ok(connection) = made {
            *current = Wire::new(connection, address);
            wire.replaced.cancel();
        }
    }

    /// A client of the primary, if that answers on a new connection.
    async fn answering(&self) -> RedisResult<Client> {
        let client = self.source.client(&self.key).await?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").exec_async(&mut connection).await?;
        Ok(client)
    }

    /// Checks the connection by this question, and replaces it if it does not answer and a
    /// new one does.
    pub async fn watch(&self, question: &Cmd) -> Watched {
        let wire = self.wire();
        match timeout(WATCH_PERIOD, wire.ask(question)).await {
            Ok(Ok(_)) => {
                return match self.believe(&wire).await {
                    Ok(()) => Watched::Answers,
                    Err(_) => Watched::Replaced,
                };
            }
            // A cut connection, which the crate makes again, to the same address.
            Ok(Err(_)) if !self.source.may_move() => return Watched::Silent,
            _ if wire.has_answered() => return Watched::Silent,
            _ => {}
        }
        let Ok(Ok(client)) = timeout(PROBE_PATIENCE, self.answering()).await else {
            return Watched::Silent;
        };
        // The old connection may only have been slow.
        if wire.has_answered() {
            return Watched::Silent;
        }
        self.replace(&wire, client);
        match Arc::ptr_eq(&wire, &self.wire()) {
            true => Watched::Silent,
            false => Watched::Replaced,
        }
    }
}

/// An answer, unless it is an error as a whole.
pub(super) fn whole(answer: Value) -> RedisResult<Value> {
    match answer {
        Value::ServerError(error) => Err(error.into()),
        answer => Ok(answer),
    }
}

fn address_of(client: &Client) -> String {
    client.get_connection_info().addr().to_string()
}
