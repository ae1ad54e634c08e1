//! A wait of a peer that polls, as Redis knows it.

use std::sync::Arc;

use super::here::{OpenHere, Registered};
use crate::peer_list::Proof;

/// A wait of a peer that polls, as Redis knows it. When it was answered with the list, the next
/// request of the client can go on with it, and Redis need not know.
pub(super) struct OpenWait {
    pub here: Arc<OpenHere>,
    pub number: u64,
    /// Its name in Redis.
    pub name: String,
    /// When it began, by Redis' clock in ms.
    pub began: u64,
    pub first: FirstRequest,
    /// Keeps it open at this node.
    pub _open: Registered,
}

/// What the first request of a wait has shown, and on which connection it came.
pub(super) struct FirstRequest {
    pub proof: Proof,
    pub link: Option<u64>,
    /// Whether its client acknowledges messages.
    pub acknowledges: bool,
}

impl FirstRequest {
    /// Whether another request can go on with the wait of this one: both can be of the same
    /// client, and neither acknowledges anything, of which Redis would have to be told.
    pub fn is_like(&self, other: &Self) -> bool {
        let acknowledges = self.acknowledges || other.acknowledges;
        self.proof.is(&other.proof) && self.link == other.link && !acknowledges
    }
}
