//! What can be set: each setting is an environment variable and a flag of the
//! same meaning, and the flag wins.

use std::{
    ffi::{OsStr, OsString},
    fmt, fs,
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use axum::http::{HeaderValue, Uri};
use clap::{
    Arg, ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum,
    builder::Resettable,
    error::{ContextKind, ContextValue, ErrorKind},
};

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};

use super::{
    AppOpts, Door, Host, OperatorOpts, ServeOpts, ServerOpts, Webhook, host::means_something_else,
};
use crate::{
    doors::http::{Cors, SignalOpts},
    peer_list::{ClusterOpts, HeartbeatOpts, MESSAGE_OVERHEAD_BYTES},
};

/// Node's timers, and so the original's settings, end here (25 days).
const MAX_MS: u64 = i32::MAX as u64;

/// Larger messages and mailboxes than this are a slip of the pen.
const MAX_BYTES: usize = 1 << 30;

/// Every setting of the server.
#[derive(Clone, Parser)]
#[command(
    name = "signal-http-heartbeat",
    version,
    about = "WebRTC signaling over plain HTTP, with a heartbeat",
    after_help = "Every setting is an environment variable and a flag; the flag wins."
)]
pub struct Settings {
    #[command(subcommand)]
    command: Option<Action>,

    /// The port to listen on; 0 takes a free one
    #[arg(long, env = "PORT", default_value = "3000", value_parser = port, global = true)]
    pub port: u16,

    /// The address to listen on, or a name of this machine; without it HOST counts
    /// [default: all, IPv6 and IPv4]
    #[arg(long, env = "WEBRTC_HOST", value_parser = host, global = true)]
    pub host: Option<Host>,

    /// What HOST was set to, if that was no address and is ignored.
    #[arg(skip)]
    pub ignored_host: Option<String>,

    /// A peer is removed this long after its last heartbeat, or, if it never
    /// sent one, after its last request
    #[arg(long, env = "WEBRTC_HEARTBEAT_MS", value_name = "MS", default_value = "30000", value_parser = milliseconds)]
    heartbeat_ms: Duration,

    /// How often such peers are looked for
    #[arg(long, env = "WEBRTC_HEARTBEAT_GC_MS", value_name = "MS", default_value = "15000", value_parser = milliseconds)]
    heartbeat_gc_ms: Duration,

    /// Whether every request counts as a heartbeat, and an open wait too
    #[arg(long, env = "WEBRTC_HEARTBEAT_ANY_REQUEST", value_name = "BOOL", default_value = "false", value_parser = boolean, action = ArgAction::Set)]
    heartbeat_any_request: bool,

    /// Whether sign-ins and removals are logged; false: warnings and errors only
    #[arg(long, env = "WEBRTC_SIGNAL_LOGGING", value_name = "BOOL", default_value = "true", value_parser = boolean, action = ArgAction::Set)]
    pub signal_logging: bool,

    /// Which pages of other origins may use the server: true (all), false
    /// (none) or a comma-separated list of origins
    #[arg(long, env = "WEBRTC_CORS", value_name = "ORIGINS", default_value = "true", value_parser = cors)]
    cors: Cors,

    /// A wait without news ends after this long; 0: never
    #[arg(long, env = "WEBRTC_WAIT_MS", value_name = "MS", default_value = "25000", value_parser = milliseconds_or_never)]
    wait_ms: WaitLimit,

    /// A connection on which nothing happens is closed after this long; proxies keep
    /// theirs for up to 600 s
    #[arg(long, env = "WEBRTC_IDLE_MS", value_name = "MS", default_value = "650000", value_parser = milliseconds)]
    idle_ms: Duration,

    /// The largest message
    #[arg(long, env = "WEBRTC_MAX_MESSAGE_BYTES", value_name = "BYTES", default_value = "524288", value_parser = bytes)]
    max_message_bytes: usize,

    /// How much may wait for one peer; each message counts 256 bytes more
    #[arg(long, env = "WEBRTC_MAX_PENDING_BYTES", value_name = "BYTES", default_value = "2097152", value_parser = bytes)]
    max_pending_bytes: usize,

    /// The protocols that clients can come in by
    #[arg(long, env = "WEBRTC_DOORS", value_name = "DOORS", default_value = "http,websocket,socketio", value_parser = doors)]
    doors: Doors,

