//! What Sentinels or servers of a cluster say about where the primary is.

use std::time::Duration;

use futures_util::future::join_all;
use redis::{ConnectionInfo, RedisResult};
use tokio::time::timeout;

use crate::peer_list::redis::retry::late;

/// A server that works says within this time where the primary is.
const ASKED_PATIENCE: Duration = Duration::from_millis(500);

/// Where a server says that the primary is.
pub(super) struct Said {
    pub primary: ConnectionInfo,
    /// Servers number the primaries that have followed each other.
    pub epoch: Option<u64>,
}

/// Where the primary is by the highest epoch of which any of these say, all asked at once: one
/// that hung, or was cut off from the others, does not know that another has followed.
pub(super) async fn newest(
    asked: impl Iterator<Item = impl Future<Output = RedisResult<Said>>>,
) -> RedisResult<ConnectionInfo> {
    let asked = asked.map(|said| timeout(ASKED_PATIENCE, said));
    let mut newest: Option<Said> = None;
    let mut failure = late();
    for said in join_all(asked).await.into_iter().flatten() {
        match said {
            Ok(said)
                if newest
                    .as_ref()
                    .is_none_or(|newest| newest.epoch < said.epoch) =>
            {
                newest = Some(said);
            }
            Ok(_) => {}
            Err(error) => failure = error,
        }
    }
    newest.map(|said| said.primary).ok_or(failure)
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;
    use tokio::time::sleep;

    use super::*;

    /// The address that is believed if servers say these, each with its epoch, after this many ms.
    async fn believed(all: &[(u64, &str, Option<u64>)]) -> Option<String> {
        let asked = all.iter().map(async |(ms, address, epoch)| {
            sleep(Duration::from_millis(*ms)).await;
            Ok(Said {
                primary: format!("redis://{address}").into_connection_info()?,
                epoch: *epoch,
            })
        });
        let primary = newest(asked).await.ok()?;
        Some(primary.addr().to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn the_highest_epoch_is_believed_no_matter_which_node_says_it_and_how_late() {
        let (old, new) = ("old:1", "new:1");
        let said = [(0, old, Some(9)), (499, new, Some(10)), (1, old, Some(9))];
        assert_eq!(believed(&said).await.as_deref(), Some(new));
        // Not one that does not answer.
        let said = [(0, old, None), (501, new, Some(10))];
        assert_eq!(believed(&said).await.as_deref(), Some(old));
        assert_eq!(believed(&[(501, new, Some(10))]).await, None);
    }
}
