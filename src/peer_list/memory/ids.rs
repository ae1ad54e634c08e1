//! The ids that peers are given.

use crate::peer_list::PeerId;

/// Gives out ids, one after the other.
#[derive(Default)]
pub(super) struct Ids {
    last: u32,
}

impl Ids {
    /// Gives out the next id. Ids rise to 2^31 - 1 and then begin again, past those that
    /// are `taken`.
    pub fn next(&mut self, taken: impl Fn(PeerId) -> bool) -> PeerId {
        loop {
            self.last = self.last % PeerId::MAX.get() + 1;
            if let Some(id) = PeerId::new(self.last)
                && !taken(id)
            {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_begin_again_after_the_largest_and_skip_those_in_use() {
        let last = PeerId::MAX.get() - 1;
        let mut ids = Ids { last };
        assert_eq!(ids.next(|_| false), PeerId::MAX);
        assert_eq!(ids.next(|id| id.get() < 3).get(), 3);
    }
}