    /// What Socket.IO clients must send as `auth.token`; unset: nothing
    #[arg(long, env = "TOKEN", hide_env_values = true, value_parser = secret)]
    token: Option<SecretString>,

    /// How often clients are told to send heartbeats, less than
    /// WEBRTC_HEARTBEAT_MS [default: half of it]
    #[arg(long, env = "WEBRTC_HEARTBEAT_INTERVAL_MS", value_name = "MS", value_parser = milliseconds)]
    heartbeat_interval_ms: Option<Duration>,

    /// Whether each request must prove with its peer's token that it is that
    /// peer's: optional or required
    #[arg(long, env = "WEBRTC_PEER_TOKENS", value_name = "WHEN", default_value = "optional", value_parser = tokens)]
    peer_tokens: Tokens,

    /// The address and port of the operator's API; other than loopback it
    /// takes WEBRTC_ADMIN_TOKEN [default: none]
    #[arg(long, env = "WEBRTC_ADMIN_LISTEN", value_name = "ADDRESS", value_parser = address)]
    admin_listen: Option<SocketAddr>,

    /// What the operator must send as `Authorization: Bearer`
    #[arg(
        long,
        env = "WEBRTC_ADMIN_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        value_parser = secret
    )]
    admin_token: Option<SecretString>,

    /// Where each event of a peer is POSTed to
    #[arg(long, env = "WEBRTC_WEBHOOK_URL", value_name = "URL", hide_env_values = true, value_parser = webhook_url)]
    webhook_url: Option<Url>,

    /// What those events are signed with, in X-Signature-256
    #[arg(
        long,
        env = "WEBRTC_WEBHOOK_SECRET",
        value_name = "SECRET",
        hide_env_values = true,
        value_parser = secret
    )]
    webhook_secret: Option<SecretString>,

    /// Where the peer list lives if several nodes share it: redis:// or
    /// rediss:// [default: in this process]
    #[arg(long, env = "WEBRTC_REDIS_URL", value_name = "URL", hide_env_values = true, value_parser = redis_url)]
    redis_url: Option<SecretString>,

    /// A file with certificates (PEM) of authorities to trust for rediss://
    /// [default: the public ones]
    #[arg(long, env = "WEBRTC_REDIS_CA", value_name = "FILE", value_parser = certificates)]
    redis_ca: Option<PathBuf>,

    /// What its keys in Redis begin with
    #[arg(long, env = "WEBRTC_REDIS_PREFIX", value_name = "PREFIX", default_value = "signal", value_parser = redis_prefix)]
    redis_prefix: String,

    /// How many peers can be signed in
    #[arg(long, env = "WEBRTC_MAX_PEERS", value_name = "PEERS", default_value = "100000", value_parser = peers)]
    max_peers: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum Action {
    /// Ask the server on this machine whether it is well: exit status 0 if so
    Healthcheck,
}

