//! How a WebSocket is closed, and what becomes of its peer.

use tungstenite::protocol::frame::coding::CloseCode;

use super::{push::End, talk::Lost};
use crate::peer_list::Reason;

/// Another session has taken over. As all codes from 4000 on, it is free for applications.
const REPLACED: CloseCode = CloseCode::Library(4001);

/// How a socket is closed when the list cannot be reached.
pub(crate) const UNAVAILABLE: (CloseCode, &str) = (CloseCode::Again, "try again soon");

/// How a session ended.
pub(crate) struct Closing {
    pub end: End,
    pub code: CloseCode,
    pub reason: &'static str,
}

impl Closing {
    /// The list cannot be reached: the client may come back.
    pub fn unavailable() -> Self {
        let (code, reason) = UNAVAILABLE;
        let end = End::CLOSED;
        Self { end, code, reason }
    }
}

impl From<Lost> for Closing {
    fn from(lost: Lost) -> Self {
        let (code, reason) = lost.closing();
        let end = match lost {
            Lost::Closed | Lost::Unreadable(_) => End::CLOSED,
            Lost::Silent => End::Removed(Reason::TimedOut),
            Lost::NotReading => End::Removed(Reason::NotReading),
        };
        Self { end, code, reason }
    }
}

impl From<End> for Closing {
    fn from(end: End) -> Self {
        let (code, reason) = match end {
            End::Removed(Reason::NotReading) => (CloseCode::Again, "too much waits for this peer"),
            End::Removed(Reason::Kicked) => (CloseCode::Policy, "removed by the operator"),
            End::Removed(Reason::TimedOut) => (CloseCode::Away, "timed out, or lost by the server"),
            // The node was cut off, and the others took it for dead.
            End::Removed(Reason::Closed) => (CloseCode::Away, "the connection was taken for lost"),
            End::Removed(_) => (CloseCode::Normal, "signed out"),
            End::Replaced => (REPLACED, "another session took over"),
            End::Stopping => (CloseCode::Away, "the server stops"),
        };
        Self { end, code, reason }
    }
}
