//! A Redis Cluster, and which of its masters has a shard.
//!
//! The client of clusters in the redis crate is not used: it finds masters by itself, so that
//! a link could not leave one that hangs, and it would follow a shard that is being moved
//! while some of its keys are here and some there.

use redis::{
    ConnectionInfo, ErrorKind, FromRedisValue, IntoConnectionInfo, RedisResult, Value,
    aio::MultiplexedConnection,
};

use super::hosts::{Hosts, address_of};

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
    ) -> RedisResult<ConnectionInfo> {
        let (slot, ranges): (u16, Vec<Value>) = redis::pipe()
            .cmd("CLUSTER")
            .arg("KEYSLOT")
            .arg(key)
            .cmd("CLUSTER")
            .arg("SLOTS")
            .query_async(&mut server)
            .await?;
        let master = ranges.into_iter().find_map(|range| master_of(slot, range));
        let nobody = (
            ErrorKind::Client,
            "no master of the cluster has this part of the keys",
        );
        let (host, port) = master.ok_or(nobody)?;
        // Without a name the master is where the answer came from.
        let asked = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let address = match host {
            Some(host) => address_of(&host, port),
            None => format!("{asked}:{port}"),
        };
        self.hosts.with_user(&address, 0).into_connection_info()
    }
}

/// The host (if it says one) and the port of a master, from `FIRST LAST (HOST PORT ..) ..`,
/// if this slot is in that range.
fn master_of(slot: u16, range: Value) -> Option<(Option<String>, u16)> {
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
    // A server whose name the cluster does not know is `?`.
    Some((host.filter(|host| !host.is_empty() && host != "?"), port))
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
        assert_eq!(
            master_of(5, range(text("a"))),
            Some((Some("a".to_owned()), 7))
        );
        assert_eq!(master_of(9, range(Value::Nil)), Some((None, 7)));
        assert_eq!(master_of(9, range(text(""))), Some((None, 7)));
        for other in [4, 10] {
            assert_eq!(master_of(other, range(text("a"))), None);
        }
        assert_eq!(master_of(5, Value::Array(vec![])), None);
        assert_eq!(master_of(5, Value::Nil), None);
    }
}