/// A setting that cannot be used: one sentence for the person who set it. Its
/// exit status is 2.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Some are secrets, and addresses may hold one.
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the command line and the environment. Prints help or the version
    /// and ends the process if that is what was asked for.
    pub fn from_args_and_env() -> Result<Self, ConfigError> {
        // A variable that is set to nothing counts as not set, as it did in
        // the original: compose files pass such.
        let host = std::env::var_os("HOST").filter(|host| !host.is_empty());
        Self::from_args(std::env::args_os(), is_set_to_nothing)?.or_host(host)
    }

    /// Listens on what `HOST` says, unless an address is set by its own name.
    fn or_host(mut self, variable: Option<OsString>) -> Result<Self, ConfigError> {
        let Some(text) = variable.filter(|_| self.host.is_none()) else {
            return Ok(self);
        };
        if means_something_else(&text) {
            self.ignored_host = Some(text.to_string_lossy().into_owned());
            return Ok(self);
        }
        let Some(shown) = text.to_str() else {
            return Err(ConfigError(format!(
                "HOST cannot be {text:?}: it is not UTF-8"
            )));
        };
        let found = host(shown);
        let found = found.map_err(|right| format!("HOST cannot be {shown:?}: it takes {right}"));
        self.host = Some(found.map_err(ConfigError)?);
        Ok(self)
    }

    /// Reads the arguments, and the variables that are not to be ignored.
    fn from_args<T: Into<OsString> + Clone>(
        args: impl IntoIterator<Item = T>,
        ignored: impl Fn(&OsStr) -> bool,
    ) -> Result<Self, ConfigError> {
        let mut command = Self::command().mut_args(|arg| {
            if arg.get_env().is_some_and(&ignored) {
                arg.env(Resettable::Reset)
            } else {
                arg
            }
        });
        if let Some(unreadable) = command.get_arguments().find_map(unreadable) {
            return Err(unreadable);
        }
        let matches = match command.try_get_matches_from_mut(args) {
            Ok(matches) => matches,
            Err(error) if !error.use_stderr() => error.exit(),
            Err(error) => return Err(explain(&error)),
        };
        let settings = Self::from_arg_matches(&matches).map_err(|error| explain(&error))?;
        settings.check()
    }

    fn check(self) -> Result<Self, ConfigError> {
        let needed = self.max_message_bytes + MESSAGE_OVERHEAD_BYTES;
        if self.max_pending_bytes < needed {
            return Err(ConfigError(format!(
                "WEBRTC_MAX_PENDING_BYTES (--max-pending-bytes) cannot be \"{}\": it takes at \
                 least {needed}, WEBRTC_MAX_MESSAGE_BYTES and {MESSAGE_OVERHEAD_BYTES} more",
                self.max_pending_bytes
            )));
        }
        let (interval, timeout) = (self.heartbeat_interval(), self.heartbeat_ms);
        if timeout <= interval {
            return Err(ConfigError(format!(
                "WEBRTC_HEARTBEAT_INTERVAL_MS (--heartbeat-interval-ms) cannot be \"{}\": it takes \
                 less than {}, WEBRTC_HEARTBEAT_MS",
                interval.as_millis(),
                timeout.as_millis()
            )));
        }
        if let Some(address) = self.admin_listen
            && !address.ip().is_loopback()
            && self.admin_token.is_none()
        {
            return Err(ConfigError(format!(
                "WEBRTC_ADMIN_LISTEN (--admin-listen) cannot be \"{address}\": others reach it there; \
                 set WEBRTC_ADMIN_TOKEN too, or an address such as 127.0.0.1:3001"
            )));
        }
        if self.admin_listen.is_none() && self.admin_token.is_some() {
            return Err(ConfigError(
                "WEBRTC_ADMIN_TOKEN (--admin-token) is for the operator's API, which is off: \
                 set WEBRTC_ADMIN_LISTEN too, such as 127.0.0.1:3001"
                    .into(),
            ));
        }
        let is_tls = |url: &SecretString| url.expose_secret().starts_with("rediss://");
        if self.redis_ca.is_some() && !self.redis_url.as_ref().is_some_and(is_tls) {
            return Err(ConfigError(
                "WEBRTC_REDIS_CA (--redis-ca) is for Redis through TLS: set WEBRTC_REDIS_URL to a \
                 rediss:// URL too"
                    .into(),
            ));
        }
        if self.webhook_url.is_none() && self.webhook_secret.is_some() {
            return Err(ConfigError(
                "WEBRTC_WEBHOOK_SECRET (--webhook-secret) is for the webhook, which is off: \
                 set WEBRTC_WEBHOOK_URL too"
                    .into(),
            ));
        }
        Ok(self)
    }

    /// The variables of the environment that look like settings of this server and are
    /// none: most likely misspelt.
    pub fn unknown_variables() -> Vec<String> {
        unknown(std::env::vars_os().map(|(name, _)| name))
    }

    fn heartbeat_interval(&self) -> Duration {
        self.heartbeat_interval_ms.unwrap_or(self.heartbeat_ms / 2)
    }

    /// What the server is made with.
    pub fn server_opts(&self) -> ServerOpts {
        let operator = self.admin_listen.map(|address| OperatorOpts {
            address,
            token: self.admin_token.clone(),
        });
        ServerOpts {
            host: self.host,
            port: self.port,
            heartbeat: self.heartbeat_opts(),
            cluster: self.cluster(),
            app: self.app_opts(),
            serve: self.serve_opts(),
            operator,
            webhook: self.webhook(),
        }
    }

    fn webhook(&self) -> Option<Webhook> {
        let url = self.webhook_url.clone()?;
        let secret = self.webhook_secret.clone();
        Some(Webhook { url, secret })
    }

    fn cluster(&self) -> Option<ClusterOpts> {
        Some(ClusterOpts {
            url: self.redis_url.clone()?,
            prefix: self.redis_prefix.clone(),
            ca: self.redis_ca.clone(),
        })
    }

    fn serve_opts(&self) -> ServeOpts {
        ServeOpts {
            idle_timeout: self.idle_ms,
        }
    }

    /// Whether only the health of a running server is asked for.
    pub fn is_healthcheck(&self) -> bool {
        self.command == Some(Action::Healthcheck)
    }

    fn heartbeat_opts(&self) -> HeartbeatOpts {
        HeartbeatOpts {
            timeout_period: self.heartbeat_ms,
            gc_interval: self.heartbeat_gc_ms,
            any_request: self.heartbeat_any_request,
            max_pending_bytes: self.max_pending_bytes,
            max_peers: self.max_peers,
        }
    }

    fn app_opts(&self) -> AppOpts {
        AppOpts {
            signal: SignalOpts {
                enable_cors: self.cors.clone(),
                wait_timeout: self.wait_ms.0,
                require_tokens: self.peer_tokens.0,
                heartbeat_interval: self.heartbeat_interval(),
                max_message_bytes: self.max_message_bytes,
            },
            doors: self.doors.0.clone(),
            token: self.token.clone(),
        }
    }
}

