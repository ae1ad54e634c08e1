//! What doors are built from: the parameters, replies and errors of requests, the check
//! of origins, peers that are told their news through a socket, and WebSockets.

mod admission;
pub(crate) mod asset;
pub(crate) mod body;
mod client_address;
pub(crate) mod closing;
mod cors;
mod counts;
mod error;
pub(crate) mod frame;
pub(crate) mod heard;
#[cfg(feature = "ice")]
pub(crate) mod ice;
pub(crate) mod log;
mod opts;
mod origin;
pub(crate) mod push;
pub(crate) mod query;
pub(crate) mod reply;
mod rooms;
pub(crate) mod socket;
pub(crate) mod talk;
mod transport;
pub(crate) mod upgrade;
pub(crate) mod uuid;

pub(crate) use admission::{Coming, Gate};
pub use client_address::TrustedProxies;
pub(crate) use cors::cors_layer;
#[cfg(feature = "socketio")]
pub(crate) use cors::cors_layer_with_credentials;
pub use counts::DoorCounts;
pub(crate) use error::{RequestError, only};
pub use opts::SignalOpts;
pub use origin::Cors;
pub(crate) use origin::guard;
pub use rooms::AllowedRooms;
pub(crate) use rooms::{RoomDoors, list_of, list_of_room, not_found};
pub(crate) use transport::{Connection, Transport, asks_to_close};
