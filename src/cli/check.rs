//! `check`: tries the settings without serving, and says what the server would do.

use std::net::IpAddr;

use super::{Action, ConfigError, Settings, Unknown};
use crate::{
    peer_list::{ConnectError, TimeoutPeerList},
    server::{Door, Host, ServerOpts},
};

/// Who may come in where nothing says who may not.
const EVERYBODY: &str = "everybody";

impl Settings {
    /// Whether the process was started to try its settings.
    pub fn is_check(&self) -> bool {
        self.command == Some(Action::Check)
    }

    /// Tries certificates, published keys and Redis. Returns lines that say what the server would
    /// do, warnings last.
    ///
    /// # Errors
    ///
    /// What cannot be used.
    pub async fn try_out(&self) -> Result<Vec<String>, ConfigError> {
        let opts = self.server_opts();
        if let Some(tls) = &opts.tls {
            tls.check().map_err(|why| ConfigError(why.to_string()))?;
        }
        if let Some(way) = self.access.way() {
            let checked = opts.app.signal.access.check().await;
            checked.map_err(|why| ConfigError(format!("{way} cannot be used: {why}")))?;
        }
        if let Some(cluster) = &opts.cluster {
            let joined = TimeoutPeerList::connect(opts.heartbeat.clone(), cluster).await;
            let list = joined.map_err(|why| ConfigError(explained(&why)))?;
            // Nobody has signed in at this node.
            list.stop().await;
        }
        let said = self.said(&opts).into_iter().chain(self.warnings(&opts));
        Ok(said.collect())
    }

    fn said(&self, opts: &ServerOpts) -> Vec<String> {
        let host = opts
            .host
            .map_or_else(|| "all addresses".into(), |host| host.to_string());
        let plain = opts
            .port
            .map(|port| format!("http on port {port} of {host}"));
        let tls = opts.tls.as_ref().map(|tls| {
            let file = tls.certificate.display();
            format!(
                "https on port {} of {host}, with the certificate in {file}",
                tls.port
            )
        });
        let listeners: Vec<String> = plain.into_iter().chain(tls).collect();
        let doors: Vec<&str> = opts.app.doors.iter().map(Door::name).collect();
        let operator = opts.operator.as_ref();
        let operator =
            operator.map_or_else(|| "no API".into(), |api| format!("API at {}", api.address));
        let webhook = opts
            .webhook
            .as_ref()
            .and_then(|webhook| webhook.url.host_str());
        let webhook = webhook.map_or_else(String::new, |host| format!(", events to {host}"));
        vec![
            format!("listens: {}", listeners.join("; ")),
            format!("doors: {}", doors.join(", ")),
            format!("who may come in: {}", self.who_may_come_in(opts)),
            match &opts.cluster {
                Some(_) => "peer list: in Redis, which can be used".into(),
                None => "peer list: in this process".into(),
            },
            format!("ICE servers: {:?}", opts.app.signal.ice_servers),
            format!("operator: {operator}{webhook}"),
        ]
    }

    fn who_may_come_in(&self, opts: &ServerOpts) -> String {
        match (self.access.way(), &opts.app.token, &opts.app.doors[..]) {
            (Some(way), ..) => format!("clients that {way} admits"),
            (None, Some(_), [Door::SocketIo]) => "clients that show TOKEN".into(),
            (None, Some(_), _) => {
                format!("{EVERYBODY}, but through Socket.IO only clients that show TOKEN")
            }
            (None, None, _) => EVERYBODY.into(),
        }
    }

    fn warnings(&self, opts: &ServerOpts) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(host) = &self.ignored_host {
            warnings.push(format!(
                "warning: HOST is {host:?}, the name of this machine or of a toolchain, and is ignored: \
                 set WEBRTC_HOST"
            ));
        }
        // On a loopback address, by a proxy.
        let has_proxy = !self.clients.proxies().is_empty();
        let is_reached = has_proxy || opts.host.is_none_or(|host| !is_loopback(host));
        if is_reached && self.who_may_come_in(opts).starts_with(EVERYBODY) {
            warnings.push(
                "warning: everybody who reaches the server may sign in: set WEBRTC_ACCESS_TOKEN or \
                 another way of access control"
                    .into(),
            );
        }
        let is_limited = opts.serve.max_connections_per_address.is_some()
            && self.clients.sign_ins_per_ip.is_some()
            && opts.heartbeat.max_peers_per_network.is_some();
        if is_reached && !is_limited {
            warnings.push(
                "warning: one address can use up all connections: set WEBRTC_MAX_CONNECTIONS_PER_IP, \
                 WEBRTC_MAX_PEERS_PER_IP and WEBRTC_SIGN_INS_PER_IP"
                    .into(),
            );
        }
        warnings.extend(Self::unknown_variables().into_iter().map(
            |Unknown { variable, nearest }| {
                let meant =
                    nearest.map_or_else(String::new, |name| format!(": did you mean {name}?"));
                format!("warning: {variable} is not a setting of this server{meant}")
            },
        ));
        warnings
    }
}

fn is_loopback(host: Host) -> bool {
    let address: IpAddr = host.at(0).ip();
    address.to_canonical().is_loopback()
}

/// Why Redis cannot be used, and what to do.
pub fn explained(why: &ConnectError) -> String {
    match why {
        ConnectError::Unreachable { .. } => format!(
            "{why}; check that it runs, and that WEBRTC_REDIS_URL has its address and the right scheme \
             (rediss:// for TLS)"
        ),
        ConnectError::Unusable { .. } => why.to_string(),
    }
}
