//! A peer list under test in either engine, and time that passes only where a test says so.

use std::{
    cell::Cell,
    fs,
    future::Future,
    num::NonZeroUsize,
    ops::Deref,
    os::unix::net::UnixStream,
    path::PathBuf,
    pin::{Pin, pin},
    process::{Child, Command, Stdio},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, SystemTime},
};

use redis::{Client, Cmd, FromRedisValue, Value, aio::MultiplexedConnection, from_redis_value};
use tokio::task::yield_now;

use crate::peer_list::{
    ClusterOpts, HeartbeatOpts, PeerEvents, PeerId, TimeoutPeerList, redis::TEST_CLOCK,
};

/// What all keys of the list begin with.
const PREFIX: &str = "contract";

/// Time passes in steps of this, so that no process seems to stand still.
const STEP: Duration = Duration::from_millis(100);

/// A node that was told "not yet" asks Redis again in this time.
const ASKED_AGAIN: Duration = Duration::from_millis(200);

/// A test that takes longer than this waits for what does not come: its clock runs, so that it
/// ends, and it fails.
const TEST_PATIENCE: Duration = Duration::from_secs(60);

/// Sets the clocks of the script to a time in µs, and lets what expires do so some ms earlier.
const PASS: &str = "
    for _, clock in ipairs(KEYS) do
        redis.call('SET', clock, ARGV[1])
    end
    for _, key in ipairs(redis.call('KEYS', '*')) do
        local left = redis.call('PTTL', key)
        if left >= 0 then
            redis.call('PEXPIRE', key, left - ARGV[2])
        end
    end";

