//! The connection to Redis: the script's verbs, and what Redis pushes.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{
    Client, Cmd, IntoConnectionInfo, ProtocolVersion, PushInfo, Value,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
    io::tcp::TcpSettings,
};
use sha2::{Digest, Sha256};
use socket2::TcpKeepalive;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{error, info, warn};

use super::ClusterOpts;
use crate::peer_list::{
    EVENTS_KEPT, HeartbeatOpts, MESSAGE_OVERHEAD_BYTES, Unavailable,
    events::EVENTS_QUEUED,
    roster::LOG_LENGTH,
    rules::{LINGER, REPEAT_PAUSE, patience},
};

/// How long the first connection is tried for.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// One answer may take this long before the same is asked again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// The pause before a failed verb is tried again; it doubles up to the longest.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A connection that acknowledges nothing for so long is dead; a silent one is
/// asked that often.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// A node that was not heard of for so long is dead.
pub(super) const NODE_LIFE: Duration = Duration::from_secs(10);

/// What is lent to a wait and not told of after this long may be lent to the
/// next: the node that has it is in trouble.
const LEASE: Duration = Duration::from_secs(2);

/// An operation may be asked for again this long after it was done: longer than
/// anything is tried that may not be done twice.
const OP_LIFE: Duration = Duration::from_secs(40);

/// The oldest Redis that this works with.
const OLDEST: (u32, u32) = (7, 0);

/// Why a list in Redis cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// It did not answer.
    Unreachable(String),
    /// It is too old, or refused what the list needs.
    Unusable(String),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "Redis cannot be reached: {why}"),
            Self::Unusable(why) => write!(f, "Redis cannot be used: {why}"),
        }
    }
}

impl std::error::Error for ConnectError {}

pub(super) struct Redis {
    library: Library,
    /// What all keys begin with.
    prefix: String,
    /// The name of this node.
    node: String,
    commands: ConnectionManager,
    /// Kept for its subscription.
    _pushes: ConnectionManager,
    /// It answered last time, as far as the log has told.
    reachable: AtomicBool,
}

impl Redis {
    /// Connects, and subscribes to what concerns this node.
    pub async fn connect(
        opts: &ClusterOpts,
        heartbeat: &HeartbeatOpts,
    ) -> Result<(Self, UnboundedReceiver<PushInfo>), ConnectError> {
        let last = Mutex::new(None);
        let connecting = Self::try_connect(opts, heartbeat, &last);
        timeout(CONNECT_PATIENCE, connecting)
            .await
            .unwrap_or_else(|_| {
                let why = last.into_inner();
                let why = why.unwrap_or_else(|| format!("no answer for {CONNECT_PATIENCE:?}"));
                Err(ConnectError::Unreachable(why))
            })
    }

