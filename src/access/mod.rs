//! Who may come in: one check, which every door makes before it adds a peer.
//!
//! A door hands over what its client shows ([`Asking`]), and gets an [`Admitted`], without
//! which it cannot sign a peer in. This knows neither HTTP nor any door's protocol.

#[cfg(feature = "access")]
mod application;
#[cfg(feature = "access")]
mod fetching;
#[cfg(feature = "access")]
mod jwks;
#[cfg(feature = "access")]
mod jwt;
#[cfg(feature = "access")]
mod key;
#[cfg(feature = "access")]
mod keys;
#[cfg(feature = "access")]
mod rate;
#[cfg(feature = "access")]
mod signatures;
#[cfg(feature = "access")]
mod tokens;

use std::{fmt, net::IpAddr, sync::Arc};

#[cfg(feature = "access")]
use secrecy::SecretString;
use thiserror::Error;

#[cfg(feature = "access")]
pub use application::Application;
#[cfg(feature = "access")]
pub use jwt::{Jwt, JwtOpts};
#[cfg(feature = "access")]
pub use key::KeyError;
#[cfg(feature = "access")]
pub use keys::JwtKeys;
#[cfg(feature = "access")]
pub use rate::SignInRate;

use crate::peer_list::{Identity, RoomName, name_for_list};

/// The longest token that is looked at, in bytes. The head of an HTTP request has little more.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Who may come in. By default everybody. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Access {
    way: Arc<Way>,
    #[cfg(feature = "access")]
    sign_ins: Option<Arc<SignInRate>>,
}

/// How it is found out who may come in.
#[derive(Debug, Default)]
enum Way {
    /// Everybody may.
    #[default]
    Open,
    /// Who shows one of these tokens.
    #[cfg(feature = "access")]
    Tokens(Vec<SecretString>),
    /// Who shows a JSON Web Token that is valid.
    #[cfg(feature = "access")]
    Jwt(Jwt),
    /// Whom the application admits.
    #[cfg(feature = "access")]
    Application(Application),
}

/// A client that wants to come in.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// The access token that it shows.
    pub token: Option<&'a str>,
    /// The room. None: the root list.
    pub room: Option<&'a RoomName>,
    /// The name that it gives itself.
    pub name: Option<&'a str>,
    /// The door, as events and the operator's API show it.
    pub door: &'static str,
    /// Its address.
    pub address: Option<IpAddr>,
}

impl fmt::Debug for Asking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asking({:?}, {:?})", self.room, self.name)
    }
}

/// A client that may come in. Only [`Access`] makes one.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// Who it is.
    pub(crate) identity: Identity,
    name: Option<Arc<str>>,
}

impl Admitted {
    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The name that it has to have, if it may not choose one.
    pub fn fixed_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The name that its peer gets, of the one that it gives itself.
    ///
    /// # Errors
    ///
    /// [`Denied::Name`] if it has to have another.
    pub fn name<'a>(&'a self, given: Option<&'a str>) -> Result<Option<&'a str>, Denied> {
        match (&self.name, given) {
            (None, given) => Ok(given),
            (Some(fixed), Some(given)) if *fixed != name_for_list(given) => Err(Denied::Name),
            (Some(fixed), _) => Ok(Some(fixed)),
        }
    }
}

/// Why a client may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// It shows no token.
    #[error("the access token is missing")]
    Missing,
    /// Its token is not valid here.
    #[error("the access token is not valid")]
    Invalid,
    /// Its token is not valid any more.
    #[error("the access token has expired")]
    Expired,
    /// Its token is not valid yet.
    #[error("the access token is not valid yet")]
    TooEarly,
    /// It may come in, but not into this room.
    #[error("the access token does not allow this room")]
    Room,
    /// It may come in, but not with this name.
    #[error("the access token does not allow this name")]
    Name,
    /// The application does not admit it.
    #[error("the application does not admit this client")]
    Refused,
    /// Too many clients of its address have signed in of late.
    #[error("too many sign-ins come from this address")]
    TooOften {
        /// No other may sign in for this many seconds.
        seconds: u64,
    },
    /// What would know cannot be reached.
    #[error("it cannot be found out now whether this client may come in")]
    Unavailable,
}

impl Denied {
    /// The names of all, as metrics have them.
    pub(crate) const NAMES: [&str; 9] = [
        "missing",
        "invalid",
        "expired",
        "too_early",
        "room",
        "name",
        "refused",
        "too_often",
        "unavailable",
    ];

