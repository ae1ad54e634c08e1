//! The URLs of ICE servers (RFC 7064 for STUN, RFC 7065 for TURN).

use std::net::Ipv6Addr;

/// Whether this is the URL of a TURN server.
pub(super) fn is_turn(url: &str) -> bool {
    url.starts_with("turn:") || url.starts_with("turns:")
}

/// Whether browsers take this for the URL of an ICE server.
pub(super) fn is_valid(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once(':') else {
        return false;
    };
    match scheme {
        "stun" | "stuns" => is_host_and_port(rest),
        "turn" | "turns" => {
            let (address, transport) = match rest.split_once('?') {
                Some((address, query)) => (address, query.strip_prefix("transport=")),
                None => (rest, Some("udp")),
            };
            is_host_and_port(address) && matches!(transport, Some("udp" | "tcp"))
        }
        _ => false,
    }
}

fn is_host_and_port(text: &str) -> bool {
    let (is_host, port) = match text.strip_prefix('[') {
        Some(text) => {
            let Some((address, port)) = text.split_once(']') else {
                return false;
            };
            (address.parse::<Ipv6Addr>().is_ok(), port)
        }
        None => {
            let end = text.find(':').unwrap_or(text.len());
            let (host, port) = text.split_at(end);
            (is_host(host), port)
        }
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    is_host && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
}

fn is_host(host: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !host.is_empty() && host.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_that_browsers_take() {
        for right in [
            "stun:stun.example.org",
            "stuns:192.0.2.1:5349",
            "turn:[2001:db8::1]:3478?transport=udp",
            "turns:example.org:443?transport=tcp",
            "turn:[::1]",
        ] {
            assert!(is_valid(right), "{right}");
        }
        for wrong in [
            "stun",
            "stun:",
            "stun:a:0",
            "stun:a:70000",
            "stun:a:",
            "stun:a?transport=udp",
            "stun://a",
            "turn:a?transport=sctp",
            "turn:a?x",
            "turn:[::1",
            "turn:[a]:1",
            "turn:a b",
            "STUN:a",
            "turn:user@a",
        ] {
            assert!(!is_valid(wrong), "{wrong}");
        }
    }
}
