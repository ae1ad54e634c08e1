//! The ICE servers, as settings say them.

use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, values};
use crate::ice::IceServers;

/// What peers are told of STUN and TURN servers.
#[derive(Args, Clone)]
#[command(next_help_heading = "ICE servers")]
pub(super) struct IceOpts {
    /// The STUN and TURN servers that peers are told of [default: none]
    ///
    /// URLs with commas between them, or a JSON array of objects with `urls`, `username` and
    /// `credential`.
    #[arg(long, env = "WEBRTC_ICE_SERVERS", value_name = "SERVERS", hide_env_values = true, value_parser = values::secret)]
    ice_servers: Option<SecretString>,

    /// The secret of the TURN servers, from which peers get credentials that expire; needs
    /// WEBRTC_ICE_SERVERS
    ///
    /// It is the `static-auth-secret` of coturn. Of several with commas between them, the first is
    /// used.
    #[arg(long, env = "WEBRTC_TURN_SECRET", value_name = "SECRET", hide_env_values = true, value_parser = values::secret)]
    turn_secret: Option<SecretString>,

    /// How many seconds these credentials last
    ///
    /// From 60 to 86400.
    #[arg(long, env = "WEBRTC_TURN_TTL", value_name = "SECONDS", default_value = IceServers::DEFAULT_TTL.as_secs().to_string(), value_parser = values::turn_ttl)]
    turn_ttl: Duration,
}

impl IceOpts {
    /// The ICE servers.
    ///
    /// # Errors
    ///
    /// Settings that cannot be used.
    pub fn servers(&self) -> Result<IceServers, ConfigError> {
        let Some(servers) = &self.ice_servers else {
            return match self.turn_secret {
                None => Ok(IceServers::default()),
                Some(_) => Err(ConfigError(
                    "WEBRTC_TURN_SECRET (--turn-secret) needs WEBRTC_ICE_SERVERS (--ice-servers): set \
                     that too, or unset this"
                        .into(),
                )),
            };
        };
        let servers = servers.expose_secret();
        let found = IceServers::new(servers, self.turn_secret.as_ref(), self.turn_ttl);
        found.map_err(|why| {
            ConfigError(format!(
                "WEBRTC_ICE_SERVERS (--ice-servers) cannot be used: {why}"
            ))
        })
    }
}
