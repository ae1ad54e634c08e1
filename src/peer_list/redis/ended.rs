//! Telling Redis which waits and connections have ended at this node.

use std::sync::{Arc, atomic::Ordering};

use futures_util::future::join_all;

use super::{
    here::{Ended, OpenHere},
    list::List,
    verbs,
};
use crate::peer_list::PeerId;

/// At most this many peers are reported at once.
const OVER_AT_ONCE: usize = 100;

/// At most this many ended connections of a peer are kept: Redis has at most one of them,
/// the last, or one of the first if it has been away since.
const LINKS_KEPT: usize = 4;

impl Ended {
    /// Whether Redis can be told of it while these are open. The end of a wait is also the
    /// end of those before it.
    fn leaves_alone(&self, open: &[Arc<OpenHere>]) -> bool {
        let number = self.wait.unwrap_or(0);
        self.links.is_empty() && open.iter().all(|here| here.is_outdated_or_after(number))
    }
}

impl List {
    /// Some of the peers of which Redis can be told what has ended here.
    fn over_now(&self) -> Vec<PeerId> {
        let open = self.open.lock();
        let ended = self.ended.peers.lock();
        let now = ended.iter().filter(|(id, ended)| {
            let open = open.get(id);
            open.is_none_or(|open| ended.leaves_alone(open))
        });
        now.take(OVER_AT_ONCE).map(|(id, _)| *id).collect()
    }

    /// Takes what has ended of some of these peers.
    fn take_ended(&self) -> Vec<(PeerId, Ended)> {
        let some = self.over_now();
        let mut ended = self.ended.peers.lock();
        some.into_iter()
            .filter_map(|id| Some((id, ended.remove(&id)?)))
            .collect()
    }

    /// A wait of a peer has ended, where it has heard this version of the list, and Redis may not
    /// know. While Redis is away only the newest wait of each peer is kept: its end is also the
    /// end of all earlier ones.
    pub fn wait_is_over(self: &Arc<Self>, id: PeerId, number: u64, heard: Option<u64>) {
        let mut ended = self.ended.peers.lock();
        let here = ended.entry(id).or_default();
        here.wait = here.wait.max(Some(number));
        here.heard = here.heard.max(heard);
        drop(ended);
        self.start_reporting_ended();
    }

    /// A connection whose last user was this peer is closed, or another peer uses it now.
    pub fn link_is_over(self: &Arc<Self>, id: PeerId, link: u64) {
        let mut ended = self.ended.peers.lock();
        let links = &mut ended.entry(id).or_default().links;
        links.truncate(LINKS_KEPT - 1);
        links.push(link);
        drop(ended);
        self.start_reporting_ended();
    }

    pub fn start_reporting_ended(self: &Arc<Self>) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !self.ended.is_reporting.swap(true, Ordering::AcqRel) {
            let list = self.clone();
            runtime.spawn(async move { list.report_ended().await });
        }
    }

    /// Tells Redis what has ended.
    async fn report_ended(&self) {
        loop {
            let some = self.take_ended();
            if some.is_empty() {
                self.ended.is_reporting.store(false, Ordering::Release);
                // More may have ended in between.
                if self.over_now().is_empty()
                    || self.ended.is_reporting.swap(true, Ordering::AcqRel)
                {
                    return;
                }
                continue;
            }
            join_all(some.into_iter().map(async |(id, ended)| {
                if let Some(number) = ended.wait {
                    let name = self.wait_name(number);
                    let end = verbs::end_wait(id, &name, false, ended.heard);
                    let _ = self.run(end, None).await;
                }
                for link in ended.links {
                    let _ = self.run(verbs::unlink(id, link), None).await;
                }
            }))
            .await;
        }
    }
}