    async fn try_connect(
        opts: &ClusterOpts,
        heartbeat: &HeartbeatOpts,
        last: &Mutex<Option<String>>,
    ) -> Result<(Self, UnboundedReceiver<PushInfo>), ConnectError> {
        let unusable = |error: redis::RedisError| ConnectError::Unusable(error.to_string());
        let info = opts.url.as_str().into_connection_info().map_err(unusable)?;
        let db = info.redis_settings().db();
        let settings = info.redis_settings().clone();
        let settings = settings.set_protocol(ProtocolVersion::RESP3);
        let keepalive = TcpKeepalive::new()
            .with_time(UNACKNOWLEDGED)
            .with_interval(UNACKNOWLEDGED)
            .with_retries(3);
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(UNACKNOWLEDGED);
        let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
        let client = Client::open(info).map_err(unusable)?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(2)))
            .set_response_timeout(Some(ANSWER_PATIENCE))
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_secs(1));
        // A plain connection first: a manager would not say what is wrong.
        loop {
            match client.get_multiplexed_async_connection().await {
                Ok(connection) => {
                    check_version(connection).await?;
                    break;
                }
                // A refusal that does not pass by itself.
                Err(error) if !error.is_io_error() && !is_passing(&error) => {
                    return Err(unusable(error));
                }
                Err(error) => {
                    *last.lock() = Some(error.to_string());
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
        let connect = |config| ConnectionManager::new_with_config(client.clone(), config);
        let commands = connect(config.clone()).await.map_err(unusable)?;
        let node = format!("{:016x}", fastrand::u64(..));
        let prefix = format!("{{{}}}:", opts.prefix);
        let (sender, pushes) = unbounded_channel();
        let listening = config
            .set_push_sender(sender)
            .set_automatic_resubscription()
            .set_number_of_retries(usize::MAX);
        let mut subscription = connect(listening).await.map_err(unusable)?;
        for channel in [
            format!("{prefix}{db}:all"),
            format!("{prefix}{db}:n:{node}"),
        ] {
            subscription.subscribe(channel).await.map_err(unusable)?;
        }
        let redis = Self {
            library: Library::new(heartbeat, db),
            prefix,
            node,
            commands,
            _pushes: subscription,
            reachable: AtomicBool::new(true),
        };
        Ok((redis, pushes))
    }

    /// A verb of the script, to be given its arguments.
    pub fn verb(&self, verb: &str) -> Cmd {
        let mut call = redis::cmd("FCALL");
        call.arg(&self.library.name)
            .arg(1)
            .arg(&self.prefix)
            .arg(verb)
            .arg(&self.node);
        call
    }

    /// Carries a verb out. While Redis cannot be reached it is tried again, for
    /// so long (None: for ever); it may then have been carried out before.
    pub async fn run(&self, call: &Cmd, patience: Option<Duration>) -> Result<Row, Unavailable> {
        let end = patience.and_then(|patience| Instant::now().checked_add(patience));
        let trying = async {
            let mut pause = RETRY_PAUSE;
            loop {
                let mut connection = self.commands.clone();
                match call.query_async::<Value>(&mut connection).await {
                    Ok(value) => {
                        self.set_reachable(None);
                        return Row::of(value);
                    }
                    // New, or without its memory.
                    Err(error) if is_unknown_function(&error) => {
                        if let Err(error) = self.library.load(&mut connection).await {
                            self.set_reachable(Some(&error));
                        } else {
                            continue;
                        }
                    }
                    Err(error) => self.set_reachable(Some(&error)),
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
                    self.set_reachable(Some(&late()));
                    Err(Unavailable)
                }
            },
        }
    }

    fn set_reachable(&self, failure: Option<&redis::RedisError>) {
        let is_reachable = failure.is_none();
        let changed = self.reachable.swap(is_reachable, Ordering::Relaxed) != is_reachable;
        match (changed, failure) {
            (true, Some(error)) => warn!(%error, "Redis cannot be reached: trying again"),
            (true, None) => info!("Redis is reached again"),
            (false, _) => {}
        }
    }
}

const SCRIPT: &str = include_str!("script.lua");

/// The script as a library of functions in Redis, which is faster by a third
/// than to evaluate it for each verb.
struct Library {
    /// It tells the text apart from that of another version, or with other
    /// settings.
    name: String,
    text: String,
}

impl Library {
    fn new(heartbeat: &HeartbeatOpts, db: i64) -> Self {
        let body = format!("{}local DB = {db}\n{SCRIPT}", constants(heartbeat));
        let digest = Sha256::digest(&body);
        let digits: String = digest.iter().take(8).map(|b| format!("{b:02x}")).collect();
        let name = format!("signal_{digits}");
        let text = format!("#!lua name={name}\nlocal NAME = '{name}'\n{body}");
        Self { name, text }
    }

    async fn load(&self, connection: &mut ConnectionManager) -> redis::RedisResult<()> {
        let mut load = redis::cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(&self.text);
        load.exec_async(connection).await
    }
}

fn is_unknown_function(error: &redis::RedisError) -> bool {
    error.to_string().contains("Function not found")
}

/// The settings of the list, as the script knows them.
fn constants(opts: &HeartbeatOpts) -> String {
    let ms = |duration: Duration| duration.as_millis();
    format!(
        "local TIMEOUT, PATIENCE, ANY_REQUEST = {}, {}, {}\n\
         local BOUND, OVERHEAD, MAX_PEERS = {}, {MESSAGE_OVERHEAD_BYTES}, {}\n\
         local LOG_LENGTH, EVENTS_KEPT, EVENTS_QUEUED = {LOG_LENGTH}, {EVENTS_KEPT}, {EVENTS_QUEUED}\n\
         local LINGER, REPEAT_PAUSE, LEASE, NODE_LIFE, OP_LIFE = {}, {}, {}, {}, {}\n",
        ms(opts.timeout_period),
        ms(patience(opts)),
        opts.any_request,
        opts.max_pending_bytes,
        opts.max_peers,
        ms(LINGER),
        ms(REPEAT_PAUSE),
        ms(LEASE),
        ms(NODE_LIFE),
        ms(OP_LIFE),
    )
}

fn late() -> redis::RedisError {
    redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))
}

/// Redis answered that it is not ready yet.
fn is_passing(error: &redis::RedisError) -> bool {
    matches!(
        error.code(),
        Some("LOADING" | "BUSY" | "MASTERDOWN" | "TRYAGAIN")
    )
}

async fn check_version(mut connection: MultiplexedConnection) -> Result<(), ConnectError> {
    let answer: Result<String, _> = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut connection)
        .await;
    let answer = answer.map_err(|error| ConnectError::Unusable(error.to_string()))?;
    let version = answer
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"))
        .unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < OLDEST {
        let (major, minor) = OLDEST;
        return Err(ConnectError::Unusable(format!(
            "it is version {version}, and {major}.{minor} or newer is needed"
        )));
    }
    Ok(())
}

/// An array that the script answered with, read from its beginning. What is
/// not there, or of another kind, is nothing.
#[derive(Debug)]
pub(super) struct Row(std::vec::IntoIter<Value>);

impl Row {
    fn of(value: Value) -> Result<Self, Unavailable> {
        match value {
            Value::Array(values) => Ok(Self(values.into_iter())),
            other => {
                error!(?other, "Redis answered what it should not");
                Err(Unavailable)
            }
        }
    }

    pub fn bytes(&mut self) -> Option<Bytes> {
        match self.0.next()? {
            Value::BulkString(bytes) => Some(bytes.into()),
            Value::SimpleString(text) => Some(text.into_bytes().into()),
            Value::Int(number) => Some(number.to_string().into()),
            _ => None,
        }
    }

    pub fn text(&mut self) -> Option<String> {
        let bytes = self.bytes()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The first word of an answer, which tells its kind.
    pub fn kind(&mut self) -> String {
        self.text().unwrap_or_default()
    }

    pub fn number<T: std::str::FromStr>(&mut self) -> Option<T> {
        self.text()?.parse().ok()
    }

    pub fn row(&mut self) -> Option<Row> {
        match self.0.next()? {
            Value::Array(values) => Some(Self(values.into_iter())),
            _ => None,
        }
    }

    /// What is left, as rows.
    pub fn rows(mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        while !self.0.as_slice().is_empty() {
            rows.extend(self.row());
        }
        rows
    }

    /// What is left, as texts.
    pub fn texts(mut self) -> Vec<String> {
        let mut texts = Vec::new();
        while !self.0.as_slice().is_empty() {
            texts.extend(self.text());
        }
        texts
    }
}
