//! The link of this process to Redis: it tries verbs until they are carried out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{
    Client, Cmd, RedisResult, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    explain::explain,
    library::{Library, is_unknown_function},
    retry,
    row::{Answer, Row},
    source::Source,
    verbs::{Call, TimedCall, Words},
};
use crate::peer_list::Refusal;

/// Of the time for which a verb is tried, Redis may begin to carry it out within this
/// part.
const DONE_BY: f64 = 0.8;

/// The log says at most this often that Redis is out of memory.
const FULL_PAUSE: Duration = Duration::from_secs(60);

/// How often the connections are checked.
pub(super) const WATCH_PERIOD: Duration = Duration::from_millis(250);

/// A connection with an open question and no answer for this long may lead to a Redis
/// that hangs.
const SUSPICION: Duration = Duration::from_millis(1000);

/// A Redis that works answers a new connection within this time.
const PROBE_PATIENCE: Duration = Duration::from_millis(500);

/// What a process has once, however many lists it has in Redis: the connections, the
/// script, its node name, and the clock of Redis.
pub(super) struct ProcessLink {
    pub library: Library,
    /// What all keys begin with.
    pub prefix: String,
    /// The name of this node.
    pub node: String,
    /// The connection for commands.
    pub commands: Connection,
    /// The connection for the subscription.
    pub subscription: Connection,
    /// The channels that it subscribes to.
    pub channels: [String; 2],
    /// The health of Redis, as the log has reported it.
    pub health: Health,
    /// Redis' time in ms when this process began. 0: not known yet.
    pub clock: AtomicU64,
    pub start: Instant,
}

/// A connection that can be replaced. The redis crate reconnects after a cut, but stays
/// for ever with a connection that is refused when it reconnects (a password that is
/// wrong for a moment), or whose Redis hangs (a stalled machine) while another Redis has
/// taken over its address.
pub(super) struct Connection {
    source: Arc<Source>,
    config: ConnectionManagerConfig,
    current: Mutex<Arc<Wire>>,
}

/// A connection, and the time of its last answer.
pub(super) struct Wire {
    pub connection: ConnectionManager,
    made: Instant,
    heard: Mutex<Instant>,
    /// Cancelled when another connection has taken its place: open questions are asked
    /// there.
    replaced: CancellationToken,
}

impl Wire {
    fn new(connection: ConnectionManager) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            connection,
            made: now,
            heard: Mutex::new(now),
            replaced: CancellationToken::new(),
        })
    }

    /// Asks on this connection until it is replaced.
    async fn ask(&self, call: &Cmd) -> RedisResult<Value> {
        let mut connection = self.connection.clone();
        let answer = tokio::select! {
            answer = call.query_async::<Value>(&mut connection) => answer,
            () = self.replaced.cancelled() => Err(late()),
        };
        if answer.is_ok() {
            *self.heard.lock() = Instant::now();
        }
        answer
    }

    /// Whether it answers now, or has answered recently. `may_move`: the primary may be at
    /// another address.
    async fn lives(&self, may_move: bool) -> bool {
        let answered = timeout(WATCH_PERIOD, self.ask(&redis::cmd("PING"))).await;
        // An error is a cut connection, which the crate makes again, to the same address.
        let lives = answered.is_ok_and(|answer| answer.is_ok() || !may_move);
        lives || self.heard.lock().elapsed() < SUSPICION
    }
}

impl Connection {
    pub async fn connect(
        source: Arc<Source>,
        config: ConnectionManagerConfig,
    ) -> RedisResult<Self> {
        let client = source.client().await?;
        let connection = ConnectionManager::new_with_config(client, config.clone()).await?;
        Ok(Self {
            source,
            config,
            current: Mutex::new(Wire::new(connection)),
        })
    }

    pub fn wire(&self) -> Arc<Wire> {
        self.current.lock().clone()
    }

