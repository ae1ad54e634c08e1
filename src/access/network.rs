//! Whose address counts as whose.

use std::net::{IpAddr, Ipv6Addr};

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
}