fn unknown(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let command = Settings::command();
    let is_known = |name: &str| {
        command
            .get_arguments()
            .any(|arg| arg.get_env() == Some(name.as_ref()))
    };
    let names = names.filter_map(|name| name.into_string().ok());
    let mut unknown: Vec<String> = names
        .filter(|name| name.starts_with("WEBRTC_") && !is_known(name))
        .collect();
    unknown.sort();
    unknown
}

fn is_set_to_nothing(variable: &OsStr) -> bool {
    std::env::var_os(variable).is_some_and(|value| value.is_empty())
}

/// clap does not tell which variable it is that is not UTF-8.
fn unreadable(arg: &Arg) -> Option<ConfigError> {
    let variable = arg.get_env()?;
    let value = std::env::var_os(variable)?;
    value.to_str().is_none().then(|| {
        let variable = variable.to_string_lossy();
        ConfigError(format!("{variable} cannot be {value:?}: it is not UTF-8"))
    })
}

/// One line that names the variable, the value and what would be right.
fn explain(error: &clap::Error) -> ConfigError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let unusable = matches!(
        error.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue | ErrorKind::InvalidUtf8
    );
    if unusable && let Some(arg) = context(ContextKind::InvalidArg) {
        let flag = arg.split(' ').next().unwrap_or(arg);
        let command = Settings::command();
        let arg = command
            .get_arguments()
            .find(|arg| flag.strip_prefix("--") == arg.get_long());
        let variable = arg
            .and_then(Arg::get_env)
            .map(|variable| variable.to_string_lossy());
        let value = context(ContextKind::InvalidValue).unwrap_or_default();
        // There may be a password in it.
        let value = match arg.is_some_and(Arg::is_hide_env_values_set) {
            true => "what it is".to_owned(),
            false => format!("{value:?}"),
        };
        let variable = variable.unwrap_or_default();
        return ConfigError(match std::error::Error::source(error) {
            Some(right) => format!("{variable} ({flag}) cannot be {value}: it takes {right}"),
            None => format!("{flag} is given without a value; --help shows what it takes"),
        });
    }
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    ConfigError(format!("{first}; --help shows what can be set"))
}

fn port(value: &str) -> Result<u16, String> {
    let port = value.trim().parse();
    port.map_err(|_| "a port number from 0 to 65535".into())
}

fn host(value: &str) -> Result<Host, String> {
    let right = "an IP address such as 127.0.0.1, 0.0.0.0 or ::, or a name that can be looked up";
    Host::find(value).ok_or_else(|| right.to_owned())
}

fn secret(value: &str) -> Result<SecretString, String> {
    // Everybody could show an empty one.
    let secret = Some(value).filter(|value| !value.is_empty());
    secret
        .map(SecretString::from)
        .ok_or_else(|| "at least one character".into())
}

