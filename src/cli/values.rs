//! Values of settings as people write them. Each error says what was expected.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue, Uri};
use clap::ValueEnum;
use ipnet::IpNet;
use reqwest::Url;
use secrecy::SecretString;
use tracing::Level;
use tracing_subscriber::filter::Targets;

use crate::{
    doors::http::{AllowedRooms, Cors},
    peer_list::{ClusterOpts, RoomName},
    server::{Door, Host},
};

/// Timers of Node, and so the settings of the original, end here (25 days).
const MAX_MS: u64 = i32::MAX as u64;

/// Each shard takes two connections of each node, and a Redis Cluster has hardly more masters.
const MAX_SHARDS: usize = 128;

/// A setting for a larger message or mailbox is a mistake.
const MAX_BYTES: usize = 1 << 30;

/// A port. None: there is no such listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port(pub Option<u16>);

pub(super) fn port_or_off(value: &str) -> Result<Port, String> {
    if value.trim() == "off" {
        return Ok(Port(None));
    }
    let port = port(value).map(|port| Port(Some(port)));
    port.map_err(|right| right + ", or off")
}

pub(super) fn port(value: &str) -> Result<u16, String> {
    let port = value.trim().parse();
    port.map_err(|_| "a port number from 0 to 65535".into())
}

pub(super) fn host(value: &str) -> Result<Host, String> {
    let right = "an IP address such as 127.0.0.1, 0.0.0.0 or ::, or a name that can be looked up";
    Host::find(value).ok_or_else(|| right.to_owned())
}

/// An empty secret protects nothing: anybody could send it.
pub(super) fn secret(value: &str) -> Result<SecretString, String> {
    let secret = Some(value).filter(|value| !value.is_empty());
    secret
        .map(SecretString::from)
        .ok_or_else(|| "at least one character".into())
}

pub(super) fn boolean(value: &str) -> Result<bool, String> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("true or false".into()),
    }
}

pub(super) fn milliseconds(value: &str) -> Result<Duration, String> {
    let ms: Option<u64> = value.trim().parse().ok();
    let ms = ms.filter(|ms| (1..=MAX_MS).contains(ms));
    ms.map(Duration::from_millis)
        .ok_or_else(|| format!("a whole number of milliseconds from 1 to {MAX_MS}"))
}

/// A duration as settings write it.
pub(super) fn in_milliseconds(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// How long a wait may last. None: for ever. (clap takes an `Option` for an argument that
/// may be missing.)
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitLimit(pub Option<Duration>);

pub(super) fn milliseconds_or_never(value: &str) -> Result<WaitLimit, String> {
    if value.trim() == "0" {
        return Ok(WaitLimit(None));
    }
    let limit = milliseconds(value).map(|limit| WaitLimit(Some(limit)));
    limit.map_err(|right| right + ", or 0 for never")
}

pub(super) fn address(value: &str) -> Result<SocketAddr, String> {
    let address = value.trim().parse();
    address.map_err(|_| "an IP address and a port, such as 127.0.0.1:3001".into())
}

pub(super) fn webhook_url(value: &str) -> Result<Url, String> {
    let url: Option<Url> = value.trim().parse().ok();
    url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| "an http:// or https:// URL such as https://example.org/peers".into())
}

/// Networks, with commas between them.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks(pub Vec<IpNet>);

pub(super) fn networks(value: &str) -> Result<Networks, String> {
    let network = |text: &str| {
        let text = text.trim();
        let address: Option<IpAddr> = text.parse().ok();
        text.parse().ok().or_else(|| address.map(IpNet::from))
    };
    let networks: Option<_> = value.split(',').map(network).collect();
    networks
        .map(Networks)
        .ok_or_else(|| "networks such as 10.0.0.0/8,fd00::/8, or addresses".into())
}

/// So many in each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub count: NonZeroU32,
    pub time: Duration,
}

pub(super) fn sign_in_rate(value: &str) -> Result<Rate, String> {
    let rate = |value: &str| {
        let (count, unit) = value.trim().split_once('/')?;
        let seconds = match unit.trim() {
            "s" => 1,
            "min" => 60,
            "h" => 60 * 60,
            _ => return None,
        };
        // More could not be told apart by a clock.
        let count = count.trim().parse().ok();
        let count = count.filter(|count: &NonZeroU32| count.get() <= 1_000_000)?;
        let time = Duration::from_secs(seconds);
        Some(Rate { count, time })
    };
    rate(value).ok_or_else(|| "a rate such as 10/s, 100/min or 1000/h".into())
}

pub(super) fn header(value: &str) -> Result<HeaderName, String> {
    let header = value.trim().parse();
    header.map_err(|_| "the name of a header, such as X-Forwarded-For".into())
}

