//! Whether what Redis pushes arrives here.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What a node pushes to itself.
pub(super) const ECHO: &str = ".";

/// A node hears what it has pushed to itself within this time: Redis is faster, but what
/// came before is read first.
const ECHO_PATIENCE: Duration = Duration::from_secs(3);

/// The subscription of a node, as far as it is known to work. A cluster ends it when it moves
/// the slot of the shard, and the crate may have subscribed again at a server that is not
/// told of what happens in the shard.
#[derive(Default)]
pub(super) struct Hearing(Mutex<State>);

#[derive(Default)]
struct State {
    is_lost: bool,
    /// When the oldest echo was sent that was not heard yet.
    sent: Option<Instant>,
}

impl Hearing {
    /// The subscription has ended, or leads to a server that does not have the shard.
    pub fn set_lost(&self) {
        self.0.lock().is_lost = true;
    }

    pub fn sent_echo(&self) {
        self.0.lock().sent.get_or_insert_with(Instant::now);
    }

    pub fn heard_echo(&self) {
        self.0.lock().sent = None;
    }

    /// Whether a new subscription is needed. The next answer is about that one.
    pub fn take_lost(&self) -> bool {
        let mut state = self.0.lock();
        let is_late = state
            .sent
            .is_some_and(|sent| sent.elapsed() > ECHO_PATIENCE);
        if is_late {
            state.sent = None;
        }
        std::mem::take(&mut state.is_lost) || is_late
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_subscription_whose_echo_does_not_come_is_lost_once() {
        let hearing = Hearing::default();
        hearing.sent_echo();
        advance(ECHO_PATIENCE).await;
        hearing.sent_echo();
        assert!(!hearing.take_lost());
        advance(Duration::from_millis(1)).await;
        assert!(hearing.take_lost());
        assert!(!hearing.take_lost());
        hearing.sent_echo();
        hearing.heard_echo();
        advance(2 * ECHO_PATIENCE).await;
        assert!(!hearing.take_lost());
    }
}
