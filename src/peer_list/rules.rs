//! The rules that every peer list keeps, wherever it lives.

use std::time::Duration;

use super::HeartbeatOpts;

/// A peer counts as connected for this long after the last sign of life of a
/// kind that is followed by a pause: clients close and poll anew.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// From this timeout up a heartbeat that is on its way is waited for.
const GRACE_FROM: Duration = Duration::from_secs(10);

/// How long it is waited for. Clients are told to beat once a period, and
/// without this a collector that runs in the gap would throw them out.
const GRACE: Duration = Duration::from_secs(3);

/// How long after its last heartbeat a peer is stale.
pub(super) fn patience(opts: &HeartbeatOpts) -> Duration {
    if opts.timeout_period >= GRACE_FROM {
        opts.timeout_period + GRACE
    } else {
        opts.timeout_period
    }
}

/// A message is not repeated sooner than this after it was given: a client that
/// never acknowledges must not become a hot loop.
pub(super) const REPEAT_PAUSE: Duration = Duration::from_secs(1);

/// A peer that signs out later, and whose wait is ended to see whether it is there,
/// may take this long to poll again.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// A request that comes this soon after a peer has said that it signs out later may
/// have been sent before: it does not show that the peer is there.
pub(super) const LATE_REQUEST: Duration = Duration::from_secs(1);

/// The alias of a peer whose socket has been closed for this long is free for others:
/// one that still lives is back by then. (`socket.io-client` tries after 1 s, and 2.)
pub(super) const NAME_KEPT: Duration = Duration::from_secs(5);

/// A timer that is later than this fired late because this process stood still (a
/// suspended machine, SIGSTOP). What clients sent meanwhile was not read.
pub(crate) const STANDSTILL: Duration = Duration::from_secs(1);

/// How long a sender that cannot be refused waits for room in a mailbox.
pub(super) const ROOM_PATIENCE: Duration = Duration::from_secs(1);

/// A node that was not heard of for this long is dead.
pub(super) const NODE_LIFE: Duration = Duration::from_secs(10);

/// No sign of life is given more often than this, however soon peers are stale.
const SHORTEST_SIGN: Duration = Duration::from_millis(100);

/// How often the process that has a list (or Redis, for it) sees that time passes.
/// When that did not happen twice in a row it stood still, and that is to be seen
/// before a peer is stale for it.
pub(super) fn sign_period(opts: &HeartbeatOpts) -> Duration {
    let sign = (opts.timeout_period / 4).max(SHORTEST_SIGN);
    sign.min(NODE_LIFE / 4)
}
