//! The script, as a library of functions in Redis.

use std::{num::NonZeroUsize, time::Duration};

use redis::{Cmd, aio::ConnectionLike};
use sha2::{Digest, Sha256};

use crate::peer_list::{
    EVENTS_KEPT, HeartbeatOpts, MESSAGE_OVERHEAD_BYTES,
    event_log::EVENTS_QUEUED,
    roster::LOG_LENGTH,
    rules::{
        LATE_REQUEST, LINGER, LINGER_FORESEEN, NODE_LIFE, REPEAT_PAUSE, REPOLL_PATIENCE, patience,
        sign_period,
    },
};

/// A loan of which Redis is told nothing may go to the next wait after this long, even if
/// its node lives. It is longer than Redis may stand still unnoticed, and than it takes
/// to find a dead node: what Redis is told waits meanwhile.
pub(super) const LEASE: Duration = Duration::from_secs(15);

/// An operation may be repeated, and a sign-in given up, for this long after it was carried
/// out: longer than a sign-in and its undoing are tried together. A caller that has to
/// wait longer for Redis may carry out an operation twice.
const OP_LIFE: Duration = Duration::from_secs(40);

/// Verbs that are refused while Redis is out of memory. The others make room.
const GROWING: [&str; 12] = [
    "add_peer",
    "add_unlisted",
    "announce",
    "claim",
    "join",
    "list_peer",
    "publish",
    "push_more",
    "push_owed",
    "send",
    "send_to_alias",
    "watch_for",
];

/// Verbs that concern one peer or two, and take little time: many of them go to Redis
/// together.
const LIGHT: [&str; 16] = [
    "acknowledge",
    "add_peer",
    "check_token",
    "close_socket",
    "done",
    "end_wait",
    "heard",
    "heard_before",
    "heartbeat",
    "leave",
    "seen",
    "send",
    "signed_in",
    "take",
    "unlink",
    "wait",
];

/// Of the light verbs those that may remove a peer, whose farewell many others hear. They keep
/// their turn, and go to Redis alone.
const ALONE: [&str; 2] = ["close_socket", "leave"];

/// Through which function of the library a verb is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    /// Redis refuses it while Redis is out of memory.
    Growing,
    Other,
}

impl Function {
    pub fn of(verb: &str) -> Self {
        match GROWING.contains(&verb) {
            true => Self::Growing,
            false => Self::Other,
        }
    }
}

/// Whether no other call may go together with this verb.
pub(super) fn goes_alone(verb: &str) -> bool {
    ALONE.contains(&verb)
}

/// Whether many calls of this verb may go together.
pub(super) fn is_light(verb: &str) -> bool {
    LIGHT.contains(&verb)
}

/// The parts of the script. Each uses only those before it.
pub(super) const SCRIPT: &str = concat!(
    include_str!("script/base.lua"),
    include_str!("script/life.lua"),
    include_str!("script/peer.lua"),
    include_str!("script/changes.lua"),
    include_str!("script/mailbox.lua"),
    include_str!("script/channels.lua"),
    include_str!("script/removal.lua"),
    include_str!("script/aliases.lua"),
    include_str!("script/unlisted.lua"),
    include_str!("script/polling.lua"),
    include_str!("script/waiting.lua"),
    include_str!("script/sockets.lua"),
    include_str!("script/watching.lua"),
    include_str!("script/nodes.lua"),
    include_str!("script/call.lua"),
);

/// The script as a library of functions in Redis. A call is a third faster than
/// evaluating the script for each verb.
pub(super) struct Library {
    /// The name of the library, which differs from that of another version or of other
    /// settings.
    pub name: String,
    /// The name of the function for [`GROWING`] verbs.
    growing: String,
    text: String,
}

