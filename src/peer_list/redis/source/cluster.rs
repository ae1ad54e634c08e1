//! A Redis Cluster, and which of its masters has a shard.
//!
//! The client of clusters in the redis crate is not used: it finds masters by itself, so that
//! a link could not leave one that hangs, and it would follow a shard that is being moved
//! while some of its keys are here and some there.

use redis::{
    ErrorKind, FromRedisValue, IntoConnectionInfo, RedisResult, Value, aio::MultiplexedConnection,
};

use super::{
    hosts::{Hosts, address_of},
    said::Said,
};

const PORT: u16 = 6379;

/// Some servers of a cluster.
pub(super) struct Cluster {
    pub hosts: Hosts,
}

impl Cluster {
    /// Reads `redis+cluster://HOST,HOST`. None: it is no such URL.
    pub fn read(url: &str) -> Option<Self> {
        let (hosts, path) = Hosts::read(url, "cluster", PORT)?;
        // A cluster has one database.
        matches!(path, None | Some("" | "0")).then_some(Self { hosts })
    }

    /// Asks one of them, at this address, which master has a key.
    pub async fn ask(
        &self,
        address: &str,
        mut server: MultiplexedConnection,
        key: &str,
    ) -> RedisResult<Said> {
        let (slot, ranges, nodes): (u16, Vec<Value>, String) = redis::pipe()
            .cmd("CLUSTER")
            .arg("KEYSLOT")
            .arg(key)
            .cmd("CLUSTER")
            .arg("SLOTS")
            .cmd("CLUSTER")
            .arg("NODES")
            .query_async(&mut server)
            .await?;
        let master = ranges.into_iter().find_map(|range| master_of(slot, range));
        let nobody = (
            ErrorKind::Client,
            "no master of the cluster has this part of the keys",
        );
        let Master { host, port, id } = master.ok_or(nobody)?;
        // Without a name the master is where the answer came from.
        let asked = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let address = match host {
            Some(host) => address_of(&host, port),
            None => format!("{asked}:{port}"),
        };
        let primary = self.hosts.with_user(&address, 0);
        Ok(Said {
            primary: primary.into_connection_info()?,
            epoch: epoch_of(&id, &nodes),
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Master {
    host: Option<String>,
    port: u16,
    id: String,
}

/// The epoch in which a server became the master of its slots, from lines of
/// `ID ADDRESS FLAGS MASTER PING PONG EPOCH ..`.
fn epoch_of(id: &str, nodes: &str) -> Option<u64> {
    let mut lines = nodes.lines().map(|line| line.split(' '));
    let mut line = lines.find_map(|mut line| (line.next() == Some(id)).then_some(line))?;
    line.nth(5)?.parse().ok()
}

/// A master, from `FIRST LAST (HOST PORT ID ..) ..`, if this slot is in that range.
fn master_of(slot: u16, range: Value) -> Option<Master> {
    let Value::Array(range) = range else {
        return None;
    };
    let mut range = range.into_iter();
    let mut bound = || u16::from_redis_value(range.next()?).ok();
    let (first, last) = (bound()?, bound()?);
    if !(first..=last).contains(&slot) {
        return None;
    }
    let Value::Array(master) = range.next()? else {
        return None;
    };
    let mut master = master.into_iter();
    let host = Option::<String>::from_redis_value(master.next()?).ok()?;
    let port = u16::from_redis_value(master.next()?).ok()?;
    let id = String::from_redis_value(master.next()?).ok()?;
    Some(Master {
        // A server whose name the cluster does not know is `?`.
        host: host.filter(|host| !host.is_empty() && host != "?"),
        port,
        id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_cluster_names_servers_and_no_database() {
        for right in [
            "redis+cluster://a,b:1",
            "rediss+cluster://u:p@a/",
            "redis+cluster://a/0",
        ] {
            assert!(Cluster::read(right).is_some(), "{right}");
        }
        for wrong in [
            "redis://a",
            "redis+cluster://",
            "redis+cluster://a/1",
            "redis+cluster://a/x",
        ] {
            assert!(Cluster::read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn the_master_of_a_slot_stands_first_in_its_range() {
        let text = |text: &str| Value::BulkString(text.into());
        let server = |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let range = |host: Value| {
            Value::Array(vec![
                Value::Int(5),
                Value::Int(9),
                server(host, 7),
                server(text("replica"), 8),
            ])
        };
        let master = |host: Option<&str>| {
            let host = host.map(str::to_owned);
            let id = "id".to_owned();
            Some(Master { host, port: 7, id })
        };
        assert_eq!(master_of(5, range(text("a"))), master(Some("a")));
        assert_eq!(master_of(9, range(Value::Nil)), master(None));
        assert_eq!(master_of(9, range(text(""))), master(None));
        for other in [4, 10] {
            assert_eq!(master_of(other, range(text("a"))), None);
        }
        assert_eq!(master_of(5, Value::Array(vec![])), None);
        assert_eq!(master_of(5, Value::Nil), None);
    }

    #[test]
    fn the_epoch_of_a_master_is_in_its_line() {
        let nodes = "a 10.0.0.1:1@2,host myself,master - 0 17 3 connected 0-5460\n\
                     b 10.0.0.2:1@2 slave a 0 17 12 connected\n";
        assert_eq!(epoch_of("a", nodes), Some(3));
        assert_eq!(epoch_of("b", nodes), Some(12));
        assert_eq!(epoch_of("c", nodes), None);
        assert_eq!(epoch_of("a", "a x"), None);
    }
}
