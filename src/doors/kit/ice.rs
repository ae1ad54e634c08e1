//! What peers of every door are told of the ICE servers.

use std::time::SystemTime;

use crate::{
    ice::{IceConfig, IceServers},
    peer_list::{PeerId, TimeoutPeerList},
};

/// The servers, with credentials for this peer if they need any. `own`: those that only it is told
/// of, as the list keeps them.
pub(crate) fn ice_for(
    servers: &IceServers,
    list: &TimeoutPeerList,
    peer: Option<PeerId>,
    own: Option<&str>,
) -> IceConfig {
    let id = peer.map(|peer| peer.to_string()).unwrap_or_default();
    let name = match list.name() {
        Some(room) => format!("{room}/{id}"),
        None => id,
    };
    let mut config = servers.told(&name, SystemTime::now());
    if let Some(own) = own {
        config.add(own);
    }
    config
}
