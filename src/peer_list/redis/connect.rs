//! The first connection to Redis, and the reason if there is none.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use parking_lot::Mutex;
use redis::{
    ErrorKind, PushInfo, RedisError, ServerErrorKind, Value,
    aio::{ConnectionManagerConfig, MultiplexedConnection},
};
use thiserror::Error;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, sleep, timeout},
};

use crate::counter::Counter;

use super::{
    ClusterOpts,
    answers::Readiness,
    connection::Connection,
    explain::{OLDEST, explain, is_untrusted, too_old},
    hearing::Hearing,
    library::{Function, Library, is_unknown_function},
    link::{ChannelNames, Health, ShardLink},
    queue::CallQueue,
    row::{Answer, Row},
    source::Source,
};

/// How long the first connection is tried.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// The pause before the first connection is tried again.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);

/// How long one answer may take before the same is asked again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Why the peer list in Redis cannot be used.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Redis did not answer.
    #[error("Redis at {address} cannot be reached: {why}")]
    Unreachable {
        /// The address in [`ClusterOpts::url`].
        address: String,
        /// What is wrong, in one line.
        why: String,
        /// The last error, if there was one.
        source: Option<RedisError>,
    },
    /// Redis is too old, or refused what the list needs.
    #[error("Redis cannot be used: {why}")]
    Unusable {
        /// What is wrong, and the way out, in one line.
        why: String,
        /// The error of Redis, if there was one.
        source: Option<RedisError>,
    },
}

impl ConnectError {
    pub(super) fn unusable(why: String) -> Self {
        Self::Unusable { why, source: None }
    }
}

impl From<RedisError> for ConnectError {
    fn from(error: RedisError) -> Self {
        Self::Unusable {
            why: explain(&error),
            source: Some(error),
        }
    }
}

/// What a node has in common at all shards.
pub(super) struct Connecting<'a> {
    pub opts: &'a ClusterOpts,
    pub place: Arc<Source>,
    pub library: Arc<Library>,
    /// The name of the node.
    pub node: String,
}