    /// Where its name stands.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Missing => 0,
            Self::Invalid => 1,
            Self::Expired => 2,
            Self::TooEarly => 3,
            Self::Room => 4,
            Self::Name => 5,
            Self::Refused => 6,
            Self::TooOften { .. } => 7,
            Self::Unavailable => 8,
        }
    }
}

/// What a valid token says of its client.
#[derive(Debug, Default)]
struct Grant {
    user: Option<Arc<str>>,
    name: Option<Arc<str>>,
    /// The rooms that it may come into; the root list is an empty name. None: all.
    rooms: Option<Vec<String>>,
    /// ICE servers that only it is told of, as JSON.
    ice_servers: Option<Arc<str>>,
}

#[cfg(feature = "access")]
impl From<Way> for Access {
    fn from(way: Way) -> Self {
        let way = Arc::new(way);
        let sign_ins = None;
        Self { way, sign_ins }
    }
}

#[cfg(feature = "access")]
impl Access {
    /// Who shows one of these tokens may come in.
    ///
    /// # Errors
    ///
    /// There is no token, or one is empty.
    pub fn with_tokens(tokens: Vec<SecretString>) -> Result<Self, KeyError> {
        tokens::check(&tokens)?;
        Ok(Way::Tokens(tokens).into())
    }

    /// Who shows a valid JSON Web Token may come in.
    pub fn with_jwt(jwt: Jwt) -> Self {
        Way::Jwt(jwt).into()
    }

    /// Whom the application admits may come in.
    pub fn with_application(application: Application) -> Self {
        Way::Application(application).into()
    }

    /// Checks that keys which are published somewhere can be read.
    ///
    /// # Errors
    ///
    /// They cannot.
    pub async fn check(&self) -> Result<(), KeyError> {
        match &*self.way {
            Way::Jwt(jwt) => jwt.check_keys().await,
            Way::Open | Way::Tokens(_) | Way::Application(_) => Ok(()),
        }
    }

    /// The same, with a limit of sign-ins for each address.
    #[must_use]
    pub fn with_sign_in_rate(self, rate: SignInRate) -> Self {
        let sign_ins = Some(Arc::new(rate));
        Self { sign_ins, ..self }
    }
}

impl Access {
    /// Whether everybody may come in.
    pub fn is_open(&self) -> bool {
        matches!(*self.way, Way::Open)
    }

    /// Counts a client that is about to sign in.
    ///
    /// # Errors
    ///
    /// [`Denied::TooOften`].
    pub fn count_sign_in(&self, address: Option<IpAddr>) -> Result<(), Denied> {
        #[cfg(feature = "access")]
        if let (Some(rate), Some(address)) = (&self.sign_ins, address) {
            let counted = rate.count(address);
            return counted.map_err(|wait| Denied::TooOften {
                // Rounded up: a client that comes a little early would have to wait again.
                seconds: wait.as_secs() + 1,
            });
        }
        let _ = address;
        Ok(())
    }

    /// Decides whether a client may come in.
    ///
    /// # Errors
    ///
    /// Why it may not.
    pub async fn admit(&self, asking: Asking<'_>) -> Result<Admitted, Denied> {
        let is_too_long = asking
            .token
            .is_some_and(|token| token.len() > MAX_TOKEN_BYTES);
        if is_too_long && !self.is_open() {
            return Err(Denied::Invalid);
        }
        let grant = match &*self.way {
            Way::Open => Grant::default(),
            #[cfg(feature = "access")]
            Way::Tokens(tokens) => tokens::check_shown(tokens, asking.token)?,
            #[cfg(feature = "access")]
            Way::Jwt(jwt) => jwt.check(asking.token.ok_or(Denied::Missing)?).await?,
            #[cfg(feature = "access")]
            Way::Application(application) => application.ask(asking).await?,
        };
        let room = asking.room.map_or("", RoomName::as_str);
        let allows = |rooms: &Vec<String>| rooms.iter().any(|allowed| allowed == room);
        if grant.rooms.as_ref().is_some_and(|rooms| !allows(rooms)) {
            return Err(Denied::Room);
        }
        let admitted = Admitted {
            identity: Identity {
                user: grant.user,
                address: None,
                network: None,
                ice_servers: grant.ice_servers,
            },
            name: grant.name,
        };
        admitted.name(asking.name)?;
        Ok(admitted)
    }
}
