//! What every list says of a peer: its id, its name, and how it comes in.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;

/// The longest name a peer can have, in bytes; longer ones are cut.
pub const MAX_NAME_BYTES: usize = 512;

/// Identifies a peer: a positive number that fits in 31 bits, because clients
/// keep it in a C `int` with -1 for "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(u32);

impl PeerId {
    /// The largest id, 2^31 - 1.
    pub const MAX: PeerId = PeerId(i32::MAX.unsigned_abs());

    /// The id with this number, if it is from 1 to 2^31 - 1.
    pub fn new(number: u32) -> Option<Self> {
        (1..=Self::MAX.0).contains(&number).then_some(Self(number))
    }

    /// Reads an id: decimal digits and nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let is_decimal = text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_decimal);
        number.and_then(Self::new)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a peer wants to hear that somebody joined or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The whole list, and only its newest state: clients of
    /// `webrtc-signal-http`, which sign in with `peer_name=NAME`.
    Listed,
    /// One line for each change, in order: WebRTC's `peerconnection_client`,
    /// which signs in with a bare `?NAME` and reads one line of an update.
    Bare,
    /// Not at all: clients whose protocol has no message for it.
    Silent,
}

impl Dialect {
    /// The version of the list that such a peer has heard of, if it was shown
    /// this one.
    pub(super) fn knows(self, shown: u64) -> u64 {
        match self {
            Dialect::Listed | Dialect::Bare => shown,
            // It is never behind.
            Dialect::Silent => u64::MAX,
        }
    }
}

/// Who is behind a peer, as the server knows it beside what the peer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user that access control has found. A peer comes back only for the same user.
    pub user: Option<Arc<str>>,
    /// The address of its client, if operators want to see it.
    pub address: Option<IpAddr>,
    /// The network of its client, for [`HeartbeatOpts::max_peers_per_network`].
    ///
    /// [`HeartbeatOpts::max_peers_per_network`]: super::HeartbeatOpts::max_peers_per_network
    pub network: Option<IpNet>,
    /// The ICE servers that only this peer is told of, as JSON. The list keeps them for its door.
    pub ice_servers: Option<Arc<str>>,
}

/// How a peer signs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignInOpts {
    /// The name of its door, as events and the operator's API show it. It has no spaces.
    pub door: &'static str,
    /// How it hears of others.
    pub dialect: Dialect,
    /// Whether each request that acts as the peer has to show its token from the start.
    /// (After a request has shown it, each has to in any case.)
    pub protected: bool,
    /// Whether it signs in by the socket that it opens.
    pub has_socket: bool,
    /// Who is behind it.
    pub identity: Identity,
}

/// A name as it may stand in a line of the list: commas, control characters, line
/// separators and controls of the direction of writing become `_`, and it is cut to
/// [`MAX_NAME_BYTES`] on a character boundary. Without this a name could forge a
/// line, or look like another.
pub(crate) fn name_for_list(name: &str) -> Arc<str> {
    let mut clean = String::with_capacity(name.len().min(MAX_NAME_BYTES));
    for c in name.chars() {
        let c = if is_misleading(c) { '_' } else { c };
        if clean.len() + c.len_utf8() > MAX_NAME_BYTES {
            break;
        }
        clean.push(c);
    }
    clean.into()
}

/// Whether a character may not stand in a line of the list.
fn is_misleading(c: char) -> bool {
    let ends_line = matches!(c, ',' | '\u{2028}' | '\u{2029}');
    // Unicode's Bidi_Control.
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    ends_line || turns || c.is_control()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_name_makes_the_reader_panic_or_forges_a_line(name in any::<String>(), tail in "[a-zé🦀,\n]{0,600}") {
            let clean = name_for_list(&(name + &tail));
            prop_assert!(clean.len() <= MAX_NAME_BYTES);
            prop_assert!(!clean.contains(|c: char| c == ',' || c.is_control()));
        }

        #[test]
        fn a_harmless_name_stays_as_it_is(name in "[a-zA-Z0-9@._ é🦀-]{1,100}") {
            prop_assert_eq!(&*name_for_list(&name), name.as_str());
        }
    }

    #[test]
    fn a_name_can_neither_break_its_line_nor_turn_the_direction_of_writing() {
        let name = "a\u{2028}b\u{2029}c\u{202e}d\u{2066}e\u{200f}f\u{61c}g\u{85}h\u{7f}";
        assert_eq!(&*name_for_list(name), "a_b_c_d_e_f_g_h_");
    }

    #[test]
    fn a_long_name_is_cut_before_the_character_that_does_not_fit() {
        let name = "x".repeat(MAX_NAME_BYTES - 1) + "é";
        assert_eq!(&*name_for_list(&name), "x".repeat(MAX_NAME_BYTES - 1));
    }
}
