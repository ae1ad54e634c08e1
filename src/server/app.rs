//! The doors that are open, and their routes.

use std::{borrow::Cow, sync::Arc};

use axum::{Router, extract::Request, middleware::from_fn, routing::any};
#[cfg(feature = "socketio")]
use secrecy::SecretString;
use tower::util::option_layer;

use super::{description, health};
#[cfg(feature = "ice")]
use crate::doors::ice_servers;
#[cfg(feature = "socketio")]
use crate::doors::{kit::cors_layer_with_credentials, socketio};
use crate::{
    doors::{
        http::{self, SignalOpts},
        kit::{RoomDoors, cors_layer, not_found},
        matchbox, page,
        peerjs::{self, PeerJsOpts},
        topics, websocket,
    },
    peer_list::TimeoutPeerList,
};

/// A protocol that clients can come in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum), value(rename_all = "lower"))]
pub enum Door {
    /// Long polls over HTTP.
    Http,
    /// WebSockets, at `/` and `/ws`.
    WebSocket,
    /// Socket.IO.
    #[cfg(feature = "socketio")]
    SocketIo,
    /// PeerJS.
    PeerJs,
    /// Topics, of y-webrtc and Trystero.
    Topics,
    /// matchbox.
    Matchbox,
}

impl Door {
    /// The doors that are open if nobody says which.
    pub const DEFAULT: &[Self] = &[
        Self::Http,
        Self::WebSocket,
        #[cfg(feature = "socketio")]
        Self::SocketIo,
    ];

    /// Its name, as settings and the log have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::WebSocket => "websocket",
            #[cfg(feature = "socketio")]
            Self::SocketIo => "socketio",
            Self::PeerJs => "peerjs",
            Self::Topics => "topics",
            Self::Matchbox => "matchbox",
        }
    }
}

impl Door {
    /// Where its clients go, as an answer to a wrong path tells it.
    fn paths(self, opts: &AppOpts) -> Cow<'static, str> {
        let paths = match self {
            Self::Http => "/sign_in, /wait, /message, /heartbeat and /sign_out (long poll)",
            Self::WebSocket => "/ws (WebSocket)",
            #[cfg(feature = "socketio")]
            Self::SocketIo => "/socket.io/ (Socket.IO)",
            Self::PeerJs => return format!("{} (PeerJS)", opts.peerjs.path).into(),
            Self::Topics => "/topics (y-webrtc, Trystero)",
            Self::Matchbox => "/matchbox/ROOM (matchbox)",
        };
        paths.into()
    }
}

/// How the binary serves. By default the doors of [`Door::DEFAULT`] are open.
#[derive(Clone, Debug)]
pub struct AppOpts {
    /// How the doors answer.
    pub signal: SignalOpts,
    /// The doors that are open.
    pub doors: Vec<Door>,
    /// Whether browsers are shown a page at `/`, which needs [`Door::Http`]. Default: true.
    pub page: bool,
    /// The token that Socket.IO clients have to show, if one is set.
    #[cfg(feature = "socketio")]
    pub token: Option<SecretString>,
    /// The PeerJS door.
    pub peerjs: PeerJsOpts,
}

impl Default for AppOpts {
    fn default() -> Self {
        Self {
            signal: SignalOpts::default(),
            doors: Door::DEFAULT.to_vec(),
            page: true,
            #[cfg(feature = "socketio")]
            token: None,
            peerjs: PeerJsOpts::default(),
        }
    }
}

/// Everything that the binary serves: the open doors, the page, `/ice-servers`, `/healthz` and
/// `/openapi.yml`; other paths get a 404 that names those that there are.
pub fn app(peer_list: TimeoutPeerList, opts: AppOpts) -> Router {
    let cors = opts.signal.enable_cors.clone();
    let health = health::routes(peer_list.clone());
    let rooms = RoomDoors::new(peer_list.clone(), opts.signal.rooms.clone());
    #[cfg(feature = "ice")]
    let ice_servers = ice_servers::routes(peer_list.clone(), &opts.signal);
    let has_page = opts.page && opts.doors.contains(&Door::Http);
    let with_page = |routes: Router| match has_page {
        true => routes.layer(from_fn(page::show)),
        false => routes,
    };
    let not_found = {
        let paths: Vec<_> = opts.doors.iter().map(|door| door.paths(&opts)).collect();
        let paths: Arc<str> = format!("{}; /openapi.yml has all", paths.join("; ")).into();
        move |request: Request| {
            let error = not_found(&request, &paths);
            async { error }
        }
    };
    let has_root = opts.doors.contains(&Door::WebSocket);
    let mut room_roots = Router::new();
    let mut app = Router::new();
    #[cfg(feature = "socketio")]
    let mut with_credentials = Router::new();
    for door in opts.doors {
        let peer_list = peer_list.clone();
        app = app.merge(match door {
            Door::Http => http::routes(peer_list, opts.signal.clone()),
            Door::WebSocket => {
                let routes = with_page(websocket::routes(peer_list, &opts.signal));
                room_roots = rooms.with_slash(routes.clone());
                routes
            }
            #[cfg(feature = "socketio")]
            Door::SocketIo => {
                let routes = socketio::routes(peer_list, &opts.signal, opts.token.clone());
                with_credentials = rooms
                    .with(routes.transport)
                    .layer(option_layer(cors_layer_with_credentials(&cors)));
                routes.others
            }
            Door::PeerJs => peerjs::routes(peer_list, &opts.signal, opts.peerjs.clone()),
            Door::Topics => topics::routes(peer_list, &opts.signal),
            Door::Matchbox => matchbox::routes(peer_list, &opts.signal),
        });
    }
    #[cfg(feature = "ice")]
    let app = app.merge(ice_servers);
    let mut app = app;
    if has_page {
        app = app.merge(page::routes());
        if !has_root {
            let root = with_page(Router::new().route("/", any(not_found.clone())));
            room_roots = rooms.with_slash(root.clone());
            app = app.merge(root);
        }
    }
    let app = rooms
        .with(app)
        .merge(room_roots)
        .merge(health)
        .merge(description::routes())
        .fallback(not_found)
        .layer(option_layer(cors_layer(&cors)));
    #[cfg(feature = "socketio")]
    let app = app.merge(with_credentials);
    app
}
