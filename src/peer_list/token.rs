//! The secret by which a peer proves that it is itself.

use std::{fmt, num::ParseIntError};

use subtle::ConstantTimeEq;

/// How long a token is, in hexadecimal digits.
const DIGITS: usize = 32;

/// 128 random bits that only the peer knows. Shown to it as 32 hexadecimal
/// digits, and to nobody else: `Debug` does not print it.
#[derive(Clone, Copy)]
pub struct PeerToken(u128);

impl PeerToken {
    /// A new one, from the system's source of randomness.
    ///
    /// # Panics
    ///
    /// If the system has no source of randomness; every system that this server runs on
    /// has one.
    pub(super) fn random() -> Self {
        let mut bytes = [0; DIGITS / 2];
        #[expect(clippy::expect_used, reason = "without secrets nobody may be let in")]
        getrandom::fill(&mut bytes).expect("the system has a source of randomness");
        Self(u128::from_ne_bytes(bytes))
    }

    /// Reads the token that a client shows. None if it is not valid.
    pub fn parse(shown: &str) -> Option<Self> {
        let is_hex = shown.bytes().all(|b| b.is_ascii_hexdigit());
        let parsed: Result<u128, ParseIntError> = u128::from_str_radix(shown, 16);
        parsed
            .ok()
            .filter(|_| is_hex && shown.len() == DIGITS)
            .map(Self)
    }

    /// Whether both are the same, in constant time.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The token as its peer is sent it.
    pub fn digits(&self) -> String {
        format!("{:032x}", self.0)
    }
}

impl fmt::Debug for PeerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerToken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_again_and_no_other() {
        let token = PeerToken::random();
        let shown = token.digits();
        assert_eq!(shown.len(), DIGITS);
        assert!(PeerToken::parse(&shown).unwrap().is(&token));
        assert!(!PeerToken::random().is(&token));
        assert_eq!(format!("{token:?}"), "PeerToken");
    }

    #[test]
    fn what_is_not_32_digits_is_no_token() {
        let digits = "0123456789abcdef0123456789abcdef";
        assert!(PeerToken::parse(digits).is_some());
        for wrong in [
            "",
            &digits[1..],
            &format!("{digits}0"),
            &digits.replace('f', "g"),
            "+123456789abcdef0123456789abcdef0",
        ] {
            assert!(PeerToken::parse(wrong).is_none(), "{wrong}");
        }
    }
}
