//! The floor: a server for the same bytes with axum alone, with no validation
//! and no limits. It keeps no promise but that of the happy path.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Query, State},
    http::header,
    response::Response,
    routing::{get, post},
};
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Default)]
struct Floor {
    next: AtomicU32,
    peers: DashMap<u32, Arc<Peer>>,
    names: Mutex<VecDeque<(u32, String)>>,
}

#[derive(Default)]
struct Peer {
    messages: Mutex<VecDeque<(u32, Bytes)>>,
    /// The list as it was at the last change that was not heard of.
    list: Mutex<Option<Bytes>>,
    news: Notify,
}

type Parameters = Query<HashMap<String, String>>;

fn id(parameters: &Parameters, name: &str) -> u32 {
    parameters[name].parse().unwrap()
}

fn reply(pragma: u32, body: impl Into<Body>) -> Response {
    Response::builder()
        .header(header::CONTENT_TYPE, "text/plain; charset=utf-8")
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::PRAGMA, pragma)
        .header(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "allow,pragma,retry-after",
        )
        .header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
        .body(body.into())
        .unwrap()
}

impl Floor {
    /// Renders the list once a change and leaves it for every other peer.
    fn changed(&self, by: u32) -> Bytes {
        let names = self.names.lock();
        let lines = names.iter().map(|(id, name)| format!("{name},{id},1\n"));
        let list = Bytes::from(lines.collect::<String>());
        drop(names);
        for peer in &self.peers {
            if *peer.key() != by {
                *peer.list.lock() = Some(list.clone());
                peer.news.notify_one();
            }
        }
        list
    }
}

async fn sign_in(State(floor): State<Arc<Floor>>, parameters: Parameters) -> Response {
    let id = floor.next.fetch_add(1, Ordering::Relaxed) + 1;
    floor.peers.insert(id, Arc::default());
    let name = parameters["peer_name"].clone();
    floor.names.lock().push_front((id, name));
    reply(id, floor.changed(id))
}

async fn wait(State(floor): State<Arc<Floor>>, parameters: Parameters) -> Response {
    let id = id(&parameters, "peer_id");
    drop(parameters);
    let peer = floor.peers.get(&id).unwrap().value().clone();
    loop {
        let message = peer.messages.lock().pop_front();
        if let Some((from, body)) = message {
            return reply(from, body);
        }
        let list = peer.list.lock().take();
        if let Some(list) = list {
            return reply(id, list);
        }
        peer.news.notified().await;
    }
}

async fn message(State(floor): State<Arc<Floor>>, parameters: Parameters, body: Bytes) -> Response {
    let to = floor
        .peers
        .get(&id(&parameters, "to"))
        .unwrap()
        .value()
        .clone();
    to.messages
        .lock()
        .push_back((id(&parameters, "peer_id"), body));
    to.news.notify_one();
    reply(1, ())
}

async fn sign_out(State(floor): State<Arc<Floor>>, parameters: Parameters) -> Response {
    let id = id(&parameters, "peer_id");
    floor.peers.remove(&id);
    floor.names.lock().retain(|(other, _)| *other != id);
    floor.changed(id);
    reply(1, ())
}

/// Serves on a free port until it is killed.
pub fn run() {
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let app = Router::new()
        .route("/sign_in", get(sign_in))
        .route("/wait", get(wait))
        .route("/message", post(message))
        .route("/heartbeat", get(async || reply(1, ())))
        .route("/sign_out", get(sign_out))
        .with_state(Arc::new(Floor::default()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let listener = signal_http_heartbeat::server::listen(
            signal_http_heartbeat::server::Host::find("127.0.0.1"),
            0,
        );
        let listener = listener.unwrap();
        println!("{{\"address\":\"{}\"}}", listener.local_addr().unwrap());
        use axum::serve::ListenerExt;
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        axum::serve(listener, app).await.unwrap();
    });
}