impl Library {
    pub fn new(heartbeat: &HeartbeatOpts, db: i64, shards: NonZeroUsize) -> Self {
        let body = format!(
            "{}local DB, SHARDS = {db}, {shards}\n{SCRIPT}",
            constants(heartbeat)
        );
        #[cfg(test)]
        let body = test_clock::put_into(&body);
        let digest = Sha256::digest(&body);
        let name = format!("signal_{}", hex::encode(&digest[..8]));
        let growing = format!("{name}_growing");
        let text =
            format!("#!lua name={name}\nlocal NAME, GROWING = '{name}', '{growing}'\n{body}");
        Self {
            name,
            growing,
            text,
        }
    }

    /// Makes a call of the function that carries out this verb in a shard, whose keys begin
    /// with `prefix`; the other arguments follow.
    ///
    /// It names a key that does not exist. While a cluster moves the slot of the shard, key by
    /// key, it refuses that (ASK): so no verb is carried out while some keys of the shard are
    /// at one master and some at another.
    pub fn call(&self, verb: &str, prefix: &str) -> Cmd {
        self.call_through(Function::of(verb), prefix)
    }

    /// As [`Library::call`], for any verbs of this function.
    pub fn call_through(&self, function: Function, prefix: &str) -> Cmd {
        let mut call = redis::cmd("FCALL");
        call.arg(match function {
            Function::Growing => &self.growing,
            Function::Other => &self.name,
        });
        call.arg(1).arg(prefix);
        call
    }

    pub async fn load(&self, connection: &mut impl ConnectionLike) -> redis::RedisResult<()> {
        let mut load = redis::cmd("FUNCTION");
        load.arg("LOAD").arg("REPLACE").arg(&self.text);
        load.exec_async(connection).await
    }
}

pub(super) fn is_unknown_function(error: &redis::RedisError) -> bool {
    // Redis has no error code for an unknown function.
    error.code() == Some("ERR") && error.detail() == Some("Function not found")
}

/// The settings of the list, as constants of the script.
fn constants(opts: &HeartbeatOpts) -> String {
    let ms = |duration: Duration| duration.as_millis();
    // Without a limit no network is counted.
    let max_of_network = opts.max_peers_per_network.unwrap_or(opts.max_peers);
    let max_room_peers = opts.max_room_peers.unwrap_or(opts.max_peers);
    format!(
        "local TIMEOUT, PATIENCE, ANY_REQUEST = {}, {}, {}\n\
         local BOUND, OVERHEAD = {}, {MESSAGE_OVERHEAD_BYTES}\n\
         local MAX_PEERS, MAX_ROOM_PEERS = {}, {max_room_peers}\n\
         local MAX_OF_NETWORK = {max_of_network}\n\
         local LOG_LENGTH, EVENTS_KEPT, EVENTS_QUEUED = {LOG_LENGTH}, {EVENTS_KEPT}, {EVENTS_QUEUED}\n\
         local LINGER, REPEAT_PAUSE, REPOLL_PATIENCE, LEASE = {}, {}, {}, {}\n\
         local LATE_REQUEST, LINGER_FORESEEN = {}, {}\n\
         local NODE_LIFE, STANDSTILL, OP_LIFE = {}, {}, {}\n",
        ms(opts.timeout_period),
        ms(patience(opts)),
        opts.any_request,
        opts.max_pending_bytes,
        opts.max_peers,
        ms(LINGER),
        ms(REPEAT_PAUSE),
        ms(REPOLL_PATIENCE),
        ms(LEASE),
        ms(LATE_REQUEST),
        ms(LINGER_FORESEEN),
        ms(NODE_LIFE),
        ms(2 * sign_period(opts)),
        ms(OP_LIFE),
    )
}

/// In tests the script reads the time that the test has written, in microseconds.
#[cfg(test)]
pub(in crate::peer_list) mod test_clock {
    /// The key of that time, after the prefix.
    pub const KEY: &str = "test_clock";

    pub fn put_into(script: &str) -> String {
        const TIME: &str = "call('TIME')";
        let written = format!("tonumber(call('GET', P .. '{KEY}'))");
        let time = format!("{{ math.floor({written} / 1000000), {written} % 1000000 }}");
        assert_eq!(script.matches(TIME).count(), 1);
        script.replace(TIME, &time)
    }
}
