//! `GET /metrics`: what is counted, in the text format of Prometheus.

use std::sync::Arc;

use prometheus::{
    IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
    process_collector::ProcessCollector,
};

use super::webhook::WebhookCounts;
use crate::{
    doors::http::DoorCounts,
    peer_list::{ShardState, TimeoutPeerList},
};

/// The type of the answer.
pub(super) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is shown.
#[derive(Clone)]
pub(super) struct Metrics {
    pub peer_list: TimeoutPeerList,
    pub doors: Arc<DoorCounts>,
    /// None: there is no webhook.
    pub webhook: Option<Arc<WebhookCounts>>,
}

impl Metrics {
    /// All of it as text.
    pub async fn text(&self) -> Result<String, prometheus::Error> {
        let mut page = Page::default();
        self.list(&mut page).await?;
        self.doors(&mut page)?;
        self.redis(&mut page, &self.peer_list.shards().await)?;
        if let Some(webhook) = &self.webhook {
            let help = "Events that the webhook has accepted.";
            page.counter("webhook_events_sent_total", help, webhook.sent.get())?;
            let help =
                "Events that the webhook did not accept within ten minutes, and were given up.";
            page.counter("webhook_events_failed_total", help, webhook.failed.get())?;
            let help = "Attempts to send an event to the webhook that failed.";
            page.counter("webhook_failures_total", help, webhook.failures.get())?;
            let help = "Events not yet sent to the webhook.";
            page.gauge("webhook_events_behind", help, webhook.behind())?;
            let help = "Times that events were lost before they could be sent to the webhook.";
            page.counter("webhook_gaps_total", help, webhook.gaps.get())?;
        }
        let help = "The version of the server.";
        let version = [([env!("CARGO_PKG_VERSION")], 1)];
        page.gauges("build_info", help, ["version"], version)?;
        page.add(ProcessCollector::for_self())?;
        TextEncoder::new().encode_to_string(&page.0.gather())
    }

    async fn list(&self, page: &mut Page) -> Result<(), prometheus::Error> {
        // While Redis cannot be reached they are not known: no number is better than a wrong one.
        if let Ok(tally) = self.peer_list.tally().await {
            let help = "Peers, by the door that they came in by; with Redis, of all nodes.";
            let peers = tally.peers.iter();
            let peers = peers.map(|(door, count)| ([door.as_str()], *count));
            page.gauges("peers", help, ["door"], peers)?;
            let help = "Rooms that have a peer; with Redis, of all nodes.";
            page.gauge("rooms", help, tally.rooms)?;
        }
        let counts = self.peer_list.counts();
        let help = "Sockets that are open, by WebSocket or Socket.IO.";
        page.gauge("sockets", help, counts.sockets.get())?;
        let help = "Peers that signed in.";
        page.counter("sign_ins_total", help, counts.sign_ins.get())?;
        let help = "Peers that came back with their token.";
        page.counter("resumes_total", help, counts.resumes.get())?;
        let help = "Peers that were removed, by the reason.";
        page.counters("removals_total", help, ["reason"], named(counts.removals()))?;
        let help = "Messages that were accepted, each once, however many peers hear it; those that a client \
                    sent again are in it again.";
        page.counter("messages_accepted_total", help, counts.accepted.get())?;
        let help = "Messages that were handed over to a peer.";
        page.counter("messages_delivered_total", help, counts.delivered.get())?;
        let help = "Messages that were refused, by the reason.";
        let refused = named(counts.refused());
        page.counters("messages_refused_total", help, ["reason"], refused)?;
        let help = "Lists, and lines of the list, that were handed over to a peer.";
        page.counter("list_updates_total", help, counts.updates.get())?;
        let buffered = self.peer_list.buffered();
        let help = "Memory that clients make the server hold, in bytes.";
        page.gauge("buffered_bytes", help, buffered.bytes() as u64)?;
        let help = "The bound of signal_buffered_bytes (WEBRTC_MAX_BUFFERED_BYTES).";
        page.gauge("buffered_limit_bytes", help, buffered.limit() as u64)
    }

