//! The server as its clients meet it: over real sockets, one module a
//! subject.

// Outside of test functions clippy does not see that these are tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod binary;
mod example;
mod native_client;
mod server;
mod support;
mod wire;
