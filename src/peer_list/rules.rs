//! The rules that every peer list keeps, wherever it lives.

use std::time::Duration;

use super::HeartbeatOpts;

/// A peer counts as connected for this long after its sign-in, an answered wait, or a
/// request over HTTP/1.0: clients close their connection and poll again.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// A peer whose answered wait is told of late still counts as connected for this long: Redis
/// hears of some when their clients have not polled again for half a second.
#[cfg(feature = "redis")]
pub(super) const LINGER_FORESEEN: Duration = Duration::from_millis(1400);

/// Timeouts of at least this long include some grace for late heartbeats.
const GRACE_FROM: Duration = Duration::from_secs(10);

/// The grace. Clients are told to send a heartbeat once a period; without grace, a
/// collector that runs just before the heartbeat arrives would remove them.
const GRACE: Duration = Duration::from_secs(3);

/// How long after its last heartbeat a peer is stale.
pub(super) fn patience(opts: &HeartbeatOpts) -> Duration {
    if opts.timeout_period >= GRACE_FROM {
        opts.timeout_period + GRACE
    } else {
        opts.timeout_period
    }
}

/// A message is repeated at the soonest this long after it was given: a client that never
/// acknowledges must not become a hot loop.
pub(super) const REPEAT_PAUSE: Duration = Duration::from_secs(1);

/// A peer that signs out later, and whose wait is ended to find out whether it still runs,
/// has this long to poll again.
pub(super) const REPOLL_PATIENCE: Duration = Duration::from_secs(2);

/// A request that comes this soon after a peer has said that it signs out later may have
/// been sent before that: it does not show that the peer still runs.
pub(super) const LATE_REQUEST: Duration = Duration::from_secs(1);

/// A timer that fires more than this behind its time shows that the process stood still
/// (a suspended machine, SIGSTOP). What clients sent meanwhile was not read.
pub(crate) const STANDSTILL: Duration = Duration::from_secs(1);

/// How long a sender that cannot be refused waits for room in a mailbox.
pub(super) const SPACE_PATIENCE: Duration = Duration::from_secs(1);

/// A node that was not heard of for this long is dead.
pub(super) const NODE_LIFE: Duration = Duration::from_secs(10);

/// Signs of life are at least this far apart, however soon peers are stale.
const SHORTEST_SIGN: Duration = Duration::from_millis(100);

/// How often the process that has a list (or Redis, for it) looks at the clock. If two
/// looks in a row were missed, it stood still; this has to be found out before a peer is
/// taken for stale.
pub(super) fn sign_period(opts: &HeartbeatOpts) -> Duration {
    let sign = (opts.timeout_period / 4).max(SHORTEST_SIGN);
    sign.min(NODE_LIFE / 4)
}
