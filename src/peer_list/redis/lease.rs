//! News on loan: what Redis is told when they are handed over, or not.

use std::{fmt, sync::Arc};

use tokio::{runtime::Handle, sync::OwnedMutexGuard};

use super::{
    answers::Anything,
    deliveries::{Going, Heard},
    here::OpenHere,
    list::List,
    verbs::{self, Call},
};
use crate::peer_list::{PeerId, Receipt, delivery};

/// A loan, of which Redis is told whether the news were handed over.
pub(super) struct Lease {
    list: Arc<List>,
    here: Arc<OpenHere>,
    id: PeerId,
    /// The name of the wait (see `List::next_wait`), or `s` and the session of the
    /// socket.
    name: String,
    hears: Hears,
    /// The node has told the list from its copy. Otherwise Redis has lent the news.
    is_from_copy: bool,
    going: Option<Going>,
    is_settled: bool,
}

/// What a peer has heard once the news are handed over.
#[derive(Clone, Copy)]
pub(super) enum Hears {
    /// The message with this number.
    Message(u64),
    /// The list, up to this version.
    Version(u64),
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({}, {})", self.id, self.name)
    }
}

impl Lease {
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
            is_from_copy: false,
            going: Some(list.deliveries.begin_lent(id)),
            is_settled: false,
        }
    }

    /// The list, up to this version, for the wait of this name, which Redis was not asked
    /// about. None: the peer is being given something.
    pub(super) fn from_copy(
        list: &Arc<List>,
        here: &Arc<OpenHere>,
        id: PeerId,
        name: &str,
        version: u64,
    ) -> Option<Self> {
        Some(Self {
            list: list.clone(),
            here: here.clone(),
            id,
            name: name.to_owned(),
            hears: Hears::Version(version),
            is_from_copy: true,
            going: Some(list.deliveries.begin_from_copy(id)?),
            is_settled: false,
        })
    }

    fn is_of_socket(&self) -> bool {
        self.name.starts_with('s')
    }

    /// The call that tells Redis whether the news were handed over.
    fn done(&self, is_done: bool) -> Call<Anything> {
        let (hears, number) = match self.hears {
            Hears::Message(number) => ("message", number),
            Hears::Version(version) => ("version", version),
        };
        if self.is_from_copy {
            let version = if is_done { number } else { 0 };
            return verbs::heard(self.id, &self.name, version, is_done);
        }
        let hears = if is_done { hears } else { "" };
        verbs::done(
            self.id,
            &self.name,
            hears,
            number,
            !self.is_of_socket(),
            is_done,
        )
    }

    /// Tells Redis in the background. `handing` is dropped when Redis knows.
    fn settle(&mut self, is_done: bool, handing: Option<OwnedMutexGuard<()>>) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (list, mut done) = (self.list.clone(), self.done(is_done));
        let going = self.going.take();
        if let (true, true, Hears::Version(version), Some(going)) =
            (self.is_from_copy, is_done, self.hears, &going)
        {
            let wait = self.name.clone();
            done.words.is_wanted = Some(Arc::new(going.heard(Heard { wait, version })));
        }
        runtime.spawn(async move {
            let _ = list.run(done, None).await;
            drop((handing, going));
        });
    }
}

impl delivery::Lease for Lease {
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

impl Drop for Lease {
    fn drop(&mut self) {
        self.settle(false, None);
    }
}
