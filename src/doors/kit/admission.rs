//! Asking access control before a client comes in.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use axum::extract::Request;
use axum::http::{
    HeaderMap, Uri,
    header::{AUTHORIZATION, HeaderValue},
};
use tracing::info;

use super::{DoorCounts, RequestError, SignalOpts, Transport, TrustedProxies, query::Query};
use crate::{
    access::{Access, Admitted, Asking, Denied},
    peer_list::{TimeoutPeerList, network_of},
};

/// A door, as access control is told of it.
#[derive(Clone)]
pub(crate) struct Gate {
    access: Access,
    proxies: Arc<TrustedProxies>,
    shows_addresses: bool,
    door: &'static str,
    counts: Arc<DoorCounts>,
}

/// The request by which a client comes in, or asks for what others are told.
#[derive(Clone, Copy)]
pub(crate) struct Coming<'a> {
    pub list: &'a TimeoutPeerList,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    /// From where the request comes: the client, or a proxy.
    pub from: Option<IpAddr>,
    /// The name that the client gives itself.
    pub name: Option<&'a str>,
    /// The token that it shows by the means of its protocol.
    pub token: Option<&'a str>,
}

impl<'a> Coming<'a> {
    /// A client whose request itself shows its token.
    pub fn of(request: &'a Request, list: &'a TimeoutPeerList, name: Option<&'a str>) -> Self {
        Self {
            list,
            uri: request.uri(),
            headers: request.headers(),
            from: Transport::address_of(request),
            name,
            token: None,
        }
    }
}

impl Coming<'_> {
    /// Whether the request itself shows an access token.
    pub fn shows_token(&self) -> bool {
        token_of(self.uri, self.headers).is_some()
    }
}

impl Gate {
    /// `door`: as events and the operator's API show it.
    pub fn new(opts: &SignalOpts, door: &'static str) -> Self {
        Self {
            access: opts.access.clone(),
            proxies: opts.proxies.clone(),
            shows_addresses: opts.shows_addresses,
            door,
            counts: opts.counts.clone(),
        }
    }

    /// Counts a client that is about to sign in, and decides whether it may come in.
    ///
    /// # Errors
    ///
    /// Why it may not.
    pub async fn enter(&self, coming: Coming<'_>) -> Result<Admitted, Denied> {
        self.count_sign_in(coming.from, coming.headers)?;
        self.admit(coming).await
    }

    /// Decides whether a client may be told of peers. Where it shows a token for that it is counted
    /// like one that signs in, because it could guess.
    ///
    /// # Errors
    ///
    /// Why it may not.
    pub async fn look(&self, coming: Coming<'_>) -> Result<Admitted, Denied> {
        if self.access.is_open() {
            self.admit(coming).await
        } else {
            self.enter(coming).await
        }
    }

    /// Counts a client that is about to sign in. `from`: from where its request comes.
    ///
    /// # Errors
    ///
    /// [`Denied::TooOften`].
    pub fn count_sign_in(&self, from: Option<IpAddr>, headers: &HeaderMap) -> Result<(), Denied> {
        let address = from.map(|from| self.proxies.client(from, headers));
        let counted = self.access.count_sign_in(address);
        if counted.is_err() {
            self.counts.decided(&counted);
        }
        counted
    }

    /// Decides whether a client may come in, without counting it.
    ///
    /// # Errors
    ///
    /// Why it may not.
    pub async fn admit(&self, coming: Coming<'_>) -> Result<Admitted, Denied> {
        let shown = match coming.token {
            Some(token) => Some(Cow::Borrowed(token)),
            None => token_of(coming.uri, coming.headers),
        };
        let asking = Asking {
            token: shown.as_deref(),
            room: coming.list.name(),
            name: coming.name,
            door: self.door,
            address: coming
                .from
                .map(|from| self.proxies.client(from, coming.headers)),
        };
        let admitted = self.access.admit(asking).await;
        self.counts.decided(&admitted);
        if let Err(why) = &admitted {
            let room = coming.list.name().map(tracing::field::display);
            let address = self.shown(asking.address).map(tracing::field::display);
            info!(door = self.door, room, address, %why, "a client was not admitted");
        }
        let mut admitted = admitted?;
        admitted.identity.address = self.shown(asking.address);
        admitted.identity.network = asking.address.map(network_of);
        Ok(admitted)
    }

    /// An address, if operators want to see it.
    fn shown(&self, address: Option<IpAddr>) -> Option<IpAddr> {
        address.filter(|_| self.shows_addresses)
    }
}

/// The access token of a request: `Authorization: Bearer TOKEN`; or `access_token` in the query,
/// because browsers can set no header of a WebSocket.
fn token_of<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<Cow<'a, str>> {
    let bearer = |value: &'a HeaderValue| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        let is_bearer = scheme.eq_ignore_ascii_case("bearer");
        is_bearer.then(|| Cow::Borrowed(token.trim_start()))
    };
    let header = headers.get(AUTHORIZATION).and_then(bearer);
    header.or_else(|| Query::of_uri(uri).first("access_token"))
}

impl From<Denied> for RequestError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}
