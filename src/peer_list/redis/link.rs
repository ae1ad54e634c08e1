//! The link of this process to a shard: it tries verbs until they are carried out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Cmd, RedisResult};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

use super::{
    connection::{Connection, Watched},
    explain::{explain, is_moved, is_moving},
    hearing::{ECHO, Hearing},
    library::{Function, Library, is_light, is_unknown_function},
    queue::CallQueue,
    retry::{self, late},
    row::{Answer, Row},
    verbs::{Call, TimedCall, Words},
};
use crate::{counter::Counter, peer_list::Refusal};

/// Of the time for which a verb is tried, Redis may begin to carry it out within this
/// part.
const DONE_BY: f64 = 0.8;

/// A subscription that works is answered within this time.
const SUBSCRIBE_PATIENCE: Duration = Duration::from_secs(2);

/// The log says at most this often that Redis is out of memory.
const FULL_PAUSE: Duration = Duration::from_secs(60);

/// What a process has once for each shard, however many lists that holds: the connections,
/// the script, its node name, and the clock of Redis.
pub(super) struct ShardLink {
    /// The number of the shard, for the log. None: there is one shard.
    pub number: Option<usize>,
    pub library: Arc<Library>,
    /// What all keys begin with.
    pub prefix: String,
    /// The name of this node.
    pub node: String,
    /// The connection for commands.
    pub commands: Arc<Connection>,
    /// Light verbs that are refused while Redis is out of memory, and the other light ones.
    pub growing: Arc<CallQueue>,
    pub others: Arc<CallQueue>,
    /// The connection for the subscription.
    pub subscription: Connection,
    pub channels: ChannelNames,
    pub hearing: Hearing,
    /// How often it was asked something, how often in vain, and for how long in us.
    pub calls: Counter,
    pub failures: Counter,
    pub time: Counter,
    /// The health of Redis, as the log has reported it.
    pub health: Health,
    /// How often Sentinels had said that the primary has moved, when that was last looked at.
    pub switches: AtomicU64,
    /// Redis' time in ms when this process began. 0: not known yet.
    pub clock: AtomicU64,
    pub start: Instant,
}

/// The channels that a node subscribes to in a shard.
pub(super) struct ChannelNames {
    /// For what all nodes hear.
    pub all: String,
    /// For what this node hears.
    pub own: String,
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

impl ShardLink {
    /// The Redis command for a verb in a room, as the script names it. `end`: the latest time at which the verb may begin,
    /// by the clock of Redis in ms, if it has one.
    fn command(&self, room: &str, words: &Words, end: Option<u64>) -> Cmd {
        let mut command = self.library.call(words.verb, &self.prefix);
        command.arg(words.verb).arg(&self.node).arg(room);
        if let Some(end) = end {
            command.arg(end);
        }
        command.arg(&words.args);
        command
    }

    /// Checks whether the connections lead to a Redis that works, and replaces them if
    /// another Redis has taken over from one that hangs.
    pub async fn watch(&self) {
        let mut echo = redis::cmd("SPUBLISH");
        echo.arg(&self.channels.own).arg(ECHO);
        let ping = redis::cmd("PING");
        let found = tokio::join!(self.commands.watch(&echo), self.subscription.watch(&ping));
        let (commands, subscription) = found;
        if commands == Watched::Replaced || subscription == Watched::Replaced {
            warn!(
                shard = self.number,
                "an open connection to Redis gets no answer and a new one does: using a new one"
            );
        }
        if commands == Watched::Answers {
            self.hearing.sent_echo();
        }
        let switches = self.commands.switches();
        if self.switches.load(Ordering::Relaxed) != switches {
            let followed = tokio::join!(self.commands.follow(), self.subscription.follow());
            if let (Ok(_), Ok(is_moved)) = followed {
                self.switches.store(switches, Ordering::Relaxed);
                if is_moved {
                    self.hearing.set_lost();
                }
            }
        }
        if self.hearing.take_lost() {
            let wire = self.subscription.wire();
            self.subscription.renew(&wire).await;
        } else if subscription != Watched::Replaced {
            return;
        }
        // The crate subscribes again after a cut, but this connection is new.
        let subscribed = timeout(SUBSCRIBE_PATIENCE, self.subscribe()).await;
        if !matches!(subscribed, Ok(Ok(()))) {
            self.hearing.set_lost();
        }
    }

