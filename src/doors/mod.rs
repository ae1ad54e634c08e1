//! How clients come in. One door a protocol, each thin: it translates its
//! protocol into the verbs of the peer list and keeps no state of its own.

pub mod http;
