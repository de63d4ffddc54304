//! A control plane, agents and adversaries for the tests of the link. Everything is real: sockets, TLS, HTTP/2.

#![expect(dead_code, reason = "each test file uses its own part of this")]

pub mod adversary;
pub mod control;
pub mod datagrams;
pub mod node;
pub mod proxy;

pub use nm_waits::soon;
