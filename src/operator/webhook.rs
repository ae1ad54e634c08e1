//! The webhook: POSTs each event to the operator's application, those of a room in order, and repeats it
//! until it is accepted. Nothing else waits for it: it reads the kept events at its own
//! pace, and misses some if the receiver is too slow.

use std::{
    collections::BTreeMap,
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::future::join_all;
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use reqwest::{
    Client, Url,
    header::{CONTENT_TYPE, HeaderValue},
    redirect,
};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::json;
use crate::{
    counter::Counter,
    peer_list::{LogEvents, TimeoutPeerList},
};

/// How long a receiver may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// The pause before an event is sent again: 0.5 to 1 s first, doubling up to 15 to 30 s.
/// It is random, for many servers may have the same receiver.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(500))
    .with_max_delay(Duration::from_secs(15))
    .with_jitter()
    .without_max_times();

/// An event that was not accepted for this long is given up.
const EVENT_PATIENCE: Duration = Duration::from_secs(10 * 60);

/// How long the last events may take when the server stops.
const LAST_PATIENCE: Duration = Duration::from_millis(900);

/// Where events are sent.
#[derive(Clone)]
pub struct Webhook {
    /// An `http` or `https` URL.
    pub url: Url,
    /// The key of the signature. None: events are not signed.
    pub secret: Option<SecretString>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path of the URL may be a secret as well.
        write!(f, "Webhook({})", self.url.host_str().unwrap_or_default())
    }
}

/// What a webhook counts.
#[derive(Debug, Default)]
pub struct WebhookCounts {
    /// Events that were accepted.
    pub sent: Counter,
    /// Events that were given up.
    pub failed: Counter,
    /// Attempts that failed.
    pub failures: Counter,
    /// Times that events were lost before they could be sent.
    pub gaps: Counter,
    /// How many events of each log are not sent yet.
    behind: Mutex<BTreeMap<usize, u64>>,
}

impl WebhookCounts {
    /// How many events are not sent yet.
    pub fn behind(&self) -> u64 {
        self.behind.lock().values().sum()
    }

    fn is_behind(&self, log: usize, events: u64) {
        self.behind.lock().insert(log, events);
    }
}

/// Sends the events of these logs until `stop` is cancelled, and then what is left, for at
/// most a second. Those of one log go one after the other.
pub async fn send_events(
    webhook: Webhook,
    peer_list: TimeoutPeerList,
    logs: Vec<LogEvents>,
    counts: Arc<WebhookCounts>,
    stop: CancellationToken,
) {
    let client = Client::builder()
        .timeout(ANSWER_PATIENCE)
        // A redirect could lead to any other server.
        .redirect(redirect::Policy::none())
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => return error!(%error, "the webhook cannot be used"),
    };
    let receiver = Receiver {
        webhook,
        client,
        peer_list,
        counts,
    };
    let sending = logs.into_iter().enumerate();
    let sending = sending.map(|(log, events)| receiver.send(log, events, &stop));
    let left: u64 = join_all(sending).await.into_iter().sum();
    if left > 0 {
        warn!(
            events = left,
            "stopping: the webhook has not accepted the last events"
        );
    }
}

struct Receiver {
    webhook: Webhook,
    client: Client,
    peer_list: TimeoutPeerList,
    counts: Arc<WebhookCounts>,
}

impl Receiver {
    /// Sends the events of a log, until `stop`. Returns how many were not accepted then.
    async fn send(&self, log: usize, mut events: LogEvents, stop: &CancellationToken) -> u64 {
        // Whether this server is sending an event.
        let is_busy = AtomicBool::new(false);
        {
            let mut sending = pin!(async {
                loop {
                    self.take(log, &mut events, &is_busy).await;
                }
            });
            tokio::select! {
                () = &mut sending => {}
                () = stop.cancelled() => {
                    let _ = timeout(LAST_PATIENCE, sending).await;
                }
            }
        }
        events.left() + u64::from(is_busy.load(Ordering::Relaxed))
    }

    async fn take(&self, log: usize, events: &mut LogEvents, is_busy: &AtomicBool) {
        match events.next().await {
            Ok((number, event)) => {
                let (_, body) = json::event(number, &event);
                if self.peer_list.webhook_turn(log, number).await {
                    is_busy.store(true, Ordering::Relaxed);
                    self.deliver(log, number, &body, events).await;
                    self.peer_list.webhook_sent(log, number).await;
                    is_busy.store(false, Ordering::Relaxed);
                }
            }
            Err(missed) => {
                self.counts.gaps.count();
                warn!(
                    after = missed.after,
                    "the webhook missed events: it is too slow, or Redis has lost them"
                );
            }
        }
    }

    /// Tries until the receiver has accepted an event, at most for ten minutes.
    async fn deliver(&self, log: usize, number: u64, body: &str, others: &LogEvents) {
        let start = Instant::now();
        let mut pauses = PAUSES.build();
        let mut last_failure = None;
        self.counts.is_behind(log, others.left() + 1);
        while let Err(failure) = self.post(body).await {
            self.counts.failures.count();
            self.counts.is_behind(log, others.left() + 1);
            let pause = pauses.next().unwrap_or(EVENT_PATIENCE);
            if start.elapsed() + pause > EVENT_PATIENCE {
                error!(
                    event = number,
                    failure, "the webhook did not accept an event: gave up"
                );
                self.counts.failed.count();
                self.counts.is_behind(log, others.left());
                return;
            }
            if last_failure.as_ref() != Some(&failure) {
                warn!(event = number, failure, "the webhook fails: trying again");
            }
            last_failure = Some(failure);
            sleep(pause).await;
        }
        self.counts.sent.count();
        self.counts.is_behind(log, others.left());
        if last_failure.is_some() {
            info!(event = number, "the webhook accepts events again");
        }
    }

    async fn post(&self, body: &str) -> Result<(), String> {
        let mut request = self
            .client
            .post(self.webhook.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body.to_owned());
        if let Some(secret) = &self.webhook.secret {
            request = request.header("X-Signature-256", signature(secret.expose_secret(), body));
        }
        let answer = request.send().await;
        // The URL may hold a secret, and many people may read the log.
        let answer = answer.map_err(|error| describe(&error.without_url()))?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(format!("it answered {}", answer.status()))
        }
    }
}

/// An error and its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}

/// `sha256=` and the HMAC of the body in hexadecimal digits.
fn signature(secret: &str, body: &str) -> String {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
    mac.update(body.as_bytes());
    let digest = mac.finalize().into_bytes();
    format!("sha256={}", hex::encode(digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_rfc_4231() {
        assert_eq!(
            signature("Jefe", "what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
