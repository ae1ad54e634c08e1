//! Asking servers of the operator: only safe URLs, and answers of a bounded size.

use std::{net::IpAddr, time::Duration};

use reqwest::{Client, RequestBuilder, StatusCode, Url, redirect};
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::KeyError;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why an answer cannot be used.
#[derive(Debug, Error)]
pub(super) enum Unread {
    #[error("it cannot be reached: {0}")]
    NoAnswer(String),
    #[error("it answers with status {0}")]
    Status(StatusCode),
    #[error("it answers with more than {0} bytes")]
    TooLarge(usize),
    #[error("its answer cannot be read: {0}")]
    Malformed(serde_json::Error),
}

/// A URL over which nobody on the way can read or change anything.
pub(super) fn safe_url(url: &str) -> Result<Url, KeyError> {
    let url: Url = url.parse().map_err(|_| KeyError::UnsafeUrl)?;
    let host = url.host_str().unwrap_or_default();
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let is_local = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_local => Ok(url),
        _ => Err(KeyError::UnsafeUrl),
    }
}

pub(super) fn client() -> Result<Client, KeyError> {
    Client::builder()
        .timeout(PATIENCE)
        // A redirect could lead to any other server.
        .redirect(redirect::Policy::none())
        .build()
        .map_err(|error| KeyError::NoClient(error.to_string()))
}

/// Reads the JSON of a successful answer.
pub(super) async fn read_json<T: DeserializeOwned>(
    request: RequestBuilder,
    max_bytes: usize,
) -> Result<T, Unread> {
    // The URL may have a password.
    let failed = |error: reqwest::Error| Unread::NoAnswer(error.without_url().to_string());
    let mut answer = request.send().await.map_err(failed)?;
    if answer.status() != StatusCode::OK {
        return Err(Unread::Status(answer.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(failed)? {
        body.extend_from_slice(&chunk);
        if body.len() > max_bytes {
            return Err(Unread::TooLarge(max_bytes));
        }
    }
    serde_json::from_slice(&body).map_err(Unread::Malformed)
}