    fn doors(&self, page: &mut Page) -> Result<(), prometheus::Error> {
        let doors = &self.doors;
        let help = "Connections of clients that are open.";
        page.gauge("connections", help, doors.connections.get())?;
        let help = "Connections that were refused, because too many are open (full), or too many of \
                    their address (address).";
        let refused = [
            (["full"], doors.refused_as_full.get()),
            (["address"], doors.refused_by_address.get()),
        ];
        page.counters("connections_refused_total", help, ["reason"], refused)?;
        let help = "Requests that wait for news, by long poll or by a poll of Socket.IO.";
        page.gauge("suspended_waits", help, doors.suspended.get())?;
        let help = "Clients that access control was asked about, by what it decided.";
        page.counters(
            "admissions_total",
            help,
            ["result"],
            named(doors.admissions()),
        )?;
        let help = "HTTP answers, by door and class of the status; an upgrade is 1xx.";
        let answers = doors.answers().into_iter();
        let answers = answers.map(|(door, class, count)| ([door, class], count));
        page.counters("http_answers_total", help, ["door", "class"], answers)
    }

    fn redis(&self, page: &mut Page, shards: &[ShardState]) -> Result<(), prometheus::Error> {
        if shards.is_empty() {
            return Ok(());
        }
        let help = "Calls of Redis.";
        let calls = shards.iter().map(|shard| shard.calls).sum();
        page.counter("redis_calls_total", help, calls)?;
        let help =
            "Calls of Redis that failed: without an answer in time, or while it is out of memory.";
        let failures = shards.iter().map(|shard| shard.failures).sum();
        page.counter("redis_failures_total", help, failures)?;
        let help = "How long calls of Redis took together, with all attempts, in seconds.";
        let time = shards.iter().map(|shard| shard.time.as_secs_f64()).sum();
        page.seconds("redis_call_seconds_total", help, time)?;
        let help = "The shards that the list has.";
        page.gauge("redis_shards", help, shards.len() as u64)?;
        let help = "The shards that can be reached now.";
        let reachable = shards.iter().filter(|shard| shard.is_reachable).count();
        page.gauge("redis_shards_reachable", help, reachable as u64)
    }
}

/// With one label.
fn named(
    all: impl Iterator<Item = (&'static str, u64)>,
) -> impl Iterator<Item = ([&'static str; 1], u64)> {
    all.map(|(name, count)| ([name], count))
}

/// The metrics of one answer.
#[derive(Default)]
struct Page(Registry);

impl Page {
    fn add(&mut self, metric: impl Collector + 'static) -> Result<(), prometheus::Error> {
        self.0.register(Box::new(metric))
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) -> Result<(), prometheus::Error> {
        self.counters(name, help, [], [([], count)])
    }

    fn gauge(&mut self, name: &str, help: &str, count: u64) -> Result<(), prometheus::Error> {
        self.gauges(name, help, [], [([], count)])
    }

    fn counters<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        counts: impl IntoIterator<Item = ([&'a str; N], u64)>,
    ) -> Result<(), prometheus::Error> {
        let metric = IntCounterVec::new(opts(name, help), &labels)?;
        for (values, count) in counts {
            metric.with_label_values(&values).inc_by(count);
        }
        self.add(metric)
    }

    fn gauges<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: [&str; N],
        counts: impl IntoIterator<Item = ([&'a str; N], u64)>,
    ) -> Result<(), prometheus::Error> {
        let metric = IntGaugeVec::new(opts(name, help), &labels)?;
        for (values, count) in counts {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            metric.with_label_values(&values).set(count);
        }
        self.add(metric)
    }

    fn seconds(&mut self, name: &str, help: &str, seconds: f64) -> Result<(), prometheus::Error> {
        let metric = prometheus::Counter::with_opts(opts(name, help))?;
        metric.inc_by(seconds);
        self.add(metric)
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("signal_{name}"), help)
}
