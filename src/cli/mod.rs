//! The settings. Each is an environment variable and a flag with the same meaning, and
//! the flag counts if both are set.

mod access;
mod check;
mod container;
mod explain;
mod groups;
mod host_variable;
mod ice;
mod memory;
mod secret_files;
mod values;

use std::{
    ffi::{OsStr, OsString},
    fmt,
    sync::Arc,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable};
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::{
    access::{Access, SignInRate},
    doors::http::SignalOpts,
    ice::IceServers,
    peer_list::MESSAGE_OVERHEAD_BYTES,
    server::{Host, Reached, ServerOpts},
};
use access::AccessOpts;
pub use check::explained;
pub use explain::Unknown;
use explain::{explain, unknown, unreadable};
use host_variable::means_something_else;
use ice::IceOpts;
use values::Rate;

pub use groups::{LogFormat, LogOpts};

/// All settings of the server.
#[derive(Clone, Parser)]
#[command(
    name = "signal-http-heartbeat",
    version,
    about = "WebRTC signaling over plain HTTP, with a heartbeat",
    after_help = "Every setting is an environment variable and a flag. If both are set, the flag counts."
)]
pub struct Settings {
    #[command(subcommand)]
    command: Option<Action>,

    #[command(flatten)]
    listening: groups::Listening,

    #[command(flatten)]
    peers: groups::Peers,

    #[command(flatten)]
    clients: groups::Clients,

    #[command(flatten)]
    access: AccessOpts,

    /// Who may come in, by these.
    #[arg(skip)]
    admits: Access,

    #[command(flatten)]
    ice: IceOpts,

    /// The ICE servers, of these.
    #[arg(skip)]
    ice_servers: Arc<IceServers>,

    #[command(flatten)]
    operator: groups::Operator,

    #[command(flatten)]
    redis: groups::Redis,

    /// The log.
    #[command(flatten)]
    pub log: LogOpts,

    /// What HOST was set to, if that is not an address and is ignored.
    #[arg(skip)]
    pub ignored_host: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum Action {
    /// Ask the running server on this machine whether it is healthy: exit status 0 if it is,
    /// otherwise 1
    Healthcheck,
    /// Check the settings without starting the server: certificates, the keys at WEBRTC_JWKS_URL, and
    /// Redis. Prints what the server would do; exits with status 2 if something cannot be used
    Check,
}

/// A setting that is not valid, as one sentence for the person who set it. The exit
/// status is 2.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Some settings are secrets, and addresses may contain one.
        f.debug_struct("Settings").finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the command line and the environment. Prints help or the version and ends the
    /// process if that is what was asked for.
    pub fn from_args_and_env() -> Result<Self, ConfigError> {
        // An empty variable counts as not set, as in the original: compose files pass
        // empty variables.
        let host = std::env::var_os("HOST").filter(|host| !host.is_empty());
        let set = |name: &OsStr| std::env::var_os(name).filter(|value| !value.is_empty());
        let of_files = secret_files::read(&Self::command(), set)?;
        let args = container::with_flags_of_server(std::env::args_os().collect());
        let mut args = args.into_iter();
        let program = args.next().unwrap_or_default();
        let args = [program].into_iter().chain(of_files).chain(args);
        Self::from_args(args, is_set_to_nothing)?.or_host(host)
    }

    /// Listens on the address in `HOST`, unless WEBRTC_HOST or --host is set.
    fn or_host(mut self, variable: Option<OsString>) -> Result<Self, ConfigError> {
        let Some(text) = variable.filter(|_| self.listening.host.is_none()) else {
            return Ok(self);
        };
        if means_something_else(&text) {
            self.ignored_host = Some(text.to_string_lossy().into_owned());
            return Ok(self);
        }
        let Some(shown) = text.to_str() else {
            return Err(ConfigError(format!("HOST is not valid UTF-8: {text:?}")));
        };
        let found = values::host(shown);
        let found =
            found.map_err(|right| format!("HOST is not valid: expected {right}, got {shown:?}"));
        self.listening.host = Some(found.map_err(ConfigError)?);
        Ok(self)
    }

    /// Reads the arguments, and the environment variables that are not ignored.
    fn from_args<T: Into<OsString> + Clone>(
        args: impl IntoIterator<Item = T>,
        ignored: impl Fn(&OsStr) -> bool,
    ) -> Result<Self, ConfigError> {
        // A flag goes before what a file says.
        let command = Self::command().args_override_self(true);
        let mut command = command.mut_args(|arg| {
            // `-5` is a wrong value, and not an unknown flag.
            // A setting may also stand behind `check` and `healthcheck`.
            let arg = arg.allow_negative_numbers(true).global(true);
            if arg.get_env().is_some_and(&ignored) {
                arg.env(Resettable::Reset)
            } else {
                arg
            }
        });
        if let Some(unreadable) = command.get_arguments().find_map(unreadable) {
            return Err(unreadable);
        }
        let explain = |error| explain(&Self::command(), &error);
        let matches = match command.try_get_matches_from_mut(args) {
            Ok(matches) => matches,
            Err(error) if !error.use_stderr() => error.exit(),
            Err(error) => return Err(explain(error)),
        };
        let settings = Self::from_arg_matches(&matches).map_err(explain)?;
        settings.check()
    }

