//! Asking Redis again until it has answered.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use redis::RedisError;
use tokio::time::sleep;

/// The longest pause. Also how long a new connection is kept at least.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The pauses between attempts: 25 to 50 ms first, doubling up to 0.5 to 1 s. They are
/// random, so that the nodes do not all ask at the same moment.
pub(super) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(25))
        .with_max_delay(LONGEST_PAUSE / 2)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Repeats a question until its answer is no error.
pub(super) async fn until_answered<T, E, F>(ask: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, E>>,
{
    let mut pauses = pauses();
    loop {
        if let Ok(answer) = ask().await {
            return answer;
        }
        sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

/// An answer that did not come in time.
pub(super) fn late() -> RedisError {
    RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))
}
