//! The link of this process to Redis: verbs, tried until they are carried out.

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
    aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Answer,
    explain::explain,
    library::{Library, is_unknown_function},
    retry,
    row::Row,
    split,
    verbs::{Call, TimedCall},
};
use crate::peer_list::Refusal;

/// The part of the time for which a verb is tried in which Redis may begin with it.
const DONE_BY: f64 = 0.8;

/// It is told no more often than this that Redis is out of memory.
const FULL_PAUSE: Duration = Duration::from_secs(60);

/// How often the connections are looked at.
pub(super) const WATCH_PERIOD: Duration = Duration::from_millis(250);

/// A connection on which a question is open and no answer has come for this long may
/// be to a Redis that hangs.
const SUSPICION: Duration = Duration::from_millis(1000);

/// A Redis that lives answers a new connection within this time.
const PROBE_PATIENCE: Duration = Duration::from_millis(500);

/// What a process has once, however many lists it has in Redis: connections, the script,
/// its name, and the clock of Redis.
pub(super) struct Link {
    pub library: Library,
    /// What all keys begin with.
    pub prefix: String,
    /// The name of this node.
    pub node: String,
    /// The connection for commands.
    pub commands: Commands,
    /// The connection for the subscription.
    pub subscription: Commands,
    /// What is subscribed to.
    pub channels: [String; 2],
    /// As far as the log has told.
    pub health: Health,
    /// Redis' time in ms when this process began. 0: not known yet.
    pub clock: AtomicU64,
    pub start: Instant,
}

/// A connection that can be replaced by a new one. The library makes one again when it
/// is cut, but goes on for ever with one that is refused when it is made again (a
/// password that is wrong for a moment), or whose Redis hangs (a stalled machine)
/// while another has taken its place under the same name.
pub(super) struct Commands {
    client: Client,
    config: ConnectionManagerConfig,
    current: Mutex<Arc<Wire>>,
}

/// A connection, and when it was last heard.
pub(super) struct Wire {
    pub connection: ConnectionManager,
    made: Instant,
    heard: Mutex<Instant>,
    /// Another has taken its place: what was asked on it is asked there.
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

    /// Asks on this connection, as long as it is the one.
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

    /// Whether it answers, or has answered something not long ago.
    async fn lives(&self) -> bool {
        let answered = timeout(WATCH_PERIOD, self.ask(&redis::cmd("PING"))).await;
        // An error is a cut connection, which the library makes again.
        answered.is_ok() || self.heard.lock().elapsed() < SUSPICION
    }
}

impl Commands {
    pub async fn connect(client: Client, config: ConnectionManagerConfig) -> RedisResult<Self> {
        let connection = ConnectionManager::new_with_config(client.clone(), config.clone()).await?;
        Ok(Self {
            client,
            config,
            current: Mutex::new(Wire::new(connection)),
        })
    }

    pub fn wire(&self) -> Arc<Wire> {
        self.current.lock().clone()
    }

    /// Makes a new connection in place of this one, unless that was done just now.
    fn renew(&self, wire: &Arc<Wire>) {
        let mut current = self.current.lock();
        if !Arc::ptr_eq(&current, wire) || wire.made.elapsed() < retry::LONGEST_PAUSE {
            return;
        }
        let made =
            ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone());
        if let Ok(connection) = made {
            *current = Wire::new(connection);
            wire.replaced.cancel();
        }
    }

    /// Whether a new connection is answered.
    async fn is_answered_anew(&self) -> bool {
        let asking = async {
            let mut connection = self.client.get_multiplexed_async_connection().await?;
            connection.req_packed_command(&redis::cmd("PING")).await
        };
        matches!(timeout(PROBE_PATIENCE, asking).await, Ok(Ok(_)))
    }

    /// Looks at the connection. Returns whether another has taken its place.
    async fn watch(&self) -> bool {
        let wire = self.wire();
        if wire.lives().await || !self.is_answered_anew().await {
            return false;
        }
        // It may only have been slow.
        if wire.heard.lock().elapsed() < SUSPICION {
            return false;
        }
        self.renew(&wire);
        !Arc::ptr_eq(&wire, &self.wire())
    }
}

/// What the log has told of Redis.
#[derive(Default)]
pub(super) struct Health {
    is_away: AtomicBool,
    /// When it was last told that Redis is out of memory.
    full_at: Mutex<Option<Instant>>,
}

