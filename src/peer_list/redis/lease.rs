//! What Redis is told when news are handed over, or not.

use std::{fmt, sync::Arc};

use tokio::{runtime::Handle, sync::OwnedMutexGuard, time::Instant};

use super::{
    deliveries::{Going, Heard},
    here::OpenHere,
    list::List,
    open_wait::OpenWait,
    verbs,
};
use crate::peer_list::{PeerId, Receipt, delivery::Lease};

/// News that Redis has lent. Redis is told whether they were handed over.
pub(super) struct Lent {
    list: Arc<List>,
    here: Arc<OpenHere>,
    id: PeerId,
    /// The name of the wait (see `List::next_wait`), or `s` and the session of the
    /// socket.
    name: String,
    hears: Hears,
    going: Option<Going>,
}

/// What a peer has heard once the news are handed over.
#[derive(Clone, Copy)]
pub(super) enum Hears {
    /// The message with this number.
    Message(u64),
    /// The list, up to this version.
    Version(u64),
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lent({}, {})", self.id, self.name)
    }
}

impl Lent {
    pub(super) fn new(
        list: &Arc<List>,
        here: &Arc<OpenHere>,
        id: PeerId,
        name: &str,
        hears: Hears,
    ) -> Self {
        Self {
            list: list.clone(),
            here: here.clone(),
            id,
            name: name.to_owned(),
            hears,
            going: Some(list.deliveries.begin_lent(id)),
        }
    }

    fn is_of_socket(&self) -> bool {
        self.name.starts_with('s')
    }

    /// Tells Redis in the background. `handing` is dropped when Redis knows.
    fn settle(&mut self, is_done: bool, handing: Option<OwnedMutexGuard<()>>) {
        let Some(going) = self.going.take() else {
            return;
        };
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let counts = &self.list.node.counts;
        let (hears, number) = match self.hears {
            _ if !is_done => ("", 0),
            Hears::Message(number) => {
                counts.delivered.count();
                ("message", number)
            }
            Hears::Version(version) => {
                counts.updates.count();
                ("version", version)
            }
        };
        let ends = !self.is_of_socket();
        let done = verbs::done(self.id, &self.name, hears, number, ends, is_done);
        let list = self.list.clone();
        runtime.spawn(async move {
            let _ = list.run(done, None).await;
            drop((handing, going));
        });
    }
}

impl Lease for Lent {
    /// The socket has the news. Redis is told in the background; until Redis knows, the
    /// socket is given nothing more, but stays open.
    fn commit(mut self: Box<Self>) {
        if let Hears::Version(version) = self.hears {
            self.here.set_heard(Some(version));
        }
        // An error: the socket has already asked for more.
        let handing = self.here.handing().ok();
        self.settle(true, handing);
    }

    /// The reply is on its way, and does not hold up another wait of this list.
    fn into_receipt(mut self: Box<Self>) -> Option<Receipt> {
        Some(Receipt::new(move || self.settle(true, None)))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.settle(false, None);
    }
}

/// The list, which this node has told a wait from its copy: Redis does not know.
pub(super) struct Told {
    list: Arc<List>,
    id: PeerId,
    wait: Arc<OpenWait>,
    version: u64,
    going: Option<Going>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Told({}, {})", self.id, self.version)
    }
}

impl Told {
    /// The list, up to this version. None: the peer is being given something.
    pub(super) fn new(
        list: &Arc<List>,
        id: PeerId,
        wait: &Arc<OpenWait>,
        version: u64,
    ) -> Option<Self> {
        let going = Some(list.deliveries.begin_from_copy(id)?);
        Some(Self {
            list: list.clone(),
            id,
            wait: wait.clone(),
            version,
            going,
        })
    }

    /// The client has it. Redis is told, unless the client soon polls again.
    fn is_done(&mut self) {
        let (Some(going), Ok(runtime)) = (self.going.take(), Handle::try_current()) else {
            return;
        };
        let (list, id, wait, version) =
            (self.list.clone(), self.id, self.wait.clone(), self.version);
        wait.here.set_heard(Some(version));
        list.node.counts.updates.count();
        let heard = Heard {
            wait,
            version,
            at: Instant::now(),
        };
        going.heard(heard.clone());
        runtime.spawn(async move {
            if list.is_ending() {
                list.deliveries.report_all();
            }
            if going.is_due().await {
                let name = &heard.wait.name;
                let mut report = verbs::heard(id, name, Some(version), true, heard.ago());
                report.words.is_wanted = Some(Arc::new(going.is_to_report()));
                let _ = list.run(report, None).await;
            }
        });
    }
}

impl Lease for Told {
    fn commit(mut self: Box<Self>) {
        self.is_done();
    }

    fn into_receipt(mut self: Box<Self>) -> Option<Receipt> {
        Some(Receipt::new(move || self.is_done()))
    }
}

impl Drop for Told {
    /// The client has not got it, and its wait is over.
    fn drop(&mut self) {
        let (Some(going), Ok(runtime)) = (self.going.take(), Handle::try_current()) else {
            return;
        };
        let (list, wait) = (self.list.clone(), self.wait.clone());
        let report = verbs::heard(self.id, &wait.name, None, false, 0);
        runtime.spawn(async move {
            let _ = list.run(report, None).await;
            drop((wait, going));
        });
    }
}