impl Connecting<'_> {
    /// Connects to the shard with this number, and subscribes to the channels of the node
    /// there.
    pub async fn to_shard(
        &self,
        number: usize,
    ) -> Result<(ShardLink, UnboundedReceiver<PushInfo>), ConnectError> {
        let place = &self.place;
        let last = Mutex::new(None);
        let connecting = self.try_shard(number, &last);
        match timeout(CONNECT_PATIENCE, connecting).await {
            Ok(connected) => connected,
            Err(_) => {
                let source = last.into_inner();
                let why = match &source {
                    Some(error) => explain(error),
                    None => format!("no answer for {CONNECT_PATIENCE:?}"),
                };
                Err(ConnectError::Unreachable {
                    address: place.address(),
                    why,
                    source,
                })
            }
        }
    }

    async fn try_shard(
        &self,
        number: usize,
        last: &Mutex<Option<RedisError>>,
    ) -> Result<(ShardLink, UnboundedReceiver<PushInfo>), ConnectError> {
        let Self {
            opts,
            place,
            library,
            node,
        } = self;
        let db = place.db();
        let prefix = opts.prefix_of(number);
        // A plain connection first: the connection manager would not say what is wrong.
        while let Err(error) = self.check(number, &prefix).await? {
            *last.lock() = Some(error);
            sleep(CONNECT_PAUSE).await;
        }
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(2)))
            .set_response_timeout(Some(ANSWER_PATIENCE))
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_secs(1));
        let commands = Connection::connect(place.clone(), &prefix, config.clone()).await?;
        let (sender, pushes) = unbounded_channel();
        let listening = config
            .set_push_sender(sender)
            .set_automatic_resubscription();
        let queue = |function| CallQueue::new(library, function, &prefix, node);
        let link = ShardLink {
            number: opts.is_sharded().then_some(number),
            channels: ChannelNames {
                all: format!("{prefix}{db}:all"),
                own: format!("{prefix}{db}:n:{node}"),
            },
            library: library.clone(),
            node: node.clone(),
            commands: Arc::new(commands),
            growing: queue(Function::Growing),
            others: queue(Function::Other),
            subscription: Connection::connect(place.clone(), &prefix, listening).await?,
            prefix,
            hearing: Hearing::default(),
            calls: Counter::default(),
            failures: Counter::default(),
            time: Counter::default(),
            health: Health::default(),
            clock: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            start: Instant::now(),
        };
        link.subscribe().await?;
        Ok((link, pushes))
    }

    /// Checks that Redis can do all that the lists need. The inner error may go away when it
    /// is tried again.
    async fn check(
        &self,
        number: usize,
        prefix: &str,
    ) -> Result<Result<(), RedisError>, ConnectError> {
        let checking = async {
            let client = self.place.client(prefix).await?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            if let Some(why) = unfit(&mut connection).await? {
                return Ok(Some(why));
            }
            // What cannot be asked now is not known: its master may be one that this list does not
            // need.
            if number == 0
                && let Ok(Some(stored)) = self.other_shards().await
            {
                return Ok(Some(other_shards(&stored)));
            }
            let mut ready = self.library.call("ready", prefix);
            ready.arg("ready").arg(&self.node).arg("");
            let answer: Value = match ready.query_async(&mut connection).await {
                Err(error) if is_unknown_function(&error) => {
                    self.library.load(&mut connection).await?;
                    ready.query_async(&mut connection).await?
                }
                other => other?,
            };
            Ok(unreadable(answer, &self.opts.keys()))
        };
        match checking.await {
            Ok(None) => Ok(Ok(())),
            Ok(Some(why)) => Err(ConnectError::unusable(why)),
            Err(error) if is_passing(&error, self.place.may_move()) => Ok(Err(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// How many shards there are, if they are where this node does not look.
    async fn other_shards(&self) -> Result<Option<String>, RedisError> {
        let elsewhere = self.opts.prefix_of_others();
        let client = self.place.client(&elsewhere).await?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut get = redis::cmd("GET");
        get.arg(format!("{elsewhere}shards"));
        get.query_async(&mut connection).await
    }
}

/// The reason if the lists in Redis are of a version that this one cannot read, or spread
/// over another number of shards.
fn unreadable(answer: Value, keys: &str) -> Option<String> {
    match Row::of(answer).and_then(Readiness::read).ok()? {
        Readiness::Ready => None,
        Readiness::OtherSchema { stored, own } => Some(format!(
            "it holds a peer list of another version of this server (schema {stored}, not {own}): \
             stop all servers of that version and delete the keys {keys}, or set another \
             WEBRTC_REDIS_PREFIX"
        )),
        Readiness::OtherShards { stored } => Some(other_shards(&stored)),
    }
}

fn other_shards(stored: &str) -> String {
    format!(
        "it holds the lists of a server with WEBRTC_REDIS_SHARDS={stored}: set that number, which \
         cannot be changed later, or another WEBRTC_REDIS_PREFIX"
    )
}

/// Whether Redis is away, or answered that it is not ready yet. `may_move`: another server may
/// be about to become the primary.
fn is_passing(error: &RedisError, may_move: bool) -> bool {
    let has_failed_over = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::ClusterDown
        )
    );
    let is_refused = is_untrusted(error);
    let is_busy = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown | ServerErrorKind::TryAgain
        )
    );
    // The crate has no variants for a script that runs for too long, and for replicas that have
    // not come back.
    has_failed_over && may_move
        || is_busy
        || error.code() == Some("BUSY")
        || error.code() == Some("NOREPLICAS")
        || error.is_io_error() && !is_refused
}

/// The reason if this Redis is too old, or would lose data that the list needs.
async fn unfit(connection: &mut MultiplexedConnection) -> Result<Option<String>, RedisError> {
    let info: String = redis::cmd("INFO").query_async(connection).await?;
    let field = |name: &str| {
        let mut lines = info.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default()
    };
    let version = field("redis_version");
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < OLDEST {
        return Ok(Some(too_old(&format!("version {version}"))));
    }
    let policy = field("maxmemory_policy");
    // The records of operations and of removals are keys with a time limit: losing those
    // is as bad.
    let forgets = ["allkeys", "volatile"]
        .iter()
        .any(|forgets| policy.starts_with(forgets));
    Ok(forgets.then(|| {
        format!(
            "it would delete parts of the peer list when it is full (maxmemory-policy {policy}): \
             set noeviction"
        )
    }))
}
