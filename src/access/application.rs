//! The application decides who may come in: it is asked about each client.

use std::{fmt, net::IpAddr};

use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tracing::warn;

use super::{
    Asking, Denied, Grant, KeyError,
    fetching::{self, Unread},
};
use crate::{
    ice::told_only_to_one,
    peer_list::{RoomName, name_for_list},
};

/// At most this many questions are open at once; others wait.
const AT_ONCE: usize = 64;

/// The largest answer that is read, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// An endpoint of the application that says of each client whether it may come in.
pub struct Application {
    url: Url,
    client: Client,
    open: Semaphore,
}

/// What the endpoint is sent.
#[derive(Serialize)]
struct Question<'a> {
    room: Option<&'a str>,
    name: Option<&'a str>,
    door: &'a str,
    address: Option<IpAddr>,
    token: Option<&'a str>,
}

/// What it answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    allow: bool,
    name: Option<String>,
    user: Option<String>,
    #[serde(default, rename = "iceServers")]
    ice_servers: Option<Box<RawValue>>,
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Application")
    }
}

impl Application {
    /// The endpoint with this URL.
    ///
    /// # Errors
    ///
    /// The URL is neither https nor of this machine.
    pub fn new(url: &str) -> Result<Self, KeyError> {
        Ok(Self {
            url: fetching::safe_url(url)?,
            client: fetching::client()?,
            open: Semaphore::new(AT_ONCE),
        })
    }

    pub(super) async fn ask(&self, asking: Asking<'_>) -> Result<Grant, Denied> {
        let question = Question {
            room: asking.room.map(RoomName::as_str),
            name: asking.name,
            door: asking.door,
            address: asking.address,
            token: asking.token,
        };
        // It is never closed.
        let _open = self.open.acquire().await;
        let request = self.client.post(self.url.clone()).json(&question);
        let answer = fetching::read_json(request, MAX_BYTES).await;
        let answer = answer.map_err(|why| {
            let is_no = matches!(&why, Unread::Status(status) if status.is_client_error());
            if is_no {
                return Denied::Refused;
            }
            warn!(%why, "WEBRTC_AUTH_URL does not say who may come in");
            match why {
                Unread::NoAnswer(_) | Unread::Status(_) => Denied::Unavailable,
                Unread::TooLarge(_) | Unread::Malformed(_) => Denied::Refused,
            }
        })?;
        let Answer {
            allow,
            name,
            user,
            ice_servers,
        } = answer;
        if !allow {
            return Err(Denied::Refused);
        }
        let ice_servers = ice_servers.and_then(|json| {
            let told = told_only_to_one(json.get());
            told.map_err(|why| warn!(%why, "WEBRTC_AUTH_URL names ICE servers that cannot be used"))
                .ok()
        });
        Ok(Grant {
            user: user.map(Into::into),
            name: name
                .filter(|name| !name.is_empty())
                .map(|name| name_for_list(&name)),
            rooms: None,
            ice_servers,
        })
    }
}
