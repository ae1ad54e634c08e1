//! Answers to waits and sockets.

use std::time::Duration;

use super::{accepted, needed};
use crate::peer_list::{
    Dialect, Lines, News, PeerId, Reason, Refusal,
    redis::{
        moment::Moment,
        row::{Answer, Row},
        view::{bare_line, read_dialect},
    },
};

/// What a wait or socket is to hear next.
pub(in crate::peer_list::redis) enum Next {
    Message {
        number: u64,
        news: News,
    },
    /// The list, of which its peer has heard one version and is to hear another.
    List {
        heard: u64,
        moment: Moment,
    },
    /// The line of one change, with the version that has it.
    Line {
        version: u64,
        line: Lines,
    },
    /// Nothing; and the version of the list that its peer has heard, if it hears of any.
    Nothing(Option<u64>),
    /// An older wait is being given something, or something was given just now.
    Later(Duration),
    /// A newer wait, or another socket, is given the news.
    Outdated,
    /// The peer is gone, and why, if that is still known.
    Gone(Option<Reason>),
}

impl Answer for Next {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(match row.kind().as_str() {
            "message" => {
                let number = needed(row.number())?;
                let kind = row.kind();
                let from = needed(row.text())?;
                let body = needed(row.bytes())?;
                let news = match kind.as_str() {
                    "d" => News::Message {
                        from: needed(PeerId::parse(&from))?,
                        body,
                    },
                    "a" => News::Announced(body),
                    _ => News::Published(body),
                };
                Self::Message { number, news }
            }
            "list" => Self::List {
                heard: needed(row.number())?,
                moment: needed(Moment::read(&mut row))?,
            },
            "line" => Self::Line {
                version: needed(row.number())?,
                line: needed(row.text().and_then(|line| bare_line(&line)))?,
            },
            "none" => Self::Nothing(row.number()),
            "later" => Self::Later(Duration::from_millis(needed(row.number())?)),
            "outdated" => Self::Outdated,
            "gone" => Self::Gone(read_reason(&mut row)),
            _ => return Err(Refusal::Unavailable),
        })
    }
}

fn read_reason(row: &mut Row) -> Option<Reason> {
    row.text().and_then(|reason| Reason::read(&reason))
}

/// A wait has begun.
pub(in crate::peer_list::redis) struct BegunWait {
    /// None: it cannot be read, and has to be asked for again.
    pub next: Option<Next>,
    pub dialect: Option<Dialect>,
}

impl Answer for BegunWait {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        accepted(&mut row)?;
        Ok(Self {
            next: Next::read(needed(row.row())?).ok(),
            dialect: row.text().and_then(|letter| read_dialect(&letter)),
        })
    }
}

/// A wait has ended that was given nothing.
pub(in crate::peer_list::redis) enum EndedWait {
    Gone(Option<Reason>),
    /// The list as it is now.
    At(Option<Moment>),
}

impl Answer for EndedWait {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        Ok(match row.kind().as_str() {
            "gone" => Self::Gone(read_reason(&mut row)),
            _ => Self::At(Moment::read(&mut row)),
        })
    }
}

/// A socket is open.
pub(in crate::peer_list::redis) struct OpenedSocket {
    pub session: u64,
    /// The version of the list that its peer has heard, if it hears of any.
    pub heard: Option<u64>,
}

impl Answer for OpenedSocket {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        accepted(&mut row)?;
        Ok(Self {
            session: needed(row.number())?,
            heard: row.number(),
        })
    }
}
