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

use super::{
    ClusterOpts,
    answers::Readiness,
    explain::{OLDEST, explain, is_untrusted, too_old},
    library::{Library, is_unknown_function},
    link::{Connection, Health, ProcessLink},
    row::{Answer, Row},
    source::Source,
};
use crate::peer_list::HeartbeatOpts;

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

impl ProcessLink {
    /// Connects, and subscribes to the channels of this node.
    pub async fn connect(
        opts: &ClusterOpts,
        heartbeat: &HeartbeatOpts,
    ) -> Result<(Self, UnboundedReceiver<PushInfo>), ConnectError> {
        let place = Arc::new(Source::of(opts)?);
        let last = Mutex::new(None);
        let connecting = Self::try_connect(&place, opts, heartbeat, &last);
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

    async fn try_connect(
        place: &Arc<Source>,
        opts: &ClusterOpts,
        heartbeat: &HeartbeatOpts,
        last: &Mutex<Option<RedisError>>,
    ) -> Result<(Self, UnboundedReceiver<PushInfo>), ConnectError> {
        let db = place.db();
        let library = Library::new(heartbeat, db);
        let prefix = format!("{{{}}}:", opts.prefix);
        let node = format!("{:016x}", fastrand::u64(..));
        // A plain connection first: the connection manager would not say what is wrong.
        while let Err(error) = check(place, &library, &prefix, &node).await? {
            *last.lock() = Some(error);
            sleep(CONNECT_PAUSE).await;
        }
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(2)))
            .set_response_timeout(Some(ANSWER_PATIENCE))
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_secs(1));
        let commands = Connection::connect(place.clone(), config.clone()).await?;
        let (sender, pushes) = unbounded_channel();
        let listening = config
            .set_push_sender(sender)
            .set_automatic_resubscription()
            .set_number_of_retries(usize::MAX);
        let link = Self {
            channels: [
                format!("{prefix}{db}:all"),
                format!("{prefix}{db}:n:{node}"),
            ],
            library,
            prefix,
            node,
            commands,
            subscription: Connection::connect(place.clone(), listening).await?,
            health: Health::default(),
            clock: AtomicU64::new(0),
            start: Instant::now(),
        };
        link.subscribe().await?;
        Ok((link, pushes))
    }
}

/// Checks that Redis can do all that the list needs. The inner error may go away when it
/// is tried again.
async fn check(
    place: &Source,
    library: &Library,
    prefix: &str,
    node: &str,
) -> Result<Result<(), RedisError>, ConnectError> {
    let checking = async {
        let client = place.client().await?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        if let Some(why) = unfit(&mut connection).await? {
            return Ok(Some(why));
        }
        let mut ready = library.call("ready");
        ready.arg(1).arg(prefix).arg("ready").arg(node).arg("");
        let answer: Value = match ready.query_async(&mut connection).await {
            Err(error) if is_unknown_function(&error) => {
                library.load(&mut connection).await?;
                ready.query_async(&mut connection).await?
            }
            other => other?,
        };
        Ok(unreadable(answer, prefix))
    };
    match checking.await {
        Ok(None) => Ok(Ok(())),
        Ok(Some(why)) => Err(ConnectError::unusable(why)),
        Err(error) if is_passing(&error, place.may_move()) => Ok(Err(error)),
        Err(error) => Err(error.into()),
    }
}

/// The reason if the list in Redis is of a version that this one cannot read.
fn unreadable(answer: Value, prefix: &str) -> Option<String> {
    let answer = Row::of(answer).and_then(Readiness::read);
    let Ok(Readiness::OtherSchema { stored, own }) = answer else {
        return None;
    };
    Some(format!(
        "it holds a peer list of another version of this server (schema {stored}, not {own}): stop \
         all servers of that version and delete the keys {prefix}*, or set another \
         WEBRTC_REDIS_PREFIX"
    ))
}

/// Whether Redis is away, or answered that it is not ready yet. `may_move`: a replica may
/// be about to become the primary.
fn is_passing(error: &RedisError, may_move: bool) -> bool {
    let is_replica = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
    let is_refused = is_untrusted(error);
    let is_busy = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown | ServerErrorKind::TryAgain
        )
    );
    // The crate has no variant for a script that runs for too long.
    is_replica && may_move
        || is_busy
        || error.code() == Some("BUSY")
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