impl Link {
    /// A verb of the script, as Redis is asked for it. `end`: until when it may be carried
    /// out, by the clock of Redis in ms, if it has such a time.
    fn command(&self, call: &Call, end: Option<u64>) -> Cmd {
        let mut command = self.library.call(call.verb);
        command
            .arg(1)
            .arg(&self.prefix)
            .arg(call.verb)
            .arg(&self.node);
        if let Some(end) = end {
            command.arg(end);
        }
        command.arg(&call.args);
        command
    }

    /// Looks whether the connections are to a Redis that lives, and makes new ones
    /// where one that lives has taken the place of one that hangs.
    pub async fn watch(&self) {
        let (renewed, resubscribe) = tokio::join!(self.commands.watch(), self.subscription.watch());
        if renewed || resubscribe {
            warn!("Redis hangs, and another has its address: connecting to that");
        }
        if resubscribe {
            // The library subscribes again after a cut, but this one is new.
            retry::until_answered(|| self.subscribe()).await;
        }
    }

    /// Subscribes to what concerns this node.
    pub async fn subscribe(&self) -> RedisResult<()> {
        let mut connection = self.subscription.wire().connection.clone();
        for channel in &self.channels {
            connection.subscribe(channel).await?;
        }
        Ok(())
    }

    /// Carries a verb out.
    pub async fn run(&self, call: Call, patience: Option<Duration>) -> Result<Row, Refusal> {
        self.carry_out(&call, None, patience).await
    }

    /// The same for one that is not to be done later than that. Returns the answer's first
    /// word, and the rest.
    pub async fn run_in_time(&self, TimedCall(call): TimedCall, patience: Duration) -> Answer {
        let ask = || {
            // What Redis does at the last moment is still answered in time.
            let end = self.clock_in(patience.mul_f64(DONE_BY));
            self.carry_out(&call, Some(end), Some(patience))
        };
        let (kind, mut row) = split(ask().await)?;
        if kind == "late"
            && let Some(now) = row.number()
        {
            // The clock of Redis was set forward.
            self.set_clock(now);
            return split(ask().await);
        }
        Ok((kind, row))
    }

    /// Carries a verb out that nobody waits for.
    pub fn later(self: &Arc<Self>, call: Call) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let link = self.clone();
        runtime.spawn(async move {
            let _ = link.run(call, None).await;
        });
    }

    /// Redis' time is this, in ms.
    pub fn set_clock(&self, now: u64) {
        let since = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0);
        self.clock
            .store(now.saturating_sub(since), Ordering::Relaxed);
    }

    pub fn knows_clock(&self) -> bool {
        self.clock.load(Ordering::Relaxed) > 0
    }

    /// What Redis' time will be by then, in ms.
    pub fn clock_in(&self, later: Duration) -> u64 {
        let since = u64::try_from((self.start.elapsed() + later).as_millis()).unwrap_or(0);
        self.clock.load(Ordering::Relaxed) + since
    }

    /// Carries a verb out, `until` then if that is given. While Redis cannot be reached it is tried again, for
    /// so long (None: for ever, and while it is out of memory, too: nobody can
    /// be refused); it may then have been carried out before.
    async fn carry_out(
        &self,
        call: &Call,
        until: Option<u64>,
        patience: Option<Duration>,
    ) -> Result<Row, Refusal> {
        let command = self.command(call, until);
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
                        // That does not pass so soon, and who asked can be told.
                        if patience.is_some() {
                            return Err(Refusal::Unavailable);
                        }
                    }
                    // New, or without its memory.
                    Err(error) if is_unknown_function(&error) => {
                        let mut connection = wire.connection.clone();
                        if let Err(error) = self.library.load(&mut connection).await {
                            self.health.set_away(Some(&error));
                        }
                    }
                    Err(error) => {
                        self.health.set_away(Some(&error));
                        // If another has taken its place, under the same name, a
                        // new connection is one to that.
                        if !error.is_io_error() {
                            self.commands.renew(&wire);
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
                    warn!(why, "Redis refuses what it is asked for: trying again");
                }
            }
            (true, None) => info!("Redis is reached again"),
            (false, _) => {}
        }
    }

    fn set_full(&self) {
        let now = Instant::now();
        let mut told = self.full_at.lock();
        if told.is_none_or(|told| now - told >= FULL_PAUSE) {
            *told = Some(now);
            warn!(
                "Redis is out of memory and takes no sign-ins nor messages: raise its maxmemory, \
                 or lower WEBRTC_MAX_PENDING_BYTES"
            );
        }
    }
}

fn late() -> redis::RedisError {
    redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))
}
