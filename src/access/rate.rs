//! How often the clients of one address may sign in.

use std::{
    fmt,
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use ipnet::IpNet;

use crate::peer_list::network_of;

/// After this many sign-ins what is known of addresses that could sign in freely again is
/// forgotten.
const FORGET_EVERY: u32 = 1024;

/// A limit of sign-ins for each address (with IPv6 each network of 64 bits).
pub struct SignInRate {
    limiter: DefaultKeyedRateLimiter<IpNet>,
    clock: DefaultClock,
    seen: AtomicU32,
}

impl fmt::Debug for SignInRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignInRate")
    }
}

impl SignInRate {
    /// At most `count` sign-ins in each `time`, which may come at once.
    ///
    /// None if the time is too short for a clock to tell.
    pub fn new(count: NonZeroU32, time: Duration) -> Option<Self> {
        let quota = Quota::with_period(time / count.get())?.allow_burst(count);
        let clock = DefaultClock::default();
        Some(Self {
            limiter: RateLimiter::dashmap_with_clock(quota, clock.clone()),
            clock,
            seen: AtomicU32::new(0),
        })
    }

    /// Counts one more sign-in. An error says how long to wait.
    pub(super) fn count(&self, address: IpAddr) -> Result<(), Duration> {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        if seen.is_multiple_of(FORGET_EVERY) {
            self.limiter.retain_recent();
        }
        let counted = self.limiter.check_key(&network_of(address));
        counted.map_err(|early| early.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_limit() {
        let rate = SignInRate::new(NonZeroU32::new(3).unwrap(), Duration::from_secs(3600)).unwrap();
        let at = |address: &str| rate.count(address.parse().unwrap());
        for _ in 0..3 {
            assert_eq!(at("192.0.2.1"), Ok(()));
            assert_eq!(at("2001:db8::1"), Ok(()));
        }
        assert_eq!(at("192.0.2.2"), Ok(()));
        let wait = at("::ffff:192.0.2.1").unwrap_err();
        assert!(wait > Duration::from_secs(1000) && wait <= Duration::from_secs(1200));
        // Another address of the same network.
        assert!(at("2001:db8::2").is_err());
    }
}
