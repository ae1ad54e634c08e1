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

/// How long a sender that cannot be refused waits for room in a mailbox.
pub(super) const ROOM_PATIENCE: Duration = Duration::from_secs(1);
