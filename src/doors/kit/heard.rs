//! When a client was last heard, and whether it has been silent for too long.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::peer_list::STANDSTILL;

/// When a client was last heard.
pub(crate) struct Heard {
    /// None: nothing is read from it now.
    last: Mutex<Option<Instant>>,
}

impl Heard {
    /// A client that is heard now.
    pub fn new() -> Self {
        Self {
            last: Mutex::new(Some(Instant::now())),
        }
    }

    /// The client is heard now.
    pub fn now(&self) {
        *self.last.lock() = Some(Instant::now());
    }

    /// Nothing is read from the client until it is heard again.
    pub fn pause(&self) {
        *self.last.lock() = None;
    }

    /// Waits until the client has been silent for this long. Time in which this process
    /// stood still does not count.
    pub async fn silent_for(&self, patience: Duration) {
        loop {
            let now = Instant::now();
            let end = self.last.lock().unwrap_or(now) + patience;
            if now >= end {
                return;
            }
            sleep_until(end).await;
            if end.elapsed() > STANDSTILL {
                let mut last = self.last.lock();
                *last = last.map(|_| Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Lets time pass, and a little more: timers count in whole ms.
    async fn pass(time: Duration) {
        advance(time + Duration::from_millis(2)).await;
    }

    #[tokio::test]
    async fn a_client_is_silent_when_nothing_was_heard_for_the_patience() {
        pause();
        let heard = Heard::new();
        let mut silent = task::spawn(heard.silent_for(PATIENCE));
        assert_pending!(silent.poll());
        pass(PATIENCE / 2).await;
        heard.now();
        pass(PATIENCE / 2).await;
        assert_pending!(silent.poll());
        pass(PATIENCE / 2).await;
        assert_ready!(silent.poll());
    }

    #[tokio::test]
    async fn time_in_which_the_process_stood_still_does_not_count() {
        pause();
        let heard = Heard::new();
        let mut silent = task::spawn(heard.silent_for(PATIENCE));
        assert_pending!(silent.poll());
        pass(10 * PATIENCE).await;
        assert_pending!(silent.poll());
        pass(PATIENCE).await;
        assert_ready!(silent.poll());
    }

    #[tokio::test]
    async fn a_client_that_is_not_listened_to_is_not_silent() {
        pause();
        let heard = Heard::new();
        heard.pause();
        let mut silent = task::spawn(heard.silent_for(PATIENCE));
        for _ in 0..5 {
            assert_pending!(silent.poll());
            pass(PATIENCE).await;
        }
        heard.now();
        assert_pending!(silent.poll());
        pass(PATIENCE).await;
        assert_ready!(silent.poll());
    }
}
