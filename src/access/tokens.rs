//! Access tokens that all clients share.

use secrecy::{ExposeSecret, SecretString};
use subtle::{Choice, ConstantTimeEq};

use super::{Denied, Grant, KeyError};

pub(super) fn check(tokens: &[SecretString]) -> Result<(), KeyError> {
    let is_empty = |token: &SecretString| token.expose_secret().is_empty();
    if tokens.is_empty() || tokens.iter().any(is_empty) {
        return Err(KeyError::EmptyToken);
    }
    Ok(())
}

/// All are compared, so that the time does not tell which one is nearly right.
pub(super) fn check_shown(tokens: &[SecretString], shown: Option<&str>) -> Result<Grant, Denied> {
    let shown = shown.ok_or(Denied::Missing)?.as_bytes();
    let same = tokens.iter().fold(Choice::from(0), |same, token| {
        same | token.expose_secret().as_bytes().ct_eq(shown)
    });
    if bool::from(same) {
        Ok(Grant::default())
    } else {
        Err(Denied::Invalid)
    }
}
