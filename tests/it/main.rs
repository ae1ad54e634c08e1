//! The server as its clients meet it: over real sockets, one module a
//! subject.

mod bad_input;
mod binary;
mod example;
mod native_client;
mod support;
mod wire;
