//! How many connections are open, in all and of each address.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ipnet::IpNet;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::ServeOpts;
use crate::{
    counter::{Gauge, One},
    doors::kit::DoorCounts,
    peer_list::{OfNetwork, PerNetwork, network_of},
};

/// The connections that are open, and how many may be.
#[derive(Debug)]
pub(super) struct Places {
    max: Option<usize>,
    max_of_address: Option<usize>,
    /// Proxies, whose connections are those of many clients.
    exempt: Vec<IpNet>,
    /// How many are open. Counted apart from `counts`, which several servers may share.
    open: Arc<AtomicUsize>,
    counts: Arc<DoorCounts>,
    of_address: PerNetwork,
}

/// Why there is no place for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// As many connections are open as may be.
    Full,
    /// As many connections of its address are open as may be.
    OfAddress,
}

impl Places {
    pub fn new(opts: &ServeOpts, counts: Arc<DoorCounts>) -> Arc<Self> {
        Arc::new(Self {
            max: opts.max_connections,
            max_of_address: opts.max_connections_per_address,
            exempt: opts.proxies.clone(),
            open: Arc::default(),
            counts,
            of_address: PerNetwork::default(),
        })
    }

    /// Takes a place for a connection from this address.
    pub fn take(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Place, NoPlace> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        let mut place = Place {
            open: self.open.clone(),
            suspended: self.counts.suspended.clone(),
            _one: self.counts.connections.one(),
            _of_address: None,
        };
        if self.max.is_some_and(|max| before >= max) {
            self.counts.refused_as_full.count();
            return Err(NoPlace::Full);
        }
        let address = address.map(|address| address.to_canonical());
        let counted = address.filter(|address| !self.is_exempt(address));
        if let (Some(max), Some(address)) = (self.max_of_address, counted) {
            let Some(taken) = self.of_address.take(network_of(address), max) else {
                self.counts.refused_by_address.count();
                return Err(NoPlace::OfAddress);
            };
            place._of_address = Some(taken);
        }
        Ok(place)
    }

    fn is_exempt(&self, address: &IpAddr) -> bool {
        self.exempt.iter().any(|network| network.contains(address))
    }
}

/// The place of one connection, for as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    open: Arc<AtomicUsize>,
    suspended: Gauge,
    _one: One,
    _of_address: Option<OfNetwork>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a connection as open, for as long as its stream lives.
#[derive(Debug)]
pub(super) struct Open {
    pub _token: TaskTrackerToken,
    pub place: Place,
}

impl Open {
    /// Counts its request as suspended, for as long as what is returned lives.
    pub fn suspend(&self) -> One {
        self.place.suspended.one()
    }
}

#[cfg(test)]
impl Open {
    /// The only connection of a server.
    pub fn alone() -> Self {
        Self {
            _token: tokio_util::task::TaskTracker::new().token(),
            place: Places::new(&ServeOpts::default(), Arc::default())
                .take(None)
                .unwrap(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(max: Option<usize>, of_address: Option<usize>) -> Arc<Places> {
        Places::new(
            &ServeOpts {
                max_connections: max,
                max_connections_per_address: of_address,
                proxies: vec!["10.0.0.0/8".parse().unwrap()],
                ..ServeOpts::default()
            },
            Arc::default(),
        )
    }

    #[test]
    fn a_place_is_free_again_once_its_connection_is_closed() {
        let places = places(Some(2), None);
        let address = "192.0.2.1".parse().ok();
        let first = places.take(address).unwrap();
        let _second = places.take(address).unwrap();
        assert_eq!(places.take(address).unwrap_err(), NoPlace::Full);
        assert_eq!(places.take(None).unwrap_err(), NoPlace::Full);
        drop(first);
        assert!(places.take(address).is_ok());
    }

    #[test]
    fn each_address_has_places_of_its_own_and_proxies_any_number() {
        let places = places(None, Some(1));
        let take = |address: &str| places.take(address.parse().ok());
        let first = take("192.0.2.1").unwrap();
        assert_eq!(take("::ffff:192.0.2.1").unwrap_err(), NoPlace::OfAddress);
        let _other = take("192.0.2.2").unwrap();
        let _v6 = take("2001:db8::1").unwrap();
        assert_eq!(take("2001:db8::2").unwrap_err(), NoPlace::OfAddress);
        let _proxied = [take("10.1.2.3").unwrap(), take("::ffff:10.1.2.3").unwrap()];
        drop(first);
        assert!(take("192.0.2.1").is_ok());
    }
}
