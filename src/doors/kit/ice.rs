//! What peers of every door are told of the ICE servers.

use std::time::SystemTime;

use crate::{
    ice::{IceConfig, IceServers},
    peer_list::{PeerId, TimeoutPeerList},
};

/// The servers, with credentials for this peer if they need any.
pub(crate) fn ice_for(
    servers: &IceServers,
    list: &TimeoutPeerList,
    peer: Option<PeerId>,
) -> IceConfig {
    let id = peer.map(|peer| peer.to_string()).unwrap_or_default();
    let name = match list.name() {
        Some(room) => format!("{room}/{id}"),
        None => id,
    };
    servers.told(&name, SystemTime::now())
}