fn boolean(value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("true or false".into()),
    }
}

fn milliseconds(value: &str) -> Result<Duration, String> {
    let ms: Option<u64> = value.trim().parse().ok();
    let ms = ms.filter(|ms| (1..=MAX_MS).contains(ms));
    ms.map(Duration::from_millis)
        .ok_or_else(|| format!("a whole number of milliseconds from 1 to {MAX_MS}"))
}

/// How long a wait may last. None: for ever. (clap takes an `Option` for an
/// argument that may be absent.)
#[derive(Clone, Copy, Debug)]
struct WaitLimit(Option<Duration>);

fn milliseconds_or_never(value: &str) -> Result<WaitLimit, String> {
    if value.trim() == "0" {
        return Ok(WaitLimit(None));
    }
    let limit = milliseconds(value).map(|limit| WaitLimit(Some(limit)));
    limit.map_err(|right| right + ", or 0 for never")
}

/// Whether tokens are required.
#[derive(Clone, Copy, Debug)]
struct Tokens(bool);

fn tokens(value: &str) -> Result<Tokens, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "optional" => Ok(Tokens(false)),
        "required" => Ok(Tokens(true)),
        _ => Err("optional or required".into()),
    }
}

fn address(value: &str) -> Result<SocketAddr, String> {
    let address = value.trim().parse();
    address.map_err(|_| "an IP address and a port, such as 127.0.0.1:3001".into())
}

fn webhook_url(value: &str) -> Result<Url, String> {
    let url: Option<Url> = value.trim().parse().ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| "a URL such as https://example.org/peers".into())
}

fn redis_url(value: &str) -> Result<SecretString, String> {
    let url = value.trim();
    let is_redis = url.starts_with("redis://") || url.starts_with("rediss://");
    let usable = is_redis && redis::IntoConnectionInfo::into_connection_info(url).is_ok();
    usable.then(|| url.into()).ok_or_else(|| {
        "a URL such as redis://user:password@127.0.0.1:6379/0, where in user and password \
             @ : / # % and ? are written as %40 %3A %2F %23 %25 and %3F"
            .into()
    })
}

fn certificates(value: &str) -> Result<PathBuf, String> {
    let text = fs::read_to_string(value).unwrap_or_default();
    text.contains("-----BEGIN CERTIFICATE-----")
        .then(|| value.into())
        .ok_or_else(|| "the path of a file with certificates (PEM)".into())
}

fn redis_prefix(value: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&value.len());
    let is_plain = value
        .bytes()
        .all(|b| b.is_ascii_graphic() && b != b'{' && b != b'}');
    (fits && is_plain)
        .then(|| value.to_owned())
        .ok_or_else(|| "1 to 64 letters, digits or signs other than braces".into())
}

fn bytes(value: &str) -> Result<usize, String> {
    let bytes = value.trim().parse().ok();
    bytes
        .filter(|bytes| (1..=MAX_BYTES).contains(bytes))
        .ok_or_else(|| format!("a whole number of bytes from 1 to {MAX_BYTES}"))
}

fn peers(value: &str) -> Result<usize, String> {
    let peers = value.trim().parse().ok();
    peers
        .filter(|peers| *peers > 0)
        .ok_or_else(|| "a whole number from 1 up".into())
}

#[derive(Clone, Debug)]
struct Doors(Vec<Door>);

fn doors(value: &str) -> Result<Doors, String> {
    let mut doors = Vec::new();
    for name in value.split(',') {
        let door = Door::from_str(name.trim(), true)
            .map_err(|_| "a comma-separated list of http, websocket and socketio".to_owned())?;
        if !doors.contains(&door) {
            doors.push(door);
        }
    }
    Ok(Doors(doors))
}

fn cors(value: &str) -> Result<Cors, String> {
    match boolean(value) {
        Ok(true) => return Ok(Cors::AnyOrigin),
        Ok(false) => return Ok(Cors::Off),
        Err(_) if value.trim() == "*" => return Ok(Cors::AnyOrigin),
        Err(_) => {}
    }
    let origins: Result<Vec<HeaderValue>, String> = value
        .split(',')
        .map(|one| {
            origin(one).ok_or_else(|| {
                format!(
                    "true, false or a comma-separated list of origins such as \
                     https://example.org or https://*.example.org, without a path or a default \
                     port, unlike {one:?}"
                )
            })
        })
        .collect();
    origins.map(Cors::Origins)
}

