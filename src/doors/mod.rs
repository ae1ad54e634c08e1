//! How clients come in. One door a protocol, each thin: it translates its
//! protocol into the verbs of the peer list and keeps no state of its own.

mod error;
pub mod http;
mod kit;
pub mod operator;
mod origin;
mod push;
mod query;
mod reply;
pub mod socketio;
pub mod websocket;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

pub(crate) use error::{RequestError, only};
pub use origin::Cors;
pub(crate) use origin::guard;
pub(crate) use reply::{cors_layer, cors_layer_with_credentials, reply};

/// How a handler tells the connection that its request may now wait for long.
/// Our own accept loop adds it to each request; a handler that finds none
/// waits all the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parking(Arc<AtomicBool>);

impl Parking {
    /// The request may wait for long.
    pub fn allow(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// A new request begins.
    pub fn forbid(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    pub fn is_allowed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
