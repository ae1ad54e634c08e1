//! JSON Web Tokens (RFC 7519) that say who may come in.

use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;

use super::{Denied, Grant, JwtKeys, KeyError, key::Key, keys::Source, signatures};
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
            ice_servers: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
    use proptest::prelude::*;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.build().unwrap()
    }

    proptest! {
        #[test]
        fn no_token_makes_the_check_panic_or_is_taken_without_its_signature(
            header in prop_oneof![
                "\\{\"alg\":\"(none|None|HS256|HS512|RS256|ES256|EdDSA|)\"(,\"(kid|jwk|x5c|crit|typ)\":(\"[a-z]{0,3}\"|\\[\\]|\\{\\}|1))?\\}",
                ".{0,30}",
            ],
            claims in prop_oneof![
                "\\{\"exp\":[0-9]{1,22}(,\"(room|name|sub|nbf)\":(\"[a-z,]{0,3}\"|\\[\"a\"\\]|1|null))?\\}",
                ".{0,30}",
            ],
            signature in prop::collection::vec(any::<u8>(), 0..70),
            is_whole in any::<bool>(),
        ) {
            let keys = JwtKeys::secret(&"a secret of at least thirty-two bytes".into()).unwrap();
            let jwt = Jwt::new(keys, JwtOpts::default());
            let encode = |bytes: &[u8]| BASE64.encode(bytes);
            let token = if is_whole {
                [encode(header.as_bytes()), encode(claims.as_bytes()), encode(&signature)].join(".")
            } else {
                format!("{header}.{claims}")
            };
            let checked = runtime().block_on(jwt.check(&token));
            prop_assert!(checked.is_err());
        }
    }
}