    /// Subscribes to the channels of this node.
    pub async fn subscribe(&self) -> RedisResult<()> {
        let mut connection = self.subscription.wire().connection.clone();
        let ChannelNames { all, own } = &self.channels;
        for channel in [all, own] {
            // The crate has a method for this only for its client of clusters.
            let mut subscribe = redis::cmd("SSUBSCRIBE");
            subscribe.arg(channel).exec_async(&mut connection).await?;
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
        let asking = async || {
            if is_light(words.verb) {
                let queue = match Function::of(words.verb) {
                    Function::Growing => &self.growing,
                    Function::Other => &self.others,
                };
                queue.ask(&self.commands, room, words, until).await
            } else {
                let command = self.command(room, words, until);
                self.commands.ask(&command).await
            }
        };
        let end = patience.and_then(|patience| Instant::now().checked_add(patience));
        let trying = async {
            let mut pauses = retry::pauses();
            loop {
                let wire = self.commands.wire();
                match asking().await {
                    Ok(value) => {
                        self.set_away(None);
                        return Row::of(value);
                    }
                    Err(error) if error.code() == Some("OOM") => {
                        self.set_full();
                        // This does not pass soon, and the caller can be refused.
                        if patience.is_some() {
                            return Err(Refusal::Unavailable);
                        }
                    }
                    // This Redis is new, or has lost its memory.
                    Err(error) if is_unknown_function(&error) => {
                        let mut connection = wire.connection.clone();
                        if let Err(error) = self.library.load(&mut connection).await {
                            self.set_away(Some(&error));
                        }
                    }
                    Err(error) => {
                        // A cluster that moves a shard is no fault.
                        if is_moved(&error) {
                            self.hearing.set_lost();
                        } else {
                            self.set_away(Some(&error));
                        }
                        // Another Redis may have taken over the address, or the shard: a
                        // new connection leads to that one.
                        if !error.is_io_error() && !is_moving(&error) {
                            self.commands.renew(&wire).await;
                        }
                    }
                }
                sleep(pauses.next().unwrap_or(retry::LONGEST_PAUSE)).await;
            }
        };
        let began = Instant::now();
        let answer = match end {
            None => trying.await,
            Some(end) => match timeout_at(end, trying).await {
                Ok(row) => row,
                Err(_) => {
                    self.set_away(Some(&late()));
                    Err(Refusal::Unavailable)
                }
            },
        };
        let time = u64::try_from(began.elapsed().as_micros());
        self.time.add(time.unwrap_or(u64::MAX));
        self.calls.count();
        if answer.is_err() {
            self.failures.count();
        }
        answer
    }
}

impl ShardLink {
    fn set_away(&self, failure: Option<&redis::RedisError>) {
        let is_away = failure.is_some();
        let changed = self.health.is_away.swap(is_away, Ordering::Relaxed) != is_away;
        match (changed, failure) {
            (true, Some(error)) => {
                let (shard, why) = (self.number, explain(error));
                if error.is_io_error() {
                    warn!(shard, why, "Redis cannot be reached: trying again");
                } else {
                    warn!(shard, why, "Redis answers with an error: trying again");
                }
            }
            (true, None) => info!(shard = self.number, "Redis can be reached again"),
            (false, _) => {}
        }
    }

    fn set_full(&self) {
        let now = Instant::now();
        let mut told = self.health.full_at.lock();
        if told.is_none_or(|told| now - told >= FULL_PAUSE) {
            *told = Some(now);
            warn!(
                shard = self.number,
                "Redis is out of memory and accepts neither sign-ins nor messages: raise its maxmemory, \
                 or lower WEBRTC_MAX_PENDING_BYTES"
            );
        }
    }
}