    /// Checks rules between several settings.
    fn check(mut self) -> Result<Self, ConfigError> {
        self.admits = self.access.access()?;
        let rate = self.clients.sign_ins_per_ip;
        if let Some(rate) = rate.and_then(|Rate { count, time }| SignInRate::new(count, time)) {
            self.admits = self.admits.with_sign_in_rate(rate);
        }
        self.ice_servers = Arc::new(self.ice.servers()?);
        if let Some(way) = self.access.way() {
            self.clients.check_beside(way)?;
        }
        let tls = self.listening.tls();
        if let (Some(port), Some(tls)) = (self.listening.port.0, &tls)
            && port == tls.port
            && port != 0
        {
            return Err(ConfigError(format!(
                "PORT (--port) and WEBRTC_TLS_PORT (--tls-port) are both {port}: set one of them to \
                 another port"
            )));
        }
        if self.listening.port.0.is_none() && tls.is_none() {
            return Err(ConfigError(
                "PORT (--port) is off, and nothing would listen: set WEBRTC_TLS_CERT and \
                 WEBRTC_TLS_KEY too"
                    .into(),
            ));
        }
        let needed = self.clients.max_message_bytes + MESSAGE_OVERHEAD_BYTES;
        if self.peers.max_pending_bytes < needed {
            return Err(ConfigError(format!(
                "WEBRTC_MAX_PENDING_BYTES (--max-pending-bytes) is too small: expected at least \
                 {needed} ({MESSAGE_OVERHEAD_BYTES} more than WEBRTC_MAX_MESSAGE_BYTES), got {}",
                self.peers.max_pending_bytes
            )));
        }
        let (most, mailbox) = (
            self.peers.max_buffered_bytes(),
            self.peers.max_pending_bytes,
        );
        if most < mailbox {
            return Err(ConfigError(format!(
                "WEBRTC_MAX_BUFFERED_BYTES (--max-buffered-bytes) is too small: expected at least \
                 {mailbox} (WEBRTC_MAX_PENDING_BYTES), got {most}"
            )));
        }
        let timeout = self.peers.heartbeat_ms;
        if let Some(interval) = self.peers.heartbeat_interval_ms
            && timeout <= interval
        {
            return Err(ConfigError(format!(
                "WEBRTC_HEARTBEAT_INTERVAL_MS (--heartbeat-interval-ms) is too large: expected less \
                 than {} (WEBRTC_HEARTBEAT_MS), got {}",
                timeout.as_millis(),
                interval.as_millis()
            )));
        }
        if let Some(address) = self.operator.admin_listen
            && !address.ip().is_loopback()
            && self.operator.admin_token.is_none()
        {
            return Err(ConfigError(format!(
                "WEBRTC_ADMIN_LISTEN (--admin-listen) is {address}, which other machines can \
                 reach: set WEBRTC_ADMIN_TOKEN too, or listen on 127.0.0.1"
            )));
        }
        let is_tls = |url: &SecretString| url.expose_secret().starts_with("rediss");
        if let Some(setting) = self.redis.of_tls()
            && !self.redis.redis_url.as_ref().is_some_and(is_tls)
        {
            return Err(ConfigError(format!(
                "{setting} has no effect without TLS: set WEBRTC_REDIS_URL to a rediss:// URL too"
            )));
        }
        if self.redis.has_shards_of_nothing() {
            return Err(ConfigError(
                "WEBRTC_REDIS_SHARDS (--redis-shards) has no effect without Redis: set \
                 WEBRTC_REDIS_URL too"
                    .into(),
            ));
        }
        if self.redis.is_cluster_of_one() {
            return Err(ConfigError(
                "with redis+cluster:// in WEBRTC_REDIS_URL, set WEBRTC_REDIS_SHARDS to several \
                 times the number of masters: one shard is on one master only"
                    .into(),
            ));
        }
        Ok(self)
    }

    /// The environment variables that look like settings of this server and are not:
    /// probably misspelt.
    pub fn unknown_variables() -> Vec<Unknown> {
        unknown(&Self::command(), std::env::vars_os().map(|(name, _)| name))
    }

