//! The address of a client, also behind proxies.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// The proxies that are believed when they say whose request they pass on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Their addresses.
    pub networks: Vec<IpNet>,
    /// The header in which they say it: each adds the address that it was asked from.
    pub header: HeaderName,
}

impl Default for TrustedProxies {
    /// None is believed.
    fn default() -> Self {
        Self {
            networks: Vec::new(),
            header: HeaderName::from_static("x-forwarded-for"),
        }
    }
}

impl TrustedProxies {
    /// The address of the client whose request came from this one: from there on back, the first
    /// that is not of a trusted proxy. What a client writes into the header itself stands before
    /// that and is not read.
    pub(crate) fn client(&self, from: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = from.to_canonical();
        if !self.trust(client) {
            return client;
        }
        // Several lines are one list.
        let lines = headers.get_all(&self.header).into_iter().rev();
        let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for entry in entries {
            // An entry that is no address says nothing of those before it.
            let Some(address) = read(entry) else { break };
            client = address.to_canonical();
            if !self.trust(client) {
                break;
            }
        }
        client
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.networks
            .iter()
            .any(|network| network.contains(&address))
    }
}

/// An address, which some proxies write with a port, and in brackets if it is one of IPv6.
fn read(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim();
    let bare = entry
        .strip_prefix('[')
        .and_then(|entry| entry.strip_suffix(']'));
    let address = bare.unwrap_or(entry).parse().ok();
    address.or_else(|| {
        entry
            .parse()
            .ok()
            .map(|with_port: SocketAddr| with_port.ip())
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn client(from: &str, lines: &[&str]) -> String {
        let proxies = TrustedProxies {
            networks: ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"]
                .map(|network| network.parse().unwrap())
                .into(),
            ..TrustedProxies::default()
        };
        let headers = lines
            .iter()
            .map(|line| (proxies.header.clone(), line.parse().unwrap()))
            .collect();
        proxies.client(from.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn nobody_is_believed_who_is_not_trusted() {
        assert_eq!(client("203.0.113.7", &["198.51.100.1"]), "203.0.113.7");
        let none = TrustedProxies::default();
        let headers =
            HeaderMap::from_iter([(none.header.clone(), "198.51.100.1".parse().unwrap())]);
        let from: IpAddr = "127.0.0.1".parse().unwrap();
        assert_eq!(none.client(from, &headers), from);
    }

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_no_trusted_proxy() {
        for (lines, found) in [
            (&["198.51.100.1"][..], "198.51.100.1"),
            (&["203.0.113.66, 198.51.100.1"], "198.51.100.1"),
            (
                &["203.0.113.66, 198.51.100.1, 10.1.1.1, 192.0.2.1"],
                "198.51.100.1",
            ),
            (&["203.0.113.66", "198.51.100.1,10.1.1.1"], "198.51.100.1"),
            (&["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
            (&["198.51.100.1:4711"], "198.51.100.1"),
            (&["[2001:db9::7]:4711"], "2001:db9::7"),
            (&["[2001:db9::7], 2001:db8::1"], "2001:db9::7"),
            (&["::ffff:198.51.100.1"], "198.51.100.1"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", lines), found, "{lines:?}");
        }
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
    }

    #[test]
    fn what_stands_before_an_entry_that_is_no_address_is_not_read() {
        for (lines, found) in [
            (&["198.51.100.1, unknown"][..], "10.0.0.1"),
            (&["198.51.100.1, x, 10.2.2.2"], "10.2.2.2"),
            (&["198.51.100.1,"], "10.0.0.1"),
            (&["198.51.100.1", "\u{e9}"], "10.0.0.1"),
            (&["1.2.3.4.5"], "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", lines), found, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_reader_panic_or_an_untrusted_client_another(
            lines in prop::collection::vec(
                prop::collection::vec(prop_oneof![any::<u8>(), Just(b','), Just(b'1'), Just(b':')], 0..40), 0..4),
            from in any::<std::net::IpAddr>(),
        ) {
            let proxies = TrustedProxies {
                networks: vec!["10.0.0.0/8".parse().unwrap(), "::/1".parse().unwrap()],
                ..TrustedProxies::default()
            };
            let lines = lines.into_iter().filter_map(|line| HeaderValue::from_bytes(&line).ok());
            let headers = lines.map(|line| (proxies.header.clone(), line)).collect();
            let client = proxies.client(from, &headers);
            if !proxies.trust(from.to_canonical()) {
                prop_assert_eq!(client, from.to_canonical());
            }
        }
    }
}
