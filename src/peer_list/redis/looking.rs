//! Looking for news of a peer that has a wait or socket open here.

use std::{sync::Arc, time::Duration};

use super::{
    answers::Next,
    here::OpenHere,
    lease::{Hears, Lent},
    list::List,
    retry, verbs,
};
use crate::peer_list::{Delivery, News, PeerId, Reason, Refusal};

/// The result of a look for news.
pub(super) enum Found {
    Lent(News, u64, Hears),
    Nothing,
    /// An older wait is being given something, or something was given just now: look
    /// again after this time.
    Later(Duration),
    /// A newer wait, or another socket, is given the news.
    Outdated,
    Removed(Reason),
}

/// An open wait or socket that looks for news.
#[derive(Clone)]
pub(super) struct Looking {
    pub list: Arc<List>,
    pub here: Arc<OpenHere>,
    pub id: PeerId,
}

impl Looking {
    /// Finds what the script names, which may have to be asked for.
    pub async fn find(&self, next: Next) -> Result<Found, Refusal> {
        Ok(match next {
            Next::Message { number, news } => Found::Lent(news, number, Hears::Message(number)),
            Next::List { heard, moment } => {
                self.list.sync_to(moment, None).await?;
                let mut cached = self.list.cached.lock();
                let list = cached.list_for_waiting(self.id, Some(heard));
                let version = Hears::Version(cached.roster.current());
                Found::Lent(News::Status(list), 0, version)
            }
            Next::Line { version, line } => {
                Found::Lent(News::Status(line), 0, Hears::Version(version))
            }
            Next::Nothing(heard) => {
                self.here.set_heard(heard);
                Found::Nothing
            }
            Next::Later(left) => Found::Later(left),
            Next::Outdated => Found::Outdated,
            Next::Gone(told) => Found::Removed(gone(&self.here, told)),
        })
    }

    /// Looks for news under a lease, and waits for Redis as long as it takes. `began`:
    /// when the wait began, by Redis' clock in ms (a socket: 0).
    pub async fn look(&self, lease: &str, began: u64) -> Found {
        retry::until_answered(|| async {
            self.here.looks();
            let told = self.list.told();
            let acknowledged = self.here.acknowledged();
            // A socket reports at once what it has told.
            let heard = self.here.heard().filter(|_| began > 0);
            let take = verbs::take(began, self.id, lease, acknowledged, told, heard);
            // An error: a node of another version may have written what this one cannot
            // read.
            self.find(self.list.run(take, None).await?).await
        })
        .await
    }

    pub fn lend(&self, lease: &str, news: News, number: u64, hears: Hears) -> Delivery {
        let Self { list, here, id } = self;
        let buffered = &list.node.buffered;
        let news = match news {
            News::Message { from, body } => News::Message {
                from,
                body: buffered.share_anyway(body),
            },
            News::Published(body) => News::Published(buffered.share_anyway(body)),
            others => others,
        };
        let lent = Lent::new(list, here, *id, lease, hears);
        Delivery::lent(news, number, lent)
    }
}

/// Why a peer is gone: as its node was told, or as the script says.
pub(super) fn gone(here: &OpenHere, told: Option<Reason>) -> Reason {
    here.removed().or(told).unwrap_or(Reason::TimedOut)
}