    /// Replaces this connection by a new one to where the primary is now, unless that was
    /// done just now.
    async fn renew(&self, wire: &Arc<Wire>) {
        if wire.made.elapsed() < retry::LONGEST_PAUSE {
            return;
        }
        if let Ok(client) = self.source.client().await {
            self.replace(wire, client);
        }
    }

    /// Replaces this connection, if no other task has.
    fn replace(&self, wire: &Arc<Wire>, client: Client) {
        let mut current = self.current.lock();
        if !Arc::ptr_eq(&current, wire) {
            return;
        }
        let made = ConnectionManager::new_lazy_with_config(client, self.config.clone());
        if let Ok(connection) = made {
            *current = Wire::new(connection);
            wire.replaced.cancel();
        }
    }

    /// Checks the connection. Returns whether it was replaced.
    async fn watch(&self) -> bool {
        let wire = self.wire();
        if wire.lives(self.source.may_move()).await {
            return false;
        }
        let Ok(Ok(client)) = timeout(PROBE_PATIENCE, answering(&self.source)).await else {
            return false;
        };
        // The old connection may only have been slow.
        if wire.heard.lock().elapsed() < SUSPICION {
            return false;
        }
        self.replace(&wire, client);
        !Arc::ptr_eq(&wire, &self.wire())
    }
}

/// A client of the primary, if that answers on a new connection.
async fn answering(source: &Source) -> RedisResult<Client> {
    let client = source.client().await?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    redis::cmd("PING").exec_async(&mut connection).await?;
    Ok(client)
}

/// What the log has reported about Redis.
#[derive(Default)]
pub(super) struct Health {
    is_away: AtomicBool,
    /// Whether nodes with other settings use the list too.
    pub differ: AtomicBool,
    /// When the log last said that Redis is out of memory.
    full_at: Mutex<Option<Instant>>,
}

impl ProcessLink {
    /// The Redis command for a verb in a room, as the script names it. `end`: the latest time at which the verb may begin,
    /// by the clock of Redis in ms, if it has one.
    fn command(&self, room: &str, words: &Words, end: Option<u64>) -> Cmd {
        let mut command = self.library.call(words.verb);
        command
            .arg(1)
            .arg(&self.prefix)
            .arg(words.verb)
            .arg(&self.node)
            .arg(room);
        if let Some(end) = end {
            command.arg(end);
        }
        command.arg(&words.args);
        command
    }

    /// Checks whether the connections lead to a Redis that works, and replaces them if
    /// another Redis has taken over from one that hangs.
    pub async fn watch(&self) {
        let (renewed, resubscribe) = tokio::join!(self.commands.watch(), self.subscription.watch());
        if renewed || resubscribe {
            warn!("an open connection to Redis gets no answer and a new one does: using a new one");
        }
        if resubscribe {
            // The crate subscribes again after a cut, but this connection is new.
            retry::until_answered(|| self.subscribe()).await;
        }
    }

    /// The address of Redis, without user and password.
    pub fn address(&self) -> String {
        self.commands.source.address()
    }

    /// Subscribes to the channels of this node.
    pub async fn subscribe(&self) -> RedisResult<()> {
        let mut connection = self.subscription.wire().connection.clone();
        for channel in &self.channels {
            connection.subscribe(channel).await?;
        }
        Ok(())
    }

    /// Carries out a verb for all rooms, or for the root list.
    pub async fn run<A: Answer>(
        &self,
        call: Call<A>,
        patience: Option<Duration>,
    ) -> Result<A, Refusal> {
        self.run_in("", call, patience).await
    }

    /// Carries out a verb in a room, as the script names it.
    pub async fn run_in<A: Answer>(
        &self,
        room: &str,
        call: Call<A>,
        patience: Option<Duration>,
    ) -> Result<A, Refusal> {
        A::read(self.carry_out(room, &call.words, None, patience).await?)
    }

