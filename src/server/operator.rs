//! The operator's part of the server: the listener of the operator's API, and the webhook.

use std::{io, net::SocketAddr, sync::Arc};

use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{BindError, health, listen, serve::serve_operator};
use crate::{
    doors::kit::DoorCounts,
    operator::{Webhook, WebhookCounts, operator_router, send_events},
    peer_list::TimeoutPeerList,
};

/// The operator's API.
#[derive(Clone, Debug)]
pub struct OperatorOpts {
    /// The address to listen on.
    pub address: SocketAddr,
    /// The token that each request must show as `Authorization: Bearer`. None: no token.
    pub token: Option<SecretString>,
}

/// The operator's part, before it runs.
#[derive(Debug)]
pub(super) struct Operator {
    operator: Option<(TcpListener, Option<SecretString>)>,
    webhook: Option<Webhook>,
}

impl Operator {
    pub fn bind(
        operator: Option<OperatorOpts>,
        webhook: Option<Webhook>,
    ) -> Result<Self, BindError> {
        let operator = match operator {
            Some(OperatorOpts { address, token }) => {
                let listener = listen(Some(address.ip().into()), address.port());
                let failed = |source| BindError::Operator { address, source };
                Some((listener.map_err(failed)?, token))
            }
            None => None,
        };
        Ok(Self { operator, webhook })
    }

    pub fn local_addr(&self) -> Option<SocketAddr> {
        let (listener, _) = self.operator.as_ref()?;
        listener.local_addr().ok()
    }

    pub async fn start(self, peer_list: &TimeoutPeerList, doors: &Arc<DoorCounts>) -> Running {
        let running = Running {
            last_events: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let stop = || running.last_events.clone();
        let mut counts = None;
        if let Some(webhook) = self.webhook {
            let events = peer_list.webhook_events().await;
            let counted: Arc<WebhookCounts> = Arc::default();
            counts = Some(counted.clone());
            let sending = send_events(webhook, peer_list.clone(), events, counted, stop());
            running.tasks.spawn(sending);
        }
        if let Some((listener, token)) = self.operator {
            // Also where all places for clients are taken, and without the token: probes have none.
            let doors = doors.clone();
            let app = operator_router(peer_list.clone(), token, doors, counts, stop());
            let app = app.merge(health::routes(peer_list.clone()));
            running.tasks.spawn(serve_operator(listener, app, stop()));
        }
        running
    }
}

/// The operator's part while it runs.
pub(super) struct Running {
    /// Cancelled when no more events will happen.
    last_events: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    /// Waits until subscribers and the webhook have been sent the last event, or are
    /// given up.
    pub async fn stop(self) {
        self.last_events.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What is wrong with the operator's address, and the way out.
pub(super) fn hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program uses it, or PORT is the same".into(),
        io::ErrorKind::AddrNotAvailable => "it is not an address of this machine".into(),
        _ => error.to_string(),
    }
}
