//! News on loan: what Redis is told when they are handed over, or not.

use std::{fmt, sync::Arc};

use super::{
    answers::Anything,
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
            is_settled: false,
        }
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

    fn settle(&mut self, is_done: bool) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        self.list.later(self.done(is_done), None);
    }
}

impl delivery::Lease for Lease {
    /// The socket has the news. Redis is told in the background; until Redis knows, the
    /// socket is given nothing more, but stays open.
    fn commit(mut self: Box<Self>) {
        if let Hears::Version(version) = self.hears {
            self.here.set_heard(Some(version));
        }
        let Ok(handing) = self.here.handing() else {
            // The socket has already asked for more.
            return self.settle(true);
        };
        self.is_settled = true;
        let done = self.done(true);
        let list = self.list.clone();
        tokio::spawn(async move {
            let _ = list.run(done, None).await;
            drop(handing);
        });
    }

    /// The reply is on its way, and does not hold up another wait of this list.
    fn into_receipt(mut self: Box<Self>) -> Option<Receipt> {
        Some(Receipt::new(move || self.settle(true)))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.settle(false);
    }
}
