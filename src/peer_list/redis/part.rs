//! A part of something that Redis tells in parts, so that no call takes long.

use super::row::{Answer, Row};
use crate::peer_list::Refusal;

/// One of the parts.
pub(super) struct Part {
    /// Where to go on. None: this is the last part.
    pub next: Option<String>,
    pub texts: Vec<String>,
}

impl Answer for Part {
    fn read(mut row: Row) -> Result<Self, Refusal> {
        let next = row.text().ok_or(Refusal::Unavailable)?;
        Ok(Self {
            next: Some(next).filter(|next| next != "0"),
            texts: row.row().map(Row::texts).unwrap_or_default(),
        })
    }
}
