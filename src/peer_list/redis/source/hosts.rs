//! Several servers in one URL.

use redis::IntoConnectionInfo;

/// The servers that a URL names, and how they are spoken to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hosts {
    /// `redis` or `rediss`.
    scheme: &'static str,
    /// User and password with `@`, as in a URL, or nothing.
    user: String,
    /// Each `HOST:PORT`.
    addresses: Vec<String>,
}

impl Hosts {
    /// Reads `redis+KIND://USER:PASSWORD@HOST:PORT,HOST:PORT`, where user and ports may be
    /// missing, and returns what follows. None: it is no such URL.
    pub fn read<'a>(
        url: &'a str,
        kind: &str,
        default_port: u16,
    ) -> Option<(Self, Option<&'a str>)> {
        let (scheme, rest) = ["rediss", "redis"].into_iter().find_map(|scheme| {
            let rest = url.strip_prefix(scheme)?.strip_prefix('+')?;
            Some((scheme, rest.strip_prefix(kind)?.strip_prefix("://")?))
        })?;
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(path)),
            None => (rest, None),
        };
        let (user, hosts) = match authority.rfind('@') {
            Some(at) => authority.split_at(at + 1),
            None => ("", authority),
        };
        let addresses = hosts.split(',').map(|host| {
            let has_port = host
                .rsplit_once(':')
                .is_some_and(|(_, port)| !port.contains(']'));
            match has_port {
                true => host.to_owned(),
                false => format!("{host}:{default_port}"),
            }
        });
        let hosts = Self {
            scheme,
            user: user.to_owned(),
            addresses: addresses.collect(),
        };
        let mut urls = hosts
            .addresses
            .iter()
            .map(|address| hosts.with_user(address, 0));
        let are_valid = urls.all(|url| url.into_connection_info().is_ok());
        are_valid.then_some((hosts, path))
    }

    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The URL of a server, for one who does not say who it is.
    pub fn without_user(&self, address: &str) -> String {
        format!("{}://{address}/", self.scheme)
    }

    /// The URL of a database of a server.
    pub fn with_user(&self, address: &str, db: i64) -> String {
        let Self { scheme, user, .. } = self;
        format!("{scheme}://{user}{address}/{db}")
    }
}

/// `HOST:PORT`.
pub(super) fn address_of(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_servers_with_and_without_ports() {
        let read = |url| {
            let (hosts, path) = Hosts::read(url, "kind", 1)?;
            Some((hosts.addresses.join(" "), hosts.with_user("h:9", 2), path))
        };
        let found =
            |addresses: &str, url: &str, path| Some((addresses.to_owned(), url.to_owned(), path));
        assert_eq!(
            read("redis+kind://a,b:7"),
            found("a:1 b:7", "redis://h:9/2", None)
        );
        assert_eq!(
            read("rediss+kind://u:p%40ss@[::1],[::2]:7/x/y"),
            found("[::1]:1 [::2]:7", "rediss://u:p%40ss@h:9/2", Some("x/y"))
        );
        for wrong in [
            "redis://a",
            "redis+other://a",
            "redis+kind://",
            "redis+kind://a:x",
            "redis+kind://a,",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_ipv6_address_is_in_brackets() {
        assert_eq!(address_of("::1", 7), "[::1]:7");
        assert_eq!(address_of("a.example", 7), "a.example:7");
    }
}
