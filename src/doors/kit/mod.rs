//! What doors are built from: the bodies of requests, and WebSockets.

pub(crate) mod body;
pub(crate) mod frame;
pub(crate) mod heard;
pub(crate) mod talk;
pub(crate) mod upgrade;
