//! Sentinels, and the primary that they watch.

use std::collections::HashMap;

use futures_util::StreamExt;
use redis::{Client, ErrorKind, IntoConnectionInfo, RedisResult, aio::MultiplexedConnection};

use super::{
    hosts::{Hosts, address_of},
    said::Said,
};

const PORT: u16 = 26379;

/// Sentinels. User and password in their URL are those of the primary.
pub(super) struct Sentinels {
    pub hosts: Hosts,
    /// By which name they know the primary.
    pub name: String,
    pub db: i64,
}

impl Sentinels {
    /// Reads `redis+sentinel://HOST,HOST/NAME/DB`, where the database may be missing. None: it
    /// is no such URL.
    pub fn read(url: &str) -> Option<Self> {
        let (hosts, path) = Hosts::read(url, "sentinel", PORT)?;
        let path = path?;
        let (name, db) = path.split_once('/').unwrap_or((path, "0"));
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        if name.is_empty() || !name.bytes().all(is_name) {
            return None;
        }
        Some(Self {
            hosts,
            name: name.to_owned(),
            db: db.parse().ok()?,
        })
    }

    /// Asks one of them where the primary is.
    pub async fn ask(&self, mut sentinel: MultiplexedConnection) -> RedisResult<Said> {
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("get-master-addr-by-name").arg(&self.name);
        let found: Option<(String, u16)> = ask.query_async(&mut sentinel).await?;
        let unknown = (
            ErrorKind::MasterNameNotFoundBySentinel,
            "the Sentinels do not know that name",
        );
        let (host, port) = found.ok_or(unknown)?;
        let address = self.hosts.with_user(&address_of(&host, port), self.db);
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("master").arg(&self.name);
        let all: HashMap<String, String> = ask.query_async(&mut sentinel).await?;
        Ok(Said {
            primary: address.into_connection_info()?,
            epoch: all.get("config-epoch").and_then(|epoch| epoch.parse().ok()),
        })
    }

    /// Listens to one of them until it is cut off. Tells of each primary that has followed
    /// another, and once at the beginning: one may have before.
    pub async fn listen(&self, sentinel: &Client, is_switched: impl Fn()) -> RedisResult<()> {
        let mut sentinel = sentinel.get_async_pubsub().await?;
        sentinel.subscribe("+switch-master").await?;
        is_switched();
        let mut switches = sentinel.on_message();
        while let Some(switch) = switches.next().await {
            // `NAME HOST PORT HOST PORT`, before and now.
            let told: String = switch.get_payload()?;
            if told.split(' ').next() == Some(&self.name) {
                is_switched();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_sentinels_names_the_primary() {
        let read = |url: &str| {
            let Sentinels { name, db, .. } = Sentinels::read(url)?;
            Some((name, db))
        };
        let found = |name: &str, db| Some((name.to_owned(), db));
        assert_eq!(read("redis+sentinel://a,b:1/main"), found("main", 0));
        assert_eq!(read("rediss+sentinel://u:p@[::1]/x/3"), found("x", 3));
        for wrong in [
            "redis://a/main",
            "redis+sentinel://a",
            "redis+sentinel://a/",
            "redis+sentinel:///main",
            "redis+sentinel://a/main/x",
            "redis+sentinel://a/main/1/2",
            "redis+sentinel://a/ma in",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
