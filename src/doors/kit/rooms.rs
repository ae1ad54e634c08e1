//! The room of a request: `/rooms/NAME` before a door's own path.

use std::sync::Arc;

use axum::{
    Router,
    extract::{OriginalUri, Request},
    response::{IntoResponse, Response},
};
use tower::ServiceExt;
use tower_http::validate_request::ValidateRequestHeaderLayer;

use super::RequestError;
use crate::peer_list::{RoomName, TimeoutPeerList};

/// The first part of the path of a room.
const ROOMS: &str = "/rooms/";

/// Which rooms clients may use, besides the root list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowedRooms {
    /// Rooms of every name.
    #[default]
    Any,
    /// No room.
    None,
    /// The rooms with these names.
    Named(Vec<RoomName>),
}

impl AllowedRooms {
    fn allows(&self, name: &RoomName) -> bool {
        match self {
            Self::Any => true,
            Self::None => false,
            Self::Named(names) => names.contains(name),
        }
    }
}

/// The list of the room that a request is for; not in requests for the root list.
#[derive(Clone)]
struct InRoom(TimeoutPeerList);

/// The doors to the rooms of a list.
#[derive(Clone)]
pub(crate) struct RoomDoors {
    root: TimeoutPeerList,
    allowed: Arc<AllowedRooms>,
}

impl RoomDoors {
    pub fn new(root: TimeoutPeerList, allowed: Arc<AllowedRooms>) -> Self {
        Self { root, allowed }
    }

    /// The same routes also below `/rooms/NAME`, for each room.
    pub fn with(&self, routes: Router) -> Router {
        let in_room = self.enter(routes.clone());
        routes.nest("/rooms/{room}", in_room)
    }

    /// The route `/` of these also as `/rooms/NAME/`. (`/rooms/NAME` is a route already.)
    pub fn with_slash(&self, routes: Router) -> Router {
        let in_room = self.enter(routes);
        let in_room = in_room.map_request(|mut request: Request| {
            let original = request.uri().clone();
            let root = match original.query() {
                Some(query) => format!("/?{query}"),
                None => "/".to_owned(),
            };
            // The query of a URI is valid in another one.
            if let Ok(root) = root.parse() {
                *request.uri_mut() = root;
            }
            request.extensions_mut().insert(OriginalUri(original));
            request
        });
        Router::new().route_service("/rooms/{room}/", in_room)
    }

    /// Leads the requests for these routes to the room that their path names.
    #[expect(clippy::result_large_err, reason = "tower-http has it so")]
    fn enter(&self, routes: Router) -> Router {
        let Self { root, allowed } = self.clone();
        let enter = move |request: &mut Request| {
            let name = name_in(request).map_err(IntoResponse::into_response)?;
            if !allowed.allows(&name) {
                return Err(RequestError::NoSuchRoom.into_response());
            }
            let list = InRoom(root.room(&name));
            request.extensions_mut().insert(list);
            Ok::<(), Response>(())
        };
        routes.route_layer(ValidateRequestHeaderLayer::custom(enter))
    }
}

/// The room in the path, which is never decoded: a name needs no percent-encoding. The name
/// is what stands before the path that is left for the door, wherever the routes are nested.
fn name_in(request: &Request) -> Result<RoomName, RequestError> {
    let door = request.uri().path();
    let uri = request.extensions().get::<OriginalUri>();
    let path = uri.map_or(door, |OriginalUri(uri)| uri.path());
    // To the door, `/rooms/NAME` without a slash is `/`.
    let room = path.strip_suffix(door).unwrap_or(path);
    let name = room.rsplit('/').next().unwrap_or_default();
    name.parse().map_err(|_| RequestError::BadRoomName)
}

/// The answer to a path that does not exist. `paths`: those that there are.
pub(crate) fn not_found(request: &Request, paths: &Arc<str>) -> RequestError {
    let below = request.uri().path().strip_prefix(ROOMS);
    let name = below.and_then(|below| below.split('/').next());
    match name.map(str::parse::<RoomName>) {
        Some(Err(_)) => RequestError::BadRoomName,
        _ => RequestError::NotFound(paths.clone()),
    }
}

/// The list of the room that a request is for. None: it is for the root list.
pub(crate) fn list_of_room(request: &Request) -> Option<TimeoutPeerList> {
    let room = request.extensions().get::<InRoom>();
    room.map(|InRoom(list)| list.clone())
}

/// The list that a request is for.
pub(crate) fn list_of(request: &Request, root: &TimeoutPeerList) -> TimeoutPeerList {
    list_of_room(request).unwrap_or_else(|| root.clone())
}