/// The keys that name a room, and those of the copies that nodes have.
const STORED: &str = "
    local stored = redis.call('KEYS', '*:copies:*')
    for _, key in ipairs(redis.call('KEYS', '*' .. ARGV[1] .. '*')) do
        stored[#stored + 1] = key
    end
    return stored";

/// This many turns of the runtime are enough for every task that has something to do.
const TURNS: usize = 10;

/// Where the list lives, and whether it is the root list or that of a room.
#[derive(Clone, Copy, Debug)]
pub enum EngineKind {
    /// In this process.
    Memory,
    MemoryRoom,
    /// In a Redis of its own.
    Redis,
    RedisRoom,
}

impl EngineKind {
    pub async fn list(self, opts: HeartbeatOpts) -> TestList {
        let clock = Clock::stop();
        let (root, redis) = match self {
            Self::Memory | Self::MemoryRoom => (TimeoutPeerList::new(opts.clone()), None),
            Self::Redis | Self::RedisRoom => {
                let redis = Redis::start(self.shards()).await;
                redis.pass(Duration::ZERO, Duration::ZERO).await;
                (redis.connect(opts.clone()).await, Some(redis))
            }
        };
        let root = TestList {
            list: root,
            around: Rc::new(Around {
                opts,
                passed: Cell::new(Duration::ZERO),
                redis,
                _clock: clock,
            }),
        };
        match self {
            Self::Memory | Self::Redis => root,
            Self::MemoryRoom | Self::RedisRoom => root.in_room("a-room"),
        }
    }

    /// Rooms are spread over several.
    fn shards(self) -> NonZeroUsize {
        let shards = if let Self::RedisRoom = self { 3 } else { 1 };
        NonZeroUsize::new(shards).unwrap()
    }

    pub fn is_in_redis(self) -> bool {
        matches!(self, Self::Redis | Self::RedisRoom)
    }

    /// One whose mailboxes hold this many bytes.
    pub async fn bounded_list(self, max_pending_bytes: usize) -> TestList {
        self.list(HeartbeatOpts {
            max_pending_bytes,
            ..HeartbeatOpts::default()
        })
        .await
    }

    pub async fn default_list(self) -> TestList {
        self.list(HeartbeatOpts::default()).await
    }
}

/// The list, and what is around it.
#[derive(Clone)]
pub struct TestList {
    list: TimeoutPeerList,
    around: Rc<Around>,
}

/// What all lists of a test share: the engine's clock, and the Redis that they may live in.
struct Around {
    opts: HeartbeatOpts,
    /// How much time has passed since the start.
    passed: Cell<Duration>,
    redis: Option<Redis>,
    _clock: Clock,
}

impl Deref for TestList {
    type Target = TimeoutPeerList;

    fn deref(&self) -> &TimeoutPeerList {
        &self.list
    }
}

impl TestList {
    /// The list of a room beside this one.
    pub fn in_room(&self, name: &str) -> Self {
        Self {
            list: self.list.room(&name.parse().unwrap()),
            around: self.around.clone(),
        }
    }

    /// The same list, as another node of it sees it, if there can be others.
    pub async fn another_node(&self) -> TimeoutPeerList {
        let Around { redis, opts, .. } = &*self.around;
        let Some(redis) = redis else {
            return self.list.clone();
        };
        let root = redis.connect(opts.clone()).await;
        match self.list.name() {
            None => root,
            Some(name) => root.room(name),
        }
    }

    /// Lets time pass.
    pub async fn pass(&self, time: Duration) {
        let end = self.around.passed.get() + time;
        self.settle().await;
        while self.around.passed.get() < end {
            let passed = self.around.passed.get();
            // Timers of whole steps are to fire in time.
            let beyond = u64::try_from(passed.as_millis() % STEP.as_millis()).unwrap();
            let step = (STEP - Duration::from_millis(beyond)).min(end - passed);
            self.step(step).await;
        }
    }

    pub async fn pass_secs(&self, secs: u64) {
        self.pass(Duration::from_secs(secs)).await;
    }

    /// Lets time pass in which neither this process nor Redis runs.
    pub async fn stand_still(&self, time: Duration) {
        self.settle().await;
        self.step(time).await;
    }

    async fn step(&self, step: Duration) {
        self.around.passed.set(self.around.passed.get() + step);
        if let Some(redis) = &self.around.redis {
            redis.pass(step, self.around.passed.get()).await;
        }
        tokio::time::advance(step).await;
        self.settle().await;
    }

    /// Waits until nothing happens any more, unless time passes.
    pub async fn settle(&self) {
        let mut before = 0;
        loop {
            for _ in 0..TURNS {
                yield_now().await;
            }
            let Some(redis) = &self.around.redis else {
                return;
            };
            // This question, and nothing else.
            let carried_out = redis.carried_out().await;
            if carried_out == before + 1 {
                return;
            }
            before = carried_out;
        }
    }

    /// Carries out a command in the Redis of this test.
    pub async fn redis<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let redis = self.around.redis.as_ref().expect("this list is in Redis");
        let mut command = Cmd::new();
        command.arg(words);
        let answer = command.query_async(&mut redis.connection.clone()).await;
        answer.unwrap()
    }

    /// The nodes of this list.
    pub async fn nodes(&self) -> Vec<String> {
        self.redis(&["SMEMBERS", &self.key("announced")]).await
    }

    /// A key of the first shard.
    pub fn key(&self, name: &str) -> String {
        let redis = self.around.redis.as_ref().expect("this list is in Redis");
        format!("{}{name}", redis.cluster.prefix_of(0))
    }

    /// Takes a node for dead, as others do that it has not reported to.
    pub async fn bury(&self, node: &str) {
        self.redis::<()>(&["ZADD", &self.key("nodes"), "1", node])
            .await;
        let libraries: Vec<Vec<Value>> = self.redis(&["FUNCTION", "LIST"]).await;
        let library: String = from_redis_value(libraries[0][1].clone()).unwrap();
        let keys = self.key("");
        self.redis::<Value>(&["FCALL", &library, "1", &keys, "bury", "another", ""])
            .await;
    }

    /// Ends all subscriptions of nodes.
    pub async fn cut_subscriptions(&self) {
        self.redis::<Value>(&["CLIENT", "KILL", "TYPE", "PUBSUB"])
            .await;
    }

    /// How many commands Redis has carried out.
    pub async fn asked_of_redis(&self) -> u64 {
        match &self.around.redis {
            Some(redis) => redis.carried_out().await,
            None => 0,
        }
    }

    /// What a future has at once, or as soon as Redis is asked again.
    pub async fn now<T>(&self, future: impl Future<Output = T>) -> T {
        let limit = match &self.around.redis {
            None => Duration::ZERO,
            Some(_) => ASKED_AGAIN,
        };
        self.within(limit, future).await
    }

    /// What a future has when this much time has passed, at the latest.
    pub async fn within<T>(&self, limit: Duration, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        tokio::select! {
            biased;
            value = &mut future => value,
            () = self.pass(limit) => panic!("it is still open after {limit:?}"),
        }
    }

    /// What a future has at once, if it has anything.
    pub async fn try_now<T>(
        &self,
        future: &mut Pin<Box<impl Future<Output = T> + ?Sized>>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            value = future => Some(value),
            () = self.settle() => None,
        }
    }

    /// Whether a future has nothing, unless time passes.
    pub async fn is_open<T>(
        &self,
        future: &mut Pin<Box<impl Future<Output = T> + ?Sized>>,
    ) -> bool {
        self.try_now(future).await.is_none()
    }

    /// What Redis has stored of a room: keys that name it, and the copies of its list.
    pub async fn stored(&self, room: &str) -> Vec<String> {
        let Some(redis) = &self.around.redis else {
            let rooms = self.rooms().await.unwrap();
            let names = rooms.into_iter().map(|room| room.name.to_string());
            return names.filter(|name| name == room).collect();
        };
        let mut keys = Cmd::new();
        keys.arg("EVAL").arg(STORED).arg(0).arg(room);
        keys.query_async(&mut redis.connection.clone())
            .await
            .unwrap()
    }

    /// A subscriber, from now on.
    pub async fn subscribe(&self) -> PeerEvents {
        self.settle().await;
        self.list.subscribe(None).await
    }

    /// The time, as the engine has it.
    pub fn system_time(&self) -> SystemTime {
        match &self.around.redis {
            None => SystemTime::now(),
            Some(redis) => redis.began + self.around.passed.get(),
        }
    }

    /// The peers in the list, oldest first, as the engine has them, not only this process.
    pub async fn ids(&self) -> Vec<PeerId> {
        let infos = self.peer_infos().await.unwrap();
        infos.iter().map(|info| info.id).collect()
    }

    /// The list as text, as the engine knows it and not only this process.
    pub async fn lines(&self) -> String {
        let infos = self.peer_infos().await.unwrap();
        let newest_first = infos.iter().rev();
        newest_first
            .map(|info| format!("{},{},{}\n", info.name, info.id, u8::from(info.connected)))
            .collect()
    }
}

