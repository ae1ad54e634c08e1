//! Which doors are open, and the routes of all of them.

use axum::Router;
use clap::ValueEnum;
use secrecy::SecretString;
use tower::util::option_layer;

use super::health;
use crate::{
    doors::{
        http::{self, SignalOpts},
        kit::{RequestError, cors_layer, cors_layer_with_credentials},
        socketio, websocket,
    },
    peer_list::TimeoutPeerList,
};

/// A protocol that clients can come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lower")]
pub enum Door {
    /// Long polls over HTTP.
    Http,
    /// WebSockets, at `/` and `/ws`.
    WebSocket,
    /// Socket.IO.
    SocketIo,
}

/// How the binary serves. By default all doors are open.
#[derive(Clone, Debug)]
pub struct AppOpts {
    /// How the doors answer.
    pub signal: SignalOpts,
    /// The doors that are open.
    pub doors: Vec<Door>,
    /// What Socket.IO clients have to show, if anything.
    pub token: Option<SecretString>,
}

impl Default for AppOpts {
    fn default() -> Self {
        Self {
            signal: SignalOpts::default(),
            doors: Door::value_variants().to_vec(),
            token: None,
        }
    }
}

/// Everything that the binary serves: the open doors and `/healthz`, and a
/// plain 404 for the rest.
pub fn app(peer_list: TimeoutPeerList, opts: AppOpts) -> Router {
    let cors = opts.signal.enable_cors.clone();
    let max_message_bytes = opts.signal.max_message_bytes;
    let mut app = health::routes(peer_list.clone());
    let mut with_credentials = Router::new();
    for door in opts.doors {
        let peer_list = peer_list.clone();
        app = app.merge(match door {
            Door::Http => http::routes(peer_list, opts.signal.clone()),
            Door::WebSocket => websocket::routes(peer_list, &opts.signal),
            Door::SocketIo => {
                let token = opts.token.clone();
                let routes = socketio::routes(peer_list, max_message_bytes, token, &cors);
                with_credentials = routes.transport;
                routes.others
            }
        });
    }
    with_credentials = with_credentials.layer(option_layer(cors_layer_with_credentials(&cors)));
    app.fallback(async || RequestError::NotFound)
        .layer(option_layer(cors_layer(&cors)))
        .merge(with_credentials)
}
