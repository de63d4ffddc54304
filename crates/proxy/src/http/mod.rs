//! HTTP: from a client's connection to a member's and back.
//!
//! - `connection`: a client's connection, its protocol and its deadlines
//! - `service`: one request: judged, routed, answered
//! - `forward`: tries at members until one answers
//! - `wire`: a connection to a member, requests without a body over it, and those that wait for the next one
//! - `framing`: where an answer's body ends
//! - `link`: a connection to a member for requests with a body, and for upgrades
//! - `request_body`, `response_body`: bodies on their way, counted and timed
//! - `headers`: what is removed, added and believed
//! - `streams`: the requests of an HTTP/2 connection, each a task
//! - `tunnel`: WebSocket and other upgrades

pub mod connection;
pub mod forward;
mod framing;
pub mod headers;
mod link;
pub mod request_body;
mod response_body;
mod service;
mod streams;
mod tunnel;
pub mod wire;