/// The clock of the runtime, which stands still until it is moved.
///
/// A paused clock jumps to the next timer whenever no task can go on, also while one waits
/// for Redis. It does not while something blocks.
struct Clock {
    /// What blocks ends when this is dropped.
    _stopped: mpsc::Sender<()>,
    is_given_up: Arc<AtomicBool>,
}

impl Clock {
    fn stop() -> Self {
        let (stopped, is_dropped) = mpsc::channel::<()>();
        let is_given_up = Arc::new(AtomicBool::new(false));
        let gives_up = is_given_up.clone();
        tokio::task::spawn_blocking(move || {
            if is_dropped.recv_timeout(TEST_PATIENCE) == Err(RecvTimeoutError::Timeout) {
                gives_up.store(true, Ordering::Relaxed);
            }
        });
        Self {
            _stopped: stopped,
            is_given_up,
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let is_given_up = self.is_given_up.load(Ordering::Relaxed);
        if is_given_up && !thread::panicking() {
            panic!("the test waited for what does not come unless time passes");
        }
    }
}

/// A Redis of this test's own, whose clock is moved by the test.
struct Redis {
    process: Child,
    directory: PathBuf,
    cluster: ClusterOpts,
    /// When the test began, by the clock of the machine.
    began: SystemTime,
    connection: MultiplexedConnection,
}

impl Redis {
    async fn start(shards: NonZeroUsize) -> Self {
        let name = format!("signal-contract-{:016x}", fastrand::u64(..));
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let socket = directory.join("redis.sock");
        let server = std::env::var("REDIS_SERVER");
        let process = Command::new(server.as_deref().unwrap_or("redis-server"))
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args(["--dir".as_ref(), directory.as_os_str()])
            .args(["--unixsocket".as_ref(), socket.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server, version 7 or newer, is to be installed: `make test` does it on Debian");
        while UnixStream::connect(&socket).is_err() {
            thread::sleep(Duration::from_millis(2));
        }
        let client = Client::open(url(&directory)).unwrap();
        let cluster = ClusterOpts {
            url: url(&directory).into(),
            prefix: PREFIX.to_owned(),
            ca: None,
            identity: None,
            shards,
        };
        Self {
            process,
            directory,
            cluster,
            began: SystemTime::now(),
            connection: client.get_multiplexed_async_connection().await.unwrap(),
        }
    }

    async fn connect(&self, opts: HeartbeatOpts) -> TimeoutPeerList {
        TimeoutPeerList::connect(opts, &self.cluster).await.unwrap()
    }

    /// Moves its clock, and what expires.
    async fn pass(&self, step: Duration, passed: Duration) {
        let now = (self.began + passed).duration_since(SystemTime::UNIX_EPOCH);
        let shards = 0..self.cluster.shards.get();
        let clocks = shards.map(|shard| format!("{}{TEST_CLOCK}", self.cluster.prefix_of(shard)));
        let clocks: Vec<_> = clocks.collect();
        let mut pass = Cmd::new();
        pass.arg("EVAL").arg(PASS).arg(clocks.len()).arg(clocks);
        pass.arg(now.unwrap().as_micros().to_string());
        pass.arg(step.as_millis().to_string());
        pass.exec_async(&mut self.connection.clone()).await.unwrap();
    }

    /// How many commands it has carried out.
    async fn carried_out(&self) -> u64 {
        let mut info = Cmd::new();
        info.arg("INFO").arg("stats");
        let info: String = info
            .query_async(&mut self.connection.clone())
            .await
            .unwrap();
        let line = "total_commands_processed:";
        let count = info.lines().find_map(|info| info.strip_prefix(line));
        count.unwrap().parse().unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn url(directory: &std::path::Path) -> String {
    format!("redis+unix://{}/redis.sock", directory.display())
}
