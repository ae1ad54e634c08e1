//! What a load finds, and what every load is made of.

use std::time::Duration;

/// A name of a figure, its unit and its value.
pub type Figures = Vec<(&'static str, &'static str, f64)>;

pub fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// By the nearest rank: of a hundred, the 99th percentile is the 99th.
pub fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted
        .get(rank.saturating_sub(1))
        .map_or(f64::NAN, |found| micros(*found))
}

/// A message's body: its number, and bytes that depend on it.
pub fn body(number: u32) -> Vec<u8> {
    let mut body = format!("{number:08}").into_bytes();
    body.resize(256, b'a' + (number % 26) as u8);
    body
}
