//! Which addresses count as one, and counting by them.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use dashmap::DashMap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// How much of an address of IPv6 counts, in bits: a provider gives each customer at least this
/// network (RFC 6177), whose owner can take any address in it.
const OF_ONE: u8 = 64;

/// All addresses that one client can have: its address, or with IPv6 its network.
pub(crate) fn network_of(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Net::from(address).into(),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> (128 - OF_ONE) << (128 - OF_ONE);
            let network = Ipv6Net::new_assert(Ipv6Addr::from(network), OF_ONE);
            network.into()
        }
    }
}

/// How many of something each network has.
#[derive(Clone, Debug, Default)]
pub(crate) struct PerNetwork(Arc<DashMap<IpNet, usize>>);

impl PerNetwork {
    /// Counts one more. None: the network has as many as it may have.
    pub fn take(&self, network: IpNet, max: usize) -> Option<OfNetwork> {
        let mut count = self.0.entry(network).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        let counts = self.0.clone();
        Some(OfNetwork { counts, network })
    }
}

/// Counts one of a network, for as long as this lives.
#[derive(Debug)]
pub(crate) struct OfNetwork {
    counts: Arc<DashMap<IpNet, usize>>,
    network: IpNet,
}

impl Drop for OfNetwork {
    fn drop(&mut self) {
        self.counts.remove_if_mut(&self.network, |_, count| {
            *count -= 1;
            *count == 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_with_ipv6_are_told_apart_by_their_network() {
        let network = |text: &str| network_of(text.parse().unwrap()).to_string();
        assert_eq!(network("192.0.2.7"), "192.0.2.7/32");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7/32");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(network("2001:db8:1:2::"), "2001:db8:1:2::/64");
        assert_eq!(network("::1"), "::/64");
    }

    #[test]
    fn what_is_counted_ends_with_its_guard_and_leaves_nothing() {
        let counts = PerNetwork::default();
        let network = network_of("192.0.2.7".parse().unwrap());
        let first = counts.take(network, 2).unwrap();
        let _second = counts.take(network, 2).unwrap();
        assert!(counts.take(network, 2).is_none());
        let other = network_of("192.0.2.8".parse().unwrap());
        drop(counts.take(other, 2));
        drop(first);
        assert!(counts.take(network, 2).is_some());
        assert_eq!(counts.0.len(), 1);
    }
}