/// coturn takes any time; a day is longer than any page is open without asking again.
const TURN_TTL: RangeInclusive<u64> = 60..=24 * 60 * 60;

pub(super) fn turn_ttl(value: &str) -> Result<Duration, String> {
    let seconds: Option<u64> = value.trim().parse().ok();
    let seconds = seconds.filter(|seconds| TURN_TTL.contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| {
        let (least, most) = (TURN_TTL.start(), TURN_TTL.end());
        format!("a whole number of seconds from {least} to {most}")
    })
}

pub(super) fn shards(value: &str) -> Result<NonZeroUsize, String> {
    let number = value
        .parse()
        .ok()
        .filter(|number: &NonZeroUsize| number.get() <= MAX_SHARDS);
    number.ok_or_else(|| format!("a number from 1 to {MAX_SHARDS}"))
}

pub(super) fn redis_url(value: &str) -> Result<SecretString, String> {
    let url = value.trim();
    ClusterOpts::is_url(url).then(|| url.into()).ok_or_else(|| {
        "a URL such as redis://user:password@127.0.0.1:6379/0 or \
             redis+sentinel://host1,host2,host3/NAME or redis+cluster://host1,host2,host3, where in user and password \
             @ : / # % and ? are written as %40 %3A %2F %23 %25 and %3F"
            .into()
    })
}

pub(super) fn certificates(value: &str) -> Result<PathBuf, String> {
    let text = fs::read_to_string(value).unwrap_or_default();
    text.contains("-----BEGIN CERTIFICATE-----")
        .then(|| value.into())
        .ok_or_else(|| "the path of a file with certificates (PEM)".into())
}

pub(super) fn private_key(value: &str) -> Result<PathBuf, String> {
    let text = fs::read_to_string(value).unwrap_or_default();
    text.contains("PRIVATE KEY-----")
        .then(|| value.into())
        .ok_or_else(|| "the path of a file with a private key (PEM)".into())
}

pub(super) fn redis_prefix(value: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&value.len());
    let is_plain = value
        .bytes()
        .all(|b| b.is_ascii_graphic() && b != b'{' && b != b'}');
    (fits && is_plain)
        .then(|| value.to_owned())
        .ok_or_else(|| "1 to 64 printable ASCII characters, without spaces and braces".into())
}

pub(super) fn bytes(value: &str) -> Result<usize, String> {
    let bytes = value.trim().parse().ok();
    bytes
        .filter(|bytes| (1..=MAX_BYTES).contains(bytes))
        .ok_or_else(|| format!("a whole number of bytes from 1 to {MAX_BYTES}"))
}

pub(super) fn count(value: &str) -> Result<usize, String> {
    let peers = value.trim().parse().ok();
    peers
        .filter(|peers| *peers > 0)
        .ok_or_else(|| "a whole number of 1 or more".into())
}

/// Which doors are open, each once.
#[derive(Clone, Debug)]
pub(super) struct Doors(pub Vec<Door>);

pub(super) fn doors(value: &str) -> Result<Doors, String> {
    let mut doors = Vec::new();
    for name in value.split(',') {
        let door = Door::from_str(name.trim(), true).map_err(|_| {
            "a comma-separated list of http, websocket, socketio, peerjs, topics and matchbox"
                .to_owned()
        })?;
        if !doors.contains(&door) {
            doors.push(door);
        }
    }
    Ok(Doors(doors))
}

/// What other paths of the server begin with.
const TAKEN: &[&str] = &[
    "capacity",
    "client.d.ts",
    "client.js",
    "connections",
    "healthz",
    "heartbeat",
    "heartbeat.d.ts",
    "heartbeat.js",
    "ice-servers",
    "matchbox",
    "message",
    "openapi.yml",
    "page.css",
    "page.js",
    "readyz",
    "reliable-signaler",
    "rooms",
    "rtc.d.ts",
    "rtc.js",
    "sign_in",
    "sign_out",
    "socket.io",
    "topics",
    "wait",
    "ws",
];

/// A path, with a slash at the beginning and at the end.
#[derive(Clone, Debug)]
pub(super) struct Folder(pub String);

pub(super) fn path(value: &str) -> Result<Folder, String> {
    let inner = value.trim_matches('/');
    if inner.is_empty() {
        return Ok(Folder("/".to_owned()));
    }
    let is_part = |part: &str| is_word(part) && !part.chars().all(|c| c == '.');
    let first = inner.split('/').next().unwrap_or_default();
    if TAKEN.contains(&first) {
        return Err(format!(
            "a path that does not begin with /{first}, which the server uses itself"
        ));
    }
    match inner.split('/').all(is_part) {
        true => Ok(Folder(format!("/{inner}/"))),
        false => Err("a path such as /peerjs-server, of A-Z a-z 0-9 . _ ~ -".into()),
    }
}

