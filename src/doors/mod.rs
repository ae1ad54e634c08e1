//! How clients come in. Each protocol has a folder with its name, its routes and its
//! translation into the operations of the peer list; a door keeps no state of its own.
//! `kit/` has what every door needs.

pub mod http;
#[cfg(feature = "ice")]
pub(crate) mod ice_servers;
pub(crate) mod kit;
pub(crate) mod matchbox;
pub(crate) mod page;
pub mod peerjs;
#[cfg(feature = "socketio")]
pub mod socketio;
pub(crate) mod topics;
pub mod websocket;
