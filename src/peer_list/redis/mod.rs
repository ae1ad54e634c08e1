//! The peer list that lives in Redis: any number of nodes are one server.
//!
//! Each verb is one call of the script, which Redis carries out as a whole. The lists are in
//! one shard or several (`shard.rs`). A process is a node (`node.rs`) with one link to each
//! shard (`link.rs`). Of the list of each room that is
//! used here (`lists.rs`) it keeps only what cannot leave the process (`list.rs`): open
//! waits and sockets, and a copy that it keeps up to date.

mod alive;
mod answers;
mod channels;
mod connect;
mod connection;
mod deliveries;
mod ended;
mod events;
mod explain;
mod hearing;
mod here;
mod lease;
mod library;
mod link;
mod list;
mod lists;
mod looking;
mod mail;
mod member;
mod moment;
mod node;
mod open;
mod open_wait;
mod opened;
mod part;
mod peers;
mod push;
mod queue;
mod retry;
mod row;
mod shard;
mod source;
mod tasks;
mod telling;
mod verbs;
mod view;
mod waiting;
mod watching;

use std::{fmt, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use secrecy::SecretString;
use sha2::{Digest, Sha256};

pub use connect::ConnectError;
#[cfg(test)]
pub(super) use library::test_clock::KEY as TEST_CLOCK;

use super::{Caller, HeartbeatOpts, ListCounts, PeerId, PeerToken, Proof};
use connect::Connecting;
use library::Library;
use list::List;
use lists::Lists;
use node::Node;
use shard::Shard;
use source::Source;

/// How long a verb is tried if its client can be refused: clients do not notice that
/// Redis stands still for a shorter time.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a verb is tried if no client waits for it.
const LONG_PATIENCE: Duration = Duration::from_secs(30);

/// At most this many peers are asked about at once: other calls wait meanwhile.
const INFOS_AT_ONCE: usize = 200;

/// Redis counts as reachable if it answers within this time.
const READY_PATIENCE: Duration = Duration::from_millis(500);

/// The place in Redis of a list that many nodes share.
#[derive(Clone, Debug)]
pub struct ClusterOpts {
    /// The URL of Redis: `redis://` or `rediss://`, with user, password and database as
    /// usual; or `redis+sentinel://HOST:PORT,HOST:PORT/NAME/DATABASE`, the primary that
    /// Sentinels know by that name (with TLS: `rediss+sentinel://`); or
    /// `redis+cluster://HOST:PORT,HOST:PORT`, servers of a Redis Cluster (`rediss+cluster://`).
    pub url: SecretString,
    /// What all keys begin with, so that several lists can be in one Redis.
    pub prefix: String,
    /// A file with the certificates (PEM) of the authorities that are trusted for
    /// `rediss://`, in place of the public ones.
    pub ca: Option<PathBuf>,
    /// What this client shows to a Redis that asks for a certificate (mutual TLS).
    pub identity: Option<ClientIdentity>,
    /// Over how many shards the lists of rooms are spread: parts of the keys that have a hash
    /// tag each, so that a Redis Cluster can have them on several masters. All nodes need
    /// the same number; the root list is in the first shard.
    pub shards: NonZeroUsize,
}

/// The certificate of a client of Redis, and its key.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// A file with the certificate (PEM), and those that lead to its authority.
    pub certificate: PathBuf,
    /// A file with the private key (PEM).
    pub key: PathBuf,
}

/// The list of one room in Redis, as one node sees it. Clones are the same list.
#[derive(Clone)]
pub(super) struct RedisEngine {
    lists: Arc<Lists>,
    list: Arc<List>,
}

impl fmt::Debug for RedisEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisEngine")
    }
}

impl ClusterOpts {
    /// Whether this is a URL that [`ClusterOpts::url`] takes.
    pub fn is_url(url: &str) -> bool {
        Source::is_url(url)
    }

    fn is_sharded(&self) -> bool {
        self.shards.get() > 1
    }

    /// What all keys of a shard begin with.
    pub(super) fn prefix_of(&self, shard: usize) -> String {
        let prefix = &self.prefix;
        match self.is_sharded() {
            true => format!("{{{prefix}:{shard}}}:"),
            false => format!("{{{prefix}}}:"),
        }
    }

    /// All keys of all shards, as a pattern.
    fn keys(&self) -> String {
        let end = if self.is_sharded() { ":*" } else { "}:*" };
        format!("{{{}{end}", self.prefix)
    }

    /// What the keys of the first shard begin with on a node that has one shard where this
    /// one has several, or several where this one has one.
    fn prefix_of_others(&self) -> String {
        let prefix = &self.prefix;
        match self.is_sharded() {
            true => format!("{{{prefix}}}:"),
            false => format!("{{{prefix}:0}}:"),
        }
    }
}

impl RedisEngine {
    pub async fn connect(opts: HeartbeatOpts, cluster: &ClusterOpts) -> Result<Self, ConnectError> {
        let place = Arc::new(Source::of(cluster)?);
        let library = Library::new(&opts, place.db(), cluster.shards);
        let connecting = Connecting {
            opts: cluster,
            place,
            library: Arc::new(library),
            node: format!("{:016x}", fastrand::u64(..)),
        };
        let shards = (0..cluster.shards.get()).map(|number| connecting.to_shard(number));
        let connected = try_join_all(shards).await?.into_iter();
        let counts: Arc<ListCounts> = Arc::default();
        let (shards, pushes): (Vec<_>, Vec<_>) = connected
            .map(|(link, pushes)| (Shard::new(link, counts.clone()), pushes))
            .unzip();
        let node = Node::new(opts, connecting.node, counts, shards);
        let lists = Lists::new(node.clone());
        let list = lists.root_list();
        let beginning = node.shards.iter().map(|shard| lists.begin(shard));
        let begun = try_join_all(beginning).await;
        begun.map_err(|_| ConnectError::Unreachable {
            address: connecting.place.address(),
            why: "it stopped answering".to_owned(),
            source: None,
        })?;
        for (shard, pushes) in node.shards.iter().zip(pushes) {
            push::start(&lists, shard, pushes);
        }
        lists.start_tasks();
        lists.tasks.running.lock().extend(connecting.place.listen());
        Ok(Self { lists, list })
    }
}

fn caller(id: PeerId) -> Caller {
    Caller {
        id,
        proof: Proof::Trusted,
        link: None,
        lingers: false,
    }
}

/// The number of the connection that a request came on.
fn link_of(caller: &Caller) -> Option<u64> {
    caller.link.as_ref().map(|link| link.number)
}

/// The name of an operation, by which Redis recognizes a repeated call.
fn op() -> String {
    format!("{:016x}", fastrand::u64(..))
}

/// The form in which tokens and keys are stored: somebody who reads Redis cannot act as a
/// peer.
fn hash(secret: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(secret))
}

fn hash_token(token: &PeerToken) -> String {
    hash(token.digits())
}
