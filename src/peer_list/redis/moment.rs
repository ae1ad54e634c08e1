//! The list at one moment: what a copy of it has to know.

use super::row::Row;

/// The list at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// The version of the list.
    pub version: u64,
    /// How often the STATUS of a peer has changed in a way that a copy cannot foresee.
    pub statuses: u64,
}

impl Moment {
    pub fn read(row: &mut Row) -> Option<Self> {
        Some(Self {
            version: row.number()?,
            statuses: row.number()?,
        })
    }
}
