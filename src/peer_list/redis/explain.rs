//! Explains errors of Redis to the person who runs the server.

use std::{error::Error, io, sync::Arc};

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// The oldest Redis that the server works with.
pub(super) const OLDEST: (u32, u32) = (7, 0);

/// What a Redis without a password does when it is asked from another machine.
const PROTECTED: &str = "it is in protected mode, give it a password (requirepass), and put that into \
                         WEBRTC_REDIS_URL";

/// An error of Redis in one line, with the way out.
pub(super) fn explain(error: &RedisError) -> String {
    let text = error.to_string();
    let detail = error.detail().unwrap_or_default();
    if is_untrusted(error) {
        return format!("{text}; if your own authority signed it, set WEBRTC_REDIS_CA");
    }
    // The crate has no variants for these.
    match error.code() {
        Some("NOAUTH") => return "it requires a password: put it in WEBRTC_REDIS_URL".to_owned(),
        Some("WRONGPASS") => {
            return "the user or the password in WEBRTC_REDIS_URL is wrong".to_owned();
        }
        Some("NOREPLICAS") => {
            return "it has fewer replicas than its min-replicas-to-write, and accepts nothing until \
                    it has them"
                .to_owned();
        }
        Some("DENIED") => return PROTECTED.to_owned(),
        Some("OOM") => return "it is out of memory: raise its maxmemory".to_owned(),
        _ => {}
    }
    match error.kind() {
        // In protected mode it says why and closes at once, and the reason can be lost on the way.
        ErrorKind::Io if error.is_connection_dropped() && !error.is_connection_refusal() => {
            format!("{text}; if {PROTECTED}")
        }
        ErrorKind::Parse => "the server at that address is not a Redis".to_owned(),
        ErrorKind::RESP3NotSupported => too_old("a version before 6"),
        ErrorKind::Server(ServerErrorKind::NoPerm) => {
            format!("the user in WEBRTC_REDIS_URL lacks a permission: {detail}")
        }
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            "it is a read-only replica: set WEBRTC_REDIS_URL to the primary".to_owned()
        }
        ErrorKind::Server(ServerErrorKind::Ask | ServerErrorKind::TryAgain) => {
            "the cluster moves a part of the list to another server".to_owned()
        }
        ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::CrossSlot) => {
            "another server of the Redis Cluster has this part of the list (a WEBRTC_REDIS_URL of a \
             cluster begins with redis+cluster://)"
                .to_owned()
        }
        // The crate has no variant for this.
        ErrorKind::Server(_) if detail.starts_with("DB index") => {
            "it has no database of that number: correct the end of WEBRTC_REDIS_URL".to_owned()
        }
        ErrorKind::Server(_) if !detail.is_empty() => detail.to_owned(),
        _ => text.lines().next().unwrap_or_default().to_owned(),
    }
}

/// Whether another server of the cluster has the shard.
pub(super) fn is_moved(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::Moved)
}

/// Whether the shard is on its way from one server of the cluster to another.
pub(super) fn is_moving(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, TryAgain};
    matches!(error.kind(), ErrorKind::Server(Ask | TryAgain))
}

/// Whether the certificate of the Redis is not trusted.
pub(super) fn is_untrusted(error: &RedisError) -> bool {
    // The redis crate wraps the cause in an `Arc`.
    type Shared = Arc<dyn Error + Send + Sync>;
    let cause = error
        .source()
        .map(|cause| match cause.downcast_ref::<Shared>() {
            Some(shared) => &**shared as &(dyn Error + 'static),
            None => cause,
        });
    let io = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    let inner = io.and_then(io::Error::get_ref);
    let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
}

pub(super) fn too_old(version: &str) -> String {
    let (major, minor) = OLDEST;
    format!("it is {version}: version {major}.{minor} or newer is needed")
}
