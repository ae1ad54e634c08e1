//! Who may come in, as settings say it.

use std::{fs, path::PathBuf};

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, values};
use crate::access::{Access, Application, Jwt, JwtKeys, JwtOpts};

/// Who may come in.
#[derive(Args, Clone)]
#[command(next_help_heading = "Access control (set at most one of the first five)")]
pub(super) struct AccessOpts {
    /// Clients have to show this token, or one of several with commas between them [default:
    /// everybody may come in]
    #[arg(long, env = "WEBRTC_ACCESS_TOKEN", value_name = "TOKENS", hide_env_values = true, value_parser = values::secret)]
    access_token: Option<SecretString>,

    /// Clients have to show a JSON Web Token that is signed with this secret (HS256)
    ///
    /// The secret has 32 bytes or more.
    #[arg(long, env = "WEBRTC_JWT_SECRET", value_name = "SECRET", hide_env_values = true, value_parser = values::secret)]
    jwt_secret: Option<SecretString>,

    /// Clients have to show a JSON Web Token that is checked with the public key in this file
    ///
    /// The file is PEM, for RS256, ES256 or EdDSA.
    #[arg(long, env = "WEBRTC_JWT_PUBLIC_KEY", value_name = "FILE")]
    jwt_public_key: Option<PathBuf>,

    /// Clients have to show a JSON Web Token whose issuer publishes its keys at this URL
    ///
    /// The URL must use https, or be on this machine.
    #[arg(
        long,
        env = "WEBRTC_JWKS_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    jwks_url: Option<String>,

    /// The server asks your application at this URL whether to admit each client
    ///
    /// The URL must use https, or be on this machine.
    #[arg(
        long,
        env = "WEBRTC_AUTH_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    auth_url: Option<String>,

    /// The audience (aud) that JSON Web Tokens have to be for [default: any]
    #[arg(long, env = "WEBRTC_JWT_AUDIENCE", value_name = "AUDIENCE")]
    jwt_audience: Option<String>,

    /// The issuer (iss) that JSON Web Tokens have to name [default: any]
    #[arg(long, env = "WEBRTC_JWT_ISSUER", value_name = "ISSUER")]
    jwt_issuer: Option<String>,
}

const TOKEN: &str = "WEBRTC_ACCESS_TOKEN (--access-token)";
const SECRET: &str = "WEBRTC_JWT_SECRET (--jwt-secret)";
const PUBLIC_KEY: &str = "WEBRTC_JWT_PUBLIC_KEY (--jwt-public-key)";
const JWKS: &str = "WEBRTC_JWKS_URL (--jwks-url)";
const APPLICATION: &str = "WEBRTC_AUTH_URL (--auth-url)";

impl AccessOpts {
    /// The settings that say who may come in, as far as they are set.
    fn ways(&self) -> Vec<&'static str> {
        let ways = [
            (TOKEN, self.access_token.is_some()),
            (SECRET, self.jwt_secret.is_some()),
            (PUBLIC_KEY, self.jwt_public_key.is_some()),
            (JWKS, self.jwks_url.is_some()),
            (APPLICATION, self.auth_url.is_some()),
        ];
        let set = ways.into_iter().filter(|(_, is_set)| *is_set);
        set.map(|(name, _)| name).collect()
    }

    /// The setting that says who may come in, if one is set.
    pub fn way(&self) -> Option<&'static str> {
        self.ways().first().copied()
    }

    /// Who may come in.
    ///
    /// # Errors
    ///
    /// Settings that exclude each other, or that cannot be used.
    pub fn access(&self) -> Result<Access, ConfigError> {
        if let [first, second, ..] = self.ways()[..] {
            return Err(ConfigError(format!(
                "{first} and {second} are both set, and one has to say who may come in: unset the \
                 other"
            )));
        }
        let needs_jwt = [
            ("WEBRTC_JWT_AUDIENCE (--jwt-audience)", &self.jwt_audience),
            ("WEBRTC_JWT_ISSUER (--jwt-issuer)", &self.jwt_issuer),
        ];
        let of_jwt = needs_jwt.into_iter().find(|(_, value)| value.is_some());
        let keys = self.keys()?;
        if let (Some((name, _)), None) = (of_jwt, &keys) {
            return Err(ConfigError(format!(
                "{name} has no effect without JSON Web Tokens: set WEBRTC_JWT_SECRET, \
                 WEBRTC_JWT_PUBLIC_KEY or WEBRTC_JWKS_URL too"
            )));
        }
        if let Some(keys) = keys {
            let opts = JwtOpts {
                audience: self.jwt_audience.clone(),
                issuer: self.jwt_issuer.clone(),
            };
            return Ok(Access::with_jwt(Jwt::new(keys, opts)));
        }
        if let Some(tokens) = &self.access_token {
            let tokens = tokens.expose_secret().split(',');
            let tokens = tokens.map(|token| token.trim().into()).collect();
            return Access::with_tokens(tokens).map_err(|why| unusable(TOKEN, &why));
        }
        if let Some(url) = &self.auth_url {
            let application = Application::new(url);
            let application = application.map_err(|why| unusable(APPLICATION, &why))?;
            return Ok(Access::with_application(application));
        }
        Ok(Access::default())
    }

    fn keys(&self) -> Result<Option<JwtKeys>, ConfigError> {
        if let Some(secret) = &self.jwt_secret {
            let keys = JwtKeys::secret(secret);
            return keys.map(Some).map_err(|why| unusable(SECRET, &why));
        }
        if let Some(file) = &self.jwt_public_key {
            let name = format!("{PUBLIC_KEY}, {},", file.display());
            let pem = fs::read(file).map_err(|why| unusable(&name, &why))?;
            let keys = JwtKeys::public_key(&pem);
            return keys.map(Some).map_err(|why| unusable(&name, &why));
        }
        if let Some(url) = &self.jwks_url {
            let keys = JwtKeys::published_at(url);
            return keys.map(Some).map_err(|why| unusable(JWKS, &why));
        }
        Ok(None)
    }
}

fn unusable(name: &str, why: &dyn std::error::Error) -> ConfigError {
    ConfigError(format!("{name} cannot be used: {why}"))
}