    /// The options of the server.
    pub fn server_opts(&self) -> ServerOpts {
        let app = self.clients.opts(SignalOpts {
            heartbeat_interval: self.peers.heartbeat_interval_ms,
            access: self.admits.clone(),
            shows_addresses: self.log.log_addresses,
            ice_servers: self.ice_servers.clone(),
            ..SignalOpts::default()
        });
        ServerOpts {
            host: self.listening.host,
            port: self.listening.port.0,
            tls: self.listening.tls(),
            heartbeat: self.peers.opts(),
            cluster: self.redis.opts(),
            app,
            serve: self
                .listening
                .serve_opts(self.log.log_addresses, self.clients.proxies()),
            operator: self.operator.opts(),
            webhook: self.operator.webhook(),
        }
    }

    /// Which server to check, if the process was started to check one: its address, and how it is
    /// reached.
    pub fn healthcheck(&self) -> Option<(Option<Host>, Reached)> {
        let asks = self.command == Some(Action::Healthcheck);
        // It has places of its own, also while all those for clients are taken.
        let operator = self.operator.admin_listen;
        let operator = operator.map(|at| (Some(at.ip().into()), Reached::Plain(at.port())));
        let clients = (self.listening.host, self.listening.reached());
        asks.then(|| operator.unwrap_or(clients))
    }
}

