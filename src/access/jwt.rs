//! JSON Web Tokens (RFC 7519) that say who may come in.

use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;

use super::{
    Denied, Grant, JwtKeys, KeyError,
    keys::{Key, Source},
    signatures,
};
use crate::peer_list::name_for_list;

/// By how much the clocks of this server and of the issuer may differ, in s.
const LEEWAY: u64 = 30;

/// How JSON Web Tokens are checked.
#[derive(Debug)]
pub struct Jwt {
    keys: JwtKeys,
    opts: JwtOpts,
}

/// What a token has to say beside its signature.
#[derive(Clone, Debug, Default)]
pub struct JwtOpts {
    /// The audience that it has to be for.
    pub audience: Option<String>,
    /// Who has to have issued it.
    pub issuer: Option<String>,
}

/// The claims that this server reads, beside those that every token has.
#[derive(Deserialize)]
struct Claims {
    room: Option<RoomClaim>,
    name: Option<String>,
    sub: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RoomClaim {
    One(String),
    Several(Vec<String>),
}

impl Jwt {
    /// Tokens that are signed with these keys.
    pub fn new(keys: JwtKeys, opts: JwtOpts) -> Self {
        signatures::install();
        Self { keys, opts }
    }

    /// Checks that keys which are published can be read.
    pub(super) async fn check_keys(&self) -> Result<(), KeyError> {
        match &self.keys.0 {
            Source::Fixed(_) => Ok(()),
            Source::Jwks(jwks) => jwks.check().await,
        }
    }

    pub(super) async fn check(&self, token: &str) -> Result<Grant, Denied> {
        let header = decode_header(token).map_err(|_| Denied::Invalid)?;
        let keys = match &self.keys.0 {
            Source::Fixed(key) => vec![key.clone()],
            Source::Jwks(jwks) => jwks.keys_for(header.kid.as_deref(), header.alg).await?,
        };
        let mut refused = Denied::Invalid;
        for key in keys {
            match self.decode(token, &key) {
                Ok(claims) => return Grant::try_from(claims),
                Err(denied) => refused = denied,
            }
        }
        Err(refused)
    }

    fn decode(&self, token: &str, key: &Key) -> Result<Claims, Denied> {
        // The algorithm is that of the key, whatever the token says.
        let mut rules = Validation::new(key.algorithm);
        rules.leeway = LEEWAY;
        rules.validate_nbf = true;
        rules.validate_aud = self.opts.audience.is_some();
        // What has to be right has to be there.
        let mut required = vec!["exp"];
        if let Some(audience) = &self.opts.audience {
            rules.set_audience(&[audience]);
            required.push("aud");
        }
        if let Some(issuer) = &self.opts.issuer {
            rules.set_issuer(&[issuer]);
            required.push("iss");
        }
        rules.set_required_spec_claims(&required);
        let decoded = decode::<Claims>(token, &key.key, &rules);
        let decoded = decoded.map_err(|error| match error.kind() {
            ErrorKind::ExpiredSignature => Denied::Expired,
            ErrorKind::ImmatureSignature => Denied::TooEarly,
            _ => Denied::Invalid,
        });
        Ok(decoded?.claims)
    }
}

impl TryFrom<Claims> for Grant {
    type Error = Denied;

    fn try_from(claims: Claims) -> Result<Self, Denied> {
        let Claims { room, name, sub } = claims;
        let is_fit = |name: &String| !name.is_empty() && *name_for_list(name) == **name;
        if name.as_ref().is_some_and(|name| !is_fit(name)) {
            return Err(Denied::Invalid);
        }
        Ok(Self {
            user: sub.map(Into::into),
            name: name.map(Into::into),
            rooms: room.map(|room| match room {
                RoomClaim::One(room) => vec![room],
                RoomClaim::Several(rooms) => rooms,
            }),
        })
    }
}