/// What can be a part of a path.
pub(super) fn word(value: &str) -> Result<String, String> {
    match is_word(value) {
        true => Ok(value.to_owned()),
        false => Err("a word of A-Z a-z 0-9 . _ ~ -".into()),
    }
}

fn is_word(text: &str) -> bool {
    let is_free = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    !text.is_empty() && text.bytes().all(is_free)
}

/// Rooms of every name, of none, or of some.
pub(super) fn rooms(value: &str) -> Result<AllowedRooms, String> {
    match value.trim() {
        "any" => return Ok(AllowedRooms::Any),
        "none" => return Ok(AllowedRooms::None),
        _ => {}
    }
    let names: Result<Vec<RoomName>, _> =
        value.split(',').map(|name| name.trim().parse()).collect();
    // A room that is named so is rather a slip.
    let is_slip = |name: &RoomName| {
        ["any", "none"]
            .iter()
            .any(|word| name.as_str().eq_ignore_ascii_case(word))
    };
    let names = names
        .ok()
        .filter(|names| !names.iter().any(is_slip))
        .map(AllowedRooms::Named);
    names.ok_or_else(|| {
        "any, none or a comma-separated list of names, each of 1 to 64 of A-Z a-z 0-9 . _ ~ -"
            .into()
    })
}

/// What is logged: one level for everything, and other levels for some targets.
pub(super) fn log_filter(value: &str) -> Result<Targets, String> {
    let mut parts = value.split(',').map(str::trim);
    // The library takes a word that is not a level for a target, and logs all of it.
    let has_levels = parts.all(|part| part.contains('=') || part.parse::<Level>().is_ok());
    let filter = has_levels.then(|| value.trim().parse().ok()).flatten();
    filter.ok_or_else(|| {
        "error, warn, info, debug or trace, or a list such as \
             info,signal_http_heartbeat::doors=debug"
            .into()
    })
}

pub(super) fn cors(value: &str) -> Result<Cors, String> {
    match boolean(value) {
        Ok(true) => return Ok(Cors::AnyOrigin),
        Ok(false) => return Ok(Cors::Off),
        Err(_) if value.trim() == "*" => return Ok(Cors::AnyOrigin),
        Err(_) => {}
    }
    let origins: Option<Vec<HeaderValue>> = value.split(',').map(origin).collect();
    origins.map(Cors::Origins).ok_or_else(|| {
        "true, false or a comma-separated list of origins such as https://example.org or \
         https://*.example.org, without a path or a default port"
            .into()
    })
}

/// An origin as browsers send it: scheme, host, and the port unless it is the scheme's own;
/// nothing after them. `*.` before the host means all below it.
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

    #[test]
    fn a_path_has_slashes_around_it() {
        for given in ["/a/b", "a/b/", "/a/b/"] {
            assert_eq!(path(given).unwrap().0, "/a/b/");
        }
        assert_eq!(path("/").unwrap().0, "/");
        for wrong in ["/a b", "/{key}", "/a/../b", "/rooms/x", "/a//b", "/é"] {
            assert!(path(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_doors_are_a_list_of_names() {
        let open = |value| doors(value).map(|doors| doors.0);
        assert_eq!(
            open("socketio, HTTP,http"),
            Ok(vec![Door::SocketIo, Door::Http])
        );
        for value in ["", "none", "http,", "http;websocket"] {
            let right = open(value).unwrap_err();
            assert!(
                right.contains("http, websocket, socketio, peerjs, topics and matchbox"),
                "{right}"
            );
        }
    }

    #[test]
    fn the_rooms_are_any_none_or_a_list_of_names() {
        assert_eq!(rooms("any"), Ok(AllowedRooms::Any));
        assert_eq!(rooms(" none "), Ok(AllowedRooms::None));
        let names = ["lobby", "a.b"].map(|name| name.parse().unwrap());
        assert_eq!(rooms("lobby, a.b"), Ok(AllowedRooms::Named(names.to_vec())));
        for bad in ["", "lobby,", "a b", "..", "ANY", "any,none"] {
            assert!(rooms(bad).unwrap_err().contains("any, none or"), "{bad}");
        }
    }

    #[test]
    fn cors_takes_all_none_or_a_list_of_origins() {
        let list = |origins: &[&'static str]| {
            let origins = origins.iter().map(|o| HeaderValue::from_static(o));
            Cors::Origins(origins.collect())
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
    fn a_log_filter_is_a_level_or_a_list_of_targets() {
        for good in ["debug", "WARN", "info,signal_http_heartbeat::doors=debug"] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        for bad in ["", "loud", "info,x=loud"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }
}
