//! The address to listen on, as people write it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, SocketAddrV6, ToSocketAddrs},
};

/// An address of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host(SocketAddr);

impl Host {
    /// Reads an address: an IP address, such as `[::1]` and `fe80::1%lo`, or a name that
    /// can be looked up. If the name has several addresses, an IPv4 address is preferred.
    pub fn find(text: &str) -> Option<Self> {
        let text = text.trim();
        let inner = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        let name = inner.unwrap_or(text);
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Some(ip.into());
        }
        if name.is_empty() {
            return None;
        }
        let mut found: Vec<SocketAddr> = (name, 0).to_socket_addrs().ok()?.collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        found.first().copied().map(Self)
    }

    /// The address with this port.
    pub fn at(self, port: u16) -> SocketAddr {
        let mut address = self.0;
        address.set_port(port);
        address
    }

    /// The address at which this machine reaches a server that listens here. For all
    /// addresses this is the loopback address.
    pub fn reached_at(self, port: u16) -> SocketAddr {
        match self.at(port) {
            SocketAddr::V4(address) if address.ip().is_unspecified() => {
                SocketAddr::from(([127, 0, 0, 1], port))
            }
            SocketAddr::V6(address) if address.ip().is_unspecified() => {
                SocketAddrV6::new(std::net::Ipv6Addr::LOCALHOST, port, 0, 0).into()
            }
            address => address,
        }
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self(SocketAddr::new(ip, 0))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.ip().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<String> {
        Host::find(text).map(|host| host.at(80).to_string())
    }

    #[test]
    fn an_address_may_be_written_as_people_write_it() {
        assert_eq!(found("127.0.0.1").as_deref(), Some("127.0.0.1:80"));
        for text in ["::1", "[::1]", " ::1 "] {
            assert_eq!(found(text).as_deref(), Some("[::1]:80"), "{text}");
        }
        assert_eq!(found("localhost").as_deref(), Some("127.0.0.1:80"));
        for text in ["", "[]", "no such name", "300.1.1.1", "x..invalid"] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn a_server_that_listens_on_all_addresses_is_reached_at_its_own() {
        let reached = |text: &str| Host::find(text).unwrap().reached_at(80).to_string();
        assert_eq!(reached("0.0.0.0"), "127.0.0.1:80");
        assert_eq!(reached("::"), "[::1]:80");
        assert_eq!(reached("127.0.0.9"), "127.0.0.9:80");
    }
}
