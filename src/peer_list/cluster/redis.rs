//! The connection to Redis: verbs, tried until they are carried out.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use redis::{
    Client, Cmd, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use super::{
    connect::explain,
    library::{Library, is_unknown_function},
    row::Row,
};
use crate::peer_list::Unavailable;

/// The pause before a failed verb is tried again; it doubles up to the longest.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
pub(super) const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// It is told no more often than this that Redis is out of memory.
const FULL_PAUSE: Duration = Duration::from_secs(60);

pub(super) struct Redis {
    pub library: Library,
    /// What all keys begin with.
    pub prefix: String,
    /// The name of this node.
    pub node: String,
    pub commands: Commands,
    /// Kept for its subscription.
    pub _pushes: ConnectionManager,
    /// As far as the log has told.
    pub health: Health,
}

/// The connection for commands. One that is refused when it is made anew (a
/// password that is wrong for a moment) refuses for ever: then another is made.
pub(super) struct Commands {
    pub client: Client,
    pub config: ConnectionManagerConfig,
    pub current: Mutex<Current>,
}

pub(super) struct Current {
    pub connection: ConnectionManager,
    pub made: Instant,
}

impl Commands {
    fn renew(&self) {
        let mut current = self.current.lock();
        if current.made.elapsed() < LONGEST_RETRY_PAUSE {
            return;
        }
        let made =
            ConnectionManager::new_lazy_with_config(self.client.clone(), self.config.clone());
        if let Ok(connection) = made {
            let made = Instant::now();
            *current = Current { connection, made };
        }
    }
}

/// What the log has told of Redis.
#[derive(Default)]
pub(super) struct Health {
    is_away: AtomicBool,
    /// When it was last told that Redis is out of memory.
    full_at: Mutex<Option<Instant>>,
}

impl Redis {
    /// A verb of the script, to be given its arguments.
    pub fn verb(&self, verb: &str) -> Cmd {
        let mut call = self.library.call(verb);
        call.arg(1).arg(&self.prefix).arg(verb).arg(&self.node);
        call
    }

    pub fn connection(&self) -> ConnectionManager {
        self.commands.current.lock().connection.clone()
    }

    /// Carries a verb out. While Redis cannot be reached it is tried again, for
    /// so long (None: for ever, and while it is out of memory, too: nobody can
    /// be refused); it may then have been carried out before.
    pub async fn run(&self, call: &Cmd, patience: Option<Duration>) -> Result<Row, Unavailable> {
        let end = patience.and_then(|patience| Instant::now().checked_add(patience));
        let trying = async {
            let mut pause = RETRY_PAUSE;
            loop {
                let mut connection = self.connection();
                match call.query_async::<Value>(&mut connection).await {
                    Ok(value) => {
                        self.health.set_away(None);
                        return Row::of(value);
                    }
                    Err(error) if error.code() == Some("OOM") => {
                        self.health.set_full();
                        // That does not pass so soon, and who asked can be told.
                        if patience.is_some() {
                            return Err(Unavailable);
                        }
                    }
                    // New, or without its memory.
                    Err(error) if is_unknown_function(&error) => {
                        if let Err(error) = self.library.load(&mut connection).await {
                            self.health.set_away(Some(&error));
                        }
                    }
                    Err(error) => {
                        self.health.set_away(Some(&error));
                        // If another has taken its place, under the same name, a
                        // new connection is one to that.
                        if !error.is_io_error() {
                            self.commands.renew();
                        }
                    }
                }
                // Not all waits at once.
                sleep(pause.mul_f64(1.0 - 0.5 * fastrand::f64())).await;
                pause = (pause * 2).min(LONGEST_RETRY_PAUSE);
            }
        };
        match end {
            None => trying.await,
            Some(end) => match timeout_at(end, trying).await {
                Ok(row) => row,
                Err(_) => {
                    self.health.set_away(Some(&late()));
                    Err(Unavailable)
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
