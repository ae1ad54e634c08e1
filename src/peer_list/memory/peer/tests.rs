//! Tests of what is known of a peer.

use std::time::Duration;

use super::*;

fn opts(timeout_ms: u64, any_request: bool) -> HeartbeatOpts {
    HeartbeatOpts {
        timeout_period: Duration::from_millis(timeout_ms),
        any_request,
        ..HeartbeatOpts::default()
    }
}

/// The presence of a peer after what happened to it, and its start.
fn presence(happened: impl FnOnce(&mut Presence, Instant)) -> (Presence, Instant) {
    let start = Instant::now();
    let mut presence = Presence::new(start);
    happened(&mut presence, start);
    (presence, start)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn a_peer_that_sent_a_heartbeat_is_stale_a_timeout_after_it_even_while_it_waits() {
    let (peer, start) = presence(|peer, start| {
        peer.open = 1;
        peer.heartbeat(start + ms(100));
    });
    assert_eq!(peer.stale(&opts(300, false), start + ms(399)), None);
    let stale = peer.stale(&opts(300, false), start + ms(400));
    assert_eq!(stale, Some(Stale::NoHeartbeat));
}

#[test]
fn from_a_timeout_of_ten_seconds_a_heartbeat_may_be_three_seconds_late() {
    let (peer, start) = presence(Presence::heartbeat);
    assert_eq!(peer.stale(&opts(9_999, false), start + ms(9_998)), None);
    assert!(peer.stale(&opts(9_999, false), start + ms(9_999)).is_some());
    assert_eq!(peer.stale(&opts(10_000, false), start + ms(12_999)), None);
    assert!(
        peer.stale(&opts(10_000, false), start + ms(13_000))
            .is_some()
    );
}

#[test]
fn a_peer_without_heartbeats_is_stale_a_timeout_after_its_last_request() {
    let (mut peer, start) = presence(|peer, _| peer.open = 1);
    assert_eq!(peer.stale(&opts(30_000, false), start + ms(90_000)), None);
    peer.request_ended(true, start + ms(90_000));
    assert_eq!(peer.stale(&opts(30_000, false), start + ms(119_999)), None);
    let stale = peer.stale(&opts(30_000, false), start + ms(120_000));
    assert_eq!(stale, Some(Stale::NoRequest));
}

#[test]
fn with_any_request_an_open_wait_stands_for_heartbeats() {
    let (mut peer, start) = presence(|peer, start| {
        peer.heartbeat(start);
        peer.open = 1;
    });
    assert_eq!(peer.stale(&opts(30_000, true), start + ms(90_000)), None);
    peer.request_ended(true, start + ms(90_000));
    assert_eq!(peer.stale(&opts(30_000, true), start + ms(122_999)), None);
    assert!(
        peer.stale(&opts(30_000, true), start + ms(123_000))
            .is_some()
    );
}

#[test]
fn with_any_request_a_heartbeat_counts_too() {
    let (peer, start) = presence(|peer, start| peer.heartbeat(start + ms(250)));
    assert_eq!(peer.stale(&opts(300, true), start + ms(549)), None);
    assert!(peer.stale(&opts(300, true), start + ms(550)).is_some());
}

#[test]
fn with_any_request_every_peer_may_be_three_seconds_late() {
    let (peer, start) = presence(|_, _| {});
    assert_eq!(peer.stale(&opts(10_000, true), start + ms(12_999)), None);
    assert!(
        peer.stale(&opts(10_000, true), start + ms(13_000))
            .is_some()
    );
}

#[test]
fn a_new_peer_shows_as_connected_until_its_sign_in_is_answered() {
    let (mut peer, start) = presence(|_, _| {});
    assert_eq!(peer.shown, Connected::Until(start + LINGER));
    peer.open = 1;
    peer.request_ended(false, start);
    assert_eq!(peer.connected(start), Connected::No);
}

#[test]
fn a_peer_is_connected_while_a_request_or_its_connection_is_open_or_it_lingers() {
    let (mut peer, start) = presence(|peer, _| peer.open = 1);
    assert_eq!(peer.connected(start), Connected::Yes);
    peer.link = Some(7);
    peer.request_ended(true, start);
    assert_eq!(peer.connected(start + ms(9_000)), Connected::Yes);
    peer.link = None;
    assert_eq!(
        peer.connected(start + ms(1_999)),
        Connected::Until(start + LINGER)
    );
    assert_eq!(peer.connected(start + ms(2_000)), Connected::No);
}