    /// Carries out a verb in a room that has to begin within [`DONE_BY`] of `patience`.
    pub async fn run_in_time<A: Answer>(
        &self,
        room: &str,
        TimedCall(call): TimedCall<A>,
        patience: Duration,
    ) -> Result<A, Refusal> {
        let ask = || {
            // Redis begins early enough that its answer still comes in time.
            let end = self.clock_in(patience.mul_f64(DONE_BY));
            self.carry_out(room, &call.words, Some(end), Some(patience))
        };
        let mut row = ask().await?;
        if let Some(now) = row.late_at() {
            // The clock of Redis was set forward.
            self.set_clock(now);
            row = ask().await?;
        }
        A::read(row)
    }

    /// Notes the current time of Redis, in ms.
    pub fn set_clock(&self, now: u64) {
        let since = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0);
        self.clock
            .store(now.saturating_sub(since), Ordering::Relaxed);
    }

    pub fn knows_clock(&self) -> bool {
        self.clock.load(Ordering::Relaxed) > 0
    }

    /// What the time of Redis will be after this time, in ms.
    pub fn clock_in(&self, later: Duration) -> u64 {
        let since = u64::try_from((self.start.elapsed() + later).as_millis()).unwrap_or(0);
        self.clock.load(Ordering::Relaxed) + since
    }

    /// Carries out a verb. `until`: the latest time at which it may begin. `patience`:
    /// how long it is tried while Redis cannot be reached; it may then have been carried
    /// out before. Without `patience` it is tried for ever, also while Redis is out of
    /// memory, because the caller cannot be refused.
    async fn carry_out(
        &self,
        room: &str,
        words: &Words,
        until: Option<u64>,
        patience: Option<Duration>,
    ) -> Result<Row, Refusal> {
        let command = self.command(room, words, until);
        let end = patience.and_then(|patience| Instant::now().checked_add(patience));
        let trying = async {
            let mut pauses = retry::pauses();
            loop {
                let wire = self.commands.wire();
                match wire.ask(&command).await {
                    Ok(value) => {
                        self.health.set_away(None);
                        return Row::of(value);
                    }
                    Err(error) if error.code() == Some("OOM") => {
                        self.health.set_full();
                        // This does not pass soon, and the caller can be refused.
                        if patience.is_some() {
                            return Err(Refusal::Unavailable);
                        }
                    }
                    // This Redis is new, or has lost its memory.
                    Err(error) if is_unknown_function(&error) => {
                        let mut connection = wire.connection.clone();
                        if let Err(error) = self.library.load(&mut connection).await {
                            self.health.set_away(Some(&error));
                        }
                    }
                    Err(error) => {
                        self.health.set_away(Some(&error));
                        // Another Redis may have taken over the address: a new connection
                        // leads to that one.
                        if !error.is_io_error() {
                            self.commands.renew(&wire).await;
                        }
                    }
                }
                sleep(pauses.next().unwrap_or(retry::LONGEST_PAUSE)).await;
            }
        };
        match end {
            None => trying.await,
            Some(end) => match timeout_at(end, trying).await {
                Ok(row) => row,
                Err(_) => {
                    self.health.set_away(Some(&late()));
                    Err(Refusal::Unavailable)
                }
            },
        }
    }
}

impl Health {
    fn set_away(&self, failure: Option<&redis::RedisError>) {
        let is_away = failure.is_some();
        let changed = self.is_away.swap(is_away, Ordering::Relaxed) != is_away;
        match (changed, failure) {
            (true, Some(error)) => {
                let why = explain(error);
                if error.is_io_error() {
                    warn!(why, "Redis cannot be reached: trying again");
                } else {
                    warn!(why, "Redis answers with an error: trying again");
                }
            }
            (true, None) => info!("Redis can be reached again"),
            (false, _) => {}
        }
    }

    fn set_full(&self) {
        let now = Instant::now();
        let mut told = self.full_at.lock();
        if told.is_none_or(|told| now - told >= FULL_PAUSE) {
            *told = Some(now);
            warn!(
                "Redis is out of memory and accepts neither sign-ins nor messages: raise its maxmemory, \
                 or lower WEBRTC_MAX_PENDING_BYTES"
            );
        }
    }
}

fn late() -> redis::RedisError {
    redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))
}
