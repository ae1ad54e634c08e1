//! The peer list that lives in Redis: any number of nodes are one server.
//!
//! Each verb is one call of the script, which Redis carries out as a whole. A process is a
//! node (`node.rs`) with one link to Redis (`link.rs`). Of the list of each room that is
//! used here (`lists.rs`) it keeps only what cannot leave the process (`list.rs`): open
//! waits and sockets, and a copy that it keeps up to date.

mod alive;
mod answers;
mod channels;
mod connect;
mod ended;
mod events;
mod explain;
mod here;
mod lease;
mod library;
mod link;
mod list;
mod lists;
mod mail;
mod member;
mod node;
mod open;
mod opened;
mod peers;
mod push;
mod retry;
mod row;
mod source;
mod tasks;
mod telling;
mod verbs;
mod view;
mod waiting;
mod watching;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use secrecy::SecretString;
use sha2::{Digest, Sha256};

pub use connect::ConnectError;
#[cfg(test)]
pub(super) use library::test_clock::KEY as TEST_CLOCK;

use super::{Caller, HeartbeatOpts, PeerId, PeerToken, Proof, Refusal};
use link::ProcessLink;
use list::List;
use lists::Lists;
use node::Node;

/// How long a verb is tried if its client can be refused: clients do not notice that
/// Redis stands still for a shorter time.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a verb is tried if no client waits for it.
const LONG_PATIENCE: Duration = Duration::from_secs(30);

/// Redis counts as reachable if it answers within this time.
const READY_PATIENCE: Duration = Duration::from_millis(500);

/// The place in Redis of a list that many nodes share.
#[derive(Clone, Debug)]
pub struct ClusterOpts {
    /// The URL of Redis: `redis://` or `rediss://`, with user, password and database as
    /// usual; or `redis+sentinel://HOST:PORT,HOST:PORT/NAME/DATABASE`, the primary that
    /// Sentinels know by that name (with TLS: `rediss+sentinel://`).
    pub url: SecretString,
    /// What all keys begin with, so that several lists can be in one Redis.
    pub prefix: String,
    /// A file with the certificates (PEM) of the authorities that are trusted for
    /// `rediss://`, in place of the public ones.
    pub ca: Option<PathBuf>,
    /// What this client shows to a Redis that asks for a certificate (mutual TLS).
    pub identity: Option<ClientIdentity>,
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
        source::Source::is_url(url)
    }
}

impl RedisEngine {
    pub async fn connect(opts: HeartbeatOpts, cluster: &ClusterOpts) -> Result<Self, ConnectError> {
        let (link, pushes) = ProcessLink::connect(cluster, &opts).await?;
        let address = link.address();
        let unreachable = |_: Refusal| ConnectError::Unreachable {
            address: address.clone(),
            why: "it stopped answering".to_owned(),
            source: None,
        };
        let node = Node::new(opts, link);
        let lists = Lists::new(node.clone());
        let list = lists.root_list();
        lists.live().await.map_err(unreachable)?;
        list.sync(Some(PATIENCE)).await.map_err(unreachable)?;
        node.sync_events(true, Some(PATIENCE))
            .await
            .map_err(unreachable)?;
        push::start(&lists, pushes);
        lists.start_tasks();
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