/// An origin as browsers send it: scheme, host, and the port unless it is the
/// scheme's own; nothing after them. `*.` before the host means all below it.
fn origin(value: &str) -> Option<HeaderValue> {
    let value = value.trim().to_ascii_lowercase();
    if value.replacen("://*.", "://", 1).contains('*') {
        return None;
    }
    let uri: Uri = value.parse().ok()?;
    let scheme = uri.scheme_str()?;
    let host = uri.host()?;
    let origin = match (scheme, uri.port_u16()) {
        ("http", Some(80)) | ("https", Some(443)) => return None,
        (_, Some(port)) => format!("{scheme}://{host}:{port}"),
        (_, None) => format!("{scheme}://{host}"),
    };
    if origin != value {
        return None;
    }
    HeaderValue::from_str(&value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Result<Settings, ConfigError> {
        let program = ["signal-http-heartbeat"];
        Settings::from_args(program.iter().chain(args), |_| true)
    }

    #[test]
    fn the_doors_are_a_list_of_names() {
        let open = |value| settings(&["--doors", value]).map(|settings| settings.doors.0);
        let all = vec![Door::Http, Door::WebSocket, Door::SocketIo];
        assert_eq!(settings(&[]).unwrap().doors.0, all);
        assert_eq!(
            open("socketio, HTTP,http"),
            Ok(vec![Door::SocketIo, Door::Http])
        );
        for value in ["", "none", "http,", "http;websocket"] {
            let error = open(value).unwrap_err().to_string();
            assert!(error.contains("WEBRTC_DOORS (--doors)"), "{error}");
            assert!(error.contains("http, websocket and socketio"), "{error}");
        }
    }

    #[test]
    fn a_misspelt_variable_is_found() {
        let names = ["WEBRTC_HEARBEAT_MS", "WEBRTC_HEARTBEAT_MS", "PORT", "HOME"];
        let found = unknown(names.into_iter().map(OsString::from));
        assert_eq!(found, ["WEBRTC_HEARBEAT_MS"]);
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let settings = settings(&[]).unwrap();
        assert_eq!(settings.heartbeat_opts(), HeartbeatOpts::default());
        assert_eq!(settings.app_opts().signal, SignalOpts::default());
        assert_eq!((settings.port, settings.host), (3000, None));
        assert!(settings.signal_logging);
    }

    #[test]
    fn a_value_that_cannot_be_used_is_explained_in_one_line() {
        let cases: [(&[&str], &str); 14] = [
            (
                &["--token", ""],
                "TOKEN (--token) cannot be what it is: it takes at least one character",
            ),
            (
                &["--port", "70000"],
                "PORT (--port) cannot be \"70000\": it takes a port number from 0 to 65535",
            ),
            (
                &["--host", "no name"],
                "WEBRTC_HOST (--host) cannot be \"no name\": it takes an IP address such as \
                 127.0.0.1, 0.0.0.0 or ::, or a name that can be looked up",
            ),
            (
                &["--heartbeat-ms", "0"],
                "WEBRTC_HEARTBEAT_MS (--heartbeat-ms) cannot be \"0\": it takes a whole number of \
                 milliseconds from 1 to 2147483647",
            ),
            (
                &["--wait-ms=-5"],
                "WEBRTC_WAIT_MS (--wait-ms) cannot be \"-5\": it takes a whole number of \
                 milliseconds from 1 to 2147483647, or 0 for never",
            ),
            (
                &["--signal-logging", "maybe\nnot"],
                "WEBRTC_SIGNAL_LOGGING (--signal-logging) cannot be \"maybe\\nnot\": it takes \
                 true or false",
            ),
            (
                &["--cors", "https://example.org/"],
                "WEBRTC_CORS (--cors) cannot be \"https://example.org/\": it takes true, false or \
                 a comma-separated list of origins such as https://example.org or \
                 https://*.example.org, without a path or a default port, unlike \
                 \"https://example.org/\"",
            ),
            (
                &["--max-message-bytes", "2097152"],
                "WEBRTC_MAX_PENDING_BYTES (--max-pending-bytes) cannot be \"2097152\": it takes \
                 at least 2097408, WEBRTC_MAX_MESSAGE_BYTES and 256 more",
            ),
            (
                &["--max-peers", "none"],
                "WEBRTC_MAX_PEERS (--max-peers) cannot be \"none\": it takes a whole number from \
                 1 up",
            ),
            (
                &["--heartbeat-ms", "1000", "--heartbeat-interval-ms", "1000"],
                "WEBRTC_HEARTBEAT_INTERVAL_MS (--heartbeat-interval-ms) cannot be \"1000\": it \
                 takes less than 1000, WEBRTC_HEARTBEAT_MS",
            ),
            (
                &["--admin-listen", "0.0.0.0:3001"],
                "WEBRTC_ADMIN_LISTEN (--admin-listen) cannot be \"0.0.0.0:3001\": others reach it \
                 there; set WEBRTC_ADMIN_TOKEN too, or an address such as 127.0.0.1:3001",
            ),
            (
                &["--admin-token", "x"],
                "WEBRTC_ADMIN_TOKEN (--admin-token) is for the operator's API, which is off: set \
                 WEBRTC_ADMIN_LISTEN too, such as 127.0.0.1:3001",
            ),
            (
                &["--webhook-secret", "x"],
                "WEBRTC_WEBHOOK_SECRET (--webhook-secret) is for the webhook, which is off: set \
                 WEBRTC_WEBHOOK_URL too",
            ),
            (
                &["--colour"],
                "unexpected argument '--colour' found; --help shows what can be set",
            ),
        ];
        for (args, line) in cases {
            assert_eq!(settings(args).unwrap_err().to_string(), line);
        }
    }

    #[test]
    fn cors_takes_all_none_or_a_list_of_origins() {
        let list = |origins: &[&'static str]| {
            Cors::Origins(
                origins
                    .iter()
                    .map(|o| HeaderValue::from_static(o))
                    .collect(),
            )
        };
        assert_eq!(cors("true"), Ok(Cors::AnyOrigin));
        assert_eq!(cors("*"), Ok(Cors::AnyOrigin));
        assert_eq!(cors("FALSE"), Ok(Cors::Off));
        assert_eq!(
            cors("https://a.example, http://B.example:8080"),
            Ok(list(&["https://a.example", "http://b.example:8080"]))
        );
        for bad in [
            "a.example",
            "https://a.example,",
            "https://a.example/x",
            "https://a.example:443",
            "http://localhost:*",
            "https://a*.example",
            "https://*.*.example",
            "https://*",
            "http://a@b.example",
            "",
        ] {
            assert!(cors(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_variable_host_counts_where_it_means_an_address() {
        let with = |args: &[&str], host: &str| settings(args).unwrap().or_host(Some(host.into()));
        let local = Host::find("127.0.0.1");
        assert_eq!(with(&[], "127.0.0.1").unwrap().host, local);
        assert_eq!(with(&["--host", "127.0.0.1"], "::1").unwrap().host, local);
        let conda = with(&[], "x86_64-conda-linux-gnu").unwrap();
        assert_eq!(conda.host, None);
        assert_eq!(
            conda.ignored_host.as_deref(),
            Some("x86_64-conda-linux-gnu")
        );
        // A slip of the pen must not listen on all addresses.
        let error = with(&[], "127.0.0.l").unwrap_err().to_string();
        assert!(
            error.starts_with("HOST cannot be \"127.0.0.l\": it takes"),
            "{error}"
        );
    }

    #[test]
    fn nothing_that_is_printed_shows_a_secret() {
        let args = [
            "--token",
            "secret",
            "--admin-token",
            "secret",
            "--admin-listen",
            "127.0.0.1:1",
            "--redis-url",
            "redis://:secret@h",
            "--webhook-url",
            "http://h/secret",
            "--webhook-secret",
            "secret",
        ];
        let settings = settings(&args).unwrap();
        let printed = format!("{settings:?} {:?}", settings.server_opts());
        assert!(!printed.contains("secret"), "{printed}");
    }

    #[test]
    fn a_wait_can_be_set_to_last_for_ever() {
        let never = settings(&["--wait-ms", "0"]).unwrap();
        assert_eq!(never.app_opts().signal.wait_timeout, None);
    }
}