fn is_set_to_nothing(variable: &OsStr) -> bool {
    std::env::var_os(variable).is_some_and(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Result<Settings, ConfigError> {
        let program = ["signal-http-heartbeat"];
        Settings::from_args(program.iter().chain(args), |_| true)
    }

    /// The tables of docs/settings.md: a row for each setting, by subject.
    fn tables() -> String {
        let mut tables = String::new();
        let mut subject = None;
        let command = Settings::command();
        for arg in command.get_arguments() {
            let (Some(variable), Some(flag)) = (arg.get_env(), arg.get_long()) else {
                continue;
            };
            if arg.get_help_heading() != subject {
                subject = arg.get_help_heading();
                let subject = subject.unwrap_or("Others");
                tables += &format!(
                    "\n## {subject}\n\n| variable | flag | default | |\n|---|---|---|---|\n"
                );
            }
            let variable = variable.to_string_lossy();
            let short = arg.get_help().unwrap_or_default().to_string();
            let long = arg.get_long_help().map(ToString::to_string);
            let details = long.and_then(|long| Some(long.strip_prefix(&short)?.trim().to_owned()));
            let (meaning, told) = match short
                .strip_suffix(']')
                .and_then(|short| short.rsplit_once(" [default: "))
            {
                Some((meaning, default)) => (meaning, Some(default.to_owned())),
                None => (&short[..], None),
            };
            let values = arg.get_default_values();
            let value = values
                .first()
                .map(|value| value.to_string_lossy().into_owned());
            let default = value.or(told).unwrap_or_default();
            let text = match details {
                Some(details) => format!("{meaning}. {details}"),
                None => format!("{meaning}."),
            };
            tables += &format!("| `{variable}` | `--{flag}` | {default} | {text} |\n");
        }
        tables
    }

    #[test]
    fn the_page_on_settings_says_what_help_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (begin, rest) = page.split_once("`make settings`. -->\n").unwrap();
        let (_, end) = rest.split_once("\n<!-- The end").unwrap();
        let made = format!(
            "{begin}`make settings`. -->\n{}\n<!-- The end{end}",
            tables()
        );
        if std::env::var_os("WRITE_SETTINGS").is_some() {
            return std::fs::write(path, made).unwrap();
        }
        assert!(
            page == made,
            "docs/settings.md does not say what --help says: run `make settings`"
        );
    }

    #[test]
    fn a_misspelt_variable_is_found() {
        let names = [
            "WEBRTC_HEARBEAT_MS",
            "WEBRTC_HEARTBEAT_MS",
            "WEBRTC_ADMIN_TOKEN_FILE",
            "PORT",
            "HOME",
        ];
        let found = unknown(&Settings::command(), names.into_iter().map(OsString::from));
        let [found] = &found[..] else { panic!() };
        assert_eq!(found.variable, "WEBRTC_HEARBEAT_MS");
        assert_eq!(found.nearest.as_deref(), Some("WEBRTC_HEARTBEAT_MS"));
        let nearest = |name: &str| {
            let names = [OsString::from(name)].into_iter();
            unknown(&Settings::command(), names).pop()?.nearest
        };
        assert_eq!(nearest("WEBRTC_PORT").as_deref(), Some("PORT"));
        assert_eq!(nearest("WEBRTC_SOMETHING"), None);
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let settings = settings(&[]).unwrap();
        let [opts, default] = [settings.server_opts(), ServerOpts::default()];
        assert_eq!(format!("{opts:?}"), format!("{default:?}"));
    }

    #[test]
    fn a_value_that_cannot_be_used_is_explained_in_one_line() {
        let cases: [(&[&str], &str); 17] = [
            (
                &["--token", ""],
                "TOKEN (--token) is not valid: expected at least one character",
            ),
            (
                &["--port", "70000"],
                "PORT (--port) is not valid: expected a port number from 0 to 65535, or off, got \"70000\"",
            ),
            (
                &["--host", "no name"],
                "WEBRTC_HOST (--host) is not valid: expected an IP address such as 127.0.0.1, \
                 0.0.0.0 or ::, or a name that can be looked up, got \"no name\"",
            ),
            (
                &["--heartbeat-ms", "0"],
                "WEBRTC_HEARTBEAT_MS (--heartbeat-ms) is not valid: expected a whole number of \
                 milliseconds from 1 to 2147483647, got \"0\"",
            ),
            (
                &["--wait-ms=-5"],
                "WEBRTC_WAIT_MS (--wait-ms) is not valid: expected a whole number of milliseconds \
                 from 1 to 2147483647, or 0 for never, got \"-5\"",
            ),
            (
                &["--signal-logging", "maybe\nnot"],
                "WEBRTC_SIGNAL_LOGGING (--signal-logging) is not valid: expected true or false, \
                 got \"maybe\\nnot\"",
            ),
            (
                &["--cors", "https://example.org/"],
                "WEBRTC_CORS (--cors) is not valid: expected true, false or a comma-separated \
                 list of origins such as https://example.org or https://*.example.org, without a \
                 path or a default port, got \"https://example.org/\"",
            ),
            (
                &["--max-message-bytes", "2097152"],
                "WEBRTC_MAX_PENDING_BYTES (--max-pending-bytes) is too small: expected at least \
                 2097408 (256 more than WEBRTC_MAX_MESSAGE_BYTES), got 2097152",
            ),
            (
                &["--max-peers", "none"],
                "WEBRTC_MAX_PEERS (--max-peers) is not valid: expected a whole number of 1 or \
                 more, got \"none\"",
            ),
            (
                &["--heartbeat-ms", "1000", "--heartbeat-interval-ms", "1000"],
                "WEBRTC_HEARTBEAT_INTERVAL_MS (--heartbeat-interval-ms) is too large: expected \
                 less than 1000 (WEBRTC_HEARTBEAT_MS), got 1000",
            ),
            (
                &["--admin-listen", "0.0.0.0:3001"],
                "WEBRTC_ADMIN_LISTEN (--admin-listen) is 0.0.0.0:3001, which other machines can \
                 reach: set WEBRTC_ADMIN_TOKEN too, or listen on 127.0.0.1",
            ),
            (
                &["--admin-token", "x"],
                "WEBRTC_ADMIN_TOKEN (--admin-token) needs WEBRTC_ADMIN_LISTEN (--admin-listen): set \
                 that too, or unset this",
            ),
            (
                &["--webhook-secret", "x"],
                "WEBRTC_WEBHOOK_SECRET (--webhook-secret) needs WEBRTC_WEBHOOK_URL (--webhook-url): \
                 set that too, or unset this",
            ),
            (
                &["--peer-tokens", "always"],
                "WEBRTC_PEER_TOKENS (--peer-tokens) is not valid: expected optional or required, \
                 got \"always\"",
            ),
            (
                &["--heartbeat"],
                "unexpected argument '--heartbeat' found; did you mean --heartbeat-ms?",
            ),
            (
                &["chek"],
                "unrecognized subcommand 'chek'; did you mean check?",
            ),
            (
                &["--xyz"],
                "unexpected argument '--xyz' found; --help shows what can be set",
            ),
        ];
        for (args, line) in cases {
            assert_eq!(settings(args).unwrap_err().to_string(), line);
        }
    }

    #[test]
    fn the_variable_host_counts_where_it_means_an_address() {
        let with = |args: &[&str], host: &str| {
            let settings = settings(args).unwrap().or_host(Some(host.into()))?;
            Ok::<_, ConfigError>((settings.listening.host, settings.ignored_host))
        };
        let local = Host::find("127.0.0.1");
        assert_eq!(with(&[], "127.0.0.1"), Ok((local, None)));
        assert_eq!(with(&["--host", "127.0.0.1"], "::1"), Ok((local, None)));
        let conda = "x86_64-conda-linux-gnu";
        assert_eq!(with(&[], conda), Ok((None, Some(conda.to_owned()))));
        // A misspelt address must not make the server listen on all of them.
        let error = with(&[], "127.0.0.l").unwrap_err().to_string();
        assert!(
            error.starts_with("HOST is not valid: expected an IP address"),
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
        assert_eq!(never.server_opts().app.signal.wait_timeout, None);
    }
}
